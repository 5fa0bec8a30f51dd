"""What each hour of a soak holds, drawn from a seed: who speaks, in what noise, what goes wrong.

Pure but for reading the demo's voices.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.lab.scene import HISS_LEVEL_DB, amplify, level_speech, mix, read_speech, road_noise
from whodrives.audio.blocks import BLOCK_SAMPLES, SAMPLE_RATE_HZ, Floats

PAUSE_S = 1.5
"""Silence after each sentence: it ends an utterance."""

ROADS = 6
NO_FAULT = "none"
SHORT_LIVES = ("killed", "stopped")
"""Faults that end the daemon."""

FAULTS = (
    "broker killed",
    "broker hangs",
    "calendar",
    "sound stalls",
    "starved",
    "disk full",
    "bad profile",
    "hostile messages",
    "reload",
    "bad settings",
)


@dataclass(frozen=True, slots=True)
class Hour:
    """One hour: a minute of it is driven, the rest passes at once.

    Attributes:
        number: from 0.
        sound: 16-bit little-endian PCM, 16 kHz mono, whole blocks.
        middle: a byte between two sentences, at a block's border.
        sentences: number of sentences in it.
        fault: what goes wrong, NO_FAULT or one of the others.
        step_s: by how much the calendar is stepped, if that is the fault.
    """

    number: int
    sound: bytes
    middle: int
    sentences: int
    fault: str
    step_s: float


class Hours:
    """Draws hours.

    Args:
        voices: folder of the demo's voices.
        drivers: who is enrolled, and the sentences of theirs that were not used for that.
        seed: the same seed gives the same hours.
    """

    def __init__(self, voices: Path, drivers: Mapping[str, Sequence[str]], seed: int) -> None:
        self._seed = seed
        self._drivers = [
            [read_speech(voices / voice / file) for file in files]
            for voice, files in drivers.items()
        ]
        others = sorted(p for p in voices.iterdir() if p.is_dir() and p.name not in drivers)
        self._strangers = [[read_speech(f) for f in sorted(p.glob("*.opus"))] for p in others]
        self._roads = [road_noise(20.0, 50.0 + 15 * n, n) for n in range(ROADS)]

    def hour(self, number: int, *, ends: bool) -> Hour:
        """The hour of this number; with `ends` the daemon may die in it."""
        rng = random.Random(f"{self._seed}/{number}")  # noqa: S311 - a seed is wanted
        noise = np.random.default_rng([self._seed, number])
        said = [self._sentence(rng, noise) for _ in range(rng.randint(2, 5))]
        half = sum(map(len, said[: len(said) // 2]))
        kinds = (*FAULTS, *SHORT_LIVES) if ends else FAULTS
        return Hour(
            number,
            b"".join(said),
            half,
            len(said),
            rng.choice(kinds) if rng.random() < 0.6 else NO_FAULT,  # noqa: PLR2004 - most hours
            rng.choice((-86_400.0, -3600.0, -1.0, 1.0, 3600.0, 86_400.0, 31_536_000.0)),
        )

    def _sentence(self, rng: random.Random, noise: np.random.Generator) -> bytes:
        """Somebody says something; PCM of whole blocks with the pause after it."""
        people = self._drivers if rng.random() < 0.6 else self._strangers  # noqa: PLR2004
        speech = level_speech(rng.choice(rng.choice(people)))
        if rng.random() < 0.4:  # noqa: PLR2004
            road = rng.choice(self._roads)
            speech = mix(speech, np.resize(road, len(speech)), rng.choice((5.0, 10.0, 20.0)))
        padded = np.pad(speech, (SAMPLE_RATE_HZ // 2, round(PAUSE_S * SAMPLE_RATE_HZ)))
        padded = np.pad(padded, (0, -len(padded) % BLOCK_SAMPLES))
        hiss = amplify(noise.standard_normal(len(padded)).astype(np.float32), HISS_LEVEL_DB)
        return _pcm(padded + hiss)


def _pcm(samples: Floats) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
