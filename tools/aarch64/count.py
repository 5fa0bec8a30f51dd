"""Counts the instructions of an embedding on ARM processors: the shipped model, and with S8S8.

    python tools/aarch64/count.py ROOT [--out FILE.json]

ROOT is the root that tools/aarch64/try made. The shipped encoder has uint8 activations and int8
weights (U8S8). The other one (S8S8) is the same with every activation's zero moved by 128 into
int8: it stands for the same numbers, and the runtime takes other kernels. The network runs in
ROOT's Python under QEMU's user emulation with the plugin count.c. Instructions are no cycles: what
a processor makes of them in a second is not known from here.
"""

from __future__ import annotations

import argparse
import json
import re
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
    "cortex-a72": ("0xd08", "no dot product (Raspberry Pi 4, NXP LX2160)"),
    "cortex-a76": ("0xd0b", "dot product (Raspberry Pi 5, RK3588)"),
    "max,sve=off": ("0xd47", "dot product and 8-bit matrix product, no SVE counted (Cortex-A710)"),
}
"""By QEMU's name: the part's number in /proc/cpuinfo, and what it has."""

SECONDS = 1.0
"""What the daemon embeds at a time."""

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
        for processor, (part, _) in PROCESSORS.items():
            _show_processor(options.root / "cpuinfo", part)
            counted[processor] = {}
            for name, model in (("U8S8", MODEL), ("S8S8", signed)):
                counts = _count(options.root, plugin, processor, model)
                counted[processor][name] = counts
                print(processor, name, json.dumps(counts), flush=True)
    if options.out:
        facts = {
            "seconds": SECONDS,
            "processors": {name: words for name, (_, words) in PROCESSORS.items()},
            "instructions": counted,
        }
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


def _show_processor(path: Path, part: str) -> None:
    """Write the core's name into the file that covers ROOT's /proc/cpuinfo.

    The runtime chooses kernels by it, and those of another core may not run.
    """
    shown = re.sub(r"(?m)^(CPU part\t: ).*$", rf"\g<1>{part}", path.read_text(encoding="utf-8"))
    path.write_text(re.sub(r"(?m)^Features.*\n", "", shown), encoding="utf-8")


def _count(root: Path, plugin: Path, processor: str, model: Path) -> Counts:
    """Instructions of one embedding, all and by kind."""
    python = root / "usr" / "bin" / "python3.11"
    libraries = next((root / "whodrives/.venv/lib").glob("python*/site-packages"))
    with tempfile.NamedTemporaryFile() as log:
        subprocess.run(
            [
                *("qemu-aarch64", "-cpu", processor, "-L", root),
                *("-E", f"PYTHONPATH={libraries}:{root / 'whodrives' / 'daemon'}"),
                *("-plugin", plugin, "-d", "plugin", "-D", log.name),
                *(python, HERE / "work.py", model, str(SECONDS)),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        before, after = map(
            json.loads, Path(log.name).read_text(encoding="utf-8").splitlines()[-2:]
        )
    return {kind: after[kind] - before[kind] for kind in after if after[kind] > before[kind]}


if __name__ == "__main__":
    sys.exit(main())
