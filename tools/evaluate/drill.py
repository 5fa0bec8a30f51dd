"""Plays a sample of the trials to the daemon's own replay: do the arrays conclude what it does?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from conditions import tested
from corpora import Person, material
from corpus import blocks
from hearing import Plan, Subject
from trials import PROMISES, SEED, SHOWN_HOUSEHOLD, View, corpora, decide, scores, views, visits

from whodrives.decision import Policy
from whodrives.domain import Calibration, Household, Outcome, Profile, Recognition
from whodrives.inference import load_encoder, load_gate
from whodrives.recognizer import Recognizer
from whodrives.service import replay

PROMISE = PROMISES[0][0]


@dataclass(frozen=True, slots=True)
class Drill:
    """Replayed trials, and in how many of them the same was concluded."""

    asked: int
    agreed: int


def drill(subjects: Sequence[Subject], plan: Plan, calibration: Calibration, count: int) -> Drill:
    """Replay `count` sounds of each corpus, half to households with the speaker, half without."""
    agreements = [
        agreement
        for view in corpora(views(subjects))
        for agreement in _agreements(view, plan, calibration, count)
    ]
    return Drill(len(agreements), sum(agreements))


def _agreements(view: View, plan: Plan, calibration: Calibration, count: int) -> list[bool]:
    condition = plan.tests[-1]
    scored = scores(view, condition, "clean", calibration)
    played = visits(scored, SHOWN_HOUSEHOLD)
    if played is None:
        return []
    found = []
    for members in (played.genuine, played.strangers):
        concluded = decide(scored, members, calibration, PROMISE)
        sounds = np.random.default_rng(SEED).permutation(len(members))[: count // 2]
        for sound in sounds:
            taken = concluded.member[concluded.sound == sound, 0]
            household = [view.subjects[i] for i in scored.voice[members[sound, 0]]]
            speaker = view.subjects[scored.speaker[sound]].person
            number = int(np.count_nonzero(scored.speaker[:sound] == scored.speaker[sound]))
            heard = _replayed(speaker, number, household, plan, calibration)
            found.append(heard == [int(member) for member in taken if member >= 0])
    return found


def _replayed(
    speaker: Person,
    number: int,
    household: Sequence[Subject],
    plan: Plan,
    calibration: Calibration,
) -> list[int]:
    """Members of the household that the daemon calls known, in order."""
    condition = plan.tests[-1]
    sound = tested(material(speaker, plan.sounds).tests[number], condition, speaker.name, number)
    policy = Policy(calibration, PROMISE)
    recognizer = Recognizer(load_gate(plan.models), load_encoder(plan.models), policy)
    profiles = tuple(
        Profile(str(i), subject.centres["clean"][None], calibration.encoder, 10.0)
        for i, subject in enumerate(household)
    )
    return [
        int(event.verdict.driver or 0)
        for event in replay(recognizer, Household(0.0, profiles), blocks(sound), ())
        if isinstance(event, Recognition) and event.verdict.outcome is Outcome.KNOWN
    ]
