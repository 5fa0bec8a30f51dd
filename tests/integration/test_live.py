"""Everything real at once: people's voices, a microphone, the models, the store, and mosquitto."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import paho.mqtt.client as mqtt
import pytest
import soundfile
import yaml
from paho.mqtt.enums import CallbackAPIVersion

from tests.conftest import Broker, VirtualMicrophone, end, wait_until
from tests.scenarios.stage import MODELS, ROOT, Prompts, Sound
from tools.schemas import checked
from whodrives.cli.demo import Drive, load_drive

pytestmark = pytest.mark.realtime

STANDING = {
    "Vehicle.Speed": 0.0,
    "Vehicle.Powertrain.Transmission.SelectedGear": 126,
    "Vehicle.Chassis.ParkingBrake.IsEngaged": True,
    "Vehicle.Cabin.Door.Row1.DriverSide.IsOpen": False,
    "Vehicle.Cabin.Seat.Row1.DriverSide.OccupancyStatus": "OCCUPIED",
    "Vehicle.LowVoltageSystemState": "ON",
}
SEAT = "Vehicle.Cabin.Seat.Row1.DriverSide.Position"


@dataclass
class Car:
    """A car on the bus: says what it does twice a second, and writes down all it is told."""

    broker: Broker
    signals: dict[str, Any] = field(default_factory=lambda: dict(STANDING))
    heard: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Connect and begin to report."""
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_message = self._hear
        self._client.connect(self.broker.host, self.broker.port)
        self._client.subscribe("whodrives/car/#", qos=1)
        self._client.loop_start()
        self._over = threading.Event()
        self._reports = threading.Thread(target=self._report)
        self._reports.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Fall silent."""
        self._over.set()
        self._reports.join()
        self._client.disconnect()
        self._client.loop_stop()

    def on(self, topic: str) -> list[dict[str, Any]]:
        """Everything said on a topic so far, in order."""
        return [body for heard, body in list(self.heard) if heard == topic]

    def requests(self) -> list[dict[str, Any]]:
        """What the ECU was asked, in order; this car has none that answers, so each is repeated."""
        return list({body["request_id"]: body for body in self.on("preferences/apply")}.values())

    def _hear(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        body = json.loads(message.payload) if message.payload else {}
        self.heard.append((message.topic.removeprefix("whodrives/car/"), body))

    def _report(self) -> None:
        while not self._over.wait(0.5):
            now = datetime.now(UTC).isoformat()
            readings = {path: {"value": v, "time": now} for path, v in self.signals.items()}
            body = checked("vehicle", {"schema": 1, "signals": readings})
            self._client.publish("whodrives/car/vehicle", body)


@dataclass
class Home:
    """A configuration of its own, and the command line that uses it."""

    config: Path

    def run(self, *arguments: str) -> str:
        """Run one command to its end; what it printed."""
        command = [sys.executable, "-m", "whodrives", "--config", str(self.config), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def enrol(self, name: str, files: list[Path], position: int) -> str:
        """Enrol from files, with a seat position to tell people apart by; returns the id."""
        self.run("enrol", name, *map(str, files), "--consent", name)
        self.run("drivers", "preferences", name, "--set", f"{SEAT}={position}")
        return self.run("drivers", "show", name).split(": ")[1].split(",")[0]


@pytest.fixture
def home(tmp_path: Path, broker: Broker) -> Home:
    """A fresh household that listens to the virtual microphone."""
    path = tmp_path / "whodrives.yaml"
    settings = {
        "sound": {"source": "microphone", "device": "pulse"},
        "mqtt": {"host": broker.host, "port": broker.port},
        "profiles": {"directory": "profiles", "key_file": "profile-key"},
        "models": {"directory": str(MODELS)},
    }
    path.write_text(yaml.safe_dump(settings))
    return Home(path)


@pytest.fixture
def car(broker: Broker) -> Iterator[Car]:
    """A car that stands, ready to go."""
    with Car(broker) as reporting:
        yield reporting


@pytest.fixture
def daemon(
    home: Home, car: Car, virtual_microphone: VirtualMicrophone
) -> Iterator[Callable[[], None]]:
    """Starts the daemon when called, and waits until it listens."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        command = [sys.executable, "-m", "whodrives", "--config", str(home.config), "run"]
        started.append(subprocess.Popen(command, env=virtual_microphone.environment))
        wait_until(lambda: {"online"} <= {b["state"] for b in car.on("status") if b}, "online")

    yield start
    for process in started:
        end(process)


