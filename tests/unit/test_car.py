"""What the car reports, from the payload to what the trip makes of it."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whodrives.mqtt.decode import MAX_AHEAD_S, Decoder
from whodrives.mqtt.payloads import (
    DOOR,
    GEAR,
    IGNITION,
    KEY,
    OCCUPANCY,
    OCCUPIED,
    PARK_LOCK,
    PARKING_BRAKE,
    READ_SIGNALS,
    SEAT_KEY,
    SPEED,
)
from whodrives.trip.interlock import MAX_AGE_S, refusals
from whodrives.trip.trip import Trip
from whodrives.trip.types import Apply, Choose, LinkState, PersistTrip
from whodrives.vehicle import vss
from whodrives.vehicle.state import Reading, VehicleReport, VehicleState
from whodrives.vehicle.vss import Group
from whodrives.voice.profile import Household, Profile

WALL_S = datetime(2026, 11, 23, 8, 0, 0, tzinfo=UTC).timestamp()
AT_S = 500.0
SAFE: dict[str, Any] = {
    SPEED: 0.0,
    GEAR: 126,
    PARKING_BRAKE: True,
    DOOR: False,
    OCCUPANCY: "OCCUPIED",
    IGNITION: "ON",
}
SWITCHES = vss.SEAT_SWITCHES[:4]
RELEASED = dict.fromkeys(SWITCHES, False)
DRIVER = "d-ann"


class Gateway:
    """Reports the car's signals to a decoder and hands the result to a trip.

    Args:
        whole: one `vehicle` message a cycle, else one topic a signal.
        jitter: gives what the two clocks are read apart, in seconds, for each message.
    """

    def __init__(self, *, whole: bool = True, jitter: Any = lambda: 0.0) -> None:
        self.decoder = Decoder("car")
        self.trip = Trip()
        self.whole = whole
        self.jitter = jitter
        self.touched: frozenset[str] = frozenset()
        self.applied: list[Apply] = []
        self.state = VehicleState()
        preferences = {vss.SEAT_POSITION: 120.0}
        house = Profile(DRIVER, np.zeros((1, 2), np.float32), "", 20.0, preferences)
        self.trip.step(Household(0.0, (house,)))
        self.trip.step(LinkState(0.0, connected=True))

    def cycle(self, signals: Iterable[tuple[str, Any]], now_s: float, ahead_s: float = 0.0) -> None:
        """Report all of them under one time, `now_s` seconds after the beginning."""
        when = datetime.fromtimestamp(WALL_S + now_s + ahead_s, UTC).isoformat()
        said = [(path, {"value": value, "time": when}) for path, value in signals]
        if self.whole:
            self.take("vehicle", {"schema": 1, "signals": dict(said)}, now_s)
            return
        for number, (path, reading) in enumerate(said):
            self.take(f"vehicle/{path}", {"schema": 1, **reading}, now_s + number * 1e-4)

    def take(self, name: str, body: dict[str, Any], now_s: float) -> None:
        """One message."""
        payload, wall_s = json.dumps(body).encode(), WALL_S + now_s + self.jitter()
        report = self.decoder.decode(f"whodrives/car/{name}", payload, AT_S + now_s, wall_s)
        assert isinstance(report, VehicleReport)
        self.state = report.state
        self.note(self.trip.step(report))

    def choose(self, now_s: float) -> None:
        """The head unit says who drives, so that the seat is wanted."""
        self.note(self.trip.step(Choose(AT_S + now_s, "c", DRIVER)))

    def note(self, events: Iterable[object]) -> None:
        """Remember what follows."""
        for event in events:
            if isinstance(event, PersistTrip):
                self.touched = frozenset(event.memory.outbox.touched)
            if isinstance(event, Apply):
                self.applied.append(event)


# --- no press is lost -----------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "one signal a topic"])
@given(
    dice=st.randoms(use_true_random=False),
    pressed=st.sampled_from(SWITCHES),
    cycles=st.integers(1, 4),
    together=st.booleans(),
)
def test_no_press_of_a_switch_is_lost(
    dice: Random, pressed: str, cycles: int, *, whole: bool, together: bool
) -> None:
    """A press in one cycle ends what was asked of the seat, whatever the other switches say.

    The signals of a cycle come in any order, have one time, and the two clocks of this machine are
    read up to 5 ms apart. `together`: the trip opens in the cycle of the press.
    """
    gateway = Gateway(whole=whole, jitter=lambda: dice.uniform(0.0, 0.005))
    parked = {**SAFE, **RELEASED}
    before = parked | ({IGNITION: "OFF"} if together else {})
    for number in range(cycles):
        gateway.cycle(_shuffled(before, dice), 0.2 * number)
    gateway.cycle(_shuffled({**parked, pressed: True}, dice), 0.2 * cycles)
    gateway.cycle(_shuffled(parked, dice), 0.2 * cycles + 0.2)
    gateway.choose(0.2 * cycles + 0.3)
    assert gateway.touched == {Group.SEAT}
    assert gateway.applied == []


def _shuffled(signals: dict[str, Any], dice: Random) -> list[tuple[str, Any]]:
    items = list(signals.items())
    dice.shuffle(items)
    return items


def test_a_press_is_not_outdated_by_the_release_of_another_switch() -> None:
    """A press that is dated before another switch's release is a press all the same."""
    gateway = Gateway()
    gateway.cycle({**SAFE, **RELEASED}.items(), 0.0)
    gateway.cycle({SWITCHES[0]: False}.items(), 0.4)
    gateway.cycle({SWITCHES[1]: True}.items(), 0.5, ahead_s=-0.2)
    switch = gateway.state.seat_switch
    assert switch is not None
    assert switch.value
    assert switch.at_s == pytest.approx(AT_S + 0.3)
    assert gateway.touched == {Group.SEAT}


