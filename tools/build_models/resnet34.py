"""The second encoder: WeSpeaker's ResNet34 as an ONNX graph, in float or in eight bits.

Owns the architecture (Wang et al., "WeSpeaker: A Research and Production Oriented Speaker Embedding
Learning Toolkit", ICASSP 2023; ResNet34 after He, Zhang, Ren and Sun, CVPR 2016, with a quarter of
the channels' widths), how its weights lie in the published graph, and which layers keep float
arithmetic: the first convolution and the last layer. Knows nothing of files.

The published graph has each normalisation folded into the convolution before it, so the weights
have no names to go by. They are taken in the order in which the graph uses them.
"""

import onnx

from tools.build_models.errors import BuildError
from tools.build_models.frontend import HAMMING, MEL_BANDS, add_log_mel
from tools.build_models.layers import Array, Layers, Signal, Tensors

STAGES = ((3, 32), (4, 64), (6, 128), (3, 256))
"""Blocks and channels of each stage; each but the first halves bands and frame rate."""
VARIANCE_FLOOR = 1e-7
"""What the network adds to a variance, as it was trained."""


def read_published(published: bytes) -> Tensors:
    """Name the weights of the published graph.

    Raises:
        BuildError: the bytes are no ONNX model, or it has other layers.
    """
    try:
        graph = onnx.load_model_from_string(published).graph
    except Exception as error:  # protobuf's own error is nobody's subclass
        raise BuildError(f"the published ResNet34 cannot be read: {error}") from error
    tensors = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    layers = [node for node in graph.node if node.op_type in {"Conv", "Gemm"}]
    names = [name for name, _ in _shapes()]
    if len(layers) != len(names):
        raise BuildError(f"the published model has {len(layers)} layers, ResNet34 has {len(names)}")
    found: dict[str, Array] = {}
    for (name, shape), node in zip(_shapes(), layers, strict=True):
        weight, bias = (tensors[each] for each in node.input[1:3])
        if weight.shape != shape or bias.shape != shape[:1]:
            raise BuildError(f"the published {name} has the shape {weight.shape}, not {shape}")
        found |= {f"{name}.weight": weight, f"{name}.bias": bias}
    return found | {"mean": tensors["mean_vec"]}


def _shapes() -> list[tuple[str, tuple[int, ...]]]:
    """The layers and the shapes of their weights, in the published graph's order."""
    before = STAGES[0][1]
    shapes: list[tuple[str, tuple[int, ...]]] = [("conv1", (before, 1, 3, 3))]
    for stage, (blocks, channels) in enumerate(STAGES, start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            shapes.append((f"{name}.conv1", (channels, before, 3, 3)))
            shapes.append((f"{name}.conv2", (channels, channels, 3, 3)))
            if before != channels:
                shapes.append((f"{name}.shortcut", (channels, before, 1, 1)))
            before = channels
    return [*shapes, ("embedding", (ResNet34.EMBEDDING, 2 * before * MEL_BANDS // 8))]


class ResNet34(Layers):
    """The layers of WeSpeaker's ResNet34."""

    NAME = "resnet34"
    EMBEDDING = 256

    def _add_layers(self) -> None:
        graph = self.graph
        log_mel = graph.node("Identity", add_log_mel(graph, "samples", HAMMING), name="log_mel")
        image = graph.node("Unsqueeze", log_mel, graph.ints(1))
        # Even its weights are kept as floats: there are 288 of them.
        operands = graph.constants(*self._pair("conv1"))
        image = self._relu(graph.node("Conv", image, *operands, pads=[1] * 4))
        signal = self._activation(image, "conv1")
        for stage, (blocks, _) in enumerate(STAGES, start=1):
            for block in range(blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                signal = self._residual(signal, f"layer{stage}.{block}", stride)
        self._embedding(self._float(signal))

    def _residual(self, signal: Signal, name: str, stride: int) -> Signal:
        """Two convolutions beside a shortcut."""
        pads, strides = [1] * 4, [stride] * 2
        inner = self._conv(
            *(signal, f"{name}.conv1", *self._pair(f"{name}.conv1")),
            relu=True,
            pads=pads,
            strides=strides,
        )
        outer = self._conv(inner, f"{name}.conv2", *self._pair(f"{name}.conv2"), pads=pads)
        if stride > 1:
            pair = self._pair(f"{name}.shortcut")
            signal = self._conv(signal, f"{name}.shortcut", *pair, strides=strides)
        both = self.graph.node("Add", self._float(outer), self._float(signal))
        return self._activation(self._relu(both), name)

    def _embedding(self, image: str) -> None:
        """Mean and deviation over time of each channel in each band, one layer, unit length."""
        graph = self.graph
        frames = graph.node("Reshape", image, graph.ints(1, STAGES[-1][1] * MEL_BANDS // 8, -1))
        statistics = graph.node("Squeeze", self._statistics(frames, VARIANCE_FLOOR), graph.ints(2))
        weight, bias = self._pair("embedding")
        operands = self._stored(weight), graph.constant(bias - self._weight("mean"))
        embedding = graph.node("Gemm", statistics, *operands, transB=1)
        graph.node("LpNormalization", embedding, name="embedding", axis=1, p=2)

    def _pair(self, name: str) -> tuple[Array, Array]:
        """Weight and bias of a layer."""
        return self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
