"""The values of recognition: segments, evidence, the decision, and the calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol, TypeAlias

from whodrives.audio.blocks import Floats


@dataclass(frozen=True, slots=True)
class Segment:
    """Enough new speech to judge again.

    Attributes:
        samples: float32, shape (n,): the new speech only, 16 kHz mono.
        new_s: seconds of speech in `samples`.
        speech_s: seconds of speech in the utterance so far, this look included.
        snr_db: level of the speech over the noise around it, dB; None while no noise was heard.
        at_s: when the last sample needed for this look was heard.
    """

    samples: Floats
    new_s: float
    speech_s: float
    snr_db: float | None
    at_s: float


@dataclass(frozen=True, slots=True)
class UtteranceEnd:
    """The person stopped speaking, or the utterance was cut because it grew too long.

    `discarded` says that sound was lost inside it, so nothing may be concluded from it.
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
        llr: natural-log likelihood ratio, same person against different people, from the cosine
            and from how like the rest of the household the voice is.
    """

    driver: str
    cosine: float
    llr: float


@dataclass(frozen=True, slots=True)
class Sound:
    """How good the sound of some speech is.

    Attributes:
        level_dbfs: RMS level, dB relative to full scale.
        clipped: share of the samples at full scale, in [0, 1].
        upper_band_db: energy above the telephone's band relative to that within it, dB.
    """

    level_dbfs: float
    clipped: float
    upper_band_db: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """All matches of one voice, best first, and the speech they rest on.

    `sound` is None while there was too little speech to look at.
    """

    matches: tuple[Match, ...]
    speech_s: float
    snr_db: float | None
    at_s: float
    sound: Sound | None = None


class Outcome(StrEnum):
    """What was concluded about one utterance."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    AMBIGUOUS = "ambiguous"
    INSUFFICIENT_SPEECH = "insufficient_speech"
    POOR_SOUND = "poor_sound"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The conclusion about one utterance.

    Attributes:
        outcome: what was concluded.
        driver: the enrolled driver's id; set exactly when the outcome is KNOWN.
        evidence: what the conclusion rests on.
        probability: that the voice is the best match's, in [0, 1], from its llr at even prior odds;
            None without any match.
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
    """Says of each 30 ms whether it sounds like speech."""

    def probabilities(self, blocks: Sequence[Floats]) -> Sequence[float]:
        """Probability of speech, in [0, 1], in each of blocks that follow each other.

        Blocks are float32 of shape (BLOCK_SAMPLES,). What is said of one depends on those before
        it, and not on how many are given at a time.
        """

    def reset(self) -> None:
        """Forget what was heard: the next block does not follow the last."""


class Encoder(Protocol):
    """Turns speech into an embedding of the voice."""

    @property
    def fingerprint(self) -> str:
        """Names the space of its embeddings: 64 digits, lower-case hexadecimal.

        The embeddings of two files with the same fingerprint are the same.
        """

    def embed(self, samples: Floats) -> Floats:
        """Embed float32 samples of shape (n,), n >= 0.4 s, into a unit vector of shape (D,)."""


@dataclass(frozen=True, slots=True)
class CalibrationPoint:
    """How to read a cosine after `speech_s` seconds of speech.

    llr = slope * (cosine - usual) + offset (natural log), where `usual` is what this voice scores
    with other people (`scoring.cohort_mean`); logistic calibration after Brummer and du Preez,
    "Application-independent evaluation of speaker detection", 2006.

    Attributes:
        speech_s: seconds of speech.
        slope: see above.
        offset: see above.
        other_cosine: mean cosine of a voice with other people's profiles.
        speaker_change_cosine: a further second that is less like the voice so far is somebody else.
        accept_llr: by operating point, for each of the calibration's households.
    """

    speech_s: float
    slope: float
    offset: float
    other_cosine: float
    speaker_change_cosine: float
    accept_llr: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured of one encoder: the only source of thresholds.

    Attributes:
        encoder: fingerprint of the encoder it was measured on.
        mean: float32, shape (D,): the mean embedding of many people in many places, which every
            embedding is compared relative to.
        points: by ascending seconds of speech, at least one.
        ambiguity_llr: two profiles whose llr differ by less cannot be told apart.
        households: ascending numbers of enrolled drivers that `accept_llr` was measured with.
        cohort_max_cosine: profiles more similar than this are left out of each other's cohort.
    """

    encoder: str
    mean: Floats
    points: Sequence[CalibrationPoint]
    ambiguity_llr: float
    households: Sequence[int]
    cohort_max_cosine: float

    def __post_init__(self) -> None:
        """Refuse points that are missing or out of order: nothing could be read between them."""
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
"""How many strangers' utterances may be taken for a driver."""
