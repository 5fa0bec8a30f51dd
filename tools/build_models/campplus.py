"""The network: CAM++ as an ONNX graph, in float or in eight bits.

Owns the architecture (Wang, Zheng, Chen, Cheng and Chen, "CAM++: A Fast and Efficient Network for
Speaker Verification Using Context-Aware Masking", Interspeech 2023), the names its published
checkpoint gives to the weights, and which layers keep float arithmetic: the first convolution, the
ones that change the number of channels or the frame rate (tdnn, transit), the contexts' and the
last. They do a tenth of the work, and quantising them costs most. Knows nothing of files.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tools.build_models.errors import BuildError
from tools.build_models.frontend import MEL_BANDS, add_log_mel
from tools.build_models.graph import Graph, Shapes
from tools.build_models.quantisation import (
    FULL_WEIGHT,
    Activation,
    Weight,
    quantise_activation,
    quantise_bias,
    quantise_weight,
    rectified_mean,
    rounding_loss,
)

EMBEDDING = 192
HEAD_CHANNELS = 32
BLOCKS = ((12, 1), (24, 2), (16, 2))
"""Layers and dilation of each dense block."""
SEGMENT = 100
"""Frames that share one context: 2 s, after the network has halved the frame rate."""
EPSILON = 1e-5
"""What batch normalisation adds to a variance."""

INPUT: Shapes = {"samples": ("n",)}
OUTPUT: Shapes = {"embedding": (1, EMBEDDING)}
LOG_MEL: Shapes = {"log_mel": (1, MEL_BANDS, "frames")}

Ranges = Mapping[str, Sequence[float]]
Array = NDArray[Any]
Tensors = Mapping[str, Array]


def build_float(weights: Tensors) -> bytes:
    """The network in float32, for comparison; a second output shows its "log_mel"."""
    return _Network(weights).serialise(LOG_MEL)


def build_probe(weights: Tensors) -> tuple[bytes, list[str]]:
    """The float network with further outputs "low" and "high", and what their entries describe.

    They hold the lowest and the highest value of each activation, float32 (len(names),).
    """
    network = _Network(weights)
    return network.serialise({**LOG_MEL, **network.add_extremes()}), network.activations


def build_int8(weights: Tensors, ranges: Ranges, weight_limit: int) -> bytes:
    """The network in eight bits.

    Args:
        weights: the checkpoint's tensors.
        ranges: lowest and highest value of each activation, by name, as `build_probe` names them.
        weight_limit: largest magnitude of an int8 weight that meets a uint8 activation.
    """
    return _Network(weights, ranges, weight_limit).serialise()


class _Signal(NamedTuple):
    """A tensor in the graph between two layers.

    Attributes:
        name: in the graph.
        form: its eight-bit format; None where the network is float, as the tensor then is.
        mean: the value to be expected in each channel, where a normalisation tells it.
    """

    name: str
    form: Activation | None
    mean: NDArray[np.float64] | None


class _Network:
    """Lays out the network once for both kinds of arithmetic; float without ranges."""

    def __init__(
        self, weights: Tensors, ranges: Ranges | None = None, weight_limit: int = FULL_WEIGHT
    ) -> None:
        self.graph = Graph()
        self.activations: list[str] = []
        self._weights = weights
        self._ranges = ranges
        self._weight_limit = weight_limit
        self._add_layers()

    def serialise(self, extra_outputs: Shapes = MappingProxyType({})) -> bytes:
        """The model file's bytes."""
        return self.graph.serialise("campplus", INPUT, {**OUTPUT, **extra_outputs})

    def add_extremes(self) -> Shapes:
        """Add the lowest and the highest value of each activation as outputs."""
        for name, operator in (("low", "ReduceMin"), ("high", "ReduceMax")):
            values = [self.graph.node(operator, item, keepdims=0) for item in self.activations]
            values = [self.graph.node("Unsqueeze", item, self.graph.ints(0)) for item in values]
            self.graph.node("Concat", *values, name=name, axis=0)
        return dict.fromkeys(("low", "high"), (len(self.activations),))

    def _add_layers(self) -> None:
        log_mel = self.graph.node("Identity", add_log_mel(self.graph, "samples"), name="log_mel")
        frames = self._tdnn(self._head(log_mel))
        segments = self._segments(frames)
        for number, (layers, dilation) in enumerate(BLOCKS, start=1):
            for layer in range(1, layers + 1):
                name = f"xvector.block{number}.tdnnd{layer}"
                news = self._dense_layer(frames, name, dilation, segments)
                frames = self.graph.node("Concat", frames, news, axis=1)
            frames = self._transit(frames, f"xvector.transit{number}")
        self._embedding(frames)

    # --- layers, from the front to the back -------------------------------------------------------

    def _head(self, log_mel: str) -> str:
        """2-D convolutions that shrink the bands eightfold: (1, 80, T) to (1, 320, T)."""
        image = self.graph.node("Unsqueeze", log_mel, self.graph.ints(1))
        weight, bias = self._folded("head.conv1.weight", "head.bn1")
        # Even its weights are kept as floats: there are 288 of them.
        constants = self.graph.constants(weight, bias)
        image = self._relu(self.graph.node("Conv", image, *constants, pads=[1] * 4))
        signal = self._activation(image, "head.conv1", "head.bn1")
        for layer in ("head.layer1", "head.layer2"):
            signal = self._residual(signal, f"{layer}.0", stride=2)
            signal = self._residual(signal, f"{layer}.1", stride=1)
        folded = self._folded("head.conv2.weight", "head.bn2")
        image = self._relu(self._conv_to_float(signal, *folded, pads=[1] * 4, strides=[2, 1]))
        shape = self.graph.ints(1, HEAD_CHANNELS * MEL_BANDS // 8, -1)
        return self.graph.node("Reshape", image, shape)

    def _residual(self, signal: _Signal, name: str, stride: int) -> _Signal:
        """Two convolutions beside a shortcut."""
        norm, pads = f"{name}.bn1", [1] * 4
        folded = self._folded(f"{name}.conv1.weight", norm)
        window: dict[str, Any] = {"pads": pads, "strides": [stride, 1]}
        inner = self._conv(signal, f"{name}.conv1", *folded, norm=norm, **window)
        folded = self._folded(f"{name}.conv2.weight", f"{name}.bn2")
        outer = self._conv(inner, f"{name}.conv2", *folded, pads=pads)
        if stride > 1:
            folded = self._folded(f"{name}.shortcut.0.weight", f"{name}.shortcut.1")
            signal = self._conv(signal, f"{name}.shortcut", *folded, strides=[stride, 1])
        both = self.graph.node("Add", self._float(outer), self._float(signal))
        return self._activation(self._relu(both), name)

    def _tdnn(self, frames: str) -> str:
        """The 1-D convolution that halves the frame rate: (1, 320, T) to (1, 128, T / 2)."""
        name = "xvector.tdnn"
        folded = self._folded(f"{name}.linear.weight", f"{name}.nonlinear.batchnorm")
        return self._relu(self._float_conv(frames, *folded, pads=[2, 2], strides=[2]))

    def _dense_layer(self, frames: str, name: str, dilation: int, segments: str) -> str:
        """What one layer adds to the frames: (1, C, T) to (1, 32, T), masked by its context."""
        norm = f"{name}.nonlinear1.batchnorm"
        signal = self._activation(self._normalised(frames, norm), f"{name}.in", norm)
        norm = f"{name}.nonlinear2.batchnorm"
        folded = self._folded(f"{name}.linear1.weight", norm)
        signal = self._conv(signal, f"{name}.bottleneck", *folded, norm=norm)
        weight = self._weight(f"{name}.cam_layer.linear_local.weight")
        window: dict[str, Any] = {"pads": [dilation] * 2, "dilations": [dilation]}
        local = self._conv(signal, f"{name}.local", weight, **window)
        mask = self._mask(self._float(signal), f"{name}.cam_layer", segments)
        return self.graph.node("Mul", self._float(local), mask)

    def _mask(self, frames: str, name: str, segments: str) -> str:
        """How much each channel matters, from the means of the utterance and of the segment.

        All frames of a segment share one mask, so it is computed once for each segment.
        """
        pooling: dict[str, Any] = {"kernel_shape": [SEGMENT], "strides": [SEGMENT], "ceil_mode": 1}
        means = self.graph.node("AveragePool", frames, **pooling, count_include_pad=0)
        mean = self.graph.node("ReduceMean", frames, axes=[2])
        context = self.graph.node("Add", means, mean)
        first, second = (
            (self._weight(f"{name}.{layer}.weight"), self._weight(f"{name}.{layer}.bias"))
            for layer in ("linear1", "linear2")
        )
        context = self._relu(self._float_conv(context, *first))
        mask = self.graph.node("Sigmoid", self._float_conv(context, *second))
        return self.graph.node("Gather", mask, segments, axis=2)

    def _transit(self, frames: str, name: str) -> str:
        """Halve the channels."""
        frames = self._normalised(frames, f"{name}.nonlinear.batchnorm")
        return self._float_conv(frames, self._weight(f"{name}.linear.weight"))

    def _embedding(self, frames: str) -> None:
        """Mean and standard deviation over time, one dense layer, unit length."""
        graph = self.graph
        frames = self._normalised(frames, "xvector.out_nonlinear.batchnorm")
        mean = graph.node("ReduceMean", frames, axes=[2])
        deviation = graph.node("Sub", frames, mean)
        squares = graph.node("ReduceSum", graph.node("Mul", deviation, deviation), graph.ints(2))
        freedom = graph.node("Sub", self._length(frames), graph.constant(np.float32(1)))
        spread = graph.node("Sqrt", graph.node("Div", squares, freedom))
        statistics = graph.node(
            "Squeeze", graph.node("Concat", mean, spread, axis=1), graph.ints(2)
        )
        weight, bias = self._folded(
            "xvector.dense.linear.weight", "xvector.dense.nonlinear.batchnorm"
        )
        operands = self._stored(weight[:, :, 0]), graph.constant(bias)
        embedding = graph.node("Gemm", statistics, *operands, transB=1)
        graph.node("LpNormalization", embedding, name="embedding", axis=1, p=2)

    # --- parts of layers --------------------------------------------------------------------------

    def _conv(
        self,
        signal: _Signal,
        name: str,
        weight: Array,
        bias: Array | None = None,
        *,
        norm: str = "",
        **window: Any,
    ) -> _Signal:
        """A convolution into the format of this name, with a ReLU if there is a `norm`.

        `norm` is as in `_activation`. In eight bits all of it is one step, and the ReLU is that the
        format begins at 0.
        """
        if signal.form is None:
            frames = self._float_conv(signal.name, weight, bias, **window)
            return self._activation(self._relu(frames) if norm else frames, name, norm)
        form = self._form(name)
        if norm and form.zero != 0:
            raise BuildError(f"the activation range of {name} begins below 0; calibrate again")
        small, steps, _ = self._rounded(signal, signal.form, weight, bias)
        kernel = small.values, small.scale, np.zeros_like(small.scale, np.int8)
        operands = signal.form.scale, signal.form.zero, *kernel, form.scale, form.zero, steps
        constants = self.graph.constants(*operands)
        value = self.graph.node("QLinearConv", signal.name, *constants, **window)
        return _Signal(value, form, self._expected(norm))

    def _conv_to_float(self, signal: _Signal, weight: Array, bias: Array, **window: Any) -> str:
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
        self, signal: _Signal, form: Activation, weight: Array, bias: Array | None
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

    def _activation(self, value: str, name: str, norm: str = "") -> _Signal:
        """Pass a tensor through the eight-bit format of this name; in float, only name it.

        `norm` is the normalisation that, with a ReLU behind it, made the tensor.
        """
        if self._ranges is None:
            self.activations.append(name)
            return _Signal(self.graph.node("Identity", value, name=name), None, None)
        form = self._form(name)
        operands = self.graph.constants(form.scale, form.zero)
        value = self.graph.node("QuantizeLinear", value, *operands)
        return _Signal(value, form, self._expected(norm))

    def _form(self, name: str) -> Activation:
        """The eight-bit format of an activation."""
        try:
            return quantise_activation(*(self._ranges or {})[name])
        except KeyError:
            raise BuildError(
                f"the manifest has no activation range for {name}; calibrate again"
            ) from None

    def _float(self, signal: _Signal) -> str:
        """The tensor as floats."""
        if signal.form is None:
            return signal.name
        operands = self.graph.constants(signal.form.scale, signal.form.zero)
        return self.graph.node("DequantizeLinear", signal.name, *operands)

    def _expected(self, norm: str) -> NDArray[np.float64] | None:
        """What a normalisation and a ReLU give on average, as training left them."""
        if not norm:
            return None
        return rectified_mean(self._weight(f"{norm}.bias"), self._weight(f"{norm}.weight"))

    def _linear(self, values: Array, scale: NDArray[np.float32]) -> str:
        """The floats that eight- or 32-bit integers stand for, one scale per entry of axis 0."""
        constants = self.graph.constants(values, scale, np.zeros(scale.shape, values.dtype))
        return self.graph.node("DequantizeLinear", *constants, axis=0)

    def _normalised(self, frames: str, norm: str) -> str:
        """Batch normalisation and ReLU, in front of a convolution."""
        scale, shift = (item.astype(np.float32) for item in self._affine(norm))
        no_mean, unit_variance = np.zeros_like(scale), np.ones_like(scale)
        operands = self.graph.constants(scale, shift, no_mean, unit_variance)
        normalised = self.graph.node("BatchNormalization", frames, *operands, epsilon=0.0)
        return self._relu(normalised)

    def _relu(self, value: str) -> str:
        return self.graph.node("Relu", value)

    def _segments(self, frames: str) -> str:
        """Which segment each frame belongs to, int64 (T,)."""
        graph, zero = self.graph, self.graph.constant(np.int64(0))
        length = graph.node("Gather", graph.node("Shape", frames), graph.constant(np.int64(2)))
        times = graph.node("Range", zero, length, graph.constant(np.int64(1)))
        return graph.node("Div", times, graph.constant(np.int64(SEGMENT)))

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
            raise BuildError(f"the checkpoint has no tensor {name}; is it CAM++?") from None

    def _affine(self, norm: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Batch normalisation as scale and shift; the last one has no weights of its own."""
        mean = self._weight(f"{norm}.running_mean").astype(np.float64)
        variance = self._weight(f"{norm}.running_var").astype(np.float64)
        scale = 1 / np.sqrt(variance + EPSILON)
        if f"{norm}.weight" not in self._weights:
            return scale, -mean * scale
        scale = scale * self._weight(f"{norm}.weight")
        return scale, self._weight(f"{norm}.bias") - mean * scale

    def _folded(self, name: str, norm: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weight and bias of a layer without bias together with the normalisation behind it."""
        weight = self._weight(name).astype(np.float64)
        scale, shift = self._affine(norm)
        scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
        return (weight * scale).astype(np.float32), shift.astype(np.float32)
