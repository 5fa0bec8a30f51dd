"""The car's message bus: MQTT 5 and JSON.

Owns topics, QoS, retain, expiry, the last will and the connection. Hides paho and wall-clock time:
`encode`, `encode_apply` and `Decoder` turn events into messages and messages into inputs, and are
the only place where a monotonic `at_s` meets a calendar. Must never know who drives or what may
move: that is decided before `publish` is called.

Nothing here holds an `Apply` back to send it later. A connection is never repaired: once it ends,
its client is thrown away, with whatever was still unsent in it, and a fresh one takes its place.
Only the last `status` and `driver` are said again, because they are facts and not requests.
"""

from __future__ import annotations

import json
import logging
import math
import queue
import socket
import ssl
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal, TypeAlias, TypeVar

from paho.mqtt.client import (
    Client,
    ConnectFlags,
    DisconnectFlags,
    MQTTMessage,
    MQTTMessageInfo,
    MQTTv5,
)
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from whodrives.config import Mqtt, Tls
from whodrives.domain import (
    Apply,
    BusError,
    DriverState,
    Event,
    Guests,
    Health,
    Input,
    LinkState,
    Listen,
    PayloadError,
    Reading,
    Recognition,
    VehicleReport,
    VehicleState,
)
from whodrives.vss import SIGNALS

log = logging.getLogger(__name__)

SCHEMA = 1
MAX_PAYLOAD_BYTES = 65_536
APPLY_EXPIRY_S = 3
RECOGNITION_EXPIRY_S = 10
MAX_LAG_S = 1.0
"""An `Apply` older than this when it comes to be sent rests on a car that may have changed."""
MAX_AHEAD_S = 1.0
"""Two clocks may disagree by this much; a time further in the future is refused."""
COMMAND_EXPIRY_S = 5.0
KEEPALIVE_S = 10
UNACKNOWLEDGED_S = 3
CONNECT_LIMIT_S = 15.0
MAX_UNACKNOWLEDGED = 20
RETRY_FIRST_S = 1.0
RETRY_LAST_S = 60.0

T = TypeVar("T")


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


def root(vehicle: str) -> str:
    """The topic that all of this car's topics are below."""
    return f"whodrives/{vehicle}"


def encode(
    event: Recognition | DriverState | Guests | Health, vehicle: str, epoch_s: float
) -> Message:
    """The message that tells the car of an event.

    Args:
        event: what happened.
        vehicle: the car's name in the topics.
        epoch_s: seconds from 1970-01-01 UTC to the moment that is `at_s` 0.
    """
    match event:
        case Recognition():
            topic, body = "recognition", _recognition(event, epoch_s)
            return Message(_below(vehicle, topic), _json(body), 0, expiry_s=RECOGNITION_EXPIRY_S)
        case DriverState():
            payload = _json(_driver(event, epoch_s)) if event.trip_open else b""
            return Message(_below(vehicle, "driver"), payload, 1, retain=True)
        case Guests():
            payload = _json(_guests(event, epoch_s)) if event.offers else b""
            return Message(_below(vehicle, "guest"), payload, 1, retain=True)
        case Health():
            state = "degraded" if event.reasons else "online"
            return _status(vehicle, state, event.reasons, _iso(event.at_s + epoch_s))


def encode_apply(event: Apply, vehicle: str, epoch_s: float, request_id: uuid.UUID) -> Message:
    """The request that asks the ECUs to move, good for APPLY_EXPIRY_S from the event's `at_s`.

    Args:
        event: what is asked, for whom.
        vehicle: the car's name in the topics.
        epoch_s: seconds from 1970-01-01 UTC to the moment that is `at_s` 0.
        request_id: names this request alone; also the correlation data.
    """
    issued_s = event.at_s + epoch_s
    body = {
        "schema": SCHEMA,
        "request_id": str(request_id),
        "driver": event.driver,
        "issued_at": _iso(issued_s),
        "expires_at": _iso(issued_s + APPLY_EXPIRY_S),
        "signals": {path: _typed(path, value) for path, value in event.signals.items()},
    }
    return Message(
        topic=_below(vehicle, "preferences/apply"),
        payload=_json(body),
        qos=1,
        expiry_s=APPLY_EXPIRY_S,
        correlation=str(request_id).encode(),
        response_topic=_below(vehicle, "preferences/result"),
    )


