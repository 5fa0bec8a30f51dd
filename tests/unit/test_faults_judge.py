"""The judge of the fault campaign, on records made by hand: what must be noticed, and what not."""

import random
from dataclasses import replace
from typing import Any

import pytest
from judge import MIRRORS, SEAT_GROUP, Asked, Began, Record, violations
from trips import DOOR, FAULTS, IGNITION, OCCUPANCY, PARKED, SPEED, plan

ANNA, TOM = "d-1", "d-2"
BOTH = frozenset({SEAT_GROUP, MIRRORS})
SAFE: dict[str, Any] = {**PARKED, OCCUPANCY: "OCCUPIED", IGNITION: "ON"}


def _asked(at_s: float, driver: str = ANNA, **changes: Any) -> Asked:
    return replace(Asked(at_s + 0.1, at_s, 3.0, "r-1", driver, BOTH), **changes)


def _record(**changes: Any) -> Record:
    """A trip of 40 s in which Anna speaks at 5 s and is served at 8 s."""
    made = Record("car", 0, 0, 0.0, 40.0)
    made.readings = [(at / 2, dict(SAFE)) for at in range(80)]
    made.spoken = [(5.0, 7.0, ANNA)]
    made.asked = [_asked(8.0)]
    made.began = [Began(8.2, "r-1", ANNA, group) for group in (SEAT_GROUP, MIRRORS)]
    made.settled = [(8.0, ANNA, 7.5)]
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def _kinds(record: Record) -> set[str]:
    return {violation.kind for violation in violations(record)}


def test_a_good_trip_is_good() -> None:
    """Nothing is found where nothing is wrong."""
    assert _kinds(_record()) == set()


def _all_the_way(**change: Any) -> list[tuple[float, dict[str, Any]]]:
    return [(at / 2, SAFE | change) for at in range(80)]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("unsafe", {"readings": _all_the_way(**{SPEED: 1.0})}),
        ("unsafe", {"readings": _all_the_way(**{DOOR: True})}),
        ("unsafe", {"readings": _all_the_way(**{OCCUPANCY: "UNKNOWN"})}),
        ("unsafe", {"readings": [(at_s, said) for at_s, said in _all_the_way() if at_s < 5]}),
        ("unknown", {"spoken": [(5.0, 7.0, None)]}),
        ("unknown", {"spoken": [(9.0, 11.0, ANNA)]}),
        ("stale", {"asked": [_asked(8.0, good_s=120.0)]}),
        ("stale", {"asked": [_asked(8.0), _asked(39.0)], "spoken": [(-40.0, -38.0, ANNA)]}),
        ("retained", {"asked": [_asked(8.0, retained=True)]}),
        ("touched", {"asked": [_asked(20.0)], "acts": [(10.0, "manual_told", None)]}),
        ("cancelled", {"asked": [_asked(20.0)], "acts": [(11.0, "cancel_done", None)]}),
        ("doubled", {"began": [Began(at_s, "r", ANNA, SEAT_GROUP) for at_s in (8.0, 12.0)]}),
        (
            "passenger",
            {
                "spoken": [(5.0, 7.0, ANNA), (12.0, 14.0, TOM)],
                "asked": [_asked(8.0), _asked(15.0, TOM)],
            },
        ),
        ("unasked", {"asked": [_asked(30.0)], "faults": [(9.0, 29.0, "kill")]}),
        ("undelivered", {"began": [], "asked": []}),
        ("undelivered", {"began": [], "asked": [_asked(8.0)]}),
        ("died", {"died": ["a traceback"]}),
    ],
)
def test_what_is_wrong_is_noticed(kind: str, changes: dict[str, Any]) -> None:
    """Each kind of violation, made by hand, is found."""
    assert kind in _kinds(_record(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"began": [], "asked": [], "faults": [(6.0, 39.0, "cut")]},
        {"began": [], "asked": [], "misbehaviour": ("deaf",)},
        {"began": [], "asked": [], "late_s": 9.0},
        {"began": [], "asked": [], "acts": [(9.0, "cancel", None)]},
        {"spoken": [(2.0, 2.4, ANNA), (5.0, 7.0, ANNA)], "acts": [(3.0, "cancel_done", None)]},
        {"readings": [(at_s, said) for at_s, said in _all_the_way() if not 6.5 < at_s < 8.0]},
    ],
)
def test_what_nobody_can_help_is_no_fault(changes: dict[str, Any]) -> None:
    """A network that was gone, a deaf ECU, a slow machine, a person's will."""
    assert _kinds(_record(**changes)) == set()


def test_a_plan_is_its_seed() -> None:
    """The same seed gives the same trip; among many, every kind of fault."""
    plans = [plan(random.Random(seed)) for seed in range(300)]  # noqa: S311
    assert plans[:20] == [plan(random.Random(seed)) for seed in range(20)]  # noqa: S311
    kinds = {deed.kind for made in plans for deed in made.deeds}
    assert kinds >= {*FAULTS, "car", "say", "choose", "listen", "cancel", "save", "switch", "ecu"}
    assert all(deed.at_s < made.length_s for made in plans for deed in made.deeds)
