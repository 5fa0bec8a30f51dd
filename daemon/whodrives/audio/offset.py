"""Finds and removes a constant offset (DC) from sound, and says what counts as silence."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np

from whodrives.audio.blocks import FULL_SCALE, Floats

SILENT_SPAN = 1.1 / 32768
"""Samples that are no further apart are silence: zeros, a constant, or a converter's last bit."""


SILENCE = (
    "nothing but silence comes in; unmute the microphone, choose another device or profile, or "
    "raise the gain"
)


OFFSET_BLOCKS = 33
"""An offset is one when the mean of each of so many blocks, a second, lies on the same side.

Sound swings around its mean: of 1282 recordings of speech, of noise and of a car's cabin none kept
to one side by LEAST_OFFSET for so long, and three did for half of it (2026-12-01).
"""


LEAST_OFFSET = 1e-4
"""An offset below this, -80 dBFS, is below any noise."""


def is_silent(samples: Floats) -> bool:
    """Whether samples of shape (n,), n >= 1, are silence: within SILENT_SPAN of each other."""
    return float(np.ptp(samples)) <= SILENT_SPAN


class Offset:
    """Removes a constant offset (DC) from sound, if one is measured to be there.

    Without one the samples are given back as they are, bit for bit: a high-pass filter would change
    every recording. What is removed changes only when a second of sound lies beside it.
    """

    def __init__(self) -> None:
        self._removed = 0.0
        self._means: deque[float] = deque(maxlen=OFFSET_BLOCKS)

    def expect(self, blocks: Iterable[Floats]) -> None:
        """Measure the first blocks before they are given to `remove`: nothing of them is spoilt."""
        for samples in blocks:
            self._measure(samples)
        self._means.clear()

    def remove(self, samples: Floats) -> Floats:
        """Take the next block; give it without the offset, read-only.

        A sample at full scale stays there, so that clipping can still be measured.
        """
        before = self._removed
        self._measure(samples)
        if not before and not self._removed:
            return samples
        # The block in which it changes gets there in a line, which makes no click.
        offset = np.linspace(before, self._removed, samples.size + 1)[1:]
        clipped = np.abs(samples) >= FULL_SCALE
        steady = np.where(clipped, samples, samples - offset).astype(np.float32)
        steady.flags.writeable = False
        return steady

    def _measure(self, samples: Floats) -> None:
        self._means.append(float(samples.mean(dtype=np.float64)) - self._removed)
        if len(self._means) < OFFSET_BLOCKS:
            return
        if min(self._means) > LEAST_OFFSET or max(self._means) < -LEAST_OFFSET:
            removed = self._removed + float(np.median(self._means))
            self._removed = removed if abs(removed) > LEAST_OFFSET else 0.0
            self._means.clear()
