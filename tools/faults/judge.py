"""What was right and wrong in a trip, from its record alone: no code of the daemon is used.

Times are seconds of the fast clock. A request is judged at the moment that it names (`issued_at`),
against what the car's gateway had said, who had really spoken, and what hands had done. Where the
daemon may not have heard of something, the record says when it was deaf, and not a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tools.faults.trips import BRAKE, DOOR, GEAR, IGNITION, OCCUPANCY, PARK, SPEED, SWITCH

FRESH_S = 2.0
SLACK_S = 0.3
"""By so much the moments that two processes note of one thing may differ."""

REACH_S = 1.0
"""In so much what was said has reached a daemon that hears, and it has acted on it."""

DELAYED_S = 3.5
"""So long after a slow network was restored its last message may arrive."""

AT_ONCE_S = 3.0
"""A wish that is made in peace is asked for, and the ECU begins, in less."""

ENOUGH_S = 6.0
"""A request that was lost is repeated after 4 s, and the ECU begins at once."""

SPEECH_S = 1.3
"""So much speech is surely recognised."""

HEARD_S = 2.0
"""So long after its end an utterance is judged at the latest."""

LATE_S = 1.5
"""A trip in which the machine served somebody later than this is late. The pipe of the sound holds
2 s: once it is that full, there is no bound to how late, or whether, what was said is heard."""

BEFORE_S = 20.0
"""What was said so long before a trip may be heard in it, if the sound is choked."""

ANSWER_S = 10.0
"""An answer that is older is not believed."""

SLOW_S = 5.0
"""So old is what a slow ECU answers when it leaves."""

START_S = 15.0
"""A second daemon reads its configuration, finds the car claimed and ends in less: about 6 s at
five times the world's pace on a busy machine (2026-12-01)."""

SENT_S = 1.0 + REACH_S
"""A request that is older than a second is not sent."""

GOOD_S = 3.0
WANTED_S = 60.0
ABSENCE_LIMIT_S = 10.0
LISTEN_S = 10.0

SEAT_GROUP = "seat"
MIRRORS = "mirrors"

PASSING = frozenset({"standing", "park_or_brake", "door_closed", "seat_occupied", "expired"})
"""For these reasons an ECU's refusal may pass."""

_NEEDS: dict[str, dict[str, tuple[tuple[str, Any], ...]]] = {
    SEAT_GROUP: {
        "standing": ((SPEED, 0),),
        "park_or_brake": ((GEAR, PARK), (BRAKE, True)),
        "door_closed": ((DOOR, False),),
        "seat_occupied": ((OCCUPANCY, "OCCUPIED"),),
    }
}
_NEEDS[MIRRORS] = {n: any_of for n, any_of in _NEEDS[SEAT_GROUP].items() if n != "door_closed"}

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as an ECU's connection got it.

    `doubt_s` is how much earlier it may have been issued: the calendar had just been stepped.
    `kept_s` is how long the broker may keep it: MQTT's message expiry.
    """

    at_s: float
    issued_s: float
    good_s: float
    request: str
    driver: str
    signals: dict[str, float]
    groups: tuple[str, ...]
    kept_s: int | None = 3
    retained: bool = False
    doubt_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Began:
    """The ECU began to move a group."""

    at_s: float
    request: str
    driver: str
    group: str


@dataclass(frozen=True, slots=True)
class Result:
    """What the daemon said to a command; `at_s` is None while it has said nothing.

    `kind` is `choose`, `listen`, `cancel`, `save` or `forget`; `driver` whom it names.
    """

    sent_s: float
    kind: str
    driver: str | None
    at_s: float | None = None
    reason: str = ""

    @property
    def done(self) -> bool:
        """Whether it was done."""
        return self.at_s is not None and not self.reason


@dataclass(frozen=True, slots=True)
class Said:
    """An ECU's answer, as the broker passed it on."""

    at_s: float
    request: str
    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class Preferred:
    """From `at_s` on the driver prefers one of these; not `sure`: perhaps what was before."""

    at_s: float
    driver: str
    values: tuple[dict[str, float], ...]
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Gone:
    """A daemon was killed, and the next one born; `sign_s`: the dead one's last sign of life."""

    killed_s: float
    born_s: float
    sign_s: float | None


