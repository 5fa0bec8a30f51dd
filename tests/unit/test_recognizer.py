"""The order of the stages, with a toy gate and a toy encoder: each voice is one tone."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whodrives.adaptation.samples import MOST_OF_DRIVER
from whodrives.adaptation.types import TripSamples, UnknownSpeech
from whodrives.audio.blocks import (
    BLOCK_S,
    BLOCK_SAMPLES,
    SAMPLE_RATE_HZ,
    AudioBlock,
    Floats,
    SourceHealth,
    SourceState,
)
from whodrives.audio.offset import SILENCE
from whodrives.core.engine import DEAF_S, NARROW, Recognizer
from whodrives.core.events import Event, Health, Input
from whodrives.vehicle.state import Reading, VehicleReport, VehicleState
from whodrives.voice.decision import Policy
from whodrives.voice.profile import Adaptation, Household, Noise, PendingTrip, Profile, Revision
from whodrives.voice.types import Calibration, CalibrationPoint, Outcome, Recognition

ENCODER = "e" * 64
VOICES = {"anna": 0, "ben": 1, "stranger": 2}


class LoudIsSpeech:
    """A voice-activity detector for silence and tones."""

    def probabilities(self, blocks: Sequence[Floats]) -> list[float]:
        """One for anything that is not silent."""
        return [float(np.abs(samples).max() > 0.01) for samples in blocks]

    def reset(self) -> None:
        """Nothing is remembered."""


class LevelIsVoice:
    """An encoder for which a voice is its level: 0.1, 0.2 and 0.3 are three people."""

    fingerprint = ENCODER

    def __init__(self) -> None:
        self.calls = 0

    def embed(self, samples: Floats) -> Floats:
        """The axis that belongs to the loudest sample."""
        self.calls += 1
        return np.asarray(np.eye(4, dtype=np.float32)[round(float(samples.max()) * 10) - 1])


def policy(encoder: str = ENCODER) -> Policy:
    """A cosine of one is known from the first second on."""
    point = CalibrationPoint(1.0, 20.0, -10.0, 0.0, 0.5, {"1/100": (5.0,), "1/1000": (7.0,)})
    known = Calibration(encoder, np.zeros(4, np.float32), (point,), 3.0, (2,), 0.5)
    return Policy(known, "1/100")


def household(*names: str) -> Household:
    """These people, enrolled."""
    return Household(
        0.0,
        tuple(Profile(n, np.eye(4, dtype=np.float32)[[VOICES[n]]], ENCODER, 20.0) for n in names),
    )


class Drive:
    """A recognizer and the clock of what it hears."""

    def __init__(self, *names: str) -> None:
        self.encoder = LevelIsVoice()
        self.recognizer = Recognizer(LoudIsSpeech(), self.encoder, policy())
        self.at_s = 0.0
        self.events: list[Event] = []
        self.take(household(*names))
        self.take(SourceState(0.0, SourceHealth.OPEN))

    def take(self, news: Input) -> list[Event]:
        """One input."""
        events = self.recognizer.step(news)
        self.events += events
        return events

    def hear(self, who: str | None, seconds: float, *, gap: bool = False) -> None:
        """Somebody speaks, or nobody does; `gap` says sound was lost before it."""
        level = 0.0 if who is None else 0.1 * (VOICES[who] + 1)
        for number in range(round(seconds / BLOCK_S)):
            self.at_s += BLOCK_S
            samples = np.full(BLOCK_SAMPLES, level, np.float32)
            self.take(AudioBlock(self.at_s, samples, gap=gap and number == 0))

    def outcomes(self) -> list[tuple[Outcome, str | None]]:
        """What was concluded, in order."""
        verdicts = [event.verdict for event in self.events if isinstance(event, Recognition)]
        return [(verdict.outcome, verdict.driver) for verdict in verdicts]

    def health(self) -> Health:
        """The latest."""
        return [event for event in self.events if isinstance(event, Health)][-1]


class SlowToWake(LoudIsSpeech):
    """A detector that hears nothing in the first 0.3 s after a reset."""

    def __init__(self) -> None:
        self.heard = 0

    def probabilities(self, blocks: Sequence[Floats]) -> list[float]:
        """As ever, once it is awake."""
        found = super().probabilities(blocks)
        awake = [self.heard + n >= 10 for n in range(len(blocks))]
        self.heard += len(blocks)
        return [p if is_awake else 0.0 for p, is_awake in zip(found, awake, strict=True)]

    def reset(self) -> None:
        """Asleep again."""
        self.heard = 0


spoken = st.lists(
    st.tuples(
        st.sampled_from([None, "anna", "ben", "stranger"]), st.integers(1, 70), st.booleans()
    ),
    max_size=8,
)


@given(spoken, st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_sound_that_gathered_gives_what_it_gives_block_by_block(
    story: list[tuple[str | None, int, bool]], sizes: list[int]
) -> None:
    """However it is handed in, with sound lost in the middle or not: the same events, in order."""
    blocks: list[AudioBlock] = []
    for who, count, gap in story:
        level = 0.0 if who is None else 0.1 * (VOICES[who] + 1)
        samples = np.full(BLOCK_SAMPLES, level, np.float32)
        for n in range(count):
            at_s = (len(blocks) + 1) * BLOCK_S
            blocks.append(AudioBlock(at_s, samples, gap=gap and n == 0))
    heard: list[list[list[Event]]] = []
    for handed in (itertools.repeat(1), itertools.cycle(sizes)):
        recognizer = Recognizer(SlowToWake(), LevelIsVoice(), policy())
        recognizer.step(household("anna", "ben"))
        recognizer.step(SourceState(0.0, SourceHealth.OPEN))
        heard.append([])
        left = blocks
        for size in handed:
            if not left:
                break
            heard[-1] += recognizer.hear(left[:size])
            left = left[size:]
    one_by_one, gathered = heard
    assert gathered == one_by_one
    assert len(gathered) == len(blocks)


def test_a_known_driver_is_reported_while_still_speaking() -> None:
    """The verdict comes after the first second of speech, once, and not again at the end."""
    drive = Drive("anna", "ben")
    drive.hear("anna", 1.2)
    assert drive.outcomes() == [(Outcome.KNOWN, "anna")]
    drive.hear("anna", 2.0)
    drive.hear(None, 1.0)
    assert len(drive.outcomes()) == 1


def test_a_judged_utterance_costs_no_more_embeddings() -> None:
    """After the verdict the rest of the utterance is not encoded."""
    drive = Drive("anna")
    drive.hear("anna", 5.0)
    assert drive.encoder.calls == 1


def test_an_unknown_voice_is_reported_when_it_pauses() -> None:
    """One event for the whole utterance, naming nobody."""
    drive = Drive("anna", "ben")
    drive.hear("stranger", 3.0)
    assert drive.outcomes() == []
    drive.hear(None, 1.0)
    assert drive.outcomes() == [(Outcome.UNKNOWN, None)]


def test_a_driver_who_goes_on_where_somebody_else_stopped_is_known() -> None:
    """The change of voice ends the evidence: each is judged for itself, in one breath."""
    drive = Drive("stranger")  # the loudest, so that a look with both is hers
    drive.hear("anna", 1.02)
    drive.hear("stranger", 1.1)
    assert drive.outcomes() == [(Outcome.UNKNOWN, None), (Outcome.KNOWN, "stranger")]


def test_a_cough_is_not_reported() -> None:
    """Less than half a second of sound is no utterance."""
    drive = Drive("anna")
    drive.hear("stranger", 0.3)
    drive.hear(None, 1.0)
    assert drive.outcomes() == []


def test_lost_sound_discards_the_utterance_it_tears() -> None:
    """What was heard before a gap and after it is never judged together."""
    drive = Drive("anna")
    drive.hear("anna", 0.9)
    drive.hear("anna", 0.9, gap=True)
    drive.hear(None, 1.0)
    assert (Outcome.KNOWN, "anna") not in drive.outcomes()


def test_sound_from_before_a_suspend_is_not_joined_to_what_comes_after() -> None:
    """The machine slept, and the source does not know: the times of the blocks tell of it."""
    drive = Drive("anna")
    drive.hear("anna", 0.9)
    drive.at_s += 75.0
    drive.hear("anna", 0.9)
    drive.hear(None, 1.0)
    assert (Outcome.KNOWN, "anna") not in drive.outcomes()


def test_a_lost_microphone_ends_what_was_being_said_unjudged() -> None:
    """The device goes in mid-utterance; what comes after its return stands alone."""
    drive = Drive("anna")
    drive.hear("anna", 0.9)
    drive.take(SourceState(drive.at_s, SourceHealth.LOST, "unplugged"))
    assert drive.health().reasons == ("source: unplugged",)
    drive.take(SourceState(drive.at_s, SourceHealth.OPEN))
    assert drive.health().reasons == ()
    drive.hear("anna", 0.3)
    drive.hear(None, 1.0)
    assert drive.outcomes() == []


def test_the_end_of_a_recording_judges_what_was_being_said() -> None:
    """A file that ends in mid-word still gets its verdict."""
    drive = Drive("anna")
    drive.hear("stranger", 1.5)
    drive.take(SourceState(drive.at_s, SourceHealth.ENDED, "over"))
    assert drive.outcomes() == [(Outcome.UNKNOWN, None)]


def test_a_forgotten_driver_is_a_stranger_from_then_on() -> None:
    """A new household replaces the old one at once."""
    drive = Drive("anna", "ben")
    drive.take(replace(household("ben"), at_s=drive.at_s))
    drive.hear("anna", 1.5)
    drive.hear(None, 1.0)
    assert drive.outcomes() == [(Outcome.UNKNOWN, None)]


def test_what_was_said_before_a_change_of_household_is_not_judged_after_it() -> None:
    """The utterance under way is dropped: its evidence may name somebody who is gone."""
    drive = Drive("anna", "ben")
    drive.hear("anna", 0.9)
    drive.take(replace(household("ben"), at_s=drive.at_s))
    drive.hear("anna", 0.3)
    drive.hear(None, 1.0)
    assert drive.outcomes() == []


def test_a_household_of_nobody_is_degraded_and_says_so() -> None:
    """`status` names the reason until somebody is enrolled."""
    drive = Drive()
    assert drive.health().reasons == ("profiles: no driver is enrolled",)
    drive.take(household("anna"))
    assert drive.health().reasons == ()


def test_a_bad_profile_is_named_in_the_health() -> None:
    """The store's sentence reaches `status` as it is."""
    drive = Drive("anna")
    drive.take(replace(household("anna"), problems=("profile d-1: cut short",)))
    assert drive.health().reasons == ("profile d-1: cut short",)


