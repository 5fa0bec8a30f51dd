"""The interlock: which groups may move in the present state of the car.

Owns the conditions and the rule of each group; a vehicle engineer can audit them on one screen.
Must not know speech, drivers, brokers or clocks: the time is a parameter. A value that is missing,
stale, NaN or from the future permits nothing. The ECU that drives the motor must have its own
interlock; this one is the second line. A pressed seat switch is no condition: it cancels requests
(`requests`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from whodrives.vehicle.state import Reading, VehicleState
from whodrives.vehicle.vss import Group

T = TypeVar("T")


MAX_AGE_S = 2.0
"""A reading older than this is stale."""


def fresh(reading: Reading[T] | None, now_s: float) -> T | None:
    """The reading's value at `now_s`; None if it is missing, stale or from the future.

    A car's clock may be slightly ahead. The decoder dates such a reading to its arrival, so it is
    fresh for no longer than a correctly dated one.
    """
    if reading is None or not 0.0 <= now_s - reading.at_s <= MAX_AGE_S:
        return None
    return reading.value


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition; `met` takes the state and the current time. Unknown is not met."""

    name: str
    met: Callable[[VehicleState, float], bool]


STANDING = Condition("standing", lambda v, now_s: fresh(v.speed_kmh, now_s) == 0.0)


HELD = Condition(
    "park_or_brake",
    lambda v, now_s: fresh(v.in_park, now_s) is True or fresh(v.parking_brake, now_s) is True,
)


DOOR_CLOSED = Condition("door_closed", lambda v, now_s: fresh(v.door_open, now_s) is False)


OCCUPIED = Condition("seat_occupied", lambda v, now_s: fresh(v.seat_occupied, now_s) is True)


RULES: Mapping[Group, tuple[Condition, ...]] = MappingProxyType(
    {
        # Seat and steering wheel move the driver's body relative to the pedals, so the car must
        # not roll; the door is closed so that nobody is getting in or out.
        Group.SEAT: (STANDING, HELD, DOOR_CLOSED, OCCUPIED),
        # A moving mirror takes the rear view away for seconds, an aborted movement for longer, so
        # standing at a red light is not enough: the car must be held. An open door is no hazard.
        # Without a driver in the seat a mirror has no purpose.
        Group.MIRRORS: (STANDING, HELD, OCCUPIED),
    }
)
"""All conditions of a group must be met. Ignition is none: a seat moves without it."""


def refusals(group: Group, state: VehicleState, now_s: float) -> tuple[str, ...]:
    """Names of the group's conditions that are not met at `now_s`; empty: it may move."""
    return tuple(rule.name for rule in RULES[group] if not rule.met(state, now_s))
