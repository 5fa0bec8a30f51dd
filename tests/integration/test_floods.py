"""Floods by those who have a certificate, through the broker's configuration that is shipped.

A daemon that hears a pipe must go on: fed watchdog, a cancel answered at once, a bounded log.
"""

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from tests.conftest import wait_until
from tests.integration.installation import Installation
from tests.integration.running import STANDING, Running
from tests.integration.test_security import SecureBroker

pytestmark = pytest.mark.realtime

FLOOD_S = 5.0
WATCHDOG_S = 10.0
"""systemd is told every second; its own limit is 30 s."""
CANCEL_S = FLOOD_S / 2
"""A cancel is sent when half of the flood is over, and answered before it ends."""
MOST_LINES = 40
ROOT = "whodrives/car"
SECOND = bytes(32_000)


class Role:
    """A client with a role's certificate."""

    def __init__(self, broker: SecureBroker, role: str) -> None:
        self.heard: list[MQTTMessage] = []
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self.client.tls_set_context(broker.context(role))
        self.client.on_message = lambda _c, _d, message: self.heard.append(message)
        self.client.connect(broker.host, broker.port)
        self.client.subscribe("#", qos=1)
        self.client.loop_start()

    def say(self, topic: str, body: object) -> None:
        """Publish, QoS 1."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.client.publish(f"{ROOT}/{topic}", raw, 1)

    def flood(self, messages: Callable[[int], tuple[str, object]], seconds: float) -> int:
        """Publish as fast as the broker takes it; returns how many."""
        until_s, number = time.monotonic() + seconds, 0
        while time.monotonic() < until_s:
            # The client must not gather what the broker has not taken.
            if self.client._out_messages and len(self.client._out_messages) > 200:
                time.sleep(0.001)
                continue
            self.say(*messages(number))
            number += 1
        return number

    def results(self) -> dict[str, dict[str, Any]]:
        """The commands' results by id."""
        bodies = [json.loads(m.payload) for m in self.heard if m.topic.endswith("/command/result")]
        return {body["command_id"]: body for body in bodies}

    def close(self) -> None:
        """Leave."""
        self.client.disconnect()
        self.client.loop_stop()


@dataclass
class Stage:
    """A daemon that hears silence in real time, and the parties."""

    broker: SecureBroker
    daemon: Running
    headunit: Role
    gateway: Role
    monitor: Role
    fed: list[float] = field(default_factory=list)

    def during(self, flood: Callable[[], object]) -> None:
        """Run a flood on a thread, and note when the watchdog is fed meanwhile."""
        thread = threading.Thread(target=flood, daemon=True)
        self.fed = [time.monotonic()]
        thread.start()
        while thread.is_alive():
            if "WATCHDOG=1" in self.daemon.notified_within(0.1):
                self.fed.append(time.monotonic())
        self.fed.append(time.monotonic())

    @property
    def longest_s(self) -> float:
        """The longest that the watchdog was not fed."""
        return max(b - a for a, b in zip(self.fed, self.fed[1:], strict=False))


def _iso() -> str:
    return datetime.now(UTC).isoformat()


def _command(**more: object) -> dict[str, object]:
    return {"schema": 1, "command_id": str(uuid.uuid4()), "issued_at": _iso(), **more}


