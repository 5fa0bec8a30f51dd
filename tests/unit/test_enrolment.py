"""What makes a recording good enough: real voices, spoilt on purpose, through the real models."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from tools.lab import scene
from tools.lab.corpus import read_sound
from whodrives.audio.blocks import BLOCK_S, BLOCK_SAMPLES, AudioBlock, Floats
from whodrives.audio.files import read_file
from whodrives.enrolment.recording import (
    AUGMENTATION_SNR_DB,
    LEAST_S,
    Enrolment,
    Progress,
    channel_of_person,
    first_voice,
    in_noise,
)
from whodrives.errors import EnrolmentError
from whodrives.models.encoder import load_encoder
from whodrives.models.vad import load_vad
from whodrives.voice import acoustics
from whodrives.voice.types import Encoder

Sound: TypeAlias = NDArray[np.floating[Any]]

MODELS = Path(__file__).parent.parent.parent / "models"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """The encoder of this checkout."""
    return load_encoder(MODELS, 1)


def spoken(voices: Path, voice: str, sentences: Iterable[int] = range(1, 6)) -> Floats:
    """Sentences of a voice, as the daemon hears them, with half a second between them."""
    quiet = np.random.default_rng(1).normal(0, 1e-4, 8_000).astype(np.float32)
    parts = [quiet]
    for number in sentences:
        path = voices / voice / f"{number}.opus"
        parts += [read_sound(path), quiet]
    return np.concatenate(parts)


def heard(sound: Sound, encoder: Encoder) -> tuple[Enrolment, list[Progress], float]:
    """An enrolment that has heard all of the sound, and when that was."""
    enrolment = Enrolment(load_vad(MODELS), encoder)
    whole = sound[: len(sound) // BLOCK_SAMPLES * BLOCK_SAMPLES].astype(np.float32)
    blocks = whole.reshape(-1, BLOCK_SAMPLES)
    progress = [
        enrolment.step(AudioBlock(number * BLOCK_S, samples))
        for number, samples in enumerate(blocks, 1)
    ]
    enrolment.pause(len(blocks) * BLOCK_S)
    return enrolment, progress, len(blocks) * BLOCK_S


def codes(sound: Sound, encoder: Encoder) -> set[str]:
    """What is wrong with the sound; it is refused exactly when something is, in these words."""
    enrolment, _, at_s = heard(sound, encoder)
    found = {problem.code for problem in enrolment.problems() if problem.blocking}
    if found:
        with pytest.raises(EnrolmentError) as caught:
            enrolment.finish(at_s)
        assert {line.partition(":")[0] for line in str(caught.value).splitlines()} == found
    else:
        enrolment.finish(at_s)
    return found


@pytest.mark.parametrize("voice", ["af_bella", "am_onyx", "bf_lily", "bm_george", "hf_alpha"])
@pytest.mark.much_speech
def test_a_good_recording_is_accepted(voice: str, voices: Path, encoder: Encoder) -> None:
    """Clean speech of one person gives windows of unit length, and counts speech alone."""
    sound = spoken(voices, voice)
    enrolment, progress, at_s = heard(sound, encoder)
    enrolled = enrolment.finish(at_s)
    assert enrolled.embeddings.shape[1] == 192
    assert np.linalg.norm(enrolled.embeddings, axis=1) == pytest.approx(1, abs=1e-5)
    assert LEAST_S < enrolled.speech_s < at_s
    assert any(moment.speaking for moment in progress)
    assert not progress[0].speaking
    assert [m.speech_s for m in progress] == sorted(m.speech_s for m in progress)


@pytest.mark.much_speech
def test_a_quiet_but_clean_recording_is_accepted(voices: Path, encoder: Encoder) -> None:
    """A microphone with little gain, 20 dB below the usual, is no reason to refuse."""
    assert codes(spoken(voices, "af_bella") / 10, encoder) == set()


@pytest.mark.parametrize("seconds", [0.0, 3.0])
def test_silence_is_too_short(seconds: float, encoder: Encoder) -> None:
    """Silence, however long, is no speech; nothing else is said about it."""
    assert codes(np.zeros(int(16_000 * seconds), np.float32), encoder) == {"too_short"}


@pytest.mark.parametrize(("pause_s", "told"), [(5.0, False), (11.0, True)])
def test_silence_after_sound_is_reported_once_it_is_long(
    pause_s: float, *, told: bool, encoder: Encoder
) -> None:
    """A noise gate makes pauses silent; a microphone that is muted meanwhile stays so."""
    noise = np.random.default_rng(1).normal(0, 1e-3, 16_000).astype(np.float32)
    sound = np.concatenate([noise, np.zeros(int(16_000 * pause_s), np.float32)])
    _, progress, _ = heard(sound, encoder)
    assert any(p.code == "no_sound" for moment in progress for p in moment.problems) == told


def test_one_sentence_is_too_short(voices: Path, encoder: Encoder) -> None:
    """Three seconds of speech make no profile."""
    assert codes(spoken(voices, "af_bella", [1]), encoder) == {"too_short"}


def test_whispering_into_a_closed_microphone_is_too_quiet(voices: Path, encoder: Encoder) -> None:
    """Speech that is heard, but lies near the converter's own noise."""
    assert codes(spoken(voices, "af_bella") / 100, encoder) >= {"too_quiet"}


