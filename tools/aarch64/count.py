"""Counts the instructions of an embedding on ARM processors: the shipped model, and with S8S8.

    python tools/aarch64/count.py ROOT [--out FILE.json]

ROOT is the root that tools/aarch64/try made. The shipped encoder has uint8 activations and int8
weights (U8S8). The other one (S8S8) is the same with every activation's zero moved by 128 into
int8: it stands for the same numbers, and the runtime takes other kernels. The network runs in
ROOT's Python under QEMU's user emulation with the plugin count.c; two runs that differ in how often
they embed tell what one embedding takes. Instructions are no cycles: what a processor makes of them
in a second is not known from here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

HERE = Path(__file__).resolve().parent
MODEL = HERE.parents[1] / "models" / "encoder.onnx"
PROCESSORS = {
    "cortex-a72": "no dot product (Raspberry Pi 4, NXP LS1046)",
    "cortex-a76": "dot product (Raspberry Pi 5, RK3588)",
    "max": "dot product, 8-bit matrix product (Cortex-A710 and later)",
}
SECONDS = 1.0
"""What the daemon embeds at a time."""

FEW, MANY = 1, 2

Counts = dict[str, int]


def main() -> int:
    """Count, print a table, and write what was counted."""
    parser = argparse.ArgumentParser(
        prog="count", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    counted: dict[str, dict[str, Counts]] = {}
    with tempfile.TemporaryDirectory() as folder:
        plugin = Path(folder) / "count.so"
        subprocess.run(
            ["cc", "-O2", "-shared", "-fPIC", "-o", plugin, HERE / "count.c"], check=True
        )
        signed = Path(folder) / "s8s8.onnx"
        signed.write_bytes(with_signed_activations(MODEL.read_bytes()))
        for processor in PROCESSORS:
            counted[processor] = {}
            for name, model in (("U8S8", MODEL), ("S8S8", signed)):
                few, many = (
                    _count(options.root, plugin, processor, model, times) for times in (FEW, MANY)
                )
                counts = {kind: round((many[kind] - few[kind]) / (MANY - FEW)) for kind in many}
                counted[processor][name] = {kind: count for kind, count in counts.items() if count}
                print(processor, name, json.dumps(counted[processor][name]), flush=True)
    if options.out:
        facts = {"seconds": SECONDS, "processors": PROCESSORS, "instructions": counted}
        options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0


def with_signed_activations(model: bytes) -> bytes:
    """The same network with int8 activations: each zero and each value 128 lower."""
    network = onnx.load_from_string(model)
    for constant in network.graph.initializer:
        if constant.data_type == onnx.TensorProto.UINT8:
            zero = numpy_helper.to_array(constant).astype(np.int16) - 128
            constant.CopyFrom(numpy_helper.from_array(zero.astype(np.int8), constant.name))
    return bytes(network.SerializeToString())


def _count(root: Path, plugin: Path, processor: str, model: Path, times: int) -> Counts:
    """Instructions of a whole run of work.py, all and by kind."""
    python = root / "usr" / "bin" / "python3.11"
    libraries = next((root / "whodrives/.venv/lib").glob("python*/site-packages"))
    with tempfile.NamedTemporaryFile() as log:
        subprocess.run(
            [
                *("qemu-aarch64", "-cpu", processor, "-L", root),
                *("-E", f"PYTHONPATH={libraries}:{root / 'whodrives' / 'daemon'}"),
                *("-plugin", plugin, "-d", "plugin", "-D", log.name),
                *(python, HERE / "work.py", model, str(SECONDS), str(times)),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        counts: Counts = json.loads(Path(log.name).read_text(encoding="utf-8"))
    return counts


if __name__ == "__main__":
    sys.exit(main())
