"""How good the sound of some speech is, on sounds whose answer is known."""

from collections.abc import Callable

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

from whodrives.audio.blocks import BLOCK_SAMPLES, SAMPLE_RATE_HZ, Floats
from whodrives.voice.acoustics import Quality, dbfs
from whodrives.voice.decision import is_telephone
from whodrives.voice.types import Sound


def tone(hertz: float, level: float = 0.1, seconds: float = 1.0) -> Floats:
    """A sine."""
    at = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (level * np.sin(2 * np.pi * hertz * at)).astype(np.float32)


def measured(*pieces: Floats) -> Sound:
    """The sound of these pieces together."""
    quality = Quality()
    for piece in pieces:
        quality.add(piece)
    return quality.sound()


def test_the_level_is_that_of_all_pieces_together() -> None:
    """A sine of 0.1 is 23 dB below full scale; as long a silence halves its power."""
    assert measured(tone(1000)).level_dbfs == pytest.approx(-23.0, abs=0.1)
    silence = np.zeros(SAMPLE_RATE_HZ, np.float32)
    assert measured(tone(1000), silence).level_dbfs == pytest.approx(-26.0, abs=0.1)


def test_only_what_is_at_full_scale_is_clipped() -> None:
    """An overdriven sine is clipped for most of its time, a loud one not at all."""
    assert measured(np.clip(tone(500, 5.0), -1, 1)).clipped > 0.8
    assert measured(tone(500, 0.9)).clipped == 0.0


