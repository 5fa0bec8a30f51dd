import gc
import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from whodrives.bus import Bus, probe
from whodrives.config import Mqtt, Tls
from whodrives.domain import (
    Apply,
    BusError,
    DriverState,
    Evidence,
    Health,
    Input,
    LinkState,
    Listen,
    Match,
    Outcome,
    Recognition,
    VehicleReport,
    Verdict,
)

PATIENCE_S = 30.0
SEAT = "Vehicle.Cabin.Seat.Row1.DriverSide.Position"
DAEMON = Path(__file__).parents[2] / "daemon"


class Ear:
    """A real subscriber to everything, which remembers what it heard in order."""

    def __init__(self, host: str, port: int) -> None:
        self.heard: list[MQTTMessage] = []
        self.ready = False
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self.client.on_message = lambda _client, _data, message: self.heard.append(message)
        self.client.on_subscribe = self._on_subscribe
        self.client.connect(host, port)
        self.client.subscribe("#", qos=1)
        self.client.loop_start()

    def _on_subscribe(self, *_: Any) -> None:
        self.ready = True

    def on(self, topic: str) -> list[MQTTMessage]:
        """What was heard on a topic of the car."""
        return [m for m in self.heard if m.topic == f"whodrives/car/{topic}"]

    def last(self, topic: str) -> Any:
        """The last body on a topic: None before anything came, "" after it was cleared."""
        messages = self.on(topic)
        return json.loads(messages[-1].payload or '""') if messages else None

    def say(self, topic: str, payload: bytes | dict[str, Any], *, retain: bool = False) -> None:
        """Publish as the car or the head unit would."""
        raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.client.publish(f"whodrives/car/{topic}", raw, 1, retain)

    def close(self) -> None:
        """Leave."""
        self.client.disconnect()
        self.client.loop_stop()


