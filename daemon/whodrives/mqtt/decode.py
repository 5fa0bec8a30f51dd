"""Messages to inputs: validation, freshness, replay protection."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias, TypeVar

from msgspec import UNSET

from whodrives.enrolment.types import Enrol
from whodrives.errors import PayloadError
from whodrives.mqtt.payloads import (
    DOOR,
    GEAR,
    IGNITION,
    KEY,
    OCCUPANCY,
    OCCUPIED,
    PARK_LOCK,
    PARKING_BRAKE,
    READ_SIGNALS,
    SEAT_KEY,
    SPEED,
    UUID_PATTERN,
    ChoosePayload,
    CommandPayload,
    EnrolPayload,
    Flag,
    ForgetPayload,
    Gear,
    ListenPayload,
    LowVoltage,
    Occupancy,
    PositionPayload,
    ResultPayload,
    Said,
    SignalPayload,
    Speed,
    Subject,
    VehiclePayload,
)
from whodrives.mqtt.rates import (
    CANCEL_RATE,
    COMMAND_RATE,
    EXPLAINED_RATE,
    POSITION_RATE,
    RESULT_RATE,
    VEHICLE_RATE,
    Bucket,
    Rate,
)
from whodrives.mqtt.reading import json_object, read, typed_payload
from whodrives.mqtt.topics import ANSWER_EXPIRY_S, COMMAND_EXPIRY_S, TOPICS, root
from whodrives.trip.interlock import MAX_AGE_S
from whodrives.trip.types import Cancel, Choose, Forget, Listen, Position, RequestResult, Save
from whodrives.vehicle import vss
from whodrives.vehicle.state import Reading, VehicleReport, VehicleState

T = TypeVar("T")


MAX_AHEAD_S = 1.0
"""Tolerance between two clocks; a time further in the future is refused."""


CLOCK_STEP_S = 0.02
"""Threshold for a step of the calendar. The two clocks are read one after the other, and a thread
may be interrupted in between: a smaller change of their difference is that interruption."""


REMEMBERED_S = 10.0
"""How long a command's id is remembered: longer than the validity of a command plus MAX_AHEAD_S."""


Incoming: TypeAlias = (
    VehicleReport | Position | RequestResult | Listen | Choose | Save | Cancel | Forget | Enrol
)
"""Inputs that messages decode to."""


class CommandError(PayloadError):
    """A command is refused, and its `command_id` is known, so that it can be answered.

    Args:
        text: names the topic, the field and the fix.
        command: the command's id.
        reason: the reason to publish.
        cause: as in `PayloadError`.
    """

    def __init__(self, text: str, command: str, reason: str, cause: str) -> None:
        super().__init__(text, cause=cause)
        self.command = command
        self.reason = reason


class _FutureError(PayloadError):
    """A message is dated `ahead_s` seconds in the future, more than MAX_AHEAD_S."""

    def __init__(self, text: str, ahead_s: float) -> None:
        super().__init__(text, cause="future")
        self.ahead_s = ahead_s


class CarClockError(_FutureError):
    """A report of the car is dated in the future."""


_PARK = 126


_MEANING: Mapping[type[Said], Callable[[Any], Any]] = {
    Speed: abs,
    Gear: lambda gear: gear == _PARK,
    Flag: bool,
    Occupancy: {"OCCUPIED": True, "EMPTY": False}.get,
    LowVoltage: {"ACC": True, "ON": True, "START": True, "OFF": False, "LOCK": False}.get,
    Subject: str,
}


_RESULT, _POSITION, _VEHICLE = "preferences/result", "preferences/position", "vehicle"


_CANCEL = "command/cancel"


_Command: TypeAlias = ListenPayload | CommandPayload


