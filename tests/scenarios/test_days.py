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
from whodrives.trip.types import Choose, DriverState
from whodrives.vehicle.state import VehicleReport
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

    def trip(
        self, day: int, sound: Sound, key: str | None = None, chosen: str | None = None
    ) -> Sequence[Event]:
        """A trip from sitting down to opening the door; what it taught is put into the store."""
        self._monkeypatch.setattr(learning, "today", lambda: day)
        end_s = len(sound) / 16_000
        told = car({0.0: {"key": key}, end_s - 0.5: {"door_open": True}}, end_s)
        chose = [] if chosen is None else [Choose(1.1, "c1", chosen)]
        news: list[VehicleReport | Choose] = sorted([*told, *chose], key=lambda each: each.at_s)
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


def hoarse(sound: Sound) -> Sound:
    """The same person on a bad day: 12 % lower, and not recognised."""
    return np.asarray(soxr.resample(sound, 14_080, 16_000), np.float32)


def test_a_driver_who_has_to_be_asked_is_recognised_after_three_days(days: Days, say: Say) -> None:
    """The head unit knows whom to ask; a step back brings the enrolled voice back."""
    spoken = hoarse(say("af_bella", 4, 5))
    (before,) = days.household
    asked = [event for event in days.trip(0, spoken) if isinstance(event, DriverState)]
    assert {event.driver for event in asked} == {None}
    assert [event.candidate for event in asked][-2] == before.id
    for day in (1, 2, 3):
        events = days.trip(day, spoken, chosen=before.id)
        assert all(v.outcome is not Outcome.KNOWN for v in verdicts(events))
    (profile,) = days.household
    (step,) = profile.adaptation.revisions
    assert [(trip.day, trip.chosen) for trip in step.trips] == [(1, True), (2, True), (3, True)]
    known = verdicts(days.trip(4, hoarse(say("af_bella", 6, 5))))
    assert [verdict.driver for verdict in known] == [profile.id] * len(known)
    days.store.change("Bella", lambda changed: following.rolled_back(changed)[0])
    assert all(v.outcome is not Outcome.KNOWN for v in verdicts(days.trip(5, spoken)))


def test_somebody_else_with_the_key_teaches_nothing_and_is_told(days: Days, say: Say) -> None:
    """A week of another voice; the installer hears of a driver who is never recognised."""
    days.store.set_key("Bella", "4f1a")
    for day in range(7):
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
