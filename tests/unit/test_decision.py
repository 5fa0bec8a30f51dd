"""Known, unknown, ambiguous or not enough speech: the rule, on evidence made by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whodrives.voice.decision import (
    LEAST_SPEECH_S,
    Policy,
    candidate,
    first_known,
    judge,
    passes,
)
from whodrives.voice.types import Calibration, CalibrationPoint, Evidence, Match, Outcome, Sound

THRESHOLDS = {1.0: 4.0, 2.0: 3.0, 6.0: 2.0}
AMBIGUITY = 3.0
POLICY = Policy(
    Calibration(
        encoder="e" * 64,
        mean=np.zeros(4, np.float32),
        points=tuple(
            CalibrationPoint(s, 20.0, -8.0, 0.0, 0.0, {"1/100": (t,), "1/1000": (t + 2,)})
            for s, t in THRESHOLDS.items()
        ),
        ambiguity_llr=AMBIGUITY,
        households=(3,),
        cohort_max_cosine=0.5,
    ),
    "1/100",
)


FINE = Sound(level_dbfs=-26.0, clipped=0.0, upper_band_db=-20.0)
TELEPHONE = Sound(level_dbfs=-26.0, clipped=0.0, upper_band_db=-75.0)
OVERDRIVEN = Sound(level_dbfs=-6.0, clipped=0.08, upper_band_db=-20.0)


def evidence(
    *llrs: float, speech_s: float = 2.0, snr_db: float = 20.0, sound: Sound = FINE
) -> Evidence:
    """Matches with these ratios, best first."""
    ranked = sorted(llrs, reverse=True)
    matches = tuple(Match(f"d{n}", 0.5, llr) for n, llr in enumerate(ranked))
    return Evidence(matches, speech_s, snr_db, speech_s, sound)


def outcome(found: Evidence, *, final: bool = True) -> Outcome | None:
    """What is concluded in a household of three."""
    verdict = judge(found, 3, POLICY, final=final)
    return verdict.outcome if verdict else None


@pytest.mark.parametrize("speech_s", [1.0, 2.0, 6.0])
def test_a_driver_is_known_from_the_threshold_on(speech_s: float) -> None:
    """At the threshold of this duration known, just below not."""
    threshold = THRESHOLDS[speech_s]
    assert outcome(evidence(threshold, -9, speech_s=speech_s)) is Outcome.KNOWN
    assert outcome(evidence(threshold - 0.01, -9, speech_s=speech_s)) is not Outcome.KNOWN


def test_an_early_look_may_know_but_not_reject() -> None:
    """While the person speaks on, only known is a verdict; everything else waits."""
    assert outcome(evidence(3.5, -9), final=False) is Outcome.KNOWN
    assert outcome(evidence(-9, -9), final=False) is None
    assert outcome(evidence(3.5, 3.4), final=False) is None


def test_two_that_match_alike_are_ambiguous_at_the_end() -> None:
    """Neither stands clear by the ambiguity margin, so neither is named."""
    verdict = judge(evidence(6.0, 6.0 - AMBIGUITY + 0.1), 3, POLICY, final=True)
    assert verdict is not None
    assert (verdict.outcome, verdict.driver) == (Outcome.AMBIGUOUS, None)
    assert outcome(evidence(6.0, 6.0 - AMBIGUITY)) is Outcome.KNOWN


def test_a_runner_up_below_the_threshold_still_makes_it_ambiguous() -> None:
    """What counts is the distance between the two, not whether the second passes as well."""
    assert outcome(evidence(3.2, 2.0)) is Outcome.AMBIGUOUS


def test_evidence_against_everybody_is_unknown() -> None:
    """No profile is more likely than a stranger."""
    assert outcome(evidence(-0.1, -5)) is Outcome.UNKNOWN


def test_a_short_utterance_that_leans_to_a_driver_is_not_called_a_stranger() -> None:
    """More speech could decide, so that is what is asked for; after six seconds it could not."""
    assert outcome(evidence(1.0, -5)) is Outcome.INSUFFICIENT_SPEECH
    assert outcome(evidence(1.0, -5, speech_s=6.0)) is Outcome.UNKNOWN


def test_too_little_speech_decides_nothing() -> None:
    """Below the first calibrated second even perfect evidence names nobody."""
    short = evidence(50.0, -50, speech_s=LEAST_SPEECH_S - 0.01)
    assert outcome(short) is Outcome.INSUFFICIENT_SPEECH
    assert outcome(short, final=False) is None


def test_a_telephone_is_named_and_never_judged() -> None:
    """Strangers pass for drivers over a telephone's band, so nobody is known in it."""
    call = evidence(50.0, -50, sound=TELEPHONE)
    assert outcome(call, final=False) is None
    verdict = judge(call, 3, POLICY, final=True)
    assert verdict is not None
    assert (verdict.outcome, verdict.driver) == (Outcome.POOR_SOUND, None)
    assert verdict.reason == "telephone_band"


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (evidence(-5.0, -6, sound=OVERDRIVEN), "clipped"),
        (evidence(-5.0, -6, snr_db=-3.0), "noise"),
    ],
)
def test_in_bad_sound_nobody_is_called_a_stranger(found: Evidence, reason: str) -> None:
    """It may well be a driver; what is wrong with the sound is said instead."""
    verdict = judge(found, 3, POLICY, final=True)
    assert verdict is not None
    assert (verdict.outcome, verdict.reason) == (Outcome.POOR_SOUND, reason)