class Decoder:
    """Decodes messages of the car, the ECUs and the head unit into inputs.

    The decoder alone merges readings of the car: it keeps the last reading of each known signal,
    because two signals may describe one fact and arrive separately. Each `VehicleReport` holds the
    state that follows from all readings. The ids of recent commands are kept, so that none is
    accepted twice; the commands' rates bound their number. One invalid value refuses the whole
    message, which then counts only against the rate of its topic.

    An older reading does not replace a newer one of the same signal, unless it is the dangerous one
    of the two: a car that moves, an open door, an empty seat, a pressed switch, a car that is not
    held, an ignition that is off. A reading from the future is dated at its arrival.

    Args:
        vehicle: the car's name in the topics.
        secure: whether the broker authenticates clients; if not, commands that erase or enrol are
            refused.

    Attributes:
        replayed: number of repeated commands, and of messages with a reading older than the newest.
        merged: number of reports beyond the rate, which are passed on with the next one.
        obeyed: ids of the commands accepted in the last REMEMBERED_S, lower-case, each with its
            time of arrival (monotonic, s). Initialise it with those of the previous daemon.
        misdated: number of reports without a reading that was new enough on arrival, or with one
            that was dated in the future.
    """

    def __init__(self, vehicle: str, *, secure: bool = False) -> None:
        self.replayed = 0
        self.merged = 0
        self.obeyed: dict[str, float] = {}
        self._buckets = {
            name: Bucket(_rate(name))
            for name, topic in TOPICS.items()
            if "whodrives" in topic.readers and topic.writer != "car"
        }
        self._reports = Bucket(VEHICLE_RATE)
        self._untold = False
        self._age_s: float | None = None
        self._explained = Bucket(EXPLAINED_RATE)
        self.misdated = 0
        self._root = root(vehicle) + "/"
        self._secure = secure
        self._latest: dict[str, Reading[Any]] = {}
        self._newest_s: dict[str, float] = {}
        self._epoch_s = math.inf
        self._position_s = -math.inf

    @property
    def topics(self) -> tuple[str, ...]:
        """The topic filters whose messages `decode` reads."""
        names = [topic.name for topic in TOPICS.values() if "whodrives" in topic.readers]
        return tuple(self._root + name.replace("<VSS path>", "+") for name in names)

    @property
    def vehicle_topics(self) -> tuple[str, ...]:
        """The topic filters of the car's reports."""
        return tuple(t for t in self.topics if t.removeprefix(self._root).split("/")[0] == _VEHICLE)

    @property
    def readings(self) -> Mapping[str, Reading[Any]]:
        """The last reading of each reported signal; its value is None for null."""
        return {path: self._latest[path] for path in READ_SIGNALS if path in self._latest}

    def decode(
        self, topic: str, payload: bytes, received_at_s: float, wall_now_s: float
    ) -> Incoming | None:
        """Decode one message; None if it is a repetition or is merged with the next report.

        Args:
            topic: the full topic.
            payload: as received.
            received_at_s: time of arrival (monotonic, s).
            wall_now_s: the same moment in seconds since 1970-01-01 UTC.

        Raises:
            CommandError: a command is refused whose `command_id` could be read.
            CarClockError: a report of the car is dated in the future.
            PayloadError: names the topic, the field and the fix; nothing else is raised.
        """
        epoch_s = wall_now_s - received_at_s
        if not abs(epoch_s - self._epoch_s) <= CLOCK_STEP_S:
            self._epoch_s = epoch_s
        now = _Now(topic, received_at_s, wall_now_s, self._epoch_s)
        name = topic.removeprefix(self._root)
        if name == topic:
            raise PayloadError(f"{topic}: is not a topic that is read; see docs/mqtt.md")
        if name not in self._buckets:
            return self._vehicle(name, payload, now)
        too_fast = self._buckets[name].excess(received_at_s)
        if name not in (_RESULT, _POSITION):
            if too_fast and self._explained.excess(received_at_s):
                raise PayloadError(f"{topic}: {too_fast}", cause="rate")
            return self._commanded(name, payload, now, too_fast)
        if too_fast:
            raise PayloadError(f"{topic}: {too_fast}", cause="rate")
        return _answer(payload, now) if name == _RESULT else self._position(payload, now)

    def _vehicle(self, name: str, payload: bytes, now: _Now) -> VehicleReport | None:
        try:
            said = dict(_readings(name, payload, now))
        except _FutureError as error:
            self.misdated += 1
            raise CarClockError(str(error), error.ahead_s) from None
        self._age_s = min((now.at_s - reading.at_s for reading in said.values()), default=None)
        self.misdated += self._age_s is not None and self._age_s > MAX_AGE_S
        old = [path for path, reading in said.items() if self._is_replayed(path, reading)]
        self.replayed += bool(old)
        for path in said.keys() - old:
            self._latest[path] = said[path]
            self._newest_s[path] = max(said[path].at_s, self._newest_s.get(path, -math.inf))
        state = self._state()
        hand = state.seat_switch is not None and state.seat_switch.value
        self._untold = bool(self._reports.excess(now.at_s)) and not hand
        if self._untold:
            self.merged += 1
            return None
        return VehicleReport(now.at_s, state, self._age_s)

    def merged_report(self, at_s: float) -> VehicleReport | None:
        """The state at `at_s` if the last report exceeded the rate and waits; else None."""
        if not self._untold:
            return None
        self._untold = False
        return VehicleReport(at_s, self._state(), self._age_s)

    def _is_replayed(self, path: str, reading: Reading[Any]) -> bool:
        """Whether the reading is older than the newest of its signal and not the dangerous one."""
        if reading.at_s >= self._newest_s.get(path, -math.inf):
            return False
        latest = self._latest[path]
        known_anyway = _is_dangerous(path, latest) and reading.at_s < latest.at_s
        return known_anyway or not _is_dangerous(path, reading)

    def _state(self) -> VehicleState:
        get = self._get
        return VehicleState(
            speed_kmh=get(SPEED),
            in_park=_both(get(GEAR), get(PARK_LOCK), disagreeing=False),
            parking_brake=get(PARKING_BRAKE),
            door_open=get(DOOR),
            seat_occupied=_both(get(OCCUPANCY), get(OCCUPIED), disagreeing=None),
            ignition_on=get(IGNITION),
            seat_switch=self._switched(),
            key=_both(get(KEY), get(SEAT_KEY), disagreeing=None),
        )

    def _get(self, path: str) -> Reading[Any] | None:
        reading = self._latest.get(path)
        return None if reading is None or reading.value is None else reading

    def _switched(self) -> Reading[bool] | None:
        """Whether any switch is pressed: the newest pressed reading, else the newest of all."""
        known = [reading for path in vss.SEAT_SWITCHES if (reading := self._get(path))]
        pressed = [reading for reading in known if reading.value]
        return max(pressed or known, key=lambda reading: reading.at_s, default=None)

    def _position(self, payload: bytes, now: _Now) -> Position | None:
        body = read(now.topic, payload, PositionPayload)
        true_s = now.true_s("time", body.time)
        if true_s < self._position_s:
            self.replayed += 1
            return None
        self._position_s = true_s
        # If the car sends both names of a signal, the newest name wins.
        said = sorted(body.signals.items(), key=lambda item: item[0] in vss.SIGNALS)
        known = dict(ours for path, value in said if (ours := vss.newest(path, value)))
        signals = {path: _whole(path, value) for path, value in known.items()}
        return Position(now.at_s, true_s, body.moving, signals)

    def _commanded(self, name: str, payload: bytes, now: _Now, too_fast: str) -> Incoming | None:
        plain = json_object(now.topic, payload)
        try:
            body: _Command = typed_payload(now.topic, plain, TOPICS[name].payload)
            return self._obeyed_once(name, body, now, too_fast)
        except PayloadError as error:
            command = plain.get("command_id")
            if isinstance(command, str) and re.fullmatch(UUID_PATTERN, command):
                reason = str(error).removeprefix(f"{now.topic}: ")
                raise CommandError(str(error), command, reason, error.cause) from error
            raise

    def _obeyed_once(self, name: str, body: _Command, now: _Now, too_fast: str) -> Incoming | None:
        now.fresh("issued_at", body.issued_at, COMMAND_EXPIRY_S, "a command")
        known = body.command_id.lower() if body.command_id else None
        recent = now.at_s - REMEMBERED_S
        self.obeyed = {key: at_s for key, at_s in self.obeyed.items() if at_s >= recent}
        if known in self.obeyed:
            self.replayed += 1
            return None
        if too_fast:
            raise PayloadError(f"{now.topic}: {too_fast}", cause="rate")
        if isinstance(body, ForgetPayload | EnrolPayload) and not self._secure:
            fix = "use TLS, so that the broker knows who asks; see mqtt.tls"
            raise PayloadError(f"{now.topic}: refused on a plain connection; {fix}", cause="plain")
        if known is not None:
            self.obeyed[known] = now.at_s
        return _input(name, body, now.at_s)


