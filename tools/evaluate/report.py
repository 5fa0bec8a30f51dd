"""What was measured, as a table, pictures and one page. Owns the looks; computes nothing."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

Result = Mapping[str, Any]

SHOWN = "3"
"""The household whose figures are shown; the others are in the JSON."""

DET_CONDITIONS = ("clean", "car 5 dB", "car 0 dB", "broadband 5 dB", "telephone band")
DET_TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
COLUMNS = (
    "1 s", "2 s", "3 s", "5 s", "FPIR at 1 %", "from", "to", "FNIR", "median s", "95 % s"
)  # fmt: skip


STYLE = (
    "body{font:14px sans-serif;margin:2em} td{padding:0 .6em;text-align:right}"
    " td:first-child{text-align:left} img{max-width:100%}"
)


def percent(value: float | None) -> str:
    """A rate in percent, two digits; a dash where there is none."""
    if value is None or math.isnan(value):
        return "-"
    return f"{100 * value:.2f}"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f}"


def row(entry: Result) -> list[str]:
    """Return the figures of COLUMNS for one view, condition and enrolment."""
    known = entry["identification"].get(SHOWN, {})
    fnir = [percent((known.get(f"{s} s") or {}).get("fnir_at_0.01")) for s in (1, 2, 3, 5)]
    daemon = entry["daemon"].get(SHOWN, {}).get("1/100")
    if daemon is None:
        return [*fnir, *("-" for _ in COLUMNS[4:])]
    until = daemon["speech_until_decision_s"]
    return [
        *fnir,
        percent(daemon["fpir"]),
        *(percent(value) for value in daemon["fpir_interval"]),
        percent(daemon["fnir"]),
        _seconds(until["median"]),
        _seconds(until["95_percent"]),
    ]


def table(results: Sequence[Result]) -> Iterator[str]:
    """Lines of the table: FNIR at FPIR 1 % by seconds of speech, then the whole daemon."""
    yield f"{'':64}{'FNIR % at FPIR 1 %, 3 enrolled':32}whole daemon, promise 1 %, percent"
    yield f"{'view, condition, enrolment':64}" + "".join(
        f"{name.replace('FPIR at 1 %', 'FPIR'):>8}" for name in COLUMNS
    )
    for entry in results:
        name = f"{entry['view']}, {entry['condition']}, {entry['enrolment']}"
        yield f"{name:64}" + "".join(f"{figure:>8}" for figure in row(entry))


# --- pictures -------------------------------------------------------------------------------------


def _views(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(entry["view"] for entry in results))


def calibration_picture(results: Sequence[Result], target: Path) -> None:
    """Realised against promised FPIR: each view and condition, both promises."""
    views = _views(results)
    height = 0.16 * len(results) / max(len(views), 1) + 2
    figure, axes = plt.subplots(
        1, len(views), figsize=(max(8, 3.4 * len(views)), height + 2), sharex=True
    )
    for axis, view in zip(np.atleast_1d(axes), views, strict=True):
        _calibration_axis(axis, [entry for entry in results if entry["view"] == view], view)
    figure.suptitle("Strangers taken for a driver: realised against promised (95 % intervals)")
    figure.tight_layout()
    figure.savefig(target, dpi=100)
    plt.close(figure)


def _calibration_axis(axis: Axes, entries: Sequence[Result], view: str) -> None:
    least = 2e-4
    for promise, rate, colour, shift in (
        ("1/100", 0.01, "tab:blue", -0.15),
        ("1/1000", 0.001, "tab:orange", 0.15),
    ):
        axis.axvline(100 * rate, color=colour, linestyle="--", linewidth=1)
        for place, entry in enumerate(entries):
            daemon = entry["daemon"].get(SHOWN, {}).get(promise)
            if daemon is None:
                continue
            low, high = (100 * max(value, least) for value in daemon["fpir_interval"])
            axis.plot([low, high], [place + shift] * 2, color=colour, linewidth=1)
            axis.plot(100 * max(daemon["fpir"], least), place + shift, "o", color=colour, ms=4)
    labels = [f"{e['condition']} / {e['enrolment']}" for e in entries]
    axis.set_yticks(range(len(entries)), labels, fontsize=6)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlabel("FPIR, percent")
    axis.set_title(view, fontsize=8)
    axis.grid(visible=True, alpha=0.3)


def det_picture(results: Sequence[Result], target: Path) -> None:
    """DET curves after 2 s of speech, on normal-deviate axes (Martin et al., 1997)."""
    views = _views(results)
    figure, axes = plt.subplots(1, len(views), figsize=(max(8, 3.6 * len(views)), 4))
    for axis, view in zip(np.atleast_1d(axes), views, strict=True):
        for entry in results:
            shown = entry["condition"] in DET_CONDITIONS and entry["enrolment"] == "clean"
            verification = entry["verification"].get("2 s")
            if entry["view"] == view and shown and verification:
                _det_curve(axis, verification, entry["condition"])
        _det_axes(axis)
        axis.set_title(view, fontsize=8)
    figure.suptitle("Detection error trade-off after 2 s of speech")
    figure.tight_layout()
    figure.savefig(target, dpi=100)
    plt.close(figure)


def _det_axes(axis: Axes) -> None:
    ticks = [_deviate(rate) for rate in DET_TICKS]
    labels = [f"{100 * rate:g}" for rate in DET_TICKS]
    axis.set_xticks(ticks, labels, fontsize=6)
    axis.set_yticks(ticks, labels, fontsize=6)
    axis.set_xlabel("false accepts, percent")
    axis.set_ylabel("misses, percent")
    axis.grid(visible=True, alpha=0.3)
    axis.legend(fontsize=6)


def _det_curve(axis: Axes, figures: Result, name: str) -> None:
    least = 0.0005
    x = [_deviate(max(rate, least)) for rate in figures["det"]["false_accept"]]
    y = [_deviate(min(max(rate, least), 0.5)) for rate in figures["det"]["miss"]]
    axis.plot(x, y, label=f"{name} (EER {percent(figures['eer'])})")


def _deviate(rate: float) -> float:
    """Return the normal distribution's quantile, by bisection of the error function."""
    low, high = -6.0, 6.0
    for _ in range(50):
        middle = (low + high) / 2
        below = 0.5 * (1 + math.erf(middle / math.sqrt(2))) < rate
        low, high = (middle, high) if below else (low, middle)
    return low