def test_overdriven_speech_is_clipped(voices: Path, encoder: Encoder) -> None:
    """A gain that drives the converter to full scale bends the voice."""
    assert "clipped" in codes(np.clip(spoken(voices, "bm_george") * 20, -1, 1), encoder)


def test_speech_in_a_running_car_is_noise(voices: Path, encoder: Encoder) -> None:
    """Noise 5 dB below the speech would become part of the profile."""
    sound = spoken(voices, "bm_george")
    level = np.sqrt(np.mean(np.square(sound[np.abs(sound) > 0.01])))
    noise = np.random.default_rng(2).normal(0, level * 10 ** (-5 / 20), sound.size)
    assert "noise" in codes((sound + noise).astype(np.float32), encoder)


def test_a_telephone_lacks_the_upper_band(voices: Path, encoder: Encoder) -> None:
    """8 kHz speech that was brought to 16 kHz afterwards is found out, quantised as it is."""
    narrow = soxr.resample(spoken(voices, "bf_lily"), 16_000, 8_000)
    wide = soxr.resample(narrow, 8_000, 16_000)
    assert "telephone_band" in codes(np.round(wide * 32768) / 32768, encoder)


SOMEBODY = {"someone_else", "not_the_voice_that_began"}


@pytest.mark.parametrize(
    ("first", "second"), [((1, 2, 3), (1, 2, 3)), ((1, 2, 3), (1, 2)), ((1,), (1, 2, 3))]
)
@pytest.mark.much_speech
def test_two_people_are_more_than_one_voice(
    first: tuple[int, ...], second: tuple[int, ...], voices: Path, encoder: Encoder
) -> None:
    """A conversation is no enrolment, whoever has the larger part of it."""
    sound = np.concatenate([spoken(voices, "af_bella", first), spoken(voices, "bm_george", second)])
    found = codes(sound, encoder)
    assert found & SOMEBODY
    assert found <= {*SOMEBODY, "too_short"}


def told(progress: Iterable[Progress]) -> list[str]:
    """What was told while it was wrong, each time once."""
    codes = [problem.code for moment in progress for problem in moment.problems]
    return [code for code, _ in itertools.groupby(codes)]


@pytest.mark.much_speech
def test_another_voice_is_told_while_it_speaks(voices: Path, encoder: Encoder) -> None:
    """First that someone else speaks too, then that the first voice is gone; none of it counts."""
    alone = spoken(voices, "bm_george", [1, 2, 3])
    _, before, _ = heard(alone, encoder)
    both = np.concatenate([alone, spoken(voices, "af_bella", [1, 2, 3, 4])])
    _, progress, _ = heard(both, encoder)
    assert told(before) == []
    assert told(progress) == ["someone_else", "not_the_voice_that_began"]
    assert progress[-1].speech_s == pytest.approx(before[-1].speech_s, abs=2.5)


