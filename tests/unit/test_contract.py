import contextlib
import copy
import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whodrives.adaptation.types import Guests, Offer
from whodrives.config.schema import Vehicle
from whodrives.core.events import Event, Health
from whodrives.enrolment.types import Enrol, EnrolmentStage, EnrolmentState, Problem
from whodrives.errors import PayloadError
from whodrives.mqtt.decode import CommandError, Decoder, Incoming
from whodrives.mqtt.encode import Message, Vitals, encode, encode_metrics, encode_offline
from whodrives.mqtt.payloads import READ_SIGNALS, Counters
from whodrives.mqtt.rates import COMMAND_RATE, VEHICLE_RATE
from whodrives.mqtt.reading import MAX_PAYLOAD_BYTES, read
from whodrives.mqtt.schemas import schema
from whodrives.mqtt.topics import TOPICS, Topic
from whodrives.trip.types import (
    Apply,
    Cancel,
    CancelRequest,
    Choose,
    CommandResult,
    Delivery,
    DriverState,
    Forget,
    Listen,
    Position,
    RequestResult,
    ResultStatus,
    Save,
    SavePreferences,
    SettledBy,
    UnmatchedResult,
)
from whodrives.vehicle import vss
from whodrives.vehicle.state import Reading, VehicleReport, VehicleState
from whodrives.voice.types import Evidence, Match, Outcome, Recognition, Verdict

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "tests" / "golden" / "mqtt"
WALL_S = datetime(2026, 11, 23, 8, 0, 0, tzinfo=UTC).timestamp()
AT_S = 500.0
EPOCH_S = WALL_S - AT_S
CAR = Vehicle()
REQUEST = "3f2b7c1e-5a64-4d0e-9c1b-0d2f4a6b8c0e"
COMMAND = "5d0c1f7a-93b2-4e6d-8a41-7c2e9b0f6d35"
SEAT = "Vehicle.Cabin.Seat.Row1.DriverSide"
GEAR = "Vehicle.Powertrain.Transmission.SelectedGear"
LOCK = "Vehicle.Powertrain.Transmission.IsParkLockEngaged"
KEY = "Vehicle.Occupant.Row1.DriverSide.Identifier.Subject"
YAW = "Vehicle.Body.Mirrors.DriverSide.Yaw"
ROOT = "whodrives/car"
VEHICLE, LISTEN, SAVE = f"{ROOT}/vehicle", f"{ROOT}/command/listen", f"{ROOT}/command/save"
RESULT, POSITION = f"{ROOT}/preferences/result", f"{ROOT}/preferences/position"

EVIDENCE = Evidence(
    (Match("d-7f3a", 0.71, 6.644), Match("d-0b12", 0.22, -3.1)), 2.1349, 14.18, AT_S + 2.5
)
DRIVER = DriverState(
    at_s=AT_S + 2.5,
    driver="d-7f3a",
    since_s=AT_S + 2.5,
    probability=0.99872,
    settled_by=SettledBy.VOICE,
    delivery=Delivery.WAITING,
    waiting_for=("park_or_brake",),
    trip_open=True,
)
REJECTED = DriverState(
    at_s=AT_S + 5.25,
    driver="d-7f3a",
    since_s=AT_S + 2.5,
    settled_by=SettledBy.HAND,
    delivery=Delivery.REJECTED,
    reason="locked",
    trip_open=True,
)
APPLY = Apply(
    AT_S + 5.0,
    REQUEST,
    "d-7f3a",
    {
        f"{SEAT}.Position": 120.0,
        f"{SEAT}.Backrest.Recline": 12.5,
        "Vehicle.Body.Mirrors.DriverSide.Tilt": -5.0,
    },
)
VERDICT = Verdict(Outcome.KNOWN, "d-7f3a", EVIDENCE, 0.9987)
POOR_SOUND = Verdict(Outcome.POOR_SOUND, None, EVIDENCE, 0.9987, "telephone_band")
REFUSED_COMMAND = CommandResult(
    AT_S + 0.1, COMMAND, "issued_at: 7.0 s old; a command is good for 5 s"
)
SHA256 = "0f1e2d3c4b5a69788796a5b4c3d2e1f0" * 2


def _encode(event: Event, car: Vehicle = CAR) -> Message:
    message = encode(event, car, EPOCH_S)
    assert message is not None
    return message


WRITTEN: dict[str, Message] = {
    "status": _encode(Health(AT_S, ("source: the microphone is gone",))),
    "status-offline": encode_offline("car", "the connection was lost"),
    "driver": _encode(DRIVER),
    "driver-rejected": _encode(REJECTED),
    "recognition": _encode(Recognition(AT_S + 2.5, VERDICT)),
    "recognition-poor-sound": _encode(Recognition(AT_S + 2.5, POOR_SOUND)),
    "preferences-apply": _encode(APPLY),
    "preferences-cancel": _encode(CancelRequest(AT_S + 6.0, REQUEST, "manual")),
    "command-result": _encode(CommandResult(AT_S + 0.1, COMMAND)),
    "command-result-refused": _encode(REFUSED_COMMAND),
    "guest": _encode(Guests(AT_S + 5.0, (Offer("g-3f2a9c1e", 4, date(2026, 11, 20).toordinal()),))),
    "enrolment": _encode(
        EnrolmentState(
            AT_S,
            COMMAND,
            EnrolmentStage.LISTENING,
            12.42,
            (
                Problem(
                    "too_quiet",
                    "the speech is at -54 dBFS; raise the gain or come closer (above -50 dBFS)",
                ),
            ),
        )
    ),
    "enrolment-refused": _encode(
        EnrolmentState(
            AT_S,
            COMMAND,
            EnrolmentStage.REFUSED,
            20.16,
            (
                Problem(
                    "not_the_driver",
                    "this is not the voice of d-7f3a, whom it is to replace; enrol a new driver, "
                    "or let that one speak",
                ),
            ),
            "d-7f3a",
        )
    ),
    "metrics": encode_metrics(
        Counters(received=412, refused=1, published=27, connections=1),
        Vitals(requests=1, encoder=SHA256),
        "car",
        WALL_S + 10.0,
    ),
}


