import importlib.util
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from tools.schemas import check, checked
from whodrives.vehicle import vss

pytestmark = pytest.mark.realtime

REPOSITORY = Path(__file__).parents[2]
PROGRAM = REPOSITORY / "tools" / "ecu.py"
PATIENCE_S = 30.0
NOW_S = 1_800_000_000.0
SEAT = "Vehicle.Cabin.Seat.Row1.DriverSide"
POSITION, RECLINE = f"{SEAT}.Position", f"{SEAT}.Backrest.Recline"
MIRROR = "Vehicle.Body.Mirrors.DriverSide.Tilt"
GEAR = "Vehicle.Powertrain.Transmission.SelectedGear"
SPEED = "Vehicle.Speed"
BRAKE = "Vehicle.Chassis.ParkingBrake.IsEngaged"
DOOR = "Vehicle.Cabin.Door.Row1.DriverSide.IsOpen"
SAFE: dict[str, Any] = {
    "Vehicle.Speed": 0.0,
    GEAR: 126,
    BRAKE: False,
    DOOR: False,
    f"{SEAT}.OccupancyStatus": "OCCUPIED",
}


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ecu", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ecu"] = module
    spec.loader.exec_module(module)
    return module


ecu: Any = _load()


def _iso(wall_s: float) -> str:
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds")


def _report(wall_s: float, **changes: Any) -> dict[str, Any]:
    """The safe car's signals, changed; `__` in a keyword stands for a dot."""
    values = SAFE | {path.replace("__", "."): value for path, value in changes.items()}
    return {path: {"value": value, "time": _iso(wall_s)} for path, value in values.items()}


def _request(signals: dict[str, Any], wall_s: float = NOW_S, **changes: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "request_id": str(uuid.uuid4()),
        "driver": "d-7f3a",
        "issued_at": _iso(wall_s),
        "expires_at": _iso(wall_s + 3),
        "signals": signals,
        **changes,
    }


def _ecu(**changes: Any) -> Any:
    """An ECU in a safe car, but for the changes."""
    made = ecu.Ecu()
    made.car.hear(_report(NOW_S, **changes), NOW_S)
    return made


def _answers(messages: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, str]]:
    """Status and reason of messages, each of which satisfies the published schema."""
    for topic, body in messages:
        checked(topic, body)
    return [(body["status"], body["reason"]) for _, body in messages]


def test_every_signal_has_a_motor() -> None:
    """Whatever whodrives may ask for, the simulated car can do, within VSS's bounds."""
    assert set(ecu.MOTORS) == set(vss.SIGNALS)
    for path, motor in ecu.MOTORS.items():
        signal = vss.SIGNALS[path]
        assert signal.minimum <= motor.minimum < motor.maximum <= signal.maximum


def test_motors_move_at_their_speed() -> None:
    """A seat that has 60 mm to go at 30 mm/s needs two seconds, and reports completion once."""
    made = _ecu()
    start = made.positions[POSITION]
    assert _answers(made.apply(_request({POSITION: start + 60}), NOW_S)) == [("accepted", "")]
    assert made.advance(1.0, NOW_S + 1) == []
    assert made.positions[POSITION] == start + 30
    assert _answers(made.advance(1.0, NOW_S + 2)) == [("completed", "")]
    assert made.positions[POSITION] == start + 60
    assert made.advance(1.0, NOW_S + 2) == []


@given(
    st.floats(0, 250),
    st.floats(0, 250),
    st.lists(st.floats(0, 2), max_size=30),
)
def test_a_motor_never_overshoots(start: float, target: float, steps: list[float]) -> None:
    """Position stays between start and target and never moves faster than the motor."""
    motor, at = ecu.MOTORS[POSITION], start
    for dt_s in steps:
        after = ecu.step(at, target, motor, dt_s)
        assert min(at, target) <= after <= max(at, target)
        assert abs(after - at) <= motor.per_s * dt_s + 1e-9
        at = after


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Vehicle__Speed": 2.0}, "standing"),
        ({"Vehicle__Speed": None}, "standing"),
        ({"Vehicle__Speed": False}, "standing"),
        ({GEAR.replace(".", "__"): 0}, "park_or_brake"),
        ({DOOR.replace(".", "__"): True}, "door_closed"),
        ({f"{SEAT}.OccupancyStatus".replace(".", "__"): "UNKNOWN"}, "seat_occupied"),
    ],
)
def test_its_own_interlock_rejects(change: dict[str, Any], reason: str) -> None:
    """The ECU trusts the car's own signals and not the sender."""
    made = _ecu(**change)
    before = dict(made.positions)
    assert _answers(made.apply(_request({POSITION: 10}), NOW_S)) == [("rejected", reason)]
    made.advance(5.0, NOW_S)
    assert made.positions == before


