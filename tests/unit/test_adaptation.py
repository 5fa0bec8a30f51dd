"""A profile follows its driver's voice and never leaves it: bounds, quarantine, the way back."""

import json
import math
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whodrives.adaptation import following, guests
from whodrives.adaptation.following import (
    RULES,
    drift,
    is_eligible,
    promoted,
    quarantined,
    rolled_back,
    speaker_model,
)
from whodrives.adaptation.types import AdaptationSample
from whodrives.audio.blocks import Floats
from whodrives.voice.profile import Adaptation, Noise, Profile, Revision
from whodrives.voice.scoring import accept_llr, centroid, mean_subtracted, unit
from whodrives.voice.types import Calibration, CalibrationPoint, Match

D = 24
ENCODER = "ab" * 32
MEAN = np.full(D, 0.02, np.float32)
POINT = CalibrationPoint(3.0, 21.0, -8.7, 0.0, 0.3, {"1/100": (3.4,), "1/1000": (5.5,)})
CALIBRATION = Calibration(ENCODER, MEAN, (POINT,), 2.9, (3,), 0.5)
SEEDS = st.integers(0, 10_000)
DAYS = st.integers(0, 400)
Told: TypeAlias = tuple[int, Floats, bool]


def direction(seed: int) -> Floats:
    """Somebody's voice: a unit vector."""
    return unit(np.random.default_rng(seed).normal(size=D).astype(np.float32))


def near(base: Floats, seed: int, spread: float = 0.35) -> Floats:
    """The same voice, said a little otherwise."""
    return unit(base + spread * direction(seed))


def enrolled(seed: int = 1, name: str = "d-1", windows: int = 8) -> Profile:
    """A profile of somebody's voice."""
    rows = np.stack([near(direction(seed), 100 * seed + n) for n in range(windows)])
    return Profile(name, rows, ENCODER, 2.0 * windows)


def sample(spoken: Floats, speech_s: float = 3.0, *matches: Match) -> AdaptationSample:
    """An utterance."""
    return AdaptationSample(spoken, speech_s, 15.0, matches)


def after(
    profile: Profile, spoken: Floats, day: int, *others: Profile, chosen: bool = False
) -> tuple[Profile, Revision | None]:
    """A trip of the driver's with one sample, and what comes of it."""
    held = quarantined(profile, [sample(spoken)], day, CALIBRATION, chosen=chosen)
    return promoted(held, others, day, CALIBRATION)


def same(one: Profile, other: Profile) -> bool:
    """Whether two profiles have learned the same, to the last bit."""
    return following.packed(one.adaptation) == following.packed(other.adaptation)


def changed(base: Floats) -> Floats:
    """The voice after it has changed: cosine about 0.8 to what it was."""
    return near(base, 77, 0.75)


# --- what teaches --------------------------------------------------------------------------------


def matches(best: float, second: float) -> tuple[Match, Match]:
    """Two drivers' llr."""
    return Match("d-1", 0.7, best), Match("d-2", 0.2, second)


@pytest.mark.parametrize(
    ("above", "runner_up", "speech_s", "wanted"),
    [
        (RULES.wide_llr + 0.1, -5.0, 3.0, True),
        (RULES.wide_llr - 0.1, -5.0, 3.0, False),
        (RULES.wide_llr + 0.1, 3.0, 3.0, False),
        (RULES.wide_llr + 0.1, -5.0, 1.5, False),
    ],
    ids=["clear", "barely known", "another driver close by", "short"],
)
def test_only_clear_and_long_speech_teaches(
    above: float, runner_up: float, speech_s: float, *, wanted: bool
) -> None:
    """The margin is far above acceptance and far from everybody else."""
    threshold = float(accept_llr(speech_s, 2, CALIBRATION, "1/100"))
    said = sample(direction(1), speech_s, *matches(threshold + above, runner_up))
    assert is_eligible(said, 2, CALIBRATION, "1/100") is wanted


def test_an_utterance_without_a_match_teaches_nothing() -> None:
    """Nobody is enrolled: there is no profile to teach."""
    assert not is_eligible(sample(direction(1)), 0, CALIBRATION, "1/100")


