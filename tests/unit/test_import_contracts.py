"""Each import contract breaks when a forbidden import is planted in a copy of the package."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).parent / "lint-imports"

PLANTS = {
    "Imports point down; siblings do not see each other": [
        ("vss", "import whodrives.trip"),
        ("bus", "import whodrives.service"),
        ("segments", "import whodrives.core"),
        ("journal", "import whodrives.mqtt"),
        ("new_module", ""),
    ],
    "Below the adapters: no clock, thread, file, socket or logger": [
        ("decision", "import time"),
        ("table", "import multiprocessing"),
        ("encode", "import paho.mqtt.client"),
        ("vss", "from pathlib import Path"),
        ("engine", "import threading"),
        ("new_module", "import logging"),
    ],
    "No library but those that the package depends on": [
        ("doctor", "import onnx"),
        ("encoder", "import webrtcvad"),
        ("new_module", "import requests"),
    ],
    "MQTT only in its adapter, and in the demo's own client": [
        ("doctor", "import paho, onnxruntime"),
        ("learning", "from paho.mqtt import client"),
    ],
    "The models' runtime only in its adapter": [
        ("doctor", "import paho, onnxruntime"),
        ("learning", "import onnxruntime"),
    ],
    "Sound devices, files and rates only in the audio adapter": [
        ("doctor", "import sounddevice"),
        ("profiles", "import soundfile"),
        ("daemon", "import soxr"),
    ],
    "Encryption only in the store": [("learning", "from cryptography.hazmat import primitives")],
    "Typed JSON only where messages and files are read": [("learning", "import msgspec")],
    "YAML only in the configuration, and in the demo's script": [("journal", "import yaml")],
    "The terminal only in the command line": [
        ("daemon", "import rich.console"),
        ("learning", "import argparse"),
    ],
    "Sockets and TLS only where something is connected to": [
        ("doctor", "import socket"),
        ("profiles", "import ssl"),
    ],
    "Other programs only in the demo": [("microphone", "import subprocess")],
}
"""Contract, and what breaks it: a module (found by its name) and a line for its end."""


def contracts() -> list[str]:
    """The names of the contracts in pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        settings = tomllib.load(file)["tool"]["importlinter"]
    return [contract["name"] for contract in settings["contracts"]]


def test_each_contract_has_a_plant() -> None:
    """A contract that nobody has seen break may be one that cannot."""
    assert sorted(contracts()) == sorted(PLANTS)


@pytest.mark.parametrize(
    ("contract", "module", "line"),
    [(name, module, line) for name, plants in PLANTS.items() for module, line in plants],
    ids=lambda text: text[:40],
)
def test_a_planted_import_breaks_its_contract(
    tmp_path: Path, contract: str, module: str, line: str
) -> None:
    """The contract is said to be broken, because of that module."""
    package = tmp_path / "daemon" / "whodrives"
    shutil.copytree(ROOT / "daemon" / "whodrives", package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "import_contract.py", tmp_path / "tools")
    found = [*package.rglob(f"{module}.py"), package / f"{module}.py"][0]
    with found.open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    done = subprocess.run(
        [PROGRAM, "--no-cache", "--no-logo"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "daemon"), "COLUMNS": "200"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    if line:
        assert f"{contract} BROKEN" in done.stdout, done.stdout
    assert module in done.stdout
