"""A whodrives of one's own in a folder, used as its owner would: by its command line."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
MODELS = ROOT / "models"
POSITION = "Vehicle.Cabin.Seat.Row1.DriverSide.Position"
COMMAND = (sys.executable, "-m", "whodrives")


class Installation:
    """Configuration, key and profiles below a folder, and the models of this checkout.

    Attributes:
        folder: where everything is.
        config: the configuration file.
    """

    def __init__(self, folder: Path) -> None:
        """Configure a microphone and a broker that are not there, and nobody's voice."""
        self.folder = folder
        self.config = folder / "whodrives.yaml"
        self._settings: dict[str, Any] = {
            "mqtt": {"port": 1},
            "profiles": {"directory": "profiles", "key_file": "profile-key"},
            "models": {"directory": str(MODELS)},
        }
        self.configure()

    def configure(self, **sections: Mapping[str, Any]) -> None:
        """Set some sections of the configuration, whole."""
        self._settings |= sections
        self.config.write_text(yaml.safe_dump(self._settings), encoding="utf-8")

    def command(self, *arguments: str | Path) -> tuple[str, ...]:
        """The command line that uses this installation."""
        return (*COMMAND, "--config", str(self.config), *map(str, arguments))

    def run(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None, given: bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with `given` on its standard input."""
        command = self.command(*arguments)
        done = subprocess.run(command, check=False, capture_output=True, env=env, input=given)
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    def enrol(self, name: str, voice: Path, **preferences: float) -> str:
        """Enrol a driver from four sentences of a voice; gives the id."""
        files = (voice / f"{n}.opus" for n in range(1, 5))
        done = self.run("enrol", name, *files, "--consent", name)
        assert done.returncode == 0, done.stderr
        for path, value in preferences.items():
            done = self.run("drivers", "preferences", name, "--set", f"{path}={value}")
            assert done.returncode == 0, done.stderr
        shown = self.run("drivers", "show", name).stdout
        return shown.removeprefix(f"{name}: ").partition(",")[0]

    def stored(self) -> dict[str, bytes]:
        """Everything that must not be lost: the profiles' and the key's bytes, by file name."""
        files = [*(self.folder / "profiles").glob("*"), self.folder / "profile-key"]
        return {path.name: path.read_bytes() for path in files if path.exists()}
