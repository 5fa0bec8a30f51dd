"""Two encoders: households of before are served, and carried over without a new enrolment."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whodrives.adaptation import following
from whodrives.adaptation.following import CARRIED_S, CARRIED_TRIPS, promoted, quarantined
from whodrives.adaptation.types import AdaptationSample
from whodrives.audio.blocks import BLOCK_S, BLOCK_SAMPLES, AudioBlock, Floats
from whodrives.config.schema import Vehicle
from whodrives.core.engine import Recognizer
from whodrives.errors import ProfileError
from whodrives.store.profiles import ProfileStore
from whodrives.store.record import Consent
from whodrives.voice.decision import Policy
from whodrives.voice.profile import Household, Profile, extended, joined
from whodrives.voice.scoring import (
    FIRST_DIMENSION,
    centroid,
    first_part,
    mean_subtracted,
    subtract_mean,
    unit,
)
from whodrives.voice.types import Calibration, CalibrationPoint, Recognition

SECOND_DIMENSION = 256
BOTH = FIRST_DIMENSION + SECOND_DIMENSION
WEIGHT = 0.7
DAYS = range(740_000, 740_000 + CARRIED_TRIPS)
AGREED = Consent("a test", "2026-12-01T08:00:00", "v1")
FIRST, FUSED, OTHER = "ab" * 32, "cd" * 32, "ef" * 32
POINT = CalibrationPoint(1.0, 21.0, -8.7, 0.0, 0.3, {"1/100": (3.4,), "1/1000": (5.5,)})
SINGLE = Calibration(FIRST, np.full(FIRST_DIMENSION, 0.01, np.float32), (POINT,), 2.9, (3,), 0.5)
CALIBRATION = Calibration(
    FUSED, np.full(BOTH, 0.005, np.float32), (POINT,), 2.9, (3,), 0.5, single=SINGLE
)


def direction(seed: int, size: int) -> Floats:
    """A unit vector."""
    return unit(np.random.default_rng(seed).normal(size=size).astype(np.float32))


def spoken(person: int, take: int = 0, spread: float = 0.3) -> Floats:
    """The fused embedding of something that a person says."""
    parts = [
        unit(direction(person, size) + spread * direction(1000 * person + take + size, size))
        * np.float32(np.sqrt(weight))
        for size, weight in ((FIRST_DIMENSION, WEIGHT), (SECOND_DIMENSION, 1 - WEIGHT))
    ]
    return np.concatenate(parts)


def enrolled(person: int, encoder: str = FIRST) -> Profile:
    """A person's profile by the first encoder, or by both."""
    rows = np.stack([spoken(person, take) for take in range(6)])
    if encoder == FIRST:
        rows = np.stack([first_part(row) for row in rows])
    return Profile(f"d-0000000{person}", rows, encoder, 12.0)


def after(
    profile: Profile, person: int, day: int, calibration: Calibration = CALIBRATION
) -> Profile:
    """The profile after a trip of this person's."""
    said = AdaptationSample(spoken(person, 100 + day), 4.0, 20.0, ())
    held = quarantined(profile, [said], day, calibration)
    return promoted(held, [], day, calibration)[0]


def test_trips_carry_a_profile_over() -> None:
    """Its driver need not enrol again: the second encoder's part comes from three days of trips."""
    profile = enrolled(1)
    for day in DAYS:
        assert following.dimension(profile, CALIBRATION) == FIRST_DIMENSION
        profile = after(profile, 1, day)
    assert following.dimension(profile, CALIBRATION) == BOTH
    template = following.enrolment_template(profile, CALIBRATION)
    same, another = (mean_subtracted(spoken(who, 7), CALIBRATION) for who in (1, 2))
    assert float(template @ same) > 0.8
    assert float(template @ another) < 0.3
    # The first encoder's part stays the enrolled one.
    whole = unit(template + 0.0) @ unit(template)
    assert whole == pytest.approx(1, abs=1e-5)
    assert profile.embeddings.shape[1] == FIRST_DIMENSION


def test_undoing_what_was_learned_undoes_that_too() -> None:
    """What the trips gave leaves with them; nothing else of the profile has changed."""
    profile = enrolled(1)
    for day in DAYS:
        profile = after(profile, 1, day)
    before, revision = following.rolled_back(profile)
    assert revision is not None
    assert following.dimension(before, CALIBRATION) == FIRST_DIMENSION
    assert before.embeddings is profile.embeddings


def test_trips_of_another_second_encoder_do_not_carry_over() -> None:
    """Their second part belongs to another space; their first part still counts."""
    other = replace(CALIBRATION, encoder=OTHER)
    profile = enrolled(1)
    for day in DAYS:
        profile = after(profile, 1, day, other)
    assert following.dimension(profile, other) == BOTH
    assert following.dimension(profile, CALIBRATION) == FIRST_DIMENSION
    model = following.speaker_model(profile, SINGLE)
    assert not np.array_equal(model, following.enrolment_template(profile, SINGLE))


