"""The VSS signals that preferences can contain, with their ranges and former names.

Owns the catalogue: the settable comfort signals of driver's seat, outside mirrors and steering
wheel, named as in the Vehicle Signal Specification 6.0
(https://github.com/COVESA/vehicle_signal_specification), and the names of older versions. Must not
know MQTT, files, or when a movement is safe: that is `trip.interlock`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, TypeAlias, TypeGuard, get_args


class Group(StrEnum):
    """A group of signals that move together; the interlock has one rule for each."""

    SEAT = "seat"
    MIRRORS = "mirrors"


Datatype: TypeAlias = Literal["float", "int8", "uint8", "uint16"]


@dataclass(frozen=True, slots=True)
class Range:
    """The values from `minimum` to `maximum`, both included."""

    minimum: float
    maximum: float

    def __contains__(self, value: float) -> bool:
        """Whether the value lies within; NaN never does."""
        return self.minimum <= value <= self.maximum

    def __str__(self) -> str:
        return f"{self.minimum:g} to {self.maximum:g}"


@dataclass(frozen=True, slots=True)
class Signal:
    """One settable signal of VSS 6.0.

    Attributes:
        path: the full VSS path.
        datatype: VSS's own.
        unit: of every value of this signal.
        minimum: the least value that VSS allows; where it gives no bound, a physical one.
        maximum: the greatest value, likewise.
        group: what moves.
    """

    path: str
    datatype: Datatype
    unit: str
    minimum: float
    maximum: float
    group: Group

    @property
    def range(self) -> Range:
        """The values that VSS allows, or a physical bound where it gives none."""
        return Range(self.minimum, self.maximum)


_FINITE = Range(-sys.float_info.max, sys.float_info.max)


Limits: TypeAlias = Mapping[str, Range]
"""VSS path to the values that one car's ECUs accept."""


_PERCENT = (0.0, 100.0)


_EITHER_WAY = (-100.0, 100.0)


_Row: TypeAlias = tuple[str, Datatype, str, tuple[float, float]]


SEAT = "Vehicle.Cabin.Seat.Row1.DriverSide"
"""The branch of the driver's seat."""


SEAT_POSITION = f"{SEAT}.Position"


HEATING_COOLING = f"{SEAT}.HeatingCooling"


# VSS limits millimetres and degrees only by datatype. These bounds are ours and wider than any real
# driver's seat: a value beyond them is an error (a unit, a sign, a typing error). The range of one
# car is in its configuration, `vehicle.signals`.
_SEAT_ROWS: tuple[_Row, ...] = (
    (SEAT_POSITION, "uint16", "mm", (0.0, 1000.0)),
    (f"{SEAT}.Height", "uint16", "mm", (0.0, 500.0)),
    (f"{SEAT}.Tilt", "float", "degrees", (-45.0, 45.0)),
    (f"{SEAT}.Backrest.Recline", "float", "degrees", (-90.0, 90.0)),
    (f"{SEAT}.Backrest.LumbarSupport", "float", "percent", _PERCENT),
    (f"{SEAT}.Backrest.LumbarHeight", "uint8", "mm", (0.0, 255.0)),
    (f"{SEAT}.Backrest.SideBolsterSupport", "float", "percent", _PERCENT),
    (f"{SEAT}.Seating.Length", "uint16", "mm", (0.0, 500.0)),
    (f"{SEAT}.Headrest.Height", "uint8", "mm", (0.0, 255.0)),
    (f"{SEAT}.Headrest.Angle", "float", "degrees", (-90.0, 90.0)),
    (HEATING_COOLING, "int8", "percent", _EITHER_WAY),
    # The wheel moves towards the driver's body, so the interlock rule of the seat applies.
    ("Vehicle.Chassis.SteeringWheel.Tilt", "uint8", "percent", _PERCENT),
    ("Vehicle.Chassis.SteeringWheel.Extension", "uint8", "percent", _PERCENT),
)


_MIRROR_ROWS: tuple[_Row, ...] = tuple(
    (f"Vehicle.Body.Mirrors.{side}.{axis}", "int8", "percent", _EITHER_WAY)
    for side in ("DriverSide", "PassengerSide")
    for axis in ("Tilt", "Yaw")
)


def _signals(rows: Iterable[_Row], group: Group) -> dict[str, Signal]:
    """The rows as signals, by path."""
    return {
        path: Signal(path, datatype, unit, *bounds, group) for path, datatype, unit, bounds in rows
    }


SIGNALS: Mapping[str, Signal] = MappingProxyType(
    _signals(_SEAT_ROWS, Group.SEAT) | _signals(_MIRROR_ROWS, Group.MIRRORS)
)
"""All signals that preferences can contain, by VSS path."""


Version: TypeAlias = Literal["4.0", "4.1", "4.2", "5.0", "5.1", "6.0"]
"""The supported VSS releases; 4.0 is the first with `DriverSide`."""


VERSIONS: tuple[Version, ...] = get_args(Version)


@dataclass(frozen=True, slots=True)
class _Former:
    """A signal's name up to and including a version, and the sign of its value there."""

    path: str
    until: Version
    sign: int = 1


