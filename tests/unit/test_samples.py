"""Which trips give samples: those of one driver from beginning to end, once they are over."""

from dataclasses import replace

import numpy as np
import pytest

from whodrives.adaptation.samples import (
    MOST_HELD,
    MOST_OF_DRIVER,
    MOST_OF_STRANGERS,
    SampleCollector,
)
from whodrives.adaptation.types import AdaptationSample, TripSamples, UnknownSpeech
from whodrives.trip.types import DriverState, SettledBy
from whodrives.voice.decision import Policy
from whodrives.voice.types import Calibration, CalibrationPoint, Evidence, Match, Outcome, Verdict

POINT = CalibrationPoint(3.0, 21.0, -8.7, 0.0, 0.3, {"1/100": (3.4,), "1/1000": (5.5,)})
CALIBRATION = Calibration("ab" * 32, np.zeros(4, np.float32), (POINT,), 2.9, (3,), 0.5)
OPEN = DriverState(1.0, trip_open=True)
ANNA = DriverState(2.0, driver="d-1", trip_open=True)
TOM = DriverState(3.0, driver="d-2", trip_open=True)
OVER = DriverState(9.0)
MARGIN = 12.0


def said(
    driver: str | None, llr: float = MARGIN, speech_s: float = 3.0
) -> tuple[Verdict, AdaptationSample]:
    """An utterance of an enrolled driver, or of an unknown speaker, with its verdict."""
    matches = (Match(driver or "d-1", 0.9, llr if driver else -5.0),)
    evidence = Evidence(matches, speech_s, None, 0.0)
    outcome = Outcome.KNOWN if driver else Outcome.UNKNOWN
    sample = AdaptationSample(np.full(4, 0.5, np.float32), speech_s, None, matches)
    return Verdict(outcome, driver, evidence, None), sample


def told(*story: DriverState | str | None) -> list[TripSamples | UnknownSpeech]:
    """All events of a sequence of trip states and speakers."""
    samples = SampleCollector(Policy(CALIBRATION, "1/100"))
    taught: list[TripSamples | UnknownSpeech] = []
    for item in story:
        if isinstance(item, DriverState):
            taught += samples.follow(item)
        else:
            samples.heard(*said(item), enrolled=1)
    return taught


def test_a_drivers_trip_teaches_when_it_is_over() -> None:
    """The utterance that assigned the driver counts; nothing is returned before the end."""
    assert told(OPEN, "d-1", ANNA, "d-1") == []
    (learn,) = told(OPEN, "d-1", ANNA, "d-1", OVER)
    assert isinstance(learn, TripSamples)
    assert (learn.driver, len(learn.samples), learn.at_s) == ("d-1", 2, OVER.at_s)


@pytest.mark.parametrize(
    "story",
    [
        ("d-1", OPEN, OVER),
        (OPEN, "d-1", OVER),
        (OPEN, ANNA, "d-2", OVER),
        (OPEN, "d-1", ANNA, TOM, "d-2", OVER),
        (OPEN, "d-1", ANNA, OPEN, OVER),
    ],
    ids=["before the trip", "never settled", "a passenger", "two drivers", "forgotten"],
)
def test_other_trips_teach_no_profile(story: tuple[DriverState | str, ...]) -> None:
    """A change of driver, or speech that is not the driver's, gives no samples."""
    assert told(*story) == []


def test_a_trip_teaches_for_itself_alone() -> None:
    """Samples and a change of driver do not carry over to the next trip."""
    taught = told(OPEN, "d-1", ANNA, TOM, OVER, OPEN, "d-1", ANNA, OVER)
    assert [len(event.samples) for event in taught] == [1]


@pytest.mark.parametrize("by", [SettledBy.KEY, SettledBy.HAND])
def test_a_trip_that_was_settled_without_the_voice_teaches(by: SettledBy) -> None:
    """What the voice did not tell, a key or a person did; the speech may be the driver's."""
    chosen = replace(ANNA, settled_by=by)
    (learn, _) = told(OPEN, None, chosen, None, OVER)
    assert isinstance(learn, TripSamples)
    assert (learn.driver, learn.chosen, learn.recognised) == ("d-1", True, False)
    assert len(learn.samples) == 2