@pytest.mark.much_speech
def test_a_passengers_word_costs_seconds_and_no_second_attempt(
    voices: Path, encoder: Encoder
) -> None:
    """What the other person said is in nobody's profile."""
    george = [spoken(voices, "bm_george", [number]) for number in (1, 2, 3, 4, 5)]
    bella = spoken(voices, "af_bella", [1])[: 3 * 16_000]
    sound = np.concatenate([*george[:4], bella, *george[4:], *george[:3]])
    enrolment, progress, at_s = heard(sound, encoder)
    windows = enrolment.finish(at_s).embeddings
    (other,) = heard(spoken(voices, "af_bella", [2, 3, 4]), encoder)[0].windows().mean(0)[None]
    assert "someone_else" in told(progress)
    assert float((windows @ other / np.linalg.norm(other)).max()) < 0.4


@pytest.mark.much_speech
def test_one_person_in_two_languages_is_one_voice(voices: Path, encoder: Encoder) -> None:
    """Speaking Hindi and English makes nobody two people."""
    hindi = [np.concatenate([b.samples for b in read_file(p)]) for p in _hindi(voices)]
    sound = np.concatenate([*hindi, spoken(voices, "hf_alpha", [1, 2, 3])])
    assert codes(sound, encoder) == set()


def _hindi(voices: Path) -> list[Path]:
    paths = sorted((voices / "hf_alpha").glob("hi*.opus"))
    assert len(paths) >= 2
    return paths


def in_hall(sound: Sound, seconds: float) -> Sound:
    """The sound in a hall: an exponential tail of noise as long as its reverberation time."""
    count = round(seconds * 16_000)
    tail = np.random.default_rng(3).normal(size=count) * 10 ** (-3 * np.arange(count) / count)
    tail /= np.sqrt(np.sum(tail**2))
    tail[0] += 0.5
    size = len(sound) + count
    return np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(tail, size))[: len(sound)]


@pytest.mark.much_speech
def test_a_hall_echoes(voices: Path, encoder: Encoder) -> None:
    """Far walls smear the voice; the enrolment belongs into the car."""
    sound = spoken(voices, "bm_george")
    assert "echo" in codes(in_hall(sound, 1.2), encoder)
    assert "echo" not in codes(scene.cabin(sound), encoder)


@pytest.mark.parametrize("kind", ["music", "engine"])
@pytest.mark.much_speech
def test_music_and_an_engine_are_told_before_anybody_speaks(
    kind: str, voices: Path, encoder: Encoder
) -> None:
    """Tones that stay are not the noise of a fan; and they spoil what is spoken over them."""
    sound = spoken(voices, "bm_george")
    seconds = len(sound) / 16_000 + 4.1
    noise = scene.music(seconds, 5) if kind == "music" else scene.road_noise(seconds, 0.0, 4)
    level = scene.active_level_db(sound) - 10
    noise = scene.amplify(noise, level - 20 * np.log10(np.sqrt(np.mean(np.square(noise)))))
    whole = np.concatenate([np.zeros(64_000, np.float32), sound])
    _, progress, _ = heard(whole + noise[: len(whole)], encoder)
    assert "engine_or_music" in told(progress[:130])
    assert "engine_or_music" in codes(whole + noise[: len(whole)], encoder)


def test_a_fan_is_no_music(voices: Path, encoder: Encoder) -> None:
    """Even noise is called noise."""
    sound = spoken(voices, "bm_george")
    noise = scene.amplify(np.random.default_rng(2).normal(size=len(sound)).astype("f4"), -34.0)
    _, progress, _ = heard(scene.level_speech(sound) + noise, encoder)
    assert "engine_or_music" not in told(progress)


@pytest.mark.much_speech
def test_a_loudspeaker_is_heard_as_one(voices: Path, encoder: Encoder) -> None:
    """Band limits, compression and a room, as of a telephone's loudspeaker; it is advice."""
    sound = spoken(voices, "bm_george")
    banded = scene._filtered(sound, 700, 7000)
    squeezed = scene._compressed(banded, scene.active_level_db(sound) - 6, 4).astype(np.float32)
    _, progress, _ = heard(scene.cabin(squeezed, 0.5, seed=2), encoder)
    assert "played_back" in told(progress)
    _, progress, _ = heard(sound, encoder)
    assert "played_back" not in told(progress)


