"""Scores: cosine, cohort normalisation, calibrated log-likelihood ratio, ranking.

Owns the arithmetic from embeddings to evidence. Must not decide who is accepted (`decision` does).
Embeddings are float32 unit vectors (D,). Before each comparison the global mean is subtracted.
Start with `compare`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whodrives.audio.blocks import Floats
from whodrives.voice.profile import Profile
from whodrives.voice.types import Calibration, Match, OperatingPoint

FIRST_DIMENSION = 192
"""Dimension of the first encoder's embeddings, with which those of two encoders begin."""


OTHERS_PRIOR = 1.0
"""Weight of the mean cosine with people in general, in cohort members."""


LEAST_NEW_S = 0.9
"""Minimum new speech for speaker-change detection."""


def unit(vector: Floats) -> Floats:
    """Scale a vector (D,) to unit length, float32.

    Raises:
        ValueError: its length is zero or not finite.
    """
    length = float(np.linalg.norm(vector))
    if not length > 0.0 or not math.isfinite(length):
        raise ValueError("a vector of zero or infinite length cannot be compared")
    return (vector / length).astype(np.float32)


def pooled(embeddings: Sequence[Floats], weights_s: Sequence[float]) -> Floats:
    """Mean of unit embeddings (D,), weighted by their seconds of speech; a unit vector (D,)."""
    weights = np.asarray(weights_s, np.float64)
    return unit((np.stack(embeddings) * weights[:, None]).sum(axis=0) / weights.sum())


def centroid(profile: Profile) -> Floats:
    """Mean of a profile's enrolment embeddings, a unit vector (D,)."""
    return unit(profile.embeddings.mean(axis=0))


def first_part(voice: Floats) -> Floats:
    """What the first encoder made of an embedding (D,), of unit length."""
    return voice if len(voice) <= FIRST_DIMENSION else unit(voice[:FIRST_DIMENSION])


def mean_subtracted(voice: Floats, calibration: Calibration) -> Floats:
    """Subtract the calibration's global mean from a unit vector (D,); again of unit length.

    What all embeddings share carries no speaker information and compresses the range of cosines.
    The calibration of the first encoder alone takes the first part of an embedding by two.
    """
    known = voice if len(voice) == calibration.dimension else first_part(voice)
    return subtract_mean(known, calibration.mean)


def subtract_mean(voice: Floats, mean: Floats) -> Floats:
    """Subtract `mean` (D,) from a unit vector (D,); the result has unit length.

    Raises:
        ValueError: the vector equals the mean.
    """
    return unit(voice - mean)


def cohort_mean(
    cosines: NDArray[Any],
    similarity: NDArray[Any],
    other_cosine: NDArray[Any] | float,
    max_cosine: float,
) -> NDArray[Any]:
    """Cohort mean for each driver: the mean cosine of the same speech with the other drivers.

    The household is a cohort with the car's own microphone and language; a speaker who is similar
    to one driver because of those is similar to the others, too. It was the only cohort that helped
    in unseen conditions (docs/decisions/0007-household-as-cohort.md). Drivers with too similar
    voices are left out of each other's cohort, because they would lower each other's scores.

    Args:
        cosines: of one speaker with each driver, shape (..., H).
        similarity: cosines between the drivers' enrolment templates, shape (..., H, H).
        other_cosine: mean cosine with people in general, broadcast against `cosines`; it counts as
            OTHERS_PRIOR drivers, and is the whole cohort in a household of one.
        max_cosine: pairs of drivers at or above this are left out of each other's cohort.

    Returns:
        The cohort mean, shape (..., H).
    """
    size = cosines.shape[-1]
    others = (similarity < max_cosine) & ~np.eye(size, dtype=bool)
    scores = np.einsum("...j,...hj->...h", cosines, others.astype(np.float64))
    mean: NDArray[Any] = (scores + OTHERS_PRIOR * other_cosine) / (
        others.sum(axis=-1) + OTHERS_PRIOR
    )
    return mean


def log_likelihood_ratio(
    excess: NDArray[Any] | float, speech_s: NDArray[Any] | float, calibration: Calibration
) -> NDArray[Any]:
    """Natural-log likelihood ratios (...) of cosines minus their cohort mean, `excess` (...).

    `speech_s` is a scalar, or of shape (...). Slope and offset are interpolated linearly between
    the calibrated durations, and constant outside them.
    """
    slope = _between(calibration, speech_s, [p.slope for p in calibration.points])
    offset = _between(calibration, speech_s, [p.offset for p in calibration.points])
    return np.asarray(slope * excess + offset)


def other_cosine(speech_s: NDArray[Any] | float, calibration: Calibration) -> NDArray[Any]:
    """Mean cosine with other speakers' profiles, interpolated; of the shape of `speech_s`."""
    return _between(calibration, speech_s, [p.other_cosine for p in calibration.points])


