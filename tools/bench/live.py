"""The whole path: a real daemon behind a real broker, fed in real time, and what it costs.

Owns the stage, which is the demo's, and the clock at both ends of the daemon.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console

from tools.lab.machine import cpu_s, peak_rss_mb
from tools.schemas import checked
from whodrives.audio.blocks import AudioBlock
from whodrives.audio.framing import paced
from whodrives.cli import demo
from whodrives.cli.demo_screen import Car

START_LIMIT_S = 30.0
STARVED_S = 0.1
REPORT_S = 0.5
SETTLE_S = 0.5
"""What follows the last block is waited for so long."""


class BenchError(Exception):
    """Nothing can be measured here; the text says how to fix that."""


@dataclass(slots=True)
class Heard:
    """A message, and the monotonic second at which it came."""

    at_s: float
    topic: str
    body: Mapping[str, Any]


class Subscriber:
    """An MQTT client like any ECU's, with a stop-watch; it speaks for the car, too."""

    def __init__(self, port: int) -> None:
        self.heard: list[Heard] = []
        self.online = Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_message = self._take
        self._client.connect("127.0.0.1", port)
        self._client.subscribe(demo.TOPICS + "#", qos=1)
        self._client.loop_start()

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()

    def report(self, car: Car) -> None:
        """Say what the car does."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        readings = {p: {"value": v, "time": now} for p, v in car.signals.items()}
        body = checked("vehicle", {"schema": 1, "signals": readings})
        self._client.publish(demo.TOPICS + "vehicle", body, qos=1, retain=True)

    def _take(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        at_s = time.monotonic()
        body = json.loads(message.payload) if message.payload else {}
        topic = message.topic.removeprefix(demo.TOPICS)
        self.heard.append(Heard(at_s, topic, body))
        if topic == "status" and body["state"] == "online":
            self.online.set()


@dataclass(frozen=True, slots=True)
class Stage:
    """A broker, and a configuration with the demo's household enrolled.

    Attributes:
        folder: temporary; holds everything.
        port: the broker's.
        config: the daemon's configuration file.
        drive: the demo's script.
    """

    folder: Path
    port: int
    config: Path
    drive: demo.Drive


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Set the stage in `folder`, which must be empty; the broker ends with the block."""
    drive = demo.load_drive(demo.ROOT / "profiles/demo")
    with demo.broker(folder) as port:
        config = demo.write_config(folder, port)
        demo.enrol(config, drive, Console(quiet=True))
        yield Stage(folder, port, config, drive)


@dataclass(slots=True)
class Run:
    """One life of the daemon.

    Attributes:
        ready_s: from its start until a subscriber heard that it is online.
        cpu_s: what it used between the first block of sound and the last, without start and end.
        audio_s: how long that was.
        peak_rss_mb: the most memory it ever held.
        sent_s: when each block had been written, monotonic.
        heard: every message, with the monotonic second at which it came.
        log: its own.
    """

    ready_s: float = 0.0
    cpu_s: float = 0.0
    audio_s: float = 0.0
    peak_rss_mb: float = 0.0
    sent_s: list[float] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    log: str = ""

    def came(self, topic: str) -> list[Heard]:
        """The messages of one topic, in order."""
        return [heard for heard in self.heard if heard.topic == topic]


def run(stage: Stage, blocks: Sequence[AudioBlock], share: float = 1.0) -> Run:
    """Start a daemon, give it this sound in real time with the drive's car around it, and end it.

    Once it is online it may run for so large a `share` of each tenth of a second, and no longer.

    Raises:
        BenchError: it does not come online, or dies.
    """
    life = Run()
    log = stage.folder / "daemon.log"
    subscriber = Subscriber(stage.port)
    with contextlib.ExitStack() as end:
        end.callback(subscriber.close)
        life.heard = subscriber.heard
        started_s = time.monotonic()
        daemon = end.enter_context(_daemon(stage.config, log))
        if not subscriber.online.wait(START_LIMIT_S):
            raise BenchError(f"the daemon did not come online:\n{log.read_text()}")
        life.ready_s = life.came("status")[-1].at_s - started_s
        with starved(daemon.pid, share):
            _measure(life, daemon, _with_car(stage.drive, subscriber, blocks))
        if daemon.stdin:
            daemon.stdin.close()
        daemon.wait(START_LIMIT_S)
    life.log = log.read_text(encoding="utf-8")
    return life