def _decode(topic: str, body: object, wall_now_s: float = WALL_S) -> Incoming | None:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Decoder("car", secure=True).decode(topic, payload, AT_S, wall_now_s)


def _time(age_s: float = 0.0) -> str:
    return (datetime.fromtimestamp(WALL_S, UTC) - timedelta(seconds=age_s)).isoformat()


def _signals(age_s: float = 0.0, **values: object) -> dict[str, object]:
    """A vehicle payload; `__` in a keyword stands for a dot."""
    signals = {path.replace("__", "."): _said(value, age_s) for path, value in values.items()}
    return {"schema": 1, "signals": signals}


def _said(value: object, age_s: float = 0.0) -> dict[str, object]:
    return {"value": value, "time": _time(age_s)}


def _command(number: int = 0, age_s: float = 0.0, **more: object) -> dict[str, object]:
    name = f"{number:08x}{COMMAND[8:]}"
    return {"schema": 1, "command_id": name, "issued_at": _time(age_s), **more}


def _state(body: object, wall_now_s: float = WALL_S) -> VehicleState:
    report = _decode(VEHICLE, body, wall_now_s)
    assert isinstance(report, VehicleReport)
    return report.state


def _golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.json").read_bytes()


# --- the golden files, the documentation, the schemas and the code agree --------------------------

EXAMPLES = {name: topic for topic in TOPICS.values() for name in topic.examples}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_is_the_golden_file(name: str) -> None:
    """Fixed events give exactly the golden payload, names in the same order."""
    golden = json.loads(_golden(name))
    written = json.loads(WRITTEN[name].payload)
    assert written == golden
    assert list(written) == list(golden)


def test_every_topic_has_its_examples() -> None:
    """No golden file is without a topic, nor a topic without one; all that we write is written."""
    assert set(EXAMPLES) == {path.stem for path in GOLDEN.glob("*.json")}
    assert all(topic.examples for topic in TOPICS.values())
    ours = {name for name, topic in EXAMPLES.items() if topic.writer == "whodrives"}
    assert ours == set(WRITTEN)


def test_the_documented_examples_are_the_golden_files() -> None:
    """Each JSON block in docs/mqtt.md is a golden file, to the letter, and none is left out."""
    text = (REPOSITORY / "docs" / "mqtt.md").read_text()
    blocks = dict(re.findall(r"<!-- golden: ([a-z-]+) -->\n```json\n(.*?)```", text, re.DOTALL))
    assert text.count("```json") == len(blocks)
    assert blocks == {path.stem: path.read_text() for path in GOLDEN.glob("*.json")}


def test_the_documented_table_is_the_contract() -> None:
    """Topic, writer, QoS, retain and expiry stand in docs/mqtt.md as the code has them."""
    text = (REPOSITORY / "docs" / "mqtt.md").read_text()
    rows = re.findall(
        r"^\| `([^`]+)` \| ([\w ]+) \| ([01]) \| ([*\w ]+) \| ([\w ]+) \|", text, re.MULTILINE
    )
    documented = [(n, w, int(q), r.strip("*"), e) for n, w, q, r, e in rows]
    assert documented == [
        (t.name, t.writer, t.qos, t.retain, f"{t.expiry_s} s" if t.expiry_s else "never")
        for t in TOPICS.values()
    ]


def test_every_read_signal_is_documented() -> None:
    """docs/mqtt.md names each signal of the car that is read; the switches by their pattern."""
    text = (REPOSITORY / "docs" / "mqtt.md").read_text()
    for path in READ_SIGNALS:
        if path not in vss.SEAT_SWITCHES:
            assert f"`{path}`" in text


def test_every_name_of_a_settable_signal_is_documented() -> None:
    """docs/mqtt.md names each signal of the catalogue, and what each version calls it."""
    text = (REPOSITORY / "docs" / "mqtt.md").read_text()
    for path in {path for version in vss.VERSIONS for path in vss.paths_of(version)}:
        short = re.sub(r"Vehicle\.Body\.Mirrors\.\w+", "M", path.replace(SEAT, "S"))
        assert f"`{short}`" in text or short == "Vehicle.Chassis.SteeringWheel.Extension"


def _validator(topic: Topic) -> Any:
    return jsonschema.Draft202012Validator(
        schema(topic), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )


@pytest.mark.parametrize("topic", TOPICS.values(), ids=lambda topic: topic.file)
def test_the_schemas_are_schemas(topic: Topic) -> None:
    """Every payload's JSON Schema is one of draft 2020-12, and its own examples satisfy it."""
    jsonschema.Draft202012Validator.check_schema(schema(topic))
    for name in topic.examples:
        _validator(topic).validate(json.loads(_golden(name)))


ODDITIES: tuple[object, ...] = (
    *(None, True, -1, 0, 2, 1.5, 1e300, "", "x", "2026-11-23T08:00:00", _time(), COMMAND, "d-1"),
    *([], [1], ["x"], {}, {"x": 1}, {f"{SEAT}.Position": 3}),
)


