"""Measures how well whodrives recognises people, on any corpus, and writes it down.

    python tools/evaluate CORPUS [--role eval]     # a catalogue with manifest.tsv
    python tools/evaluate FOLDER                   # a folder per speaker
    python tools/evaluate TRIALS.txt [--root DIR]  # lines of `1 a.wav b.wav`, as VoxCeleb has them
    python tools/evaluate --small                  # the demo's voices, a minute: guards the tests
    python tools/evaluate CORPUS --shortcuts       # only: does it know the voice, or something else

Written to --out (default: build/evaluation): result.json, the pictures, and page.html, which
shows all of them.
docs/accuracy.md says what each figure means and what came out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

# Two processes share two cores; threads that wait for each other would only slow them down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from tools.evaluate import baselines, report, shortcuts
from tools.evaluate.lists import verified
from tools.evaluate.trials import (
    SEED,
    SHOWN_HOUSEHOLD,
    Scores,
    View,
    corpora,
    identification,
    judged,
    scores,
    verification,
    views,
    visits,
)
from tools.lab import conditions
from tools.lab.corpus import Person, read_people, read_trials
from tools.lab.front_end import DURATIONS, Plan, Subject, ear, hear_person
from tools.lab.machine import describe
from tools.lab.metrics import resampled
from whodrives.errors import WhodrivesError
from whodrives.models.calibration import load_calibration
from whodrives.voice.types import Calibration

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
ACROSS = ("clean", "car 5 dB", "cabin", "cheap microphone")
"""Test conditions that the other enrolments are judged under."""

SMALL_TESTS = ("clean", "car 5 dB", "cabin")
PROGRESS = 10
SOUNDS_OF_ALL = 60
"""Test sounds of a corpus, about; but 4 to 10 of a person."""

Result = dict[str, Any]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Effort:
    """What is measured: names of test conditions and of enrolments, and whether there is more."""

    tests: tuple[str, ...]
    enrolments: tuple[str, ...]
    baselines: bool


FULL = Effort(tuple(conditions.TESTS), tuple(conditions.ENROLMENTS), True)  # noqa: FBT003
SMALL = Effort(SMALL_TESTS, ("clean",), False)  # noqa: FBT003
NUISANCES = Effort(
    tuple(dict.fromkeys(c for n in shortcuts.NUISANCES for c in (n.shared, n.differing))),
    tuple(dict.fromkeys(n.enrolment for n in shortcuts.NUISANCES)),
    False,  # noqa: FBT003
)


def main() -> int:
    """Do what the command line asks; 0 when the result is written."""
    options = _options()
    try:
        result = _measured(options)
    except WhodrivesError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    _write(result, options.out)
    print(f"written: {options.out}/page.html")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path, nargs="?", help="catalogue, folder or trial list")
    parser.add_argument("--role", default="eval", help="of a catalogue's files (default: eval)")
    parser.add_argument("--root", type=Path, help="folder that a trial list's paths begin at")
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--out", type=Path, default=Path("build/evaluation"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="three conditions, nothing else")
    parser.add_argument("--shortcuts", action="store_true", help="only the shortcuts")
    parser.add_argument("--no-baselines", action="store_true", help="only whodrives")
    options = parser.parse_args()
    if options.corpus is None:
        if not options.small:
            parser.error("name a corpus, or give --small for the demo's voices")
        options.corpus = conditions.VOICES
    return options


def _measured(options: argparse.Namespace) -> Result:
    started_s = time.monotonic()
    calibration = load_calibration(options.models, pinned=False)
    result: Result = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python tools/evaluate " + shlex.join(_anonymous(sys.argv[1:])),
        "encoder": calibration.encoder,
        "machine": describe(),
    }
    if options.corpus.is_file():
        asked = read_trials(options.corpus, options.root)
        base = options.root or options.corpus.parent
        result["trials"] = verified(asked, base, ear(options.models), calibration)
        _show(result["trials"])
    else:
        with ProcessPoolExecutor(options.processes) as pool:
            result |= _people_measured(options, calibration, pool)
    result["seconds"] = round(time.monotonic() - started_s)
    return result


def _anonymous(arguments: Sequence[str]) -> list[str]:
    """Drop the folders of paths: a result must not tell whose machine it was."""
    return [Path(argument).name if "/" in argument else argument for argument in arguments]


def _people_measured(
    options: argparse.Namespace, calibration: Calibration, pool: Executor
) -> Result:
    people = read_people(options.corpus, options.role)
    effort = NUISANCES if options.shortcuts else SMALL if options.small else FULL
    plans = [_plan(options.models, people, person, effort) for person in people]
    subjects = list(_watched(pool.map(hear_person, people, plans), len(people)))
    result: Result = {"corpus": described(subjects)}
    seen = views(subjects)
    if not options.shortcuts:
        result["results"] = _judged(seen, effort, calibration, pool)
        for line in report.table(result["results"]):
            print(line)
    if effort.baselines and not options.no_baselines:
        result |= _baselines(people, plans, seen, calibration, pool)
    if not options.small:
        result["shortcuts"] = _shortcuts(seen, options.models, calibration)
        _show(result["shortcuts"])
    return result


def _plan(models: Path, people: Sequence[Person], person: Person, effort: Effort) -> Plan:
    colleagues = sum(other.corpus == person.corpus for other in people)
    sounds = min(10, max(4, math.ceil(SOUNDS_OF_ALL / colleagues)))
    return Plan(models, effort.tests, effort.enrolments, sounds)


def _watched(subjects: Iterable[T], count: int) -> Iterator[T]:
    """Show that it goes on."""
    for number, subject in enumerate(subjects, start=1):
        if number % PROGRESS == 0 or number == count:
            print(f"{number} of {count} people heard", file=sys.stderr)
        yield subject


def described(subjects: Sequence[Subject]) -> list[Result]:
    """Who was there: people, sounds, how long they enrolled, and who could not."""
    found = []
    for corpus in sorted({s.person.corpus for s in subjects}):
        mine = [s for s in subjects if s.person.corpus == corpus]
        enrolments = [s.speech_s["clean"] for s in mine if "clean" in s.speech_s]
        refusals = [name for s in mine for name in s.refusals.items()]
        found.append(
            {
                "corpus": corpus,
                "people": len(mine),
                "sounds": sum(len(next(iter(s.sounds.values()))) for s in mine),
                "enrolment_speech_s": np.quantile(enrolments, [0, 0.5, 1]).tolist()
                if enrolments
                else None,
                "refused": {
                    name: sorted(code for condition, code in refusals if condition == name)
                    for name in conditions.ENROLMENTS
                    if any(condition == name for condition, _ in refusals)
                },
            }
        )
    return found


def _judged(
    seen: Sequence[View], effort: Effort, calibration: Calibration, pool: Executor
) -> list[Result]:
    asked = [
        (view, condition, enrolment)
        for view in seen
        for enrolment in effort.enrolments
        for condition in (effort.tests if enrolment == "clean" else ACROSS)
    ]
    views_, conditions_, enrolments = zip(*asked, strict=True)
    return list(pool.map(judged, views_, conditions_, enrolments, repeat(calibration)))


# --- others, and shortcuts ------------------------------------------------------------------------


def _baselines(
    people: Sequence[Person],
    plans: Sequence[Plan],
    seen: Sequence[View],
    calibration: Calibration,
    pool: Executor,
) -> Result:
    with tempfile.TemporaryDirectory(prefix="whodrives-evaluate-") as temporary:
        folder = Path(temporary)
        missing = baselines.available(folder, plans[0].models)
        names = [n for n in baselines.ALL if n not in missing]
        heard = pool.map(baselines.hear_baselines, people, plans, repeat(names), repeat(folder))
        found: list[Mapping[str, Subject]] = list(_watched(heard, len(people)))
    entries = [
        entry for view in corpora(seen) for entry in _compared(view, found, names, calibration)
    ]
    _show(entries)
    return {"baselines": entries, "baselines_missing": missing}


def _compared(
    view: View,
    found: Sequence[Mapping[str, Subject]],
    names: Sequence[str],
    calibration: Calibration,
) -> list[Result]:
    corpus = {subject.person for subject in view.subjects}
    entries = []
    for name in ("whodrives", *names):
        theirs = View(
            view.name,
            view.subjects
            if name == "whodrives"
            else tuple(f[name] for f in found if f[name].person in corpus),
        )
        # The shared mean is of this network; another encoder has no such thing.
        mean = calibration if name == "whodrives" else None
        if name in baselines.OURS:
            mean = calibration.first
        for condition in baselines.CONDITIONS:
            scored = scores(theirs, condition, "clean", mean)
            entries += _by_duration(view.name, name, condition, scored)
    return entries


def _by_duration(view: str, name: str, condition: str, scored: Scores) -> list[Result]:
    drawn = resampled(scored.people, SEED)
    played = visits(scored, SHOWN_HOUSEHOLD)
    entries = []
    for seconds in DURATIONS[:3]:
        verified = verification(scored, seconds, None)
        known = identification(scored, played, seconds, drawn) if played else None
        if verified and known:
            entries.append(
                {"view": view, "encoder": name, "condition": condition, "speech_s": seconds}
                | {key: verified[key] for key in ("eer", "min_dcf")}
                | {"fnir": known["fnir_at_0.01"], "fnir_interval": known["fnir_at_0.01_interval"]}
            )
    return entries


def _shortcuts(seen: Sequence[View], models: Path, calibration: Calibration) -> list[Result]:
    found = [entry for view in corpora(seen) for entry in shortcuts.by_condition(view, calibration)]
    own = ear(models)
    said = shortcuts.sayings(conditions.VOICES)
    english = [saying for saying in said if saying.language == "en"]
    people = [subject.person for view in corpora(seen) for subject in view.subjects]
    actors = shortcuts.emodb_sayings(people)
    jobs = [("synthetic voices", "sentence", shortcuts.by_sentence, english)]
    jobs += [("emodb", "sentence", shortcuts.by_sentence, actors)] if actors else []
    jobs += [("synthetic voices", "language", shortcuts.by_language, said)]
    for view, nuisance, measure, sayings in jobs:
        found.append({"view": view, "nuisance": nuisance} | measure(sayings, own, calibration))
    return found


def _show(entries: Sequence[Result]) -> None:
    heading, rows = report.flat_table(entries)
    for line in (heading, *rows):
        print("  ".join(f"{figure:>18}" for figure in line))


# --- writing --------------------------------------------------------------------------------------


def _write(result: Result, out: Path) -> None:
    pictures = []
    if "results" in result:
        for name, draw in (
            ("calibration.png", report.calibration_picture),
            ("det.png", report.det_picture),
            ("conditions.png", report.condition_picture),
        ):
            draw(result["results"], out / name)
            pictures.append(name)
    if "trials" in result:
        report.list_picture(result["trials"], out / "det.png")
        pictures.append("det.png")
    (out / "result.json").write_text(as_json(result), encoding="utf-8")
    (out / "page.html").write_text(report.page(result, pictures), encoding="utf-8")


def as_json(result: Result) -> str:
    """Return JSON with lists of plain values on a line each."""
    text = json.dumps(_rounded(result), indent=1, allow_nan=False)
    lists = re.compile(r"\[[^][{}]*\]")
    return lists.sub(lambda found: " ".join(found.group().split()), text) + "\n"


def _rounded(value: Any) -> Any:
    """Four significant digits; what is not a number becomes null."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value


if __name__ == "__main__":
    sys.exit(main())
