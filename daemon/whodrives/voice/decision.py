"""Decides who speaks: known, unknown, ambiguous, insufficient speech, or poor sound.

Owns the decision rule and the limits of sound quality. Must not know audio, files or the car.
Each segment of an utterance is an interim look, and so another chance of a false accept; the
thresholds of the calibration therefore share one error budget over all looks of an utterance
(Pocock, "Group sequential methods in the design and analysis of clinical trials", 1977).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whodrives.voice.scoring import accept_llr, probability
from whodrives.voice.types import Calibration, Evidence, OperatingPoint, Outcome, Sound, Verdict

TELEPHONE_BAND_DB = -31.5
"""Speech whose `Sound.upper_band_db` is below this is of telephone band: it is not judged. Of 8 kHz
recordings 99 of 100 are below it, of wide-band recordings 9 of 1000 (docs/accuracy.md)."""


WIDE_BAND_FIX = (
    "let the microphone record at 16 kHz or more (Bluetooth: wide-band speech, mSBC), or choose "
    "another one"
)
"""What helps against sound of telephone band."""


CLIPPED_SHARE = 0.02
"""With more samples clipped an unmatched speaker is not called unknown but POOR_SOUND."""


NOISE_DB = 0.0
"""Below this SNR an unmatched speaker is not called unknown but POOR_SOUND."""


LEAST_SPEECH_S = 0.9
"""Minimum speech for a decision; the calibration begins at one second."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The operating point (target FPIR) and the calibration that it is reached with."""

    calibration: Calibration
    operating_point: OperatingPoint

    def serving(self, dimensions: Iterable[int]) -> Policy:
        """The policy for a household whose templates have these dimensions.

        Scores of different encoders have different cohorts. If one template is of the first encoder
        alone, all are therefore compared by the first encoder alone.
        """
        if all(dimension == self.calibration.dimension for dimension in dimensions):
            return self
        return replace(self, calibration=self.calibration.first)


def passes(
    llrs: NDArray[Any], thresholds: NDArray[Any] | float, ambiguity_llr: float
) -> NDArray[np.bool_]:
    """Apply the acceptance rule: the best match reaches its threshold and a margin to the second.

    Args:
        llrs: log-likelihood ratios with H drivers, shape (..., H); NaN never passes.
        thresholds: `scoring.accept_llr` for the duration of the speech, broadcast to (...).
        ambiguity_llr: the margin, `Calibration.ambiguity_llr`.

    Returns:
        Shape (...).
    """
    if llrs.shape[-1] == 0:
        return np.zeros(llrs.shape[:-1], np.bool_)
    ranked = np.sort(llrs, axis=-1)  # NaN last
    accepted: NDArray[np.bool_] = ranked[..., -1] >= thresholds
    if llrs.shape[-1] > 1:
        accepted &= ranked[..., -1] - ranked[..., -2] >= ambiguity_llr
    return accepted


def first_known(
    passed: NDArray[np.bool_], voice: NDArray[Any], utterance: NDArray[Any]
) -> NDArray[np.intp]:
    """The segment that decides each speaker turn of a recording, for many households at once.

    A turn is known at its first segment that passes. Once a turn of an utterance is known, the rest
    of that utterance is not judged: a later turn in it is never known.

    Args:
        passed: `passes` for each of K segments, in each of N households, shape (K, N).
        voice: the number of the turn of each segment, ascending, shape (K,).
        utterance: the number of the utterance of each segment, ascending, shape (K,).

    Returns:
        The deciding segment of each of the V turns in each household; K for none. Shape (V, N).
    """
    count = len(passed)
    starts = np.flatnonzero(np.diff(voice, prepend=-1))
    when = np.where(passed, np.arange(count)[:, None], count)
    first = np.minimum.reduceat(when, starts, axis=0)
    known = np.zeros(first.shape[1:], np.bool_)
    for place, start in enumerate(starts):
        if place and utterance[start] != utterance[starts[place - 1]]:
            known[:] = False
        first[place] = np.where(known, count, first[place])
        known |= first[place] < count
    return first


