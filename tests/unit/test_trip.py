import itertools
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from whodrives.core.events import Input
from whodrives.trip.interlock import refusals
from whodrives.trip.requests import REPEAT_S, WANTED_S
from whodrives.trip.table import LISTEN_S, TABLE, State, Trigger
from whodrives.trip.trip import ABSENCE_LIMIT_S, STEADY_S, Trip, TripEvent
from whodrives.trip.types import (
    MANUAL,
    Apply,
    Begin,
    Cancel,
    CancelRequest,
    Choose,
    CommandResult,
    Delivery,
    DriverState,
    Forget,
    LinkState,
    Listen,
    PersistTrip,
    Position,
    RequestResult,
    ResultStatus,
    Save,
    SavePreferences,
    SettledBy,
    Tick,
    TripSnapshot,
    UnmatchedResult,
)
from whodrives.vehicle.state import Reading, VehicleReport, VehicleState
from whodrives.vehicle.vss import Group, group_of
from whodrives.voice.profile import Household, Profile
from whodrives.voice.types import Evidence, Match, Outcome, Verdict

SEAT = "Vehicle.Cabin.Seat.Row1.DriverSide.Position"
MIRROR = "Vehicle.Body.Mirrors.DriverSide.Tilt"
WHEEL = "Vehicle.Chassis.SteeringWheel.Extension"
HEAT = "Vehicle.Cabin.Seat.Row1.DriverSide.HeatingCooling"
ANN, BEN, CLEO = "d-ann", "d-ben", "d-cleo"
PREFERENCES = {
    ANN: {SEAT: 120.0, MIRROR: 10.0},
    BEN: {SEAT: 200.0, MIRROR: -5.0},
    CLEO: {},
}


KEYS = {ANN: "fob-1", BEN: "fob-2"}


def _household(*names: str) -> Household:
    none = np.zeros((1, 2), np.float32)
    return Household(
        0.0,
        tuple(Profile(n, none, "", 20.0, PREFERENCES[n], KEYS.get(n)) for n in names),
    )


def _merged(old: VehicleState, new: VehicleState) -> VehicleState:
    """The old state with every reading of the new one that is not older, as a decoder would say."""
    changes = {}
    for item in fields(VehicleState):
        before, reading = getattr(old, item.name), getattr(new, item.name)
        if reading is not None and (before is None or reading.at_s >= before.at_s):
            changes[item.name] = reading
    return replace(old, **changes)


