"""What trips taught, in a real sealed store: kept, shown, undone, and never in the log."""

import logging
from pathlib import Path

import numpy as np
import pytest

from whodrives.adaptation import following
from whodrives.adaptation.types import AdaptationSample, TripSamples, UnknownSpeech
from whodrives.audio.blocks import Floats
from whodrives.config.schema import Vehicle
from whodrives.errors import ProfileError
from whodrives.service import learning
from whodrives.service.learning import Learning, forget
from whodrives.store.profiles import ProfileStore, missed
from whodrives.voice.profile import Adaptation, Profile
from whodrives.voice.scoring import unit
from whodrives.voice.types import Calibration, CalibrationPoint

ENCODER = "ab" * 32
D = 32
POINT = CalibrationPoint(3.0, 21.0, -8.7, 0.0, 0.3, {"1/100": (3.4,), "1/1000": (5.5,)})
CALIBRATION = Calibration(ENCODER, np.zeros(D, np.float32), (POINT,), 2.9, (3,), 0.5)


def near(who: int, take: int) -> Floats:
    """One take of somebody's voice."""
    base, other = (
        unit(np.random.default_rng(n).normal(size=D).astype(np.float32))
        for n in (who, 1000 * who + take)
    )
    return unit(base + np.float32(0.3) * other)


def samples(who: int, day: int) -> tuple[AdaptationSample, ...]:
    """What somebody said in a trip."""
    return tuple(AdaptationSample(near(who, 10 * day + n), 3.0, 15.0, ()) for n in range(2))


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    """A store with one driver in it."""
    store = ProfileStore(tmp_path / "profiles", tmp_path / "key", ENCODER, Vehicle().signals, "car")
    store.save("Anna", np.stack([near(1, 900 + n) for n in range(9)]), 16.0)
    return store


class Car:
    """Days of trips."""

    def __init__(
        self, store: ProfileStore, monkeypatch: pytest.MonkeyPatch, *, remember: bool = True
    ) -> None:
        self.store = store
        self._monkeypatch = monkeypatch
        self.learning = Learning(store, CALIBRATION, remember_guests=remember)

    @property
    def household(self) -> tuple[Profile, ...]:
        """Everybody who is enrolled now."""
        return tuple(stored.profile for stored in self.store.load().profiles)

    def day(self, day: int) -> None:
        """The calendar is on this day."""
        self._monkeypatch.setattr(learning, "today", lambda: day)

    def trip(self, day: int, who: int) -> bool:
        """A trip of the driver's in which somebody spoke; whether the profile learned."""
        self.day(day)
        (driver,) = self.household
        return self.learning.learn(TripSamples(0.0, driver.id, samples(who, day)), self.household)

    def guest(self, day: int, who: int) -> int | None:
        """A trip in which an unknown voice spoke; the number of offers, None if nothing is said."""
        self.day(day)
        said = self.learning.meet(UnknownSpeech(0.0, samples(who, day)), self.household)
        return None if said is None else len(said.offers)

    def tidy(self, day: int) -> int:
        """The start of the daemon on a day; the number of offers."""
        self.day(day)
        return len(self.learning.tidy(self.household, 0.0).offers)


