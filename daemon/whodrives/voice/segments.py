"""When speech starts, pauses and ends, and when there is enough of it to look again.

Owns and hides: the onset and offset rules over the voice detector's probabilities, pre-roll and
hangover, the noise floor, and the cutting of speech into looks. Must never know which detector
gave the probabilities, who might be speaking, or what a look is used for.

What counts as speech: every block from the first to the last active one of a run. A dip shorter
than the hangover lies between two active blocks (the closure of a "p", a breath) and counts.
Pre-roll and a hangover after which nothing came are in a look's samples, because the detector is
late at both ends, but they do not count: silence must not pass for evidence.

Hangover and pre-roll are the usual remedy for clipped word ends and onsets; the two thresholds are
Schmitt's hysteresis. See Ramirez, Gorriz and Segura, "Voice activity detection: fundamentals and
speech recognition system robustness", 2007, section 3.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from whodrives.audio.blocks import BLOCK_S, AudioBlock, Floats
from whodrives.errors import ConfigError
from whodrives.voice.types import Segment, UtteranceEnd

Heard: TypeAlias = Segment | UtteranceEnd


_QUIETEST_POWER = 1e-10
"""Mean square of a 16-bit converter's own rounding, about -100 dB: nothing is quieter."""


_SNR_RANGE_DB = (-20.0, 80.0)
"""Outside it an estimate says nothing more than "very bad" or "very good"."""


_FLOOR_MEMORY_BLOCKS = 67
"""The noise floor's time constant, 2 s: follows a change of speed, outlasts a slammed door."""


