"""A hundred trips of a household whose voices and car change, with somebody who tries to creep in.

Owns the story of the trips, the attackers, and what is counted before and after. What learns is the
daemon's own code (`whodrives.adaptation`); who is recognised is decided by it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from conditions import generator
from numpy.typing import NDArray
from speakers import Speaker, Utterance

from whodrives import adaptation
from whodrives.adaptation import Rules
from whodrives.decision import Policy, judge
from whodrives.domain import Evidence, Floats, Lesson, Match, Outcome, Profile
from whodrives.scoring import centred, centroid, compare, unit

TRIPS = 100
UTTERANCES = 3
"""Of the driver in each trip."""

SEASONS: Sequence[tuple[str, ...]] = (
    ("clean", "car 10 dB"),
    ("cold", "cold, car 10 dB"),
    ("car 5 dB", "car 10 dB"),
    ("cabin, car 5 dB", "car 10 dB"),
)
"""A quarter of the trips each: as enrolled; a cold; louder tyres; a microphone that is further away."""

DRIVES = (0.5, 0.25, 0.25)
"""Share of the trips of the driver in question, of the most similar one and of another."""

STRANGER = 0.3
"""Share of the trips in which a stranger speaks too."""

ATTACK = 0.5
"""Share of the trips in which the attacker drives, with the driver's key."""

SOUNDS = 40
"""Strangers' utterances that each household is tried with, under each condition, at most."""


@dataclass(slots=True)
class Household:
    """The enrolled: the driver in question first, then the most similar voice, then another."""

    members: list[Speaker]
    attacker: Speaker
    strangers: list[Speaker]
    profiles: list[Profile] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Counts:
    """Errors among trials, by condition: [errors, trials]."""

    missed: Mapping[str, tuple[int, int]]
    taken: Mapping[str, tuple[int, int]]
    attacker: tuple[int, int]
    similar: tuple[int, int]


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
        house.profiles = [
            replace(member.profile, id=f"d-{number}") for number, member in enumerate(members)
        ]
        yield house


def _alike(one: Speaker, other: Speaker, mean: Floats) -> float:
    return float(
        unit(centroid(one.profile) - mean) @ unit(centroid(other.profile) - mean)
    )


def voices(profiles: Sequence[Profile], policy: Policy, rules: Rules) -> list[tuple[str, Floats]]:
    """What utterances are compared with, as the recognizer prepares it."""
    return [
        (p.id, centred(centroid(adaptation.effective(p, rules)), policy.calibration))
        for p in profiles
    ]


def decided(
    utterance: Utterance, enrolled: Sequence[tuple[str, Floats]], policy: Policy
) -> tuple[str | None, Outcome]:
    """Who the daemon says an utterance is of, as soon as it says so."""
    speech_s = np.cumsum(utterance.new_s)
    for looks in range(1, len(speech_s) + 1):
        matches = compared(utterance.voice(looks), float(speech_s[looks - 1]), enrolled, policy)
        evidence = Evidence(matches, float(speech_s[looks - 1]), utterance.snr_db, 0.0)
        verdict = judge(evidence, len(enrolled), policy, final=looks == len(speech_s))
        if verdict is not None:
            return verdict.driver, verdict.outcome
    return None, Outcome.INSUFFICIENT_SPEECH


def compared(
    voice: Floats, speech_s: float, enrolled: Sequence[tuple[str, Floats]], policy: Policy
) -> tuple[Match, ...]:
    """Every driver's match with a voice, best first."""
    return compare(centred(voice, policy.calibration), speech_s, enrolled, policy.calibration)


