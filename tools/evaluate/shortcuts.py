"""Does it know the voice, or the microphone, the sentence, the language, the loudness, the noise?

For each nuisance there are two kinds of trials. In the plain ones everybody shares it with the
enrolment. In the hard ones the driver differs in it and the stranger shares it: whoever goes by
the nuisance accepts the stranger. The factor is the ratio of the errors; near 1 the nuisance says
nothing.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tools.evaluate.trials import SEED, Scores, View, pair_det, pairs, scores
from tools.lab.conditions import enrolled, tested
from tools.lab.corpus import TEST_BLOCKS, Person, read_sound, speech_s, trimmed
from tools.lab.front_end import Ear, Subject
from tools.lab.metrics import Doubles, eer, interval, resampled
from whodrives.audio.blocks import BLOCK_SAMPLES, Floats
from whodrives.errors import EnrolmentError
from whodrives.voice.scoring import centroid
from whodrives.voice.types import Calibration

SECONDS = 2
ENROLLING_OF_SIX = 4


@dataclass(frozen=True, slots=True)
class Nuisance:
    """Something that is not the voice: enrolled under one condition, tested under two."""

    name: str
    enrolment: str
    shared: str
    differing: str


NUISANCES = (
    Nuisance("microphone", "clean", "clean", "cheap microphone"),
    Nuisance("microphone, the other way", "cheap microphone", "cheap microphone", "clean"),
    Nuisance("codec", "clean", "clean", "Opus 12 kbit/s"),
    Nuisance("telephone", "clean", "clean", "telephone band"),
    Nuisance("loudness", "clean", "clean", "level -35 dBFS"),
    Nuisance("overdrive", "clean", "clean", "clipping"),
    Nuisance("room", "clean", "clean", "cabin"),
    Nuisance("noise", "clean", "clean", "car 5 dB"),
    Nuisance("noise, the other way", "car 15 dB", "car 10 dB", "clean"),
)


def by_condition(view: View, calibration: Calibration) -> list[dict[str, Any]]:
    """Every nuisance that a condition makes, among the people of a view."""
    found = []
    for nuisance in NUISANCES:
        shared = scores(view, nuisance.shared, nuisance.enrolment, calibration)
        differing = scores(view, nuisance.differing, nuisance.enrolment, calibration)
        figures = compared((shared, shared), (differing, shared), (differing, differing))
        found.append({"view": view.name, "nuisance": nuisance.name} | figures)
    return found


def compared(
    plain: tuple[Scores, Scores],
    hard: tuple[Scores, Scores],
    nobody: tuple[Scores, Scores] | None = None,
) -> dict[str, Any]:
    """EER of plain and of hard trials, each (the drivers' scores, the strangers'); their ratio.

    `nobody` are trials in which nobody shares the nuisance with the enrolment: how hard it is in
    itself. The factor counts at least one error among the drivers' trials on each side, because
    less cannot be told from none.
    """
    easy, difficult = pairs(*plain, SECONDS), pairs(*hard, SECONDS)
    if easy is None or difficult is None:
        return {"trials": 0}
    floor = 1 / len(difficult[1])

    def factor(row: Doubles) -> float:
        errors = [max(eer(pair_det(*trials, row)), floor) for trials in (difficult, easy)]
        return errors[0] / errors[1]

    people = plain[0].people
    result = {
        "trials": len(difficult[1]),
        "people": len(set(difficult[1].tolist())),
        "eer_plain": eer(easy[0].det()),
        "eer_hard": eer(difficult[0].det()),
        "factor": factor(np.ones(people)),
        "factor_interval": interval(factor, resampled(people, SEED)),
    }
    neither = pairs(*nobody, SECONDS) if nobody else None
    return result | ({"eer_nobody_shares": eer(neither[0].det())} if neither else {})


# --- sentence and language: what was said ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Saying:
    """A recording of which it is known what was said, and in which language."""

    voice: str
    text: str
    language: str
    path: Path


def sayings(voices: Path) -> list[Saying]:
    """Recordings that a manifest.json of voices describes."""
    entries: Sequence[Mapping[str, Any]] = json.loads((voices / "manifest.json").read_text())
    return [Saying(e["voice"], e["text"], e["language"], voices / e["path"]) for e in entries]


EMODB_NAME = re.compile(r"(?P<speaker>\d\d)(?P<text>[ab]\d\d)[A-Z][a-z]?")
"""Burkhardt et al., "A Database of German Emotional Speech", 2005: the name says the sentence."""


def emodb_sayings(people: Sequence[Person]) -> list[Saying]:
    """Recordings of a catalogue's EmoDB: ten actors, the same ten sentences."""
    found = []
    for person in people:
        for path in person.files if person.corpus == "emodb" else ():
            named = EMODB_NAME.fullmatch(path.stem)
            if named:
                found.append(Saying(person.name, named["text"], "de", path))
    return found