def _rate(name: str) -> Rate:
    limits = {_RESULT: RESULT_RATE, _POSITION: POSITION_RATE, _CANCEL: CANCEL_RATE}
    return limits.get(name, COMMAND_RATE)


def _input(name: str, body: _Command, at_s: float) -> Incoming:
    match body:
        case ListenPayload(command_id=command):
            return Listen(at_s, command)
        case ChoosePayload(command_id=command, driver=driver):
            return Choose(at_s, command, driver)
        case ForgetPayload(command_id=command, driver=driver):
            return Forget(at_s, command, driver)
        case EnrolPayload(command_id=command, driver=driver, consent=agreed):
            return Enrol(
                at_s, command, driver, agreed.by, agreed.text, body.guest, again=body.again
            )
        case _:
            kind = Save if name == "command/save" else Cancel
            return kind(at_s, body.command_id)


def _answer(payload: bytes, now: _Now) -> RequestResult:
    body = read(now.topic, payload, ResultPayload)
    now.fresh("time", body.time, ANSWER_EXPIRY_S, "a result")
    return RequestResult(now.at_s, body.request_id.lower(), body.status, body.reason or "")


def _readings(name: str, payload: bytes, now: _Now) -> Iterator[tuple[str, Reading[Any]]]:
    """The known signals of a message; an unknown value is None."""
    if name == _VEHICLE:
        signals = read(now.topic, payload, VehiclePayload).signals
        for path in READ_SIGNALS:
            said = getattr(signals, path.replace(".", "_"))
            if said is not UNSET:
                yield path, _reading(f"signals.{path}.time", said, now)
        return
    level, _, path = name.partition("/")
    if level != _VEHICLE or not path:
        raise PayloadError(f"{now.topic}: is not a topic that is read; see docs/mqtt.md")
    if path in READ_SIGNALS:
        plain = json_object(now.topic, payload)
        typed_payload(now.topic, plain, SignalPayload)
        yield path, _reading("time", typed_payload(now.topic, plain, READ_SIGNALS[path]), now)


