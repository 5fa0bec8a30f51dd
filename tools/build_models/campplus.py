"""The network: CAM++ as an ONNX graph, in float or in eight bits.

Owns the architecture (Wang, Zheng, Chen, Cheng and Chen, "CAM++: A Fast and Efficient Network for
Speaker Verification Using Context-Aware Masking", Interspeech 2023), the names its published
checkpoint gives to the weights, and which layers keep float arithmetic: the first convolution, the
ones that change the number of channels or the frame rate (tdnn, transit), the contexts' and the
last. They do a tenth of the work, and quantising them costs most. Knows nothing of files.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.build_models.frontend import MEL_BANDS, POVEY, add_log_mel
from tools.build_models.layers import Layers, Means, Signal
from tools.build_models.quantisation import rectified_mean

HEAD_CHANNELS = 32
BLOCKS = ((12, 1), (24, 2), (16, 2))
"""Layers and dilation of each dense block."""
SEGMENT = 100
"""Frames that share one context: 2 s, after the network has halved the frame rate."""
EPSILON = 1e-5
"""What batch normalisation adds to a variance."""


class CamPlusPlus(Layers):
    """The layers of CAM++."""

    NAME = "campplus"
    EMBEDDING = 192

    def _add_layers(self) -> None:
        log_mel = self.graph.node(
            "Identity", add_log_mel(self.graph, "samples", POVEY), name="log_mel"
        )
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
        signal = self._activation(image, "head.conv1", self._expected("head.bn1"))
        for layer in ("head.layer1", "head.layer2"):
            signal = self._residual(signal, f"{layer}.0", stride=2)
            signal = self._residual(signal, f"{layer}.1", stride=1)
        folded = self._folded("head.conv2.weight", "head.bn2")
        image = self._relu(self._conv_to_float(signal, *folded, pads=[1] * 4, strides=[2, 1]))
        shape = self.graph.ints(1, HEAD_CHANNELS * MEL_BANDS // 8, -1)
        return self.graph.node("Reshape", image, shape)

    def _residual(self, signal: Signal, name: str, stride: int) -> Signal:
        """Two convolutions beside a shortcut."""
        norm, pads = f"{name}.bn1", [1] * 4
        folded = self._folded(f"{name}.conv1.weight", norm)
        window: dict[str, Any] = {"pads": pads, "strides": [stride, 1]}
        mean = self._expected(norm)
        inner = self._conv(signal, f"{name}.conv1", *folded, relu=True, mean=mean, **window)
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
        mean = self._expected(norm)
        signal = self._activation(self._normalised(frames, norm), f"{name}.in", mean)
        norm = f"{name}.nonlinear2.batchnorm"
        folded = self._folded(f"{name}.linear1.weight", norm)
        mean = self._expected(norm)
        signal = self._conv(signal, f"{name}.bottleneck", *folded, relu=True, mean=mean)
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
        statistics = graph.node("Squeeze", self._statistics(frames), graph.ints(2))
        weight, bias = self._folded(
            "xvector.dense.linear.weight", "xvector.dense.nonlinear.batchnorm"
        )
        operands = self._stored(weight[:, :, 0]), graph.constant(bias)
        embedding = graph.node("Gemm", statistics, *operands, transB=1)
        graph.node("LpNormalization", embedding, name="embedding", axis=1, p=2)

    # --- parts of layers --------------------------------------------------------------------------

    def _expected(self, norm: str) -> Means:
        """What a normalisation and a ReLU give on average, as training left them."""
        return rectified_mean(self._weight(f"{norm}.bias"), self._weight(f"{norm}.weight"))

    def _normalised(self, frames: str, norm: str) -> str:
        """Batch normalisation and ReLU, in front of a convolution."""
        scale, shift = (item.astype(np.float32) for item in self._affine(norm))
        no_mean, unit_variance = np.zeros_like(scale), np.ones_like(scale)
        operands = self.graph.constants(scale, shift, no_mean, unit_variance)
        normalised = self.graph.node("BatchNormalization", frames, *operands, epsilon=0.0)
        return self._relu(normalised)

    def _segments(self, frames: str) -> str:
        """Which segment each frame belongs to, int64 (T,)."""
        graph, zero = self.graph, self.graph.constant(np.int64(0))
        length = graph.node("Gather", graph.node("Shape", frames), graph.constant(np.int64(2)))
        times = graph.node("Range", zero, length, graph.constant(np.int64(1)))
        return graph.node("Div", times, graph.constant(np.int64(SEGMENT)))

    # --- weights ----------------------------------------------------------------------------------

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