def test_a_silent_car_rejects() -> None:
    """Without fresh news of the car nothing moves."""
    made = _ecu()
    request = _request({MIRROR: 10}, NOW_S + 3)
    reason = "standing, park_or_brake, seat_occupied"
    assert _answers(made.apply(request, NOW_S + 3)) == [("rejected", reason)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Vehicle__Speed": 1.0}, "standing"),
        ({DOOR.replace(".", "__"): True}, "door_closed"),
    ],
)
def test_the_motors_stop_when_the_car_is_no_longer_safe(
    change: dict[str, Any], reason: str
) -> None:
    """Moving off or an opening door aborts at once, and the seat stays where it is."""
    made = _ecu()
    made.apply(_request({POSITION: 0}), NOW_S)
    made.advance(0.5, NOW_S + 0.5)
    made.car.hear(_report(NOW_S + 0.6, **change), NOW_S + 0.6)
    here = dict(made.positions)
    assert _answers(made.advance(0.5, NOW_S + 1)) == [("aborted", reason)]
    assert made.positions == here
    assert not made.moving


def test_a_calendar_that_is_set_back_does_not_blind_the_ecu() -> None:
    """Readings of the new, earlier time replace those of the old one."""
    made = _ecu()
    made.car.hear(_report(NOW_S - 3600), NOW_S - 3600)
    assert made.car.now(SPEED, NOW_S - 3600) == 0


@pytest.mark.parametrize("late_s", [3.0, 60.0, -2.0])
def test_an_expired_request_is_rejected(late_s: float) -> None:
    """A request is good from its issue to its expiry, whenever the broker delivers it."""
    made = _ecu()
    made.car.hear(_report(NOW_S + late_s), NOW_S + late_s)
    request = _request({POSITION: 10}, NOW_S)
    assert _answers(made.apply(request, NOW_S + late_s)) == [("rejected", "expired")]


@pytest.mark.parametrize("expires", ["9999-12-31T23:59:59Z", _iso(NOW_S + 5.1), _iso(NOW_S + 9e4)])
def test_a_request_that_never_expires_is_rejected(expires: str) -> None:
    """A request that is good for longer than 5 s might be acted on at any later time."""
    made = _ecu()
    request = _request({POSITION: 10}, expires_at=expires)
    answers = [("rejected", "expires_at: more than 5 s after issued_at")]
    assert _answers(made.apply(request, NOW_S)) == answers
    assert not made.moving


@pytest.mark.parametrize(
    ("path", "bad", "good", "reason"),
    [
        ("Vehicle.Speed", 30.0, 0.0, "standing"),
        (GEAR, 0, 126, "park_or_brake"),
        (DOOR, True, False, "door_closed"),
        (f"{SEAT}.OccupancyStatus", "EMPTY", "OCCUPIED", "seat_occupied"),
    ],
)
def test_an_older_reading_replaces_no_newer_one_unless_it_is_dangerous(
    path: str, bad: object, good: object, reason: str
) -> None:
    """What permits is taken in the order of its times; what forbids is always taken."""
    made = _ecu(**{path.replace(".", "__"): bad})
    made.car.hear({path: {"value": good, "time": _iso(NOW_S - 0.5)}}, NOW_S)
    assert _answers(made.apply(_request({POSITION: 10}), NOW_S)) == [("rejected", reason)]
    made.car.hear({path: {"value": good, "time": _iso(NOW_S)}}, NOW_S)
    made.car.hear({path: {"value": bad, "time": _iso(NOW_S - 0.5)}}, NOW_S)
    assert _answers(made.apply(_request({POSITION: 10}), NOW_S)) == [("rejected", reason)]


