"""How well an enrolled voice is recognised, and how alike the voices of a household are.

Owns what is concluded from comparing profiles with each other, before anybody drives. Knows nothing
of names or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from whodrives.adaptation.following import enrolment_template
from whodrives.audio.blocks import Floats
from whodrives.voice.decision import Policy, judge
from whodrives.voice.profile import AUGMENTATIONS, Profile
from whodrives.voice.scoring import compare, mean_subtracted
from whodrives.voice.types import Calibration, Evidence, Outcome

SAME_PERSON_COSINE = 0.65
"""Two profiles that are at least so alike, relative to the mean voice, are one person's."""


TAKEN_SHARE = 0.1
"""Two profiles are too alike to keep when more of one's speech than this passes for the other's."""


LEAST_KNOWN_SHARE = 0.5
"""A profile of whose own speech less is recognised is no use."""


@dataclass(frozen=True, slots=True)
class Check:
    """What became of held-out seconds of an enrolment, each judged by all the others.

    Attributes:
        of_s: seconds that were judged.
        known_s: of them, recognised as this driver.
        taken_s: of them, taken for somebody else of the household.
    """

    of_s: float
    known_s: float
    taken_s: float

    @property
    def is_weak(self) -> bool:
        """Whether too little of it is recognised."""
        return self.known_s < LEAST_KNOWN_SHARE * self.of_s


@dataclass(frozen=True, slots=True)
class Similarity:
    """How alike two drivers are.

    Attributes:
        driver: the id of the other one.
        cosine: between the two voices, relative to the mean voice, in [-1, 1].
        passes_share: of the speech of both, the share that would pass for the other one's if only
            that one were enrolled, in [0, 1]: the chance, an utterance, that this driver gets the
            other's seat before both are compared.
        unclear_share: of the speech of both, the share that is not recognised as its speaker's once
            both are enrolled.
    """

    driver: str
    cosine: float
    passes_share: float
    unclear_share: float

    @property
    def is_same_person(self) -> bool:
        """Whether this is one person under two names."""
        return self.cosine >= SAME_PERSON_COSINE

    @property
    def is_too_similar(self) -> bool:
        """Whether the promise cannot be kept between the two."""
        return self.is_same_person or self.passes_share > TAKEN_SHARE


def self_check(profile: Profile, others: Sequence[Profile], policy: Policy) -> Check:
    """Judge each window of a profile by the profile without it and its neighbours.

    Args:
        profile: its windows in the order in which they were spoken.
        others: the rest of the household.
        policy: what recognition will use.
    """
    windows, seconds = _spoken(profile)
    household = _voices(others, policy.calibration)
    known = taken = judged = 0
    for place, window in enumerate(windows):
        rest = _without(profile, place)
        if not len(rest.embeddings):
            continue
        own = _voices([rest], policy.calibration)
        found = _recognised(window, seconds, [*own, *household], policy)
        judged += 1
        known += found == profile.id
        taken += found not in (profile.id, None)
    return Check(judged * seconds, known * seconds, taken * seconds)


def matrix(profiles: Sequence[Profile], calibration: Calibration) -> Floats:
    """How alike each two of the profiles are: cosines (n, n), relative to the mean voice."""
    if not profiles:
        return np.zeros((0, 0), np.float32)
    voices = np.stack([voice for _, voice in _voices(profiles, calibration)])
    return np.asarray(voices @ voices.T, np.float32)


def similarities(
    profile: Profile, others: Sequence[Profile], policy: Policy
) -> tuple[Similarity, ...]:
    """How alike a profile and each of the others are, the most alike first."""
    found = [_pair(profile, other, policy) for other in others]
    return tuple(sorted(found, key=lambda each: (-each.cosine, each.driver)))


def _pair(one: Profile, other: Profile, policy: Policy) -> Similarity:
    cosine = float(matrix([one, other], policy.calibration)[0, 1])
    passes = unclear = count = 0
    for speaker, neighbour in ((one, other), (other, one)):
        windows, seconds = _spoken(speaker)
        near = _voices([neighbour], policy.calibration)
        for place, window in enumerate(windows):
            rest = _without(speaker, place)
            alone = _recognised(window, seconds, near, policy)
            both = [*_voices([rest], policy.calibration), *near] if len(rest.embeddings) else []
            count += 1
            passes += alone is not None
            unclear += _recognised(window, seconds, both, policy) != speaker.id
    return Similarity(other.id, cosine, passes / count, unclear / count)


def _voices(profiles: Sequence[Profile], calibration: Calibration) -> list[tuple[str, Floats]]:
    """What is compared with: each profile's voice as enrolled."""
    return [(profile.id, enrolment_template(profile, calibration)) for profile in profiles]


def _spoken(profile: Profile) -> tuple[Floats, float]:
    """The windows as they were spoken, (k, D), and the seconds of each on average."""
    windows = profile.embeddings[: len(profile.embeddings) // AUGMENTATIONS]
    return windows, profile.speech_s / len(windows)


def _without(profile: Profile, place: int) -> Profile:
    """The profile less one window and its neighbours: they may share a breath, or a word."""
    renditions = profile.embeddings.reshape(AUGMENTATIONS, -1, profile.embeddings.shape[-1])
    near = [n for n in (place - 1, place, place + 1) if 0 <= n < renditions.shape[1]]
    return replace(profile, embeddings=np.concatenate(np.delete(renditions, near, axis=1)))


def _recognised(
    window: Floats, seconds: float, voices: Sequence[tuple[str, Floats]], policy: Policy
) -> str | None:
    """Whose voice a window is called, as if it were an utterance."""
    calibration = policy.calibration
    matches = compare(mean_subtracted(window, calibration), seconds, voices, calibration)
    evidence = Evidence(matches, seconds, None, 0.0)
    verdict = judge(evidence, len(voices), policy, final=True)
    return verdict.driver if verdict and verdict.outcome is Outcome.KNOWN else None
