"""A hundred trips of a household whose voices and car change, with somebody who tries to creep in.

Owns the sequence of trips, the attackers, and the counts before and after. What learns is the
daemon's own code (`whodrives.adaptation`); who is recognised is decided by it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tools.lab.conditions import generator
from tools.months.speakers import Speaker, Utterance
from whodrives.adaptation import following, guests
from whodrives.adaptation.following import Rules
from whodrives.adaptation.types import AdaptationSample
from whodrives.audio.blocks import Floats
from whodrives.voice.decision import Policy, judge
from whodrives.voice.profile import Profile
from whodrives.voice.scoring import centroid, compare, mean_subtracted, unit
from whodrives.voice.types import Evidence, Match, Verdict

TRIPS = 100
UTTERANCES = 3
"""Of the driver in each trip."""

SEASONS: Sequence[tuple[str, ...]] = (
    ("clean", "car 5 dB"),
    ("cold, car 10 dB",),
    ("clean", "car 5 dB"),
    ("cabin, car 5 dB",),
)
"""A quarter of the trips each: as enrolled; a cold; well again; a microphone further away."""

DRIVES = (0.5, 0.25, 0.25)
"""Share of the trips of the driver in question, of the most similar one and of another."""

STRANGER = 0.3
"""Share of the trips in which a stranger speaks too."""

ATTACKS = ("none", "speak", "creep")
ATTACK = 0.5
"""Share of the trips in which the attacker drives, with the driver's key."""

SOUNDS = 40
"""Strangers' utterances that each household is tried with, under each condition, at most."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What utterances are compared with.

    Attributes:
        voices: driver id and mean_subtracted voice (D,).
        templates: the mean_subtracted voices as enrolled, (D,) each.
    """

    voices: Sequence[tuple[str, Floats]]
    templates: Sequence[Floats]


@dataclass(slots=True)
class Household:
    """The enrolled: the driver in question first, then the most similar voice, then another."""

    members: list[Speaker]
    attacker: Speaker
    strangers: list[Speaker]
    profiles: list[Profile] = field(default_factory=list)

    def reset(self) -> None:
        """Enrol everybody anew."""
        self.profiles = [replace(m.profile, id=f"d-{n}") for n, m in enumerate(self.members)]


Tally: TypeAlias = Mapping[str, tuple[int, int]]
"""By condition, errors among so many trials."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Errors of a household's profiles.

    Attributes:
        fnir: the driver's utterances that are not recognised as the driver's.
        fpir: strangers' utterances that are taken for anybody's of the household.
        attacker: the attacker's utterances that are taken for the driver's.
        similar: those of the most similar enrolled voice that are.
    """

    fnir: Tally
    fpir: Tally
    attacker: Tally
    similar: Tally

    def of(self, name: str) -> Tally:
        """The tally of that name."""
        tally: Tally = getattr(self, name)
        return tally


def households(people: Sequence[Speaker], mean: Floats, least: int = 6) -> Iterable[Household]:
    """One for each person with enough others in the corpus: the most similar is in it.

    The attacker is the most similar of those outside.
    """
    for driver in people:
        others = [p for p in people if p.person.corpus == driver.person.corpus and p is not driver]
        if len(others) < least:
            continue
        others.sort(key=lambda p: -_alike(driver, p, mean))
        third = others[2 + int(generator("third", driver.person.name).integers(len(others) - 2))]
        members = [driver, others[0], third]
        outside = [p for p in others if p not in members]
        house = Household(members, outside[0], outside)
        house.reset()
        yield house


def _alike(one: Speaker, other: Speaker, mean: Floats) -> float:
    return float(unit(centroid(one.profile) - mean) @ unit(centroid(other.profile) - mean))


def voices(profiles: Sequence[Profile], policy: Policy, rules: Rules) -> Enrolled:
    """What utterances are compared with, as the recognizer prepares it."""
    calibration = policy.calibration
    return Enrolled(
        [(p.id, following.speaker_model(p, calibration, rules)) for p in profiles],
        [following.enrolment_template(p, calibration) for p in profiles],
    )


def decided(utterance: Utterance, enrolled: Enrolled, policy: Policy) -> Verdict:
    """What the daemon says of an utterance, as soon as it says it."""
    count = len(utterance.speech_s)
    for look in range(count):
        matches = compared(utterance, look, enrolled, policy)
        sound = utterance.sounds[look]
        evidence = Evidence(matches, utterance.speech_s[look], utterance.snr_db, 0.0, sound)
        verdict = judge(evidence, len(enrolled.voices), policy, final=look == count - 1)
        if verdict is not None:
            return verdict
    raise ValueError("an utterance without a look")


def compared(
    utterance: Utterance, look: int, enrolled: Enrolled, policy: Policy
) -> tuple[Match, ...]:
    """Every driver's match with an utterance up to a look, best first."""
    voice = mean_subtracted(utterance.voices[look], policy.calibration)
    speech_s = utterance.speech_s[look]
    return compare(voice, speech_s, enrolled.voices, policy.calibration, enrolled.templates)


