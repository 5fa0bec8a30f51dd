"""Who is speaking, given growing evidence: known, unknown, ambiguous, or not enough speech.

Owns the rule. Every look at an utterance is another chance for a stranger to be taken for a
driver, so the thresholds, which the calibration brings, share one error budget between all looks
of an utterance (Pocock, "Group sequential methods in the design and analysis of clinical trials",
1977). Knows nothing of audio or of the car.
"""

from __future__ import annotations

from dataclasses import dataclass

from whodrives.domain import (
    Calibration,
    Evidence,
    Match,
    OperatingPoint,
    Outcome,
    Sound,
    Verdict,
)
from whodrives.scoring import accept_llr, probability

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
    threshold = accept_llr(evidence.speech_s, enrolled, policy.calibration, policy.operating_point)
    judged = evidence.sound is None or not is_telephone(evidence.sound)
    accepted = judged and bool(evidence.matches) and evidence.matches[0].llr >= threshold
    if accepted and _stands_clear(evidence.matches, policy.calibration):
        return _verdict(Outcome.KNOWN, evidence)
    if not final:
        return None
    if accepted:
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


def _stands_clear(matches: tuple[Match, ...], calibration: Calibration) -> bool:
    return len(matches) == 1 or matches[0].llr - matches[1].llr >= calibration.ambiguity_llr


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
