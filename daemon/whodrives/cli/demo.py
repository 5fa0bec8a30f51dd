"""The demo: a recorded drive, the real daemon, a real broker, and a simulated car.

Owns the processes (broker, ECU, daemon), the car's reports, and the display. It shows only what any
MQTT client can see. The drive's script says who really spoke, and is compared with the recognitions
only at the end.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Self

import numpy as np
import paho.mqtt.client as mqtt
import yaml
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console, RenderableType
from rich.live import Live

from whodrives.audio.blocks import Floats
from whodrives.audio.files import read_file
from whodrives.audio.framing import paced
from whodrives.cli.demo_screen import (
    Car,
    Heard,
    Mark,
    Now,
    Request,
    Sentence,
    Story,
    marks,
    picture,
    summary,
)
from whodrives.config.codec import parse
from whodrives.config.schema import Config
from whodrives.errors import WhodrivesError
from whodrives.service.wiring import open_store
from whodrives.voice.types import Outcome

ROOT = Path(__file__).parents[3]
"""The checkout; the demo's voices and its ECU are not part of the installed package."""


VEHICLE = "demo"


TOPICS = f"whodrives/{VEHICLE}/"


REPORT_S = 0.5


FRAME_S = 0.1


START_LIMIT_S = 30.0


class DemoError(WhodrivesError):
    """The demo cannot be played here; the text gives the fix."""


@dataclass(frozen=True, slots=True)
class Drive:
    """The script drive.yaml and the files beside it."""

    script: Mapping[str, Any]
    changes: Sequence[Mapping[str, Any]]
    folder: Path

    @property
    def sound(self) -> Path:
        """The mixed drive."""
        return self.folder / "drive.flac"

    @property
    def seconds(self) -> float:
        """Length of the drive."""
        return float(self.script["seconds"])

    def sentences(self) -> list[Sentence]:
        """Who speaks when, by start."""
        manifest = json.loads((self.folder / "voices/manifest.json").read_text(encoding="utf-8"))
        files = {entry["path"]: entry for entry in manifest}
        return [
            Sentence(
                start_s=item["at"],
                end_s=item["at"] + files[item["file"]]["seconds"],
                who=item["who"],
                role=item["role"],
                text=files[item["file"]]["text"],
            )
            for item in self.script["spoken"]
        ]

    def signals(self) -> frozenset[str]:
        """The VSS paths that anybody in the household has a preference for."""
        return frozenset(
            path for member in self.script["household"] for path in member["preferences"]
        )

    @property
    def vehicle(self) -> Path:
        """The car's reports during the drive, in the format of `whodrives replay --vehicle`."""
        return self.folder / "vehicle.jsonl"

    def car(self, at_s: float) -> Car:
        """The car's signals at `at_s`, in seconds into the drive."""
        note = ""
        signals: dict[str, Any] = {}
        for change in self.changes:
            if change["at_s"] <= at_s:
                note = change.get("note", note)
                signals |= change["signals"]
        return Car(note, signals)


def load_drive(folder: Path) -> Drive:
    """Read the script.

    Raises:
        DemoError: this is no checkout.
    """
    path = folder / "drive.yaml"
    if not path.exists():
        raise DemoError(f"{path} is missing: the demo runs from a checkout of whodrives")
    lines = (folder / "vehicle.jsonl").read_text(encoding="utf-8").splitlines()
    script = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Drive(script, [json.loads(line) for line in lines], folder)


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], name: str) -> None:
    """Wait until the port accepts connections; DemoError if the process ends or after 5 s."""
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.02)
    raise DemoError(f"{name} does not listen on port {port}")


