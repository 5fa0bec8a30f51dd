import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.realtime

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tools" / "bench" / "results"


def keys(value: Any, path: str = "") -> set[str]:
    """Every place in a result where a figure stands."""
    if isinstance(value, list):
        return {key for item in value for key in keys(item, f"{path}[]")}
    if not isinstance(value, dict):
        return {path}
    return {key for name, item in value.items() for key in keys(item, f"{path}.{name}")}


def test_the_bench_measures_everything_that_the_results_show(tmp_path: Path) -> None:
    """A short run writes the same figures as the results kept; none of them is judged here."""
    written = tmp_path / "result.json"
    command = [sys.executable, str(ROOT / "tools/bench"), "--quick", "--out", str(written)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(written.read_text())
    kept = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("20*.json"))]
    assert kept, f"{RESULTS} holds no result; run: make bench"
    assert keys(result) == keys(kept[-1])
    assert result["drive"]["decisions_as_in_replay"]
    assert result["drive"]["decisions"] >= 1
