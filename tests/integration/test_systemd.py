import re
import subprocess
import sys
from pathlib import Path

import pytest

from whodrives.config import codec

SYSTEMD = Path(__file__).parent.parent.parent / "systemd"
UNIT = SYSTEMD / "whodrives.service"
EXPOSURE_TENTHS = 15


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, both outputs together."""
    return subprocess.run(
        command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_systemd_has_nothing_to_say_about_the_unit(tmp_path: Path) -> None:
    """As `verify` exits 0 even for unknown keys, any output counts; our program is not here."""
    copy = tmp_path / UNIT.name
    text = UNIT.read_text(encoding="utf-8")
    copy.write_text(re.sub(r"(?m)^(Exec\w+)=\S+", r"\1=/bin/true", text), encoding="utf-8")
    assert run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", copy).stdout == ""


def test_a_wrong_configuration_stops_the_service_for_good(tmp_path: Path) -> None:
    """The command of the unit exits with the status that systemd does not retry."""
    wrong = tmp_path / "whodrives.yaml"
    wrong.write_text("mqtt: {host: car.local}\n", encoding="utf-8")
    (start,) = re.findall(r"(?m)^ExecStart=(.*)$", UNIT.read_text(encoding="utf-8"))
    arguments = start.replace("/etc/whodrives/whodrives.yaml", str(wrong)).split()[1:]
    ended = run(sys.executable, "-m", "whodrives", *arguments)
    assert ended.returncode == 78, ended.stdout
    assert f"{wrong}: mqtt.tls: plain MQTT to car.local" in ended.stdout


def test_a_misspelt_key_would_be_noticed(tmp_path: Path) -> None:
    """The check above finds what systemd would silently ignore."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text(encoding="utf-8").replace("ProtectHome", "ProtectHouse"))
    assert "ProtectHouse" in run("systemd-analyze", "verify", "--man=no", copy).stdout


def test_the_unit_exposes_little() -> None:
    """An intruder in the daemon reaches the microphone and the loopback, and hardly more."""
    threshold = f"--threshold={EXPOSURE_TENTHS}"
    check = run("systemd-analyze", "security", "--offline=true", threshold, "--no-pager", UNIT)
    assert check.returncode == 0, check.stdout


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("Type=notify", "readiness and the watchdog are told by sd_notify"),
        ("RestartPreventExitStatus=78", "a wrong configuration stays wrong"),
        ("DeviceAllow=char-alsa rw", "without it there is no microphone"),
        ("LimitCORE=0", "a core dump would hold voices"),
        ("MemorySwapMax=0", "and so would swap"),
        ("RuntimeDirectoryPreserve=restart", "the next daemon goes on with the trip"),
    ],
)
def test_what_must_not_be_hardened_or_softened_away(line: str, why: str) -> None:
    """These lines are promises of the documentation or needs of the daemon."""
    assert line in UNIT.read_text(encoding="utf-8").splitlines(), why


def test_the_callback_of_the_microphone_stays_possible() -> None:
    """python-cffi puts sounddevice's callback into writable, executable memory."""
    assert "\nMemoryDenyWriteExecute=yes" not in UNIT.read_text(encoding="utf-8")


def test_the_user_can_hear(tmp_path: Path) -> None:
    """systemd-sysusers makes the user of the unit, in the group that owns the sound devices."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "group").write_text("audio:x:29:\n", encoding="utf-8")
    users = SYSTEMD / "whodrives.sysusers"
    made = run("systemd-sysusers", f"--root={tmp_path}", users)
    assert made.returncode == 0, made.stdout
    assert "audio:x:29:whodrives" in (tmp_path / "etc" / "group").read_text(encoding="utf-8")
    assert "\nUser=whodrives\n" in UNIT.read_text(encoding="utf-8")


def test_the_reference_configuration_is_current() -> None:
    """The file to start from says what the code holds."""
    path = SYSTEMD / "whodrives.yaml"
    make = "python -c 'from whodrives import config; print(codec.reference(), end=\"\")'"
    assert path.read_text(encoding="utf-8") == codec.reference(), f"{make} > {path}"
