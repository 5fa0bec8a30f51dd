"""Where every threshold comes from: the fit recovers what synthetic voices were made with."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools import calibrate
from whodrives.audio.blocks import Floats
from whodrives.voice.scoring import RunningModel
from whodrives.voice.types import Calibration, CalibrationPoint

SIZE = 24
CORPORA, PEOPLE, SAID = 3, 9, 8


def unit(vector: np.ndarray) -> Floats:
    """A unit vector."""
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def people(spread: float = 0.9, seed: int = 5) -> list[calibrate.Heard]:
    """People of three corpora whose segments scatter around a voice, and all around one mean."""
    rng = np.random.default_rng(seed)
    shared = unit(rng.normal(size=SIZE))
    found = []
    for corpus in range(CORPORA):
        for number in range(PEOPLE):
            own = unit(rng.normal(size=SIZE))
            person = calibrate.Heard(f"c{corpus}", f"c{corpus}:{number}")
            for enrolled, _ in calibrate.CONDITIONS:
                person.centres[enrolled] = unit(own + 0.3 * shared)
            for _, tested in calibrate.CONDITIONS:
                for _ in range(SAID):
                    scatter = spread * rng.normal(size=(calibrate.LOOKS, SIZE)) / np.sqrt(SIZE)
                    segments = np.stack([unit(own + 0.3 * shared + each) for each in scatter])
                    person.said.append((tested, segments, np.full(calibrate.LOOKS, 1.0)))
            found.append(person)
    return found


@pytest.fixture(scope="module")
def fitted() -> Calibration:
    """A calibration of synthetic people."""
    return calibrate.fitted(people(), "e" * 64)


def test_the_logistic_fit_recovers_the_line_that_made_the_labels() -> None:
    """Scores of two normal distributions of equal spread have a known log-likelihood ratio."""
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.normal(0.6, 0.1, 20_000), rng.normal(0.2, 0.1, 20_000)])
    same = np.repeat([1.0, 0.0], 20_000)
    slope, offset = calibrate.logistic(scores, same, np.full(40_000, 1 / 20_000))
    # ln N(x; 0.6, 0.1) / N(x; 0.2, 0.1) = 40 x - 16
    assert slope == pytest.approx(40, rel=0.05)
    assert offset == pytest.approx(-16, rel=0.05)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(0.01, 0.99))
def test_no_more_than_the_share_lies_above_a_quantile(values: list[float], above: float) -> None:
    """The weight strictly above the threshold never exceeds what was allowed."""
    weights = np.full(len(values), 1 / len(values))
    threshold = calibrate.weighted_quantile(np.array(values), weights, above)
    assert weights[np.array(values) > threshold].sum() <= above + 1e-9


def test_the_thresholds_keep_the_budget_on_the_people_they_were_fitted_on(
    fitted: Calibration,
) -> None:
    """Realised false accepts stay within each promise, and in no corpus beyond its share."""
    rates = calibrate.realised(people(), fitted)
    for name, budget in calibrate.BUDGETS.items():
        assert rates[name]["all"]["fpir"] <= 100 * budget + 0.01
        assert rates[name]["all"]["fnir_6s"] < 5


def test_a_stricter_promise_never_has_a_lower_threshold(fitted: Calibration) -> None:
    """1/1000 asks for at least as much as 1/100, at every duration and household size."""
    for point in fitted.points:
        loose, strict = (np.array(point.accept_llr[name]) for name in ("1/100", "1/1000"))
        assert (strict >= loose).all()


def test_the_excess_asked_for_never_falls_with_more_speech(fitted: Calibration) -> None:
    """Chance among the few long utterances cannot make a late threshold a low one."""
    for name in calibrate.BUDGETS:
        for column in range(len(fitted.households)):
            excess = [(p.accept_llr[name][column] - p.offset) / p.slope for p in fitted.points]
            assert (np.diff(excess) >= -0.01).all()


def test_more_speech_never_asks_for_less_similarity_of_one_voice(fitted: Calibration) -> None:
    """The speaker-change threshold only rises with the speech heard so far."""
    assert (np.diff([point.speaker_change_cosine for point in fitted.points]) >= 0).all()


def test_nearly_no_voice_is_cut_by_its_own_speaker_change_threshold(fitted: Calibration) -> None:
    """A share of about SAME_PERSON of one person's segments counts as somebody else's."""
    said = [(looks, weights) for person in people() for _, looks, weights in person.said]
    cut = 0
    for looks, weights in said:
        voice = RunningModel()
        cut += not all(
            voice.take(each, float(seconds), fitted)
            for each, seconds in zip(looks, weights, strict=True)
        )
    assert cut / len(said) <= 3 * calibrate.SAME_PERSON * (calibrate.LOOKS - 1)


def test_an_utterance_is_cut_where_the_voice_changes(fitted: Calibration) -> None:
    """Calibration judges the parts of an utterance separately, as recognition does."""
    one, other = people()[0], people()[1]
    condition, first, weights = one.said[0]
    mixed = np.concatenate([first[:3], other.said[0][1][:3]])
    spoken = replace(one, said=[(condition, mixed, weights)])
    found = calibrate.utterances([spoken], fitted)
    assert [len(utterance.voices) for utterance in found] == [3, 3]


def test_the_margin_is_what_keeps_look_alikes_apart() -> None:
    """The margin grows until a wrong member that is ahead by a little is not called known."""
    llr = np.full((100, calibrate.LOOKS, 2), 5.0)
    llr[:, :, 1] = 9.0
    weight = np.full(100, 0.01)
    thresholds = np.zeros(calibrate.LOOKS)
    margin = calibrate.ambiguity_margin(llr, weight, thresholds)
    assert margin > 4.0
    member, segment = calibrate.accepted(llr, thresholds, margin)
    assert (member == -1).all()
    assert (segment == calibrate.LOOKS).all()


def test_a_calibration_is_written_as_the_daemon_reads_it(fitted: Calibration) -> None:
    """The manifest's part holds every figure of the calibration."""
    part = calibrate.manifest_part(people(), "e" * 64, "2026-12-01", 2)
    points = [
        CalibrationPoint(speaker_change_cosine=point.pop("same_cosine"), **point)
        for point in part["points"]
    ]
    written = Calibration(
        part["encoder"],
        np.array(part["mean"], np.float32),
        points,
        part["ambiguity_llr"],
        part["households"],
        part["alike_cosine"],
    )
    assert [replace(p, accept_llr={}) for p in written.points] == [
        replace(p, accept_llr={}) for p in fitted.points
    ]
    assert written.ambiguity_llr == fitted.ambiguity_llr
    assert part["measured"]["people"] == {f"c{n}": PEOPLE for n in range(CORPORA)}