def judge(evidence: Evidence, enrolled: int, policy: Policy, *, final: bool) -> Verdict | None:
    """Decide on the evidence so far; None while further speech may decide.

    Args:
        evidence: matches of all speech of this speaker in the utterance so far.
        enrolled: number of enrolled drivers.
        policy: the operating point and its calibration.
        final: the utterance is over; a verdict is returned.

    Returns:
        KNOWN as soon as the best match passes (`passes`) and the sound is not of telephone band,
        where false accepts are frequent. If `final`, one of: INSUFFICIENT_SPEECH for less than
        LEAST_SPEECH_S; AMBIGUOUS if the best match reaches its threshold without the margin;
        POOR_SOUND if the sound is too poor to call the speaker unknown; INSUFFICIENT_SPEECH if the
        best llr is positive and the calibration has longer durations; otherwise UNKNOWN.
    """
    if evidence.speech_s < LEAST_SPEECH_S:
        return _verdict(Outcome.INSUFFICIENT_SPEECH, evidence) if final else None
    known = policy.calibration
    threshold = accept_llr(evidence.speech_s, enrolled, known, policy.operating_point)
    llrs = np.array([match.llr for match in evidence.matches])
    judged = evidence.sound is None or not is_telephone(evidence.sound)
    if judged and passes(llrs, threshold, known.ambiguity_llr):
        return _verdict(Outcome.KNOWN, evidence)
    if not final:
        return None
    if judged and passes(llrs, threshold, ambiguity_llr=0.0):
        return _verdict(Outcome.AMBIGUOUS, evidence)
    poor = _poor_sound(evidence)
    if poor:
        return _verdict(Outcome.POOR_SOUND, evidence, poor)
    more_may_decide = evidence.speech_s < known.points[-1].speech_s and (llrs > 0.0).any()
    outcome = Outcome.INSUFFICIENT_SPEECH if more_may_decide else Outcome.UNKNOWN
    return _verdict(outcome, evidence)


def candidate(verdict: Verdict) -> str | None:
    """The driver whom a person may be asked about after an utterance that was not recognised.

    The best match of an AMBIGUOUS utterance; of an UNKNOWN one, or one of INSUFFICIENT_SPEECH, only
    if the speech is likelier the driver's than another speaker's (llr > 0).
    """
    evidence = verdict.evidence
    if evidence.speech_s < LEAST_SPEECH_S or not evidence.matches:
        return None
    best = evidence.matches[0]
    likely = verdict.outcome in {Outcome.UNKNOWN, Outcome.INSUFFICIENT_SPEECH} and best.llr > 0.0
    return best.driver if likely or verdict.outcome is Outcome.AMBIGUOUS else None


def is_telephone(sound: Sound) -> bool:
    """Whether the sound is of telephone band; it is not judged, as false accepts are frequent."""
    return sound.upper_band_db < TELEPHONE_BAND_DB


def _poor_sound(evidence: Evidence) -> str | None:
    """Why the sound is too poor, as a code of `Verdict.reason`; None if it is good enough."""
    if evidence.sound is not None and is_telephone(evidence.sound):
        return "telephone_band"
    if evidence.sound is not None and evidence.sound.clipped > CLIPPED_SHARE:
        return "clipped"
    if evidence.snr_db is not None and evidence.snr_db < NOISE_DB:
        return "noise"
    return None


def _verdict(outcome: Outcome, evidence: Evidence, reason: str | None = None) -> Verdict:
    best = evidence.matches[0] if evidence.matches else None
    return Verdict(
        outcome=outcome,
        driver=best.driver if best and outcome is Outcome.KNOWN else None,
        evidence=evidence,
        probability=probability(best.llr) if best else None,
        reason=reason,
    )
