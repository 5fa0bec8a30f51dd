"""The type of every payload; the JSON Schemas are generated from these."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from whodrives.enrolment.types import EnrolmentStage
from whodrives.trip.types import Delivery, ResultStatus, SettledBy
from whodrives.vehicle import vss
from whodrives.voice.types import Outcome

SCHEMA: Literal[1] = 1


# Patterns end with \Z, because Python's $ also matches before a final newline. JSON Schema uses
# ECMA-262, where $ is the very end and \Z is unknown: `schemas._brief` translates.
UUID_PATTERN = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\Z"


Time: TypeAlias = Annotated[
    datetime, Meta(tz=True, description="ISO 8601 with a zone, like 2026-11-23T08:00:00.000Z")
]


Id: TypeAlias = Annotated[
    str, Meta(pattern=UUID_PATTERN, description="a UUID, like 3f2b7c1e-5a64-4d0e-9c1b-0d2f4a6b8c0e")
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


class Payload(Struct, kw_only=True, frozen=True):
    """The fields of every payload."""

    schema: Annotated[Literal[1], Meta(description="1; no other is understood")]


class StatusPayload(Payload, kw_only=True, frozen=True):
    """Whether whodrives works."""

    time: Annotated[
        Time | None, Meta(description="null in the last will, which the broker publishes")
    ]
    state: Literal["online", "degraded", "offline"]
    reasons: Annotated[list[str], Meta(description="what is missing, in sentences")]


class Preferences(Struct, kw_only=True, frozen=True):
    """The state of the driver's preferences in this trip."""

    state: Delivery
    reason: Annotated[
        Reason | None, Meta(description="the ECU's, for rejected and aborted; else null")
    ]
    waiting_for: Annotated[list[str], Meta(description="names of the conditions that are not met")]


CONFIDENCE_STEPS = (0.0, 0.5, 0.9, 0.99, 0.999)
"""A confidence is published as the highest of these that it reaches, so that an imitator does not
learn how much nearer the last attempt came."""


_STEPS = "a calibrated probability that is at least this: 0, 0.5, 0.9, 0.99 or 0.999"


Confidence: TypeAlias = Annotated[float, Meta(ge=0, le=1)] | None


class DriverPayload(Payload, kw_only=True, frozen=True):
    """Who drives this trip."""

    time: Time
    state: Literal["known", "unknown"]
    driver: DriverId | None
    since: Annotated[Time | None, Meta(description="when the driver was assigned")]
    confidence: Annotated[Confidence, Meta(description=f"{_STEPS}; null unless assigned by voice")]
    settled_by: Annotated[
        SettledBy | None, Meta(description="what assigned the driver; null while nothing did")
    ]
    candidate: Annotated[
        DriverId | None,
        Meta(description="whom to ask about while the driver is not decided; null for nobody"),
    ]
    preferences: Preferences


class RecognitionPayload(Payload, kw_only=True, frozen=True):
    """The decision about one utterance."""

    time: Time
    outcome: Outcome
    driver: Annotated[DriverId | None, Meta(description="set exactly when the outcome is known")]
    speech_s: Annotated[float, Meta(ge=0, description="seconds of speech")]
    snr_db: Annotated[float | None, Meta(description="dB; null while no noise was measured")]
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
        Reason | None, Meta(description="the code of the problem if the sound is poor; else null")
    ]
    candidate: Annotated[
        DriverId | None,
        Meta(description="a driver who may have spoken and was not recognised; null for nobody"),
    ]


_SETTABLE: Mapping[str, vss.Signal] = {
    path: signal for version in vss.VERSIONS for path, signal in vss.paths_of(version).items()
}
"""The settable signals by their names in all versions."""


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


class FieldError(ValueError):
    """What is wrong with a field, and the fix, where the types cannot express it."""


def _check_range(signals: Mapping[str, Number]) -> None:
    """Refuse values outside VSS's range; unknown signals are allowed."""
    for path, value in signals.items():
        if path in _SETTABLE and value not in (allowed := _SETTABLE[path].range):
            unit = _SETTABLE[path].unit
            raise FieldError(f"signals.{path}: {value:g} is out of range; give {allowed} {unit}")