def encode_offline(vehicle: str, reason: str) -> Message:
    """The status of a daemon that is not there; it has no time, for a last will cannot know one."""
    return _status(vehicle, "offline", (reason,), None)


def _status(vehicle: str, state: str, reasons: Iterable[str], when: str | None) -> Message:
    body = {"schema": SCHEMA, "time": when, "state": state, "reasons": list(reasons)}
    return Message(_below(vehicle, "status"), _json(body), 1, retain=True)


def _recognition(event: Recognition, epoch_s: float) -> dict[str, object]:
    verdict, evidence = event.verdict, event.verdict.evidence
    llrs = [match.llr for match in evidence.matches[:2]]
    return {
        "schema": SCHEMA,
        "time": _iso(event.at_s + epoch_s),
        "outcome": verdict.outcome,
        "driver": verdict.driver,
        "speech_s": _rounded(evidence.speech_s, 2),
        "snr_db": _rounded(evidence.snr_db, 1),
        "llr": _rounded(next(iter(llrs), None), 2),
        "runner_up_llr": _rounded(next(iter(llrs[1:]), None), 2),
    }


def _guests(event: Guests, epoch_s: float) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "time": _iso(event.at_s + epoch_s),
        "guests": [
            {
                "guest": offer.guest,
                "trips": offer.trips,
                "last_seen": date.fromordinal(offer.last_day).isoformat(),
            }
            for offer in event.offers
        ],
    }


def _driver(event: DriverState, epoch_s: float) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "time": _iso(event.at_s + epoch_s),
        "state": "unknown" if event.driver is None else "known",
        "driver": event.driver,
        "since": None if event.since_s is None else _iso(event.since_s + epoch_s),
        "confidence": _rounded(event.probability, 4),
        "preferences": {"state": event.delivery, "waiting_for": list(event.waiting_for)},
    }


def _below(vehicle: str, topic: str) -> str:
    return f"{root(vehicle)}/{topic}"


def _json(body: Mapping[str, object]) -> bytes:
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


def _iso(wall_s: float) -> str:
    text = datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _rounded(value: float | None, digits: int) -> float | None:
    """JSON knows no infinity: what is not finite is told as not known."""
    return round(value, digits) if value is not None and math.isfinite(value) else None


def _typed(path: str, value: float) -> float:
    """The value as a JSON number of the signal's VSS datatype."""
    return float(value) if SIGNALS[path].datatype == "float" else round(value)


# --- messages to inputs ---------------------------------------------------------------------------

_Known: TypeAlias = float | bool | None
_SEAT = "Vehicle.Cabin.Seat.Row1.DriverSide"
_GEAR = "Vehicle.Powertrain.Transmission.SelectedGear"
_PARK_LOCK = "Vehicle.Powertrain.Transmission.IsParkLockEngaged"
_PARK = 126


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("give true or false")  # noqa: TRY004 - the caller names topic and field
    return value


