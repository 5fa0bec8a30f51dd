"""What the project says of itself: safety analysis, licences, version and locked packages."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import whodrives

ROOT = Path(__file__).parents[2]
SAFETY = (ROOT / "docs" / "safety.md").read_text(encoding="utf-8")
LOCKS = ("dev", "demo", "run")
PIN = re.compile(r"^([a-z0-9.-]+)==(\S+)", re.MULTILINE)


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    """What pyproject.toml says."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def test_the_tests_that_the_safety_analysis_names_exist() -> None:
    """A promise whose test is gone is no promise."""
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    defined = set(re.findall(r"def (test_\w+)\(", tests))
    named = set(re.findall(r"`(test_\w+)`", SAFETY))
    assert named
    assert named - defined == set()


def test_each_line_of_the_safety_analysis_names_a_test() -> None:
    """No hazard's or threat's line stands without one."""
    lines = [line for line in SAFETY.splitlines() if line.startswith("| ")]
    rows = [line for line in lines if not line.startswith(("| what leads", "| path"))]
    assert rows
    assert [row for row in rows if "`test_" not in row] == []


def test_the_version_has_one_source(settings: dict[str, Any]) -> None:
    """The package's attribute; what pip installed is made of it."""
    assert settings["project"]["dynamic"] == ["version"]
    assert version("whodrives") == whodrives.__version__


@pytest.mark.parametrize("name", LOCKS)
def test_everything_is_locked_with_hashes(settings: dict[str, Any], name: str) -> None:
    """Each package that pyproject.toml names is pinned, and each pin has hashes."""
    text = (ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8")
    pins = {found[0] for found in PIN.findall(text)}
    groups = settings["dependency-groups"]

    def named(group: list[Any]) -> set[str]:
        own = {canonicalize_name(Requirement(each).name) for each in group if isinstance(each, str)}
        others = (named(groups[each["include-group"]]) for each in group if isinstance(each, dict))
        return own.union(*others)

    wanted = named(settings["project"]["dependencies"])
    wanted |= named(groups[{"dev": "dev", "demo": "build"}[name]]) if name != "run" else set()
    assert wanted - pins == set()
    entries = re.split(r"\n(?=\S)", text.strip())
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


def test_smaller_locks_are_parts_of_the_largest() -> None:
    """What is shipped is what was tested."""
    locked = {
        name: set(PIN.findall((ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8")))
        for name in LOCKS
    }
    assert locked["run"] <= locked["demo"] <= locked["dev"]


def test_the_environment_is_the_locked_one() -> None:
    """No installed package is older or newer than the lock; pip itself comes with Python."""
    text = (ROOT / "locks" / "dev.txt").read_text(encoding="utf-8")
    pinned: dict[str, set[str]] = {}
    for name, number in PIN.findall(text):
        pinned.setdefault(name, set()).add(number)
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format", "freeze", "--exclude-editable"],
        check=True,
        capture_output=True,
        text=True,
    )
    found = [line.split("==") for line in listed.stdout.split()]
    other = {
        name: number
        for name, number in found
        if (key := canonicalize_name(name)) in pinned and number not in pinned[key]
    }
    assert other == {}


def test_the_notice_names_every_model_and_voice() -> None:
    """Each model's manifest, and the demo's voices, with the licence."""
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for manifest in (ROOT / "models").glob("*.json"):
        assert f"models/{manifest.stem}.onnx" in notice
    assert "profiles/demo/voices" in notice
    assert notice.count("Apache License") >= 3
    assert "MIT License" in notice
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence


def test_the_hooks_are_the_checks() -> None:
    """pre-commit runs from .venv and fetches nothing."""
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert text.count("repo: local") == text.count("repo:")
    for tool in ("ruff", "codespell", "shellcheck"):
        assert f"entry: .venv/bin/{tool}" in text
