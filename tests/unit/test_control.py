"""The control socket: a head unit's commands from this machine; no client costs the daemon much."""

import json
import os
import socket
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whodrives.config.schema import Vehicle
from whodrives.core.events import Health, Input, RefusedCommand
from whodrives.enrolment.types import Enrol
from whodrives.service.control import (
    MOST_CLIENTS,
    MOST_LINE_BYTES,
    MOST_WAITING_BYTES,
    Control,
    ControlSocket,
)
from whodrives.trip.types import Cancel, DriverState

PATIENCE_S = 10.0


class Bench:
    """A control socket, and what it put and was told."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "control-car.sock"
        self.inputs: list[Input] = []
        self.reloads = 0
        self.control = ControlSocket(self.path, Vehicle(), self.inputs.append, self._reload)
        self.control.start()
        self._clients: list[socket.socket] = []

    def _reload(self) -> None:
        self.reloads += 1

    def open(self) -> socket.socket:
        """A connection."""
        self._clients.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        self._clients[-1].connect(str(self.path))
        return self._clients[-1]

    def connect(self) -> Control:
        """A client."""
        return Control(self.open())

    def close(self) -> None:
        """Leave nothing open."""
        self.control.close()
        for client in self._clients:
            client.close()

    def until(self, ready: Callable[[], object]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not ready():
            assert time.monotonic() < deadline
            time.sleep(0.005)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A control socket that listens."""
    made = Bench(tmp_path)
    yield made
    made.close()


def command(**more: Any) -> dict[str, Any]:
    """A command's payload."""
    now = datetime.now(UTC).isoformat()
    return {"schema": 1, "command_id": str(uuid.uuid4()), "issued_at": now} | more


def enrol(**more: Any) -> dict[str, Any]:
    """A command to enrol."""
    agreed = {"by": "terminal", "text": "v1"}
    return command(driver=None, consent=agreed) | more


def first(client: Control, topic: str) -> Any:
    """The next payload of this topic."""
    return next(payload for name, payload in client.messages(PATIENCE_S) if name == topic)


def test_a_command_is_that_of_a_head_unit(bench: Bench) -> None:
    """Enrolling too, which a plain connection to the broker may not: the kernel knows the peer."""
    client = bench.connect()
    client.send("command/enrol", enrol())
    client.send("command/cancel", command())
    bench.until(lambda: len(bench.inputs) == 2)
    assert [type(item) for item in bench.inputs] == [Enrol, Cancel]
    client.reload()
    assert bench.reloads == 1


def test_a_command_is_not_obeyed_twice(bench: Bench) -> None:
    """Its id is remembered, as it is on the bus."""
    client, wish = bench.connect(), enrol()
    client.send("command/enrol", wish)
    client.send("command/enrol", wish)
    client.reload()
    assert len(bench.inputs) == 1


def test_a_refused_command_is_answered_with_its_id(bench: Bench) -> None:
    """As on the bus: over the inbox, so that the answer comes in the right order."""
    client, wish = bench.connect(), enrol(consent={"by": "a name", "text": "v1"})
    client.send("command/enrol", wish)
    bench.until(lambda: bench.inputs)
    (refused,) = bench.inputs
    assert isinstance(refused, RefusedCommand)
    assert refused.command == wish["command_id"]
    assert "consent.by" in refused.reason


@pytest.mark.parametrize(
    ("topic", "payload", "said"),
    [
        ("vehicle", {"schema": 1, "signals": {}}, "is not command/... or reload"),
        ("preferences/result", {}, "is not command/... or reload"),
        ("command/nothing", command(), "is not a topic that is read"),
        ("command/enrol", None, "command/enrol"),
    ],
)
def test_what_is_no_command_is_refused(
    topic: str, payload: dict[str, Any] | None, said: str, bench: Bench
) -> None:
    """A terminal cannot speak for the car or an ECU."""
    client = bench.connect()
    client.send(topic, payload)
    assert said in first(client, "error")["reason"]
    assert not bench.inputs


