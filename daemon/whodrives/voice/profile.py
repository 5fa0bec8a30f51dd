"""The values of enrolment and adaptation: profiles, pending trips, revisions.

Owns what is kept of a driver. Must not know how it is stored or compared. Only an enrolment changes
`Profile.embeddings`, the enrolment template; what is learned later is in `Profile.adaptation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from whodrives.audio.blocks import Floats


@dataclass(frozen=True, slots=True)
class Household:
    """All enrolled drivers, after somebody was enrolled, renamed, changed or forgotten.

    `problems` has a sentence for each profile that cannot be used.
    """

    at_s: float
    profiles: tuple[Profile, ...]
    problems: tuple[str, ...] = ()


class Noise(StrEnum):
    """The noise around speech, by SNR; `adaptation.following` has the limits."""

    QUIET = "quiet"
    SOME = "some"
    LOUD = "loud"


@dataclass(frozen=True, slots=True)
class PendingTrip:
    """The adaptation samples of one trip, merged: one embedding.

    Attributes:
        day: of the trip, as `datetime.date.toordinal` counts.
        voice: float32, shape (D,), unit length: the mean embedding of the samples.
        speech_s: seconds of speech in them.
        noise: of the noisiest sample.
        template_cosine: cosine to the enrolment template, by the first encoder, mean-subtracted.
        encoder: fingerprint of what made `voice`; it may differ from `Profile.encoder`.
        chosen: whether a key or a choice on the head unit told who drives, and the voice did not.
    """

    day: int
    voice: Floats = field(repr=False)
    speech_s: float
    noise: Noise
    template_cosine: float
    encoder: str
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Revision:
    """One update of a profile.

    Attributes:
        day: when the profile was updated.
        trips: the trips that were added, by ascending day.
    """

    day: int
    trips: tuple[PendingTrip, ...]


@dataclass(frozen=True, slots=True)
class Adaptation:
    """The revisions of a profile since its enrolment, oldest first, and the pending trips.

    `missed` counts the trips since the last recognition whose driver a key or a choice on the head
    unit told, in which somebody spoke and the driver was not recognised.
    """

    revisions: tuple[Revision, ...] = ()
    pending: tuple[PendingTrip, ...] = ()
    missed: int = 0


AUGMENTATIONS = 3
"""Embeddings per window of enrolment speech: clean, and with two kinds of noise added."""


@dataclass(frozen=True, slots=True)
class Profile:
    """An enrolled driver.

    Attributes:
        id: pseudonymous identifier, safe to publish.
        embeddings: float32, shape (AUGMENTATIONS k, D), each of unit length: the k windows of
            enrolment speech clean, then all with road noise, then all with broadband noise. The
            windows of a further enrolment follow those of the one before.
        encoder: fingerprint of the encoder that made them; only its embeddings are comparable.
        speech_s: seconds of speech they were made from.
        preferences: VSS path to value, in the path's unit.
        key: identifier of this driver's key fob, as in `VehicleState.key`; None for none.
        adaptation: revisions since the enrolment, and pending trips.
    """

    id: str
    embeddings: Floats
    encoder: str
    speech_s: float
    preferences: Mapping[str, float] = field(default_factory=dict)
    key: str | None = None
    adaptation: Adaptation = field(default_factory=Adaptation)


def joined(profile: Profile, added: Profile) -> Profile:
    """The profile with the voice of a further enrolment of the same driver.

    If only one of the two was embedded by both encoders, the other takes over what the second
    encoder made of it on average.
    """
    both = max(profile, added, key=lambda each: each.embeddings.shape[1])
    rows = [
        extended(each.embeddings, both.embeddings.mean(axis=0)).reshape(
            AUGMENTATIONS, -1, both.embeddings.shape[1]
        )
        for each in (profile, added)
    ]
    embeddings = np.concatenate(rows, axis=1).reshape(-1, both.embeddings.shape[1])
    seconds = profile.speech_s + added.speech_s
    return replace(profile, embeddings=embeddings, speech_s=seconds, encoder=both.encoder)


def extended(embeddings: Floats, both: Floats) -> Floats:
    """Embeddings by the first encoder, (n, D), with the second part of an embedding by both, (E,).

    Both parts keep the ratio of their lengths in `both`; rows have unit length. (n, D) if D = E.
    """
    first = embeddings.shape[1]
    if first == len(both):
        return embeddings
    second = np.tile(both[first:], (len(embeddings), 1))
    rows = np.concatenate([embeddings * np.linalg.norm(both[:first]), second], axis=1)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)
