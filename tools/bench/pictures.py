"""Draws a result of the bench: where milliseconds and megabytes go, and what grows with what.

    python tools/bench/pictures.py tools/bench/results/DATE-NAME.json docs

Needs matplotlib: pip install 'whodrives[picture]'.
"""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def main() -> int:
    """Write the pictures into the folder."""
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    result = json.loads(source.read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    bars(left, milliseconds(result), "CPU ms per second of sound")
    bars(right, megabytes(result), "MB")
    figure.savefig(folder / "performance-cost.svg")
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    lengths, crowds = result["encoder_by_length"], result["crowds"]
    line(left, lengths, ("speech_s", "cpu_ms"), "seconds of speech", "CPU ms of an embedding")
    line(right, crowds, ("profiles", "cpu_ms_per_audio_s"), "drivers", "CPU ms per s of sound")
    right.set_xscale("log")
    figure.savefig(folder / "performance-growth.svg")
    return 0


def milliseconds(result: dict[str, Any]) -> dict[str, float]:
    """Where the daemon's time goes over the drive, and what others take for the same sound."""
    alone, drive = result["alone"], result["drive"]
    encoder_ms = alone["cpu_ms_per_audio_s"] - alone["gate_ms_per_audio_s"]
    encoder_ms -= alone["rest_ms_per_audio_s"]
    found = {
        "gate": alone["gate_ms_per_audio_s"],
        "encoder": encoder_ms,
        "decisions": alone["rest_ms_per_audio_s"],
        "pipe, MQTT, waking": drive["cpu_ms_per_audio_s"] - alone["cpu_ms_per_audio_s"],
    }
    usual = {"sherpa-onnx, 3 s": result["sherpa_onnx"]["cpu_ms_per_audio_s"]}
    others = {each["name"]: each["cpu_ms_per_audio_s"] for each in result["others"]}
    return found | {"whodrives, all": drive["cpu_ms_per_audio_s"]} | usual | others


def megabytes(result: dict[str, Any]) -> dict[str, float]:
    """Where the daemon's memory goes, and how much others take at most."""
    steps = {step["step"]: step["rss_mb"] for step in result["start"]["steps"]}
    usual = {"sherpa-onnx, 3 s": result["sherpa_onnx"]["peak_rss_mb"]}
    others = {each["name"]: each["peak_rss_mb"] for each in result["others"]}
    return steps | {"whodrives, at most": result["drive"]["peak_rss_mb"]} | usual | others


def bars(axes: Any, values: dict[str, float], unit: str) -> None:
    """One bar for each."""
    names = list(values)[::-1]
    drawn = axes.barh(names, [values[name] for name in names], color="#4a7a9c")
    axes.bar_label(drawn, fmt="%.3g", padding=2, fontsize=8)
    axes.margins(x=0.15)
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)


def line(
    axes: Any, rows: list[dict[str, float]], keys: tuple[str, str], across: str, up: str
) -> None:
    """One figure against another, from zero."""
    axes.plot([row[keys[0]] for row in rows], [row[keys[1]] for row in rows], "o-", color="#4a7a9c")
    axes.set(xlabel=across, ylabel=up)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    sys.exit(main())