def _mutants(body: Any) -> Iterator[Any]:
    """The body with one thing in it left out, or replaced by each oddity."""
    for path in _places(body):
        for oddity in (*ODDITIES, KeyError):
            mutant = copy.deepcopy(body)
            inner = mutant
            for step in path[:-1]:
                inner = inner[step]
            if oddity is KeyError:
                del inner[path[-1]]
            else:
                inner[path[-1]] = oddity
            yield mutant


def _places(body: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    steps = body if isinstance(body, dict) else range(len(body)) if isinstance(body, list) else ()
    for step in steps:
        yield (*path, step)
        yield from _places(body[step], (*path, step))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_schema_and_the_code_refuse_the_same(name: str) -> None:
    """Whatever single thing is wrong with an example, both say so; what one reads, both read."""
    topic = EXAMPLES[name]
    validator = _validator(topic)
    verdicts = set()
    for mutant in _mutants(json.loads(_golden(name))):
        try:
            read("t", json.dumps(mutant).encode(), topic.payload)
            accepted = True
        except PayloadError:
            accepted = False
        assert accepted == validator.is_valid(mutant), mutant
        verdicts.add(accepted)
    assert False in verdicts


def test_the_documented_vehicle_state_is_understood() -> None:
    """The golden vehicle payload says: stands in Park, door closed, occupied, ignition on."""
    yes, no = Reading(value=True, at_s=AT_S), Reading(value=False, at_s=AT_S)
    assert _state(_golden("vehicle")) == VehicleState(
        speed_kmh=Reading(0.0, AT_S),
        in_park=yes,
        parking_brake=no,
        door_open=no,
        seat_occupied=yes,
        ignition_on=yes,
        seat_switch=no,
        key=Reading("fob-2", AT_S),
    )


UNDERSTOOD: dict[str, Incoming] = {
    "vehicle-signal": VehicleReport(
        AT_S, VehicleState(in_park=Reading(value=True, at_s=AT_S)), age_s=0.0
    ),
    "command-listen": Listen(AT_S, COMMAND),
    "command-driver": Choose(AT_S, COMMAND, "d-7f3a"),
    "command-save": Save(AT_S, COMMAND),
    "command-cancel": Cancel(AT_S, COMMAND),
    "command-forget": Forget(AT_S, COMMAND, "d-7f3a"),
    "command-enrol": Enrol(AT_S, COMMAND, None, "account-3", "2026-11"),
    "command-enrol-guest": Enrol(AT_S, COMMAND, None, "account-3", "2026-11", "g-3f2a9c1e"),
    "command-enrol-again": Enrol(AT_S, COMMAND, "d-7f3a", "account-3", "2026-11", again=True),
    "preferences-result": RequestResult(AT_S, REQUEST, ResultStatus.REJECTED, "standing"),
    "preferences-position": Position(
        AT_S,
        AT_S,
        moving=True,
        signals={
            f"{SEAT}.Position": 121.0,
            f"{SEAT}.Backrest.Recline": 12.4,
            "Vehicle.Body.Mirrors.DriverSide.Tilt": -5.0,
        },
    ),
}


def test_every_message_to_us_has_its_input() -> None:
    """The tables of examples and inputs cover each other, `vehicle` aside."""
    heard = {name for name, topic in EXAMPLES.items() if "whodrives" in topic.readers}
    assert heard == {*UNDERSTOOD, "vehicle"}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_the_documented_examples_are_understood(name: str) -> None:
    """Each example that comes in at the moment it was made becomes its input."""
    body = json.loads(_golden(name))
    then = datetime.fromisoformat(body.get("time") or body["issued_at"]).timestamp()
    topic = f"{ROOT}/{EXAMPLES[name].name.replace('<VSS path>', GEAR)}"
    assert _decode(topic, _golden(name), then) == UNDERSTOOD[name]


# --- messages out ---------------------------------------------------------------------------------


def test_apply_is_never_retained_and_expires() -> None:
    """A request names itself in the correlation data, and is good for three seconds."""
    for name in ("preferences-apply", "preferences-cancel"):
        message = WRITTEN[name]
        assert message.topic == f"{ROOT}/{name.replace('-', '/')}"
        assert (message.qos, message.retain, message.expiry_s) == (1, False, 3)
        assert message.correlation == REQUEST.encode()
        assert message.response_topic == RESULT


def test_a_command_s_result_is_correlated() -> None:
    """The head unit finds its command's name in the correlation data; nothing is retained."""
    message = WRITTEN["command-result"]
    assert (message.qos, message.retain, message.expiry_s) == (1, False, 10)
    assert message.correlation == COMMAND.encode()
    assert message.response_topic is None


def test_values_have_the_type_of_their_signal() -> None:
    """An integer signal is written without a decimal point, a float signal with one."""
    text = WRITTEN["preferences-apply"].payload.decode()
    assert f'"{SEAT}.Position":120,' in text
    assert f'"{SEAT}.Backrest.Recline":12.5' in text


@pytest.mark.parametrize(
    ("signals", "said"),
    [
        ({f"{SEAT}.Position": 251.0}, "out of range"),
        ({f"{SEAT}.Position": 120.5}, "not a whole number"),
        ({f"{SEAT}.Tilt": math.nan}, "not a finite number"),
        ({"Vehicle.Cabin.Door.Row1.DriverSide.IsOpen": 1.0}, "no seat, mirror"),
        ({}, "signals"),
    ],
)
def test_a_position_that_no_ecu_takes_is_never_sent(signals: dict[str, float], said: str) -> None:
    """Values are checked against the car's limits again at the moment of sending."""
    with pytest.raises(PayloadError, match=said) as refused:
        encode(Apply(AT_S, REQUEST, "d-7f3a", signals), CAR, EPOCH_S)
    assert str(refused.value).startswith(f"{ROOT}/preferences/apply: ")


def test_a_signal_this_car_lacks_is_never_sent() -> None:
    """What is not among the car's signals stays at home, whoever asks."""
    car = Vehicle(signals={YAW: vss.Range(-50, 50)})
    with pytest.raises(PayloadError, match="not among this car's signals"):
        encode(APPLY, car, EPOCH_S)


def test_what_we_say_satisfies_the_contract() -> None:
    """A request without a proper name is not sent: the ECU could not tell it from another."""
    with pytest.raises(PayloadError, match=r"request_id: not of the right form; give a UUID"):
        encode(Apply(AT_S, "7", "d-7f3a", {YAW: 1.0}), CAR, EPOCH_S)


@pytest.mark.parametrize(
    ("version", "path", "value"),
    [
        ("4.0", "Vehicle.Body.Mirrors.DriverSide.Pan", 30),
        ("5.1", "Vehicle.Body.Mirrors.DriverSide.Pan", 30),
        ("6.0", YAW, -30),
    ],
)
def test_the_car_is_told_in_its_own_vss(version: vss.Version, path: str, value: int) -> None:
    """A mirror that shall look left is a negative Yaw in VSS 6 and a positive Pan before."""
    message = _encode(Apply(AT_S, REQUEST, "d-7f3a", {YAW: -30.0}), Vehicle(vss=version))
    assert json.loads(message.payload)["signals"] == {path: value}


def test_events_that_are_not_the_bus_s_say_nothing() -> None:
    """What the service carries out is no message."""
    for event in (
        SavePreferences(AT_S, COMMAND, "d-1", {}),
        Forget(AT_S, COMMAND, "d-1"),
        UnmatchedResult(AT_S, "x"),
    ):
        assert encode(event, CAR, EPOCH_S) is None


def test_the_end_of_a_trip_clears_the_driver() -> None:
    """Outside a trip the retained driver is removed with an empty payload."""
    message = _encode(DriverState(AT_S))
    assert (message.payload, message.retain, message.qos) == (b"", True, 1)


def test_an_unknown_driver_has_no_id_and_no_confidence() -> None:
    """In an open trip without a settled driver everything about a driver is null."""
    body = json.loads(_encode(DriverState(AT_S, trip_open=True)).payload)
    assert body["state"] == "unknown"
    assert (body["driver"], body["since"], body["confidence"]) == (None, None, None)
    assert body["settled_by"] is None
    assert body["preferences"] == {"state": "none", "reason": None, "waiting_for": []}


def test_status_is_online_without_reasons() -> None:
    """Health without reasons is `online`; status and driver are retained, recognition is not."""
    message = _encode(Health(AT_S))
    assert json.loads(message.payload)["state"] == "online"
    assert message.retain
    assert WRITTEN["driver"].retain
    assert WRITTEN["metrics"].retain
    assert not WRITTEN["recognition"].retain
    assert WRITTEN["recognition"].expiry_s == 10


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.KNOWN])
def test_a_recognition_tells_no_evidence_unless_known(outcome: Outcome) -> None:
    """A candidate may be named; how near an attempt came, only if the evidence is asked for."""
    event = Recognition(AT_S, Verdict(outcome, None, EVIDENCE, 0.4))
    payload = _encode(event).payload.decode()
    body = json.loads(payload)
    assert (body["driver"], body["confidence"]) == (None, None)
    assert (body["llr"], body["runner_up_llr"]) == (None, None)
    assert body["candidate"] == (None if outcome is Outcome.POOR_SOUND else "d-7f3a")
    for word in ("d-0b12", "cosine"):
        assert word not in payload
    message = encode(event, CAR, EPOCH_S, evidence=True)
    assert message is not None
    assert json.loads(message.payload)["llr"] == 6.64