@dataclass(slots=True)
class Record:
    """All that happened in one trip.

    Attributes:
        readings: what the gateway said, and when.
        spoken: (begun, ended, driver id or None for a stranger).
        acts: (when, kind, driver id or None): `switch`, `key`.
        commands: what the head unit told, and what it was answered.
        asked, said, withdrawn: what the ECU was asked, what it answered, and what it was told to
            stop: (when, request, reason).
        began, moving: what the ECU did: what it began, and from when to when any motor ran.
        assigned: (when, driver id, since when) of the topic `driver`.
        shown: (when, driver id or None) of the same, the trip before's last word first.
        preferred: what the drivers prefer.
        deaf, ecu_deaf: from when to when daemon, or ECU, could surely not hear everything: no
            connection, nothing passed on, nobody living, or the car itself not connected.
        down: from when to when the daemon had no connection at all.
        gone: every daemon that was killed.
        late_s: how late the slowest process was served by this machine.
        faults: (from, to, kind) of what was done to it.
        died: daemons that ended without being told to.
        others: from when to when a second daemon for this car lived.
    """

    car: str
    trip: int
    seed: int
    began_s: float
    ended_s: float = 0.0
    readings: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    spoken: list[tuple[float, float, str | None]] = field(default_factory=list)
    acts: list[tuple[float, str, str | None]] = field(default_factory=list)
    commands: list[Result] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    withdrawn: list[tuple[float, str, str]] = field(default_factory=list)
    began: list[Began] = field(default_factory=list)
    moving: list[Span] = field(default_factory=list)
    assigned: list[tuple[float, str, float]] = field(default_factory=list)
    shown: list[tuple[float, str | None]] = field(default_factory=list)
    preferred: list[Preferred] = field(default_factory=list)
    deaf: list[Span] = field(default_factory=list)
    ecu_deaf: list[Span] = field(default_factory=list)
    down: list[Span] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)
    late_s: float = 0.0
    faults: list[tuple[float, float, str]] = field(default_factory=list)
    misbehaviour: tuple[str, ...] = ()
    died: list[str] = field(default_factory=list)
    others: list[Span] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must never happen, and how to see it again."""

    kind: str
    text: str
    car: str
    trip: int
    seed: int


_Found = Iterator[tuple[str, str]]


def violations(record: Record) -> list[Violation]:
    """Everything that was wrong in this trip."""
    found = [
        *_requests(record),
        *_copies(record),
        *_doubled(record),
        *_unstopped(record),
        *_commands(record),
        *_topic(record),
        *_undelivered(record),
        *_died(record),
        *_second(record),
    ]
    return [Violation(kind, text, record.car, record.trip, record.seed) for kind, text in found]


def _died(record: Record) -> _Found:
    """A daemon ended by itself, or did not come back to a broker that was there."""
    away = any(kind == "broker" and b > record.ended_s > 0 for _, b, kind in record.faults)
    for text in record.died:
        if not (away and text.startswith("not online")):
            yield "died", text


def _second(record: Record) -> _Found:
    """A second daemon for the car did not end at once."""
    for from_s, to_s in record.others:
        if to_s - from_s > START_S + _lateness(record):
            yield "second", f"a second daemon for this car lived for {to_s - from_s:.1f} s"


# --- what was heard -------------------------------------------------------------------------------


def _inside(at_s: float, spans: Iterable[Span]) -> bool:
    return any(from_s < at_s < to_s for from_s, to_s in spans)


def _unsure(record: Record) -> list[Span]:
    """When something may have been said that the daemon did not hear, or heard late."""
    margin_s = _lateness(record)
    spans = [(from_s - margin_s, to_s + margin_s) for from_s, to_s in record.deaf]
    for from_s, to_s, kind in record.faults:
        if kind == "delay":
            spans.append((from_s - REACH_S, to_s + DELAYED_S))
        elif kind == "step":
            # What was on its way speaks of another calendar.
            spans.append((from_s - REACH_S, to_s))
    return spans


def _heard(record: Record, at_s: float) -> bool:
    """Whether a living daemon surely heard, within REACH_S, what was said then."""
    return not _inside(at_s, _unsure(record))


def _believed_answer(record: Record, said: Said) -> bool:
    """Whether the daemon surely heard an answer, and it was not too old: a network may hold it."""
    late_s = _lateness(record)
    held = any(
        from_s < said.at_s <= to_s + late_s and said.at_s - from_s > ANSWER_S - SLOW_S
        for from_s, to_s in record.ecu_deaf
    )
    return _heard(record, said.at_s) and not held


def _peace(record: Record, from_s: float, to_s: float) -> bool:
    """Whether the daemon heard everything in this time."""
    return not any(a < to_s and b > from_s for a, b in _unsure(record))


def _open(said: dict[str, Any]) -> bool:
    safe = said.get(OCCUPANCY) == "OCCUPIED" and said.get(DOOR) is False
    return bool(safe and said.get(IGNITION) == "ON")


def _left(said: dict[str, Any]) -> bool:
    gone = said.get(OCCUPANCY) == "EMPTY" or said.get(DOOR) is True or said.get(IGNITION) == "OFF"
    return bool(gone and not said.get(SPEED))


def _unwatched(record: Record) -> list[Span]:
    """When the daemon surely did not know seat, door and ignition for longer than ABSENCE_LIMIT_S.

    What was said while it was deaf may have reached it when it heard again.
    """
    limit_s = ABSENCE_LIMIT_S + 2 * _lateness(record)
    found = []
    deaf = list(_surely_deaf(record))
    for path in (OCCUPANCY, DOOR, IGNITION):
        told = [t for t, said in record.readings if said.get(path, "UNKNOWN") != "UNKNOWN"]
        arrived = sorted((max([t, *(b for a, b in deaf if a < t < b)]), t) for t in told)
        known_s = told[0] if told else record.ended_s
        for at_s, true_s in [*arrived, (record.ended_s, record.ended_s)]:
            if at_s - known_s > limit_s:
                found.append((known_s, at_s))
            known_s = max(known_s, true_s)
    return found


def _surely_deaf(record: Record) -> Iterator[Span]:
    """The spans in `deaf`, without what lies between an assignment and the next fault.

    A daemon that assigns a driver hears. The record may not know it: after a restart of the broker
    the monitor may have subscribed after the daemon had greeted.
    """
    faults = [
        *(from_s for from_s, _, _ in record.faults),
        *(from_s for from_s, _ in (*record.down, *record.ecu_deaf)),
        *(gone.killed_s for gone in record.gone),
    ]
    for from_s, to_s in record.deaf:
        heard_s = min((s for _, _, s in record.assigned if from_s < s < to_s), default=to_s)
        yield from_s, heard_s
        again_s = min((t for t in faults if t > heard_s), default=to_s)
        if again_s < to_s:
            yield again_s, to_s


def _perhaps_unwatched(record: Record) -> Iterator[Span]:
    """When it may not have known them for ABSENCE_LIMIT_S."""
    for path in (OCCUPANCY, DOOR, IGNITION):
        known_s = record.began_s
        for t, said in record.readings:
            if said.get(path, "UNKNOWN") != "UNKNOWN" and _heard(record, t):
                if t - known_s > ABSENCE_LIMIT_S:
                    yield known_s, t
                known_s = t


def _returns(record: Record) -> int:
    """How often the car was ready for a trip again after it had said that everybody had left."""
    opened, left, count = False, False, 0
    for _, said in record.readings:
        if _open(said):
            count += left
            opened, left = True, False
        left = left or (opened and _left(said))
    return count


def _departure(record: Record) -> list[float]:
    """When the car first said that everybody had left, if it did after it was open."""
    opened = [t for t, said in record.readings if _open(said)]
    return [t for t, said in record.readings if opened and t > opened[-1] and _left(said)][:1]


def _opened_s(record: Record) -> float:
    """When the daemon surely knew that a trip is open."""
    known = (at_s for at_s, said in record.readings if _open(said) and _heard(record, at_s))
    return min(known, default=1e12) + _lateness(record)


def _lateness(record: Record) -> float:
    """How long what was said may take to be acted on, through several processes of a machine."""
    return REACH_S + 3 * record.late_s


def _back_s(record: Record, gone: Gone) -> float:
    """When the next daemon was surely there, and had read what the dead one left."""
    return max((b for a, b in record.deaf if a <= gone.born_s <= b), default=1e12)


# --- requests -------------------------------------------------------------------------------------


def _requests(record: Record) -> _Found:
    for asked in record.asked:
        when = f"{asked.issued_s - record.began_s:.2f} s: "
        if asked.retained:
            yield "retained", when + "a request that was kept by the broker"
        if asked.good_s > GOOD_S + 0.01 or asked.kept_s is None or asked.kept_s > GOOD_S:
            yield "stale", when + f"good for {asked.good_s:.1f} s, kept for {asked.kept_s} s"
        yield from ((kind, when + text) for kind, text in _late(record, asked))
        if asked.issued_s < record.began_s:
            # A request of the trip before, which the network had kept.
            continue
        judges = (_unsafe, _unknown, _outlived, _stopped, _someone_else, _other_values)
        for judge in judges:
            yield from ((kind, when + text) for kind, text in judge(record, asked))


def _late(record: Record, asked: Asked) -> _Found:
    """The daemon itself let it grow old, or decided it while nobody would hear; not the network."""
    age_s = asked.at_s - asked.issued_s
    if age_s > SENT_S + 3 * record.late_s and _peace(record, asked.issued_s, asked.at_s):
        yield "stale", f"sent {age_s:.1f} s after it was decided"
    margin_s = _lateness(record)
    if any(from_s + margin_s < asked.issued_s < to_s - margin_s for from_s, to_s in record.down):
        yield "stale", "decided while there was no connection"


def _unsafe(record: Record, asked: Asked) -> _Found:
    """Conditions that nothing allowed which the daemon may have held for true."""
    earliest_s = asked.issued_s - asked.doubt_s
    for group in asked.groups:
        for name, any_of in _NEEDS[group].items():
            held = any(
                value in _believed(record, path, earliest_s, asked.issued_s)
                for path, value in any_of
            )
            if not held:
                yield "unsafe", f"{name} was not known to hold for {group}"


def _believed(record: Record, path: str, from_s: float, to_s: float) -> list[Any]:
    """All that the daemon may have held for the present value of a signal.

    What it surely heard replaces what was said before; that a value is not known does not, until
    the last one is too old.
    """
    told = [
        (at_s, said[path])
        for at_s, said in record.readings
        if path in said and said[path] != "UNKNOWN"
    ]
    replaced_s = [
        at_s for at_s, _ in told if at_s < from_s - _lateness(record) and _heard(record, at_s)
    ]
    since_s = max([from_s - FRESH_S - SLACK_S, *replaced_s])
    return [value for at_s, value in told if since_s <= at_s <= to_s + SLACK_S]


def _chosen(record: Record, driver: str) -> list[float]:
    """When a hand, or a key, named this driver."""
    hands = [c.sent_s for c in record.commands if c.kind == "choose" and c.driver == driver]
    refused = [c.sent_s for c in record.commands if c.driver == driver and c.reason]
    keys = [at_s for at_s, kind, who in record.acts if kind == "key" and who == driver]
    if keys:
        # The car goes on saying whose key it is: it may settle when the trip opens, and later.
        keys += [since_s for _, who, since_s in record.assigned if who == driver]
    return [at_s for at_s in hands if at_s not in refused] + keys


def _wishes(record: Record, driver: str, before_s: float) -> list[float]:
    """When this driver's wish may have begun, at the latest, if it did before then.

    Speech is one as long as nothing was asked for the driver, and after `listen`.
    """
    asked = [a.issued_s for a in record.asked if a.driver == driver]
    chosen = _chosen(record, driver)
    listens = [c.sent_s for c in record.commands if c.kind == "listen"]
    found = [at_s + _lateness(record) for at_s in chosen if at_s <= before_s]
    for start, end, who in record.spoken:
        if who != driver or start > before_s:
            continue
        since_s = max([record.began_s, *(at_s for at_s in chosen if at_s <= start)])
        first_s = min((at_s for at_s in asked if at_s >= since_s), default=1e12)
        asked_to = any(at_s - SLACK_S <= end <= at_s + LISTEN_S + 4.0 for at_s in listens)
        if asked_to or start - REACH_S <= first_s:
            found.append(end + HEARD_S)
    return found


def _unknown(record: Record, asked: Asked) -> _Found:
    at_s = asked.issued_s
    earliest_s = record.began_s if record.late_s < LATE_S else record.began_s - BEFORE_S
    begun = [
        start
        for start, _, who in record.spoken
        if who == asked.driver and earliest_s <= start <= at_s + SLACK_S
    ]
    if not begun and not [t for t in _chosen(record, asked.driver) if t <= at_s + SLACK_S]:
        yield "unknown", "for a driver who had not spoken, and whom nobody had chosen"


def _outlived(record: Record, asked: Asked) -> _Found:
    """The wish was too old, the car had moved off, or the daemon had been away for too long."""
    at_s = asked.issued_s
    wishes = _wishes(record, asked.driver, at_s)
    if not wishes:
        return
    last_s = min(max(wishes), at_s)
    if at_s - last_s > WANTED_S + _lateness(record):
        yield "stale", f"{at_s - last_s:.0f} s after the driver was last heard of"
    moved = [
        t
        for t, said in record.readings
        if last_s < t < at_s - _lateness(record) and said.get(SPEED) and _heard(record, t)
    ]
    if moved:
        yield "stale", f"after the car had moved, {at_s - moved[-1]:.1f} s before"
    for from_s, to_s in _unwatched(record):
        if to_s < at_s and _stayed(record, asked.driver, from_s, at_s):
            yield "unasked", f"{to_s - from_s:.1f} s without news of the car had emptied the place"
            break
    for gone in record.gone:
        if gone.sign_s is None or not gone.born_s < at_s:
            continue
        away_s = gone.born_s - _sign_s(record, gone)
        if away_s <= ABSENCE_LIMIT_S + SLACK_S or not _was_settled(record, gone):
            continue
        asked_again = [
            c.sent_s
            for c in record.commands
            if c.kind == "listen" or (c.kind == "choose" and c.driver == asked.driver)
        ]
        if not any(when > gone.killed_s - SLACK_S for when in asked_again):
            yield "unasked", f"{away_s:.1f} s without a daemon had emptied the place"


def _stayed(record: Record, driver: str, from_s: float, at_s: float) -> bool:
    """Whether this driver was assigned then, and nobody asked for anyone, or left, until `at_s`."""
    shown = [who for t, who in record.shown if t < from_s - _lateness(record)][-1:]
    by_hand = ("choose", "listen")
    anew = [c for c in record.commands if c.kind in by_hand and c.sent_s > from_s - REACH_S]
    left = any(from_s - REACH_S < t < at_s and _left(said) for t, said in record.readings)
    return shown == [driver] and not (anew or left)


def _sign_s(record: Record, gone: Gone) -> float:
    """When the dead daemon last knew who drives: by the car, or because somebody was assigned."""
    assigned = [t for told_s, _, t in record.assigned if t <= told_s <= gone.killed_s]
    return max([gone.sign_s or gone.born_s, *assigned])


def _was_settled(record: Record, gone: Gone) -> bool:
    """Whether somebody was known to drive when the daemon was killed."""
    before_s = gone.killed_s - _lateness(record) - SLACK_S
    shown = [driver for at_s, driver in record.shown if at_s < before_s]
    return bool(shown and shown[-1]) and _peace(record, before_s - REACH_S, before_s)


def _stopped(record: Record, asked: Asked) -> _Found:
    """A hand had ended it: on the switch, or on the head unit."""
    at_s = asked.issued_s
    by_hand = [t for t in hands(record) if t < at_s - _lateness(record)]
    if by_hand and SEAT_GROUP in asked.groups:
        yield "touched", f"{at_s - by_hand[0]:.1f} s after it was told of a hand on the switch"
    since = [t for _, who, t in record.assigned if who == asked.driver and t >= record.began_s]
    for cancel in (c for c in record.commands if c.kind == "cancel"):
        ended = cancel.done and cancel.at_s is not None and cancel.at_s + SLACK_S < at_s
        if not ended or not since or min(since) > cancel.sent_s - SLACK_S:
            continue
        again = [c for c in record.commands if c.kind in ("choose", "listen")]
        if not any(c.sent_s > cancel.sent_s - REACH_S for c in again):
            yield "cancelled", "after a cancel"


def hands(record: Record) -> list[float]:
    """When a living daemon surely heard of a hand in this trip, by the car or by the ECU."""
    opened_s = _opened_s(record)
    told = [
        said.at_s
        for said in record.said
        if said.reason == "manual" and _believed_answer(record, said)
    ]
    told += [t for t, said in record.readings if said.get(SWITCH) is True and _heard(record, t)]
    return sorted(at_s for at_s in told if at_s > opened_s)


def _someone_else(record: Record, asked: Asked) -> _Found:
    """Somebody else had been chosen, or nobody, or the driver had been erased."""
    for c in record.commands:
        if not c.done or c.at_s is None or asked.issued_s < c.at_s + SLACK_S:
            continue
        if c.kind == "forget" and c.driver == asked.driver:
            yield "forgotten", "for a driver who had been erased"
        if c.kind == "choose" and c.driver != asked.driver:
            later = [d for d in record.commands if d is not c and d.sent_s > c.sent_s - SLACK_S]
            asked_for = [d for d in later if d.kind == "choose" and d.driver == asked.driver]
            if not asked_for and not any(d.kind == "listen" for d in later):
                chosen = "somebody else" if c.driver else "nobody"
                yield "replaced", f"after {chosen} had been chosen"
    for wish in _asked_to_speak(record, _clear_voices(record)):
        later = [c for c in record.commands if c.sent_s > wish.since_s]
        late = asked.issued_s > wish.from_s + _lateness(record)
        if late and asked.driver != wish.driver and not later:
            yield "replaced", "after somebody else had been listened to"


def _other_values(record: Record, asked: Asked) -> _Found:
    """Something else than what the driver prefers."""
    mine = [p for p in record.preferred if p.driver == asked.driver and p.at_s <= asked.at_s]
    told = [n for n, p in enumerate(mine) if p.sure and p.at_s <= asked.issued_s - SLACK_S]
    right = [values for p in mine[max(told, default=0) :] for values in p.values]
    for path, value in asked.signals.items():
        if right and not any(abs(value - values.get(path, 1e9)) <= 1.0 for values in right):
            yield "values", f"{path} {value:g} is not what the driver prefers"


def _copies(record: Record) -> _Found:
    """A request that had been answered was made again, or two copies were good at once."""
    for n, asked in enumerate(record.asked):
        if asked.issued_s < record.began_s or asked.retained:
            continue
        when = f"{asked.issued_s - record.began_s:.2f} s: "
        for said in record.said:
            passing = said.status == "rejected" and set(said.reason.split(", ")) <= PASSING
            told = said.request == asked.request and said.at_s < asked.issued_s - _lateness(record)
            if told and not passing and _believed_answer(record, said):
                yield "answered", when + f"made again after it was {said.status} {said.reason}"
                break
        for other in record.asked[:n]:
            apart_s = asked.issued_s - other.issued_s
            same = other.request == asked.request and not other.retained
            if same and 0.0 < apart_s < GOOD_S - asked.doubt_s - other.doubt_s:
                yield "doubled", when + f"made again after {apart_s:.1f} s, while it was good"


def _doubled(record: Record) -> _Found:
    """The ECU moved twice for one settling, or for two people of whom one is a passenger."""
    hands = [c for c in record.commands if c.kind in ("choose", "listen")]
    switched = sum(kind == "switch" for _, kind, _ in record.acts)
    times: dict[tuple[str, str], int] = {}
    for began in record.began:
        key = (began.driver, began.group)
        times[key] = times.get(key, 0) + 1
    for (driver, group), count in times.items():
        asked_for = sum(c.kind == "listen" or c.driver == driver for c in hands)
        # A hand on the seat's switch ends a request for the mirrors too: these are asked anew.
        allowed = 1 + asked_for + _returns(record) + (switched if group == MIRRORS else 0)
        if count > allowed:
            yield "doubled", f"{group} moved {count} times with {asked_for} acts by hand"
    asked = [asked for asked in record.asked if asked.issued_s >= record.began_s]
    people = {began.driver for began in record.began} | {each.driver for each in asked}
    if len(people) > 1 and not hands:
        yield "passenger", f"{len(people)} people were served in one trip, and nobody had asked"


def _unstopped(record: Record) -> _Found:
    """What was ended was not withdrawn, with the ECU still at it."""
    ends = [
        (c.at_s, c.driver)
        for c in record.commands
        if c.done and c.at_s is not None and c.kind in ("cancel", "choose")
    ]
    # The driver leaves at the end of every trip.
    ends += [(t + REACH_S, None) for t in _departure(record)]
    for first in _firsts(record):
        for end_s, driver in ends:
            until_s = end_s + _lateness(record)
            made = first.issued_s < end_s - 2 * REACH_S and first.driver != driver
            heard = _peace(record, first.issued_s - REACH_S, until_s)
            if made and heard and until_s < record.ended_s and not _over(record, first, until_s):
                yield "unstopped", f"{end_s - record.began_s:.2f} s: the ECU was not told to stop"
                break
        for gone in record.gone:
            # The next daemon knows that it was away too long before the broker is there.
            back_s = _back_s(record, gone)
            until_s = back_s + 2 * _lateness(record)
            away_s = gone.born_s - _sign_s(record, gone)
            doubted = away_s > ABSENCE_LIMIT_S + SLACK_S and _was_settled(record, gone)
            heard = _peace(record, first.issued_s - REACH_S, gone.killed_s - 2 * REACH_S)
            made = first.issued_s < gone.killed_s - 3 * REACH_S and until_s < record.ended_s
            if doubted and heard and made and not _over(record, first, until_s):
                yield "unstopped", f"{back_s - record.began_s:.2f} s: the ECU was not told to stop"


def _firsts(record: Record) -> Iterator[Asked]:
    """The first copy of each request of this trip."""
    names = set()
    for asked in record.asked:
        if asked.request not in names and asked.issued_s >= record.began_s and not asked.retained:
            yield asked
        names.add(asked.request)


def _over(record: Record, asked: Asked, until_s: float) -> bool:
    """Whether the ECU had answered the request finally by then, or was told to stop it."""
    answers = [s for s in record.said if s.request == asked.request and s.at_s <= until_s]
    final = [
        s
        for s in answers
        if s.status in ("completed", "aborted")
        or (s.status == "rejected" and not set(s.reason.split(", ")) <= PASSING)
    ]
    told = [t for t, name, _ in record.withdrawn if name == asked.request and t <= until_s]
    return bool(final or told)


# --- commands and the topic `driver` --------------------------------------------------------------


def _commands(record: Record) -> _Found:
    for c in record.commands:
        when = f"{c.sent_s - record.began_s:.2f} s: "
        if c.at_s is None:
            until_s = c.sent_s + 2 * _lateness(record)
            if _peace(record, c.sent_s, until_s) and until_s < record.ended_s:
                yield "unanswered", when + f"nothing was said to {c.kind}"
        elif c.done:
            for why in _impossible(record, c, c.at_s):
                yield "misruled", when + f"{c.kind} was done {why}"


def _impossible(record: Record, c: Result, at_s: float) -> Iterator[str]:
    """Why the command could not have been done."""
    enrolled = {p.driver for p in record.preferred}
    erased = {
        d.driver
        for d in record.commands
        if d.kind == "forget" and d.done and d.at_s is not None and d.at_s < c.sent_s
    }
    if c.kind in ("choose", "forget") and c.driver not in (enrolled - erased) | {None}:
        yield "with a driver who is not enrolled"
    closed = [t for t, said in record.readings if _left(said) and t < c.sent_s - REACH_S]
    surely = any(_heard(record, t) for t in closed)
    opened = any(_open(said) for t, said in record.readings if t <= at_s + SLACK_S)
    if c.kind in ("choose", "listen", "save") and surely and not opened:
        yield "while no trip was open"
    if c.kind != "save":
        return
    if _other_voice(record, c):
        yield "after another driver had spoken, and nobody had said who drives"
    moved = any(said.status in ("accepted", "completed") for said in record.said)
    switched = any(said.get(SWITCH) is True for _, said in record.readings)
    if not (moved or switched or any(said.reason == "manual" for said in record.said)):
        yield "with nothing moved"
    earliest_s = c.sent_s - 2 * _lateness(record)
    if any(a < earliest_s and b > at_s for a, b in record.moving) and not any(
        a < at_s and b > earliest_s for a, b in record.ecu_deaf
    ):
        yield "while something moved"
    if any(a < c.sent_s - FRESH_S - REACH_S and b > at_s for a, b in record.ecu_deaf):
        yield "without a position"
    shown = [who for t, who in record.shown if t < earliest_s][-1:]
    shown += [who for t, who in record.shown if earliest_s <= t <= at_s + REACH_S]
    if shown == [None] and _peace(record, earliest_s - 2.0, at_s + REACH_S):
        yield "with nobody assigned"


def _other_voice(record: Record, c: Result) -> bool:
    """Whether another driver's voice was surely known since the one who is shown was assigned."""
    shown = [(t, who) for t, who in record.shown if t < c.sent_s]
    if not shown or shown[-1][1] is None or any(d.kind == "forget" for d in record.commands):
        return False
    since_s, driver = shown[-1]
    asked = [d.sent_s for d in record.commands if d.kind in ("choose", "listen")]
    since_s = max([since_s, *(t + LISTEN_S for t in asked if t < c.sent_s)])
    return any(
        who != driver
        and start > since_s + REACH_S
        and end - start >= SPEECH_S
        and end + HEARD_S < c.sent_s
        and _peace(record, start - FRESH_S - REACH_S, c.sent_s)
        for start, end, who in _clear_voices(record)
    )


