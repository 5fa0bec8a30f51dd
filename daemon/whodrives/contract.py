"""The contract with the car: every topic and every payload, defined once.

Owns the table of topics, the payloads' types, the JSON Schemas that follow from them, and the two
ways through them: `encode` makes messages of events, `Decoder` makes inputs of messages. Both ways
are checked against the same types. It is the only place where a monotonic `at_s` meets a calendar;
the moment is always a parameter. Must never know of a connection, of who drives, or of what may
move.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from whodrives import vss
from whodrives.config import Vehicle
from whodrives.domain import (
    Answer,
    AnswerStatus,
    Apply,
    Cancel,
    Choose,
    CommandResult,
    Delivery,
    DriverState,
    Enrol,
    EnrolmentStage,
    EnrolmentState,
    Erase,
    Event,
    Forget,
    Guests,
    Health,
    Learn,
    Listen,
    Met,
    Outcome,
    PayloadError,
    Position,
    Prefer,
    Reading,
    Recognition,
    Remember,
    Save,
    SettledBy,
    Stray,
    VehicleReport,
    VehicleState,
    Withdraw,
)
from whodrives.interlock import MAX_AGE_S

SCHEMA: Literal[1] = 1
MAX_PAYLOAD_BYTES = 65_536
MAX_AHEAD_S = 1.0
"""Two clocks may disagree by this much; a time further in the future is refused."""
CLOCK_STEP_S = 0.02
"""Calendar and monotonic clock are read one after the other, and a thread may be interrupted
between the two. A change of their difference below this is that interruption, above it a clock was
set."""
APPLY_EXPIRY_S = 3
COMMAND_EXPIRY_S = 5
ANSWER_EXPIRY_S = 10
REMEMBERED_S = 10.0
"""How long a command's id is remembered: longer than a command is valid, a clock ahead included."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit on the messages of one topic (token bucket).

    Attributes:
        burst: messages that may come at once.
        per_s: messages a second that are allowed in the long run.
    """

    burst: int
    per_s: float


COMMAND_RATE = Rate(10, 1.0)
"""A person gives commands: more than these come from a fault or an attack."""
CANCEL_RATE = Rate(20, 5.0)
"""A limit of its own, so that no flood of other commands keeps a cancel out."""
RESULT_RATE = Rate(40, 20.0)
"""An ECU answers a request twice, and at most two requests are live (`outbox`)."""
EXPLAINED_RATE = Rate(20, 10.0)
"""Of all commands that come too fast together: those beyond it are not even read, nor answered."""
POSITION_RATE = Rate(100, 50.0)
"""An ECU reports its position five times a second while anything moves."""
VEHICLE_RATE = Rate(200, 100.0)
"""Of all reports together. Beyond it the state is merged and told with the next report, or by
`merged_report`, unless a seat switch is pressed: such a report always goes on."""

T = TypeVar("T")


# --- payloads -------------------------------------------------------------------------------------

# A pattern ends with \Z: Python's $ also matches before a newline at the end. JSON Schema's regular
# expressions are ECMA-262's, where $ is the very end and \Z is unknown: _brief translates.
_UUID = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\Z"

Time: TypeAlias = Annotated[
    datetime, Meta(tz=True, description="ISO 8601 with a zone, like 2026-11-23T08:00:00.000Z")
]
Id: TypeAlias = Annotated[
    str, Meta(pattern=_UUID, description="a UUID, like 3f2b7c1e-5a64-4d0e-9c1b-0d2f4a6b8c0e")
]
DriverId: TypeAlias = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z", description="an enrolled driver's pseudonym: d-7f3a"),
]
GuestId: TypeAlias = Annotated[
    str, Meta(pattern=r"^g-[0-9a-f]{8}\Z", description="a guest's pseudonym: g-3f2a9c1e")
]
Reason: TypeAlias = Annotated[str, Meta(max_length=400, description="a code or a sentence")]
Number: TypeAlias = int | float
Count: TypeAlias = Annotated[int, Meta(ge=0, description="a whole number from 0")]


class _Payload(Struct, kw_only=True, frozen=True):
    """What every payload has."""

    schema: Annotated[Literal[1], Meta(description="1; no other is understood")]


class StatusPayload(_Payload, kw_only=True, frozen=True):
    """Whether whodrives can do its work."""

    time: Annotated[Time | None, Meta(description="null when the broker says it for us")]
    state: Literal["online", "degraded", "offline"]
    reasons: Annotated[list[str], Meta(description="what is missing, in sentences")]


class Preferences(Struct, kw_only=True, frozen=True):
    """What became of the driver's preferences in this trip."""

    state: Delivery
    reason: Annotated[
        Reason | None, Meta(description="the ECU's, for rejected and aborted; else null")
    ]
    waiting_for: Annotated[
        list[str], Meta(description="the conditions that hold them back, by name")
    ]


CONFIDENCE_STEPS = (0.0, 0.5, 0.9, 0.99, 0.999)
"""A confidence is told as the highest of these that it reaches: whoever imitates a driver must not
be told how much nearer the last attempt came."""
_STEPS = "a calibrated probability that is at least this: 0, 0.5, 0.9, 0.99 or 0.999"
Confidence: TypeAlias = Annotated[float, Meta(ge=0, le=1)] | None


class DriverPayload(_Payload, kw_only=True, frozen=True):
    """Who drives this trip."""

    time: Time
    state: Literal["known", "unknown"]
    driver: DriverId | None
    since: Annotated[Time | None, Meta(description="when the driver was settled")]
    confidence: Annotated[Confidence, Meta(description=f"{_STEPS}; null unless settled by voice")]
    settled_by: Annotated[SettledBy | None, Meta(description="null while nothing did")]
    preferences: Preferences


class RecognitionPayload(_Payload, kw_only=True, frozen=True):
    """What was concluded about one utterance."""

    time: Time
    outcome: Outcome
    driver: Annotated[DriverId | None, Meta(description="set exactly when the outcome is known")]
    speech_s: Annotated[float, Meta(ge=0, description="seconds of speech")]
    snr_db: Annotated[float | None, Meta(description="dB; null while no noise was heard")]
    confidence: Annotated[
        Confidence, Meta(description=f"{_STEPS}; null unless the outcome is known")
    ] = None
    llr: Annotated[
        float | None,
        Meta(
            description="natural-log likelihood ratio of the best match; null without one, and "
            "unless mqtt.evidence is on"
        ),
    ]
    runner_up_llr: Annotated[float | None, Meta(description="the same of the second best")]
    reason: Annotated[
        Reason | None, Meta(description="what is wrong with a poor sound, as a code; else null")
    ]


