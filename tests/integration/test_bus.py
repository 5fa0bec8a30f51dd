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
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from tools.schemas import checked
from whodrives import clock
from whodrives.config.schema import Mqtt, Tls, Vehicle
from whodrives.core.events import Health, Input, RefusedCommand
from whodrives.errors import BusError
from whodrives.mqtt.bus import Bus
from whodrives.mqtt.encode import Vitals
from whodrives.mqtt.probe import probe
from whodrives.store.journal import Commands
from whodrives.trip.types import (
    Apply,
    Cancel,
    CancelRequest,
    Choose,
    CommandResult,
    DriverState,
    Forget,
    LinkState,
    Listen,
    Position,
    RequestResult,
    Save,
    SavePreferences,
    Tick,
    UnmatchedResult,
)
from whodrives.vehicle.state import VehicleReport
from whodrives.voice.types import Evidence, Match, Outcome, Recognition, Verdict

pytestmark = pytest.mark.realtime

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
        raw = payload if isinstance(payload, bytes) else checked(topic, payload)
        self.client.publish(f"whodrives/car/{topic}", raw, 1, retain)

    def close(self) -> None:
        """Leave."""
        self.client.disconnect()
        self.client.loop_stop()


class Bench:
    """A bus at a broker, polled as the service does, and everything it puts into the inbox."""

    def __init__(self, broker: Any, *, memory: Commands | None = None, **options: Any) -> None:
        self.broker = broker
        self.inbox: queue.SimpleQueue[Input] = queue.SimpleQueue()
        settings = Mqtt(broker.host, broker.port, **options)
        self.bus = Bus(settings, Vehicle(), self.inbox.put, self.vitals, memory)
        self.inputs: list[Input] = []
        self.ears: list[Ear] = []

    @staticmethod
    def vitals() -> Vitals:
        """What the rest of a daemon would say of itself."""
        return Vitals(requests=2, backlog=7, encoder="ab" * 32, silent_s=60.99)

    def until(self, ready: Callable[[], object], what: str) -> None:
        """Poll the bus until something is so."""
        deadline = clock.now_s() + PATIENCE_S
        while not ready():
            if clock.now_s() > deadline:
                pytest.fail(f"waited {PATIENCE_S:.0f} s in vain until {what}")
            self.bus.poll(clock.now_s())
            while not self.inbox.empty():
                self.inputs.append(self.inbox.get())
                if isinstance(refused := self.inputs[-1], RefusedCommand) and self.bus.room:
                    self.bus.publish(CommandResult(refused.at_s, refused.command, refused.reason))
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


