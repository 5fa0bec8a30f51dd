"""From a recording of one person to a voice that can be recognised, or the reason why not.

Owns what a good enough recording is: enough speech, loud enough, not clipped, not telephone band,
one voice. Knows nothing of where the sound comes from or where the result is kept.

The limits were tried on real people (tools/measure_enrolment.py; 100 people, 2026-11-23): of 99
with enough clean speech 2 were refused, both as two voices; over an 8 kHz line 98 of the 99. When
another person spoke half of the time 85 of 100 were refused, a fifth of the time 68: a mixed
recording may pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whodrives.domain import (
    SAMPLE_RATE_HZ,
    AudioBlock,
    Encoder,
    EnrolmentError,
    Floats,
    Look,
    UtteranceEnd,
    VoiceActivity,
)
from whodrives.scoring import unit
from whodrives.speech import GateSettings, SpeechGate

WINDOW_S = 2.0
"""Enrolment speech is embedded in windows of this length: a little better than one long pass."""

LEAST_S = 6.0
"""Useful speech below which a profile is refused."""

ENOUGH_S = 20.0
"""Useful speech from which more brings little."""

QUIETEST_DBFS = -50.0
CLIPPED_SHARE = 0.002
LEAST_SNR_DB = 10.0

TWO_VOICES_COSINE = 0.4
"""Two groups of windows that are less alike than this are two people."""

LEAST_WINDOWS = 2
"""So many windows make a group: a single one may be a laugh, or a word half heard."""

LOWER_BAND_HZ = (300.0, 3400.0)
"""What a telephone carries (ITU-T G.712)."""

UPPER_BAND_HZ = (4300.0, 7500.0)
UPPER_BAND_DB = -55.0
"""Speech has more than this above the telephone's band, relative to what is within it."""

_CLIPPED_LEVEL = 0.985
_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with the recording: a code for machines, a sentence for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an enrolment is.

    Attributes:
        speech_s: useful seconds of speech so far.
        level_dbfs: RMS level of the latest block, dBFS.
        speaking: whether the latest block is part of speech.
    """

    speech_s: float
    level_dbfs: float
    speaking: bool


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A usable voice: embeddings float32 (k, D), unit length each, from `speech_s` of speech."""

    embeddings: Floats
    speech_s: float


class Enrolment:
    """Collects one person's speech block by block; keeps the embeddings and drops the sound.

    Args:
        activity: a voice-activity detector of its own.
        encoder: the encoder that recognition will use.
    """

    def __init__(self, activity: VoiceActivity, encoder: Encoder) -> None:
        self._activity = activity
        self._encoder = encoder
        self._gate = SpeechGate(GateSettings(look_s=WINDOW_S))
        self._embeddings: list[Floats] = []
        self._speech_s = 0.0
        self._statistics = _Statistics()

    def step(self, block: AudioBlock) -> Progress:
        """Take 30 ms of sound and say how far we are."""
        if block.gap:
            self._activity.reset()
        self._collect(self._gate.step(block, self._activity.probability(block.samples)))
        level = float(np.sqrt(np.mean(np.square(block.samples))))
        return Progress(self._speech_s, dbfs(level), self._gate.speaking)

    def pause(self, at_s: float) -> None:
        """The recording stops at `at_s`; what comes next does not follow what came before."""
        self._collect(self._gate.flush(at_s))
        self._gate.reset()
        self._activity.reset()

    def finish(self, at_s: float) -> Enrolled:
        """End the recording at `at_s`.

        Raises:
            EnrolmentError: the recording is not good enough; every reason is in the text.
        """
        self._collect(self._gate.flush(at_s))
        problems = self.problems()
        if problems:
            raise EnrolmentError("\n".join(f"{p.code}: {p.text}" for p in problems))
        return Enrolled(np.stack(self._embeddings), self._speech_s)

    def problems(self) -> tuple[Problem, ...]:
        """Everything that now stands against a profile from this recording."""
        found = [*self._statistics.problems()] if self._speech_s else []
        if self._speech_s < LEAST_S:
            found.append(_too_short(self._speech_s))
        elif _are_two_voices(np.stack(self._embeddings)):
            found.append(
                Problem(
                    "more_than_one_voice",
                    "parts of the recording do not sound like the rest; record one person alone",
                )
            )
        return tuple(found)

    def _collect(self, pieces: list[Look | UtteranceEnd]) -> None:
        for piece in pieces:
            if isinstance(piece, Look):
                self._embeddings.append(self._encoder.embed(piece.samples))
                self._speech_s += piece.new_s
                self._statistics.add(piece)


