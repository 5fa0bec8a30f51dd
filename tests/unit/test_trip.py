from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from whodrives.domain import (
    Apply,
    Delivery,
    DriverState,
    Evidence,
    Household,
    Input,
    LinkState,
    Listen,
    Outcome,
    Profile,
    Reading,
    Tick,
    VehicleReport,
    VehicleState,
    Verdict,
)
from whodrives.interlock import refusals
from whodrives.trip import LISTEN_S, WANTED_S, Trip
from whodrives.vss import Group, group_of

SEAT = "Vehicle.Cabin.Seat.Row1.DriverSide.Position"
MIRROR = "Vehicle.Body.Mirrors.DriverSide.Tilt"
ANN, BEN, CLEO = "d-ann", "d-ben", "d-cleo"
PREFERENCES = {
    ANN: {SEAT: 120.0, MIRROR: 10.0},
    BEN: {SEAT: 200.0, MIRROR: -5.0},
    CLEO: {},
}


def _household(*names: str) -> Household:
    none = np.zeros((1, 2), np.float32)
    return Household(0.0, tuple(Profile(n, none, "", 20.0, PREFERENCES[n]) for n in names))


class Drive:
    """One car, told second by second: it repeats all it knows with every step of time.

    Attributes:
        facts: what the car reports now; remove one and the car no longer speaks of it.
        applied: every `Apply` so far.
        state: the last `DriverState`.
    """

    def __init__(self, *, connected: bool = True) -> None:
        self.now_s = 100.0
        self.trip = Trip()
        self.facts: dict[str, float | bool] = {
            "speed_kmh": 0.0,
            "in_park": True,
            "door_open": True,
            "seat_occupied": False,
            "ignition_on": False,
        }
        self.vehicle = VehicleState()
        self.applied: list[Apply] = []
        self.state = DriverState(0.0)
        self.tell(_household(ANN, BEN, CLEO))
        self.tell(LinkState(self.now_s, connected=connected))

    def tell(self, news: Input) -> None:
        """Give the trip one input and note what follows."""
        if isinstance(news, VehicleReport):
            self.vehicle = self.vehicle.updated(news.state)
        self._note(self.trip.step(news))

    def says(self, driver: str | None, outcome: Outcome = Outcome.KNOWN) -> None:
        """Somebody speaks, half a second after the last thing that happened."""
        self.now_s += 0.5
        evidence = Evidence((), 2.0, 15.0, self.now_s)
        self._note(self.trip.heard(Verdict(outcome, driver, evidence, 0.99), self.now_s))

    def car(self, **facts: float | bool) -> None:
        """The car's facts change; a second passes."""
        self.facts.update(facts)
        self.wait(1.0)

    def wait(self, seconds: float) -> None:
        """Time passes, with a report of the car each second."""
        for _ in range(round(seconds)):
            self.now_s += 1.0
            said: Any = {name: Reading(fact, self.now_s) for name, fact in self.facts.items()}
            self.tell(VehicleReport(self.now_s, VehicleState(**said)))

    def get_in(self) -> None:
        """Somebody sits down, closes the door and switches on."""
        self.car(seat_occupied=True)
        self.car(door_open=False)
        self.car(ignition_on=True)

    def get_out(self) -> None:
        """The driver switches off and leaves."""
        self.car(ignition_on=False, speed_kmh=0.0, in_park=True)
        self.car(door_open=True)
        self.car(seat_occupied=False)

    def drive_off(self) -> None:
        """Out of Park, and away."""
        self.car(in_park=False)
        self.car(speed_kmh=30.0)

    def stop_in_park(self) -> None:
        """The car stands, in Park."""
        self.car(speed_kmh=0.0)
        self.car(in_park=True)

    def _note(self, events: tuple[Apply | DriverState, ...]) -> None:
        for event in events:
            if isinstance(event, Apply):
                self.applied.append(event)
                assert set(event.signals) <= set(PREFERENCES[event.driver])
                for path in event.signals:
                    assert refusals(group_of(path), self.vehicle, event.at_s) == ()
            else:
                self.state = event

    @property
    def shown(self) -> tuple[str | None, Delivery, tuple[str, ...]]:
        """What the car is told of the driver: who, what became of the preferences, and why."""
        return self.state.driver, self.state.delivery, self.state.waiting_for

    @property
    def asked(self) -> list[str]:
        """For whom something was asked, in order."""
        return [apply.driver for apply in self.applied]