def _reading(field: str, said: Any, now: _Now) -> Reading[Any]:
    meaning = _MEANING[type(said)]
    value = None if said.value is None else meaning(said.value)
    return Reading(value, now.true_s(field, said.time))


_DANGEROUS: Mapping[str, bool] = {
    GEAR: False,
    PARK_LOCK: False,
    PARKING_BRAKE: False,
    DOOR: True,
    OCCUPANCY: False,
    OCCUPIED: False,
    IGNITION: False,
    **dict.fromkeys(vss.SEAT_SWITCHES, True),
}
"""The value of each boolean signal that forbids a movement, stops one, or ends a trip."""


def _is_dangerous(path: str, reading: Reading[Any]) -> bool:
    if reading.value is None:
        return False
    return bool(reading.value) if path == SPEED else reading.value is _DANGEROUS.get(path)


def _both(one: Reading[T] | None, other: Reading[T] | None, *, disagreeing: Any) -> Any:
    """One fact from two signals: the older reading if they agree, else `disagreeing`."""
    if one is None or other is None:
        return one or other
    if one.value == other.value:
        return min(one, other, key=lambda reading: reading.at_s)
    if disagreeing is None:
        return None
    return Reading(disagreeing, max(one.at_s, other.at_s))


def _whole(path: str, value: float) -> float:
    """The value rounded to the signal's datatype: an ECU may report a finer value."""
    return float(value if vss.SIGNALS[path].datatype == "float" else round(value))


@dataclass(frozen=True, slots=True)
class _Now:
    """A message's topic and time of arrival, on both clocks.

    Attributes:
        topic: the full topic.
        at_s: monotonic time.
        wall_s: seconds since 1970-01-01 UTC.
        epoch_s: seconds from 1970-01-01 UTC to `at_s` 0, constant until a clock is set, so that
            two messages with the same time get the same `at_s`.
    """

    topic: str
    at_s: float
    wall_s: float
    epoch_s: float

    def true_s(self, field: str, when: datetime) -> float:
        """`when` as monotonic time, not later than the message's arrival."""
        self.age_s(field, when)
        return min(when.timestamp() - self.epoch_s, self.at_s)

    def age_s(self, field: str, when: datetime) -> float:
        """Age of `when` in seconds, -MAX_AHEAD_S or more; _FutureError if it is further ahead."""
        age_s = self.wall_s - when.timestamp()
        if age_s < -MAX_AHEAD_S:
            fix = "set both clocks by one source"
            text = f"{self.topic}: {field}: {-age_s:.1f} s in the future; {fix}"
            raise _FutureError(text, -age_s)
        return age_s

    def fresh(self, field: str, when: datetime, limit_s: float, what: str) -> None:
        """Refuse what is older than `limit_s`."""
        age_s = self.age_s(field, when)
        if age_s > limit_s:
            said = f"{age_s:.1f} s old; {what} is good for {limit_s:.0f} s"
            raise PayloadError(f"{self.topic}: {field}: {said}", cause="old")
