"""A network as an ONNX graph, in float or in eight bits: what all encoders are laid out with.

Owns the convolutions, the eight-bit formats between them, and the front and the end of the graph.
A subclass lays out the layers of one architecture. Knows nothing of files.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tools.build_models.errors import BuildError
from tools.build_models.frontend import MEL_BANDS
from tools.build_models.graph import Graph, Shapes
from tools.build_models.quantisation import (
    FULL_WEIGHT,
    Activation,
    Weight,
    quantise_activation,
    quantise_bias,
    quantise_weight,
    rounding_loss,
)

INPUT: Shapes = {"samples": ("n",)}
LOG_MEL: Shapes = {"log_mel": (1, MEL_BANDS, "frames")}

Ranges = Mapping[str, Sequence[float]]
Array = NDArray[Any]
Tensors = Mapping[str, Array]
Means = NDArray[np.float64] | None


class Signal(NamedTuple):
    """A tensor in the graph between two layers.

    Attributes:
        name: in the graph.
        form: its eight-bit format; None where the network is float, as the tensor then is.
        mean: the value to be expected in each channel, where that is known.
    """

    name: str
    form: Activation | None
    mean: Means


class Layers:
    """Lays out a network once for both kinds of arithmetic; float without ranges."""

    NAME: str
    """Of the architecture."""
    EMBEDDING: int
    """Its output's dimension."""

    def __init__(
        self, weights: Tensors, ranges: Ranges | None = None, weight_limit: int = FULL_WEIGHT
    ) -> None:
        self.graph = Graph()
        self._activations: list[str] = []
        self._weights = weights
        self._ranges = ranges
        self._weight_limit = weight_limit
        self._add_layers()

    @classmethod
    def build_float(cls, weights: Tensors) -> bytes:
        """The network in float32, for comparison; a second output shows its "log_mel"."""
        return cls(weights)._serialise(LOG_MEL)  # noqa: SLF001

    @classmethod
    def build_probe(cls, weights: Tensors) -> tuple[bytes, list[str]]:
        """The float network with outputs "low" and "high", and what their entries describe.

        They hold the lowest and the highest value of each activation, float32 (len(names),).
        """
        network = cls(weights)
        extremes = network._add_extremes()
        return network._serialise({**LOG_MEL, **extremes}), network._activations

    @classmethod
    def build_int8(cls, weights: Tensors, ranges: Ranges, weight_limit: int) -> bytes:
        """The network in eight bits.

        Args:
            weights: the checkpoint's tensors.
            ranges: lowest and highest value of each activation, by name, as in `build_probe`.
            weight_limit: largest magnitude of an int8 weight that meets a uint8 activation.
        """
        return cls(weights, ranges, weight_limit)._serialise()  # noqa: SLF001

    def _add_layers(self) -> None:
        """Add all layers, from "samples" to "embedding"."""
        raise NotImplementedError

    def _serialise(self, extra_outputs: Shapes = MappingProxyType({})) -> bytes:
        outputs = {"embedding": (1, self.EMBEDDING), **extra_outputs}
        return self.graph.serialise(self.NAME, INPUT, outputs)

    def _add_extremes(self) -> Shapes:
        """Add the lowest and the highest value of each activation as outputs."""
        for name, operator in (("low", "ReduceMin"), ("high", "ReduceMax")):
            values = [self.graph.node(operator, item, keepdims=0) for item in self._activations]
            values = [self.graph.node("Unsqueeze", item, self.graph.ints(0)) for item in values]
            self.graph.node("Concat", *values, name=name, axis=0)
        return dict.fromkeys(("low", "high"), (len(self._activations),))

    # --- parts of layers --------------------------------------------------------------------------

    def _conv(
        self,
        signal: Signal,
        name: str,
        weight: Array,
        bias: Array | None = None,
        *,
        relu: bool = False,
        mean: Means = None,
        **window: Any,
    ) -> Signal:
        """A convolution into the format of this name, with a ReLU if so wanted.

        `mean` is as in `Signal`. In eight bits all of it is one step, and the ReLU is that the
        format begins at 0.
        """
        if signal.form is None:
            frames = self._float_conv(signal.name, weight, bias, **window)
            return self._activation(self._relu(frames) if relu else frames, name, mean)
        form = self._form(name)
        if relu and form.zero != 0:
            raise BuildError(f"the activation range of {name} begins below 0; calibrate again")
        small, steps, _ = self._rounded(signal, signal.form, weight, bias)
        kernel = small.values, small.scale, np.zeros_like(small.scale, np.int8)
        operands = signal.form.scale, signal.form.zero, *kernel, form.scale, form.zero, steps
        constants = self.graph.constants(*operands)
        value = self.graph.node("QLinearConv", signal.name, *constants, **window)
        return Signal(value, form, mean)

    def _conv_to_float(self, signal: Signal, weight: Array, bias: Array, **window: Any) -> str:
        """A convolution whose result stays in float; eight bits only round its weights.

        They are turned into floats in the graph. Floats in the file the runtime would put into
        blocks as wide as a processor's registers, and add up in another order on each.
        """
        if signal.form is None:
            return self._float_conv(signal.name, weight, bias, **window)
        small, steps, unit = self._rounded(signal, signal.form, weight, bias)
        operands = self._linear(small.values, small.scale), self._linear(steps, unit)
        return self.graph.node("Conv", self._float(signal), *operands, **window)

    def _rounded(
        self, signal: Signal, form: Activation, weight: Array, bias: Array | None
    ) -> tuple[Weight, NDArray[np.int32], NDArray[np.float32]]:
        """Weight and bias in eight and 32 bits, and the units of the bias."""
        small = quantise_weight(weight, self._weight_limit)
        exact = np.zeros(len(weight)) if bias is None else bias
        if signal.mean is not None:
            exact = exact + rounding_loss(weight, small, signal.mean)
        return small, *quantise_bias(exact, form, small)

    def _float_conv(
        self, frames: str, weight: Array, bias: Array | None = None, **window: Any
    ) -> str:
        """A convolution that stays in float."""
        operands = [self._stored(weight)] + ([] if bias is None else [self.graph.constant(bias)])
        return self.graph.node("Conv", frames, *operands, **window)

    def _stored(self, weight: Array) -> str:
        """A float weight, rounded to eight bits where the network is in eight bits."""
        if self._ranges is not None:
            weight = quantise_weight(weight, FULL_WEIGHT).floats()
        return self.graph.constant(weight)

    def _activation(self, value: str, name: str, mean: Means = None) -> Signal:
        """Pass a tensor through the eight-bit format of this name; in float, only name it."""
        if self._ranges is None:
            self._activations.append(name)
            return Signal(self.graph.node("Identity", value, name=name), None, None)
        form = self._form(name)
        operands = self.graph.constants(form.scale, form.zero)
        value = self.graph.node("QuantizeLinear", value, *operands)
        return Signal(value, form, mean)

    def _form(self, name: str) -> Activation:
        """The eight-bit format of an activation."""
        try:
            return quantise_activation(*(self._ranges or {})[name])
        except KeyError:
            raise BuildError(
                f"the manifest has no activation range for {name}; calibrate again"
            ) from None

    def _float(self, signal: Signal) -> str:
        """The tensor as floats."""
        if signal.form is None:
            return signal.name
        operands = self.graph.constants(signal.form.scale, signal.form.zero)
        return self.graph.node("DequantizeLinear", signal.name, *operands)

    def _linear(self, values: Array, scale: NDArray[np.float32]) -> str:
        """The floats that eight- or 32-bit integers stand for, one scale per entry of axis 0."""
        constants = self.graph.constants(values, scale, np.zeros(scale.shape, values.dtype))
        return self.graph.node("DequantizeLinear", *constants, axis=0)

    def _relu(self, value: str) -> str:
        return self.graph.node("Relu", value)

    def _statistics(self, frames: str, variance_floor: float = 0.0) -> str:
        """Mean and standard deviation over time: (1, C, T) to (1, 2 C, 1).

        The floor is added to the variance.
        """
        graph = self.graph
        mean = graph.node("ReduceMean", frames, axes=[2])
        deviation = graph.node("Sub", frames, mean)
        squares = graph.node("ReduceSum", graph.node("Mul", deviation, deviation), graph.ints(2))
        freedom = graph.node("Sub", self._length(frames), graph.constant(np.float32(1)))
        variance = graph.node("Div", squares, freedom)
        if variance_floor:
            variance = graph.node("Add", variance, graph.constant(np.float32(variance_floor)))
        spread = graph.node("Sqrt", variance)
        return graph.node("Concat", mean, spread, axis=1)

    def _length(self, frames: str) -> str:
        """Number of frames, as a float."""
        graph = self.graph
        length = graph.node("Gather", graph.node("Shape", frames), graph.constant(np.int64(2)))
        return graph.node("Cast", length, to=1)

    # --- weights ----------------------------------------------------------------------------------

    def _weight(self, name: str) -> Array:
        try:
            return self._weights[name]
        except KeyError:
            raise BuildError(f"the checkpoint has no tensor {name}; is it {self.NAME}?") from None
