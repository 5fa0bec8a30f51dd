"""The unit of sound that the whole program works on, and the state of its source."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FULL_SCALE = 0.985
"""A sample from here on has met the converter's end, or nearly."""


SAMPLE_RATE_HZ = 16_000
"""Every sample in the core is taken at this rate, mono."""


BLOCK_SAMPLES = 480
"""Samples in an `AudioBlock`: 30 ms, the longest frame that usual voice-activity detectors take."""


BLOCK_S = BLOCK_SAMPLES / SAMPLE_RATE_HZ


Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """30 ms of sound.

    Attributes:
        at_s: when its last sample was heard.
        samples: float32, shape (BLOCK_SAMPLES,), in [-1, 1], 16 kHz mono, read-only.
        gap: sound was lost between the block before and this one.
    """

    at_s: float
    samples: Floats
    gap: bool = False


class SourceHealth(StrEnum):
    """What became of the sound source."""

    OPEN = "open"
    LOST = "lost"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class SourceState:
    """The sound source opened, was lost (`reason` says how), or came to its end."""

    at_s: float
    health: SourceHealth
    reason: str = ""
