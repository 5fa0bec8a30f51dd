"""docs/accuracy.md says what was measured, to the last digit."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
(NAMED,) = set(re.findall(r"\((\.\./tools/evaluate/results/[^)]*result\.json)\)", PAGE))
RESULT = ROOT / "docs" / NAMED


def test_the_tables_are_those_of_the_result() -> None:
    """Each is what tools/evaluate/tables.py makes of the result that the page names."""
    command = [sys.executable, str(ROOT / "tools" / "evaluate" / "tables.py"), str(RESULT)]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    tables = made.strip().split("\n\n")
    assert len(tables) > 1
    for table in tables:
        assert table in PAGE, f"not on the page:\n{table}"


def test_the_figures_are_of_the_encoders_that_ship() -> None:
    """Figures of others would be nobody's."""
    measured = json.loads(RESULT.read_text(encoding="utf-8"))
    manifest = json.loads((ROOT / "models" / "second.json").read_text(encoding="utf-8"))
    assert measured["encoder"] == manifest["calibration"]["encoder"]