_SETTABLE: Mapping[str, vss.Signal] = {
    path: signal for version in vss.VERSIONS for path, signal in vss.paths_of(version).items()
}
"""The settable signals by the names that any version has for them."""


def _signals_schema() -> dict[str, Any]:
    return {"properties": {path: _signal_schema(one) for path, one in _SETTABLE.items()}}


def _signal_schema(signal: vss.Signal) -> dict[str, Any]:
    bounds = {"minimum": signal.minimum, "maximum": signal.maximum}
    finite = {key: value for key, value in bounds.items() if math.isfinite(value)}
    return {"type": "number", "description": signal.unit, **finite}


Settings: TypeAlias = Annotated[
    dict[str, Number],
    Meta(
        description="VSS paths, each with a number in its unit",
        extra_json_schema=_signals_schema(),
    ),
]


class _FieldError(ValueError):
    """What is wrong with a field, and the mend, where no type can say it."""


def _check_range(signals: Mapping[str, Number]) -> None:
    """Refuse what VSS does not allow; signals that we do not know are nobody's mistake."""
    for path, value in signals.items():
        if path in _SETTABLE and value not in (allowed := _SETTABLE[path].range):
            unit = _SETTABLE[path].unit
            raise _FieldError(f"signals.{path}: {value:g} is out of range; give {allowed} {unit}")


class ApplyPayload(_Payload, kw_only=True, frozen=True):
    """Move to these positions, now or not at all."""

    request_id: Id
    driver: DriverId
    issued_at: Time
    expires_at: Annotated[Time, Meta(description="refuse the request at or after this moment")]
    signals: Annotated[Settings, Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Check what the types cannot."""
        _check_range(self.signals)


class CancelPayload(_Payload, kw_only=True, frozen=True):
    """Stop what this request started; refuse it if it still arrives."""

    request_id: Id
    time: Time
    reason: Reason


class ResultPayload(_Payload, kw_only=True, frozen=True):
    """What became of a request, as the ECU says."""

    time: Time
    request_id: Id
    status: Annotated[
        AnswerStatus, Meta(description="one of accepted, completed, rejected, aborted")
    ]
    reason: Annotated[
        Reason | None,
        Meta(description="why, for rejected and aborted: a code, such as manual or standing"),
    ] = None


class PositionPayload(_Payload, kw_only=True, frozen=True):
    """Where seat, steering wheel and mirrors are."""

    time: Annotated[Time, Meta(description="when that was so: ISO 8601 with a zone")]
    moving: Annotated[bool, Meta(description="true or false: whether any of them is on its way")]
    signals: Settings

    def __post_init__(self) -> None:
        """Check what the types cannot."""
        _check_range(self.signals)


class _Said(Struct, kw_only=True, frozen=True):
    """One value of the car, and when it was last known to be true."""

    time: Annotated[
        Time, Meta(description="when it was last known to be true: ISO 8601 with a zone")
    ]


class Speed(_Said, kw_only=True, frozen=True):
    """Vehicle.Speed."""

    value: Annotated[float | None, Meta(description="a number of km/h, or null")]


class Gear(_Said, kw_only=True, frozen=True):
    """Vehicle.Powertrain.Transmission.SelectedGear."""

    value: Annotated[
        Annotated[int, Meta(ge=-126, le=127)] | None,
        Meta(description="a whole number from -126 to 127, of which 126 is Park, or null"),
    ]


class Flag(_Said, kw_only=True, frozen=True):
    """A boolean signal."""

    value: Annotated[bool | None, Meta(description="true or false, or null")]


class Occupancy(_Said, kw_only=True, frozen=True):
    """OccupancyStatus of a seat."""

    value: Annotated[
        Literal["OCCUPIED", "EMPTY", "UNKNOWN"] | None,
        Meta(description="one of OCCUPIED, EMPTY, UNKNOWN, or null"),
    ]


class LowVoltage(_Said, kw_only=True, frozen=True):
    """Vehicle.LowVoltageSystemState."""

    value: Annotated[
        Literal["UNDEFINED", "LOCK", "OFF", "ACC", "ON", "START"] | None,
        Meta(description="one of UNDEFINED, LOCK, OFF, ACC, ON, START, or null"),
    ]


class Subject(_Said, kw_only=True, frozen=True):
    """Identifier.Subject of an occupant: the key that opened the car."""

    value: Annotated[
        Annotated[str, Meta(pattern=r"^[ -~]{1,128}\Z")] | None,
        Meta(description="1 to 128 printable ASCII characters, or null"),
    ]


_SEAT = "Vehicle.Cabin.Seat.Row1.DriverSide"
SPEED = "Vehicle.Speed"
GEAR = "Vehicle.Powertrain.Transmission.SelectedGear"
PARK_LOCK = "Vehicle.Powertrain.Transmission.IsParkLockEngaged"
PARKING_BRAKE = "Vehicle.Chassis.ParkingBrake.IsEngaged"
DOOR = "Vehicle.Cabin.Door.Row1.DriverSide.IsOpen"
OCCUPANCY = f"{_SEAT}.OccupancyStatus"
OCCUPIED = f"{_SEAT}.IsOccupied"
IGNITION = "Vehicle.LowVoltageSystemState"
KEY = "Vehicle.Occupant.Row1.DriverSide.Identifier.Subject"
SEAT_KEY = f"{_SEAT}.Occupant.Identifier.Subject"
"""The same before VSS 4.2."""

_READ: dict[str, type[_Said]] = {
    SPEED: Speed,
    GEAR: Gear,
    PARK_LOCK: Flag,
    PARKING_BRAKE: Flag,
    DOOR: Flag,
    OCCUPANCY: Occupancy,
    OCCUPIED: Flag,
    IGNITION: LowVoltage,
    KEY: Subject,
    SEAT_KEY: Subject,
}
READ_SIGNALS: Mapping[str, type[_Said]] = _READ | dict.fromkeys(vss.SEAT_SWITCHES, Flag)
"""Every signal of the car that is read, of every VSS version, with what may be said of it."""

if TYPE_CHECKING:
    Signals: TypeAlias = Struct
else:
    Signals = msgspec.defstruct(
        "Signals",
        [(path.replace(".", "_"), kind | UnsetType, UNSET) for path, kind in READ_SIGNALS.items()],
        rename={path.replace(".", "_"): path for path in READ_SIGNALS},
        kw_only=True,
        frozen=True,
        namespace={"__doc__": "The signals of the car that are read; any others are ignored."},
        module=__name__,
    )


class VehiclePayload(_Payload, kw_only=True, frozen=True):
    """What trip and interlock need to know of the car."""

    signals: Annotated[Signals, Meta(description="a JSON object of VSS paths")]


class SignalPayload(_Payload, kw_only=True, frozen=True):
    """One signal of the car; its VSS path is the last level of the topic."""

    value: Annotated[
        bool | int | float | str | None, Meta(description="as in `vehicle`, or null: not known")
    ]
    time: Annotated[
        Time, Meta(description="when it was last known to be true: ISO 8601 with a zone")
    ]


class ListenPayload(_Payload, kw_only=True, frozen=True):
    """The next known voice may become the driver."""

    issued_at: Time
    command_id: Id | None = None


class CommandPayload(_Payload, kw_only=True, frozen=True):
    """A command that needs no more words than its topic."""

    command_id: Id
    issued_at: Time


class ChoosePayload(CommandPayload, kw_only=True, frozen=True):
    """Who drives, chosen by hand."""

    driver: Annotated[
        DriverId | None,
        Meta(description="an enrolled driver's pseudonym, or null for somebody who is not"),
    ]


class ForgetPayload(CommandPayload, kw_only=True, frozen=True):
    """Erase an enrolled driver."""

    driver: DriverId


class Agreed(Struct, kw_only=True, frozen=True):
    """That the person agreed to be enrolled, on the head unit's screen."""

    by: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-]{1,64}\Z",
            description="a pseudonym of who agreed, such as an account's number; never a name",
        ),
    ]
    text: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.-]{1,32}\Z",
            description="the version of the text that was agreed to; see docs/privacy.md",
        ),
    ]


