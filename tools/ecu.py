"""A simulated seat and mirror ECU: what an integrator starts with.

    python tools/ecu.py --host 127.0.0.1 --port 1883 --vehicle car

It does what docs/mqtt.md asks of an ECU: it takes `preferences/apply`, looks at `expires_at`, acts
on a `request_id` once, keeps an interlock of its own (fed by `vehicle`, not by whodrives), moves at
the speed of real motors, stops when the car is no longer safe, answers on `preferences/result` and
shows where everything is on `ecu/position`.

`Ecu` is the pure part: messages and time in, messages out. `Shell` carries them over MQTT.
"""

from __future__ import annotations

import argparse
import json
import math
import queue
import signal
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from whodrives import vss

FRESH_S = 2.0
AHEAD_S = 1.0
REMEMBERED_REQUESTS = 256
RESULT_EXPIRY_S = 10
POSITION_EVERY_S = 0.2
STEP_S = 0.02

_SEAT = "Vehicle.Cabin.Seat.Row1.DriverSide"
_GEAR = "Vehicle.Powertrain.Transmission.SelectedGear"
_PARK_LOCK = "Vehicle.Powertrain.Transmission.IsParkLockEngaged"
_BRAKE = "Vehicle.Chassis.ParkingBrake.IsEngaged"
_DOOR = "Vehicle.Cabin.Door.Row1.DriverSide.IsOpen"
_OCCUPANCY = f"{_SEAT}.OccupancyStatus"

Message: TypeAlias = tuple[str, dict[str, Any]]
"""A topic below the car's, and what to say there."""


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


@dataclass(slots=True)
class Car:
    """What the car last said of itself: VSS path to value and wall-clock time."""

    said: dict[str, tuple[object, float]] = field(default_factory=dict)

    def hear(self, signals: Mapping[str, Any]) -> None:
        """Take `{path: {"value": ..., "time": ...}}`; what cannot be read is not known."""
        for path, reading in signals.items():
            when = seconds(reading.get("time")) if isinstance(reading, dict) else None
            if when is not None:
                self.said[path] = (reading.get("value"), when)

    def now(self, path: str, now_s: float) -> object:
        """The value if it speaks of now, else None."""
        value, when = self.said.get(path, (None, 0.0))
        return value if -AHEAD_S <= now_s - when <= FRESH_S else None

    def blocks(self, group: vss.Group, now_s: float) -> list[str]:
        """Why this group must not move now. Unknown blocks."""
        speed = self.now("Vehicle.Speed", now_s)
        gear, lock = self.now(_GEAR, now_s), self.now(_PARK_LOCK, now_s)
        park = (gear == 126 and lock is not False) or (gear is None and lock is True)  # noqa: PLR2004 - VSS's Park
        checks = {
            "standing": isinstance(speed, int | float) and speed is not False and speed == 0,
            "park_or_brake": park or self.now(_BRAKE, now_s) is True,
            "seat_occupied": self.now(_OCCUPANCY, now_s) == "OCCUPIED",
            "door_closed": group is vss.Group.MIRRORS or self.now(_DOOR, now_s) is False,
        }
        return [name for name, holds in checks.items() if not holds]


