"""Monitors the car's reports and says what is wrong with them, for `status`.

Owns the reasons: a wrong clock, reports that stopped or never came, and facts that the trip or the
interlock need but no report has. Must not know topics or a broker, and decides nothing about a trip
or a movement. A parked car may be silent: after ignition off no reports are expected until it is
on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from whodrives.trip.interlock import MAX_AGE_S, fresh
from whodrives.trip.types import LinkState, Timed
from whodrives.vehicle.state import Misdated, Reading, VehicleReport, VehicleState

SILENCE_S = 30.0
"""A fact unknown for this long is reported as missing; a restarting gateway is back earlier."""


STOPPED_S = 10.0
"""Reports, due every second, have stopped after this long without one."""


WRONG_CLOCK_S = 3.0
"""Wrong timestamps for this long mean a wrong clock and not a queue."""


CLOCK_FIX = "set both clocks by one source"


def _held(state: VehicleState, now_s: float) -> object:
    known = [fresh(reading, now_s) for reading in (state.in_park, state.parking_brake)]
    return next((value for value in known if value is not None), None)


def _known(reading: Callable[[VehicleState], Reading[Any] | None]) -> Callable[..., object]:
    return lambda state, now_s: fresh(reading(state), now_s)


_FACTS: Mapping[str, Callable[[VehicleState, float], object]] = MappingProxyType(
    {
        "speed": _known(lambda state: state.speed_kmh),
        "gear or parking brake": _held,
        "driver's door": _known(lambda state: state.door_open),
        "driver's seat": _known(lambda state: state.seat_occupied),
        "ignition": _known(lambda state: state.ignition_on),
    }
)
"""The facts that trip and interlock need; each function gives the value if it is known now."""


def missing(state: VehicleState, now_s: float) -> tuple[str, ...]:
    """Names of the facts that trip and interlock need and that are unknown now."""
    return tuple(name for name, value in _FACTS.items() if value(state, now_s) is None)


def asleep(state: VehicleState) -> bool:
    """Whether the last report of the ignition is off."""
    return state.ignition_on is not None and not state.ignition_on.value


def wrong_clock(age_s: float) -> str:
    """The reason for reports that are `age_s` old on arrival; negative: in the future."""
    how = f"{span(age_s)} old" if age_s > 0 else f"{span(-age_s)} in the future"
    return f"the car's reports are {how}; {CLOCK_FIX}"


def span(seconds: float) -> str:
    """A duration in words."""
    for unit, size in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 3 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


@dataclass(slots=True)
class _WrongClock:
    """A run of reports with wrong timestamps.

    Attributes:
        since_s: arrival of the first.
        last_s: arrival of the last.
        age_s: age that `reason` names; negative: in the future.
        dated_s: when `age_s` was taken; it is updated rarely, so that `reason` is stable.
    """

    since_s: float
    last_s: float
    age_s: float
    dated_s: float


class CarReports:
    """Follows the car's reports; `reason` says what is wrong now, empty if nothing.

    Times must be monotonic; an input older than the previous one counts as simultaneous with it.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._now_s = -math.inf
        self._linked = False
        self._state = VehicleState()
        self._heard_s: float | None = None
        self._known_s: dict[str, float] = {}
        self._clock: _WrongClock | None = None

    def step(self, received: Timed) -> None:
        """Take one input; every input advances the time."""
        self._now_s = max(self._now_s, received.at_s)
        match received:
            case LinkState():
                # Reports missed while the broker was away are no fault of the car.
                self._linked = received.connected
                self._heard_s = self._clock = None
                self._known_s = dict.fromkeys(_FACTS, self._now_s)
            case VehicleReport():
                self._state, self._heard_s = received.state, self._now_s
                self._note_age(received.age_s)
            case Misdated():
                self._heard_s = self._now_s
                self._note_age(-received.ahead_s)
        if self._linked:
            lacking = missing(self._state, self._now_s)
            self._known_s |= dict.fromkeys(_FACTS.keys() - set(lacking), self._now_s)
        self.reason = self._reason()

    def _note_age(self, age_s: float | None) -> None:
        if age_s is None:
            return
        if 0.0 <= age_s <= MAX_AGE_S:
            self._clock = None
        elif self._clock is None or self._now_s - self._clock.last_s > STOPPED_S:
            self._clock = _WrongClock(self._now_s, self._now_s, age_s, self._now_s)
        else:
            clock, self._clock.last_s = self._clock, self._now_s
            if self._now_s - clock.dated_s > SILENCE_S and abs(age_s - clock.age_s) > 1.0:
                clock.age_s, clock.dated_s = age_s, self._now_s

    def _reason(self) -> str:
        clock, now_s = self._clock, self._now_s
        if not self._linked:
            return ""
        if clock is not None and now_s - clock.last_s <= STOPPED_S:
            lasted_s = clock.last_s - clock.since_s
            return wrong_clock(clock.age_s) if lasted_s >= WRONG_CLOCK_S else self.reason
        return "" if asleep(self._state) else self._lacking()

    def _lacking(self) -> str:
        now_s = self._now_s
        lacking = [name for name in _FACTS if now_s - self._known_s[name] > SILENCE_S]
        if not lacking:
            return ""
        if self._heard_s is None:
            return "no reports from the car; let its gateway send `vehicle`, see docs/mqtt.md"
        if now_s - self._heard_s > STOPPED_S:
            return "no more reports from the car; see whether its gateway still sends `vehicle`"
        return f"the car's reports do not tell: {', '.join(lacking)}; see `vehicle` in docs/mqtt.md"
