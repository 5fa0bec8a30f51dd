"""From what was heard to errors: scores, households, and the daemon's rule over many at once.

Owns the trials. Everybody of a view speaks to households of people of the same view: the stranger
speaks the household's language into the household's kind of microphone, which is the harder case.
Household members and strangers are drawn at random, the same ones under every condition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.lab.corpus import ADULT
from tools.lab.front_end import DURATIONS, Heard, Subject
from tools.lab.metrics import (
    Det,
    Doubles,
    Trials,
    counts,
    eer,
    fnir_at,
    interval,
    min_dcf,
    miss_at,
    quantile,
    resampled,
    share,
)
from whodrives.audio.blocks import Floats
from whodrives.voice.decision import LEAST_SPEECH_S, first_known, passes
from whodrives.voice.scoring import (
    accept_llr,
    cohort_mean,
    log_likelihood_ratio,
    mean_subtracted,
    other_cosine,
)
from whodrives.voice.types import Calibration, OperatingPoint

Indices = NDArray[np.intp]

HOUSEHOLDS = (2, 3, 5)
DRAWS = 20
"""Households that each test sound is played to."""

SHOWN_HOUSEHOLD = 3
SHOWN_SECONDS = 2
FPIRS = (0.01, 0.001)
PROMISES: tuple[tuple[OperatingPoint, float], ...] = (("1/100", 0.01), ("1/1000", 0.001))
FEWEST_FOR_1000 = 20
"""With fewer people a rate of one in a thousand cannot be told from nought."""

LEAST_PEOPLE = 4
SEED = 20261123


@dataclass(frozen=True, slots=True)
class View:
    """People who are judged together: a corpus, or its adults or children."""

    name: str
    subjects: tuple[Subject, ...]


def views(subjects: Sequence[Subject]) -> list[View]:
    """Each corpus of LEAST_PEOPLE or more, and its adults and children where ages are known."""
    found = []
    for corpus in sorted({subject.person.corpus for subject in subjects}):
        mine = [subject for subject in subjects if subject.person.corpus == corpus]
        aged = [(s, s.person.age) for s in mine if s.person.age is not None]
        found += [
            View(corpus, tuple(mine)),
            View(f"{corpus}, adults", tuple(s for s, age in aged if age >= ADULT)),
            View(f"{corpus}, children", tuple(s for s, age in aged if age < ADULT)),
        ]
    return [view for view in found if len(view.subjects) >= LEAST_PEOPLE and _is_usable(view)]


def _is_usable(view: View) -> bool:
    """Whether in each condition at least two people are enrolled and somebody is tested."""
    subjects = view.subjects
    names = {name for subject in subjects for name in (*subject.centres, *subject.refusals)}
    enrolled = [sum(name in subject.centres for subject in subjects) for name in names]
    return min(enrolled, default=0) > 1 and any(any(s.sounds.values()) for s in subjects)


def corpora(seen: Sequence[View]) -> list[View]:
    """Return the views that are whole corpora."""
    return [view for view in seen if view.name == view.subjects[0].person.corpus]


@dataclass(frozen=True, slots=True)
class Scores:
    """Cosines of a view's sounds with its voices, under one condition and one enrolment.

    Attributes:
        people: number of people; `speaker` and `voice` count them from 0.
        speaker: who speaks in each sound: (U,).
        voice: whose profile each column is: (V,).
        similarity: cosines of the profiles with each other: (V, V).
        calibration: what makes a household's scores of cosines; None: they are cosines.
        seconds: after 1 to 5 s of speech: (U, 5, V), NaN where there was less, or where the sound
            is refused as a telephone's.
        refused: number of sounds that are refused as a telephone's after 1 to 5 s: (5,).
        looks: at each look: (L, V); a sound without a look has one of NaN.
        look_sound: the sound of each look: (L,), ascending.
        look_utterance: the gate's utterance of each look, over all sounds: (L,), ascending.
        look_part: the voice in it, over all sounds; what is judged for itself: (L,), ascending.
        look_telephone: whether the sound is refused as a telephone's: (L,).
        look_speech_s: seconds of speech of that voice so far: (L,).
        look_total_s: seconds of speech in its sound so far: (L,).
    """

    people: int
    speaker: Indices
    voice: Indices
    similarity: Doubles
    calibration: Calibration | None
    seconds: Doubles
    refused: Indices
    looks: Doubles
    look_sound: Indices
    look_utterance: Indices
    look_part: Indices
    look_telephone: NDArray[np.bool_]
    look_speech_s: Doubles
    look_total_s: Doubles


def scores(view: View, condition: str, enrolment: str, calibration: Calibration | None) -> Scores:
    """Compare every sound of the view with every voice enrolled in it.

    Raises:
        ValueError: nobody is enrolled, or nobody speaks.
    """
    subjects = view.subjects
    voice = np.array([i for i, s in enumerate(subjects) if enrolment in s.centres], np.intp)
    centres = [_relative(subjects[i].centres[enrolment], calibration) for i in voice]
    bank = np.array(centres, np.float64).reshape(len(voice), -1)
    said = [(i, heard) for i, s in enumerate(subjects) for heard in s.sounds[condition]]
    if not len(voice) or not said:
        raise ValueError(f"{view.name}, {condition}, {enrolment}: nobody to compare")
    seconds = np.full((len(said), DURATIONS[-1], len(voice)), np.nan)
    refused = np.zeros(DURATIONS[-1], np.intp)
    for row, (_, heard) in enumerate(said):
        for second, vector in enumerate(heard.seconds):
            if heard.seconds_telephone[second]:
                refused[second] += 1
            else:
                seconds[row, second] = bank @ _relative(vector, calibration)
    rows = [row for number, (_, heard) in enumerate(said) for row in _look_rows(number, heard)]
    nothing = np.full(len(voice), np.nan)
    looks = [
        nothing if row.voice is None else bank @ _relative(row.voice, calibration) for row in rows
    ]
    return Scores(
        people=len(subjects),
        speaker=np.array([i for i, _ in said], np.intp),
        voice=voice,
        similarity=bank @ bank.T,
        calibration=calibration,
        seconds=seconds,
        refused=refused,
        looks=np.stack(looks),
        look_sound=np.array([row.sound for row in rows], np.intp),
        look_utterance=_numbered([(row.sound, row.utterance) for row in rows]),
        look_part=_numbered([(row.sound, row.part) for row in rows]),
        look_telephone=np.array([row.telephone for row in rows], np.bool_),
        look_speech_s=np.array([row.speech_s for row in rows]),
        look_total_s=np.array([row.total_s for row in rows]),
    )


def _numbered(keys: Sequence[tuple[int, int]]) -> Indices:
    """The runs of equal keys, counted from 0."""
    return np.cumsum([0, *(a != b for a, b in pairwise(keys))]).astype(np.intp)


def _relative(vector: Floats, calibration: Calibration | None) -> Floats:
    return vector if calibration is None else mean_subtracted(vector, calibration)


@dataclass(frozen=True, slots=True)
class _Row:
    """One look: where it belongs, seconds of speech of its voice and its sound so far."""

    sound: int
    utterance: int = 0
    part: int = 0
    telephone: bool = False
    speech_s: float = 0.0
    total_s: float = 0.0
    voice: Floats | None = None


def _look_rows(number: int, heard: Heard) -> list[_Row]:
    """The looks of a sound; one without a voice if it has none."""
    rows: list[_Row] = []
    before_s = 0.0
    for k, part in enumerate(heard.part):
        if k and part != heard.part[k - 1]:
            before_s += float(heard.speech_s[k - 1])
        speech_s = float(heard.speech_s[k])
        rows.append(
            _Row(
                number,
                int(heard.utterance[k]),
                int(part),
                bool(heard.telephone[k]),
                speech_s,
                before_s + speech_s,
                heard.voices[k],
            )
        )
    return rows or [_Row(number)]


# --- households -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Visits:
    """Households that hear each sound: columns of `Scores`, shape (U, DRAWS, size).

    `genuine` has the speaker first; `genuine_sounds` says which sounds have one: the speaker may
    not have been enrolled.
    """

    genuine: Indices
    strangers: Indices
    genuine_sounds: NDArray[np.bool_]


def visits(scored: Scores, size: int) -> Visits | None:
    """Draw the households; None when there are too few people for this size."""
    if len(scored.voice) <= size:
        return None
    rng = np.random.default_rng(SEED)
    own = scored.speaker[:, None] == scored.voice[None]
    order = rng.random((len(scored.speaker), DRAWS, len(scored.voice)))
    strangers = np.argsort(np.where(own[:, None], 2.0, order), axis=2)[:, :, :size]
    genuine = np.argsort(np.where(own[:, None], -1.0, order), axis=2)[:, :, :size]
    return Visits(genuine, strangers, own.any(axis=1))


def _trial_counts(drawn: Doubles, scored: Scores, members: Indices, sounds: Indices) -> Doubles:
    """How often each (sound, household) counts in a resample; a genuine speaker counts once."""
    speaker = np.repeat(scored.speaker[sounds], members.shape[1])
    people = scored.voice[members[sounds].reshape(len(speaker), -1)]
    others = np.where(people == speaker[:, None], 1.0, drawn[people])
    repeated: Doubles = drawn[speaker] * others.prod(axis=1)
    return repeated


# --- embedding against embedding ------------------------------------------------------------------


def verification(scored: Scores, seconds: int, drawn: Doubles | None) -> dict[str, Any] | None:
    """EER, minDCF and their trade-off after so many seconds; None without such trials."""
    found = pairs(scored, scored, seconds)
    if found is None:
        return None
    trials, own, others = found
    det = trials.det()
    result: dict[str, Any] = {
        "targets": len(own),
        "nontargets": len(others),
        "eer": eer(det),
        "min_dcf": min_dcf(det),
        "miss_at_1_percent": miss_at(det, 0.01),
    }
    if drawn is not None:
        result["eer_interval"] = interval(
            lambda row: eer(pair_det(trials, own, others, row)), drawn
        )
    if drawn is not None and seconds == SHOWN_SECONDS:
        result["det"] = thinned(det)
    return result


def pairs(target: Scores, other: Scores, seconds: int) -> tuple[Trials, Indices, Indices] | None:
    """Trials of own voices from `target` and of others' from `other`, and the people in them.

    Returns:
        The trials; the person (n,) of each target; speaker and voice (m, 2) of each other.
    """
    cosines = target.seconds[:, seconds - 1]
    own = (target.speaker[:, None] == target.voice[None]) & ~np.isnan(cosines)
    others = other.seconds[:, seconds - 1]
    different = (other.speaker[:, None] != other.voice[None]) & ~np.isnan(others)
    if not own.any() or not different.any():
        return None
    row, column = np.nonzero(different)
    people = np.stack([other.speaker[row], other.voice[column]], axis=1)
    return Trials(cosines[own], others[different]), target.speaker[np.nonzero(own)[0]], people


def pair_det(trials: Trials, target: Indices, other: Indices, drawn: Doubles) -> Det:
    """Return the trade-off of one resample of the people."""
    return trials.det(counts(drawn, target), counts(drawn, other))


def thinned(det: Det) -> dict[str, list[float]]:
    """Return up to fifty points, evenly over the logarithm of the false accepts."""
    wanted = np.geomspace(1e-4, 0.5, 50)
    places = sorted({int(np.argmax(det.false_accept <= rate)) for rate in wanted})
    return {
        "false_accept": det.false_accept[places].round(6).tolist(),
        "miss": det.miss[places].round(6).tolist(),
    }


def identification(
    scored: Scores, played: Visits, seconds: int, drawn: Doubles | None
) -> dict[str, Any] | None:
    """FNIR at each FPIR, the threshold set on these very trials; None without such trials."""
    cosines = scored.seconds[:, seconds - 1]
    heard = ~np.isnan(cosines).all(axis=1)
    strangers, enrolled = np.flatnonzero(heard), np.flatnonzero(heard & played.genuine_sounds)
    if not len(strangers) or not len(enrolled):
        return None
    best = _members(scored, cosines, played.strangers, strangers, seconds).max(axis=1)
    right = _members(scored, cosines, played.genuine, enrolled, seconds)
    genuine = np.where(right[:, 0] >= right[:, 1:].max(axis=1), right[:, 0], -np.inf)
    result: dict[str, Any] = {
        "strangers": len(strangers),
        "genuine": len(enrolled),
        "refused": int(scored.refused[seconds - 1]),
    }
    for fpir in FPIRS:
        if fpir >= FPIRS[0] or scored.people >= FEWEST_FOR_1000:
            result[f"fnir_at_{fpir:g}"] = fnir_at(genuine, best, fpir)

    def resample(row: Doubles) -> float:
        weights = (
            _trial_counts(row, scored, played.genuine, enrolled),
            _trial_counts(row, scored, played.strangers, strangers),
        )
        return fnir_at(genuine, best, FPIRS[0], *weights)

    if drawn is not None:
        result[f"fnir_at_{FPIRS[0]:g}_interval"] = interval(resample, drawn)
    return result


def _members(
    scored: Scores, cosines: Doubles, members: Indices, sounds: Indices, seconds: int
) -> Doubles:
    """Scores of the chosen sounds with their households' members: (sounds * DRAWS, size)."""
    chosen = np.take_along_axis(cosines[sounds][:, None], members[sounds], axis=2)
    speech_s = np.full(len(sounds), float(seconds))
    return excess(scored, chosen, members[sounds], speech_s).reshape(-1, members.shape[2])