def test_a_press_that_was_overtaken_by_its_release_still_counts() -> None:
    """Press and release of one switch arrive in the wrong order: somebody was there."""
    gateway = Gateway()
    gateway.cycle({**SAFE, **RELEASED}.items(), 0.0)
    gateway.cycle({SWITCHES[0]: False}.items(), 0.4)
    gateway.cycle({SWITCHES[0]: True}.items(), 0.5, ahead_s=-0.3)
    assert gateway.touched == {Group.SEAT}
    assert gateway.decoder.replayed == 0


def test_signals_of_one_time_have_one_time() -> None:
    """Two messages with one calendar time are of one moment, however far apart they arrive."""
    apart = iter([0.003, 0.0, 0.004, 0.001])
    gateway = Gateway(whole=False, jitter=lambda: next(apart))
    gateway.cycle({SPEED: 0.0, DOOR: False, PARKING_BRAKE: True, IGNITION: "ON"}.items(), 1.0)
    car = gateway.state
    readings = (car.speed_kmh, car.door_open, car.parking_brake, car.ignition_on)
    assert len({reading.at_s for reading in readings if reading}) == 1


def test_a_clock_that_is_set_is_followed() -> None:
    """An hour's step of our clock and the car's makes no reading old, new or replayed."""
    decoder = Decoder("car")
    for at_s, wall_s in ((AT_S, WALL_S), (AT_S + 1.0, WALL_S - 3600.0)):
        when = datetime.fromtimestamp(wall_s, UTC).isoformat()
        body = {"schema": 1, "signals": {SPEED: {"value": 0.0, "time": when}}}
        report = decoder.decode("whodrives/car/vehicle", json.dumps(body).encode(), at_s, wall_s)
        assert isinstance(report, VehicleReport)
        assert report.state.speed_kmh == Reading(0.0, at_s)
    assert decoder.replayed == 0


# --- what is not known ----------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "one signal a topic"])
@pytest.mark.parametrize(("status", "flag"), [("EMPTY", True), ("OCCUPIED", False)])
def test_a_seat_of_two_opinions_is_not_known_at_once(
    status: str, *, flag: bool, whole: bool
) -> None:
    """OccupancyStatus and IsOccupied disagree: nothing is permitted from this moment on."""
    gateway = Gateway(whole=whole)
    gateway.cycle({**SAFE, OCCUPIED: True}.items(), 0.0)
    gateway.cycle({OCCUPANCY: status, OCCUPIED: flag}.items(), 0.1)
    assert gateway.state.seat_occupied is None
    gateway.choose(0.11)
    assert gateway.applied == []
    assert "seat_occupied" in refusals(Group.SEAT, gateway.trip._vehicle, AT_S + 0.11)


@pytest.mark.parametrize(
    ("path", "condition"),
    [
        (SPEED, "standing"),
        (DOOR, "door_closed"),
        (OCCUPANCY, "seat_occupied"),
    ],
)
def test_null_is_not_known_at_once(path: str, condition: str) -> None:
    """A sensor that says that it does not know any more permits nothing from this moment on."""
    gateway = Gateway()
    gateway.cycle(SAFE.items(), 0.0)
    gateway.cycle({path: None}.items(), 0.1)
    assert refusals(Group.SEAT, gateway.trip._vehicle, AT_S + 0.1) == (condition,)