@given(st.floats(0.0, 1.0))
def test_confidence_is_told_in_steps(probability: float) -> None:
    """No two attempts can be told apart by it within a step, on either topic."""
    known = Verdict(Outcome.KNOWN, "d-7f3a", EVIDENCE, probability)
    driver = DriverState(
        AT_S, "d-7f3a", AT_S, probability, settled_by=SettledBy.VOICE, trip_open=True
    )
    told = {
        json.loads(_encode(event).payload)["confidence"]
        for event in (Recognition(AT_S, known), driver)
    }
    (step,) = told
    assert step in (0.0, 0.5, 0.9, 0.99, 0.999)
    assert step <= probability


@pytest.mark.parametrize("llr", [math.inf, -math.inf, math.nan])
def test_numbers_that_json_lacks_are_null(llr: float) -> None:
    """A ratio that is not finite is told as not known, in valid JSON."""
    evidence = Evidence((Match("a", 0.1, llr),), 1.0, None, AT_S)
    event = Recognition(AT_S, Verdict(Outcome.UNKNOWN, None, evidence, None))
    message = encode(event, CAR, EPOCH_S, evidence=True)
    assert message is not None
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
    "a huge speed": (VEHICLE, _speed(10**400), "no finite number"),
    "a gear of one half": (VEHICLE, {"schema": 1, "signals": {GEAR: _said(0.5)}}, f"{GEAR}.value"),
    "a boolean gear": (VEHICLE, {"schema": 1, "signals": {GEAR: _said(value=True)}}, GEAR),
    "a gear out of range": (VEHICLE, {"schema": 1, "signals": {GEAR: _said(300)}}, GEAR),
    "a number for a boolean": (VEHICLE, {"schema": 1, "signals": {LOCK: _said(1)}}, LOCK),
    "an unknown word": (
        VEHICLE,
        _signals(Vehicle__LowVoltageSystemState="on"),
        "'on' is not known; give one of",
    ),
    "a list for a word": (VEHICLE, _signals(Vehicle__LowVoltageSystemState=[]), "give one of"),
    "no value": (VEHICLE, {"schema": 1, "signals": {GEAR: {"time": _time()}}}, "missing"),
    "no time": (VEHICLE, {"schema": 1, "signals": {GEAR: {"value": 126}}}, f"{GEAR}.time: missing"),
    "a bare value": (VEHICLE, {"schema": 1, "signals": {GEAR: 126}}, GEAR),
    "the future": (VEHICLE, _signals(-1.5, Vehicle__Speed=0), "1.5 s in the future"),
    "a time without a zone": (
        f"{VEHICLE}/{GEAR}",
        {"schema": 1, "value": 126, "time": "2026-11-23T08:00:00"},
        "time",
    ),
    "a time beyond the calendar": (
        f"{VEHICLE}/{GEAR}",
        {"schema": 1, "value": 126, "time": "9999-12-31T23:59:59.9999999Z"},
        "time: no time; give",
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
    "half a character": (VEHICLE, b'{"schema":1,"signals":{},"x":"\\ud800"}', "not a JSON text"),
    "a key of other letters": (VEHICLE, {"schema": 1, "signals": {KEY: _said("\n")}}, "printable"),
    "a result of nothing": (
        RESULT,
        {"schema": 1, "time": _time(), "status": "accepted"},
        "missing",
    ),
    "a result of no sort": (
        RESULT,
        {"schema": 1, "time": _time(), "request_id": REQUEST, "status": "done"},
        "give one of accepted, completed",
    ),
    "an old result": (
        RESULT,
        {"schema": 1, "time": _time(10.5), "request_id": REQUEST, "status": "accepted"},
        "a result is good for 10 s",
    ),
    "a position of words": (
        POSITION,
        {"schema": 1, "time": _time(), "moving": False, "signals": {f"{SEAT}.Position": "far"}},
        "signals: expected",
    ),
    "a position out of VSS's range": (
        POSITION,
        {"schema": 1, "time": _time(), "moving": False, "signals": {YAW: -101}},
        f"signals.{YAW}: -101 is out of range; give -100 to 100 percent",
    ),
    "a position from the future": (
        POSITION,
        {"schema": 1, "time": _time(-2), "moving": False, "signals": {}},
        "in the future",
    ),
    "a command without a name": (SAVE, {"schema": 1, "issued_at": _time()}, "command_id: missing"),
    "a command with a poor name": (
        SAVE,
        {"schema": 1, "issued_at": _time(), "command_id": "1"},
        "give a UUID",
    ),
    "our own result": (f"{ROOT}/command/result", {"schema": 1}, "is not a topic"),
    "our own request": (f"{ROOT}/preferences/apply", {"schema": 1}, "is not a topic"),
    "an old command": (LISTEN, {"schema": 1, "issued_at": _time(5.5)}, "issued_at"),
    "a command from the future": (LISTEN, {"schema": 1, "issued_at": _time(-2)}, "issued_at"),
    "a command without a time": (LISTEN, {"schema": 1}, "issued_at"),
    "another topic": ("whodrives/car/command/dance", {"schema": 1}, "is not a topic"),
    "another car": ("whodrives/bus/vehicle", {"schema": 1}, "is not a topic"),
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


def test_an_older_unknown_does_not_erase_newer_news() -> None:
    """A null that was overtaken is old news as well, and counted as that."""
    decoder = Decoder("car")
    for age_s, speed in ((0.0, 7), (1.0, None), (2.0, 0)):
        payload = json.dumps(_signals(age_s, Vehicle__Speed=speed)).encode()
        report = decoder.decode(VEHICLE, payload, AT_S, WALL_S)
    assert isinstance(report, VehicleReport)
    assert report.state.speed_kmh == Reading(7.0, AT_S)
    assert decoder.replayed == 2


def test_any_switch_that_is_worked_is_a_hand_on_the_seat() -> None:
    """Old and new names, one of them true is enough; released once all are."""
    decoder = Decoder("car")
    old, new = f"{SEAT}.Switch.IsUpEngaged", f"{SEAT}.Backrest.IsReclineForwardSwitchEngaged"
    heard = []
    for age_s, path, value in (
        (3.0, old, False),
        (2.0, new, True),
        (1.0, old, False),
        (0.0, new, False),
    ):
        payload = json.dumps({"schema": 1, **_said(value, age_s)}).encode()
        report = decoder.decode(f"{VEHICLE}/{path}", payload, AT_S, WALL_S)
        assert isinstance(report, VehicleReport)
        heard.append(report.state.seat_switch)
    assert heard == [
        Reading(value=False, at_s=AT_S - 3.0),
        Reading(value=True, at_s=AT_S - 2.0),
        Reading(value=True, at_s=AT_S - 2.0),
        Reading(value=False, at_s=AT_S),
    ]


@pytest.mark.parametrize("path", [KEY, f"{SEAT}.Occupant.Identifier.Subject"])
def test_the_key_is_read_in_both_dialects(path: str) -> None:
    """Before VSS 4.2 the occupant belonged to the seat."""
    body = {"schema": 1, "signals": {path: _said("fob-2")}}
    assert _state(body).key == Reading("fob-2", AT_S)


# --- positions, commands and replays --------------------------------------------------------------


def _position(age_s: float = 0.0, **signals: float) -> bytes:
    named = {path.replace("__", "."): value for path, value in signals.items()}
    body = {"schema": 1, "time": _time(age_s), "moving": False, "signals": named}
    return json.dumps(body).encode()


def test_a_position_is_read_in_the_car_s_words() -> None:
    """Former names are ours, other signals are ignored, and a finer measure is rounded."""
    payload = _position(
        0.5,
        Vehicle__Body__Mirrors__DriverSide__Pan=30,
        Vehicle__Cabin__Seat__Row1__DriverSide__Position=120.4,
        Vehicle__Cabin__Seat__Row1__DriverSide__Backrest__Lumbar__Support=12.5,
        Vehicle__Cabin__Seat__Row2__DriverSide__Position=3,
    )
    heard = _decode(POSITION, payload)
    assert isinstance(heard, Position)
    assert (heard.at_s, heard.true_s) == (AT_S, AT_S - 0.5)
    assert heard.signals == {
        YAW: -30.0,
        f"{SEAT}.Position": 120.0,
        f"{SEAT}.Backrest.LumbarSupport": 12.5,
    }


def test_an_older_position_is_not_heard() -> None:
    """A replayed position cannot become a preference."""
    decoder = Decoder("car")
    assert decoder.decode(POSITION, _position(0.0), AT_S, WALL_S) is not None
    assert decoder.decode(POSITION, _position(0.1), AT_S, WALL_S) is None
    assert decoder.replayed == 1


def test_a_command_is_obeyed_once() -> None:
    """The same name again, in capitals or on another topic, is counted and changes nothing."""
    decoder = Decoder("car")
    body = _command()
    loud = body | {"command_id": str(body["command_id"]).upper()}
    heard = [
        decoder.decode(topic, json.dumps(said).encode(), AT_S + wait_s, WALL_S + wait_s)
        for wait_s, topic, said in (
            (0.0, SAVE, body),
            (0.1, SAVE, body),
            (4.9, SAVE, loud),
            (4.9, f"{ROOT}/command/cancel", body),
        )
    ]
    assert heard == [Save(AT_S, str(body["command_id"])), None, None, None]
    assert decoder.replayed == 3


@given(st.lists(st.floats(0.0, 30.0), min_size=1), st.floats(0.0, 5.0), st.floats(-1.0, 5.0))
def test_no_recording_of_a_command_works_twice(
    waits: list[float], first_s: float, age_s: float
) -> None:
    """However often and whenever a recorded command is played back, it is obeyed once at most."""
    decoder = Decoder("car")
    payload = json.dumps(_command(age_s=age_s)).encode()
    obeyed = 0
    for wait_s in sorted([first_s, *waits]):
        with contextlib.suppress(CommandError):
            obeyed += decoder.decode(SAVE, payload, AT_S + wait_s, WALL_S + wait_s) is not None
    assert obeyed <= 1


OTHER_FIELDS: dict[str, dict[str, object]] = {
    "driver": {"driver": None},
    "forget": {"driver": "d-7f3a"},
    "enrol": {"driver": None, "consent": {"by": "account-3", "text": "2026-11"}},
}


@pytest.mark.parametrize("name", ["listen", "driver", "save", "cancel", "forget", "enrol"])
def test_commands_faster_than_a_person_gives_them_are_refused_until_they_slow_down(
    name: str,
) -> None:
    """Each topic has a rate of its own; whoever is refused is told the rate."""
    decoder = Decoder("car", secure=True)

    def say(number: int, at_s: float) -> object:
        payload = json.dumps(_command(number, -at_s, **OTHER_FIELDS.get(name, {}))).encode()
        return decoder.decode(f"whodrives/car/command/{name}", payload, AT_S + at_s, WALL_S + at_s)

    burst = 20 if name == "cancel" else COMMAND_RATE.burst
    assert all(say(number, 0.0) for number in range(burst))
    with pytest.raises(CommandError, match="too many messages; send at most") as refused:
        say(burst, 0.0)
    assert refused.value.cause == "rate"
    assert say(burst, 1.0) is not None


def test_a_flood_of_other_commands_does_not_keep_a_cancel_out() -> None:
    """Each topic is counted for itself."""
    decoder = Decoder("car")
    for number in range(1000):
        with contextlib.suppress(PayloadError):
            decoder.decode(SAVE, json.dumps(_command(number)).encode(), AT_S, WALL_S)
    cancel = json.dumps(_command(5000)).encode()
    assert decoder.decode("whodrives/car/command/cancel", cancel, AT_S, WALL_S) is not None


def test_a_command_that_comes_again_in_a_flood_is_not_called_refused() -> None:
    """It was obeyed and answered once; the rate must not answer it a second time."""
    decoder = Decoder("car")
    for number in range(COMMAND_RATE.burst):
        decoder.decode(SAVE, json.dumps(_command(number)).encode(), AT_S, WALL_S)
    assert decoder.decode(SAVE, json.dumps(_command(0)).encode(), AT_S, WALL_S) is None
    assert decoder.replayed == 1


@pytest.mark.parametrize("topic", ["preferences/result", "preferences/position"])
def test_an_ecu_that_floods_is_refused(topic: str) -> None:
    """No ECU has so much to say."""
    decoder = Decoder("car")
    payload = _golden(topic.replace("/", "-"))
    wall_s = datetime(2026, 11, 23, 8, 0, 8, tzinfo=UTC).timestamp()
    for _ in range(40):
        decoder.decode(f"whodrives/car/{topic}", payload, AT_S, wall_s)
    refusals = []
    for _ in range(200):
        try:
            decoder.decode(f"whodrives/car/{topic}", payload, AT_S, wall_s)
        except PayloadError as error:
            refusals.append(error.cause)
    assert refusals.count("rate") >= 140


def test_reports_that_come_too_fast_are_merged_and_none_is_lost() -> None:
    """The state of the last one is told with the next; a seat switch is told at once."""
    decoder = Decoder("car")
    speed, switch = "Vehicle.Speed", next(iter(vss.SEAT_SWITCHES))

    def say(path: str, value: object, *, at_s: float) -> VehicleReport | None:
        body = {"schema": 1, "signals": {path: _said(value, -at_s)}}
        found = decoder.decode(
            "whodrives/car/vehicle", json.dumps(body).encode(), AT_S + at_s, WALL_S + at_s
        )
        assert found is None or isinstance(found, VehicleReport)
        return found

    told = [say(speed, number % 2, at_s=0.0) for number in range(2 * VEHICLE_RATE.burst)]
    assert sum(report is not None for report in told) == VEHICLE_RATE.burst
    assert decoder.merged == VEHICLE_RATE.burst
    assert say(speed, 30, at_s=0.001) is None
    merged = decoder.merged_report(AT_S + 0.001)
    assert merged is not None
    assert merged.state.speed_kmh is not None
    assert merged.state.speed_kmh.value == 30
    assert decoder.merged_report(AT_S + 0.001) is None
    pressed = say(switch, value=True, at_s=0.002)
    assert pressed is not None
    assert pressed.state.seat_switch is not None
    assert pressed.state.speed_kmh is not None
    assert (pressed.state.seat_switch.value, pressed.state.speed_kmh.value) == (True, 30)
    assert say(speed, 0, at_s=1.0) is not None


def test_a_command_that_an_earlier_daemon_obeyed_is_not_obeyed_again() -> None:
    """A decoder goes on with the ids that it is given; after REMEMBERED_S they are free again."""
    before = Decoder("car")
    assert before.decode(SAVE, json.dumps(_command(1)).encode(), AT_S, WALL_S) is not None
    after = Decoder("car")
    after.obeyed = dict(before.obeyed)
    again = json.dumps(_command(1, age_s=-2.0)).encode()
    assert after.decode(SAVE, again, AT_S + 2.0, WALL_S + 2.0) is None
    assert after.replayed == 1


def _patterns(node: object) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for name, part in node.items():
            if isinstance(part, dict) and isinstance(part.get("pattern"), str):
                yield name, part["pattern"]
            yield from _patterns(part)
    elif isinstance(node, list):
        for part in node:
            yield from _patterns(part)


def test_the_published_patterns_end_at_the_very_end_in_their_own_language() -> None:
    r"""ECMA-262 has no \Z, and its $ lets no newline pass."""
    found = [p for topic in TOPICS.values() for _, p in _patterns(schema(topic))]
    assert found
    assert all(p.startswith("^") and p.endswith("$") and "\\Z" not in p for p in found)


def _strings(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, dict | list):
        for key, part in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _strings(part, (*path, key))


@pytest.mark.parametrize("ending", ["\n", "\r", "\u2028", "\u0000", " "])
@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_follows_what_a_pattern_allows(name: str, ending: str) -> None:
    """A newline at the end of an id, a pseudonym or a code is refused wherever it can stand."""
    topic, body = EXAMPLES[name], json.loads(_golden(name))
    free = {"reason", "reasons", "text", "waiting_for", "by", "value"}
    for path, text in _strings(body):
        if path[-1] in free - ({"by", "text"} if "consent" in path else set()):
            continue
        if not all(isinstance(key, str) for key in path):
            continue
        spoilt = copy.deepcopy(body)
        place = spoilt
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = text + ending
        with pytest.raises(PayloadError):
            read("t", json.dumps(spoilt).encode(), topic.payload)


def test_forgetting_needs_a_broker_that_knows_who_asks() -> None:
    """On a plain connection anybody could erase a driver: refused, and the asker is told."""
    payload = json.dumps(_command(driver="d-7f3a")).encode()
    topic = f"{ROOT}/command/forget"
    with pytest.raises(CommandError, match="plain connection") as refused:
        Decoder("car").decode(topic, payload, AT_S, WALL_S)
    assert refused.value.command == _command()["command_id"]
    assert "mqtt.tls" in refused.value.reason
    assert isinstance(Decoder("car", secure=True).decode(topic, payload, AT_S, WALL_S), Forget)


def test_enrolling_needs_a_broker_that_knows_who_asks() -> None:
    """Nobody is enrolled by whoever happens to reach the broker."""
    consent = {"by": "account-3", "text": "2026-11"}
    payload = json.dumps(_command(driver=None, consent=consent)).encode()
    topic = f"{ROOT}/command/enrol"
    with pytest.raises(CommandError, match="plain connection"):
        Decoder("car").decode(topic, payload, AT_S, WALL_S)
    assert isinstance(Decoder("car", secure=True).decode(topic, payload, AT_S, WALL_S), Enrol)


@pytest.mark.parametrize("by", ["Anna Smith", "", "a" * 65, "anna@example.org"])
def test_a_name_does_not_travel_as_consent(by: str) -> None:
    """Who agreed is a pseudonym: what looks like a name or an address is refused."""
    consent = {"by": by, "text": "2026-11"}
    with pytest.raises(CommandError, match="by"):
        _decode(f"{ROOT}/command/enrol", _command(driver=None, consent=consent))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (_command(age_s=5.5), "5.5 s old; a command is good for 5 s"),
        (_command(age_s=-1.5), "1.5 s in the future"),
        (_command() | {"schema": 2}, "schema"),
        (_command() | {"issued_at": 7}, "issued_at: expected"),
    ],
)
def test_who_gave_a_poor_command_is_told_why(body: dict[str, object], said: str) -> None:
    """Whenever the command's name can be read, the refusal carries it, and a sendable reason."""
    with pytest.raises(CommandError) as refused:
        _decode(SAVE, body)
    assert refused.value.command == body["command_id"]
    assert said in refused.value.reason
    result = _encode(CommandResult(AT_S, refused.value.command, refused.value.reason))
    assert json.loads(result.payload)["status"] == "refused"


