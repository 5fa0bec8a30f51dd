"""What happens in a trip: a list of actions by time, drawn from a seed.

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
OTHER_SWITCH = f"{SEAT}.Switch.IsBackwardEngaged"

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

NOBODY = 99
"""The number of a driver who is not enrolled."""

MISBEHAVIOURS = (
    "silent",
    "deaf",
    "slow",
    "lying",
    "rejects",
    "locked",
    "duplicates",
    "stray",
    "jammed",
    "wavers",
)


@dataclass(frozen=True, slots=True)
class Action:
    """Something that happens.

    `kind` is what: `car` (signals change), `say` (voice, seconds), `choose` (number of a driver,
    None for nobody of us), `forget` (number), `listen`, `cancel`, `save`, `switch`, or a fault:
    `kill` (seconds), `cut`, `hold`, `delay` (seconds), `ecu_cut`, `lost` (signals or None for all,
    seconds), `step` (seconds), `disk` (seconds of a slow one), `sleep` (seconds of a suspended
    machine), `ecu` (misbehaviours). `edit` (number): the driver's preferences are changed in the
    store. `apart`: from now on the gateway tells each signal on a topic of its own. `second`
    (seconds): a second daemon for this car is started, and killed after so long.
    """

    at_s: float
    kind: str
    what: Any = None


@dataclass(slots=True)
class Plan:
    """A whole trip; `length_s` is when everybody has left."""

    actions: list[Action] = field(default_factory=list)
    length_s: float = 0.0

    def add(self, at_s: float, kind: str, what: Any = None) -> None:
        """One more action."""
        self.actions.append(Action(round(at_s, 2), kind, what))


FAULTS = ("kill", "cut", "hold", "delay", "ecu_cut", "lost", "step", "disk")


def _chance(rng: random.Random, share: float) -> bool:
    return rng.random() < share


def plan(rng: random.Random) -> Plan:
    """Draw a trip."""
    made = Plan()
    driver = rng.randrange(DRIVERS)
    if _chance(rng, 0.04):
        _too_early(made, rng, driver)
    seated_s = _arrive(made, rng, driver)
    if _chance(rng, 0.06):
        seated_s = _adjust(made, rng, seated_s)
    story = rng.choices((None, *_STORIES), (70, *[30 / len(_STORIES)] * len(_STORIES)))[0]
    if story is not None:
        spoken_s = story(made, rng, driver, seated_s)
    else:
        spoken_s = _talk(made, rng, driver, seated_s)
        _touch(made, rng, spoken_s)
        _trouble(made, rng, spoken_s)
    end_s = max([spoken_s + rng.uniform(10, 22), *(d.at_s + _lasts(d) for d in made.actions)])
    if any(d.kind in ("cut", "hold", "lost", "kill") for d in made.actions):
        end_s += rng.choice((0, 8, 30))
    end_s = _drive(made, rng, driver, end_s)
    _leave(made, end_s)
    made.actions.sort(key=lambda action: action.at_s)
    return made


def _lasts(action: Action) -> float:
    match action.kind:
        case "kill" | "cut" | "hold" | "ecu_cut" | "delay" | "disk" | "sleep" | "second":
            return float(action.what) + 2
        case "lost" | "say":
            return float(action.what[1]) + 2
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


def _adjust(made: Plan, rng: random.Random, seated_s: float) -> float:
    """Somebody sets the seat by hand before anybody speaks; returns when that is over."""
    _press(made, rng, seated_s + 0.2)
    return seated_s + 4.0


def _press(made: Plan, rng: random.Random, at_s: float) -> None:
    """A hand moves the seat by its switch, and the car says so."""
    made.add(at_s, "switch", rng.choice((90, 140)))
    made.add(at_s, "car", {SWITCH: True})
    made.add(at_s + 1.2, "car", {SWITCH: False})


def _too_early(made: Plan, rng: random.Random, driver: int) -> None:
    """The head unit asks for something before anybody sits there."""
    match rng.choice(("choose", "guest", "listen", "save")):
        case "choose":
            made.add(1.0, "choose", driver)
        case "guest":
            made.add(1.0, "choose", None)
        case kind:
            made.add(1.0, kind)


def _long_without_daemon(made: Plan, rng: random.Random, driver: int, seated_s: float) -> float:
    """The driver's wish still waits, for the brake or an answer, when the daemon dies too long."""
    killed_s = seated_s + 6.0
    seconds = rng.choice((14, 17, 20))
    if _chance(rng, 0.5):
        made.add(seated_s - 1.0, "car", {GEAR: 4, BRAKE: False})
        made.add(killed_s + seconds + 4.0, "car", {GEAR: PARK, BRAKE: True})
    else:
        made.add(0.0, "ecu", ("silent",))
    made.add(seated_s + 0.5, "say", (driver + 1, 1.6))
    made.add(killed_s, "kill", seconds)
    return killed_s + seconds + 5.0


