"""Hostile input: a thousand cases on every run, and that the machine that finds faults does."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import fuzz
from whodrives.errors import PayloadError

TOOL = Path(__file__).parents[2] / "tools" / "fuzz.py"


def grow(_: bytes) -> None:
    """Take more memory than anything that reads may."""
    bytearray(2 * fuzz.MEMORY_BYTES)


def hang(_: bytes) -> None:
    """Never come back."""
    while True:
        time.sleep(1)


def crash(_: bytes) -> None:
    """Fail as Python does not."""
    raise ValueError("planted")


def test_nothing_that_reads_is_upset_by_a_thousand_hostile_inputs(tmp_path: Path) -> None:
    """Payloads, settings, recordings, profiles, manifests: read, or refused as documented."""
    out = tmp_path / "fuzz.json"
    command = [sys.executable, str(TOOL), "--cases", "1000", "--out", str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert result["cases"] >= 1000
    assert result["findings"] == []
    # Mutants that nobody takes test the first check alone.
    readers = {name.partition(": ")[0] for name in result["by_reader"]}
    assert {f"{name}: accepted" for name in readers} <= set(result["by_reader"])


@pytest.mark.parametrize(
    ("fault", "why"),
    [(crash, "ValueError: planted"), (grow, "MemoryError"), (hang, "took more than")],
)
def test_a_planted_fault_is_found(
    fault: Callable[[bytes], None], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another exception, memory without bound, and a hang are findings with their input."""
    prepare = fuzz.Readers.__init__

    def planted(self: fuzz.Readers, folder: Path) -> None:
        prepare(self, folder)
        self.readers = {"bus": (fault, PayloadError)}
        self.weights = {"bus": 1}

    monkeypatch.setattr(fuzz.Readers, "__init__", planted)
    monkeypatch.setattr(fuzz, "LIMIT_S", 1)
    findings: list[fuzz.Finding] = []

    def each(_: Counter[str], found: list[fuzz.Finding]) -> None:
        findings.extend(found)

    fuzz.run(1, 0, each)
    assert [f["reader"] for f in findings] == ["bus"]
    assert why in findings[0]["why"]
    assert findings[0]["bytes"] > 0
