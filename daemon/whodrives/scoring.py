"""How alike two voices are: cosine, calibrated log-likelihood ratio, ranking.

Owns the arithmetic between embeddings and evidence. Knows nothing of thresholds' consequences: who
is accepted is `decision`'s business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from whodrives.domain import Calibration, Floats, Match, OperatingPoint, Profile


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
    return unit(np.average(np.stack(embeddings), axis=0, weights=weights_s))


def centroid(profile: Profile) -> Floats:
    """The profile's voice as one unit vector (D,): the mean over its enrolment windows."""
    return unit(profile.embeddings.mean(axis=0))


def centred(voice: Floats, calibration: Calibration) -> Floats:
    """A unit vector (D,) relative to the mean voice, again of unit length.

    What all voices share says nothing about who speaks, and takes up room on the cosine's scale.
    """
    return unit(voice - calibration.mean)


def log_likelihood_ratio(cosine: float, speech_s: float, calibration: Calibration) -> float:
    """Natural-log likelihood ratio of `cosine` after `speech_s` seconds of speech.

    Between two calibrated durations slope and offset are interpolated linearly; outside them the
    nearest calibrated duration holds.
    """
    slope, offset = _line(speech_s, calibration)
    return slope * cosine + offset


def accept_llr(
    speech_s: float, enrolled: int, calibration: Calibration, operating_point: OperatingPoint
) -> float:
    """The llr from which a voice may be called known, natural log.

    The calibration holds for its own number of enrolled drivers. A stranger has a chance against
    each of them, so another number moves the threshold by the log of the ratio (union bound).
    """
    thresholds = [p.accept_llr[operating_point] for p in calibration.points]
    size = math.log(max(enrolled, 1) / calibration.household)
    return _between(calibration, speech_s, thresholds) + size


def compare(
    voice: Floats, speech_s: float, profiles: Sequence[tuple[str, Floats]], calibration: Calibration
) -> tuple[Match, ...]:
    """Compare a centred `voice` (D,) with (driver id, centred centroid (D,)) pairs; best first.

    Equal scores are ordered by id, so that the ranking never depends on the order of enrolment.
    """
    slope, offset = _line(speech_s, calibration)
    cosines = [(driver, float(np.dot(voice, centre))) for driver, centre in profiles]
    matches = [Match(driver, cosine, slope * cosine + offset) for driver, cosine in cosines]
    return tuple(sorted(matches, key=lambda match: (-match.llr, match.driver)))


def probability(llr: float) -> float:
    """Probability of the same person at even prior odds, in [0, 1], from a natural-log ratio."""
    return 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, llr))))


def _line(speech_s: float, calibration: Calibration) -> tuple[float, float]:
    """Slope and offset that hold after so much speech."""
    slope = _between(calibration, speech_s, [p.slope for p in calibration.points])
    offset = _between(calibration, speech_s, [p.offset for p in calibration.points])
    return slope, offset


def _between(calibration: Calibration, speech_s: float, values: Sequence[float]) -> float:
    return float(np.interp(speech_s, [p.speech_s for p in calibration.points], values))
