"""Writes the tables of docs/accuracy.md from a result of the evaluation.

    python tools/evaluate/tables.py RESULT.json

One after the other, in the page's order; tests see to it that the page holds them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]
Row = Sequence[str]

PEOPLE = "speechocean762"
SHOWN = "3"
PROMISE = "1/100"
WORST = 8
DASH = "\N{EN DASH}"


def main() -> int:
    """Print the tables."""
    result = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print("\n\n".join(tables(result)))
    return 0


def tables(result: Result) -> list[str]:
    """Every table of the page, as Markdown."""
    return [
        kept(result),
        by_condition(result),
        two_views(result, ("emodb", "arabic_sc"), ("emodb", "arabic_sc")),
        two_views(result, (f"{PEOPLE}, adults", f"{PEOPLE}, children"), ("adults", "children")),
        by_enrolment(result),
        by_household(result),
        encoders(result),
        nuisances(result),
    ]


def kept(result: Result) -> str:
    """Where the daemon's FPIR is worst."""
    # Where enrolments were refused, too few people may be left for such a household.
    shown = [r for r in result["results"] if SHOWN in r["daemon"]]
    worst = sorted(shown, key=lambda r: -_daemon(r)["fpir"])[:WORST]
    return _table(
        ("people", "tested under, enrolled under", "FPIR (interval)"),
        ((r["view"], f"{r['condition']}, {r['enrolment']}", _fpir(_daemon(r))) for r in worst),
    )


def by_condition(result: Result) -> str:
    """All conditions, of the largest corpus."""
    return _table(
        (
            *("condition", "EER 2 s", "minDCF 2 s", "1 s", "2 s (interval)", "3 s", "5 s"),
            *("FPIR (interval)", "FNIR", "speech, median / 95 %"),
        ),
        (
            (
                r["condition"],
                _or_dash(_verified(r, "2 s"), lambda v: f"{100 * v['eer']:.2f}"),
                _or_dash(_verified(r, "2 s"), lambda v: f"{v['min_dcf']:.3f}"),
                _fnir(r, "1 s"),
                _or_dash(_named(r, "2 s"), lambda n: _with_interval(n, "fnir_at_0.01", 1)),
                _fnir(r, "3 s"),
                _fnir(r, "5 s"),
                _fpir(_daemon(r)),
                _percent(_daemon(r)["fnir"]),
                f"{_seconds(r, 'median')} / {_seconds(r, '95_percent')}",
            )
            for r in _clean_enrolled(result, PEOPLE)
        ),
    )


def two_views(result: Result, views: tuple[str, str], names: tuple[str, str]) -> str:
    """Two groups of people side by side."""
    one, other = ({r["condition"]: r for r in _clean_enrolled(result, view)} for view in views)
    return _table(
        (
            "condition",
            *(f"{names[0]}: FNIR 2 s", "FPIR", "FNIR", "95 %"),
            *(f"{names[1]}: FNIR 2 s", "FPIR", "FNIR", "95 %"),
        ),
        (
            (condition, *_short(one[condition]), *_short(other[condition]))
            for condition in one
            if condition in other
        ),
    )


def by_enrolment(result: Result) -> str:
    """What the enrolment's sound does."""
    found = {(r["condition"], r["enrolment"]): r for r in _of(result, PEOPLE)}
    enrolments = ("clean", "parked car", "car 15 dB", "cheap microphone")
    return _table(
        ("tested under", *(f"enrolled: {enrolment}" for enrolment in enrolments)),
        (
            (
                condition,
                *(
                    f"{_fnir(r, '2 s')} / {100 * _daemon(r)['fpir']:.2f} / "
                    f"{_percent(_daemon(r)['fnir'])}"
                    for r in (found[condition, enrolment] for enrolment in enrolments)
                ),
            )
            for condition in ("clean", "car 5 dB", "cabin", "cheap microphone")
        ),
    )