@contextlib.contextmanager
def starved(process: int, share: float) -> Iterator[None]:
    """Let a process run only for so large a share of each tenth of a second; 1: all of it."""
    if share >= 1.0:
        yield
        return
    over = Event()

    def starve() -> None:
        while not over.is_set():
            os.kill(process, signal.SIGSTOP)
            time.sleep(STARVED_S * (1 - share))
            os.kill(process, signal.SIGCONT)
            time.sleep(STARVED_S * share)

    thread = Thread(target=starve)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def _daemon(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = (sys.executable, "-m", "whodrives", "--config", str(config), "run")
    with (
        log.open("wb") as errors,
        demo.process(*command, stdin=subprocess.PIPE, stderr=errors) as daemon,
    ):
        yield daemon


def _with_car(
    drive: demo.Drive, subscriber: Subscriber, blocks: Iterable[AudioBlock]
) -> Iterator[AudioBlock]:
    """The blocks in real time; the car reports between them."""
    reported_s = -REPORT_S
    started_s = time.monotonic()
    for block in paced(blocks):
        at_s = block.at_s - started_s
        if at_s - reported_s >= REPORT_S:
            reported_s = at_s
            subscriber.report(drive.car(at_s))
        yield block


def _measure(
    life: Run,
    daemon: subprocess.Popen[bytes],
    blocks: Iterable[AudioBlock],
) -> None:
    before_s, began_s = cpu_s(daemon.pid), time.monotonic()
    for block in blocks:
        demo.send(daemon, block.samples)
        life.sent_s.append(time.monotonic())
    time.sleep(SETTLE_S)
    life.cpu_s = cpu_s(daemon.pid) - before_s
    life.audio_s = time.monotonic() - began_s
    life.peak_rss_mb = peak_rss_mb(daemon.pid)


_STEPS = """
import json, os, sys, time
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as whodrives.models does
said = [("interpreter", time.monotonic())]
def step(name): said.append((name, time.monotonic(), rss_mb()))
def rss_mb():
    with open("/proc/self/status") as status:
        return next(int(l.split()[1]) * 1024 / 1e6 for l in status if l.startswith("VmRSS"))
said[0] += (rss_mb(),)
import numpy; step("numpy")
import onnxruntime; step("ONNX Runtime")
from whodrives.cli import main
from whodrives.config import location
from whodrives.models.encoder import load_encoder
from whodrives.models.vad import load_vad
from pathlib import Path
config = location.load_config(Path(sys.argv[1])); models = Path(config.models.directory)
step("configuration")
encoder = load_encoder(models); step("the encoder's model")
from whodrives.service import daemon, household, wiring; step("the other modules")
vad = load_vad(models); step("the VAD's model")
household.household(wiring.open_store(config), 0.0); step("the profiles")
print(json.dumps(said))
"""


def start_steps(config: Path) -> list[dict[str, float | str]]:
    """Where the start's time and the memory go: the daemon's steps, one by one, in one process.

    Each has its duration and the memory it added. Connecting to the broker comes after them.
    """
    started_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _STEPS, str(config)], check=True, capture_output=True, text=True
    )
    steps: list[dict[str, float | str]] = []
    last_s, last_mb = started_s, 0.0
    for name, at_s, memory_mb in json.loads(done.stdout):
        steps.append({"step": name, "ms": 1000 * (at_s - last_s), "rss_mb": memory_mb - last_mb})
        last_s, last_mb = at_s, memory_mb
    return steps