def test_a_client_hears_what_the_car_hears(bench: Bench) -> None:
    """Beginning with the states as they are now."""
    bench.control.tell(Health(1.0, ("source: unplugged",)))
    bench.control.tell(DriverState(1.0))
    early = bench.connect()
    assert first(early, "status")["reasons"] == ["source: unplugged"]
    bench.control.tell(Health(2.0))
    assert first(early, "status")["state"] == "online"
    late = bench.connect()
    assert first(late, "status")["state"] == "online"


def test_nobody_else_may_connect(bench: Bench, tmp_path: Path) -> None:
    """The mode of the socket is the daemon's user's alone, and a service's group's."""
    assert stat.S_IMODE(bench.path.stat().st_mode) == 0o600
    folder = tmp_path / "service"
    folder.mkdir()
    shared = ControlSocket(folder / "s", Vehicle(), print, lambda: None, shared=True)
    shared.start()
    assert stat.S_IMODE((folder / "s").stat().st_mode) == 0o660
    shared.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_cannot_connect(bench: Bench) -> None:
    """Even where the folder lets everybody in."""
    for folder in (bench.path.parent, *bench.path.parent.parents[:3]):
        folder.chmod(0o755)
    child = os.fork()
    if not child:
        os.setgid(65534)
        os.setuid(65534)
        try:
            bench.connect()
        except PermissionError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_socket_that_a_killed_daemon_left_is_replaced(tmp_path: Path) -> None:
    """The claim has made sure that nobody listens there."""
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(str(tmp_path / "left"))
    left.close()
    again = ControlSocket(tmp_path / "left", Vehicle(), print, lambda: None)
    again.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(tmp_path / "left"))
    again.close()
    assert not (tmp_path / "left").exists()


def test_a_long_path_works(tmp_path: Path) -> None:
    """A home folder may be deeper than a socket's address is long."""
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    control = ControlSocket(folder / "control-car.sock", Vehicle(), print, lambda: None)
    control.start()
    assert (folder / "control-car.sock").is_socket()
    control.close()


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The daemon does its work without terminals, and says so."""
    (tmp_path / "file").touch()
    control = ControlSocket(tmp_path / "file" / "s", Vehicle(), print, lambda: None)
    control.start()
    control.tell(Health(1.0))
    control.close()
    assert "event=no_control" in caplog.text


def test_many_connections_cost_the_oldest(bench: Bench) -> None:
    """The newest client is served, however many others hold on."""
    clients = [bench.connect() for _ in range(200)]
    clients[-1].reload()
    assert len(bench.control._clients) <= MOST_CLIENTS


def test_a_client_that_reads_nothing_is_closed(bench: Bench) -> None:
    """The loop never waits for it, and keeps a bounded amount."""
    bench.open()
    bench.until(lambda: bench.control._clients)
    reasons = ("source: " + "x" * 400,) * 8
    told = 0
    while bench.control._clients:
        bench.control.tell(Health(float(told), reasons))
        told += 1
        assert told * 1000 < 20 * MOST_WAITING_BYTES


@pytest.mark.parametrize("line", [b"x" * (3 * MOST_LINE_BYTES), b"{" * (3 * MOST_LINE_BYTES)])
def test_a_line_without_end_closes_the_connection(line: bytes, bench: Bench) -> None:
    """It is not kept."""
    connection = bench.open()
    connection.settimeout(PATIENCE_S)
    try:
        connection.sendall(line)
        ended = connection.recv(1) == b""
    except (BrokenPipeError, ConnectionResetError):
        ended = True
    assert ended


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
LINES = st.binary(max_size=200) | st.builds(
    lambda topic, payload: json.dumps({"topic": topic, "payload": payload}).encode(),
    st.sampled_from(["command/enrol", "command/driver", "reload", "vehicle", "", "command/"]),
    JSON,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(lines=st.lists(LINES, max_size=5))
def test_no_line_ends_the_socket(lines: list[bytes], bench: Bench) -> None:
    """Whatever a client sends, the next one is served."""
    client = bench.connect()
    before = bench.reloads
    client._connection.sendall(b"\n".join(lines) + b"\n")
    client.reload()
    assert bench.reloads > before
    client.close()
