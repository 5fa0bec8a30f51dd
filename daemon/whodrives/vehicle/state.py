"""The state of the car as it reports it: each value with its timestamp.

Owns the facts that trip and interlock need, by VSS path. Must not know messages or how old a
reading may be. None means unknown, which permits nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """A reported value and when it was true (`at_s`, seconds on the boot-time clock)."""

    value: T
    at_s: float


@dataclass(frozen=True, slots=True)
class VehicleState:
    """The known state of the car; None is unknown, also if two signals disagree.

    Attributes:
        speed_kmh: Vehicle.Speed, km/h, as magnitude, so that reversing counts as moving.
        in_park: SelectedGear is Park (126) or the park lock is engaged.
        parking_brake: Vehicle.Chassis.ParkingBrake.IsEngaged.
        door_open: Vehicle.Cabin.Door.Row1.DriverSide.IsOpen.
        seat_occupied: the driver's seat, from OccupancyStatus and IsOccupied.
        ignition_on: LowVoltageSystemState is ACC, ON or START.
        seat_switch: somebody presses one of the driver's seat's switches (`vss.SEAT_SWITCHES`): the
            newest press, else the newest release.
        key: Vehicle.Occupant.Row1.DriverSide.Identifier.Subject: which key opened the car.
    """

    speed_kmh: Reading[float] | None = None
    in_park: Reading[bool] | None = None
    parking_brake: Reading[bool] | None = None
    door_open: Reading[bool] | None = None
    seat_occupied: Reading[bool] | None = None
    ignition_on: Reading[bool] | None = None
    seat_switch: Reading[bool] | None = None
    key: Reading[str] | None = None


@dataclass(frozen=True, slots=True)
class VehicleReport:
    """A report of the car.

    Attributes:
        at_s: when it reached us.
        state: the whole state; it replaces the previous one, so None means no longer known.
        age_s: age of its newest reading on arrival, from 0; None if it has none.
    """

    at_s: float
    state: VehicleState
    age_s: float | None = None


@dataclass(frozen=True, slots=True)
class Misdated:
    """A report was refused because its timestamp is `ahead_s` seconds in the future."""

    at_s: float
    ahead_s: float