def _speed(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("give a number of km/h")  # noqa: TRY004 - as above
    try:
        speed = abs(float(value))
    except OverflowError:
        speed = math.inf
    if not math.isfinite(speed):
        raise ValueError("give a finite number of km/h")
    return speed


def _gear(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int) or not -_PARK <= value <= _PARK + 1:
        raise ValueError("give a whole number from -126 to 127; 126 is Park")
    return value == _PARK


def _one_of(meanings: Mapping[str, bool | None]) -> Callable[[object], bool | None]:
    def read(value: object) -> bool | None:
        if not isinstance(value, str) or value not in meanings:
            raise ValueError(f"give one of {', '.join(meanings)}")
        return meanings[value]

    return read


_OCCUPANCY = {"OCCUPIED": True, "EMPTY": False, "UNKNOWN": None}
_VOLTAGE = {"ACC": True, "ON": True, "START": True, "OFF": False, "LOCK": False, "UNDEFINED": None}
_READERS: Mapping[str, Callable[[object], _Known]] = {
    "Vehicle.Speed": _speed,
    _GEAR: _gear,
    _PARK_LOCK: _boolean,
    "Vehicle.Chassis.ParkingBrake.IsEngaged": _boolean,
    "Vehicle.Cabin.Door.Row1.DriverSide.IsOpen": _boolean,
    f"{_SEAT}.OccupancyStatus": _one_of(_OCCUPANCY),
    f"{_SEAT}.IsOccupied": _boolean,
    "Vehicle.LowVoltageSystemState": _one_of(_VOLTAGE),
}


class Decoder:
    """Turns what the car and the head unit say into inputs.

    It remembers the last reading of each of the eight signals it understands, and nothing else,
    because two of them may speak of one fact and arrive apart.

    Args:
        vehicle: the car's name in the topics.
    """

    def __init__(self, vehicle: str) -> None:
        self._vehicle = root(vehicle) + "/vehicle"
        self._listen = root(vehicle) + "/command/listen"
        self._latest: dict[str, Reading[Any]] = {}

    @property
    def topics(self) -> tuple[str, ...]:
        """The topic filters whose messages `decode` reads."""
        return (self._vehicle, self._vehicle + "/+", self._listen)

    def decode(
        self, topic: str, payload: bytes, received_at_s: float, wall_now_s: float
    ) -> VehicleReport | Listen:
        """Read one message; a message with any mistake in it changes nothing.

        Args:
            topic: the full topic it came on.
            payload: as received.
            received_at_s: when, on the monotonic clock.
            wall_now_s: the same moment in seconds from 1970-01-01 UTC.

        Raises:
            PayloadError: names the topic, the field and the mend; nothing else is raised.
        """
        if topic == self._listen:
            _read_listen(topic, _object(topic, payload), wall_now_s)
            return Listen(received_at_s)
        for path, reading in self._readings(topic, payload, received_at_s, wall_now_s).items():
            if reading.value is None:
                self._latest.pop(path, None)
            elif path not in self._latest or reading.at_s >= self._latest[path].at_s:
                self._latest[path] = reading
        return VehicleReport(received_at_s, self._state())

    def _readings(
        self, topic: str, payload: bytes, received_at_s: float, wall_now_s: float
    ) -> dict[str, Reading[Any]]:
        """The signals in a message that are understood; a value that is not known is None."""
        path = topic.removeprefix(self._vehicle + "/")
        if path != topic and path not in _READERS:
            return {}
        if path in _READERS:
            body = _object(topic, payload)
            return {path: _reading(f"{topic}: ", path, body, received_at_s, wall_now_s)}
        if topic != self._vehicle:
            raise PayloadError(f"{topic}: no such topic is read; see docs/mqtt.md")
        signals = _mapping(topic, "signals", _object(topic, payload).get("signals"))
        return {
            path: _reading(f"{topic}: {path}.", path, signals[path], received_at_s, wall_now_s)
            for path in _READERS
            if path in signals
        }

    def _state(self) -> VehicleState:
        get = self._latest.get
        return VehicleState(
            speed_kmh=get("Vehicle.Speed"),
            in_park=_both(get(_GEAR), get(_PARK_LOCK), disagreeing=False),
            parking_brake=get("Vehicle.Chassis.ParkingBrake.IsEngaged"),
            door_open=get("Vehicle.Cabin.Door.Row1.DriverSide.IsOpen"),
            seat_occupied=_both(
                get(f"{_SEAT}.OccupancyStatus"), get(f"{_SEAT}.IsOccupied"), disagreeing=None
            ),
            ignition_on=get("Vehicle.LowVoltageSystemState"),
        )


def _both(
    one: Reading[bool] | None, other: Reading[bool] | None, *, disagreeing: bool | None
) -> Reading[bool] | None:
    """One fact from two signals: as old as the older if they agree, else `disagreeing`."""
    if one is None or other is None:
        return one or other
    if one.value == other.value:
        return min(one, other, key=lambda reading: reading.at_s)
    if disagreeing is None:
        return None
    return Reading(disagreeing, max(one.at_s, other.at_s))


def _read_listen(topic: str, body: Mapping[str, object], wall_now_s: float) -> None:
    age_s = _age_s(f"{topic}: issued_at", body.get("issued_at"), wall_now_s)
    if age_s > COMMAND_EXPIRY_S:
        raise PayloadError(f"{topic}: issued_at: {age_s:.1f} s old; a command is good for 5 s")


def _reading(
    field: str, path: str, body: object, received_at_s: float, wall_now_s: float
) -> Reading[Any]:
    """The reading in `{"value": ..., "time": ...}`; `field` begins the name of what is wrong."""
    if not isinstance(body, dict) or "value" not in body:
        raise PayloadError(f'{field}value: missing; give {{"value": ..., "time": ...}}')
    age_s = _age_s(f"{field}time", body.get("time"), wall_now_s)
    try:
        value = None if body["value"] is None else _READERS[path](body["value"])
    except ValueError as error:
        raise PayloadError(f"{field}value: {error}") from None
    return Reading(value, received_at_s - age_s)


def _age_s(field: str, text: object, wall_now_s: float) -> float:
    """Seconds since the time in `text`; up to MAX_AHEAD_S below zero."""
    try:
        when = datetime.fromisoformat(text if isinstance(text, str) else "")
        age_s = wall_now_s - when.astimezone(UTC).timestamp() if when.tzinfo else math.nan
    except (ValueError, OverflowError):
        age_s = math.nan
    if math.isnan(age_s):
        raise PayloadError(f"{field}: give ISO 8601 with a zone, like 2026-11-23T08:00:00.000Z")
    if age_s < -MAX_AHEAD_S:
        raise PayloadError(f"{field}: {-age_s:.1f} s in the future; set both clocks by one source")
    return age_s


def _object(topic: str, payload: bytes) -> dict[str, object]:
    """The JSON object of our schema in a payload from outside."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise PayloadError(f"{topic}: {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are read")
    try:
        body = json.loads(
            payload.decode(), object_pairs_hook=_no_twins, parse_constant=_no_constant
        )
    except RecursionError:
        raise PayloadError(f"{topic}: nested too deeply; see docs/mqtt.md") from None
    except ValueError as error:
        raise PayloadError(f"{topic}: not a JSON text in UTF-8: {str(error)[:120]!r}") from None
    found = _mapping(topic, "payload", body)
    schema = found.get("schema")
    if isinstance(schema, bool) or schema != SCHEMA:
        raise PayloadError(f"{topic}: schema: give {SCHEMA}; no other is understood")
    return found


def _mapping(topic: str, field: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise PayloadError(f"{topic}: {field}: give a JSON object")
    return value


def _no_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice in one object")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


# --- the connection -------------------------------------------------------------------------------


@dataclass(slots=True)
class Counters:
    """What went over the bus since the start; each is written by one thread only.

    Attributes:
        published: messages handed to a live connection.
        dropped: messages that nobody would have heard, or that were too old.
        connections: times the broker was reached.
        received: messages in.
        refused: messages in that did not say what the contract asks.
        ignored: retained commands: they are stale by nature.
        denied: messages out that the broker did not accept.
    """

    published: int = 0
    dropped: int = 0
    connections: int = 0
    received: int = 0
    refused: int = 0
    ignored: int = 0
    denied: int = 0


class _Link:
    """One connection, from its first packet to its end; it is never repaired.

    paho's thread writes `up` and `ended` once each; the main thread reads them.
    """

    def __init__(
        self, settings: Mqtt, vehicle: str, tls: ssl.SSLContext | None, inbox: _Inbox
    ) -> None:
        self.up = False
        self.ended: str | None = None
        self.over = threading.Event()
        self.started_s = time.monotonic()
        self._inbox = inbox
        self.client = _client(vehicle, tls)
        self.client.on_socket_open = _bound_unacknowledged
        self.client.on_connect = self._on_connect
        self.client.on_connect_fail = self._on_connect_fail
        self.client.on_subscribe = self._on_subscribe
        self.client.on_disconnect = self._on_disconnect
        self.client.on_message = inbox.take
        self.client.on_publish = inbox.acknowledged
        self.client.connect_async(*settings.address, KEEPALIVE_S, clean_start=True)
        self.client.loop_start()

    def send(self, message: Message) -> MQTTMessageInfo:
        """Hand a message to the connection; a connection that takes no more has ended."""
        info = self.client.publish(
            message.topic, message.payload, message.qos, message.retain, _properties(message)
        )
        if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            self.end("the connection takes no more messages")
        return info

    def end(self, reason: str) -> None:
        """Let go of the connection; the first reason stands."""
        self.ended = self.ended or reason
        self.client.disconnect()

    def release(self) -> None:
        """Break the circle between us and the client, so that its sockets are closed right away.

        A daemon that waits for its broker for days would otherwise collect them.
        """
        client = self.client
        client.on_connect = client.on_connect_fail = client.on_subscribe = None
        client.on_disconnect = client.on_message = client.on_publish = None

    def _on_connect(
        self, client: Client, _data: Any, _flags: ConnectFlags, code: ReasonCode, _p: Any
    ) -> None:
        if code.is_failure:
            self.ended = self.ended or _refused(code)
        else:
            client.subscribe([(topic, 1) for topic in self._inbox.decoder.topics])

    def _on_connect_fail(self, _client: Client, _data: Any) -> None:
        self.ended = self.ended or _unreachable()
        self.over.set()

    def _on_subscribe(
        self, _client: Client, _data: Any, _mid: int, codes: list[ReasonCode], _p: Any
    ) -> None:
        if any(code.is_failure for code in codes):
            log.warning("event=subscription_denied mend=%r", "let our user read vehicle/#")
        self.up = True

    def _on_disconnect(
        self, _client: Client, _data: Any, _flags: DisconnectFlags, code: ReasonCode, _p: Any
    ) -> None:
        self.ended = self.ended or _broken(code, greeted=self.up)
        self.over.set()


def _refused(code: ReasonCode) -> str:
    return f"the broker refuses us: {code}"


def _unreachable() -> str:
    # paho reports a failure while it handles the exception, and does not pass it on.
    return f"no connection: {sys.exc_info()[1]}"


def _broken(code: ReasonCode, *, greeted: bool) -> str:
    mend = "" if greeted else "; is it MQTT with the right TLS, and our certificate trusted?"
    return f"the connection ended: {code}{mend}"


def _client(vehicle: str, tls: ssl.SSLContext | None) -> Client:
    # The identity is the same each time: the broker then ends a half-open predecessor, and sends
    # its last will, before it greets us. Otherwise that will would follow, and say we are gone.
    client = _bare_client(f"whodrives-{vehicle}", tls)
    client.max_inflight_messages_set(MAX_UNACKNOWLEDGED)
    client.max_queued_messages_set(MAX_UNACKNOWLEDGED)
    will = encode_offline(vehicle, "the connection was lost")
    client.will_set(will.topic, will.payload, will.qos, will.retain)
    return client


def _bare_client(identity: str, tls: ssl.SSLContext | None) -> Client:
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=identity,
        protocol=MQTTv5,
        reconnect_on_failure=False,
    )
    if tls is not None:
        client.tls_set_context(tls)
    return client


def _bound_unacknowledged(_client: Client, _data: Any, sock: Any) -> None:
    """Let the system end a connection that leaves our bytes unacknowledged.

    Otherwise TCP may deliver a request seconds late, once a broken network is back.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_S * 1000)


