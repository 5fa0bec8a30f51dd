"""The values of adaptation: eligible speech, what a trip taught, and offers to unknown speakers."""

from __future__ import annotations

from dataclasses import dataclass, field

from whodrives.audio.blocks import Floats
from whodrives.voice.types import Match


@dataclass(frozen=True, slots=True)
class AdaptationSample:
    """One utterance that may teach something, as a whole.

    Attributes:
        voice: float32, shape (D,), unit length: the mean embedding of its looks.
        speech_s: seconds of speech in it.
        snr_db: level of the speech over the noise around it, dB; None while no noise was heard.
        matches: how it compares with the household, best first.
    """

    voice: Floats = field(repr=False)
    speech_s: float
    snr_db: float | None
    matches: tuple[Match, ...]


@dataclass(frozen=True, slots=True)
class TripSamples:
    """A trip of this driver's is over; `samples` were recognised with a wide margin in it.

    For the store alone: neither for the bus nor for the log.
    """

    at_s: float
    driver: str
    samples: tuple[AdaptationSample, ...]


@dataclass(frozen=True, slots=True)
class UnknownSpeech:
    """A trip is over, and `samples` were spoken in it by voices that nobody knows.

    For the guest book alone: neither for the bus nor for the log.
    """

    at_s: float
    samples: tuple[AdaptationSample, ...]
    accompanied: bool = False
    """Whether an enrolled driver drove."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A guest who came back often enough to be asked whether to be enrolled.

    Attributes:
        guest: pseudonymous id, safe to publish.
        trips: number of trips in which the guest spoke.
        last_day: of the latest of them, as `PendingTrip.day`.
    """

    guest: str
    trips: int
    last_day: int


@dataclass(frozen=True, slots=True)
class Guests:
    """All guests who may be offered to be enrolled, anew; none clears the offer."""

    at_s: float
    offers: tuple[Offer, ...] = ()
