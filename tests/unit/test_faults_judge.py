"""The judge of the fault campaign, on records made by hand: what must be noticed, and what not."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tools.faults import records
from tools.faults.judge import (
    MIRRORS,
    SEAT_GROUP,
    Asked,
    Began,
    Gone,
    Preferred,
    Record,
    Result,
    Said,
    violations,
)
from tools.faults.mutants import MUTANTS, UNREACHED, row_name, table
from tools.faults.trips import (
    DOOR,
    FAULTS,
    IGNITION,
    OCCUPANCY,
    PARKED,
    SPEED,
    SWITCH,
    plan,
)
from whodrives.trip.interlock import RULES
from whodrives.trip.table import TABLE

REPOSITORY = Path(__file__).parents[2]
ANNA, TOM = "d-1", "d-2"
BOTH = (MIRRORS, SEAT_GROUP)
SAFE: dict[str, Any] = {**PARKED, OCCUPANCY: "OCCUPIED", IGNITION: "ON"}
PLACE = "Vehicle.Cabin.Seat.Row1.DriverSide.Position"
MINE = {ANNA: {PLACE: 20.0}, TOM: {PLACE: 70.0}}


def _asked(at_s: float, driver: str = ANNA, **changes: Any) -> Asked:
    made = Asked(at_s + 0.1, at_s, 3.0, "r-1", driver, MINE[driver], BOTH)
    return replace(made, **changes)


def _began(at_s: float, driver: str = ANNA) -> list[Began]:
    return [Began(at_s, "r-1", driver, group) for group in BOTH]


def _readings(*changes: tuple[float, dict[str, Any]]) -> list[tuple[float, dict[str, Any]]]:
    """Twice a second all is well; from each of these moments on, this is so instead."""
    said = []
    for half in range(84):
        changed = [change for at_s, change in changes if at_s <= half / 2]
        said.append((half / 2, SAFE | (changed[-1] if changed else {})))
    return said


def _record(**changes: Any) -> Record:
    """A trip of 45 s in which Anna speaks at 5 s and is served at 8 s; she leaves at 42 s."""
    made = Record("car", 0, 0, 0.0, 45.0)
    made.readings = [*_readings(), *((42 + at / 2, dict(PARKED)) for at in range(7))]
    made.spoken = [(5.0, 7.0, ANNA)]
    made.asked = [_asked(8.0)]
    made.said = [Said(8.3, "r-1", "accepted", ""), Said(12.0, "r-1", "completed", "")]
    made.began = _began(8.2)
    made.assigned = [(8.0, ANNA, 7.5)]
    made.shown = [(0.0, None), (8.0, ANNA), (42.5, None)]
    made.preferred = [Preferred(0.0, driver, (values,)) for driver, values in MINE.items()]
    for name, value in changes.items():
        setattr(made, name, value)
    return made


NEVER_SERVED: dict[str, Any] = {"began": [], "asked": [], "said": []}
HELD = Said(20.1, "r-1", "completed", "")


def _kinds(record: Record) -> set[str]:
    return {violation.kind for violation in violations(record)}


def test_a_good_trip_is_good() -> None:
    """Nothing is found where nothing is wrong."""
    assert _kinds(_record()) == set()


UNANSWERED: dict[str, Any] = {"said": [], "began": [], "misbehaviour": ("deaf",)}
"""An ECU that says nothing to what it is asked; what is live then is withdrawn at the end."""

WITHDRAWN: dict[str, Any] = {**UNANSWERED, "withdrawn": [(42.4, "r-1", "trip_over")]}


SPOKE_AGAIN: dict[str, Any] = {
    "shown": [(0.0, ANNA), (42.5, None)],
    "spoken": [(2.0, 2.4, TOM), (10.0, 12.0, ANNA)],
    **NEVER_SERVED,
}
"""The trip before this record assigned Anna; now she speaks again."""


SPOKE_AFTER: dict[str, Any] = {"spoken": [(5.0, 7.0, ANNA), (15.0, 17.0, TOM)]}
"""Anna is assigned, and then Tom speaks."""


def _done(at_s: float, kind: str, driver: str | None = None) -> Result:
    return Result(at_s, kind, driver, at_s + 0.3)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("unsafe", {"readings": _readings((0.0, {SPEED: 1.0}))}),
        ("unsafe", {"readings": _readings((0.0, {DOOR: True}))}),
        ("unsafe", {"readings": _readings((0.0, {OCCUPANCY: "UNKNOWN"}))}),
        ("unsafe", {"readings": [(t, said) for t, said in _readings() if t < 5]}),
        # It stood 1.5 s ago, but the daemon was told since that it moves.
        ("unsafe", {"readings": _readings((6.4, {SPEED: 1.0}))}),
        ("unknown", {"spoken": [(5.0, 7.0, None)]}),
        ("unknown", {"spoken": [(9.0, 11.0, ANNA)]}),
        ("unknown", {"spoken": [], "commands": [Result(4.0, "choose", ANNA, 4.2, "no_trip")]}),
        ("stale", {"asked": [_asked(8.0, good_s=120.0)]}),
        ("stale", {"asked": [_asked(8.0, kept_s=None)]}),
        ("stale", {"asked": [replace(_asked(8.0), at_s=11.0)]}),
        ("stale", {"down": [(5.0, 20.0)], "deaf": [(5.0, 20.0)]}),
        ("stale", {"asked": [_asked(8.0), _asked(39.0)], "spoken": [(-40.0, -38.0, ANNA)]}),
        ("stale", {"asked": [_asked(20.0)], "readings": _readings((11, {SPEED: 9.0}), (13, {}))}),
        # Speech is no new wish once something was asked for.
        (
            "stale",
            {
                "spoken": [(-80.0, -78.0, ANNA), (30.0, 32.0, ANNA)],
                "asked": [_asked(2.0), _asked(35.0)],
            },
        ),
        ("retained", {"asked": [_asked(8.0, retained=True)]}),
        ("touched", {"asked": [_asked(20.0)], "said": [Said(10.0, "r-1", "aborted", "manual")]}),
        ("touched", {"asked": [_asked(20.0)], "readings": _readings((10, {SWITCH: True}))}),
        ("cancelled", {"asked": [_asked(20.0)], "commands": [_done(11.0, "cancel")]}),
        ("replaced", {"asked": [_asked(20.0)], "commands": [_done(11.0, "choose", TOM)]}),
        ("replaced", {"asked": [_asked(20.0)], "commands": [_done(11.0, "choose")]}),
        (
            "replaced",
            {
                "asked": [_asked(30.0)],
                "commands": [_done(11.0, "listen")],
                "spoken": [(5.0, 7.0, ANNA), (12.0, 14.0, TOM), (24.0, 26.0, ANNA)],
            },
        ),
        ("forgotten", {"asked": [_asked(20.0)], "commands": [_done(11.0, "forget", ANNA)]}),
        ("forgotten", {"commands": [_done(11.0, "forget", ANNA)]}),
        ("values", {"asked": [_asked(8.0, signals=MINE[TOM])]}),
        (
            "values",
            {"preferred": [*_record().preferred, Preferred(6.0, ANNA, ({PLACE: 90.0},))]},
        ),
        ("answered", {"asked": [_asked(8.0), _asked(13.0)]}),
        (
            "answered",
            {
                "asked": [_asked(8.0), _asked(13.0)],
                "said": [Said(8.3, "r-1", "rejected", "locked")],
            },
        ),
        ("doubled", {"asked": [_asked(8.0), _asked(10.0)]}),
        ("doubled", {"began": [*_began(8.2), *_began(12.0)]}),
        (
            "doubled",
            {"began": [*_began(8.2), *_began(12.0)], "commands": [_done(10.0, "save")]},
        ),
        (
            "passenger",
            {
                "spoken": [(5.0, 7.0, ANNA), (12.0, 14.0, TOM)],
                "asked": [_asked(8.0), _asked(15.0, TOM)],
            },
        ),
        (
            "passenger",
            {
                "acts": [(4.0, "key", TOM)],
                "asked": [_asked(8.0), _asked(15.0, TOM)],
            },
        ),
        (
            "unasked",
            {
                "asked": [_asked(30.0)],
                "gone": [Gone(15.0, 26.0, 14.5)],
                "deaf": [(15.0, 27.0)],
            },
        ),
        # A voice takes no place that was emptied, either.
        (
            "unasked",
            {
                "asked": [_asked(33.0)],
                "gone": [Gone(15.0, 26.0, 14.5)],
                "deaf": [(15.0, 27.0)],
                "spoken": [(5.0, 7.0, ANNA), (30.0, 32.0, ANNA)],
            },
        ),
        # Nothing was heard of the car for 15 s, or not of the seat, or the daemon was asleep.
        (
            "unasked",
            {
                "asked": [_asked(8.0), _asked(33.0)],
                "readings": [r for r in _record().readings if not 12.0 < r[0] < 27.0],
            },
        ),
        (
            "unasked",
            {
                "asked": [_asked(8.0), _asked(33.0)],
                "readings": _readings((12.0, {OCCUPANCY: "UNKNOWN"}), (27.0, {})),
            },
        ),
        ("unasked", {"asked": [_asked(8.0), _asked(33.0)], "deaf": [(12.0, 27.0)]}),
        # It heard when it assigned the driver, and heard nothing after the broker was killed.
        (
            "unasked",
            {
                "asked": [_asked(8.0), _asked(36.0)],
                "deaf": [(-20.0, 31.0)],
                "faults": [(12.0, 15.0, "broker")],
            },
        ),
        ("unstopped", UNANSWERED),
        ("unstopped", {**WITHDRAWN, "commands": [_done(15.0, "cancel")]}),
        ("unstopped", {**WITHDRAWN, "commands": [_done(15.0, "choose", TOM)]}),
        (
            "unstopped",
            {**WITHDRAWN, "gone": [Gone(15.0, 26.0, 14.5)], "deaf": [(15.0, 27.0)]},
        ),
        ("unanswered", {"commands": [Result(15.0, "save", None)]}),
        ("misruled", {"commands": [_done(15.0, "choose", "d-0")]}),
        (
            "misruled",
            {"commands": [_done(11.0, "forget", ANNA), _done(20.0, "choose", ANNA)]},
        ),
        (
            "misruled",
            {
                "readings": [(0.0, dict(PARKED)), (0.5, dict(PARKED)), *_readings()[6:]],
                "commands": [_done(1.8, "listen")],
            },
        ),
        ("misruled", {"commands": [_done(15.0, "save")], "moving": [(10.0, 20.0)]}),
        ("misruled", {"commands": [_done(15.0, "save")], "ecu_deaf": [(10.0, 20.0)]}),
        ("misruled", {"commands": [_done(4.0, "save")]}),
        ("misruled", {"commands": [_done(30.0, "save")], **SPOKE_AFTER}),
        ("misruled", {"commands": [_done(15.0, "save")], **NEVER_SERVED}),
        ("lingered", {"shown": [(0.0, None), (8.0, ANNA)]}),
        ("undelivered", {**NEVER_SERVED}),
        ("undelivered", {"began": [], "said": [], "withdrawn": [(42.4, "r-1", "trip_over")]}),
        ("undelivered", {**NEVER_SERVED, "assigned": [], "shown": []}),
        ("undelivered", {"began": _began(8.2)[:1]}),
        # Mirrors move with the door open.
        (
            "undelivered",
            {
                "readings": _readings((3.0, {DOOR: None})),
                **NEVER_SERVED,
            },
        ),
        # What a hand on the head unit chose is delivered, too.
        ("undelivered", {"commands": [_done(15.0, "choose", TOM)]}),
        (
            "undelivered",
            {
                "commands": [_done(15.0, "listen")],
                "spoken": [(5.0, 7.0, ANNA), (16.0, 18.0, TOM)],
            },
        ),
        (
            "undelivered",
            {
                "acts": [(3.0, "key", TOM)],
                "spoken": [],
                **NEVER_SERVED,
                "assigned": [],
            },
        ),
        # The minute has passed with nothing asked for, and then the driver speaks again.
        ("undelivered", {**SPOKE_AGAIN, "assigned": [(0.0, ANNA, -65.0)]}),
        # A daemon that was away for less than 10 s goes on.
        (
            "undelivered",
            {
                **NEVER_SERVED,
                "gone": [Gone(9.0, 16.0, 8.5)],
                "deaf": [(9.0, 17.0)],
            },
        ),
        # A machine that is a little late has a little more time.
        ("undelivered", {**NEVER_SERVED, "late_s": 1.2}),
        ("died", {"died": ["a traceback"]}),
    ],
)
def test_what_is_wrong_is_noticed(kind: str, changes: dict[str, Any]) -> None:
    """Each kind of violation, made by hand, is found."""
    assert kind in _kinds(_record(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {**NEVER_SERVED, "deaf": [(6.0, 44.0)]},
        {**NEVER_SERVED, "ecu_deaf": [(6.0, 44.0)]},
        WITHDRAWN,
        {**NEVER_SERVED, "late_s": 9.0},
        {
            **NEVER_SERVED,
            "commands": [_done(9.0, "cancel")],
        },
        {"spoken": [(2.0, 2.4, ANNA), (5.0, 7.0, ANNA)], "commands": [_done(3.0, "cancel")]},
        {"readings": [r for r in _record().readings if not 6.5 < r[0] < 8.0]},
        # That a value is not known does not take the last one back, until that is too old.
        {"readings": [*_readings((7.0, {OCCUPANCY: "UNKNOWN"}))[:18], *_record().readings[18:]]},
        # Who drives was asked, and then the position was saved; or it is refused.
        {"commands": [_done(20.0, "choose", ANNA), _done(34.0, "save")], **SPOKE_AFTER},
        {"commands": [Result(30.0, "save", None, 30.3, "other_voice")], **SPOKE_AFTER},
        # A silence of 8 s changes nothing.
        {
            "asked": [_asked(8.0), _asked(33.0)],
            "said": [Said(8.3, "r-1", "rejected", "standing"), Said(33.3, "r-1", "completed", "")],
            "readings": [r for r in _record().readings if not 12.0 < r[0] < 20.0],
        },
        # A hand on the seat's switch ends one request for both; the mirrors are asked anew.
        {
            "acts": [(9.0, "switch", None)],
            "began": [*_began(8.2), Began(9.5, "r-2", ANNA, MIRRORS)],
        },
        # The ECU cannot say which group of a request the hand has moved.
        {
            "acts": [(6.0, "switch", None)],
            "began": [],
            "said": [Said(8.3, "r-1", "rejected", "manual")],
        },
        # Nothing is asked for in a car that moved since the driver spoke.
        {
            **NEVER_SERVED,
            "readings": [
                *_readings((7.0, {SPEED: 9.0}), (9.0, {})),
                *_record().readings[84:],
            ],
        },
        {
            **NEVER_SERVED,
            "gone": [Gone(9.0, 19.5, 8.5)],
            "deaf": [(9.0, 20.0)],
        },
        # The last that was heard of the car before the driver spoke is that it moved.
        {
            **NEVER_SERVED,
            "readings": [*_readings((1.0, {SPEED: 9.0}), (3.0, {})), *_record().readings[84:]],
            "deaf": [(2.0, 5.5)],
        },
        # Within the minute something may have been asked for, and was lost.
        {**SPOKE_AGAIN, "assigned": [(0.0, ANNA, -20.0)]},
        {"commands": [Result(4.0, "save", None, 4.3, "no_driver")]},
        # What the ECU's network held is too old to be believed: an answer, a hand on the switch.
        {"asked": [_asked(8.0), _asked(22.1)], "ecu_deaf": [(8.2, 20.0)], "said": [HELD]},
        {
            "asked": [_asked(8.0), _asked(22.1, request="r-2")],
            "ecu_deaf": [(12.1, 20.0)],
            "said": [
                *_record().said,
                replace(HELD, request="r-0", status="rejected", reason="manual"),
                Said(22.5, "r-2", "completed", ""),
            ],
        },
        # Who leaves and comes back is served again.
        {
            "readings": [*_readings((20.0, PARKED), (22.0, {})), *_record().readings[84:]],
            "began": [*_began(8.2), *_began(26.0)],
        },
        # Told after a step of the calendar, a settling may be older than it says.
        {
            **NEVER_SERVED,
            "spoken": [],
            "assigned": [(25.0, ANNA, 25.0)],
            "shown": [(0.0, None), (25.0, ANNA), (42.5, None)],
            "faults": [(6.0, 8.0, "step")],
        },
        {
            "asked": [_asked(8.0), _asked(12.1)],
            "said": [Said(8.3, "r-1", "rejected", "standing"), *_record().said[1:]],
        },
        # The monitor had missed the greeting of a daemon that heard, until the next restart.
        {
            "asked": [_asked(8.0), _asked(33.0)],
            "deaf": [(-20.0, 27.0)],
            "faults": [(22.0, 25.0, "broker")],
            "down": [(22.3, 26.0)],
        },
    ],
)
def test_what_nobody_can_help_is_no_fault(changes: dict[str, Any]) -> None:
    """A network that was gone, a deaf ECU, a slow machine, a person's will."""
    assert _kinds(_record(**changes)) == set()