@pytest.fixture(autouse=True)
def at_work_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the tests of two daemons wait until a connection has stood for a while."""
    if "two_daemons" not in request.node.name:
        monkeypatch.setattr("whodrives.mqtt.takeover.PROBATION_S", 0.0)


@pytest.fixture
def bench(broker: Any) -> Iterator[Bench]:
    """A bus that is not started yet, at a running broker."""
    made = Bench(broker)
    yield made
    made.close()


@pytest.fixture
def others(broker: Any) -> Iterator[Bench]:
    """The same with Home Assistant and Velocitas on."""
    made = Bench(broker, home_assistant=True, velocitas=True)
    yield made
    made.close()


def _driver(**more: Any) -> DriverState:
    now_s = clock.now_s()
    return DriverState(now_s, "d-7f3a", now_s, 0.99, trip_open=True, **more)


def _apply(age_s: float = 0.0) -> Apply:
    return Apply(clock.now_s() - age_s, str(uuid.uuid4()), "d-7f3a", {SEAT: 120.0})


def _command(command: str, age_s: float = 0.0, **more: object) -> dict[str, Any]:
    return {"schema": 1, "command_id": command, "issued_at": _iso(age_s), **more}


def _recognition() -> Recognition:
    now_s = clock.now_s()
    evidence = Evidence((Match("d-7f3a", 0.7, 6.0),), 2.0, 12.0, now_s)
    return Recognition(now_s, Verdict(Outcome.KNOWN, "d-7f3a", evidence, 0.99))


def _iso(age_s: float = 0.0) -> str:
    return datetime.fromtimestamp(time.time() - age_s, UTC).isoformat()


def test_a_connection_that_changes_wakes_whoever_waits(bench: Bench, broker: Any) -> None:
    """Nobody has to poll to know when to: what is ready, or gone, puts an input."""
    bench.bus.start()
    assert isinstance(bench.inbox.get(timeout=PATIENCE_S), Tick)
    bench.until(bench.linked, "the bus is connected")
    broker.stop()
    assert isinstance(bench.inbox.get(timeout=PATIENCE_S), Tick)
    assert bench.linked()
    bench.bus.poll(clock.now_s())
    assert isinstance(bench.inbox.get(timeout=PATIENCE_S), LinkState)


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


def test_a_request_that_is_made_again_keeps_its_name(bench: Bench) -> None:
    """The name is the core's: the bus makes none of its own."""
    bench.connect()
    ear = bench.ear()
    first = _apply()
    bench.bus.publish(first)
    bench.bus.publish(replace(first, at_s=first.at_s + 0.01))
    bench.until(lambda: len(ear.on("preferences/apply")) == 2, "both copies arrive")
    bodies = [json.loads(m.payload) for m in ear.on("preferences/apply")]
    assert {body["request_id"] for body in bodies} == {first.request}
    assert bodies[0]["issued_at"] < bodies[1]["issued_at"]


def test_a_withdrawal_reaches_the_ecu(bench: Bench) -> None:
    """It names the request in the correlation data, expires, and is not kept."""
    bench.connect()
    ear = bench.ear()
    request = str(uuid.uuid4())
    assert bench.bus.publish(CancelRequest(clock.now_s(), request, "manual"))
    bench.until(lambda: ear.on("preferences/cancel"), "the withdrawal arrives")
    (message,) = ear.on("preferences/cancel")
    properties: Any = message.properties
    assert properties.CorrelationData.decode() == request
    assert 0 < properties.MessageExpiryInterval <= 3
    assert (message.qos, message.retain) == (1, False)
    assert ear.last("preferences/cancel")["reason"] == "manual"


