"""How good the sound of some speech is: level, clipping, bandwidth.

Owns how these are measured. Knows nothing of limits: what is too poor for a profile is
`enrolment`'s to say, what is too poor for a verdict `decision`'s.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from whodrives.domain import SAMPLE_RATE_HZ, Floats, Sound

LOWER_BAND_HZ = (300.0, 3400.0)
"""What a telephone carries (ITU-T G.712)."""

UPPER_BAND_HZ = (4300.0, 7500.0)

_CLIPPED_LEVEL = 0.985


class Quality:
    """Sums over pieces of speech, whatever their lengths."""

    def __init__(self) -> None:
        self._samples = 0
        self._clipped = 0
        self._energy = 0.0
        self._upper = 0.0
        self._lower = 0.0

    def add(self, samples: Floats) -> None:
        """Take float32 samples (n,) in [-1, 1], 16 kHz, n > 0."""
        self._samples += samples.size
        self._clipped += int(np.count_nonzero(np.abs(samples) >= _CLIPPED_LEVEL))
        self._energy += float(np.sum(np.square(samples, dtype=np.float64)))
        power = np.abs(np.fft.rfft(samples * np.hanning(samples.size))) ** 2
        hertz = np.fft.rfftfreq(samples.size, 1.0 / SAMPLE_RATE_HZ)
        self._lower += float(power[_within(hertz, LOWER_BAND_HZ)].sum())
        self._upper += float(power[_within(hertz, UPPER_BAND_HZ)].sum())

    def sound(self) -> Sound:
        """What the speech so far sounds like; raises ValueError before the first piece."""
        if not self._samples:
            raise ValueError("no speech yet")
        return Sound(
            dbfs(float(np.sqrt(self._energy / self._samples))),
            self._clipped / self._samples,
            10.0 * float(np.log10((self._upper + 1e-20) / (self._lower + 1e-20))),
        )


def dbfs(level: float) -> float:
    """An RMS `level` in [0, 1] as dB relative to full scale; digital silence is -120."""
    return float(20.0 * np.log10(max(level, 1e-6)))


def _within(hertz: NDArray[np.floating[Any]], band: tuple[float, float]) -> NDArray[np.bool_]:
    return (hertz > band[0]) & (hertz < band[1])
