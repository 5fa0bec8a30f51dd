"""One rule broken at a time, in the daemon's process: the campaign must notice each.

A mutant that the campaign does not notice is either a rule that nothing needs, or a fault that the
campaign does not make. `UNREACHED` names the rules for which that is so, and why; a test holds
mutants, `UNREACHED`, and the rules themselves together.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Mutant:
    """What is broken, and how."""

    rule: str
    apply: Callable[[], None]


def _get(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"whodrives.{module}"), name)


def _set(module: str, name: str, value: Any) -> Callable[[], None]:
    def apply() -> None:
        setattr(importlib.import_module(f"whodrives.{module}"), name, value)

    return apply


def _method(module: str, kind: str, name: str, change: Callable[[Any], Any]) -> Callable[[], None]:
    def apply() -> None:
        owner = _get(module, kind)
        setattr(owner, name, change(getattr(owner, name)))

    return apply


def _outbox(name: str, change: Callable[[Any], Any]) -> Callable[[], None]:
    return _method("trip.requests", "Outbox", name, change)


def _always(value: Any) -> Callable[[Any], Any]:
    return lambda _honest: lambda *_args, **_options: value


# --- the interlock --------------------------------------------------------------------------------


def _without(group: str, condition: str) -> Callable[[], None]:
    def apply() -> None:
        rules = dict(_get("trip.interlock", "RULES"))
        key = _get("vehicle.vss", "Group")(group)
        rules[key] = tuple(c for c in rules[key] if c.name != condition)
        _set("trip.interlock", "RULES", rules)()

    return apply


def _door_for_mirrors() -> None:
    rules, group = dict(_get("trip.interlock", "RULES")), _get("vehicle.vss", "Group")
    rules[group.MIRRORS] = rules[group.SEAT]
    _set("trip.interlock", "RULES", rules)()


def _interlock() -> Mapping[str, Mutant]:
    conditions = {
        f"{group}-{condition.name}": Mutant(
            f"interlock: {group} only with `{condition.name}`", _without(group, condition.name)
        )
        for group, rule in _get("trip.interlock", "RULES").items()
        for condition in rule
    }
    return {
        **conditions,
        "mirrors-door": Mutant("interlock: mirrors also with the door open", _door_for_mirrors),
        "freshness": Mutant(
            "interlock: a reading is at most 2 s old", _set("trip.interlock", "MAX_AGE_S", 1e9)
        ),
    }


# --- the trip's table -----------------------------------------------------------------------------


def row_name(row: Any) -> str:
    """A row's name here: its states, trigger and guard."""
    states = {4: "any", 3: "trip"}.get(len(row.states), "+".join(row.states))
    if "closed" in row.states and states == "trip":
        states = "+".join(row.states)
    return "-".join([states, row.trigger.name, *([row.guard.name] if row.guard else [])]).lower()


def _instead(row: Any, changed: Any) -> Callable[[], None]:
    def apply() -> None:
        table = _get("trip.trip", "TABLE")
        _set("trip.trip", "TABLE", tuple(changed if each == row else each for each in table))()

    return apply


def _before(row: Any) -> Callable[[], None]:
    def apply() -> None:
        _set("trip.trip", "TABLE", (row, *_get("trip.trip", "TABLE")))()

    return apply