# --- a driver whom a key or a choice told ---------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (sample(direction(1), 2.0, Match("d-1", 0.4, -6.0), Match("d-2", 0.0, -9.0)), True),
        (sample(direction(1), 2.0, Match("d-2", 0.6, 3.0), Match("d-1", 0.5, 2.0)), False),
        (sample(direction(1), 1.0, Match("d-1", 0.4, 1.0)), False),
        (replace(sample(direction(1), 2.0, Match("d-1", 0.4, 1.0)), snr_db=2.0), False),
    ],
    ids=["own", "another driver's", "short", "in noise"],
)
def test_speech_may_be_of_a_chosen_driver_if_it_is_of_nobody_else(
    said: AdaptationSample, *, wanted: bool
) -> None:
    """However unlike the driver it is: that is judged by the whole trip."""
    assert guests.is_eligible(said, apart_from="d-1") is wanted


def at(profile: Profile, cosine: float, seed: int) -> Floats:
    """An embedding at this cosine to the template, in a direction of its own."""
    template = following.enrolment_template(profile, CALIBRATION)
    other = direction(seed)
    across = unit(other - (other @ template) * template)
    low, high = 0.0, 1.0
    for _ in range(40):
        share = (low + high) / 2
        spoken = unit(share * template + (1 - share) * across)
        found = float(mean_subtracted(spoken, CALIBRATION) @ template)
        low, high = (share, high) if found < cosine else (low, share)
    return spoken


def test_of_a_chosen_drivers_trip_one_voice_is_taken() -> None:
    """A passenger who is nobody's is left out; two voices that are both similar teach nothing."""
    profile = enrolled()
    own = [sample(near(direction(1), seed)) for seed in (1, 2)]
    passenger = [sample(near(direction(9), seed)) for seed in (3, 4)]
    found = following.of_chosen(profile, [*passenger, *own], CALIBRATION)
    assert sorted(each.voice.tobytes() for each in found) == sorted(
        each.voice.tobytes() for each in own
    )
    both = [sample(at(profile, 0.7, 11)), sample(at(profile, 0.65, 12))]
    assert following.of_chosen(profile, both, CALIBRATION) == ()
    assert following.of_chosen(profile, both[:1], CALIBRATION) == tuple(both[:1])
    assert following.of_chosen(profile, [], CALIBRATION) == ()


def test_a_chosen_driver_is_followed_faster() -> None:
    """Three days bring the profile nearer to the voice than recognised speech does, in bounds."""
    start = enrolled()
    found = {}
    for cosine in (0.55, 0.65):
        new = at(start, cosine, 78)
        for chosen in (False, True):
            profile = start
            for day in (1, 2, 3):
                profile, _ = after(profile, new, day, chosen=chosen)
            model = speaker_model(profile, CALIBRATION)
            found[cosine, chosen] = float(mean_subtracted(new, CALIBRATION) @ model)
            assert drift(profile, CALIBRATION) >= RULES.drift_cosine
            trips = [trip for step in profile.adaptation.revisions for trip in step.trips]
            assert all(trip.chosen is chosen for trip in trips)
    assert found[0.55, False] == found[0.55, True] == pytest.approx(0.55, abs=0.01)
    assert found[0.65, True] > found[0.65, False] + 0.05 > 0.75


def test_what_was_learned_before_there_were_choices_is_read() -> None:
    """A profile of an earlier version has no word of it, nor of which encoder."""
    held = quarantined(enrolled(), [sample(near(direction(1), 4))], 5, CALIBRATION)
    facts = following.packed(held.adaptation)
    del facts["held"][0]["chosen"], facts["held"][0]["encoder"]
    trip = following.unpacked(facts, ENCODER).pending[0]
    assert (trip.chosen, trip.encoder) == (False, ENCODER)


# --- quarantine ----------------------------------------------------------------------------------


def test_a_changed_voice_is_followed_after_several_days() -> None:
    """Two trips teach nothing yet; the third makes a step, and the voice is nearer to the new."""
    profile = enrolled()
    new = changed(direction(1))
    before = float(speaker_model(profile, CALIBRATION) @ mean_subtracted(new, CALIBRATION))
    for day in (3, 4):
        profile, step = after(profile, near(new, day), day)
        assert step is None
    profile, step = after(profile, near(new, 5), 5)
    assert step is not None
    assert [trip.day for trip in step.trips] == [3, 4, 5]
    assert profile.adaptation.pending == ()
    assert float(speaker_model(profile, CALIBRATION) @ mean_subtracted(new, CALIBRATION)) > before


