"""The arithmetic between embeddings and evidence."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from whodrives.audio.blocks import Floats
from whodrives.voice.profile import Profile
from whodrives.voice.scoring import (
    RunningModel,
    accept_llr,
    centroid,
    cohort_mean,
    compare,
    log_likelihood_ratio,
    mean_subtracted,
    one_to_one,
    pooled,
    probability,
    unit,
)
from whodrives.voice.types import Calibration, CalibrationPoint

D = 8


def calibration(mean: float = 0.0) -> Calibration:
    """Two durations with easy numbers."""
    first = {"1/100": (2.0, 3.0), "1/1000": (4.0, 5.0)}
    second = {"1/100": (1.0, 2.0), "1/1000": (3.0, 4.0)}
    return Calibration(
        encoder="e" * 64,
        mean=np.full(D, mean, np.float32),
        points=(
            CalibrationPoint(1.0, 10.0, -4.0, 0.1, 0.2, first),
            CalibrationPoint(3.0, 20.0, -8.0, 0.2, 0.4, second),
        ),
        ambiguity_llr=3.0,
        households=(1, 4),
        cohort_max_cosine=0.5,
    )


def axis(index: int) -> Floats:
    """A unit vector along one axis."""
    return np.asarray(np.eye(D, dtype=np.float32)[index])


vectors = st.lists(st.floats(-1, 1, width=32), min_size=D, max_size=D).map(
    lambda values: np.array(values, np.float32)
)


@given(vectors)
def test_a_unit_vector_has_length_one_or_is_refused(vector: Floats) -> None:
    """Nothing in between: a vector without direction raises."""
    try:
        assert np.linalg.norm(unit(vector)) == pytest.approx(1.0, abs=1e-5)
    except ValueError:
        assert np.linalg.norm(vector) < 1e-30


def test_longer_looks_weigh_more_in_the_mean() -> None:
    """Three seconds along one axis and one along another point three times as much to the first."""
    voice = pooled([axis(0), axis(1)], [3.0, 1.0])
    assert voice[0] / voice[1] == pytest.approx(3.0)


@given(st.permutations(range(4)))
def test_the_order_of_looks_does_not_change_the_voice(order: list[int]) -> None:
    """Evidence is a mean, so the order in which it came leaves no trace."""
    weights = [1.0, 2.0, 0.5, 1.5]
    first = pooled([axis(i) for i in range(4)], weights)
    other = pooled([axis(i) for i in order], [weights[i] for i in order])
    np.testing.assert_allclose(first, other, atol=1e-6)


def test_a_centroid_is_the_mean_direction_of_its_windows() -> None:
    """Two windows along two axes give the diagonal between them."""
    profile = Profile("d", np.stack([axis(0), axis(1)]), "e" * 64, 4.0)
    np.testing.assert_allclose(centroid(profile)[:2], [math.sqrt(0.5)] * 2, atol=1e-6)


def test_what_all_voices_share_does_not_count() -> None:
    """Two voices that agree only in what the mean voice is too become unlike."""
    shared = calibration(mean=0.3)
    one, other = (
        unit(shared.mean + np.float32(0.5) * axis(0)),
        unit(shared.mean + np.float32(0.5) * axis(1)),
    )
    assert float(one @ other) > 0.7
    assert float(mean_subtracted(one, shared) @ mean_subtracted(other, shared)) < 0.2


@pytest.mark.parametrize(
    ("speech_s", "slope", "offset"),
    [(0.5, 10.0, -4.0), (1.0, 10.0, -4.0), (2.0, 15.0, -6.0), (3.0, 20.0, -8.0), (9.0, 20.0, -8.0)],
)
def test_the_ratio_is_read_between_calibrated_durations(
    speech_s: float, slope: float, offset: float
) -> None:
    """Slope and offset are interpolated; beyond the ends the nearest duration holds."""
    ratio = log_likelihood_ratio(0.6, speech_s, calibration())
    assert ratio == pytest.approx(slope * 0.6 + offset)


@pytest.mark.parametrize(("enrolled", "threshold"), [(0, 2.0), (1, 2.0), (2, 2.5), (4, 3.0)])
def test_a_threshold_is_read_between_measured_households(enrolled: int, threshold: float) -> None:
    """Over the logarithm of their size, since a stranger's chances multiply."""
    assert accept_llr(1.0, enrolled, calibration(), "1/100") == pytest.approx(threshold)