def excess(scored: Scores, cosines: Doubles, members: Indices, speech_s: Doubles) -> Doubles:
    """Cosines (R, DRAWS, size) over what is usual in their households; cosines without calibration.

    `scoring.cohort_mean` over many households at once.
    """
    known = scored.calibration
    if known is None:
        return cosines
    similarity = scored.similarity[members[..., :, None], members[..., None, :]]
    other = other_cosine(speech_s[:, None, None], known)
    over: Doubles = cosines - cohort_mean(cosines, similarity, other, known.cohort_max_cosine)
    return over


# --- through the whole daemon ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decisions:
    """The daemon's decision for each voice (G,) in each of the DRAWS households.

    Attributes:
        sound: the sound of each voice: (G,).
        judged: whether there was enough speech for a verdict: (G,).
        telephone: whether it is refused as a telephone's in the end: (G,).
        member: the household's member that is called known, or -1: (G, DRAWS).
        total_s: seconds of speech in the sound until then; inf for never: (G, DRAWS).
    """

    sound: Indices
    judged: NDArray[np.bool_]
    telephone: NDArray[np.bool_]
    member: NDArray[np.int64]
    total_s: Doubles


def decide(
    scored: Scores, members: Indices, calibration: Calibration, promise: OperatingPoint
) -> Decisions:
    """Apply the daemon's rule to every segment of every utterance in every household."""
    size = members.shape[2]
    households = members[scored.look_sound]
    cosines = np.take_along_axis(scored.looks[:, None], households, axis=2)
    over = excess(scored, cosines, households, scored.look_speech_s)
    llr = log_likelihood_ratio(over, scored.look_speech_s[:, None, None], calibration)
    threshold = accept_llr(scored.look_speech_s, size, calibration, promise)
    passed = passes(llr, threshold[:, None], calibration.ambiguity_llr)
    enough = scored.look_speech_s >= LEAST_SPEECH_S
    passed &= (enough & ~scored.look_telephone)[:, None]
    starts = np.flatnonzero(np.diff(scored.look_part, prepend=-1))
    ends = np.append(starts[1:], len(scored.looks)) - 1
    first = first_known(passed, scored.look_part, scored.look_utterance)
    best = np.append(np.nan_to_num(llr, nan=-np.inf).argmax(axis=2), np.full((1, DRAWS), -1), 0)
    total_s = np.append(scored.look_total_s, np.inf)
    return Decisions(
        sound=scored.look_sound[starts],
        judged=np.maximum.reduceat(enough, starts),
        telephone=scored.look_telephone[ends],
        member=np.take_along_axis(best, first, axis=0),
        total_s=total_s[first],
    )


