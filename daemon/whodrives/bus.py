"""The car's message bus: the connection to an MQTT 5 broker.

Owns subscriptions, the last will, the connection and what is counted on it. Hides paho and the
wall clock. Must never know what a message says, which is `contract`'s, nor who drives or what may
move: that is decided before `publish` is called.

Nothing here holds an `Apply` back to send it later. A connection is never repaired: once it ends,
its client is thrown away, with whatever was still unsent in it, and a fresh one takes its place.
Only the last `status` and `driver` are said again, because they are facts and not requests.

A connection that sends may still deliver nothing: a flooded broker keeps what we subscribed to
waiting, and neither TCP nor MQTT's ping notices. So the bus publishes an echo on a topic that only
the daemon may write, and expects it back; without it the connection is not up.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import secrets
import shlex
import socket
import ssl
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import msgspec
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

from whodrives import clock
from whodrives.config import Mqtt, Tls, Vehicle
from whodrives.contract import (
    RESULT_RATE,
    SCHEMA,
    Bucket,
    CarClockError,
    CommandError,
    Counters,
    Decoder,
    Incoming,
    Message,
    Vitals,
    encode,
    encode_metrics,
    encode_offline,
    root,
)
from whodrives.domain import (
    Answer,
    Apply,
    BusError,
    CommandResult,
    DriverState,
    Event,
    Guests,
    Health,
    Input,
    LinkState,
    Misdated,
    PayloadError,
    Stray,
    Tick,
)
from whodrives.ecosystems import SeatAdjuster, home_assistant
from whodrives.loglimit import LogLimit
from whodrives.vss import SEAT_POSITION

log = logging.getLogger(__name__)

MAX_LAG_S = 1.0
"""An `Apply` older than this when it comes to be sent rests on a car that may have changed."""
KEEPALIVE_S = 10
UNACKNOWLEDGED_S = 3
CONNECT_LIMIT_S = 15.0
MAX_UNACKNOWLEDGED = 20
REFUSALS_A_TURN = 4
"""So many refused commands are answered at a turn: a flood of them must not fill the line."""
ECHO = "echo"
"""The topic below the car's root that only the daemon writes and reads."""
ECHO_EVERY_S = 2.0
ECHO_LIMIT_S = 6.0
"""Nothing that is so late may count: a broker whose deliveries are this late has lost us."""
ECHO_EXPIRY_S = 10
METRICS_S = 10.0
CREDENTIAL = "mqtt-password"
MAX_PASSWORD_BYTES = 65_535
"""The longest that MQTT can carry."""
PROBATION_S = 1.5
"""A new connection asks for nothing until it has stood this long.

If another daemon serves this car, it comes back meanwhile and ends ours.
"""
RETURN_S = 1.0
"""Who comes back this soon need not wait again. Less than PROBATION_S, so that nobody else has
gone to work meanwhile."""
STANDBY_FIRST_S = 60.0
STANDBY_LAST_S = 600.0
"""Pauses of a daemon that left its place to another one; each attempt disturbs that one."""
RIVAL_S = 300.0
"""How long `status` tells of a client that took our place for a moment."""
UNSPECIFIED = 0x80
TAKEN_OVER = 0x8E
"""MQTT 5, 3.14.2.1: another connection uses the same client identifier."""
RETRY_FIRST_S = 1.0
RETRY_LAST_S = 60.0


class _Echo(msgspec.Struct):
    """What the bus publishes to itself."""

    echo: str
    sent_s: float


@dataclass(frozen=True, slots=True)
class _Access:
    """How the broker and we prove to each other who we are.

    Attributes:
        tls: the TLS of the connection; None for plain MQTT.
        username: the user to log in as, if any.
        password: that user's password; never shown.
        advice: what to check when the broker refuses us.
    """

    tls: ssl.SSLContext | None
    username: str | None
    password: str | None = field(repr=False)
    advice: str


