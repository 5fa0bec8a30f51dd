"""Measure the encoders' thresholds on a corpus and write them into a manifest.

    python tools/calibrate.py CORPUS --date DATE   # roles train and noise; writes the manifest
    python tools/calibrate.py CORPUS --encoders 1 --date DATE           # of the first one alone
    python tools/calibrate.py CORPUS --check       # roles eval and noise; writes nothing

CORPUS holds a `manifest.tsv` with the columns role, corpus, group, path (relative to it). Everybody
is enrolled through the daemon's own enrolment, from clean speech and over a cheap microphone; then
other recordings go through gate, looks and running mean, clean, in noise and over that microphone,
as they do live. What comes out, per duration of speech:

- the mean voice, which every embedding is compared relative to;
- what a voice scores with other people's profiles, and how alike one person's seconds are: what is
  less alike than SAME_PERSON of them is somebody else;
- slope and offset, from a cosine's excess over what the rest of the household scores to a
  log-likelihood ratio: logistic regression, corpora weighted equally;
- the threshold of each operating point, for households of 1, 2, 3 and 5 from the stranger's own
  corpus, so that a stranger speaks the household's language into the household's kind of
  microphone. All looks of an utterance share one budget of false accepts, each with the same share
  of strangers above its threshold (Pocock, "Group sequential methods in the design and analysis of
  clinical trials", 1977). The mean over the corpora keeps the budget, and no corpus spends more
  than WORST_SHARE of it: nobody knows which of them the next car is like;
- the distance two enrolled drivers must have to be told apart: what keeps look-alikes from being
  confused in CONFUSED of the runs, and at least odds of 19 to 1.

The realised rates per corpus and condition are printed, and kept in the manifest too; also those
of each corpus with everything measured on the other corpora only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any

# Two processes share two cores; threads that wait for each other would only slow them down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import soundfile

from tools.lab import conditions
from tools.lab.corpus import rows
from tools.lab.front_end import blocks, pieces
from tools.lab.scene import mix
from whodrives.audio.blocks import BLOCK_S, BLOCK_SAMPLES, SAMPLE_RATE_HZ
from whodrives.enrolment.recording import Enrolment
from whodrives.errors import EnrolmentError
from whodrives.models.calibration import load_calibration
from whodrives.models.encoder import FIRST, SECOND, load_encoder
from whodrives.models.vad import load_vad
from whodrives.voice.decision import passes
from whodrives.voice.scoring import (
    RunningModel,
    cohort_mean,
    mean_subtracted,
    pooled,
    subtract_mean,
    unit,
)
from whodrives.voice.segments import Segmenter, SegmenterSettings
from whodrives.voice.types import Calibration, CalibrationPoint, Segment

HOUSEHOLDS = (1, 2, 3, 5)
SHOWN_HOUSEHOLD = 3
LOOKS = 6
ENROL_S = 14.0
WHOLE_LOOK_S = 0.9
STEADY_FRAMES = 48
NEWTON_STEPS = 50
BISECTIONS = 20
UTTERANCES = 3
UTTERANCE_S = 6.5
STRANGER_DRAWS, GENUINE_DRAWS = 20, 5
WORST_SHARE = 2.0
BUDGETS = {"1/100": 0.01, "1/1000": 0.001}
LEAST_PEOPLE = 6
LEAST_CORPORA, LEAST_SAID = 3, 30
CONFUSED = 0.002
LEAST_ODDS_LLR = 2.94
LEAST_LLR = 0.5
"""Whoever is accepted is likelier the driver than not, however few strangers speak that long."""

SAME_PERSON = 0.01
ALIKE_COSINE = 0.5
RECORDED, RECORDED_DB = "recorded 10 dB", 10.0
CONDITIONS = (
    ("clean", "clean"),
    ("clean", "car 5 dB"),
    ("clean", RECORDED),
    ("cheap microphone", "cheap microphone"),
)
"""Enrolled under, tested under; see tools/evaluate/conditions.py."""

SEED = 20261123


@dataclass
class Heard:
    """What was heard of one person.

    Attributes:
        corpus: where the person is from.
        group: who it is.
        centres: the profile's centroid (D,) by enrolment condition; a refused one is absent.
        said: test condition, segments' embeddings (n, D) and their seconds of speech (n,), n <= 6.
    """

    corpus: str
    group: str
    centres: dict[str, np.ndarray] = field(default_factory=dict)
    said: list[tuple[str, np.ndarray, np.ndarray]] = field(default_factory=list)


@dataclass(frozen=True)
class Utterance:
    """One voice's mean embedding (K, D) at each look, and the number of looks K <= 6."""

    corpus: str
    group: str
    condition: str
    voices: np.ndarray