class EnrolPayload(CommandPayload, kw_only=True, frozen=True):
    """Enrol whoever speaks now, or a guest who agreed."""

    driver: Annotated[
        DriverId | None,
        Meta(description="whom the voice is to replace, or null for a new driver"),
    ]
    consent: Agreed
    guest: Annotated[
        GuestId | None,
        Meta(description="whose voice it is, if it was offered on guest; null listens"),
    ] = None


class Fault(Struct, kw_only=True, frozen=True):
    """Something that is wrong with an enrolment."""

    code: Annotated[str, Meta(pattern=r"^[a-z_]{1,40}\Z", description="such as too_quiet")]
    text: Reason


class EnrolmentPayload(_Payload, kw_only=True, frozen=True):
    """How an enrolment goes."""

    time: Time
    command_id: Annotated[Id, Meta(description="of the command that began it")]
    state: EnrolmentStage
    driver: Annotated[
        DriverId | None,
        Meta(description="whose voice it is; null until a new driver is enrolled"),
    ]
    speech_s: Annotated[float, Meta(ge=0, description="useful seconds of speech so far")]
    problems: Annotated[list[Fault], Meta(description="what is wrong just now; for refused: why")]


class Offered(Struct, kw_only=True, frozen=True):
    """An unknown voice that comes back."""

    guest: GuestId
    trips: Annotated[int, Meta(ge=1, description="in which this voice spoke")]
    last_seen: Annotated[date, Meta(description="the day of the latest, UTC")]


class GuestPayload(_Payload, kw_only=True, frozen=True):
    """Who comes back and may be asked whether to be enrolled."""

    time: Time
    guests: list[Offered]


class CommandResultPayload(_Payload, kw_only=True, frozen=True):
    """What became of a command."""

    time: Time
    command_id: Id
    status: Literal["done", "refused"]
    reason: Annotated[Reason | None, Meta(description="why it was refused; null when done")]


class Counters(Struct, kw_only=True):
    """What went over the bus since the daemon's start.

    Attributes:
        published: messages handed to a live connection.
        dropped: messages that nobody would have heard, that were too old, or not fit to be said.
        connections: times the broker was reached.
        received: messages in.
        refused: messages in that did not say what the contract asks.
        ignored: retained commands and results: they are stale by nature.
        denied: messages out that the broker did not accept.
        replayed: commands that came again, and readings older than the newest.
        misdated: reports of the car that were older than 2 s on arrival, or dated in the future.
    """

    received: Count = 0
    refused: Count = 0
    ignored: Count = 0
    denied: Count = 0
    published: Count = 0
    dropped: Count = 0
    connections: Count = 0
    replayed: Count = 0
    misdated: Count = 0


class MetricsPayload(_Payload, kw_only=True, frozen=True):
    """How whodrives does, in numbers since its start."""

    time: Time
    counters: Counters
    requests: Annotated[Count, Meta(description="requests that no final answer came for yet")]
    backlog: Annotated[Count, Meta(description="inputs that wait to be looked at")]
    encoder: Annotated[
        Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")] | None,
        Meta(description="fingerprint of the speaker encoder"),
    ]


# --- topics ---------------------------------------------------------------------------------------

Party: TypeAlias = Literal["whodrives", "ECU", "car", "head unit", "monitor"]
"""Who speaks or listens; a monitor is whoever only looks, such as a display or a logger."""
Retain: TypeAlias = Literal["yes", "no", "never", "as you like"]

SIGNAL_TOPIC = "vehicle/<VSS path>"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic below `whodrives/<vehicle>/`.

    Attributes:
        name: its levels; `<VSS path>` stands for a path with its dots.
        writer: who says it.
        readers: who must hear it; a monitor may hear everything.
        qos: 0 or 1.
        retain: `never` marks what would do harm; a retained one is ignored where we read it.
        expiry_s: MQTT message expiry interval; None for none.
        payload: the type of what is said.
        text: what it says, in one line.
        examples: names of the golden files.
        id: the payload's field that is also the MQTT correlation data.
        answer: the topic on which an answer comes.
    """

    name: str
    writer: Party
    readers: tuple[Party, ...]
    qos: Literal[0, 1]
    retain: Retain
    expiry_s: int | None
    payload: type[_Payload]
    text: str
    examples: tuple[str, ...]
    id: str | None = None
    answer: str | None = None

    @property
    def file(self) -> str:
        """The name that its schema's file has."""
        return self.name.replace("/<VSS path>", "-signal").replace("/", "-")


def _command(name: str, payload: type[_Payload], text: str, *more_examples: str) -> Topic:
    return Topic(
        name=f"command/{name}",
        writer="head unit",
        readers=("whodrives",),
        qos=1,
        retain="never",
        expiry_s=COMMAND_EXPIRY_S,
        payload=payload,
        text=text,
        examples=(f"command-{name}", *more_examples),
        id="command_id",
        answer="command/result",
    )


