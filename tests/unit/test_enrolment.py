"""What makes a recording good enough: real voices, spoilt on purpose, through the real models."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from whodrives.capture import read_file
from whodrives.domain import BLOCK_S, BLOCK_SAMPLES, AudioBlock, EnrolmentError, Floats
from whodrives.enrolment import LEAST_S, NOISY_COPIES_DB, Enrolment, Progress, in_noise
from whodrives.inference import OnnxEncoder, load_encoder, load_gate

Sound: TypeAlias = NDArray[np.floating[Any]]

MODELS = Path(__file__).parent.parent.parent / "models"


@pytest.fixture(scope="module")
def encoder() -> OnnxEncoder:
    """The encoder of this checkout."""
    return load_encoder(MODELS)


def spoken(voices: Path, voice: str, sentences: Iterable[int] = range(1, 6)) -> Floats:
    """Sentences of a voice, as the daemon hears them, with half a second between them."""
    quiet = np.random.default_rng(1).normal(0, 1e-4, 8_000).astype(np.float32)
    parts = [quiet]
    for number in sentences:
        path = voices / voice / f"{number}.opus"
        parts += [np.concatenate([block.samples for block in read_file(path)]), quiet]
    return np.concatenate(parts)


def heard(sound: Sound, encoder: OnnxEncoder) -> tuple[Enrolment, list[Progress], float]:
    """An enrolment that has heard all of the sound, and when that was."""
    enrolment = Enrolment(load_gate(MODELS), encoder)
    whole = sound[: len(sound) // BLOCK_SAMPLES * BLOCK_SAMPLES].astype(np.float32)
    blocks = whole.reshape(-1, BLOCK_SAMPLES)
    progress = [
        enrolment.step(AudioBlock(number * BLOCK_S, samples))
        for number, samples in enumerate(blocks, 1)
    ]
    enrolment.pause(len(blocks) * BLOCK_S)
    return enrolment, progress, len(blocks) * BLOCK_S


def codes(sound: Sound, encoder: OnnxEncoder) -> set[str]:
    """What is wrong with the sound; it is refused exactly when something is, in these words."""
    enrolment, _, at_s = heard(sound, encoder)
    found = {problem.code for problem in enrolment.problems()}
    if found:
        with pytest.raises(EnrolmentError) as caught:
            enrolment.finish(at_s)
        assert {line.partition(":")[0] for line in str(caught.value).splitlines()} == found
    else:
        enrolment.finish(at_s)
    return found


@pytest.mark.parametrize("voice", ["af_bella", "am_onyx", "bf_lily", "bm_george", "hf_alpha"])
def test_a_good_recording_is_accepted(voice: str, voices: Path, encoder: OnnxEncoder) -> None:
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


def test_a_quiet_but_clean_recording_is_accepted(voices: Path, encoder: OnnxEncoder) -> None:
    """A microphone with little gain, 20 dB below the usual, is no reason to refuse."""
    assert codes(spoken(voices, "af_bella") / 10, encoder) == set()


@pytest.mark.parametrize("seconds", [0.0, 3.0])
def test_silence_is_too_short(seconds: float, encoder: OnnxEncoder) -> None:
    """Silence, however long, is no speech; nothing else is said about it."""
    assert codes(np.zeros(int(16_000 * seconds), np.float32), encoder) == {"too_short"}


def test_one_sentence_is_too_short(voices: Path, encoder: OnnxEncoder) -> None:
    """Three seconds of speech make no profile."""
    assert codes(spoken(voices, "af_bella", [1]), encoder) == {"too_short"}


def test_whispering_into_a_closed_microphone_is_too_quiet(
    voices: Path, encoder: OnnxEncoder
) -> None:
    """Speech that is heard, but lies near the converter's own noise."""
    assert codes(spoken(voices, "af_bella") / 100, encoder) >= {"too_quiet"}


def test_overdriven_speech_is_clipped(voices: Path, encoder: OnnxEncoder) -> None:
    """A gain that drives the converter to full scale bends the voice."""
    assert "clipped" in codes(np.clip(spoken(voices, "bm_george") * 20, -1, 1), encoder)