class ApplyPayload(Payload, kw_only=True, frozen=True):
    """Move to these positions, now or not at all."""

    request_id: Id
    driver: DriverId
    issued_at: Time
    expires_at: Annotated[Time, Meta(description="refuse the request at or after this moment")]
    signals: Annotated[Settings, Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Check what the types cannot."""
        _check_range(self.signals)


class CancelPayload(Payload, kw_only=True, frozen=True):
    """Stop what this request started; reject it if it arrives later."""

    request_id: Id
    time: Time
    reason: Reason


class ResultPayload(Payload, kw_only=True, frozen=True):
    """The ECU's answer to a request."""

    time: Time
    request_id: Id
    status: Annotated[
        ResultStatus, Meta(description="one of accepted, completed, rejected, aborted")
    ]
    reason: Annotated[
        Reason | None,
        Meta(description="why, for rejected and aborted: a code, such as manual or standing"),
    ] = None


class PositionPayload(Payload, kw_only=True, frozen=True):
    """Positions of seat, steering wheel and mirrors."""

    time: Annotated[Time, Meta(description="time of measurement: ISO 8601 with a zone")]
    moving: Annotated[bool, Meta(description="true or false: whether any motor runs")]
    signals: Settings

    def __post_init__(self) -> None:
        """Check what the types cannot."""
        _check_range(self.signals)


class Said(Struct, kw_only=True, frozen=True):
    """One value of the car and the time at which it was last known to be true."""

    time: Annotated[
        Time, Meta(description="when it was last known to be true: ISO 8601 with a zone")
    ]


class Speed(Said, kw_only=True, frozen=True):
    """Vehicle.Speed."""

    value: Annotated[float | None, Meta(description="a number of km/h, or null")]


class Gear(Said, kw_only=True, frozen=True):
    """Vehicle.Powertrain.Transmission.SelectedGear."""

    value: Annotated[
        Annotated[int, Meta(ge=-126, le=127)] | None,
        Meta(description="a whole number from -126 to 127, of which 126 is Park, or null"),
    ]


class Flag(Said, kw_only=True, frozen=True):
    """A boolean signal."""

    value: Annotated[bool | None, Meta(description="true or false, or null")]


class Occupancy(Said, kw_only=True, frozen=True):
    """OccupancyStatus of a seat."""

    value: Annotated[
        Literal["OCCUPIED", "EMPTY", "UNKNOWN"] | None,
        Meta(description="one of OCCUPIED, EMPTY, UNKNOWN, or null"),
    ]


class LowVoltage(Said, kw_only=True, frozen=True):
    """Vehicle.LowVoltageSystemState."""

    value: Annotated[
        Literal["UNDEFINED", "LOCK", "OFF", "ACC", "ON", "START"] | None,
        Meta(description="one of UNDEFINED, LOCK, OFF, ACC, ON, START, or null"),
    ]


class Subject(Said, kw_only=True, frozen=True):
    """Identifier.Subject of an occupant: the key that opened the car."""

    value: Annotated[
        Annotated[str, Meta(pattern=r"^[ -~]{1,128}\Z")] | None,
        Meta(description="1 to 128 printable ASCII characters, or null"),
    ]


SPEED = "Vehicle.Speed"


GEAR = "Vehicle.Powertrain.Transmission.SelectedGear"


PARK_LOCK = "Vehicle.Powertrain.Transmission.IsParkLockEngaged"


PARKING_BRAKE = "Vehicle.Chassis.ParkingBrake.IsEngaged"


DOOR = "Vehicle.Cabin.Door.Row1.DriverSide.IsOpen"


OCCUPANCY = f"{vss.SEAT}.OccupancyStatus"


OCCUPIED = f"{vss.SEAT}.IsOccupied"


IGNITION = "Vehicle.LowVoltageSystemState"


KEY = "Vehicle.Occupant.Row1.DriverSide.Identifier.Subject"


SEAT_KEY = f"{vss.SEAT}.Occupant.Identifier.Subject"
"""The same before VSS 4.2."""


_READ: dict[str, type[Said]] = {
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


READ_SIGNALS: Mapping[str, type[Said]] = _READ | dict.fromkeys(vss.SEAT_SWITCHES, Flag)
"""Every signal that is read, in every VSS version, with the type of its value."""


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


class VehiclePayload(Payload, kw_only=True, frozen=True):
    """What trip and interlock need to know of the car."""

    signals: Annotated[Signals, Meta(description="a JSON object of VSS paths")]


class SignalPayload(Payload, kw_only=True, frozen=True):
    """One signal of the car; its VSS path is the last level of the topic."""

    value: Annotated[
        bool | int | float | str | None, Meta(description="as in `vehicle`, or null: unknown")
    ]
    time: Annotated[
        Time, Meta(description="when it was last known to be true: ISO 8601 with a zone")
    ]


class ListenPayload(Payload, kw_only=True, frozen=True):
    """The next known voice may become the driver."""

    issued_at: Time
    command_id: Id | None = None


class CommandPayload(Payload, kw_only=True, frozen=True):
    """A command without parameters."""

    command_id: Id
    issued_at: Time


class ChoosePayload(CommandPayload, kw_only=True, frozen=True):
    """The driver, chosen by hand."""

    driver: Annotated[
        DriverId | None,
        Meta(description="an enrolled driver's pseudonym, or null for somebody who is not"),
    ]


class ForgetPayload(CommandPayload, kw_only=True, frozen=True):
    """Erase an enrolled driver."""

    driver: DriverId


class Agreed(Struct, kw_only=True, frozen=True):
    """Consent that the person gave on the head unit's screen."""

    by: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-]{1,64}\Z",
            description="a pseudonym of who agreed, such as an account number; never a name",
        ),
    ]
    text: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.-]{1,32}\Z",
            description="the version of the consent text; see docs/privacy.md",
        ),
    ]


