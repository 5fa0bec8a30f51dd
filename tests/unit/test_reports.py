from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whodrives.trip.interlock import MAX_AGE_S
from whodrives.trip.reports import SILENCE_S, WRONG_CLOCK_S, CarReports
from whodrives.trip.types import LinkState, Tick
from whodrives.vehicle.state import Misdated, Reading, VehicleReport, VehicleState

NOTHING = "no reports from the car; let its gateway send `vehicle`, see docs/mqtt.md"
STOPPED = "no more reports from the car; see whether its gateway still sends `vehicle`"
PARKED: dict[str, float | bool] = {
    "speed_kmh": 0.0,
    "in_park": True,
    "door_open": False,
    "seat_occupied": True,
    "ignition_on": True,
}


class Road:
    """A minute after minute of a car's reports; notes every reason that is told."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.reports = CarReports()
        self.told: list[str] = [""]
        self.step(LinkState(self.now_s, connected=True))

    def step(self, news: LinkState | Tick | VehicleReport | Misdated) -> None:
        """One input."""
        self.reports.step(news)
        if self.reports.reason != self.told[-1]:
            self.told.append(self.reports.reason)

    def wait(self, seconds: float) -> None:
        """Nothing is reported."""
        for _ in range(round(seconds * 4)):
            self.now_s += 0.25
            self.step(Tick(self.now_s))

    def report(self, seconds: float, age_s: float = 0.0, **changes: float | bool | None) -> None:
        """The car reports once a second, `age_s` late."""
        for _ in range(round(seconds)):
            self.wait(1.0)
            facts = {name: v for name, v in (PARKED | changes).items() if v is not None}
            readings = {name: Reading(v, self.now_s - age_s) for name, v in facts.items()}
            state = VehicleState(**readings)  # type: ignore[arg-type]  # a table of mixed readings
            self.step(VehicleReport(self.now_s, state, age_s))

    def refuse(self, seconds: float, ahead_s: float) -> None:
        """The car reports once a second, too far ahead."""
        for _ in range(round(seconds)):
            self.wait(1.0)
            self.step(Misdated(self.now_s, ahead_s))


def test_a_car_that_reports_gives_no_reason() -> None:
    """Fresh reports of all that is needed, for ten minutes."""
    road = Road()
    road.report(600)
    assert road.told == [""]


@pytest.mark.parametrize(
    ("age_s", "said"),
    [
        (2.5, "2 s old"),
        (4.0, "4 s old"),
        (60.0, "60 s old"),
        (3600.0, "60 min old"),
        (1.8e9, "20833 days old"),
    ],
)
def test_a_clock_that_is_behind_is_told_once_and_recovers(age_s: float, said: str) -> None:
    """After a few seconds, with the age and the fix; gone with the first right report."""
    road = Road()
    road.report(5)
    road.report(WRONG_CLOCK_S, age_s)
    assert road.told == [""]
    road.report(600, age_s)
    assert road.told == ["", f"the car's reports are {said}; set both clocks by one source"]
    road.report(1)
    assert road.reports.reason == ""


@pytest.mark.parametrize(("ahead_s", "said"), [(1.2, "1 s"), (4.0, "4 s"), (600.0, "10 min")])
def test_a_clock_that_is_ahead_is_told_once_and_recovers(ahead_s: float, said: str) -> None:
    """What was refused because it lies in the future is a wrong clock as well."""
    road = Road()
    road.refuse(600, ahead_s)
    fix = "set both clocks by one source"
    assert road.told == ["", f"the car's reports are {said} in the future; {fix}"]
    road.report(1)
    assert road.reports.reason == ""


@given(st.lists(st.floats(2.1, 100.0), min_size=300, max_size=300))
def test_an_age_that_differs_from_report_to_report_is_not_told_each_time(ages: list[float]) -> None:
    """One signal a topic, each with the time of its last change: one status in half a minute."""
    road = Road()
    for age_s in ages:
        road.report(1, age_s)
    assert len(road.told) <= 2 + 300 / SILENCE_S


def test_a_queue_of_old_reports_is_no_wrong_clock() -> None:
    """A gateway that was away sends a minute's reports at once, and then goes on."""
    road = Road()
    for late_s in range(60, 2, -1):
        road.step(VehicleReport(road.now_s, VehicleState(), float(late_s)))
    road.report(10)
    assert road.told == [""]


def test_a_car_that_never_reports_is_told() -> None:
    """No gateway at all: told after half a minute, and not before."""
    road = Road()
    road.wait(SILENCE_S)
    assert road.told == [""]
    road.wait(600)
    assert road.told == ["", NOTHING]
    road.report(1)
    assert road.told == ["", NOTHING, ""]


def test_a_retained_report_of_yesterday_is_no_report() -> None:
    """What the broker kept is heard once: neither a wrong clock nor a car that reports."""
    road = Road()
    road.report(1, 86_400.0)
    road.wait(600)
    assert road.told == ["", STOPPED]


def test_reports_that_stop_while_the_ignition_is_on_are_told_in_one_sentence() -> None:
    """A gateway dies on the road: told after half a minute, once."""
    road = Road()
    road.report(60)
    road.wait(SILENCE_S)
    assert road.told == [""]
    road.wait(600)
    assert road.told == ["", STOPPED]


def test_a_car_that_sleeps_is_well() -> None:
    """Ignition off, and silence for a week; awake again it is expected to report."""
    road = Road()
    road.report(60)
    road.report(5, ignition_on=False)
    road.wait(3600)
    road.step(Tick(road.now_s + 7 * 86_400.0))
    assert road.told == [""]
    road.now_s += 7 * 86_400.0
    road.report(10)
    assert road.told == [""]
    road.wait(SILENCE_S + MAX_AGE_S + 1)
    assert road.told == ["", STOPPED]


def test_a_sleeping_car_may_report_less() -> None:
    """With the ignition off the seat's controller may sleep: nothing is missing."""
    road = Road()
    road.report(120, ignition_on=False, seat_occupied=None, speed_kmh=None)
    assert road.told == [""]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("speed_kmh", "speed"),
        ("in_park", "gear or parking brake"),
        ("door_open", "driver's door"),
        ("seat_occupied", "driver's seat"),
        ("ignition_on", "ignition"),
    ],
)
def test_what_the_reports_do_not_tell_is_named(name: str, said: str) -> None:
    """A signal that the gateway does not send, or only with null, is named."""
    road = Road()
    without: dict[str, Any] = {name: None}
    road.report(SILENCE_S + MAX_AGE_S + 1, **without)
    assert road.told == [
        "",
        f"the car's reports do not tell: {said}; see `vehicle` in docs/mqtt.md",
    ]


def test_a_gap_of_some_seconds_is_not_told() -> None:
    """A gateway that restarts every minute makes no status flap."""
    road = Road()
    for _ in range(10):
        road.report(30)
        road.wait(SILENCE_S - 2)
    assert road.told == [""]


def test_the_time_without_a_broker_is_not_the_car_s() -> None:
    """Nothing can be heard while the broker is away; half a minute starts when it is back."""
    road = Road()
    road.report(5)
    road.step(LinkState(road.now_s, connected=False))
    road.wait(600)
    road.step(LinkState(road.now_s, connected=True))
    road.wait(SILENCE_S - 1)
    road.report(5)
    assert road.told == [""]