@contextlib.contextmanager
def process(*command: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that ends with the block."""
    child = subprocess.Popen(command, **options)  # noqa: S603 (our own programs and mosquitto)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(3)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[int]:
    """A private mosquitto on the loopback interface; gives its port."""
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        raise DemoError("mosquitto is missing; install it with: sudo apt-get install mosquitto")
    port = free_port()
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    quiet = subprocess.DEVNULL
    with process(program, "-c", str(config), stdout=quiet, stderr=quiet) as child:
        wait_for_port(port, child, "mosquitto")
        yield port


def write_config(folder: Path, port: int) -> Path:
    """The daemon's configuration for the demo."""
    path = folder / "whodrives.yaml"
    settings = {
        "vehicle": {"id": VEHICLE},
        "sound": {"source": "-"},
        "mqtt": {"host": "127.0.0.1", "port": port, "evidence": True},
        "profiles": {"directory": "profiles", "key_file": "profile-key"},
        "models": {"directory": str(ROOT / "models")},
    }
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def enrol(config: Path, drive: Drive, console: Console) -> dict[str, str]:
    """Enrol the household as an installer would, by the command line; returns id to name."""
    settings = parse(config.read_text(encoding="utf-8"), str(config))
    voices = drive.folder / "voices"
    for member in drive.script["household"]:
        files = [str(voices / member["voice"] / file) for file in member["enrol"]]
        whodrives(config, "enrol", member["name"], *files, "--consent", member["name"])
        changes = [f"{path}={value}" for path, value in member["preferences"].items()]
        whodrives(config, "drivers", "preferences", member["name"], "--set", *changes)
        console.print(f"  enrolled [bold]{member['name']}[/] from {len(files)} sentences")
    return {stored.profile.id: stored.name for stored in open_store(settings).load().profiles}


def whodrives(config: Path, *arguments: str) -> None:
    """Run one whodrives command; DemoError with its error output if it fails."""
    command = [sys.executable, "-m", "whodrives", "--config", str(config), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise DemoError(f"whodrives {arguments[0]}: {done.stderr.strip()}")


class Audience:
    """An MQTT client that publishes the car's reports and records the messages."""

    def __init__(self, port: int, story: Story, names: Mapping[str, str]) -> None:
        self._story = story
        self._names = names
        self._inbox: SimpleQueue[tuple[str, bytes]] = SimpleQueue()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_message = lambda _client, _data, message: self._inbox.put(
            (message.topic.removeprefix(TOPICS), bytes(message.payload))
        )
        self._client.connect("127.0.0.1", port)
        self._client.subscribe(TOPICS + "#", qos=1)
        self._client.loop_start()
        self.status = ""

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def report(self, car: Car) -> None:
        """Publish the car's reports, as its gateway would."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        readings = {path: {"value": value, "time": now} for path, value in car.signals.items()}
        body = json.dumps({"schema": 1, "signals": readings})
        self._client.publish(TOPICS + "vehicle", body, qos=1, retain=True)

    def attend(self, at_s: float, speed_kmh: float) -> None:
        """Record all received messages."""
        with contextlib.suppress(Empty):
            while True:
                topic, payload = self._inbox.get_nowait()
                body = json.loads(payload) if payload else {}
                self._note(topic, body, at_s, speed_kmh)

    def _note(self, topic: str, body: dict[str, Any], at_s: float, speed_kmh: float) -> None:
        story = self._story
        if topic == "preferences/position":
            story.position |= {p: v for p, v in body["signals"].items() if p in story.shown}
            return
        if topic in ("vehicle", "metrics"):
            return
        if topic == "status":
            self.status = body["state"]
        elif topic == "recognition":
            name = self._names.get(body["driver"])
            story.heard.append(Heard(at_s, Outcome(body["outcome"]), name, body))
        elif topic == "driver":
            story.driver = self._names.get(body.get("driver") or "", "nobody yet")
        elif topic == "preferences/apply" and body["request_id"] not in story.asked:
            story.asked.add(body["request_id"])
            story.requests.append(Request(at_s, self._names[body["driver"]], speed_kmh))
            story.target |= body["signals"]
        story.messages.append((at_s, topic, shortened(topic, body)))


def shortened(topic: str, body: Mapping[str, Any]) -> str:
    """A shortened payload, for the display."""
    if not body:
        return "(cleared: no trip)"
    kept = {key: value for key, value in body.items() if key not in ("schema", "time", "since")}
    if topic == "preferences/apply":
        kept["signals"] = {path.split(".", 2)[-1]: v for path, v in body["signals"].items()}
    return json.dumps(kept, ensure_ascii=False)


def play(console: Console, picture_file: Path | None = None) -> bool:
    """Play the drive; returns whether everything was right.

    Args:
        console: where to show it; line by line if it is not a terminal.
        picture_file: where to save the last screen and the summary, as SVG.

    Raises:
        DemoError: something that the demo needs is missing; the text says how to get it.
    """
    drive = load_drive(ROOT / "profiles/demo")
    console.print("[bold]whodrives[/]: a recorded drive, a real daemon, a real broker. Enrolling:")
    with (
        tempfile.TemporaryDirectory(prefix="whodrives-demo-") as temporary,
        contextlib.ExitStack() as stage,
    ):
        folder = Path(temporary)
        port = stage.enter_context(broker(folder))
        config = write_config(folder, port)
        names = enrol(config, drive, console)
        show = Show(drive, Story(drive.sentences(), drive.signals()), console)
        audience = Audience(port, show.story, names)
        stage.callback(audience.close)
        ecu = ("--host", "127.0.0.1", "--port", str(port), "--vehicle", VEHICLE)
        tool = (sys.executable, str(ROOT / "tools/ecu.py"))
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        stage.enter_context(process(*tool, *ecu, **quiet))
        log = stage.enter_context((folder / "daemon.log").open("wb"))
        command = (sys.executable, "-m", "whodrives", "--config", str(config), "run")
        daemon = stage.enter_context(process(*command, stdin=subprocess.PIPE, stderr=log))
        wait_until_online(audience, daemon, folder / "daemon.log")
        perform(show, audience, daemon)
    found = marks(show.story, list(names.values()), drivers_of_trips(drive))
    console.print(summary(found))
    if picture_file:
        save(picture_file, show, found)
    return all(mark.right for mark in found)


def drivers_of_trips(drive: Drive) -> list[str]:
    """The true driver of each trip, in order."""
    speakers = [item["who"] for item in drive.script["spoken"] if item["role"] == "driver"]
    return [who for n, who in enumerate(speakers) if n == 0 or speakers[n - 1] != who]


def wait_until_online(audience: Audience, daemon: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the daemon's status is online; DemoError with its log on a timeout."""
    deadline = time.monotonic() + START_LIMIT_S
    while audience.status != "online":
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise DemoError(f"the daemon did not come online:\n{log.read_text()}")
        audience.attend(0.0, 0.0)
        time.sleep(0.02)


class Show:
    """The display: a live picture at a terminal, else lines."""

    def __init__(self, drive: Drive, story: Story, console: Console) -> None:
        self.drive = drive
        self.story = story
        self.last: RenderableType = ""
        self._console = console
        self._live: Live | None = None
        self._printed = 0
        self._drawn_s = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, screen=True, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def draw(self, now: Now) -> None:
        """Draw the present state, at most ten times a second."""
        if now.at_s - self._drawn_s < FRAME_S:
            return
        self._drawn_s = now.at_s
        self.last = picture(self.story, now)
        if self._live:
            self._live.update(self.last, refresh=True)
        for at_s, topic, payload in self.story.messages[self._printed :] if not self._live else ():
            self._console.print(
                f"{at_s:6.1f} s  {topic:20} {payload}", markup=False, soft_wrap=True
            )
        self._printed = len(self.story.messages)


def perform(show: Show, audience: Audience, daemon: subprocess.Popen[bytes]) -> None:
    """Feed the daemon with sound and reports in real time, and draw the messages."""
    limits = Config().vehicle.signals
    started_s = time.monotonic()
    reported_s = -REPORT_S
    with show:
        for block in paced(read_file(show.drive.sound)):
            at_s = block.at_s - started_s
            car = show.drive.car(at_s)
            if at_s - reported_s >= REPORT_S:
                reported_s = at_s
                audience.report(car)
            send(daemon, block.samples)
            audience.attend(at_s, car.speed_kmh)
            show.draw(Now(at_s, show.drive.seconds, car, limits))
        if daemon.stdin:
            daemon.stdin.close()
        daemon.wait(START_LIMIT_S)
        audience.attend(show.drive.seconds, 0.0)


def send(daemon: subprocess.Popen[bytes], samples: Floats) -> None:
    """Write 30 ms of sound to the daemon, as `arecord -t raw` would."""
    if daemon.stdin is None or daemon.poll() is not None:
        raise DemoError("the daemon ended before the drive did")
    daemon.stdin.write((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    daemon.stdin.flush()


def save(path: Path, show: Show, found: Sequence[Mark]) -> None:
    """Save the last screen and the summary as SVG."""
    console = Console(record=True, width=132, height=42, file=io.StringIO())
    console.print(show.last, summary(found))
    console.save_svg(str(path), title="whodrives demo")