@pytest.fixture
def car(store: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> Car:
    """A car that keeps guests."""
    return Car(store, monkeypatch)


def test_a_profile_learns_over_days_and_the_file_holds_it(car: Car) -> None:
    """Each trip is on disk when it is over; the third one makes a step."""
    assert [car.trip(day, 1) for day in (1, 2, 3)] == [False, False, True]
    (profile,) = car.household
    (step,) = profile.adaptation.revisions
    assert [trip.day for trip in step.trips] == [1, 2, 3]
    assert np.array_equal(profile.embeddings, np.stack([near(1, 900 + n) for n in range(9)]))


def test_a_driver_told_by_a_key_is_learned_without_the_passenger(car: Car) -> None:
    """Of the voices of a trip the driver's is kept; where it comes from is kept with it."""
    (driver,) = car.household
    for day in (1, 2, 3):
        car.day(day)
        said = TripSamples(0.0, driver.id, (*samples(1, day), *samples(2, day)), chosen=True)
        learned = car.learning.learn(said, car.household)
    assert learned
    (profile,) = car.household
    (step,) = profile.adaptation.revisions
    assert [(trip.day, trip.chosen, trip.speech_s) for trip in step.trips] == [
        (day, True, 6.0) for day in (1, 2, 3)
    ]


def test_a_driver_who_is_never_recognised_is_told_with_the_fix(car: Car) -> None:
    """After three such trips; a recognition, or a step back, begins the count anew."""
    (driver,) = car.household

    def told() -> list[str]:
        return list(missed(car.store.load().profiles))

    def drive(day: int) -> None:
        car.day(day)
        said = TripSamples(0.0, driver.id, samples(2, day), chosen=True, recognised=False)
        car.learning.learn(said, car.household)

    for day in (1, 2):
        drive(day)
    assert told() == []
    drive(3)
    (found,) = told()
    assert "last 3 trips" in found
    assert f"whodrives enrol {driver.id} --again" in found
    car.store.recognised(driver.id)
    assert told() == []
    for day in (4, 5, 6):
        drive(day)
    assert len(told()) == 1
    car.trip(7, 1)
    assert told() == []


def test_a_step_is_undone_on_disk_exactly(car: Car) -> None:
    """The voice that is compared with is the one before, to the last bit."""
    (before,) = car.household
    for day in (1, 2, 3):
        car.trip(day, 1)
    car.store.change("Anna", lambda profile: following.rolled_back(profile)[0])
    (back,) = car.household
    assert back.adaptation == before.adaptation
    assert np.array_equal(
        following.speaker_model(back, CALIBRATION), following.speaker_model(before, CALIBRATION)
    )


def test_somebody_elses_voice_changes_nothing(car: Car) -> None:
    """Even if the trip was settled on the driver every day."""
    assert not any(car.trip(day, 2) for day in range(20))
    (profile,) = car.household
    assert profile.adaptation == Adaptation()


def test_a_driver_who_was_forgotten_meanwhile_is_no_error(
    car: Car, caplog: pytest.LogCaptureFixture
) -> None:
    """The trip's sample comes too late; the log says so without a name."""
    (driver,) = car.household
    car.store.forget("Anna")
    late = Learning(car.store, CALIBRATION, remember_guests=False)
    assert not late.learn(TripSamples(0.0, driver.id, samples(1, 1)), ())
    assert "not_learned" in caplog.text
    assert "Anna" not in caplog.text


def test_a_guest_is_kept_sealed_and_offered(car: Car, tmp_path: Path) -> None:
    """Between trips the guest is in one file that says nothing without the key."""
    assert [car.guest(day, 5) for day in (1, 2, 3)] == [0, 0, 1]
    (book,) = (tmp_path / "profiles").glob("guests*")
    (guest,) = car.store.load_guests()
    assert guest.id.encode() not in book.read_bytes()
    assert near(5, 10).tobytes() not in book.read_bytes()
    assert car.tidy(4) == 1


def test_a_guest_who_stays_away_is_forgotten_on_disk(car: Car, tmp_path: Path) -> None:
    """Also when nobody else is met: at the start of the daemon."""
    car.guest(1, 5)
    assert car.tidy(100) == 0
    assert list((tmp_path / "profiles").glob("guests*")) == []


def test_a_guest_who_is_enrolled_leaves_the_book(car: Car, tmp_path: Path) -> None:
    """The voice is the driver's now, and nowhere else."""
    for day in (1, 2, 3):
        car.guest(day, 5)
    car.store.save("Tom", np.stack([near(5, n) for n in range(9)]), 16.0)
    assert car.tidy(3) == 0
    assert list((tmp_path / "profiles").glob("guests*")) == []


def test_without_the_option_no_guest_is_kept_and_an_old_book_is_erased(
    store: ProfileStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Switching it off is enough to be forgotten."""
    Car(store, monkeypatch).guest(1, 5)
    shy = Car(store, monkeypatch, remember=False)
    assert shy.guest(2, 6) is None
    assert shy.tidy(2) == 0
    assert list((tmp_path / "profiles").glob("guests*")) == []


@pytest.mark.parametrize("harm", [lambda b: b[:-1], lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_a_book_that_was_changed_is_refused_and_left(
    car: Car, tmp_path: Path, harm: object, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not overwritten by an empty one: somebody may have the key or the backup."""
    assert callable(harm)
    car.guest(1, 5)
    (book,) = (tmp_path / "profiles").glob("guests*")
    damaged = harm(book.read_bytes())
    book.write_bytes(damaged)
    with pytest.raises(ProfileError, match="guest book"):
        car.store.load_guests()
    assert car.guest(2, 5) is None
    assert book.read_bytes() == damaged
    assert "guests_not_kept" in caplog.text


def test_a_book_that_can_never_be_used_is_set_aside_and_a_new_one_begun(
    car: Car, tmp_path: Path
) -> None:
    """Nobody has to fix a car: the driver goes on, and guests are met again."""
    car.guest(1, 5)
    (book,) = (tmp_path / "profiles").glob("guests*")
    book.write_bytes(book.read_bytes()[:-1])
    car.store.set_aside()
    assert [path.name for path in (tmp_path / "profiles").glob("guests*")] == [
        "guests.sealed.rejected"
    ]
    assert len(car.household) == 1
    assert [car.guest(day, 5) for day in (2, 3, 4)] == [0, 0, 1]


def test_a_good_book_is_not_set_aside(car: Car, tmp_path: Path) -> None:
    """It is no profile, and no fault."""
    car.guest(1, 5)
    car.store.set_aside()
    assert [path.name for path in (tmp_path / "profiles").glob("guests*")] == ["guests.sealed"]


def test_an_offered_guest_can_be_enrolled_by_its_pseudonym(
    car: Car, store: ProfileStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The voice of all the trips; nobody is found under another name, or once guests are off."""
    for day in (1, 2, 3):
        car.guest(day, 5)
    (guest,) = car.store.load_guests()
    voice = car.learning.guest(guest.id)
    assert voice is not None
    saved = store.save("Tom", voice.embeddings, voice.speech_s)
    assert saved.profile.speech_s == 18.0
    assert car.tidy(3) == 0
    assert car.learning.guest("g-00000000") is None
    assert Learning(store, CALIBRATION, remember_guests=False).guest(guest.id) is None
    assert caplog.text == ""


@pytest.mark.parametrize("wrong", ["1970-01-01", "2106-02-07"])
def test_nothing_is_learned_or_lost_while_the_clock_cannot_be_right(
    car: Car,
    store: ProfileStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wrong: str,
) -> None:
    """No guest is forgotten for an age that a wrong clock made up, and no trip gets its day."""
    today = learning.today
    car.guest(739_900, 5)
    before = store.load()
    monkeypatch.setattr(learning, "now", lambda: f"{wrong}T00:00:00+00:00")
    monkeypatch.setattr(learning, "today", today)
    (driver,) = car.household
    assert not car.learning.learn(TripSamples(0.0, driver.id, samples(1, 1)), car.household)
    assert car.learning.meet(UnknownSpeech(0.0, samples(5, 1)), car.household) is None
    car.learning.tidy(car.household, 0.0)
    assert str(store.load()) == str(before)
    assert [guest.last_day for guest in store.load_guests()] == [739_900]
    assert "the machine's clock cannot be right" in caplog.text


def test_who_is_forgotten_is_in_the_guest_book_no_more(car: Car, store: ProfileStore) -> None:
    """A driver whom noise had made a guest too; other guests stay, and the receipt says so."""
    car.guest(1, 5)
    car.guest(2, 6)
    store.save("Tom", np.stack([near(5, n) for n in range(9)]), 16.0)
    receipt = forget(store, "tom", CALIBRATION)
    assert "1 of the guest book, of the same voice" in receipt.erased
    assert len(store.load_guests()) == 1
    assert "guest book" not in " ".join(forget(store, "Anna", CALIBRATION).erased)


def test_a_book_that_cannot_be_read_does_not_keep_a_driver_from_being_forgotten(
    car: Car, store: ProfileStore, tmp_path: Path
) -> None:
    """Erasing comes first."""
    car.guest(1, 5)
    (tmp_path / "profiles" / "guests.sealed").write_bytes(b"damaged")
    forget(store, "Anna", CALIBRATION)
    assert store.load().profiles == ()


def test_a_receipt_says_what_was_learned(car: Car) -> None:
    """Whoever is forgotten is told of all that was kept."""
    for day in (1, 2, 3, 4):
        car.trip(day, 1)
    receipt = car.store.forget("Anna")
    assert "the adaptation, from 3 trips, and 1 trips in quarantine" in receipt.erased


def test_the_voice_before_comes_back_without_what_another_taught(car: Car) -> None:
    """Steps were learned of the voice that is given up."""
    car.store.save("Anna", np.stack([near(1, 950 + n) for n in range(9)]), 16.0, replace=True)
    for day in (1, 2, 3):
        car.trip(day, 1)
    assert car.household[0].adaptation != Adaptation()
    assert car.store.restore("Anna").profile.adaptation == Adaptation()


def test_the_log_tells_no_name_and_no_voice(car: Car, caplog: pytest.LogCaptureFixture) -> None:
    """Numbers and pseudonyms only, at the most talkative level."""
    with caplog.at_level(logging.DEBUG):
        for day in (1, 2, 3):
            car.trip(day, 1)
            car.guest(day, 5)
    assert "Anna" not in caplog.text
    assert not any(f"{number:.4f}" in caplog.text for number in near(1, 10)[:8])
    assert "array" not in repr(TripSamples(0.0, "d-1", samples(1, 1)))