def test_a_reading_from_the_future_gains_nothing() -> None:
    """It is fresh for no longer, it outdates nothing that is true, and far ahead it is ignored."""
    made = _ecu()
    made.car.hear(_report(NOW_S + 0.9), NOW_S)
    reason = "standing, park_or_brake, seat_occupied"
    late = _request({MIRROR: 10}, NOW_S + 2.1)
    assert _answers(made.apply(late, NOW_S + 2.1)) == [("rejected", reason)]
    made.car.hear(_report(NOW_S + 2.9), NOW_S + 2.1)
    made.car.hear(_report(NOW_S + 2.2, Vehicle__Speed=30.0), NOW_S + 2.2)
    assert _answers(made.apply(late, NOW_S + 2.3)) == [("rejected", "standing")]
    made.car.hear(_report(NOW_S + 9.0), NOW_S + 2.4)
    assert _answers(made.apply(late, NOW_S + 2.5)) == [("rejected", "standing")]


@pytest.mark.parametrize(
    ("status", "flag", "answer"),
    [
        ("OCCUPIED", True, ("accepted", "")),
        (None, True, ("accepted", "")),
        ("OCCUPIED", False, ("rejected", "seat_occupied")),
        ("EMPTY", True, ("rejected", "seat_occupied")),
        (None, False, ("rejected", "seat_occupied")),
    ],
)
def test_a_seat_of_two_opinions_is_not_occupied(
    status: str | None, *, flag: bool, answer: tuple[str, str]
) -> None:
    """VSS 6 says OccupancyStatus, VSS 5 IsOccupied; if they disagree, nothing is known."""
    names = {f"{SEAT}.OccupancyStatus": status, f"{SEAT}.IsOccupied": flag}
    made = _ecu(**{path.replace(".", "__"): value for path, value in names.items()})
    assert _answers(made.apply(_request({MIRROR: 10}), NOW_S)) == [answer]


def test_an_id_in_capitals_is_the_same_id() -> None:
    """A copy in capitals moves nothing again, and what is no UUID is no request."""
    made = _ecu()
    request = _request({MIRROR: 30})
    made.apply(request, NOW_S)
    made.advance(1.0, NOW_S + 1)
    loud = {**request, "request_id": request["request_id"].upper()}
    assert _answers(made.apply(loud, NOW_S + 1)) == [("completed", "")]
    assert made.apply({**request, "request_id": "7"}, NOW_S + 1) == []


def test_the_same_request_twice_moves_once() -> None:
    """A request delivered again gets the answer it had, and moves nothing."""
    made = _ecu()
    request = _request({MIRROR: 30})
    made.apply(request, NOW_S)
    made.advance(1.0, NOW_S + 1)
    made.positions[MIRROR] = 0.0
    assert _answers(made.apply(request, NOW_S + 1.5)) == [("completed", "")]
    assert not made.moving


def test_a_new_request_supersedes_the_old() -> None:
    """The seat goes where the last request says; the one before is told that it was aborted."""
    made = _ecu()
    made.apply(_request({POSITION: 0}), NOW_S)
    answers = _answers(made.apply(_request({POSITION: 250}), NOW_S + 0.1))
    assert answers == [("aborted", "superseded by another request"), ("accepted", "")]


def test_seat_and_mirrors_move_side_by_side() -> None:
    """A request for the mirrors does not stop the one for the seat; each is answered."""
    made = _ecu()
    seat, mirror = _request({POSITION: 155}), _request({MIRROR: 30})
    made.apply(seat, NOW_S)
    made.apply(mirror, NOW_S + 0.1)
    done = made.advance(1.0, NOW_S + 1.1)
    assert [body["request_id"] for _, body in done] == [seat["request_id"], mirror["request_id"]]
    assert _answers(done) == [("completed", ""), ("completed", "")]