def test_a_driver_who_is_barely_known_is_not_missed() -> None:
    """The speech is not clear enough to learn from by itself; the driver was recognised, though."""
    samples = SampleCollector(Policy(CALIBRATION, "1/100"))
    samples.follow(replace(ANNA, settled_by=SettledBy.KEY))
    samples.heard(*said("d-1", llr=4.0), enrolled=1)
    (learn,) = samples.follow(OVER)
    assert isinstance(learn, TripSamples)
    assert (learn.chosen, learn.recognised) == (True, True)


def test_recognised_speech_goes_before_what_was_chosen() -> None:
    """A driver who is recognised learns by the stricter rules, whoever told who drives."""
    (learn, _) = told(OPEN, None, "d-1", replace(ANNA, settled_by=SettledBy.KEY), OVER)
    assert isinstance(learn, TripSamples)
    assert (learn.chosen, len(learn.samples)) == (False, 1)


@pytest.mark.parametrize(
    "story",
    [
        (OPEN, None, replace(ANNA, settled_by=SettledBy.VOICE), OVER),
        (OPEN, TOM, None, replace(ANNA, settled_by=SettledBy.HAND), OVER),
        (OPEN, "d-2", replace(ANNA, settled_by=SettledBy.HAND), OVER),
        (OPEN, replace(OPEN, settled_by=SettledBy.HAND), None, OVER),
    ],
    ids=["by voice", "corrected", "another driver's speech", "nobody enrolled"],
)
def test_a_choice_teaches_only_what_may_be_the_drivers(
    story: tuple[DriverState | str, ...],
) -> None:
    """Speech of another driver, a corrected trip, and a trip of nobody give no samples."""
    assert [event for event in told(*story) if isinstance(event, TripSamples)] == []


def test_a_trip_keeps_few_utterances_of_whom_it_does_not_know() -> None:
    """The memory is bounded however long somebody talks; the newest stay."""
    (learn, _) = told(replace(ANNA, settled_by=SettledBy.KEY), *[None] * 50, OVER)
    assert len(learn.samples) == MOST_HELD


def test_a_barely_known_voice_teaches_nothing() -> None:
    """A known utterance needs the further margins of a sample."""
    samples = SampleCollector(Policy(CALIBRATION, "1/100"))
    for state in (OPEN, ANNA):
        samples.follow(state)
    samples.heard(*said("d-1", llr=4.0), enrolled=1)
    assert samples.follow(OVER) == ()


def test_unknown_voices_are_met_when_the_trip_is_over() -> None:
    """Unknown speech is collected with or without a driver, up to its maximum."""
    (met,) = told(OPEN, None, None, OVER)
    assert isinstance(met, UnknownSpeech)
    assert len(met.samples) == 2
    (met,) = told(OPEN, *[None] * 50, OVER)
    assert len(met.samples) == MOST_OF_STRANGERS


def test_a_trip_keeps_few_of_a_drivers_utterances() -> None:
    """Once there are enough samples, the rest of an utterance is not needed."""
    (learn,) = told(OPEN, ANNA, *["d-1"] * 50, OVER)
    assert len(learn.samples) == MOST_OF_DRIVER
    samples = SampleCollector(Policy(CALIBRATION, "1/100"))
    verdict, sample = said("d-1")
    assert not samples.needs_rest_of(verdict)
    samples.follow(ANNA)
    assert samples.needs_rest_of(verdict)
    for _ in range(MOST_OF_DRIVER):
        samples.heard(verdict, sample, enrolled=1)
    assert not samples.needs_rest_of(verdict)


def test_a_change_of_household_forgets_what_was_said() -> None:
    """Samples were compared with drivers who may not be enrolled any more."""
    samples = SampleCollector(Policy(CALIBRATION, "1/100"))
    samples.follow(ANNA)
    samples.heard(*said("d-1"), enrolled=1)
    samples.heard(*said(None), enrolled=1)
    samples.household_changed(Policy(CALIBRATION, "1/100"))
    assert samples.follow(OVER) == ()
