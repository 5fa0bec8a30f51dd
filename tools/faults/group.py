"""Cars that share a broker, and everything around their daemons: people, ECUs, networks, faults.

Owns what one process simulates: a real mosquitto with TLS and the shipped ACL, proxies, a fork
server that starts the daemons, and for each car an ECU (tools/ecu's), a gateway, a head unit and a
driver. What happened is written into a `Record` for each trip.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import json
import multiprocessing
import os
import random
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import termios
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tools import certificates
from tools import ecu as ecus
from tools.faults import judge, records, trips
from tools.faults.fork_server import FINGERPRINT, STEP, embedding
from tools.faults.proxy import Proxy
from tools.lab.clock import EPOCH_S, Calendar, Clock, note_late
from tools.schemas import checked
from whodrives.config import schema
from whodrives.store.profiles import ProfileStore
from whodrives.vehicle import vss
from whodrives.voice.profile import AUGMENTATIONS

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "systemd" / "mosquitto"
TICK_S = 0.2
TOLD_S = 2.0
"""So long after it was decided something may be told by the calendar of then."""

JITTER_S = 0.5
REPORT_S = 0.7
BLOCK = 480
BLOCK_S = 0.03
PAUSE_BLOCKS = 32
ONLINE_S = 90.0
BROKER_LIVES_S = 240.0
START_LIMIT_S = 60.0
EVERY_TRIPS = 200
"""What was found is told each time so many more are done."""

EDITED_S = 4.0
"""So long after the store was changed the daemon has read it, and asks for nothing older."""

POSITION_AGE_S = 4.0
"""A position that was told so long ago may be what a command keeps."""

OF_DAEMON = (
    "status",
    "driver",
    "recognition",
    "preferences/apply",
    "preferences/cancel",
    "command/result",
)
"""What only a daemon writes: it shows that the connection works."""

NOBODYS_ID = "d-00000000"

PREFERENCES = (
    "Vehicle.Cabin.Seat.Row1.DriverSide.Position",
    "Vehicle.Cabin.Seat.Row1.DriverSide.Backrest.Recline",
    "Vehicle.Body.Mirrors.DriverSide.Tilt",
)


@dataclass(frozen=True, slots=True)
class Order:
    """What a group is to do."""

    number: int
    cars: int
    trips: int
    seed: int
    scale: float
    mutant: str | None = None
    only: int | None = None
    keep: Path | None = None
    until_noticed: bool = False


@dataclass(slots=True)
class Outcome:
    """What a group has done, fit for JSON."""

    trips: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[judge.Violation] = field(default_factory=list)
    daemon_s: float = 0.0
    late_s: float = 0.0


class Broker:
    """A mosquitto as shipped, on a port of its own, that can be killed."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        hosts, roles = ("127.0.0.1",), certificates.ROLES
        certificates.fill(folder, hosts, roles, certificates.DAYS)
        text = (SHIPPED / "whodrives.conf").read_text()
        text = text.replace("listener 8883 127.0.0.1", f"listener {self.port} 127.0.0.1")
        text = text.replace("/etc/mosquitto/certs/", f"{folder}/")
        text = text.replace("/etc/mosquitto/whodrives.acl", str(SHIPPED / "whodrives.acl"))
        passwords = folder / "passwords"
        passwords.touch(mode=0o600)
        text = text.replace("/etc/mosquitto/whodrives.passwords", str(passwords))
        # All cars share this broker, and so a certificate for each role.
        text = text.replace("use_username_as_clientid true", "use_username_as_clientid false")
        # The fast clock lets more wait in a moment of the world's than a car ever would.
        text = text.replace("max_connections 256", "max_connections -1")
        text = text.replace("max_queued_messages 100", "max_queued_messages 2000")
        self._config = folder / "mosquitto.conf"
        self._config.write_text(text + "\nuser root\n")
        self._process: subprocess.Popen[bytes] | None = None
        found = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        if found is None:
            sys.exit("mosquitto is missing: apt-get install mosquitto")
        self._program = found

    def start(self) -> None:
        """Start it; it listens soon."""
        self._process = subprocess.Popen(
            [self._program, "-c", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """As a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class ForkServer:
    """Starts daemons; see fork_server.py."""

    def __init__(self, clock: Clock, mutant: str | None) -> None:
        program = Path(__file__).with_name("fork_server.py")
        words = [repr(clock.scale), repr(clock.began_s), *([mutant] if mutant else [])]
        self._process = subprocess.Popen(
            [sys.executable, str(program), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        if not select.select([self._process.stdout], [], [], START_LIMIT_S)[0]:
            self.stop()
            sys.exit(f"the fork server did not start within {START_LIMIT_S:.0f} s")
        if self._read() != "ready":
            sys.exit("the fork server sent an unexpected line")

    def start(self, life: dict[str, str]) -> int:
        """A daemon's process id."""
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        self._process.stdin.write(json.dumps(life) + "\n")
        self._process.stdin.flush()
        return int(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None  # noqa: S101
        line = self._process.stdout.readline().strip()
        if not line:
            sys.exit("the fork server ended; its last output is above")
        return line

    def stop(self) -> None:
        """End it and all its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Car:
    """One car, its people, its ECU and its daemon."""

    def __init__(self, group: Group, number: int) -> None:
        self.name = f"car{group.order.number}-{number}"
        self.group = group
        self.folder = group.folder / self.name
        self.folder.mkdir()
        self.clock = Clock(group.clock.scale, group.clock.began_s)
        self.clock.calendar = Calendar(self.folder / "calendar")
        self.ecu = ecus.Ecu()
        self.signals = dict(trips.PARKED)
        self.online = False
        self.pid: int | None = None
        self.rng = random.Random(f"{group.order.seed}/{self.name}")  # noqa: S311 - a seed is wanted
        self.link = Proxy(group.broker.port, self.rng)
        self.ecu_link = Proxy(group.broker.port, self.rng)
        self.record = judge.Record(self.name, -1, group.order.seed, self.clock.now_s())
        self.drivers: list[str] = []
        self._fifo = -1
        self._sound: list[int] = []
        self._offsets = [(0.0, 0.0)]
        self._reported_s = self._shown_s = self._stepped_s = self._heard_s = 0.0
        self._lost: dict[str | None, float] = {}
        self._ends: list[tuple[float, Callable[[], None]]] = []
        self._restart_s: float | None = None
        self._second: tuple[int, float, float] | None = None
        self._killed_s = 0.0
        self._greeted: int | None = None
        self._linked: int | None = None
        self._linked_s = 0.0
        self._asleep_s: float | None = None
        self._apart = False
        self._ticked_s = self.clock.now_s()
        self._spans: dict[str, float] = {}
        self._commands: dict[str, int] = {}
        self._shown: str | None = None
        self._positions: list[tuple[float, dict[str, float]]] = []
        self._preferences: dict[str, list[dict[str, float]]] = {}
        self._erased: set[int] = set()

    # --- beginnings ---

    async def start(self) -> None:
        """Enrol the household, then start the network and the daemon."""
        await self.link.start()
        await self.ecu_link.start()
        self._enrol()
        sound = self.folder / "sound"
        os.mkfifo(sound)
        self._fifo = os.open(sound, os.O_RDWR | os.O_NONBLOCK)
        second = self.folder / "second-sound"
        os.mkfifo(second)
        self._second_fifo = os.open(second, os.O_RDWR | os.O_NONBLOCK)
        files = {"ca": "ca", "certificate": "whodrives", "key": "whodrives-key"}
        certs = self.group.folder / "broker"
        settings = {
            "vehicle": {"id": self.name},
            "sound": {"source": "-"},
            "mqtt": {
                "host": "127.0.0.1",
                "port": self.link.port,
                "tls": {key: str(certs / f"{name}.pem") for key, name in files.items()},
            },
            "profiles": {"directory": "profiles", "key_file": "profile-key"},
            "models": {"directory": "models"},
        }
        (self.folder / "whodrives.yaml").write_text(json.dumps(settings))
        (self.folder / "run").mkdir()
        (self.folder / "second-run").mkdir()
        self.ecu_client = self.group.client("ecu", self._on_ecu)
        # Its interlock is fed by the car itself.
        for topic in ("preferences/apply", "preferences/cancel"):
            self.group.subscribe(self.ecu_client, f"whodrives/{self.name}/{topic}")
        self.ecu_client.connect_async("127.0.0.1", self.ecu_link.port)
        self.ecu_client.loop_start()
        self._bear()

    def _enrol(self) -> None:
        self._store = ProfileStore(
            self.folder / "profiles",
            self.folder / "profile-key",
            FINGERPRINT,
            schema.Config().vehicle.signals,
            self.name,
        )
        self.drivers = [self._enrolled(number) for number in range(trips.DRIVERS)]

    def _enrolled(self, number: int) -> str:
        """The id of a driver who is enrolled, or was erased and is enrolled anew."""
        wanted = {
            PREFERENCES[0]: 20.0 + 50 * number,
            PREFERENCES[1]: 5.0 + 6 * number,
            PREFERENCES[2]: -40.0 + 25 * number,
        }
        name = f"Driver {number}"
        rows = np.tile(embedding(number + 1), (AUGMENTATIONS, 1))
        stored = self._store.save(name, rows, 20.0, wanted)
        self._store.set_key(name, f"fob-{number}")
        self._preferences[stored.profile.id] = [wanted]
        return stored.profile.id

    def _enrol_erased(self) -> None:
        """Who was erased in the trip before is one of the household again."""
        for number in sorted(self._erased):
            if not self._store.holds(self.drivers[number]):
                self.drivers[number] = self._enrolled(number)
        if self._erased:
            self._reread()
        self._erased.clear()

    def _reread(self) -> None:
        """Let the daemon read the store anew, if it is there."""
        if self.pid is not None and self._restart_s is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGHUP)

    def _bear(self) -> None:
        self.pid = self._start_daemon(self._fifo, "")

    def _start_daemon(self, fifo: int, prefix: str) -> int:
        """A daemon for this car: its process id. Sound, log and runtime folder have the prefix."""
        with contextlib.suppress(BlockingIOError):
            while os.read(fifo, 65_536):
                pass
        return self.group.fork_server.start(
            {
                "config": str(self.folder / "whodrives.yaml"),
                "sound": str(self.folder / f"{prefix}sound"),
                "log": str(self.folder / f"{prefix}daemon.log"),
                "runtime": str(self.folder / f"{prefix}run"),
                "calendar": str(self.folder / "calendar"),
            }
        )

    def _start_second(self, seconds: float, now_s: float) -> None:
        """Start a second daemon for this car, unless the first is not there."""
        if self.pid is not None and self._restart_s is None and self._second is None:
            pid = self._start_daemon(self._second_fifo, "second-")
            self._second = pid, now_s, now_s + seconds

    def _watch_second(self, now_s: float) -> None:
        """Note when a second daemon has ended; kill it when its time is over."""
        if self._second is None:
            return
        pid, born_s, end_s = self._second
        if Path(f"/proc/{pid}").exists():
            if now_s < end_s:
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._second = None
        self.record.others.append((born_s, now_s))

    def stop(self) -> None:
        """End what belongs to this car."""
        self.link.close()
        self.ecu_link.close()
        self.ecu_client.disconnect()
        self.ecu_client.loop_stop()
        os.close(self._fifo)
        os.close(self._second_fifo)

    # --- a life ---

    async def live(self) -> None:
        """Make trips until the group has made enough."""
        while (number := self.group.next_trip()) is not None:
            await self._until_online()
            await self._trip(number)

    async def _until_online(self) -> None:
        limit_s = self.clock.now_s() + ONLINE_S
        while not (self.online and self.ecu_client.is_connected()) and not self.group.noticed:
            await self._tick()
            if self.clock.now_s() > limit_s:
                lost = judge.Record(self.name, self.record.trip, self.record.seed, limit_s)
                lost.died.append(f"not online within {ONLINE_S:.0f} s of a broker that is there")
                self.group.conclude(lost)
                limit_s = self.clock.now_s() + ONLINE_S
            limit_s = max(limit_s, self.group.broker_back_s + ONLINE_S)

    async def _trip(self, number: int) -> None:
        seed = self.group.order.seed * 1_000_003 + number
        plan = trips.plan(random.Random(seed))  # noqa: S311 - a seed is wanted
        began_s = self.clock.now_s()
        self._enrol_erased()
        before = [said for said in self.record.spoken if said[1] > began_s - judge.BEFORE_S]
        self.record = judge.Record(self.name, number, seed, began_s, spoken=before)
        self.record.shown.append((began_s, self._shown))
        for driver in self.drivers:
            self._note_preferred(began_s, driver)
        self._commands.clear()
        self._apart = False
        self.ecu.faults = frozenset()
        waiting = list(plan.actions)
        while (at_s := self.clock.now_s() - began_s) < plan.length_s or waiting:
            if self.group.noticed:
                return
            while waiting and waiting[0].at_s <= at_s:
                self._do(waiting.pop(0))
            await self._tick()
        self.record.ended_s = self.clock.now_s()
        self._close_spans()
        calendar = self.clock.calendar
        if calendar is not None:
            self.record.late_s, calendar.late_s = calendar.late_s, 0.0
        self.group.conclude(self.record)

    async def _tick(self) -> None:
        now_s = self.clock.now_s()
        for end in [e for e in self._ends if e[0] <= now_s]:
            self._ends.remove(end)
            end[1]()
        self._watch(now_s)
        self._watch_second(now_s)
        self._observe(now_s)
        self._speak(now_s)
        self._run_ecu(now_s)
        if now_s - self._reported_s >= REPORT_S:
            self._reported_s = now_s
            self._report(now_s)
        due_s = now_s + TICK_S
        await asyncio.sleep(max(0.0, due_s - self.clock.now_s()) / self.clock.scale)
        note_late(self.clock, self.clock.now_s() - due_s)

    def _watch(self, now_s: float) -> None:
        """See that the daemon lives, unless we killed it."""
        if self._restart_s is not None:
            if now_s >= self._restart_s:
                self._restart_s = None
                self.record.gone.append(judge.Gone(self._killed_s, now_s, self._last_sign_s()))
                self._bear()
            return
        if self.pid is not None and not Path(f"/proc/{self.pid}").exists():
            log = (self.folder / "daemon.log").read_text().splitlines()[-3:]
            self.record.died.append(f"the daemon ended by itself: {' | '.join(log)}")
            self._bear()

    def _last_sign_s(self) -> float | None:
        """When the dead daemon last knew of the car, on the fast clock; it left that behind."""
        with contextlib.suppress(FileNotFoundError):
            told = (self.folder / "run" / f"trip-{self.name}.json").read_bytes()
            return int(told[:20]) / 1e9
        return None

    def _observe(self, now_s: float) -> None:
        """Note who can hear and what moves, from the last moment to this one."""
        if self.link.newest != self._linked:
            self._linked, self._linked_s = self.link.newest, now_s
        group, linked = self.group, self.link.newest is not None
        hears = linked and self.link.flows and self.link.newest == self._greeted
        car = group.gateway.is_connected() and group.headunit.is_connected()
        alive = self._restart_s is None and self._asleep_s is None
        ecu = self.ecu_client.is_connected() and self.ecu_link.newest is not None
        self._note_span("deaf", not (alive and hears and car), now_s)
        self._note_span("down", alive and not linked, now_s)
        self._note_span("ecu_deaf", not (ecu and group.gateway.is_connected()), now_s)
        self._note_span("moving", self.ecu.moving, now_s)
        self._ticked_s = now_s

    def _note_span(self, name: str, holds: bool, now_s: float) -> None:  # noqa: FBT001
        """A span begins at the tick before we see it, for it may have begun right after that."""
        if holds:
            early = name in ("deaf", "ecu_deaf")
            self._spans.setdefault(name, self._ticked_s if early else now_s)
        elif name in self._spans:
            early = name in ("down", "moving")
            until_s = self._ticked_s if early else now_s
            getattr(self.record, name).append((self._spans.pop(name), until_s))

    def _close_spans(self) -> None:
        """Let the record of this trip have what goes on in the next."""
        for name, from_s in self._spans.items():
            getattr(self.record, name).append((from_s, self.record.ended_s))

    # --- actions ---

    def _do(self, action: trips.Action) -> None:
        now_s = self.clock.now_s()
        self.group.outcome.counts[action.kind] += 1
        match action.kind:
            case "car":
                self._change(action.what, now_s)
            case "say":
                self._say(*action.what)
            case "choose" | "listen" | "cancel" | "save" | "forget":
                self._command(action.kind, action.what, now_s)
            case "switch":
                self.record.acts.append((now_s, "switch", None))
                self._answer(
                    self.ecu.manual(PREFERENCES[0], float(action.what), self.clock.wall_s())
                )
            case "apart":
                self._apart = True
            case "second":
                self._start_second(float(action.what), now_s)
            case "sleep":
                self._sleep(float(action.what), now_s)
            case "edit":
                self._edit(action.what, now_s)
            case "ecu":
                self.record.misbehaviour = action.what
                self.ecu.faults = frozenset(ecus.Fault(name) for name in action.what)
            case _:
                self._harm(action.kind, action.what, now_s)

    def _change(self, change: dict[str, Any], now_s: float) -> None:
        key = change.get(trips.KEY)
        if key:
            self.record.acts.append((now_s, "key", self.drivers[int(key[-1])]))
        self.signals |= change
        self._report(now_s)

    def _harm(self, kind: str, what: Any, now_s: float) -> None:
        if kind == "step":
            calendar = self.clock.calendar
            if calendar is not None:
                calendar.offset_s += what
                # The ECU knows that its calendar was stepped: the order of readings begins anew.
                self.ecu.car = ecus.Car()
                self._offsets.append((now_s, calendar.offset_s))
            self.record.faults.append((now_s, now_s + 2.0, "step"))
            return
        seconds = what[1] if kind == "lost" else float(what)
        self.record.faults.append((now_s, now_s + seconds, kind))
        end_s = now_s + seconds
        if kind == "lost":
            self._lost[what[0]] = end_s
        elif kind == "kill" and self.pid is not None and self._restart_s is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._restart_s, self._killed_s, self._greeted = end_s, now_s, None
        elif kind == "cut":
            self.link.cut()
            self._ends.append((end_s, self.link.restore))
        elif kind == "hold":
            self.link.hold()
            # Half of them never pass on what they held.
            end = self._let_go if self.rng.random() < 0.5 else self.link.restore  # noqa: PLR2004
            self._ends.append((end_s, end))
        elif kind == "ecu_cut":
            self.ecu_link.cut()
            self._ends.append((end_s, self.ecu_link.restore))
        elif kind == "disk" and self.clock.calendar is not None:
            self.clock.calendar.disk_slow_until_s = end_s
        elif kind == "delay":
            self.link.delay_s = self.ecu_link.delay_s = 1.5 / self.clock.scale
            self._ends.append((end_s, self._hurry))

    def _let_go(self) -> None:
        self.link.cut()
        self.link.restore()

    def _sleep(self, seconds: float, now_s: float) -> None:
        """The daemon's machine is suspended; it hears and does nothing."""
        if self.pid is None or self._restart_s is not None:
            return
        self.record.faults.append((now_s, now_s + seconds, "sleep"))
        self._asleep_s = now_s
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)
        self._ends.append((now_s + seconds, self._awake))

    def _awake(self) -> None:
        """The machine goes on; its monotonic clock has stood still."""
        calendar, since_s = self.clock.calendar, self._asleep_s
        self._asleep_s = None
        if calendar is not None and since_s is not None and self.pid is not None:
            calendar.asleep_s += self.clock.now_s() - since_s
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)

    def _edit(self, number: int, now_s: float) -> None:
        """Somebody changes a driver's preferences in the store, and the daemon is told."""
        driver = self.drivers[number]
        if not self._store.holds(driver):
            return
        place = {PREFERENCES[0]: float(self.rng.randrange(150, 200))}
        self._store.adjust_preferences(driver, place)
        wanted = [one | place for one in self._preferences[driver]]
        self._preferences[driver] += wanted
        self._note_preferred(now_s, driver, sure=False)
        self._reread()
        self._ends.append((now_s + EDITED_S, lambda: self._edited(driver, wanted)))

    def _edited(self, driver: str, wanted: list[dict[str, float]]) -> None:
        self._preferences[driver] = wanted
        self._note_preferred(self.clock.now_s(), driver)

    def _hurry(self) -> None:
        self.link.delay_s = self.ecu_link.delay_s = 0.0

    def _command(self, kind: str, who: int | None, now_s: float) -> None:
        name = str(uuid.UUID(int=self.rng.getrandbits(128), version=4))
        issued = ecus.iso(self.clock.wall_s())
        body: dict[str, Any] = {"schema": 1, "command_id": name, "issued_at": issued}
        driver = None
        if kind in ("choose", "forget"):
            driver = self._named(who)
            body["driver"] = driver
        if kind == "forget" and who is not None:
            self._erased.add(who)
        if kind == "save" and self._shown is not None:
            told = [values for at_s, values in self._positions if at_s > now_s - POSITION_AGE_S]
            self._preferences[self._shown] += told
            self._note_preferred(now_s, self._shown, sure=False)
        self._commands[name] = len(self.record.commands)
        self.record.commands.append(judge.Result(now_s, kind, driver))
        topic = f"command/{'driver' if kind == 'choose' else kind}"
        self.group.headunit.publish(f"whodrives/{self.name}/{topic}", checked(topic, body), 1)

    def _named(self, who: int | None) -> str | None:
        if who is None:
            return None
        return NOBODYS_ID if who == trips.NOBODY else self.drivers[who]

    def _note_preferred(self, now_s: float, driver: str, *, sure: bool = True) -> None:
        """Write down what may be right to ask for this driver from now on."""
        values = tuple(self._preferences.get(driver, ()))
        self.record.preferred.append(judge.Preferred(now_s, driver, values, sure))

    def _answered(self, body: dict[str, Any], now_s: float) -> None:
        """Take what the daemon said to a command of this trip."""
        number = self._commands.get(body["command_id"])
        if number is None:
            return
        result = replace(self.record.commands[number], at_s=now_s, reason=body["reason"] or "")
        self.record.commands[number] = result
        if result.kind == "save" and self._shown is not None and result.done:
            since_s = result.sent_s - POSITION_AGE_S
            told = [v for at_s, v in self._positions if at_s > since_s]
            self._preferences[self._shown] = self._kept(told, self._preferences[self._shown])
            self._note_preferred(now_s, self._shown)

    def _kept(
        self, told: list[dict[str, float]], before: list[dict[str, float]]
    ) -> list[dict[str, float]]:
        """What a driver may prefer after a `save`: the seat's position, if a hand had moved it."""
        if not told or not judge.hands(self.record):
            return [*before, *told]
        seat = PREFERENCES[:2]
        others = [{p: v for p, v in one.items() if p not in seat} for one in (*before, *told)]
        return [*({p: one[p] for p in seat} for one in told), *others]

    # --- the car and the ECU ---

    def _report(self, now_s: float) -> None:
        self._lost = {path: end_s for path, end_s in self._lost.items() if end_s > now_s}
        said = {p: v for p, v in self.signals.items() if p not in self._lost and v is not None}
        when = ecus.iso(self.clock.wall_s())
        body = {"schema": 1, "signals": {p: {"value": v, "time": when} for p, v in said.items()}}
        felt = {p: {"value": v, "time": when} for p, v in self.signals.items()}
        self.ecu.car.hear(felt, self.clock.wall_s())
        if None in self._lost:
            return
        self.record.readings.append((now_s, said))
        topic = f"whodrives/{self.name}/vehicle"
        if not self._apart:
            self.group.gateway.publish(topic, checked("vehicle", body), 1)
            return
        # A whole cycle under one time; another switch is released all the while.
        cycle = list({**said, trips.OTHER_SWITCH: False}.items())
        self.rng.shuffle(cycle)
        for path, value in cycle:
            one = {"schema": 1, "value": value, "time": when}
            self.group.gateway.publish(f"{topic}/{path}", checked("vehicle/<VSS path>", one), 1)

    def _run_ecu(self, now_s: float) -> None:
        dt_s, self._stepped_s = min(now_s - self._stepped_s, 1.0), now_s
        self._answer(self.ecu.advance(dt_s, self.clock.wall_s()))
        every_s = 0.4 if self.ecu.moving else 1.0
        if now_s - self._shown_s >= every_s and self.ecu_client.is_connected():
            self._shown_s = now_s
            topic, body = self.ecu.position(self.clock.wall_s())
            told = {path: float(body["signals"][path]) for path in PREFERENCES}
            self._positions = [*self._positions[-20:], (now_s, told)]
            self.ecu_client.publish(
                f"whodrives/{self.name}/{topic}", checked(topic, body), 0, retain=True
            )

    def _answer(self, messages: list[ecus.Message]) -> None:
        for topic, body in messages:
            self.group.outcome.counts[f"ecu {body['status']}"] += 1
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = ecus.RESULT_EXPIRY_S
            properties.CorrelationData = body["request_id"].encode()
            self.ecu_client.publish(
                f"whodrives/{self.name}/{topic}", checked(topic, body), 1, properties=properties
            )

    def _on_ecu(self, message: MQTTMessage) -> None:
        topic = message.topic.removeprefix(f"whodrives/{self.name}/")
        body = json.loads(message.payload)
        wall_s = self.clock.wall_s()
        if topic == "preferences/cancel":
            self._answer(self.ecu.cancel(body, wall_s))
        elif message.retain:
            now_s = self.clock.now_s()
            self.record.asked.append(self._asked(body, now_s, message))
        else:
            before = set(self.ecu._active)  # noqa: SLF001 - what it did, and not what it says
            self._answer(self.ecu.apply(body, wall_s))
            for request in set(self.ecu._active) - before:  # noqa: SLF001
                for group in _groups(body):
                    self.record.began.append(
                        judge.Began(self.clock.now_s(), request, body["driver"], group)
                    )

    # --- what the monitor hears ---

    def heard(self, topic: str, message: MQTTMessage) -> None:
        """Write down what the broker passed on."""
        now_s = self.clock.now_s()
        body = json.loads(message.payload) if message.payload else None
        if topic in OF_DAEMON and not message.retain and now_s - self._linked_s > judge.REACH_S:
            # After the broker's restart the monitor may subscribe too late for the greeting.
            self._greeted = self._linked
        if topic == "status" and body:
            self.online = body["state"] != "offline"
            if self.online and not message.retain:
                self._greeted = self.link.newest
        elif topic == "driver":
            self._show(body, now_s)
        elif topic == "preferences/apply" and body:
            self.group.outcome.counts["requests"] += 1
            self.record.asked.append(self._asked(body, now_s, message))
        elif topic == "command/result" and body:
            self.group.outcome.counts[f"command {body['status']}"] += 1
            self._answered(body, now_s)
        elif topic == "preferences/result" and body:
            said = judge.Said(now_s, body["request_id"], body["status"], body["reason"] or "")
            self.record.said.append(said)
        elif topic == "preferences/cancel" and body:
            self.record.withdrawn.append((now_s, body["request_id"], body["reason"]))
        elif topic == "recognition" and body:
            self.group.outcome.counts[f"heard {body['outcome']}"] += 1

    def _show(self, body: dict[str, Any] | None, now_s: float) -> None:
        """Take what the topic `driver` says; nothing, once the trip is over."""
        driver = body["driver"] if body else None
        if driver != self._shown:
            self._shown = driver
            self.record.shown.append((now_s, driver))
        if body and driver:
            since_s = max(self._moments(body["since"], now_s))
            if not any(before[1:] == (driver, since_s) for before in self.record.assigned):
                self.record.assigned.append((now_s, driver, since_s))

    def _asked(self, body: dict[str, Any], now_s: float, message: MQTTMessage) -> judge.Asked:
        issued, expires = ecus.seconds(body["issued_at"]), ecus.seconds(body["expires_at"])
        assert issued is not None and expires is not None  # noqa: S101, PT018 - the contract's
        moments = self._moments(body["issued_at"], now_s)
        return judge.Asked(
            at_s=now_s,
            issued_s=max(moments),
            good_s=expires - issued,
            request=body["request_id"],
            driver=body["driver"],
            signals={p: v for p, v in body["signals"].items() if p in PREFERENCES},
            groups=_groups(body),
            kept_s=getattr(message.properties, "MessageExpiryInterval", None),
            retained=message.retain,
            doubt_s=max(moments) - min(moments),
        )

    def _moments(self, text: str, now_s: float) -> list[float]:
        """A time of the calendar on the monotonic clock: one for each step it may be told after.

        A step counts from when it was made until the next; what was decided just before it may be
        told just after it.
        """
        wall_s = ecus.seconds(text) or 0.0
        found = []
        for (from_s, offset_s), until_s in zip(
            self._offsets, [at_s for at_s, _ in self._offsets[1:]] + [now_s], strict=True
        ):
            at_s = wall_s - EPOCH_S - offset_s
            if from_s <= at_s + TOLD_S and at_s <= until_s + JITTER_S and at_s <= now_s + JITTER_S:
                found.append(at_s)
        return found or [now_s]

    # --- sound ---

    def _say(self, voice: int, seconds: float) -> None:
        who = self.drivers[voice - 1] if 1 <= voice <= trips.DRIVERS else None
        self._sound += [voice] * round(seconds / BLOCK_S) + [0] * PAUSE_BLOCKS
        now_s = self.clock.now_s()
        lasts_s = len(self._sound) * BLOCK_S
        self.record.spoken.append(
            (
                now_s + lasts_s - seconds - PAUSE_BLOCKS * BLOCK_S,
                now_s + lasts_s - PAUSE_BLOCKS * BLOCK_S,
                who,
            )
        )

    def _speak(self, now_s: float) -> None:
        blocks = max(0, int((now_s - self._heard_s) / BLOCK_S)) if self._heard_s else 1
        self._heard_s = now_s if not self._heard_s else self._heard_s + blocks * BLOCK_S
        said, self._sound = self._sound[:blocks], self._sound[blocks:]
        if self._restart_s is not None or self._asleep_s is not None:
            return
        if "deaf" not in self._spans:
            note_late(self.clock, self._unheard_s())
        for voice in said or [0]:
            with contextlib.suppress(BlockingIOError):
                os.write(self._fifo, _block(voice))
            if self._second is not None:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._second_fifo, _block(voice))

    def _unheard_s(self) -> float:
        """How much of what was said before now the daemon has not taken yet."""
        waiting = array.array("i", [0])
        fcntl.ioctl(self._fifo, termios.FIONREAD, waiting)
        return waiting[0] / len(_block(0)) * BLOCK_S


