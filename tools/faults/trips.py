"""What happens in a trip: a list of deeds by time, drawn from a seed.

Times are seconds of the fast clock since the trip began. What a trip's people and faults are is
decided here; what follows from that is the daemon's to decide, and `judge`'s to judge.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

DRIVERS = 4
STRANGERS = (9, 10, 11)
"""Voices that nobody enrolled."""

SEAT = "Vehicle.Cabin.Seat.Row1.DriverSide"
SPEED = "Vehicle.Speed"
GEAR = "Vehicle.Powertrain.Transmission.SelectedGear"
BRAKE = "Vehicle.Chassis.ParkingBrake.IsEngaged"
DOOR = "Vehicle.Cabin.Door.Row1.DriverSide.IsOpen"
OCCUPANCY = f"{SEAT}.OccupancyStatus"
IGNITION = "Vehicle.LowVoltageSystemState"
KEY = "Vehicle.Occupant.Row1.DriverSide.Identifier.Subject"
SWITCH = f"{SEAT}.Switch.IsForwardEngaged"

PARK = 126
PARKED: dict[str, Any] = {
    SPEED: 0.0,
    GEAR: PARK,
    BRAKE: True,
    DOOR: False,
    OCCUPANCY: "EMPTY",
    IGNITION: "OFF",
    KEY: None,
    SWITCH: False,
}
"""A car that nobody is in."""

MISBEHAVIOURS = ("silent", "deaf", "slow", "lying", "rejects", "duplicates", "stray", "jammed")


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that happens.

    `kind` is what: `car` (signals change), `say` (voice, seconds), `choose`, `listen`, `cancel`,
    `save`, `switch`, or a fault: `kill` (seconds), `cut`, `hold`, `delay` (seconds), `ecu_cut`,
    `lost` (signals or None for all, seconds), `step` (seconds), `disk` (seconds of a slow one),
    `ecu` (misbehaviours).
    """

    at_s: float
    kind: str
    what: Any = None


@dataclass(slots=True)
class Plan:
    """A whole trip; `length_s` is when everybody has left."""

    deeds: list[Deed] = field(default_factory=list)
    length_s: float = 0.0

    def add(self, at_s: float, kind: str, what: Any = None) -> None:
        """One more deed."""
        self.deeds.append(Deed(round(at_s, 2), kind, what))


FAULTS = ("kill", "cut", "hold", "delay", "ecu_cut", "lost", "step", "disk")


def _chance(rng: random.Random, share: float) -> bool:
    return rng.random() < share


def plan(rng: random.Random) -> Plan:
    """Draw a trip."""
    made = Plan()
    driver = rng.randrange(DRIVERS)
    seated_s = _arrive(made, rng, driver)
    spoken_s = _talk(made, rng, driver, seated_s)
    _touch(made, rng, spoken_s)
    _trouble(made, rng, spoken_s)
    end_s = max([spoken_s + rng.uniform(10, 22), *(d.at_s + _lasts(d) for d in made.deeds)])
    if any(d.kind in ("cut", "hold", "lost", "kill") for d in made.deeds):
        end_s += rng.choice((0, 8, 30))
    end_s = _drive(made, rng, driver, end_s)
    _leave(made, end_s)
    made.deeds.sort(key=lambda deed: deed.at_s)
    return made


def _lasts(deed: Deed) -> float:
    match deed.kind:
        case "kill" | "cut" | "hold" | "ecu_cut" | "delay" | "disk":
            return float(deed.what) + 2
        case "lost" | "say":
            return float(deed.what[1]) + 2
        case _:
            return 3.0


def _arrive(made: Plan, rng: random.Random, driver: int) -> float:
    """The door opens, somebody sits down, the door closes, the ignition goes on."""
    made.add(0.0, "car", dict(PARKED))
    made.add(0.6, "car", {DOOR: True})
    made.add(1.2, "car", {OCCUPANCY: "OCCUPIED"})
    if _chance(rng, 0.12):
        made.add(1.4, "car", {KEY: f"fob-{driver}"})
    closed_s = 1.8 + rng.uniform(0, 1)
    ignition_s = closed_s + rng.uniform(-0.5, 1.5)
    made.add(closed_s, "car", {DOOR: False})
    made.add(ignition_s, "car", {IGNITION: "ON"})
    return max(closed_s, ignition_s) + 1.2


