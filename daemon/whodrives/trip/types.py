"""The values of a trip: commands, results, requests, and the persisted state.

Owns what goes into and comes out of `trip.Trip`. Must not know topics or JSON. All values are
frozen; `at_s` is seconds on the boot-time clock. Field names of the snapshots are keys of the
journal file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Timed(Protocol):
    """An input with its time of arrival."""

    @property
    def at_s(self) -> float:
        """Seconds on the boot-time clock (`whodrives.clock`)."""


@dataclass(frozen=True, slots=True)
class LinkState:
    """The connection to the broker came up or went away.

    Attributes:
        at_s: when.
        connected: whether it is up.
        reason: why it is down.
        rival: another client that uses our identity, for `status`; empty if there is none.
    """

    at_s: float
    connected: bool
    reason: str = ""
    rival: str = ""


@dataclass(frozen=True, slots=True)
class Listen:
    """The head unit asks who is speaking: the next known voice may replace the driver.

    `command` is the unique id of this command; None: no `CommandResult` is wanted.
    """

    at_s: float
    command: str | None = None


@dataclass(frozen=True, slots=True)
class Choose:
    """A driver was chosen on the head unit; None: nobody enrolled drives.

    `command` is the unique id of this command, repeated in its `CommandResult`.
    """

    at_s: float
    command: str
    driver: str | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """The head unit cancels all requests and waiting preferences.

    `command` is the unique id of this command, repeated in its `CommandResult`.
    """

    at_s: float
    command: str


@dataclass(frozen=True, slots=True)
class Save:
    """The head unit saves the present position as the driver's preferences.

    `command` is the unique id of this command, repeated in its `CommandResult`.
    """

    at_s: float
    command: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The head unit asks that an enrolled driver be erased.

    The trip gives it back as an event when the driver is to be erased from the store.
    """

    at_s: float
    command: str
    driver: str


@dataclass(frozen=True, slots=True)
class Position:
    """The position of seat, wheel and mirrors, as an ECU reports it.

    Attributes:
        at_s: when it reached us.
        true_s: when it was true; as `Reading.at_s`.
        moving: whether any of them moves.
        signals: VSS path to value, in the path's unit, in the newest supported VSS.
    """

    at_s: float
    true_s: float
    moving: bool
    signals: Mapping[str, float]


class ResultStatus(StrEnum):
    """An ECU's answer to a request; the last three are final once it was accepted."""

    ACCEPTED = "accepted"
    COMPLETED = "completed"
    REJECTED = "rejected"
    ABORTED = "aborted"


MANUAL = "manual"
"""An ECU's reason: a person used a switch."""


@dataclass(frozen=True, slots=True)
class RequestResult:
    """An ECU's answer to a request.

    Attributes:
        at_s: when it reached us.
        request: the `Apply.request` that is answered.
        status: the answer.
        reason: why, for REJECTED and ABORTED: a code such as MANUAL or a condition's name; else
            empty.
    """

    at_s: float
    request: str
    status: ResultStatus
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Begin:
    """The first input after the start of the daemon.

    Attributes:
        at_s: when it began.
        session: unique per daemon; request ids are derived from it.
        remembered: the persisted trip of a previous daemon in the same boot, if any.
        gone_s: seconds since that daemon last knew seat, door and ignition.
    """

    at_s: float
    session: str
    remembered: TripSnapshot | None = None
    gone_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Tick:
    """Only time has passed."""

    at_s: float


class Delivery(StrEnum):
    """How far the driver's preferences are delivered in this trip.

    With two requests (seat, mirrors) the least advanced one is shown.
    """

    NONE = "none"
    WAITING = "waiting"
    REQUESTED = "requested"
    ACCEPTED = "accepted"
    COMPLETED = "completed"
    REJECTED = "rejected"
    ABORTED = "aborted"
    UNANSWERED = "unanswered"


class SettledBy(StrEnum):
    """What assigned the driver of a trip."""

    VOICE = "voice"
    KEY = "key"
    HAND = "hand"