# From the catalogues of 4.0 and 5.1 and the vspec sources of 5.0 and 6.0. 5.x keeps the names of
# 4.x beside the new ones and calls them deprecated; 6.0 does the same with Pan.
_FORMER: Mapping[str, _Former] = MappingProxyType(
    {
        f"{SEAT}.Backrest.LumbarSupport": _Former(f"{SEAT}.Backrest.Lumbar.Support", "4.2"),
        f"{SEAT}.Backrest.LumbarHeight": _Former(f"{SEAT}.Backrest.Lumbar.Height", "4.2"),
        f"{SEAT}.Backrest.SideBolsterSupport": _Former(
            f"{SEAT}.Backrest.SideBolster.Support", "4.2"
        ),
        f"{SEAT}.HeatingCooling": _Former(f"{SEAT}.Heating", "4.0"),
    }
    # A positive Pan looks to the left of the car, a positive Yaw to the right.
    | {
        f"Vehicle.Body.Mirrors.{side}.Yaw": _Former(f"Vehicle.Body.Mirrors.{side}.Pan", "5.1", -1)
        for side in ("DriverSide", "PassengerSide")
    }
)


_NEWEST: Mapping[str, tuple[str, int]] = MappingProxyType(
    {former.path: (path, former.sign) for path, former in _FORMER.items()}
    | {path: (path, 1) for path in SIGNALS}
)


def spoken(path: str, value: float, version: Version) -> tuple[str, float]:
    """Translate a signal and its value to a VSS version.

    Args:
        path: one of `SIGNALS`; every version has each of them.
        value: in the path's unit.
        version: the VSS version of the car.
    """
    former = _FORMER.get(path)
    if former is None or VERSIONS.index(version) > VERSIONS.index(former.until):
        return path, value
    return former.path, _signed(former.sign, value)


def newest(path: str, value: float) -> tuple[str, float] | None:
    """Translate a signal of any version to the catalogue; None if it is not in it.

    Names are unambiguous across versions, so the version is not needed.
    """
    if path not in _NEWEST:
        return None
    ours, sign = _NEWEST[path]
    return ours, _signed(sign, value)


def paths_of(version: Version) -> Mapping[str, Signal]:
    """The catalogue by the paths of a VSS version."""
    return {spoken(path, 0.0, version)[0]: signal for path, signal in SIGNALS.items()}


def _signed(sign: int, value: float) -> float:
    return value if sign == 1 else 0.0 - value


_SWITCH_ROWS: tuple[tuple[str, tuple[str, ...]], ...] = (
    # Branch, and the switches in it, for the signals of the catalogue.
    ("", ("Forward", "Backward", "Up", "Down", "TiltForward", "TiltBackward", "Warmer", "Cooler")),
    ("Backrest.", ("ReclineForward", "ReclineBackward")),
    ("Seating.", ("Forward", "Backward")),
    ("Headrest.", ("Up", "Down", "Forward", "Backward")),
)


_LUMBAR = {
    "MoreSupport": "MoreLumbarSupport",
    "LessSupport": "LessLumbarSupport",
    "Up": "LumbarUp",
    "Down": "LumbarDown",
}


_BOLSTER = {"MoreSupport": "MoreSideBolsterSupport", "LessSupport": "LessSideBolsterSupport"}


def _switches() -> tuple[str, ...]:
    """Paths of the switches: from 5.0 beside their signals, up to 5.1 in a branch of their own."""
    new = [f"{branch}Is{name}SwitchEngaged" for branch, names in _SWITCH_ROWS for name in names]
    new += [f"Backrest.Is{name}SwitchEngaged" for name in (*_LUMBAR.values(), *_BOLSTER.values())]
    old = [f"Switch.{branch}Is{name}Engaged" for branch, names in _SWITCH_ROWS for name in names]
    old += [f"Switch.Backrest.Lumbar.Is{name}Engaged" for name in _LUMBAR]
    old += [f"Switch.Backrest.SideBolster.Is{name}Engaged" for name in _BOLSTER]
    return tuple(f"{SEAT}.{name}" for name in new + old)


SEAT_SWITCHES = _switches()
"""Switches of the driver's seat that move signals of the catalogue, of all versions."""


def group_of(path: str) -> Group:
    """The group of a signal; KeyError for a path that is not in `SIGNALS`."""
    return SIGNALS[path].group


def has_switch(path: str) -> bool:
    """Whether one of `SEAT_SWITCHES` moves this signal by hand."""
    return path.startswith(f"{SEAT}.")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean X?)` with the nearest known word; empty if none is near."""
    near = get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def is_number(value: object) -> TypeGuard[float]:
    """Whether this is a finite number; booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value in _FINITE


def check_path(path: str) -> str | None:
    """Why preferences cannot contain this path, as a sentence; None if they can."""
    if path in SIGNALS:
        return None
    fix = did_you_mean(path, SIGNALS) or "; the reference configuration lists them"
    return f"{path} is no seat, mirror or steering wheel signal of VSS 6.0{fix}"


def check(path: str, value: object, limits: Limits) -> str | None:
    """Why this value cannot be a preference in this car, as a sentence; None if it can.

    Args:
        path: a full VSS path.
        value: in the path's unit; integers may be floats.
        limits: the ranges of this car; a path without one is not accepted.
    """
    if mistake := check_path(path):
        return mistake
    if path not in limits:
        return (
            f"{path} is not among this car's signals; add it under vehicle.signals or leave it out"
        )
    signal, own = SIGNALS[path], limits[path]
    allowed = Range(max(own.minimum, signal.minimum), min(own.maximum, signal.maximum))
    fix = f"give a number from {allowed} {signal.unit}"
    if not is_number(value):
        return f"{path}: {value!r} is not a finite number; {fix}"
    if value not in allowed:
        return f"{path}: {value} is out of range; {fix}"
    if signal.datatype != "float" and value != int(value):
        return f"{path}: {value:g} is not a whole number, which {signal.datatype} asks; {fix}"
    return None