def test_driver_gets_in_and_speaks() -> None:
    """The first known voice of an open trip settles it; everything is asked for, in one request."""
    drive = Drive()
    drive.get_in()
    assert drive.state.trip_open
    assert drive.state.driver is None
    drive.says(ANN)
    assert [(a.driver, dict(a.signals)) for a in drive.applied] == [(ANN, PREFERENCES[ANN])]
    assert drive.shown == (ANN, Delivery.REQUESTED, ())
    assert (drive.state.since_s, drive.state.probability) == (drive.now_s, 0.99)


def test_driver_speaks_again_and_again() -> None:
    """The same driver recognised again causes nothing, and nothing is published twice."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    settled = drive.state
    for _ in range(5):
        drive.says(ANN)
        drive.wait(1)
    assert drive.asked == [ANN]
    assert drive.state == settled


def test_passenger_talks_later() -> None:
    """Another enrolled voice later in the trip moves nothing and is not called the driver."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    for _ in range(3):
        drive.says(BEN)
    drive.drive_off()
    drive.says(BEN)
    drive.stop_in_park()
    drive.says(BEN)
    assert drive.asked == [ANN]
    assert drive.state.driver == ANN


def test_guest_drives() -> None:
    """A voice that nobody knows settles nothing; the driver stays unknown to the end."""
    drive = Drive()
    drive.get_in()
    for outcome in (Outcome.UNKNOWN, Outcome.AMBIGUOUS, Outcome.INSUFFICIENT_SPEECH):
        drive.says(None, outcome)
    assert drive.applied == []
    assert drive.state.trip_open
    assert drive.state.driver is None


def test_radio_all_the_way() -> None:
    """An hour of unknown voices, standing and moving, asks for nothing."""
    drive = Drive()
    drive.get_in()
    for _ in range(10):
        drive.says(None, Outcome.UNKNOWN)
        drive.drive_off()
        drive.says(None, Outcome.UNKNOWN)
        drive.stop_in_park()
    assert drive.applied == []


def test_driver_swaps_at_fuel_stop() -> None:
    """Getting out ends the trip; the next driver is settled and served in a new one."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.drive_off()
    drive.get_out()
    assert not drive.state.trip_open
    assert drive.state.driver is None
    drive.get_in()
    drive.says(BEN)
    assert drive.asked == [ANN, BEN]
    assert drive.state.driver == BEN


@pytest.mark.parametrize(
    "missing", [{"door_open": True}, {"seat_occupied": False}, {"ignition_on": False}]
)
def test_talk_before_the_trip_is_open(missing: dict[str, bool]) -> None:
    """Door open, seat empty or ignition off: no trip, and a known voice causes nothing, ever."""
    drive = Drive()
    facts = {"door_open": False, "seat_occupied": True, "ignition_on": True, **missing}
    drive.car(**facts)
    drive.says(ANN)
    assert not drive.state.trip_open
    drive.get_in()
    assert drive.applied == []
    assert drive.state.driver is None


@pytest.mark.parametrize("closing", ["door_open", "seat_occupied", "ignition_on"])
def test_each_of_three_things_ends_the_trip(closing: str) -> None:
    """Door, seat or ignition alone ends the trip of a standing car."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.car(**{closing: not drive.facts[closing]})
    assert not drive.state.trip_open
    assert drive.state.driver is None


