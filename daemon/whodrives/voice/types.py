"""The values of recognition: segments, evidence, verdicts, and the calibration.

Owns what the stages of recognition pass on, and the protocols of the two models. Must not know
ONNX, files or the car. All values are frozen; times are seconds on the boot-time clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol, TypeAlias

from whodrives.audio.blocks import Floats


@dataclass(frozen=True, slots=True)
class Segment:
    """The next piece of an utterance: enough new speech to judge the utterance again.

    Attributes:
        samples: float32, shape (n,): the new speech only, 16 kHz mono.
        new_s: seconds of speech in `samples`.
        speech_s: seconds of speech in the utterance so far, this segment included.
        snr_db: SNR of the utterance so far, dB; None before any noise was heard.
        at_s: when the last sample of this segment was recorded.
    """

    samples: Floats
    new_s: float
    speech_s: float
    snr_db: float | None
    at_s: float


@dataclass(frozen=True, slots=True)
class UtteranceEnd:
    """An utterance ended by a pause, or at its maximum length.

    `discarded`: sound was lost inside it, so it must not be judged.
    """

    at_s: float
    speech_s: float
    snr_db: float | None
    discarded: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """How an utterance compares with one profile.

    Attributes:
        driver: the profile's id.
        cosine: between the utterance's mean embedding and the profile's, in [-1, 1].
        llr: natural-log likelihood ratio, same against different speaker, after normalisation by
            the cohort.
    """

    driver: str
    cosine: float
    llr: float


@dataclass(frozen=True, slots=True)
class Sound:
    """Sound quality of speech.

    Attributes:
        level_dbfs: RMS level, dB relative to full scale.
        clipped: share of the samples at full scale, in [0, 1].
        upper_band_db: how far the power from 4.5 to 6.5 kHz rises with the speech, relative to the
            telephone's band, dB: to the geometric mean of the rise from 2.8 to 3.4 kHz and of the
            whole power from 300 Hz to 3.4 kHz.
    """

    level_dbfs: float
    clipped: float
    upper_band_db: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """All matches of one speaker turn, best first, and the speech that they are based on.

    `sound` is None if there was too little speech to measure.
    """

    matches: tuple[Match, ...]
    speech_s: float
    snr_db: float | None
    at_s: float
    sound: Sound | None = None


class Outcome(StrEnum):
    """The decision about one utterance."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    AMBIGUOUS = "ambiguous"
    INSUFFICIENT_SPEECH = "insufficient_speech"
    POOR_SOUND = "poor_sound"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision about one utterance, with its evidence.

    Attributes:
        outcome: the decision.
        driver: the enrolled driver's id; set exactly when the outcome is KNOWN.
        evidence: what the decision is based on.
        probability: that the speaker is the best match, in [0, 1], at even prior odds; None without
            any match.
        reason: "telephone_band", "clipped" or "noise"; set exactly when the outcome is POOR_SOUND.
    """

    outcome: Outcome
    driver: str | None
    evidence: Evidence
    probability: float | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Recognition:
    """One utterance was judged."""

    at_s: float
    verdict: Verdict


class VoiceActivity(Protocol):
    """A voice-activity detector over 30 ms blocks."""

    def probabilities(self, blocks: Sequence[Floats]) -> Sequence[float]:
        """Probability of speech, in [0, 1], of each of consecutive blocks.

        Blocks are float32 of shape (BLOCK_SAMPLES,). The result depends on earlier blocks, but not
        on how many are passed per call.
        """

    def reset(self) -> None:
        """Reset the state: the next block does not follow the last one."""


class Encoder(Protocol):
    """A speaker encoder: speech in, embedding out."""

    @property
    def fingerprint(self) -> str:
        """Identifies the embedding space: 64 lower-case hexadecimal digits.

        Two model files with the same fingerprint give the same embeddings.
        """

    def embed(self, samples: Floats) -> Floats:
        """Embed float32 samples of shape (n,), n >= 0.4 s, into a unit vector of shape (D,).

        With two encoders it is their embeddings side by side, the first encoder's first.
        """


@dataclass(frozen=True, slots=True)
class CalibrationPoint:
    """The calibration of a cosine after `speech_s` seconds of speech.

    llr = slope * (cosine - cohort mean) + offset (natural log), with the cohort mean of
    `scoring.cohort_mean`; logistic calibration after Brummer and du Preez,
    "Application-independent evaluation of speaker detection", 2006.

    Attributes:
        speech_s: seconds of speech.
        slope: see above.
        offset: see above.
        other_cosine: mean cosine of speech with the profiles of other speakers.
        speaker_change_cosine: a new segment below this cosine to the speech so far is another
            speaker.
        accept_llr: thresholds by operating point, one for each of `Calibration.households`.
    """

    speech_s: float
    slope: float
    offset: float
    other_cosine: float
    speaker_change_cosine: float
    accept_llr: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measurements on one encoder, or on two together: the only source of thresholds.

    Attributes:
        encoder: fingerprint of what it was measured on.
        mean: float32, shape (D,): the global mean embedding, subtracted before each comparison.
        points: by ascending seconds of speech, at least one.
        ambiguity_llr: the margin that the best match needs over the second.
        households: ascending household sizes that `accept_llr` was measured for.
        cohort_max_cosine: profiles more similar than this are left out of each other's cohort.
        single: of the first encoder alone, if this one is of two.
    """

    encoder: str
    mean: Floats
    points: Sequence[CalibrationPoint]
    ambiguity_llr: float
    households: Sequence[int]
    cohort_max_cosine: float
    single: Calibration | None = None

    @property
    def first(self) -> Calibration:
        """The calibration of the first encoder, whose cosines enrolment and adaptation limit."""
        return self.single or self

    @property
    def dimension(self) -> int:
        """Dimension of the embeddings."""
        return len(self.mean)

    def __post_init__(self) -> None:
        """Refuse missing or unordered points: they could not be interpolated."""
        durations = [point.speech_s for point in self.points]
        if not durations or sorted(set(durations)) != durations:
            raise ValueError("calibration needs at least one point, by ascending speech_s")
        sizes = list(self.households)
        if not sizes or sorted(set(sizes)) != sizes or sizes[0] < 1:
            raise ValueError("calibration needs at least one household, by ascending size")
        rows = [row for point in self.points for row in point.accept_llr.values()]
        if any(len(row) != len(sizes) for row in rows):
            raise ValueError("every accept_llr needs a threshold for each household")


OperatingPoint: TypeAlias = Literal["1/100", "1/1000"]
"""Target FPIR: the share of utterances of unenrolled speakers that may be accepted."""
