"""The daemon as systemd runs it: a process, a real broker, sound from a pipe or a microphone."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from installation import POSITION, Installation
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from conftest import Broker, VirtualMicrophone
from whodrives.capture import read_file

PATIENCE_S = 25.0
STANDING = {
    "Vehicle.Speed": 0,
    "Vehicle.Powertrain.Transmission.SelectedGear": 126,
    "Vehicle.Cabin.Door.Row1.DriverSide.IsOpen": False,
    "Vehicle.Cabin.Seat.Row1.DriverSide.OccupancyStatus": "OCCUPIED",
    "Vehicle.LowVoltageSystemState": "ON",
}
LOG_LINE = re.compile(r"""level=[A-Z]+ from=[\w.]+ event=\w+( \w+=('[^']*'|"[^"]*"|\S+))*""")
NOBODY = "profiles: no driver is enrolled"


def pcm(path: Path) -> bytes:
    """A sentence and the pause that ends it, as `arecord -t raw` gives them."""
    heard = np.concatenate([block.samples for block in read_file(path)])
    quiet = np.random.default_rng(1).normal(0, 1e-4, 16_000)
    return (np.concatenate([quiet, heard, quiet]) * 32767).astype("<i2").tobytes()


class Car:
    """An integrator's MQTT client: it reports a parked car, and remembers what it is told."""

    def __init__(self, broker: Broker) -> None:
        self.heard: list[MQTTMessage] = []
        self._broker = broker
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self._client.on_message = lambda _client, _data, message: self.heard.append(message)
        self._client.connect(broker.host, broker.port)
        self._client.subscribe("whodrives/#", qos=1)
        self._client.loop_start()

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()

    def last(self, topic: str) -> Any:
        """The last body on a topic; {} if there is none or it was cleared."""
        bodies = [m.payload for m in self.heard if m.topic == f"whodrives/car/{topic}"]
        return json.loads(bodies[-1]) if bodies and bodies[-1] else {}

    def status(self) -> tuple[str | None, list[str]]:
        """The last state and its reasons."""
        body = self.last("status")
        return body.get("state"), body.get("reasons", [])

    def until(self, ready: Callable[[], object], what: str) -> None:
        """Report the parked car until something is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not ready():
            if time.monotonic() > deadline:
                told = [(m.topic, m.payload) for m in self.heard if "vehicle" not in m.topic]
                pytest.fail(f"waited {PATIENCE_S:.0f} s in vain until {what}; told: {told}")
            self._report()
            time.sleep(0.1)

    def _report(self) -> None:
        now = datetime.now(UTC).isoformat()
        signals = {path: {"value": value, "time": now} for path, value in STANDING.items()}
        body = json.dumps({"schema": 1, "signals": signals})
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


# --- the whole way --------------------------------------------------------------------------------


def test_a_driver_is_told_and_no_name_leaves(
    run: Start, installed: Installation, car: Car, voices: Path
) -> None:
    """A known voice moves the seat, and neither the log nor the bus ever hold a name."""
    daemon = run(installed)
    car.until(lambda: car.status() == ("online", []), "the daemon is online")
    daemon.say(pcm(voices / "af_bella" / "5.opus"))
    car.until(lambda: car.last("preferences/apply"), "the seat is asked to move")
    assert car.last("driver")["state"] == "known"
    assert car.last("preferences/apply")["signals"] == {POSITION: 120}
    daemon.process.send_signal(signal.SIGHUP)
    daemon.logged("event=reloaded enrolled=1 problems=0")
    daemon.pipe.close()
    assert daemon.ended() == 0
    car.until(lambda: car.status() == ("offline", ["stopped"]), "the daemon says that it ends")
    assert car.last("driver") == {}
    bus = b"".join(message.topic.encode() + message.payload for message in car.heard).decode()
    for name in ("Quirina", "Zabel"):
        assert name not in daemon.log + bus
    for line in daemon.log.splitlines():
        assert LOG_LINE.fullmatch(line), line


def test_a_household_of_nobody_runs_and_says_so(
    run: Start, installed: Installation, car: Car, voices: Path
) -> None:
    """Without drivers the daemon is degraded, hears people, and takes none of them for anybody."""
    for path in (installed.folder / "profiles").iterdir():
        path.unlink()
    daemon = run(installed)
    car.until(lambda: car.status() == ("degraded", [NOBODY]), "the reason is told")
    daemon.say(pcm(voices / "af_bella" / "5.opus"))
    car.until(lambda: car.last("recognition"), "an utterance is judged")
    assert car.last("recognition")["outcome"] == "unknown"
    assert car.last("driver").get("driver") is None


def test_a_reload_takes_in_who_was_enrolled_meanwhile(
    run: Start, installed: Installation, car: Car, voices: Path
) -> None:
    """SIGHUP is enough: the first sentence is a stranger's, the second one a driver's."""
    daemon = run(installed)
    daemon.say(pcm(voices / "bm_george" / "5.opus"))
    car.until(lambda: car.last("recognition"), "the stranger is judged")
    assert car.last("recognition")["driver"] is None
    driver = installed.enrol("George", voices / "bm_george")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.logged("event=reloaded enrolled=2")
    daemon.say(pcm(voices / "bm_george" / "6.opus"))
    car.until(lambda: car.last("recognition")["driver"] == driver, "the driver is known")


def test_a_reload_forgets_who_was_forgotten(
    run: Start, installed: Installation, car: Car, voices: Path
) -> None:
    """After `forget` and SIGHUP the voice is nobody's, and the status says that none is left."""
    daemon = run(installed)
    car.until(lambda: car.status() == ("online", []), "the daemon is online")
    assert installed.run("drivers", "forget", "Quirina Zabel").returncode == 0
    daemon.process.send_signal(signal.SIGHUP)
    car.until(lambda: car.status() == ("degraded", [NOBODY]), "nobody is left")
    daemon.say(pcm(voices / "af_bella" / "5.opus"))
    car.until(lambda: car.last("recognition"), "the voice is judged")
    assert car.last("recognition")["driver"] is None


# --- ends -----------------------------------------------------------------------------------------


def test_a_stop_is_told_to_the_car(run: Start, installed: Installation, car: Car) -> None:
    """SIGTERM ends with exit code 0 and a retained `offline`, for who comes later too."""
    daemon = run(installed)
    car.until(lambda: car.status() == ("online", []), "the daemon is online")
    daemon.process.terminate()
    assert daemon.ended() == 0
    car.until(lambda: car.status() == ("offline", ["stopped"]), "offline is told")
    later = Car(car._broker)
    later.until(lambda: later.status() == ("offline", ["stopped"]), "offline is retained")
    later.close()


def test_a_killed_daemon_is_offline(run: Start, installed: Installation, car: Car) -> None:
    """The last will speaks for who cannot."""
    daemon = run(installed)
    car.until(lambda: car.status() == ("online", []), "the daemon is online")
    daemon.process.kill()
    lost = ("offline", ["the connection was lost"])
    car.until(lambda: car.status() == lost, "the broker tells the last will")


def test_a_pipe_that_stalls_stops_nothing(
    run: Start, installed: Installation, car: Car, voices: Path
) -> None:
    """In the middle of a block: the status says so, the bus lives, sound returns, SIGTERM ends."""
    daemon = run(installed)
    daemon.say(bytes(961))
    stalled = ("degraded", ["source: the pipe gives no sound"])
    car.until(lambda: car.status() == stalled, "the stall is told")
    daemon.say(bytes(959) + pcm(voices / "af_bella" / "5.opus"))
    car.until(lambda: car.last("driver").get("driver"), "the driver is told")
    assert car.status() == ("online", [])
    daemon.say(bytes(961))
    daemon.process.terminate()
    assert daemon.ended() == 0
    assert "event=stopping reason='SIGTERM'" in daemon.log


def test_a_file_is_played_in_real_time_and_can_be_stopped(
    run: Start, installed: Installation, car: Car, voices: Path
) -> None:
    """While the next block's time is waited for, signals and bus are served."""
    installed.configure(sound={"source": str(voices / "af_bella" / "5.opus")})
    daemon = run(installed)
    car.until(lambda: car.last("driver").get("driver"), "the driver is told")
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.ended() == 0
    car.until(lambda: car.status()[0] == "offline", "offline is told")


@pytest.mark.parametrize(
    ("sound", "said"), [(b"", "ended before any sound came"), (b"RIFF" + bytes(2000), "RIFF file")]
)
def test_a_pipe_without_raw_sound_ends_with_the_reason(
    run: Start, installed: Installation, car: Car, sound: bytes, said: str
) -> None:
    """Exit code 1, the mend on standard error, and the car is told that nobody listens."""
    daemon = run(installed)
    car.until(lambda: car.status()[0] == "online", "the daemon is online")
    daemon.say(sound)
    daemon.pipe.close()
    assert daemon.ended() == 1
    assert f"whodrives: the pipe: {'a ' * bool(sound)}{said}" in daemon.log
    assert "Traceback" not in daemon.log
    car.until(lambda: car.status()[0] == "offline", "offline is told")


# --- systemd --------------------------------------------------------------------------------------


def test_systemd_is_kept_informed(run: Start, installed: Installation, car: Car) -> None:
    """Ready, health in words, the watchdog again and again, and the stop."""
    daemon = run(installed)
    daemon.notified("STATUS=online")
    daemon.notified("WATCHDOG=1")
    daemon.notified("STATUS=degraded: source: the pipe gives no sound")
    daemon.notified("WATCHDOG=1")
    car.until(lambda: car.status()[0] == "degraded", "the car knows it too")
    daemon.process.terminate()
    daemon.notified("STOPPING=1")
    assert daemon.ended() == 0


# --- accidents ------------------------------------------------------------------------------------


def test_a_broker_that_is_away_at_the_start_is_waited_for(
    run: Start, installed: Installation, broker: Broker, voices: Path
) -> None:
    """Recognition goes on without it; when it comes, it is told the state that holds now."""
    broker.stop()
    daemon = run(installed)
    daemon.logged("event=broker_lost")
    daemon.say(pcm(voices / "af_bella" / "5.opus"))
    daemon.logged("event=recognition outcome=known")
    broker.start()
    car = Car(broker)
    car.until(lambda: car.status()[0] == daemon.health, "the retained status is right")
    car.close()


def test_a_broker_that_restarts_is_told_everything_again(
    run: Start, installed: Installation, broker: Broker, car: Car, voices: Path
) -> None:
    """A broker that kept nothing has status and driver again; a request comes under its old id."""
    daemon = run(installed)
    car.until(lambda: car.status() == ("online", []), "the daemon is online")
    daemon.say(pcm(voices / "af_bella" / "5.opus") + bytes(3200))
    car.until(lambda: car.last("preferences/apply"), "the seat is asked to move")
    driver, request = car.last("driver")["driver"], car.last("preferences/apply")["request_id"]
    car.close()
    broker.stop()
    daemon.logged("event=broker_lost")
    broker.start()
    later = Car(broker)
    later.until(lambda: later.last("driver").get("driver") == driver, "the driver is told again")
    later.until(lambda: later.status()[0] == daemon.health, "the status is told again")
    later.until(lambda: later.last("preferences/apply"), "what nobody answered is asked again")
    assert later.last("preferences/apply")["request_id"] == request
    later.close()


def test_a_daemon_that_is_killed_leaves_its_trip_to_the_next(
    run: Start, installed: Installation, car: Car, voices: Path
) -> None:
    """The driver is still the driver, without another word, and the request has its old id."""
    first = run(installed)
    first.say(pcm(voices / "af_bella" / "5.opus") + bytes(3200))
    car.until(lambda: car.last("preferences/apply"), "the seat is asked to move")
    asked, driver = car.last("preferences/apply"), car.last("driver")["driver"]
    first.close()
    car.until(lambda: car.status()[0] == "offline", "the broker tells the last will")
    (installed.folder / "notify").unlink()
    second = run(installed)
    second.logged("event=resumed")
    car.until(lambda: car.last("driver").get("driver") == driver, "the driver is told again")
    again = [json.loads(m.payload) for m in car.heard if m.topic.endswith("preferences/apply")]
    car.until(lambda: car.last("preferences/apply")["issued_at"] != asked["issued_at"], "a repeat")
    assert {body["request_id"] for body in again} == {asked["request_id"]}


def test_a_daemon_that_was_away_for_long_does_not_trust_its_memory(
    run: Start, installed: Installation, car: Car, voices: Path
) -> None:
    """A minute later somebody else may sit there: nobody is called the driver."""
    first = run(installed)
    first.say(pcm(voices / "af_bella" / "5.opus") + bytes(3200))
    car.until(lambda: car.last("preferences/apply"), "the seat is asked to move")
    first.close()
    (installed.folder / "notify").unlink()
    (remembered,) = installed.folder.glob("trip-*.json")
    past_s = time.clock_gettime(time.CLOCK_BOOTTIME) - 60.0
    os.utime(remembered, (past_s, past_s))
    second = run(installed)
    second.say(pcm(voices / "af_bella" / "6.opus") + bytes(3200))
    second.logged("event=recognition outcome=known")
    assert car.last("driver").get("driver") is None


def test_a_microphone_that_is_pulled_out_and_put_back(
    run: Start,
    installed: Installation,
    car: Car,
    virtual_microphone: VirtualMicrophone,
    voices: Path,
) -> None:
    """Degraded with the reason while it is away, online and hearing again without a restart."""
    installed.configure(sound={"device": "pulse"})
    daemon = run(installed, virtual_microphone.environment)
    car.until(lambda: car.status() == ("online", []), "the microphone is heard")
    virtual_microphone.unplug()
    try:
        car.until(lambda: car.status()[0] == "degraded", "the loss is told")
        assert car.status()[1][0].startswith("source: ")
    finally:
        virtual_microphone.plug()
    car.until(lambda: car.status() == ("online", []), "the microphone is back")
    virtual_microphone.play(voices / "af_bella" / "5.opus", wait=False)
    car.until(lambda: car.last("driver").get("driver"), "the driver is known")
    assert daemon.process.poll() is None
    daemon.process.terminate()
    assert daemon.ended() == 0
