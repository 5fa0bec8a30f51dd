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
from errors import BuildError
from frontend import MEL_BANDS, add_log_mel
from graph import Graph, Shapes
from numpy.typing import NDArray
from quantisation import (
    FULL_WEIGHT,
    Activation,
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
    """A float tensor in the graph that an eight-bit convolution may take.

    Attributes:
        name: in the graph.
        form: the eight-bit format it went through; None where the network is float.
        mean: the value to be expected in each channel, where a normalisation tells it.
    """

    name: str
    form: Activation | None
    mean: NDArray[np.float64] | None


class _Network:
    """Lays out the network once for both arithmetics; without ranges it is float."""

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
        constants = self.graph.constant(weight), self.graph.constant(bias)
        image = self._relu(self.graph.node("Conv", image, *constants, pads=[1] * 4))
        signal = self._activation(image, "head.conv1", "head.bn1")
        for layer in ("head.layer1", "head.layer2"):
            signal = self._residual(signal, f"{layer}.0", stride=2)
            signal = self._residual(signal, f"{layer}.1", stride=1)
        folded = self._folded("head.conv2.weight", "head.bn2")
        # What it gives is not quantised, so the runtime computes it in float from small weights.
        image = self._relu(self._conv(signal, *folded, pads=[1] * 4, strides=[2, 1]))
        shape = self.graph.ints(1, HEAD_CHANNELS * MEL_BANDS // 8, -1)
        return self.graph.node("Reshape", image, shape)

    def _residual(self, signal: _Signal, name: str, stride: int) -> _Signal:
        """Two convolutions beside a shortcut."""
        folded = self._folded(f"{name}.conv1.weight", f"{name}.bn1")
        inner = self._relu(self._conv(signal, *folded, pads=[1] * 4, strides=[stride, 1]))
        bounded = self._activation(inner, f"{name}.conv1", f"{name}.bn1")
        folded = self._folded(f"{name}.conv2.weight", f"{name}.bn2")
        outer = self._conv(bounded, *folded, pads=[1] * 4)
        outer = self._activation(outer, f"{name}.conv2").name
        if stride > 1:
            folded = self._folded(f"{name}.shortcut.0.weight", f"{name}.shortcut.1")
            shortcut = self._conv(signal, *folded, strides=[stride, 1])
            signal = self._activation(shortcut, f"{name}.shortcut")
        return self._activation(self._relu(self.graph.node("Add", outer, signal.name)), name)

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
        inner = self._relu(self._conv(signal, *self._folded(f"{name}.linear1.weight", norm)))
        signal = self._activation(inner, f"{name}.bottleneck", norm)
        weight = self._weight(f"{name}.cam_layer.linear_local.weight")
        local = self._conv(signal, weight, pads=[dilation] * 2, dilations=[dilation])
        local = self._activation(local, f"{name}.local").name
        mask = self._mask(signal.name, f"{name}.cam_layer", segments)
        return self.graph.node("Mul", local, mask)

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
        self, signal: _Signal, weight: Array, bias: Array | None = None, **window: Any
    ) -> str:
        """A convolution, in eight bits where its input is."""
        if signal.form is None:
            return self._float_conv(signal.name, weight, bias, **window)
        small = quantise_weight(weight, self._weight_limit)
        if signal.mean is not None:
            bias = (0 if bias is None else bias) + rounding_loss(weight, small, signal.mean)
        operands = [self._linear(small.values, small.scale)]
        if bias is not None:
            operands.append(self._linear(*quantise_bias(bias, signal.form, small)))
        return self.graph.node("Conv", signal.name, *operands, **window)

    def _float_conv(
        self, frames: str, weight: Array, bias: Array | None = None, **window: Any
    ) -> str:
        """A convolution that stays in float."""
        operands = [self._stored(weight)] + ([] if bias is None else [self.graph.constant(bias)])
        return self.graph.node("Conv", frames, *operands, **window)

    def _stored(self, weight: Array) -> str:
        """A float weight; eight bits in the file where the network is, unpacked when it is loaded.

        Cast and Mul, because ONNX Runtime folds them and does not fold DequantizeLinear.
        """
        if self._ranges is None:
            return self.graph.constant(weight)
        small = quantise_weight(weight, FULL_WEIGHT)
        values = self.graph.node("Cast", self.graph.constant(small.values), to=1)
        scale = self.graph.constant(small.scale.reshape(-1, *[1] * (weight.ndim - 1)))
        return self.graph.node("Mul", values, scale)

    def _activation(self, value: str, name: str, norm: str = "") -> _Signal:
        """Pass a tensor through the eight-bit format of this name; in float, only name it.

        `norm` is the normalisation that, with a ReLU behind it, made the tensor.
        """
        self.activations.append(name)
        graph = self.graph
        if self._ranges is None:
            return _Signal(graph.node("Identity", value, name=name), None, None)
        if name not in self._ranges:
            raise BuildError(f"the manifest has no activation range for {name}; calibrate again")
        form = quantise_activation(*self._ranges[name])
        scale, zero = graph.constant(form.scale), graph.constant(form.zero)
        value = graph.node("QuantizeLinear", value, scale, zero)
        value = graph.node("DequantizeLinear", value, scale, zero)
        return _Signal(value, form, self._expected(norm) if norm else None)

    def _expected(self, norm: str) -> NDArray[np.float64]:
        """What a normalisation and a ReLU give on average, as training left them."""
        return rectified_mean(self._weight(f"{norm}.bias"), self._weight(f"{norm}.weight"))

    def _linear(self, values: Array, scale: NDArray[np.float32]) -> str:
        """The floats that eight- or 32-bit integers stand for, one scale per entry of axis 0."""
        constants = map(self.graph.constant, (values, scale, np.zeros(scale.shape, values.dtype)))
        return self.graph.node("DequantizeLinear", *constants, axis=0)

    def _normalised(self, frames: str, norm: str) -> str:
        """Batch normalisation and ReLU, in front of a convolution."""
        scale, shift = (item.astype(np.float32)[:, None] for item in self._affine(norm))
        scaled = self.graph.node("Mul", frames, self.graph.constant(scale))
        return self._relu(self.graph.node("Add", scaled, self.graph.constant(shift)))

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