def test_a_household_larger_than_any_measured_needs_more_evidence() -> None:
    """A stranger has a chance against each enrolled driver: the threshold grows by the log."""
    four, eight = (accept_llr(1.0, n, calibration(), "1/100") for n in (4, 8))
    assert eight - four == pytest.approx(math.log(2))


def test_the_stricter_promise_needs_more_evidence() -> None:
    """One in a thousand asks for more than one in a hundred, at every duration."""
    for speech_s in (1.0, 2.0, 3.0):
        thresholds = [accept_llr(speech_s, 3, calibration(), p) for p in ("1/100", "1/1000")]
        assert thresholds[0] < thresholds[1]


def test_the_best_match_comes_first_and_ties_by_id() -> None:
    """The ranking depends on scores and ids, never on who was enrolled first."""
    household = [("c", axis(1)), ("b", axis(0)), ("a", axis(1))]
    ranked = compare(unit(axis(0) + np.float32(0.5) * axis(1)), 1.0, household, calibration())
    assert [match.driver for match in ranked] == ["b", "a", "c"]


@given(st.lists(st.tuples(vectors, st.floats(0.1, 20.0)), min_size=2, max_size=6))
def test_one_to_one_is_a_household_of_one_for_each(voices: list[tuple[Floats, float]]) -> None:
    """Comparing with many at once gives what comparing with each alone gives."""
    assume(all(np.linalg.norm(vector) > 0.1 for vector, _ in voices))
    centres = np.stack([unit(vector) for vector, _ in voices])
    seconds = np.array([speech_s for _, speech_s in voices])
    ratios = one_to_one(centres[0], seconds[0], centres[1:], seconds[1:], calibration())
    for centre, speech_s, ratio in zip(centres[1:], seconds[1:], ratios, strict=True):
        shorter_s = min(seconds[0], speech_s)
        (match,) = compare(centres[0], shorter_s, [("d", centre)], calibration())
        assert ratio == pytest.approx(match.llr, abs=1e-9)


@given(st.floats(-1e6, 1e6))
def test_a_probability_stays_a_probability(llr: float) -> None:
    """Any ratio, however extreme, gives a number in [0, 1]."""
    assert 0.0 <= probability(llr) <= 1.0


def test_even_evidence_is_even_odds() -> None:
    """A ratio of one in natural log, zero, is a coin toss; 19 to 1 is 95 %."""
    assert probability(0.0) == 0.5
    assert probability(math.log(19)) == pytest.approx(0.95)


# --- the household as a cohort --------------------------------------------------------------------

scores = st.lists(st.floats(-1, 1), min_size=1, max_size=6)


def _usual(cosines: list[float], similarity: np.ndarray | None = None) -> np.ndarray:
    """The cohort mean of these cosines, with dissimilar drivers or the given similarity."""
    alike = np.eye(len(cosines)) if similarity is None else similarity
    return np.asarray(cohort_mean(np.array(cosines), alike, 0.1, 0.5))


def test_a_driver_alone_is_compared_with_people_in_general() -> None:
    """In a household of one there is nobody else to compare with."""
    assert _usual([0.7]).tolist() == [0.1]


def test_what_the_others_score_is_usual() -> None:
    """The mean of the others' cosines and of people in general; never the driver's own."""
    np.testing.assert_allclose(_usual([0.9, 0.3, 0.2]), [0.2, 0.4, 1.3 / 3])


def test_twins_do_not_push_each_other_down() -> None:
    """Two similar profiles are left out of each other's cohort."""
    similarity = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(_usual([0.9, 0.8, 0.3], similarity)[:2], [0.2, 0.2])


def test_twins_stay_twins_when_they_have_learned() -> None:
    """What was learned may part two voices a little: they push each other down no more for it."""
    anna, twin = axis(0), unit(axis(0) + axis(1))
    parted = unit(axis(0) + np.float32(2.5) * axis(1))
    assert anna @ twin >= calibration().cohort_max_cosine > anna @ parted
    learned = [("anna", anna), ("twin", parted)]
    alone, both, by_learned = (
        compare(anna, 1.0, [("anna", anna)], calibration())[0],
        compare(anna, 1.0, learned, calibration(), [anna, twin])[0],
        compare(anna, 1.0, learned, calibration())[0],
    )
    assert both.llr == pytest.approx(alone.llr)
    assert by_learned.llr < alone.llr