def _properties(message: Message) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's own gap
    if message.expiry_s is not None:
        properties.MessageExpiryInterval = message.expiry_s
    if message.correlation is not None:
        properties.CorrelationData = message.correlation
    if message.response_topic is not None:
        properties.ResponseTopic = message.response_topic
    return properties


class _Inbox:
    """What one connection brings in; used by paho's thread alone."""

    def __init__(self, vehicle: str, put: Callable[[Input], None], counters: Counters) -> None:
        self.decoder = Decoder(vehicle)
        self._put = put
        self._counters = counters
        self._bad_topics: set[str] = set()

    def take(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        """Decode a message and pass it on, or count it as refused."""
        self._counters.received += 1
        if message.retain and "/command/" in message.topic:
            self._counters.ignored += 1
            return
        try:
            news = self.decoder.decode(
                message.topic, bytes(message.payload), time.monotonic(), time.time()
            )
        except PayloadError as error:
            self._refuse(message.topic, error)
            return
        if message.topic in self._bad_topics:
            self._bad_topics.discard(message.topic)
            log.info("event=payload_good_again topic=%s", message.topic)
        self._put(news)

    def _refuse(self, topic: str, error: PayloadError) -> None:
        self._counters.refused += 1
        level = logging.DEBUG if topic in self._bad_topics else logging.WARNING
        self._bad_topics.add(topic)
        log.log(level, "event=payload_refused error=%r", str(error))

    def acknowledged(
        self, _client: Client, _data: Any, _mid: int, code: ReasonCode, _p: Any
    ) -> None:
        """Count and report what the broker does not let us say."""
        if code.is_failure:
            level = logging.DEBUG if self._counters.denied else logging.WARNING
            self._counters.denied += 1
            log.log(level, "event=publish_denied code=%r", str(code))


class Bus:
    """The connection to the broker, kept up for ever.

    Args:
        settings: the broker and how to prove who is who.
        vehicle: the car's name in the topics.
        put: takes inputs; called from paho's thread and from `poll`.

    All methods belong to one thread. `counters` may be read at any time.
    """

    def __init__(self, settings: Mqtt, vehicle: str, put: Callable[[Input], None]) -> None:
        self.counters = Counters()
        self._settings = settings
        self._vehicle = vehicle
        self._put = put
        self._tls: ssl.SSLContext | None = None
        self._link: _Link | None = None
        self._connected = False
        self._lost = False
        self._retry_at_s = math.inf
        self._retry_s = RETRY_FIRST_S
        self._status: Health | None = None
        self._guests: Guests | None = None
        # A predecessor that died may have left a driver behind: the first greeting clears it.
        self._driver = DriverState(0.0)

    def start(self) -> None:
        """Begin to connect; a broker that is away is tried again for ever, by `poll`.

        Raises:
            BusError: the settings can never work; the text names the setting and the mend.
        """
        self._tls = _security(self._settings)
        if self._tls is None:
            log.warning("event=plain_mqtt host=%s port=%d", *self._settings.address)
        self._open()

    def poll(self, now_s: float) -> None:
        """Notice what became of the connection, and try again when it is time.

        To be called some ten times a second.
        """
        link = self._link
        if link is None:
            if now_s >= self._retry_at_s:
                self._open()
        elif link.ended is not None:
            self._gone(link.ended, now_s)
        elif link.up and not self._connected:
            self._arrived(link, now_s)
        elif not link.up and now_s - link.started_s > CONNECT_LIMIT_S:
            link.end("the broker does not answer")

    def publish(self, event: Event) -> bool:
        """Send an event, if the broker is there; return whether it went out.

        The last `Health`, `DriverState` and `Guests` are said again after each connect; an `Apply`
        or a `Recognition` that cannot go out at once never goes out.
        """
        if isinstance(event, Apply):
            return self._ask(event)
        if isinstance(event, Health):
            self._status = event
        elif isinstance(event, DriverState):
            self._driver = event
        elif isinstance(event, Guests):
            self._guests = event
        return self._send(encode(event, self._vehicle, _epoch_s()))

    def stop(self) -> None:
        """Say that we are offline and let go; takes less than a second."""
        link, self._link = self._link, None
        self._retry_at_s = math.inf
        if link is None:
            return
        if self._connected and link.ended is None:
            link.send(encode(DriverState(0.0), self._vehicle, _epoch_s()))
            link.send(encode(Guests(0.0), self._vehicle, _epoch_s()))
            farewell = link.send(encode_offline(self._vehicle, "stopped"))
            if farewell.rc is MQTTErrorCode.MQTT_ERR_SUCCESS:
                farewell.wait_for_publish(0.5)
            link.end("stopped")
            link.over.wait(0.3)
        self._connected = False
        link.end("stopped")
        link.release()

    def _open(self) -> None:
        inbox = _Inbox(self._vehicle, self._put, self.counters)
        self._link = _Link(self._settings, self._vehicle, self._tls, inbox)

    def _arrived(self, link: _Link, now_s: float) -> None:
        self._connected, self._retry_s = True, RETRY_FIRST_S
        self.counters.connections += 1
        if self._lost or self.counters.connections == 1:
            log.info("event=broker_connected host=%s port=%d", *self._settings.address)
        self._lost = False
        for event in (self._status, self._driver, self._guests):
            if event is not None:
                link.send(encode(event, self._vehicle, _epoch_s()))
                self.counters.published += 1
        self._put(LinkState(now_s, connected=True))

    def _gone(self, reason: str, now_s: float) -> None:
        if self._link is not None:
            self._link.end(reason)
            self._link.release()
        self._link, self._connected = None, False
        level = logging.DEBUG if self._lost else logging.WARNING
        log.log(level, "event=broker_lost reason=%r retry_s=%.0f", reason, self._retry_s)
        if not self._lost:
            self._put(LinkState(now_s, connected=False, reason=reason))
        self._lost = True
        self._retry_at_s = now_s + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_LAST_S)

    def _ask(self, event: Apply) -> bool:
        if time.monotonic() - event.at_s > MAX_LAG_S:
            self.counters.dropped += 1
            log.warning("event=apply_dropped reason='more than %.0f s late'", MAX_LAG_S)
            return False
        return self._send(encode_apply(event, self._vehicle, _epoch_s(), uuid.uuid4()))

    def _send(self, message: Message) -> bool:
        link = self._link
        if link is not None and self._connected and link.ended is None:
            sent = link.send(message).rc is MQTTErrorCode.MQTT_ERR_SUCCESS
        else:
            sent = False
        self.counters.published += sent
        self.counters.dropped += not sent
        return sent