class Bench:
    """A bus at a broker, polled as the service does, and everything it puts into the inbox."""

    def __init__(self, broker: Any) -> None:
        self.broker = broker
        self.inbox: queue.SimpleQueue[Input] = queue.SimpleQueue()
        self.bus = Bus(Mqtt(broker.host, broker.port), "car", self.inbox.put)
        self.inputs: list[Input] = []
        self.ears: list[Ear] = []

    def until(self, ready: Callable[[], object], what: str) -> None:
        """Poll the bus until something is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not ready():
            if time.monotonic() > deadline:
                pytest.fail(f"waited {PATIENCE_S:.0f} s in vain until {what}")
            self.bus.poll(time.monotonic())
            while not self.inbox.empty():
                self.inputs.append(self.inbox.get())
            time.sleep(0.01)

    def connect(self) -> None:
        """Start and wait for the link."""
        self.bus.start()
        self.until(self.linked, "the bus is connected")

    def linked(self) -> bool:
        """Whether the last news of the link is good."""
        news = [i for i in self.inputs if isinstance(i, LinkState)]
        return bool(news) and news[-1].connected

    def ear(self) -> Ear:
        """A new subscriber, subscribed."""
        ear = Ear(self.broker.host, self.broker.port)
        self.ears.append(ear)
        self.until(lambda: ear.ready, "the subscriber is ready")
        return ear

    def of(self, kind: type) -> list[Any]:
        """All inputs of a kind so far."""
        return [i for i in self.inputs if isinstance(i, kind)]

    def close(self) -> None:
        """End everything."""
        self.bus.stop()
        for ear in self.ears:
            ear.close()


@pytest.fixture
def bench(broker: Any) -> Iterator[Bench]:
    """A bus that is not started yet, at a running broker."""
    made = Bench(broker)
    yield made
    made.close()


def _driver(**more: Any) -> DriverState:
    now_s = time.monotonic()
    return DriverState(now_s, "d-7f3a", now_s, 0.99, trip_open=True, **more)


def _apply(age_s: float = 0.0) -> Apply:
    return Apply(time.monotonic() - age_s, str(uuid.uuid4()), "d-7f3a", {SEAT: 120.0})


def _recognition() -> Recognition:
    now_s = time.monotonic()
    evidence = Evidence((Match("d-7f3a", 0.7, 6.0),), 2.0, 12.0, now_s)
    return Recognition(now_s, Verdict(Outcome.KNOWN, "d-7f3a", evidence, 0.99))


def _iso(age_s: float = 0.0) -> str:
    return datetime.fromtimestamp(time.time() - age_s, UTC).isoformat()


def test_apply_as_an_ecu_receives_it(bench: Bench) -> None:
    """QoS 1, not retained, expiry, correlation data and response topic arrive at a subscriber."""
    bench.connect()
    ear = bench.ear()
    assert bench.bus.publish(_apply())
    bench.until(lambda: ear.on("preferences/apply"), "the request arrives")
    (message,) = ear.on("preferences/apply")
    body = json.loads(message.payload)
    properties: Any = message.properties
    assert (message.qos, message.retain) == (1, False)
    assert 0 < properties.MessageExpiryInterval <= 3
    assert properties.CorrelationData.decode() == body["request_id"]
    assert properties.ResponseTopic == "whodrives/car/preferences/result"
    assert body["signals"] == {SEAT: 120}
    issued, expires = (datetime.fromisoformat(body[k]) for k in ("issued_at", "expires_at"))
    assert (expires - issued).total_seconds() == 3


def test_each_request_has_its_own_name(bench: Bench) -> None:
    """Two requests never share a request_id."""
    bench.connect()
    ear = bench.ear()
    bench.bus.publish(_apply())
    bench.bus.publish(_apply())
    bench.until(lambda: len(ear.on("preferences/apply")) == 2, "both requests arrive")
    assert len({json.loads(m.payload)["request_id"] for m in ear.on("preferences/apply")}) == 2


def test_nothing_of_a_request_or_a_recognition_stays_at_the_broker(bench: Bench) -> None:
    """A later subscriber finds status and driver, and nothing else."""
    bench.connect()
    first = bench.ear()
    for event in (Health(time.monotonic()), _driver(), _recognition(), _apply()):
        assert bench.bus.publish(event)
    bench.until(lambda: first.on("preferences/apply"), "the request arrives")
    (recognition,) = first.on("recognition")
    expiry: Any = recognition.properties
    assert 0 < expiry.MessageExpiryInterval <= 10
    assert not recognition.retain
    later = bench.ear()
    bench.until(lambda: len(later.heard) >= 2, "the retained messages arrive")
    assert {m.topic for m in later.heard} == {"whodrives/car/status", "whodrives/car/driver"}
    assert all(m.retain for m in later.heard)


def test_a_killed_daemon_is_offline(bench: Bench) -> None:
    """A kill -9 leaves `offline` in the retained status: the last will."""
    program = (
        "import sys, time\n"
        "from whodrives.bus import Bus\n"
        "from whodrives.config import Mqtt\n"
        "from whodrives.domain import Health\n"
        "bus = Bus(Mqtt(port=int(sys.argv[1])), 'car', lambda news: None)\n"
        "bus.start()\n"
        "bus.publish(Health(time.monotonic()))\n"
        "while True:\n"
        "    bus.poll(time.monotonic())\n"
        "    time.sleep(0.01)\n"
    )
    ear = bench.ear()
    daemon = subprocess.Popen(
        [sys.executable, "-c", program, str(bench.broker.port)],
        env={**os.environ, "PYTHONPATH": str(DAEMON)},
        stderr=subprocess.DEVNULL,
    )
    try:
        bench.until(lambda: (ear.last("status") or {}).get("state") == "online", "it is online")
    finally:
        daemon.kill()
        daemon.wait()
    bench.until(lambda: ear.last("status")["state"] == "offline", "the last will arrives")
    later = bench.ear()
    bench.until(lambda: later.on("status"), "the retained status arrives")
    assert later.last("status")["state"] == "offline"


def test_a_clean_stop_is_offline_and_names_no_driver(bench: Bench) -> None:
    """`stop` leaves `offline` and removes the driver from the broker."""
    bench.connect()
    bench.bus.publish(Health(time.monotonic()))
    bench.bus.publish(_driver())
    bench.bus.stop()
    ear = bench.ear()
    bench.until(lambda: ear.on("status"), "the retained status arrives")
    assert ear.last("status") == {
        "schema": 1,
        "time": None,
        "state": "offline",
        "reasons": ["stopped"],
    }
    assert ear.on("driver") == []


def test_a_dead_predecessor_leaves_no_driver_behind(bench: Bench) -> None:
    """The first greeting removes a driver that an earlier run left at the broker."""
    ear = bench.ear()
    ear.say("driver", {"schema": 1, "driver": "d-old"}, retain=True)
    bench.until(lambda: ear.on("driver"), "the old driver is there")
    bench.connect()
    bench.until(lambda: ear.last("driver") == "", "the old driver is removed")


def test_a_half_open_predecessor_does_not_declare_us_dead(bench: Bench) -> None:
    """The will of a connection that we replace comes before our own greeting."""
    predecessor = Bench(bench.broker)
    predecessor.connect()
    ear = bench.ear()
    bench.bus.publish(Health(time.monotonic()))
    bench.connect()
    predecessor.until(lambda: not predecessor.linked(), "the predecessor notices")
    predecessor.close()
    assert bench.bus.publish(Health(time.monotonic()))
    bench.until(lambda: len(ear.on("status")) >= 3, "all three arrive")
    states = [json.loads(message.payload)["state"] for message in ear.on("status")]
    assert states == ["offline", "online", "online"]


def test_broker_restart_brings_back_the_facts_only(bench: Bench) -> None:
    """After the broker lost everything: status and driver are there, an earlier Apply is not."""
    bench.connect()
    bench.bus.publish(Health(time.monotonic(), ("microphone",)))
    bench.bus.publish(_driver())
    bench.bus.publish(_apply())
    bench.broker.stop()
    bench.until(lambda: not bench.linked(), "the loss is noticed")
    bench.broker.start()
    ear = bench.ear()
    bench.until(bench.linked, "the bus is back")
    bench.until(lambda: ear.on("driver") and ear.on("status"), "the facts arrive")
    assert ear.last("status")["state"] == "degraded"
    assert ear.last("driver")["driver"] == "d-7f3a"
    assert ear.on("preferences/apply") == []


def test_apply_while_the_broker_is_down_never_arrives(bench: Bench) -> None:
    """A request without a link is refused and counted, and no later connection carries it."""
    bench.connect()
    bench.broker.stop()
    # Not even in the moment before the loss is noticed.
    bench.bus.publish(_apply())
    bench.until(lambda: not bench.linked(), "the loss is noticed")
    dropped = bench.bus.counters.dropped
    assert not bench.bus.publish(_apply())
    assert not bench.bus.publish(_recognition())
    assert bench.bus.counters.dropped == dropped + 2
    bench.broker.start()
    ear = bench.ear()
    bench.until(bench.linked, "the bus is back")
    assert bench.bus.publish(_recognition())
    bench.until(lambda: ear.on("recognition"), "what is said now arrives")
    assert len(ear.on("recognition")) == 1
    assert ear.on("preferences/apply") == []


def test_a_broker_that_stalls(bench: Bench) -> None:
    """Unacknowledged messages do not pile up: the connection ends, and the last fact stands."""
    bench.connect()
    process = bench.broker._process
    process.send_signal(signal.SIGSTOP)
    try:
        sent = [bench.bus.publish(_driver(waiting_for=(str(n),))) for n in range(25)]
        assert sent == [True] * 20 + [False] * 5
        bench.until(lambda: not bench.linked(), "the connection is given up")
    finally:
        process.send_signal(signal.SIGCONT)
    bench.until(bench.linked, "the bus is back")
    ear = bench.ear()
    bench.until(lambda: ear.on("driver"), "the retained driver arrives")
    assert ear.last("driver")["preferences"]["waiting_for"] == ["24"]


def test_an_old_apply_is_refused(bench: Bench) -> None:
    """A request that took more than a second to get here rests on a car that may have changed."""
    bench.connect()
    assert not bench.bus.publish(_apply(age_s=1.5))
    assert bench.bus.counters.dropped == 1


def test_a_broker_that_is_late_is_no_failure(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Started without a broker: one warning, retries in silence, one line when it heals."""
    bench.broker.stop()
    with caplog.at_level(logging.INFO, "whodrives.bus"):
        bench.bus.start()
        assert bench.bus.publish(Health(time.monotonic())) is False
        bench.until(lambda: bench.of(LinkState), "the first attempt fails")
        (news,) = bench.of(LinkState)
        assert not news.connected
        assert "refused" in news.reason
        again_s = time.monotonic() + 2.5
        bench.until(lambda: time.monotonic() > again_s, "it has tried again")
        bench.broker.start()
        bench.until(bench.linked, "the bus is connected")
    lines = [(r.levelname, r.getMessage().split()[0]) for r in caplog.records]
    assert lines == [
        ("WARNING", "event=plain_mqtt"),
        ("WARNING", "event=broker_lost"),
        ("INFO", "event=broker_connected"),
    ]
    ear = bench.ear()
    bench.until(lambda: ear.on("status"), "what was said before the connection is there")