class _Link:
    """One connection, from its first packet to its end; it is never repaired.

    paho's thread writes `subscribed`, `silenced` and `ended` once each, counts what the broker
    acknowledged, and notes the last echo that came back; the main thread reads them.

    Attributes:
        subscribed: whether the broker has taken our subscriptions.
        silenced: whether the broker does not let us have an echo.
        ended: why the connection is over, once it is.
    """

    def __init__(self, settings: Mqtt, vehicle: str, access: _Access, inbox: _Inbox) -> None:
        self.subscribed = self.silenced = False
        self.ended: str | None = None
        self.over = threading.Event()
        self.up_s = math.inf
        self.thrown_out_s: float | None = None
        self.taken_over = False
        self.started_s = clock.now_s()
        # Each has one writer, so that no lock is needed.
        self._sent = 0
        self._acknowledged = 0
        self._inbox = inbox
        self._address = settings.address
        self._advice = access.advice
        self.echo_topic = f"{root(vehicle)}/{ECHO}"
        self._echo = secrets.token_hex(8)
        self._returned_s = -math.inf
        self._unreturned: deque[float] = deque()
        self._echoed_s = -math.inf
        self.client = _client(vehicle, access)
        self.client.on_socket_open = _bound_unacknowledged
        self.client.on_connect = self._on_connect
        self.client.on_connect_fail = self._on_connect_fail
        self.client.on_subscribe = self._on_subscribe
        self.client.on_disconnect = self._on_disconnect
        self.client.on_message = self._on_message
        self.client.on_publish = self._on_publish
        self.client.connect_async(*settings.address, KEEPALIVE_S, clean_start=True)
        self.client.loop_start()

    def send(self, message: Message) -> MQTTMessageInfo:
        """Hand a message to the connection; a connection that takes no more has ended."""
        info = self.client.publish(
            message.topic, message.payload, message.qos, message.retain, _properties(message)
        )
        # Why a connection has just ended is what `_on_disconnect` is about to be told.
        if info.rc not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN):
            self.end("the connection takes no more messages")
        self._sent += 1
        return info

    @property
    def unacknowledged(self) -> int:
        """The number of messages that the broker has not acknowledged yet."""
        return self._sent - self._acknowledged

    @property
    def up(self) -> bool:
        """Whether messages come in: the broker has brought an echo, or forbids it."""
        return self.subscribed and (self.silenced or self._returned_s > -math.inf)

    def echo(self, now_s: float) -> bool:
        """Send an echo when it is time; return whether one is overdue, so that we are deaf."""
        if not self.subscribed or self.silenced:
            return False
        if now_s - self._echoed_s >= ECHO_EVERY_S:
            self._echoed_s = now_s
            self._unreturned.append(now_s)
            payload = msgspec.json.encode({"schema": SCHEMA, "echo": self._echo, "sent_s": now_s})
            self.send(Message(self.echo_topic, payload, 1, retain=False, expiry_s=ECHO_EXPIRY_S))
        while self._unreturned and self._unreturned[0] <= self._returned_s:
            self._unreturned.popleft()
        return bool(self._unreturned) and now_s - self._unreturned[0] > ECHO_LIMIT_S

    def end(self, reason: str) -> None:
        """Let go of the connection; the first reason stands."""
        self.ended = self.ended or reason
        self.client.disconnect()

    def _ended_without_reason(self, code: ReasonCode) -> bool:
        """Whether a broker that is still there ended the connection and did not say why.

        So does mosquitto 2.0.11 when another client comes under our identity.
        """
        return code.value == UNSPECIFIED and _answers(self._address)

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
            self.ended = self.ended or _refused(code, self._advice)
            self._inbox.wake()
        else:
            client.subscribe([(topic, 1) for topic in (*self._inbox.topics, self.echo_topic)])

    def _on_connect_fail(self, _client: Client, _data: Any) -> None:
        self.ended = self.ended or _unreachable()
        self.over.set()
        self._inbox.wake()

    def _on_subscribe(
        self, _client: Client, _data: Any, _mid: int, codes: list[ReasonCode], _p: Any
    ) -> None:
        topics = (*self._inbox.topics, self.echo_topic)
        denied = [topic for topic, code in zip(topics, codes, strict=False) if code.is_failure]
        if denied:
            mend = f"let our user read {', '.join(denied)}"
            log.warning("event=subscription_denied mend=%r", mend)
        self.silenced = self.echo_topic in denied
        self.up_s = clock.now_s()
        self.subscribed = True
        self._inbox.wake()

    def _on_message(self, client: Client, data: Any, message: MQTTMessage) -> None:
        if message.topic != self.echo_topic:
            self._inbox.take(client, data, message)
            return
        with contextlib.suppress(msgspec.DecodeError, TypeError, KeyError):
            heard = msgspec.json.decode(message.payload, type=_Echo)
            if heard.echo == self._echo:
                first = self._returned_s == -math.inf
                self._returned_s = max(self._returned_s, heard.sent_s)
                if first:
                    self._inbox.wake()

    def _on_publish(
        self, _client: Client, _data: Any, _mid: int, code: ReasonCode, _p: Any
    ) -> None:
        self._acknowledged += 1
        if code.is_failure and not self.up:
            # Before the first echo has returned, nothing else is sent.
            log.warning("event=echo_denied fix='let our user write and read %s'", self.echo_topic)
            self.silenced = True
            self._inbox.wake()
        else:
            self._inbox.acknowledged(code)

    def _on_disconnect(
        self, _client: Client, _data: Any, _flags: DisconnectFlags, code: ReasonCode, _p: Any
    ) -> None:
        self.taken_over = code.value == TAKEN_OVER
        if self.up and self.ended is None and (self.taken_over or self._ended_without_reason(code)):
            self.thrown_out_s = clock.now_s()
        self.ended = self.ended or _broken(code, greeted=self.subscribed)
        self.over.set()
        self._inbox.wake()