def promised(
    scored: Scores,
    played: Visits,
    calibration: Calibration,
    promise: OperatingPoint,
    drawn: Doubles | None,
) -> dict[str, Any]:
    """Realised rates with the shipped thresholds.

    The promise is about utterances, as the gate cuts them; those too short to be judged are left
    out. FNIR is about whole sounds: 6 s in which the driver is never recognised.
    """
    strangers = decide(scored, played.strangers, calibration, promise)
    judged = np.flatnonzero(strangers.judged)
    taken = (strangers.member[judged] >= 0).ravel()
    genuine = decide(scored, played.genuine, calibration, promise)
    right_s, wrong = _by_sound(genuine)
    own = np.flatnonzero(played.genuine_sounds)
    missed = np.isinf(right_s[own]).ravel()
    result: dict[str, Any] = {
        "utterances": len(judged),
        "telephone": share(strangers.telephone[judged]),
        "sounds": len(own),
        "fpir": share(taken),
        "fnir": share(missed),
        "misidentified": share(wrong[own].ravel()),
        "speech_until_decision_s": {
            name: _finite(quantile(right_s[own].ravel(), at))
            for name, at in (("median", 0.5), ("95_percent", 0.95))
        },
    }
    if drawn is not None:
        result["fpir_interval"] = interval(
            lambda row: share(
                taken, _trial_counts(row, scored, played.strangers, strangers.sound[judged])
            ),
            drawn,
        )
        result["fnir_interval"] = interval(
            lambda row: share(missed, _trial_counts(row, scored, played.genuine, own)), drawn
        )
    return result


