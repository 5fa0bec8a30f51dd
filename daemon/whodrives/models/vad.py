"""The voice-activity detector: 30 ms blocks in, probabilities of speech out.

Owns the windows and the recurrent state of Silero VAD. Must not know what counts as speech: that is
`voice.segments`. The result does not depend on how many blocks are passed per call.
"""

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
"""New samples per window, 32 ms."""


_VAD_CONTEXT = 64
"""Samples of the previous window that precede the new ones in the model's input."""


_VAD_STATE = (1, 1, 128)
"""Shape of the LSTM's hidden state and of its cell state."""


_VAD_QUIET = 0.1
"""A window below this probability is quiet."""


_VAD_PATIENCE = 63
"""Consecutive quiet windows, 2 s, after which the LSTM's state is reset."""


class OnnxVoiceActivity:
    """Silero VAD on 30 ms blocks; implements `voice.types.VoiceActivity`.

    The model takes 32 ms windows. A block completes one or none; if none, the last probability is
    repeated. An incomplete window is kept. Windows run as one batch cost a third of single runs,
    with the same results.

    The LSTM adapts to long noise and then misses speech for seconds. Its state is therefore reset
    after `patience` consecutive quiet windows; docs/decisions/0003-gate.md has the measurement.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, patience: int = _VAD_PATIENCE
    ) -> None:
        self._session = session
        self._patience = patience
        self.reset()

    def reset(self) -> None:
        """Reset all state: the next block does not follow the last one."""
        self._unread: Floats = np.zeros(_VAD_CONTEXT, np.float32)
        self._probability = 0.0
        self._reset_state()

    def _reset_state(self) -> None:
        self._state = (np.zeros(_VAD_STATE, np.float32), np.zeros(_VAD_STATE, np.float32))
        self._quiet = 0

    def probabilities(self, blocks: Sequence[Floats]) -> list[float]:
        """Probability of speech, in [0, 1], of each of consecutive blocks.

        Args:
            blocks: float32 of shape (BLOCK_SAMPLES,).

        Raises:
            ValueError: a block of another shape.
        """
        for block in blocks:
            if block.shape != (BLOCK_SAMPLES,):
                raise ValueError(f"a block has {BLOCK_SAMPLES} samples, not {block.shape}")
        fresh = len(self._unread) - _VAD_CONTEXT
        complete = [(fresh + n * BLOCK_SAMPLES) // _VAD_STEP for n in range(1, len(blocks) + 1)]
        self._unread = np.concatenate((self._unread, *blocks), dtype=np.float32)
        found = [self._probability]
        while len(self._unread) >= _VAD_CONTEXT + _VAD_STEP:
            found += self._run_windows()
        self._probability = found[-1]
        return [found[windows] for windows in complete]

    def _run_windows(self) -> list[float]:
        """Run all complete windows, but none beyond the next reset of the state."""
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
            self._reset_state()
        return found


def load_vad(models_dir: Path, *, pinned: bool = True) -> VoiceActivity:
    """Load the voice-activity detector; raises ModelError if it is missing or unusable."""
    return OnnxVoiceActivity(open_session(read_manifest(models_dir, "gate", pinned=pinned)))