def _daemon_comes_back(made: Plan, rng: random.Random, driver: int, seated_s: float) -> float:
    """Nobody has spoken when the daemon dies, for short or long; then somebody does."""
    killed_s = seated_s + rng.uniform(-2.5, 0.5)
    seconds = rng.choice((4, 14, 20))
    made.add(killed_s, "kill", seconds)
    spoken_s = killed_s + seconds + 6.0
    made.add(spoken_s, "say", (driver + 1, 1.6))
    return spoken_s + 3.0


def _guest_and_voice(made: Plan, rng: random.Random, driver: int, seated_s: float) -> float:
    """Somebody is not one of us, says so by hand, and then those speak who are."""
    at_s = seated_s + 0.5
    if _chance(rng, 0.5):
        made.add(at_s, "say", (driver + 1, 1.6))
        at_s += rng.uniform(2, 6)
    made.add(at_s, "choose", None)
    made.add(at_s + 1.5, "say", (rng.randrange(DRIVERS) + 1, 1.6))
    made.add(at_s + 3.0, "save")
    return at_s + 6.0


def _saved_meanwhile(made: Plan, rng: random.Random, driver: int, seated_s: float) -> float:
    """The driver's preferences change while the ECU says nothing to the last request."""
    made.add(0.0, "ecu", ("deaf",))
    made.add(seated_s + 0.5, "say", (driver + 1, 1.6))
    made.add(seated_s + rng.uniform(4.5, 8), "edit", driver)
    return seated_s + 16.0


def _saved(made: Plan, rng: random.Random, driver: int, seated_s: float) -> float:
    """The position is to be kept while it changes, while nobody tells it, or in peace."""
    made.add(seated_s + 0.5, "say", (driver + 1, 1.6))
    match rng.choice(("moving", "unreported", "adjusted")):
        case "moving":
            made.add(seated_s + rng.uniform(3.3, 5), "save")
        case "unreported":
            made.add(seated_s + 8.0, "ecu_cut", 8)
            made.add(seated_s + 13.0, "save")
        case _:
            _press(made, rng, seated_s + 10.0)
            made.add(seated_s + 17.0, "save")
            made.add(seated_s + 20.0, "choose", driver)
    return seated_s + 22.0


def _forgotten(made: Plan, rng: random.Random, driver: int, seated_s: float) -> float:
    """A driver is erased, with his wish waiting or served, and then comes up again."""
    if _chance(rng, 0.5):
        made.add(seated_s - 1.0, "car", {GEAR: 4, BRAKE: False})
        made.add(seated_s + 9.0, "car", {GEAR: PARK, BRAKE: True})
    made.add(seated_s + 0.5, "say", (driver + 1, 1.6))
    made.add(seated_s + rng.uniform(4, 8), "forget", driver)
    if _chance(rng, 0.5):
        made.add(seated_s + 12.0, "choose", driver)
    else:
        made.add(seated_s + 12.0, "listen")
    made.add(seated_s + 13.0, "say", (driver + 1, 1.6))
    return seated_s + 16.0


def _too_long_unsafe(made: Plan, rng: random.Random, driver: int, seated_s: float) -> float:
    """The minute passes before the car is safe; then the driver speaks again."""
    bad: dict[str, Any] = rng.choice(({GEAR: 4, BRAKE: False}, {OCCUPANCY: "UNKNOWN"}))
    seated = PARKED | {OCCUPANCY: "OCCUPIED"}
    made.add(seated_s + 0.1, "car", bad)
    made.add(seated_s + 0.5, "say", (driver + 1, 1.6))
    safe_s = seated_s + 68.0
    made.add(safe_s, "car", {path: seated[path] for path in bad})
    made.add(safe_s + rng.uniform(3, 5), "say", (driver + 1, 1.6))
    return safe_s + 8.0