# --- sound to embeddings --------------------------------------------------------------------------


class Ear:
    """Gate, enrolment and encoder of the models folder, as the daemon uses them."""

    def __init__(self, models: Path, encoders: int) -> None:
        self.encoder = load_encoder(models, encoders, pinned=False)
        self._activity = load_vad(models, pinned=False)

    def utterance(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Embeddings (n, D) and speech seconds (n,) of the first whole looks, pauses or not."""
        heard = pieces(self._activity, Segmenter(SegmenterSettings(utterance_s=60)), samples)
        looks = [p for p in heard if isinstance(p, Segment) and p.new_s >= WHOLE_LOOK_S][:LOOKS]
        if not looks:
            return None
        embedded = np.stack([self.encoder.embed(look.samples) for look in looks])
        return embedded, np.array([look.new_s for look in looks])

    def centre(self, samples: np.ndarray) -> np.ndarray | None:
        """Centroid (D,) of a profile; None when the recording is refused."""
        self._activity.reset()
        enrolment = Enrolment(self._activity, self.encoder)
        for block in blocks(samples):
            enrolment.step(block)
        try:
            done = enrolment.finish(len(samples) / BLOCK_SAMPLES * BLOCK_S)
        except EnrolmentError:
            return None
        return unit(done.embeddings.mean(axis=0))


@cache
def ear(models: Path, encoders: int) -> Ear:
    """This process's ear: loading the models takes longer than hearing a sound."""
    return Ear(models, encoders)


def files(corpus: Path, role: str) -> dict[tuple[str, str], list[Path]]:
    """Files of each (corpus, group) with this role, in a fixed shuffled order."""
    found: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for row in rows(corpus, role):
        found[row["corpus"], row["group"]].append(corpus / row["path"])
    rng = np.random.default_rng(SEED)
    return {key: [paths[i] for i in rng.permutation(len(paths))] for key, paths in found.items()}


def spoken(paths: list[Path], least_s: float) -> np.ndarray:
    """The sound of files from the list's front, which is consumed, until there are `least_s`."""
    parts: list[np.ndarray] = []
    while paths and sum(part.size for part in parts) < least_s * SAMPLE_RATE_HZ:
        parts.append(soundfile.read(paths.pop(0), dtype="float32")[0])
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


@cache
def recorded(corpus: Path) -> list[np.ndarray]:
    """The corpus's noise files that last five seconds or more, 12 s of each at most."""
    sounds = [
        soundfile.read(path, dtype="float32")[0][: 12 * SAMPLE_RATE_HZ]
        for paths in files(corpus, "noise").values()
        for path in paths[:20]
    ]
    return [sound for sound in sounds if _steady(sound)]


def _steady(sound: np.ndarray) -> bool:
    """Whether a noise is there most of the time, and not a bark between silences."""
    frames = sound[: sound.size // 1600 * 1600].reshape(-1, 1600)
    power = np.mean(np.square(frames), axis=1)
    return len(power) >= STEADY_FRAMES and float(np.median(power)) > 0.1 * float(power.mean()) > 0


def under(clean: np.ndarray, condition: str, corpus: Path, group: str, number: int) -> np.ndarray:
    """`clean` under a condition; whose sound it is and which decide where the noise begins."""
    if condition != RECORDED:
        return conditions.tested(clean, condition, group, number)
    rng = conditions.generator(condition, group, number)
    around = recorded(corpus)
    noise = around[int(rng.integers(len(around)))]
    padded = conditions.padded(clean, rng)
    mixed = mix(padded, np.resize(noise, padded.size), RECORDED_DB)
    return np.asarray(np.clip(mixed, -1, 1))


def hear(
    corpus: Path, models: Path, encoders: int, who: tuple[str, str], paths: list[Path]
) -> Heard:
    """Enrol one person and embed the person's utterances, under all conditions."""
    own = ear(models, encoders)
    heard = Heard(*who)
    said = spoken(paths, ENROL_S)
    for enrolment in dict.fromkeys(enrolment for enrolment, _ in CONDITIONS):
        centre = (
            own.centre(conditions.enrolled(said, enrolment, heard.group)) if said.size else None
        )
        if centre is not None:
            heard.centres[enrolment] = centre
    for number in range(UTTERANCES if heard.centres else 0):
        clean = spoken(paths, UTTERANCE_S)[: round((UTTERANCE_S + 1) * SAMPLE_RATE_HZ)]
        for _, condition in CONDITIONS if clean.size > SAMPLE_RATE_HZ else ():
            looks = own.utterance(under(clean, condition, corpus, heard.group, number))
            if looks:
                heard.said.append((condition, *looks))
    return heard


def gather(corpus: Path, role: str, models: Path, encoders: int, processes: int) -> list[Heard]:
    """Hear everybody of this role."""
    found = files(corpus, role)
    everybody = []
    with ProcessPoolExecutor(processes) as pool:
        heard = pool.map(
            hear, repeat(corpus), repeat(models), repeat(encoders), found, found.values()
        )
        for number, person in enumerate(heard, start=1):
            print(f"\r{number}/{len(found)} {person.group:40}", end="", file=sys.stderr)
            everybody.append(person)
    print(file=sys.stderr)
    return everybody


# --- scores to thresholds -------------------------------------------------------------------------


def logistic(scores: np.ndarray, same: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the log-odds of `same` given `scores`, by iterated least squares."""
    design = np.stack([scores, np.ones_like(scores)], axis=1)
    theta = np.zeros(2)
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-np.clip(design @ theta, -500, 500)))
        gradient = design.T @ (weights * (same - p))
        hessian = (design * (weights * p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        theta += step
    return float(theta[0]), float(theta[1])


def mean_voice(people: Sequence[Heard]) -> np.ndarray:
    """Mean embedding (D,) over the corpora's means, one second of speech each, all conditions."""
    by_corpus: dict[str, list[np.ndarray]] = defaultdict(list)
    for person in people:
        by_corpus[person.corpus] += [looks[0] for _, looks, _ in person.said]
    means = [np.mean(embeddings, axis=0) for embeddings in by_corpus.values()]
    return np.asarray(np.mean(means, axis=0))


def same_cosines(people: Sequence[Heard], mean: np.ndarray) -> np.ndarray:
    """For each number of looks (LOOKS,), the cosine below which the next look is another voice's.

    A share SAME_PERSON of one person's looks lies below, corpora weighted equally. More speech
    never asks for less: a longer voice is a better one.
    """
    found: list[list[tuple[str, float]]] = [[] for _ in range(LOOKS)]
    for person in people:
        for _, looks, weights in person.said:
            for k in range(1, len(looks)):
                so_far = subtract_mean(pooled(list(looks[:k]), weights[:k].tolist()), mean)
                cosine = float(subtract_mean(looks[k], mean) @ so_far)
                found[k - 1].append((person.corpus, cosine))
    found[-1] = found[-2]
    least = []
    for pairs in found:
        corpora = [corpus for corpus, _ in pairs]
        weights = np.array([1.0 / corpora.count(corpus) for corpus in corpora])
        values = -np.array([cosine for _, cosine in pairs])
        least.append(-weighted_quantile(values, weights / weights.sum(), SAME_PERSON))
    return np.maximum.accumulate(least)


def utterances(people: Sequence[Heard], known: Calibration) -> list[Utterance]:
    """Running means of every utterance, which a change of voice cuts as the recognizer does."""
    found = []
    for person in people:
        for condition, looks, weights in person.said:
            voice = RunningModel()
            means: list[np.ndarray] = []
            for embedding, new_s in zip(looks, weights, strict=True):
                if not voice.take(embedding, float(new_s), known):
                    found.append(Utterance(person.corpus, person.group, condition, np.stack(means)))
                    voice, means = RunningModel(), []
                    voice.take(embedding, float(new_s), known)
                means.append(voice.mean_subtracted(known))
            found.append(Utterance(person.corpus, person.group, condition, np.stack(means)))
    return found


@dataclass(frozen=True)
class Trials:
    """Cosines (U, K, V) of one corpus under one condition; NaN is none.

    U utterances at K looks with V voices, which have the cosines `similarity` (V, V) to each other;
    `own` (U,) is the speaker's.
    """

    corpus: str
    condition: str
    cosines: np.ndarray
    similarity: np.ndarray
    own: np.ndarray


def trials(people: Sequence[Heard], known: Calibration) -> list[Trials]:
    """Score every utterance with every voice of its own corpus; corpora of LEAST_PEOPLE or more."""
    said = utterances(people, known)
    found = []
    for corpus in sorted({person.corpus for person in people}):
        for enrolment, condition in CONDITIONS:
            mine = [p for p in people if p.corpus == corpus and enrolment in p.centres]
            index = {person.group: i for i, person in enumerate(mine)}
            here = [
                u
                for u in said
                if (u.corpus, u.condition) == (corpus, condition) and u.group in index
            ]
            if len(mine) < LEAST_PEOPLE or not here:
                continue
            centres = np.stack([mean_subtracted(p.centres[enrolment], known) for p in mine])
            cosines = np.full((len(here), LOOKS, len(mine)), np.nan)
            for i, utterance in enumerate(here):
                cosines[i, : len(utterance.voices)] = utterance.voices @ centres.T
            own = np.array([index[u.group] for u in here])
            found.append(Trials(corpus, condition, cosines, centres @ centres.T, own))
    return found


def share_of(trial: Trials, among: Sequence[Trials]) -> float:
    """Weight of a corpus under a condition: corpora weigh alike, and conditions within one."""
    corpora = {other.corpus for other in among}
    return 1.0 / len(corpora) / sum(other.corpus == trial.corpus for other in among)


def other_cosines(among: Sequence[Trials]) -> np.ndarray:
    """Mean cosine with other people's profiles at each look (LOOKS,)."""
    sums, weights = np.zeros(LOOKS), np.zeros(LOOKS)
    for trial in among:
        others = np.arange(trial.cosines.shape[2])[None] != trial.own[:, None]
        for look in range(LOOKS):
            chosen = trial.cosines[:, look][others]
            chosen = chosen[~np.isnan(chosen)]
            if chosen.size:
                sums[look] += share_of(trial, among) * chosen.mean()
                weights[look] += share_of(trial, among)
    return np.asarray(sums / weights)


def households(
    trial: Trials, rng: np.random.Generator, draws: int, size: int, *, genuine: bool, alike: bool
) -> np.ndarray:
    """Voices (U * draws, size): the speaker's own first if `genuine`, others from the corpus.

    `alike` takes the voices that are most like the speaker's instead of random ones.
    """
    rows = []
    for i, own in enumerate(trial.own):
        others = np.delete(np.arange(trial.cosines.shape[2]), own)
        nearest = others[np.argsort(-np.nan_to_num(trial.cosines[i, 0, others], nan=-1.0))]
        for _ in range(draws):
            drawn = nearest if alike else rng.permutation(others)
            rows.append([own, *drawn[: size - 1]] if genuine else drawn[:size])
    return np.asarray(rows)


@dataclass(frozen=True)
class Runs:
    """Excesses of households' cosines (N, K, H); each run's weight, corpus and condition."""

    excess: np.ndarray
    weight: np.ndarray
    corpus: np.ndarray
    condition: np.ndarray


def runs(
    among: Sequence[Trials],
    other: np.ndarray,
    draws: int,
    size: int,
    *,
    genuine: bool,
    alike: bool = False,
) -> Runs:
    """Play every utterance to `draws` households of this size; too small corpora are left out."""
    rng = np.random.default_rng(SEED)
    among = [trial for trial in among if trial.cosines.shape[2] > size]
    excess, weight, corpus, condition = [], [], [], []
    for trial in among:
        members = households(trial, rng, draws, size, genuine=genuine, alike=alike)
        rows = np.repeat(np.arange(len(trial.own)), draws)
        cosines = np.take_along_axis(trial.cosines[rows], members[:, None, :], axis=2)
        similarity = trial.similarity[members[:, :, None], members[:, None, :]][:, None]
        excess.append(cosines - cohort_mean(cosines, similarity, other[:, None], ALIKE_COSINE))
        weight.append(np.full(len(rows), share_of(trial, among) / len(rows)))
        corpus.append(np.full(len(rows), trial.corpus))
        condition.append(np.full(len(rows), trial.condition))
    return Runs(*map(np.concatenate, (excess, weight, corpus, condition)))


def llr_points(strangers: Runs, genuine: Runs) -> list[tuple[float, float]]:
    """Slope and offset for each look; same and different weigh alike, corpora too.

    A look that hardly any corpus reaches would be read from a handful of people, whom any line
    parts: it takes the line of the look before.
    """
    points: list[tuple[float, float]] = []
    for look in range(LOOKS):
        own = genuine.excess[:, look, 0]
        _, reached = np.unique(genuine.corpus[~np.isnan(own)], return_counts=True)
        if points and np.count_nonzero(reached >= LEAST_SAID * GENUINE_DRAWS) < LEAST_CORPORA:
            points.append(points[-1])
            continue
        other = strangers.excess[:, look].ravel()
        weights = (genuine.weight, np.repeat(strangers.weight, strangers.excess.shape[2]))
        kept = [~np.isnan(own), ~np.isnan(other)]
        balanced = [w[k] / w[k].sum() for w, k in zip(weights, kept, strict=True)]
        same = np.concatenate([np.ones(kept[0].sum()), np.zeros(kept[1].sum())])
        scores = np.concatenate([own[kept[0]], other[kept[1]]])
        points.append(logistic(scores, same, np.concatenate(balanced)))
    return points


def as_llr(played: Runs, points: Sequence[tuple[float, float]]) -> np.ndarray:
    """Ratios (N, K, H) of the excesses."""
    slope, offset = (np.array(column) for column in zip(*points, strict=True))
    return np.asarray(played.excess * slope[None, :, None] + offset[None, :, None])


def weighted_quantile(values: np.ndarray, weights: np.ndarray, above: float) -> float:
    """The value that a share `above` of the total weight lies above (weights need not sum to 1)."""
    order = np.argsort(-values)
    cumulated = np.cumsum(weights[order])
    index = int(np.searchsorted(cumulated, above, side="right"))
    return float(values[order][min(index, values.size - 1)])


def spend(strangers: Runs, budget: float, points: Sequence[tuple[float, float]]) -> np.ndarray:
    """Thresholds (K,), llr, that let a share `budget` of the strangers through.

    That is the mean over the corpora; of none more than WORST_SHARE times as many pass. Over a
    corpus's conditions, at any of the looks together.

    Few strangers speak up to the last looks, so chance could make a late threshold a low one; the
    excess that is asked for never falls with the duration, because strangers' only rises.
    """
    slope, offset = (np.array(column) for column in zip(*points, strict=True))
    best = np.nan_to_num(as_llr(strangers, points).max(axis=2), nan=-np.inf)
    _, part = np.unique(strangers.corpus, return_inverse=True)
    whole = np.bincount(part, strangers.weight)

    def boundary(share: float) -> np.ndarray:
        llr = [weighted_quantile(best[:, k], strangers.weight, share) for k in range(LOOKS)]
        excess = np.maximum.accumulate((np.array(llr) - offset) / slope)
        return np.asarray(np.maximum(excess * slope + offset, LEAST_LLR))

    low, high = 1e-9, budget
    for _ in range(BISECTIONS):
        middle = float(np.sqrt(low * high))
        taken = (best > boundary(middle)[None]).any(axis=1)
        rates = np.bincount(part, strangers.weight * taken) / whole
        spent = max(rates.mean(), rates.max() / WORST_SHARE)
        low, high = (low, middle) if spent > budget else (middle, high)
    return boundary(low)


def accepted(llr: np.ndarray, thresholds: np.ndarray, ambiguity: float) -> tuple[np.ndarray, ...]:
    """For each run the member that is called known, or -1, and the look at which (K if never)."""
    passed = passes(llr, thresholds[None], ambiguity)
    look = np.where(passed.any(axis=1), passed.argmax(axis=1), LOOKS)
    at = np.minimum(look, LOOKS - 1)
    member = np.nan_to_num(llr, nan=-np.inf)[np.arange(len(look)), at].argmax(axis=1)
    return np.where(look < LOOKS, member, -1), look


def ambiguity_margin(llr: np.ndarray, weight: np.ndarray, thresholds: np.ndarray) -> float:
    """The least llr distance at which look-alikes are confused in no more than CONFUSED of runs."""
    for margin in (LEAST_ODDS_LLR, *np.arange(3.25, 12.0, 0.25)):
        member, _ = accepted(llr, thresholds, float(margin))
        if weight[member > 0].sum() <= CONFUSED:
            break
    return float(margin)


@dataclass(frozen=True)
class Played:
    """Strangers' and drivers' utterances in households of one size, as ratios (N, K, H)."""

    strangers: Runs
    stranger_llr: np.ndarray
    genuine: Runs
    genuine_llr: np.ndarray


def play(
    among: Sequence[Trials], other: np.ndarray, points: Sequence[tuple[float, float]], size: int
) -> Played:
    """Play all utterances to random households of this size."""
    strangers = runs(among, other, STRANGER_DRAWS, size, genuine=False)
    genuine = runs(among, other, GENUINE_DRAWS, size, genuine=True)
    return Played(strangers, as_llr(strangers, points), genuine, as_llr(genuine, points))


def table(played: Played, thresholds: np.ndarray, ambiguity: float) -> dict[str, dict[str, float]]:
    """Realised rates, percent, per corpus and per condition and over all.

    `worst` is the highest rate of false accepts of any corpus under any condition.
    """
    strangers, genuine = played.strangers, played.genuine
    taken, _ = accepted(played.stranger_llr, thresholds, ambiguity)
    member, look = accepted(played.genuine_llr, thresholds, ambiguity)
    rows: dict[str, dict[str, float]] = {}
    keys = [*sorted(set(strangers.corpus)), *[c for _, c in CONDITIONS], "all"]
    for key in keys:
        s = (strangers.corpus == key) | (strangers.condition == key) | (key == "all")
        g = (genuine.corpus == key) | (genuine.condition == key) | (key == "all")
        if not s.any() or not g.any():
            continue
        ws, wg = strangers.weight[s], genuine.weight[g]
        parts = [
            ws[(taken[s] >= 0) & (strangers.condition[s] == c) & (strangers.corpus[s] == n)].sum()
            / ws[(strangers.condition[s] == c) & (strangers.corpus[s] == n)].sum()
            for c, n in {*zip(strangers.condition[s], strangers.corpus[s], strict=True)}
        ]
        row = {"fpir": float(ws[taken[s] >= 0].sum() / ws.sum()), "worst": float(max(parts))}
        row["misidentified"] = float(wg[member[g] > 0].sum() / wg.sum())
        for k in (0, 1, 2, LOOKS - 1):
            known = (member[g] == 0) & (look[g] <= k)
            row[f"fnir_{k + 1}s"] = float(1 - wg[known].sum() / wg.sum())
        rows[key] = {name: round(100 * value, 2) for name, value in row.items()}
    return rows


# --- the calibration ------------------------------------------------------------------------------


def fitted(people: Sequence[Heard], encoder: str) -> Calibration:
    """Everything that is measured, from these people."""
    mean = mean_voice(people).round(5).astype(np.float32)
    least = same_cosines(people, mean).round(3)
    blank = [CalibrationPoint(k + 1.0, 1.0, 0.0, 0.0, float(least[k]), {}) for k in range(LOOKS)]
    known = Calibration(encoder, mean, blank, 0.0, HOUSEHOLDS, ALIKE_COSINE)
    among = trials(people, known)
    other = other_cosines(among).round(4)
    strangers = runs(among, other, STRANGER_DRAWS, SHOWN_HOUSEHOLD, genuine=False)
    genuine = runs(among, other, GENUINE_DRAWS, SHOWN_HOUSEHOLD, genuine=True)
    points = [(round(a, 3), round(b, 3)) for a, b in llr_points(strangers, genuine)]
    accept: dict[str, list[np.ndarray]] = {}
    for name, budget in BUDGETS.items():
        accept[name] = [
            spend(runs(among, other, STRANGER_DRAWS, size, genuine=False), budget, points).round(3)
            for size in HOUSEHOLDS
        ]
    alike = runs(among, other, 1, SHOWN_HOUSEHOLD, genuine=True, alike=True)
    shown = accept["1/100"][HOUSEHOLDS.index(SHOWN_HOUSEHOLD)]
    return replace(
        known,
        ambiguity_llr=ambiguity_margin(as_llr(alike, points), alike.weight, shown),
        points=[
            CalibrationPoint(
                point.speech_s,
                *points[k],
                float(other[k]),
                point.speaker_change_cosine,
                {name: [float(t[k]) for t in rows] for name, rows in accept.items()},
            )
            for k, point in enumerate(blank)
        ],
    )


def realised(
    people: Sequence[Heard], known: Calibration, size: int = SHOWN_HOUSEHOLD
) -> dict[str, dict[str, dict[str, float]]]:
    """The rates of a calibration's thresholds on people, whoever they are."""
    among = trials(people, known)
    other = np.array([point.other_cosine for point in known.points])
    points = [(point.slope, point.offset) for point in known.points]
    played = play(among, other, points, size)
    column = list(known.households).index(size)
    return {
        name: table(
            played,
            np.array([point.accept_llr[name][column] for point in known.points]),
            known.ambiguity_llr,
        )
        for name in BUDGETS
    }


def left_out(people: Sequence[Heard], encoder: str) -> dict[str, dict[str, dict[str, float]]]:
    """Rates of each corpus with everything measured on the other corpora only."""
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in BUDGETS}
    for corpus in sorted({person.corpus for person in people}):
        mine = [person for person in people if person.corpus == corpus]
        if sum("clean" in person.centres for person in mine) < LEAST_PEOPLE:
            continue
        known = fitted([person for person in people if person.corpus != corpus], encoder)
        for name, rates in realised(mine, known).items():
            found[name][corpus] = rates["all"]
    return found


def manifest_part(
    people: Sequence[Heard], encoder: str, date: str, encoders: int
) -> dict[str, Any]:
    """Everything that goes under the manifest's key `calibration`."""
    known = fitted(people, encoder)
    corpora = sorted({person.corpus for person in people})
    mine = {c: [p for p in people if p.corpus == c and "clean" in p.centres] for c in corpora}
    used = {c: found for c, found in mine.items() if len(found) >= LEAST_PEOPLE}
    return {
        "encoder": encoder,
        "households": list(HOUSEHOLDS),
        "ambiguity_llr": known.ambiguity_llr,
        "alike_cosine": known.cohort_max_cosine,
        "mean": [round(float(value), 5) for value in known.mean],
        "points": [
            {
                "speech_s": point.speech_s,
                "slope": point.slope,
                "offset": point.offset,
                "other_cosine": point.other_cosine,
                "same_cosine": point.speaker_change_cosine,
                "accept_llr": {name: list(row) for name, row in point.accept_llr.items()},
            }
            for point in known.points
        ],
        "measured": {
            "date": date,
            "command": f"python tools/calibrate.py CORPUS --encoders {encoders}",
            "people": {c: len(found) for c, found in used.items()},
            "utterances": {c: sum(len(p.said) for p in found) for c, found in used.items()},
            "conditions": [f"{tested}, enrolled {enrolled}" for enrolled, tested in CONDITIONS],
            "realised_percent": realised(people, known),
            "left_out_percent": left_out(people, encoder),
        },
    }


def show(rates: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print realised rates as a table."""
    for name, found in rates.items():
        print(f"promise {name}; percent")
        for key, row in found.items():
            print(f"  {key:18}", "  ".join(f"{k} {v:6.2f}" for k, v in row.items()))


def main() -> int:
    """Measure, print, and write the manifest atomically; or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path, help="folder with manifest.tsv")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--encoders", type=int, choices=(1, 2), default=2, help="how many")
    parser.add_argument("--date", help="of the measurement, YYYY-MM-DD")
    parser.add_argument("--check", action="store_true", help="only check, with the role eval")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if not options.check and not options.date:
        parser.error("give --date, so that the figures have one")
    role = "eval" if options.check else "train"
    which = options.models, options.encoders
    people = gather(options.corpus, role, *which, options.processes)
    if options.check:
        show(realised(people, load_calibration(*which, pinned=False)))
        return 0
    calibration = manifest_part(
        people, ear(*which).encoder.fingerprint, options.date, options.encoders
    )
    show(calibration["measured"]["realised_percent"])
    print("each corpus by what the others gave")
    show(calibration["measured"]["left_out_percent"])
    path = options.models / f"{FIRST if options.encoders == 1 else SECOND}.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) | {"calibration": calibration}
    temporary = path.with_suffix(".json.new")
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