def test_another_encoders_calibration_is_refused() -> None:
    """Thresholds of one encoder file mean nothing for another."""
    with pytest.raises(ValueError, match="another encoder"):
        Recognizer(LoudIsSpeech(), LevelIsVoice(), policy("f" * 64))


# --- what a trip teaches --------------------------------------------------------------------------


class Trip(Drive):
    """A drive whose driver has sat down."""

    def __init__(self, *names: str) -> None:
        super().__init__(*names)
        self.report(seated=True)

    def report(self, *, seated: bool) -> None:
        """The car says that the driver sits behind a closed door, or has left."""
        sits, runs, is_open = (Reading(v, self.at_s) for v in (seated, seated, not seated))
        state = VehicleState(seat_occupied=sits, ignition_on=runs, door_open=is_open)
        self.take(VehicleReport(self.at_s, state))

    def says(self, who: str) -> None:
        """An utterance of four seconds, and a pause."""
        self.hear(who, 4.0)
        self.hear(None, 1.0)

    def taught(self) -> list[TripSamples | UnknownSpeech]:
        """What the trips so far have taught."""
        return [event for event in self.events if isinstance(event, TripSamples | UnknownSpeech)]


def test_a_trip_teaches_its_drivers_profile_when_it_is_over() -> None:
    """The whole utterances, though they were judged early; and not before the driver has left."""
    trip = Trip("anna", "ben")
    trip.says("anna")
    trip.says("anna")
    assert trip.taught() == []
    trip.report(seated=False)
    (learn,) = trip.taught()
    assert isinstance(learn, TripSamples)
    assert learn.driver == "anna"
    assert [sample.speech_s > 3.0 for sample in learn.samples] == [True, True]
    assert all(np.allclose(sample.voice, np.eye(4)[0]) for sample in learn.samples)