def test_what_is_not_fit_to_be_said_is_not_said(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A position that no ECU takes is dropped, counted and logged, and the bus goes on."""
    bench.connect()
    ear = bench.ear()
    assert not bench.bus.publish(replace(_apply(), signals={SEAT: 9_999.0}))
    assert bench.bus.counters.dropped == 1
    assert "event=message_unfit" in caplog.text
    assert bench.bus.publish(_apply())
    bench.until(lambda: ear.on("preferences/apply"), "the next request arrives")
    assert len(ear.on("preferences/apply")) == 1


def test_what_the_service_carries_out_is_not_said(bench: Bench) -> None:
    """Events that are not the bus's are neither sent nor counted as lost."""
    bench.connect()
    for event in (SavePreferences(0.0, "c", "d-1", {}), Forget(0.0, "c", "d-1")):
        assert not bench.bus.publish(event)
    assert bench.bus.counters.dropped == 0


def test_nothing_of_a_request_or_a_recognition_stays_at_the_broker(bench: Bench) -> None:
    """A later subscriber finds status, driver and metrics, and nothing else."""
    bench.connect()
    first = bench.ear()
    for event in (Health(clock.now_s()), _driver(), _recognition(), _apply()):
        assert bench.bus.publish(event)
    bench.until(lambda: first.on("preferences/apply"), "the request arrives")
    (recognition,) = first.on("recognition")
    expiry: Any = recognition.properties
    assert 0 < expiry.MessageExpiryInterval <= 10
    assert not recognition.retain
    later = bench.ear()
    bench.until(lambda: len(later.heard) >= 3, "the retained messages arrive")
    assert {m.topic.removeprefix("whodrives/car/") for m in later.heard} == {
        *("status", "driver", "metrics")
    }
    assert all(m.retain for m in later.heard)


def test_a_killed_daemon_is_offline(bench: Bench) -> None:
    """A kill -9 leaves `offline` in the retained status: the last will."""
    program = (
        "import sys, time\n"
        "from whodrives import clock\n"
        "from whodrives.config.schema import Mqtt, Vehicle\n"
        "from whodrives.core.events import Health\n"
        "from whodrives.mqtt.bus import Bus\n"
        "bus = Bus(Mqtt(port=int(sys.argv[1])), Vehicle(), lambda news: None)\n"
        "bus.start()\n"
        "bus.publish(Health(clock.now_s()))\n"
        "while True:\n"
        "    bus.poll(clock.now_s())\n"
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
    bench.bus.publish(Health(clock.now_s()))
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
    ear.say("driver", b'{"schema": 1, "driver": "d-old"}', retain=True)
    bench.until(lambda: ear.on("driver"), "the old driver is there")
    bench.connect()
    bench.until(lambda: ear.last("driver") == "", "the old driver is removed")


def test_a_half_open_predecessor_does_not_declare_us_dead(bench: Bench) -> None:
    """The will of a connection that we replace comes before our own greeting."""
    predecessor = Bench(bench.broker)
    predecessor.connect()
    ear = bench.ear()
    bench.bus.publish(Health(clock.now_s()))
    bench.connect()
    bench.until(lambda: len(ear.on("status")) >= 2, "the will and the greeting arrive")
    # Nobody has polled it since: it could not come back.
    predecessor.close()
    assert bench.bus.publish(Health(clock.now_s()))
    bench.until(lambda: len(ear.on("status")) >= 3, "all three arrive")
    states = [json.loads(message.payload)["state"] for message in ear.on("status")]
    assert states == ["offline", "online", "online"]


def test_of_two_daemons_the_second_steps_back_and_asks_for_nothing(broker: Any) -> None:
    """On two machines no lock helps: the broker throws one out, and they do not go on with that."""
    first, second = Bench(broker), Bench(broker)
    try:
        first.connect()
        ear = first.ear()
        second.bus.start()
        until_s = clock.now_s() + 10.0
        asked = 0
        while clock.now_s() < until_s:
            for each in (first, second):
                each.bus.poll(clock.now_s())
                while not each.inbox.empty():
                    each.inputs.append(each.inbox.get())
            asked += second.bus.publish(_apply())
            time.sleep(0.01)
        news = second.of(LinkState)
        assert [n.connected for n in news] == [False]
        assert "another whodrives serves this car" in news[0].rival
        assert asked == 0
        assert first.linked()
        assert "stop the other whodrives" in first.of(LinkState)[-1].rival
        assert first.bus.counters.connections == 2
        assert first.bus.publish(_apply())
        first.until(lambda: ear.on("preferences/apply"), "the first still asks")
    finally:
        second.close()
        first.close()


def test_broker_restart_brings_back_the_facts_only(bench: Bench) -> None:
    """After the broker lost everything: status and driver are there, an earlier Apply is not."""
    bench.connect()
    bench.bus.publish(Health(clock.now_s(), ("microphone",)))
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
    """Unacknowledged messages do not pile up: the connection ends, and the last state stands."""
    bench.connect()
    process = bench.broker._process
    process.send_signal(signal.SIGSTOP)
    try:
        sent = [bench.bus.publish(_driver(waiting_for=(str(n),))) for n in range(25)]
        assert sent == sorted(sent, reverse=True)
        assert 10 <= sum(sent) < 20  # the rest is room for answers and requests
        assert bench.bus.publish(_apply())
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


def test_a_request_does_not_survive_a_suspend(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decided, then the machine sleeps for 75 s, then it would be sent: it is dropped."""
    bench.connect()
    ear = bench.ear()
    decided, marker = _apply(), _apply()
    awake = clock.now_s
    monkeypatch.setattr(clock, "now_s", lambda: awake() + 75.0)
    assert bench.bus.publish(decided) is False
    assert bench.bus.publish(replace(marker, at_s=clock.now_s()))
    bench.until(lambda: ear.on("preferences/apply"), "the one that is of now arrives")
    assert ear.last("preferences/apply")["request_id"] == marker.request
    assert len(ear.on("preferences/apply")) == 1


def test_a_state_that_changes_all_the_time_breaks_no_connection(bench: Bench) -> None:
    """States wait for acknowledgements, the newest replaces the others, and it arrives."""
    bench.connect()
    ear = bench.ear()
    for number in range(300):
        bench.bus.publish(_driver(waiting_for=(str(number),)))
    bench.until(lambda: "299" in str(ear.last("driver")), "the newest state arrives")
    assert bench.bus.counters.connections == 1
    assert bench.bus.counters.dropped == 0


def test_a_broker_that_is_late_is_no_failure(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Started without a broker: one warning, retries in silence, one line when it heals."""
    bench.broker.stop()
    with caplog.at_level(logging.INFO, "whodrives.mqtt"):
        bench.bus.start()
        assert bench.bus.publish(Health(clock.now_s())) is False
        bench.until(lambda: bench.of(LinkState), "the first attempt fails")
        (news,) = bench.of(LinkState)
        assert not news.connected
        assert "refused" in news.reason
        again_s = clock.now_s() + 2.5
        bench.until(lambda: clock.now_s() > again_s, "it has tried again")
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
    monkeypatch.setattr("whodrives.mqtt.bus.RETRY_LAST_S", 0.02)
    bench.broker.stop()
    gc.disable()
    try:
        before = _clients()
        bench.bus.start()
        enough_s = clock.now_s() + 2.5
        bench.until(lambda: clock.now_s() > enough_s, "it has tried many times")
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
    assert first.at_s < clock.now_s() - 59
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


def test_commands_answers_and_positions_are_heard(bench: Bench) -> None:
    """What head unit and ECU say becomes inputs, each once."""
    bench.connect()
    ear = bench.ear()
    names = [str(uuid.uuid4()) for _ in range(4)]
    request = str(uuid.uuid4())
    ear.say("command/driver", _command(names[0], driver=None))
    ear.say("command/save", _command(names[1]))
    ear.say("command/save", _command(names[1]))
    ear.say("command/cancel", _command(names[2]))
    ear.say(
        "preferences/result",
        {"schema": 1, "time": _iso(), "request_id": request, "status": "completed", "reason": ""},
    )
    ear.say(
        "preferences/position",
        {"schema": 1, "time": _iso(), "moving": False, "signals": {SEAT: 99}},
        retain=True,
    )
    bench.until(lambda: bench.of(Position), "the position is heard")
    assert [c.driver for c in bench.of(Choose)] == [None]
    assert [c.command for c in bench.of(Save)] == [names[1]]
    assert [c.command for c in bench.of(Cancel)] == [names[2]]
    assert [(a.request, a.status) for a in bench.of(RequestResult)] == [(request, "completed")]
    assert bench.of(Position)[0].signals == {SEAT: 99.0}
    assert bench.bus.counters.replayed == 1
    assert bench.bus.counters.refused == 0


def test_a_retained_result_is_ignored(bench: Bench) -> None:
    """What became of a request in another life is stale."""
    ear = bench.ear()
    body = {"schema": 1, "time": _iso(), "request_id": str(uuid.uuid4()), "status": "completed"}
    ear.say("preferences/result", body, retain=True)
    bench.until(lambda: ear.on("preferences/result"), "the retained result is there")
    bench.connect()
    bench.until(lambda: bench.bus.counters.ignored == 1, "the retained result is ignored")
    assert bench.of(RequestResult) == []


def test_a_refused_command_is_answered(bench: Bench) -> None:
    """Too old, or one that erases on a plain connection: the head unit hears why."""
    bench.connect()
    ear = bench.ear()
    old, forget = str(uuid.uuid4()), str(uuid.uuid4())
    ear.say("command/save", _command(old, age_s=7.0))
    ear.say("command/forget", _command(forget, driver="d-7f3a"))
    bench.until(lambda: len(ear.on("command/result")) == 2, "both refusals arrive")
    bodies = [json.loads(message.payload) for message in ear.on("command/result")]
    assert [body["command_id"] for body in bodies] == [old, forget]
    assert {body["status"] for body in bodies} == {"refused"}
    assert "7.0 s old" in bodies[0]["reason"]
    assert "plain connection" in bodies[1]["reason"]
    assert bench.bus.counters.refused == 2
    assert bench.of(Save) == bench.of(Forget) == []


def test_a_flood_of_poor_commands_does_not_end_the_connection(bench: Bench) -> None:
    """Refusals are answered a few at a time and no more than can be remembered; the rest counts."""
    bench.connect()
    ear = bench.ear()
    for _ in range(300):
        ear.say("command/save", _command(str(uuid.uuid4()), age_s=60.0))
    bench.until(lambda: bench.bus.counters.refused == 300, "all are refused")
    bench.until(lambda: bench.bus.publish(_recognition()), "the bus still speaks")
    bench.until(lambda: ear.on("recognition"), "and is heard")
    assert bench.linked()
    assert bench.bus.counters.connections == 1
    assert 0 < len(ear.on("command/result")) <= 300


def test_a_command_is_not_obeyed_again_after_a_reconnect(bench: Bench) -> None:
    """What was heard before the connection broke is remembered when it is back."""
    bench.connect()
    name = str(uuid.uuid4())
    body = _command(name)
    ear = bench.ear()
    ear.say("command/save", body)
    bench.until(lambda: bench.of(Save), "the command is heard")
    bench.broker.stop()
    bench.until(lambda: not bench.linked(), "the loss is noticed")
    bench.broker.start()
    bench.until(bench.linked, "the bus is back")
    again = bench.ear()
    again.say("command/save", body)
    counters = bench.bus.counters
    bench.until(lambda: counters.replayed + counters.refused == 1, "the copy is noticed")
    assert len(bench.of(Save)) == 1


def test_a_command_is_not_obeyed_again_by_the_next_daemon(broker: Any, tmp_path: Path) -> None:
    """Its id outlives the daemon that obeyed it, however that ended."""
    name, heard = str(uuid.uuid4()), []
    for number in range(2):
        bench = Bench(broker, memory=Commands(tmp_path / "commands.json"))
        try:
            bench.connect()
            bench.ear().say("command/save", _command(name))
            counters = bench.bus.counters
            bench.until(lambda: bench.of(Save) or counters.replayed, "the command is heard")  # noqa: B023 (at once)
            heard.append((len(bench.of(Save)), counters.replayed))
        finally:
            bench.close()
        assert len(heard) == number + 1
    assert heard == [(1, 0), (0, 1)]


def test_metrics_are_said_at_once_and_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are retained and renewed, and hold the counters and what the daemon adds."""
    monkeypatch.setattr("whodrives.mqtt.bus.METRICS_S", 0.2)
    bench.connect()
    ear = bench.ear()
    ear.say("vehicle", b"rubbish")
    bench.bus.publish(UnmatchedResult(clock.now_s(), str(uuid.uuid4())))
    bench.until(
        lambda: (ear.last("metrics") or {"counters": {}})["counters"].get("refused") == 2,
        "the metrics tell of the rubbish and the stray result",
    )
    body = ear.last("metrics")
    assert (body["requests"], body["backlog"], body["encoder"]) == (2, 7, "ab" * 32)
    assert body["silent_s"] == 60
    assert body["counters"]["connections"] == 1
    assert len(ear.on("metrics")) >= 2
    later = bench.ear()
    bench.until(lambda: later.on("metrics"), "the metrics are retained")


def test_hostile_payloads_are_refused_and_counted(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Rubbish changes nothing, is told once a topic and cause; what is right after it is heard."""
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
    with caplog.at_level(logging.INFO, "whodrives.mqtt"):
        for payload in rubbish:
            ear.say("vehicle", payload)
        bench.until(lambda: bench.bus.counters.refused == len(rubbish), "all of it is refused")
        good = {"schema": 1, "signals": {"Vehicle.Speed": {"value": 0, "time": _iso()}}}
        ear.say("vehicle", good)
        bench.until(lambda: bench.of(VehicleReport), "the car is heard again")
    assert bench.linked()
    assert bench.bus.publish(_apply())
    causes = {"json", "size", "content", "future"}
    lines = [record.getMessage() for record in caplog.records]
    assert all(line.startswith("event=payload_refused") for line in lines)
    assert len(lines) <= len(causes)
    caplog.clear()
    bench.bus.stop()
    over = [record.getMessage() for record in caplog.records]
    assert sum(int(line.rpartition("=")[2]) for line in over) == len(rubbish) - len(lines)


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
    bench.bus.publish(Health(clock.now_s()))
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
        Bus(settings, Vehicle(), lambda _: None)


def test_other_worlds_are_left_alone_unless_asked_for(bench: Bench) -> None:
    """Without the options nothing is said outside our own subtree."""
    ear = bench.ear()
    bench.connect()
    bench.bus.publish(_apply())
    bench.until(lambda: ear.on("preferences/apply"), "the request arrives")
    assert {m.topic.partition("/")[0] for m in ear.heard} == {"whodrives"}


def test_home_assistant_finds_the_car_whenever_it_comes(others: Bench) -> None:
    """The descriptions are retained: a Home Assistant that starts later reads them too."""
    others.connect()
    late = others.ear()
    others.until(
        lambda: [m for m in late.heard if m.topic.startswith("homeassistant/")][2:],
        "three entities are described",
    )
    described = [m for m in late.heard if m.topic.startswith("homeassistant/")]
    assert all(m.retain and json.loads(m.payload)["unique_id"] for m in described)


def test_velocitas_seat_adjuster_is_asked_and_heard(others: Bench) -> None:
    """The seat's position goes to the seat adjuster too; its answers are answers to us."""
    ear = others.ear()
    others.connect()
    request = _apply()
    others.bus.publish(request)
    asked = "seatadjuster/setPosition/request"
    others.until(lambda: [m for m in ear.heard if m.topic == asked], "the adjuster is asked")
    [message] = [m for m in ear.heard if m.topic == asked]
    assert json.loads(message.payload) == {"requestId": request.request, "position": 480}
    assert message.properties.MessageExpiryInterval <= 3  # type: ignore[union-attr]
    done = {"requestId": request.request, "result": {"status": 0, "message": "Set Seat position"}}
    for topic, body in (("setPosition/response", done), ("currentPosition", {"position": 480})):
        ear.client.publish(f"seatadjuster/{topic}", json.dumps(body), 1)
    others.until(lambda: others.of(RequestResult)[1:], "both answers arrive")
    assert [(a.request, a.status) for a in others.of(RequestResult)] == [
        (request.request, "accepted"),
        (request.request, "completed"),
    ]


def test_a_retained_answer_of_the_seat_adjuster_is_ignored(others: Bench) -> None:
    """What was retained speaks of an earlier request."""
    ear = others.ear()
    ear.client.publish("seatadjuster/currentPosition", b'{"position": 1}', 1, retain=True)
    others.until(lambda: ear.heard, "the broker keeps it")
    others.connect()
    others.until(lambda: others.bus.counters.ignored, "it is ignored")
    assert others.of(RequestResult) == []


def test_a_hostile_seat_adjuster_is_refused_and_counted(others: Bench) -> None:
    """Its topics are read with the same care as ours."""
    ear = others.ear()
    others.connect()
    ear.client.publish("seatadjuster/setPosition/response", b"[" * 50_000, 1)
    others.until(lambda: others.bus.counters.refused == 1, "it is refused")
