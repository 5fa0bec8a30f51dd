"""The stored household by the command line: left as it is when refused; each fix works."""

import os
import shutil
from pathlib import Path

import pytest

from tests.integration.installation import POSITION, Installation
from whodrives.config.schema import Config

PASSPHRASE = "four words of mine"  # noqa: S105 (a test is no secret)


@pytest.fixture(scope="module")
def household(tmp_path_factory: pytest.TempPathFactory, voices: Path) -> Installation:
    """An installation with one driver, to be copied."""
    made = Installation(tmp_path_factory.mktemp("household"))
    made.enrol("Bella", voices / "af_bella", **{POSITION: 120})
    return made


@pytest.fixture
def installed(household: Installation, tmp_path: Path) -> Installation:
    """That household in a folder of its own, with a pipe to listen to."""
    shutil.copytree(household.folder, tmp_path, dirs_exist_ok=True)
    made = Installation(tmp_path)
    made.configure(sound={"source": "-"})
    return made


@pytest.mark.parametrize("way", ["back", "accept"])
def test_the_vehicles_id_there_and_back(installed: Installation, way: str) -> None:
    """A daemon of another id leaves the household as it is; both fixes that it names work."""
    before = installed.stored()
    installed.configure(vehicle={"id": "my-car"})
    ran = installed.run("run", given=bytes(64_000))
    assert "belongs to another vehicle" in ran.stderr
    assert f"whodrives --config {installed.config} drivers accept" in ran.stderr
    assert "whodrives drivers" not in ran.stderr
    assert "Traceback" not in ran.stderr
    listed = installed.run("drivers")
    assert listed.returncode == 1
    assert "drivers accept" in listed.stderr
    assert installed.stored() == before
    if way == "back":
        installed.configure(vehicle={"id": Config().vehicle.id})
    else:
        accepted = installed.run("drivers", "accept")
        assert (accepted.returncode, "Bella is here as d-" in accepted.stdout) == (0, True)
    listed = installed.run("drivers")
    assert (listed.returncode, "Bella" in listed.stdout, listed.stderr) == (0, True, "")


def test_a_forgotten_driver_stays_forgotten(installed: Installation) -> None:
    """The file that is put back is named with what to do; erasing it again settles it."""
    (path,) = (installed.folder / "profiles").glob("d-*.profile")
    copy = path.read_bytes()
    assert installed.run("drivers", "forget", "Bella").returncode == 0
    path.write_bytes(copy)
    listed = installed.run("drivers")
    assert "Nobody is enrolled" in listed.stdout
    assert f"drivers forget {path.stem}" in listed.stderr
    assert f"✗ profiles: profile {path.stem}: is not in the index" in installed.run("doctor").stdout
    assert installed.run("drivers", "forget", path.stem).returncode == 0
    assert installed.run("drivers").stderr == ""


def test_a_lost_key_keeps_nobody_from_being_forgotten(installed: Installation) -> None:
    """By the id; the receipt says what the index could not note."""
    (path,) = (installed.folder / "profiles").glob("d-*.profile")
    (installed.folder / "profile-key").unlink()
    done = installed.run("drivers", "forget", path.stem)
    assert (done.returncode, path.exists()) == (0, False)
    assert "erase copies" in done.stdout


def test_what_is_no_file_holds_no_command_up(installed: Installation) -> None:
    """Pipes in the place of key, profile and export."""
    pipe = installed.folder / "pipe"
    os.mkfifo(pipe)
    word = installed.folder / "word"
    word.write_text(PASSPHRASE, encoding="utf-8")
    word.chmod(0o600)
    done = installed.run("drivers", "import", pipe, "--passphrase-file", word)
    assert "named pipe" in done.stderr
    profile = installed.folder / "profiles" / "d-00000000.profile"
    os.mkfifo(profile)
    assert "named pipe" in installed.run("drivers").stderr
    profile.unlink()
    (installed.folder / "profile-key").unlink()
    os.mkfifo(installed.folder / "profile-key", 0o600)
    assert "named pipe" in installed.run("drivers").stderr


def test_a_household_moves_and_nobody_arrives_twice(
    installed: Installation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Exported, imported by another car, and refused there the second time."""
    word, file = installed.folder / "word", installed.folder / "household"
    word.write_text(PASSPHRASE, encoding="utf-8")
    word.chmod(0o600)
    secret = ("--passphrase-file", word)
    assert installed.run("drivers", "export", file, *secret).returncode == 0
    other = Installation(tmp_path_factory.mktemp("other"))
    other.configure(vehicle={"id": "other"})
    assert "Bella is here" in other.run("drivers", "import", file, *secret).stdout
    again = other.run("drivers", "import", file, *secret)
    assert (again.returncode, "nobody was imported" in again.stderr) == (1, True)
    shown = other.run("drivers", "preferences", "Bella").stdout
    assert POSITION in shown
