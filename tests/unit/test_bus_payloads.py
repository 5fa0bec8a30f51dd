import json
import math
import re
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whodrives.bus import MAX_PAYLOAD_BYTES, Decoder, Message, encode, encode_apply, encode_offline
from whodrives.domain import (
    Apply,
    Delivery,
    DriverState,
    Evidence,
    Guests,
    Health,
    Listen,
    Match,
    Offer,
    Outcome,
    PayloadError,
    Reading,
    Recognition,
    VehicleReport,
    VehicleState,
    Verdict,
)

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "tests" / "golden" / "mqtt"
WALL_S = datetime(2026, 11, 23, 8, 0, 0, tzinfo=UTC).timestamp()
AT_S = 500.0
EPOCH_S = WALL_S - AT_S
REQUEST = uuid.UUID("3f2b7c1e-5a64-4d0e-9c1b-0d2f4a6b8c0e")
SEAT = "Vehicle.Cabin.Seat.Row1.DriverSide"
GEAR = "Vehicle.Powertrain.Transmission.SelectedGear"
LOCK = "Vehicle.Powertrain.Transmission.IsParkLockEngaged"
VEHICLE, LISTEN = "whodrives/car/vehicle", "whodrives/car/command/listen"

EVIDENCE = Evidence(
    (Match("d-7f3a", 0.71, 6.644), Match("d-0b12", 0.22, -3.1)), 2.1349, 14.18, AT_S + 2.5
)
DRIVER = DriverState(
    at_s=AT_S + 2.5,
    driver="d-7f3a",
    since_s=AT_S + 2.5,
    probability=0.99872,
    delivery=Delivery.WAITING,
    waiting_for=("park_or_brake",),
    trip_open=True,
)
APPLY = Apply(
    AT_S + 5.0,
    "d-7f3a",
    {
        f"{SEAT}.Position": 120.0,
        f"{SEAT}.Backrest.Recline": 12.5,
        "Vehicle.Body.Mirrors.DriverSide.Tilt": -5.0,
    },
)
VERDICT = Verdict(Outcome.KNOWN, "d-7f3a", EVIDENCE, 0.9987)
WRITTEN: dict[str, Message] = {
    "status": encode(Health(AT_S, ("source: the microphone is gone",)), "car", EPOCH_S),
    "status-offline": encode_offline("car", "the connection was lost"),
    "driver": encode(DRIVER, "car", EPOCH_S),
    "guest": encode(
        Guests(AT_S + 5.0, (Offer("g-3f2a9c1e", 4, date(2026, 11, 20).toordinal()),)),
        "car",
        EPOCH_S,
    ),
    "recognition": encode(Recognition(AT_S + 2.5, VERDICT), "car", EPOCH_S),
    "preferences-apply": encode_apply(APPLY, "car", EPOCH_S, REQUEST),
}


def _decode(topic: str, body: object, wall_now_s: float = WALL_S) -> VehicleReport | Listen:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Decoder("car").decode(topic, payload, AT_S, wall_now_s)


def _time(age_s: float = 0.0) -> str:
    return (datetime.fromtimestamp(WALL_S, UTC) - timedelta(seconds=age_s)).isoformat()


def _signals(age_s: float = 0.0, **values: object) -> dict[str, object]:
    """A vehicle payload; `__` in a keyword stands for a dot."""
    signals = {path.replace("__", "."): _said(value, age_s) for path, value in values.items()}
    return {"schema": 1, "signals": signals}


def _said(value: object, age_s: float = 0.0) -> dict[str, object]:
    return {"value": value, "time": _time(age_s)}


def _state(body: object, wall_now_s: float = WALL_S) -> VehicleState:
    report = _decode(VEHICLE, body, wall_now_s)
    assert isinstance(report, VehicleReport)
    return report.state


def test_the_offer_is_removed_when_nobody_is_left() -> None:
    """A guest who was enrolled or forgotten is not offered any more: an empty retained message."""
    message = encode(Guests(AT_S), "car", EPOCH_S)
    assert (message.payload, message.retain, message.qos) == (b"", True, 1)


# --- the golden files, the documentation and the code agree ---------------------------------------


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_is_the_golden_file(name: str) -> None:
    """Fixed events give exactly the golden payload, names in the same order."""
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    written = json.loads(WRITTEN[name].payload)
    assert written == golden
    assert list(written) == list(golden)


