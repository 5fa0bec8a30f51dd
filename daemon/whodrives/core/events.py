"""Every input that can influence the output, and every event that the engine emits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from whodrives.adaptation.types import Guests, TripSamples, UnknownSpeech
from whodrives.audio.blocks import AudioBlock, SourceState
from whodrives.enrolment.recording import Enrolled
from whodrives.enrolment.types import Enrol, EnrolmentState, StoreVoice
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
    Tick,
    UnmatchedResult,
)
from whodrives.vehicle.state import Misdated, VehicleReport
from whodrives.voice.profile import Household
from whodrives.voice.types import Recognition


@dataclass(frozen=True, slots=True)
class RefusedCommand:
    """A head unit's command that is not obeyed; the engine answers it with a `CommandResult`.

    Attributes:
        at_s: when it was refused.
        command: the command's id.
        reason: why, as a code or a sentence.
    """

    at_s: float
    command: str
    reason: str


@dataclass(frozen=True, slots=True)
class Executed:
    """The store has done what an event asked for; a changed `Household` came before this.

    Attributes:
        at_s: when it was done.
        events: what is to be told now; the engine gives them back unchanged.
    """

    at_s: float
    events: tuple[CommandResult | EnrolmentState | Guests, ...]


@dataclass(frozen=True, slots=True)
class EnrolReady:
    """The store can keep the voice that a head unit asks to enrol.

    Attributes:
        at_s: when that was checked.
        command: what the head unit asks for.
        guest: the voice of the guest that the command names; None: it names none, or an unknown
            one.
    """

    at_s: float
    command: Enrol
    guest: Enrolled | None = None


Input: TypeAlias = (
    AudioBlock
    | VehicleReport
    | Misdated
    | SourceState
    | LinkState
    | Listen
    | Choose
    | Cancel
    | Save
    | Forget
    | Enrol
    | Position
    | RequestResult
    | Begin
    | Household
    | RefusedCommand
    | Executed
    | EnrolReady
    | Tick
)


@dataclass(frozen=True, slots=True)
class Health:
    """Whether whodrives can do its work; `reasons` say what it lacks (empty: all is well)."""

    at_s: float
    reasons: tuple[str, ...] = ()


Event: TypeAlias = (
    Recognition
    | DriverState
    | Apply
    | CancelRequest
    | SavePreferences
    | Forget
    | CommandResult
    | EnrolmentState
    | StoreVoice
    | UnmatchedResult
    | PersistTrip
    | TripSamples
    | UnknownSpeech
    | Guests
    | Health
)
