"""Simulates months: profiles that follow their drivers, attackers who creep in, guests who return.

    python tools/months CORPUS --role eval --out FILE.json    # a folder with manifest.tsv
    python tools/months --small --out FILE.json               # the demo's voices, half a minute

docs/months.md says what each figure means and what came out. The rules in whodrives.adaptation and
whodrives.guests were chosen on `--role train`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from tools.lab import machine
from tools.lab.corpus import CorpusError, Person, read_people
from tools.months.adapting import ATTACKS, Counts, counted, households, interval, lived
from tools.months.returning import SHERPA_THRESHOLDS, baseline, figures, ours, trips
from tools.months.speakers import Speaker, speakers
from whodrives.adaptation import following, guests
from whodrives.adaptation.following import drift
from whodrives.errors import WhodrivesError
from whodrives.models.calibration import load_calibration
from whodrives.voice.decision import Policy

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
VOICES = ROOT / "profiles" / "demo" / "voices"
LEFT_OUT = ("klettres", "ktuberling")
"""Corpora whose people each say too little to drive for a hundred trips."""

DRAWS = 10
"""So many times guests are drawn and drive."""

SMALL_ENROL_S = 7.0
"""The demo's voices say little: so much enrols, and the rest is for trips and tests."""

LONGER = 4
"""So much longer one draw goes on, to see whether the memory grows."""