def test_speech_in_a_running_car_is_noise(voices: Path, encoder: OnnxEncoder) -> None:
    """Noise 5 dB below the speech would become part of the profile."""
    sound = spoken(voices, "bm_george")
    level = np.sqrt(np.mean(np.square(sound[np.abs(sound) > 0.01])))
    noise = np.random.default_rng(2).normal(0, level * 10 ** (-5 / 20), sound.size)
    assert "noise" in codes((sound + noise).astype(np.float32), encoder)


def test_a_telephone_lacks_the_upper_band(voices: Path, encoder: OnnxEncoder) -> None:
    """8 kHz speech that was brought to 16 kHz afterwards is found out, quantised as it is."""
    narrow = soxr.resample(spoken(voices, "bf_lily"), 16_000, 8_000)
    wide = soxr.resample(narrow, 8_000, 16_000)
    assert "telephone_band" in codes(np.round(wide * 32768) / 32768, encoder)


@pytest.mark.parametrize(
    ("first", "second"), [((1, 2, 3), (1, 2, 3)), ((1, 2, 3, 4), (1,)), ((1,), (1, 2, 3))]
)
def test_two_people_are_more_than_one_voice(
    first: tuple[int, ...], second: tuple[int, ...], voices: Path, encoder: OnnxEncoder
) -> None:
    """A conversation is no enrolment, whoever has the larger part of it."""
    sound = np.concatenate([spoken(voices, "af_bella", first), spoken(voices, "bm_george", second)])
    assert codes(sound, encoder) == {"more_than_one_voice"}


def test_one_person_in_two_languages_is_one_voice(voices: Path, encoder: OnnxEncoder) -> None:
    """Speaking Hindi and English makes nobody two people."""
    hindi = [np.concatenate([b.samples for b in read_file(p)]) for p in _hindi(voices)]
    sound = np.concatenate([*hindi, spoken(voices, "hf_alpha", [1, 2, 3])])
    assert codes(sound, encoder) == set()


def _hindi(voices: Path) -> list[Path]:
    paths = sorted((voices / "hf_alpha").glob("hi*.opus"))
    assert len(paths) >= 2
    return paths


def test_every_reason_is_given_at_once(voices: Path, encoder: OnnxEncoder) -> None:
    """Nobody has to record three times to learn of three faults."""
    sound = np.clip(spoken(voices, "bm_george", [1]) * 20, -1, 1)
    assert codes(sound, encoder) >= {"clipped", "too_short"}


def test_speech_around_a_gap_is_not_joined(voices: Path, encoder: OnnxEncoder) -> None:
    """A gap drops the open utterance: what was not spoken together is not embedded together."""
    sentence = spoken(voices, "af_bella", [1])
    blocks = sentence[: len(sentence) // BLOCK_SAMPLES * BLOCK_SAMPLES].reshape(-1, BLOCK_SAMPLES)
    torn = Enrolment(load_gate(MODELS), encoder)
    for number, samples in enumerate(blocks, 1):
        torn.step(AudioBlock(number * BLOCK_S, samples, gap=number == len(blocks) // 2))
    torn.pause(len(blocks) * BLOCK_S)
    whole, _, _ = heard(sentence, encoder)
    assert 0 < torn._speech_s < 0.75 * whole._speech_s


def test_a_profile_holds_each_window_in_quiet_and_in_two_noises(
    voices: Path, encoder: OnnxEncoder
) -> None:
    """The windows as recorded come first; the copies are like them, and not the same."""
    enrolment, _, at_s = heard(spoken(voices, "af_bella"), encoder)
    rows = enrolment.finish(at_s).embeddings
    quiet, road, white = np.split(rows, 3)
    for copies in (road, white):
        likeness = np.sum(quiet * copies, axis=1)
        assert likeness.min() > 0.2
        assert likeness.max() < 0.99


def test_the_same_recording_gives_the_same_profile(voices: Path, encoder: OnnxEncoder) -> None:
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
        assert snr_db == pytest.approx(NOISY_COPIES_DB, abs=0.1)
    assert max(np.abs(copy).max() for copy in in_noise(10 * speech, 3)) <= 1.0