class Drive:
    """One car, told second by second: it repeats all it knows with every step of time.

    Attributes:
        facts: what the car reports now; remove one and the car no longer speaks of it.
        applied: every `Apply` so far.
        withdrawn: every `CancelRequest` so far.
        results: the reason of every `CommandResult` so far; empty for what was done.
        orders: every `SavePreferences` and `Forget` so far.
        strays: every `UnmatchedResult` so far.
        memory: what was to be remembered last.
        state: the last `DriverState`.
    """

    def __init__(self, *, connected: bool = True) -> None:
        self.now_s = 100.0
        self.trip = Trip()
        self.withdrawn: list[CancelRequest] = []
        self.results: list[str] = []
        self.orders: list[SavePreferences | Forget] = []
        self.strays: list[UnmatchedResult] = []
        self.memory = TripSnapshot()
        self.daemons = 0
        self.enrolled: tuple[str, ...] = ()
        self.facts: dict[str, float | bool | str] = {
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
        if isinstance(news, Household):
            self.enrolled = tuple(profile.id for profile in news.profiles)
        if isinstance(news, VehicleReport):
            self.vehicle = _merged(self.vehicle, news.state)
            news = replace(news, state=self.vehicle)
        self._note(self.trip.step(news))

    def says(self, driver: str | None, outcome: Outcome = Outcome.KNOWN) -> None:
        """Somebody speaks, half a second after the last thing that happened."""
        self.now_s += 0.5
        evidence = Evidence((), 2.0, 15.0, self.now_s)
        self._note(self.trip.heard(Verdict(outcome, driver, evidence, 0.99), self.now_s))

    def leans(self, driver: str, llr: float = 1.0) -> None:
        """Somebody speaks who may be this driver and is not recognised."""
        self.now_s += 0.5
        evidence = Evidence((Match(driver, 0.4, llr),), 2.0, 15.0, self.now_s)
        verdict = Verdict(Outcome.UNKNOWN, None, evidence, 0.7)
        self._note(self.trip.heard(verdict, self.now_s))

    def asked_about(self) -> str | None:
        """The driver who may have spoken in this trip."""
        return self.state.candidate

    def answers(self, status: ResultStatus, reason: str = "", number: int = -1) -> None:
        """The ECU says what became of a request: of the last, if no number is given."""
        request = self.applied[number].request
        self.tell(RequestResult(self.now_s, request, status, reason))

    def dies(self, gone_s: float, *names: str, deaf_s: float | None = None) -> None:
        """The daemon is killed; another one starts, so many seconds later.

        `deaf_s`: since the daemon knew who sits there, if it did not until it died.
        """
        self.daemons += 1
        self.now_s += gone_s
        self.trip = Trip()
        self.vehicle = VehicleState()
        self.tell(Begin(self.now_s, f"s{self.daemons}", self.memory, deaf_s or gone_s))
        self.tell(_household(*(names or (ANN, BEN, CLEO))))
        self.tell(LinkState(self.now_s, connected=True))

    def car(self, **facts: float | bool | str) -> None:
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

    def _note(self, events: tuple[TripEvent, ...]) -> None:
        kinds = [type(event) for event in events]
        assert PersistTrip not in kinds[1:]
        assert CancelRequest not in kinds[kinds.index(Apply) if Apply in kinds else len(kinds) :]
        for event in events:
            match event:
                case Apply():
                    self.applied.append(event)
                    assert set(event.signals) <= set(PREFERENCES[event.driver])
                    for path in event.signals:
                        assert refusals(group_of(path), self.vehicle, event.at_s) == ()
                    # Whoever starts after a death here knows of the request.
                    assert event.request in {r.request for r in self.memory.outbox.requests}
                case PersistTrip():
                    self.memory = event.memory
                case CancelRequest():
                    self.withdrawn.append(event)
                case CommandResult():
                    self.results.append(event.reason)
                case SavePreferences() | Forget():
                    self.orders.append(event)
                case UnmatchedResult():
                    self.strays.append(event)
                case DriverState():
                    self.state = event

    @property
    def shown(self) -> tuple[str | None, Delivery, tuple[str, ...]]:
        """What the car is told of the driver: who, what became of the preferences, and why."""
        return self.state.driver, self.state.delivery, self.state.waiting_for

    @property
    def asked(self) -> list[str]:
        """For whom something was asked, in order; a repetition is not counted."""
        return list({apply.request: apply.driver for apply in self.applied}.values())


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


def test_who_may_have_spoken_is_shown_until_the_driver_is_decided() -> None:
    """Nothing moves for a candidate; the answer to "is it you?" is a choice, and moves the seat."""
    drive = Drive()
    drive.leans(ANN)
    drive.get_in()
    assert drive.asked_about() is None
    drive.leans(ANN)
    drive.leans(BEN, llr=-1.0)
    assert drive.shown == (None, Delivery.NONE, ())
    assert drive.asked_about() == ANN
    assert drive.asked == []
    drive.tell(Choose(drive.now_s, "c1", ANN))
    assert (drive.state.driver, drive.asked_about(), drive.asked) == (ANN, None, [ANN])
    drive.leans(BEN)
    assert drive.asked_about() is None
    drive.get_out()
    drive.get_in()
    assert (drive.state.trip_open, drive.asked_about()) == (True, None)


def test_nobody_is_asked_about_once_somebody_else_was_chosen() -> None:
    """The person has said that nobody enrolled drives; a forgotten driver is not asked about."""
    drive = Drive()
    drive.get_in()
    drive.leans(ANN)
    drive.tell(_household(BEN, CLEO))
    assert drive.asked_about() is None
    drive.leans(BEN)
    drive.tell(Choose(drive.now_s, "c1", None))
    drive.leans(BEN)
    assert drive.asked_about() is None


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


# --- stories of the head unit, the key and the hand -----------------------------------------------


def test_passenger_talks_first_and_is_mended_by_hand() -> None:
    """Ben, beside her, says the first word and the seat begins to go his way.

    Ann picks herself on the screen: his request is withdrawn, and hers is made.
    """
    drive = Drive()
    drive.get_in()
    drive.says(BEN)
    drive.answers(ResultStatus.ACCEPTED)
    drive.tell(Choose(drive.now_s, "c1", ANN))
    assert [w.request for w in drive.withdrawn] == [drive.applied[0].request]
    assert drive.asked == [BEN, ANN]
    assert (drive.state.driver, drive.state.settled_by) == (ANN, SettledBy.HAND)
    assert drive.state.probability is None
    assert drive.results == [""]


def test_passenger_talks_first_and_is_mended_by_listen() -> None:
    """Ben says the first word; Ann presses the button and speaks.

    The seat turns to her in the middle of its way: never two requests alive for it.
    """
    drive = Drive()
    drive.get_in()
    drive.says(BEN)
    drive.tell(Listen(drive.now_s, "c1"))
    drive.says(ANN)
    assert [w.request for w in drive.withdrawn] == [drive.applied[0].request]
    assert drive.asked == [BEN, ANN]
    assert drive.results == [""]


def test_two_sisters() -> None:
    """Their voices cannot be told apart, and nothing moves, however often they try.

    One tap on the screen settles it without a voice.
    """
    drive = Drive()
    drive.get_in()
    for _ in range(3):
        drive.says(None, Outcome.AMBIGUOUS)
    assert drive.applied == []
    drive.tell(Choose(drive.now_s, "c1", BEN))
    assert drive.asked == [BEN]
    assert drive.state.settled_by is SettledBy.HAND


def test_valet() -> None:
    """The driver hands the car over and says on the screen that none of them drives.

    The owner talks through the window, and the seat stays where the valet put it.
    """
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.tell(Choose(drive.now_s, "c1", None))
    drive.says(ANN)
    drive.wait(5)
    assert drive.asked == [ANN]
    assert [w.reason for w in drive.withdrawn] == ["replaced"]
    assert (drive.state.driver, drive.state.settled_by) == (None, SettledBy.HAND)
    drive.tell(Listen(drive.now_s))
    drive.says(ANN)
    assert drive.asked == [ANN, ANN]


def test_child_in_the_back_speaks() -> None:
    """A child seat stands in the back and its child talks without end; it is nobody we know.

    Its mother drives, and is settled when she says a word.
    """
    drive = Drive()
    drive.get_in()
    for _ in range(20):
        drive.says(None, Outcome.UNKNOWN)
        drive.wait(1)
    assert drive.applied == []
    drive.says(ANN)
    assert drive.asked == [ANN]


def test_key_settles_without_a_voice() -> None:
    """Ann's key opens the car, and her seat comes before she has said a word.

    Ben talks on the way; he is a passenger until the button is pressed.
    """
    drive = Drive()
    drive.facts["key"] = KEYS[ANN]
    drive.get_in()
    assert drive.asked == [ANN]
    assert (drive.state.settled_by, drive.state.probability) == (SettledBy.KEY, None)
    drive.says(BEN)
    assert drive.asked == [ANN]
    drive.tell(Listen(drive.now_s))
    drive.says(BEN)
    assert drive.asked == [ANN, BEN]
    drive.wait(5)
    assert drive.state.driver == BEN


def test_a_strange_key_is_nothing() -> None:
    """A rental key that belongs to nobody settles nobody.

    The first known voice does, as ever.
    """
    drive = Drive()
    drive.facts["key"] = "fob-9"
    drive.get_in()
    assert drive.state.driver is None
    drive.says(BEN)
    assert drive.state.driver == BEN


def test_a_key_after_the_voice_changes_nothing() -> None:
    """Ben has spoken and sits there; Ann's key is in her bag on the back seat.

    What settled first stays.
    """
    drive = Drive()
    drive.get_in()
    drive.says(BEN)
    drive.car(key=KEYS[ANN])
    assert drive.asked == [BEN]


def test_a_key_of_two_drivers_is_nobodys() -> None:
    """Two profiles name one key: it cannot say who came."""
    drive = Drive()
    both = _household(ANN, BEN).profiles
    drive.tell(Household(drive.now_s, tuple(replace(p, key="fob-1") for p in both)))
    drive.facts["key"] = "fob-1"
    drive.get_in()
    assert drive.state.driver is None


def test_somebody_works_the_seat_switch() -> None:
    """The seat glides back and Ann stops it with the switch: she wants it otherwise today.

    Nobody's seat is asked for in this trip any more; her mirrors go on.
    """
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.answers(ResultStatus.ACCEPTED)
    drive.car(seat_switch=True)
    drive.car(seat_switch=False)
    assert [(w.request, w.reason) for w in drive.withdrawn] == [(drive.applied[0].request, MANUAL)]
    assert [dict(a.signals) for a in drive.applied] == [PREFERENCES[ANN], {MIRROR: 10.0}]
    drive.answers(ResultStatus.COMPLETED)
    assert (drive.state.delivery, drive.state.reason) == (Delivery.ABORTED, MANUAL)
    drive.tell(Choose(drive.now_s, "c1", BEN))
    assert dict(drive.applied[-1].signals) == {MIRROR: -5.0}
    drive.get_out()
    drive.get_in()
    drive.says(BEN)
    assert dict(drive.applied[-1].signals) == PREFERENCES[BEN]


def test_a_switch_of_the_trip_before_is_forgotten() -> None:
    """The last driver worked the switch, and the car never said that it was let go.

    The old news is repeated, but it is not of this trip.
    """
    drive = Drive()
    drive.get_in()
    drive.car(seat_switch=True)
    del drive.facts["seat_switch"]
    drive.get_out()
    drive.get_in()
    drive.says(ANN)
    assert dict(drive.applied[0].signals) == PREFERENCES[ANN]


def test_a_switch_that_is_heard_of_late_still_counts() -> None:
    """The news of the hand took five seconds; the seat is left alone all the same."""
    drive = Drive()
    drive.get_in()
    drive.wait(10)
    late = VehicleState(seat_switch=Reading(value=True, at_s=drive.now_s - 5))
    drive.tell(VehicleReport(drive.now_s, late))
    drive.says(ANN)
    assert [dict(a.signals) for a in drive.applied] == [{MIRROR: 10.0}]


@pytest.mark.parametrize("status", [ResultStatus.REJECTED, ResultStatus.ABORTED])
def test_the_ecu_says_that_a_hand_was_there(status: ResultStatus) -> None:
    """The ECU felt the switch before the bus told of it, and says so.

    What it was asked to move is left alone for the rest of the trip, whoever is settled.
    """
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.answers(status, MANUAL)
    drive.wait(WANTED_S + 1)
    drive.tell(Choose(drive.now_s, "c1", BEN))
    assert drive.asked == [ANN]
    assert len(drive.applied) == 1


def test_ecu_accepts_and_completes() -> None:
    """The seat goes where it was asked to, and the car is told at each step."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    for status in (ResultStatus.ACCEPTED, ResultStatus.COMPLETED):
        drive.answers(status)
        assert drive.state.delivery is Delivery(status.value)
    drive.answers(ResultStatus.ABORTED, "late")
    assert (drive.state.delivery, drive.state.reason) == (Delivery.COMPLETED, "")
    drive.wait(WANTED_S + 10)
    assert len(drive.applied) == 1


def test_ecu_rejects_for_good() -> None:
    """The ECU has no such motor: that will not pass, and is not tried again."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.answers(ResultStatus.REJECTED, "no_such_signal")
    drive.wait(WANTED_S + 10)
    assert len(drive.applied) == 1
    assert (drive.state.delivery, drive.state.reason) == (Delivery.REJECTED, "no_such_signal")


@pytest.mark.parametrize("reason", ["expired", "standing", "standing, door_closed"])
def test_ecu_rejects_what_passes(reason: str) -> None:
    """The ECU had older news of the car than we, or got the message late.

    The same request is made again under its id, when no copy of it is good any more.
    """
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.answers(ResultStatus.REJECTED, reason)
    assert (drive.state.delivery, drive.state.reason) == (Delivery.REJECTED, reason)
    drive.wait(REPEAT_S)
    first, second = drive.applied
    assert second == replace(first, at_s=second.at_s)
    assert second.at_s - first.at_s >= REPEAT_S
    assert drive.shown == (ANN, Delivery.REQUESTED, ())
    drive.answers(ResultStatus.COMPLETED)
    assert drive.shown == (ANN, Delivery.COMPLETED, ())


def test_ecu_aborts() -> None:
    """Something was in the seat's way: it stopped, and is not set off again."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.answers(ResultStatus.ACCEPTED)
    drive.answers(ResultStatus.ABORTED, "blocked")
    drive.wait(WANTED_S + 10)
    assert (drive.state.delivery, drive.state.reason) == (Delivery.ABORTED, "blocked")
    assert len(drive.applied) == 1


def test_ecu_is_silent() -> None:
    """Nobody answers: the same id is sent again and again for a minute, then it is called so.

    An answer that still comes is believed.
    """
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.wait(WANTED_S + 2 * REPEAT_S)
    assert len({a.request for a in drive.applied}) == 1
    sent = [a.at_s for a in drive.applied]
    assert all(b - a >= REPEAT_S for a, b in itertools.pairwise(sent))
    assert len(sent) == 1 + WANTED_S // REPEAT_S
    assert drive.shown == (ANN, Delivery.UNANSWERED, ())
    drive.answers(ResultStatus.COMPLETED)
    assert drive.shown == (ANN, Delivery.COMPLETED, ())


def test_a_silent_request_is_not_repeated_on_the_road() -> None:
    """Nobody answered, and she drove off: it is over, also at the next stop."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.drive_off()
    drive.stop_in_park()
    drive.wait(10)
    assert len(drive.applied) == 1
    assert drive.state.delivery is Delivery.UNANSWERED


def test_an_answer_to_nothing_of_ours() -> None:
    """Somebody answers a request of another trip: it is noted as a stray and changes nothing."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    state = drive.state
    drive.tell(RequestResult(drive.now_s, "other", ResultStatus.COMPLETED))
    assert [s.request for s in drive.strays] == ["other"]
    assert drive.state == state


def test_cancel_stops_everything() -> None:
    """She presses stop: the seat's request is withdrawn, and her voice does not start it again.

    Picking herself on the screen does.
    """
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.answers(ResultStatus.ACCEPTED)
    drive.tell(Cancel(drive.now_s, "c1"))
    drive.says(ANN)
    drive.wait(10)
    assert [w.reason for w in drive.withdrawn] == ["cancelled"]
    assert (drive.state.delivery, drive.state.reason) == (Delivery.ABORTED, "cancelled")
    assert drive.asked == [ANN]
    drive.tell(Choose(drive.now_s, "c2", ANN))
    assert drive.asked == [ANN, ANN]
    assert drive.results == ["", ""]


def test_cancel_while_it_waits() -> None:
    """Preferences that wait for Park are dropped by stop, and not wanted again by a word."""
    drive = Drive()
    drive.get_in()
    drive.car(in_park=False)
    drive.says(ANN)
    drive.tell(Cancel(drive.now_s, "c1"))
    assert (drive.state.delivery, drive.state.reason) == (Delivery.ABORTED, "cancelled")
    drive.car(in_park=True)
    drive.says(ANN)
    assert drive.applied == []


def test_getting_out_withdraws_what_is_under_way() -> None:
    """She opens the door while the seat still moves: whoever sits down next finds it at rest."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.get_out()
    assert [w.reason for w in drive.withdrawn] == ["trip_over"]
    drive.answers(ResultStatus.COMPLETED)
    assert len(drive.strays) == 1


def test_a_withdrawal_waits_for_the_broker() -> None:
    """The broker is away as she gets out; when it is back, the ECU is told to stop, once.

    Only then is anything asked for her who sits there now.
    """
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.tell(LinkState(drive.now_s, connected=False))
    drive.get_out()
    drive.get_in()
    drive.says(BEN)
    assert drive.withdrawn == []
    drive.tell(LinkState(drive.now_s, connected=True))
    drive.wait(2)
    (withdrawn,) = drive.withdrawn
    assert (withdrawn.request, withdrawn.reason) == (drive.applied[0].request, "trip_over")
    assert drive.asked == [ANN, BEN]
    assert withdrawn.at_s <= drive.applied[1].at_s


def test_preferences_that_change_meanwhile() -> None:
    """Her preferences are changed while an older request is under way: that one is withdrawn."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    moved = replace(_household(ANN).profiles[0], preferences={SEAT: 99.0, MIRROR: 10.0})
    drive.tell(Household(drive.now_s, (moved,)))
    assert [w.reason for w in drive.withdrawn] == ["changed"]
    drive.wait(10)
    assert len(drive.applied) == 1


# --- save and forget ------------------------------------------------------------------------------


def _at(drive: Drive, age_s: float = 0.0, *, moving: bool = False, **signals: Any) -> None:
    """The ECU tells its position, as it was so long ago."""
    names = {"seat": SEAT, "mirror": MIRROR, "wheel": WHEEL, "heat": HEAT, "horn": "Vehicle.Horn"}
    told = {names[name]: value for name, value in signals.items()}
    drive.tell(Position(drive.now_s, drive.now_s - age_s, moving, told))


def _saves(drive: Drive, age_s: float = 0.5, *, moving: bool = False, **signals: Any) -> None:
    """The ECU has told the same position for a while, and the head unit says that it is good."""
    told: dict[str, Any] = signals or {"seat": 111.0, "horn": 1.0}
    _at(drive, age_s + STEADY_S, **told)
    _at(drive, age_s, moving=moving, **told)
    drive.tell(Save(drive.now_s, "c1"))


def _press(drive: Drive) -> None:
    """A hand on the seat's switch, for a second."""
    drive.car(seat_switch=True)
    drive.car(seat_switch=False)


def test_driver_saves_the_position() -> None:
    """She has moved the seat by hand and says "save": known signals become her preferences."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    _press(drive)
    _saves(drive)
    assert drive.orders == [SavePreferences(drive.now_s, "c1", ANN, {SEAT: 111.0})]
    assert drive.results == []


@pytest.mark.parametrize(
    ("age_s", "moving", "reason"),
    [(2.1, False, "no_position"), (-0.6, False, "no_position"), (0.5, True, "moving")],
)
def test_a_position_that_says_nothing_of_now_is_not_saved(
    age_s: float, *, moving: bool, reason: str
) -> None:
    """Too old, from the future, or still on its way: refused, with the reason."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    _press(drive)
    _saves(drive, age_s, moving=moving)
    assert (drive.orders, drive.results) == ([], [reason])


def test_a_position_that_jumps_is_not_saved() -> None:
    """Somebody lies in the ECU's name: the ECU's own reports contradict it, and none is kept."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    _press(drive)
    _at(drive, 1.0, seat=111.0)
    _at(drive, 0.9, seat=0.0)
    _at(drive, 0.1, seat=111.0)
    _at(drive, 0.0, seat=0.0)
    drive.tell(Save(drive.now_s, "c1"))
    assert (drive.orders, drive.results) == ([], ["moving"])
    drive.wait(2)
    _saves(drive)
    assert drive.orders == [SavePreferences(drive.now_s, "c1", ANN, {SEAT: 111.0})]


def test_what_nobody_moved_is_not_saved() -> None:
    """No hand was on a switch, and no request was acted on: what the ECU tells is not hers."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    _saves(drive, seat=0.0, wheel=100.0, heat=100.0, mirror=7.0)
    assert (drive.orders, drive.results) == ([], ["not_moved"])


def test_a_hand_on_the_seat_saves_the_seat_alone() -> None:
    """Not the wheel, not the mirror, and never a heater."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    _press(drive)
    _saves(drive, seat=99.0, wheel=100.0, heat=100.0, mirror=7.0)
    assert drive.orders == [SavePreferences(drive.now_s, "c1", ANN, {SEAT: 99.0})]


def test_what_we_moved_is_saved_where_we_moved_it() -> None:
    """An ECU that tells another place than the one that it has reached, with no hand, errs."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.answers(ResultStatus.COMPLETED)
    told: dict[str, Any] = {
        "seat": PREFERENCES[ANN][SEAT],
        "mirror": PREFERENCES[ANN][MIRROR] + 20.0,
    }
    _saves(drive, **told)
    assert drive.orders == [SavePreferences(drive.now_s, "c1", ANN, {SEAT: told["seat"]})]


def test_mirrors_that_a_hand_moved_are_saved() -> None:
    """They have no switch in VSS: the ECU tells that they moved, and we had not asked for it."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.answers(ResultStatus.COMPLETED)
    _at(drive, mirror=10.0)
    _at(drive, moving=True, mirror=14.0)
    drive.wait(1)
    _at(drive, mirror=25.0)
    drive.wait(2)
    _saves(drive, mirror=25.0)
    assert drive.orders == [SavePreferences(drive.now_s, "c1", ANN, {MIRROR: 25.0})]


def test_mirrors_that_move_for_a_request_were_not_moved_by_hand() -> None:
    """Her request is under way; then it is cancelled, and nothing of it is hers."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.answers(ResultStatus.ACCEPTED)
    _at(drive, moving=True, mirror=-40.0)
    _at(drive, moving=True, mirror=-20.0)
    drive.tell(Cancel(drive.now_s, "c0"))
    drive.wait(3)
    _saves(drive, mirror=-20.0)
    assert (drive.orders, drive.results) == ([], ["", "not_moved"])


def test_what_was_moved_is_remembered_over_a_death() -> None:
    """The next daemon keeps what a hand has moved before."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.answers(ResultStatus.REJECTED, "no")
    _at(drive, mirror=10.0)
    _at(drive, moving=True, mirror=14.0)
    drive.dies(1.0)
    drive.wait(2)
    _saves(drive, mirror=14.0)
    assert drive.orders == [SavePreferences(drive.now_s, "c1", ANN, {MIRROR: 14.0})]


# --- another voice --------------------------------------------------------------------------------


def _saves_after_a_switch(drive: Drive) -> str:
    """What became of it: the reason, or empty."""
    orders = len(drive.orders)
    _press(drive)
    _saves(drive)
    return "" if len(drive.orders) > orders else drive.results[-1]


def test_after_another_drivers_voice_a_person_says_who_drives() -> None:
    """Else Ben's position would become Ann's; it is asked for once, by choosing."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.says(BEN)
    drive.says(ANN)
    assert _saves_after_a_switch(drive) == "other_voice"
    drive.tell(Choose(drive.now_s, "c2", ANN))
    assert _saves_after_a_switch(drive) == ""
    assert drive.orders[-1] == SavePreferences(drive.now_s, "c1", ANN, {SEAT: 111.0})


@pytest.mark.parametrize("who", [ANN, BEN])
def test_who_is_listened_to_is_who_saves(who: str) -> None:
    """Or by listening: the next known voice is the driver's, also if it is the same one's."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.says(BEN)
    drive.tell(Listen(drive.now_s, "c2"))
    drive.says(who)
    assert _saves_after_a_switch(drive) == ""
    assert drive.orders[-1] == SavePreferences(drive.now_s, "c1", who, {SEAT: 111.0})


def test_an_unknown_voice_keeps_nobody_from_saving() -> None:
    """A guest, and who speaks before the driver is settled, have no preferences here."""
    drive = Drive()
    drive.get_in()
    drive.says(None, Outcome.UNKNOWN)
    drive.says(ANN)
    drive.says(None, Outcome.UNKNOWN)
    assert _saves_after_a_switch(drive) == ""


def test_another_voice_is_remembered_over_a_death_and_forgotten_with_the_trip() -> None:
    """The next daemon refuses, too; the next trip is another."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.says(BEN)
    drive.dies(1.0)
    drive.wait(2)
    assert _saves_after_a_switch(drive) == "other_voice"
    drive.get_out()
    drive.get_in()
    drive.says(BEN)
    assert _saves_after_a_switch(drive) == ""


# --- a car that is not heard of -------------------------------------------------------------------


def _silent(drive: Drive, seconds: float, *names: str) -> None:
    """Time passes; the car does not tell these facts, or nothing at all if none is named."""
    if not names:
        for _ in range(round(seconds)):
            drive.now_s += 1.0
            drive.tell(Tick(drive.now_s))
        return
    lost = {name: drive.facts.pop(name) for name in names}
    drive.wait(seconds)
    drive.facts.update(lost)


@pytest.mark.parametrize(
    "names", [(), ("seat_occupied",), ("door_open",), ("ignition_on",)], ids=str
)
def test_a_driver_who_was_not_watched_is_doubted(names: tuple[str, ...]) -> None:
    """A gateway, sensor or broker silent for ABSENCE_LIMIT_S: somebody may have changed seats.

    Exactly as after a restart: what was asked is withdrawn, no voice takes the place unasked.
    """
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    _silent(drive, ABSENCE_LIMIT_S + 2, *names)
    assert (drive.state.driver, drive.state.trip_open) == (None, True)
    assert [w.reason for w in drive.withdrawn] == ["restarted"]
    drive.wait(3)
    drive.says(ANN)
    drive.says(BEN)
    assert len(drive.applied) <= 1 + (ABSENCE_LIMIT_S + 2) // REPEAT_S
    assert drive.asked == [ANN]
    assert _saves_after_a_switch(drive) == "no_driver"
    drive.tell(Choose(drive.now_s, "c1", BEN))
    drive.wait(1)
    assert drive.asked == [ANN, BEN]


def test_a_driver_who_was_watched_stays() -> None:
    """Silences of less than ABSENCE_LIMIT_S, with a report between two of them, change nothing."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    for _ in range(3):
        _silent(drive, ABSENCE_LIMIT_S - 1)
        drive.wait(1)
    assert drive.state.driver == ANN


def test_the_first_report_after_a_silence_comes_too_late() -> None:
    """No tick came meanwhile (the machine slept): the report itself tells that time has passed."""
    drive = Drive()
    drive.get_in()
    drive.car(in_park=False)
    drive.says(ANN)
    drive.now_s += 28.0
    drive.facts["in_park"] = True
    drive.wait(3)
    assert drive.applied == []
    assert drive.state.driver is None


def test_who_is_chosen_in_a_silence_is_doubted_later() -> None:
    """A hand on the head unit tells who sits there now, and no more than the car does for later."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    _silent(drive, ABSENCE_LIMIT_S + 5)
    drive.tell(Choose(drive.now_s, "c1", BEN))
    _silent(drive, ABSENCE_LIMIT_S - 1)
    assert drive.state.driver == BEN
    _silent(drive, 2)
    assert drive.state.driver is None


def test_a_voice_is_the_first_thing_after_a_silence() -> None:
    """It takes nobody's place, and does not bring back who was there."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.now_s += 28.0
    drive.says(ANN)
    assert drive.state.driver is None


def test_a_death_within_a_silence_is_one_absence() -> None:
    """Six seconds of silence, then six seconds without a daemon, are twelve of not knowing."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    _silent(drive, 6)
    drive.dies(6.0, deaf_s=12.0)
    assert drive.state.driver is None


def test_old_reports_end_no_silence() -> None:
    """What was true before, and is delivered late, tells nothing of the time since."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    then_s = drive.now_s
    for _ in range(12):
        drive.now_s += 1.0
        said: Any = {name: Reading(fact, then_s) for name, fact in drive.facts.items()}
        drive.tell(VehicleReport(drive.now_s, VehicleState(**said)))
    assert drive.state.driver is None


def test_nobody_to_save_for() -> None:
    """Without a trip, and without a driver, there is nobody whose preferences these are."""
    drive = Drive()
    _saves(drive)
    drive.get_in()
    _press(drive)
    _saves(drive)
    drive.tell(Choose(drive.now_s, "c2", None))
    _saves(drive)
    assert drive.orders == []
    assert drive.results == ["no_trip", "no_driver", "", "no_driver"]


def test_forget_is_passed_on() -> None:
    """To erase somebody needs no trip; who there is to erase the store knows."""
    drive = Drive()
    drive.tell(Forget(drive.now_s, "c1", ANN))
    assert drive.orders == [Forget(drive.now_s, "c1", ANN)]
    assert drive.results == []


def test_commands_that_cannot_be_followed_say_why() -> None:
    """Every command gets one answer."""
    drive = Drive()
    drive.tell(Choose(drive.now_s, "c1", ANN))
    drive.tell(Choose(drive.now_s, "c2", None))
    drive.tell(Listen(drive.now_s, "c3"))
    drive.tell(Listen(drive.now_s))
    drive.tell(Cancel(drive.now_s, "c4"))
    drive.get_in()
    drive.tell(Choose(drive.now_s, "c5", "d-nobody"))
    assert drive.results == ["no_trip", "no_trip", "no_trip", "", "unknown_driver"]
    assert drive.state.driver is None


# --- a daemon that dies ---------------------------------------------------------------------------


def test_daemon_dies_before_sending() -> None:
    """It remembered a request and died before the broker had it.

    The next one sends it under the same id: nothing is lost, nothing could be done twice.
    """
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.dies(2.0)
    drive.wait(REPEAT_S)
    first, second = drive.applied
    assert (first.request, first.signals) == (second.request, second.signals)
    assert drive.state.driver == ANN
    drive.answers(ResultStatus.COMPLETED)
    assert drive.state.delivery is Delivery.COMPLETED


def test_daemon_dies_after_sending() -> None:
    """The seat is on its way while nobody listens; the daemon that follows knows of it."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.answers(ResultStatus.ACCEPTED)
    drive.dies(3.0)
    drive.wait(20)
    drive.says(BEN)
    assert len(drive.applied) == 1
    assert (drive.state.driver, drive.state.delivery) == (ANN, Delivery.ACCEPTED)


def test_daemon_dies_while_it_waits_for_park() -> None:
    """What waited still waits, for the same minute and not for a new one."""
    drive = Drive()
    drive.get_in()
    drive.car(in_park=False)
    drive.says(ANN)
    drive.wait(WANTED_S - 10)
    drive.dies(1.0)
    drive.wait(2)
    assert drive.shown == (ANN, Delivery.WAITING, ("park_or_brake",))
    drive.wait(10)
    drive.car(in_park=True)
    assert drive.applied == []


def test_daemon_is_away_for_long() -> None:
    """A minute without a daemon: somebody else may have sat down; no voice takes the place.

    What was under way is withdrawn, and the head unit settles it.
    """
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.dies(ABSENCE_LIMIT_S + 1)
    drive.wait(5)
    drive.says(ANN)
    drive.says(BEN)
    assert len(drive.applied) == 1
    assert [w.reason for w in drive.withdrawn] == ["restarted"]
    assert (drive.state.driver, drive.state.trip_open) == (None, True)
    drive.tell(Choose(drive.now_s, "c1", BEN))
    assert drive.asked == [ANN, BEN]


def test_daemon_dies_before_anybody_spoke() -> None:
    """An open trip without a driver goes on; the first known voice settles it."""
    drive = Drive()
    drive.get_in()
    drive.dies(ABSENCE_LIMIT_S + 20)
    drive.wait(2)
    drive.says(BEN)
    assert drive.asked == [BEN]


def test_daemon_dies_after_a_hand_on_the_switch() -> None:
    """The next daemon leaves the touched seat alone too."""
    drive = Drive()
    drive.get_in()
    drive.says(ANN)
    drive.car(seat_switch=True)
    drive.facts["seat_switch"] = False
    drive.dies(1.0)
    drive.wait(2)
    drive.tell(Choose(drive.now_s, "c1", BEN))
    assert all(SEAT not in apply.signals for apply in drive.applied[1:])


def test_daemon_dies_and_its_driver_is_erased_meanwhile() -> None:
    """Nobody is served who is not enrolled any more."""
    drive = Drive()
    drive.get_in()
    drive.car(in_park=False)
    drive.says(ANN)
    drive.dies(1.0, BEN)
    drive.car(in_park=True)
    assert drive.applied == []
    assert drive.state.driver is None


# --- the table ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("trigger", Trigger)
def test_the_table_is_total_and_says_nothing_in_vain(state: State, trigger: Trigger) -> None:
    """One row without a guard stands last for every state and trigger; none stands behind it."""
    rows = [row for row in TABLE if state in row.states and row.trigger is trigger]
    assert [row.guard for row in rows].count(None) == 1
    assert rows[-1].guard is None
    assert len({row.guard for row in rows}) == len(rows)


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
        "seat_switch": st.sampled_from([False, False, True]),
        "key": st.sampled_from(["fob-1", "fob-9"]),
    },
)