def test_the_documented_examples_are_the_golden_files() -> None:
    """Each JSON block in docs/mqtt.md is a golden file, to the letter, and none is left out."""
    text = (REPOSITORY / "docs" / "mqtt.md").read_text()
    blocks = dict(re.findall(r"<!-- golden: ([a-z-]+) -->\n```json\n(.*?)```", text, re.DOTALL))
    assert text.count("```json") == len(blocks)
    assert blocks == {path.stem: path.read_text() for path in GOLDEN.glob("*.json")}


def test_the_documented_vehicle_state_is_understood() -> None:
    """The golden vehicle payload says: stands in Park, door closed, occupied, ignition on."""
    yes, no = Reading(value=True, at_s=AT_S), Reading(value=False, at_s=AT_S)
    assert _state((GOLDEN / "vehicle.json").read_bytes()) == VehicleState(
        speed_kmh=Reading(0.0, AT_S),
        in_park=yes,
        parking_brake=no,
        door_open=no,
        seat_occupied=yes,
        ignition_on=yes,
    )


def test_the_documented_single_signal_is_understood() -> None:
    """A signal's own topic ends in its dotted path."""
    report = _decode(f"{VEHICLE}/{GEAR}", (GOLDEN / "vehicle-signal.json").read_bytes())
    assert report == VehicleReport(AT_S, VehicleState(in_park=Reading(value=True, at_s=AT_S)))


def test_the_documented_listen_is_understood() -> None:
    """The head unit's command is heard at the moment it arrives."""
    assert _decode(LISTEN, (GOLDEN / "command-listen.json").read_bytes()) == Listen(AT_S)


# --- messages out ---------------------------------------------------------------------------------


def test_apply_is_never_retained_and_expires() -> None:
    """A request names itself in the correlation data, and is good for three seconds."""
    message = WRITTEN["preferences-apply"]
    assert message.topic == "whodrives/car/preferences/apply"
    assert (message.qos, message.retain, message.expiry_s) == (1, False, 3)
    assert message.correlation == str(REQUEST).encode()
    assert message.response_topic == "whodrives/car/preferences/result"


def test_values_have_the_type_of_their_signal() -> None:
    """An integer signal is written without a decimal point, a float signal with one."""
    text = WRITTEN["preferences-apply"].payload.decode()
    assert f'"{SEAT}.Position":120,' in text
    assert f'"{SEAT}.Backrest.Recline":12.5' in text


def test_the_end_of_a_trip_clears_the_driver() -> None:
    """Outside a trip the retained driver is removed with an empty payload."""
    message = encode(DriverState(AT_S), "car", EPOCH_S)
    assert (message.payload, message.retain, message.qos) == (b"", True, 1)


def test_an_unknown_driver_has_no_id_and_no_confidence() -> None:
    """In an open trip without a settled driver everything about a driver is null."""
    body = json.loads(encode(DriverState(AT_S, trip_open=True), "car", EPOCH_S).payload)
    assert body["state"] == "unknown"
    assert (body["driver"], body["since"], body["confidence"]) == (None, None, None)
    assert body["preferences"] == {"state": "none", "waiting_for": []}


def test_status_is_online_without_reasons() -> None:
    """Health without reasons is `online`; status and driver are retained, recognition is not."""
    message = encode(Health(AT_S), "car", EPOCH_S)
    assert json.loads(message.payload)["state"] == "online"
    assert message.retain
    assert WRITTEN["driver"].retain
    assert not WRITTEN["recognition"].retain
    assert WRITTEN["recognition"].expiry_s == 10


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.KNOWN])
def test_a_recognition_names_nobody_unless_known(outcome: Outcome) -> None:
    """Best match and runner-up are told by their ratios alone; no cosine, no confidence."""
    verdict = Verdict(outcome, None, EVIDENCE, 0.4)
    payload = encode(Recognition(AT_S, verdict), "car", EPOCH_S).payload.decode()
    assert json.loads(payload)["llr"] == 6.64
    for word in ("d-7f3a", "d-0b12", "cosine", "confidence"):
        assert word not in payload


