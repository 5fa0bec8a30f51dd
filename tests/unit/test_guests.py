"""The guest book: who is one person, who is forgotten, and that it never grows without end."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whodrives.adaptation import guests
from whodrives.adaptation.guests import (
    MOST_VOICES_A_TRIP,
    RULES,
    Guest,
    is_eligible,
    not_enrolled,
    offers,
    updated,
)
from whodrives.adaptation.types import AdaptationSample
from whodrives.audio.blocks import Floats
from whodrives.voice.profile import AUGMENTATIONS, Profile
from whodrives.voice.scoring import compare, mean_subtracted, pooled, unit
from whodrives.voice.types import Calibration, CalibrationPoint, Match

D = 64
ENCODER = "ab" * 32
POINT = CalibrationPoint(3.0, 21.0, -8.7, 0.0, 0.3, {"1/100": (3.4,), "1/1000": (5.5,)})
CALIBRATION = Calibration(ENCODER, np.zeros(D, np.float32), (POINT,), 2.9, (3,), 0.5)


def direction(seed: int) -> Floats:
    """Somebody's voice: a unit vector."""
    return unit(np.random.default_rng(seed).normal(size=D).astype(np.float32))


def near(base: Floats, seed: int, spread: float = 0.4) -> Floats:
    """The same voice, said a little otherwise."""
    return unit(base + spread * direction(seed))


def says(
    who: int, take: int = 0, speech_s: float = 3.0, snr_db: float | None = 15.0
) -> AdaptationSample:
    """An utterance of somebody whom nobody knows."""
    return AdaptationSample(near(direction(who), 1000 * who + take), speech_s, snr_db, ())


def trip(book: tuple[Guest, ...], day: int, *samples: AdaptationSample) -> tuple[Guest, ...]:
    """The book after a trip; ids are made from the day and what is there."""
    number = len(book) + 100 * day
    names = [f"g-{number + n:08x}" for n in range(MOST_VOICES_A_TRIP)]
    return updated(book, samples, CALIBRATION, day=day, names=names)


def between(one: int, other: int, share: float = 0.5) -> AdaptationSample:
    """An utterance that is a little like two people."""
    return AdaptationSample(
        unit((1 - share) * direction(one) + share * direction(other)), 3.0, None, ()
    )


# --- who is offered ------------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_only_who_drives_rather_than_rides_along_is_offered(with_driver: list[bool]) -> None:
    """The navigation's voice is heard with every driver: it is no guest."""
    book: tuple[Guest, ...] = ()
    for day, accompanied in enumerate(with_driver):
        book = updated(
            book,
            [says(1, day)],
            CALIBRATION,
            day=day,
            names=[f"g-{day:08x}"],
            accompanied=accompanied,
        )
    alone = with_driver.count(False)
    assert bool(offers(book)) == (alone >= 3 and alone >= with_driver.count(True))
    assert guests.unpacked(json.loads(json.dumps(guests.packed(book))))[0].accompanied == (
        with_driver.count(True)
    )


# --- who is one person ---------------------------------------------------------------------------


def test_a_guest_who_comes_back_is_the_same_guest() -> None:
    """One id, and the trips are counted."""
    book: tuple[Guest, ...] = ()
    for day in range(4):
        book = trip(book, day, says(1, day), says(1, 10 + day))
    (guest,) = book
    assert (guest.trips, guest.first_day, guest.last_day) == (4, 0, 3)


def test_two_guests_of_one_trip_are_two() -> None:
    """A passenger is not added to the driver's voice."""
    book = trip((), 0, says(1), says(2), says(1, 1), says(2, 1))
    assert len(book) == 2


@given(st.permutations(range(6)))
def test_the_order_of_what_was_said_in_a_trip_does_not_matter(order: list[int]) -> None:
    """Clustering joins the most similar utterances first, whatever their order."""
    said = [says(n % 3, n) for n in range(6)]
    books = [trip((), 0, *(said[n] for n in numbers)) for numbers in (range(6), order)]
    one, other = ([sorted(map(bytes, g.voices)) for g in book] for book in books)
    assert sorted(one) == sorted(other)


def test_what_is_between_two_guests_is_nobodys() -> None:
    """A doubtful voice neither joins a guest nor becomes a second one of the same person."""
    book = trip((), 0, says(1), says(2))
    later = trip(book, 1, between(1, 50, 0.67))
    assert [(g.id, g.trips) for g in later] == [(g.id, g.trips) for g in book]


def test_two_guests_who_turn_out_to_be_one_become_one() -> None:
    """The id of the first stays; trips and voices are both theirs."""
    elder = Guest("g-0000000a", direction(1)[np.newaxis], (6.0,), 2, 0, 5)
    younger = Guest("g-00000001", near(direction(1), 9, 0.2)[np.newaxis], (6.0,), 1, 3, 3)
    (guest,) = trip((younger, elder), 6, says(1))
    assert (guest.id, guest.trips, guest.first_day, guest.last_day) == ("g-0000000a", 4, 0, 6)
    assert len(guest.voices) == len(guest.speech_s) == 3


@st.composite
def stories(draw: st.DrawFn) -> list[tuple[int, tuple[AdaptationSample, ...]]]:
    """Trips by ascending day, of a few people and of doubtful voices."""
    people = st.integers(1, 9)
    utterance = st.one_of(
        st.builds(says, people, st.integers(0, 50)),
        st.builds(between, people, people, st.sampled_from([0.3, 0.5, 0.6])),
    )
    days = sorted(draw(st.lists(st.integers(0, 200), max_size=25)))
    return [(day, tuple(draw(st.lists(utterance, max_size=6)))) for day in days]