@pytest.mark.much_speech
def test_the_same_words_again_are_one_way_of_speaking(voices: Path, encoder: Encoder) -> None:
    """It is advice while it is so, and no reason to refuse."""
    sound = np.tile(spoken(voices, "bm_george", [1]), 7)
    enrolment, progress, at_s = heard(sound, encoder)
    assert "one_way_of_speaking" in told(progress)
    assert enrolment.finish(at_s).speech_s > LEAST_S
    _, varied, _ = heard(spoken(voices, "hf_alpha"), encoder)
    assert "one_way_of_speaking" not in told(varied)


def test_one_note_is_one_way_of_speaking() -> None:
    """A voice that never moves its pitch: the measure by itself, on a note and on a glide."""
    at_s = np.arange(48_000) / 16_000
    note = np.sin(2 * np.pi * 150 * at_s) + 0.5 * np.sin(2 * np.pi * 300 * at_s)
    glide = np.sin(2 * np.pi * (120 * at_s + 20 * at_s**2))
    assert np.std(acoustics.pitch_semitones(note.astype("f4"))) < 0.1
    assert np.median(acoustics.pitch_semitones(note.astype("f4"))) == pytest.approx(
        12 * np.log2(150 / 70), abs=0.3
    )
    assert np.std(acoustics.pitch_semitones(glide.astype("f4"))) > 2.0


@pytest.mark.much_speech
def test_what_is_wrong_is_told_while_it_is_wrong(voices: Path, encoder: Encoder) -> None:
    """A loud sentence among good ones is told as it is spoken, and not any more afterwards."""
    loud = np.clip(spoken(voices, "bm_george", [1]) * 20, -1, 1)
    good = spoken(voices, "bm_george", [2, 3, 4, 5])
    sound = np.concatenate([good, loud, good])
    enrolment, progress, at_s = heard(sound, encoder)
    wrong = [n for n, p in enumerate(progress) if any(q.code == "clipped" for q in p.problems)]
    first, last = len(good) / 480, (len(good) + len(loud)) / 480
    assert first <= wrong[0] < last
    assert wrong[-1] < last + 4 / 0.03
    assert enrolment.finish(at_s).speech_s > 12.0


@pytest.mark.much_speech
def test_it_says_when_it_has_enough(voices: Path, encoder: Encoder) -> None:
    """Twenty useful seconds, and nothing against them."""
    _, progress, _ = heard(np.tile(spoken(voices, "bm_george"), 2), encoder)
    enough = [moment for moment in progress if moment.enough]
    assert enough
    assert enough[0].speech_s >= 20.0
    assert not any(moment.enough for moment in progress if moment.speech_s < 20.0)