@pytest.mark.parametrize("llr", [math.inf, -math.inf, math.nan])
def test_numbers_that_json_lacks_are_null(llr: float) -> None:
    """A ratio that is not finite is told as not known, in valid JSON."""
    evidence = Evidence((Match("a", 0.1, llr),), 1.0, None, AT_S)
    message = encode(
        Recognition(AT_S, Verdict(Outcome.UNKNOWN, None, evidence, None)), "car", EPOCH_S
    )
    body = json.loads(message.payload)
    assert (body["llr"], body["runner_up_llr"], body["snr_db"]) == (None, None, None)


# --- messages in ----------------------------------------------------------------------------------


def test_an_old_value_is_old_on_arrival() -> None:
    """The age on the calendar becomes the same age on the monotonic clock."""
    state = _state(_signals(30.0, Vehicle__Speed=0))
    assert state.speed_kmh == Reading(0.0, AT_S - 30.0)


def test_backing_up_is_moving() -> None:
    """A negative speed is read as its magnitude."""
    assert _state(_signals(Vehicle__Speed=-3.5)).speed_kmh == Reading(3.5, AT_S)


@pytest.mark.parametrize(
    ("gear", "lock", "park"),
    [
        (126, True, True),
        (126, False, False),
        (0, True, False),
        (1, False, False),
        (126, None, True),
        (None, True, True),
        (None, None, None),
    ],
)
def test_park_needs_everything_that_is_known_to_agree(
    gear: int | None, *, lock: bool | None, park: bool | None
) -> None:
    """Gear and park lock that disagree are not Park, in one message and in two."""
    body = {"schema": 1, "signals": {GEAR: _said(gear), LOCK: _said(lock)}}
    expected = None if park is None else Reading(park, AT_S)
    assert _state(body).in_park == expected
    decoder = Decoder("car")
    for path, value in ((GEAR, gear), (LOCK, lock)):
        payload = json.dumps({"schema": 1, **_said(value)}).encode()
        report = decoder.decode(f"{VEHICLE}/{path}", payload, AT_S, WALL_S)
    assert isinstance(report, VehicleReport)
    assert report.state.in_park == expected


def test_two_signals_for_one_fact_are_as_old_as_the_older() -> None:
    """A park lock that was last heard of long ago does not stay fresh through the gear."""
    body = {"schema": 1, "signals": {GEAR: _said(126), LOCK: _said(value=True, age_s=9.0)}}
    assert _state(body).in_park == Reading(value=True, at_s=AT_S - 9.0)


def test_a_disagreement_is_as_new_as_the_newer() -> None:
    """A lock that opens is not outdated by the gear, whichever of the two is newer."""
    for gear_s, lock_s in ((0.0, 1.0), (1.0, 0.0)):
        signals = {GEAR: _said(126, gear_s), LOCK: _said(value=False, age_s=lock_s)}
        state = _state({"schema": 1, "signals": signals})
        assert state.in_park == Reading(value=False, at_s=AT_S)


@pytest.mark.parametrize(
    ("status", "flag", "occupied"),
    [
        ("OCCUPIED", True, True),
        ("EMPTY", False, False),
        ("OCCUPIED", False, None),
        ("UNKNOWN", None, None),
        (None, True, True),
    ],
)
def test_occupancy_in_both_dialects(
    status: str | None, *, flag: bool | None, occupied: bool | None
) -> None:
    """VSS 6's status and VSS 5's flag are both read; if they disagree nothing is known."""
    signals = {f"{SEAT}.OccupancyStatus": _said(status), f"{SEAT}.IsOccupied": _said(flag)}
    expected = None if occupied is None else Reading(occupied, AT_S)
    assert _state({"schema": 1, "signals": signals}).seat_occupied == expected


@pytest.mark.parametrize(
    ("said", "on"),
    [("ACC", True), ("ON", True), ("START", True), ("OFF", False), ("LOCK", False)],
)
def test_ignition_is_on_from_acc(said: str, *, on: bool) -> None:
    """ACC, ON and START are on; UNDEFINED and null are not known."""
    assert _state(_signals(Vehicle__LowVoltageSystemState=said)).ignition_on == Reading(on, AT_S)
    for unknown in ("UNDEFINED", None):
        assert _state(_signals(Vehicle__LowVoltageSystemState=unknown)).ignition_on is None


