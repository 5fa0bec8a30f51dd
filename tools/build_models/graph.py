"""An ONNX graph under construction: nodes and constants, named by counting.

Owns ONNX: the operator set, names, serialisation. Knows nothing of speech or networks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

OPERATOR_SET = 17
IR_VERSION = 8

Shapes = Mapping[str, Sequence[int | str]]


class Graph:
    """Nodes in the order they were added; equal constants are kept once."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initialisers: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node with one output and return that output's name."""
        (output,) = self.nodes(operator, inputs, (name or f"t{len(self._nodes)}",), **attributes)
        return output

    def nodes(
        self, operator: str, inputs: Sequence[str], names: Sequence[str], **attributes: Any
    ) -> Sequence[str]:
        """Add a node with outputs of these names and return them; an input "" is left out."""
        self._nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names

    def constant(self, value: NDArray[Any] | np.generic) -> str:
        """Add a constant and return its name."""
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = f"c{len(self._constants)}"
            self._initialisers.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def constants(self, *values: NDArray[Any] | np.generic) -> list[str]:
        """Add constants and return their names."""
        return [self.constant(value) for value in values]

    def ints(self, *values: int) -> str:
        """Add a constant int64 vector: axes, shapes, bounds."""
        return self.constant(np.array(values, np.int64))

    def serialise(self, name: str, inputs: Shapes, outputs: Shapes) -> bytes:
        """Check the graph and return the model file's bytes, the same for the same graph.

        `inputs` and `outputs` give each float32 tensor's shape; a word is any length.
        """
        graph = helper.make_graph(
            self._nodes, name, _values(inputs), _values(outputs), self._initialisers
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPERATOR_SET)],
            ir_version=IR_VERSION,
            producer_name="whodrives",
        )
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))


def _values(shapes: Shapes) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]