def probe(settings: Mqtt, limit_s: float) -> str | None:
    """Why the broker does not let us in, or None if it does within `limit_s`.

    It comes under another identity, says nothing, and so disturbs no running daemon.
    """
    try:
        client = _bare_client("", _security(settings))
    except BusError as error:
        return str(error)
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    client.on_connect = lambda _c, _d, _f, code, _p: answers.put(
        _refused(code) if code.is_failure else None
    )
    client.on_connect_fail = lambda _c, _d: answers.put(_unreachable())
    client.on_disconnect = lambda _c, _d, _f, code, _p: answers.put(_broken(code, greeted=False))
    client.connect_async(*settings.address, KEEPALIVE_S, clean_start=True)
    client.loop_start()
    try:
        return answers.get(timeout=limit_s)
    except queue.Empty:
        return f"no answer within {limit_s:.0f} s"
    finally:
        client.disconnect()


def _epoch_s() -> float:
    return time.time() - time.monotonic()


def _security(settings: Mqtt) -> ssl.SSLContext | None:
    """The TLS of these settings, or None for plain MQTT, which only this machine may hear."""
    try:
        settings.host.encode("idna")
    except UnicodeError:
        raise BusError(f"mqtt.host: {settings.host!r} is no host name; mend it") from None
    if settings.tls is not None:
        return _context(settings.tls)
    if not settings.is_loopback:
        said = f"plain MQTT to {settings.host} can be read and forged on the way"
        raise BusError(f"mqtt.tls: {said}; give tls, or host 127.0.0.1")
    return None


def _context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except (OSError, ValueError) as error:
        raise BusError(f"mqtt.tls.ca: {tls.ca}: {error}; give a PEM file of the CA") from error
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ValueError) as error:
        files = f"{tls.certificate} with {tls.key}"
        raise BusError(
            f"mqtt.tls.certificate: {files}: {error}; give our certificate and its key, PEM"
        ) from error
    return context
