"""One rule broken at a time, in the daemon's process: the campaign must notice each.

A mutant that the campaign does not notice is either a rule that nothing needs, or a fault that the
campaign does not make.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Mutant:
    """What is broken, and how."""

    rule: str
    apply: Callable[[], None]


def _without(condition: str) -> Callable[[], None]:
    def apply() -> None:
        rules = _get("interlock", "RULES").items()
        left = {group: tuple(c for c in rule if c.name != condition) for group, rule in rules}
        _set("interlock", "RULES", left)()

    return apply


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


def _any_voice() -> None:
    honest, outcome = _get("recognizer", "judge"), _get("domain", "Outcome")

    def gullible(evidence: Any, *args: Any, **options: Any) -> Any:
        verdict = honest(evidence, *args, **options)
        if verdict is None or not evidence.matches:
            return verdict
        return replace(verdict, outcome=outcome.KNOWN, driver=evidence.matches[0].driver)

    _set("recognizer", "judge", gullible)()


def _settles_again() -> None:
    trip = importlib.import_module("whodrives.trip")
    when = (trip.State.SETTLED,), trip.Trigger.VOICE, None
    row = trip.Row(*when, trip.State.SETTLED, trip.Deed.SETTLE, "replaced")
    _set("trip", "TABLE", (row, *trip.TABLE))()


def _new_ids(honest: Any) -> Any:
    def sent(self: Any, request: Any, now_s: float) -> Any:
        if request.asked_at_s < now_s:  # it is repeated
            left = tuple(r for r in self._held.requests if r is not request)
            self._held = replace(self._held, requests=left)
            self._serial += 1
            name = _get("outbox", "request_id")(self._session, self._serial + 10_000)
            request = replace(request, request=name)
        return honest(self, request, now_s)

    return sent


def _retained() -> None:
    honest = _get("bus", "encode")

    def encode(*args: Any) -> Any:
        message = honest(*args)
        forever = message is not None and message.topic.endswith("preferences/apply")
        return replace(message, retain=True, expiry_s=None) if forever else message

    _set("bus", "encode", encode)()


def _forgets(_honest: Any) -> Any:
    return lambda _self, _memory: None


def _over(_honest: Any) -> Any:
    return lambda *_args, **_options: ()


MUTANTS = {
    "standing": Mutant("interlock: the car stands", _without("standing")),
    "park_or_brake": Mutant("interlock: Park or parking brake", _without("park_or_brake")),
    "door_closed": Mutant("interlock: the driver's door is closed", _without("door_closed")),
    "seat_occupied": Mutant("interlock: the seat is occupied", _without("seat_occupied")),
    "freshness": Mutant(
        "interlock: a reading is at most 2 s old", _set("interlock", "MAX_AGE_S", 1e9)
    ),
    "known_only": Mutant("only a known voice settles", _any_voice),
    "settle_once": Mutant("the driver of a trip is settled once", _settles_again),
    "same_id": Mutant(
        "a request is repeated under its own id", _method("outbox", "Outbox", "_sent", _new_ids)
    ),
    "repeat": Mutant(
        "an unanswered request is repeated",
        _method("outbox", "Outbox", "_repeats", lambda _: lambda *_args: False),
    ),
    "wanted_s": Mutant("preferences wait a minute at most", _set("outbox", "WANTED_S", 1e9)),
    "moved_off": Mutant(
        "nothing is asked for once the car has moved",
        _method("outbox", "Outbox", "drop", lambda _: lambda _self: None),
    ),
    "touched": Mutant(
        "what a hand has moved is left alone", _method("outbox", "Outbox", "touch", _over)
    ),
    "cancel": Mutant("a cancel ends what waits", _method("outbox", "Outbox", "cancel", _over)),
    "retained": Mutant("a request is never retained", _retained),
    "expiry": Mutant("a request expires after 3 s", _set("contract", "APPLY_EXPIRY_S", 120)),
    "journal": Mutant(
        "a trip outlives its daemon", _method("journal", "Journal", "keep", _forgets)
    ),
    "gone": Mutant(
        "a daemon that was away too long takes nobody's place", _set("trip", "GONE_S", 1e9)
    ),
    "lag": Mutant("a request that is late is not sent", _set("bus", "MAX_LAG_S", 1e9)),
    "guest": Mutant(
        "by hand, nobody drives",
        _method("trip", "Trip", "_listening", lambda _: lambda _self: True),
    ),
}