def _answers(address: tuple[str, int]) -> bool:
    """Whether somebody listens there."""
    with contextlib.suppress(OSError):
        socket.create_connection(address, timeout=RETURN_S / 2).close()
        return True
    return False


def _refused(code: ReasonCode, advice: str) -> str:
    return f"the broker refuses us: {code}; {advice}"


def _unreachable() -> str:
    # paho reports a failure while it handles the exception, and does not pass it on.
    return f"no connection: {sys.exc_info()[1]}"


def _broken(code: ReasonCode, *, greeted: bool) -> str:
    mend = "" if greeted else "; is it MQTT with the right TLS, and our certificate trusted?"
    return f"the connection ended: {code}{mend}"


def _client(vehicle: str, access: _Access) -> Client:
    # The identity is the same each time: the broker then ends a half-open predecessor, and sends
    # its last will, before it greets us. Otherwise that will would follow, and say we are gone.
    client = _bare_client(f"whodrives-{vehicle}", access)
    client.max_inflight_messages_set(MAX_UNACKNOWLEDGED)
    client.max_queued_messages_set(MAX_UNACKNOWLEDGED)
    will = encode_offline(vehicle, "the connection was lost")
    client.will_set(will.topic, will.payload, will.qos, will.retain)
    return client


def _bare_client(identity: str, access: _Access) -> Client:
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=identity,
        protocol=MQTTv5,
        reconnect_on_failure=False,
    )
    if access.tls is not None:
        client.tls_set_context(access.tls)
    if access.username is not None:
        client.username_pw_set(access.username, access.password)
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


_ANSWERS = ("/preferences/result", *SeatAdjuster.topics)
"""What says what became of a request; it is stale when it was retained."""


STANDS_BY = (
    "another whodrives serves this car, on this broker; this one stands by: stop one of the two"
)
TAKEN_FOR_A_MOMENT = (
    "another client comes under our name and certificate; stop the other whodrives of this car"
)


class Place:
    """Whether this daemon has its car's place at the broker, which only one can have.

    A second daemon with the same identity makes the broker end the first one's connection, and
    neither can ask the other. The rule: who has worked for PROBATION_S comes back at once, and who
    is thrown out before that leaves the place to the other and stands by. So the second steps back
    before it has asked for anything, there are two takeovers and no more, and never two requests.

    Pure: times are the monotonic clock's.
    """

    def __init__(self) -> None:
        self._since_s = math.inf
        self._left_s = -math.inf
        self._certain = False
        self._standby_s = STANDBY_FIRST_S

    def admits(self, up_s: float, now_s: float) -> bool:
        """Whether a connection that is up since `up_s` goes to work now."""
        returned = up_s - self._left_s <= RETURN_S
        if not returned and now_s - up_s < PROBATION_S:
            return False
        if not returned:
            self._standby_s = STANDBY_FIRST_S
        self._since_s, self._left_s = (now_s if returned else up_s), -math.inf
        return True

    def missed(self, now_s: float) -> bool:
        """Whether it is too late to come back at once: the other one goes to work."""
        return self._left_s + RETURN_S < now_s and self._left_s > -math.inf

    def lost(self, thrown_out_s: float | None, *, certain: bool = True) -> float | None:
        """After how long to come back; None if nobody threw us out.

        Args:
            thrown_out_s: when the broker ended the connection that was up, for another client.
            certain: whether it said that this was why.
        """
        returning = self._left_s > -math.inf and self._certain
        worked_s = -math.inf if thrown_out_s is None else thrown_out_s - self._since_s
        self._since_s, self._left_s = math.inf, -math.inf
        if thrown_out_s is None and not returning:
            return None
        if thrown_out_s is not None and worked_s >= PROBATION_S:
            self._left_s, self._certain = thrown_out_s, certain
            return 0.0
        pause_s, self._standby_s = self._standby_s, min(2 * self._standby_s, STANDBY_LAST_S)
        return pause_s


