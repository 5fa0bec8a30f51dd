"""What every story needs: the models, and people who say things."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from stage import MODELS, Sound, Stage

from whodrives.inference import load_encoder


@pytest.fixture(scope="session")
def stage() -> Stage:
    """The models of this checkout."""
    return Stage(load_encoder(MODELS))


@pytest.fixture(scope="session")
def say(voices: Path) -> Callable[..., Sound]:
    """Sentences of a synthetic voice with pauses between them, as in `say("hf_alpha", "hi1")`."""

    def sentences(voice: str, *names: int | str) -> Sound:
        quiet = np.random.default_rng(1).normal(0, 1e-4, 20_000).astype(np.float32)
        parts = [soundfile.read(voices / voice / f"{n}.opus", dtype="float32")[0] for n in names]
        return np.concatenate([quiet, *[p for part in parts for p in (part, quiet)]])

    return sentences