def test_a_rejected_request_may_come_again() -> None:
    """A rejection is no memory: once the car is safe the same request is carried out, once."""
    made = _ecu(**{DOOR.replace(".", "__"): True})
    request = _request({POSITION: 155})
    assert _answers(made.apply(request, NOW_S)) == [("rejected", "door_closed")]
    made.car.hear(_report(NOW_S + 1), NOW_S + 1)
    again = {**request, "issued_at": _iso(NOW_S + 1), "expires_at": _iso(NOW_S + 4)}
    assert _answers(made.apply(again, NOW_S + 1)) == [("accepted", "")]
    assert _answers(made.apply(again, NOW_S + 1)) == [("accepted", "")]
    assert _answers(made.advance(1.0, NOW_S + 2)) == [("completed", "")]


def test_a_cancelled_request_stops_where_it_is() -> None:
    """A cancellation aborts, and the same request does not start again."""
    made = _ecu()
    request = _request({POSITION: 0})
    made.apply(request, NOW_S)
    made.advance(0.5, NOW_S + 0.5)
    here = dict(made.positions)
    cancel = {"schema": 1, "request_id": request["request_id"], "reason": "cancelled"}
    assert _answers(made.cancel(cancel, NOW_S + 0.6)) == [("aborted", "cancelled")]
    assert _answers(made.cancel(cancel, NOW_S + 0.7)) == [("aborted", "cancelled")]
    assert _answers(made.apply(request, NOW_S + 0.8)) == [("aborted", "cancelled")]
    made.advance(1.0, NOW_S + 1.8)
    assert made.positions == here


def test_a_cancellation_that_overtakes_its_request_holds() -> None:
    """A request that comes after its own cancellation moves nothing."""
    made = _ecu()
    request = _request({POSITION: 0})
    made.cancel({"schema": 1, "request_id": request["request_id"], "reason": ""}, NOW_S)
    assert _answers(made.apply(request, NOW_S + 0.1)) == [("aborted", "cancelled")]
    assert not made.moving


def test_a_completed_request_cannot_be_cancelled() -> None:
    """What is done is said again, and stays done."""
    made = _ecu()
    request = _request({MIRROR: 30})
    made.apply(request, NOW_S)
    made.advance(1.0, NOW_S + 1)
    cancel = {"schema": 1, "request_id": request["request_id"], "reason": ""}
    assert _answers(made.cancel(cancel, NOW_S + 1)) == [("completed", "")]


def test_a_hand_on_the_switch_goes_before_everything() -> None:
    """The person's movement aborts the request, wins, and keeps its group until the trip ends."""
    made = _ecu()
    made.apply(_request({POSITION: 0}), NOW_S)
    assert _answers(made.manual(POSITION, 155, NOW_S + 0.1)) == [("aborted", "manual")]
    made.advance(1.0, NOW_S + 1.1)
    assert made.positions[POSITION] == 155
    assert _answers(made.apply(_request({RECLINE: 10}), NOW_S + 1.2)) == [("rejected", "manual")]
    assert _answers(made.apply(_request({MIRROR: 10}), NOW_S + 1.2)) == [("accepted", "")]
    made.car.hear(_report(NOW_S + 1.5, **{DOOR.replace(".", "__"): True}), NOW_S + 1.5)
    made.advance(0.1, NOW_S + 1.5)
    made.car.hear(_report(NOW_S + 1.6), NOW_S + 1.6)
    assert _answers(made.apply(_request({RECLINE: 10}), NOW_S + 1.7)) == [("accepted", "")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "type one signal"),
        ("Position", "type one signal"),
        ("Tilt 3", "type one signal"),
        ("Position far", "no number"),
    ],
)
def test_a_line_that_names_no_switch_is_explained(line: str, words: str) -> None:
    """Whoever types gets told what to type."""
    with pytest.raises(ValueError, match=words):
        ecu.switched(line)


def test_a_typed_line_names_a_switch() -> None:
    """The last words of a path are enough."""
    assert ecu.switched("Position 120") == (POSITION, 120.0)
    assert ecu.switched("Mirrors.DriverSide.Tilt -5\n") == (MIRROR, -5.0)