def _talk(made: Plan, rng: random.Random, driver: int, seated_s: float) -> float:
    """Who says something; returns when the driver has."""
    at_s = seated_s + rng.uniform(0, 2)
    if _chance(rng, 0.2):
        made.add(at_s, "say", (rng.choice(STRANGERS), 1.6))
        at_s += 4
    if _chance(rng, 0.12):  # a passenger is faster
        made.add(at_s, "say", (rng.randrange(DRIVERS) + 1, 1.6))
        at_s += 4
    if _chance(rng, 0.9):
        seconds = rng.choice((0.4, 1.4, 1.6, 2.4, 3.2))
        made.add(at_s, "say", (driver + 1, seconds))
        at_s += seconds + 1.5
    spoken_s = at_s
    for _ in range(rng.choice((0, 0, 1, 2))):  # the rest of the car, or the driver again
        at_s += rng.uniform(3, 8)
        who = rng.choice((*range(1, DRIVERS + 1), *STRANGERS, driver + 1))
        made.add(at_s, "say", (who, 1.6))
        at_s += 3
    if _chance(rng, 0.45):
        _endanger(made, rng, seated_s)
    return spoken_s


def _endanger(made: Plan, rng: random.Random, seated_s: float) -> None:
    """Something keeps the car from being safe, for a while, or for more than the minute."""
    seated = PARKED | {OCCUPANCY: "OCCUPIED", IGNITION: "ON"}
    driving = {GEAR: 4, BRAKE: False}
    bad: dict[str, Any] = rng.choice(({SPEED: 1.5}, driving, {DOOR: None}, {OCCUPANCY: "UNKNOWN"}))
    from_s = seated_s + rng.uniform(-0.8, 1)
    until_s = from_s + (75 if _chance(rng, 0.08) else rng.uniform(5, 16))
    made.add(from_s, "car", bad)
    if bad is driving and _chance(rng, 0.4):
        made.add(until_s - 4, "car", {SPEED: 20.0})
        made.add(until_s - 1, "car", {SPEED: 0.0})
    made.add(until_s, "car", {path: seated[path] for path in bad})


def _touch(made: Plan, rng: random.Random, spoken_s: float) -> None:
    """Hands: on the head unit, on the switches."""
    at_s = spoken_s + rng.uniform(-1, 12)
    match rng.choices(("", "choose", "guest", "listen", "cancel", "save"), (68, 6, 4, 8, 8, 6))[0]:
        case "choose":
            made.add(at_s, "choose", rng.randrange(DRIVERS))
        case "guest":
            made.add(at_s, "choose", None)
        case "listen":
            made.add(at_s, "listen")
            made.add(at_s + 1.5, "say", (rng.randrange(DRIVERS) + 1, 1.6))
        case "cancel":
            made.add(at_s, "cancel")
        case "save":
            made.add(at_s + 10, "save")
    if _chance(rng, 0.14):
        at_s = spoken_s + rng.uniform(-3, 10)
        made.add(at_s, "switch", rng.choice((90, 140)))
        if _chance(rng, 0.5):
            made.add(at_s, "car", {SWITCH: True})
            made.add(at_s + 1.2, "car", {SWITCH: False})


def _trouble(made: Plan, rng: random.Random, spoken_s: float) -> None:
    """What goes wrong."""
    for _ in range(rng.choice((0, 0, 1, 1, 1, 2, 3))):
        at_s = max(0.2, spoken_s + rng.uniform(-5, 9))
        match rng.choice(FAULTS):
            case "kill":
                made.add(at_s, "kill", rng.choice((0.3, 1, 3, 7, 14, 20)))
            case "lost":
                which = rng.choice((None, SPEED, GEAR, DOOR, OCCUPANCY, IGNITION))
                made.add(at_s, "lost", (which, rng.choice((1, 3, 6, 15))))
            case "step":
                made.add(at_s, "step", rng.choice((-3600, -30, -2, -0.5, 0.5, 2, 30, 3600)))
            case "delay" | "disk" as kind:
                made.add(at_s, kind, rng.choice((5, 15)))
            case kind:
                made.add(at_s, kind, rng.choice((1, 2, 4, 8, 15, 40)))
    if _chance(rng, 0.15):
        made.add(0.0, "ecu", (rng.choice(MISBEHAVIOURS),))


def _drive(made: Plan, rng: random.Random, driver: int, end_s: float) -> float:
    """Perhaps move off, stop again, and say something."""
    if _chance(rng, 0.5):
        return end_s
    off_s = rng.choice((end_s, rng.uniform(end_s / 2, end_s)))
    made.add(off_s, "car", {GEAR: 4, BRAKE: False})
    made.add(off_s + 0.7, "car", {SPEED: 20.0})
    made.add(off_s + 5, "car", {SPEED: 0.0})
    made.add(off_s + 6, "car", {GEAR: PARK, BRAKE: True})
    if _chance(rng, 0.5):
        made.add(off_s + 8, "say", (driver + 1, 1.6))
    return max(end_s, off_s + 14)


def _leave(made: Plan, end_s: float) -> None:
    made.add(end_s, "car", {IGNITION: "OFF", KEY: None, SWITCH: False})
    made.add(end_s + 0.6, "car", {DOOR: True})
    made.add(end_s + 1.2, "car", dict(PARKED))
    made.length_s = end_s + 3.0