@pytest.mark.parametrize("closing", ["door_open", "seat_occupied", "ignition_on"])
def test_a_moving_car_keeps_its_driver(closing: str) -> None:
    """A contact that flickers at speed does not hand the seat to whoever speaks next."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.drive_off()
    usual = drive.facts[closing]
    drive.car(**{closing: not usual})
    drive.car(**{closing: usual})
    drive.says(BEN)
    drive.stop_in_park()
    drive.says(BEN)
    assert drive.state.driver == ANN
    assert drive.asked == [ANN]


def test_first_known_voice_while_moving() -> None:
    """A driver who is first heard on the move is named; nothing waits for the next stop."""
    drive = Drive()
    drive.get_in()
    drive.drive_off()
    drive.says(ANN)
    assert (drive.state.driver, drive.state.delivery) == (ANN, Delivery.NONE)
    drive.stop_in_park()
    drive.wait(10)
    assert drive.applied == []


def test_driving_off_before_delivery() -> None:
    """Preferences that waited for Park are dropped once the car moves: the driver is arranged."""
    drive = Drive()
    drive.get_in()
    drive.car(in_park=False)
    drive.says(ANN)
    waiting = drive.shown
    drive.car(speed_kmh=5.0)
    assert waiting == (ANN, Delivery.WAITING, ("park_or_brake",))
    assert drive.shown == (ANN, Delivery.NONE, ())
    drive.stop_in_park()
    drive.wait(5)
    assert drive.applied == []


def test_the_settled_driver_may_ask_once_after_a_drop() -> None:
    """After a drop, the driver's own voice in a safe car asks once; a passenger's does not."""
    drive = Drive()
    drive.get_in()
    drive.drive_off()
    drive.says(ANN)
    drive.says(ANN)
    drive.wait(WANTED_S + 1)
    drive.stop_in_park()
    drive.says(BEN)
    assert drive.applied == []
    drive.says(ANN)
    drive.says(ANN)
    assert drive.asked == [ANN]
    assert drive.state.delivery is Delivery.REQUESTED


def test_speaking_at_a_red_light_asks_for_nothing() -> None:
    """Standing is not parked: a dropped preference is not asked for in traffic."""
    drive = Drive()
    drive.get_in()
    drive.drive_off()
    drive.says(ANN)
    drive.car(speed_kmh=0.0)
    drive.says(ANN)
    assert drive.applied == []
    assert drive.state.delivery is Delivery.NONE


def test_preferences_wait_for_the_parking_brake() -> None:
    """What is wanted is asked for as soon as the interlock permits, once."""
    drive = Drive()
    drive.get_in()
    drive.car(in_park=False)
    drive.says(ANN)
    drive.wait(5)
    assert drive.applied == []
    drive.car(parking_brake=True)
    drive.wait(5)
    assert drive.asked == [ANN]


def test_preferences_do_not_wait_for_ever() -> None:
    """After a minute, a seat that starts to move would be a surprise: dropped."""
    drive = Drive()
    drive.get_in()
    drive.car(in_park=False)
    drive.says(ANN)
    drive.wait(WANTED_S + 1)
    assert drive.state.delivery is Delivery.NONE
    drive.car(in_park=True)
    assert drive.applied == []


def test_door_sensor_lost_moves_the_mirrors_only() -> None:
    """Each group is asked for once, when its own rule permits."""
    drive = Drive()
    drive.get_in()
    del drive.facts["door_open"]
    drive.wait(4)
    drive.says(ANN)
    assert [dict(a.signals) for a in drive.applied] == [{MIRROR: 10.0}]
    assert (drive.state.delivery, drive.state.waiting_for) == (Delivery.WAITING, ("door_closed",))
    drive.car(door_open=False)
    assert [dict(a.signals) for a in drive.applied] == [{MIRROR: 10.0}, {SEAT: 120.0}]
    assert drive.state.delivery is Delivery.REQUESTED


def test_vehicle_state_lost() -> None:
    """When the car falls silent the trip goes on, and nothing moves until it speaks again."""
    drive = Drive()
    drive.get_in()
    known = dict(drive.facts)
    drive.facts.clear()
    drive.wait(5)
    drive.says(ANN)
    assert (drive.state.driver, drive.state.delivery) == (ANN, Delivery.WAITING)
    assert drive.state.waiting_for == ("standing", "park_or_brake", "door_closed", "seat_occupied")
    assert drive.applied == []
    drive.car(**known)
    assert drive.asked == [ANN]


def test_no_trip_opens_on_stale_news() -> None:
    """A seat and a door that were heard of long ago open nothing."""
    drive = Drive()
    drive.car(seat_occupied=True, door_open=False)
    drive.facts.clear()
    drive.wait(4)
    drive.car(ignition_on=True)
    drive.says(ANN)
    assert not drive.state.trip_open
    assert drive.applied == []


def test_broker_away_while_the_driver_speaks() -> None:
    """The link comes back after 10 s while the car still stands: asked for then, once."""
    drive = Drive()
    drive.get_in()
    drive.tell(LinkState(drive.now_s, connected=False))
    drive.says(ANN)
    assert (drive.state.delivery, drive.state.waiting_for) == (Delivery.WAITING, ("broker",))
    drive.wait(10)
    drive.tell(LinkState(drive.now_s, connected=True))
    drive.wait(1)
    assert drive.asked == [ANN]


def test_broker_back_after_driving_off() -> None:
    """The link comes back on the road: what was wanted is gone, also at the next stop."""
    drive = Drive(connected=False)
    drive.get_in()
    drive.says(ANN)
    drive.drive_off()
    drive.tell(LinkState(drive.now_s, connected=True))
    drive.stop_in_park()
    drive.wait(5)
    assert drive.applied == []


def test_broker_flaps_after_delivery() -> None:
    """What was asked for is not asked for again when the link returns."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    for connected in (False, True, False, True):
        drive.tell(LinkState(drive.now_s, connected=connected))
        drive.wait(2)
    assert drive.asked == [ANN]


