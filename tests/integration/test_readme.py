"""The README's commands, typed as they stand, by somebody who has nothing but a fresh clone."""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, program
from whodrives.cli.main import parse

SECTION = "From nothing to a moved seat"
LIMIT_S = 120.0
MODELS = ("encoder.onnx", "gate.onnx", "second.onnx")


def commands(text: str, section: str | None = None) -> list[str]:
    """The lines of the fenced blocks that can be typed, of one section or of all."""
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    if section is not None:
        (text,) = (each for each in sections if each.startswith(f"{section}\n"))
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for language, block in blocks if not language for line in block.splitlines()]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone as `make demo` leaves it: with models, and with the libraries of our own."""
    folder = tmp_path / "whodrives"
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, folder], check=True)
    for name in MODELS:
        shutil.copy(REPOSITORY / "models" / name, folder / "models")
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = (
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(folder / "daemon"))} exec {sys.executable} "$@"\n'
    )
    whodrives = '#!/bin/sh\nexec "$(dirname "$0")/python" -m whodrives "$@"\n'
    for name, script in (("python", python), ("whodrives", whodrives)):
        path = folder / ".venv" / "bin" / name
        path.write_text(script)
        path.chmod(0o755)
    return folder


def shell() -> list[str]:
    """A shell with a loopback network of its own, so that port 1883 is ours; else a plain one."""
    inside = "ip link set lo up && exec bash"
    for way in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if subprocess.run([*way, "ip", "link", "set", "lo", "up"], check=False).returncode == 0:
            return [*way, "bash", "-c", inside]
    return ["bash"]


class Typist:
    """Somebody who types into a shell and reads what comes."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.read = ""
        self._shell = subprocess.Popen(
            shell(),
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def type(self, line: str) -> None:
        """Type a line; the shell comes to it once it is done with those before."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(line + "\n")
        self._shell.stdin.flush()

    def reads(self, text: str) -> None:
        """Wait until something is to be read."""
        deadline = time.monotonic() + LIMIT_S
        while text not in self.read:
            if time.monotonic() > deadline:
                pytest.fail(f"{text!r} was not to be read within {LIMIT_S:.0f} s:\n{self.read}")
            time.sleep(0.1)

    def leave(self) -> None:
        """End all that was typed."""
        os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait()
        self._reader.join(5)
        for stream in (self._shell.stdin, self._shell.stdout):
            assert stream is not None
            stream.close()

    def _listen(self) -> None:
        assert self._shell.stdout is not None
        for line in self._shell.stdout:
            self.read += line


@pytest.fixture
def typist(clone: Path, tmp_path: Path) -> Iterator[Typist]:
    """Somebody at a shell in the clone, with an empty home."""
    program("mosquitto", "mosquitto")
    (tmp_path / "home").mkdir()
    person = Typist(clone, tmp_path / "home")
    yield person
    person.leave()


@pytest.mark.realtime
@pytest.mark.much_speech
def test_a_newcomer_gets_from_nothing_to_a_moved_seat(typist: Typist, clone: Path) -> None:
    """A household of two, a running daemon and a moved seat, by the README's commands alone."""
    lines = commands((clone / "README.md").read_text(encoding="utf-8"), SECTION)
    assert len(lines) > 5
    for line in lines:
        typist.type(line)
    typist.reads("Asha is enrolled as d-")
    typist.reads("Tom is enrolled as d-")
    typist.reads("event=health state=online")
    typist.reads("event=driver driver=d-")
    typist.reads("event=apply")
    typist.reads("ecu: completed")
    assert "Traceback" not in typist.read
    assert not re.search(r"^(whodrives|ecu|car): (?!completed|accepted)", typist.read, re.MULTILINE)


def test_every_command_of_the_readme_exists() -> None:
    """What needs a microphone, or an hour, is not typed here; but it is understood."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    typed = [line.partition("#")[0].strip() for line in commands(text)]
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    count = 0
    for line in typed:
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE), line
        for part in re.findall(r"\.venv/bin/whodrives ([^|>]*)", line):
            parse(shlex.split(part), argparse.Namespace())
            count += 1
    assert count > 10