@pytest.mark.parametrize("sound", [FINE, OVERDRIVEN])
def test_a_driver_may_be_known_in_bad_sound(sound: Sound) -> None:
    """Noise and clipping cost drivers; they let no strangers in."""
    assert outcome(evidence(9.0, -9, snr_db=-3.0, sound=sound)) is Outcome.KNOWN


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (evidence(3.5, 2.0), "d0"),
        (evidence(0.1, -9), "d0"),
        (evidence(-0.1, -9), None),
        (evidence(3.5, -9), None),
        (evidence(2.0, -9, speech_s=LEAST_SPEECH_S - 0.1), None),
        (evidence(2.0, -9, sound=TELEPHONE), None),
        (evidence(), None),
    ],
    ids=["ambiguous", "leans", "a stranger", "known", "too short", "telephone", "nobody enrolled"],
)
def test_only_who_may_have_spoken_is_asked_about(found: Evidence, wanted: str | None) -> None:
    """A head unit asks about the best match of speech that is not recognised but likely."""
    verdict = judge(found, 3, POLICY, final=True)
    assert verdict is not None
    assert candidate(verdict) == wanted


def test_a_household_of_nobody_knows_nobody() -> None:
    """Without profiles there is no match, no probability and no driver."""
    verdict = judge(evidence(), 0, POLICY, final=True)
    assert verdict is not None
    assert (verdict.outcome, verdict.driver, verdict.probability) == (Outcome.UNKNOWN, None, None)


@given(
    st.lists(st.floats(-60, 60), max_size=5),
    st.floats(0, 30),
    st.booleans(),
)
def test_a_driver_is_named_exactly_when_known(
    llrs: list[float],
    speech_s: float,
    final: bool,  # noqa: FBT001 (hypothesis gives it)
) -> None:
    """For any evidence a name comes with KNOWN alone, and the utterance's end always decides."""
    verdict = judge(evidence(*llrs, speech_s=speech_s), len(llrs), POLICY, final=final)
    assert verdict is not None or not final
    if verdict is not None:
        assert (verdict.driver is not None) == (verdict.outcome is Outcome.KNOWN)
        assert (verdict.reason is not None) == (verdict.outcome is Outcome.POOR_SOUND)


@given(st.lists(st.floats(-60, 60), min_size=1, max_size=5), st.floats(1, 6), st.floats(0, 20))
def test_more_evidence_for_the_best_never_unmakes_it(
    llrs: list[float], speech_s: float, more: float
) -> None:
    """Who is known stays known when only the evidence for that very driver grows."""
    found = evidence(*llrs, speech_s=speech_s)
    best, *rest = (match.llr for match in found.matches)
    if outcome(found) is Outcome.KNOWN:
        assert outcome(evidence(best + more, *rest, speech_s=speech_s)) is Outcome.KNOWN


# --- the rule over arrays -------------------------------------------------------------------------

RATIOS = st.floats(-20, 20, allow_nan=False)


@given(st.lists(RATIOS, min_size=1, max_size=4), st.sampled_from([1.0, 1.4, 2.0, 6.0]))
def test_the_vectorised_rule_accepts_exactly_what_is_judged_known(
    llrs: list[float], speech_s: float
) -> None:
    """`passes` and `judge` are one rule."""
    threshold = float(np.interp(speech_s, list(THRESHOLDS), list(THRESHOLDS.values())))
    # Beyond the largest household that was measured the threshold grows.
    threshold += max(0.0, float(np.log(len(llrs) / 3)))
    accepted = bool(passes(np.array(llrs), threshold, AMBIGUITY))
    verdict = judge(evidence(*llrs, speech_s=speech_s), len(llrs), POLICY, final=False)
    assert accepted == (verdict is not None and verdict.outcome is Outcome.KNOWN)


def test_a_ratio_that_is_no_number_is_never_accepted() -> None:
    """A missing score accepts nobody, whatever the other scores are."""
    assert not passes(np.array([9.0, np.nan]), 4.0, AMBIGUITY)
    assert not passes(np.zeros((2, 0)), 4.0, AMBIGUITY).any()


SEGMENTS = st.lists(
    st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), min_size=1, max_size=12
)


@given(SEGMENTS)
def test_the_sequence_rule_decides_as_a_listener_would(
    drawn: list[tuple[int, bool, bool]],
) -> None:
    """Segment by segment: the first that passes decides, and ends the judging of its utterance."""
    voice = np.cumsum([step > 0 for step, _, _ in drawn])
    utterance = np.cumsum([step > 1 for step, _, _ in drawn])
    passed = np.array([[one, other] for _, one, other in drawn])
    found = first_known(passed, voice, utterance)
    for household in range(2):
        expected: dict[int, int] = {}
        known_in: set[int] = set()
        for k in range(len(drawn)):
            expected.setdefault(int(voice[k]), len(drawn))
            if passed[k, household] and int(utterance[k]) not in known_in:
                known_in.add(int(utterance[k]))
                expected[int(voice[k])] = k
        assert found[:, household].tolist() == list(expected.values())
