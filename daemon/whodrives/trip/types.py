"""The values of a trip: commands, results, requests, and what outlives a daemon that dies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Timed(Protocol):
    """Any input: it has the time at which it was received."""

    @property
    def at_s(self) -> float:
        """Seconds on the boot-time clock (`whodrives.clock`)."""


@dataclass(frozen=True, slots=True)
class LinkState:
    """The connection to the broker came up or went away.

    Attributes:
        at_s: when.
        connected: whether it is there.
        reason: why not.
        rival: what is known of another client under our identity, for `status`; empty if nothing.
    """

    at_s: float
    connected: bool
    reason: str = ""
    rival: str = ""


@dataclass(frozen=True, slots=True)
class Listen:
    """The head unit asks who is speaking now: the next known voice may become the driver.

    `command` names this command alone; its `CommandResult` carries it. None: no answer is asked.
    """

    at_s: float
    command: str | None = None


@dataclass(frozen=True, slots=True)
class Choose:
    """Somebody chose the driver by hand on the head unit; None: none of the enrolled drives.

    `command` names this command alone; its `CommandResult` carries it.
    """

    at_s: float
    command: str
    driver: str | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """The head unit says stop: whatever was asked for, and whatever still waits.

    `command` names this command alone; its `CommandResult` carries it.
    """

    at_s: float
    command: str


@dataclass(frozen=True, slots=True)
class Save:
    """The head unit says that the present position is what the driver prefers.

    `command` names this command alone; its `CommandResult` carries it.
    """

    at_s: float
    command: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The head unit says that an enrolled driver be erased."""

    at_s: float
    command: str
    driver: str


@dataclass(frozen=True, slots=True)
class Position:
    """Where the ECU says that seat, wheel and mirrors are.

    Attributes:
        at_s: when it reached us.
        true_s: when it was true; as `Reading.at_s`.
        moving: whether any of them moves.
        signals: VSS path to value, in the path's unit, in the newest VSS that we know.
    """

    at_s: float
    true_s: float
    moving: bool
    signals: Mapping[str, float]


class ResultStatus(StrEnum):
    """What an ECU says of a request; the last three are final for what was accepted."""

    ACCEPTED = "accepted"
    COMPLETED = "completed"
    REJECTED = "rejected"
    ABORTED = "aborted"


MANUAL = "manual"
"""The reason of an answer that says: a person used a switch."""


@dataclass(frozen=True, slots=True)
class RequestResult:
    """An ECU says what became of a request.

    Attributes:
        at_s: when it reached us.
        request: the `Apply.request` it speaks of.
        status: what became of it.
        reason: why, for REJECTED and ABORTED: a code such as MANUAL or a condition's name; else
            empty.
    """

    at_s: float
    request: str
    status: ResultStatus
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Begin:
    """The first input of a daemon's life.

    Attributes:
        at_s: when it began.
        session: unlike every other daemon's; request ids are made from it.
        remembered: what the daemon before this one remembered of its trip, if it died in this
            start of the machine.
        gone_s: seconds since that daemon last knew seat, door and ignition.
    """

    at_s: float
    session: str
    remembered: TripSnapshot | None = None
    gone_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed and nothing else happened."""

    at_s: float


class Delivery(StrEnum):
    """What became of the driver's preferences in this trip.

    With two requests (seat, mirrors) the one that is least far is shown.
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
    """What settled the driver of a trip."""

    VOICE = "voice"
    KEY = "key"
    HAND = "hand"


@dataclass(frozen=True, slots=True)
class DriverState:
    """Who drives this trip.

    Attributes:
        at_s: when this became so.
        driver: the settled driver's id, or None for unknown.
        since_s: when the driver was settled; None while unknown.
        probability: of the recognition that settled it; None while unknown, or not by voice.
        settled_by: what settled it; None while nothing did. HAND without a driver: somebody said
            that nobody enrolled drives.
        delivery: what became of the preferences.
        reason: why, for REJECTED and ABORTED: the ECU's words; else empty.
        waiting_for: the conditions that hold them back (names of the interlock's rules).
        trip_open: whether a trip is under way; when it is not, the retained topic is cleared.
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


@dataclass(frozen=True, slots=True)
class Apply:
    """Ask the ECUs to move to this driver's preferences, now or not at all.

    `request` is a UUID in its text form: the idempotency key. A request that nobody answered is
    made again under the same one, with a new `at_s`; whoever acted on it does not act again.
    """

    at_s: float
    request: str
    driver: str
    signals: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Tell the ECUs to stop what a request started, and to refuse it if it still arrives."""

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
class Erase:
    """Erase a driver from the store, for the command `command`."""

    at_s: float
    command: str
    driver: str


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What became of a head unit's command; `reason` says why it was not done (empty: done)."""

    at_s: float
    command: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class UnmatchedResult:
    """An answer came to a request that was not made in this trip; it changed nothing."""

    at_s: float
    request: str


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked of the ECUs in this trip.

    Attributes:
        request: its id, as in `Apply`.
        driver: for whom.
        signals: what it asks, the same each time it is sent.
        delivery: how far it is: REQUESTED, or what was answered, or UNANSWERED.
        reason: why, for REJECTED and ABORTED; else empty.
        asked_at_s: when it was sent last.
        current: whether it belongs to the present settling; earlier ones are kept for their
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
    """What is asked for, and what waits to be.

    Attributes:
        waiting: groups that wait for the car.
        wanted_until_s: until when they wait, and requests are repeated; None: not any more.
        cancelled: somebody said stop; only an act by hand asks for anything again.
        requests: of this trip, the oldest first.
        touched: groups that a person has moved by hand in this trip.
    """

    waiting: tuple[str, ...] = ()
    wanted_until_s: float | None = None
    cancelled: bool = False
    requests: tuple[Request, ...] = ()
    touched: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TripSnapshot:
    """All of a trip that must outlive a daemon that dies; plain values, fit for JSON.

    Attributes:
        opened_s: when the trip under way began; None: there is none.
        settled: whether it is decided who drives; `driver` None then means nobody enrolled.
        driver: as in `DriverState`, and so the next three.
        since_s: when the driver was settled.
        probability: of the recognition that settled it.
        settled_by: what settled it.
        listen_until_s: until when a known voice may replace the driver; None: it may not.
        other_voice: whether another driver's voice was known since this one was settled.
        moved: VSS paths of what the ECU has told to be moved without a request in this trip.
        outbox: what is asked for.
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
    """Keep this of the trip, so that a daemon that dies asks for nothing twice.

    It comes before the events that it makes safe to send.
    """

    at_s: float
    memory: TripSnapshot