def test_trips_that_a_key_told_do_not_carry_over() -> None:
    """Whoever has the key could otherwise give a third of a template."""
    profile = enrolled(1)
    for day in DAYS:
        said = AdaptationSample(spoken(1, day), 4.0, 20.0, ())
        held = quarantined(profile, [said], day, CALIBRATION, chosen=True)
        profile, _ = promoted(held, [], day, CALIBRATION)
    assert profile.adaptation.revisions
    assert following.dimension(profile, CALIBRATION) == FIRST_DIMENSION


def test_too_little_speech_does_not_carry_over() -> None:
    """Three short trips are a revision, and no template."""
    profile = enrolled(1)
    for day in DAYS:
        said = AdaptationSample(spoken(1, day), CARRIED_S / CARRIED_TRIPS - 0.1, 20.0, ())
        profile, _ = promoted(quarantined(profile, [said], day, CALIBRATION), [], day, CALIBRATION)
    assert profile.adaptation.revisions
    assert following.dimension(profile, CALIBRATION) == FIRST_DIMENSION


def test_with_one_encoder_both_kinds_of_profile_are_the_same_voice() -> None:
    """Whoever leaves the second encoder out again keeps the household."""
    one = following.enrolment_template(enrolled(1), SINGLE)
    both = following.enrolment_template(enrolled(1, FUSED), SINGLE)
    assert both == pytest.approx(one, abs=1e-6)


@given(st.integers(1, 5), st.integers(0, 20))
def test_the_first_part_is_what_the_first_encoder_gave(person: int, take: int) -> None:
    """The limits of enrolment and adaptation look at it alone."""
    both = spoken(person, take)
    assert first_part(first_part(both)) is not both
    assert mean_subtracted(both, SINGLE) == pytest.approx(
        subtract_mean(first_part(both), SINGLE.mean), abs=1e-6
    )


@pytest.mark.parametrize("kinds", [(FIRST, FUSED), (FUSED, FIRST)])
def test_a_further_enrolment_carries_over_at_once(kinds: tuple[str, str]) -> None:
    """Either order: what only one part has, the other takes over."""
    old, added = (enrolled(1, kind) for kind in kinds)
    both = joined(old, added)
    assert (both.encoder, both.embeddings.shape) == (FUSED, (12, BOTH))
    assert np.linalg.norm(both.embeddings, axis=1) == pytest.approx(np.ones(12), abs=1e-5)
    assert float(first_part(centroid(both)) @ centroid(enrolled(1))) > 0.999
    assert float(centroid(both) @ spoken(1, 50)) > 0.8


def test_rows_of_one_length_are_not_extended() -> None:
    """Nothing is computed, so nothing is rounded."""
    rows = enrolled(1).embeddings
    assert extended(rows, rows[0]) is rows


class LoudIsSpeech:
    """A voice-activity detector for silence and tones."""

    def probabilities(self, blocks: Sequence[Floats]) -> list[float]:
        """One for anything that is not silent."""
        return [float(np.abs(samples).max() > 0.01) for samples in blocks]

    def reset(self) -> None:
        """Nothing is remembered."""


class Speaks:
    """An encoder to which person 1 always speaks."""

    fingerprint = FUSED

    def embed(self, _samples: Floats) -> Floats:
        """The person's fused embedding."""
        return spoken(1, 9)


def heard(*profiles: Profile) -> Recognition:
    """What a recognizer with this household makes of three seconds of speech."""
    recognizer = Recognizer(LoudIsSpeech(), Speaks(), Policy(CALIBRATION, "1/100"))
    recognizer.step(Household(0.0, profiles))
    found = []
    for number in range(round(5 / BLOCK_S)):
        at_s = number * BLOCK_S
        level = 0.1 if at_s < 3 else 0.0
        block = AudioBlock(at_s, np.full(BLOCK_SAMPLES, level, np.float32))
        found += [e for e in recognizer.step(block) if isinstance(e, Recognition)]
    return found[0]


def test_one_profile_of_before_keeps_the_household_with_the_first_encoder() -> None:
    """Scores of different encoders are not compared with each other."""
    said = spoken(1, 9)
    cases = [
        ([enrolled(1, FUSED), enrolled(2, FUSED)], CALIBRATION),
        ([enrolled(1, FUSED), enrolled(2)], SINGLE),
        ([enrolled(1), enrolled(2)], SINGLE),
    ]
    for profiles, calibration in cases:
        best = heard(*profiles).verdict.evidence.matches[0]
        model = following.speaker_model(profiles[0], calibration)
        assert best.driver == profiles[0].id
        assert best.cosine == pytest.approx(
            float(model @ mean_subtracted(said, calibration)), abs=1e-5
        )