_TABLE = (
    Topic(
        name="status",
        writer="whodrives",
        readers=("ECU", "head unit", "monitor"),
        qos=1,
        retain="yes",
        expiry_s=None,
        payload=StatusPayload,
        text="whether whodrives can do its work",
        examples=("status", "status-offline"),
    ),
    Topic(
        name="driver",
        writer="whodrives",
        readers=("head unit", "monitor"),
        qos=1,
        retain="yes",
        expiry_s=None,
        payload=DriverPayload,
        text="who drives this trip, and what became of the preferences; cleared at its end",
        examples=("driver", "driver-rejected"),
    ),
    Topic(
        name="recognition",
        writer="whodrives",
        readers=("head unit", "monitor"),
        qos=0,
        retain="no",
        expiry_s=10,
        payload=RecognitionPayload,
        text="what was concluded about one utterance",
        examples=("recognition", "recognition-poor-sound"),
    ),
    Topic(
        name="preferences/apply",
        writer="whodrives",
        readers=("ECU",),
        qos=1,
        retain="never",
        expiry_s=APPLY_EXPIRY_S,
        payload=ApplyPayload,
        text="move to these positions, now or not at all",
        examples=("preferences-apply",),
        id="request_id",
        answer="preferences/result",
    ),
    Topic(
        name="preferences/cancel",
        writer="whodrives",
        readers=("ECU",),
        qos=1,
        retain="never",
        expiry_s=APPLY_EXPIRY_S,
        payload=CancelPayload,
        text="stop what a request started",
        examples=("preferences-cancel",),
        id="request_id",
        answer="preferences/result",
    ),
    Topic(
        name="preferences/result",
        writer="ECU",
        readers=("whodrives",),
        qos=1,
        retain="no",
        expiry_s=ANSWER_EXPIRY_S,
        payload=ResultPayload,
        text="what became of a request",
        examples=("preferences-result",),
        id="request_id",
    ),
    Topic(
        name="preferences/position",
        writer="ECU",
        readers=("whodrives", "head unit"),
        qos=1,
        retain="yes",
        expiry_s=None,
        payload=PositionPayload,
        text="where seat, steering wheel and mirrors are",
        examples=("preferences-position",),
    ),
    Topic(
        name="vehicle",
        writer="car",
        readers=("whodrives", "ECU"),
        qos=1,
        retain="as you like",
        expiry_s=None,
        payload=VehiclePayload,
        text="what trip and interlock need to know",
        examples=("vehicle",),
    ),
    Topic(
        name=SIGNAL_TOPIC,
        writer="car",
        readers=("whodrives", "ECU"),
        qos=1,
        retain="as you like",
        expiry_s=None,
        payload=SignalPayload,
        text="the same, one signal a topic",
        examples=("vehicle-signal",),
    ),
    _command("listen", ListenPayload, "the next known voice may become the driver"),
    _command("driver", ChoosePayload, "this driver, or nobody enrolled, drives"),
    _command("save", CommandPayload, "the present position is what the driver prefers"),
    _command("cancel", CommandPayload, "stop all that was asked for, and ask no more"),
    _command("forget", ForgetPayload, "erase a driver"),
    _command("enrol", EnrolPayload, "enrol whoever speaks now, or a guest", "command-enrol-guest"),
    Topic(
        name="command/result",
        writer="whodrives",
        readers=("head unit",),
        qos=1,
        retain="no",
        expiry_s=ANSWER_EXPIRY_S,
        payload=CommandResultPayload,
        text="what became of a command",
        examples=("command-result", "command-result-refused"),
        id="command_id",
    ),
    Topic(
        name="guest",
        writer="whodrives",
        readers=("head unit",),
        qos=1,
        retain="yes",
        expiry_s=None,
        payload=GuestPayload,
        text="who comes back and may be asked to enrol",
        examples=("guest",),
    ),
    Topic(
        name="enrolment",
        writer="whodrives",
        readers=("head unit",),
        qos=1,
        retain="no",
        expiry_s=ANSWER_EXPIRY_S,
        payload=EnrolmentPayload,
        text="how an enrolment goes",
        examples=("enrolment", "enrolment-refused"),
        id="command_id",
    ),
    Topic(
        name="metrics",
        writer="whodrives",
        readers=("monitor",),
        qos=0,
        retain="yes",
        expiry_s=None,
        payload=MetricsPayload,
        text="how whodrives does, in numbers",
        examples=("metrics",),
    ),
)
TOPICS: Mapping[str, Topic] = {topic.name: topic for topic in _TABLE}
"""The contract's table, by name."""


def root(vehicle: str) -> str:
    """The topic that all of this car's topics are below."""
    return f"whodrives/{vehicle}"


