"""Turns floats into eight bits: how weights and activations are scaled.

Owns the number formats. All of it is float64, nearly all elementwise, and rounded coarsely in the
end, so that every machine gets the same bits.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.build_models.errors import BuildError

ACTIVATION_LEVELS = 255
FULL_WEIGHT = 127
"""Largest magnitude of an int8 weight, leaving out -128 to keep the format symmetric."""
SAFE_WEIGHT = 64
"""Largest magnitude with which no CPU saturates.

x86 without VNNI multiplies uint8 by int8 and adds two neighbours in an int16 (VPMADDUBSW):
2 * 255 * 64 still fits, 2 * 255 * 127 does not.
"""
NOTHING = 1e-30
"""What is smaller counts as zero: no float32 step could divide it."""


@dataclass(frozen=True, slots=True)
class Activation:
    """Asymmetric uint8: value = scale * (q - zero), zero itself exact."""

    scale: np.float32
    zero: np.uint8


@dataclass(frozen=True, slots=True)
class Weight:
    """Symmetric int8, one scale per output channel (axis 0): value = scale * q."""

    values: NDArray[np.int8]
    scale: NDArray[np.float32]

    def floats(self) -> NDArray[np.float32]:
        """The values that the integers stand for, float32 of their shape."""
        scale = self.scale.reshape(-1, *[1] * (self.values.ndim - 1))
        return self.values.astype(np.float32) * scale


def quantise_activation(low: float, high: float) -> Activation:
    """The uint8 format that covers [low, high] and 0; raises BuildError for an empty range."""
    low, high = min(low, 0.0), max(high, 0.0)
    if not (np.isfinite(low) and np.isfinite(high) and high - low > NOTHING):
        raise BuildError(f"the activation range [{low}, {high}] is empty; calibrate again")
    scale = np.float32((high - low) / ACTIVATION_LEVELS)
    return Activation(scale, np.uint8(np.rint(-low / np.float64(scale))))


def quantise_weight(weight: NDArray[Any], limit: int) -> Weight:
    """Symmetric int8 of magnitude at most `limit` (1 to 127), one scale per entry of axis 0.

    A channel of NOTHING gets the scale 1.
    """
    exact = weight.astype(np.float64)
    peak = np.abs(exact).max(axis=tuple(range(1, exact.ndim)))
    scale = np.where(peak > NOTHING, peak / limit, 1.0).astype(np.float32)
    column = scale.astype(np.float64).reshape(-1, *[1] * (exact.ndim - 1))
    return Weight(np.clip(np.rint(exact / column), -limit, limit).astype(np.int8), scale)


def quantise_bias(
    bias: NDArray[Any], activation: Activation, weight: Weight
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Int32 in units of the products it is added to, and those units."""
    unit = (np.float64(activation.scale) * weight.scale.astype(np.float64)).astype(np.float32)
    limit = np.float64(2**31 - 1)
    steps = np.rint(bias.astype(np.float64) / unit.astype(np.float64))
    return np.clip(steps, -limit, limit).astype(np.int32), unit


def rectified_mean(mean: NDArray[Any], deviation: NDArray[Any]) -> NDArray[np.float64]:
    """Mean of max(0, x) for normally distributed x, elementwise; a deviation's sign is ignored."""
    centre, width = mean.astype(np.float64), np.abs(deviation.astype(np.float64)) + 1e-12
    ratio = centre / width
    density = np.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi)
    below = np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in ratio])
    result: NDArray[np.float64] = width * density + centre * below
    return result


def rounding_loss(
    weight: NDArray[Any], small: Weight, mean: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What each output channel of a convolution loses on average when `small` replaces `weight`.

    Adding it to the bias gives it back. Nagel, van Baalen, Blankevoort and Welling, "Data-Free
    Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2.

    Args:
        weight: (outputs, inputs, ...).
        small: the same in eight bits.
        mean: what to expect of each input, (inputs,).
    """
    taps = weight.astype(np.float64).reshape(*weight.shape[:2], -1)
    kept = small.values.reshape(taps.shape) * small.scale.astype(np.float64)[:, None, None]
    lost: NDArray[np.float64] = ((taps - kept).sum(axis=2) * mean).sum(axis=1)
    return lost
