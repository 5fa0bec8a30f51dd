"""What was right and wrong in a trip, from its record alone: no code of the daemon is used.

Times are seconds of the fast clock. A request is judged at the moment that it names (`issued_at`),
against what the car's gateway had said, who had really spoken, and what hands had done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from trips import BRAKE, DOOR, GEAR, OCCUPANCY, PARK, SPEED, SWITCH

FRESH_S = 2.0
SLACK_S = 0.7
"""By so much the moments that two processes note of one thing may differ."""

LATE_S = 1.5
"""In a trip in which the machine was later than this, lateness of the daemon is not its fault."""

DRIVING_KMH = 5.0
"""A car at this speed has moved off, and does not only creep."""

ENOUGH_S = 12.0
"""A request that was lost is repeated, and answered, in less."""

SPEECH_S = 1.3
"""So much speech is surely recognised."""

SENT_S = 1.0 + 2 * SLACK_S
"""A request that is older than a second is not sent."""

GOOD_S = 3.0 + SLACK_S
WANTED_S = 60.0
GONE_S = 10.0

SEAT_GROUP = "seat"
MIRRORS = "mirrors"

_NETWORK = ("kill", "cut", "hold", "delay", "broker", "ecu_cut")

_CONDITIONS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "standing": lambda said: said.get(SPEED) == 0,
    "park_or_brake": lambda said: said.get(GEAR) == PARK or said.get(BRAKE) is True,
    "door_closed": lambda said: said.get(DOOR) is False,
    "seat_occupied": lambda said: said.get(OCCUPANCY) == "OCCUPIED",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as an ECU's connection got it."""

    at_s: float
    issued_s: float
    good_s: float
    request: str
    driver: str
    groups: frozenset[str]
    retained: bool = False


@dataclass(frozen=True, slots=True)
class Began:
    """The ECU began to move a group."""

    at_s: float
    request: str
    driver: str
    group: str