def by_sentence(said: Sequence[Saying], own: Ear, calibration: Calibration) -> dict[str, Any]:
    """The stranger says the driver's enrolment sentences, the driver says others.

    Four of every six sentences are for enrolling, the others for testing. Only strangers who say
    at least half of what the driver enrolled with are compared.
    """
    places = {text: place for place, text in enumerate(dict.fromkeys(s.text for s in said))}
    subjects, texts = [], []
    for voice, mine in _by_voice(said).items():
        first = [s for s in mine if places[s.text] % 6 < ENROLLING_OF_SIX]
        others = [s.path for s in mine if places[s.text] % 6 >= ENROLLING_OF_SIX]
        same = [s.path for s in first]
        subjects.append(_subject(voice, own, same, {"same": same, "other": others}))
        texts.append({s.text for s in first})
    view = View("sentence", tuple(subjects))
    same_said, other_said = (
        _among(scores(view, name, "sentences", calibration), texts) for name in ("same", "other")
    )
    return compared((other_said, other_said), (other_said, same_said))


def _among(scored: Scores, texts: Sequence[set[str]]) -> Scores:
    """Leave only the trials of people who say the same sentences."""
    alike = np.array([[2 * len(a & b) >= len(b) for b in texts] for a in texts])
    among = alike[scored.speaker][:, scored.voice]
    return replace(scored, seconds=np.where(among[:, None], scored.seconds, np.nan))


def by_language(said: Sequence[Saying], own: Ear, calibration: Calibration) -> dict[str, Any]:
    """The driver enrolled in English speaks Hindi, the stranger speaks English."""
    subjects = []
    for voice, mine in _by_voice(said).items():
        english = [s.path for s in mine if s.language == "en"]
        hindi = [s.path for s in mine if s.language == "hi"]
        enrolling, testing = english[:4], english[4:]
        if hindi:
            subjects.append(_subject(voice, own, enrolling, {"en": testing, "hi": hindi}))
        elif testing:
            subjects.append(_subject(voice, own, [], {"en": testing, "hi": []}))
    view = View("language", tuple(subjects))
    english_said, hindi_said = (
        scores(view, name, "sentences", calibration) for name in ("en", "hi")
    )
    return compared(
        (english_said, english_said), (hindi_said, english_said), (hindi_said, hindi_said)
    )


def _by_voice(said: Sequence[Saying]) -> dict[str, list[Saying]]:
    voices: dict[str, list[Saying]] = defaultdict(list)
    for saying in said:
        voices[saying.voice].append(saying)
    return voices


def _subject(
    voice: str, own: Ear, enrolling: Sequence[Path], testing: Mapping[str, Sequence[Path]]
) -> Subject:
    """One voice: enrolled from these recordings, tested on sounds of up to 6 s of those."""
    subject = Subject(Person("sayings", voice, None, ()))
    enrolment = [read_sound(path) for path in enrolling]
    if enrolment:
        sound = enrolled(np.concatenate(enrolment), "clean", voice)
        with contextlib.suppress(EnrolmentError):
            subject.centres["sentences"] = centroid(own.enrol(sound))
    for name, paths in testing.items():
        subject.sounds[name] = [
            own.hear(tested(sound, "clean", voice, name, number))
            for number, sound in enumerate(_sounds(paths))
        ]
    return subject


def _sounds(paths: Sequence[Path]) -> list[Floats]:
    """Join recordings to sounds that hold SECONDS of speech, and a little more for the gate."""
    sounds: list[Floats] = []
    waiting: list[Floats] = []
    for path in paths:
        waiting.append(trimmed(read_sound(path)))
        if sum(map(speech_s, waiting)) >= SECONDS + 0.3:
            sounds.append(np.concatenate(waiting)[: TEST_BLOCKS[1] * BLOCK_SAMPLES])
            waiting = []
    return sounds