SMALL = guests.Rules(guests=4, voices=3)


@given(stories())
def test_the_book_is_bounded_and_nobody_is_ever_split(
    story: list[tuple[int, tuple[AdaptationSample, ...]]],
) -> None:
    """Number, age and size hold for every story; voices that were one guest's stay one guest's."""
    book: tuple[Guest, ...] = ()
    for number, (day, samples) in enumerate(story):
        names = [f"g-{4 * number + n:08x}" for n in range(MOST_VOICES_A_TRIP)]
        before, book = book, updated(book, samples, CALIBRATION, day=day, names=names, rules=SMALL)
        assert len(book) <= SMALL.guests
        assert len({guest.id for guest in book}) == len(book)
        assert all(day - guest.last_day <= SMALL.days for guest in book)
        assert all(len(guest.voices) == len(guest.speech_s) <= SMALL.voices for guest in book)
        assert len(book) <= len(before) + MOST_VOICES_A_TRIP
        for old in before:
            rows = {row.tobytes() for row in old.voices}
            heirs = [g for g in book if rows & {row.tobytes() for row in g.voices}]
            assert len(heirs) <= 1
        assert all(llr_of(*pair) < SMALL.one_llr for pair in itertools.combinations(book, 2))


def llr_of(one: Guest, other: Guest) -> float:
    """How likely it is that two guests are one person, natural log."""
    voice, known = (
        mean_subtracted(pooled(list(guest.voices), list(guest.speech_s)), CALIBRATION)
        for guest in (one, other)
    )
    speech_s = min(sum(one.speech_s), sum(other.speech_s))
    return compare(voice, speech_s, [("", known)], CALIBRATION)[0].llr


# --- what counts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sample",
    [
        says(1, speech_s=1.0),
        says(1, snr_db=0.0),
        AdaptationSample(direction(1), 3.0, 15.0, (Match("d-1", 0.3, 1.0),)),
    ],
    ids=["short", "noisy", "perhaps a driver"],
)
def test_what_is_not_clean_long_and_strange_does_not_count(sample: AdaptationSample) -> None:
    """An enrolled driver in noise is no guest."""
    assert not is_eligible(sample)
    assert trip((), 0, sample, sample, sample) == ()


def test_more_voices_than_seats_are_a_radio() -> None:
    """A trip full of strangers enters nobody."""
    assert trip((), 0, *(says(who) for who in range(1, 2 + MOST_VOICES_A_TRIP))) == ()


# --- forgetting ----------------------------------------------------------------------------------


def test_who_is_not_heard_for_long_is_forgotten() -> None:
    """Without a trip of theirs, and without being offered."""
    book = trip((), 0, says(1))
    assert trip(book, RULES.days) == book
    assert trip(book, RULES.days + 1) == ()


def test_when_the_book_is_full_those_of_the_fewest_trips_leave() -> None:
    """Somebody who came once gives way to somebody who keeps coming."""
    rules = guests.Rules(guests=2)
    book: tuple[Guest, ...] = ()
    for day, who in enumerate([1, 1, 2, 3]):
        names = [f"g-{4 * day + n:08x}" for n in range(MOST_VOICES_A_TRIP)]
        said = [says(who, day)]
        book = updated(book, said, CALIBRATION, day=day, names=names, rules=rules)
    assert sorted((g.trips, g.last_day) for g in book) == [(1, 3), (2, 1)]


def test_who_is_enrolled_is_no_guest_any_more() -> None:
    """A guest who became a driver leaves nothing behind in the book."""
    book = trip((), 0, says(1), says(2))
    rows, speech_s = guests.enrolment(next(g for g in book if g.voices[0] @ direction(1) > 0.5))
    profile = Profile("d-1", rows, ENCODER, speech_s)
    (left,) = not_enrolled(book, (profile,), CALIBRATION)
    assert left.voices[0] @ direction(2) > 0.5


# --- what comes of it ----------------------------------------------------------------------------


def test_a_guest_is_offered_after_enough_trips() -> None:
    """Not at the first meeting; with pseudonym, trips and day, and nothing else."""
    book: tuple[Guest, ...] = ()
    for day in range(RULES.offer_trips):
        assert offers(book) == ()
        book = trip(book, day, says(1, day))
    (offer,) = offers(book)
    assert (offer.guest, offer.trips, offer.last_day) == (book[0].id, RULES.offer_trips, 2)


def test_a_guests_voice_can_be_enrolled() -> None:
    """Embeddings of unit length, one per trip in each rendition, and their seconds."""
    book: tuple[Guest, ...] = ()
    for day in range(3):
        book = trip(book, day, says(1, day), says(1, 10 + day))
    rows, speech_s = guests.enrolment(book[0])
    assert rows.shape == (3 * AUGMENTATIONS, D)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    assert speech_s == 18.0


@given(stories())
def test_what_is_packed_comes_back_through_json(
    story: list[tuple[int, tuple[AdaptationSample, ...]]],
) -> None:
    """The whole book survives a file, embeddings to the last bit."""
    book: tuple[Guest, ...] = ()
    for day, samples in story:
        book = trip(book, day, *samples)
    facts = guests.packed(book)
    assert guests.packed(guests.unpacked(json.loads(json.dumps(facts)))) == facts


@pytest.mark.parametrize("seconds", [[], [3.0, 3.0], [float("nan")]])
def test_seconds_that_do_not_match_the_voices_are_refused(seconds: list[float]) -> None:
    """A damaged book gives nobody somebody else's voice."""
    facts = guests.packed(trip((), 0, says(1)))
    facts[0]["speech_s"] = seconds
    with pytest.raises(ValueError, match="do not match"):
        guests.unpacked(facts)
