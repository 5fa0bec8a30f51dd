"""An enrolled driver's profile, and what it has learned since the enrolment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from whodrives.audio.blocks import Floats


@dataclass(frozen=True, slots=True)
class Household:
    """The enrolled drivers, anew: somebody was enrolled, renamed or forgotten.

    `problems` are sentences about profiles that could not be used.
    """

    at_s: float
    profiles: tuple[Profile, ...]
    problems: tuple[str, ...] = ()


class Noise(StrEnum):
    """How much noise was around speech."""

    QUIET = "quiet"
    SOME = "some"
    LOUD = "loud"


@dataclass(frozen=True, slots=True)
class PendingTrip:
    """What one trip taught, in quarantine.

    Attributes:
        day: of the trip; days are counted as by `datetime.date.toordinal`.
        voice: float32, shape (D,), unit length: the mean embedding of its lessons.
        speech_s: seconds of speech in them.
        noise: around them.
        template_cosine: to the enrolled voice, both relative to the mean voice.
    """

    day: int
    voice: Floats = field(repr=False)
    speech_s: float
    noise: Noise
    template_cosine: float


@dataclass(frozen=True, slots=True)
class Revision:
    """What a profile learned at one time, and where it comes from.

    Attributes:
        day: when it was learned.
        trips: what it was learned from, by ascending day; one embedding each.
    """

    day: int
    trips: tuple[PendingTrip, ...]


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What a profile learned since it was enrolled, oldest first, and what is in quarantine."""

    revisions: tuple[Revision, ...] = ()
    pending: tuple[PendingTrip, ...] = ()


AUGMENTATIONS = 3
"""Each window of enrolment speech is embedded so many times: as spoken, and in two noises."""


@dataclass(frozen=True, slots=True)
class Profile:
    """An enrolled driver's voice.

    Attributes:
        id: pseudonymous identifier, safe to publish.
        embeddings: float32, shape (RENDITIONS k, D), each of unit length: the k windows of
            enrolment speech as spoken, then all of them in road noise, then in broadband noise.
        encoder: fingerprint of the encoder that made them; others cannot be compared.
        speech_s: seconds of speech they were made from.
        preferences: VSS path to value, in the path's unit.
        key: the key fob that is this driver's, as `VehicleState.key` names it; None for none.
        adaptation: what was learned since; `embeddings`, the anchor, stay as they were enrolled.
    """

    id: str
    embeddings: Floats
    encoder: str
    speech_s: float
    preferences: Mapping[str, float] = field(default_factory=dict)
    key: str | None = None
    adaptation: Adaptation = field(default_factory=Adaptation)