@pytest.mark.parametrize(
    ("fault", "at_once", "later"),
    [
        ("silent", [], []),
        ("deaf", [], []),
        ("slow", [], [("accepted", "")]),
        ("lying", [("completed", "")], []),
        ("rejects", [("rejected", "standing")], []),
        ("duplicates", [("accepted", ""), ("accepted", "")], [("completed", "")] * 2),
        ("stray", [("accepted", ""), ("completed", "")], [("completed", "")]),
        ("jammed", [("accepted", "")], [("aborted", "jammed")]),
        ("locked", [("rejected", "locked")], []),
        ("wavers", [("accepted", ""), ("rejected", "expired")], []),
    ],
)
def test_it_misbehaves_as_told(
    fault: str, at_once: list[tuple[str, str]], later: list[tuple[str, str]]
) -> None:
    """Each fault is what it is called."""
    made = _ecu()
    made.faults = frozenset({ecu.Fault(fault)})
    start = made.positions[MIRROR]
    assert _answers(made.apply(_request({MIRROR: 60}), NOW_S)) == at_once
    for tenth in range(1, 55):
        made.car.hear(_report(NOW_S + tenth / 10), NOW_S + tenth / 10)
        later_said = _answers(made.advance(0.1, NOW_S + tenth / 10))
        assert later_said == later[: len(later_said)]
        later = later[len(later_said) :]
    assert later == []
    moved = made.positions[MIRROR] - start
    moves = {"silent", "slow", "duplicates", "stray", "jammed", "wavers"}
    assert (moved > 0) is (fault in moves)


def test_the_next_ecu_goes_on_where_this_one_was(tmp_path: Path) -> None:
    """Positions and answers outlive a power cut; what was under way then is aborted."""
    made, saved = _ecu(), tmp_path / "ecu.json"
    done, cut = _request({MIRROR: 30}), _request({POSITION: 0})
    made.apply(done, NOW_S)
    made.advance(1.0, NOW_S + 1)
    made.apply(cut, NOW_S + 1)
    made.advance(0.1, NOW_S + 1.1)
    ecu.save(saved, made)
    other = _ecu()
    ecu.load(saved, other)
    assert other.positions == made.positions
    assert _answers(other.apply(done, NOW_S + 2)) == [("completed", "")]
    assert _answers(other.apply(cut, NOW_S + 2)) == [("aborted", "restarted")]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"positions": {}, "answers": {}}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    """Nothing is guessed from a file that no ECU saved."""
    saved = tmp_path / "ecu.json"
    saved.write_text(text)
    with pytest.raises(SystemExit, match=r"ecu\.json: .*; delete it"):
        ecu.load(saved, _ecu())


def _done(made: Any, action: str, request: dict[str, Any], now_s: float) -> Any:
    if action in "ab":
        return made.apply(request, now_s)
    if action == "c":
        return made.cancel(request, now_s)
    if action == "h":
        return made.manual(POSITION, 125, now_s)
    return made.advance(2.0, now_s)


@given(st.data())
def test_one_request_moves_the_seat_once(data: st.DataObject) -> None:
    """Whatever the order of copies, cancellations, switches and car states: once final, for good.

    A request that was completed, aborted or cancelled never moves anything again.
    """
    made = _ecu()
    requests = [_request({POSITION: p}) for p in (10, 240)]
    final: dict[str, tuple[str, str]] = {}
    now_s = NOW_S
    for action in data.draw(st.lists(st.sampled_from("abcdehs"), max_size=40)):
        now_s += 0.1
        made.car.hear(_report(now_s, **{DOOR.replace(".", "__"): action == "d"}), now_s)
        body = requests["ab".find(action) % 2]
        fresh = {**body, "issued_at": _iso(now_s), "expires_at": _iso(now_s + 3)}
        said = _done(made, action, fresh, now_s)
        for _, result in said:
            name, status = result["request_id"], result["status"]
            assert final.get(name, (status, result["reason"])) == (status, result["reason"])
            if status in ("completed", "aborted"):
                final[name] = (status, result["reason"])
        assert not set(made._active) & set(final)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"signals": {"Vehicle.Horn": 1}}, "no such signal: Vehicle.Horn"),
        ({"signals": {POSITION: 5000}}, f"out of range: {POSITION}"),
        ({"signals": {POSITION: True}}, f"out of range: {POSITION}"),
        ({"signals": {POSITION: float("nan")}}, f"out of range: {POSITION}"),
        ({"schema": 2}, "not the schema of docs/mqtt.md"),
        ({"expires_at": None}, "not the schema of docs/mqtt.md"),
    ],
)
def test_a_bad_request_is_rejected(changes: dict[str, Any], reason: str) -> None:
    """What cannot be done as a whole is not begun."""
    made = _ecu()
    request = {**_request({POSITION: 10}), **changes}
    assert _answers(made.apply(request, NOW_S)) == [("rejected", reason)]
    assert not made.moving


