"""Attacks on the shipped broker, short: floods, silent connections, borrowed names, open doors."""

import contextlib
import json
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from tests.conftest import Broker, free_port, repeatedly, wait_until
from tests.integration.installation import Installation
from tests.integration.test_bus import Bench
from tests.integration.test_security import Party, SecureBroker
from whodrives import clock
from whodrives.cli import doctor
from whodrives.config.schema import Config, Mqtt, ProfileFiles, Tls
from whodrives.core.events import Health
from whodrives.mqtt import link
from whodrives.mqtt.probe import probe
from whodrives.service.claim import Claim
from whodrives.trip.types import LinkState
from whodrives.vehicle.state import VehicleReport

pytestmark = pytest.mark.realtime

NETWORK = "127.0.0.2"
FLOOD_S = 8
OPEN_DOOR = "listener {port} 127.0.0.1\nallow_anonymous true\n"


def _tls(broker: SecureBroker) -> Tls:
    return Tls(**broker.tls())


@pytest.fixture
def shipped(tmp_path: Path) -> Iterator[Callable[..., SecureBroker]]:
    """Starts the shipped broker, with another file beside it if one is given."""
    started: list[SecureBroker] = []

    def start(**options: str) -> SecureBroker:
        started.append(SecureBroker(tmp_path / "broker", **options))
        return started[-1]

    yield start
    for broker in started:
        broker.stop()


@pytest.fixture
def bench(shipped: Callable[..., SecureBroker]) -> Iterator[Bench]:
    """A bus at the shipped broker, which has the second listener too."""
    broker = shipped(network=NETWORK)
    made = Bench(broker, tls=_tls(broker))
    yield made
    made.close()


# --- one client floods ----------------------------------------------------------------------------

FLOOD = """
    import ssl, socket, sys, time
    folder, host, port, seconds = sys.argv[1:]
    context = ssl.create_default_context(cafile=folder + "/ca.pem")
    context.load_cert_chain(folder + "/ecu.pem", folder + "/ecu-key.pem")
    plain = socket.create_connection((host, int(port)))
    tls = context.wrap_socket(plain, server_hostname=host)
    tls.sendall(bytes.fromhex("100d00044d5154540502003c000000"))
    tls.recv(100)
    topic = b"whodrives/car/preferences/result"
    body = len(topic).to_bytes(2, "big") + topic + bytes(1) + b"x" * 50
    many = (b"\\x30" + bytes([len(body)]) + body) * 200
    until = time.monotonic() + float(seconds)
    while time.monotonic() < until:
        tls.sendall(many)
"""


def test_a_flood_at_qos_0_leaves_nobody_deaf(bench: Bench) -> None:
    """Whoever floods with a certificate: the daemon hears the car again soon after it ends."""
    broker = bench.broker
    bench.connect()
    gateway = Party(broker, "gateway")
    arguments = [str(broker.folder), broker.host, str(broker.port), str(FLOOD_S)]
    command = [sys.executable, "-c", textwrap.dedent(FLOOD), *arguments]
    with subprocess.Popen(command) as flood:
        bench.until(lambda: flood.poll() is not None, "the flood is over")
    assert flood.returncode == 0
    ended_s = clock.now_s()

    def heard() -> bool:
        now = datetime.now(UTC).isoformat()
        signals = {"Vehicle.Speed": {"value": 0, "time": now}}
        body = json.dumps({"schema": 1, "signals": signals})
        gateway.client.publish("whodrives/car/vehicle", body, 1)
        time.sleep(0.05)
        return bench.linked() and any(r.at_s > ended_s + 1 for r in bench.of(VehicleReport))

    bench.until(heard, "the car is heard again")
    gateway.close()