@dataclass(frozen=True, slots=True)
class SegmenterSettings:
    """How the gate decides. The defaults are measured: docs/decisions/0003-gate.md.

    Attributes:
        on: probability from which a block may start speech, in [0, 1].
        off: probability from which a block continues speech, in [0, on].
        onset_blocks: so many of the last `onset_window` blocks must reach `on` to open the gate.
        onset_window: blocks; see `onset_blocks`.
        pre_roll_s: sound from before the first active block that joins the speech.
        hangover_s: sound after the last active block that joins it; a shorter dip is bridged.
        pause_s: so long without speech ends the utterance; longer than the hangover.
        segment_s: so much new speech makes a look.
        shortest_segment_s: less speech than this is never looked at.
        utterance_s: so much speech ends the utterance even without a pause.

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
            raise ConfigError(f"speech gate: {'; '.join(broken)}; got {self}")


def _blocks(seconds: float) -> int:
    """Blocks that hold at least `seconds` (the margin is for rounding: 0.9 s are 30 blocks)."""
    return math.ceil(seconds / BLOCK_S - 1e-6)


def _power(samples: Floats) -> float:
    wide = samples.astype(np.float64)
    return max(float(wide @ wide) / len(wide), _QUIETEST_POWER)


class _NoiseFloor:
    """Running mean of the noise's level in dB, not of its power: one loud bang hardly moves it."""

    def __init__(self) -> None:
        self._level_db = 0.0
        self._heard = 0

    def hear(self, power: float) -> None:
        self._heard = min(self._heard + 1, _FLOOR_MEMORY_BLOCKS)
        self._level_db += (10 * math.log10(power) - self._level_db) / self._heard

    def snr_db(self, power: float) -> float | None:
        """Level of speech over the noise, dB, where `power` is that of both together."""
        if not self._heard:
            return None
        noise = 10 ** (self._level_db / 10)
        speech = max(power - noise, noise * 1e-9)
        low, high = _SNR_RANGE_DB
        return min(max(10 * math.log10(speech / noise), low), high)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A block that may yet turn out to be pre-roll."""

    block: AudioBlock
    power: float
    active: bool


class _Utterance:
    """The speech since the utterance began, and the part of it that no look has taken yet.

    It is open from its first active block on; without any it does not exist for the outside.
    """

    def __init__(self) -> None:
        self.blocks = 0
        self.unlooked = 0
        self._held: list[Floats] = []
        self._held_until_s = 0.0
        self._power_sum = 0.0
        self._power_blocks = 0

    def hold(self, block: AudioBlock) -> None:
        self._held.append(block.samples)
        self._held_until_s = block.at_s

    def count(self, blocks: int) -> None:
        self.blocks += blocks
        self.unlooked += blocks

    def hear(self, power: float) -> None:
        self._power_sum += power
        self._power_blocks += 1

    def drop_unspoken(self) -> None:
        """Let go of held sound that no speech has come with."""
        if not self.unlooked:
            self._held.clear()

    def snr_db(self, floor: _NoiseFloor) -> float | None:
        return floor.snr_db(self._power_sum / self._power_blocks) if self._power_blocks else None

    def look(self, floor: _NoiseFloor) -> Segment:
        samples = np.concatenate(self._held)
        samples.flags.writeable = False
        new_s = self.unlooked * BLOCK_S
        self._held.clear()
        self.unlooked = 0
        return Segment(
            samples=samples,
            new_s=new_s,
            speech_s=self.blocks * BLOCK_S,
            snr_db=self.snr_db(floor),
            at_s=self._held_until_s,
        )


class Segmenter:
    """Turns blocks and their speech probabilities into looks and ends of utterances.

    Every utterance gives any number of looks, in order and disjoint, and then exactly one
    `UtteranceEnd`. It ends after a pause, or when it has grown too long; then the next block of
    speech begins the next one, so that two voices never share evidence for long. Memory is bounded
    by a few looks' worth of sound.
    """

    def __init__(self, settings: SegmenterSettings | None = None) -> None:
        self._settings = settings or SegmenterSettings()
        self._pre_roll = _blocks(self._settings.pre_roll_s)
        self._hangover = _blocks(self._settings.hangover_s)
        self._pause = _blocks(self._settings.pause_s)
        self._look = _blocks(self._settings.segment_s)
        self._shortest_look = _blocks(self._settings.shortest_segment_s)
        self._longest = _blocks(self._settings.utterance_s)
        self.reset()

    @property
    def speaking(self) -> bool:
        """Whether somebody is speaking just now; the hangover after speech still counts."""
        return self._speaking

    @property
    def in_utterance(self) -> bool:
        """Whether an utterance is under way: since its onset, until its end is reported."""
        return self._utterance.blocks > 0

    def reset(self) -> None:
        """Forget everything, the noise floor too; an open utterance is dropped unreported."""
        self._floor = _NoiseFloor()
        self._close()

    def step(self, block: AudioBlock, probability: float) -> list[Heard]:
        """Take the next block and the detector's probability, in [0, 1], that it is speech.

        A block with `gap` first discards the open utterance, then begins anew.
        """
        heard = self._discard(block.at_s) if block.gap else []
        follow = self._follow if self._speaking else self._wait
        return heard + follow(block, probability)

    def flush(self, at_s: float) -> list[Heard]:
        """The source has ended: end the open utterance, if there is one."""
        heard = self._end(at_s)
        self._close()
        return heard

    def _close(self) -> None:
        self._speaking = False
        self._quiet = 0
        self._utterance = _Utterance()
        self._recent: deque[_Waiting] = deque()

    def _discard(self, at_s: float) -> list[Heard]:
        lost = self._utterance
        self._close()
        if not lost.blocks:
            return []
        speech_s = lost.blocks * BLOCK_S
        return [UtteranceEnd(at_s, speech_s, lost.snr_db(self._floor), discarded=True)]

    def _wait(self, block: AudioBlock, probability: float) -> list[Heard]:
        """While the gate is closed: remember pre-roll, learn the noise, watch for an onset."""
        active = probability >= self._settings.on
        self._recent.append(_Waiting(block, _power(block.samples), active))
        self._quiet += 1
        if active and self._is_onset():
            return self._open()
        self._age()
        return self._end(block.at_s) if self._quiet >= self._pause else []

    def _is_onset(self) -> bool:
        window = list(self._recent)[-self._settings.onset_window :]
        return sum(waiting.active for waiting in window) >= self._settings.onset_blocks

    def _age(self) -> None:
        """What is too old to become pre-roll is noise."""
        while len(self._recent) >= self._pre_roll + self._settings.onset_window:
            oldest = self._recent.popleft()
            if not oldest.active:
                self._floor.hear(oldest.power)

    def _open(self) -> list[Heard]:
        waited = list(self._recent)
        self._recent.clear()
        window = range(max(0, len(waited) - self._settings.onset_window), len(waited))
        first = next(index for index in window if waited[index].active)
        for waiting in waited[max(0, first - self._pre_roll) :]:
            self._utterance.hold(waiting.block)
        for waiting in waited[first:]:
            self._utterance.hear(waiting.power)
        self._speaking = True
        return self._grow(len(waited) - first, waited[-1].block.at_s)

    def _follow(self, block: AudioBlock, probability: float) -> list[Heard]:
        """While the gate is open: collect, bridge dips, close after the hangover."""
        self._utterance.hold(block)
        if probability >= self._settings.off:
            self._utterance.hear(_power(block.samples))
            return self._grow(self._quiet + 1, block.at_s)
        self._quiet += 1
        if self._quiet >= self._hangover:
            self._speaking = False
            self._utterance.drop_unspoken()
        return []

    def _grow(self, blocks: int, at_s: float) -> list[Heard]:
        self._quiet = 0
        self._utterance.count(blocks)
        heard: list[Heard] = []
        if self._utterance.unlooked >= self._look:
            heard.append(self._utterance.look(self._floor))
        if self._utterance.blocks >= self._longest:
            heard += self._end(at_s)
        return heard

    def _end(self, at_s: float) -> list[Heard]:
        """End the utterance: the remainder if it is long enough, then the end."""
        ended = self._utterance
        if not ended.blocks:
            return []
        self._utterance = _Utterance()
        heard: list[Heard] = []
        if ended.unlooked >= self._shortest_look:
            heard.append(ended.look(self._floor))
        heard.append(UtteranceEnd(at_s, ended.blocks * BLOCK_S, ended.snr_db(self._floor)))
        return heard