@given(st.lists(vectors.filter(lambda v: float(np.linalg.norm(v)) > 0.1), min_size=2, max_size=5))
def test_before_anybody_has_learned_the_anchors_change_nothing(rows: list[Floats]) -> None:
    """They are then what is compared with."""
    voices = [unit(row) for row in rows]
    named = [(str(n), voice) for n, voice in enumerate(voices)]
    said = [compare(voices[0], 1.0, named, calibration(), a) for a in ((), voices)]
    assert said[0] == said[1]


@given(scores, st.randoms())
def test_the_order_of_enrolment_does_not_matter(cosines: list[float], random: object) -> None:
    """Whoever is enrolled first, everybody's score is the same."""
    order = list(range(len(cosines)))
    random.shuffle(order)  # type: ignore[attr-defined]
    straight, shuffled = _usual(cosines), _usual([cosines[i] for i in order])
    np.testing.assert_allclose(straight[order], shuffled, atol=1e-12)


@given(scores, st.floats(0, 1))
def test_being_more_like_another_driver_never_helps(cosines: list[float], more: float) -> None:
    """A voice that comes closer to the others without coming closer to you is less yours."""
    closer = [cosines[0], *(cosine + more for cosine in cosines[1:])]
    assert _usual(closer)[0] >= _usual(cosines)[0] - 1e-12


def test_a_stranger_who_is_like_everybody_scores_less_than_a_driver_like_one() -> None:
    """The same cosine weighs less when the rest of the household scores nearly as much."""
    household = [("a", axis(0)), ("b", axis(1)), ("c", axis(2))]
    everybody = unit(axis(0) + axis(1) + axis(2) + axis(3))
    one = unit(axis(0) + np.sqrt(np.float32(3)) * axis(3))
    assert everybody[0] == pytest.approx(one[0])
    like_all, like_one = (compare(v, 1.0, household, calibration()) for v in (everybody, one))
    assert like_all[0].llr < like_one[0].llr


# --- one voice, or two ----------------------------------------------------------------------------


def test_a_segment_that_is_unlike_the_voice_so_far_is_not_added_to_it() -> None:
    """A segment less similar than nearly all seconds of one person is somebody else's."""
    voice = RunningModel()
    assert voice.take(axis(0), 1.0, calibration())
    assert not voice.take(axis(1), 1.0, calibration())
    assert voice.speech_s == 1.0
    assert voice.take(unit(axis(0) + axis(1)), 1.0, calibration())
    assert voice.speech_s == 2.0


def test_a_segment_too_short_to_compare_is_added() -> None:
    """Half a word is too little to tell that somebody else speaks."""
    voice = RunningModel()
    assert voice.take(axis(0), 1.0, calibration())
    assert voice.take(axis(1), 0.5, calibration())


def test_a_threshold_for_many_durations_is_each_one_s_threshold() -> None:
    """The vectorised threshold is the one of each duration alone."""
    durations = np.array([0.5, 1.0, 1.7, 3.0, 9.0])
    together = accept_llr(durations, 4, calibration(), "1/100")
    alone = [float(accept_llr(float(s), 4, calibration(), "1/100")) for s in durations]
    assert together.tolist() == alone


@pytest.mark.parametrize("households", [(), (2, 1), (0, 1)])
def test_a_calibration_without_households_in_order_is_refused(households: tuple[int, ...]) -> None:
    """A threshold could not be read between them."""
    with pytest.raises(ValueError, match="household"):
        replace(calibration(), households=households)


def test_a_calibration_with_a_threshold_too_few_is_refused() -> None:
    """Each household needs its own."""
    point = replace(calibration().points[0], accept_llr={"1/100": (1.0,)})
    with pytest.raises(ValueError, match="threshold"):
        replace(calibration(), points=[point])


@pytest.mark.parametrize("durations", [(), (2.0, 1.0), (1.0, 1.0)])
def test_a_calibration_out_of_order_is_refused(durations: tuple[float, ...]) -> None:
    """Nothing can be read between points that are missing, doubled or unsorted."""
    points = [CalibrationPoint(s, 1.0, 0.0, 0.0, 0.0, {}) for s in durations]
    with pytest.raises(ValueError, match="ascending"):
        Calibration("e", np.zeros(D, np.float32), points, 1.0, (3,), 0.5)
