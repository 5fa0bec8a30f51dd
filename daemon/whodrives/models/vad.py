"""The voice-activity detector: 30 ms blocks in, probabilities of speech out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from whodrives.audio.blocks import BLOCK_SAMPLES, Floats
from whodrives.models.manifests import read_manifest
from whodrives.models.session import open_session
from whodrives.voice.types import VoiceActivity

_VAD_STEP = 512
"""New samples in a window of the gate's model."""


_VAD_CONTEXT = 64
"""Samples of the window before, which the model wants in front of the new ones."""


_VAD_STATE = (1, 1, 128)
"""Shape of each half of its LSTM's state."""


_VAD_QUIET = 0.1
"""Below this probability a window counts as quiet."""


_VAD_PATIENCE = 63
"""Quiet windows on end, 2 s, after which the state is renewed."""


class OnnxVoiceActivity:
    """Silero VAD on 30 ms blocks; satisfies `domain.VoiceActivity`.

    The model wants 32 ms windows. A block completes one or none; if none, the last probability
    stands. Less than a window is kept. Windows that are heard together cost a third of what they
    cost one by one, and their numbers are the same.

    Left to itself the LSTM gets used to noise and then misses speech for seconds. So its state is
    renewed after `patience` quiet windows on end; docs/decisions/0003-gate.md has the measurement.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, patience: int = _VAD_PATIENCE
    ) -> None:
        self._session = session
        self._patience = patience
        self.reset()

    def reset(self) -> None:
        """Forget what was heard: the next block does not follow the last."""
        self._unread: Floats = np.zeros(_VAD_CONTEXT, np.float32)
        self._probability = 0.0
        self._renew()

    def _renew(self) -> None:
        self._state = (np.zeros(_VAD_STATE, np.float32), np.zeros(_VAD_STATE, np.float32))
        self._quiet = 0

    def probabilities(self, blocks: Sequence[Floats]) -> list[float]:
        """Probability of speech, in [0, 1], in each of blocks that follow each other.

        Args:
            blocks: float32 of shape (BLOCK_SAMPLES,).

        Raises:
            ValueError: another shape.
        """
        for block in blocks:
            if block.shape != (BLOCK_SAMPLES,):
                raise ValueError(f"a block has {BLOCK_SAMPLES} samples, not {block.shape}")
        fresh = len(self._unread) - _VAD_CONTEXT
        complete = [(fresh + n * BLOCK_SAMPLES) // _VAD_STEP for n in range(1, len(blocks) + 1)]
        self._unread = np.concatenate((self._unread, *blocks), dtype=np.float32)
        found = [self._probability]
        while len(self._unread) >= _VAD_CONTEXT + _VAD_STEP:
            found += self._read_windows()
        self._probability = found[-1]
        return [found[windows] for windows in complete]

    def _read_windows(self) -> list[float]:
        """Hear the windows that are there, but none beyond the next renewal of the state."""
        there = (len(self._unread) - _VAD_CONTEXT) // _VAD_STEP
        starts = [n * _VAD_STEP for n in range(min(there, self._patience - self._quiet))]
        windows = np.stack([self._unread[s : s + _VAD_CONTEXT + _VAD_STEP] for s in starts])
        feed = {"input": windows, "h": self._state[0], "c": self._state[1]}
        speech, *state = self._session.run(["speech_probs", "hn", "cn"], feed)
        self._state = (state[0], state[1])
        self._unread = self._unread[len(starts) * _VAD_STEP :]
        found: list[float] = speech.tolist()
        for probability in found:
            self._quiet = self._quiet + 1 if probability < _VAD_QUIET else 0
        if self._quiet >= self._patience:
            self._renew()
        return found


def load_vad(models_dir: Path, *, pinned: bool = True) -> VoiceActivity:
    """Load the voice-activity detector; raises ModelError when it is missing or unusable."""
    return OnnxVoiceActivity(open_session(read_manifest(models_dir, "gate", pinned=pinned)))