class Relay:
    """A way to the broker that lets nothing back while it is `closed`."""

    host = "127.0.0.1"

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.closed = threading.Event()
        self._server = socket.create_server((self.host, 0))
        self.port: int = self._server.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection((self.broker.host, self.broker.port))
                self._ends += [near, far]
                self._start(self._pass, near, far, None)
                self._start(self._pass, far, near, self.closed)

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket, gate: threading.Event | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if gate is None or not gate.is_set():
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End all connections."""
        for end in (self._server, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(5)
        for end in (self._server, *self._ends):
            end.close()


def test_a_daemon_that_hears_nothing_says_so_and_connects_anew(broker: Broker) -> None:
    """What it sends still arrives: `degraded` with the reason, then `online` once it hears."""
    relay = Relay(broker)
    bench = Bench(relay)
    bench.bus.publish(Health(clock.now_s()))
    bench.connect()
    direct = Bench(broker)
    ear = direct.ear()
    bench.until(lambda: ear.last("status"), "the status is heard")
    relay.closed.set()
    deaf_s = clock.now_s()
    bench.until(lambda: not bench.linked(), "the bus notices")
    assert clock.now_s() - deaf_s < link.ECHO_LIMIT_S + link.ECHO_EVERY_S + 2
    bench.until(lambda: ear.last("status")["state"] == "degraded", "the car is told")
    assert "the broker has delivered nothing" in ear.last("status")["reasons"][-1]
    time.sleep(1.0)
    assert ear.last("status")["state"] == "degraded"
    relay.closed.clear()
    bench.until(bench.linked, "the bus is connected again")
    bench.until(lambda: ear.last("status")["state"] == "online", "the car is told")
    bench.close()
    direct.close()
    relay.close()


def test_a_broker_that_forbids_the_echo_is_used_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An older ACL does not know the topic: that is logged with the fix."""
    acl = tmp_path / "acl"
    acl.write_text("topic write whodrives/+/status\ntopic read whodrives/+/vehicle\n")
    broker = Broker(tmp_path)
    with (tmp_path / "mosquitto.conf").open("a") as config:
        config.write(f"acl_file {acl}\nuser root\n")
    broker.start()
    bench = Bench(broker)
    bench.connect()
    bench.close()
    broker.stop()
    assert "let our user write and read whodrives/car/echo" in caplog.text


def test_an_old_or_foreign_echo_proves_nothing(broker: Broker) -> None:
    """What others publish there is neither an echo of ours nor a harm."""
    bench = Bench(broker)
    bench.connect()
    ear = bench.ear()
    for payload in (b"", b"[]", b"{}", b'{"echo": "x", "sent_s": 1e300}', b'{"echo": 1}', b"\xff"):
        ear.say("echo", payload, retain=True)
    bench.until(lambda: len(ear.on("echo")) > 8, "the daemon's own go on")
    assert bench.linked()
    assert bench.bus.counters.connections == 1
    bench.close()


# --- connections that say nothing -----------------------------------------------------------------


def _silent(host: str, port: int, count: int) -> list[socket.socket]:
    return [socket.create_connection((host, port), timeout=5) for _ in range(count)]


def test_silent_connections_do_not_keep_the_daemon_out(bench: Bench) -> None:
    """Neither 64 on this machine nor any number from the car's network."""
    broker = bench.broker
    silent = _silent(broker.host, broker.port, 64) + _silent(NETWORK, broker.port, 300)
    time.sleep(0.5)
    (refused,) = _silent(NETWORK, broker.port, 1)
    assert refused.recv(1) == b"", "the network's listener is full"
    silent.append(refused)
    started_s = clock.now_s()
    bench.connect()
    assert clock.now_s() - started_s < 5
    for connection in silent:
        connection.close()


# --- a client comes under another's name ----------------------------------------------------------


@pytest.mark.parametrize("identity", ["whodrives-car", "whodrives"])
def test_nobody_takes_the_daemons_connection_over(bench: Bench, identity: str) -> None:
    """A reader's certificate with the daemon's client id is still the reader."""
    bench.connect()
    for _ in range(3):
        thief = Party(bench.broker, "monitor", identity)
        thief.close()
    ear = Party(bench.broker, "monitor")
    bench.bus.publish(Health(clock.now_s()))
    bench.until(lambda: ear.heard, "the daemon still speaks")
    assert bench.linked()
    assert bench.bus.counters.connections == 1
    ear.close()


def test_doctor_does_not_take_the_daemons_connection_over(bench: Bench) -> None:
    """It has the daemon's certificate, and asks without taking its place."""
    bench.connect()
    settings = Mqtt(bench.broker.host, bench.broker.port, tls=_tls(bench.broker))
    assert probe(settings, 10.0) is None
    time.sleep(0.5)
    bench.bus.poll(clock.now_s())
    assert bench.linked()
    assert bench.bus.counters.connections == 1
    assert not [i for i in bench.of(LinkState) if not i.connected]