def accept_llr(
    speech_s: NDArray[Any] | float,
    enrolled: int,
    calibration: Calibration,
    operating_point: OperatingPoint,
) -> NDArray[Any]:
    """Acceptance thresholds on the llr (natural log), of the shape of `speech_s`.

    Thresholds are interpolated over the logarithm of the household size. Each further driver is a
    further chance of a false accept, so beyond the largest calibrated size the threshold grows by
    the logarithm of the ratio of the sizes (union bound).
    """
    sizes = np.log(calibration.households)
    thresholds = [
        float(np.interp(math.log(max(enrolled, 1)), sizes, p.accept_llr[operating_point]))
        for p in calibration.points
    ]
    beyond = max(0.0, math.log(max(enrolled, 1)) - float(sizes[-1]))
    return _between(calibration, speech_s, thresholds) + beyond


def compare(
    voice: Floats,
    speech_s: float,
    profiles: Sequence[tuple[str, Floats]],
    calibration: Calibration,
    templates: Sequence[Floats] = (),
) -> tuple[Match, ...]:
    """Compare speech with all drivers of the household; best match first.

    Equal scores are ordered by id, so that the ranking does not depend on the order of enrolment.

    Args:
        voice: embedding of the speech, mean-subtracted, (D,).
        speech_s: seconds of speech in it.
        profiles: id and speaker model of each driver, mean-subtracted, (D,).
        calibration: of the encoder that made them.
        templates: enrolment templates of the same drivers, (D,) each, in the order of `profiles`;
            empty if no profile was adapted. They decide who is left out of whose cohort: an
            adapted pair that drifts apart must not start to lower each other's scores.
    """
    if not profiles:
        return ()
    models = np.stack([model for _, model in profiles]).astype(np.float64)
    enrolled = np.stack(templates).astype(np.float64) if templates else models
    cosines = models @ voice
    prior = other_cosine(speech_s, calibration)
    excess = cosines - cohort_mean(
        cosines, enrolled @ enrolled.T, prior, calibration.cohort_max_cosine
    )
    ratios = log_likelihood_ratio(excess, speech_s, calibration)
    matches = [
        Match(driver, float(cosine), float(llr))
        for (driver, _), cosine, llr in zip(profiles, cosines, ratios, strict=True)
    ]
    return tuple(sorted(matches, key=lambda match: (-match.llr, match.driver)))


def one_to_one(
    voice: Floats,
    speech_s: float,
    others: NDArray[Any],
    others_s: NDArray[Any],
    calibration: Calibration,
) -> NDArray[Any]:
    """Compare one embedding with each of others, each time as a household of one.

    Args:
        voice: mean-subtracted embedding, (D,).
        speech_s: seconds of speech in it.
        others: mean-subtracted embeddings, shape (n, D).
        others_s: seconds of speech in each, (n,); the shorter duration selects the calibration.
        calibration: of the encoder that made them.

    Returns:
        Natural-log likelihood ratios, float64 (n,): what `compare` gives for a household of one.
    """
    shorter_s = np.minimum(speech_s, others_s)
    excess = others.astype(np.float64) @ voice - other_cosine(shorter_s, calibration)
    return log_likelihood_ratio(excess, shorter_s, calibration)


@dataclass(slots=True)
class RunningModel:
    """Speaker model of a turn: its segments' embeddings, weighted by their seconds of speech."""

    embeddings: list[Floats] = field(default_factory=list)
    weights_s: list[float] = field(default_factory=list)

    @property
    def speech_s(self) -> float:
        """Seconds of speech so far."""
        return sum(self.weights_s)

    def mean_subtracted(self, calibration: Calibration) -> Floats:
        """The mean-subtracted model (D,); raises ValueError before the first segment."""
        return mean_subtracted(self.pooled(), calibration)

    def take(self, embedding: Floats, new_s: float, calibration: Calibration) -> bool:
        """Add a segment, unless it is from another speaker.

        The speaker has changed if the segment's cosine to the speech so far is below
        `CalibrationPoint.speaker_change_cosine`: a passenger or the radio speaks now.

        Args:
            embedding: of the segment, (D,), unit length.
            new_s: seconds of speech in the segment; less than LEAST_NEW_S is always added.
            calibration: of the encoder that made the embedding.

        Returns:
            False if the speaker has changed; a new `RunningModel` then starts with this segment.
        """
        if self.embeddings and new_s >= LEAST_NEW_S:
            cosine = float(
                mean_subtracted(embedding, calibration) @ self.mean_subtracted(calibration)
            )
            least = [p.speaker_change_cosine for p in calibration.points]
            if cosine < _between(calibration, self.speech_s, least):
                return False
        self.embeddings.append(embedding)
        self.weights_s.append(new_s)
        return True

    def pooled(self) -> Floats:
        """The mean embedding (D,), unit length; raises ValueError before the first segment."""
        return pooled(self.embeddings, self.weights_s)


def probability(llr: float) -> float:
    """Convert an llr (natural log) to the probability of the same speaker at even prior odds."""
    return 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, llr))))


def _between(
    calibration: Calibration, speech_s: NDArray[Any] | float, values: Sequence[float]
) -> NDArray[Any]:
    return np.asarray(np.interp(speech_s, [p.speech_s for p in calibration.points], values))
