"""The fault campaign: many cars, a real broker, real daemons, and everything that goes wrong.

    python tools/faults --trips 10000 --out tools/faults/results/DATE.json
    python tools/faults --trips 100 --mutant standing      # one rule broken: it must be noticed
    python tools/faults --mutants --trips 400              # every one of them, a table

Each trip is drawn from its seed; a violation names it, and `--seed`, `--only` play it again. Time
runs faster than the world's. What a machine is too slow for, it is too slow for at a smaller
`--scale` later.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from group import Order, run
from mutants import MUTANTS


def campaign(options: argparse.Namespace, mutant: str | None) -> dict[str, Any]:
    """Drive all trips; returns the result, fit for JSON."""
    jobs = 1 if options.only is not None else options.jobs
    share = [options.trips // jobs + (n < options.trips % jobs) for n in range(jobs)]
    orders = [
        Order(
            n,
            options.cars,
            share[n],
            options.seed,
            options.scale,
            mutant,
            options.only,
            options.keep,
        )
        for n in range(jobs)
    ]
    began_s = time.monotonic()
    if jobs == 1:
        outcomes = [run(orders[0])]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            outcomes = list(pool.map(run, orders))
    counts: Counter[str] = sum((o.counts for o in outcomes), Counter())
    violations = [v for o in outcomes for v in o.violations]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}",
        "seed": options.seed,
        "scale": options.scale,
        "cars": options.cars * jobs,
        "mutant": mutant,
        "seconds": round(time.monotonic() - began_s, 1),
        "latest_tick_s": round(max(o.late_s for o in outcomes), 2),
        "car_hours": round(sum(o.daemon_s for o in outcomes) / 3600, 2),
        "trips": sum(o.trips for o in outcomes),
        "counts": dict(sorted(counts.items())),
        "violations": dict(Counter(v.kind for v in violations)),
        "examples": [asdict(v) for v in violations[:50]],
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Drive many cars through everything that goes wrong."
    )
    parser.add_argument("--trips", type=int, default=100)
    parser.add_argument("--cars", type=int, default=8, help="at once, in each process")
    parser.add_argument("--jobs", type=int, default=2, help="processes, each with a broker")
    parser.add_argument("--scale", type=float, default=10.0, help="seconds of a car in one of ours")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="this trip, again and again")
    parser.add_argument("--mutant", choices=list(MUTANTS), help="break this rule")
    parser.add_argument(
        "--mutants", nargs="*", metavar="RULE", help="break each of these rules, or every one"
    )
    parser.add_argument("--out", type=Path, help="write the result here, as JSON")
    parser.add_argument(
        "--keep", help="an existing folder for the records of trips that went wrong"
    )
    options = parser.parse_args()
    if unknown := set(options.mutants or ()) - set(MUTANTS):
        parser.error(f"no such rule: {', '.join(unknown)}; one of {', '.join(MUTANTS)}")
    return options


def main() -> int:
    """Run; 1 if anything was violated (with --mutants: if any mutant was not noticed)."""
    options = _options()
    if options.mutants is not None:
        results = {}
        for name in options.mutants or MUTANTS:
            mutant = MUTANTS[name]
            found = campaign(options, name)
            results[name] = {"rule": mutant.rule, **{k: found[k] for k in ("trips", "violations")}}
            print(f"{name:15} {mutant.rule:50} {found['violations'] or 'NOT NOTICED'}", flush=True)
        report: dict[str, Any] = {"seed": options.seed, "mutants": results}
        failed = not all(result["violations"] for result in results.values())
    else:
        report = campaign(options, options.mutant)
        failed = bool(report["violations"])
        print(json.dumps(report, indent=2))
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
