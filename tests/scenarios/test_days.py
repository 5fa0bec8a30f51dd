"""Several days with real voices, through the real recognizer, into a real sealed store."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soxr

from tests.scenarios.stage import MODELS, Sound, Stage, car, verdicts
from whodrives.adaptation import following, guests
from whodrives.adaptation.types import TripSamples, UnknownSpeech
from whodrives.config.schema import Vehicle
from whodrives.core.events import Event
from whodrives.models.calibration import load_calibration
from whodrives.service import learning
from whodrives.service.learning import Learning
from whodrives.store.profiles import ProfileStore, missed
from whodrives.trip.types import DriverState
from whodrives.voice.profile import Adaptation, Profile
from whodrives.voice.types import Outcome

pytestmark = pytest.mark.much_speech

CALIBRATION = load_calibration(MODELS)
Say = Callable[..., Sound]


class Days:
    """A car with one driver, and what its trips teach."""

    def __init__(self, stage: Stage, store: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self._stage = stage
        self._monkeypatch = monkeypatch
        self._learning = Learning(store, CALIBRATION, remember_guests=True)
        self.store = store

    @property
    def household(self) -> tuple[Profile, ...]:
        """Everybody who is enrolled now."""
        return tuple(stored.profile for stored in self.store.load().profiles)

    def trip(self, day: int, sound: Sound, key: str | None = None) -> Sequence[Event]:
        """A trip from sitting down to opening the door; what it taught is put into the store."""
        self._monkeypatch.setattr(learning, "today", lambda: day)
        end_s = len(sound) / 16_000
        news = car({0.0: {"key": key}, end_s - 0.5: {"door_open": True}}, end_s)
        events = self._stage.play(self.household, sound, news)
        for event in events:
            if isinstance(event, TripSamples):
                self._learning.learn(event, self.household)
            elif isinstance(event, UnknownSpeech):
                self._learning.meet(event, self.household)
        return events


@pytest.fixture
def days(stage: Stage, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Days:
    """The car of somebody who has just been enrolled."""
    encoder, limits = CALIBRATION.encoder, Vehicle().signals
    store = ProfileStore(tmp_path / "profiles", tmp_path / "key", encoder, limits, "car")
    enrolled = stage.enrol("d-1", [say("af_bella", 1, 2, 3)])
    store.save("Bella", enrolled.embeddings, enrolled.speech_s)
    return Days(stage, store, monkeypatch)


def test_three_days_of_a_drivers_speech_make_a_step(days: Days, say: Say) -> None:
    """From sound to the sealed file; and the profile still knows its driver."""
    for day in (1, 2, 3):
        days.trip(day, say("af_bella", 4, 5))
    (profile,) = days.household
    (step,) = profile.adaptation.revisions
    assert [trip.day for trip in step.trips] == [1, 2, 3]
    assert any(isinstance(event, TripSamples) for event in days.trip(4, say("af_bella", 6, 5)))


def lower(sound: Sound, share: float) -> Sound:
    """The same person on another day: the voice is lower by this share."""
    return np.asarray(soxr.resample(sound, 16_000 * (1 - share), 16_000), np.float32)


def test_a_head_unit_is_told_whom_to_ask(days: Days, say: Say) -> None:
    """The driver is not recognised; the trip shows who it may be, and nobody drives it."""
    (bella,) = days.household
    events = days.trip(1, lower(say("af_bella", 4, 5), 0.12))
    assert all(verdict.outcome is not Outcome.KNOWN for verdict in verdicts(events))
    shown = [event for event in events if isinstance(event, DriverState)]
    assert {event.driver for event in shown} == {None}
    assert [event.candidate for event in shown][-2:] == [bella.id, None]


def test_a_barely_known_driver_is_well_known_after_three_days_with_the_key(
    days: Days, say: Say
) -> None:
    """Speech that is too unclear to learn from by itself; a step back is exact."""
    days.store.set_key("Bella", "4f1a")
    spoken = lower(say("af_bella", 4, 5), 0.095)

    def heard(day: int, key: str | None = None) -> list[float]:
        events = days.trip(day, spoken, key)
        return [verdict.evidence.matches[0].llr for verdict in verdicts(events)]

    before = heard(1)
    for day in (2, 3, 4):
        assert heard(day, "4f1a") == before
    (profile,) = days.household
    (step,) = profile.adaptation.revisions
    assert [(trip.day, trip.chosen) for trip in step.trips] == [(2, True), (3, True), (4, True)]
    assert all(now > was + 1.0 for was, now in zip(before, heard(5), strict=True))
    days.store.change("Bella", lambda changed: following.rolled_back(changed)[0])
    assert heard(6) == before


def test_somebody_else_with_the_key_teaches_nothing_and_is_told(days: Days, say: Say) -> None:
    """A week of another voice; the installer hears of a driver who is never recognised."""
    days.store.set_key("Bella", "4f1a")
    for day in range(1, 8):
        days.trip(day, say("bm_george", 1, 2, 3), key="4f1a")
    (profile,) = days.household
    assert (profile.adaptation.revisions, profile.adaptation.pending) == ((), ())
    (told,) = missed(days.store.load().profiles)
    assert f"whodrives enrol {profile.id} --again" in told


def test_a_stranger_who_drives_for_days_becomes_a_guest_and_no_driver(days: Days, say: Say) -> None:
    """The guest book knows one more person, and the profile has learned nothing."""
    for day in (1, 2, 3):
        days.trip(day, say("bm_george", 1, 2, 3))
    (profile,) = days.household
    assert profile.adaptation == Adaptation()
    (offer,) = guests.offers(days.store.load_guests())
    assert offer.trips == 3
