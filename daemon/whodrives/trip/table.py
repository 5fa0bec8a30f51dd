"""The state table of a trip; docs/trip.md is generated from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

LISTEN_S = 10.0
"""How long after `Listen` a known voice may become the driver."""


class State(StrEnum):
    """How far it is decided who drives."""

    CLOSED = "closed"
    OPEN = "open"
    SETTLED = "settled"
    VACANT = "vacant"


class Trigger(StrEnum):
    """What may happen to a trip, in the words of docs/trip.md."""

    READY = "seat occupied, door closed, ignition on: all known now"
    LEFT = "seat empty, door open or ignition off"
    VOICE = "a known voice"
    KEY = "the key of an enrolled driver"
    CHOSEN = "a driver chosen by hand"
    GUEST = "by hand: none of us"
    FORGOTTEN = "the settled driver is forgotten"
    DOUBTED = "seat, door and ignition not heard of for more than 10 s"
    SWITCH = "the seat's switch is worked"
    LISTEN = "listen"
    CANCEL = "cancel"
    SAVE = "save"
    FORGET = "forget a driver"


class Guard(StrEnum):
    """What must be so besides."""

    NOT_MOVING = "not known to move"
    HIMSELF_ANEW = "the settled driver's, nothing was asked for, all of it may move now"
    HIMSELF = "the settled driver's"
    LISTENING = "within 10 s of listen"
    ENROLLED = "who is enrolled"
    OTHER_VOICE = "another driver's voice was known since the driver was settled"
    NO_POSITION = "the ECU told no position in the last 2 s"
    MOVING = "seat or mirrors move, or did 1.5 s ago"
    NOT_MOVED = "nothing was moved by hand or by us in this trip"


class Action(StrEnum):
    """What follows."""

    NOTHING = "-"
    START = "nothing is asked for or touched yet"
    END = "withdraw what was asked for"
    SETTLE = "withdraw what was asked for others; the preferences wait for the car"
    WANT = "the preferences wait for the car"
    VACATE = "withdraw what was asked for; nobody takes the place unasked"
    TOUCH = "withdraw what was asked of the seat; not asked again in this trip"
    LISTEN = "the next known voice may replace the driver"
    CANCEL = "withdraw what was asked for, drop what waits"
    PREFER = "the position of what was moved becomes the preferences"
    ERASE = "erase the driver"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Row:
    """In one of `states`, when `trigger` happens and `guard` holds: `to` (None: stay) and `deed`.

    `reason` is what a refused command, or the ECUs, are told.
    """

    states: tuple[State, ...]
    trigger: Trigger
    guard: Guard | None
    to: State | None
    deed: Action
    reason: str = ""


_C, _O, _S, _V = (State.CLOSED,), (State.OPEN,), (State.SETTLED,), (State.VACANT,)


_TRIP = (*_O, *_S, *_V)


_ANY = (*_C, *_TRIP)


TABLE: tuple[Row, ...] = (
    Row(_C, Trigger.READY, None, State.OPEN, Action.START),
    Row(_TRIP, Trigger.READY, None, None, Action.NOTHING),
    Row(_TRIP, Trigger.LEFT, Guard.NOT_MOVING, State.CLOSED, Action.END, "trip_over"),
    Row(_ANY, Trigger.LEFT, None, None, Action.NOTHING),
    # A voice settles once. Later voices are passengers, unless the head unit asked.
    Row(_O, Trigger.VOICE, None, State.SETTLED, Action.SETTLE, "replaced"),
    Row(_S, Trigger.VOICE, Guard.HIMSELF_ANEW, None, Action.WANT),
    Row(_S, Trigger.VOICE, Guard.HIMSELF, None, Action.NOTHING),
    Row((*_S, *_V), Trigger.VOICE, Guard.LISTENING, State.SETTLED, Action.SETTLE, "replaced"),
    Row((*_C, *_S, *_V), Trigger.VOICE, None, None, Action.NOTHING),
    # A key settles where nobody has spoken yet: it says who came, not who sits there.
    Row(_O, Trigger.KEY, None, State.SETTLED, Action.SETTLE, "replaced"),
    Row((*_C, *_S, *_V), Trigger.KEY, None, None, Action.NOTHING),
    # A hand on the head unit always counts.
    Row(_TRIP, Trigger.CHOSEN, Guard.ENROLLED, State.SETTLED, Action.SETTLE, "replaced"),
    Row(_TRIP, Trigger.CHOSEN, None, None, Action.REFUSE, "unknown_driver"),
    Row(_TRIP, Trigger.GUEST, None, State.VACANT, Action.VACATE, "replaced"),
    Row(_C, Trigger.CHOSEN, None, None, Action.REFUSE, "no_trip"),
    Row(_C, Trigger.GUEST, None, None, Action.REFUSE, "no_trip"),
    Row(_S, Trigger.FORGOTTEN, None, State.VACANT, Action.VACATE, "forgotten"),
    Row((*_C, *_O, *_V), Trigger.FORGOTTEN, None, None, Action.NOTHING),
    Row(_S, Trigger.DOUBTED, None, State.VACANT, Action.VACATE, "restarted"),
    Row((*_C, *_O, *_V), Trigger.DOUBTED, None, None, Action.NOTHING),
    Row(_TRIP, Trigger.SWITCH, None, None, Action.TOUCH, "manual"),
    Row(_C, Trigger.SWITCH, None, None, Action.NOTHING),
    Row(_TRIP, Trigger.LISTEN, None, None, Action.LISTEN),
    Row(_C, Trigger.LISTEN, None, None, Action.REFUSE, "no_trip"),
    Row(_ANY, Trigger.CANCEL, None, None, Action.CANCEL, "cancelled"),
    # The position may be the other's: a person says first who drives.
    Row(_S, Trigger.SAVE, Guard.OTHER_VOICE, None, Action.REFUSE, "other_voice"),
    Row(_S, Trigger.SAVE, Guard.NO_POSITION, None, Action.REFUSE, "no_position"),
    Row(_S, Trigger.SAVE, Guard.MOVING, None, Action.REFUSE, "moving"),
    Row(_S, Trigger.SAVE, Guard.NOT_MOVED, None, Action.REFUSE, "not_moved"),
    Row(_S, Trigger.SAVE, None, None, Action.PREFER),
    Row((*_O, *_V), Trigger.SAVE, None, None, Action.REFUSE, "no_driver"),
    Row(_C, Trigger.SAVE, None, None, Action.REFUSE, "no_trip"),
    Row(_ANY, Trigger.FORGET, None, None, Action.ERASE),
)
"""The first row that fits is taken. Total: one fits every state and trigger."""