def test_a_listen_without_a_name_is_heard_each_time() -> None:
    """It need not have one; without, there is no result and nothing to tell copies apart by."""
    decoder = Decoder("car")
    payload = json.dumps({"schema": 1, "issued_at": _time()}).encode()
    heard = [decoder.decode(LISTEN, payload, AT_S, WALL_S) for _ in range(2)]
    assert heard == [Listen(AT_S), Listen(AT_S)]


# --- whatever comes in ----------------------------------------------------------------------------

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
PATHS = st.sampled_from([*READ_SIGNALS, *vss.SIGNALS, "Vehicle.Odd"])
TIMES = (
    st.floats(-1e4, 1e4).map(_time)
    | st.datetimes(timezones=st.timezones()).map(lambda when: when.isoformat())
    | st.sampled_from([_time(), "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:60Z"])
)
READINGS = st.fixed_dictionaries({}, optional={"value": JSON, "time": JSON | TIMES})
BODIES = JSON | st.fixed_dictionaries(
    {},
    optional={
        "schema": JSON | st.just(1),
        "signals": JSON | st.dictionaries(PATHS, READINGS | JSON | st.integers() | st.floats()),
        "value": JSON,
        "time": JSON | TIMES,
        "issued_at": JSON | TIMES,
        "moving": JSON | st.booleans(),
        "command_id": JSON | st.uuids().map(str),
        "request_id": JSON | st.uuids().map(str),
        "driver": JSON | st.just("d-7f3a"),
        "status": JSON | st.sampled_from([str(status) for status in ResultStatus]),
        "reason": JSON,
    },
)
NAMES = st.sampled_from(sorted(TOPICS)) | PATHS.map(lambda path: f"vehicle/{path}") | st.text()
NESTS = st.integers(1, 30_000).flatmap(
    lambda depth: st.sampled_from([b"[" * depth, b'{"a":' * depth, b"[" * depth + b"]" * depth])
)
PAYLOADS = st.binary() | NESTS | BODIES.map(lambda body: json.dumps(body).encode())


