"""The car around a daemon that is soaked: broker, gateway, ECU, and the daemon's own process."""

from __future__ import annotations

import array
import fcntl
import json
import math
import os
import queue
import re
import resource
import signal
import subprocess
import sys
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from tools.ecu import Ecu, Message, iso
from tools.faults import trips
from tools.lab.clock import Clock
from tools.schemas import checked
from whodrives.cli import demo

PATIENCE_S = 30.0
REPORT_S = 0.7
STEP_S = 0.1
OWN_TOPICS = ("vehicle", "preferences/result", "preferences/position")
NO_SOUND = "the pipe gives no sound"
RECOGNITION = re.compile(
    r"event=recognition outcome=(\S+) driver=(\S+) speech_s=(\S+) llr=(\S+) delay_ms"
)
SEATED = {**trips.PARKED, trips.OCCUPANCY: "OCCUPIED", trips.IGNITION: "ON"}

Heard = tuple[str, str, str, str]
"""A recognition as the log has it: outcome, driver, seconds of speech, log-likelihood ratio."""


class SoakError(Exception):
    """What should have happened did not; the text says what."""


def wait_until(ready: Callable[[], object], what: str) -> None:
    """Return once something is so; SoakError if that takes too long."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not ready():
        if time.monotonic() > deadline_s:
            raise SoakError(f"waited {PATIENCE_S:.0f} s in vain until {what}")
        time.sleep(0.005)


class Broker:
    """A mosquitto of one's own that can be killed and frozen.

    Attributes:
        port: on the loopback interface.
    """

    def __init__(self, folder: Path) -> None:
        self.port = demo.free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
        )
        self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        path = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"
        quiet = subprocess.DEVNULL
        started = subprocess.Popen(
            ["mosquitto", "-c", str(self._config)],
            env={**os.environ, "PATH": path},
            stdout=quiet,
            stderr=quiet,
        )
        demo.wait_for_port(self.port, started, "mosquitto")
        return started

    def restart(self, away_s: float) -> None:
        """Kill it and start another, that remembers nothing, after so long."""
        self.kill()
        time.sleep(away_s)
        self._process = self._started()

    def hang(self, seconds: float) -> None:
        """Let it stand still for so long."""
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.wait()


class Car:
    """Gateway and ECU: tells what the car does, and moves the seat with the ECU of tools/ecu.py.

    Attributes:
        seated: whether somebody sits there and the ignition is on.
        told: the last payload of each topic, as it came.
        answers: number of the ECU's answers of each status.
        requests: ids of the requests that came.
    """

    def __init__(self, port: int, clock: Clock) -> None:
        self.seated = False
        self.told: dict[str, bytes] = {}
        self.answers: Counter[str] = Counter()
        self.requests: set[str] = set()
        self._clock = clock
        self._ecu = Ecu()
        self._inbox: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._over = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe(demo.TOPICS + "#", qos=1)
        self._client.on_message = self._take
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._gateway = threading.Thread(target=self._run)
        self._gateway.start()

    def close(self) -> None:
        """Leave."""
        self._over.set()
        self._gateway.join()
        self._client.disconnect()
        self._client.loop_stop()

    def say(self, topic: str, payload: bytes) -> None:
        """Publish anything."""
        self._client.publish(demo.TOPICS + topic, payload, qos=1)

    def online(self) -> bool:
        """Whether the daemon said so, on this connection."""
        return self._client.is_connected() and b'"offline"' not in self.told.get(
            "status", b'"offline"'
        )

    def nobody_drives(self) -> bool:
        """Whether the daemon said that no trip is open."""
        return self.told.get("driver") == b""

    def at_rest(self) -> bool:
        """Whether the daemon waits for no answer of the ECU, by its own account."""
        body = json.loads(self.told.get("driver") or b"{}")
        state = body.get("preferences", {}).get("state")
        return state not in ("requested", "accepted") and not self._ecu.moving

    def _run(self) -> None:
        """Report the car and let the ECU's motors run; one thread owns the ECU."""
        reported_s = stepped_s = -math.inf
        while not self._over.wait(STEP_S / self._clock.scale):
            now_s, wall_s = self._clock.now_s(), self._clock.wall_s()
            if now_s - reported_s >= REPORT_S:
                reported_s = now_s
                self._report(wall_s)
            while not self._inbox.empty():
                topic, payload = self._inbox.get()
                take = self._ecu.cancel if topic == "preferences/cancel" else self._ecu.apply
                self._answer(take(json.loads(payload), wall_s))
            self._answer(self._ecu.advance(min(now_s - stepped_s, 1.0), wall_s))
            stepped_s = now_s

    def _report(self, wall_s: float) -> None:
        signals = SEATED if self.seated else trips.PARKED
        told = {path: {"value": value, "time": iso(wall_s)} for path, value in signals.items()}
        self._ecu.car.hear(told, wall_s)
        if self._client.is_connected():
            self.say("vehicle", checked("vehicle", {"schema": 1, "signals": told}))
            self.say(*_payload(self._ecu.position(wall_s)))

    def _answer(self, messages: list[Message]) -> None:
        for message in messages:
            self.answers[message[1]["status"]] += 1
            self.say(*_payload(message))

    def _take(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        topic = message.topic.removeprefix(demo.TOPICS)
        if topic in OWN_TOPICS:
            return
        payload = bytes(message.payload)
        self.told[topic] = payload
        if topic == "preferences/apply" and payload:
            self.requests.add(json.loads(payload)["request_id"])
        if topic in ("preferences/apply", "preferences/cancel") and payload and not message.retain:
            self._inbox.put((topic, payload))


def _payload(message: Message) -> tuple[str, bytes]:
    topic, body = message
    return topic, checked(topic, body)


class Daemon:
    """A running daemon on the fast clock, with a pipe for its ear.

    Attributes:
        process: what the system knows of it.
    """

    def __init__(self, folder: Path, config: Path, clock: Clock) -> None:
        self._folder, self._config, self._clock = folder, config, clock
        self._sound = folder / "sound"
        os.mkfifo(self._sound)
        self._fifo = os.open(self._sound, os.O_RDWR)
        self._heard: list[Heard] = []
        self._start_daemon()

    def _start_daemon(self) -> None:
        self._silences = 0
        words = [repr(self._clock.scale), repr(self._clock.began_s), str(self._folder / "calendar")]
        program = [sys.executable, str(Path(__file__).with_name("fast_daemon.py")), *words]
        with self._sound.open("rb") as ear:
            self._child = subprocess.Popen(
                [*program, "--config", str(self._config), "run"],
                stdin=ear,
                stderr=subprocess.PIPE,
                env={**os.environ, "RUNTIME_DIRECTORY": str(self._folder)},
                text=True,
            )
        self.process = psutil.Process(self._child.pid)
        self._follower = threading.Thread(target=self._follow, args=(self._child,), daemon=True)
        self._follower.start()
        wait_until(lambda: self._silences, "the daemon listens")

    def hear(self, sound: bytes) -> None:
        """Give it sound and return once it was heard, and the pipe was called silent after it."""
        silences = self._silences
        self.pour(sound)
        wait_until(lambda: self._silences > silences, "the sound is over")

    def pour(self, sound: bytes) -> None:
        """Give it sound, as fast as it takes it."""
        view = memoryview(sound)
        while view:
            view = view[os.write(self._fifo, view[:65_536]) :]

    def heard(self) -> list[Heard]:
        """The recognitions since the last time this was asked."""
        found, self._heard = self._heard, []
        return found

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._child.send_signal(number)

    def again(self, number: int) -> int:
        """End it by a signal, and start another; gives the exit code."""
        self._child.send_signal(number)
        code = self._child.wait(PATIENCE_S)
        self._follower.join()
        self._heard.clear()
        waiting = array.array("i", [0])
        fcntl.ioctl(self._fifo, termios.FIONREAD, waiting)
        if waiting[0]:
            os.read(self._fifo, waiting[0])
        self._start_daemon()
        return code

    def fill_disk(self, *, full: bool) -> None:
        """Let no file of its be written, or all again."""
        limits = (0 if full else resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(self._child.pid, resource.RLIMIT_FSIZE, limits)

    def alive(self) -> bool:
        """Whether it runs."""
        return self._child.poll() is None

    def stop(self) -> None:
        """End it."""
        self._child.kill()
        self._child.wait()
        os.close(self._fifo)

    def _follow(self, child: subprocess.Popen[str]) -> None:
        """Read what a daemon says of itself, until it ends."""
        assert child.stderr is not None  # noqa: S101 - a pipe was asked for
        for line in child.stderr:
            if found := RECOGNITION.search(line):
                self._heard.append(found.groups())  # type: ignore[arg-type] # four groups
            self._silences += NO_SOUND in line
