"""What tools/measure_band.py makes of speech before it asks the daemon's rule."""

import numpy as np
import pytest

from tools import measure_band
from tools.lab.scene import active_level_db
from whodrives.audio.blocks import SAMPLE_RATE_HZ, Floats

IMAGED = {"linear interpolation", "repeated samples"}
HISSES = {name for name in measure_band.NARROW if "hiss" in name or "noise" in name}


@pytest.fixture(scope="module")
def speech() -> Floats:
    """Two seconds of noise in bursts, as loud above 4 kHz as below."""
    rng = np.random.default_rng(1)
    bursts = np.repeat(rng.random(20) > 0.4, SAMPLE_RATE_HZ // 10)
    return np.asarray(0.1 * rng.standard_normal(bursts.size) * bursts, np.float32)


def share_above(sound: Floats, hertz: float) -> float:
    """Share of the power above a frequency."""
    power = np.abs(np.fft.rfft(sound)) ** 2
    return float(power[int(hertz * len(sound) / SAMPLE_RATE_HZ) :].sum() / power.sum())


@pytest.mark.parametrize("name", sorted(set(measure_band.NARROW) - IMAGED - HISSES))
def test_a_narrow_condition_leaves_nothing_above_its_band(name: str, speech: Floats) -> None:
    """But for what a codec at 16 kHz, or clipping, adds; and the speech itself is there."""
    heard = measure_band.NARROW[name].heard(speech, name)
    assert share_above(heard, 4700) < (1e-2 if name in {"level -6 dBFS", "level 0 dBFS"} else 1e-4)
    assert 0.005 < np.abs(heard).max() <= 1


@pytest.mark.parametrize("name", sorted(HISSES))
def test_hiss_after_the_band_was_lost_is_below_the_speech(name: str, speech: Floats) -> None:
    """As far as its name says, white noise having half its power above 4 kHz."""
    heard = measure_band.NARROW[name].heard(speech, name)
    below_db = float(name.split()[-2])
    assert 10 * np.log10(share_above(heard, 4700)) < 1 - below_db
    if name.startswith("white"):
        assert 10 * np.log10(share_above(heard, 4700)) > -8 - below_db


@pytest.mark.parametrize("name", ["level -45 dBFS", "level -26 dBFS", "G.711 A-law"])
def test_levels_are_those_of_the_active_speech(name: str, speech: Floats) -> None:
    """Half the power of white noise is lost with the band; a drawn level is one of the list."""
    heard = measure_band.NARROW[name].heard(speech, name)
    wanted = measure_band.NARROW[name].level_dbfs
    levels = measure_band.LEVELS_DBFS if wanted is None else (wanted,)
    assert min(abs(active_level_db(heard) - level + 3) for level in levels) < 1.5


@pytest.mark.parametrize("name", sorted({*measure_band.WIDE, *measure_band.MUFFLED}))
def test_a_wide_condition_keeps_the_upper_band(name: str, speech: Floats) -> None:
    """Even where it is muffled, more than 8 kHz sound could have is left."""
    assert share_above(measure_band.wide(speech, name, "a"), 4700) > 1e-5