def condition_picture(results: Sequence[Result], target: Path) -> None:
    """FNIR at FPIR 1 % after 1, 2, 3 and 5 s of speech, by condition, one row per view."""
    views = _views(results)
    figure, axes = plt.subplots(len(views), 1, figsize=(11, 2.4 * len(views) + 1), squeeze=False)
    for axis, view in zip(axes[:, 0], views, strict=True):
        entries = [e for e in results if e["view"] == view and SHOWN in e["identification"]]
        for place, seconds in enumerate(("1 s", "2 s", "3 s", "5 s")):
            values = [
                100 * ((e["identification"][SHOWN][seconds] or {}).get("fnir_at_0.01") or 0)
                for e in entries
            ]
            axis.bar(np.arange(len(entries)) + 0.2 * place - 0.3, values, 0.2, label=seconds)
        labels = [f"{e['condition']}\n{e['enrolment']}" for e in entries]
        axis.set_xticks(range(len(entries)), labels, fontsize=5, rotation=90)
        axis.set_ylabel("FNIR, percent")
        axis.set_title(view, fontsize=8)
        axis.grid(visible=True, axis="y", alpha=0.3)
    axes[0, 0].legend(title="speech", fontsize=6)
    figure.suptitle("Drivers rejected or mistaken where 1 % of strangers are let in, 3 enrolled")
    figure.tight_layout()
    figure.savefig(target, dpi=100)
    plt.close(figure)


def list_picture(entries: Sequence[Result], target: Path) -> None:
    """DET curves of a trial list, one per duration."""
    figure, axis = plt.subplots(figsize=(5, 5))
    for entry in entries:
        _det_curve(axis, entry, f"{entry['speech_s']} s")
    _det_axes(axis)
    figure.savefig(target, dpi=100)
    plt.close(figure)


# --- the page -------------------------------------------------------------------------------------


def page(result: Result, pictures: Sequence[str]) -> str:
    """Return one HTML page: the pictures, calibration first, and every figure of the table."""
    facts = {
        k: result[k] for k in ("date", "command", "encoder", "corpus", "seconds") if k in result
    }
    parts = [
        "<!doctype html><meta charset=utf-8><title>How well whodrives recognises</title>",
        f"<style>{STYLE}</style>",
        "<h1>How well whodrives recognises</h1>",
        *(f"<p>{html.escape(str(k))}: {html.escape(str(v))}</p>" for k, v in facts.items()),
        *(f'<p><img src="{html.escape(name)}" alt="{html.escape(name)}"></p>' for name in pictures),
    ]
    if result.get("results"):
        parts.append(
            "<h2>FNIR % at FPIR 1 % by seconds of speech, 3 enrolled; then the whole daemon"
            " at the promise of 1 %</h2>"
        )
        figures = [
            [f"{e['view']}, {e['condition']}, {e['enrolment']}", *row(e)] for e in result["results"]
        ]
        parts.append(_html_table(["view, condition, enrolment", *COLUMNS], figures))
    parts.extend(
        f"<h2>{key}</h2>{_html_table(*flat_table(result[key]))}"
        for key in ("baselines", "shortcuts", "trials")
        if result.get(key)
    )
    return "\n".join(parts) + "\n"


def flat_table(entries: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of entries that hold plain figures; what is nested is left out."""
    heading = list(
        dict.fromkeys(k for e in entries for k, v in e.items() if not isinstance(v, Mapping))
    )
    return heading, [[_figure(name, entry.get(name)) for name in heading] for entry in entries]


def _figure(name: str, value: object) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(_figure(name, item) for item in value)
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    rate = name.startswith(("eer", "fnir", "fpir"))
    return f"{percent(value)} %" if rate else f"{value:.2f}"


def _html_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["<table><tr>", *(f"<th>{html.escape(name)}</th>" for name in heading), "</tr>"]
    for figures in rows:
        cells = "".join(f"<td>{html.escape(figure)}</td>" for figure in figures)
        lines.append(f"<tr>{cells}</tr>")
    return "".join([*lines, "</table>"])