def _by_sound(genuine: Decisions) -> tuple[Doubles, NDArray[np.bool_]]:
    """Speech until the right driver is known, inf for never, and whether another ever was."""
    starts = np.flatnonzero(np.diff(genuine.sound, prepend=-1))
    right_s = np.where(genuine.member == 0, genuine.total_s, np.inf)
    wrong = np.logical_or.reduceat(genuine.member > 0, starts, axis=0)
    return np.minimum.reduceat(right_s, starts, axis=0), wrong


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# --- everything about one condition ---------------------------------------------------------------


def judged(view: View, condition: str, enrolment: str, calibration: Calibration) -> dict[str, Any]:
    """Every figure of a view under one test condition and one enrolment condition."""
    scored = scores(view, condition, enrolment, calibration)
    drawn = resampled(scored.people, SEED)
    daemon: dict[str, Any] = {}
    known: dict[str, Any] = {}
    for size in HOUSEHOLDS:
        played = visits(scored, size)
        if played is None:
            continue
        shown = drawn if size == SHOWN_HOUSEHOLD else None
        known[str(size)] = {
            f"{seconds} s": identification(scored, played, seconds, shown) for seconds in DURATIONS
        }
        daemon[str(size)] = {
            promise: promised(scored, played, calibration, promise, shown)
            for promise, _ in PROMISES
        }
    return {
        "view": view.name,
        "condition": condition,
        "enrolment": enrolment,
        "people": scored.people,
        "enrolled": len(scored.voice),
        "sounds": len(scored.speaker),
        "verification": {
            f"{seconds} s": verification(scored, seconds, drawn if seconds in {2, 3} else None)
            for seconds in DURATIONS
        },
        "identification": known,
        "daemon": daemon,
    }