class EnrolPayload(CommandPayload, kw_only=True, frozen=True):
    """Enrol whoever speaks now, or a guest who agreed."""

    driver: Annotated[
        DriverId | None,
        Meta(description="whose voice is replaced or added to; null for a new driver"),
    ]
    consent: Agreed
    guest: Annotated[
        GuestId | None,
        Meta(description="the guest to enrol, if offered on `guest`; null listens"),
    ] = None
    again: Annotated[
        bool,
        Meta(description="add the voice to that of `driver` instead of replacing it"),
    ] = False


class Fault(Struct, kw_only=True, frozen=True):
    """A problem of an enrolment."""

    code: Annotated[str, Meta(pattern=r"^[a-z_]{1,40}\Z", description="such as too_quiet")]
    text: Reason


class EnrolmentPayload(Payload, kw_only=True, frozen=True):
    """Progress of an enrolment."""

    time: Time
    command_id: Annotated[Id, Meta(description="of the command that started it")]
    state: EnrolmentStage
    driver: Annotated[
        DriverId | None,
        Meta(description="the driver; null until a new driver is enrolled"),
    ]
    speech_s: Annotated[float, Meta(ge=0, description="useful seconds of speech so far")]
    problems: Annotated[list[Fault], Meta(description="present problems; for refused: the reasons")]


class Offered(Struct, kw_only=True, frozen=True):
    """An unknown speaker who comes back."""

    guest: GuestId
    trips: Annotated[int, Meta(ge=1, description="number of trips in which the guest spoke")]
    last_seen: Annotated[date, Meta(description="the day of the latest trip, UTC")]


class GuestPayload(Payload, kw_only=True, frozen=True):
    """Unknown speakers who come back and may be asked to enrol."""

    time: Time
    guests: list[Offered]


class CommandResultPayload(Payload, kw_only=True, frozen=True):
    """The result of a command."""

    time: Time
    command_id: Id
    status: Literal["done", "refused"]
    reason: Annotated[Reason | None, Meta(description="why it was refused; null when done")]


class Counters(Struct, kw_only=True):
    """Message counters since the daemon's start.

    Attributes:
        published: messages sent on a live connection.
        dropped: messages that were not sent: no connection, too old, or against the contract.
        connections: connections made.
        received: messages received.
        refused: received messages that violate the contract.
        ignored: received retained commands and results, which are stale.
        denied: sent messages that the broker did not accept.
        replayed: repeated commands, and readings older than the newest.
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


class MetricsPayload(Payload, kw_only=True, frozen=True):
    """The daemon's counters since its start."""

    time: Time
    counters: Counters
    requests: Annotated[Count, Meta(description="number of requests without a final answer")]
    backlog: Annotated[Count, Meta(description="number of inputs that wait to be processed")]
    encoder: Annotated[
        Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")] | None,
        Meta(description="fingerprint of the speaker encoder"),
    ]
    silent_s: Annotated[
        Count, Meta(description="seconds for which the source has given nothing but silence")
    ] = 0
