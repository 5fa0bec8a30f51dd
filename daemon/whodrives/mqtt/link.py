"""One connection to the broker; a lost connection is replaced by a new one."""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import socket
import sys
import threading
from collections import deque
from typing import Any

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
from whodrives.config.schema import Mqtt
from whodrives.mqtt.access import Access
from whodrives.mqtt.arrivals import Arrivals
from whodrives.mqtt.encode import Message, encode_offline
from whodrives.mqtt.payloads import SCHEMA
from whodrives.mqtt.takeover import RETURN_S
from whodrives.mqtt.topics import root

log = logging.getLogger(__name__)


KEEPALIVE_S = 10
"""MQTT keepalive."""


UNACKNOWLEDGED_S = 3
"""The system ends a TCP connection whose data stays unacknowledged for so long."""


ECHO = "echo"
"""The topic below the car's root for the daemon's delivery check."""


MAX_UNACKNOWLEDGED = 20
"""Messages that may be sent and not acknowledged; the shipped broker remembers as many."""


ECHO_EVERY_S = 2.0


ECHO_LIMIT_S = 6.0
"""Maximum delay of an echo; beyond it the broker is considered unable to deliver."""


ECHO_EXPIRY_S = 10


UNSPECIFIED = 0x80


TAKEN_OVER = 0x8E
"""MQTT 5, 3.14.2.1: another connection uses the same client identifier."""


class _Echo(msgspec.Struct):
    """The payload of an echo."""

    echo: str
    sent_s: float


class Link:
    """One connection, from CONNECT to its end; it does not reconnect.

    paho's thread writes `subscribed`, `silenced` and `ended` once each, counts acknowledged
    messages, and stores the time of the last returned echo; the main thread reads them.

    Attributes:
        subscribed: whether the broker has answered the subscriptions.
        silenced: whether the broker denies the echo, so that delivery cannot be checked.
        ended: why the connection ended; None while it has not.
    """

    def __init__(self, settings: Mqtt, vehicle: str, access: Access, arrivals: Arrivals) -> None:
        self.subscribed = self.silenced = False
        self.ended: str | None = None
        self.over = threading.Event()
        self.up_s = math.inf
        self.thrown_out_s: float | None = None
        self.taken_over = False
        self.started_s = clock.now_s()
        # Each has one writer, so no lock is needed.
        self._sent = 0
        self._acknowledged = 0
        self._arrivals = arrivals
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
        """Send a message; end the connection if it takes no more."""
        info = self.client.publish(
            message.topic, message.payload, message.qos, message.retain, _properties(message)
        )
        # NO_CONN: `_on_disconnect` is about to get the reason.
        if info.rc not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN):
            self.end("the connection takes no more messages")
        self._sent += 1
        return info

    @property
    def unacknowledged(self) -> int:
        """Number of messages that the broker has not acknowledged yet."""
        return self._sent - self._acknowledged

    @property
    def up(self) -> bool:
        """Whether messages are delivered: an echo has returned, or the broker denies it."""
        return self.subscribed and (self.silenced or self._returned_s > -math.inf)

    def echo(self, now_s: float) -> bool:
        """Send an echo when it is due; return whether one is overdue."""
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
        """Disconnect; the first reason is kept."""
        self.ended = self.ended or reason
        self.client.disconnect()

    def _ended_without_reason(self, code: ReasonCode) -> bool:
        """Whether a broker that still listens ended the connection without a reason.

        mosquitto 2.0.11 does so when another client connects with our identity.
        """
        return code.value == UNSPECIFIED and _answers(self._address)

    def release(self) -> None:
        """Break the reference cycle with the client, so that its sockets are closed at once.

        Otherwise a daemon that waits for its broker for days would accumulate them.
        """
        client = self.client
        client.on_connect = client.on_connect_fail = client.on_subscribe = None
        client.on_disconnect = client.on_message = client.on_publish = None

    def _on_connect(
        self, client: Client, _data: Any, _flags: ConnectFlags, code: ReasonCode, _p: Any
    ) -> None:
        if code.is_failure:
            self.ended = self.ended or refusal_reason(code, self._advice)
            self._arrivals.wake()
        else:
            client.subscribe([(topic, 1) for topic in (*self._arrivals.topics, self.echo_topic)])

    def _on_connect_fail(self, _client: Client, _data: Any) -> None:
        self.ended = self.ended or connect_failure()
        self.over.set()
        self._arrivals.wake()

    def _on_subscribe(
        self, _client: Client, _data: Any, _mid: int, codes: list[ReasonCode], _p: Any
    ) -> None:
        topics = (*self._arrivals.topics, self.echo_topic)
        denied = [topic for topic, code in zip(topics, codes, strict=False) if code.is_failure]
        if denied:
            fix = f"let our user read {', '.join(denied)}"
            log.warning("event=subscription_denied fix=%r", fix)
        self.silenced = self.echo_topic in denied
        self.up_s = clock.now_s()
        self.subscribed = True
        self._arrivals.wake()

    def _on_message(self, client: Client, data: Any, message: MQTTMessage) -> None:
        if message.topic != self.echo_topic:
            self._arrivals.take(client, data, message)
            return
        with contextlib.suppress(msgspec.DecodeError, TypeError, KeyError):
            heard = msgspec.json.decode(message.payload, type=_Echo)
            if heard.echo == self._echo:
                first = self._returned_s == -math.inf
                self._returned_s = max(self._returned_s, heard.sent_s)
                if first:
                    self._arrivals.wake()

    def _on_publish(
        self, _client: Client, _data: Any, _mid: int, code: ReasonCode, _p: Any
    ) -> None:
        self._acknowledged += 1
        if code.is_failure and not self.up:
            # Only the echo is sent before the first one has returned.
            log.warning("event=echo_denied fix='let our user write and read %s'", self.echo_topic)
            self.silenced = True
            self._arrivals.wake()
        else:
            self._arrivals.acknowledged(code)

    def _on_disconnect(
        self, _client: Client, _data: Any, _flags: DisconnectFlags, code: ReasonCode, _p: Any
    ) -> None:
        self.taken_over = code.value == TAKEN_OVER
        # Not `up`: whoever takes over may be faster than the first echo.
        ours = self.subscribed and self.ended is None
        if ours and (self.taken_over or self._ended_without_reason(code)):
            self.thrown_out_s = clock.now_s()
        self.ended = self.ended or disconnect_reason(code, greeted=self.subscribed)
        self.over.set()
        self._arrivals.wake()