def _topic(record: Record) -> _Found:
    """The topic `driver` still names somebody who was erased, or has left."""
    ends = [(c.at_s, c.driver) for c in record.commands if c.kind == "forget" and c.done]
    ends += [(t, None) for t in _departure(record)]
    for end_s, driver in ends:
        if end_s is None:
            continue
        until_s = end_s + REACH_S + _lateness(record)
        if until_s > record.ended_s or not _peace(record, end_s - REACH_S, until_s):
            continue
        shown = [who for t, who in record.shown if t <= until_s][-1:]
        if shown and shown[0] is not None and driver in (None, shown[0]):
            yield "forgotten" if driver else "lingered", "the topic driver still names somebody"


# --- delivery -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Wish:
    """From when on this driver is to be served; it may have begun before, at `since_s`."""

    from_s: float
    driver: str
    since_s: float


def assigned(record: Record) -> int:
    """How many were said to drive in this trip; each has wishes for two groups."""
    return len({who for _, who, since_s in record.assigned if since_s >= record.began_s})


def owed(record: Record) -> dict[tuple[str, str], tuple[float, float]]:
    """What had to be delivered, driver and group: when it was wished for, and by when.

    Somebody was assigned, and all was well for long enough.
    """
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for wish in _assignments(record) if record.late_s < LATE_S else ():
        for group in (SEAT_GROUP, MIRRORS):
            due_s = _due_s(record, wish, group)
            if due_s is not None:
                found.setdefault((wish.driver, group), (wish.from_s, due_s))
    return found


