"""The arithmetic between embeddings and evidence."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whodrives.domain import Calibration, CalibrationPoint, Floats, Profile
from whodrives.scoring import (
    accept_llr,
    centred,
    centroid,
    compare,
    log_likelihood_ratio,
    pooled,
    probability,
    unit,
)

D = 8


def calibration(mean: float = 0.0, household: int = 3) -> Calibration:
    """Two durations with easy numbers."""
    return Calibration(
        encoder="e" * 64,
        mean=np.full(D, mean, np.float32),
        points=(
            CalibrationPoint(1.0, 10.0, -4.0, {"1/100": 3.0, "1/1000": 5.0}),
            CalibrationPoint(3.0, 20.0, -8.0, {"1/100": 2.0, "1/1000": 4.0}),
        ),
        ambiguity_llr=3.0,
        household=household,
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
    assert float(centred(one, shared) @ centred(other, shared)) < 0.2


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


def test_a_larger_household_needs_more_evidence() -> None:
    """A stranger has a chance against each enrolled driver: the threshold grows by the log."""
    three, six = (accept_llr(1.0, n, calibration(), "1/100") for n in (3, 6))
    assert three == pytest.approx(3.0)
    assert six - three == pytest.approx(math.log(2))


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


@given(st.floats(-1e6, 1e6))
def test_a_probability_stays_a_probability(llr: float) -> None:
    """Any ratio, however extreme, gives a number in [0, 1]."""
    assert 0.0 <= probability(llr) <= 1.0


def test_even_evidence_is_even_odds() -> None:
    """A ratio of one in natural log, zero, is a coin toss; 19 to 1 is 95 %."""
    assert probability(0.0) == 0.5
    assert probability(math.log(19)) == pytest.approx(0.95)


@pytest.mark.parametrize("durations", [(), (2.0, 1.0), (1.0, 1.0)])
def test_a_calibration_out_of_order_is_refused(durations: tuple[float, ...]) -> None:
    """Nothing can be read between points that are missing, doubled or unsorted."""
    points = [CalibrationPoint(s, 1.0, 0.0, {}) for s in durations]
    with pytest.raises(ValueError, match="ascending"):
        Calibration("e", np.zeros(D, np.float32), points, 1.0, 3)