def _answers(address: tuple[str, int]) -> bool:
    """Whether the address accepts TCP connections."""
    with contextlib.suppress(OSError):
        socket.create_connection(address, timeout=RETURN_S / 2).close()
        return True
    return False


def refusal_reason(code: ReasonCode, advice: str) -> str:
    """The reason of a refused connection, with advice."""
    return f"the broker refuses us: {code}; {advice}"


def connect_failure() -> str:
    """The reason of a failed connection attempt; call it while paho handles the exception."""
    # paho reports a failure while it handles the exception, and does not pass it on.
    return f"no connection: {sys.exc_info()[1]}"


def disconnect_reason(code: ReasonCode, *, greeted: bool) -> str:
    """The reason of an ended connection; with advice if it never came up."""
    fix = "" if greeted else "; is it MQTT with the right TLS, and our certificate trusted?"
    return f"the connection ended: {code}{fix}"


def _client(vehicle: str, access: Access) -> Client:
    # With the same client id each time, the broker ends a half-open predecessor and publishes its
    # last will before CONNACK. Otherwise that will would come later and report `offline`.
    client = new_client(f"whodrives-{vehicle}", access)
    client.max_inflight_messages_set(MAX_UNACKNOWLEDGED)
    client.max_queued_messages_set(MAX_UNACKNOWLEDGED)
    will = encode_offline(vehicle, "the connection was lost")
    client.will_set(will.topic, will.payload, will.qos, will.retain)
    return client


def new_client(identity: str, access: Access) -> Client:
    """A paho client for MQTT 5 that neither queues nor reconnects."""
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
    """Let the system end a connection whose data stays unacknowledged (TCP_USER_TIMEOUT).

    Otherwise TCP may deliver a request seconds late when a broken network is back.
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
