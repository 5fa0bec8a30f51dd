"""Measures on real speech: how large the activations get, and what eight bits cost.

Owns the choice of excerpts, the noise mixed into them and the statistics. The ranges go into the
manifest, so that building the model needs no audio.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tools.build_models.errors import BuildError
from tools.build_models.frontend import SAMPLE_RATE_HZ
from tools.build_models.layers import Layers, Tensors
from tools.build_models.silero import NEW, STATE, WINDOW

EXCERPTS = 400
SHORTEST_S, LONGEST_S = 1.0, 3.0
SNR_DB = (0.0, 20.0)
QUANTILE = 0.95
"""Of the excerpts' extremes: clipping the rest costs less than the steps it would widen."""
SEED = 20261123
SUFFIXES = {".wav", ".flac", ".ogg", ".opus"}

Floats = NDArray[np.float32]


def measure_ranges(
    network: type[Layers], weights: Tensors, speech: Path, noise: Path | None
) -> dict[str, list[float]]:
    """Return lowest and highest value of each activation, to four digits.

    Args:
        network: the architecture.
        weights: the checkpoint's tensors.
        speech: folder of 16 kHz mono speech, one folder a corpus; corpora count alike.
        noise: folder of 16 kHz mono noise; half of the excerpts get some, at 0 to 20 dB SNR.
    """
    model, names = network.build_probe(weights)
    session = _session(model)
    results = [
        session.run(["low", "high"], {"samples": samples}) for samples in excerpts(speech, noise)
    ]
    low, high = (np.stack(side) for side in zip(*results, strict=True))
    extremes = np.quantile(low, 1 - QUANTILE, axis=0), np.quantile(high, QUANTILE, axis=0)
    return {
        name: [float(f"{value:.4g}") for value in pair]
        for name, *pair in zip(names, *extremes, strict=True)
    }


def embeddings(model: bytes, sounds: Sequence[Floats]) -> Floats:
    """What an encoder makes of sounds, float32 (len(sounds), dimensions)."""
    session = _session(model)
    rows = [session.run(["embedding"], {"samples": samples})[0][0] for samples in sounds]
    return np.array(rows, np.float32)


def compare_gates(published: bytes, built: bytes, sounds: Sequence[Floats]) -> Floats:
    """How far the two gates' probabilities are apart in the windows of the sounds, float32 (n,).

    Each sound begins with a fresh state.
    """
    sessions = _session(published), _session(built)
    apart: list[Floats] = []
    for samples in sounds:
        heard = np.pad(samples, (WINDOW - NEW, 0))
        feed = {name: np.zeros(shape, np.float32) for name, shape in STATE.items()}
        feed["input"] = np.ascontiguousarray(sliding_window_view(heard, WINDOW)[::NEW])
        first, second = (session.run(["speech_probs"], feed)[0] for session in sessions)
        apart.append(np.abs(first - second))
    return np.concatenate(apart)


def _session(model: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def excerpts(speech: Path, noise: Path | None) -> list[Floats]:
    """EXCERPTS of the speech, always the same; the arguments are those of `measure_ranges`."""
    random = np.random.default_rng(SEED)
    corpora = [_sounds(folder) for folder in sorted(speech.glob("*")) if folder.is_dir()]
    corpora = [corpus for corpus in corpora if corpus] or [_sounds(speech)]
    if not corpora[0]:
        raise BuildError(f"{speech} holds no {', '.join(sorted(SUFFIXES))} to calibrate with")
    noises = _sounds(noise) if noise else []
    chosen: list[Floats] = []
    while len(chosen) < EXCERPTS:
        samples = _excerpt(random, corpora[len(chosen) % len(corpora)])
        if noises and len(chosen) // len(corpora) % 2:
            samples = _with_noise(random, samples, noises)
        chosen.append(samples)
    return chosen


def _sounds(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)


def _excerpt(random: np.random.Generator, corpus: Sequence[Path]) -> Floats:
    """The loudest of three cuts from one file, so that pauses are rare."""
    length = int(random.uniform(SHORTEST_S, LONGEST_S) * SAMPLE_RATE_HZ)
    samples = _read(corpus[int(random.integers(len(corpus)))])
    starts = random.integers(0, max(1, len(samples) - length + 1), 3)
    return max((samples[start : start + length] for start in starts), key=_power)


def _with_noise(random: np.random.Generator, samples: Floats, noises: Sequence[Path]) -> Floats:
    noise = np.resize(_read(noises[int(random.integers(len(noises)))]), len(samples))
    snr_db = random.uniform(*SNR_DB)
    gain = np.sqrt(_power(samples) / max(_power(noise), 1e-9) / 10 ** (snr_db / 10))
    mixed: Floats = samples + np.float32(gain) * noise
    return np.divide(mixed, max(1.0, float(np.abs(mixed).max())), dtype=np.float32)


def _power(samples: Floats) -> float:
    return float(np.mean(samples**2))


def _read(path: Path) -> Floats:
    samples, rate = soundfile.read(path, dtype="float32")
    if rate != SAMPLE_RATE_HZ or samples.ndim != 1:
        raise BuildError(f"{path} is not 16 kHz mono")
    return np.asarray(samples, np.float32)