@dataclass(slots=True)
class Ecu:
    """Seat, steering wheel and mirrors: where they are and what they were asked for.

    Every method takes the wall-clock time in seconds from 1970 UTC and returns what to say.
    """

    car: Car = field(default_factory=Car)
    positions: dict[str, float] = field(
        default_factory=lambda: {p: float((m.minimum + m.maximum) // 2) for p, m in MOTORS.items()}
    )
    _targets: dict[str, float] = field(default_factory=dict)
    _request: str | None = None
    _results: OrderedDict[str, Message] = field(default_factory=OrderedDict)

    @property
    def moving(self) -> bool:
        """Whether a request is under way."""
        return self._request is not None

    def apply(self, body: Mapping[str, Any], now_s: float) -> list[Message]:
        """Take a `preferences/apply`."""
        request, signals = body.get("request_id"), body.get("signals")
        if not isinstance(request, str) or not isinstance(signals, dict):
            return []
        if request in self._results:
            return [self._results[request]]
        if reason := self._refusal(body, signals, now_s):
            return [self._result(request, "rejected", reason, now_s)]
        said = self._stop("superseded by another request", now_s)
        self._request, self._targets = request, {p: float(v) for p, v in signals.items()}
        return [*said, self._result(request, "accepted", "", now_s)]

    def advance(self, dt_s: float, now_s: float) -> list[Message]:
        """Let the motors run for `dt_s`."""
        if self._request is None:
            return []
        if blocks := self._blocks(self._targets, now_s):
            return self._stop(", ".join(blocks), now_s)
        for path, target in self._targets.items():
            self.positions[path] = step(self.positions[path], target, MOTORS[path], dt_s)
        if any(self.positions[path] != target for path, target in self._targets.items()):
            return []
        request, self._request = self._request, None
        return [self._result(request, "completed", "", now_s)]

    def position(self, now_s: float) -> Message:
        """Where everything is."""
        signals = {path: round(value, 1) for path, value in self.positions.items()}
        body = {"schema": 1, "time": _iso(now_s), "moving": self.moving, "signals": signals}
        return "ecu/position", body

    def _refusal(self, body: Mapping[str, Any], signals: Mapping[str, Any], now_s: float) -> str:
        issued_s, expires_s = seconds(body.get("issued_at")), seconds(body.get("expires_at"))
        if body.get("schema") != 1 or issued_s is None or expires_s is None:
            return "not the schema of docs/mqtt.md"
        if not issued_s - AHEAD_S <= now_s < expires_s:
            return "expired"
        for path, value in signals.items():
            if path not in MOTORS:
                return f"no such signal: {path}"
            if not _fits(value, MOTORS[path]):
                return f"out of range: {path}"
        return ", ".join(self._blocks(signals, now_s))

    def _blocks(self, signals: Mapping[str, Any], now_s: float) -> list[str]:
        groups = {vss.group_of(path) for path in signals}
        names = [n for g in vss.Group if g in groups for n in self.car.blocks(g, now_s)]
        return list(dict.fromkeys(names))

    def _stop(self, reason: str, now_s: float) -> list[Message]:
        """Stop every motor where it is."""
        request, self._request = self._request, None
        return [] if request is None else [self._result(request, "aborted", reason, now_s)]

    def _result(self, request: str, status: str, reason: str, now_s: float) -> Message:
        body = {"schema": 1, "time": _iso(now_s), "request_id": request, "status": status}
        result = ("preferences/result", {**body, "reason": reason})
        self._results[request] = result
        while len(self._results) > REMEMBERED_REQUESTS:
            self._results.popitem(last=False)
        return result


def _fits(value: object, motor: Motor) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and motor.minimum <= value <= motor.maximum  # type: ignore[operator]  # a number


def _iso(wall_s: float) -> str:
    text = datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


# --- the MQTT side --------------------------------------------------------------------------------


class Shell:
    """Carries messages between the broker and an `Ecu`, and lets its motors run."""

    def __init__(self, vehicle: str) -> None:
        self._root = f"whodrives/{vehicle}/"
        self._ecu = Ecu()
        self._inbox: queue.SimpleQueue[MQTTMessage] = queue.SimpleQueue()
        self._running = True
        self._greeted = False
        self._shown_s = 0.0
        self._shown_moving = False
        self._client = Client(CallbackAPIVersion.VERSION2, f"ecu-{vehicle}", protocol=MQTTv5)
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

    def _on_connect(self, client: Client, *_: Any) -> None:
        topics = ("vehicle", "vehicle/+", "preferences/apply")
        client.subscribe([(self._root + topic, 1) for topic in topics])
        self._greeted = True

    def _take(self) -> None:
        """Wait a moment for messages and take those that came."""
        try:
            message = self._inbox.get(timeout=STEP_S)
            while True:
                self._read(message)
                message = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _read(self, message: MQTTMessage) -> None:
        topic = message.topic.removeprefix(self._root)
        try:
            body = json.loads(message.payload)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            print(f"ecu: {topic}: not a JSON object", flush=True)
        elif topic == "preferences/apply":
            # A request that the broker kept is not one of this moment.
            self._say([] if message.retain else self._ecu.apply(body, time.time()))
        elif topic == "vehicle":
            signals = body.get("signals")
            self._ecu.car.hear(signals if isinstance(signals, dict) else {})
        else:
            self._ecu.car.hear({topic.removeprefix("vehicle/"): body})

    def _say(self, messages: list[Message]) -> None:
        for topic, body in messages:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's own gap
            properties.MessageExpiryInterval = RESULT_EXPIRY_S
            properties.CorrelationData = body["request_id"].encode()
            self._client.publish(self._root + topic, json.dumps(body), 1, properties=properties)
            print(f"ecu: {body['status']} {body['request_id']} {body['reason']}", flush=True)

    def _show(self, now_s: float) -> None:
        """Publish the position when it changes state, and while it changes."""
        moving = self._ecu.moving
        due = moving and now_s - self._shown_s >= POSITION_EVERY_S
        if not (due or moving != self._shown_moving or self._greeted):
            return
        self._shown_s, self._shown_moving, self._greeted = now_s, moving, False
        topic, body = self._ecu.position(time.time())
        self._client.publish(self._root + topic, json.dumps(body), 0, retain=not moving)


def main() -> None:
    """Run the ECU until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description="A simulated seat and mirror ECU.")
    parser.add_argument("--host", default="127.0.0.1", help="the broker's host (plain MQTT)")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--vehicle", required=True, help="the car's name in the topics")
    options = parser.parse_args()
    shell = Shell(options.vehicle)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: shell.stop())
    shell.run(options.host, options.port)


if __name__ == "__main__":
    main()