def _due_s(record: Record, wish: _Wish, group: str) -> float | None:
    """By when the group must move; None if something may have kept it from it all the time."""
    until_s = _wanted_until(record, wish, group)
    both = [a.issued_s for a in record.asked if len(a.groups) > 1 and a.driver == wish.driver]
    alone = []
    for a, b in _calm(record, wish.from_s, until_s, group):
        needed_s = (AT_ONCE_S if a == wish.from_s else ENOUGH_S) + 4 * record.late_s
        alone += [a + needed_s] if b - a > needed_s else []
    for due_s in alone:
        # A request for both waits until both may move.
        if group == SEAT_GROUP or min(both, default=1e12) > due_s:
            return due_s
    if group == MIRRORS and both:
        return _due_s(record, wish, SEAT_GROUP)
    return None


def _undelivered(record: Record) -> _Found:
    for (driver, group), (from_s, until_s) in owed(record).items():
        if not _served(record, driver, group, until_s):
            yield "undelivered", f"{group} never moved, assigned at {from_s - record.began_s:.1f} s"


def _served(record: Record, driver: str, group: str, before_s: float) -> bool:
    unmoved = bool(set(record.misbehaviour) & {"lying", "deaf", "rejects", "locked"})
    # Nobody told the daemon of a hand, and so the ECU refuses a request for both.
    unreported = any(kind == "switch" for _, kind, _ in record.acts) and not hands(record)
    if unmoved or unreported:
        return any(
            a.driver == driver and group in a.groups and a.at_s <= before_s for a in record.asked
        )
    return any(b.driver == driver and b.group == group and b.at_s <= before_s for b in record.began)


