"""The gate's network: Silero VAD's weights as an ONNX graph of products of matrices.

Owns the architecture of Silero VAD 6.2 at 16 kHz (Silero Team, github.com/snakers4/silero-vad) and
the names that its published graph gives to the weights. Knows nothing of files.

The published graph convolves each window for itself: products so small that the runtime spends most
of its time around them. Here the frames of all windows that are heard together are rows of one
matrix, and each layer is one product. The arithmetic is the same but for the order of its sums.
"""

import numpy as np
import onnx
from numpy.typing import NDArray

from tools.build_models.errors import BuildError
from tools.build_models.graph import Graph, Shapes

WINDOW = 576
NEW = 512
"""Samples of a window; the others are the last of the window before."""
HOP = 128
FRAME = 2 * HOP
FRAMES = 4
BINS = FRAME // 2 + 1
CELLS = 128
"""Of the LSTM."""
STRIDES = (1, 2, 2, 1)
"""Of the convolutions over the frames, each of three taps."""
RECURRENT = ("onnx::LSTM_209", "onnx::LSTM_210", "onnx::LSTM_211")
"""The LSTM's weights for its input and its state, and its biases, as the export named them."""

STATE = {"h": (1, 1, CELLS), "c": (1, 1, CELLS)}
INPUT: Shapes = {"input": ("windows", WINDOW), **STATE}
OUTPUT: Shapes = {"speech_probs": ("windows",), "hn": STATE["h"], "cn": STATE["c"]}

Array = NDArray[np.float32]


def build_gate(published: bytes) -> bytes:
    """Lay the weights of the published graph out anew.

    Raises:
        BuildError: the bytes are no ONNX model, or it has other weights.
    """
    network = _Network(_read_weights(published))
    return network.graph.serialise("silero", INPUT, OUTPUT)


def _read_weights(published: bytes) -> dict[str, Array]:
    try:
        model = onnx.load_model_from_string(published)
    except Exception as error:  # protobuf's own error is nobody's subclass
        raise BuildError(f"the gate's published model cannot be read: {error}") from error
    return {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}


class _Network:
    def __init__(self, weights: dict[str, Array]) -> None:
        self.graph = Graph()
        self._weights = weights
        rows, frames = self._spectrum(), FRAMES
        for number, stride in enumerate(STRIDES):
            rows, frames = self._convolution(rows, f"encoder.{number}", frames, stride)
        self._recurrent(rows)

    # --- layers, from the front to the back -------------------------------------------------------

    def _spectrum(self) -> str:
        """Magnitudes of the frames: (windows, WINDOW) to (windows * FRAMES, BINS)."""
        graph = self.graph
        beyond = (FRAMES + 1) * HOP - WINDOW
        padded = graph.node("Pad", "input", graph.ints(0, 0, 0, beyond), mode="reflect")
        hops = graph.node("Reshape", padded, graph.ints(-1, FRAMES + 1, HOP))
        frames = self._windows(hops, HOP, FRAMES, taps=2, stride=1)
        basis = self._weight("stft.forward_basis_buffer", (2 * BINS, 1, FRAME))[:, 0]
        spectrum = graph.node("MatMul", frames, graph.constant(basis.T))
        squares = graph.node("Mul", spectrum, spectrum)
        # Of each frame the real halves come first, then the imaginary ones.
        squares = graph.node("Reshape", squares, graph.ints(-1, 2, BINS))
        return graph.node("Sqrt", graph.node("ReduceSum", squares, graph.ints(1), keepdims=0))

    def _convolution(self, rows: str, name: str, frames: int, stride: int) -> tuple[str, int]:
        """Three taps over the frames of each window, zeros around them, and a ReLU.

        Rows are frames, (windows * frames, channels), before and after; how many frames a window
        has after it, is returned with them.
        """
        graph = self.graph
        weight = self._weight(f"{name}.weight")
        bias = self._weight(f"{name}.bias", weight.shape[:1])
        following = -(-frames // stride)
        if following == 1:
            # The other taps meet nothing but zeros.
            weight = weight[:, :, 1 : 1 + frames]
            rows = graph.node("Reshape", rows, graph.ints(-1, frames * weight.shape[1]))
        else:
            image = graph.node("Reshape", rows, graph.ints(-1, frames, weight.shape[1]))
            image = graph.node("Pad", image, graph.ints(0, 1, 0, 0, 1, 0))
            rows = self._windows(image, weight.shape[1], following, taps=3, stride=stride)
        matrix = weight.transpose(2, 1, 0).reshape(-1, len(weight))
        product = graph.node("Gemm", rows, graph.constant(matrix), graph.constant(bias))
        return graph.node("Relu", product), following

    def _recurrent(self, rows: str) -> None:
        """The LSTM over the windows, and the probability of each."""
        graph = self.graph
        shapes = (1, 4 * CELLS, CELLS), (1, 4 * CELLS, CELLS), (1, 8 * CELLS)
        weights = [
            graph.constant(self._weight(name, shape))
            for name, shape in zip(RECURRENT, shapes, strict=True)
        ]
        steps = graph.node("Unsqueeze", rows, graph.ints(1))
        given = (steps, *weights, "", "h", "c")
        heard, _, _ = graph.nodes("LSTM", given, ("heard", "hn", "cn"), hidden_size=CELLS)
        last = graph.node("Relu", graph.node("Reshape", heard, graph.ints(-1, CELLS)))
        weight = graph.constant(self._weight("output.weight", (1, CELLS, 1))[0])
        bias = graph.constant(self._weight("output.bias", (1,)))
        score = graph.node("Reshape", graph.node("Gemm", last, weight, bias), graph.ints(-1))
        graph.node("Sigmoid", score, name="speech_probs")

    # --- pieces of layers -------------------------------------------------------------------------

    def _windows(self, image: str, width: int, count: int, *, taps: int, stride: int) -> str:
        """What each of `count` places of a kernel covers, as rows of taps * width numbers.

        `image` is (windows, frames, width).
        """
        graph = self.graph
        covered = [
            graph.node(
                "Slice",
                *(image, graph.ints(tap), graph.ints(tap + (count - 1) * stride + 1)),
                *(graph.ints(1), graph.ints(stride)),
            )
            for tap in range(taps)
        ]
        return graph.node(
            "Reshape", graph.node("Concat", *covered, axis=2), graph.ints(-1, taps * width)
        )

    def _weight(self, name: str, shape: tuple[int, ...] | None = None) -> Array:
        if name not in self._weights or shape not in (None, self._weights[name].shape):
            raise BuildError(
                f"the gate's published model has no {name} of the shape {shape}; is it Silero VAD?"
            )
        return self._weights[name]
