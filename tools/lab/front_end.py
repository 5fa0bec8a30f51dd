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
from numpy.typing import NDArray

from tools.lab.conditions import enrolled, tested
from tools.lab.corpus import Material, Person, material
from whodrives.audio.blocks import BLOCK_S, BLOCK_SAMPLES, AudioBlock, Floats
from whodrives.enrolment.recording import Enrolment
from whodrives.errors import EnrolmentError
from whodrives.models.calibration import load_calibration
from whodrives.models.encoder import load_encoder
from whodrives.models.vad import load_vad
from whodrives.voice.acoustics import Quality
from whodrives.voice.decision import is_telephone
from whodrives.voice.profile import Profile
from whodrives.voice.scoring import RunningModel, centroid, pooled
from whodrives.voice.segments import Segmenter, segmented
from whodrives.voice.segments import SegmenterEvent as Piece
from whodrives.voice.types import Calibration, Segment, VoiceActivity

WHOLE_LOOK_S = 0.9
"""A look of at least this much speech counts as one second in the tables by duration."""

DURATIONS = (1, 2, 3, 5)
"""Seconds of speech."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What gate and encoder made of one sound.

    Attributes:
        speech_s: seconds of the present voice so far, at each look: (K,).
        utterance: which utterance of the gate each look belongs to, counted from 0: (K,).
        part: which voice each look is of; an utterance has several if its voice changes: (K,).
        telephone: whether that voice's sound so far is refused as a telephone's: (K,).
        voices: the voice's mean embedding so far, at each look: (K, D).
        seconds: mean embedding of the sound's first 1, 2, ... whole looks: (at most 5, D).
        seconds_telephone: whether the sound of those is refused as a telephone's: (at most 5,).
    """

    speech_s: NDArray[np.float64]
    utterance: NDArray[np.intp]
    part: NDArray[np.intp]
    telephone: NDArray[np.bool_]
    voices: Floats
    seconds: Floats
    seconds_telephone: NDArray[np.bool_]

    @classmethod
    def of_seconds(cls, seconds: Floats) -> Heard:
        """What was heard where only seconds are compared, and no sound is refused."""
        none = np.zeros(0, np.intp)
        nothing = np.zeros((0, 0), np.float32)
        fine = np.zeros(len(seconds), np.bool_)
        return cls(np.zeros(0), none, none, none.astype(bool), nothing, seconds, fine)


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
        self.activity = load_vad(models, pinned=False)
        self.encoder = load_encoder(models, pinned=False)
        self.calibration = load_calibration(models, pinned=False)

    def looks(self, samples: Floats) -> list[tuple[int, Segment]]:
        """Return every look in a sound, with the number of its utterance."""
        number, found = 0, []
        for piece in pieces(self.activity, Segmenter(), samples):
            if isinstance(piece, Segment):
                found.append((number, piece))
            else:
                number += 1
        return found

    def hear(self, samples: Floats) -> Heard:
        """Hear a test sound as the recognizer does, and by seconds of speech."""
        looks = self.looks(samples)
        embedded = [self.encoder.embed(look.samples) for _, look in looks]
        return summed(looks, embedded, self.calibration)

    def enrol(self, samples: Floats) -> Profile:
        """Enrol from a recording; raises EnrolmentError when it is refused."""
        self.activity.reset()
        enrolment = Enrolment(self.activity, self.encoder)
        for block in blocks(samples):
            enrolment.step(block)
        done = enrolment.finish(len(samples) / BLOCK_SAMPLES * BLOCK_S)
        return Profile("", done.embeddings, self.encoder.fingerprint, done.speech_s)


def summed(
    looks: Sequence[tuple[int, Segment]], embedded: Sequence[Floats], calibration: Calibration
) -> Heard:
    """Running means: of each voice as the recognizer keeps them, and over whole looks."""
    voice, quality, part = RunningModel(), Quality(), -1
    speech_s, parts, telephone, voices = [], [], [], []
    for k, ((number, look), embedding) in enumerate(zip(looks, embedded, strict=True)):
        begins = not k or number != looks[k - 1][0]
        if begins or not voice.take(embedding, look.new_s, calibration):
            voice, quality, part = RunningModel(), Quality(), part + 1
            voice.take(embedding, look.new_s, calibration)
        quality.add(look.samples)
        speech_s.append(voice.speech_s)
        parts.append(part)
        telephone.append(is_telephone(quality.sound()))
        voices.append(voice.pooled())
    whole = [k for k, (_, look) in enumerate(looks) if look.new_s >= WHOLE_LOOK_S]
    sound = Quality()
    seconds, refused = [], []
    for n, k in enumerate(whole[: DURATIONS[-1]], start=1):
        sound.add(looks[k][1].samples)
        weights_s = [looks[i][1].new_s for i in whole[:n]]
        seconds.append(pooled([embedded[i] for i in whole[:n]], weights_s))
        refused.append(is_telephone(sound.sound()))
    return Heard(
        np.array(speech_s, np.float64),
        np.array([number for number, _ in looks], np.intp),
        np.array(parts, np.intp),
        np.array(telephone, np.bool_),
        _stacked(voices),
        _stacked(seconds),
        np.array(refused, np.bool_),
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


def blocks(samples: Floats) -> Iterator[AudioBlock]:
    """Cut samples (n,) into blocks; an incomplete last one is left out."""
    for end in range(BLOCK_SAMPLES, len(samples) + 1, BLOCK_SAMPLES):
        yield AudioBlock(end / BLOCK_SAMPLES * BLOCK_S, samples[end - BLOCK_SAMPLES : end])


def pieces(activity: VoiceActivity, gate: Segmenter, samples: Floats) -> list[Piece]:
    """All that a new segmenter gives for samples (n,), to their end."""
    return segmented(list(blocks(samples)), activity, gate)