_BLOCKS: dict[int, bytes] = {}


def _block(voice: int) -> bytes:
    """A block of this voice's level."""
    if voice not in _BLOCKS:
        # Noise whose median size is 1: a constant would be removed as an offset, a tone is of
        # telephone band, and two values alone look like another sample format.
        rng = np.random.default_rng(1)
        wave = rng.permutation(np.linspace(0.8, 1.2, BLOCK)) * rng.choice((-1, 1), BLOCK)
        _BLOCKS[voice] = (wave * voice * STEP).astype("<i2").tobytes()
    return _BLOCKS[voice]


def _groups(body: dict[str, Any]) -> tuple[str, ...]:
    names = {vss.Group.SEAT: judge.SEAT_GROUP, vss.Group.MIRRORS: judge.MIRRORS}
    return tuple(sorted({names[vss.group_of(path)] for path in body["signals"]}))


class Group:
    """One process's cars."""

    def __init__(self, order: Order, folder: Path, progress: Callable[[Outcome], None]) -> None:
        self.order = order
        self._progress = progress
        self.folder = folder
        self.outcome = Outcome()
        self.clock = Clock(order.scale)
        self._began_s = time.monotonic()
        certs = folder / "broker"
        certs.mkdir()
        self.broker = Broker(certs)
        self.fork_server = ForkServer(self.clock, order.mutant)
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.broker_back_s = 0.0
        self._made = 0
        self._loop = asyncio.get_running_loop()
        self._rng = random.Random(f"{order.seed}/broker/{order.number}")  # noqa: S311
        self.cars = [Car(self, number) for number in range(order.cars)]

    def client(self, role: str, take: Callable[[MQTTMessage], None]) -> Client:
        """An MQTT client of a role, whose messages are taken in our own thread."""
        if role not in self._contexts:
            certs = self.folder / "broker"
            context = ssl.create_default_context(cafile=str(certs / "ca.pem"))
            context.load_cert_chain(certs / f"{role}.pem", certs / f"{role}-key.pem")
            self._contexts[role] = context
        made = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        made.tls_set_context(self._contexts[role])
        made.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type] # fractions are fine

        def pass_on(_client: Client, _data: Any, message: MQTTMessage) -> None:
            self._loop.call_soon_threadsafe(take, message)

        made.on_message = pass_on
        return made

    def subscribe(self, client: Client, topic: str) -> None:
        """At every connection."""
        topics = client.user_data_get() or []
        client.user_data_set([*topics, (topic, 1)])
        client.on_connect = lambda c, data, *_: c.subscribe(data)

    @property
    def noticed(self) -> bool:
        """Whether something was wrong, if that is all that was to be seen."""
        return self.order.until_noticed and bool(self.outcome.violations)

    def next_trip(self) -> int | None:
        """The number of the next trip, until there were enough."""
        if self._made >= self.order.trips or self.noticed:
            return None
        self._made += 1
        if self.order.only is not None:
            return self.order.only
        return self.order.number * 1_000_000 + self._made - 1

    def conclude(self, record: judge.Record) -> None:
        """Count a trip, and what was wrong with it."""
        self.outcome.trips += record.ended_s > 0
        lived_s = (time.monotonic() - self._began_s) * self.order.scale
        self.outcome.daemon_s = lived_s * len(self.cars)
        self.outcome.counts["served"] += bool(record.began)
        self.outcome.counts["assigned"] += judge.assigned(record)
        self.outcome.counts["owed"] += len(judge.owed(record))
        self.outcome.counts["late"] += record.late_s > judge.LATE_S
        self.outcome.late_s = max(self.outcome.late_s, record.late_s)
        found = judge.violations(record)
        self.outcome.violations += found
        if self.order.keep:
            records.keep(self.order.keep, self.order.number, record)
            if found:
                records.tell(self.order.keep, record, found)
        self._progress(self.outcome)

    async def run(self) -> None:
        """All trips."""
        self.broker.start()
        monitor = self.client("monitor", self._heard)
        for topic in (*OF_DAEMON, "preferences/result"):
            self.subscribe(monitor, f"whodrives/+/{topic}")
        self.gateway = self.client("gateway", lambda _: None)
        self.headunit = self.client("headunit", lambda _: None)
        for client in (monitor, self.gateway, self.headunit):
            client.connect_async("127.0.0.1", self.broker.port)
            client.loop_start()
        by_name = {car.name: car for car in self.cars}
        self._by_name = by_name
        killer = None
        try:
            for car in self.cars:
                await car.start()
            killer = asyncio.create_task(self._kill_broker())
            await asyncio.gather(*(car.live() for car in self.cars))
        finally:
            if killer:
                killer.cancel()
            self.fork_server.stop()
            for client in (monitor, self.gateway, self.headunit):
                client.disconnect()
                client.loop_stop()
            for car in self.cars:
                car.stop()
            self.broker.kill()

    def _heard(self, message: MQTTMessage) -> None:
        _, name, topic = message.topic.split("/", 2)
        self._by_name[name].heard(topic, message)

    async def _kill_broker(self) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / BROKER_LIVES_S) / self.order.scale)
            seconds = self._rng.choice((1, 3, 8, 20))
            from_s = self.clock.now_s()
            self.outcome.counts["broker"] += 1
            self.broker.kill()
            self.broker_back_s = from_s + seconds
            for car in self.cars:
                car.online = False
                car.record.faults.append((from_s, from_s + seconds, "broker"))
            before = [car.record for car in self.cars]
            await asyncio.sleep(seconds / self.order.scale)
            self.broker.start()
            for car, record in zip(self.cars, before, strict=True):
                if car.record is not record:
                    car.record.faults.append((from_s, self.clock.now_s(), "broker"))


def work(order: Order, found: multiprocessing.Queue[tuple[int, Outcome]]) -> None:
    """Be one process of the campaign: say now and then what was found so far, and at the end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))

    def progress(outcome: Outcome) -> None:
        if outcome.trips % EVERY_TRIPS == 0:
            found.put((order.number, outcome))

    with tempfile.TemporaryDirectory(
        prefix="whodrives-faults-", ignore_cleanup_errors=True
    ) as name:
        found.put((order.number, asyncio.run(_run(order, Path(name), progress))))


async def _run(order: Order, folder: Path, progress: Callable[[Outcome], None]) -> Outcome:
    group = Group(order, folder, progress)
    await group.run()
    return group.outcome