def _rows() -> Mapping[str, Mutant]:
    """Each row without its effect; one that has none gets that of the row it is an exception to."""
    trip = importlib.import_module("whodrives.trip.trip")
    state, action = trip.State, trip.Action
    effects: Mapping[str, tuple[Any, Any, str]] = {
        "trip-ready": (state.OPEN, action.START, ""),
        "any-left": (state.CLOSED, action.END, "trip_over"),
        "assigned-voice-same_driver": (state.ASSIGNED, action.ASSIGN, "replaced"),
        "closed+assigned+unassigned-voice": (state.ASSIGNED, action.ASSIGN, "replaced"),
        "closed+assigned+unassigned-key": (state.ASSIGNED, action.ASSIGN, "replaced"),
        "closed+open+unassigned-no_reports": (state.UNASSIGNED, action.UNASSIGN, "restarted"),
    }
    found = {}
    for row in trip.TABLE:
        name = row_name(row)
        if name in UNREACHED:
            continue
        to, what, reason = effects.get(name, (None, action.NOTHING, ""))
        changed = replace(row, to=to, action=what, reason=reason)
        found[name] = Mutant(_said(row), _instead(row, changed))
    unasked = trip.Row((state.UNASSIGNED,), trip.Trigger.VOICE, None, state.ASSIGNED, action.ASSIGN)
    anew = next(row for row in trip.TABLE if row.guard is trip.Guard.SAME_DRIVER_AGAIN)
    enrolled = next(row for row in trip.TABLE if row.guard is trip.Guard.ENROLLED)
    return {
        **found,
        "unassigned-voice": Mutant(
            "unassigned: a voice is assigned only after listen", _before(unasked)
        ),
        "anew": Mutant(
            "the assigned driver's voice: only if nothing was asked for",
            _instead(anew, replace(anew, guard=trip.Guard.SAME_DRIVER)),
        ),
        "enrolled": Mutant(
            "a driver chosen by hand: only who is enrolled",
            _instead(enrolled, replace(enrolled, guard=None)),
        ),
        "listening": Mutant(
            "another voice counts only when the head unit listens",
            _method("trip.trip", "Trip", "_listening", _always(value=True)),
        ),
        "listen_once": Mutant("listen counts for one known voice", _listen_on),
    }


def _said(row: Any) -> str:
    """A row in words: those of docs/trip.md."""
    states = ", ".join(row.states)
    guard = f" ({row.guard})" if row.guard else ""
    then = "nothing" if row.action == "-" else row.action
    return f"{states}: {row.trigger}{guard}: {row.to or 'stays'}; {then}"


def _listen_on() -> None:
    def change(honest: Any) -> Any:
        def heard(self: Any, verdict: Any, at_s: float) -> Any:
            before_s = self._snapshot.listen_until_s
            events = honest(self, verdict, at_s)
            self._snapshot = replace(self._snapshot, listen_until_s=before_s)
            return events

        return heard

    _method("trip.trip", "Trip", "heard", change)()


# --- the outbox -----------------------------------------------------------------------------------


def _new_ids(honest: Any) -> Any:
    def sent(self: Any, request: Any, now_s: float) -> Any:
        if request.asked_at_s < now_s:  # it is repeated
            left = tuple(r for r in self._snapshot.requests if r is not request)
            self._snapshot = replace(self._snapshot, requests=left)
            self._serial += 1
            name = _get("trip.requests", "request_id")(self._session, self._serial + 10_000)
            request = replace(request, request=name)
        return honest(self, request, now_s)

    return sent


def _old_ids(honest: Any) -> Any:
    def deliver(self: Any, *args: Any) -> Any:
        self._serial = 0
        return honest(self, *args)

    return deliver


def _one_session() -> None:
    honest = _get("trip.trip", "_outbox")
    _set("trip.trip", "_outbox", lambda _session, memory=None: honest("", memory))()


def _blindly(honest: Any) -> Any:
    return lambda self, request, now_s, _may_move: honest(self, request, now_s, lambda _: True)


def _deaf_to_accepted(honest: Any) -> Any:
    def answered(self: Any, answer: Any, now_s: float) -> Any:
        return () if answer.status == "accepted" else honest(self, answer, now_s)

    return answered


def _undone(honest: Any) -> Any:
    """What was accepted is taken for unanswered when a copy of it is rejected."""

    def answered(self: Any, answer: Any, now_s: float) -> Any:
        delivery = _get("trip.types", "Delivery")
        for request in self._snapshot.requests:
            same = request.request == answer.request and answer.status == "rejected"
            if same and request.delivery is delivery.ACCEPTED:
                self._put(replace(request, delivery=delivery.REQUESTED))
        return honest(self, answer, now_s)

    return answered


def _ends_nothing(honest: Any) -> Any:
    def settle(self: Any, *args: Any) -> Any:
        self._end = lambda *_args: ()
        try:
            return honest(self, *args)
        finally:
            del self._end

    return settle