def dbfs(level: float) -> float:
    """An RMS `level` in [0, 1] as dB relative to full scale; digital silence is -120."""
    return float(20.0 * np.log10(max(level, 1e-6)))


def _too_short(speech_s: float) -> Problem:
    return Problem(
        "too_short",
        f"{speech_s:.1f} s of speech heard, at least {LEAST_S:.0f} s are needed"
        f" ({ENOUGH_S:.0f} s are better); speak longer, or add recordings",
    )


def _are_two_voices(windows: Floats) -> bool:
    """Whether the windows (k, D) fall into two groups that do not sound like one person.

    Spherical k-means with two groups (Dhillon and Modha, "Concept Decompositions for Large Sparse
    Text Data Using Clustering", 2001), begun at the two sides of the first principal component.
    Comparing each window with the mean of the others instead misses people with equal shares: the
    mean is then like both.
    """
    spread = windows - windows.mean(axis=0)
    group = spread @ np.linalg.svd(spread, full_matrices=False)[2][0] > 0.0
    likeness = 1.0
    for _ in range(_ROUNDS):
        if min(np.count_nonzero(group), np.count_nonzero(~group)) < LEAST_WINDOWS:
            return False
        one, other = unit(windows[group].sum(axis=0)), unit(windows[~group].sum(axis=0))
        likeness = float(one @ other)
        group = windows @ one > windows @ other
    return likeness < TWO_VOICES_COSINE


def _within(hertz: NDArray[np.floating[Any]], band: tuple[float, float]) -> NDArray[np.bool_]:
    return (hertz > band[0]) & (hertz < band[1])


class _Statistics:
    """Level, clipping, noise and bandwidth over the speech alone."""

    def __init__(self) -> None:
        self._samples = 0
        self._clipped = 0
        self._energy = 0.0
        self._snr_db: list[float] = []
        self._upper = 0.0
        self._lower = 0.0

    def add(self, look: Look) -> None:
        self._samples += look.samples.size
        self._clipped += int(np.count_nonzero(np.abs(look.samples) >= _CLIPPED_LEVEL))
        self._energy += float(np.sum(np.square(look.samples, dtype=np.float64)))
        if look.snr_db is not None:
            self._snr_db.append(look.snr_db)
        power = np.abs(np.fft.rfft(look.samples * np.hanning(look.samples.size))) ** 2
        hertz = np.fft.rfftfreq(look.samples.size, 1.0 / SAMPLE_RATE_HZ)
        self._lower += float(power[_within(hertz, LOWER_BAND_HZ)].sum())
        self._upper += float(power[_within(hertz, UPPER_BAND_HZ)].sum())

    def problems(self) -> list[Problem]:
        level_dbfs = dbfs(float(np.sqrt(self._energy / self._samples)))
        band_db = 10.0 * float(np.log10((self._upper + 1e-20) / (self._lower + 1e-20)))
        snr_db = float(np.median(self._snr_db)) if self._snr_db else None
        clipped = self._clipped / self._samples
        checks = (
            (level_dbfs < QUIETEST_DBFS, _too_quiet(level_dbfs)),
            (clipped > CLIPPED_SHARE, _clipping(clipped)),
            (snr_db is not None and snr_db < LEAST_SNR_DB, _noisy(snr_db or 0.0)),
            (band_db < UPPER_BAND_DB, _TELEPHONE_BAND),
        )
        return [problem for wrong, problem in checks if wrong]


def _too_quiet(level_dbfs: float) -> Problem:
    mend = f"raise the gain or come closer (above {QUIETEST_DBFS:.0f} dBFS)"
    return Problem("too_quiet", f"the speech is at {level_dbfs:.0f} dBFS; {mend}")


def _clipping(share: float) -> Problem:
    said = f"{100 * share:.1f} % of the speech's samples are at full scale"
    return Problem("clipped", f"{said}; lower the gain")


def _noisy(snr_db: float) -> Problem:
    mend = f"stop engine, fan and radio (at least {LEAST_SNR_DB:.0f} dB)"
    return Problem("noise", f"the speech is only {snr_db:.0f} dB above the noise; {mend}")


_TELEPHONE_BAND = Problem(
    "telephone_band",
    "there is nothing above 4 kHz, as over a telephone; record at 16 kHz or more, wide band",
)
