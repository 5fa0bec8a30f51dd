"""How good the sound of some speech is, on sounds whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whodrives.audio.blocks import SAMPLE_RATE_HZ, Floats
from whodrives.voice.acoustics import Quality, dbfs
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


def test_the_band_above_a_telephone_s_is_told_from_the_band_within() -> None:
    """As much above as within is 0 dB; nothing above is far below anything."""
    assert measured(tone(1000) + tone(6000)).upper_band_db == pytest.approx(0.0, abs=0.1)
    assert measured(tone(1000)).upper_band_db < -60
    assert measured(tone(6000)).upper_band_db > 60


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
