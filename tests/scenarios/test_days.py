"""Several days with real voices, through the real recognizer, into a real sealed store."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.scenarios.stage import MODELS, Sound, Stage, car
from whodrives.adaptation import guests
from whodrives.adaptation.types import TripSamples, UnknownSpeech
from whodrives.config.schema import Vehicle
from whodrives.core.events import Event
from whodrives.models.calibration import load_calibration
from whodrives.service import learning
from whodrives.service.learning import Learning
from whodrives.store.profiles import ProfileStore
from whodrives.voice.profile import Adaptation, Profile

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

    def trip(self, day: int, sound: Sound) -> Sequence[Event]:
        """A trip from sitting down to opening the door; what it taught is put into the store."""
        self._monkeypatch.setattr(learning, "today", lambda: day)
        end_s = len(sound) / 16_000
        news = car({end_s - 0.5: {"door_open": True}}, end_s)
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


def test_a_stranger_who_drives_for_days_becomes_a_guest_and_no_driver(days: Days, say: Say) -> None:
    """The guest book knows one more person, and the profile has learned nothing."""
    for day in (1, 2, 3):
        days.trip(day, say("bm_george", 1, 2, 3))
    (profile,) = days.household
    assert profile.adaptation == Adaptation()
    (offer,) = guests.offers(days.store.load_guests())
    assert offer.trips == 3
