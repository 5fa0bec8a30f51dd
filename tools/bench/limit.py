"""How much arithmetic the networks need at least, and how fast this machine does it at best.

Multiply-adds are counted from what the runtime ran, by the shapes in its own profile: convolutions,
matrix products and the LSTM, in eight bits or in float. The rates are those of large products of
matrices that stay in the caches, by the same runtime on one thread. Their quotient is the least
time that this runtime could take; everything beside arithmetic comes on top.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

SIZE = 512
REPEATS = 20

Result = dict[str, Any]


def limit(models: Path) -> Result:
    """Multiply-adds, rates and the least times.

    Args:
        models: the folder of the models.
    """
    second = np.random.default_rng(1).normal(0, 0.1, 16_000).astype(np.float32)
    state = np.zeros((1, 1, 128), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(second, 576)[::512]
    # The windows of a second: a second begins one every 512 samples.
    gate = counted(models / "gate.onnx", {"input": windows.copy(), "h": state, "c": state})
    encoder = counted(models / "encoder.onnx", {"samples": second})
    gate = {kind: count * 16_000 / 512 / len(windows) for kind, count in gate.items()}
    rates = {"float": rate(np.float32), "eight_bits": rate(np.uint8)}

    def least_ms(counts: Mapping[str, float]) -> float:
        return 1000 * sum(counts[kind] / rates[kind] for kind in rates)

    return {
        "encoder_million_multiply_adds": {kind: encoder[kind] / 1e6 for kind in rates},
        "encoder_kernels": encoder["kernels"],
        "gate_million_multiply_adds": {kind: gate[kind] / 1e6 for kind in rates},
        "billion_multiply_adds_per_s": {kind: rates[kind] / 1e9 for kind in rates},
        "encoder_ms_per_speech_s": least_ms(encoder),
        "gate_ms_per_audio_s": least_ms(gate),
    }


def counted(model: Path, feed: Mapping[str, Any]) -> dict[str, float]:
    """Multiply-adds of one run, in float and in eight bits, and how many kernels they took."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        # A weight that was packed is not in the profile.
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        session.run(None, dict(feed))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found = {"float": 0.0, "eight_bits": 0.0, "kernels": 0.0}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            kind = "eight_bits" if event["args"]["op_name"].startswith("QLinear") else "float"
            found[kind] += _multiply_adds(event["args"])
            found["kernels"] += 1
    return found


def _multiply_adds(ran: Mapping[str, Any]) -> int:
    shapes, outputs = (
        [[int(size) for size in shape] for each in ran[key] for shape in each.values()]
        for key in ("input_type_shape", "output_type_shape")
    )
    name = ran["op_name"]
    if name.endswith("Conv"):
        # A weight is (out, in / groups, kernel...); of eight bits it comes fourth.
        weight = shapes[3] if name == "QLinearConv" else shapes[1]
        return math.prod(outputs[0]) * math.prod(weight[1:])
    if name in {"MatMul", "Gemm", "FusedGemm"}:
        return math.prod(outputs[0]) * shapes[0][-1]
    if name == "LSTM":
        steps, batch, _ = shapes[0]
        return steps * batch * (math.prod(shapes[1]) + math.prod(shapes[2]))
    return 0


def rate(kind: type) -> float:
    """Multiply-adds a second of a large product of matrices, the best of some."""
    session = _product(kind)
    rng = np.random.default_rng(1)
    left: np.ndarray[Any, Any] = rng.integers(0, 9, (SIZE, SIZE)).astype(kind)
    times = []
    for _ in range(REPEATS):
        before_s = time.perf_counter()
        session.run(None, {"left": left})
        times.append(time.perf_counter() - before_s)
    return SIZE**3 / min(times)


def _product(kind: type) -> onnxruntime.InferenceSession:
    rng = np.random.default_rng(2)
    if kind is np.uint8:
        right = helper.make_tensor(
            "right", TensorProto.INT8, [SIZE, SIZE], rng.integers(-9, 9, SIZE * SIZE)
        )
        node, ins, out = "MatMulInteger", TensorProto.UINT8, TensorProto.INT32
    else:
        right = helper.make_tensor("right", TensorProto.FLOAT, [SIZE, SIZE], rng.random(SIZE**2))
        node, ins, out = "MatMul", TensorProto.FLOAT, TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(node, ["left", "right"], ["product"])],
        "product",
        [_square("left", ins)],
        [_square("product", out)],
        [right],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _square(name: str, kind: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, (SIZE, SIZE))
