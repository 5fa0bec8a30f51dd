"""Records of trips on disk: for the judge to read again, and those that went wrong for people."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tools.faults import judge, trips

SHOWN = (
    "spoken",
    "acts",
    "commands",
    "asked",
    "said",
    "withdrawn",
    "began",
    "moving",
    "assigned",
    "shown",
    "deaf",
    "ecu_deaf",
    "down",
    "gone",
    "faults",
    "died",
    "others",
)
"""What of a record is written down for people; the readings follow from the plan."""


MOMENTS_S = 200.0
"""Numbers from so many seconds before the trip's start on are times; smaller ones are durations."""


def keep(folder: Path, group: int, record: judge.Record) -> None:
    """Add a record to those of a group of cars."""
    with gzip.open(folder / f"records-{group}.jsonl.gz", "ab", compresslevel=1) as out:
        out.write(msgspec.json.encode(record) + b"\n")


def kept(folder: Path) -> Iterator[judge.Record]:
    """All records in a folder; the last may be cut where the run was."""
    for path in sorted(folder.glob("records-*.jsonl.gz")):
        with gzip.open(path, "rb") as lines:
            try:
                for line in lines:
                    yield msgspec.json.decode(line, type=judge.Record)
            except (EOFError, msgspec.DecodeError):
                continue


def tell(folder: Path, record: judge.Record, found: list[judge.Violation]) -> None:
    """Write down a trip that went wrong, for people."""
    plan = trips.plan(random.Random(record.seed))  # noqa: S311 - a seed is wanted
    lines = [f"{v.kind}: {v.text}" for v in found] + [f"late {record.late_s:.1f} s"]
    lines += [f"plan {action.at_s:.2f} {action.kind} {action.what}" for action in plan.actions]
    for name in SHOWN:
        lines += [f"{name} {_shown(item, record)}" for item in getattr(record, name)]
    (folder / f"{record.car}-{record.trip}.txt").write_text("\n".join(lines) + "\n")


def _shown(item: Any, record: judge.Record) -> str:
    """The facts of a thing, its times counted from the trip's beginning."""
    if isinstance(item, str):
        return item
    parts: list[tuple[Any, Any]] = list(enumerate(item)) if isinstance(item, tuple) else []
    parts += [(name, getattr(item, name)) for name in getattr(item, "__dataclass_fields__", ())]
    return " ".join(
        f"{name}={part - record.began_s:.2f}"
        if isinstance(part, float) and part > record.began_s - MOMENTS_S
        else f"{name}={part}"
        for name, part in parts
    )
