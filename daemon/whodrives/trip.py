"""Who the driver of this trip is, and when that driver's preferences may be asked for.

Owns the trip: its beginning and end, the one settling of the driver, what a later voice may change,
and that nothing is asked for twice. Hides the groups that still wait for the car. Must never know
how voices are compared, how messages travel, or what time it is: every input brings its time.

A trip and its driver (the first row that fits is taken, after every input):

| state         | when                                                          | then             |
|---------------|---------------------------------------------------------------|------------------|
| closed        | seat occupied, door closed, ignition on: all known now        | open, unknown    |
| open          | seat empty, door open or ignition off, and not known to move  | closed           |
| open, unknown | a known voice                                                 | settled on it    |
| open, settled | another known voice, within LISTEN_S of `Listen`              | settled on it    |
| open, settled | another known voice                                           | -                |
| open, settled | the settled driver is forgotten                               | vacant           |
| open, vacant  | a known voice, within LISTEN_S of `Listen`                    | settled on it    |
| any           | a voice that is unknown, ambiguous or insufficient            | -                |

`Listen` counts for one known voice and ends with the trip. A stale or missing value neither
opens nor closes. A moving car keeps its driver: a seat contact that flickers at speed ends nothing.

The preferences of a settled driver, by group (seat, mirrors):

| group         | when                                                          | then             |
|---------------|---------------------------------------------------------------|------------------|
| -             | the driver is settled                                         | wanted           |
| wanted        | the car was last known to move, or WANTED_S have passed       | dropped          |
| wanted        | the interlock permits it and the broker is there              | asked, once      |
| all dropped,  | the driver speaks again, the interlock permits every group    | asked, once      |
| none asked    | and the broker is there                                       |                  |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeAlias

from whodrives import vss
from whodrives.domain import (
    Apply,
    Delivery,
    DriverState,
    Household,
    Input,
    LinkState,
    Listen,
    Outcome,
    Profile,
    VehicleReport,
    VehicleState,
    Verdict,
)
from whodrives.interlock import fresh, refusals

LISTEN_S = 10.0
"""How long after `Listen` a known voice may become the driver."""

WANTED_S = 60.0
"""How long preferences wait for the car. Later, a moving seat would be a surprise."""

NO_BROKER = "broker"
"""What preferences wait for when the interlock permits and nobody would hear."""

TripEvent: TypeAlias = Apply | DriverState


@dataclass(frozen=True, slots=True)
class _Settled:
    """The driver of the trip, and what is to be done for this driver.

    `driver` is None when the driver was forgotten: nobody else takes the place unasked.
    """

    driver: str | None
    since_s: float
    probability: float | None
    wanted: frozenset[vss.Group] = frozenset()
    wanted_since_s: float = float("-inf")
    asked: bool = False


class Trip:
    """One car's trips, one after another.

    Times must not run backwards; an input that is older than the one before it is taken to be of
    the same moment.
    """

    def __init__(self) -> None:
        self._now_s = float("-inf")
        self._vehicle = VehicleState()
        self._linked = False
        self._profiles: dict[str, Profile] = {}
        self._open = False
        self._settled: _Settled | None = None
        self._listen_until_s = float("-inf")
        self._shown = DriverState(self._now_s)
        self._serial = 0

    def step(self, news: Input) -> tuple[TripEvent, ...]:
        """Take one input; return what follows from it. Sound only tells the time."""
        self._now_s = max(self._now_s, news.at_s)
        match news:
            case VehicleReport():
                self._vehicle = self._vehicle.updated(news.state)
            case LinkState():
                self._linked = news.connected
            case Household():
                self._profiles = {profile.id: profile for profile in news.profiles}
            case Listen():
                self._listen_until_s = news.at_s + LISTEN_S
        return self._concluded()

    def heard(self, verdict: Verdict, at_s: float) -> tuple[TripEvent, ...]:
        """Take the conclusion about one utterance; return what follows from it."""
        self._now_s = max(self._now_s, at_s)
        self._turn()
        if self._open and verdict.outcome is Outcome.KNOWN and verdict.driver in self._profiles:
            self._known(verdict)
        return self._concluded()

    def _known(self, verdict: Verdict) -> None:
        asked_to_listen = self._now_s <= self._listen_until_s
        self._listen_until_s = float("-inf")
        settled = self._settled
        if settled is None or (asked_to_listen and verdict.driver != settled.driver):
            self._settled = _Settled(verdict.driver, self._now_s, verdict.probability)
            self._want()
        elif verdict.driver == settled.driver and self._may_ask_again(settled):
            self._want()

    def _want(self) -> None:
        if self._settled is not None:
            groups = self._groups()
            self._settled = replace(self._settled, wanted=groups, wanted_since_s=self._now_s)

    def _may_ask_again(self, settled: _Settled) -> bool:
        return not settled.asked and not self._hindrances(self._groups())

    def _groups(self) -> frozenset[vss.Group]:
        """The groups in which the settled driver prefers anything."""
        return frozenset(vss.group_of(path) for path in self._preferences())

    def _preferences(self) -> dict[str, float]:
        driver = self._settled.driver if self._settled else None
        profile = self._profiles.get(driver) if driver is not None else None
        known = profile.preferences.items() if profile else ()
        return {path: value for path, value in known if path in vss.SIGNALS}

    def _hindrances(self, groups: frozenset[vss.Group]) -> tuple[str, ...]:
        """What keeps these groups from being asked for now: interlock's names, then the broker."""
        names = [n for g in vss.Group if g in groups for n in self._refusals(g)]
        if groups and not self._linked:
            names.append(NO_BROKER)
        return tuple(dict.fromkeys(names))

    def _refusals(self, group: vss.Group) -> tuple[str, ...]:
        return refusals(group, self._vehicle, self._now_s)

    def _concluded(self) -> tuple[TripEvent, ...]:
        """Bring the trip up to this moment, ask for what may be asked for, and say what changed."""
        self._turn()
        self._forget()
        self._drop()
        applied = self._deliver()
        state = self._state()
        if replace(state, at_s=self._shown.at_s) == self._shown:
            return applied
        self._shown = state
        return (*applied, state)

    def _turn(self) -> None:
        """Open or close the trip."""
        seat = fresh(self._vehicle.seat_occupied, self._now_s)
        door = fresh(self._vehicle.door_open, self._now_s)
        ignition = fresh(self._vehicle.ignition_on, self._now_s)
        speed = fresh(self._vehicle.speed_kmh, self._now_s)
        moving = speed is not None and abs(speed) > 0
        if not self._open:
            self._open = seat is True and door is False and ignition is True
        elif not moving and (seat is False or door is True or ignition is False):
            self._open, self._settled = False, None
            self._listen_until_s = float("-inf")

    def _forget(self) -> None:
        """A driver who is no longer enrolled is not named any more, and gets nothing."""
        if self._settled is not None and self._settled.driver not in self._profiles:
            self._settled = replace(self._settled, driver=None, wanted=frozenset())

    def _drop(self) -> None:
        """Once the car has moved, or time has passed, the driver has arranged himself."""
        if self._settled is None or not self._settled.wanted:
            return
        speed = self._vehicle.speed_kmh
        moved = speed is not None and abs(speed.value) > 0
        if moved or self._now_s - self._settled.wanted_since_s > WANTED_S:
            self._settled = replace(self._settled, wanted=frozenset())

    def _deliver(self) -> tuple[Apply, ...]:
        """Ask once for the wanted groups that may move now."""
        settled = self._settled
        if settled is None or settled.driver is None or not self._linked:
            return ()
        ready = frozenset(group for group in settled.wanted if not self._refusals(group))
        signals = {p: v for p, v in self._preferences().items() if vss.group_of(p) in ready}
        if not signals:
            return ()
        self._settled = replace(settled, wanted=settled.wanted - ready, asked=True)
        return (Apply(self._now_s, self._request(), settled.driver, MappingProxyType(signals)),)

    def _request(self) -> str:
        self._serial += 1
        return f"00000000-0000-8000-8000-{self._serial:012x}"

    def _state(self) -> DriverState:
        settled = self._settled
        if settled is None or settled.driver is None:
            return DriverState(self._now_s, trip_open=self._open)
        waiting = Delivery.REQUESTED if settled.asked else Delivery.NONE
        return DriverState(
            at_s=self._now_s,
            driver=settled.driver,
            since_s=settled.since_s,
            probability=settled.probability,
            delivery=Delivery.WAITING if settled.wanted else waiting,
            waiting_for=self._hindrances(settled.wanted),
            trip_open=self._open,
        )