@cache
def schema_of(payload: type[Struct]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a payload's type."""
    found: dict[str, Any] = _brief(msgspec.json.schema(payload))
    return found


def _brief(node: Any) -> Any:
    """The schema with the first paragraph of each docstring, and its patterns in ECMA-262."""
    if isinstance(node, list):
        return [_brief(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {key: _brief(value) for key, value in node.items()}
    if isinstance(text := found.get("description"), str):
        found["description"] = " ".join(text.partition("\n\n")[0].split())
    if isinstance(pattern := found.get("pattern"), str):
        found["pattern"] = pattern.replace(r"\Z", "$")
    return found


def schema(topic: Topic) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of what is said on a topic; whole in itself."""
    found = schema_of(topic.payload)["$defs"]
    inner: dict[str, Any] = found[topic.payload.__name__]
    rest = {key: value for key, value in found.items() if value is not inner}
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:whodrives:{SCHEMA}:{topic.file}",
    }
    return head | inner | {"title": topic.name} | ({"$defs": rest} if rest else {})


def schema_components(ref_template: str) -> dict[str, Any]:
    """The JSON Schemas of all payloads and their parts, by type's name, for a larger document.

    Args:
        ref_template: how one of them is referred to there, with `{name}`.
    """
    payloads = [topic.payload for topic in TOPICS.values()]
    found: dict[str, Any] = _brief(
        msgspec.json.schema_components(payloads, ref_template=ref_template)[1]
    )
    return found


# --- events to messages ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """What is handed to the broker.

    Attributes:
        topic: the full topic.
        payload: UTF-8 JSON; empty clears a retained topic.
        qos: 0 or 1.
        retain: whether the broker keeps it for later subscribers.
        expiry_s: MQTT message expiry interval; None for never.
        correlation: MQTT correlation data.
        response_topic: where an answer is awaited.
    """

    topic: str
    payload: bytes
    qos: Literal[0, 1]
    retain: bool = False
    expiry_s: int | None = None
    correlation: bytes | None = None
    response_topic: str | None = None


@dataclass(frozen=True, slots=True)
class Vitals:
    """What the rest of the daemon adds to `metrics`.

    Attributes:
        requests: requests that no final answer came for yet.
        backlog: inputs that wait to be looked at.
        encoder: fingerprint of the speaker encoder, 64 digits, lower-case hexadecimal.
    """

    requests: int = 0
    backlog: int = 0
    encoder: str | None = None


def encode(
    event: Event, vehicle: Vehicle, epoch_s: float, *, evidence: bool = False
) -> Message | None:
    """The message that tells the car of an event; None for an event that is not the bus's.

    Args:
        event: what happened.
        vehicle: the car: its name in the topics, what its ECUs accept, and which VSS they speak.
        epoch_s: seconds from 1970-01-01 UTC to the moment that is `at_s` 0.
        evidence: whether a recognition tells its exact likelihood ratios.

    Raises:
        PayloadError: the event holds what the contract does not allow to be said, such as a
            position that the car's ECUs do not accept.
    """
    when = _when(event.at_s + epoch_s)
    body: _Payload | None
    match event:
        case Recognition():
            name, body = "recognition", _recognition(event, when, evidence=evidence)
        case DriverState():
            name, body = "driver", _driver(event, when, epoch_s) if event.trip_open else None
        case Health():
            name, body = "status", _status("degraded" if event.reasons else "online", event, when)
        case Apply():
            name, body = "preferences/apply", _apply(event, vehicle, epoch_s)
        case Withdraw():
            name, body = "preferences/cancel", _cancel(event, when)
        case CommandResult():
            name, body = "command/result", _command_result(event, when)
        case EnrolmentState():
            name, body = "enrolment", _enrolment(event, when)
        case Guests():
            name, body = "guest", _guests(event, when) if event.offers else None
        case Prefer() | Erase() | Stray() | Remember() | Learn() | Met():
            return None
    return _message(name, vehicle.id, body)


def encode_offline(vehicle: str, reason: str) -> Message:
    """The status of a daemon that is not there; it has no time, for a last will cannot know one."""
    body = StatusPayload(schema=SCHEMA, time=None, state="offline", reasons=[reason])
    return _message("status", vehicle, body)


def encode_metrics(counters: Counters, vitals: Vitals, vehicle: str, wall_now_s: float) -> Message:
    """How the daemon does, at `wall_now_s` seconds from 1970-01-01 UTC."""
    body = MetricsPayload(
        schema=SCHEMA,
        time=_when(wall_now_s),
        counters=counters,
        requests=vitals.requests,
        backlog=vitals.backlog,
        encoder=vitals.encoder,
    )
    return _message("metrics", vehicle, body)


def _message(name: str, vehicle: str, body: _Payload | None) -> Message:
    """The body as the table says that it travels; None clears what is retained."""
    topic = TOPICS[name]
    full = f"{root(vehicle)}/{name}"
    payload = b"" if body is None else _json(body)
    if payload:
        read(full, payload, topic.payload)
    return Message(
        topic=full,
        payload=payload,
        qos=topic.qos,
        retain=topic.retain == "yes",
        expiry_s=topic.expiry_s,
        correlation=str(getattr(body, topic.id)).encode() if topic.id else None,
        response_topic=f"{root(vehicle)}/{topic.answer}" if topic.answer else None,
    )


def _status(state: Literal["online", "degraded"], event: Health, when: datetime) -> StatusPayload:
    return StatusPayload(schema=SCHEMA, time=when, state=state, reasons=list(event.reasons))


def _cancel(event: Withdraw, when: datetime) -> CancelPayload:
    return CancelPayload(schema=SCHEMA, request_id=event.request, time=when, reason=event.reason)


def _recognition(event: Recognition, when: datetime, *, evidence: bool) -> RecognitionPayload:
    verdict, heard = event.verdict, event.verdict.evidence
    llrs = [match.llr for match in heard.matches[:2]] if evidence else []
    known = verdict.outcome is Outcome.KNOWN
    return RecognitionPayload(
        schema=SCHEMA,
        time=when,
        outcome=verdict.outcome,
        driver=verdict.driver,
        confidence=_stepped(verdict.probability) if known else None,
        speech_s=round(heard.speech_s, 2),
        snr_db=_rounded(heard.snr_db, 1),
        llr=_rounded(next(iter(llrs), None), 2),
        runner_up_llr=_rounded(next(iter(llrs[1:]), None), 2),
        reason=verdict.reason,
    )


def _driver(event: DriverState, when: datetime, epoch_s: float) -> DriverPayload:
    return DriverPayload(
        schema=SCHEMA,
        time=when,
        state="unknown" if event.driver is None else "known",
        driver=event.driver,
        since=None if event.since_s is None else _when(event.since_s + epoch_s),
        confidence=_stepped(event.probability),
        settled_by=event.settled_by,
        preferences=Preferences(
            state=event.delivery,
            reason=event.reason or None,
            waiting_for=list(event.waiting_for),
        ),
    )


def _apply(event: Apply, vehicle: Vehicle, epoch_s: float) -> ApplyPayload:
    for path, value in event.signals.items():
        if mistake := vss.check(path, value, vehicle.signals):
            raise PayloadError(f"{root(vehicle.id)}/preferences/apply: signals: {mistake}")
    return ApplyPayload(
        schema=SCHEMA,
        request_id=event.request,
        driver=event.driver,
        issued_at=_when(event.at_s + epoch_s),
        expires_at=_when(event.at_s + epoch_s + APPLY_EXPIRY_S),
        signals=dict(_spoken(path, value, vehicle) for path, value in event.signals.items()),
    )


def _spoken(path: str, value: float, vehicle: Vehicle) -> tuple[str, Number]:
    """A signal in the car's VSS, its value a JSON number of the signal's datatype."""
    name, meant = vss.spoken(path, value, vehicle.vss)
    return name, float(meant) if vss.SIGNALS[path].datatype == "float" else round(meant)


def _command_result(event: CommandResult, when: datetime) -> CommandResultPayload:
    return CommandResultPayload(
        schema=SCHEMA,
        time=when,
        command_id=event.command,
        status="refused" if event.reason else "done",
        reason=event.reason or None,
    )


def _enrolment(event: EnrolmentState, when: datetime) -> EnrolmentPayload:
    return EnrolmentPayload(
        schema=SCHEMA,
        time=when,
        command_id=event.command,
        state=event.stage,
        driver=event.driver,
        speech_s=round(event.speech_s, 1),
        problems=[Fault(code=problem.code, text=problem.text) for problem in event.problems],
    )


def _guests(event: Guests, when: datetime) -> GuestPayload:
    offered = [
        Offered(guest=o.guest, trips=o.trips, last_seen=date.fromordinal(o.last_day))
        for o in event.offers
    ]
    return GuestPayload(schema=SCHEMA, time=when, guests=offered)


def _json(body: Struct) -> bytes:
    plain = msgspec.to_builtins(body, builtin_types=(datetime,))
    return json.dumps(plain, separators=(",", ":"), allow_nan=False, default=_iso).encode()


def _when(wall_s: float) -> datetime:
    return datetime.fromtimestamp(wall_s, UTC)


def _iso(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _stepped(probability: float | None) -> float | None:
    """The highest step that a probability reaches."""
    if probability is None or not math.isfinite(probability):
        return None
    return max(step for step in CONFIDENCE_STEPS if step <= max(probability, 0.0))


def _rounded(value: float | None, digits: int) -> float | None:
    """JSON knows no infinity: what is not finite is told as not known."""
    return round(value, digits) if value is not None and math.isfinite(value) else None


# --- messages to inputs ---------------------------------------------------------------------------

Incoming: TypeAlias = (
    VehicleReport | Position | Answer | Listen | Choose | Save | Cancel | Forget | Enrol
)
"""What a message may be turned into."""


class CommandError(PayloadError):
    """A command is refused, and the one who gave it can be told.

    Args:
        text: names the topic, the field and the mend.
        command: the command's name.
        reason: what to tell.
        cause: as in `PayloadError`.
    """

    def __init__(self, text: str, command: str, reason: str, cause: str) -> None:
        super().__init__(text, cause=cause)
        self.command = command
        self.reason = reason


class _FutureError(PayloadError):
    """A message is dated `ahead_s` seconds in the future, by more than MAX_AHEAD_S."""

    def __init__(self, text: str, ahead_s: float) -> None:
        super().__init__(text, cause="future")
        self.ahead_s = ahead_s


class CarClockError(_FutureError):
    """A report of the car is dated in the future."""


_PARK = 126
_MEANING: Mapping[type[_Said], Callable[[Any], Any]] = {
    Speed: abs,
    Gear: lambda gear: gear == _PARK,
    Flag: bool,
    Occupancy: {"OCCUPIED": True, "EMPTY": False}.get,
    LowVoltage: {"ACC": True, "ON": True, "START": True, "OFF": False, "LOCK": False}.get,
    Subject: str,
}
_RESULT, _POSITION, _VEHICLE = "preferences/result", "preferences/position", "vehicle"
_CANCEL = "command/cancel"
_Command: TypeAlias = ListenPayload | CommandPayload


class Decoder:
    """Turns what the car, the ECUs and the head unit say into inputs.

    It is the one place where readings of the car are merged: it remembers the last reading of each
    signal that it understands, because two of them may speak of one fact and arrive apart, and each
    `VehicleReport` holds the state that follows from all of them. It remembers the ids of the
    last seconds' commands, because none is obeyed twice. Both are bounded, the ids by the commands'
    rates. One mistake refuses a whole message, and it leaves no trace but in the rate of its topic.

    An older reading does not replace a newer one of the same signal, unless it is the dangerous one
    of the two: a car that moves, an open door, an empty seat, a pressed switch, a car that is not
    held, an ignition that is off. A reading from the future counts as made when it arrived.

    Args:
        vehicle: the car's name in the topics.
        secure: whether the broker knows who is who; else what erases or enrols is refused.

    Attributes:
        replayed: commands that came again, and messages with a reading older than the newest.
        merged: reports of the car that came too fast and are told with the next one.
        obeyed: ids of the commands of the last REMEMBERED_S, lower-case, with the monotonic time
            at which each came. Set it to what an earlier daemon obeyed.
        misdated: reports of the car without a reading that was new enough on arrival to be used, or
            with one that was dated in the future.
    """

    def __init__(self, vehicle: str, *, secure: bool = False) -> None:
        self.replayed = 0
        self.merged = 0
        self.obeyed: dict[str, float] = {}
        self._buckets = {
            name: Bucket(_rate(name))
            for name, topic in TOPICS.items()
            if "whodrives" in topic.readers and topic.writer != "car"
        }
        self._reports = Bucket(VEHICLE_RATE)
        self._untold = False
        self._age_s: float | None = None
        self._explained = Bucket(EXPLAINED_RATE)
        self.misdated = 0
        self._root = root(vehicle) + "/"
        self._secure = secure
        self._latest: dict[str, Reading[Any]] = {}
        self._newest_s: dict[str, float] = {}
        self._epoch_s = math.inf
        self._position_s = -math.inf

    @property
    def topics(self) -> tuple[str, ...]:
        """The topic filters whose messages `decode` reads."""
        names = [topic.name for topic in TOPICS.values() if "whodrives" in topic.readers]
        return tuple(self._root + name.replace("<VSS path>", "+") for name in names)

    @property
    def vehicle_topics(self) -> tuple[str, ...]:
        """Those of them on which the car reports."""
        return tuple(t for t in self.topics if t.removeprefix(self._root).split("/")[0] == _VEHICLE)

    @property
    def readings(self) -> Mapping[str, Reading[Any]]:
        """The last reading of each signal that the car reported; its value is None for null."""
        return {path: self._latest[path] for path in READ_SIGNALS if path in self._latest}

    def decode(
        self, topic: str, payload: bytes, received_at_s: float, wall_now_s: float
    ) -> Incoming | None:
        """Read one message; None if it says again what was heard before.

        Args:
            topic: the full topic it came on.
            payload: as received.
            received_at_s: when, on the monotonic clock.
            wall_now_s: the same moment in seconds from 1970-01-01 UTC.

        Raises:
            CommandError: a command is refused whose name could be read.
            CarClockError: a report of the car is dated in the future.
            PayloadError: names the topic, the field and the mend; nothing else is raised.
        """
        epoch_s = wall_now_s - received_at_s
        if not abs(epoch_s - self._epoch_s) <= CLOCK_STEP_S:
            self._epoch_s = epoch_s
        now = _Now(topic, received_at_s, wall_now_s, self._epoch_s)
        name = topic.removeprefix(self._root)
        if name == topic:
            raise PayloadError(f"{topic}: no such topic is read; see docs/mqtt.md")
        if name not in self._buckets:
            return self._vehicle(name, payload, now)
        too_fast = self._buckets[name].excess(received_at_s)
        if name not in (_RESULT, _POSITION):
            if too_fast and self._explained.excess(received_at_s):
                raise PayloadError(f"{topic}: {too_fast}", cause="rate")
            return self._commanded(name, payload, now, too_fast)
        if too_fast:
            raise PayloadError(f"{topic}: {too_fast}", cause="rate")
        return _answer(payload, now) if name == _RESULT else self._position(payload, now)

    def _vehicle(self, name: str, payload: bytes, now: _Now) -> VehicleReport | None:
        try:
            said = dict(_readings(name, payload, now))
        except _FutureError as error:
            self.misdated += 1
            raise CarClockError(str(error), error.ahead_s) from None
        self._age_s = min((now.at_s - reading.at_s for reading in said.values()), default=None)
        self.misdated += self._age_s is not None and self._age_s > MAX_AGE_S
        old = [path for path, reading in said.items() if self._is_replayed(path, reading)]
        self.replayed += bool(old)
        for path in said.keys() - old:
            self._latest[path] = said[path]
            self._newest_s[path] = max(said[path].at_s, self._newest_s.get(path, -math.inf))
        state = self._state()
        hand = state.seat_switch is not None and state.seat_switch.value
        self._untold = bool(self._reports.excess(now.at_s)) and not hand
        if self._untold:
            self.merged += 1
            return None
        return VehicleReport(now.at_s, state, self._age_s)

    def merged_report(self, at_s: float) -> VehicleReport | None:
        """The state of the last report at `at_s`, if that one came too fast and was not told."""
        if not self._untold:
            return None
        self._untold = False
        return VehicleReport(at_s, self._state(), self._age_s)

    def _is_replayed(self, path: str, reading: Reading[Any]) -> bool:
        """Whether the reading is older than the newest of its signal, and not the dangerous one."""
        if reading.at_s >= self._newest_s.get(path, -math.inf):
            return False
        latest = self._latest[path]
        known_anyway = _is_dangerous(path, latest) and reading.at_s < latest.at_s
        return known_anyway or not _is_dangerous(path, reading)

    def _state(self) -> VehicleState:
        get = self._get
        return VehicleState(
            speed_kmh=get(SPEED),
            in_park=_both(get(GEAR), get(PARK_LOCK), disagreeing=False),
            parking_brake=get(PARKING_BRAKE),
            door_open=get(DOOR),
            seat_occupied=_both(get(OCCUPANCY), get(OCCUPIED), disagreeing=None),
            ignition_on=get(IGNITION),
            seat_switch=self._switched(),
            key=_both(get(KEY), get(SEAT_KEY), disagreeing=None),
        )

    def _get(self, path: str) -> Reading[Any] | None:
        reading = self._latest.get(path)
        return None if reading is None or reading.value is None else reading

    def _switched(self) -> Reading[bool] | None:
        """Whether any switch is pressed; the newest of those that are, else of all."""
        known = [reading for path in vss.SEAT_SWITCHES if (reading := self._get(path))]
        pressed = [reading for reading in known if reading.value]
        return max(pressed or known, key=lambda reading: reading.at_s, default=None)

    def _position(self, payload: bytes, now: _Now) -> Position | None:
        body = read(now.topic, payload, PositionPayload)
        true_s = now.true_s("time", body.time)
        if true_s < self._position_s:
            self.replayed += 1
            return None
        self._position_s = true_s
        # An older name gives way to the newest one's value, if a car says both.
        said = sorted(body.signals.items(), key=lambda item: item[0] in vss.SIGNALS)
        known = dict(ours for path, value in said if (ours := vss.newest(path, value)))
        signals = {path: _whole(path, value) for path, value in known.items()}
        return Position(now.at_s, true_s, body.moving, signals)

    def _commanded(self, name: str, payload: bytes, now: _Now, too_fast: str) -> Incoming | None:
        plain = _object(now.topic, payload)
        try:
            body: _Command = _typed(now.topic, plain, TOPICS[name].payload)
            return self._obeyed_once(name, body, now, too_fast)
        except PayloadError as error:
            command = plain.get("command_id")
            if isinstance(command, str) and re.fullmatch(_UUID, command):
                reason = str(error).removeprefix(f"{now.topic}: ")
                raise CommandError(str(error), command, reason, error.cause) from error
            raise

    def _obeyed_once(self, name: str, body: _Command, now: _Now, too_fast: str) -> Incoming | None:
        now.fresh("issued_at", body.issued_at, COMMAND_EXPIRY_S, "a command")
        known = body.command_id.lower() if body.command_id else None
        recent = now.at_s - REMEMBERED_S
        self.obeyed = {key: at_s for key, at_s in self.obeyed.items() if at_s >= recent}
        if known in self.obeyed:
            self.replayed += 1
            return None
        if too_fast:
            raise PayloadError(f"{now.topic}: {too_fast}", cause="rate")
        if isinstance(body, ForgetPayload | EnrolPayload) and not self._secure:
            mend = "only over TLS does the broker know who asks; see mqtt.tls"
            raise PayloadError(f"{now.topic}: refused on a plain connection; {mend}", cause="plain")
        if known is not None:
            self.obeyed[known] = now.at_s
        return _input(name, body, now.at_s)


def _rate(name: str) -> Rate:
    limits = {_RESULT: RESULT_RATE, _POSITION: POSITION_RATE, _CANCEL: CANCEL_RATE}
    return limits.get(name, COMMAND_RATE)


class Bucket:
    """Counts the messages of one topic against its rate (token bucket)."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._tokens = float(rate.burst)
        self._at_s = -math.inf

    def excess(self, at_s: float) -> str:
        """Count a message; what is wrong if it is one too many, else empty."""
        rate = self._rate
        since_s = max(0.0, at_s - self._at_s)
        self._tokens = min(float(rate.burst), self._tokens + rate.per_s * since_s)
        self._at_s = max(self._at_s, at_s)
        if self._tokens < 1.0:
            return (
                f"too many messages; send at most {rate.burst} at once and {rate.per_s:g} a second"
            )
        self._tokens -= 1.0
        return ""


def _input(name: str, body: _Command, at_s: float) -> Incoming:
    match body:
        case ListenPayload(command_id=command):
            return Listen(at_s, command)
        case ChoosePayload(command_id=command, driver=driver):
            return Choose(at_s, command, driver)
        case ForgetPayload(command_id=command, driver=driver):
            return Forget(at_s, command, driver)
        case EnrolPayload(command_id=command, driver=driver, consent=agreed, guest=guest):
            return Enrol(at_s, command, driver, agreed.by, agreed.text, guest)
        case _:
            kind = Save if name == "command/save" else Cancel
            return kind(at_s, body.command_id)


def _answer(payload: bytes, now: _Now) -> Answer:
    body = read(now.topic, payload, ResultPayload)
    now.fresh("time", body.time, ANSWER_EXPIRY_S, "a result")
    return Answer(now.at_s, body.request_id.lower(), body.status, body.reason or "")


def _readings(name: str, payload: bytes, now: _Now) -> Iterator[tuple[str, Reading[Any]]]:
    """The signals in a message that are understood; a value that is not known is None."""
    if name == _VEHICLE:
        signals = read(now.topic, payload, VehiclePayload).signals
        for path in READ_SIGNALS:
            said = getattr(signals, path.replace(".", "_"))
            if said is not UNSET:
                yield path, _reading(f"signals.{path}.time", said, now)
        return
    level, _, path = name.partition("/")
    if level != _VEHICLE or not path:
        raise PayloadError(f"{now.topic}: no such topic is read; see docs/mqtt.md")
    if path in READ_SIGNALS:
        plain = _object(now.topic, payload)
        _typed(now.topic, plain, SignalPayload)
        yield path, _reading("time", _typed(now.topic, plain, READ_SIGNALS[path]), now)


def _reading(field: str, said: Any, now: _Now) -> Reading[Any]:
    meaning = _MEANING[type(said)]
    value = None if said.value is None else meaning(said.value)
    return Reading(value, now.true_s(field, said.time))


_DANGEROUS: Mapping[str, bool] = {
    GEAR: False,
    PARK_LOCK: False,
    PARKING_BRAKE: False,
    DOOR: True,
    OCCUPANCY: False,
    OCCUPIED: False,
    IGNITION: False,
    **dict.fromkeys(vss.SEAT_SWITCHES, True),
}
"""Of the two values that a signal's reading may mean, the one that forbids, stops or ends."""


def _is_dangerous(path: str, reading: Reading[Any]) -> bool:
    if reading.value is None:
        return False
    return bool(reading.value) if path == SPEED else reading.value is _DANGEROUS.get(path)


def _both(one: Reading[T] | None, other: Reading[T] | None, *, disagreeing: Any) -> Any:
    """One fact from two signals: as old as the older if they agree, else `disagreeing`."""
    if one is None or other is None:
        return one or other
    if one.value == other.value:
        return min(one, other, key=lambda reading: reading.at_s)
    if disagreeing is None:
        return None
    return Reading(disagreeing, max(one.at_s, other.at_s))


def _whole(path: str, value: float) -> float:
    """What the signal's datatype can hold: an ECU may measure finer than it can be told."""
    return float(value if vss.SIGNALS[path].datatype == "float" else round(value))


@dataclass(frozen=True, slots=True)
class _Now:
    """The moment at which a message came, on both clocks.

    Attributes:
        topic: it came on.
        at_s: on the monotonic clock.
        wall_s: seconds from 1970-01-01 UTC.
        epoch_s: seconds from 1970-01-01 UTC to `at_s` 0, the same for all messages until a clock
            is set: two messages that tell one time get one `at_s`.
    """

    topic: str
    at_s: float
    wall_s: float
    epoch_s: float

    def true_s(self, field: str, when: datetime) -> float:
        """The same time on the monotonic clock; no later than the message's arrival."""
        self.age_s(field, when)
        return min(when.timestamp() - self.epoch_s, self.at_s)

    def age_s(self, field: str, when: datetime) -> float:
        """Seconds since then; up to MAX_AHEAD_S below zero."""
        age_s = self.wall_s - when.timestamp()
        if age_s < -MAX_AHEAD_S:
            mend = "set both clocks by one source"
            text = f"{self.topic}: {field}: {-age_s:.1f} s in the future; {mend}"
            raise _FutureError(text, -age_s)
        return age_s

    def fresh(self, field: str, when: datetime, limit_s: float, what: str) -> None:
        """Refuse what is older than `limit_s`."""
        age_s = self.age_s(field, when)
        if age_s > limit_s:
            said = f"{age_s:.1f} s old; {what} is good for {limit_s:.0f} s"
            raise PayloadError(f"{self.topic}: {field}: {said}", cause="old")


# --- texts to payloads ----------------------------------------------------------------------------


def read(topic: str, payload: bytes, kind: type[T]) -> T:
    """A payload as the type that the contract gives it.

    Raises:
        PayloadError: names the topic, the field and the mend; nothing else is raised.
    """
    found: T = _typed(topic, _object(topic, payload), kind)
    return found


def _object(topic: str, payload: bytes) -> dict[str, Any]:
    """The JSON object in a payload."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        said = f"{len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are read"
        raise PayloadError(f"{topic}: {said}", cause="size")
    try:
        text = payload.decode()
        body = json.loads(
            text,
            object_pairs_hook=_no_twins,
            parse_constant=_no_constant,
            parse_float=_number,
            parse_int=_number,
        )
        if "\\u" in text:  # Half a character can be escaped, but neither logged nor passed on.
            json.dumps(body, ensure_ascii=False).encode()
    except RecursionError:
        raise PayloadError(f"{topic}: nested too deeply; see docs/mqtt.md", cause="json") from None
    except ValueError as error:
        said = f"not a JSON text in UTF-8: {_shown(str(error))}"
        raise PayloadError(f"{topic}: {said}", cause="json") from None
    if not isinstance(body, dict):
        raise PayloadError(f"{topic}: payload: give a JSON object", cause="json")
    return body


def _no_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice in one object")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _number(text: str) -> Number:
    """A number that a float can hold; 1.0 and 1 are the same one."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return int(text) if text.lstrip("-").isdigit() else int(value) if value.is_integer() else value


def _typed(topic: str, body: object, kind: type[Any]) -> Any:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, _FieldError):
            raise PayloadError(f"{topic}: {error.__cause__}") from None
        problem, _, place = str(error).partition(" - at `")
        field = place.removesuffix("`").removeprefix("$").removeprefix(".").replace("[...]", "")
    if missing := re.fullmatch("Object missing required field `(.*)`", problem):
        field, problem = ".".join(filter(None, (field, missing[1]))), "missing"
    for pattern, words in _IN_OUR_WORDS:
        problem = re.sub(pattern, words, problem, flags=re.DOTALL)
    raise PayloadError(
        f"{topic}: {field or 'payload'}: {_shown(problem)}; give {_mend(kind, field)}"
    )


_IN_OUR_WORDS = (
    ("^Expected `str` matching .*", "not of the right form"),
    ("^Expected", "expected"),
    ("^Invalid enum value (.*)", r"\1 is not known"),
    ("^Invalid RFC3339 .*", "no time"),
)


def _mend(kind: type[Struct], field: str) -> str:
    """What the schema says of a field."""
    whole = schema_of(kind)
    node = _resolved(whole, whole)
    while field:
        names = node.get("properties", {})
        name = next((n for n in names if field == n or field.startswith(f"{n}.")), None)
        if name is None:
            break
        node = _resolved(whole, names[name])
        field = field[len(name) + 1 :]
    if node.get("required"):
        return f"a JSON object with {', '.join(node['required'])}"
    return str(node.get("description", "what docs/mqtt.md says"))


def _resolved(whole: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in node:
        said = {key: value for key, value in node.items() if key != "$ref"}
        node = whole["$defs"][node["$ref"].rpartition("/")[2]] | said
    return node


def _shown(text: str) -> str:
    """What may stand in a line of the log: short, and printable."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text.replace("`", ""))
    return plain[:120]
