"""A daemon as systemd runs it, with a broker and the rest of the car, for tests to try it on."""

import contextlib
import json
import os
import re
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from tests.conftest import Broker, repeatedly
from tests.integration.installation import POSITION, Installation
from tools.lab.corpus import read_sound
from tools.schemas import checked

PATIENCE_S = 25.0
STANDING = {
    "Vehicle.Speed": 0,
    "Vehicle.Powertrain.Transmission.SelectedGear": 126,
    "Vehicle.Cabin.Door.Row1.DriverSide.IsOpen": False,
    "Vehicle.Cabin.Seat.Row1.DriverSide.OccupancyStatus": "OCCUPIED",
    "Vehicle.LowVoltageSystemState": "ON",
}


def pcm(path: Path) -> bytes:
    """A sentence and the pause that ends it, as `arecord -t raw` gives them."""
    heard = read_sound(path)
    quiet = np.random.default_rng(1).normal(0, 1e-4, 16_000)
    return (np.concatenate([quiet, heard, quiet]) * 32767).astype("<i2").tobytes()


class Car:
    """An integrator's MQTT client: it reports a parked car, and remembers what it is told."""

    def __init__(self, broker: Broker) -> None:
        self.heard: list[MQTTMessage] = []
        self._broker = broker
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self._client.on_message = self._take
        self._client.connect(broker.host, broker.port)
        self._client.subscribe("whodrives/#", qos=1)
        self._client.loop_start()

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()

    def last(self, topic: str) -> Any:
        """The last body on a topic; {} if there is none or it was cleared."""
        return (self.all(topic) or [{}])[-1]

    def all(self, topic: str) -> list[Any]:
        """All bodies on a topic; {} where it was cleared."""
        bodies = [m.payload for m in self.heard if m.topic == f"whodrives/car/{topic}"]
        return [json.loads(body) if body else {} for body in bodies]

    def status(self) -> tuple[str | None, list[str]]:
        """The last state and its reasons."""
        return (self.statuses() or [(None, [])])[-1]

    def statuses(self) -> list[tuple[str | None, list[str]]]:
        """All states and their reasons."""
        return [(body.get("state"), body.get("reasons", [])) for body in self.all("status")]

    def until(self, ready: Callable[[], object], what: str) -> None:
        """Report the parked car until something is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not ready():
            if time.monotonic() > deadline:
                told = [(m.topic, m.payload) for m in self.heard]
                pytest.fail(f"waited {PATIENCE_S:.0f} s in vain until {what}; told: {told}")
            self._report()
            time.sleep(0.1)

    def reporting(self) -> contextlib.AbstractContextManager[None]:
        """Report the parked car for as long as the block runs."""
        return repeatedly(self._report, 0.2)

    def _take(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        if not message.topic.endswith("/vehicle"):
            self.heard.append(message)

    def _report(self) -> None:
        now = datetime.now(UTC).isoformat()
        signals = {path: {"value": value, "time": now} for path, value in STANDING.items()}
        body = checked("vehicle", {"schema": 1, "signals": signals})
        self._client.publish("whodrives/car/vehicle", body, qos=1)


class Running:
    """A running daemon, with its log, its standard input and what it tells systemd."""

    def __init__(self, installation: Installation, env: Mapping[str, str] = os.environ) -> None:
        folder = installation.folder
        self.log_file = folder / "daemon.log"
        self._notified = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                installation.command("run"),
                stdin=subprocess.PIPE,
                stderr=log,
                env={**env, "NOTIFY_SOCKET": str(folder / "notify")},
            )

    @property
    def pipe(self) -> IO[bytes]:
        """Its standard input."""
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def log(self) -> str:
        """All that it has logged."""
        return self.log_file.read_text(encoding="utf-8")

    @property
    def health(self) -> str:
        """The state that it logged last."""
        states: list[str] = re.findall(r"event=health state=(\w+)", self.log)
        return states[-1]

    def say(self, sound: bytes) -> None:
        """Speak into the pipe."""
        self.pipe.write(sound)
        self.pipe.flush()

    def notified(self, line: str) -> None:
        """Return once systemd has been told this line, from now on."""
        deadline = time.monotonic() + PATIENCE_S
        while line not in self._notified.decode().splitlines():
            left_s = deadline - time.monotonic()
            if not select.select([self._socket], [], [], max(left_s, 0))[0]:
                pytest.fail(f"systemd was not told {line!r} but {self._notified!r}\n{self.log}")
            self._notified += b"\n" + self._socket.recv(4096)
        self._notified = b""

    def notified_within(self, seconds: float) -> list[str]:
        """What systemd is told from now on, for so long."""
        while select.select([self._socket], [], [], 0.0)[0]:
            self._socket.recv(4096)
        time.sleep(seconds)
        told: list[str] = []
        while select.select([self._socket], [], [], 0.0)[0]:
            told += self._socket.recv(4096).decode().splitlines()
        return told

    def logged(self, text: str) -> None:
        """Return once the log holds this."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.log:
            if time.monotonic() > deadline:
                pytest.fail(f"{text!r} was not logged:\n{self.log}")
            time.sleep(0.05)

    def ended(self) -> int:
        """The exit code, within patience."""
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """Leave nothing behind."""
        self.process.kill()
        self.process.wait()
        self.pipe.close()
        self._socket.close()


@pytest.fixture(scope="module")
def household(tmp_path_factory: pytest.TempPathFactory, voices: Path) -> Installation:
    """An installation with one driver, to be copied."""
    installation = Installation(tmp_path_factory.mktemp("household"))
    installation.enrol("Quirina Zabel", voices / "af_bella", **{POSITION: 120})
    return installation


@pytest.fixture
def installed(household: Installation, broker: Broker, tmp_path: Path) -> Installation:
    """That household at a broker, listening to a pipe."""
    (tmp_path / "profiles").mkdir(mode=0o700)
    for name, data in household.stored().items():
        folder = tmp_path if name == "profile-key" else tmp_path / "profiles"
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)
    installation = Installation(tmp_path)
    installation.configure(mqtt={"port": broker.port}, sound={"source": "-"})
    return installation


@pytest.fixture
def car(broker: Broker) -> Iterator[Car]:
    """The rest of the car."""
    client = Car(broker)
    yield client
    client.close()


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    """Starts daemons, and sees to it that they end."""
    started: list[Running] = []

    def start(installation: Installation, env: Mapping[str, str] = os.environ) -> Running:
        started.append(Running(installation, env))
        started[-1].notified("READY=1")
        return started[-1]

    yield start
    for daemon in started:
        daemon.close()


Start = Callable[..., Running]
