"""One clock for every time, which goes on while the machine is suspended."""

import ast
import time
from pathlib import Path

import pytest

from whodrives import clock

DAEMON = Path(clock.__file__).parent


def test_it_counts_the_time_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLOCK_BOOTTIME jumps by the length of a suspend; CLOCK_MONOTONIC does not."""
    asleep_s = 75.0
    clocks = {time.CLOCK_BOOTTIME: 1000.0 + asleep_s, time.CLOCK_MONOTONIC: 1000.0}
    monkeypatch.setattr(time, "clock_gettime", clocks.__getitem__)
    monkeypatch.setattr(time, "monotonic", lambda: clocks[time.CLOCK_MONOTONIC])
    assert clock.now_s() == 1075.0


@pytest.mark.parametrize("path", sorted(DAEMON.glob("*.py")), ids=lambda path: path.stem)
def test_no_other_clock_tells_a_time(path: Path) -> None:
    """Two clocks would disagree by all the time that the machine has slept."""
    if path.stem == "demo":
        pytest.skip("the stage of the demo waits for its processes, and stamps nothing")
    others = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "CLOCK_MONOTONIC"}
    names = {
        node.attr if isinstance(node, ast.Attribute) else node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute | ast.alias)
    }
    assert not names & others
