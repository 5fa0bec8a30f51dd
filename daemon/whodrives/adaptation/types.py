"""The values of adaptation: samples, the samples of a trip, and offers to unknown speakers.

Owns what recognition hands to adaptation. Must not know files or days. Samples hold embeddings and
must reach neither the bus nor the log; their `repr` leaves the embedding out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from whodrives.audio.blocks import Floats
from whodrives.voice.types import Match


@dataclass(frozen=True, slots=True)
class AdaptationSample:
    """A whole utterance that may adapt a profile or belong to a guest.

    Attributes:
        voice: float32, shape (D,), unit length: the mean embedding of its segments.
        speech_s: seconds of speech in it.
        snr_db: SNR, dB; None if no noise was heard.
        matches: how it compares with the household, best first.
    """

    voice: Floats = field(repr=False)
    speech_s: float
    snr_db: float | None
    matches: tuple[Match, ...]


@dataclass(frozen=True, slots=True)
class TripSamples:
    """A trip of this driver is over; `samples` are its eligible utterances.

    For the store alone: neither for the bus nor for the log.
    """

    at_s: float
    driver: str
    samples: tuple[AdaptationSample, ...]
    chosen: bool = False
    """Whether a key or a choice on the head unit told who drives; the samples then are all that may
    be of this driver."""
    recognised: bool = True
    """Whether the driver was recognised in this trip."""


@dataclass(frozen=True, slots=True)
class UnknownSpeech:
    """A trip is over; `samples` are its utterances by unknown speakers.

    For the store alone: neither for the bus nor for the log.
    """

    at_s: float
    samples: tuple[AdaptationSample, ...]
    accompanied: bool = False
    """Whether an enrolled driver drove."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A guest who came back often enough to be asked to enrol.

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
    """All present offers; they replace the previous ones, and none clears them."""

    at_s: float
    offers: tuple[Offer, ...] = ()