def test_a_household_of_drivers_who_were_carried_over_has_both() -> None:
    """From then on it is compared by both encoders."""
    profiles = []
    for person in (1, 2):
        profile = enrolled(person)
        for day in DAYS:
            profile = after(profile, person, day)
        profiles.append(profile)
    best = heard(*profiles).verdict.evidence.matches[0]
    model = following.speaker_model(profiles[0], CALIBRATION)
    expected = float(model @ mean_subtracted(spoken(1, 9), CALIBRATION))
    assert best.cosine == pytest.approx(expected, abs=1e-5)


# --- in the store ---------------------------------------------------------------------------------


def store_in(folder: Path, *, encoders: int = 2) -> ProfileStore:
    """A store of an installation with so many encoders."""
    sizes = {FUSED: BOTH, FIRST: FIRST_DIMENSION}
    used = FUSED if encoders == 2 else FIRST
    others = {name: size for name, size in sizes.items() if name != used}
    return ProfileStore(
        folder / "profiles",
        folder / "key",
        used,
        Vehicle().signals,
        "car",
        dimension=sizes[used],
        others=others,
    )


def test_profiles_of_both_kinds_are_used(tmp_path: Path) -> None:
    """Whichever number of encoders is configured now."""
    for encoders, name, person in ((1, "Anna", 1), (2, "Ben", 2)):
        kind = FIRST if encoders == 1 else FUSED
        store_in(tmp_path, encoders=encoders).save(name, enrolled(person, kind).embeddings, 12.0)
    for encoders in (1, 2):
        loaded = store_in(tmp_path, encoders=encoders).load()
        assert loaded.problems == ()
        found = {stored.name: stored.profile.encoder for stored in loaded.profiles}
        assert found == {"Anna": FIRST, "Ben": FUSED}


def test_what_trips_gave_is_stored_with_its_encoder(tmp_path: Path) -> None:
    """Read again, the profile is still carried over."""
    store = store_in(tmp_path, encoders=1)
    anna = store.save("Anna", enrolled(1).embeddings, 12.0).profile
    grown = anna
    for day in DAYS:
        grown = after(grown, 1, day)
    both = store_in(tmp_path)
    both.change(anna.id, lambda _: grown)
    (stored,) = both.load().profiles
    assert stored.profile.encoder == FIRST
    assert following.dimension(stored.profile, CALIBRATION) == BOTH


def test_the_voice_before_a_further_enrolment_can_be_restored(tmp_path: Path) -> None:
    """It was made by the first encoder alone, and is again."""
    anna = store_in(tmp_path, encoders=1).save("Anna", enrolled(1).embeddings, 12.0)
    store = store_in(tmp_path)
    store.adopt(anna.profile.id, enrolled(1, FUSED).embeddings, 12.0, AGREED, again=True)
    (both,) = store.load().profiles
    assert (both.profile.encoder, both.profile.embeddings.shape[1]) == (FUSED, BOTH)
    restored = store.restore("Anna").profile
    assert (restored.encoder, restored.embeddings.shape[1]) == (FIRST, FIRST_DIMENSION)
    assert np.array_equal(restored.embeddings, enrolled(1).embeddings)


def test_a_household_of_the_other_kind_can_be_imported(tmp_path: Path) -> None:
    """Between cars with one encoder and with two, in both directions."""
    for source, target in ((1, 2), (2, 1)):
        here, there = tmp_path / f"{source}a", tmp_path / f"{source}b"
        kind = FIRST if source == 1 else FUSED
        store_in(here, encoders=source).save("Anna", enrolled(1, kind).embeddings, 12.0)
        store_in(here, encoders=source).export(here / "house", "a long passphrase")
        arrived = store_in(there, encoders=target).import_household(
            here / "house", "a long passphrase"
        )
        assert [stored.profile.encoder for stored in arrived] == [kind]


def test_a_voice_of_an_encoder_that_is_gone_is_not_restored(tmp_path: Path) -> None:
    """Nothing is lost: with the models that made it, it can be."""
    paths = tmp_path / "profiles", tmp_path / "key"
    old = ProfileStore(*paths, OTHER, Vehicle().signals, "car")
    anna = old.save("Anna", enrolled(1).embeddings, 12.0)
    store = store_in(tmp_path)
    store.adopt(anna.profile.id, enrolled(1, FUSED).embeddings, 12.0, AGREED)
    with pytest.raises(ProfileError, match="another encoder"):
        store.restore("Anna")