def test_head_unit_says_listen() -> None:
    """After `listen`, the next known voice replaces the driver, once and within ten seconds."""
    drive = Drive()
    drive.get_in()
    drive.says(BEN)
    drive.tell(Listen(drive.now_s))
    drive.says(None, Outcome.UNKNOWN)
    drive.says(ANN)
    assert (drive.state.driver, drive.asked) == (ANN, [BEN, ANN])
    drive.says(BEN)
    assert (drive.state.driver, drive.asked) == (ANN, [BEN, ANN])


def test_listen_runs_out() -> None:
    """Ten seconds after `listen` a passenger is a passenger again."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.tell(Listen(drive.now_s))
    drive.wait(LISTEN_S)
    drive.says(BEN)
    assert drive.state.driver == ANN


def test_listen_hears_the_driver_himself() -> None:
    """`listen` answered by the settled driver changes nothing and is used up."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.tell(Listen(drive.now_s))
    drive.says(ANN)
    drive.says(BEN)
    assert (drive.state.driver, drive.asked) == (ANN, [ANN])


def test_listen_outside_a_trip_is_nothing() -> None:
    """A `listen` before the trip does not open the next one to a second voice."""
    drive = Drive()
    drive.tell(Listen(drive.now_s))
    drive.get_in()
    drive.says(ANN)
    drive.says(BEN)
    assert drive.state.driver == ANN


def test_driver_is_forgotten_during_the_trip() -> None:
    """Who is erased is not named or served any more, and no passenger takes the place unasked."""
    drive = Drive()
    drive.get_in()
    drive.car(in_park=False)
    drive.says(ANN)
    drive.tell(_household(BEN))
    assert (drive.state.driver, drive.state.delivery) == (None, Delivery.NONE)
    drive.car(in_park=True)
    drive.says(BEN)
    assert drive.applied == []
    drive.tell(Listen(drive.now_s))
    drive.says(BEN)
    assert drive.asked == [BEN]


