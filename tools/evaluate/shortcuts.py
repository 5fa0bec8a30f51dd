"""Does it know the voice, or the microphone, the sentence, the language, the loudness, the noise?

For each nuisance there are two kinds of trials. In the plain ones everybody shares it with the
enrolment. In the hard ones the driver differs in it and the stranger shares it: whoever goes by
the nuisance accepts the stranger. The factor is the ratio of the errors; near 1 the nuisance says
nothing.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from conditions import enrolled, tested
from corpora import ENROL_S, TEST_BLOCKS, Person, read_sound, speech_s, trimmed
from hearing import Ear, Subject
from metrics import Doubles, eer, interval, resampled
from trials import SEED, Scores, View, pair_det, pairs, scores

from whodrives.domain import BLOCK_SAMPLES, Calibration, EnrolmentError, Floats
from whodrives.scoring import centroid

SECONDS = 2


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
        figures = compared(shared, differing, shared, differing)
        found.append({"view": view.name, "nuisance": nuisance.name} | figures)
    return found


def compared(
    shared: Scores, differing: Scores, strangers: Scores, differing_strangers: Scores
) -> dict[str, Any]:
    """EER with everybody sharing, with only strangers sharing, with nobody; and the factor.

    The factor counts at least one error among the drivers' trials on each side: less cannot be
    told from none.
    """
    plain = pairs(shared, strangers, SECONDS)
    hard = pairs(differing, strangers, SECONDS)
    neither = pairs(differing, differing_strangers, SECONDS)
    if plain is None or hard is None or neither is None:
        return {"trials": 0}
    floor = 1 / len(plain[1])

    def factor(row: Doubles) -> float:
        return max(eer(pair_det(*hard, row)), floor) / max(eer(pair_det(*plain, row)), floor)

    everybody = np.ones(shared.people)
    return {
        "trials": len(plain[1]),
        "people": len(set(plain[1].tolist())),
        "eer_plain": eer(pair_det(*plain, everybody)),
        "eer_hard": eer(pair_det(*hard, everybody)),
        "eer_nobody_shares": eer(pair_det(*neither, everybody)),
        "factor": factor(everybody),
        "factor_interval": interval(factor, resampled(shared.people, SEED)),
    }


# --- sentence and language: what was said -----------------------------------------------------------


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
    """The stranger says the enrolment's sentences, the driver says others."""
    texts = _most_shared(said)
    cut = len(texts) * 2 // 3
    enrolling, testing = set(texts[:cut]), set(texts[cut:])
    subjects = []
    for voice, mine in _by_voice(said).items():
        first = [s.path for s in mine if s.text in enrolling]
        other = [s.path for s in mine if s.text in testing]
        if first and other:
            subjects.append(_subject(voice, own, first, {"same": first, "other": other}))
    view = View("sentence", tuple(subjects))
    other_scores = scores(view, "other", "enrolled", calibration)
    same_scores = scores(view, "same", "enrolled", calibration)
    # The driver's own trials are of other sentences in both; only the stranger's sentence changes.
    return compared(other_scores, other_scores, other_scores, other_scores) | _changed(
        other_scores, same_scores
    )


def _changed(other: Scores, same: Scores) -> dict[str, Any]:
    plain, hard = pairs(other, other, SECONDS), pairs(other, same, SECONDS)
    if plain is None or hard is None:
        return {}
    floor = 1 / len(plain[1])

    def factor(row: Doubles) -> float:
        return max(eer(pair_det(*hard, row)), floor) / max(eer(pair_det(*plain, row)), floor)

    everybody = np.ones(other.people)
    return {
        "eer_hard": eer(pair_det(*hard, everybody)),
        "factor": factor(everybody),
        "factor_interval": interval(factor, resampled(other.people, SEED)),
    }