def lived(house: Household, attack: str, policy: Policy, rules: Rules, trips: int = TRIPS) -> int:
    """Let the household drive; its profiles learn. Returns the number of steps that were made.

    `attack` is none; `speak`: the attacker speaks plainly; `creep`: the attacker knows the profile
    and the rules, and speaks with the largest share of his own voice in the driver's that still
    is learned. An attacker has the driver's key; others are known by their voice.
    """
    rng = generator("trips", house.members[0].person.name)
    steps = 0
    for day in range(trips):
        condition = str(rng.choice(SEASONS[day * len(SEASONS) // trips]))
        attacked = rng.random() < ATTACK and attack != "none"
        who = 0 if attacked else int(rng.choice(len(DRIVES), p=DRIVES))
        enrolled = voices(house.profiles, policy, rules)
        spoken = [
            house.members[who].trips[condition][int(n)]
            for n in rng.integers(len(house.members[who].trips[condition]), size=UTTERANCES)
        ]
        stranger = house.strangers[int(rng.integers(len(house.strangers)))]
        beside = [stranger.trips[condition][0]] if rng.random() < STRANGER else []
        if attacked:
            said = house.attacker.trips[condition]
            others = [said[int(n)] for n in rng.integers(len(said), size=UTTERANCES)]
            if attack == "creep":
                others = [
                    _mixed(own, other, house, policy, rules)
                    for own, other in zip(spoken, others, strict=True)
                ]
            spoken = others
        assigned = 0 if attacked else _assigned(spoken, enrolled, policy)
        if assigned is None:
            continue
        samples: Sequence[AdaptationSample] = [
            sample
            for utterance in [*spoken, *beside]
            if (sample := _sample(utterance, assigned, enrolled, policy, rules))
        ]
        calibration = policy.calibration
        profile = house.profiles[assigned]
        chosen = attacked and not samples
        if chosen:
            whole = [as_sample(utterance, enrolled, policy) for utterance in [*spoken, *beside]]
            own = [each for each in whole if guests.is_eligible(each, apart_from=profile.id)]
            samples = following.of_chosen(profile, own, calibration, rules)
        profile = following.quarantined(profile, samples, day, calibration, rules, chosen=chosen)
        rest = [p for n, p in enumerate(house.profiles) if n != assigned]
        house.profiles[assigned], step = following.promoted(profile, rest, day, calibration, rules)
        steps += step is not None
    return steps


def _assigned(spoken: Sequence[Utterance], enrolled: Enrolled, policy: Policy) -> int | None:
    """The first known voice of the trip drives it."""
    for utterance in spoken:
        driver = decided(utterance, enrolled, policy).driver
        if driver is not None:
            return int(driver[2:])
    return None


def _sample(
    utterance: Utterance,
    assigned: int,
    enrolled: Enrolled,
    policy: Policy,
    rules: Rules,
) -> AdaptationSample | None:
    """The adaptation sample of an utterance for the profile of the assigned driver."""
    sample = as_sample(utterance, enrolled, policy)
    promise = policy.calibration, policy.operating_point
    if sample.matches[0].driver != f"d-{assigned}":
        return None
    if not following.is_eligible(sample, len(enrolled.voices), *promise, rules):
        return None
    return sample if decided(utterance, enrolled, policy).driver == f"d-{assigned}" else None


def as_sample(utterance: Utterance, enrolled: Enrolled, policy: Policy) -> AdaptationSample:
    """All of an utterance, as the recognizer keeps it until the end of the trip."""
    matches = compared(utterance, -1, enrolled, policy)
    return AdaptationSample(utterance.voices[-1], utterance.speech_s[-1], utterance.snr_db, matches)


def _mixed(
    own: Utterance, other: Utterance, house: Household, policy: Policy, rules: Rules
) -> Utterance:
    """The largest share of the attacker in the driver's voice that still is learned; else all."""
    enrolled = voices(house.profiles, policy, rules)
    anchor = following.enrolment_template(house.profiles[0], policy.calibration)

    def blended(share: float) -> Utterance:
        voice = unit((1 - share) * own.voices[-1] + share * other.voices[-1])
        return replace(own, voices=np.tile(voice, (len(own.speech_s), 1)))

    def learned(share: float) -> bool:
        heard = blended(share)
        near = float(mean_subtracted(heard.voices[-1], policy.calibration) @ anchor)
        said = as_sample(heard, enrolled, policy)
        return near >= rules.template_cosine and guests.is_eligible(said, apart_from="d-0")

    if learned(1.0):
        return other
    low, high = 0.0, 1.0
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (middle, high) if learned(middle) else (low, middle)
    return blended(low)


def counted(house: Household, policy: Policy, rules: Rules) -> Counts:
    """What the household's profiles recognise now, on utterances that no trip has."""
    enrolled = voices(house.profiles, policy, rules)
    driver, similar = house.members[:2]
    rng = generator("tests", driver.person.name)
    tallies: dict[str, dict[str, tuple[int, int]]] = {}
    for condition, own in driver.tests.items():
        heard = [u for stranger in house.strangers for u in stranger.tests[condition]]
        chosen = [heard[int(n)] for n in rng.permutation(len(heard))[:SOUNDS]]
        for name, said in (
            ("fnir", own),
            ("fpir", chosen),
            ("attacker", house.attacker.tests[condition]),
            ("similar", similar.tests[condition]),
        ):
            named = [decided(utterance, enrolled, policy).driver for utterance in said]
            taken = sum(who is not None if name == "fpir" else who == "d-0" for who in named)
            errors = len(named) - taken if name == "fnir" else taken
            tallies.setdefault(name, {})[condition] = errors, len(named)
    return Counts(**tallies)


def interval(
    rates: NDArray[np.float64], weights: NDArray[np.float64], seed: int = 1
) -> tuple[float, float]:
    """95 % of a mean over people, each with so many trials: people are redrawn 1000 times."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(rates), size=(1000, len(rates)))
    means = (rates * weights)[drawn].sum(axis=1) / np.maximum(weights[drawn].sum(axis=1), 1e-9)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