def test_a_broker_that_is_away_for_long_costs_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every failed attempt leaves no client, socket or thread behind, even without a collector."""
    monkeypatch.setattr("whodrives.bus.RETRY_LAST_S", 0.02)
    bench.broker.stop()
    gc.disable()
    try:
        before = _clients()
        bench.bus.start()
        enough_s = time.monotonic() + 2.5
        bench.until(lambda: time.monotonic() > enough_s, "it has tried many times")
        bench.bus.stop()
        bench.until(lambda: _clients() == before, "all clients are gone")
    finally:
        gc.enable()


def _clients() -> int:
    return sum(isinstance(thing, Client) for thing in gc.get_objects())


def test_the_car_is_heard(bench: Bench) -> None:
    """Vehicle state comes in whole or one signal a topic, retained or not, with its age."""
    ear = bench.ear()
    ear.say(
        "vehicle",
        {"schema": 1, "signals": {"Vehicle.Speed": {"value": 3, "time": _iso(60)}}},
        retain=True,
    )
    bench.until(lambda: ear.on("vehicle"), "the retained state is there")
    bench.connect()
    bench.until(lambda: bench.of(VehicleReport), "the retained state is heard")
    first = bench.of(VehicleReport)[0].state.speed_kmh
    assert first.value == 3
    assert first.at_s < time.monotonic() - 59
    ear.say("vehicle/Vehicle.Speed", {"schema": 1, "value": 0, "time": _iso()})
    bench.until(lambda: len(bench.of(VehicleReport)) == 2, "the signal is heard")
    assert bench.of(VehicleReport)[1].state.speed_kmh.value == 0


def test_listen_is_heard_unless_it_was_retained(bench: Bench) -> None:
    """A command that the broker kept for us is stale: ignored and counted."""
    ear = bench.ear()
    ear.say("command/listen", {"schema": 1, "issued_at": _iso()}, retain=True)
    bench.until(lambda: ear.on("command/listen"), "the retained command is there")
    bench.connect()
    bench.until(lambda: bench.bus.counters.ignored == 1, "the retained command is ignored")
    assert bench.of(Listen) == []
    ear.say("command/listen", {"schema": 1, "issued_at": _iso()})
    bench.until(lambda: bench.of(Listen), "a fresh command is heard")


def test_hostile_payloads_are_refused_and_counted(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Rubbish changes nothing, is told once a topic, and what is right after it is heard."""
    bench.connect()
    ear = bench.ear()
    rubbish = [
        b"",
        b"\x00\xff",
        b"[" * 50_000,
        b"{" + b'"a":{' * 10_000,
        b'{"schema":1,"signals":{"Vehicle.Speed":{"value":NaN,"time":"x"}}}',
        b" " * 200_000,
        b'{"schema":1,"signals":{"Vehicle.Speed":{"value":0,"time":"9999-12-31T23:59:59Z"}}}',
    ]
    caplog.clear()
    with caplog.at_level(logging.INFO, "whodrives.bus"):
        for payload in rubbish:
            ear.say("vehicle", payload)
        bench.until(lambda: bench.bus.counters.refused == len(rubbish), "all of it is refused")
        good = {"schema": 1, "signals": {"Vehicle.Speed": {"value": 0, "time": _iso()}}}
        ear.say("vehicle", good)
        bench.until(lambda: bench.of(VehicleReport), "the car is heard again")
    events = [record.getMessage().split()[0] for record in caplog.records]
    assert events == ["event=payload_refused", "event=payload_good_again"]
    assert bench.linked()
    assert bench.bus.publish(_apply())