@dataclass(frozen=True, slots=True)
class DriverState:
    """Who drives this trip.

    Attributes:
        at_s: when this became so.
        driver: the assigned driver's id, or None for unknown.
        since_s: when the driver was assigned; None while unknown.
        probability: of the recognition that assigned the driver; None if it was not a voice.
        settled_by: what assigned the driver; None if nothing did. HAND without a driver: nobody
            enrolled drives, by a choice on the head unit.
        delivery: how far the preferences are delivered.
        reason: the ECU's reason for REJECTED and ABORTED; else empty.
        waiting_for: unmet conditions (names of the interlock, or "broker").
        trip_open: whether a trip is under way; if not, the retained topic is cleared.
        candidate: who may have spoken in this trip without being recognised
            (`decision.candidate`), the latest, while the driver is not decided; None for nobody.
    """

    at_s: float
    driver: str | None = None
    since_s: float | None = None
    probability: float | None = None
    settled_by: SettledBy | None = None
    delivery: Delivery = Delivery.NONE
    reason: str = ""
    waiting_for: tuple[str, ...] = ()
    trip_open: bool = False
    candidate: str | None = None


@dataclass(frozen=True, slots=True)
class Apply:
    """Ask the ECUs to move to this driver's preferences, now or not at all.

    `request` is the idempotency key, a UUID as text. An unanswered request is repeated under the
    same id with a new `at_s`; an ECU that has acted on it must not act again.
    """

    at_s: float
    request: str
    driver: str
    signals: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Tell the ECUs to stop a request, and to refuse it if it arrives later."""

    at_s: float
    request: str
    reason: str


@dataclass(frozen=True, slots=True)
class SavePreferences:
    """Keep `signals` (VSS path to value) as the driver's preferences, for the command `command`."""

    at_s: float
    command: str
    driver: str
    signals: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The result of a head unit's command; `reason` is a code, empty for success."""

    at_s: float
    command: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class UnmatchedResult:
    """An answer to a request that is not of this trip; it changed nothing."""

    at_s: float
    request: str


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the ECUs in this trip.

    Attributes:
        request: its id, as in `Apply`.
        driver: whose preferences.
        signals: VSS path to value, the same in each repetition.
        delivery: REQUESTED, UNANSWERED, or the last answer.
        reason: for REJECTED and ABORTED; else empty.
        asked_at_s: when it was last sent.
        current: whether it belongs to the present assignment; earlier ones are kept for their
            answers.
    """

    request: str
    driver: str
    signals: Mapping[str, float]
    delivery: Delivery
    reason: str
    asked_at_s: float
    current: bool = True


@dataclass(frozen=True, slots=True)
class OutboxSnapshot:
    """The requests of a trip and the groups that wait.

    Attributes:
        waiting: groups that wait for the car.
        wanted_until_s: until when they wait and requests are repeated; None: no longer.
        cancelled: nothing is requested until a driver is assigned again.
        requests: of this trip, the oldest first.
        touched: groups that are overridden, moved by hand in this trip.
    """

    waiting: tuple[str, ...] = ()
    wanted_until_s: float | None = None
    cancelled: bool = False
    requests: tuple[Request, ...] = ()
    touched: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TripSnapshot:
    """The persisted state of a trip; plain values, fit for JSON.

    Attributes:
        opened_s: when the open trip began; None: there is none.
        settled: whether the driver is decided; with `driver` None nobody enrolled drives.
        driver: this and the next three as in `DriverState`.
        since_s: when the driver was assigned.
        probability: of the recognition that assigned the driver.
        settled_by: what assigned the driver.
        listen_until_s: until when a known voice may replace the driver; None: it may not.
        other_voice: whether another driver's voice was known since this one was assigned.
        moved: VSS paths that an ECU reported as moved without a request in this trip.
        outbox: the requests.
    """

    opened_s: float | None = None
    settled: bool = False
    driver: str | None = None
    since_s: float | None = None
    probability: float | None = None
    settled_by: SettledBy | None = None
    listen_until_s: float | None = None
    other_voice: bool = False
    moved: tuple[str, ...] = ()
    outbox: OutboxSnapshot = OutboxSnapshot()


@dataclass(frozen=True, slots=True)
class PersistTrip:
    """Persist this state, so that a restarted daemon requests nothing twice.

    It precedes the events that depend on it.
    """

    at_s: float
    memory: TripSnapshot
