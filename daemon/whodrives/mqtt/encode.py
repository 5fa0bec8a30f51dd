"""Events to messages."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Literal

import msgspec
from msgspec import Struct

from whodrives.adaptation.types import Guests, TripSamples, UnknownSpeech
from whodrives.config.schema import Vehicle
from whodrives.core.events import Event, Health
from whodrives.enrolment.types import EnrolmentState, StoreVoice
from whodrives.errors import PayloadError
from whodrives.mqtt.payloads import (
    CONFIDENCE_STEPS,
    SCHEMA,
    ApplyPayload,
    CancelPayload,
    CommandResultPayload,
    Counters,
    DriverPayload,
    EnrolmentPayload,
    Fault,
    GuestPayload,
    MetricsPayload,
    Number,
    Offered,
    Payload,
    Preferences,
    RecognitionPayload,
    StatusPayload,
)
from whodrives.mqtt.reading import read
from whodrives.mqtt.topics import APPLY_EXPIRY_S, TOPICS, root
from whodrives.trip.types import (
    Apply,
    CancelRequest,
    CommandResult,
    DriverState,
    Forget,
    PersistTrip,
    SavePreferences,
    UnmatchedResult,
)
from whodrives.vehicle import vss
from whodrives.voice.decision import candidate
from whodrives.voice.types import Outcome, Recognition


@dataclass(frozen=True, slots=True)
class Message:
    """An outgoing MQTT message.

    Attributes:
        topic: the full topic.
        payload: UTF-8 JSON; empty clears a retained topic.
        qos: 0 or 1.
        retain: whether the broker keeps it for later subscribers.
        expiry_s: MQTT message expiry interval; None for never.
        correlation: MQTT correlation data.
        response_topic: the topic for answers.
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
    """The daemon's part of `metrics`.

    Attributes:
        requests: number of requests without a final answer.
        backlog: number of inputs that wait to be processed.
        encoder: fingerprint of the speaker encoder, 64 digits, lower-case hexadecimal.
        silent_s: for how many seconds the source has given nothing but zeros or a constant.
    """

    requests: int = 0
    backlog: int = 0
    encoder: str | None = None
    silent_s: float = 0.0


def encode(
    event: Event, vehicle: Vehicle, epoch_s: float, *, evidence: bool = False
) -> Message | None:
    """The message of an event; None for an event that is not published.

    Args:
        event: the event.
        vehicle: the car: its name in the topics, the ranges of its signals, its VSS version.
        epoch_s: seconds from 1970-01-01 UTC to `at_s` 0.
        evidence: whether a recognition includes its exact likelihood ratios.

    Raises:
        PayloadError: the contract does not allow the event's content, such as a position that the
            car's ECUs do not accept.
    """
    when = _when(event.at_s + epoch_s)
    body: Payload | None
    match event:
        case Recognition():
            name, body = "recognition", _recognition(event, when, evidence=evidence)
        case DriverState():
            name, body = "driver", _driver(event, when, epoch_s) if event.trip_open else None
        case Health():
            name, body = "status", _status("degraded" if event.reasons else "online", event, when)
        case Apply():
            name, body = "preferences/apply", _apply(event, vehicle, epoch_s)
        case CancelRequest():
            name, body = "preferences/cancel", _cancel(event, when)
        case CommandResult():
            name, body = "command/result", _command_result(event, when)
        case EnrolmentState():
            name, body = "enrolment", _enrolment(event, when)
        case Guests():
            name, body = "guest", _guests(event, when) if event.offers else None
        case (
            SavePreferences()
            | Forget()
            | StoreVoice()
            | UnmatchedResult()
            | PersistTrip()
            | TripSamples()
            | UnknownSpeech()
        ):
            return None
    return _message(name, vehicle.id, body)


def encode_offline(vehicle: str, reason: str) -> Message:
    """The `offline` status; without a time, because a last will cannot know one."""
    body = StatusPayload(schema=SCHEMA, time=None, state="offline", reasons=[reason])
    return _message("status", vehicle, body)


def encode_metrics(counters: Counters, vitals: Vitals, vehicle: str, wall_now_s: float) -> Message:
    """The `metrics` message; `wall_now_s` in seconds since 1970-01-01 UTC."""
    body = MetricsPayload(
        schema=SCHEMA,
        time=_when(wall_now_s),
        counters=counters,
        requests=vitals.requests,
        backlog=vitals.backlog,
        encoder=vitals.encoder,
        silent_s=int(vitals.silent_s),
    )
    return _message("metrics", vehicle, body)


def _message(name: str, vehicle: str, body: Payload | None) -> Message:
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


def _cancel(event: CancelRequest, when: datetime) -> CancelPayload:
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
        candidate=candidate(verdict),
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
        candidate=event.candidate,
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
    """A signal in the car's VSS version, with a JSON number of its datatype."""
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
    """The highest of CONFIDENCE_STEPS that a probability reaches."""
    if probability is None or not math.isfinite(probability):
        return None
    return max(step for step in CONFIDENCE_STEPS if step <= max(probability, 0.0))


def _rounded(value: float | None, digits: int) -> float | None:
    """The rounded value; None if it is not finite, because JSON has no infinity."""
    return round(value, digits) if value is not None and math.isfinite(value) else None
