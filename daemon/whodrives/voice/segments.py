"""Segments speech: when an utterance starts and ends, and when it has grown by a segment.

Owns the onset and offset rules over the voice-activity probabilities, pre-roll and hangover, the
noise floor, and the division of an utterance into segments. Must not know which detector gave the
probabilities, who might be speaking, or what a segment is used for.

Speech is every block from the first to the last active one of a run. A dip shorter than the
hangover lies between two active blocks (the closure of a "p", a breath) and counts as speech.
Pre-roll, and a hangover that no speech follows, are part of a segment's samples because the
detector is late at both ends, but they do not count as speech: silence is no evidence.

Hangover and pre-roll are the usual remedy for clipped word ends and onsets; the two thresholds are
Schmitt's hysteresis. See Ramirez, Gorriz and Segura, "Voice activity detection: fundamentals and
speech recognition system robustness", 2007, section 3.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from whodrives.audio.blocks import BLOCK_S, AudioBlock, Floats
from whodrives.errors import ConfigError
from whodrives.voice.types import Segment, UtteranceEnd, VoiceActivity

SegmenterEvent: TypeAlias = Segment | UtteranceEnd


_QUIETEST_POWER = 1e-10
"""Lower bound of the mean square, about -100 dB: the rounding noise of a 16-bit converter."""


_SNR_RANGE_DB = (-20.0, 80.0)
"""SNR estimates are clamped to this range; beyond it the estimate is meaningless."""


_FLOOR_MEMORY_BLOCKS = 67
"""Time constant of the noise floor, 2 s: it follows a change of speed, but not a slammed door."""


@dataclass(frozen=True, slots=True)
class SegmenterSettings:
    """Parameters of the segmenter. The defaults are measured: docs/decisions/0003-gate.md.

    Attributes:
        on: probability from which a block may start speech, in [0, 1].
        off: probability from which a block continues speech, in [0, on].
        onset_blocks: speech starts when this many of the last `onset_window` blocks reach `on`.
        onset_window: blocks; see `onset_blocks`.
        pre_roll_s: sound before the first active block that is added to the segment.
        hangover_s: sound after the last active block that is added to it; shorter dips are bridged.
        pause_s: this long without speech ends the utterance; longer than the hangover.
        segment_s: new speech per segment.
        shortest_segment_s: a shorter remainder at the end of an utterance is dropped.
        utterance_s: speech after which the utterance ends even without a pause.

    Raises:
        ConfigError: a value is outside its range; the text names it.
    """

    on: float = 0.4
    off: float = 0.15
    onset_blocks: int = 3
    onset_window: int = 5
    pre_roll_s: float = 0.2
    hangover_s: float = 0.2
    pause_s: float = 0.8
    segment_s: float = 1.0
    shortest_segment_s: float = 0.5
    utterance_s: float = 6.0

    def __post_init__(self) -> None:
        rules = {
            "off must be above 0 and at most on, and on at most 1": 0 < self.off <= self.on <= 1,
            "onset_blocks must be from 1 to onset_window": (
                1 <= self.onset_blocks <= self.onset_window
            ),
            "pre_roll_s must be from 0 to 1": 0 <= self.pre_roll_s <= 1,
            "hangover_s must be above 0 and less than pause_s": 0 < self.hangover_s < self.pause_s,
            "pause_s must be at most 10": self.pause_s <= 10,  # noqa: PLR2004 (the rule's text)
            "shortest_segment_s must be above 0 and at most segment_s": (
                0 < self.shortest_segment_s <= self.segment_s
            ),
            "segment_s must be at most utterance_s": self.segment_s <= self.utterance_s,
            "utterance_s must be at most 60": self.utterance_s <= 60,  # noqa: PLR2004 (the same)
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise ConfigError(f"segmenter: {'; '.join(broken)}; got {self}")


def _blocks(seconds: float) -> int:
    """Blocks that span at least `seconds`; the margin absorbs rounding (0.9 s are 30 blocks)."""
    return math.ceil(seconds / BLOCK_S - 1e-6)


def _power(samples: Floats) -> float:
    """Mean square of the samples, at least _QUIETEST_POWER."""
    wide = samples.astype(np.float64)
    return max(float(wide @ wide) / len(wide), _QUIETEST_POWER)


class _NoiseFloor:
    """Running mean of the noise level in dB. A mean of the power would follow one loud bang."""

    def __init__(self) -> None:
        self._level_db = 0.0
        self._blocks = 0

    def update(self, power: float) -> None:
        self._blocks = min(self._blocks + 1, _FLOOR_MEMORY_BLOCKS)
        self._level_db += (10 * math.log10(power) - self._level_db) / self._blocks

    def snr_db(self, power: float) -> float | None:
        """SNR of speech, dB, where `power` is that of speech and noise together."""
        if not self._blocks:
            return None
        noise = 10 ** (self._level_db / 10)
        speech = max(power - noise, noise * 1e-9)
        low, high = _SNR_RANGE_DB
        return min(max(10 * math.log10(speech / noise), low), high)


@dataclass(frozen=True, slots=True)
class _PreRoll:
    """A block before the onset; it becomes pre-roll or noise."""

    block: AudioBlock
    power: float
    active: bool


class _Utterance:
    """The speech since the onset, and the samples that are in no segment yet.

    An utterance is open once `blocks` is above 0.
    """

    def __init__(self) -> None:
        self.blocks = 0
        self.new_blocks = 0
        self._samples: list[Floats] = []
        self._last_at_s = 0.0
        self._power_sum = 0.0
        self._power_blocks = 0

    def append(self, block: AudioBlock) -> None:
        self._samples.append(block.samples)
        self._last_at_s = block.at_s

    def count_speech(self, blocks: int) -> None:
        self.blocks += blocks
        self.new_blocks += blocks

    def add_power(self, power: float) -> None:
        self._power_sum += power
        self._power_blocks += 1

    def drop_silence(self) -> None:
        """Drop samples that contain no speech."""
        if not self.new_blocks:
            self._samples.clear()

    def snr_db(self, floor: _NoiseFloor) -> float | None:
        return floor.snr_db(self._power_sum / self._power_blocks) if self._power_blocks else None

    def take_segment(self, floor: _NoiseFloor) -> Segment:
        samples = np.concatenate(self._samples)
        samples.flags.writeable = False
        new_s = self.new_blocks * BLOCK_S
        self._samples.clear()
        self.new_blocks = 0
        return Segment(
            samples=samples,
            new_s=new_s,
            speech_s=self.blocks * BLOCK_S,
            snr_db=self.snr_db(floor),
            at_s=self._last_at_s,
        )


class Segmenter:
    """Turns blocks and their speech probabilities into segments and ends of utterances.

    Each utterance yields any number of segments, in order and disjoint, and then exactly one
    `UtteranceEnd`. It ends after a pause, or at its maximum length; then the next block of speech
    begins the next utterance, so that two speakers never share evidence for long. Memory is bounded
    by a few segments of sound.
    """

    def __init__(self, settings: SegmenterSettings | None = None) -> None:
        self._settings = settings or SegmenterSettings()
        self._pre_roll = _blocks(self._settings.pre_roll_s)
        self._hangover = _blocks(self._settings.hangover_s)
        self._pause = _blocks(self._settings.pause_s)
        self._segment = _blocks(self._settings.segment_s)
        self._shortest_segment = _blocks(self._settings.shortest_segment_s)
        self._longest = _blocks(self._settings.utterance_s)
        self.reset()

    @property
    def speaking(self) -> bool:
        """Whether somebody is speaking now; the hangover after speech is included."""
        return self._speaking

    @property
    def in_utterance(self) -> bool:
        """Whether an utterance is open: from its onset until its end is returned."""
        return self._utterance.blocks > 0

    def reset(self) -> None:
        """Forget everything, the noise floor too; an open utterance is dropped without an end."""
        self._floor = _NoiseFloor()
        self._close()

    def step(self, block: AudioBlock, probability: float) -> list[SegmenterEvent]:
        """Take the next block and the probability, in [0, 1], that it is speech.

        A block with `gap` discards the open utterance first.
        """
        events: list[SegmenterEvent] = []
        if block.gap:
            lost = self._utterance
            self._close()
            if lost.blocks:
                snr_db = lost.snr_db(self._floor)
                end = UtteranceEnd(block.at_s, lost.blocks * BLOCK_S, snr_db, discarded=True)
                events.append(end)
        follow = self._in_speech if self._speaking else self._in_silence
        return events + follow(block, probability)

    def flush(self, at_s: float) -> list[SegmenterEvent]:
        """End the open utterance, if there is one, because the source has ended."""
        events = self._end(at_s)
        self._close()
        return events

    def _close(self) -> None:
        self._speaking = False
        self._quiet = 0
        self._utterance = _Utterance()
        self._recent: deque[_PreRoll] = deque()

    def _in_silence(self, block: AudioBlock, probability: float) -> list[SegmenterEvent]:
        """Keep pre-roll, update the noise floor, and detect the onset of speech."""
        settings = self._settings
        active = probability >= settings.on
        self._recent.append(_PreRoll(block, _power(block.samples), active))
        self._quiet += 1
        window = list(self._recent)[-settings.onset_window :]
        if active and sum(recent.active for recent in window) >= settings.onset_blocks:
            return self._start()
        # A block that is too old to become pre-roll is noise.
        while len(self._recent) >= self._pre_roll + settings.onset_window:
            oldest = self._recent.popleft()
            if not oldest.active:
                self._floor.update(oldest.power)
        return self._end(block.at_s) if self._quiet >= self._pause else []

    def _start(self) -> list[SegmenterEvent]:
        recent = list(self._recent)
        self._recent.clear()
        window = range(max(0, len(recent) - self._settings.onset_window), len(recent))
        first = next(index for index in window if recent[index].active)
        for before in recent[max(0, first - self._pre_roll) :]:
            self._utterance.append(before.block)
        for speech in recent[first:]:
            self._utterance.add_power(speech.power)
        self._speaking = True
        return self._grow(len(recent) - first, recent[-1].block.at_s)

    def _in_speech(self, block: AudioBlock, probability: float) -> list[SegmenterEvent]:
        """Collect speech and bridge dips; stop after the hangover."""
        self._utterance.append(block)
        if probability >= self._settings.off:
            self._utterance.add_power(_power(block.samples))
            return self._grow(self._quiet + 1, block.at_s)
        self._quiet += 1
        if self._quiet >= self._hangover:
            self._speaking = False
            self._utterance.drop_silence()
        return []

    def _grow(self, blocks: int, at_s: float) -> list[SegmenterEvent]:
        self._quiet = 0
        self._utterance.count_speech(blocks)
        events: list[SegmenterEvent] = []
        if self._utterance.new_blocks >= self._segment:
            events.append(self._utterance.take_segment(self._floor))
        if self._utterance.blocks >= self._longest:
            events += self._end(at_s)
        return events

    def _end(self, at_s: float) -> list[SegmenterEvent]:
        """End the utterance: its remainder if that is long enough, then the end itself."""
        ended = self._utterance
        if not ended.blocks:
            return []
        self._utterance = _Utterance()
        events: list[SegmenterEvent] = []
        if ended.new_blocks >= self._shortest_segment:
            events.append(ended.take_segment(self._floor))
        events.append(UtteranceEnd(at_s, ended.blocks * BLOCK_S, ended.snr_db(self._floor)))
        return events


def segmented(
    blocks: Sequence[AudioBlock], activity: VoiceActivity, segmenter: Segmenter
) -> list[SegmenterEvent]:
    """All that a new segmenter gives for a recording, to its end.

    Args:
        blocks: the recording.
        activity: the detector; it is reset.
        segmenter: a new one.
    """
    activity.reset()
    probabilities = activity.probabilities([block.samples for block in blocks])
    found = [e for each in zip(blocks, probabilities, strict=True) for e in segmenter.step(*each)]
    return found + segmenter.flush(blocks[-1].at_s if blocks else 0.0)