@pytest.mark.much_speech
def test_the_noise_of_the_road_is_welcome_on_the_road(voices: Path, encoder: Encoder) -> None:
    """The second, moving part is there for its noise; parked it would be refused."""
    sound = spoken(voices, "bm_george")
    road = scene.mix(sound, scene.road_noise(len(sound) / 16_000 + 1, 80.0, 3), 7.0)
    parked, _, _ = heard(road, encoder)
    enrolment = Enrolment(load_vad(MODELS), encoder)
    enrolment.allow_road_noise()
    for number, samples in enumerate(road[: len(road) // 480 * 480].reshape(-1, 480), 1):
        enrolment.step(AudioBlock(number * BLOCK_S, samples))
    assert {p.code for p in parked.problems()} & {"noise", "engine_or_music"}
    assert not {p.code for p in enrolment.problems()} & {"noise", "engine_or_music"}


def test_every_reason_is_given_at_once(voices: Path, encoder: Encoder) -> None:
    """Nobody has to record three times to learn of three faults."""
    sound = np.clip(spoken(voices, "bm_george", [1]) * 20, -1, 1)
    assert codes(sound, encoder) >= {"clipped", "too_short"}


def test_speech_around_a_gap_is_not_joined(voices: Path, encoder: Encoder) -> None:
    """A gap drops the open utterance: what was not spoken together is not embedded together."""
    sentence = spoken(voices, "af_bella", [1])
    blocks = sentence[: len(sentence) // BLOCK_SAMPLES * BLOCK_SAMPLES].reshape(-1, BLOCK_SAMPLES)
    torn = Enrolment(load_vad(MODELS), encoder)
    for number, samples in enumerate(blocks, 1):
        torn.step(AudioBlock(number * BLOCK_S, samples, gap=number == len(blocks) // 2))
    torn.pause(len(blocks) * BLOCK_S)
    whole, _, _ = heard(sentence, encoder)
    assert 0 < torn.speech_s < 0.75 * whole.speech_s


@pytest.mark.much_speech
def test_a_profile_holds_each_window_in_quiet_and_in_two_noises(
    voices: Path, encoder: Encoder
) -> None:
    """The windows as recorded come first; the copies are like them, and not the same."""
    enrolment, _, at_s = heard(spoken(voices, "af_bella"), encoder)
    rows = enrolment.finish(at_s).embeddings
    quiet, road, white = np.split(rows, 3)
    for copies in (road, white):
        similarity = np.sum(quiet * copies, axis=1)
        assert similarity.min() > 0.2
        assert similarity.max() < 0.99


@pytest.mark.much_speech
def test_the_same_recording_gives_the_same_profile(voices: Path, encoder: Encoder) -> None:
    """The noise of the copies is no dice: it belongs to the window's number."""
    sound = spoken(voices, "af_bella")
    once, again = (heard(sound, encoder) for _ in range(2))
    np.testing.assert_array_equal(
        once[0].finish(once[2]).embeddings, again[0].finish(again[2]).embeddings
    )


def test_copies_in_noise_are_as_noisy_as_they_say() -> None:
    """Noise lies so far under the speech, and nothing leaves the full scale."""
    speech = (0.1 * np.sin(np.arange(32_000) / 7)).astype(np.float32)
    for copy in in_noise(speech, 3):
        noise = copy - speech
        snr_db = 10 * np.log10(np.mean(speech**2) / np.mean(noise**2))
        assert snr_db == pytest.approx(AUGMENTATION_SNR_DB, abs=0.1)
    assert max(np.abs(copy).max() for copy in in_noise(10 * speech, 3)) <= 1.0


# --- which channel --------------------------------------------------------------------------------


def voice_of(voices: Path, voice: str, encoder: Encoder, sentence: int) -> Floats:
    """What `first_voice` makes of a sentence."""
    sound = spoken(voices, voice, [sentence])
    whole = sound[: len(sound) // BLOCK_SAMPLES * BLOCK_SAMPLES].reshape(-1, BLOCK_SAMPLES)
    blocks = [AudioBlock(number * BLOCK_S, block) for number, block in enumerate(whole, 1)]
    found = first_voice(blocks, load_vad(MODELS), encoder)
    assert found is not None
    return found


def test_an_array_s_person_is_taken_and_not_what_the_array_plays(
    voices: Path, encoder: Encoder
) -> None:
    """A loopback of the navigation's voice is the loudest channel, and one against many."""
    played = voice_of(voices, "af_bella", encoder, 1)
    person = {channel: voice_of(voices, "am_liam", encoder, 1 + channel) for channel in range(4)}
    assert channel_of_person({5: played, 2: person[2]} | person) == 2
    assert channel_of_person({1: person[1], 0: person[0]}) == 1


def test_two_voices_on_two_channels_are_refused_with_their_numbers(
    voices: Path, encoder: Encoder
) -> None:
    """Which of them is to be enrolled only the person knows; channels are counted from 1."""
    two = {
        1: voice_of(voices, "af_bella", encoder, 1),
        0: voice_of(voices, "am_liam", encoder, 1),
    }
    with pytest.raises(EnrolmentError, match="one in channel 2; another in 1"):
        channel_of_person(two)


def test_a_channel_in_which_nobody_speaks_has_no_voice(encoder: Encoder) -> None:
    """Silence and a constant are no voice."""
    blocks = [AudioBlock(n * BLOCK_S, np.zeros(BLOCK_SAMPLES, np.float32)) for n in range(1, 100)]
    assert first_voice(blocks, load_vad(MODELS), encoder) is None
