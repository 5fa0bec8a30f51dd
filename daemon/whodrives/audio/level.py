"""Peak and RMS level of sound, for people who set a gain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from whodrives.audio.blocks import Floats


@dataclass(frozen=True, slots=True)
class Level:
    """How loud sound is, in dB below full scale (0 dBFS: a sample of 1.0); silence is -inf.

    Attributes:
        peak_dbfs: of the largest sample.
        rms_dbfs: of the root mean square; a sine of full scale has -3.0 dBFS.
    """

    peak_dbfs: float
    rms_dbfs: float


def level(samples: Floats) -> Level:
    """Measure samples of shape (n,), n >= 1, in [-1, 1]."""
    peak = float(np.abs(samples).max())
    rms = math.sqrt(float(np.square(samples, dtype=np.float64).mean()))
    return Level(peak_dbfs=_dbfs(peak), rms_dbfs=_dbfs(rms))


def _dbfs(amplitude: float) -> float:
    return 20 * math.log10(amplitude) if amplitude > 0 else -math.inf