@pytest.mark.parametrize(
    ("lived_s", "late_s", "found"),
    [(3.0, 0.0, set()), (17.0, 0.0, {"second"}), (17.0, 1.0, set()), (30.0, 1.0, {"second"})],
)
def test_a_second_daemon_must_end_at_once(lived_s: float, late_s: float, found: set[str]) -> None:
    """It may need time to start, on a late machine more; it must not live beside the first."""
    record = _record(others=[(5.0, 5.0 + lived_s)], late_s=late_s)
    assert {violation.kind for violation in violations(record)} == found


def test_a_plan_is_its_seed() -> None:
    """The same seed gives the same trip; among many, every kind of action and fault."""
    plans = [plan(random.Random(seed)) for seed in range(300)]  # noqa: S311
    assert plans[:20] == [plan(random.Random(seed)) for seed in range(20)]  # noqa: S311
    kinds = {action.kind for made in plans for action in made.actions}
    people = {"car", "say", "choose", "listen", "cancel", "save", "forget", "switch"}
    assert kinds >= {*FAULTS, *people, "ecu"}
    assert all(action.at_s < made.length_s for made in plans for action in made.actions)


def test_what_is_kept_is_judged_alike(tmp_path: Path) -> None:
    """A record that was kept is the record, and a file that was cut loses its last one only."""
    wrong = _record(asked=[_asked(8.0, good_s=120.0)], commands=[_done(15.0, "save")])
    for record in (wrong, _record()):
        records.keep(tmp_path, 0, record)
    assert list(records.kept(tmp_path)) == [wrong, _record()]
    file = tmp_path / "records-0.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-20])
    assert list(records.kept(tmp_path)) == [wrong]
    records.tell(tmp_path, wrong, violations(wrong))
    assert "stale" in (tmp_path / "car-0.txt").read_text()