def speech(level_dbfs: float = -26.0) -> Floats:
    """Three seconds like speech: voiced syllables, fricatives from 3 kHz up, and pauses."""
    rng = np.random.default_rng(7)
    at = np.arange(3 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    voiced = sum(np.sin(2 * np.pi * 150 * n * at + n * n) / n for n in range(1, 50))
    spectrum = np.fft.rfft(rng.standard_normal(at.size))
    spectrum[np.fft.rfftfreq(at.size, 1 / SAMPLE_RATE_HZ) < 3000] = 0
    hissed = np.fft.irfft(spectrum, at.size)
    phase = at % 0.4
    said = voiced * (phase < 0.2) + 0.3 * hissed * ((phase > 0.2) & (phase < 0.3))
    return np.asarray(said * 10 ** (level_dbfs / 20) / np.std(said), np.float32)


def at_8_khz(sound: Floats) -> Floats:
    """The samples of an 8 kHz microphone."""
    return np.asarray(soxr.resample(sound, SAMPLE_RATE_HZ, SAMPLE_RATE_HZ // 2), np.float32)


def resampled(narrow: Floats) -> Floats:
    """Back to 16 kHz with a good filter."""
    return np.asarray(soxr.resample(narrow, SAMPLE_RATE_HZ // 2, SAMPLE_RATE_HZ), np.float32)


def interpolated(narrow: Floats) -> Floats:
    """Back to 16 kHz by linear interpolation, which mirrors the lower band above 4 kHz."""
    count = len(narrow)
    return np.interp(np.arange(2 * count) / 2, np.arange(count), narrow).astype(np.float32)


def drifting(narrow: Floats) -> Floats:
    """The same with two clocks: 8 kHz are 200 ppm fast."""
    count = len(narrow)
    at = np.arange(2 * count) * 0.4999
    return np.asarray(np.interp(at, np.arange(count), narrow), np.float32)


def repeated(narrow: Floats) -> Floats:
    """Back to 16 kHz without any filter."""
    return np.repeat(narrow, 2)


def stored(sound: Floats) -> Floats:
    """What 16 bits keep."""
    return (np.round(np.clip(sound, -1, 1) * 32767) / 32767).astype(np.float32)


def hissing(sound: Floats, snr_db: float, *, pauses_only: bool = False) -> Floats:
    """White noise below the speech by `snr_db`, or in its pauses alone."""
    noise = np.random.default_rng(8).standard_normal(sound.size) * np.std(sound)
    power = np.convolve(sound.astype(np.float64) ** 2, np.ones(800) / 800, "same")
    heard = power < np.mean(power) / 1000 if pauses_only else 1.0
    return (sound + noise * 10 ** (-snr_db / 20) * heard).astype(np.float32)


@pytest.mark.parametrize("level_dbfs", [-45.0, -35.0, -26.0, -15.0])
@pytest.mark.parametrize("widened", [resampled, interpolated, drifting, repeated])
def test_speech_recorded_at_8_khz_is_found_at_any_level(
    level_dbfs: float, widened: Callable[[Floats], Floats]
) -> None:
    """Neither rounding noise nor the mirror image of a poor filter hides the missing band."""
    sound = stored(widened(at_8_khz(speech(level_dbfs))))
    assert is_telephone(measured(sound))
    assert is_telephone(measured(sound[:SAMPLE_RATE_HZ]))


@pytest.mark.parametrize("snr_db", [60.0, 50.0, 40.0, 30.0])
def test_hiss_after_the_band_was_lost_does_not_hide_it(snr_db: float) -> None:
    """It does not rise with the speech; nor does comfort noise, which is heard in the pauses."""
    narrow = resampled(at_8_khz(speech()))
    assert is_telephone(measured(stored(hissing(narrow, snr_db))))
    assert is_telephone(measured(stored(hissing(narrow, snr_db, pauses_only=True))))


def test_an_overdriven_microphone_at_8_khz_is_found() -> None:
    """Clipping makes harmonics above 4 kHz, so clipped blocks do not count."""
    loud = resampled(np.clip(at_8_khz(speech(-8.0)), -1, 1))
    sound = measured(stored(loud))
    assert 0 < sound.clipped < 0.1
    assert is_telephone(sound)


@pytest.mark.parametrize("level_dbfs", [-45.0, -26.0, -10.0])
@pytest.mark.parametrize("snr_db", [80.0, 40.0, 20.0, 10.0, 0.0])
def test_wide_band_speech_is_not_taken_for_a_telephone_s(level_dbfs: float, snr_db: float) -> None:
    """In silence, in hiss, and in hiss that hides the upper band: then nothing can be told."""
    assert not is_telephone(measured(stored(hissing(speech(level_dbfs), snr_db))))


def test_the_band_is_that_of_all_pieces_together() -> None:
    """A second without a fricative is no reason once the upper band was heard."""
    sound = speech()
    narrow = resampled(at_8_khz(sound))
    assert is_telephone(measured(narrow[:SAMPLE_RATE_HZ]))
    assert not is_telephone(measured(narrow[:SAMPLE_RATE_HZ], sound[SAMPLE_RATE_HZ:]))


def test_a_splice_at_a_block_s_edge_is_no_upper_band() -> None:
    """Pauses are cut out of a segment; the step that is left must not look like speech."""
    rng = np.random.default_rng(9)
    low = tone(60, 0.3, 3.0) + resampled(at_8_khz(speech()))
    noisy = stored(low + 1e-5 * rng.standard_normal(low.size).astype(np.float32))
    blocks = noisy[: len(noisy) // BLOCK_SAMPLES * BLOCK_SAMPLES].reshape(-1, BLOCK_SAMPLES)
    kept = np.delete(blocks, [9, 11, 14, 40, 41, 43, 70], axis=0)
    assert is_telephone(measured(kept.ravel()))


def test_nothing_is_known_before_the_first_piece() -> None:
    """There is no sound of no speech."""
    with pytest.raises(ValueError, match="no speech"):
        Quality().sound()


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=2000))
def test_any_samples_have_finite_measures(samples: list[float]) -> None:
    """Silence, a single sample and full scale included."""
    sound = measured(np.array(samples, np.float32))
    assert np.isfinite([sound.level_dbfs, sound.clipped, sound.upper_band_db]).all()
    assert 0 <= sound.clipped <= 1


def test_digital_silence_has_a_level() -> None:
    """Its logarithm would not exist."""
    assert dbfs(0.0) == -120.0
