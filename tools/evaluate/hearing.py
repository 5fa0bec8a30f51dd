"""From sound to embeddings, exactly as the daemon does it: gate, looks, encoder, enrolment.

Owns the models, and the division of the work between processes. Each sound is heard once under
each condition; every trial reuses what was heard. Embeddings live in memory and are never written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from conditions import enrolled, tested
from corpora import Material, Person, material
from corpus import blocks
from numpy.typing import NDArray

from whodrives.domain import (
    BLOCK_S,
    BLOCK_SAMPLES,
    EnrolmentError,
    Floats,
    Look,
    Profile,
)
from whodrives.enrolment import Enrolment
from whodrives.inference import load_encoder, load_gate
from whodrives.scoring import centroid, pooled
from whodrives.speech import SpeechGate

WHOLE_LOOK_S = 0.9
"""A look of at least this much speech counts as one second in the tables by duration."""

DURATIONS = (1, 2, 3, 5)
"""Seconds of speech."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What gate and encoder made of one sound.

    Attributes:
        speech_s: seconds of the utterance so far, at each look: (K,).
        utterance: which utterance each look belongs to, counted from 0: (K,).
        voices: the utterance's mean embedding so far, at each look: (K, D).
        seconds: mean embedding of the sound's first 1, 2, ... whole looks: (at most 5, D).
    """

    speech_s: NDArray[np.float64]
    utterance: NDArray[np.intp]
    voices: Floats
    seconds: Floats


@dataclass(slots=True)
class Subject:
    """A person as heard: the profile's centroid and the test sounds under each condition.

    Attributes:
        person: who it is.
        centres: (D,) by enrolment condition; a condition whose recording was refused is absent.
        speech_s: seconds of speech in each of those enrolments.
        refusals: codes of the problems, by enrolment condition.
        sounds: by test condition, in the same order everywhere.
    """

    person: Person
    centres: dict[str, Floats] = field(default_factory=dict)
    speech_s: dict[str, float] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    sounds: dict[str, list[Heard]] = field(default_factory=dict)


class Ear:
    """Gate, encoder and enrolment of a models folder.

    Raises:
        ModelError: a model is missing or changed.
    """

    def __init__(self, models: Path) -> None:
        self.activity = load_gate(models)
        self.encoder = load_encoder(models)

    def looks(self, samples: Floats) -> list[tuple[int, Look]]:
        """Return every look in a sound, with the number of its utterance."""
        self.activity.reset()
        gate = SpeechGate()
        pieces = []
        for block in blocks(samples):
            pieces += gate.step(block, self.activity.probability(block.samples))
        pieces += gate.flush(len(samples) / BLOCK_SAMPLES * BLOCK_S)
        number, found = 0, []
        for piece in pieces:
            if isinstance(piece, Look):
                found.append((number, piece))
            else:
                number += 1
        return found

    def hear(self, samples: Floats) -> Heard:
        """Hear a test sound as the recognizer does, and by seconds of speech."""
        looks = self.looks(samples)
        embedded = [self.encoder.embed(look.samples) for _, look in looks]
        return summed(looks, embedded)

    def enrol(self, samples: Floats) -> Profile:
        """Enrol from a recording; raises EnrolmentError when it is refused."""
        self.activity.reset()
        enrolment = Enrolment(self.activity, self.encoder)
        for block in blocks(samples):
            enrolment.step(block)
        done = enrolment.finish(len(samples) / BLOCK_SAMPLES * BLOCK_S)
        return Profile("", done.embeddings, self.encoder.fingerprint, done.speech_s)


def summed(looks: Sequence[tuple[int, Look]], embedded: Sequence[Floats]) -> Heard:
    """Running means: within each utterance as the recognizer keeps them, and over whole looks."""
    numbers = [number for number, _ in looks]
    weights = [look.new_s for _, look in looks]
    voices = []
    for k, number in enumerate(numbers):
        start = numbers.index(number)
        voices.append(pooled(embedded[start : k + 1], weights[start : k + 1]))
    whole = [k for k, weight in enumerate(weights) if weight >= WHOLE_LOOK_S][: DURATIONS[-1]]
    seconds = [
        pooled([embedded[k] for k in whole[: n + 1]], [weights[k] for k in whole[: n + 1]])
        for n in range(len(whole))
    ]
    return Heard(
        np.array([look.speech_s for _, look in looks]),
        np.array(numbers, np.intp),
        _stacked(voices),
        _stacked(seconds),
    )


def _stacked(vectors: Sequence[Floats]) -> Floats:
    return np.stack(vectors) if vectors else np.zeros((0, 0), np.float32)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be heard.

    Attributes:
        models: folder of the models.
        tests: names of test conditions.
        enrolments: names of enrolment conditions.
        sounds: test sounds per person, at most.
    """

    models: Path
    tests: tuple[str, ...]
    enrolments: tuple[str, ...]
    sounds: int


_ears: dict[Path, Ear] = {}
"""One ear per process: loading the models takes longer than hearing a sound."""


def ear(models: Path) -> Ear:
    """This process's ear for a models folder."""
    if models not in _ears:
        _ears[models] = Ear(models)
    return _ears[models]


def hear_person(person: Person, plan: Plan) -> Subject:
    """Enrol and test one person under all conditions of the plan."""
    own = ear(plan.models)
    said = material(person, plan.sounds)
    subject = Subject(person)
    for condition in plan.enrolments:
        _enrol(subject, own, said, condition)
    for condition in plan.tests:
        subject.sounds[condition] = [
            own.hear(tested(sound, condition, person.name, number))
            for number, sound in enumerate(said.tests)
        ]
    return subject


def _enrol(subject: Subject, own: Ear, said: Material, condition: str) -> None:
    sound = enrolled(said.enrolment, condition, subject.person.name)
    try:
        profile = own.enrol(sound)
    except EnrolmentError as error:
        codes = [line.partition(":")[0] for line in str(error).splitlines()]
        subject.refusals[condition] = " ".join(codes)
        return
    subject.centres[condition] = centroid(profile)
    subject.speech_s[condition] = profile.speech_s


def hear(people: Sequence[tuple[Person, Plan]], processes: int) -> Iterator[Subject]:
    """Everybody, in order; each process hears one person at a time."""
    if processes == 1:
        yield from (hear_person(person, plan) for person, plan in people)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(hear_person, *zip(*people, strict=True))