def test_every_rule_has_a_mutant() -> None:
    """Every condition and every row can be broken, or it is said why no input reaches it."""
    conditions = {f"{group}-{rule.name}" for group, rules in RULES.items() for rule in rules}
    rows = {row_name(row) for row in TABLE}
    assert len(rows) == len(TABLE)
    assert conditions | rows <= {*MUTANTS, *UNREACHED}
    assert set(UNREACHED) <= rows - set(MUTANTS)


def test_every_broken_rule_was_noticed_but_one_and_the_docs_say_by_what() -> None:
    """The newest result has every mutant, and docs/faults.md shows by what each was noticed."""
    folder = REPOSITORY / "tools" / "faults" / "results"
    newest = max(folder.glob("*-mutants.json"))
    mutants = json.loads(newest.read_text())["mutants"]
    assert set(mutants) == set(MUTANTS)
    missed = [name for name, found in mutants.items() if not found["violations"]]
    assert missed == ["closed+open+unassigned-no_reports"]
    assert table(mutants) in (REPOSITORY / "docs" / "faults.md").read_text()


def test_every_drill_that_the_docs_name_exists() -> None:
    """The table of faults promises nothing that no test shows."""
    named = set(re.findall(r"`(test_\w+)`", (REPOSITORY / "docs" / "faults.md").read_text()))
    tests = "".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    assert named
    assert {name for name in named if f"def {name}(" not in tests} == set()
