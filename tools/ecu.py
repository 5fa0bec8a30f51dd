"""A simulated seat and mirror ECU: what an integrator starts with.

    python tools/ecu.py --vehicle car      # a broker on this machine; over TLS:
    python tools/ecu.py --vehicle car --ca ca.pem --certificate ecu.pem --key ecu-key.pem

It does what docs/mqtt.md asks of an ECU: it takes `preferences/apply`, looks at `expires_at`, acts
on a `request_id` once and answers a copy from memory, keeps an interlock of its own (fed by
`vehicle`, not by whodrives), moves at the speed of real motors, stops when the car is no longer
safe, when `preferences/cancel` says so and when a person works a switch, answers on
`preferences/result`, and tells on `preferences/position` where everything is.

Type a line to be that person: `Seat.Row1.DriverSide.Position 120`, or only its last words. With
`--save FILE` the next ECU goes on where this one was. `--misbehave` makes it a bad one, for tests.

`Ecu` is the pure part: messages and time in, messages out. `Shell` carries them over MQTT.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import queue
import re
import signal
import ssl
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from io import FileIO
from pathlib import Path
from typing import Any, TypeAlias

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from whodrives.vehicle import vss

FRESH_S = 2.0
AHEAD_S = 1.0
"""The clocks of car, ECU and whodrives may disagree by this much."""
LONGEST_S = 5.0
"""A request that is good for longer is refused: it might be acted on at any later time."""
REMEMBERED_REQUESTS = 256
RESULT_EXPIRY_S = 10
POSITION_MOVING_S = 0.2
POSITION_S = 1.0
STEP_S = 0.02
LATE_S = 5.0
"""So late a slow ECU answers."""
SLOWNESS = 0.1
"""The share of their speed that a slow ECU's motors have."""

MANUAL = "manual"
"""The reason that says: a person worked a switch."""

_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
EXPIRED = "expired"
"""The reason that says: the request came too late."""

_SEAT = "Vehicle.Cabin.Seat.Row1.DriverSide"
_GEAR = "Vehicle.Powertrain.Transmission.SelectedGear"
_PARK_LOCK = "Vehicle.Powertrain.Transmission.IsParkLockEngaged"
_BRAKE = "Vehicle.Chassis.ParkingBrake.IsEngaged"
_DOOR = "Vehicle.Cabin.Door.Row1.DriverSide.IsOpen"
_OCCUPANCY = f"{_SEAT}.OccupancyStatus"
_OCCUPIED = f"{_SEAT}.IsOccupied"
_IGNITION = "Vehicle.LowVoltageSystemState"

Message: TypeAlias = tuple[str, dict[str, Any]]
"""A topic below the car's, and what to say there."""


class Fault(StrEnum):
    """How an ECU may be bad."""

    SILENT = "silent"  # moves, and never answers
    DEAF = "deaf"  # neither moves nor answers
    SLOW = "slow"  # late answers, and motors at a tenth of their speed
    LYING = "lying"  # completed at once, and nothing moved
    REJECTS = "rejects"  # the car is never safe enough
    LOCKED = "locked"  # rejects for good
    DUPLICATES = "duplicates"  # every answer twice
    STRAY = "stray"  # answers requests that nobody made
    JAMMED = "jammed"  # accepts, and aborts half-way
    WAVERS = "wavers"  # after each answer says that it came too late; motors as if slow


_FEIGNED = {Fault.REJECTS: "standing", Fault.LOCKED: "locked"}


@dataclass(frozen=True, slots=True)
class Motor:
    """What moves one signal: its travel, and how far it gets in a second, in the signal's unit."""

    minimum: float
    maximum: float
    per_s: float