def test_doctor_leaves_the_reports_of_the_car_to_the_daemon_that_runs(
    bench: Bench, tmp_path: Path
) -> None:
    """To hear them itself it would log in with the daemon's certificate and end its connection."""
    bench.connect()
    settings = Mqtt(bench.broker.host, bench.broker.port, tls=_tls(bench.broker))
    files = ProfileFiles(str(tmp_path / "profiles"), str(tmp_path / "key"))
    config = Config(mqtt=settings, profiles=files)
    with contextlib.closing(Claim()) as claim:
        claim.take(config)
        with repeatedly(lambda: claim.tend(()), 0.05):
            (found,) = doctor._car(config)
    assert found.well
    assert "hears its reports" in found.found
    bench.bus.poll(clock.now_s())
    assert bench.linked()
    assert bench.bus.counters.connections == 1


# --- another file of conf.d opens a door ----------------------------------------------------------


def _open(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def _asks_for_a_seat(port: int, username: str | None) -> bool:
    """Whether somebody without a certificate may write a request, at QoS 1."""
    answers: list[bool] = []
    client = Client(CallbackAPIVersion.VERSION2, "", protocol=MQTTv5, reconnect_on_failure=False)
    if username is not None:
        client.username_pw_set(username)
    client.on_connect_fail = lambda *_: answers.append(False)
    client.on_disconnect = lambda *_: answers.append(False)
    client.on_publish = lambda _c, _d, _m, code, _p: answers.append(not code.is_failure)
    client.on_connect = lambda c, _d, _f, code, _p: (
        answers.append(False)
        if code.is_failure
        else c.publish("whodrives/car/preferences/apply", "{}", 1)
    )
    wait_until(lambda: _open(port), "the other listener is there")
    client.connect("127.0.0.1", port)
    client.loop_start()
    wait_until(lambda: bool(answers), "the broker answers")
    client.disconnect()
    client.loop_stop()
    return answers[0]


@pytest.mark.parametrize("username", [None, "whodrives", "ecu"])
def test_a_listener_that_another_file_adds_opens_nothing(
    shipped: Callable[..., SecureBroker], username: str | None
) -> None:
    """Anonymous, or under a role's name without its certificate: no request can be written."""
    port = free_port()
    shipped(beside=OPEN_DOOR.format(port=port))
    assert not _asks_for_a_seat(port, username)


@pytest.mark.parametrize(
    "beside",
    ["per_listener_settings true", "acl_file /dev/null", "password_file /dev/null"],
)
def test_another_file_cannot_replace_the_rights(
    shipped: Callable[..., SecureBroker], beside: str
) -> None:
    """A broker whose rights would not be ours does not start, and says why."""
    broker = shipped(beside=f"{beside}\n")
    assert broker.ended
    log = (broker.folder / "mosquitto.log").read_text()
    assert "Error: " in log
    assert beside.split(maxsplit=1)[0] in log


@pytest.mark.parametrize("beside", ["", OPEN_DOOR])
def test_doctor_finds_the_open_door(
    shipped: Callable[..., SecureBroker], tmp_path: Path, beside: str
) -> None:
    """It tries to get in without a certificate, on every port of this machine, and fails loudly."""
    port = free_port()
    broker = shipped(beside=beside.format(port=port))
    if beside:
        wait_until(lambda: _open(port), "the other listener is there")
    installation = Installation(tmp_path)
    installation.configure(mqtt={"port": broker.port, "tls": broker.tls()})
    said = installation.run("doctor").stdout
    assert f"127.0.0.1:{broker.port} accepts us" in said
    # Other tests' brokers on this machine may be open, and are told as well.
    assert (f"✗ strangers: 127.0.0.1:{port} accepts anyone" in said) == bool(beside)
    assert f"127.0.0.1:{broker.port} accepts anyone" not in said


def test_the_doctor_of_an_open_broker_on_this_machine_is_told_what_that_means(
    broker: Broker, tmp_path: Path
) -> None:
    """Plain MQTT on loopback is allowed, and what it means is said."""
    installation = Installation(tmp_path)
    installation.configure(mqtt={"port": broker.port})
    said = installation.run("doctor").stdout
    assert f"✓ strangers: 127.0.0.1:{broker.port} accepts every program on this machine" in said