# --- the future -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SAFE)
@given(ahead_s=st.floats(0.0, MAX_AHEAD_S - 0.001))
def test_the_future_keeps_nothing_fresh_for_longer(path: str, ahead_s: float) -> None:
    """A reading that is dated ahead is worth what one that is dated now is, and no more."""
    gateway = Gateway()
    gateway.cycle({path: SAFE[path]}.items(), 0.0, ahead_s)
    (reading,) = {gateway.decoder._latest[path]}
    assert reading.at_s == AT_S
    late_s = AT_S + MAX_AGE_S + 0.001
    assert refusals(Group.SEAT, gateway.state, late_s) == refusals(
        Group.SEAT, VehicleState(), late_s
    )


@pytest.mark.parametrize("path", SAFE)
def test_the_future_outdates_nothing_that_is_true(path: str) -> None:
    """After a reading that is dated ahead, one that is dated right is heard, and not replayed."""
    gateway = Gateway()
    gateway.cycle({path: SAFE[path]}.items(), 0.0, 0.99)
    gateway.cycle({path: SAFE[path]}.items(), 0.1)
    assert gateway.decoder._latest[path].at_s == pytest.approx(AT_S + 0.1)
    assert gateway.decoder.replayed == 0


def test_a_position_from_the_future_outdates_no_true_one() -> None:
    """The same for the position that `command/save` keeps."""
    decoder = Decoder("car")
    for now_s, ahead_s in ((0.0, 0.99), (0.1, 0.0)):
        when = datetime.fromtimestamp(WALL_S + now_s + ahead_s, UTC).isoformat()
        body = {"schema": 1, "time": when, "moving": False, "signals": {}}
        payload = json.dumps(body).encode()
        heard = decoder.decode(
            "whodrives/car/preferences/position", payload, AT_S + now_s, WALL_S + now_s
        )
        assert heard is not None
        assert heard.true_s == pytest.approx(AT_S + now_s)  # type: ignore[union-attr]


# --- order ----------------------------------------------------------------------------------------

DANGEROUS: dict[str, tuple[Any, Any]] = {
    SPEED: (0.0, 30.0),
    GEAR: (126, 0),
    PARK_LOCK: (True, False),
    PARKING_BRAKE: (True, False),
    DOOR: (False, True),
    OCCUPANCY: ("OCCUPIED", "EMPTY"),
    OCCUPIED: (True, False),
    IGNITION: ("ON", "OFF"),
    **dict.fromkeys((vss.SEAT_SWITCHES[0], vss.SEAT_SWITCHES[-1]), (False, True)),
}


@pytest.mark.parametrize("path", DANGEROUS)
def test_a_dangerous_reading_is_never_dropped_for_order(path: str) -> None:
    """Moving, open, empty, pressed, not held, off: heard also if something newer came before."""
    safe, dangerous = DANGEROUS[path]
    gateway = Gateway()
    gateway.cycle({path: safe}.items(), 0.0)
    forbidden = _meaning(gateway, path)
    gateway.cycle({path: dangerous}.items(), 0.1, ahead_s=-0.5)
    assert _meaning(gateway, path) != forbidden
    assert gateway.decoder._latest[path].at_s == pytest.approx(AT_S - 0.4)
    assert gateway.decoder.replayed == 0


@pytest.mark.parametrize("path", DANGEROUS)
def test_a_safe_reading_that_is_older_than_the_newest_is_replayed(path: str) -> None:
    """What permits is taken in order only, whatever came between."""
    safe, dangerous = DANGEROUS[path]
    gateway = Gateway()
    gateway.cycle({path: safe}.items(), 0.0)
    gateway.cycle({path: dangerous}.items(), 0.1, ahead_s=-0.5)
    gateway.cycle({path: safe}.items(), 0.2, ahead_s=-0.3)
    gateway.cycle({path: None}.items(), 0.3, ahead_s=-0.4)
    assert gateway.decoder._latest[path].at_s == pytest.approx(AT_S - 0.4)
    assert gateway.decoder.replayed == 2
    gateway.cycle({path: safe}.items(), 0.4)
    assert gateway.decoder._latest[path].at_s == pytest.approx(AT_S + 0.4)


def _meaning(gateway: Gateway, path: str) -> object:
    return gateway.decoder._latest[path].value


def test_every_read_signal_has_a_dangerous_value_but_the_keys() -> None:
    """A signal that is read anew has to be thought of here."""
    assert set(DANGEROUS) | set(vss.SEAT_SWITCHES) == set(READ_SIGNALS) - {KEY, SEAT_KEY}