def lived(house: Household, attack: str, policy: Policy, rules: Rules, trips: int = TRIPS) -> int:
    """Let the household drive; its profiles learn. Returns the number of steps that were made.

    `attack` is none; `speak`: the attacker speaks plainly; `creep`: the attacker knows the profile
    and the rules, and speaks with the largest share of his own voice in the driver's that still
    is learned.
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
        settled = 0 if attacked else _settled(spoken, enrolled, policy)
        if settled is None:
            continue
        lessons = [
            lesson
            for utterance in [*spoken, *beside]
            if (lesson := _lesson(utterance, settled, enrolled, policy, rules))
        ]
        calibration = policy.calibration
        profile = adaptation.quarantined(
            house.profiles[settled], lessons, day, calibration, rules
        )
        rest = [p for n, p in enumerate(house.profiles) if n != settled]
        house.profiles[settled], step = adaptation.promoted(profile, rest, day, calibration, rules)
        steps += step is not None
    return steps


def _settled(
    spoken: Sequence[Utterance], enrolled: Sequence[tuple[str, Floats]], policy: Policy
) -> int | None:
    """The first known voice of the trip drives it."""
    for utterance in spoken:
        driver, _ = decided(utterance, enrolled, policy)
        if driver is not None:
            return int(driver[2:])
    return None


def _lesson(
    utterance: Utterance,
    settled: int,
    enrolled: Sequence[tuple[str, Floats]],
    policy: Policy,
    rules: Rules,
) -> Lesson | None:
    """What an utterance teaches the profile of the settled driver."""
    driver, _ = decided(utterance, enrolled, policy)
    matches = compared(utterance.voice(), utterance.speech_s, enrolled, policy)
    lesson = Lesson(utterance.voice(), utterance.speech_s, utterance.snr_db, matches)
    mine = driver == f"d-{settled}" == matches[0].driver
    promise = policy.calibration, policy.operating_point
    return lesson if mine and adaptation.teaches(lesson, len(enrolled), *promise, rules) else None


def _mixed(
    own: Utterance, other: Utterance, house: Household, policy: Policy, rules: Rules
) -> Utterance:
    """The largest share of the attacker in the driver's voice that still is learned; else all."""
    enrolled = voices(house.profiles, policy, rules)
    anchor = centred(centroid(house.profiles[0]), policy.calibration)

    def blended(share: float) -> Utterance:
        voice = unit((1 - share) * own.voice() + share * other.voice())
        looks = np.tile(voice, (len(own.new_s), 1))
        return Utterance(looks, own.new_s, own.snr_db)

    def learned(share: float) -> bool:
        heard = blended(share)
        near = float(centred(heard.voice(), policy.calibration) @ anchor)
        return near >= rules.anchor_cosine and bool(_lesson(heard, 0, enrolled, policy, rules))

    if learned(1.0):
        return other
    low, high = 0.0, 1.0
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (middle, high) if learned(middle) else (low, middle)
    return blended(low)


def counted(
    house: Household, policy: Policy, rules: Rules, conditions: Sequence[str]
) -> Counts:
    """What the household's profiles recognise now, on utterances that no trip has."""
    enrolled = voices(house.profiles, policy, rules)
    driver, similar = house.members[0], house.members[1]
    rng = generator("tests", driver.person.name)
    missed, taken = {}, {}
    attacks, errors = [], []
    for condition in conditions:
        own = [decided(u, enrolled, policy)[0] for u in driver.tests[condition]]
        missed[condition] = sum(who != "d-0" for who in own), len(own)
        heard = [u for s in house.strangers for u in (*s.tests[condition],)]
        chosen = [heard[int(n)] for n in rng.permutation(len(heard))[:SOUNDS]]
        named = [decided(u, enrolled, policy)[0] for u in chosen]
        taken[condition] = sum(who is not None for who in named), len(named)
        attacks += [decided(u, enrolled, policy)[0] for u in house.attacker.tests[condition]]
        errors += [decided(u, enrolled, policy)[0] for u in similar.tests[condition]]
    return Counts(
        missed,
        taken,
        (sum(who == "d-0" for who in attacks), len(attacks)),
        (sum(who == "d-0" for who in errors), len(errors)),
    )


def interval(
    rates: NDArray[np.float64], weights: NDArray[np.float64], seed: int = 1
) -> tuple[float, float]:
    """95 % of a mean over people, each with so many trials: people are redrawn 1000 times."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(rates), size=(1000, len(rates)))
    means = (rates * weights)[drawn].sum(axis=1) / np.maximum(weights[drawn].sum(axis=1), 1e-9)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
