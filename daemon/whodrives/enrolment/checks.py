"""The final checks before a profile is kept.

Owns three questions: are held-out parts recognised, is the speaker too similar to another driver,
and is a driver who is enrolled again the same person. Must not know names or the store. A problem
names its fix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from whodrives.enrolment.recording import Enrolled
from whodrives.enrolment.similarity import Check, Similarity, matrix, self_check, similarities
from whodrives.enrolment.types import Problem
from whodrives.voice.decision import Policy
from whodrives.voice.profile import Profile, joined

_NOBODY = "d-00000000"


ADDED_COSINE = 0.5
"""Minimum cosine of a further enrolment to the voice that it is added to."""


@dataclass(frozen=True, slots=True)
class Findings:
    """The result of the final checks.

    Attributes:
        check: recognition of held-out windows.
        similar: similarity to the other drivers, most similar first.
        problems: every reason not to keep the profile.
    """

    check: Check
    similar: tuple[Similarity, ...]
    problems: tuple[Problem, ...]


def examined(
    enrolled: Enrolled,
    driver: str | None,
    household: Sequence[Profile],
    policy: Policy,
    *,
    again: bool = False,
) -> Findings:
    """Run the final checks on a new enrolment.

    Args:
        enrolled: the enrolment.
        driver: the driver whose voice it replaces, or is added to; None for a new driver.
        household: all enrolled drivers, `driver` included.
        policy: the policy of recognition.
        again: whether it is added; the voice as it will be is then checked.
    """
    others = [profile for profile in household if profile.id != driver]
    spoken = Profile(
        driver or _NOBODY, enrolled.embeddings, policy.calibration.encoder, enrolled.speech_s
    )
    before = [each for each in household if each.id == driver]
    profile = joined(before[0], spoken) if again and before else spoken
    check, near = self_check(profile, others, policy), similarities(profile, others, policy)
    another = _stranger if again else _another_person
    problems = [*_against(check, near), *another(spoken, before, policy)]
    return Findings(check, near, tuple(problems))


def _against(check: Check, near: Sequence[Similarity]) -> Iterator[Problem]:
    for other in near:
        if other.is_same_person:
            yield Problem(
                "same_person",
                f"this voice is that of {other.driver}, who is enrolled already (cosine "
                f"{other.cosine:.2f}); replace that one, or use its name",
            )
        elif other.is_too_similar:
            yield Problem(
                "alike",
                f"this voice is too similar to that of {other.driver}: "
                f"{100 * other.passes_share:.0f} % of the speech of both would be accepted as the "
                f"other one's, and with both enrolled {100 * other.unclear_share:.0f} % would not "
                "be recognised as its speaker's",
            )
    if check.is_weak and not similar_is_the_reason(near):
        yield Problem(
            "not_recognised",
            f"only {check.known_s:.0f} of its own {check.of_s:.0f} s are recognised; record again "
            "in a quieter place, speaking as usual",
        )


def similar_is_the_reason(near: Sequence[Similarity]) -> bool:
    """Whether too similar a driver explains that held-out windows are not recognised."""
    return any(other.is_too_similar for other in near)


def _another_person(
    profile: Profile, before: Sequence[Profile], policy: Policy
) -> Iterator[Problem]:
    """A problem if a replacement is not similar to the profile that it replaces."""
    for old in before:
        (found,) = similarities(profile, [old], policy)
        if found.passes_share < _LEAST_PASSING:
            yield Problem(
                "not_the_driver",
                f"this is not the voice of {old.id}, whom it is to replace; enrol a new driver, or "
                "let that one speak",
            )


def _stranger(spoken: Profile, before: Sequence[Profile], policy: Policy) -> Iterator[Problem]:
    """A problem if speech that is to be added to a voice is not similar to it."""
    for old in before:
        cosine = float(matrix([spoken, old], policy.calibration)[0, 1])
        if cosine < ADDED_COSINE:
            yield Problem(
                "not_this_driver",
                f"this voice is not similar to that of {old.id}, to which it is to be added "
                f"(cosine {cosine:.2f}, at least {ADDED_COSINE:.2f}); let that driver speak; if it "
                "is the same person, record in the car with its own microphone, or replace the "
                "voice",
            )


_LEAST_PASSING = 0.2
"""Minimum share of a replacement's speech that passes for the replaced driver's."""