def test_a_voice_that_nobody_knows_is_met() -> None:
    """For the guest book, whoever drove."""
    trip = Trip("anna")
    trip.says("stranger")
    trip.report(seated=False)
    (met,) = trip.taught()
    assert isinstance(met, UnknownSpeech)
    assert len(met.samples) == 1


def test_a_trip_hears_only_a_few_known_utterances_to_their_end() -> None:
    """After those, a judged utterance costs no more embeddings again."""
    trip = Trip("anna")
    for _ in range(MOST_OF_DRIVER):
        trip.says("anna")
    before = trip.encoder.calls
    trip.says("anna")
    assert trip.encoder.calls == before + 1


def test_lost_sound_teaches_nothing() -> None:
    """A spliced utterance is nobody's voice."""
    trip = Trip("anna")
    trip.hear("anna", 2.5)
    trip.hear("anna", 1.5, gap=True)
    trip.hear(None, 1.0)
    trip.report(seated=False)
    assert all(sample.speech_s < 2.5 for event in trip.taught() for sample in event.samples)


def test_an_adapted_profile_is_what_voices_are_compared_with() -> None:
    """What was learned counts from the next household on."""
    bare = Drive("anna")
    bare.hear("ben", 3.0)
    bare.hear(None, 1.0)
    other = np.asarray(np.eye(4, dtype=np.float32)[1])
    trips = tuple(PendingTrip(day, other, 6.0, Noise.QUIET, 0.9, ENCODER) for day in (1, 2, 3))
    (anna,) = household("anna").profiles
    learned = replace(anna, adaptation=Adaptation((Revision(3, trips),)))
    drive = Drive()
    drive.take(Household(0.0, (learned,)))
    drive.hear("ben", 3.0)
    drive.hear(None, 1.0)
    cosines = [
        event.verdict.evidence.matches[0].cosine
        for story in (bare, drive)
        for event in story.events
        if isinstance(event, Recognition)
    ]
    assert cosines[0] == pytest.approx(0.0)
    assert cosines[1] > 0.2


