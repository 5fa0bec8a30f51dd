"""Trial lists: every pair verified, all of the first recording against 1 to 5 s of the second.

There are no households in a list, so there is no identification. People, for the intervals, are
the first folders of the paths, as in VoxCeleb.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.evaluate.trials import SEED, thinned
from tools.lab.corpus import CorpusError, ListedTrial, read_sound
from tools.lab.front_end import DURATIONS, Ear
from tools.lab.metrics import Doubles, Trials, counts, eer, interval, min_dcf, resampled
from whodrives.audio.blocks import Floats
from whodrives.voice.scoring import mean_subtracted
from whodrives.voice.types import Calibration


def verified(
    asked: Sequence[ListedTrial], base: Path, own: Ear, calibration: Calibration
) -> list[dict[str, Any]]:
    """EER and minDCF after each duration of speech that the recordings have.

    Raises:
        CorpusError: no recording has a second of speech.
    """
    files = dict.fromkeys(path for t in asked for path in (t.enrolment, t.test))
    voices = {
        path: [mean_subtracted(v, calibration) for v in own.hear(read_sound(path)).seconds]
        for path in files
    }
    people = {path: _person(path, base) for path in files}
    found = []
    for seconds in DURATIONS:
        kept = [t for t in asked if voices[t.enrolment] and len(voices[t.test]) >= seconds]
        if {t.same for t in kept} == {True, False}:
            found.append({"speech_s": seconds} | _figures(kept, voices, people, seconds))
    if not found:
        raise CorpusError("the list's recordings have less than a second of speech")
    return found


def _person(path: Path, base: Path) -> str:
    parts = path.relative_to(base).parts if path.is_relative_to(base) else path.parts[-2:]
    return parts[0]


def _figures(
    kept: Sequence[ListedTrial],
    voices: Mapping[Path, Sequence[Floats]],
    people: Mapping[Path, str],
    seconds: int,
) -> dict[str, Any]:
    cosines = np.array([float(voices[t.enrolment][-1] @ voices[t.test][seconds - 1]) for t in kept])
    same = np.array([t.same for t in kept], np.bool_)
    names = sorted(set(people.values()))
    who = np.array([[names.index(people[p]) for p in (t.enrolment, t.test)] for t in kept], np.intp)
    trials = Trials(cosines[same], cosines[~same])

    def resample(drawn: Doubles) -> float:
        return eer(trials.det(counts(drawn, who[same, 0]), counts(drawn, who[~same])))

    det = trials.det()
    return {
        "targets": int(same.sum()),
        "nontargets": int((~same).sum()),
        "people": len(names),
        "eer": eer(det),
        "eer_interval": interval(resample, resampled(len(names), SEED)),
        "min_dcf": min_dcf(det),
        "det": thinned(det),
    }