# --- over a real broker ---------------------------------------------------------------------------


class HeadUnit:
    """The rest of the car: says that it is safe, asks, and remembers what the ECU answers."""

    def __init__(self, host: str, port: int) -> None:
        self.heard: list[MQTTMessage] = []
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self.client.on_message = lambda _client, _data, message: self.heard.append(message)
        self.client.connect(host, port)
        for topic in ("preferences/result", "preferences/position"):
            self.client.subscribe(f"whodrives/car/{topic}", qos=1)
        self.client.loop_start()

    def say(self, topic: str, body: dict[str, Any]) -> None:
        """Publish below the car's root."""
        self.client.publish(f"whodrives/car/{topic}", checked(topic, body), 1)

    def report(self) -> None:
        """Say that the car is safe."""
        self.say("vehicle", {"schema": 1, "signals": _report(time.time())})

    def until(self, ready: Callable[[], object], what: str) -> None:
        """Report a safe car ten times a second until something is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not ready():
            if time.monotonic() > deadline:
                pytest.fail(f"waited {PATIENCE_S:.0f} s in vain until {what}")
            self.report()
            time.sleep(0.1)

    def results(self) -> list[str]:
        """The statuses so far."""
        return [b["status"] for b in self.bodies("preferences/result")]

    def bodies(self, topic: str) -> list[dict[str, Any]]:
        """What came on a topic, as the published schema has it."""
        came = [m.payload for m in self.heard if m.topic == f"whodrives/car/{topic}"]
        for payload in came:
            check(topic, payload)
        return [json.loads(payload) for payload in came]


@pytest.fixture
def head_unit(broker: Any) -> Iterator[HeadUnit]:
    """A head unit at a broker where the simulated ECU works."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), "--port", str(broker.port), "--vehicle", "car"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "daemon")},
        stdout=subprocess.DEVNULL,
    )
    made = HeadUnit(broker.host, broker.port)
    try:
        made.until(lambda: made.bodies("preferences/position"), "the ECU shows its position")
        yield made
    finally:
        made.client.disconnect()
        made.client.loop_stop()
        process.terminate()
        assert process.wait(10) == 0


def test_a_request_is_carried_out(head_unit: HeadUnit) -> None:
    """Accepted, seen moving, completed, and the position at rest is kept by the broker."""
    head_unit.report()
    request = _request({POSITION: 110, MIRROR: 12}, time.time())
    head_unit.say("preferences/apply", request)
    head_unit.until(lambda: "completed" in head_unit.results(), "the request is completed")
    head_unit.until(lambda: not head_unit.bodies("preferences/position")[-1]["moving"], "it rests")
    assert head_unit.results() == ["accepted", "completed"]
    shown = head_unit.bodies("preferences/position")
    assert any(body["moving"] for body in shown)
    assert (shown[-1]["signals"][POSITION], shown[-1]["signals"][MIRROR]) == (110, 12)
    answer = next(m for m in head_unit.heard if m.topic.endswith("result"))
    properties: Any = answer.properties
    assert properties.CorrelationData.decode() == request["request_id"]


def test_rubbish_does_not_stop_it(head_unit: HeadUnit) -> None:
    """After payloads of every wrong kind the ECU still answers."""
    for payload in (b"", b"[]", b"{", b"\xff", b"[" * 50_000, b'{"signals":{"Vehicle.Speed":1}}'):
        for topic in ("vehicle", "vehicle/Vehicle.Speed", "preferences/apply"):
            head_unit.client.publish(f"whodrives/car/{topic}", payload, 1)
    head_unit.say("preferences/apply", _request({MIRROR: 5}, time.time() - 10))
    head_unit.until(head_unit.results, "the ECU answers")
    assert head_unit.results() == ["rejected"]
