"""Measure the encoder's thresholds on a corpus and write them into its manifest.

    python tools/calibrate.py CORPUS --date DATE   # roles train and noise; writes the manifest
    python tools/calibrate.py CORPUS --check       # roles eval and noise; writes nothing

CORPUS holds a `manifest.tsv` with the columns role, corpus, group, path (relative to it). Everybody
is enrolled from clean speech, through the gate, as a household would be; then utterances of other
sentences go through gate, looks and running mean, clean and in noise, as they do live. What comes
out, per duration of speech:

- the mean voice, which every embedding is compared relative to;
- slope and offset, cosine to log-likelihood ratio: logistic regression, corpora weighted equally;
- the threshold of each operating point, for households of three from the stranger's own corpus, so
  that a stranger speaks the household's language into the household's kind of microphone. All
  looks of an utterance share one budget of false accepts, each with the same share of strangers
  above its threshold (Pocock, "Group sequential methods in the design and analysis of clinical
  trials", 1977);
- the distance two enrolled drivers must have to be told apart: what keeps look-alikes from being
  confused in CONFUSED of the runs, and at least odds of 19 to 1.

The realised false accepts per corpus and noise are printed, and kept in the manifest too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from corpus import blocks, rows
from scene import mix, road_noise

from whodrives.domain import (
    SAMPLE_RATE_HZ,
    Calibration,
    Look,
    UtteranceEnd,
)
from whodrives.inference import load_calibration, load_encoder, load_gate
from whodrives.scoring import pooled, unit
from whodrives.speech import GateSettings, SpeechGate

HOUSEHOLD = 3
LOOKS = 6
ENROL_S = 14.0
WHOLE_LOOK_S = 0.9
STEADY_FRAMES = 48
NEWTON_STEPS = 50
BISECTIONS = 20
LEAST_ENROL_S = 5.0
UTTERANCES = 4
BUDGETS = {"1/100": 0.01, "1/1000": 0.001}
LEAST_PEOPLE = 6
CONFUSED = 0.002
LEAST_ODDS_LLR = 2.94
CONDITIONS: tuple[tuple[str, float | None], ...] = (
    ("clean", None),
    ("road 15 dB", 15.0),
    ("road 5 dB", 5.0),
    ("recorded 10 dB", 10.0),
)
SEED = 20261123


@dataclass(frozen=True)
class Utterance:
    """One test utterance: running mean embedding (K, D) and seconds of speech (K,) at each look."""

    corpus: str
    group: str
    condition: str
    voices: np.ndarray
    speech_s: np.ndarray


@dataclass(frozen=True)
class Voice:
    """An enrolled person: corpus, group and the profile's centroid (D,)."""

    corpus: str
    group: str
    centre: np.ndarray


# --- sound to embeddings --------------------------------------------------------------------------