class CommandMemory(Protocol):
    """Keeps the ids of obeyed commands beyond the life of a daemon; never raises."""

    def recall(self, now_s: float) -> Mapping[str, float]:
        """The ids of recent commands, with the monotonic time at which each came."""

    def keep(self, obeyed: Mapping[str, float]) -> None:
        """Replace them."""


class _Inbox:
    """What the connections bring in, one after another; used by paho's threads.

    It outlives them, because what was heard once must not be obeyed again after a reconnect.

    Args:
        decoder: reads the messages.
        put: takes the inputs.
        counters: where messages are counted.
        adjuster: Velocitas' seat adjuster, if one is to be asked.
        memory: keeps the ids of obeyed commands for the next daemon.

    Attributes:
        refusals: what to tell the givers of commands that were refused; bounded.
    """

    def __init__(
        self,
        decoder: Decoder,
        put: Callable[[Input], None],
        counters: Counters,
        adjuster: SeatAdjuster | None,
        memory: CommandMemory | None,
    ) -> None:
        self._decoder = decoder
        self._adjuster = adjuster
        self.refusals: queue.Queue[CommandResult] = queue.Queue(MAX_UNACKNOWLEDGED)
        self._put = put
        self._counters = counters
        self._log_limit = LogLimit(burst=1)
        self._adjusted = Bucket(RESULT_RATE)
        self._memory = memory
        # A thread that ends may still bring its last message while the next one's begins.
        self._lock = threading.Lock()

    @property
    def topics(self) -> tuple[str, ...]:
        """The topic filters of what is taken."""
        return self._decoder.topics + (self._adjuster.topics if self._adjuster else ())

    def asked(self, event: Apply) -> Message | None:
        """What the seat adjuster is to be told of a request, if there is one."""
        with self._lock:
            return self._adjuster.encode(event) if self._adjuster else None

    def take(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        """Decode a message and pass it on, or count it as what it is."""
        with self._lock:
            self._take(message.topic, bytes(message.payload), retained=message.retain)

    def _take(self, topic: str, payload: bytes, *, retained: bool) -> None:
        self._counters.received += 1
        if retained and ("/command/" in topic or topic.endswith(_ANSWERS)):
            self._counters.ignored += 1
            return
        now_s, wall_s = clock.now_s(), time.time()
        obeyed, merged = self._decoder.obeyed, self._decoder.merged
        try:
            news = self._decoded(topic, payload, now_s, wall_s)
        except PayloadError as error:
            self._refuse(topic, error, now_s)
            return
        finally:
            self._counters.replayed = self._decoder.replayed
            self._counters.misdated = self._decoder.misdated
        if self._decoder.merged > merged and self._log_limit.admits("reports_too_fast", now_s):
            log.warning("event=reports_too_fast topic=%r", topic)
        if self._memory is not None and self._decoder.obeyed.keys() - obeyed.keys():
            # Before it is obeyed: a daemon that dies then obeys nothing twice.
            self._memory.keep(self._decoder.obeyed)
        if news is not None:
            self._put(news)

    def _decoded(
        self, topic: str, payload: bytes, now_s: float, wall_s: float
    ) -> Incoming | Answer | None:
        if self._adjuster and topic in self._adjuster.topics:
            if too_fast := self._adjusted.excess(now_s):
                raise PayloadError(f"{topic}: {too_fast}", cause="rate")
            return self._adjuster.decode(topic, payload, now_s)
        return self._decoder.decode(topic, payload, now_s, wall_s)

    def _refuse(self, topic: str, error: PayloadError, now_s: float) -> None:
        self._counters.refused += 1
        if isinstance(error, CarClockError):
            self._put(Misdated(now_s, error.ahead_s))
        if isinstance(error, CommandError):
            with contextlib.suppress(queue.Full):
                self.refusals.put_nowait(CommandResult(now_s, error.command, error.reason))
        if self._log_limit.admits(f"{topic} ({error.cause})", now_s):
            log.warning("event=payload_refused error=%r", str(error))

    def tend(self, now_s: float) -> None:
        """Tell what was merged, and log what was suppressed in the windows that are over."""
        with self._lock:
            report = self._decoder.merged_report(now_s)
        if report is not None:
            self._put(report)
        self.log_suppressed(now_s)

    def log_suppressed(self, now_s: float = math.inf) -> None:
        """Log how many lines were suppressed, in the windows that are over by `now_s`."""
        with self._lock:
            over = self._log_limit.over(now_s)
        for key, count in over:
            log.warning("event=suppressed of=%r lines=%d", key, count)

    def recall(self, now_s: float) -> None:
        """Take over which commands the daemon before this one obeyed."""
        if self._memory is not None:
            with self._lock:
                self._decoder.obeyed |= self._memory.recall(now_s)

    def wake(self) -> None:
        """Let whoever waits for inputs poll the bus: the connection has changed."""
        self._put(Tick(clock.now_s()))

    def stray(self) -> None:
        """Count a result that spoke of no request of this trip."""
        with self._lock:
            self._counters.refused += 1

    def acknowledged(self, code: ReasonCode) -> None:
        """Count and report what the broker does not let us say."""
        if code.is_failure:
            level = logging.DEBUG if self._counters.denied else logging.WARNING
            self._counters.denied += 1
            log.log(level, "event=publish_denied code=%r", str(code))


class Bus:
    """The connection to the broker, kept up for ever.

    Args:
        settings: the broker and how to prove who is who.
        vehicle: the car: its name in the topics, and what its ECUs understand.
        put: takes inputs; called from paho's thread and from `poll`.
        vitals: says what the rest of the daemon adds to `metrics`; called from `poll`.
        memory: keeps which commands were obeyed for the next daemon; called from paho's thread.

    All methods belong to one thread. `counters` may be read at any time.

    Raises:
        BusError: the settings can never work; the text names the setting and the mend.
    """

    def __init__(
        self,
        settings: Mqtt,
        vehicle: Vehicle,
        put: Callable[[Input], None],
        vitals: Callable[[], Vitals] = Vitals,
        memory: CommandMemory | None = None,
    ) -> None:
        self.counters = Counters()
        self._settings = settings
        _access(settings)
        self._vehicle = vehicle
        self._put = put
        self._vitals = vitals
        # Only TLS lets the broker know, by its access list, who may write what.
        decoder = Decoder(vehicle.id, secure=settings.tls is not None)
        adjuster = _adjuster(settings, vehicle)
        self._inbox = _Inbox(decoder, put, self.counters, adjuster, memory)
        self._measured_s = -math.inf
        self._link: _Link | None = None
        self._connected = False
        self._lost = False
        self._retry_at_s = math.inf
        self._retry_s = RETRY_FIRST_S
        self._place = Place()
        self._at_work = False
        self._rival, self._rival_s = "", -math.inf
        self._status: Health | None = None
        # A predecessor that died may have left a driver behind: the first greeting clears it.
        self._driver = DriverState(0.0)
        self._guests = Guests(0.0)

    def start(self) -> None:
        """Begin to connect; a broker that is away is tried again for ever, by `poll`."""
        if self._settings.tls is None:
            log.warning("event=plain_mqtt host=%s port=%d", *self._settings.address)
        # Not before: the daemon that this one follows may have obeyed one a moment ago.
        self._inbox.recall(clock.now_s())
        self._open()

    def poll(self, now_s: float) -> None:
        """Notice what became of the connection, and try again when it is time.

        To be called about twice a second, and after each input: a connection that changes puts one.
        """
        self._inbox.tend(now_s)
        link = self._link
        if link is None:
            if now_s >= self._retry_at_s:
                self._open()
        elif link.ended is not None:
            self._gone(link.ended, now_s)
        elif link.echo(now_s):
            self._deaf(link, now_s)
        elif link.up and not self._connected:
            self._arrived(now_s)
        elif not link.up:
            if self._place.missed(now_s) or now_s - link.started_s > CONNECT_LIMIT_S:
                link.end("the broker does not answer")
        elif self._connected:
            self._go_to_work(link, now_s)
            self._refuse(link)
            self._measure(now_s)
            if self._rival and now_s - self._rival_s > RIVAL_S:
                self._rival = ""
                self._put(LinkState(now_s, connected=True))

    def publish(self, event: Event) -> bool:
        """Send an event, if the broker is there; return whether it went out.

        The last `Health`, `DriverState` and `Guests` are said again after each connect; an `Apply`
        or a `Recognition` that cannot go out at once never goes out. An event that is not the bus's
        is none of its business, and one that the contract does not let be said is dropped.
        """
        if isinstance(event, Apply) and clock.now_s() - event.at_s > MAX_LAG_S:
            self.counters.dropped += 1
            log.warning("event=apply_dropped reason='more than %.0f s late'", MAX_LAG_S)
            return False
        if isinstance(event, Apply) and not self._at_work:
            self.counters.dropped += 1
            return False
        if isinstance(event, Health):
            self._status = event
        elif isinstance(event, DriverState):
            self._driver = event
        elif isinstance(event, Guests):
            self._guests = event
        elif isinstance(event, Stray):
            self._inbox.stray()
        try:
            evidence = self._settings.evidence
            message = encode(event, self._vehicle, _epoch_s(), evidence=evidence)
        except PayloadError as error:
            self.counters.dropped += 1
            log.error("event=message_unfit error=%r", str(error))  # noqa: TRY400 (no traceback)
            return False
        sent = message is not None and self._send(message)
        if sent and isinstance(event, Apply) and (asked := self._inbox.asked(event)):
            self._send(asked)
        return sent

    def stop(self) -> None:
        """Say that we are offline and let go; takes less than a second."""
        self._leave()
        # Now nothing comes in any more.
        self._inbox.log_suppressed()

    def _leave(self) -> None:
        link = self._link
        self._retry_at_s = math.inf
        if link is None:
            return
        if self._connected and link.ended is None:
            self.publish(DriverState(0.0))
            self.publish(Guests(0.0))
            farewell = link.send(encode_offline(self._vehicle.id, "stopped"))
            if farewell.rc is MQTTErrorCode.MQTT_ERR_SUCCESS:
                farewell.wait_for_publish(0.5)
            link.end("stopped")
            link.over.wait(0.3)
        self._link, self._connected, self._at_work = None, False, False
        link.end("stopped")
        link.release()

    def _open(self) -> None:
        # Read anew each time: a password or certificate that was replaced is then the right one.
        try:
            access = _access(self._settings)
        except BusError as error:
            self._gone(str(error), clock.now_s())
        else:
            self._link = _Link(self._settings, self._vehicle.id, access, self._inbox)

    def _arrived(self, now_s: float) -> None:
        self._connected, self._retry_s = True, RETRY_FIRST_S
        self.counters.connections += 1
        if self._lost or self.counters.connections == 1:
            log.info("event=broker_connected host=%s port=%d", *self._settings.address)
        self._lost = False
        for event in (self._status, self._driver, self._guests):
            if event is not None:
                self.publish(event)
        for message in home_assistant(self._vehicle.id) if self._settings.home_assistant else ():
            self._send(message)
        self._measured_s = -math.inf
        self._measure(now_s)
        self._go_to_work(self._link, now_s)

    def _go_to_work(self, link: _Link | None, now_s: float) -> None:
        """Let requests be made once no other daemon can have our place."""
        if link is None or self._at_work or not self._place.admits(link.up_s, now_s):
            return
        self._at_work = True
        if now_s - self._rival_s <= PROBATION_S:
            self._rival = TAKEN_FOR_A_MOMENT
        elif self._rival == STANDS_BY:
            self._rival = ""
        self._put(LinkState(now_s, connected=True, rival=self._rival))

    def _deaf(self, link: _Link, now_s: float) -> None:
        """End a connection that brings us nothing; the car is told that first.

        It ends with MQTT's farewell, so that the will does not take the place of that status.
        """
        fix = f"look for a client that floods it, and let our user write and read {link.echo_topic}"
        reason = f"the broker has brought us nothing for {ECHO_LIMIT_S:.0f} s; {fix}"
        if self._connected:
            known = self._status or Health(now_s)
            status = replace(known, at_s=now_s, reasons=(*known.reasons, f"broker: {reason}"))
            if (message := encode(status, self._vehicle, _epoch_s())) is not None:
                self._send(message)
        link.end(reason)

    def _gone(self, reason: str, now_s: float) -> None:
        pause_s = None
        if self._link is not None:
            pause_s = self._place.lost(self._link.thrown_out_s, certain=self._link.taken_over)
            self._link.end(reason)
            self._link.release()
        self._link, self._connected, self._at_work = None, False, False
        if pause_s is not None:
            self._left_place(pause_s, now_s)
            return
        level = logging.DEBUG if self._lost else logging.WARNING
        log.log(level, "event=broker_lost reason=%r retry_s=%.0f", reason, self._retry_s)
        if not self._lost:
            self._put(LinkState(now_s, connected=False, reason=reason))
        self._lost = True
        self._retry_at_s = now_s + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_LAST_S)

    def _left_place(self, pause_s: float, now_s: float) -> None:
        """Tell of a client that came under our identity; come back after a pause, or at once."""
        # Until we are back at once, the broker may as well have been stuck.
        self._rival, self._rival_s = STANDS_BY if pause_s else "", now_s
        reason = STANDS_BY if pause_s else TAKEN_FOR_A_MOMENT
        log.warning("event=thrown_out retry_s=%.0f reason=%r", pause_s, reason)
        self._put(LinkState(now_s, connected=False, reason=reason, rival=self._rival))
        self._lost = True
        self._retry_at_s = now_s + pause_s
        if not pause_s:
            self._open()

    def _refuse(self, link: _Link) -> None:
        """Tell what became of commands that were refused, while the broker keeps up."""
        refusals = self._inbox.refusals
        room = MAX_UNACKNOWLEDGED - link.unacknowledged
        for _ in range(min(REFUSALS_A_TURN, refusals.qsize(), room)):
            self.publish(refusals.get_nowait())

    def _measure(self, now_s: float) -> None:
        """Say how we do, when it is time."""
        if now_s - self._measured_s >= METRICS_S:
            self._measured_s = now_s
            vitals = self._vitals()
            self._send(encode_metrics(self.counters, vitals, self._vehicle.id, time.time()))

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

    It disturbs no running daemon: it has a client id of its own. A broker that takes the
    certificate's name for the client id would still end the daemon's connection, so with a
    certificate it asks for a method of authentication that no broker has: who is refused for that
    has passed TLS, and has taken nobody's place.
    """
    try:
        access = _access(settings)
    except BusError as error:
        return str(error)
    certified = settings.tls is not None and settings.tls.certificate is not None
    by_certificate = certified and settings.username is None
    return _knock(settings.address, access, limit_s, unknown_method=by_certificate)


def lets_in_strangers(host: str, port: int, limit_s: float) -> bool:
    """Whether a broker at this port lets in a client without certificate, user or password.

    Plain MQTT and TLS are tried, nameless and under the daemon's user name.
    """
    tls = ssl.create_default_context()
    # It is asked whether the door is open, and nothing is told to whoever opens it.
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    return any(
        _knock((host, port), _Access(context, username, None, ""), limit_s) is None
        for context in (None, tls)
        for username in (None, "whodrives")
    )


def _knock(
    address: tuple[str, int], access: _Access, limit_s: float, *, unknown_method: bool = False
) -> str | None:
    client = _bare_client(f"whodrives-doctor-{secrets.token_hex(4)}", access)
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    let_in = {"Bad authentication method"} if unknown_method else set()
    client.on_connect = lambda _c, _d, _f, code, _p: answers.put(
        _refused(code, access.advice) if code.is_failure and str(code) not in let_in else None
    )
    client.on_connect_fail = lambda _c, _d: answers.put(_unreachable())
    client.on_disconnect = lambda _c, _d, _f, code, _p: answers.put(_broken(code, greeted=False))
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's own gap
    if unknown_method:
        properties.AuthenticationMethod = "whodrives-doctor"
    client.connect_timeout = limit_s
    # paho takes the keepalive for the limit of a TLS handshake as well.
    keepalive_s = math.ceil(limit_s)
    client.connect_async(*address, keepalive_s, clean_start=True, properties=properties)
    client.loop_start()
    try:
        return answers.get(timeout=limit_s)
    except queue.Empty:
        return f"no answer within {limit_s:.0f} s"
    finally:
        client.disconnect()
        client.loop_stop()


@dataclass(frozen=True, slots=True)
class Overheard:
    """A message as it came.

    Attributes:
        topic: the full topic.
        payload: as received.
        at_s: when it came, on the monotonic clock.
        wall_s: the same moment in seconds from 1970-01-01 UTC.
        retained: the broker kept it: it was sent before we asked.
    """

    topic: str
    payload: bytes
    at_s: float
    wall_s: float
    retained: bool


def overhear(
    settings: Mqtt, topics: Sequence[str], seconds: float
) -> tuple[tuple[Overheard, ...], tuple[str, ...]]:
    """Listen to a broker that lets us in, and disturb no running daemon.

    Args:
        settings: as for `Bus`.
        topics: the topic filters.
        seconds: how long to listen, the connection included.

    Returns:
        What came, in order, and the filters that the broker does not let us read.

    Raises:
        BusError: the settings can never work.
    """
    client = _bare_client("", _access(settings))
    heard: queue.SimpleQueue[Overheard] = queue.SimpleQueue()
    denied: list[str] = []

    def take(_client: Client, _data: Any, message: MQTTMessage) -> None:
        now = clock.now_s(), time.time()
        heard.put(Overheard(message.topic, bytes(message.payload), *now, message.retain))

    def refuse(_c: Client, _d: Any, _mid: int, codes: list[ReasonCode], _p: Any) -> None:
        denied.extend(t for t, code in zip(topics, codes, strict=False) if code.is_failure)

    def ask(client: Client, _d: Any, _flags: ConnectFlags, _code: ReasonCode, _p: Any) -> None:
        client.subscribe([(topic, 1) for topic in topics])

    client.on_connect = ask
    client.on_message = take
    client.on_subscribe = refuse
    client.connect_async(*settings.address, KEEPALIVE_S, clean_start=True)
    client.loop_start()
    time.sleep(seconds)
    client.disconnect()
    client.loop_stop()
    return tuple(heard.get_nowait() for _ in range(heard.qsize())), tuple(denied)


def _adjuster(settings: Mqtt, vehicle: Vehicle) -> SeatAdjuster | None:
    travel = vehicle.signals.get(SEAT_POSITION)
    return SeatAdjuster(travel) if settings.velocitas and travel else None


def _epoch_s() -> float:
    return time.time() - clock.now_s()


def _access(settings: Mqtt) -> _Access:
    """How to log in with these settings; plain MQTT is for a broker on this machine only.

    Raises:
        BusError: a file is missing, wrong or readable by others; names the field and the fix.
    """
    try:
        settings.host.encode("idna")
    except UnicodeError:
        raise BusError(f"mqtt.host: {settings.host!r} is no host name; mend it") from None
    if settings.tls is None and not settings.is_loopback:
        said = f"plain MQTT to {settings.host} can be read and forged on the way"
        raise BusError(f"mqtt.tls: {said}; give tls, or host 127.0.0.1")
    tls = _context(settings.tls) if settings.tls is not None else None
    if settings.username is None:
        certified = settings.tls is not None
        advice = "is mqtt.tls.certificate a certificate of a user of this broker?"
        without = "it may want a user: give mqtt.username and mqtt.password_file"
        return _Access(tls, None, None, advice if certified else without)
    source, password = _password(settings)
    advice = f"check mqtt.username ({settings.username}) and the password in {source}"
    return _Access(tls, settings.username, password, advice)


def _password(settings: Mqtt) -> tuple[Path, str]:
    """Where the password is, and the password; the service manager's credential goes first."""
    given = Path(os.environ.get("CREDENTIALS_DIRECTORY", os.devnull)) / CREDENTIAL
    if given.exists():
        path = given
    elif settings.password_file is not None:
        path = Path(settings.password_file)
    else:
        said = "is missing for mqtt.username"
        fix = f"give a file, or a systemd credential named {CREDENTIAL}"
        raise BusError(f"mqtt.password_file: {said}; {fix}")
    try:
        raw = _read_private(path)
        password = raw.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        said = error.strerror or "cannot be read"
        raise BusError(
            f"mqtt.password_file: {path}: {said}; give a file that can be read"
        ) from error
    except UnicodeDecodeError:
        raise BusError(f"mqtt.password_file: {path}: is not text in UTF-8; save it so") from None
    if not password or "\n" in password or len(raw) > MAX_PASSWORD_BYTES:
        said = "does not hold one line with a password"
        raise BusError(f"mqtt.password_file: {path}: {said}; write the password alone into it")
    return path, password


def _read_private(path: Path) -> bytes:
    """A regular file's first bytes; BusError if others may read or change it.

    The group may read it: an administrator's file is given to the service by its group.
    """
    # Not blocking: nobody may ever write into a named pipe.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise BusError(f"mqtt.password_file: {path}: is no regular file; give one")
        if mode & (stat.S_IRWXO | stat.S_IWGRP):
            raise BusError(
                f"mqtt.password_file: {path}: others may read or write it; run: chmod g-w,o= "
                f"{shlex.quote(str(path))}"
            )
        return file.read(MAX_PASSWORD_BYTES + 1)


def _context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except (OSError, ValueError) as error:
        raise BusError(f"mqtt.tls.ca: {tls.ca}: {error}; give a PEM file of the CA") from error
    if tls.certificate is None or tls.key is None:
        return context
    try:
        # An encrypted key would be asked for on the terminal; nobody is there.
        context.load_cert_chain(tls.certificate, tls.key, lambda: b"")
    except (OSError, ValueError) as error:
        files = f"{tls.certificate} with {tls.key}"
        raise BusError(
            f"mqtt.tls.certificate: {files}: {error}; give our certificate and its key, PEM"
        ) from error
    return context