def test_many_trips_of_one_day_are_one_day() -> None:
    """A day's cold, or a day's deceit, is not consistent over days."""
    profile = enrolled()
    for number in range(6):
        profile, step = after(profile, near(direction(1), number), 3)
        assert step is None


def test_what_is_unlike_the_anchor_is_never_held() -> None:
    """Whatever the threshold let through: somebody else's voice changes nothing."""
    profile = enrolled()
    for day in range(30):
        profile, step = after(profile, direction(2), day)
        assert step is None
    assert profile.adaptation == Adaptation()


def test_trips_that_disagree_make_no_step() -> None:
    """Trips similar to the template but not to each other make no revision."""
    profile = enrolled()
    anchor = centroid(profile)
    for day in range(4):
        off = direction(200 + day)
        off = unit(off - (off @ anchor) * anchor)
        profile, step = after(profile, unit(anchor + off), day)
        assert step is None


def test_a_trip_is_forgotten_when_it_was_held_long() -> None:
    """Three trips in a year are not several days in a row."""
    profile = enrolled()
    for day in (0, 100, 200, 300):
        profile, step = after(profile, near(direction(1), day), day)
        assert step is None
    assert [trip.day for trip in profile.adaptation.pending] == [300]


def test_a_step_towards_another_driver_is_refused_and_leaves_the_quarantine() -> None:
    """A profile that came nearer to somebody of the household would blur who is who."""
    profile = enrolled(1)
    other = replace(enrolled(1, "d-2"), embeddings=near(direction(1), 5, 1.2)[np.newaxis])
    towards = unit(centroid(profile) + 0.6 * centroid(other))
    for day in range(3):
        profile, step = after(profile, near(towards, day, 0.1), day, other)
        assert step is None
    assert profile.adaptation == Adaptation()


@given(st.permutations(range(5)))
def test_the_order_of_the_trips_of_one_day_does_not_matter(order: list[int]) -> None:
    """What is held, and the step that comes of it, are the same to the last bit."""
    ends = []
    for numbers in (range(5), order):
        profile = enrolled()
        for number in numbers:
            profile, _ = after(profile, near(direction(1), number), 1)
        for day in (2, 3):
            profile, step = after(profile, near(direction(1), 50 + day), day)
        assert step is not None
        ends.append(profile)
    assert same(*ends)


@given(st.permutations(range(3)))
def test_the_order_of_the_days_of_one_step_does_not_matter(order: list[int]) -> None:
    """A step is a set of trips; which trips make one does depend on what came first."""
    ends = []
    for numbers in (range(3), order):
        profile = enrolled()
        for number in numbers:
            profile = quarantined(
                profile, [sample(near(direction(1), number))], number, CALIBRATION
            )
        profile, step = promoted(profile, (), 3, CALIBRATION)
        assert step is not None
        ends.append(profile)
    assert same(*ends)


# --- bounds --------------------------------------------------------------------------------------


@st.composite
def stories(draw: st.DrawFn) -> list[Told]:
    """Trips by ascending day: of the driver, of somebody between, of anybody; chosen or not."""
    told = []
    for day in sorted(draw(st.lists(DAYS, max_size=60))):
        share = draw(st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]))
        target = direction(draw(st.integers(2, 4)))
        spoken = unit((1 - share) * near(direction(1), draw(SEEDS)) + share * target)
        told.append((day, spoken, draw(st.booleans())))
    return told


@given(stories())
def test_the_profile_stays_with_its_anchor_and_in_bounds_whatever_comes(
    story: list[Told],
) -> None:
    """The bounds on template, drift, weight and memory hold for every sequence of trips."""
    profile = enrolled()
    anchor = mean_subtracted(centroid(profile), CALIBRATION)
    rows = profile.embeddings.copy()
    for day, spoken, chosen in story:
        profile, _ = after(profile, spoken, day, chosen=chosen)
        known = profile.adaptation
        assert np.array_equal(profile.embeddings, rows)
        assert drift(profile, CALIBRATION) >= RULES.drift_cosine
        assert len(known.pending) <= RULES.pending
        assert len(known.revisions) <= RULES.revisions
        assert all(len(step.trips) <= RULES.pending for step in known.revisions)
        heard = speaker_model(profile, CALIBRATION)
        length = float(np.linalg.norm(heard))
        assert length <= 1.0 + 1e-5
        stretch = length ** ((RULES.length - 1.0) / RULES.length)
        for who in (2, 3, 4):
            score, was = (
                float(mean_subtracted(direction(who), CALIBRATION) @ v) for v in (heard, anchor)
            )
            trips = [trip for step in known.revisions for trip in step.trips][-RULES.active :]
            share = RULES.chosen_share if any(trip.chosen for trip in trips) else RULES.share
            assert score <= stretch * ((1 - share) * was + share) + 1e-5
            assert stretch <= (1.13 if share == RULES.chosen_share else 1.06)


