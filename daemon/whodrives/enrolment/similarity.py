"""How well a profile is recognised, and how similar the drivers of a household are.

Owns the comparison of profiles with each other, before anybody drives. Must not know names or
files. It uses enrolment templates and the decision rule of recognition; all cosines are the first
encoder's, mean-subtracted.
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
"""Two profiles with at least this cosine are of one person."""


TAKEN_SHARE = 0.1
"""Two drivers are too similar if more than this share of their speech passes for the other."""


LEAST_KNOWN_SHARE = 0.5
"""Minimum share of a driver's own held-out speech that must be recognised."""


@dataclass(frozen=True, slots=True)
class Check:
    """Cross-validation of an enrolment: each window is judged with the others as the profile.

    Attributes:
        of_s: seconds judged.
        known_s: seconds recognised as this driver.
        taken_s: seconds recognised as another driver.
    """

    of_s: float
    known_s: float
    taken_s: float

    @property
    def is_weak(self) -> bool:
        """Whether too little is recognised."""
        return self.known_s < LEAST_KNOWN_SHARE * self.of_s


@dataclass(frozen=True, slots=True)
class Similarity:
    """The similarity of a driver to another one.

    Attributes:
        driver: the id of the other one.
        cosine: between the two templates, in [-1, 1].
        passes_share: share of the speech of both, in [0, 1], that would be accepted as the other
            driver if only that one were enrolled.
        unclear_share: share of the speech of both that is not recognised as its speaker's with both
            enrolled.
    """

    driver: str
    cosine: float
    passes_share: float
    unclear_share: float

    @property
    def is_same_person(self) -> bool:
        """Whether both profiles are of one person."""
        return self.cosine >= SAME_PERSON_COSINE

    @property
    def is_too_similar(self) -> bool:
        """Whether the target FPIR cannot be kept between the two."""
        return self.is_same_person or self.passes_share > TAKEN_SHARE


def self_check(profile: Profile, others: Sequence[Profile], policy: Policy) -> Check:
    """Judge each window of a profile against the profile without it and its neighbours.

    Args:
        profile: with its windows in spoken order.
        others: the rest of the household.
        policy: the policy of recognition.
    """
    policy = _serving([profile, *others], policy)
    windows, seconds = _clean_windows(profile)
    household = _templates(others, policy.calibration)
    known = taken = judged = 0
    for place, window in enumerate(windows):
        rest = _without(profile, place)
        if not len(rest.embeddings):
            continue
        own = _templates([rest], policy.calibration)
        found = _recognised(window, seconds, [*own, *household], policy)
        judged += 1
        known += found == profile.id
        taken += found not in (profile.id, None)
    return Check(judged * seconds, known * seconds, taken * seconds)


def matrix(profiles: Sequence[Profile], calibration: Calibration) -> Floats:
    """Cosines of the first encoder between the templates of n profiles, float32 (n, n).

    They are mean-subtracted.
    """
    if not profiles:
        return np.zeros((0, 0), np.float32)
    voices = np.stack([voice for _, voice in _templates(profiles, calibration.first)])
    return np.asarray(voices @ voices.T, np.float32)


def similarities(
    profile: Profile, others: Sequence[Profile], policy: Policy
) -> tuple[Similarity, ...]:
    """The similarity of a profile to each of the others, most similar first."""
    found = [_pair(profile, other, policy) for other in others]
    return tuple(sorted(found, key=lambda each: (-each.cosine, each.driver)))


def _pair(one: Profile, other: Profile, policy: Policy) -> Similarity:
    cosine = float(matrix([one, other], policy.calibration)[0, 1])
    policy = _serving([one, other], policy)
    passes = unclear = count = 0
    for speaker, neighbour in ((one, other), (other, one)):
        windows, seconds = _clean_windows(speaker)
        near = _templates([neighbour], policy.calibration)
        for place, window in enumerate(windows):
            rest = _without(speaker, place)
            alone = _recognised(window, seconds, near, policy)
            both = [*_templates([rest], policy.calibration), *near] if len(rest.embeddings) else []
            count += 1
            passes += alone is not None
            unclear += _recognised(window, seconds, both, policy) != speaker.id
    return Similarity(other.id, cosine, passes / count, unclear / count)


def _serving(profiles: Sequence[Profile], policy: Policy) -> Policy:
    """The policy that every window of these profiles can be judged by."""
    return policy.serving(profile.embeddings.shape[1] for profile in profiles)


def _templates(profiles: Sequence[Profile], calibration: Calibration) -> list[tuple[str, Floats]]:
    """Id and enrolment template of each profile."""
    return [(profile.id, enrolment_template(profile, calibration)) for profile in profiles]


def _clean_windows(profile: Profile) -> tuple[Floats, float]:
    """The embeddings without added noise, (k, D), and their mean duration in seconds."""
    windows = profile.embeddings[: len(profile.embeddings) // AUGMENTATIONS]
    return windows, profile.speech_s / len(windows)


def _without(profile: Profile, place: int) -> Profile:
    """The profile without one window and its neighbours, which may share a word with it."""
    augmented = profile.embeddings.reshape(AUGMENTATIONS, -1, profile.embeddings.shape[-1])
    near = [n for n in (place - 1, place, place + 1) if 0 <= n < augmented.shape[1]]
    return replace(profile, embeddings=np.concatenate(np.delete(augmented, near, axis=1)))


def _recognised(
    window: Floats, seconds: float, voices: Sequence[tuple[str, Floats]], policy: Policy
) -> str | None:
    """The driver that a window is recognised as, judged as an utterance; None for nobody."""
    calibration = policy.calibration
    matches = compare(mean_subtracted(window, calibration), seconds, voices, calibration)
    evidence = Evidence(matches, seconds, None, 0.0)
    verdict = judge(evidence, len(voices), policy, final=True)
    return verdict.driver if verdict and verdict.outcome is Outcome.KNOWN else None