def test_a_server_that_is_no_broker_gives_a_reason(bench: Bench) -> None:
    """Whatever answers on the port, the reason names what to look at, and retries go on."""
    bench.broker.stop()
    with socket.create_server((bench.broker.host, bench.broker.port)) as server:
        bench.bus.start()
        server.accept()[0].close()
        bench.until(lambda: bench.of(LinkState), "the connection ends")
    (news,) = bench.of(LinkState)
    assert not news.connected
    assert "is it MQTT with the right TLS" in news.reason
    bench.broker.start()
    bench.until(bench.linked, "the bus is connected")


def test_a_probe_does_not_disturb_the_daemon(bench: Bench) -> None:
    """The question whether the broker lets us in leaves the running connection alone."""
    bench.connect()
    bench.bus.publish(Health(time.monotonic()))
    ear = bench.ear()
    assert probe(Mqtt(bench.broker.host, bench.broker.port), 10.0) is None
    bench.bus.publish(_recognition())
    bench.until(lambda: ear.on("recognition"), "the daemon still speaks")
    assert bench.linked()
    assert [json.loads(m.payload)["state"] for m in ear.on("status")] == ["online"]


def test_a_probe_says_why_not(bench: Bench) -> None:
    """No broker and settings that cannot work are each told in words."""
    bench.broker.stop()
    assert "refused" in str(probe(Mqtt(bench.broker.host, bench.broker.port), 10.0))
    assert "give tls" in str(probe(Mqtt("192.0.2.7"), 10.0))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Mqtt("192.0.2.7"), "mqtt.tls: plain MQTT to 192.0.2.7"),
        (Mqtt("broker.example"), "give tls, or host 127.0.0.1"),
        (Mqtt("a..b"), "mqtt.host"),
        (Mqtt(tls=Tls("/nowhere/ca.pem", "c.pem", "k.pem")), "mqtt.tls.ca: /nowhere/ca.pem"),
    ],
)
def test_settings_that_can_never_work_are_refused(settings: Mqtt, said: str) -> None:
    """Plain MQTT off this machine, a bad host name and unreadable files end the start."""
    with pytest.raises(BusError, match=said):
        Bus(settings, "car", lambda _: None).start()
