"""The fault campaign: many cars, a real broker, real daemons, and everything that goes wrong.

    python tools/faults --trips 10000 --out tools/faults/results/DATE.json --keep FOLDER
    python tools/faults --trips 100 --mutant standing      # one rule broken: it must be noticed
    python tools/faults --mutants --trips 400              # every one of them, a table
    python tools/faults --table MUTANTS.json               # that table for the docs
    python tools/faults --judge FOLDER --out RESULT.json   # judge the kept records again

Each trip is drawn from its seed; a violation names it, and `--seed`, `--only` play it again. Time
runs faster than the world's. What a machine is too slow for, it is too slow for at a smaller
`--scale` later. The result is written as the run goes on: one that is cut keeps what it found.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import queue
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tools.faults import judge, records
from tools.faults.group import Order, Outcome, work
from tools.faults.mutants import MUTANTS, table

EXAMPLES = 50


def _outcomes(orders: list[Order]) -> Iterator[list[Outcome]]:
    """What all processes have found so far, again and again; the last time all of it.

    Raises:
        SystemExit: one of them ended by itself; it has said why.
    """
    context = multiprocessing.get_context("spawn")
    found: multiprocessing.Queue[tuple[int, Outcome]] = context.Queue()
    workers = [context.Process(target=work, args=(order, found)) for order in orders]
    latest: dict[int, Outcome] = {}
    try:
        for worker in workers:
            worker.start()
        while True:
            over = not any(worker.is_alive() for worker in workers)
            try:
                number, outcome = found.get(timeout=1.0)
                latest[number] = outcome
                yield list(latest.values())
            except queue.Empty:
                if any(worker.exitcode for worker in workers):
                    sys.exit("a process of the campaign ended; its last words are above")
                if over:
                    return
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
                worker.join()


def _commit() -> str:
    """The version that is tried, and whether it was changed since."""
    folder = Path(__file__).parents[2]
    told = []
    for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "daemon", "tools", "systemd")):
        git = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)  # noqa: PLW1510
        told.append(git.stdout.strip())
    return f"{told[0] or 'unknown'}{', changed' if told[1] else ''}"


def campaign(
    options: argparse.Namespace, mutant: str | None, *, until_noticed: bool = False
) -> Iterator[dict[str, Any]]:
    """Drive all trips; the result so far, fit for JSON, and at last all of it."""
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
            until_noticed,
        )
        for n in range(jobs)
    ]
    began_s = time.monotonic()
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}",
        "seed": options.seed,
        "scale": options.scale,
        "cars": options.cars * jobs,
        "mutant": mutant,
        "trips_wanted": options.trips,
    }
    for outcomes in _outcomes(orders):
        counts: Counter[str] = sum((o.counts for o in outcomes), Counter())
        yield {
            **about,
            "seconds": round(time.monotonic() - began_s, 1),
            "latest_tick_s": round(max(o.late_s for o in outcomes), 2),
            "car_hours": round(sum(o.daemon_s for o in outcomes) / 3600, 2),
            "trips": sum(o.trips for o in outcomes),
            "counts": dict(sorted(counts.items())),
            **_told(v for o in outcomes for v in o.violations),
        }


def _told(violations: Iterable[judge.Violation]) -> dict[str, Any]:
    found = list(violations)
    return {
        "violations": dict(Counter(v.kind for v in found)),
        "examples": [asdict(v) for v in found[:EXAMPLES]],
    }


def _write(path: Path | None, report: dict[str, Any]) -> None:
    """Whole or not at all."""
    if path is not None:
        new = path.with_name(f".{path.name}.new")
        new.write_text(json.dumps(report, indent=2) + "\n")
        new.replace(path)


def _drive(options: argparse.Namespace) -> bool:
    """The campaign itself; whether anything was violated."""
    report: dict[str, Any] = {"violations": {"nothing was driven": 1}}
    for report in campaign(options, options.mutant):
        _write(options.out, report)
    print(json.dumps(report, indent=2))
    return bool(report["violations"])


def _drive_mutants(options: argparse.Namespace) -> bool:
    """One rule broken after another, each until it is noticed; whether any was not.

    What the result says of other rules stays in it.
    """
    known = options.out is not None and options.out.exists()
    report: dict[str, Any] = json.loads(options.out.read_text()) if known else {"mutants": {}}
    missed = False
    for name in options.mutants or MUTANTS:
        if options.keep is not None:
            (options.keep / name).mkdir(exist_ok=True)
        keep = options.keep and options.keep / name
        broken = argparse.Namespace(**{**vars(options), "keep": keep})
        *_, found = campaign(broken, name, until_noticed=True)
        facts = ("date", "commit", "machine", "seed", "scale", "cars", "trips", "violations")
        report["mutants"][name] = {"rule": MUTANTS[name].rule, **{k: found[k] for k in facts}}
        _write(options.out, report)
        missed |= not found["violations"]
        seen = found["violations"] or "NOT NOTICED"
        print(f"{name:28} {found['trips']:4} {MUTANTS[name].rule[:60]:60} {seen}", flush=True)
    return missed


def _judge(options: argparse.Namespace) -> bool:
    """Judge the kept records again; whether anything was violated."""
    found, trips, owed = [], 0, 0
    for record in records.kept(options.judge):
        trips += record.ended_s > 0
        owed += len(judge.owed(record))
        wrong = judge.violations(record)
        found += wrong
        if wrong:
            records.tell(options.judge, record, wrong)
    print(json.dumps({"trips": trips, "owed": owed, **_told(found)}, indent=2))
    if options.out:
        report = json.loads(options.out.read_text())
        if report["trips"] != trips:
            sys.exit(f"{options.out} is of {report['trips']} trips, and these are {trips}")
        report |= {"judged": _commit(), **_told(found)}
        report["counts"]["owed"] = owed
        _write(options.out, report)
    return bool(found)


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
        "--mutants",
        nargs="*",
        metavar="RULE",
        help="break each of these rules, or every one, until it is noticed",
    )
    parser.add_argument("--out", type=Path, help="write the result here, as JSON")
    parser.add_argument("--keep", type=Path, help="an existing folder for the trips' records")
    parser.add_argument("--table", type=Path, help="show this result of --mutants for the docs")
    parser.add_argument("--judge", type=Path, metavar="FOLDER", help="judge what was kept there")
    options = parser.parse_args()
    if unknown := set(options.mutants or ()) - set(MUTANTS):
        parser.error(f"no such rule: {', '.join(unknown)}; one of {', '.join(MUTANTS)}")
    for folder in (options.keep, options.judge):
        if folder is not None and not folder.is_dir():
            parser.error(f"{folder}: no such folder")
    return options


def main() -> int:
    """Run; 1 if anything was violated (with --mutants: if any mutant was not noticed)."""
    options = _options()
    # Ended like this, too, no process is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    if options.table is not None:
        print(table(json.loads(options.table.read_text())["mutants"]), end="")
        return 0
    if options.judge is not None:
        return int(_judge(options))
    if options.mutants is not None:
        return int(_drive_mutants(options))
    return int(_drive(options))


if __name__ == "__main__":
    sys.exit(main())
