"""The recognizer without a world around it: as fast as it can go, and where its time goes.

It also says what the daemon must decide, and after which block.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from whodrives.audio.blocks import BLOCK_S, AudioBlock, Floats, SourceHealth, SourceState
from whodrives.core.engine import Recognizer
from whodrives.service.daemon import QUIET_DELAY_S
from whodrives.trip.types import LinkState
from whodrives.voice.decision import Policy
from whodrives.voice.profile import Household
from whodrives.voice.segments import Segmenter
from whodrives.voice.types import Encoder, Recognition, UtteranceEnd, VoiceActivity

AT_A_TIME = int(QUIET_DELAY_S / BLOCK_S)


class TimedActivity:
    """A voice-activity detector, and the processor time spent in it."""

    def __init__(self, inner: VoiceActivity) -> None:
        self._inner = inner
        self.cpu_s = 0.0

    def reset(self) -> None:
        """Pass it on."""
        self._inner.reset()

    def probabilities(self, blocks: Sequence[Floats]) -> Sequence[float]:
        """Pass it on, timed."""
        before_s = time.thread_time()
        probabilities = self._inner.probabilities(blocks)
        self.cpu_s += time.thread_time() - before_s
        return probabilities


class TimedEncoder:
    """A speaker encoder, the processor time spent in it, and what it was given."""

    def __init__(self, inner: Encoder) -> None:
        self._inner = inner
        self.cpu_s = 0.0
        self.looks = 0
        self.samples = 0

    @property
    def fingerprint(self) -> str:
        """The inner one's."""
        return self._inner.fingerprint

    def embed(self, samples: Floats) -> Floats:
        """Pass it on, timed."""
        before_s = time.thread_time()
        embedding = self._inner.embed(samples)
        self.cpu_s += time.thread_time() - before_s
        self.looks += 1
        self.samples += len(samples)
        return embedding


@dataclass(frozen=True, slots=True)
class Alone:
    """One pass of the recognizer over a recording.

    Attributes:
        cpu_s: all of it.
        gate_s: of it, the voice-activity detector.
        encoder_s: of it, the encoder.
        looks: how often the encoder ran.
        decisions: each recognition with the index of the block after which it came; one more than
            the last block's when it took the end of the sound.
    """

    cpu_s: float
    gate_s: float
    encoder_s: float
    looks: int
    decisions: tuple[tuple[int, Recognition], ...]


def listen(
    activity: VoiceActivity,
    encoder: Encoder,
    policy: Policy,
    house: Household,
    blocks: Sequence[AudioBlock],
) -> Alone:
    """Hear the whole recording, as many blocks at a time as the daemon while nothing is near."""
    gate, timed = TimedActivity(activity), TimedEncoder(encoder)
    recognizer = Recognizer(gate, timed, policy)
    for news in (house, SourceState(0.0, SourceHealth.OPEN), LinkState(0.0, connected=True)):
        recognizer.step(news)
    decisions: list[tuple[int, Recognition]] = []
    before_s = time.thread_time()
    for start in range(0, len(blocks), AT_A_TIME):
        for index, events in enumerate(recognizer.hear(blocks[start : start + AT_A_TIME]), start):
            decisions += ((index, event) for event in events if isinstance(event, Recognition))
    cpu_s = time.thread_time() - before_s
    ended = recognizer.step(SourceState(blocks[-1].at_s, SourceHealth.ENDED))
    decisions += ((len(blocks), event) for event in ended if isinstance(event, Recognition))
    return Alone(cpu_s, gate.cpu_s, timed.cpu_s, timed.looks, tuple(decisions))


def speech_s(activity: VoiceActivity, blocks: Sequence[AudioBlock]) -> float:
    """Seconds of speech in a recording, as the gate counts them."""
    gate = Segmenter()
    activity.reset()
    probabilities = activity.probabilities([block.samples for block in blocks])
    pieces = [p for each in zip(blocks, probabilities, strict=True) for p in gate.step(*each)]
    pieces += gate.flush(blocks[-1].at_s)
    return sum(piece.speech_s for piece in pieces if isinstance(piece, UtteranceEnd))