def _read_or_refused(topic: str, payload: bytes, wall_s: float, *, secure: bool) -> Any:
    """The input, or None with a PayloadError of one line, and a sendable reason if there is one."""
    try:
        return Decoder("car", secure=secure).decode(topic, payload, AT_S, wall_s)
    except PayloadError as error:
        said, refusal = str(error), error
    assert said.startswith(f"{topic}: ")
    assert "\n" not in said.removeprefix(topic)
    if isinstance(refusal, CommandError):
        _encode(CommandResult(AT_S, refusal.command, refusal.reason))
    return None


@given(
    name=NAMES,
    payload=PAYLOADS,
    secure=st.booleans(),
    drift_s=st.floats(-1e9, 1e9) | st.just(0.0),
)
def test_any_payload_is_read_or_refused(
    name: str, payload: bytes, *, secure: bool, drift_s: float
) -> None:
    """Whatever comes in, whenever, the answer is a sound input or a PayloadError of one line."""
    news = _read_or_refused(f"{ROOT}/{name}", payload, WALL_S + drift_s, secure=secure)
    if news is None:
        return
    assert news.at_s == AT_S
    if isinstance(news, VehicleReport) and news.state.speed_kmh is not None:
        assert 0 <= news.state.speed_kmh.value < math.inf
        assert news.state.speed_kmh.at_s <= AT_S
    if isinstance(news, Position):
        assert set(news.signals) <= set(vss.SIGNALS)
        assert all(math.isfinite(value) for value in news.signals.values())
    if isinstance(news, Forget | Enrol):
        assert secure