def _clear_voices(record: Record) -> list[tuple[float, float, str | None]]:
    """What the enrolled said in this trip, unless the sound was choked."""
    clear = record.late_s < LATE_S
    return sorted(u for u in record.spoken if clear and u[2] and u[1] > record.began_s)


def _assignments(record: Record) -> Iterator[_Wish]:
    """Whom the daemon said to drive, and who should, by what was done and said in peace."""
    for t, who in record.shown:
        # Said again after a step of the calendar, the same settling has another time.
        told = (since for at_s, name, since in record.assigned if name == who and at_s == t)
        since_s = next(told, None)
        # A time of a calendar that nobody has any more is taken for the present, and owes nothing.
        stepped = since_s == t and any(kind == "step" for _, _, kind in record.faults)
        if who is not None and since_s is not None and since_s >= record.began_s and not stepped:
            yield _Wish(t, who, since_s)
    for c in record.commands:
        if c.kind == "choose" and c.driver and c.done and c.at_s is not None:
            yield _Wish(c.at_s, c.driver, c.sent_s)
    opened_s = min((t for t, said in record.readings if _open(said)), default=1e12) + REACH_S
    hands = [c.sent_s for c in record.commands if c.kind in ("choose", "listen", "forget")]
    voices = _clear_voices(record)
    first = next((u for u in voices if u[1] > opened_s), None)
    keyed = [(t, who) for t, kind, who in record.acts if kind == "key" and who]
    if keyed and _peace(record, keyed[0][0], opened_s + REACH_S):
        at_s = max(opened_s, keyed[0][0] + REACH_S)
        if (first is None or first[0] > at_s) and not any(t < at_s + REACH_S for t in hands):
            yield _Wish(at_s, keyed[0][1], at_s)
    elif first is not None and not keyed and _sure_speech(record, first, opened_s, hands):
        yield _Wish(first[1] + HEARD_S, str(first[2]), first[0])
    yield from _asked_to_speak(record, voices)
    yield from _anew(record, voices)