def test_a_twin_who_learned_does_not_push_a_driver_down() -> None:
    """Who are twins was settled when they enrolled."""
    anna, away = np.eye(4, dtype=np.float32)[[0, 2]]
    twin = np.asarray([0.56, 0.83, 0.0, 0.0], np.float32)
    trips = tuple(PendingTrip(day, away, 6.0, Noise.QUIET, 0.9, ENCODER) for day in (1, 2, 3))
    rows = [anna[np.newaxis], np.stack([twin] * 3)]
    profiles = [Profile(n, row, ENCODER, 20.0) for n, row in zip("ab", rows, strict=True)]
    learned = replace(profiles[1], adaptation=Adaptation((Revision(3, trips),)))
    found = []
    for other in (profiles[1], learned):
        drive = Drive()
        drive.take(Household(0.0, (profiles[0], other)))
        drive.hear("anna", 3.0)
        drive.hear(None, 1.0)
        (said,) = [e.verdict for e in drive.events if isinstance(e, Recognition)]
        found.append(said.evidence.matches[0])
    assert [match.driver for match in found] == ["a", "a"]
    assert found[0].llr == pytest.approx(found[1].llr)


def utterance(*hertz: float) -> list[Floats]:
    """Five seconds of tones that rise and fall every 30 ms, and a pause that ends them."""
    at = np.arange(BLOCK_SAMPLES) / SAMPLE_RATE_HZ
    tones = 0.1 * sum(np.sin(2 * np.pi * each * at) for each in hertz)
    syllables = [np.asarray(tones * (1.0, 0.2)[n % 2], np.float32) for n in range(180)]
    return syllables + [np.zeros(BLOCK_SAMPLES, np.float32)] * 40


