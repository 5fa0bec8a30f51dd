"""Who is speaking, given growing evidence: known, unknown, ambiguous, or not enough speech.

Owns the rule. Every look at an utterance is another chance for a stranger to be taken for a
driver, so the thresholds, which the calibration brings, share one error budget between all looks
of an utterance (Pocock, "Group sequential methods in the design and analysis of clinical trials",
1977). Knows nothing of audio or of the car.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whodrives.voice.scoring import accept_llr, probability
from whodrives.voice.types import Calibration, Evidence, OperatingPoint, Outcome, Sound, Verdict

TELEPHONE_BAND_DB = -60.0
"""Speech with less than this above the telephone's band is not judged: 98 of 100 calls lie below
it, and 1 of 100 seconds of wide-band speech, as a second may have no "s"."""


CLIPPED_SHARE = 0.02


NOISE_DB = 0.0
"""Beyond these a voice that is not known may well be a driver's."""


LEAST_SPEECH_S = 0.9
"""Below this much speech nothing is concluded: the calibration begins at one second."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The promise that is kept, and the measurements that it is kept with."""

    calibration: Calibration
    operating_point: OperatingPoint


def passes(
    llrs: NDArray[Any], thresholds: NDArray[Any] | float, ambiguity_llr: float
) -> NDArray[np.bool_]:
    """Whether the best match is accepted and stands clear of the runner-up: the acceptance rule.

    Args:
        llrs: log-likelihood ratios with H drivers, shape (..., H); NaN never passes.
        thresholds: `scoring.accept_llr` for the speech that they rest on, broadcast to (...).
        ambiguity_llr: `Calibration.ambiguity_llr`.

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
    """Which segment decides each voice of a recording, as the recognizer decides while it listens.

    A voice is known at its first segment that passes. Once one voice of an utterance is known, the
    rest of that utterance is not judged: a later voice in it is never known.

    Args:
        passed: `passes` for each of K segments, in each of N households, shape (K, N).
        voice: the number of the voice of each segment, ascending, shape (K,).
        utterance: the number of the utterance of each segment, ascending, shape (K,).

    Returns:
        For each of the V voices in each household the deciding segment; K for none. Shape (V, N).
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
    """Conclude from the evidence so far; None while more speech may decide.

    Args:
        evidence: matches of all speech of the utterance so far.
        enrolled: number of enrolled drivers.
        policy: the operating point and its calibration.
        final: the utterance is over, so a verdict is due.

    Returns:
        KNOWN as soon as the best match passes the threshold of this duration and stands clear of
        the runner-up; never over a telephone's band, where strangers pass for drivers. At the end
        of the utterance: AMBIGUOUS when two match and neither stands clear; INSUFFICIENT_SPEECH
        when there was too little speech; POOR_SOUND when the sound is too bad to call anybody a
        stranger; INSUFFICIENT_SPEECH also when the evidence leans towards a driver and the
        calibration knows that longer speech is judged more sharply; otherwise UNKNOWN.
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
    return _verdict(_without_acceptance(evidence, policy.calibration), evidence)


def is_telephone(sound: Sound) -> bool:
    """Whether the sound is of telephone band: it is not judged, because strangers pass in it."""
    return sound.upper_band_db < TELEPHONE_BAND_DB


def _poor_sound(evidence: Evidence) -> str | None:
    """What is wrong with the sound, as a code; None if it can be judged."""
    if evidence.sound is not None and is_telephone(evidence.sound):
        return "telephone_band"
    if evidence.sound is not None and evidence.sound.clipped > CLIPPED_SHARE:
        return "clipped"
    if evidence.snr_db is not None and evidence.snr_db < NOISE_DB:
        return "noise"
    return None


def _without_acceptance(evidence: Evidence, calibration: Calibration) -> Outcome:
    leans = bool(evidence.matches) and evidence.matches[0].llr > 0.0
    longer_is_sharper = evidence.speech_s < calibration.points[-1].speech_s
    return Outcome.INSUFFICIENT_SPEECH if leans and longer_is_sharper else Outcome.UNKNOWN


def _verdict(outcome: Outcome, evidence: Evidence, reason: str | None = None) -> Verdict:
    best = evidence.matches[0] if evidence.matches else None
    return Verdict(
        outcome=outcome,
        driver=best.driver if best and outcome is Outcome.KNOWN else None,
        evidence=evidence,
        probability=probability(best.llr) if best else None,
        reason=reason,
    )