def _sure_speech(
    record: Record, said: tuple[float, float, str | None], opened_s: float, hands: list[float]
) -> bool:
    """Whether this voice, the trip's first, surely settles: the trip is open, and it is heard."""
    start, end, _ = said
    long_enough = start > opened_s + FRESH_S and end - start >= SPEECH_S
    peace = _peace(record, start - FRESH_S - REACH_S, end + HEARD_S)
    nobody = [who for t, who in record.shown if t < start][-1:] in ([], [None])
    return long_enough and peace and nobody and not any(t < end + HEARD_S for t in hands)


def _asked_to_speak(
    record: Record, voices: list[tuple[float, float, str | None]]
) -> Iterator[_Wish]:
    """The first known voice after `listen`."""
    for c in record.commands:
        if c.kind != "listen" or not c.done or c.at_s is None:
            continue
        after = next((u for u in voices if u[1] > c.sent_s), None)
        if after is None or after[0] < c.at_s or after[1] - after[0] < SPEECH_S:
            continue
        in_time = after[1] + HEARD_S < c.sent_s + LISTEN_S
        others = any(d is not c and abs(d.sent_s - c.sent_s) < LISTEN_S for d in record.commands)
        erased = any(d.kind == "forget" for d in record.commands)
        if in_time and not others and not erased and _peace(record, c.sent_s, after[1] + HEARD_S):
            yield _Wish(after[1] + HEARD_S, str(after[2]), after[0])


