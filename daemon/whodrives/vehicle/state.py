"""What the car reported, each value with the time at which it was true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """A value the car reported, and when it was true (`at_s`, same clock as everything)."""

    value: T
    at_s: float


@dataclass(frozen=True, slots=True)
class VehicleState:
    """What is known of the car; None means *not known*, also where two signals disagree.

    Attributes:
        speed_kmh: Vehicle.Speed, km/h; its magnitude, so backing up is moving.
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
    """The car spoke.

    Attributes:
        at_s: when that reached us.
        state: everything that is known of the car now. It replaces the state before it: what is
            None here is not known any more.
        age_s: how old the newest of its readings was on arrival, from 0; None if it has none.
    """

    at_s: float
    state: VehicleState
    age_s: float | None = None


@dataclass(frozen=True, slots=True)
class Misdated:
    """A report of the car was refused, because it is dated `ahead_s` seconds in the future."""

    at_s: float
    ahead_s: float