def main() -> int:
    """Run both experiments and write what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("corpus", type=Path, nargs="?")
    parser.add_argument("--role", default="train")
    parser.add_argument("--small", action="store_true", help="the demo's voices, a few people")
    parser.add_argument("--people", type=int, default=36, help="of each corpus, at most")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if (options.corpus is None) is not options.small:
        parser.error("give a corpus, or --small")
    try:
        _measure(options)
    except WhodrivesError as error:
        parser.exit(1, f"{error}\n")
    print(options.out)
    return 0


def _measure(options: argparse.Namespace) -> None:
    started = time.monotonic()
    people = read_people(options.corpus or VOICES, options.role)
    policy = Policy(load_calibration(MODELS), "1/100")
    chosen = spread(people, 8 if options.small else options.people)
    heard = list(
        speakers(chosen, MODELS, SMALL_ENROL_S) if options.small else speakers(chosen, MODELS)
    )
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": _command(options),
        "machine": machine.describe(),
        "people": Counter(speaker.person.corpus for speaker in heard),
        "adaptation": adapted(heard, policy, 20 if options.small else 100),
        "guests": returned(heard, policy, *((2, 5, 40) if options.small else (DRAWS, 30, 200))),
    }
    result["minutes"] = round((time.monotonic() - started) / 60, 1)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _command(options: argparse.Namespace) -> str:
    """What was called, wherever the corpus lies."""
    said = ["CORPUS" if word == str(options.corpus) else word for word in sys.argv[1:]]
    return shlex.join(["python", "tools/months", *said])


def spread(people: Sequence[Person], most: int) -> list[Person]:
    """At most so many of each corpus, evenly over it, the corpora in turns."""
    corpora: dict[str, list[Person]] = {}
    for person in people:
        if person.corpus not in LEFT_OUT:
            corpora.setdefault(person.corpus, []).append(person)
    chosen = [own[:: max(1, len(own) // most)][:most] for own in corpora.values()]
    return [person for row in zip_longest(*chosen) for person in row if person]


# --- adaptation -----------------------------------------------------------------------------------


def adapted(heard: Sequence[Speaker], policy: Policy, count: int) -> Mapping[str, Any]:
    """Errors before and after so many trips, without and with an attacker."""
    rules = following.RULES
    houses = list(households(heard, policy.calibration.mean))
    if not houses:
        raise CorpusError("no corpus has seven people who say enough; give one that has")
    before = [counted(house, policy, rules) for house in houses]
    found: dict[str, Any] = {"households": len(houses), "trips": count}
    for attack in ATTACKS:
        after, steps, drifts = [], [], []
        for house in houses:
            house.reset()
            steps.append(lived(house, attack, policy, rules, count))
            after.append(counted(house, policy, rules))
            drifts.append(drift(house.profiles[0], policy.calibration, rules))
        found[attack] = {
            name: compared(before, after, name) for name in ("fnir", "fpir", "attacker", "similar")
        }
        found[attack]["poisoned"] = sum(
            is_poisoned(b, a) for b, a in zip(before, after, strict=True)
        )
        found[attack]["steps"] = round(float(np.mean(steps)), 1)
        found[attack]["drift_cosine"] = {
            "least": round(min(drifts), 3),
            "median": round(float(np.median(drifts)), 3),
        }
    return found


def compared(before: Sequence[Counts], after: Sequence[Counts], name: str) -> Mapping[str, Any]:
    """Per cent before and after, and the change with its 95 % interval over households."""
    old, new = (
        np.array([[sum(column) for column in zip(*c.of(name).values(), strict=True)] for c in cs])
        for cs in (before, after)
    )
    trials = old[:, 1]
    low, high = interval((new[:, 0] - old[:, 0]) / np.maximum(trials, 1), trials)
    return {
        "before": _percent(old[:, 0].sum(), trials.sum()),
        "after": _percent(new[:, 0].sum(), trials.sum()),
        "change_interval": [round(100 * low, 2), round(100 * high, 2)],
        "trials": int(trials.sum()),
        "by_condition": {
            condition: [_total(cs, name, condition) for cs in (before, after)]
            for condition in before[0].of(name)
        },
    }


def _total(counts: Sequence[Counts], name: str, condition: str) -> float:
    pairs = [count.of(name)[condition] for count in counts]
    return _percent(sum(errors for errors, _ in pairs), sum(trials for _, trials in pairs))


def _percent(errors: float, trials: float) -> float:
    return round(100 * float(errors) / max(float(trials), 1.0), 2)


def is_poisoned(before: Counts, after: Counts) -> bool:
    """Whether the attacker now mostly passes for the driver, and did not before."""
    was, now = (sum(e for e, _ in c.attacker.values()) for c in (before, after))
    trials = sum(n for _, n in before.attacker.values())
    return now > trials / 2 >= was


# --- guests ---------------------------------------------------------------------------------------


def returned(
    heard: Sequence[Speaker], policy: Policy, draws: int, invited: int, count: int
) -> Mapping[str, Any]:
    """Guests who come back, by the daemon's guest book and by sherpa-onnx's example."""
    invited = min(invited, len(heard) - 3)
    rows: dict[str, list[Mapping[str, float]]] = {}
    told, _ = trips(heard, policy, draws, LONGER * count, invited)
    long = ours(told, policy, guests.RULES)
    for seed in range(draws):
        told, drivers = trips(heard, policy, seed, count, invited)
        rows.setdefault("whodrives", []).append(figures(ours(told, policy, guests.RULES), drivers))
        for threshold in SHERPA_THRESHOLDS:
            name = f"sherpa-onnx {threshold}"
            rows.setdefault(name, []).append(figures(baseline(told, threshold), drivers))
    return {
        "guests": invited,
        "trips": count,
        "draws": draws,
        "long": {
            "trips": LONGER * count,
            "bytes": long.size[count - 1 :: count],
            "guests": long.count[count - 1 :: count],
        },
        **{name: _summary(found) for name, found in rows.items()},
    }


def _summary(found: Sequence[Mapping[str, float]]) -> Mapping[str, Any]:
    """Mean, least and most of each figure over the draws."""
    return {
        name: {
            "mean": round(float(np.mean([row[name] for row in found])), 4),
            "least": min(row[name] for row in found),
            "most": max(row[name] for row in found),
        }
        for name in found[0]
    }


if __name__ == "__main__":
    sys.exit(main())