def _anew(record: Record, voices: list[tuple[float, float, str | None]]) -> Iterator[_Wish]:
    """The assigned driver speaks again, and nothing was asked for yet."""
    for start, end, who in voices:
        shown = [driver for t, driver in record.shown if t < start - REACH_S][-1:]
        ended = any(c.kind == "cancel" and c.sent_s < end + HEARD_S for c in record.commands)
        if shown != [who] or ended or end - start < SPEECH_S or _perhaps_asked(record, who, start):
            continue
        # All of it must be free to move at that moment.
        calm = [list(_calm(record, start, end + HEARD_S, g)) for g in (SEAT_GROUP, MIRRORS)]
        if all(spans == [(start, end + HEARD_S)] for spans in calm):
            yield _Wish(end + HEARD_S, str(who), start)


def _perhaps_asked(record: Record, driver: str | None, before_s: float) -> bool:
    """Whether something was asked for, or may have been and was lost on its way."""
    if any(a.driver == driver and a.issued_s < before_s for a in record.asked):
        return True
    since = [since_s for _, who, since_s in record.assigned if who == driver] or [record.began_s]
    needs = _NEEDS[MIRRORS].values()
    return any(
        min(since) - 2 * REACH_S < t < min(max(since) + WANTED_S + REACH_S, before_s)
        and all(any(said.get(path) == value for path, value in any_of) for any_of in needs)
        for t, said in record.readings
    )