class Ear:
    """Gate and encoder of the models folder, as the daemon uses them."""

    def __init__(self, models: Path) -> None:
        self.encoder = load_encoder(models)
        self._models = models

    def looks(self, samples: np.ndarray, look_s: float) -> list[Look]:
        """All looks of at least half a second in `samples`, pauses or not."""
        activity, gate = (
            load_gate(self._models),
            SpeechGate(GateSettings(look_s=look_s, utterance_s=60)),
        )
        heard: list[Look | UtteranceEnd] = []
        for block in blocks(samples):
            heard += gate.step(block, activity.probability(block.samples))
        heard += gate.flush(samples.size / SAMPLE_RATE_HZ)
        return [piece for piece in heard if isinstance(piece, Look)]

    def utterance(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Running mean embedding (K, D) and speech seconds (K,) over the first K <= 6 looks."""
        whole = [look for look in self.looks(samples, 1.0) if look.new_s >= WHOLE_LOOK_S][:LOOKS]
        if not whole:
            return None
        embedded = [self.encoder.embed(look.samples) for look in whole]
        weights = [look.new_s for look in whole]
        means = [pooled(embedded[: k + 1], weights[: k + 1]) for k in range(len(whole))]
        return np.stack(means), np.cumsum(weights)

    def centre(self, samples: np.ndarray) -> np.ndarray | None:
        """Centroid (D,) of enrolment windows; None when there is too little speech."""
        looks = self.looks(samples, 2.0)
        if sum(look.new_s for look in looks) < LEAST_ENROL_S:
            return None
        return unit(np.mean([self.encoder.embed(look.samples) for look in looks], axis=0))


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


@dataclass(frozen=True)
class Noises:
    """Ten-second stretches of road noise and of recorded noise."""

    road: list[np.ndarray]
    recorded: list[np.ndarray]

    def added(
        self, clean: np.ndarray, condition: str, snr_db: float | None, number: int
    ) -> np.ndarray:
        """`clean` in the noise of this condition; `number` chooses which stretch."""
        if snr_db is None:
            return clean
        choice = self.road if condition.startswith("road") else self.recorded
        return mix(clean, np.resize(choice[number % len(choice)], clean.size), snr_db)


def noises(corpus: Path) -> Noises:
    """Synthetic road noise, and the corpus's noise files that last five seconds or more."""
    road = [road_noise(12.0, speed, SEED + i) for i, speed in enumerate((50, 80, 110))]
    recorded = []
    for paths in files(corpus, "noise").values():
        sounds = [soundfile.read(path, dtype="float32")[0] for path in paths[:20]]
        recorded += [s[: 12 * SAMPLE_RATE_HZ] for s in sounds if _steady(s)]
    return Noises(road, recorded)


def _steady(sound: np.ndarray) -> bool:
    """Whether a noise is there most of the time, and not a bark between silences."""
    frames = sound[: sound.size // 1600 * 1600].reshape(-1, 1600)
    power = np.mean(np.square(frames), axis=1)
    return len(power) >= STEADY_FRAMES and float(np.median(power)) > 0.1 * float(power.mean()) > 0


def gather(corpus: Path, role: str, ear: Ear) -> tuple[list[Voice], list[Utterance]]:
    """Enrol everybody of this role and embed everybody's utterances under all conditions."""
    voices, utterances = [], []
    around = noises(corpus)
    found = files(corpus, role)
    for number, ((name, group), paths) in enumerate(found.items()):
        print(f"\r{number + 1}/{len(found)} {group:40}", end="", file=sys.stderr)
        centre = ear.centre(spoken(paths, ENROL_S))
        if centre is None:
            continue
        voices.append(Voice(name, group, centre))
        for index in range(UTTERANCES):
            clean = spoken(paths, 8.0)[: 12 * SAMPLE_RATE_HZ]
            for condition, snr_db in CONDITIONS if clean.size > SAMPLE_RATE_HZ else ():
                sound = around.added(clean, condition, snr_db, number + index)
                heard = ear.utterance(sound)
                if heard:
                    utterances.append(Utterance(name, group, condition, *heard))
    print(file=sys.stderr)
    return voices, utterances


# --- scores to thresholds -------------------------------------------------------------------------


def logistic(scores: np.ndarray, same: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the log-odds of `same` given `scores`, by iterated least squares."""
    design = np.stack([scores, np.ones_like(scores)], axis=1)
    theta = np.zeros(2)
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-design @ theta))
        gradient = design.T @ (weights * (same - p))
        hessian = (design * (weights * p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        theta += step
    return float(theta[0]), float(theta[1])


@dataclass(frozen=True)
class Trials:
    """Cosines (U, K, V) of one corpus: U utterances at K looks with V voices; NaN is none."""

    corpus: str
    cosines: np.ndarray
    own: np.ndarray
    condition: np.ndarray


def mean_voice(utterances: list[Utterance]) -> np.ndarray:
    """Mean embedding (D,) over the corpora's means, one second of speech each, all conditions."""
    by_corpus: dict[str, list[np.ndarray]] = defaultdict(list)
    for utterance in utterances:
        by_corpus[utterance.corpus].append(utterance.voices[0])
    means = [np.mean(embeddings, axis=0) for embeddings in by_corpus.values()]
    return np.asarray(np.mean(means, axis=0))


def relative(vectors: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Unit vectors (n, D) centred as `scoring.centred` does it."""
    moved = vectors - mean
    return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True))


def trials(voices: list[Voice], utterances: list[Utterance], mean: np.ndarray) -> list[Trials]:
    """Score every utterance with every voice of its own corpus; corpora of LEAST_PEOPLE or more."""
    found = []
    for corpus in sorted({voice.corpus for voice in voices}):
        mine = [voice for voice in voices if voice.corpus == corpus]
        if len(mine) < LEAST_PEOPLE:
            continue
        index = {voice.group: i for i, voice in enumerate(mine)}
        said = [u for u in utterances if u.corpus == corpus and u.group in index]
        centres = relative(np.stack([voice.centre for voice in mine]), mean)
        cosines = np.full((len(said), LOOKS, len(mine)), np.nan)
        for i, utterance in enumerate(said):
            scores = relative(utterance.voices, mean) @ centres.T
            cosines[i, : len(scores)] = scores
        own = np.array([index[u.group] for u in said])
        found.append(Trials(corpus, cosines, own, np.array([u.condition for u in said])))
    return found


def llr_points(all_trials: list[Trials]) -> list[tuple[float, float]]:
    """Slope and offset for each look; same and different weigh alike, corpora too."""
    points = []
    for look in range(LOOKS):
        scores, same, weights = [], [], []
        for trial in all_trials:
            cosines = trial.cosines[:, look]
            target = np.arange(cosines.shape[1])[None] == trial.own[:, None]
            valid = ~np.isnan(cosines)
            for kind in (target, ~target):
                chosen = cosines[kind & valid]
                scores.append(chosen)
                same.append(np.full(chosen.size, float(kind is target)))
                weights.append(np.full(chosen.size, 1.0 / max(chosen.size, 1)))
        points.append(logistic(*map(np.concatenate, (scores, same, weights))))
    return points


def households(
    trial: Trials, rng: np.random.Generator, draws: int, *, genuine: bool, alike: bool
) -> np.ndarray:
    """Voices (U * draws, HOUSEHOLD): the speaker's own first if `genuine`, others from the corpus.

    `alike` takes the voices that are most like the speaker's instead of random ones.
    """
    rows = []
    for i, own in enumerate(trial.own):
        others = np.delete(np.arange(trial.cosines.shape[2]), own)
        likeness = np.nan_to_num(trial.cosines[i, 0, others], nan=-1.0)
        nearest = others[np.argsort(-likeness)]
        for _ in range(draws):
            drawn = nearest if alike else rng.permutation(others)
            rows.append([own, *drawn[: HOUSEHOLD - 1]] if genuine else drawn[:HOUSEHOLD])
    return np.asarray(rows)


@dataclass(frozen=True)
class Runs:
    """Households' llr: (N, K, HOUSEHOLD); each run's weight; its corpus and condition."""

    llr: np.ndarray
    weight: np.ndarray
    corpus: np.ndarray
    condition: np.ndarray


def runs(
    all_trials: list[Trials],
    points: list[tuple[float, float]],
    draws: int,
    *,
    genuine: bool,
    alike: bool = False,
) -> Runs:
    """Play every utterance to `draws` households."""
    rng = np.random.default_rng(SEED)
    slope, offset = (np.array(column) for column in zip(*points, strict=True))
    llr, weight, corpus, condition = [], [], [], []
    for trial in all_trials:
        members = households(trial, rng, draws, genuine=genuine, alike=alike)
        rows = np.repeat(np.arange(len(trial.own)), draws)
        cosines = np.take_along_axis(trial.cosines[rows], members[:, None, :], axis=2)
        llr.append(cosines * slope[None, :, None] + offset[None, :, None])
        weight.append(np.full(len(rows), 1.0 / len(rows)))
        corpus.append(np.full(len(rows), trial.corpus))
        condition.append(trial.condition[rows])
    weights = np.concatenate(weight) / len(all_trials)
    return Runs(np.concatenate(llr), weights, np.concatenate(corpus), np.concatenate(condition))


def weighted_quantile(values: np.ndarray, weights: np.ndarray, above: float) -> float:
    """The value that a share `above` of the total weight lies above (weights need not sum to 1)."""
    order = np.argsort(-values)
    cumulated = np.cumsum(weights[order])
    index = int(np.searchsorted(cumulated, above, side="right"))
    return float(values[order][min(index, values.size - 1)])


def spend(strangers: Runs, budget: float, points: list[tuple[float, float]]) -> np.ndarray:
    """Thresholds (K,), llr, that let a share `budget` of the strangers through at any look.

    Few strangers speak up to the last looks, so chance could make a late threshold a low one; the
    cosine that is asked for never falls with the duration, because strangers' cosines only rise.
    """
    slope, offset = (np.array(column) for column in zip(*points, strict=True))
    best = np.nan_to_num(strangers.llr.max(axis=2), nan=-np.inf)

    def boundary(share: float) -> np.ndarray:
        llr = [weighted_quantile(best[:, k], strangers.weight, share) for k in range(LOOKS)]
        cosines = np.maximum.accumulate((np.array(llr) - offset) / slope)
        return np.asarray(cosines * slope + offset)

    low, high = budget / LOOKS, budget
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        spent = strangers.weight[(best > boundary(middle)[None]).any(axis=1)].sum()
        low, high = (low, middle) if spent > budget else (middle, high)
    return boundary(low)


def accepted(
    played: Runs, thresholds: np.ndarray, ambiguity: float
) -> tuple[np.ndarray, np.ndarray]:
    """For each run the member that is called known, or -1, and the look at which (K if never)."""
    ranked = np.sort(played.llr, axis=2)
    clear = ranked[:, :, -1] - ranked[:, :, -2] >= ambiguity
    passes = (ranked[:, :, -1] >= thresholds[None]) & clear
    look = np.where(passes.any(axis=1), passes.argmax(axis=1), LOOKS)
    member = np.nan_to_num(played.llr, nan=-np.inf)[
        np.arange(len(look)), np.minimum(look, LOOKS - 1)
    ].argmax(axis=1)
    return np.where(look < LOOKS, member, -1), look


def ambiguity_margin(alike: Runs, thresholds: np.ndarray) -> float:
    """The least llr distance at which look-alikes are confused in no more than CONFUSED of runs."""
    for margin in (LEAST_ODDS_LLR, *np.arange(3.25, 12.0, 0.25)):
        member, _ = accepted(alike, thresholds, float(margin))
        if alike.weight[member > 0].sum() <= CONFUSED:
            break
    return float(margin)


def table(
    strangers: Runs, genuine: Runs, thresholds: np.ndarray, ambiguity: float
) -> dict[str, dict[str, float]]:
    """Realised rates, percent, per corpus and per condition and over all."""
    taken, _ = accepted(strangers, thresholds, ambiguity)
    member, look = accepted(genuine, thresholds, ambiguity)
    rows = {}
    keys = [*sorted(set(strangers.corpus)), *[c for c, _ in CONDITIONS], "all"]
    for key in keys:
        s = (strangers.corpus == key) | (strangers.condition == key) | (key == "all")
        g = (genuine.corpus == key) | (genuine.condition == key) | (key == "all")
        ws, wg = strangers.weight[s], genuine.weight[g]
        row = {"fpir": float(ws[taken[s] >= 0].sum() / ws.sum())}
        row["misidentified"] = float(wg[member[g] > 0].sum() / wg.sum())
        for k in (0, 1, 2, LOOKS - 1):
            known = (member[g] == 0) & (look[g] <= k)
            row[f"fnir_{k + 1}s"] = float(1 - wg[known].sum() / wg.sum())
        rows[key] = {name: round(100 * value, 2) for name, value in row.items()}
    return rows


def measured(corpus: Path, ear: Ear, date: str) -> dict[str, Any]:
    """Everything that goes under the manifest's key `calibration`."""
    voices, utterances = gather(corpus, "train", ear)
    mean = mean_voice(utterances).round(5)
    scored = trials(voices, utterances, mean)
    points = llr_points(scored)
    strangers = runs(scored, points, 20, genuine=False)
    genuine = runs(scored, points, 5, genuine=True)
    thresholds = {name: spend(strangers, budget, points) for name, budget in BUDGETS.items()}
    alike = runs(scored, points, 1, genuine=True, alike=True)
    ambiguity = ambiguity_margin(alike, thresholds["1/100"])
    return {
        "encoder": ear.encoder.fingerprint,
        "household": HOUSEHOLD,
        "ambiguity_llr": ambiguity,
        "mean": mean.tolist(),
        "points": [
            {
                "speech_s": float(k + 1),
                "slope": round(points[k][0], 3),
                "offset": round(points[k][1], 3),
                "accept_llr": {n: round(float(t[k]), 3) for n, t in thresholds.items()},
            }
            for k in range(LOOKS)
        ],
        "measured": {
            "date": date,
            "command": "python tools/calibrate.py CORPUS",
            "people": {t.corpus: t.cosines.shape[2] for t in scored},
            "utterances": {t.corpus: len(t.own) for t in scored},
            "conditions": [name for name, _ in CONDITIONS],
            "realised_percent": {
                name: table(strangers, genuine, t, ambiguity) for name, t in thresholds.items()
            },
        },
    }


def checked(
    corpus: Path, ear: Ear, calibration: Calibration
) -> dict[str, dict[str, dict[str, float]]]:
    """The realised rates of the shipped thresholds on people that nothing was fitted to."""
    scored = trials(*gather(corpus, "eval", ear), calibration.mean)
    points = [(point.slope, point.offset) for point in calibration.points]
    strangers = runs(scored, points, 20, genuine=False)
    genuine = runs(scored, points, 5, genuine=True)
    rates = {}
    for name in BUDGETS:
        thresholds = np.array([point.accept_llr[name] for point in calibration.points])
        rates[name] = table(strangers, genuine, thresholds, calibration.ambiguity_llr)
    return rates


def show(rates: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print realised rates as a table."""
    for name, realised in rates.items():
        print(f"promise {name}; percent")
        for key, row in realised.items():
            print(f"  {key:18}", "  ".join(f"{k} {v:6.2f}" for k, v in row.items()))


def main() -> int:
    """Measure, print, and write the manifest atomically; or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path, help="folder with manifest.tsv")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--date", help="of the measurement, YYYY-MM-DD")
    parser.add_argument("--check", action="store_true", help="only check, with the role eval")
    options = parser.parse_args()
    ear = Ear(options.models)
    if options.check:
        show(checked(options.corpus, ear, load_calibration(options.models)))
        return 0
    if not options.date:
        parser.error("give --date, so that the figures have one")
    calibration = measured(options.corpus, ear, options.date)
    show(calibration["measured"]["realised_percent"])
    path = options.models / "encoder.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) | {"calibration": calibration}
    temporary = path.with_suffix(".json.new")
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