def test_the_more_was_learned_the_more_it_weighs_up_to_the_share() -> None:
    """One step weighs little against a long enrolment, many weigh the share at most."""
    profile = enrolled(windows=12)
    anchor = mean_subtracted(centroid(profile), CALIBRATION)
    new = changed(direction(1))
    weights = []
    for day in range(30):
        profile, step = after(profile, near(new, day, 0.05), day)
        if step:
            weights.append(1.0 - float(speaker_model(profile, CALIBRATION) @ anchor))
    assert weights[0] < weights[1] <= weights[-1]
    assert weights[-1] == pytest.approx(weights[-2], abs=0.01)


# --- the way back --------------------------------------------------------------------------------


@given(st.integers(1, 40))
def test_undoing_brings_the_voice_before_the_step_back_exactly(days: int) -> None:
    """To the last bit, however many steps there were before."""
    profile, before = enrolled(), enrolled()
    for day in range(days):
        grown, step = after(profile, near(changed(direction(1)), day), day)
        if step is not None:
            before = profile
        profile = grown
    back, step = rolled_back(profile)
    assert back.adaptation.pending == ()
    if step is None:
        assert same(back, enrolled())
    else:
        assert np.array_equal(speaker_model(back, CALIBRATION), speaker_model(before, CALIBRATION))
        kept = before.adaptation.revisions[-RULES.revisions + 1 :]
        assert same(back, replace(before, adaptation=Adaptation(kept)))


def test_undoing_everything_leaves_the_enrolled_voice() -> None:
    """The enrolment template never changes."""
    profile = enrolled()
    for day in range(12):
        profile, _ = after(profile, near(changed(direction(1)), day), day)
    step: Revision | None
    while True:
        profile, step = rolled_back(profile)
        if step is None:
            break
    assert np.array_equal(
        speaker_model(profile, CALIBRATION), speaker_model(enrolled(), CALIBRATION)
    )


def test_a_step_says_where_it_comes_from() -> None:
    """Days, seconds, noise and the cosine to the template: enough to decide on a roll-back."""
    profile = enrolled()
    for day in (10, 11, 12):
        said = [AdaptationSample(near(direction(1), day), 3.0, snr, ()) for snr in (25.0, 12.0)]
        profile = quarantined(profile, said, day, CALIBRATION)
    profile, step = promoted(profile, (), 12, CALIBRATION)
    assert step is not None
    assert (step.day, [trip.day for trip in step.trips]) == (12, [10, 11, 12])
    assert {trip.speech_s for trip in step.trips} == {6.0}
    assert {trip.noise for trip in step.trips} == {Noise.SOME}
    assert all(RULES.template_cosine <= trip.template_cosine <= 1.0 for trip in step.trips)


# --- as plain values -----------------------------------------------------------------------------


@given(st.integers(0, 12))
def test_what_is_packed_comes_back_through_json(days: int) -> None:
    """Steps and quarantine survive a file, embeddings to the last bit."""
    profile = enrolled()
    for day in range(days):
        profile, _ = after(profile, near(direction(1), day), day)
    facts = json.loads(json.dumps(following.packed(profile.adaptation)))
    assert same(replace(profile, adaptation=following.unpacked(facts, ENCODER)), profile)


@pytest.mark.parametrize(
    ("field", "value"),
    [("anchor_cosine", math.nan), ("voice", "00"), ("voice", "zz"), ("noise", "deafening")],
)
def test_what_is_no_adaptation_is_refused(field: str, value: object) -> None:
    """A damaged number would be compared silently for ever."""
    profile, _ = after(enrolled(), near(direction(1), 1), 1)
    facts = following.packed(profile.adaptation)
    facts["held"][0][field] = value
    with pytest.raises(ValueError):  # noqa: PT011 (any of several that say no)
        following.unpacked(facts, ENCODER)
