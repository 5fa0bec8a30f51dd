"""Checks whether a broker accepts this daemon, and listens to the car's reports."""

from __future__ import annotations

import math
import queue
import secrets
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from whodrives import clock
from whodrives.config.schema import Mqtt
from whodrives.errors import BusError
from whodrives.mqtt.access import Access, broker_access
from whodrives.mqtt.link import (
    KEEPALIVE_S,
    connect_failure,
    disconnect_reason,
    new_client,
    refusal_reason,
)


def probe(settings: Mqtt, limit_s: float) -> str | None:
    """Why the broker refuses the connection; None if it accepts it within `limit_s`.

    A running daemon is not disturbed, because the probe has its own client id. A broker that uses
    the certificate's name as client id would still end the daemon's connection. With a certificate,
    the probe therefore requests an authentication method that no broker has: a refusal for that
    reason proves that TLS succeeded, without completing the login.
    """
    try:
        access = broker_access(settings)
    except BusError as error:
        return str(error)
    certified = settings.tls is not None and settings.tls.certificate is not None
    by_certificate = certified and settings.username is None
    return _knock(settings.address, access, limit_s, unknown_method=by_certificate)


def lets_in_strangers(host: str, port: int, limit_s: float) -> bool:
    """Whether a broker at this port accepts a client without certificate and password.

    Tries plain MQTT and TLS, each without a user name and with the daemon's.
    """
    tls = ssl.create_default_context()
    # No verification: nothing confidential is sent, only whether the broker accepts is tested.
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    return any(
        _knock((host, port), Access(context, username, None, ""), limit_s) is None
        for context in (None, tls)
        for username in (None, "whodrives")
    )


def _knock(
    address: tuple[str, int], access: Access, limit_s: float, *, unknown_method: bool = False
) -> str | None:
    client = new_client(f"whodrives-doctor-{secrets.token_hex(4)}", access)
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    let_in = {"Bad authentication method"} if unknown_method else set()
    client.on_connect = lambda _c, _d, _f, code, _p: answers.put(
        refusal_reason(code, access.advice) if code.is_failure and str(code) not in let_in else None
    )
    client.on_connect_fail = lambda _c, _d: answers.put(connect_failure())
    client.on_disconnect = lambda _c, _d, _f, code, _p: answers.put(
        disconnect_reason(code, greeted=False)
    )
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's own gap
    if unknown_method:
        properties.AuthenticationMethod = "whodrives-doctor"
    client.connect_timeout = limit_s
    # paho also uses the keepalive as the limit of the TLS handshake.
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
    """A received message.

    Attributes:
        topic: the full topic.
        payload: as received.
        at_s: time of arrival (monotonic, s).
        wall_s: the same moment in seconds since 1970-01-01 UTC.
        retained: whether it was retained, so sent before the subscription.
    """

    topic: str
    payload: bytes
    at_s: float
    wall_s: float
    retained: bool


def overhear(
    settings: Mqtt, topics: Sequence[str], seconds: float
) -> tuple[tuple[Overheard, ...], tuple[str, ...]]:
    """Listen to a broker without disturbing a running daemon.

    Args:
        settings: as for `Bus`.
        topics: the topic filters.
        seconds: how long to listen, the connection included.

    Returns:
        The messages in order, and the filters that the broker denies.

    Raises:
        BusError: the settings can never work.
    """
    client = new_client("", broker_access(settings))
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