_WHEEL = Motor(0, 100, 25)
_MIRROR = Motor(-100, 100, 30)
MOTORS: Mapping[str, Motor] = {
    f"{_SEAT}.Position": Motor(0, 250, 30),
    f"{_SEAT}.Height": Motor(0, 80, 15),
    f"{_SEAT}.Tilt": Motor(-5, 15, 3),
    f"{_SEAT}.Backrest.Recline": Motor(0, 50, 5),
    f"{_SEAT}.Backrest.LumbarSupport": Motor(0, 100, 20),
    f"{_SEAT}.Backrest.LumbarHeight": Motor(0, 60, 10),
    f"{_SEAT}.Backrest.SideBolsterSupport": Motor(0, 100, 20),
    f"{_SEAT}.Seating.Length": Motor(0, 60, 10),
    f"{_SEAT}.Headrest.Height": Motor(0, 80, 15),
    f"{_SEAT}.Headrest.Angle": Motor(-10, 30, 5),
    f"{_SEAT}.HeatingCooling": Motor(-100, 100, 100),
    "Vehicle.Chassis.SteeringWheel.Tilt": _WHEEL,
    "Vehicle.Chassis.SteeringWheel.Extension": _WHEEL,
    "Vehicle.Body.Mirrors.DriverSide.Tilt": _MIRROR,
    "Vehicle.Body.Mirrors.DriverSide.Yaw": _MIRROR,
    "Vehicle.Body.Mirrors.PassengerSide.Tilt": _MIRROR,
    "Vehicle.Body.Mirrors.PassengerSide.Yaw": _MIRROR,
}


def step(position: float, target: float, motor: Motor, dt_s: float) -> float:
    """Where the motor is after `dt_s`, on its way to the target; it never overshoots."""
    reach = motor.per_s * dt_s
    if abs(target - position) <= reach:
        return target
    return position + math.copysign(reach, target - position)


def seconds(text: object) -> float | None:
    """The time in an ISO 8601 text with a zone, in seconds from 1970 UTC; else None."""
    try:
        when = datetime.fromisoformat(text if isinstance(text, str) else "")
        return when.astimezone(UTC).timestamp() if when.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _is_zero(value: object) -> bool:
    return isinstance(value, int | float) and value is not False and value == 0


_PERMITS: Mapping[str, Callable[[object], bool]] = {
    "Vehicle.Speed": _is_zero,
    _GEAR: lambda value: value == 126,  # noqa: PLR2004 - VSS's Park
    _PARK_LOCK: lambda value: value is True,
    _BRAKE: lambda value: value is True,
    _DOOR: lambda value: value is False,
    _OCCUPANCY: lambda value: value == "OCCUPIED",
    _OCCUPIED: lambda value: value is True,
    _IGNITION: lambda value: value not in ("OFF", "LOCK"),
}
"""The signals that are read, and which of their values forbid nothing and end nothing."""


@dataclass(slots=True)
class Car:
    """What the car last said of itself.

    Attributes:
        said: VSS path to value and wall-clock time.
        newest: VSS path to the time of its newest reading. Only a dangerous reading may be older.
    """

    said: dict[str, tuple[object, float]] = field(default_factory=dict)
    newest: dict[str, float] = field(default_factory=dict)

    def hear(self, signals: Mapping[str, Any], now_s: float) -> None:
        """Take `{path: {"value": ..., "time": ...}}`; what cannot be read is ignored.

        A reading from the future counts as made now, so that it is fresh for no longer and outdates
        nothing that is true; one that is further ahead than AHEAD_S is ignored. An older reading
        does not replace a newer one, unless it forbids what the newer one permits.
        """
        for path, reading in signals.items():
            when = seconds(reading.get("time")) if isinstance(reading, dict) else None
            if path not in _PERMITS or when is None or when > now_s + AHEAD_S:
                continue
            when, value = min(when, now_s), reading.get("value")
            newest = self.newest.get(path, -math.inf)
            if newest > now_s:  # the calendar was set back
                newest = -math.inf
            replaces = value is not None and self._permits(path) and not _PERMITS[path](value)
            if when >= newest or replaces:
                self.said[path] = (value, when)
                self.newest[path] = max(when, newest)

    def _permits(self, path: str) -> bool:
        value = self.said.get(path, (None, 0.0))[0]
        return value is None or _PERMITS[path](value)

    def now(self, path: str, now_s: float) -> object:
        """The value if it speaks of now, else None."""
        value, when = self.said.get(path, (None, -math.inf))
        return value if 0.0 <= now_s - when <= FRESH_S else None

    def occupied(self, now_s: float) -> bool | None:
        """Whether somebody sits there, in the words of any VSS; None where they disagree."""
        words = {"OCCUPIED": True, "EMPTY": False}
        status, flag = self.now(_OCCUPANCY, now_s), self.now(_OCCUPIED, now_s)
        said = {words[status]} if status in ("OCCUPIED", "EMPTY") else set()
        said |= {flag} if isinstance(flag, bool) else set()
        return said.pop() if len(said) == 1 else None

    def blocks(self, group: vss.Group, now_s: float) -> list[str]:
        """Why this group must not move now. Unknown blocks."""
        speed = self.now("Vehicle.Speed", now_s)
        gear, lock = self.now(_GEAR, now_s), self.now(_PARK_LOCK, now_s)
        park = (gear == 126 and lock is not False) or (gear is None and lock is True)  # noqa: PLR2004 - VSS's Park
        checks = {
            "standing": _is_zero(speed),
            "park_or_brake": park or self.now(_BRAKE, now_s) is True,
            "seat_occupied": self.occupied(now_s) is True,
            "door_closed": group is vss.Group.MIRRORS or self.now(_DOOR, now_s) is False,
        }
        return [name for name, holds in checks.items() if not holds]


