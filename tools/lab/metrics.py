"""What errors cost, as pure functions of scores: EER, minDCF, DET, identification, bootstrap.

Knows nothing of sound, encoders or files. A score is any number that is higher the more two voices
are alike; a weight says how often a trial counts, which is how the bootstrap repeats people.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

RESAMPLES = 200
COVERAGE = 0.95
PRIOR = 0.01


@dataclass(frozen=True, slots=True)
class Det:
    """Detection error trade-off: both rates in [0, 1], shape (T,), by rising threshold.

    `miss` begins at 0 and never falls; `false_accept` begins at 1 and never rises.
    """

    miss: Doubles
    false_accept: Doubles


class Trials:
    """Scores of same-person and of different-people trials, sorted once for many weightings.

    Args:
        target: scores (n,) of one person with himself, n > 0.
        nontarget: scores (m,) of different people, m > 0.

    Raises:
        ValueError: one of them is empty, or a score is not a number.
    """

    def __init__(self, target: Doubles, nontarget: Doubles) -> None:
        if not len(target) or not len(nontarget):
            raise ValueError("a trade-off needs trials of both kinds")
        scores = np.concatenate([target, nontarget])
        if np.isnan(scores).any():
            raise ValueError("a score is not a number")
        self._order = np.argsort(scores, kind="stable")
        ranked = scores[self._order]
        # Equal scores fall on the same side of every threshold.
        self._ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        self._split = len(target)

    def det(self, target_weight: Doubles | None = None, weight: Doubles | None = None) -> Det:
        """Return the trade-off, each trial counted by its weight (1 if none is given)."""
        return Det(self._below(target_weight, target=True), 1 - self._below(weight, target=False))

    def _below(self, weight: Doubles | None, *, target: bool) -> Doubles:
        """Share of one kind of trials at or below each distinct score, 0 first."""
        counted = np.zeros(len(self._order))
        place = slice(None, self._split) if target else slice(self._split, None)
        counted[place] = 1.0 if weight is None else weight
        total = counted.sum()
        if total <= 0:
            return np.append(0.0, np.ones(len(self._ends)))
        return np.append(0.0, np.cumsum(counted[self._order])[self._ends] / total)


def eer(det: Det) -> float:
    """Equal error rate in [0, 1]: where both rates cross, on the straight line between points."""
    above = int(np.argmax(det.miss >= det.false_accept))
    if above == 0:
        return float(det.miss[0])
    gap = det.miss - det.false_accept
    share = -gap[above - 1] / (gap[above] - gap[above - 1])
    return float(det.miss[above - 1] + share * (det.miss[above] - det.miss[above - 1]))


def min_dcf(det: Det, prior: float = PRIOR) -> float:
    """Least detection cost at this prior, both errors costing 1, over that of a fixed answer.

    NIST, "Speaker Recognition Evaluation Plan" (2016 and later), section on the primary metric.
    """
    cost = prior * det.miss + (1 - prior) * det.false_accept
    return float(cost.min() / min(prior, 1 - prior))


def miss_at(det: Det, false_accept: float) -> float:
    """Least miss rate at which no more than this share of different people is accepted."""
    return float(det.miss[int(np.argmax(det.false_accept <= false_accept))])


def threshold_at(stranger: Doubles, fpir: float, weight: Doubles | None = None) -> float:
    """Smallest of the strangers' scores that no more than a share `fpir` of them exceeds."""
    order = np.argsort(-stranger, kind="stable")
    ranked = stranger[order]
    counted = np.ones(len(ranked)) if weight is None else weight[order]
    last = np.append(ranked[1:] != ranked[:-1], True)
    above = (np.cumsum(counted) - counted) / max(counted.sum(), 1e-12)
    # The weight strictly above a score is the weight before the first of its equals.
    first = np.append(True, ranked[1:] != ranked[:-1])
    exceeding = above[first]
    values = ranked[last]
    return float(values[np.flatnonzero(exceeding <= fpir + 1e-12)[-1]])


def fnir_at(
    genuine: Doubles,
    stranger: Doubles,
    fpir: float,
    genuine_weight: Doubles | None = None,
    weight: Doubles | None = None,
) -> float:
    """False-negative identification rate at a false-positive one (ISO/IEC 19795-1).

    Args:
        genuine: best score of the right driver, -inf where another driver scored better: (n,).
        stranger: best score of any driver against a stranger's utterance: (m,).
        fpir: share of strangers who may be taken for a driver, in [0, 1].
        genuine_weight: how often each of `genuine` counts.
        weight: how often each of `stranger` counts.

    Returns:
        The share of enrolled drivers' utterances that are rejected or taken for another driver.
    """
    rejected = genuine <= threshold_at(stranger, fpir, weight)
    return share(rejected, genuine_weight)


def share(hit: NDArray[np.bool_], weight: Doubles | None = None) -> float:
    """Weighted share of `hit` (n,), in [0, 1]; NaN where nothing has a weight."""
    counted = np.ones(len(hit)) if weight is None else weight
    total = counted.sum()
    return float(counted[hit].sum() / total) if total > 0 else float("nan")


def quantile(values: Doubles, at: float) -> float:
    """Smallest value that a share `at` of `values` does not exceed; inf stands for never."""
    if not len(values):
        return float("nan")
    ranked = np.sort(values)
    return float(ranked[min(int(np.ceil(at * len(ranked))), len(ranked)) - 1])


def resampled(people: int, seed: int, resamples: int = RESAMPLES) -> Doubles:
    """How often each person is drawn, with replacement, in each resample: (resamples, people)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(people, np.full(people, 1 / people), resamples).astype(np.float64)


def counts(drawn: Doubles, *people: NDArray[np.intp]) -> Doubles:
    """How often a trial counts: the product over the people in it.

    A trial with several people is repeated for each combination of their repetitions; see Owen,
    "The pigeonhole bootstrap", 2007. `drawn` is one resample (people,); `people` are arrays of
    indices whose first axis is the trial.
    """
    weight = np.ones(len(people[0]))
    for index in people:
        repeated = drawn[index]
        weight *= repeated if repeated.ndim == 1 else repeated.prod(axis=1)
    return weight


def interval(statistic: Callable[[Doubles], float], drawn: Doubles) -> tuple[float, float]:
    """Percentile interval of `statistic(one resample)`; resamples without an answer are left out.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    values = np.array([statistic(row) for row in drawn])
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)
