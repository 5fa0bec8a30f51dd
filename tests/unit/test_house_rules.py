import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "format", "--check", "--quiet", "--diff", "daemon", "tests", "tools"],
        ["ruff", "check", "--quiet", "daemon", "tests", "tools"],
        ["mypy", "daemon/whodrives"],
        ["mypy", "tests"],
        ["mypy", "tools/build_models"],
        ["mypy", "tools/bench"],
        ["mypy", "tools/evaluate"],
        ["mypy", "tools/faults"],
        ["mypy", "tools/aarch64"],
        ["mypy", "tools/months"],
        ["mypy", "tools/soak"],
        ["mypy", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tools").glob("*.py"))],
        ["lint-imports"],
    ],
    ids=lambda command: " ".join(command[:3]),
)
def test_the_house_rules_hold(command: list[str]) -> None:
    """Layout, style, types and layers are checked by the same command as behaviour."""
    checked = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
