"""One rule broken at a time, in the daemon's process: the campaign must notice each.

A mutant that the campaign does not notice is either a rule that nothing needs, or a fault that the
campaign does not make.
"""

from __future__ import annotations

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
        from whodrives import interlock  # noqa: PLC0415 - the daemon's modules, after the clock

        interlock.RULES = {  # type: ignore[misc]
            group: tuple(c for c in rule if c.name != condition)
            for group, rule in interlock.RULES.items()
        }

    return apply


def _set(module: str, name: str, value: Any) -> Callable[[], None]:
    def apply() -> None:
        import importlib  # noqa: PLC0415

        setattr(importlib.import_module(f"whodrives.{module}"), name, value)

    return apply


def _method(module: str, kind: str, name: str, change: Callable[[Any], Any]) -> Callable[[], None]:
    def apply() -> None:
        import importlib  # noqa: PLC0415

        owner = getattr(importlib.import_module(f"whodrives.{module}"), kind)
        setattr(owner, name, change(getattr(owner, name)))

    return apply


def _any_voice() -> None:
    from whodrives import recognizer  # noqa: PLC0415
    from whodrives.domain import Outcome  # noqa: PLC0415

    honest = recognizer.judge

    def gullible(evidence: Any, *args: Any, **options: Any) -> Any:
        verdict = honest(evidence, *args, **options)
        if verdict is None or not evidence.matches:
            return verdict
        return replace(verdict, outcome=Outcome.KNOWN, driver=evidence.matches[0].driver)

    recognizer.judge = gullible  # type: ignore[attr-defined]


def _settles_again() -> None:
    from whodrives import trip  # noqa: PLC0415

    voice = (trip.State.SETTLED,), trip.Trigger.VOICE
    row = trip.Row(*voice, None, trip.State.SETTLED, trip.Deed.SETTLE, "replaced")
    trip.TABLE = (row, *trip.TABLE)


def _new_ids(honest: Any) -> Any:
    def sent(self: Any, request: Any, now_s: float) -> Any:
        if request.asked_at_s < now_s:  # it is repeated
            self._serial += 1
            from whodrives.outbox import request_id  # noqa: PLC0415

            self._held = replace(
                self._held, requests=tuple(r for r in self._held.requests if r is not request)
            )
            request = replace(request, request=request_id(self._session, self._serial + 10_000))
        return honest(self, request, now_s)

    return sent


def _retained() -> None:
    from whodrives import bus  # noqa: PLC0415

    honest = bus.encode

    def encode(*args: Any) -> Any:
        message = honest(*args)
        forever = message is not None and message.topic.endswith("preferences/apply")
        return replace(message, retain=True, expiry_s=None) if forever else message

    bus.encode = encode  # type: ignore[attr-defined]


def _forgetful() -> None:
    from whodrives import journal  # noqa: PLC0415

    journal.Journal.keep = lambda _self, _memory: None  # type: ignore[method-assign]


def _over(_honest: Any) -> Any:
    return lambda *_args, **_options: ()


MUTANTS = {
    "standing": Mutant("interlock: the car stands", _without("standing")),
    "park_or_brake": Mutant("interlock: Park or parking brake", _without("park_or_brake")),
    "door_closed": Mutant("interlock: the driver's door is closed", _without("door_closed")),
    "seat_occupied": Mutant("interlock: the seat is occupied", _without("seat_occupied")),
    "freshness": Mutant("interlock: a reading is at most 2 s old", _set("interlock", "MAX_AGE_S", 1e9)),
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
        "nothing is asked for once the car has moved", _method("outbox", "Outbox", "drop", lambda _: lambda _self: None)
    ),
    "touched": Mutant(
        "what a hand has moved is left alone", _method("outbox", "Outbox", "touch", _over)
    ),
    "cancel": Mutant("a cancel ends what waits", _method("outbox", "Outbox", "cancel", _over)),
    "retained": Mutant("a request is never retained", _retained),
    "expiry": Mutant("a request expires after 3 s", _set("contract", "APPLY_EXPIRY_S", 120)),
    "journal": Mutant("a trip outlives its daemon", _forgetful),
    "gone": Mutant("a daemon that was away too long takes nobody's place", _set("trip", "GONE_S", 1e9)),
    "lag": Mutant("a request that is late is not sent", _set("bus", "MAX_LAG_S", 1e9)),
    "guest": Mutant(
        "by hand, nobody drives",
        _method("trip", "Trip", "_listening", lambda _: lambda _self: True),
    ),
}
