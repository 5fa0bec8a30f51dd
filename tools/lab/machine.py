"""What a process cost, and what it ran on. Owns Linux's counters; knows nothing of speech."""

import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

MEASURED = ("whodrives", "numpy", "onnxruntime", "paho-mqtt", "sherpa-onnx")
"""The packages whose versions belong to a result."""


def cpu_s(pid: int) -> float:
    """Processor time of all threads of a process, user and system, in seconds.

    Linux gives every process a clock, in nanoseconds (clock_getcpuclockid(3)); /proc counts in
    hundredths of a second, which is too coarse for a short measurement.
    """
    return time.clock_gettime(~pid << 3 | 2)


def peak_rss_mb(pid: int | str = "self") -> float:
    """The most memory a process ever held, in MB (10^6 bytes)."""
    return _memory_mb(pid, "VmHWM")


def rss_mb(pid: int | str = "self") -> float:
    """The memory a process holds now, in MB (10^6 bytes)."""
    return _memory_mb(pid, "VmRSS")


def _memory_mb(pid: int | str, field: str) -> float:
    status = _fields(Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
    return int(status[field].split()[0]) * 1024 / 1e6


def _fields(text: str) -> Mapping[str, str]:
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def describe() -> dict[str, object]:
    """The machine and the software, as a result must name them."""
    # The first processor; machines of mixed cores name theirs in the same way.
    processor = _fields(Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0])
    flags = processor.get("flags", processor.get("Features", "")).split()
    return {
        "processor": processor.get("model name", platform.machine()),
        "family": processor.get("cpu family", processor.get("CPU part", "")),
        "cores": os.cpu_count(),
        "vnni": any("vnni" in flag or flag == "asimddp" for flag in flags),
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in MEASURED},
    }


def short_name(machine: Mapping[str, object]) -> str:
    """The processor as part of a file name: `amd-epyc-26`."""
    words = f"{machine['processor']} {machine['family']}".lower()
    return "-".join("".join(c if c.isalnum() else " " for c in words).split())