class AnyDrive(RuleBasedStateMachine):
    """Anything may happen in any order; what must never happen is checked after each thing."""

    def __init__(self) -> None:
        super().__init__()
        self.drive = Drive()
        self.seen = 0
        self.made: dict[str, Apply] = {}
        self.over: set[str] = set()
        self.accepted: set[str] = set()
        self.touched: set[Group] = set()
        self.trip_s: float | None = None
        self.linked = True
        self.wish_s = self.drive.now_s
        self.commands = 0

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
        self.linked = connected
        self.drive.tell(LinkState(self.drive.now_s, connected=connected))

    @rule()
    def listen(self) -> None:
        """The head unit asks."""
        self.commands += 1
        self.drive.tell(Listen(self.drive.now_s, "c"))

    @rule(driver=st.none() | DRIVERS)
    def choose(self, driver: str | None) -> None:
        """Somebody is chosen by hand, or nobody."""
        self.commands += 1
        self.wish_s = self.drive.now_s
        trip_open = self.drive.state.trip_open
        self.drive.tell(Choose(self.drive.now_s, "c", driver))
        if self.drive.results[-1] == "":
            assert self.drive.state.driver == driver
        else:
            assert not trip_open or driver not in (None, *self.drive.enrolled)

    @rule()
    def cancel(self) -> None:
        """The head unit says stop, and nothing is alive any more."""
        self.commands += 1
        self.drive.tell(Cancel(self.drive.now_s, "c"))
        self._check()
        assert self.over >= self._of_this_trip() or not self.linked

    @rule(moving=st.booleans(), age_s=st.sampled_from([0.0, 3.0]))
    def save(self, *, moving: bool, age_s: float) -> None:
        """The ECU tells where it is, and the head unit says that it is good so."""
        self.commands += 1
        now_s, orders = self.drive.now_s, len(self.drive.orders)
        self.drive.tell(Position(now_s, now_s - age_s, moving, {SEAT: 1.0}))
        self.drive.tell(Save(now_s, "c"))
        for order in self.drive.orders[orders:]:
            assert order.driver == self.drive.state.driver
            assert not moving
            assert not age_s

    @precondition(lambda self: self.made)
    @rule(
        data=st.data(),
        status=st.sampled_from(ResultStatus),
        reason=st.sampled_from(["standing", "expired", "no", MANUAL]),
    )
    def answer(self, data: st.DataObject, status: ResultStatus, reason: str) -> None:
        """An ECU answers, anything, to anything."""
        request = data.draw(st.sampled_from(list(self.made)))
        strays = len(self.drive.strays)
        bad = status in (ResultStatus.REJECTED, ResultStatus.ABORTED)
        told = RequestResult(self.drive.now_s, request, status, reason if bad else "")
        mine = request in {r.request for r in self.drive.memory.outbox.requests}
        self.drive.tell(told)
        assert (len(self.drive.strays) == strays) is mine
        if mine and bad and reason == MANUAL:
            self.touched |= {group_of(path) for path in self.made[request].signals}
        if not mine or request in self.over:
            return
        if status is ResultStatus.ACCEPTED:
            self.accepted.add(request)
        elif status is not ResultStatus.REJECTED or (
            reason in ("no", MANUAL) and request not in self.accepted
        ):
            self.over.add(request)

    @rule(gone_s=st.sampled_from([0.5, ABSENCE_LIMIT_S, ABSENCE_LIMIT_S + 1]))
    def die(self, gone_s: float) -> None:
        """The daemon dies, and another one starts."""
        driver = self.drive.state.driver
        self.drive.dies(gone_s, *self.drive.enrolled)
        self.linked = True
        assert self.drive.state.driver == (driver if gone_s <= ABSENCE_LIMIT_S else None)

    @rule(driver=DRIVERS)
    def known(self, driver: str) -> None:
        """An enrolled person speaks."""
        if driver == self.drive.state.driver or self.drive.state.driver is None:
            self.wish_s = self.drive.now_s + 0.5
        self.drive.says(driver)

    @rule(
        outcome=st.sampled_from([o for o in Outcome if o is not Outcome.KNOWN]),
    )
    def not_known(self, outcome: Outcome) -> None:
        """Somebody speaks who is not recognised: never the cause of a request."""
        state = self.drive.state
        before = len(self.drive.applied)
        self.drive.says(None, outcome)
        now = self.drive.state
        if now.settled_by is SettledBy.KEY and now.since_s == self.drive.now_s:
            # A clock was ahead, and the key's time has come meanwhile.
            return
        assert state.delivery is not Delivery.NONE or len(self.drive.applied) == before
        assert now.driver in (None, state.driver)

    @precondition(lambda self: self.drive.state.trip_open)
    @rule(names=st.sets(DRIVERS))
    def household(self, names: set[str]) -> None:
        """Somebody is enrolled or forgotten."""
        self.drive.tell(_household(*sorted(names)))

    def _of_this_trip(self) -> set[str]:
        return {r.request for r in self.drive.memory.outbox.requests} & set(self.made)

    @invariant()
    def what_is_asked_may_be_asked(self) -> None:
        """See `_check`."""
        self._check()

    def _check(self) -> None:
        """Nothing for nobody, nothing twice at once, nothing after the end, a hand or a minute."""
        drive = self.drive
        if drive.memory.opened_s != self.trip_s:
            self.trip_s, self.touched = drive.memory.opened_s, set()
            self.over = set(self.made)
        self.over |= {w.request for w in drive.withdrawn}
        self.touched |= {Group(name) for name in drive.memory.outbox.touched}
        for apply in drive.applied[self.seen :]:
            groups = {group_of(path) for path in apply.signals}
            assert apply.driver == drive.state.driver
            assert apply.request not in self.over
            assert not groups & self.touched
            assert self.linked
            assert apply.request not in self.accepted
            assert apply.at_s - max(self.wish_s, drive.state.since_s or 0.0) <= WANTED_S
            before = self.made.get(apply.request)
            if before:
                assert apply == replace(before, at_s=apply.at_s)
                assert apply.at_s - before.at_s >= REPEAT_S
            for other in set(self.made) - self.over - {apply.request}:
                assert not groups & {group_of(path) for path in self.made[other].signals}
            self.made[apply.request] = apply
        self.seen = len(drive.applied)

    @invariant()
    def every_command_is_answered_once(self) -> None:
        """Done, refused, or passed on to the store, which answers."""
        assert len(self.drive.results) + len(self.drive.orders) == self.commands

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
