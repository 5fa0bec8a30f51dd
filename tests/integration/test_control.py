"""The terminal beside a running daemon: it enrols, and what it changes is loaded at once."""

import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.installation import Installation
from tests.integration.running import Car, Running, Start, pcm
from whodrives.config.location import load_config
from whodrives.enrolment.prompts import CONSENT_VERSION
from whodrives.service.wiring import open_store

pytestmark = pytest.mark.realtime

SENTENCES = (1, 2, 3, 4, 5, 6)


def listening(installed: Installation, *arguments: str) -> subprocess.Popen[bytes]:
    """An enrolment at the terminal that waits for speech."""
    return subprocess.Popen(
        installed.command("enrol", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def spoken(daemon: Running, voice: Path, ends: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    """What the enrolment says once the voice has spoken to the daemon for as long as it takes."""
    daemon.logged("event=enrolment stage=listening")
    for n in SENTENCES * 3:
        if ends.poll() is None:
            daemon.say(pcm(voice / f"{n}.opus"))
            time.sleep(0.5)
    out, err = ends.communicate(timeout=60)
    return ends.returncode, out.decode(), err.decode()


def test_a_driver_is_enrolled_beside_the_running_daemon(
    run: Start, installed: Installation, car: Car, voices: Path
) -> None:
    """The daemon has the microphone: it listens, and knows the driver from then on."""
    daemon = run(installed)
    car.until(lambda: car.status() == ("online", []), "the daemon is online")
    ends = listening(installed, "George Bellamy", "--consent", "George")
    code, out, err = spoken(daemon, voices / "bm_george", ends)
    assert code == 0, err
    assert "George Bellamy is enrolled as d-" in out
    loaded = open_store(load_config(installed.config)).load().profiles
    (stored,) = [each for each in loaded if each.name == "George Bellamy"]
    assert stored.consent is not None
    assert (stored.consent.by, stored.consent.text) == ("George", CONSENT_VERSION)
    daemon.say(pcm(voices / "bm_george" / "6.opus"))
    driver = stored.profile.id
    car.until(lambda: car.last("recognition").get("driver") == driver, "the driver is known")
    assert "Bellamy" not in daemon.log


def test_another_voice_does_not_replace_a_driver_there(
    run: Start, installed: Installation, car: Car, voices: Path
) -> None:
    """The daemon judges as for a head unit; the reason and the fix are told at the terminal."""
    daemon = run(installed)
    car.until(lambda: car.status() == ("online", []), "the daemon is online")
    before = installed.stored()
    ends = listening(installed, "Quirina Zabel", "--replace", "--consent", "Q")
    code, _, err = spoken(daemon, voices / "bm_george", ends)
    assert code == 1
    assert "not_the_driver: this is not the voice of" in err
    assert installed.stored() == before


def test_what_needs_the_microphone_alone_is_refused_before_anybody_speaks(
    run: Start, installed: Installation
) -> None:
    """With the fix."""
    run(installed)
    done = installed.run("enrol", "Ann", "--road", "--consent", "Ann")
    assert done.returncode == 1
    assert "stop it first" in done.stderr


def test_a_change_at_the_terminal_is_loaded_at_once(
    run: Start, installed: Installation, voices: Path
) -> None:
    """Nobody has to send a signal."""
    daemon = run(installed)
    done = installed.run("drivers", "key", "Quirina Zabel", "--set", "fob-1")
    assert "The running daemon loads this now." in done.stdout
    daemon.logged("event=reloaded enrolled=1 problems=0")
    files = [str(voices / "bm_george" / f"{n}.opus") for n in range(1, 5)]
    assert installed.run("enrol", "George", *files, "--consent", "George").returncode == 0
    daemon.logged("event=reloaded enrolled=2 problems=0")


def test_the_doctor_says_whether_the_daemon_can_be_asked(
    run: Start, installed: Installation
) -> None:
    """Also when its socket was removed."""
    run(installed)
    assert "can be asked to enrol at this terminal" in installed.run("doctor").stdout
    (path,) = installed.folder.glob("control-*.sock")
    path.unlink()
    told = installed.run("doctor").stdout
    assert "✗ daemon: process" in told
    assert "cannot be used" in told
    done = installed.run("enrol", "Ann", "--consent", "Ann")
    assert done.returncode == 1
    assert "stop the daemon first" in done.stderr


def test_a_daemon_that_ends_ends_the_enrolment(run: Start, installed: Installation) -> None:
    """The person at the terminal is told, and nothing is kept."""
    daemon = run(installed)
    ends = listening(installed, "Ann", "--consent", "Ann")
    daemon.logged("event=enrolment stage=listening")
    daemon.process.terminate()
    _, err = ends.communicate(timeout=30)
    assert ends.returncode == 1
    assert b"the running daemon ended" in err
    assert not list(installed.folder.glob("control-*.sock"))