def test_what_we_do_not_know_is_ignored() -> None:
    """Unknown signals, unknown fields and unknown single-signal topics are no mistake."""
    body = {**_signals(Vehicle__Speed=0, Vehicle__Cabin__Horn={"odd": [1]}), "extra": {}}
    assert _state(body).speed_kmh == Reading(0.0, AT_S)
    assert _decode(f"{VEHICLE}/Vehicle.Cabin.Horn", b"\xff") == VehicleReport(AT_S, VehicleState())


def _speed(value: object) -> object:
    return _signals(Vehicle__Speed=value)


REFUSED: dict[str, tuple[str, object, str]] = {
    "a boolean speed": (VEHICLE, _speed(value=True), "Vehicle.Speed.value"),
    "a text speed": (VEHICLE, _speed("0"), "Vehicle.Speed.value"),
    "a huge speed": (VEHICLE, _speed(10**400), "Vehicle.Speed.value"),
    "a gear of one half": (VEHICLE, {"schema": 1, "signals": {GEAR: _said(0.5)}}, f"{GEAR}.value"),
    "a boolean gear": (VEHICLE, {"schema": 1, "signals": {GEAR: _said(value=True)}}, GEAR),
    "a gear out of range": (VEHICLE, {"schema": 1, "signals": {GEAR: _said(300)}}, GEAR),
    "a number for a boolean": (VEHICLE, {"schema": 1, "signals": {LOCK: _said(1)}}, LOCK),
    "an unknown word": (VEHICLE, _signals(Vehicle__LowVoltageSystemState="on"), "give one of"),
    "a list for a word": (VEHICLE, _signals(Vehicle__LowVoltageSystemState=[]), "give one of"),
    "no value": (VEHICLE, {"schema": 1, "signals": {GEAR: {"time": _time()}}}, "missing"),
    "no time": (VEHICLE, {"schema": 1, "signals": {GEAR: {"value": 126}}}, f"{GEAR}.time"),
    "a bare value": (VEHICLE, {"schema": 1, "signals": {GEAR: 126}}, GEAR),
    "the future": (VEHICLE, _signals(-1.5, Vehicle__Speed=0), "1.5 s in the future"),
    "a time without a zone": (
        f"{VEHICLE}/{GEAR}",
        {"schema": 1, "value": 126, "time": "2026-11-23T08:00:00"},
        "time",
    ),
    "a time at the edge of the calendar": (
        f"{VEHICLE}/{GEAR}",
        {"schema": 1, "value": 126, "time": "0001-01-01T00:00:00+23:59"},
        "time",
    ),
    "no signals": (VEHICLE, {"schema": 1}, "signals"),
    "a list of signals": (VEHICLE, {"schema": 1, "signals": []}, "signals"),
    "no schema": (VEHICLE, {"signals": {}}, "schema"),
    "another schema": (VEHICLE, {"schema": 2, "signals": {}}, "schema"),
    "schema true": (VEHICLE, {"schema": True, "signals": {}}, "schema"),
    "no object": (VEHICLE, [1], "give a JSON object"),
    "an empty payload": (VEHICLE, b"", "not a JSON text"),
    "no JSON": (VEHICLE, b"{schema:1}", "not a JSON text"),
    "no UTF-8": (VEHICLE, b'{"schema":1,"x":"\xff"}', "not a JSON text"),
    "UTF-16": (VEHICLE, '{"schema":1}'.encode("utf-16"), "not a JSON text"),
    "NaN": (VEHICLE, b'{"schema":1,"signals":{"Vehicle.Speed":{"value":NaN}}}', "NaN"),
    "Infinity": (VEHICLE, b'{"schema":1,"x":-Infinity}', "Infinity"),
    "a number beyond any float": (
        VEHICLE,
        json.dumps(_speed(-1.0)).replace("-1.0", "1e999").encode(),
        "finite",
    ),
    "a name given twice": (VEHICLE, b'{"schema":1,"signals":{},"signals":{}}', "twice"),
    "deep nesting": (VEHICLE, b"[" * 60_000, "nested too deeply"),
    "too large": (VEHICLE, b" " * (MAX_PAYLOAD_BYTES + 1), "bytes"),
    "a number of many digits": (VEHICLE, b'{"schema":' + b"1" * 5000 + b"}", "not a JSON text"),
    "an old command": (LISTEN, {"schema": 1, "issued_at": _time(5.5)}, "issued_at"),
    "a command from the future": (LISTEN, {"schema": 1, "issued_at": _time(-2)}, "issued_at"),
    "a command without a time": (LISTEN, {"schema": 1}, "issued_at"),
    "another topic": ("whodrives/car/command/dance", {"schema": 1}, "no such topic"),
    "another car": ("whodrives/bus/vehicle", {"schema": 1}, "no such topic"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_topic_and_field(case: str) -> None:
    """A payload that breaks the contract is refused in one line that says where and what to do."""
    topic, body, said = REFUSED[case]
    with pytest.raises(PayloadError) as refused:
        _decode(topic, body)
    assert str(refused.value).startswith(f"{topic}: ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_one_mistake_refuses_the_whole_message() -> None:
    """A message with a bad door says nothing of the speed either, and leaves no trace."""
    decoder = Decoder("car")
    bad = _signals(Vehicle__Speed=0, Vehicle__Chassis__ParkingBrake__IsEngaged="yes")
    with pytest.raises(PayloadError):
        decoder.decode(VEHICLE, json.dumps(bad).encode(), AT_S, WALL_S)
    report = decoder.decode(VEHICLE, json.dumps(_signals()).encode(), AT_S, WALL_S)
    assert report == VehicleReport(AT_S, VehicleState())


def test_older_news_does_not_overwrite_newer() -> None:
    """Messages that arrive out of order keep the newest value of each signal."""
    decoder = Decoder("car")
    for age_s, speed in ((0.0, 7), (1.0, 0)):
        payload = json.dumps(_signals(age_s, Vehicle__Speed=speed)).encode()
        report = decoder.decode(VEHICLE, payload, AT_S, WALL_S)
    assert isinstance(report, VehicleReport)
    assert report.state.speed_kmh == Reading(7.0, AT_S)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
PATHS = st.sampled_from([GEAR, LOCK, "Vehicle.Speed", f"{SEAT}.OccupancyStatus", "Vehicle.Odd"])
READINGS = st.fixed_dictionaries(
    {}, optional={"value": JSON, "time": JSON | st.just(_time()) | st.just(_time(3))}
)
BODIES = JSON | st.fixed_dictionaries(
    {},
    optional={
        "schema": JSON | st.just(1),
        "signals": JSON | st.dictionaries(PATHS, READINGS | JSON),
        "value": JSON,
        "time": JSON | st.just(_time()),
        "issued_at": JSON | st.just(_time()),
    },
)
TOPICS = st.sampled_from([VEHICLE, LISTEN, f"{VEHICLE}/{GEAR}", f"{VEHICLE}/x"]) | st.text()


@given(TOPICS, st.binary() | BODIES.map(lambda body: json.dumps(body).encode()))
def test_any_payload_is_read_or_refused(topic: str, payload: bytes) -> None:
    """Whatever comes in, the answer is an input with finite values or a PayloadError."""
    try:
        news = Decoder("car").decode(topic, payload, AT_S, WALL_S)
    except PayloadError:
        return
    if isinstance(news, VehicleReport) and news.state.speed_kmh is not None:
        assert 0 <= news.state.speed_kmh.value < math.inf


@given(
    st.dictionaries(
        st.sampled_from(["Vehicle.Speed", GEAR, LOCK]),
        st.tuples(st.sampled_from([0, 126, 3.5]), st.floats(-1, 100)),
    )
)
def test_no_reading_claims_to_be_newer_than_it_says(said: dict[str, tuple[float, float]]) -> None:
    """Whatever is accepted is as old as its time says, whatever else the message holds."""
    usable: dict[str, Callable[[float], object]] = {
        "Vehicle.Speed": float,
        GEAR: round,
        LOCK: bool,
    }
    signals = {path: _said(usable[path](v), age) for path, (v, age) in said.items()}
    state = _state({"schema": 1, "signals": signals})
    if state.speed_kmh is not None:
        assert state.speed_kmh.at_s == pytest.approx(AT_S - said["Vehicle.Speed"][1], abs=0.001)
