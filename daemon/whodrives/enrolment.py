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

import numpy as np

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
from whodrives.quality import Quality, dbfs
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

UPPER_BAND_DB = -55.0
"""Speech has more than this above the telephone's band, relative to what is within it."""

NOISY_COPIES_DB = 5.0
"""Each window is embedded in noise too, this far under the speech: the profile then is also like
the driver's voice on the road (docs/decisions/0007-household-as-cohort.md)."""

_ROAD_CORNER_HZ = 100.0
_ROAD_DB_PER_DECADE = -24.0
"""Noise in a moving car falls so above the corner: between tyres, which fall faster, and wind."""

_SEED = 20261125
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
    """A usable voice: embeddings float32 (3 k, D), unit length each, from `speech_s` of speech.

    The first k are the windows as recorded, then come those in road noise and in broadband noise.
    """

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
        self._in_noise: list[list[Floats]] = [[] for _ in _SLOPES_DB]
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
        windows = [*self._embeddings, *(one for copies in self._in_noise for one in copies)]
        return Enrolled(np.stack(windows), self._speech_s)

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
                number = len(self._embeddings)
                self._embeddings.append(self._encoder.embed(piece.samples))
                for copies, copy in zip(
                    self._in_noise, in_noise(piece.samples, number), strict=True
                ):
                    copies.append(self._encoder.embed(copy))
                self._speech_s += piece.new_s
                self._statistics.add(piece)


_SLOPES_DB = (_ROAD_DB_PER_DECADE, 0.0)
"""How the power of the copies' noise falls per decade: like a road's, and not at all."""


def in_noise(speech: Floats, number: int) -> list[Floats]:
    """`speech` (n,) in road noise and in broadband noise, NOISY_COPIES_DB under it.

    Never beyond full scale. The noise is the same for the same `number`: enrolling from one
    recording twice gives one profile.
    """
    level = float(np.sqrt(np.mean(np.square(speech, dtype=np.float64))))
    return [
        np.clip(
            speech + _noise(number, speech.size, slope_db) * level * 10 ** (-NOISY_COPIES_DB / 20),
            -1.0,
            1.0,
        ).astype(np.float32)
        for slope_db in _SLOPES_DB
    ]


def _noise(number: int, count: int, slope_db: float) -> Floats:
    """Noise of RMS 1 whose power falls by `slope_db` per decade above _ROAD_CORNER_HZ."""
    rng = np.random.default_rng((_SEED, number))
    hertz = np.fft.rfftfreq(count, 1.0 / SAMPLE_RATE_HZ)
    decades = np.log10(np.maximum(hertz, _ROAD_CORNER_HZ) / _ROAD_CORNER_HZ)
    spectrum = np.fft.rfft(rng.standard_normal(count)) * 10 ** (slope_db * decades / 20)
    noise = np.fft.irfft(spectrum, count)
    return np.asarray(noise / np.sqrt(np.mean(noise**2)), np.float32)


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


class _Statistics:
    """Level, clipping, noise and bandwidth over the speech alone."""

    def __init__(self) -> None:
        self._quality = Quality()
        self._snr_db: list[float] = []

    def add(self, look: Look) -> None:
        self._quality.add(look.samples)
        if look.snr_db is not None:
            self._snr_db.append(look.snr_db)

    def problems(self) -> list[Problem]:
        sound = self._quality.sound()
        snr_db = float(np.median(self._snr_db)) if self._snr_db else None
        checks = (
            (sound.level_dbfs < QUIETEST_DBFS, _too_quiet(sound.level_dbfs)),
            (sound.clipped > CLIPPED_SHARE, _clipping(sound.clipped)),
            (snr_db is not None and snr_db < LEAST_SNR_DB, _noisy(snr_db or 0.0)),
            (sound.upper_band_db < UPPER_BAND_DB, _TELEPHONE_BAND),
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