@dataclass(slots=True)
class Ecu:
    """Seat, steering wheel and mirrors: where they are and what they were asked for.

    Every method takes the wall-clock time in seconds from 1970 UTC and returns what to say.

    Attributes:
        car: what the car says of itself.
        faults: how this ECU is bad.
        positions: VSS path to where its motor is.
        overridden: groups that a person moved by hand, until the trip is over.
    """

    car: Car = field(default_factory=Car)
    faults: frozenset[Fault] = frozenset()
    positions: dict[str, float] = field(
        default_factory=lambda: {p: float((m.minimum + m.maximum) // 2) for p, m in MOTORS.items()}
    )
    overridden: set[vss.Group] = field(default_factory=set)
    _active: dict[str, dict[str, float]] = field(default_factory=dict)
    _by_hand: dict[str, float] = field(default_factory=dict)
    _answers: OrderedDict[str, tuple[str, str]] = field(default_factory=OrderedDict)
    _late: list[tuple[float, Message]] = field(default_factory=list)

    @property
    def moving(self) -> bool:
        """Whether any motor is on its way."""
        return bool(self._active or self._by_hand)

    def apply(self, body: Mapping[str, Any], now_s: float) -> list[Message]:
        """Take a `preferences/apply`: refuse it, begin it, or say again what became of it."""
        request, signals = _id(body), body.get("signals")
        if request is None or not isinstance(signals, dict) or not signals:
            return []
        if Fault.DEAF in self.faults:
            return []
        if request in self._answers:
            return self._say(request, *self._answers[request], now_s)
        if reason := self._refusal(body, signals, now_s):
            # It was not acted on, so it may come again: nothing to remember.
            return self._say(request, "rejected", reason, now_s)
        return self._begin(request, {path: float(v) for path, v in signals.items()}, now_s)

    def cancel(self, body: Mapping[str, Any], now_s: float) -> list[Message]:
        """Take a `preferences/cancel`: stop that request, and refuse it if it still arrives."""
        request = _id(body)
        if request is None or body.get("schema") != 1:
            return []
        answered = self._answers.get(request)
        if answered and answered[0] != "accepted":
            return self._say(request, *answered, now_s)
        return self._end(request, "aborted", "cancelled", now_s)

    def manual(self, path: str, target: float, now_s: float) -> list[Message]:
        """Let a person move a signal by its switch; this overrides every request.

        Raises:
            ValueError: no such signal, or it does not go there.
        """
        if path not in MOTORS or not _fits(target, MOTORS[path]):
            raise ValueError(f"{path} {target:g}: no such signal, or it does not go there")
        group = vss.group_of(path)
        self.overridden.add(group)
        self._by_hand[path] = target
        return self._stop(group, MANUAL, now_s)

    def advance(self, dt_s: float, now_s: float) -> list[Message]:
        """Let the motors run for `dt_s`."""
        self._clear_overrides(now_s)
        said = [message for due_s, message in self._late if due_s <= now_s]
        self._late = [late for late in self._late if late[0] > now_s]
        slowness = SLOWNESS if self.faults & {Fault.SLOW, Fault.WAVERS} else 1.0
        self._by_hand = self._run(self._by_hand, dt_s)
        for request in list(self._active):
            if blocks := self._blocks(self._active[request], now_s):
                said += self._end(request, "aborted", ", ".join(blocks), now_s)
                continue
            self._active[request] = self._run(self._active[request], dt_s * slowness)
            if Fault.JAMMED in self.faults:
                said += self._end(request, "aborted", "jammed", now_s)
            elif not self._active[request]:
                said += self._end(request, "completed", "", now_s)
        return said

    def position(self, now_s: float) -> Message:
        """Where everything is."""
        signals = {path: round(value, 1) for path, value in self.positions.items()}
        body = {"schema": 1, "time": iso(now_s), "moving": self.moving, "signals": signals}
        return "preferences/position", body

    def saved(self) -> dict[str, Any]:
        """What the next ECU must know, fit for JSON: what was under way is aborted by then."""
        answers = {
            request: ("aborted", "restarted") if answer[0] == "accepted" else answer
            for request, answer in self._answers.items()
        }
        return {"positions": self.positions, "answers": answers}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what another ECU saved.

        Raises:
            ValueError: that is not what `saved` gives.
        """
        try:
            positions = {path: float(saved["positions"][path]) for path in MOTORS}
            answers = {str(r): (str(a[0]), str(a[1])) for r, a in saved["answers"].items()}
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"not saved by an ECU: {error!r}") from error
        if bad := [path for path in MOTORS if not _fits(positions[path], MOTORS[path])]:
            raise ValueError(f"out of range: {', '.join(bad)}")
        self.positions, self._answers = positions, OrderedDict(answers)

    def _begin(self, request: str, targets: dict[str, float], now_s: float) -> list[Message]:
        said = []
        for group in {vss.group_of(path) for path in targets}:
            said += self._stop(group, "superseded by another request", now_s)
        if Fault.LYING in self.faults:
            return [*said, *self._end(request, "completed", "", now_s)]
        self._active[request] = targets
        self._remember(request, "accepted", "")
        said += self._say(request, "accepted", "", now_s)
        if Fault.STRAY in self.faults:
            said += self._say(_another(request), "completed", "", now_s)
        return said

    def _run(self, targets: Mapping[str, float], dt_s: float) -> dict[str, float]:
        """Let these motors run; returns the targets that are not reached."""
        for path, target in targets.items():
            self.positions[path] = step(self.positions[path], target, MOTORS[path], dt_s)
        return {path: t for path, t in targets.items() if self.positions[path] != t}

    def _clear_overrides(self, now_s: float) -> None:
        """Start the next trip without overrides once the seat is empty, or the ignition off."""
        left = self.car.occupied(now_s) is False or self.car.now(_DOOR, now_s) is True
        if left or self.car.now(_IGNITION, now_s) in ("OFF", "LOCK"):
            self.overridden.clear()

    def _refusal(self, body: Mapping[str, Any], signals: Mapping[str, Any], now_s: float) -> str:
        if reason := _untimely(body, now_s):
            return reason
        if bad := [path for path in signals if path not in MOTORS]:
            return f"no such signal: {bad[0]}"
        if bad := [path for path, value in signals.items() if not _fits(value, MOTORS[path])]:
            return f"out of range: {bad[0]}"
        if self.overridden & {vss.group_of(path) for path in signals}:
            return MANUAL
        feigned = [reason for fault, reason in _FEIGNED.items() if fault in self.faults]
        return ", ".join(feigned or self._blocks(signals, now_s))

    def _blocks(self, signals: Iterable[str], now_s: float) -> list[str]:
        groups = {vss.group_of(path) for path in signals}
        names = [n for g in vss.Group if g in groups for n in self.car.blocks(g, now_s)]
        return list(dict.fromkeys(names))

    def _stop(self, group: vss.Group, reason: str, now_s: float) -> list[Message]:
        """Stop all motors of the requests that move this group."""
        touching = [r for r, t in self._active.items() if any(vss.group_of(p) is group for p in t)]
        return [m for request in touching for m in self._end(request, "aborted", reason, now_s)]

    def _end(self, request: str, status: str, reason: str, now_s: float) -> list[Message]:
        self._active.pop(request, None)
        self._remember(request, status, reason)
        return self._say(request, status, reason, now_s)

    def _remember(self, request: str, status: str, reason: str) -> None:
        self._answers[request] = (status, reason)
        while len(self._answers) > REMEMBERED_REQUESTS:
            self._answers.popitem(last=False)

    def _say(self, request: str, status: str, reason: str, now_s: float) -> list[Message]:
        body = {"schema": 1, "time": iso(now_s), "request_id": request, "status": status}
        said: list[Message] = [("preferences/result", {**body, "reason": reason})]
        if Fault.SILENT in self.faults:
            return []
        if Fault.DUPLICATES in self.faults:
            said = said * 2
        if Fault.WAVERS in self.faults:
            said.append(("preferences/result", {**body, "status": "rejected", "reason": EXPIRED}))
        if Fault.SLOW in self.faults:
            self._late += [(now_s + LATE_S, message) for message in said]
            return []
        return said


def _id(body: Mapping[str, Any]) -> str | None:
    """The request's id in one spelling: capitals make no difference. None if it is no UUID."""
    text = body.get("request_id")
    return text.lower() if isinstance(text, str) and re.fullmatch(_UUID, text.lower()) else None


def _untimely(body: Mapping[str, Any], now_s: float) -> str:
    """Why a request is not for now; empty if it is."""
    issued_s, expires_s = seconds(body.get("issued_at")), seconds(body.get("expires_at"))
    if body.get("schema") != 1 or issued_s is None or expires_s is None:
        return "not the schema of docs/mqtt.md"
    if not issued_s - AHEAD_S <= now_s < expires_s:
        return EXPIRED
    if expires_s - issued_s > LONGEST_S:
        return f"expires_at: more than {LONGEST_S:.0f} s after issued_at"
    return ""


def _another(request: str) -> str:
    """A request id that is not this one."""
    return request[:-1] + ("0" if request[-1] != "0" else "1")


def _fits(value: object, motor: Motor) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and motor.minimum <= value <= motor.maximum  # type: ignore[operator]  # a number


def iso(wall_s: float) -> str:
    """ISO 8601 in UTC with milliseconds."""
    text = datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def switched(line: str) -> tuple[str, float]:
    """The signal and the target in a typed line: the path's last words, and a number.

    Raises:
        ValueError: the text says what to type.
    """
    name, _, number = line.strip().rpartition(" ")
    found = [path for path in MOTORS if f".{path}".endswith(f".{name.strip()}")]
    if not name or len(found) != 1:
        which = ", ".join(found or MOTORS)
        raise ValueError(f"{line.strip()!r}: type one signal and a number; one of {which}")
    try:
        return found[0], float(number)
    except ValueError:
        raise ValueError(f"{line.strip()!r}: {number!r} is no number") from None


# --- the MQTT side --------------------------------------------------------------------------------


class Shell:
    """Carries messages between the broker and an `Ecu`, and lets its motors run.

    Args:
        ecu: the pure part.
        vehicle: the car's name in the topics.
        tls: how to prove who is who; None for plain MQTT.
        keep: called before an answer goes out, so that the next ECU knows of it.
    """

    def __init__(
        self,
        ecu: Ecu,
        vehicle: str,
        tls: ssl.SSLContext | None = None,
        keep: Callable[[], None] = lambda: None,
    ) -> None:
        self._root = f"whodrives/{vehicle}/"
        self._ecu = ecu
        self._keep = keep
        self._inbox: queue.SimpleQueue[MQTTMessage | str] = queue.SimpleQueue()
        self._running = True
        self._greeted = False
        self._shown_s = -math.inf
        self._shown_moving = False
        self._client = Client(CallbackAPIVersion.VERSION2, f"ecu-{vehicle}", protocol=MQTTv5)
        if tls is not None:
            self._client.tls_set_context(tls)
        self._client.on_connect = self._on_connect
        self._client.on_message = lambda _client, _data, message: self._inbox.put(message)

    def run(self, host: str, port: int) -> None:
        """Work until `stop`; a broker that is away is tried again."""
        self._client.connect_async(host, port, keepalive=10, clean_start=True)
        self._client.loop_start()
        last_s = time.monotonic()
        while self._running:
            self._take()
            now_s = time.monotonic()
            self._say(self._ecu.advance(now_s - last_s, time.time()))
            self._show(now_s)
            last_s = now_s
        self._client.disconnect()
        self._client.loop_stop()

    def stop(self) -> None:
        """Let `run` return."""
        self._running = False

    def switch(self, line: str) -> None:
        """Let a person work a switch, as typed; from any thread."""
        self._inbox.put(line)

    def _on_connect(self, client: Client, *_: Any) -> None:
        topics = ("vehicle", "vehicle/+", "preferences/apply", "preferences/cancel")
        client.subscribe([(self._root + topic, 1) for topic in topics])
        self._greeted = True

    def _take(self) -> None:
        """Wait a moment for messages and take those that came."""
        try:
            item = self._inbox.get(timeout=STEP_S)
            while True:
                if isinstance(item, str):
                    self._switch(item)
                else:
                    self._read(item)
                item = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _switch(self, line: str) -> None:
        try:
            self._say(self._ecu.manual(*switched(line), time.time()))
        except ValueError as error:
            print(f"ecu: {error}", flush=True)

    def _read(self, message: MQTTMessage) -> None:
        topic = message.topic.removeprefix(self._root)
        try:
            body = json.loads(message.payload)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            print(f"ecu: {topic}: not a JSON object", flush=True)
        elif topic in ("preferences/apply", "preferences/cancel"):
            take = self._ecu.apply if topic == "preferences/apply" else self._ecu.cancel
            # What the broker kept is not of this moment.
            self._say([] if message.retain else take(body, time.time()))
        elif topic == "vehicle":
            signals = body.get("signals")
            self._ecu.car.hear(signals if isinstance(signals, dict) else {}, time.time())
        else:
            self._ecu.car.hear({topic.removeprefix("vehicle/"): body}, time.time())

    def _say(self, messages: list[Message]) -> None:
        if messages:
            self._keep()
        for topic, body in messages:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's own gap
            properties.MessageExpiryInterval = RESULT_EXPIRY_S
            properties.CorrelationData = body["request_id"].encode()
            self._client.publish(self._root + topic, json.dumps(body), 1, properties=properties)
            print(f"ecu: {body['status']} {body['request_id']} {body['reason']}", flush=True)

    def _show(self, now_s: float) -> None:
        """Publish the position every second, more often while it changes, and at every change."""
        moving = self._ecu.moving
        due = now_s - self._shown_s >= (POSITION_MOVING_S if moving else POSITION_S)
        if not (due or moving != self._shown_moving or self._greeted):
            return
        self._shown_s, self._shown_moving, self._greeted = now_s, moving, False
        if self._client.is_connected():
            topic, body = self._ecu.position(time.time())
            self._client.publish(self._root + topic, json.dumps(body), 1, retain=True)


def load(path: Path, ecu: Ecu) -> None:
    """Let the ECU go on from this file, if it is there.

    Raises:
        SystemExit: it is not what an ECU saved; the text says what to do.
    """
    try:
        if path.exists():
            ecu.restore(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError) as error:
        sys.exit(f"ecu: {path}: {error}; delete it to start in the middle")


def save(path: Path, ecu: Ecu) -> None:
    """Write the file whole or not at all."""
    new = path.with_name(path.name + ".new")
    with new.open("w", encoding="utf-8") as out:
        json.dump(ecu.saved(), out, indent=2)
        out.flush()
        os.fsync(out.fileno())
    new.replace(path)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A simulated seat and mirror ECU.")
    parser.add_argument("--host", default="127.0.0.1", help="the broker's host")
    parser.add_argument("--port", type=int, help="the broker's port (1883; with TLS 8883)")
    parser.add_argument("--vehicle", required=True, help="the car's name in the topics")
    parser.add_argument("--ca", help="TLS: the certificate authority's PEM file")
    parser.add_argument("--certificate", help="TLS: the ECU's certificate, PEM")
    parser.add_argument("--key", help="TLS: its private key, PEM")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep positions and answers here")
    parser.add_argument(
        "--misbehave", nargs="+", type=Fault, default=[], choices=list(Fault), help="be a bad one"
    )
    options = parser.parse_args(arguments)
    files = (options.ca, options.certificate, options.key)
    if any(files) and not all(files):
        parser.error("give --ca, --certificate and --key, or none of them")
    return options


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.ca is None:
        return None
    try:
        context = ssl.create_default_context(cafile=options.ca)
        context.load_cert_chain(options.certificate, options.key)
    except OSError as error:
        sys.exit(f"ecu: {options.ca}, {options.certificate} and {options.key}: {error}")
    return context


def _type(shell: Shell) -> None:
    # Not sys.stdin: Python cannot end while a thread waits in its buffer.
    for line in FileIO(0, closefd=False):
        shell.switch(line.decode(errors="replace"))


def main(arguments: list[str] | None = None) -> None:
    """Run the ECU until SIGINT or SIGTERM."""
    options = _options(arguments)
    ecu = Ecu(faults=frozenset(options.misbehave))
    if options.save:
        load(options.save, ecu)
    tls = _tls(options)

    def keep() -> None:
        if options.save:
            save(options.save, ecu)

    shell = Shell(ecu, options.vehicle, tls, keep)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: shell.stop())
    if sys.stdin is not None:
        threading.Thread(target=_type, args=(shell,), daemon=True).start()
    try:
        shell.run(options.host, options.port or (8883 if tls else 1883))
    finally:
        keep()


if __name__ == "__main__":
    main()
