"""How alike two voices are: cosine, calibrated log-likelihood ratio, ranking.

Owns the arithmetic between embeddings and evidence. Knows nothing of thresholds' consequences: who
is accepted is `decision`'s business.
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

OTHERS_PRIOR = 1.0
"""What is known of other people in general counts as one more driver of the household."""


LEAST_NEW_S = 0.9
"""Less new speech than this is too little to tell that somebody else speaks."""


def unit(vector: Floats) -> Floats:
    """`vector` (D,) scaled to length one.

    Raises:
        ValueError: the vector has no direction (its length is zero or not finite).
    """
    length = float(np.linalg.norm(vector))
    if not length > 0.0 or not math.isfinite(length):
        raise ValueError("a vector without a direction cannot be compared")
    return (vector / length).astype(np.float32)


def pooled(embeddings: Sequence[Floats], weights_s: Sequence[float]) -> Floats:
    """Mean of unit embeddings, each (D,), weighted by its seconds of speech; a unit vector (D,)."""
    weights = np.asarray(weights_s, np.float64)
    return unit((np.stack(embeddings) * weights[:, None]).sum(axis=0) / weights.sum())


def centroid(profile: Profile) -> Floats:
    """The profile's voice as one unit vector (D,): the mean over its enrolment windows."""
    return unit(profile.embeddings.mean(axis=0))


def mean_subtracted(voice: Floats, calibration: Calibration) -> Floats:
    """A unit vector (D,) relative to the mean voice, again of unit length.

    What all voices share says nothing about who speaks, and takes up room on the cosine's scale.
    """
    return subtract_mean(voice, calibration.mean)


def subtract_mean(voice: Floats, mean: Floats) -> Floats:
    """A unit vector (D,) relative to the global mean embedding `mean` (D,), again of unit length.

    Raises:
        ValueError: the voice is the mean.
    """
    return unit(voice - mean)


def cohort_mean(
    cosines: NDArray[Any], likeness: NDArray[Any], other_cosine: NDArray[Any] | float, alike: float
) -> NDArray[Any]:
    """What this voice scores with people who are not this driver, as far as the household tells.

    The rest of the household is a cohort of the car's own microphone and language: a stranger who
    is like one driver because of those is like the others too. It is the only cohort that helped
    where no voice had been heard before (docs/decisions/0007-household-as-cohort.md). Twins are
    left out, because they would push each other down.

    Args:
        cosines: of one voice with each driver, shape (..., H).
        likeness: cosines of the drivers' enrolled voices with each other, shape (..., H, H).
        other_cosine: mean cosine with other people in general, broadcast against `cosines`; it
            counts as OTHERS_PRIOR drivers, and is all there is in a household of one.
        alike: drivers more alike than this are left out of each other's others.

    Returns:
        For each driver the mean over the others and the prior, shape (..., H).
    """
    size = cosines.shape[-1]
    others = (likeness < alike) & ~np.eye(size, dtype=bool)
    scores = np.einsum("...j,...hj->...h", cosines, others.astype(np.float64))
    mean: NDArray[Any] = (scores + OTHERS_PRIOR * other_cosine) / (
        others.sum(axis=-1) + OTHERS_PRIOR
    )
    return mean


def log_likelihood_ratio(
    excess: NDArray[Any] | float, speech_s: NDArray[Any] | float, calibration: Calibration
) -> NDArray[Any]:
    """Natural-log likelihood ratios, shape (...), of cosines' `excess` (...) over the usual.

    `speech_s` is one for all, or one for each, shape (...). Between two calibrated durations slope
    and offset are interpolated linearly; outside them the nearest calibrated duration holds.
    """
    slope = _between(calibration, speech_s, [p.slope for p in calibration.points])
    offset = _between(calibration, speech_s, [p.offset for p in calibration.points])
    return np.asarray(slope * excess + offset)


def other_cosine(speech_s: NDArray[Any] | float, calibration: Calibration) -> NDArray[Any]:
    """Mean cosine with other people's profiles after so much speech, of the shape of `speech_s`."""
    return _between(calibration, speech_s, [p.other_cosine for p in calibration.points])


def accept_llr(
    speech_s: NDArray[Any] | float,
    enrolled: int,
    calibration: Calibration,
    operating_point: OperatingPoint,
) -> NDArray[Any]:
    """Thresholds: the llr from which a voice may be called known, natural log, as `speech_s`.

    Between two measured household sizes the threshold is interpolated over their logarithm. A
    stranger has a chance against each driver, so beyond the largest size the threshold grows by the
    log of the ratio (union bound).
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
    """Compare a voice with the household's; best first.

    Equal scores are ordered by id, so that the ranking never depends on the order of enrolment.

    Args:
        voice: relative to the mean voice, (D,).
        speech_s: seconds of speech that it rests on.
        profiles: driver id and what the driver's voices are compared with, as `voice` is, (D,).
        calibration: of the encoder that made them.
        templates: the same drivers' voices as enrolled, (D,) each, in the order of `profiles`; none
            if nobody has learned. They alone say who are twins: a pair that parts a little as both
            learn would otherwise begin to push each other down.
    """
    if not profiles:
        return ()
    centres = np.stack([centre for _, centre in profiles]).astype(np.float64)
    enrolled = np.stack(templates).astype(np.float64) if templates else centres
    cosines = centres @ voice
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
    """Compare a voice with each of others as if that one were all the household.

    Args:
        voice: relative to the mean voice, (D,).
        speech_s: seconds of speech that it rests on.
        others: voices, as `voice` is, shape (n, D).
        others_s: seconds of speech of each, (n,); the shorter of two tells how far to trust them.
        calibration: of the encoder that made them.

    Returns:
        Natural-log likelihood ratios, float64 (n,): what `compare` gives for a household of one.
    """
    shorter_s = np.minimum(speech_s, others_s)
    excess = others.astype(np.float64) @ voice - other_cosine(shorter_s, calibration)
    return log_likelihood_ratio(excess, shorter_s, calibration)


@dataclass(slots=True)
class RunningModel:
    """The mean of one person's looks so far, weighted by their seconds of speech."""

    embeddings: list[Floats] = field(default_factory=list)
    weights_s: list[float] = field(default_factory=list)

    @property
    def speech_s(self) -> float:
        """Seconds of speech so far."""
        return sum(self.weights_s)

    def mean_subtracted(self, calibration: Calibration) -> Floats:
        """The voice (D,) relative to the mean voice; raises ValueError before the first look."""
        return mean_subtracted(self.pooled(), calibration)

    def take(self, embedding: Floats, new_s: float, calibration: Calibration) -> bool:
        """Add a segment, unless somebody else speaks in it.

        A segment that is less similar to the speech so far than nearly all seconds of one person
        are is somebody else: the driver has finished, and a passenger or the radio speaks on.

        Args:
            embedding: of the segment, (D,), unit length.
            new_s: seconds of speech in the segment; fewer than LEAST_NEW_S are always taken.
            calibration: of the encoder that made the embedding.

        Returns:
            Whether it was added. If not, a new `RunningModel` begins with this segment.
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
        """The mean embedding so far, (D,), unit length; raises ValueError before the first one."""
        return pooled(self.embeddings, self.weights_s)


def probability(llr: float) -> float:
    """Probability of the same person at even prior odds, in [0, 1], from a natural-log ratio."""
    return 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, llr))))


def _between(
    calibration: Calibration, speech_s: NDArray[Any] | float, values: Sequence[float]
) -> NDArray[Any]:
    return np.asarray(np.interp(speech_s, [p.speech_s for p in calibration.points], values))