def _not_watched(made: Plan, rng: random.Random, driver: int, seated_s: float) -> float:
    """The driver's wish waits for the brake when nothing is heard of the car for too long.

    The gateway is silent, or a sensor, or the daemon's connection; or the machine is suspended.
    """
    away_s, seconds = seated_s + 8.0, rng.choice((20, 28, 33))
    made.add(seated_s - 1.0, "car", {GEAR: 4, BRAKE: False})
    made.add(seated_s + 0.5, "say", (driver + 1, 1.6))
    match rng.choice(("car", "seat", "cut", "sleep", "sleep")):
        case "car":
            made.add(away_s, "lost", (None, seconds))
        case "seat":
            made.add(away_s, "lost", (OCCUPANCY, seconds))
        case kind:
            made.add(away_s, kind, seconds)
    made.add(away_s + seconds + 3.0, "car", {GEAR: PARK, BRAKE: True})
    if _chance(rng, 0.3):
        made.add(away_s + seconds + 5.0, "say", (rng.randrange(DRIVERS) + 1, 1.6))
    return away_s + seconds + 8.0


def _short_press(made: Plan, rng: random.Random, driver: int, seated_s: float) -> float:
    """A gateway of one signal a topic; the driver presses a switch for 0.2 s while he waits."""
    made.add(0.0, "apart")
    made.add(seated_s - 1.0, "car", {GEAR: 4, BRAKE: False})
    made.add(seated_s + 0.5, "say", (driver + 1, 1.6))
    pressed_s = seated_s + rng.uniform(4, 6)
    made.add(pressed_s, "car", {SWITCH: True})
    made.add(pressed_s + 0.2, "car", {SWITCH: False})
    made.add(pressed_s + 4.0, "car", {GEAR: PARK, BRAKE: True})
    return pressed_s + 8.0


def _saved_after_another(made: Plan, rng: random.Random, driver: int, seated_s: float) -> float:
    """Another driver speaks, the seat is moved by hand, and the position is to be kept."""
    other = (driver + rng.randrange(1, DRIVERS)) % DRIVERS
    made.add(seated_s + 0.5, "say", (driver + 1, 1.6))
    made.add(seated_s + 6.0, "say", (other + 1, 1.6))
    _press(made, rng, seated_s + 11.0)
    made.add(seated_s + 18.0, "save")
    if _chance(rng, 0.5):
        made.add(seated_s + 20.0, "choose", rng.choice((driver, other)))
        made.add(seated_s + 22.0, "save")
    return seated_s + 24.0


def _saved_unmoved(made: Plan, rng: random.Random, driver: int, seated_s: float) -> float:
    """Nothing moves in the whole trip, and the position is to be kept."""
    made.add(seated_s - 1.0, "car", {GEAR: 4, BRAKE: False})
    made.add(seated_s + 0.5, "say", (driver + 1, 1.6))
    made.add(seated_s + rng.uniform(5, 9), "save")
    return seated_s + 12.0


def _second_daemon(made: Plan, rng: random.Random, driver: int, seated_s: float) -> float:
    """A second daemon for the same car is started by hand, and hears the same people.

    The driver speaks before and after, and what he prefers waits for the brake or not.
    """
    made.add(seated_s - rng.uniform(0, 2), "second", 30)
    if _chance(rng, 0.5):
        made.add(seated_s - 1.0, "car", {GEAR: 4, BRAKE: False})
        made.add(seated_s + rng.uniform(14, 18), "car", {GEAR: PARK, BRAKE: True})
    spoken_s = seated_s + rng.uniform(0, 8)
    made.add(spoken_s, "say", (driver + 1, 1.6))
    made.add(spoken_s + rng.uniform(6, 9), "say", (driver + 1, 1.6))
    return seated_s + 22.0


_STORIES = (
    _long_without_daemon,
    _daemon_comes_back,
    _guest_and_voice,
    _saved_meanwhile,
    _saved,
    _forgotten,
    _too_long_unsafe,
    _not_watched,
    _short_press,
    _saved_after_another,
    _saved_unmoved,
    _second_daemon,
)


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
    kinds = ("", "choose", "nobody", "guest", "listen", "cancel", "save")
    match rng.choices(kinds, (64, 8, 2, 4, 8, 8, 6))[0]:
        case "choose":
            made.add(at_s, "choose", rng.randrange(DRIVERS))
        case "nobody":
            made.add(at_s, "choose", NOBODY)
        case "guest":
            made.add(at_s, "choose", None)
        case "listen":
            made.add(at_s, "listen")
            made.add(at_s + 1.5, "say", (rng.randrange(DRIVERS) + 1, 1.6))
            if _chance(rng, 0.4):
                made.add(at_s + 5.5, "say", (rng.randrange(DRIVERS) + 1, 1.6))
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
    if _chance(rng, 0.3) and not any(action.kind in FAULTS for action in made.actions):
        # The seat's contact flickers: that ends no trip at speed.
        made.add(off_s + 2.2, "car", {OCCUPANCY: "EMPTY"})
        made.add(off_s + 3.2, "car", {OCCUPANCY: "OCCUPIED"})
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