def _untold(honest: Any) -> Any:
    kind = _get("trip.types", "CancelRequest")
    return lambda self: [event for event in honest(self) if not isinstance(event, kind)]


def _untold_offline(honest: Any) -> Any:
    def told(self: Any) -> Any:
        said = honest(self)
        self._unsent_cancels = []
        return said

    return told


_OUTBOX = {
    "wanted_s": Mutant("preferences wait a minute at most", _set("trip.requests", "WANTED_S", 1e9)),
    "moved_off": Mutant(
        "nothing is asked for once the car has moved", _outbox("drop", _always(value=None))
    ),
    "touched": Mutant(
        "what a hand has moved is left alone", _outbox("override", _always(value=()))
    ),
    "new_id": Mutant("a new wish has an id of its own", _outbox("deliver", _old_ids)),
    "session": Mutant("no two daemons use one id", _one_session),
    "same_id": Mutant("a request is repeated under its own id", _outbox("_sent", _new_ids)),
    "repeat": Mutant(
        "an unanswered request is repeated", _outbox("_repeats", _always(value=False))
    ),
    "pace": Mutant("no two copies are good at once", _set("trip.requests", "REPEAT_S", 0.5)),
    "asks_again": Mutant(
        "the interlock is asked again when a request is repeated", _outbox("_repeats", _blindly)
    ),
    "accepted": Mutant(
        "what was accepted is not asked again", _outbox("answered", _deaf_to_accepted)
    ),
    "refused": Mutant("another refusal is final", _outbox("_passes", _always(value=True))),
    "passing": Mutant(
        "what was refused for a reason that passes is asked again",
        _outbox("_passes", _always(value=False)),
    ),
    "final": Mutant("a final answer never changes", _outbox("_is_live", _always(value=True))),
    "copy": Mutant("a refused copy undoes nothing", _outbox("answered", _undone)),
    "cancel": Mutant("a cancel ends what waits", _outbox("cancel", _always(value=()))),
    "replaced": Mutant("another driver ends what was asked", _outbox("assign", _ends_nothing)),
    "changed": Mutant(
        "changed preferences end what was asked", _outbox("reconcile", _always(value=()))
    ),
    "withdrawn": Mutant(
        "what is ended is withdrawn", _method("trip.trip", "Trip", "_told", _untold)
    ),
    "withdrawn_late": Mutant(
        "a withdrawal waits for the broker", _method("trip.trip", "Trip", "_told", _untold_offline)
    ),
}


# --- around them ----------------------------------------------------------------------------------


def _any_voice() -> None:
    honest, outcome = _get("core.engine", "judge"), _get("voice.types", "Outcome")

    def gullible(evidence: Any, *args: Any, **options: Any) -> Any:
        verdict = honest(evidence, *args, **options)
        if verdict is None or not evidence.matches:
            return verdict
        return replace(verdict, outcome=outcome.KNOWN, driver=evidence.matches[0].driver)

    _set("core.engine", "judge", gullible)()


def _retained() -> None:
    honest = _get("mqtt.bus", "encode")

    def encode(*args: Any) -> Any:
        message = honest(*args)
        forever = message is not None and message.topic.endswith("preferences/apply")
        return replace(message, retain=True, expiry_s=None) if forever else message

    _set("mqtt.bus", "encode", encode)()


def _queue() -> None:
    """The trip takes the broker for there, and the bus keeps what it cannot say."""
    trip, bus, apply = (
        _get("trip.trip", "Trip"),
        _get("mqtt.bus", "Bus"),
        _get("trip.types", "Apply"),
    )
    deliver, arrived, publish = trip._deliver, bus._arrived, bus.publish  # noqa: SLF001

    def always(self: Any) -> None:
        linked, self._linked = self._linked, True
        deliver(self)
        self._linked = linked

    def kept(self: Any, event: Any) -> bool:
        said: bool = publish(self, event)
        if isinstance(event, apply) and not said:
            self.__dict__.setdefault("unsaid", []).append(event)
        return said

    def flush(self: Any, now_s: float) -> None:
        arrived(self, now_s)
        for event in self.__dict__.pop("unsaid", []):
            message = _get("mqtt.bus", "encode")(
                event, self._vehicle, _get("mqtt.bus", "_epoch_s")()
            )
            self._send(message)

    trip._deliver, bus._arrived, bus.publish = always, flush, kept  # noqa: SLF001