def written(folder: Path, name: str, sounds: list[Sound]) -> list[Path]:
    """The sounds as WAV files."""
    paths = [folder / f"{name}{number}.wav" for number in range(len(sounds))]
    for path, sound in zip(paths, sounds, strict=True):
        soundfile.write(path, sound, 16_000)
    return paths


def test_the_right_person_sets_the_car_up_and_a_stranger_does_not(
    home: Home,
    car: Car,
    daemon: Callable[[], None],
    virtual_microphone: VirtualMicrophone,
    human_prompts: Prompts,
) -> None:
    """Real people through a real microphone: the stranger is unknown, the driver is served once."""
    english, french = human_prompts("en", 14), human_prompts("fr", 10)
    allison = home.enrol("Allison", written(home.config.parent, "en", english[:8]), 90)
    home.enrol("June", written(home.config.parent, "fr", french), 200)
    daemon()

    for sound in human_prompts("it", 3):
        virtual_microphone.play(spaced(sound))
    wait_until(lambda: len(car.on("recognition")) >= 3, "the stranger was heard")
    assert {body["outcome"] for body in car.on("recognition")} == {"unknown"}
    assert not car.on("preferences/apply")
    assert not [body for body in car.on("driver") if body.get("driver")]

    for sound in english[8:11]:
        virtual_microphone.play(spaced(sound))
    wait_until(lambda: bool(car.on("preferences/apply")), "the driver was served")
    for sound in [*english[11:14], *french[:2]]:
        virtual_microphone.play(spaced(sound))
    time.sleep(1.0)
    known = [body["driver"] for body in car.on("recognition") if body["driver"]]
    assert known[0] == allison
    (request,) = car.requests()
    assert (request["driver"], request["signals"]) == (allison, {SEAT: 90})
    assert [b["driver"] for b in car.on("driver") if b.get("driver")][-1] == allison
    assert "Allison" not in json.dumps(car.heard)


def spaced(sound: Sound) -> Sound:
    """A second of a quiet room after the sound, so that it is an utterance of its own."""
    room = np.random.default_rng(3).normal(0, 1e-4, 17_600).astype(np.float32)
    return np.concatenate([room[:1600], sound, room])


@pytest.mark.timeout(200)
def test_the_drive_is_heard_live_as_it_is_replayed(
    home: Home,
    car: Car,
    daemon: Callable[[], None],
    virtual_microphone: VirtualMicrophone,
) -> None:
    """Through the microphone, in real time, the drive leads to the decisions of the golden file."""
    drive = load_drive(ROOT / "profiles/demo")
    names = {}
    for member in drive.script["household"]:
        files = [drive.folder / "voices" / member["voice"] / file for file in member["enrol"]]
        names[home.enrol(member["name"], files, 100)] = member["name"]
    car.signals = dict(drive.car(0.0).signals)
    daemon()
    play_drive(drive, car, virtual_microphone)
    wait_until(lambda: len(car.on("recognition")) >= len(drive.sentences()), "all was heard")
    golden = json.loads((ROOT / "tests/golden/drive.json").read_text())
    heard = [(b["outcome"], names.get(b["driver"])) for b in car.on("recognition")]
    assert heard == [(g["outcome"], g["driver"]) for g in golden if "outcome" in g]
    asked = [names[body["driver"]] for body in car.requests()]
    assert asked == [g["apply"] for g in golden if "apply" in g]


def play_drive(drive: Drive, car: Car, microphone: VirtualMicrophone) -> None:
    """Play the drive's sound, while the car does what it did."""
    began_s = time.monotonic()
    microphone.play(drive.sound, wait=False)
    while (at_s := time.monotonic() - began_s) < drive.seconds + 1:
        car.signals = dict(drive.car(at_s).signals)
        time.sleep(0.1)
