"""Assigns the driver of a trip and requests that driver's preferences.

Owns when a trip begins and ends, who its driver is, and the head unit's commands; `TABLE` has every
transition (docs/trip.md). `requests` owns what the ECUs are asked. Must not know how voices are
compared, how messages travel, or what time it is: each input has a time.

A stale or missing value of the car neither opens nor closes a trip. A moving car keeps its driver,
so a flickering seat contact ends nothing. `Listen` counts for one known voice and ends with the
trip. After ABSENCE_LIMIT_S without a report of seat, door and ignition, for whatever reason,
somebody else may sit there: the trip becomes unassigned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from whodrives.trip.interlock import MAX_AGE_S, RULES, fresh, refusals
from whodrives.trip.requests import MOST_REQUESTS, Outbox
from whodrives.trip.table import LISTEN_S, TABLE, Action, Guard, Row, State, Trigger
from whodrives.trip.types import (
    Apply,
    Begin,
    Cancel,
    CancelRequest,
    Choose,
    CommandResult,
    DriverState,
    Forget,
    LinkState,
    Listen,
    PersistTrip,
    Position,
    RequestResult,
    Save,
    SavePreferences,
    SettledBy,
    Timed,
    TripSnapshot,
    UnmatchedResult,
)
from whodrives.vehicle import vss
from whodrives.vehicle.state import Reading, VehicleReport, VehicleState
from whodrives.voice.decision import candidate
from whodrives.voice.profile import Household, Profile
from whodrives.voice.types import Outcome, Verdict

ABSENCE_LIMIT_S = 10.0
"""After so long without a report of seat, door or ignition the driver is no longer known.

It does not matter whether the daemon was down, the machine asleep, or the gateway silent.
"""


STEADY_S = 1.5
"""A position can be saved once it has not changed for this long.

