"""The front end: from samples to log-mel energies, as ONNX nodes.

Owns the signal processing the encoders were trained with, which is Kaldi's filter bank (feat/
feature-window.cc and feat/mel-computations.cc): frames of 25 ms every 10 ms that lie wholly inside
the signal, DC removed, pre-emphasis 0.97, a window, a 512-point power spectrum, 80 triangular mel
bands from 20 Hz to 8 kHz, natural log with a floor, minus the mean over the utterance.

Everything before the square is linear in the frame, so it is one convolution. Constants that come
from cos, log and pow are rounded to a grid, so that the last digit of a machine's maths library
does not reach the file; what is made of them is single precision in an order that is written out.
"""

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from tools.build_models.graph import Graph

SAMPLE_RATE_HZ = 16_000
FRAME = 400
STEP = 160
FFT = 512
BINS = FFT // 2
MEL_BANDS = 80
LOWEST_HZ = 20.0
HIGHEST_HZ = SAMPLE_RATE_HZ / 2
PREEMPHASIS = 0.97


@dataclass(frozen=True)
class FrontEnd:
    """What differs between the encoders.

    Attributes:
        window: of FRAME samples.
        floor: the least energy of a band, of samples in [-1, 1].
    """

    window: NDArray[np.float32]
    floor: np.float32


def add_log_mel(graph: Graph, samples: str, front_end: FrontEnd) -> str:
    """Add nodes from `samples`, float32 (n,) in [-1, 1], to (1, MEL_BANDS, frames), mean zero."""
    signal = graph.node("Unsqueeze", samples, graph.ints(0, 1))
    spectrum = graph.node("Conv", signal, graph.constant(_basis(front_end.window)), strides=[STEP])
    power = graph.node("Mul", spectrum, spectrum)
    # The real and the imaginary half of the spectrum share the bands: adding them is part of it.
    bands = graph.constant(np.concatenate([mel_bands()] * 2, axis=1))
    energy = graph.node("Max", graph.node("MatMul", bands, power), graph.constant(front_end.floor))
    log_mel = graph.node("Log", energy)
    return graph.node("Sub", log_mel, graph.node("ReduceMean", log_mel, axes=[2]))


def mel_bands() -> NDArray[np.float32]:
    """Weights of the FFT bins in each band, (MEL_BANDS, BINS), triangles on the mel scale."""
    edges = np.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), MEL_BANDS + 2)[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = _mel(np.arange(BINS) * SAMPLE_RATE_HZ / FFT)
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return _on_grid(np.maximum(np.minimum(rising, falling), 0))


def povey_window() -> NDArray[np.float32]:
    """Povey's window of FRAME samples: Hann's to the power 0.85."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / (FRAME - 1))
    return _on_grid(hann**0.85)


def hamming_window() -> NDArray[np.float32]:
    """Hamming's window of FRAME samples."""
    return _on_grid(0.54 - 0.46 * np.cos(2 * np.pi * np.arange(FRAME) / (FRAME - 1)))


def _mel(hz: float | NDArray[np.float64]) -> NDArray[np.float64]:
    return 1127.0 * np.log(1.0 + np.asarray(hz) / 700.0)


def _on_grid(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return (np.rint(values * 2**20) / 2**20).astype(np.float32)


def _basis(window: NDArray[np.float32]) -> NDArray[np.float32]:
    """The kernel (2 BINS, 1, FRAME): DC removal, pre-emphasis, window and DFT in one.

    A product of matrices applied to a frame, so its factors act on the kernel in reverse order:
    the last step of the signal path is the first one here.
    """
    windowed = _dft() * window
    # y[n] = x[n] - 0.97 x[n-1], and Kaldi takes x[-1] = x[0].
    echo = np.pad(windowed[:, 1:], ((0, 0), (0, 1)))
    echo[:, 0] += windowed[:, 0]
    emphasised = np.subtract(windowed, echo * np.float32(PREEMPHASIS), dtype=np.float32)
    kernel: NDArray[np.float32] = emphasised - _mean(emphasised)
    return kernel[:, None]


def _mean(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of each row, (rows, 1), summed in eight lanes whose halves are then added up.

    A vector unit's order; with another, the last digit of an embedding would be another.
    """
    lanes = reduce(np.add, np.split(rows, rows.shape[1] // 8, axis=1))
    while lanes.shape[1] > 1:
        lanes = reduce(np.add, np.split(lanes, 2, axis=1))
    mean: NDArray[np.float32] = lanes / np.float32(rows.shape[1])
    return mean


def _dft() -> NDArray[np.float32]:
    """The DFT's cosines above its sines (their sign is lost in the square): (2 BINS, FRAME)."""
    table = _on_grid(np.cos(2 * np.pi * np.arange(FFT) / FFT))
    phase = np.arange(BINS)[:, None] * np.arange(FRAME)
    return np.concatenate([table[phase % FFT], table[(phase + FFT // 4) % FFT]])


_EPSILON = np.finfo(np.float32).eps

POVEY = FrontEnd(povey_window(), _EPSILON)
"""CAM++'s."""

HAMMING = FrontEnd(hamming_window(), np.float32(_EPSILON / 2**30))
"""WeSpeaker's. It takes samples as integers of 16 bits, times 2**15: their energy times 2**30."""