def _newest_switch(_honest: Any) -> Any:
    """Of all switches the newest reading, and at one time a release, as it was."""

    def switched(self: Any) -> Any:
        known = [r for p in _get("vehicle.vss", "SEAT_SWITCHES") if (r := self._get(p))]
        return max(known, key=lambda r: (r.at_s, not r.value), default=None)

    return switched


def _doubts_the_dead_only() -> None:
    def change(_honest: Any) -> Any:
        def pass_time(self: Any, at_s: float) -> None:
            self._now_s = max(self._now_s, at_s)

        return pass_time

    honest = _get("trip.trip", "Trip")._pass_time  # noqa: SLF001

    def begin(honest_begin: Any) -> Any:
        def begun(self: Any, news: Any) -> None:
            honest_begin(self, news)
            honest(self, news.at_s)

        return begun

    _method("trip.trip", "Trip", "_pass_time", change)()
    _method("trip.trip", "Trip", "_begin", begin)()


def _stands_still() -> None:
    time = importlib.import_module("time")
    setattr(time, "clock_gettime", lambda _clock: time.monotonic())  # noqa: B010


def _forgets_other_voices() -> None:
    def change(honest: Any) -> Any:
        def heard(self: Any, verdict: Any, at_s: float) -> Any:
            events = honest(self, verdict, at_s)
            self._snapshot = replace(self._snapshot, other_voice=False)
            return events

        return heard

    _method("trip.trip", "Trip", "heard", change)()


_AROUND = {
    "known_only": Mutant("only a known voice settles", _any_voice),
    "retained": Mutant("a request is never retained", _retained),
    "expiry": Mutant("a request expires after 3 s", _set("mqtt.encode", "APPLY_EXPIRY_S", 120)),
    "lag": Mutant("a request that is late is not sent", _set("mqtt.bus", "MAX_LAG_S", 1e9)),
    "link": Mutant("no queue holds a request", _queue),
    "journal": Mutant(
        "a trip outlives its daemon",
        _method("store.journal", "Journal", "keep", _always(value=None)),
    ),
    "gone": Mutant(
        "a daemon that was away too long takes nobody's place",
        _set("trip.trip", "ABSENCE_LIMIT_S", 1e9),
    ),
    "press": Mutant(
        "a press of a switch is not lost to the release of another",
        _method("mqtt.decode", "Decoder", "_switched", _newest_switch),
    ),
    "silence": Mutant(
        "without a report of the car for 10 s nobody is assigned", _doubts_the_dead_only
    ),
    "asleep": Mutant("time asleep is time away", _stands_still),
    "other_voice": Mutant(
        "another voice is remembered until a person says who drives", _forgets_other_voices
    ),
    "claim": Mutant(
        "one car has one daemon",
        _method("service.claim", "Claim", "take", _always(value=None)),
    ),
}

UNREACHED = {
    "closed+open+unassigned-forgotten": "only the assigned driver is ever said to be forgotten",
    "closed-switch": "a switch is looked at in a trip only",
}
"""Rows of the table that no input reaches: they make it total."""

MUTANTS: Mapping[str, Mutant] = {**_interlock(), **_rows(), **_OUTBOX, **_AROUND}


def table(mutants: Mapping[str, Any]) -> str:
    """The Markdown of a result of `--mutants`."""
    lines = ["| broken | rule | noticed by | in trips |", "|---|---|---|---|"]
    for name in MUTANTS:
        if name not in mutants:
            lines.append(f"| `{name}` | {MUTANTS[name].rule} | not run | |")
            continue
        found = mutants[name]
        kinds = sorted(found["violations"], key=found["violations"].get, reverse=True)
        by = ", ".join(f"`{kind}` {found['violations'][kind]}" for kind in kinds) or "**nothing**"
        lines.append(f"| `{name}` | {MUTANTS[name].rule} | {by} | {found['trips']} |")
    return "\n".join(lines) + "\n"
