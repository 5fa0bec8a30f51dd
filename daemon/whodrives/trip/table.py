"""The state table of a trip: which trigger causes which transition.

A trip is closed, open (its driver is not decided yet), assigned (an enrolled driver drives) or
unassigned (nobody enrolled drives). A driver is assigned by the first known voice, by a key, or on
the head unit. Later voices change nothing unless the head unit sends `listen`. docs/trip.md is
generated from this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

LISTEN_S = 10.0
"""How long after `Listen` a known voice may replace the driver."""


class State(StrEnum):
    """Whether a trip is under way, and whether its driver is decided."""

    CLOSED = "closed"
    OPEN = "open"
    ASSIGNED = "assigned"
    UNASSIGNED = "unassigned"


class Trigger(StrEnum):
    """What can happen to a trip, as docs/trip.md shows it."""

    READY = "seat occupied, door closed, ignition on: all known now"
    LEFT = "seat empty, door open or ignition off"
    VOICE = "a known voice"
    KEY = "the key of an enrolled driver"
    CHOSEN = "a driver chosen on the head unit"
    GUEST = "nobody enrolled, chosen on the head unit"
    FORGOTTEN = "the assigned driver is forgotten"
    NO_REPORTS = "no report of seat, door and ignition for more than 10 s"
    SWITCH = "a seat switch is pressed"
    LISTEN = "listen"
    CANCEL = "cancel"
    SAVE = "save"
    FORGET = "forget a driver"


class Guard(StrEnum):
    """A further condition of a row."""

    NOT_MOVING = "the car is not known to move"
    SAME_DRIVER_AGAIN = "the assigned driver's, nothing was requested yet, everything may move now"
    SAME_DRIVER = "the assigned driver's"
    LISTENING = "within 10 s of listen"
    ENROLLED = "enrolled"
    OTHER_VOICE = "another driver's voice was known since the driver was assigned"
    NO_POSITION = "the ECU reported no position in the last 2 s"
    MOVING = "seat or mirrors move, or moved less than 1.5 s ago"
    NOT_MOVED = "nothing was moved in this trip, by hand or by a request"


class Action(StrEnum):
    """What a transition does."""

    NOTHING = "-"
    START = "nothing is requested or overridden yet"
    END = "cancel the requests"
    ASSIGN = "cancel the requests for others; the preferences wait for the car"
    REQUEST = "the preferences wait for the car"
    UNASSIGN = "cancel the requests; a voice is assigned only after listen"
    OVERRIDE = "cancel the requests for the seat; it is not requested again in this trip"
    LISTEN = "the next known voice may replace the driver"
    CANCEL = "cancel the requests and drop what waits"
    SAVE = "the position of what was moved becomes the preferences"
    ERASE = "erase the driver"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Row:
    """One transition: the action that `trigger` causes in one of `states` while `guard` holds.

    Attributes:
        states: where the row applies.
        trigger: what happens.
        guard: a further condition; None: unconditional.
        to: the next state; None: the state does not change.
        action: what is done.
        reason: the code that a refused command is answered with, or that goes with cancelled
            requests; empty where neither applies.
    """

    states: tuple[State, ...]
    trigger: Trigger
    guard: Guard | None
    to: State | None
    action: Action
    reason: str = ""


_C, _O, _S, _V = (State.CLOSED,), (State.OPEN,), (State.ASSIGNED,), (State.UNASSIGNED,)


_TRIP = (*_O, *_S, *_V)


_ANY = (*_C, *_TRIP)


TABLE: tuple[Row, ...] = (
    Row(_C, Trigger.READY, None, State.OPEN, Action.START),
    Row(_TRIP, Trigger.READY, None, None, Action.NOTHING),
    Row(_TRIP, Trigger.LEFT, Guard.NOT_MOVING, State.CLOSED, Action.END, "trip_over"),
    Row(_ANY, Trigger.LEFT, None, None, Action.NOTHING),
    # The first known voice is assigned. Later voices are passengers unless the head unit listens.
    Row(_O, Trigger.VOICE, None, State.ASSIGNED, Action.ASSIGN, "replaced"),
    Row(_S, Trigger.VOICE, Guard.SAME_DRIVER_AGAIN, None, Action.REQUEST),
    Row(_S, Trigger.VOICE, Guard.SAME_DRIVER, None, Action.NOTHING),
    Row((*_S, *_V), Trigger.VOICE, Guard.LISTENING, State.ASSIGNED, Action.ASSIGN, "replaced"),
    Row((*_C, *_S, *_V), Trigger.VOICE, None, None, Action.NOTHING),
    # A key tells who unlocked the car, not who sits in the seat: it counts only before any voice.
    Row(_O, Trigger.KEY, None, State.ASSIGNED, Action.ASSIGN, "replaced"),
    Row((*_C, *_S, *_V), Trigger.KEY, None, None, Action.NOTHING),
    # A choice on the head unit always counts.
    Row(_TRIP, Trigger.CHOSEN, Guard.ENROLLED, State.ASSIGNED, Action.ASSIGN, "replaced"),
    Row(_TRIP, Trigger.CHOSEN, None, None, Action.REFUSE, "unknown_driver"),
    Row(_TRIP, Trigger.GUEST, None, State.UNASSIGNED, Action.UNASSIGN, "replaced"),
    Row(_C, Trigger.CHOSEN, None, None, Action.REFUSE, "no_trip"),
    Row(_C, Trigger.GUEST, None, None, Action.REFUSE, "no_trip"),
    Row(_S, Trigger.FORGOTTEN, None, State.UNASSIGNED, Action.UNASSIGN, "forgotten"),
    Row((*_C, *_O, *_V), Trigger.FORGOTTEN, None, None, Action.NOTHING),
    Row(_S, Trigger.NO_REPORTS, None, State.UNASSIGNED, Action.UNASSIGN, "restarted"),
    Row((*_C, *_O, *_V), Trigger.NO_REPORTS, None, None, Action.NOTHING),
    Row(_TRIP, Trigger.SWITCH, None, None, Action.OVERRIDE, "manual"),
    Row(_C, Trigger.SWITCH, None, None, Action.NOTHING),
    Row(_TRIP, Trigger.LISTEN, None, None, Action.LISTEN),
    Row(_C, Trigger.LISTEN, None, None, Action.REFUSE, "no_trip"),
    Row(_ANY, Trigger.CANCEL, None, None, Action.CANCEL, "cancelled"),
    # The position may be the other driver's: somebody must say first who drives.
    Row(_S, Trigger.SAVE, Guard.OTHER_VOICE, None, Action.REFUSE, "other_voice"),
    Row(_S, Trigger.SAVE, Guard.NO_POSITION, None, Action.REFUSE, "no_position"),
    Row(_S, Trigger.SAVE, Guard.MOVING, None, Action.REFUSE, "moving"),
    Row(_S, Trigger.SAVE, Guard.NOT_MOVED, None, Action.REFUSE, "not_moved"),
    Row(_S, Trigger.SAVE, None, None, Action.SAVE),
    Row((*_O, *_V), Trigger.SAVE, None, None, Action.REFUSE, "no_driver"),
    Row(_C, Trigger.SAVE, None, None, Action.REFUSE, "no_trip"),
    Row(_ANY, Trigger.FORGET, None, None, Action.ERASE),
)
"""The first row that matches applies. Every state and trigger has a row without a guard."""
