"""Whether the car's reports are good enough to work with, and if not, what is wrong with them.

Owns the reason that `status` gives while the car's clock is wrong, while its reports stop or never
came, and while a fact that a trip or the interlock needs is missing from them. Decides nothing
about a trip or a movement: what is not known permits nothing, whatever is said here. Must never
know of topics or of a broker.

A car that sleeps reports nothing, and that is no fault: once the ignition was reported off, silence
is expected until it is reported on.
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
"""A fact that was not known for so long is missing. A gateway that restarts is back before."""


STOPPED_S = 10.0
"""Reports are due every second. After this much silence they have stopped."""


WRONG_CLOCK_S = 3.0
"""Reports with a wrong time for so long come from a wrong clock, and not from a queue."""


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
"""What trip and interlock need to know, and its value if it is known now."""


def missing(state: VehicleState, now_s: float) -> tuple[str, ...]:
    """The facts that trip and interlock need and that are not known now."""
    return tuple(name for name, value in _FACTS.items() if value(state, now_s) is None)


def asleep(state: VehicleState) -> bool:
    """Whether the last thing that the car said of its ignition is that it is off."""
    return state.ignition_on is not None and not state.ignition_on.value


def wrong_clock(age_s: float) -> str:
    """What is wrong with reports that are so old when they arrive; negative: so far ahead."""
    how = f"{span(age_s)} old" if age_s > 0 else f"{span(-age_s)} in the future"
    return f"the car's reports are {how}; {CLOCK_FIX}"


def span(seconds: float) -> str:
    """So many seconds in words."""
    for unit, size in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 3 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


@dataclass(slots=True)
class _WrongClock:
    """Reports with a wrong time that follow each other.

    Attributes:
        since_s: when the first of them came.
        last_s: when the last of them came.
        age_s: how old one of them was; negative: how far ahead.
        dated_s: when that one came. The number is told and must not change with every report.
    """

    since_s: float
    last_s: float
    age_s: float
    dated_s: float


class CarReports:
    """Follows the car's reports; `reason` says what is wrong with them now, empty for nothing.

    Times must not run backwards; an input that is older than the one before it is taken to be of
    the same moment.
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
        """Take one input; any tells the time."""
        self._now_s = max(self._now_s, received.at_s)
        match received:
            case LinkState():
                # What was missed while the broker was away is nobody's fault.
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
