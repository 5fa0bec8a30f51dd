"""Every input that can influence the output, and every event that the engine emits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from whodrives.adaptation.types import Guests, TripSamples, UnknownSpeech
from whodrives.audio.blocks import AudioBlock, SourceState
from whodrives.enrolment.types import Enrol, EnrolmentState
from whodrives.trip.types import (
    Apply,
    Begin,
    Cancel,
    CancelRequest,
    Choose,
    CommandResult,
    DriverState,
    Erase,
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
    | Erase
    | CommandResult
    | EnrolmentState
    | UnmatchedResult
    | PersistTrip
    | TripSamples
    | UnknownSpeech
    | Guests
    | Health
)