@pytest.mark.parametrize("mixed", [False, True])
def test_a_source_of_nothing_but_telephone_band_is_told_once_and_recovers(mixed: bool) -> None:  # noqa: FBT001
    """A hands-free microphone at 8 kHz recognises nobody, all day; one call is no such fault."""
    recognizer = Recognizer(LoudIsSpeech(), LevelIsVoice(), policy())
    recognizer.step(household("anna"))
    recognizer.step(SourceState(0.0, SourceHealth.OPEN))
    narrow, wide = (1000.0, 3000.0), (1000.0, 3000.0, 5300.0)
    story = [narrow, narrow, narrow, wide if mixed else narrow, narrow, narrow, wide]
    sound = [block for hertz in story for block in utterance(*hertz)]
    events = [e for n, b in enumerate(sound) for e in recognizer.step(AudioBlock(n * BLOCK_S, b))]
    reasons = [event.verdict.reason for event in events if isinstance(event, Recognition)]
    assert [reason == "telephone_band" for reason in reasons] == [h is narrow for h in story]
    told = [event.reasons for event in events if isinstance(event, Health)]
    assert told == ([] if mixed else [(f"source: {NARROW}",), ()])


def test_another_source_begins_without_the_band_of_the_one_before() -> None:
    """A microphone that was exchanged is not blamed for the old one."""
    recognizer = Recognizer(LoudIsSpeech(), LevelIsVoice(), policy())
    recognizer.step(household("anna"))
    recognizer.step(SourceState(0.0, SourceHealth.OPEN))
    sound = utterance(1000.0, 3000.0) * 6
    events = [e for n, b in enumerate(sound) for e in recognizer.step(AudioBlock(n * BLOCK_S, b))]
    assert [event.reasons for event in events if isinstance(event, Health)]
    changed = recognizer.step(SourceState(50.0, SourceHealth.OPEN))
    assert [event.reasons for event in changed if isinstance(event, Health)] == [()]


@pytest.mark.parametrize("constant", [0.0, 0.25])
def test_a_source_of_nothing_but_silence_is_told_once_and_recovers(constant: float) -> None:
    """A stuck profile or a muted input gives zeros for ever: deaf, and it must not say online."""
    recognizer = Recognizer(LoudIsSpeech(), LevelIsVoice(), policy())
    recognizer.step(household("anna"))
    recognizer.step(SourceState(0.0, SourceHealth.OPEN))
    silence = np.full(BLOCK_SAMPLES, constant, np.float32)
    count = int(DEAF_S / BLOCK_S) + 100
    told = [
        event
        for n in range(1, count)
        for event in recognizer.step(AudioBlock(n * BLOCK_S, silence))
        if isinstance(event, Health)
    ]
    assert [event.reasons for event in told] == [(f"source: {SILENCE}",)]
    assert recognizer.silent_s == pytest.approx((count - 1) * BLOCK_S)
    noise = np.random.default_rng(1).normal(0, 1e-3, BLOCK_SAMPLES).astype(np.float32)
    back = recognizer.step(AudioBlock(count * BLOCK_S, noise))
    assert [event.reasons for event in back if isinstance(event, Health)] == [()]
    assert recognizer.silent_s == 0.0
