"""What may move in this vehicle state: one rule for each group of signals.

Owns the conditions and the rules; a vehicle engineer audits them on this screen. Knows nothing of
speech, drivers, brokers or clocks: the time is a parameter. Total: every state, known or not, and
every number, NaN and infinity included, has an answer; what is not known, stale or not yet true
refuses. It is the second line only: the ECU that moves the motor keeps an interlock of its own.
A hand on the seat's switch is no condition here: it ends what was asked for, see `outbox`.
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
"""A reading older than this says nothing about now."""


def fresh(reading: Reading[T] | None, now_s: float) -> T | None:
    """What the reading says of now; None when it is missing, too old or from the future.

    A car's clock may be slightly ahead of ours. The decoder dates such a reading to its arrival, so
    that it is fresh for no longer than one that was dated correctly.
    """
    if reading is None or not 0.0 <= now_s - reading.at_s <= MAX_AGE_S:
        return None
    return reading.value


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that must be known to hold now."""

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
        # The seat and the steering wheel move a body, at the pedals, in a car that must not roll
        # away; the door is closed so that nobody is half in or half out.
        Group.SEAT: (STANDING, HELD, DOOR_CLOSED, OCCUPIED),
        # A moving mirror takes the rear view away for seconds, and an aborted one keeps it away.
        # Standing at a red light is therefore not enough: the car must be held. An open door
        # harms nobody here. Without a person in the seat there is no eye to set a mirror for.
        Group.MIRRORS: (STANDING, HELD, OCCUPIED),
    }
)
"""All conditions of a group's rule must hold. Ignition is no condition: a seat moves without it."""


def refusals(group: Group, state: VehicleState, now_s: float) -> tuple[str, ...]:
    """Names of the conditions that are not known to hold at `now_s`; empty means permitted."""
    return tuple(rule.name for rule in RULES[group] if not rule.met(state, now_s))