def test_a_voice_that_was_just_forgotten_takes_nobodys_place() -> None:
    """A verdict that names nobody enrolled settles nothing; the next known voice does."""
    drive = Drive()
    drive.get_in()
    drive.tell(_household(BEN))
    drive.says(ANN)
    drive.says(BEN)
    assert (drive.state.driver, drive.asked) == (BEN, [BEN])


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.KNOWN])
def test_only_the_outcome_known_counts(outcome: Outcome) -> None:
    """Even a verdict that wrongly carries an id causes nothing unless its outcome is known."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN, outcome)
    assert drive.state.driver is None
    assert drive.applied == []


def test_time_does_not_run_backwards() -> None:
    """A verdict about an earlier moment does not make stale news of the car fresh again."""
    drive = Drive()
    drive.get_in()
    known_s = drive.now_s
    drive.now_s += 5.0
    drive.tell(Tick(drive.now_s))
    drive.now_s = known_s
    drive.says(ANN)
    assert drive.applied == []
    assert drive.state.delivery is Delivery.WAITING


def test_driver_without_preferences() -> None:
    """A driver who prefers nothing is named, and nothing waits."""
    drive = Drive()
    drive.get_in()
    drive.says(CLEO)
    assert (drive.state.driver, drive.state.delivery) == (CLEO, Delivery.NONE)
    assert drive.applied == []


def test_a_preference_that_has_no_rule_is_never_asked_for() -> None:
    """A path outside the catalogue belongs to no group, so no interlock speaks for it."""
    drive = Drive()
    odd = replace(_household(ANN).profiles[0], preferences={"Vehicle.Horn": 1.0})
    drive.tell(Household(drive.now_s, (odd,)))
    drive.get_in()
    drive.says(ANN)
    assert drive.applied == []


DRIVERS = st.sampled_from([ANN, BEN, CLEO])
FACTS = st.fixed_dictionaries(
    {},
    optional={
        "speed_kmh": st.sampled_from([0.0, 0.0, 0.0, 5.0, float("nan"), float("inf")]),
        "in_park": st.booleans(),
        "parking_brake": st.booleans(),
        "door_open": st.sampled_from([False, False, True]),
        "seat_occupied": st.sampled_from([True, True, False]),
        "ignition_on": st.sampled_from([True, True, False]),
    },
)


class AnyDrive(RuleBasedStateMachine):
    """Anything may happen in any order; what must never happen is checked after each thing."""

    def __init__(self) -> None:
        super().__init__()
        self.drive = Drive()
        self.seen = 0
        self.given: set[Group] = set()
        self.settling: tuple[str | None, float | None] = (None, None)

    @rule(facts=FACTS, age_s=st.sampled_from([0.0, 0.0, 1.0, 3.0, -1.0]))
    def report(self, facts: dict[str, Any], age_s: float) -> None:
        """The car speaks, perhaps of the past."""
        at_s = self.drive.now_s - age_s
        state = VehicleState(**{name: Reading(fact, at_s) for name, fact in facts.items()})
        self.drive.tell(VehicleReport(self.drive.now_s, state))

    @rule()
    def get_in(self) -> None:
        """Somebody takes the seat, as people do."""
        self.drive.facts.update(speed_kmh=0.0, in_park=True)
        self.drive.get_in()

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 20.0]))
    def pass_time(self, seconds: float) -> None:
        """Nothing happens."""
        self.drive.now_s += seconds
        self.drive.tell(Tick(self.drive.now_s))

    @rule(connected=st.booleans())
    def link(self, *, connected: bool) -> None:
        """The broker comes or goes."""
        self.drive.tell(LinkState(self.drive.now_s, connected=connected))

    @rule()
    def listen(self) -> None:
        """The head unit asks."""
        self.drive.tell(Listen(self.drive.now_s))

    @rule(driver=DRIVERS)
    def known(self, driver: str) -> None:
        """An enrolled person speaks."""
        self.drive.says(driver)

    @rule(
        outcome=st.sampled_from([o for o in Outcome if o is not Outcome.KNOWN]),
    )
    def not_known(self, outcome: Outcome) -> None:
        """Somebody speaks who is not recognised: never the cause of a request."""
        state = self.drive.state
        before = len(self.drive.applied)
        waiting = state.delivery is Delivery.WAITING
        self.drive.says(None, outcome)
        assert waiting or len(self.drive.applied) == before
        assert self.drive.state.driver in (None, state.driver)

    @precondition(lambda self: self.drive.state.trip_open)
    @rule(names=st.sets(DRIVERS))
    def household(self, names: set[str]) -> None:
        """Somebody is enrolled or forgotten."""
        self.drive.tell(_household(*sorted(names)))

    @invariant()
    def each_group_once_for_one_settling(self) -> None:
        """Each request goes to the settled driver, and no group is asked for twice."""
        state = self.drive.state
        if (state.driver, state.since_s) != self.settling:
            self.settling, self.given = (state.driver, state.since_s), set()
        for apply in self.drive.applied[self.seen :]:
            groups = {group_of(path) for path in apply.signals}
            assert apply.driver == state.driver
            assert not groups & self.given
            self.given |= groups
        self.seen = len(self.drive.applied)

    @invariant()
    def the_state_makes_sense(self) -> None:
        """No driver outside a trip, nothing waits without a reason or a driver."""
        state = self.drive.state
        assert state.trip_open or state.driver is None
        assert (state.driver is None) == (state.since_s is None)
        assert (state.delivery is Delivery.WAITING) == bool(state.waiting_for)
        assert state.driver is not None or state.delivery is Delivery.NONE


TestAnyDrive = AnyDrive.TestCase
TestAnyDrive.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True
)