def by_household(result: Result) -> str:
    """What the household's size does."""
    found = {r["condition"]: r for r in _clean_enrolled(result, PEOPLE)}
    return _table(
        (
            *("condition", "enrolled", "FNIR 2 s at FPIR 1 %", "2 s at 0.1 %", "3 s at 0.1 %"),
            *("daemon at 1 %: FPIR", "FNIR", "at 0.1 %: FPIR", "FNIR"),
        ),
        (
            (
                condition,
                size,
                *(
                    _percent(found[condition]["identification"][size][seconds][rate])
                    for seconds, rate in (
                        ("2 s", "fnir_at_0.01"),
                        ("2 s", "fnir_at_0.001"),
                        ("3 s", "fnir_at_0.001"),
                    )
                ),
                *(
                    text
                    for promise in (PROMISE, "1/1000")
                    for daemon in (found[condition]["daemon"][size][promise],)
                    for text in (f"{100 * daemon['fpir']:.2f}", _percent(daemon["fnir"]))
                ),
            )
            for condition in ("clean", "car 5 dB", "cabin")
            for size in ("2", "3", "5")
        ),
    )


def encoders(result: Result) -> str:
    """Other encoders on the same trials."""
    names = ("whodrives", "one encoder", "float", "sherpa-onnx", "Resemblyzer")
    found = {
        (b["condition"], b["speech_s"], b["encoder"]): b
        for b in result["baselines"]
        if b["view"] == PEOPLE
    }
    pairs = dict.fromkeys((condition, seconds) for condition, seconds, _ in found)
    return _table(
        ("condition", "speech", *names),
        (
            (
                condition,
                f"{seconds} s",
                *(
                    _or_dash(
                        found.get((condition, seconds, name)),
                        lambda b: (
                            f"{100 * b['eer']:.2f} / {b['min_dcf']:.3f} / {100 * b['fnir']:.1f}"
                        ),
                    )
                    for name in names
                ),
            )
            for condition, seconds in pairs
        ),
    )


def nuisances(result: Result) -> str:
    """What else than the voice is recognised."""
    others = {"sentence", "language"}
    shown = [s for s in result["shortcuts"] if s["view"] == PEOPLE or s["nuisance"] in others]
    return _table(
        (
            *("nuisance", "people", "trials", "plain", "only the stranger shares it"),
            *("nobody shares it", "factor (interval)"),
        ),
        (
            (
                s["nuisance"] + (f" ({s['view']})" if s["nuisance"] in others else ""),
                f"{s['people']}",
                f"{s['trials']}",
                *(
                    _or_dash(s.get(key), lambda rate: f"{100 * rate:.2f}")
                    for key in ("eer_plain", "eer_hard", "eer_nobody_shares")
                ),
                _with_interval(s, "factor", 1, 1.0),
            )
            for s in shown
        ),
    )


def _of(result: Result, view: str) -> Iterator[Result]:
    return (r for r in result["results"] if r["view"] == view)


def _clean_enrolled(result: Result, view: str) -> Iterator[Result]:
    return (r for r in _of(result, view) if r["enrolment"] == "clean")


def _daemon(r: Result) -> Result:
    found: Result = r["daemon"][SHOWN][PROMISE]
    return found


def _verified(r: Result, seconds: str) -> Result | None:
    return _with_trials(r["verification"].get(seconds), "eer")


def _named(r: Result, seconds: str) -> Result | None:
    return _with_trials(r["identification"][SHOWN].get(seconds), "fnir_at_0.01")


def _with_trials(found: Result | None, key: str) -> Result | None:
    return None if found is None or found.get(key) is None else found


def _fnir(r: Result, seconds: str) -> str:
    return _or_dash(_named(r, seconds), lambda n: _percent(n["fnir_at_0.01"]))


def _fpir(daemon: Result) -> str:
    return _with_interval(daemon, "fpir", 2)


def _with_interval(found: Result, key: str, digits: int, scale: float = 100.0) -> str:
    low, high = (scale * end for end in found[f"{key}_interval"])
    return f"{scale * found[key]:.{digits}f} ({low:.1f}{DASH}{high:.1f})"


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


def _seconds(r: Result, which: str) -> str:
    seconds = _daemon(r)["speech_until_decision_s"][which]
    return "never" if seconds is None else f"{seconds:.1f}"


def _short(r: Result) -> tuple[str, str, str, str]:
    daemon = _daemon(r)
    return (
        _fnir(r, "2 s"),
        f"{100 * daemon['fpir']:.2f}",
        _percent(daemon["fnir"]),
        _seconds(r, "95_percent"),
    )


def _or_dash(found: Any, text: Callable[[Any], str]) -> str:
    return DASH if found is None else text(found)


def _table(head: Row, rows: Iterator[Row]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


if __name__ == "__main__":
    sys.exit(main())