An ECU reports its position at least once a second (docs/mqtt.md), so within this time its own
report contradicts a position that another client published in its name.
"""


STILL = 1.0
"""Positions that differ by at most this (mm, degrees or percent) are equal."""


_PRESENCE = ("seat_occupied", "door_open", "ignition_on")
"""The fields of `VehicleState` that tell whether the driver may have changed."""


NO_BROKER = "broker"
"""The entry of `DriverState.waiting_for` while the broker is away."""


TripEvent: TypeAlias = (
    PersistTrip
    | CancelRequest
    | Apply
    | CommandResult
    | SavePreferences
    | Forget
    | UnmatchedResult
    | DriverState
)


@dataclass(frozen=True, slots=True)
class _Cause:
    """The data of a trigger."""

    driver: str | None = None
    by: SettledBy | None = None
    probability: float | None = None
    command: str | None = None


class Trip:
    """The trips of one car, one after another.

    Times must be monotonic; an input older than the previous one counts as simultaneous with it.
    """

    def __init__(self) -> None:
        self._now_s = float("-inf")
        self._vehicle = VehicleState()
        self._reported_s = dict.fromkeys(_PRESENCE, float("-inf"))
        self._position: Position | None = None
        # By path: the position, and since when it is steady.
        self._steady: dict[str, Reading[float]] = {}
        self._linked = False
        self._profiles: Mapping[str, Profile] | None = None
        self._state = State.CLOSED
        # State of the trip without its outbox, which has a snapshot of its own.
        self._snapshot = TripSnapshot()
        self._outbox = _outbox("")
        self._kept = TripSnapshot()
        self._shown = DriverState(self._now_s)
        self._events: list[TripEvent] = []
        self._unsent_cancels: list[CancelRequest] = []
        self._candidate: str | None = None
        self._guards: Mapping[Guard, Callable[[_Cause], bool]] = {
            Guard.NOT_MOVING: lambda _: not _moves(fresh(self._vehicle.speed_kmh, self._now_s)),
            Guard.SAME_DRIVER_AGAIN: lambda cause: (
                self._is_same_driver(cause) and self._may_ask_again()
            ),
            Guard.SAME_DRIVER: self._is_same_driver,
            Guard.LISTENING: lambda _: self._listening(),
            Guard.ENROLLED: lambda cause: cause.driver in (self._profiles or {}),
            Guard.OTHER_VOICE: lambda _: self._snapshot.other_voice,
            Guard.NO_POSITION: lambda _: self._known_position() is None,
            Guard.MOVING: lambda _: self._is_moving(),
            Guard.NOT_MOVED: lambda _: not self._moved_positions(),
        }
        self._actions: Mapping[Action, Callable[[Row, _Cause], None]] = {
            Action.NOTHING: lambda _row, _cause: None,
            Action.START: self._start,
            Action.END: self._end,
            Action.ASSIGN: self._assign,
            Action.REQUEST: lambda _row, _cause: self._request_preferences(),
            Action.UNASSIGN: self._assign,
            Action.OVERRIDE: self._override,
            Action.LISTEN: self._listen,
            Action.CANCEL: self._cancel,
            Action.SAVE: self._save,
            Action.ERASE: self._erase,
            Action.REFUSE: self._refuse,
        }

    @property
    def live_requests(self) -> int:
        """Number of requests without a final answer."""
        return self._outbox.live

    @property
    def heard_s(self) -> float:
        """When seat, door and ignition were last all reported; -inf: never."""
        return min(self._reported_s.values())

    def step(self, received: Timed) -> tuple[TripEvent, ...]:
        """Take one input and return the events it causes. Sound and ticks only advance the time."""
        self._pass_time(received.at_s)
        match received:
            case Begin():
                self._begin(received)
            case VehicleReport():
                self._vehicle = received.state
            case LinkState():
                self._linked = received.connected
            case Household():
                self._set_household(received)
            case Position():
                self._track_position(received)
            case RequestResult():
                self._answered(received)
            case Listen() | Choose() | Cancel() | Save() | Forget():
                self._apply_vehicle()
                self._command(received)
        return self._concluded()

    def heard(self, verdict: Verdict, at_s: float) -> tuple[TripEvent, ...]:
        """Take the verdict on one utterance and return the events it causes."""
        self._pass_time(at_s)
        self._apply_vehicle()
        known = verdict.outcome is Outcome.KNOWN and verdict.driver in (self._profiles or {})
        if known and self._state is not State.CLOSED:
            asked = self._listening()
            self._transition(
                Trigger.VOICE, _Cause(verdict.driver, SettledBy.VOICE, verdict.probability)
            )
            other = self._state is State.ASSIGNED and verdict.driver != self._snapshot.driver
            other |= self._snapshot.other_voice and not asked
            self._snapshot = replace(self._snapshot, listen_until_s=None, other_voice=other)
        if self._state is State.OPEN:
            self._candidate = candidate(verdict) or self._candidate
        return self._concluded()

    def _pass_time(self, at_s: float) -> None:
        """Advance the time, and unassign the driver if the reports have been away too long."""
        self._now_s = max(self._now_s, at_s)
        # A driver assigned during an absence of reports was present then.
        known_s = max(self.heard_s, self._snapshot.since_s or self.heard_s)
        if self._now_s - known_s > ABSENCE_LIMIT_S:
            self._transition(Trigger.NO_REPORTS)

    # --- inputs ---

    def _begin(self, received: Begin) -> None:
        memory = received.remembered or TripSnapshot()
        self._snapshot = replace(memory, outbox=TripSnapshot().outbox)
        self._outbox = _outbox(received.session, memory)
        if memory.opened_s is None:
            self._state = State.CLOSED
        elif not memory.settled:
            self._state = State.OPEN
        else:
            self._state = State.UNASSIGNED if memory.driver is None else State.ASSIGNED
        self._reported_s = dict.fromkeys(_PRESENCE, self._now_s - received.gone_s)
        self._pass_time(received.at_s)

    def _set_household(self, received: Household) -> None:
        self._profiles = {profile.id: profile for profile in received.profiles}
        self._candidate = None
        if self._state is State.ASSIGNED and self._snapshot.driver not in self._profiles:
            self._transition(Trigger.FORGOTTEN)
        self._events += self._outbox.reconcile(self._preferences(), self._now_s)

    def _answered(self, received: RequestResult) -> None:
        if self._outbox.knows(received.request):
            self._events += self._outbox.answered(received, self._now_s)
        else:
            self._events.append(UnmatchedResult(self._now_s, received.request))

    def _command(self, command: Listen | Choose | Cancel | Save | Forget) -> None:
        match command:
            case Listen():
                self._transition(Trigger.LISTEN, _Cause(command=command.command))
            case Choose():
                chosen = Trigger.GUEST if command.driver is None else Trigger.CHOSEN
                self._transition(
                    chosen, _Cause(command.driver, SettledBy.HAND, command=command.command)
                )
            case Cancel():
                self._transition(Trigger.CANCEL, _Cause(command=command.command))
            case Save():
                self._transition(Trigger.SAVE, _Cause(command=command.command))
            case Forget():
                self._transition(Trigger.FORGET, _Cause(command.driver, command=command.command))

    def _apply_vehicle(self) -> None:
        """Apply the car's state: open or close the trip, seat switches, the key."""
        seat = fresh(self._vehicle.seat_occupied, self._now_s)
        door = fresh(self._vehicle.door_open, self._now_s)
        ignition = fresh(self._vehicle.ignition_on, self._now_s)
        if seat is False or door is True or ignition is False:
            self._transition(Trigger.LEFT)
        elif seat is True and door is False and ignition is True:
            self._transition(Trigger.READY)
        for name in _PRESENCE:
            reading = getattr(self._vehicle, name)
            if reading is not None:
                self._reported_s[name] = max(self._reported_s[name], min(reading.at_s, self._now_s))
        switch, opened_s = self._vehicle.seat_switch, self._snapshot.opened_s
        if switch is not None and switch.value and opened_s is not None:
            # A delayed switch report still counts if its timestamp falls within this trip.
            overridden = vss.Group.SEAT in self._outbox.memory.touched
            if switch.at_s >= opened_s and not overridden:
                self._transition(Trigger.SWITCH)
        key = fresh(self._vehicle.key, self._now_s)
        owners = [p.id for p in (self._profiles or {}).values() if key and p.key == key]
        if len(owners) == 1:
            self._transition(Trigger.KEY, _Cause(owners[0], SettledBy.KEY))

    # --- the table at work ---

    def _transition(self, trigger: Trigger, cause: _Cause = _Cause()) -> None:
        row = next(
            row
            for row in TABLE
            if self._state in row.states
            and row.trigger is trigger
            and (row.guard is None or self._guards[row.guard](cause))
        )
        self._state = row.to or self._state
        self._actions[row.action](row, cause)
        answered_later = row.action in (Action.SAVE, Action.ERASE, Action.REFUSE)
        if cause.command is not None and not answered_later:
            self._events.append(CommandResult(self._now_s, cause.command))

    def _is_same_driver(self, cause: _Cause) -> bool:
        return cause.driver == self._snapshot.driver

    def _listening(self) -> bool:
        until_s = self._snapshot.listen_until_s
        return until_s is not None and self._now_s <= until_s

    def _may_ask_again(self) -> bool:
        return not self._outbox.asked and not self._blockers(self._groups())

    def _known_position(self) -> Position | None:
        told = self._position
        known = told is not None and 0.0 <= self._now_s - told.true_s <= MAX_AGE_S
        return told if known else None

    def _track_position(self, told: Position) -> None:
        """Record since when each position is steady, and what is moved by hand.

        VSS has no switches for mirrors and steering wheel. A change there without a request under
        way is therefore a movement by hand.
        """
        before, self._position = self._position, told
        known = {p: v for p, v in told.signals.items() if p in vss.SIGNALS}
        changed = {
            path
            for path, value in known.items()
            if path in self._steady and abs(value - self._steady[path].value) > STILL
        }
        for path in changed | (known.keys() - self._steady.keys()):
            self._steady[path] = Reading(known[path], told.true_s)
        if self._snapshot.opened_s is None or before is None or not (before.moving or told.moving):
            return
        by_hand = changed - self._outbox.under_way - set(self._snapshot.moved)
        moved = tuple(sorted(path for path in by_hand if not vss.has_switch(path)))
        if moved:
            self._snapshot = replace(self._snapshot, moved=(*self._snapshot.moved, *moved))

    def _is_moving(self) -> bool:
        told = self._position
        return told is not None and (
            told.moving
            or any(
                told.true_s - self._steady[path].at_s < STEADY_S
                for path in self._steady.keys() & told.signals.keys() - {vss.HEATING_COOLING}
            )
        )

    def _moved_positions(self) -> dict[str, float]:
        """Positions of what was moved in this trip, by hand or by a request: these can be saved.

        A movement of the seat by hand is known from its switch or from the ECU's `manual`; of
        mirrors and steering wheel, from `manual` or from a reported movement. What was requested
        counts if it is where it was requested. Heating and cooling are never saved: a warm seat now
        is no preference for the next trip.
        """
        told = self._position.signals if self._position else {}
        overridden, asked = self._outbox.memory.touched, self._outbox.moved

        def moved(path: str, value: float) -> bool:
            group = vss.group_of(path)
            by_hand = group in overridden and (group is vss.Group.MIRRORS or vss.has_switch(path))
            by_request = path in asked and abs(value - asked[path]) <= STILL
            return by_hand or path in self._snapshot.moved or by_request

        return {
            path: value
            for path, value in told.items()
            if path in vss.SIGNALS and path != vss.HEATING_COOLING and moved(path, value)
        }

    def _start(self, _row: Row, _cause: _Cause) -> None:
        self._candidate = None
        self._snapshot = TripSnapshot(opened_s=self._true_since_s())
        self._outbox.clear()

    def _true_since_s(self) -> float:
        """The time of the oldest of the readings that open a trip.

        The readings' own time, not their arrival: a switch press with the same timestamp belongs to
        this trip even if it arrived before them.
        """
        car = self._vehicle
        readings = (car.seat_occupied, car.door_open, car.ignition_on)
        return min([self._now_s, *(reading.at_s for reading in readings if reading)])

    def _end(self, row: Row, _cause: _Cause) -> None:
        self._events += self._outbox.cancel(self._now_s, row.reason)
        self._snapshot = TripSnapshot()
        self._outbox.clear()

    def _assign(self, row: Row, cause: _Cause) -> None:
        """Assign the cause's driver; None: nobody enrolled drives."""
        self._events += self._outbox.assign(cause.driver, self._now_s, row.reason)
        self._snapshot = replace(
            self._snapshot,
            settled=True,
            driver=cause.driver,
            since_s=None if cause.driver is None else self._now_s,
            probability=cause.probability,
            settled_by=cause.by,
            listen_until_s=None,
            other_voice=False,
        )
        if cause.driver is not None:
            self._request_preferences()

    def _request_preferences(self) -> None:
        self._outbox.request(self._groups(), self._now_s)

    def _override(self, _row: Row, _cause: _Cause) -> None:
        self._events += self._outbox.override({vss.Group.SEAT}, self._now_s)

    def _listen(self, _row: Row, _cause: _Cause) -> None:
        self._snapshot = replace(self._snapshot, listen_until_s=self._now_s + LISTEN_S)

    def _cancel(self, row: Row, _cause: _Cause) -> None:
        self._events += self._outbox.cancel(self._now_s, row.reason)

    def _save(self, _row: Row, cause: _Cause) -> None:
        driver, command = self._snapshot.driver, cause.command
        if driver is not None and command is not None:
            kept = self._moved_positions()
            self._events.append(SavePreferences(self._now_s, command, driver, kept))

    def _erase(self, _row: Row, cause: _Cause) -> None:
        if cause.driver is not None and cause.command is not None:
            self._events.append(Forget(self._now_s, cause.command, cause.driver))

    def _refuse(self, row: Row, cause: _Cause) -> None:
        if cause.command is not None:
            self._events.append(CommandResult(self._now_s, cause.command, row.reason))

    # --- preferences and requests ---

    def _groups(self) -> frozenset[vss.Group]:
        """The groups in which the assigned driver has preferences."""
        return frozenset(vss.group_of(path) for path in self._preferences())

    def _preferences(self) -> dict[str, float]:
        driver = self._snapshot.driver
        profile = (self._profiles or {}).get(driver) if driver is not None else None
        known = profile.preferences.items() if profile else ()
        return {path: value for path, value in known if path in vss.SIGNALS}

    def _blockers(self, groups: frozenset[vss.Group]) -> tuple[str, ...]:
        """Why these groups cannot be requested now: interlock conditions, then NO_BROKER."""
        names = [n for g in vss.Group if g in groups for n in self._refusals(g)]
        if groups and not self._linked:
            names.append(NO_BROKER)
        return tuple(dict.fromkeys(names))

    def _refusals(self, group: vss.Group) -> tuple[str, ...]:
        return refusals(group, self._vehicle, self._now_s)

    def _concluded(self) -> tuple[TripEvent, ...]:
        """Apply the car's state, send due requests, and return the events so far."""
        self._apply_vehicle()
        if self._vehicle.speed_kmh is not None and _moves(self._vehicle.speed_kmh.value):
            # Once the car moves, the driver has adjusted the seat by hand.
            self._outbox.drop()
        self._outbox.age(self._now_s)
        self._deliver()
        events = self._told()
        memory = replace(self._snapshot, outbox=self._outbox.memory)
        if memory != self._kept:
            self._kept = memory
            events.insert(0, PersistTrip(self._now_s, memory))
        state = self._driver_state(self._shown.at_s)
        if state != self._shown:
            self._shown = replace(state, at_s=self._now_s)
            events.append(self._shown)
        return tuple(events)

    def _told(self) -> list[TripEvent]:
        """The events to send now, cancels first.

        Only cancels wait for the broker: a late stop is still right, a late request is not.
        """
        events, self._events = self._events, []
        cancels = [
            *self._unsent_cancels,
            *(event for event in events if isinstance(event, CancelRequest)),
        ]
        self._unsent_cancels = [] if self._linked else cancels[-MOST_REQUESTS:]
        now = [replace(cancel, at_s=self._now_s) for cancel in cancels] if self._linked else []
        return [*now, *(event for event in events if not isinstance(event, CancelRequest))]

    def _deliver(self) -> None:
        """Request what may move now, once the household is known."""
        driver = self._snapshot.driver
        if driver is not None and self._linked and self._profiles is not None:
            self._events += self._outbox.deliver(
                self._now_s, driver, self._preferences(), lambda group: not self._refusals(group)
            )

    def _driver_state(self, at_s: float) -> DriverState:
        trip = self._snapshot
        if trip.driver is None:
            return DriverState(
                at_s,
                settled_by=trip.settled_by,
                trip_open=trip.opened_s is not None,
                candidate=self._candidate if self._state is State.OPEN else None,
            )
        delivery, reason = self._outbox.shown
        return DriverState(
            at_s=at_s,
            driver=trip.driver,
            since_s=trip.since_s,
            probability=trip.probability,
            settled_by=trip.settled_by,
            delivery=delivery,
            reason=reason,
            waiting_for=self._blockers(frozenset(self._outbox.waiting)),
            trip_open=True,
        )


def _outbox(session: str, memory: TripSnapshot | None = None) -> Outbox:
    """An outbox that retries what an ECU rejected for one of the interlock's conditions."""
    passing = (condition.name for rule in RULES.values() for condition in rule)
    return Outbox(passing, session, memory.outbox if memory else None)


def _moves(speed_kmh: float | None) -> bool:
    """Whether this speed means that the car moves; False for None and NaN."""
    return speed_kmh is not None and abs(speed_kmh) > 0
