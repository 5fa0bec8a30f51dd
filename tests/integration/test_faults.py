import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.realtime

REPOSITORY = Path(__file__).parents[2]


def _campaign(folder: Path, *options: str) -> dict[str, Any]:
    """A fault campaign's result."""
    out, kept = folder / "result.json", folder / "kept"
    kept.mkdir(parents=True)
    program = [sys.executable, str(REPOSITORY / "tools" / "faults"), "--out", str(out)]
    done = subprocess.run(
        [*program, "--keep", str(kept), *options],
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert out.exists(), done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    assert done.returncode == bool(found["violations"])
    return found


@pytest.mark.timeout(700)
def test_a_hundred_trips_with_faults(tmp_path: Path) -> None:
    """Killed brokers and daemons, cut networks, stepped clocks, bad ECUs: nothing wrong is asked.

    The records of trips in which something was lie in the test's folder.
    """
    found = _campaign(tmp_path / "fast", "--trips", "100", "--cars", "6", "--scale", "8")
    if found["violations"]:
        # The fast clock makes a busy machine's lateness look like the daemon's: the same trips,
        # at half the pace.
        found = _campaign(tmp_path / "slow", "--trips", "100", "--cars", "6", "--scale", "4")
    assert found["violations"] == {}, found["examples"]
    assert found["trips"] == 100
    assert found["counts"]["requests"] > 30
    assert found["counts"]["kill"] > 0


@pytest.mark.parametrize(
    ("mutant", "kind", "trips"),
    # Few trips have a stranger who could be served.
    [("known_only", "unknown", 90), ("expiry", "stale", 30)],
)
def test_a_broken_rule_is_noticed(tmp_path: Path, mutant: str, kind: str, trips: int) -> None:
    """With one rule broken the campaign fails, by the violation that the rule prevents."""
    options = ("--trips", str(trips), "--cars", "6", "--mutant", mutant)
    found = _campaign(tmp_path, *options)
    assert kind in found["violations"]
