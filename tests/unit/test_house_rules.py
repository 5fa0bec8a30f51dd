import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
FOLDERS = ("daemon", "docs", "models", "profiles", "systemd", "tests", "tools")
TEXTS = (*FOLDERS, "Makefile", "NOTICE", *(path.name for path in ROOT.glob("*.md")))
SCRIPTS = (
    ".ci/run",
    "tools/lock",
    "tools/setup",
    *(f"tools/{name}" for name in ("aarch64/try", "package/boot", "package/build", "package/try")),
    "tools/package/debian/whodrives.postrm",
)


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "format", "--check", "--quiet", "--diff", "daemon", "tests", "tools"],
        ["ruff", "check", "--quiet", "daemon", "tests", "tools"],
        ["mypy"],
        ["lint-imports"],
        ["codespell", *TEXTS],
        ["shellcheck", *SCRIPTS],
    ],
    ids=lambda command: " ".join(command[:3]),
)
def test_the_house_rules_hold(command: list[str]) -> None:
    """Layout, style, types and layers are checked by the same command as behaviour."""
    # shellcheck is a system package where PyPI has no wheel of it.
    program = BIN / command[0] if (BIN / command[0]).exists() else command[0]
    checked = subprocess.run(
        [program, *command[1:]], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_shell_script_is_checked() -> None:
    """A new script is named in SCRIPTS."""
    listed = subprocess.run(
        ["git", "grep", "-lE", r"^#!.*\b(ba)?sh\b", "--", ":!*.py", ":!*.md"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert set(listed.stdout.split()) <= {*SCRIPTS}
