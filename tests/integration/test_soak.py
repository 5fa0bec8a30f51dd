"""The soak: a few hours of it, and that it would notice what it is for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.soak.findings import Life

TOOL = Path(__file__).parents[2] / "tools" / "soak"


def test_a_few_hours_with_faults_change_no_decision(tmp_path: Path) -> None:
    """What the disturbed daemon recognises is what an undisturbed recognizer hears."""
    out = tmp_path / "soak.json"
    command = [sys.executable, str(TOOL), "--hours", "4", "--seed", "3", "--out", str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert result["different"] == []
    assert result["recognitions"]["known"] >= 1
    assert result["requests"] >= 1
    assert result["answers"]["completed"] >= 1
    assert set(result["faults"]) - {"none"}
    assert set(result["topics"]) <= {"driver", "echo", "guest", "metrics", "status"}


@pytest.mark.parametrize(("leak_mb", "noticed"), [(0.0, False), (0.05, True)])
def test_memory_that_leaks_is_a_slope(leak_mb: float, *, noticed: bool) -> None:
    """Fifty kilobytes an hour stand out of a megabyte of noise; no leak is none."""
    life = Life([120 + leak_mb * hour + (hour * 7 % 11) / 10 for hour in range(200)])
    slope, error = life.slopes()[1]
    assert (slope > 3 * error) == noticed