@dataclass(slots=True)
class Record:
    """All that happened in one trip.

    Attributes:
        readings: what the gateway said, and when.
        spoken: (begun, ended, driver id or None for a stranger): speech that reached a living
            daemon whole.
        acts: (when, kind, driver id or None): `choose`, `listen`, `cancel`, `save`, `switch`,
            `key`.
        asked, began: what the ECU was asked, and what it did.
        settled: (when, driver id, since when) of the topic `driver`.
        late_s: how late the slowest process was served by this machine.
        faults: (from, to, kind).
        died: daemons that ended without being told to.
    """

    car: str
    trip: int
    seed: int
    began_s: float
    ended_s: float = 0.0
    readings: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    spoken: list[tuple[float, float, str | None]] = field(default_factory=list)
    acts: list[tuple[float, str, str | None]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    began: list[Began] = field(default_factory=list)
    settled: list[tuple[float, str, float]] = field(default_factory=list)
    late_s: float = 0.0
    faults: list[tuple[float, float, str]] = field(default_factory=list)
    misbehaviour: tuple[str, ...] = ()
    died: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must never happen, and how to see it again."""

    kind: str
    text: str
    car: str
    trip: int
    seed: int


def violations(record: Record) -> list[Violation]:
    """Everything that was wrong in this trip."""
    found = [
        *_requests(record),
        *_doubled(record),
        *_died(record),
        *_undelivered(record),
    ]
    return [Violation(kind, text, record.car, record.trip, record.seed) for kind, text in found]


_Found = Iterator[tuple[str, str]]


def _requests(record: Record) -> _Found:
    for asked in record.asked:
        when = f"{asked.issued_s - record.began_s:.2f} s: "
        if asked.retained:
            yield "retained", when + "a request that was kept by the broker"
        if asked.good_s > GOOD_S:
            yield "stale", when + f"a request that is good for {asked.good_s:.1f} s"
        if _dawdled(record, asked):
            yield "stale", when + f"sent {asked.at_s - asked.issued_s:.1f} s after it was decided"
        for name in _not_known(record, asked):
            yield "unsafe", when + f"{name} was not known to hold for {sorted(asked.groups)}"
        yield from ((kind, when + text) for kind, text in _not_wanted(record, asked))


def _dawdled(record: Record, asked: Asked) -> bool:
    """Whether the daemon itself let the request grow old; the network may."""
    network = [(a, b) for a, b, kind in record.faults if kind in (*_NETWORK, "step")]
    calm = not any(a - 1.0 < asked.at_s and asked.issued_s < b + 3.0 for a, b in network)
    return calm and record.late_s < LATE_S and asked.at_s - asked.issued_s > SENT_S


def _not_known(record: Record, asked: Asked) -> list[str]:
    """Conditions that nothing the gateway said within the last two seconds allowed."""
    recent = [
        said
        for at_s, said in record.readings
        if -FRESH_S - SLACK_S <= at_s - asked.issued_s <= SLACK_S
    ]
    names = set(_CONDITIONS)
    if SEAT_GROUP not in asked.groups:
        names -= {"door_closed"}
    return sorted(n for n in names if not any(_CONDITIONS[n](said) for said in recent))


def _not_wanted(record: Record, asked: Asked) -> _Found:
    at_s = asked.issued_s
    before = [act for act in record.acts if act[0] <= at_s + SLACK_S]
    spoke = [end for _, end, who in record.spoken if who == asked.driver and end <= at_s + 1.5]
    begun = [start for start, _, who in record.spoken if who == asked.driver and start <= at_s]
    chosen = [
        when for when, kind, who in before if kind in ("choose", "key") and who == asked.driver
    ]
    if not begun and not chosen:
        yield "unknown", "for a driver who had not spoken, and whom nobody had chosen"
        return
    last_s = max([*begun, *chosen, *spoke])
    if at_s - last_s > WANTED_S + 4 * SLACK_S + record.late_s:
        yield "stale", f"{at_s - last_s:.0f} s after the driver was last heard of"
    moved = [
        t
        for t, said in record.readings
        if last_s + 4.0 < t < at_s - 3.0
        and (said.get(SPEED) or 0) > DRIVING_KMH
        and not _cut_off(record, t)
    ]
    if record.late_s < LATE_S and moved and not any(when > moved[-1] for when in [*begun, *chosen]):
        yield "stale", "after the car had moved off"
    hands = [when for when in _told_of_hands(record) if when < at_s - 2.5]
    if hands and SEAT_GROUP in asked.groups:
        yield "touched", f"{at_s - hands[0]:.1f} s after it was told of a hand on the switch"
    settled = [since_s for _, driver, since_s in record.settled if driver == asked.driver]
    first_s = min((since_s for since_s in settled if since_s >= record.began_s), default=1e12)
    stopped = [
        when
        for when, kind, _ in before
        if kind == "cancel_done" and first_s < when - 3.0 < at_s - 4.0
    ]
    asked_again = [when for when, kind, _ in before if kind in ("choose", "listen", "key")]
    if stopped and not any(when > stopped[-1] for when in asked_again):
        yield "cancelled", "after a cancel"
    for from_s, to_s, kind in record.faults:
        gone = kind == "kill" and to_s - from_s > GONE_S + 2.0 and to_s < at_s and last_s < from_s
        if gone and not any(when > to_s for when in [*begun, *chosen]):
            yield (
                "unasked",
                f"for somebody who had spoken before {to_s - from_s:.0f} s without a daemon",
            )


def _cut_off(record: Record, at_s: float) -> bool:
    """Whether the daemon may not have heard what the car said then.

    After an outage it tries again after ever longer pauses, and what it missed nobody says again.
    """
    return any(
        from_s - 1.0 < at_s < to_s + 1.2 * (to_s - from_s) + 8.0
        for from_s, to_s, kind in record.faults
        if kind in (*_NETWORK, "lost", "step")
    )


def _told_of_hands(record: Record) -> list[float]:
    """When a living daemon heard of a hand, by the car or by the ECU, over a good network."""
    told = [at_s for at_s, kind, _ in record.acts if kind == "manual_told"]
    opened = min((at_s for at_s, said in record.readings if _open(said)), default=1e12)
    told += [
        at_s for at_s, said in record.readings if said.get(SWITCH) is True and at_s > opened + 1.0
    ]
    return sorted(at_s for at_s in told if not _cut_off(record, at_s))


def _doubled(record: Record) -> _Found:
    """The ECU moved twice for one settling, or for two people of whom one is a passenger."""
    explicit = [
        a for a in record.acts if a[1] in ("choose", "listen", "save", "cancel", "switch", "key")
    ]
    times: dict[tuple[str, str], int] = {}
    for began in record.began:
        key = (began.driver, began.group)
        times[key] = times.get(key, 0) + 1
    for (_driver, group), count in times.items():
        if count > 1 + len(explicit):
            yield "doubled", f"{group} moved {count} times with {len(explicit)} acts by hand"
    people = {began.driver for began in record.began} | {asked.driver for asked in record.asked}
    if len(people) > 1 and not [a for a in explicit if a[1] in ("choose", "listen", "key")]:
        yield "passenger", f"{len(people)} people were served in one trip, and nobody had asked"


def _died(record: Record) -> _Found:
    for text in record.died:
        yield "died", text


def _undelivered(record: Record) -> _Found:
    """A driver was settled, all was well for long enough, and the ECU was not moved."""
    if record.late_s > LATE_S:
        return
    hands = {kind for _, kind, _ in record.acts}
    if hands & {"choose", "listen", "cancel", "cancel_done", "save", "switch"}:
        return
    if set(record.misbehaviour) & {"deaf", "rejects"}:
        return
    settled_s, driver = _settled(record)
    if driver is None:
        return
    for from_s, to_s, _kind in _calm(record, settled_s):
        if to_s - from_s < ENOUGH_S:
            continue
        served = {b.group for b in record.began if b.driver == driver}
        if "lying" in record.misbehaviour:
            served = {g for a in record.asked if a.driver == driver for g in a.groups}
        if served < {SEAT_GROUP, MIRRORS}:
            text = f"{sorted({SEAT_GROUP, MIRRORS} - served)} never moved, settled at "
            yield "undelivered", text + f"{settled_s - record.began_s:.1f} s"
        return


def _settled(record: Record) -> tuple[float, str | None]:
    """When the daemon said who drives; or, in a trip without faults, when it should have known."""
    for at_s, driver, since_s in record.settled:
        if since_s >= record.began_s:
            return at_s, driver
    if record.faults:
        return 0.0, None
    opened = next((t for t, said in record.readings if _open(said)), None)
    for start, end, who in record.spoken:
        if who and opened is not None and start > opened + 1.0 and end - start >= SPEECH_S:
            return end + 2.0, who
    return 0.0, None


def _open(said: dict[str, Any]) -> bool:
    safe = said.get(OCCUPANCY) == "OCCUPIED" and said.get(DOOR) is False
    return bool(safe and said.get("Vehicle.LowVoltageSystemState") == "ON")


def _calm(record: Record, settled_s: float) -> list[tuple[float, float, str]]:
    """Spans within the minute in which everything that delivery needs was there."""
    until_s = settled_s + WANTED_S - 6.0
    bad: list[tuple[float, float]] = [(record.ended_s - 4.0, 1e12)]
    for from_s, to_s, kind in record.faults:
        if kind == "kill" and to_s >= settled_s - 1 and to_s - from_s > GONE_S - 4.0:
            # With its last sign of life before and its birth after, that may be too long away.
            return []
        # After an outage the daemon tries again after ever longer pauses.
        patience_s = (
            min(60.0, 1.2 * (to_s - from_s)) + 6.0 if kind in ("cut", "hold", "broker") else 3.0
        )
        bad.append((from_s - 1.0, to_s + patience_s))
    for at_s, said in record.readings:
        if not all(holds(said) for holds in _CONDITIONS.values()):
            bad.append((at_s - 0.6, at_s + 0.6))
            if (said.get(SPEED) or 0) > 0 and at_s >= settled_s - 2.0:
                until_s = min(until_s, at_s - 0.6)
    told = sorted(at_s for at_s, _ in record.readings)
    bad += [(a, b) for a, b in pairwise(told) if b - a > FRESH_S]
    spans, from_s = [], settled_s
    for start, end in sorted(bad):
        if start > from_s:
            spans.append((from_s, min(start, until_s), "calm"))
        from_s = max(from_s, end)
        if from_s >= until_s:
            break
    return spans