def _report(**more: object) -> dict[str, object]:
    signals = {path: {"value": v, "time": _iso()} for path, v in {**STANDING, **more}.items()}
    return {"schema": 1, "signals": signals}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """All of it; the daemon is online."""
    with contextlib.ExitStack() as stack:
        broker = SecureBroker(tmp_path / "broker")
        stack.callback(broker.stop)
        (tmp_path / "home").mkdir()
        installation = Installation(tmp_path / "home")
        installation.configure(
            mqtt={
                "host": broker.host,
                "port": broker.port,
                "tls": broker.tls(),
            },
            sound={"source": "-"},
        )
        parties = [Role(broker, role) for role in ("headunit", "gateway", "monitor")]
        for party in parties:
            stack.callback(party.close)
        daemon = Running(installation)
        stack.callback(daemon.close)

        def close_pipe() -> None:
            # A daemon that a test has ended reads no more.
            with contextlib.suppress(BrokenPipeError):
                daemon.pipe.close()

        stack.callback(close_pipe)
        done = threading.Event()

        def speak() -> None:
            with contextlib.suppress(OSError, ValueError):
                while not done.wait(0.1):
                    daemon.say(SECOND[: len(SECOND) // 10])

        threading.Thread(target=speak, daemon=True).start()
        stack.callback(done.set)
        headunit, gateway, monitor = parties
        made = Stage(broker, daemon, headunit, gateway, monitor)
        daemon.notified("READY=1")
        wait_until(
            lambda: any(m.topic == f"{ROOT}/status" for m in made.monitor.heard), "it is online"
        )
        yield made


def _cancelled_in_time(stage: Stage) -> float:
    """Send a cancel; returns how long its result took.

    A broker whose queue is full drops messages: a head unit repeats what is not answered.
    """
    began_s = time.monotonic()
    command = _command()
    name = str(command["command_id"])
    while name not in stage.headunit.results():
        stage.headunit.say("command/cancel", command)
        time.sleep(0.2)
        assert time.monotonic() - began_s < 10 * CANCEL_S
    assert stage.headunit.results()[name]["status"] == "done"
    return time.monotonic() - began_s


def _withstands(stage: Stage, flood: Callable[[], None]) -> None:
    """Neither watchdog nor a cancel in the middle of the flood is kept out, nor the log filled."""
    took_s: list[float] = []

    def cancels() -> None:
        time.sleep(FLOOD_S / 2)
        took_s.append(_cancelled_in_time(stage))

    thread = threading.Thread(target=cancels, daemon=True)
    thread.start()
    stage.during(flood)
    thread.join(20)
    assert took_s
    assert took_s[0] < CANCEL_S
    assert stage.longest_s < WATCHDOG_S
    assert "event=broker_lost" not in stage.daemon.log
    assert len(stage.daemon.log.splitlines()) < 4 * 60


@pytest.mark.parametrize("name", ["driver", "save", "listen", "enrol"])
def test_a_flood_of_valid_commands_keeps_neither_watchdog_nor_cancel_out(
    stage: Stage, name: str
) -> None:
    """Commands beyond their rate are refused with it; the daemon goes on."""
    more: dict[str, object] = {}
    if name == "driver":
        more = {"driver": None}
    elif name == "enrol":
        more = {"driver": None, "consent": {"by": "account-3", "text": "2026-11"}}

    def flood() -> None:
        stage.headunit.flood(lambda _: (f"command/{name}", _command(**more)), FLOOD_S)

    _withstands(stage, flood)
    reasons = {body["reason"] or "" for body in stage.headunit.results().values()}
    assert any("too many messages" in reason for reason in reasons)


def test_a_flood_of_reports_keeps_neither_watchdog_nor_cancel_out(stage: Stage) -> None:
    """A gateway that reports a car that changes its mind all the time does not stop the daemon."""

    def flood() -> None:
        stage.gateway.flood(
            lambda n: (
                "vehicle",
                _report(**{"Vehicle.Cabin.Door.Row1.DriverSide.IsOpen": bool(n % 2)}),
            ),
            FLOOD_S,
        )

    _withstands(stage, flood)


def test_good_and_bad_payloads_in_turn_do_not_fill_the_log(stage: Stage) -> None:
    """A line for each topic and cause, and one with the number of the others."""

    def messages(number: int) -> tuple[str, object]:
        topic = ("vehicle", "vehicle/Vehicle.Speed")[number % 2]
        bad = (b"{", b"[]", b'{"schema":2}')[number % 3]
        good: object = _report()
        if topic != "vehicle":
            good = {"schema": 1, "value": 0, "time": _iso()}
        return topic, bad if number % 4 < 2 else good

    stage.during(lambda: stage.gateway.flood(messages, FLOOD_S))
    stage.daemon.process.terminate()
    stage.daemon.ended()
    lines = stage.daemon.log.splitlines()
    assert 2 <= sum("event=payload_refused" in line for line in lines) <= 4
    suppressed = [line for line in lines if "event=suppressed" in line]
    assert suppressed
    assert len(lines) < MOST_LINES
    assert stage.longest_s < WATCHDOG_S


def test_answers_to_no_request_do_not_fill_the_log(stage: Stage) -> None:
    """An ECU that answers what nobody asked is refused beyond its rate, and logged a few times."""
    ecu = Role(stage.broker, "ecu")

    def messages(_: int) -> tuple[str, object]:
        body = {"schema": 1, "time": _iso(), "request_id": str(uuid.uuid4()), "status": "accepted"}
        return "preferences/result", body

    stage.during(lambda: ecu.flood(messages, FLOOD_S))
    ecu.close()
    assert len(stage.daemon.log.splitlines()) < 2 * 60
    assert stage.longest_s < WATCHDOG_S
