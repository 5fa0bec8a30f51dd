"""The people of a corpus as gate and encoder hear them, under everything that months bring.

Owns which recordings enrol, which are spoken in trips and which only test, and the simulated
changes: of the voice (a cold), of the car (tyres, cabin). Each sound is heard once under each
condition; the experiments draw from what was heard. Embeddings live in memory, not on a disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soxr

from tools.lab.conditions import TESTS, converted, generator, padded
from tools.lab.corpus import ENROL_S, Person, read_sound, speech_s, trimmed
from tools.lab.front_end import Ear, summed
from tools.lab.scene import active_level_db, level_speech
from whodrives.audio.blocks import BLOCK_SAMPLES, SAMPLE_RATE_HZ, Floats
from whodrives.errors import EnrolmentError
from whodrives.voice.acoustics import Quality
from whodrives.voice.profile import Profile
from whodrives.voice.types import Segment, Sound

SOUND_BLOCKS = (67, 200)
"""A sound of a trip lasts 2 to 6 s: an utterance, whole recordings of the person joined."""

MOST_SOUNDS = 3
"""Of each person, for the trips and for the tests alike."""

COLD_PITCH = 0.96
"""A hoarse voice is lower. Here the resonances of the vocal tract move down with it, which a cold
does less: what is simulated is a change of voice, not medicine."""

Treatment = Callable[[Floats, np.random.Generator], Floats]


def cold(samples: Floats, _rng: np.random.Generator) -> Floats:
    """A voice with a cold: lower, dull above 2.5 kHz, and with a blocked nose's notch at 900 Hz."""
    slow = soxr.resample(samples, SAMPLE_RATE_HZ * COLD_PITCH, SAMPLE_RATE_HZ)
    hertz = np.fft.rfftfreq(len(slow), 1 / SAMPLE_RATE_HZ)
    notch = 1 - 0.7 * np.exp(-0.5 * ((hertz - 900.0) / 150.0) ** 2)
    gain = notch / np.sqrt(1 + (hertz / 2500.0) ** 2)
    shaped = np.fft.irfft(np.fft.rfft(slow) * gain, len(slow)).astype(np.float32)
    return level_speech(shaped, active_level_db(samples))


CONDITIONS: Mapping[str, Treatment] = {
    "clean": TESTS["clean"],
    "car 5 dB": TESTS["car 5 dB"],
    "cold, car 10 dB": lambda samples, rng: TESTS["car 10 dB"](cold(samples, rng), rng),
    "cabin, car 5 dB": TESTS["cabin, car 5 dB"],
}


@dataclass(frozen=True, slots=True)
class Utterance:
    """One voice of an utterance as heard: what is judged for itself.

    Attributes:
        voices: the mean embedding so far at each look, unit length, (K, D).
        speech_s: seconds of speech so far at each look, (K,).
        sounds: how good its sound so far is, at each look, (K,).
        snr_db: at the last look; None while no noise was heard.
    """

    voices: Floats
    speech_s: tuple[float, ...]
    sounds: tuple[Sound, ...]
    snr_db: float | None


@dataclass(slots=True)
class Speaker:
    """A person as heard.

    Attributes:
        person: who it is.
        profile: enrolled from clean recordings.
        trips: what is said in trips, by condition: the same sounds in the same order everywhere.
        tests: what is never said in a trip, by condition.
    """

    person: Person
    profile: Profile
    trips: dict[str, list[Utterance]] = field(default_factory=dict)
    tests: dict[str, list[Utterance]] = field(default_factory=dict)


def speakers(people: Iterable[Person], models: Path, enrol_s: float = ENROL_S) -> Iterator[Speaker]:
    """All speakers whose enrolment is accepted and who have test speech left, in order.

    `enrol_s` is the speech of an enrolment, at least, by level; whole recordings make it.
    """
    ear = Ear(models)
    for person in people:
        enrolment, trips, tests = divided(person, enrol_s)
        if not trips or not tests:
            continue
        try:
            profile = ear.enrol(converted(padded(enrolment, generator(person.name))))
        except EnrolmentError:
            continue
        speaker = Speaker(person, profile)
        for condition in CONDITIONS:
            speaker.trips[condition] = list(_heard(ear, trips, condition, person.name, "trip"))
            speaker.tests[condition] = list(_heard(ear, tests, condition, person.name, "test"))
        yield speaker


def divided(person: Person, enrol_s: float) -> tuple[Floats, list[Floats], list[Floats]]:
    """A person's enrolment, sounds for the trips and for the tests; no recording is in two."""
    rng = generator("months", person.name)
    enrolment: list[Floats] = []
    sounds: list[Floats] = []
    waiting: list[Floats] = []
    enrolled_s = 0.0
    for index in rng.permutation(len(person.files)):
        sound = read_sound(person.files[index])
        if enrolled_s < enrol_s:
            enrolment.append(sound)
            enrolled_s += speech_s(sound)
            continue
        waiting.append(trimmed(sound))
        if sum(map(len, waiting)) >= SOUND_BLOCKS[0] * BLOCK_SAMPLES:
            sounds.append(np.concatenate(waiting)[: SOUND_BLOCKS[1] * BLOCK_SAMPLES])
            waiting = []
        if len(sounds) >= 2 * MOST_SOUNDS:
            break
    joined = np.concatenate(enrolment) if enrolment else np.zeros(0, np.float32)
    return joined, sounds[0::2], sounds[1::2]


def _heard(ear: Ear, sounds: Sequence[Floats], condition: str, *names: str) -> Iterator[Utterance]:
    """Each sound under the condition; of several voices that are heard in it the longest."""
    for number, sound in enumerate(sounds):
        rng = generator(condition, *names, number)
        looks = ear.looks(converted(CONDITIONS[condition](padded(sound, rng), rng)))
        if looks:
            yield max(_parts(ear, looks), key=lambda part: part.speech_s[-1])


def _parts(ear: Ear, looks: Sequence[tuple[int, Segment]]) -> Iterator[Utterance]:
    """The voices of a sound, told apart as the recognizer does."""
    embedded = [ear.encoder.embed(look.samples) for _, look in looks]
    heard = summed(looks, embedded, ear.calibration)
    for part in range(heard.part[-1] + 1):
        own = np.flatnonzero(heard.part == part).tolist()
        quality, sounds = Quality(), []
        for k in own:
            quality.add(looks[k][1].samples)
            sounds.append(quality.sound())
        seconds = tuple(heard.speech_s[own].tolist())
        yield Utterance(heard.voices[own], seconds, tuple(sounds), looks[own[-1]][1].snr_db)