def _wanted_until(record: Record, wish: _Wish, group: str) -> float:
    """How long this wish surely lasts: what may end it ends it here."""
    ends = [wish.since_s + WANTED_S - REACH_S, record.ended_s - 4.0]
    before_s = wish.since_s - 2 * REACH_S
    ends += [c.sent_s for c in record.commands if c.sent_s > before_s and not _same(c, wish)]
    ends += [t for t, said in record.readings if t > before_s and said.get(SPEED)]
    # Assigned in a car of which the last that was heard is that it moves, nobody is served.
    told = [(t, said[SPEED]) for t, said in record.readings if SPEED in said and t <= before_s]
    sure = max((t for t, _ in told if _heard(record, t)), default=record.began_s)
    ends += [wish.since_s for t, speed in told if t >= sure and speed]
    others = {b.driver for b in record.began} | {who for _, who, _ in record.assigned}
    if others - {wish.driver}:
        ends += [t for t, who in record.shown if t > wish.from_s and who != wish.driver]
    if group == SEAT_GROUP:
        # What a hand has moved is left alone for the trip, by the ECU too.
        ends += [t for t, kind, _ in record.acts if kind == "switch"]
        ends += [t for t, said in record.readings if said.get(SWITCH) is True]
    # The ECU does not say which group of a request a hand has moved.
    by_hand = {s.request: s.at_s for s in record.said if s.reason == "manual"}
    ends += [by_hand[a.request] for a in record.asked if a.request in by_hand and group in a.groups]
    for gone in record.gone:
        away_s = _back_s(record, gone) - (gone.sign_s or 0.0)
        if gone.born_s > before_s and away_s > ABSENCE_LIMIT_S:
            ends.append(gone.killed_s)
    ends += [from_s for from_s, to_s in _perhaps_unwatched(record) if to_s > before_s]
    return min(ends)


def _same(c: Result, wish: _Wish) -> bool:
    """Whether the command is the wish, or makes none of it void."""
    if (c.reason and c.at_s is not None) or (c.kind == "listen" and c.sent_s < wish.since_s):
        return True
    return c.kind == "choose" and c.driver == wish.driver


def _calm(record: Record, from_s: float, until_s: float, group: str) -> Iterator[Span]:
    """Spans in which everything was there that the group's delivery needs."""
    bad = [(a - REACH_S, b + REACH_S) for a, b in (*record.deaf, *record.ecu_deaf)]
    for a, b, kind in record.faults:
        if kind in ("delay", "disk", "step"):
            bad.append((a - REACH_S, b + DELAYED_S))
    told_s = record.began_s
    for at_s, said in record.readings:
        if at_s - told_s > FRESH_S:
            bad.append((told_s, at_s))
        told_s = at_s
        holds = all(
            any(said.get(path, "?") == value for path, value in any_of)
            for any_of in _NEEDS[group].values()
        )
        if not holds:
            bad.append((at_s - REACH_S, at_s + REACH_S))
    bad.append((told_s, 1e12))
    for start, end in sorted(bad):
        if start > from_s and from_s < until_s:
            yield from_s, min(start, until_s)
        from_s = max(from_s, end)