@given(PAYLOADS)
def test_a_command_that_is_not_of_now_is_never_obeyed(payload: bytes) -> None:
    """Read at any other time than its own, a command is refused."""
    for name in ("listen", "driver", "save", "cancel", "forget", "enrol"):
        for wall_s in (WALL_S + 20_000, WALL_S - 20_000):
            with pytest.raises(PayloadError):
                _decode(f"{ROOT}/command/{name}", payload.replace(b"9999-", b"2026-"), wall_s)


@given(
    st.dictionaries(
        st.sampled_from(["Vehicle.Speed", GEAR, LOCK]),
        st.tuples(st.sampled_from([0, 126, 3.5]), st.floats(-1, 100)),
    )
)
def test_no_reading_claims_to_be_newer_than_it_says(said: dict[str, tuple[float, float]]) -> None:
    """Whatever is accepted is as old as its time says, and never from the future."""
    usable: dict[str, Callable[[float], object]] = {
        "Vehicle.Speed": float,
        GEAR: round,
        LOCK: bool,
    }
    signals = {path: _said(usable[path](v), age) for path, (v, age) in said.items()}
    state = _state({"schema": 1, "signals": signals})
    if state.speed_kmh is not None:
        age_s = max(said["Vehicle.Speed"][1], 0.0)
        assert state.speed_kmh.at_s <= AT_S
        assert state.speed_kmh.at_s == pytest.approx(AT_S - age_s, abs=0.001)
