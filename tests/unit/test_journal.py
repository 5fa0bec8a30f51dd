"""The file that a daemon leaves: what comes back, and what does not."""

import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from whodrives import journal
from whodrives.domain import Delivery, OutboxMemory, Request, SettledBy, TripMemory
from whodrives.journal import Commands, Journal

SEAT = "Vehicle.Cabin.Seat.Row1.DriverSide.Position"
REQUEST = Request("r-1", "d-7f3a0000", {SEAT: 120.0}, Delivery.REJECTED, "standing", 12.5)
MEMORY = TripMemory(
    opened_s=10.0,
    settled=True,
    driver="d-7f3a0000",
    since_s=12.25,
    probability=0.99,
    settled_by=SettledBy.VOICE,
    listen_until_s=30.0,
    outbox=OutboxMemory(
        ("mirrors",), 72.25, cancelled=False, requests=(REQUEST,), touched=("seat",)
    ),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is; its folder is not there yet."""
    return tmp_path / "run" / "trip-car.json"


def test_all_of_a_memory_comes_back(path: Path) -> None:
    """Every field, as it was; and the time that passed is small."""
    Journal(path).keep(MEMORY)
    memory, gone_s = Journal(path).recall()
    assert memory == MEMORY
    assert 0.0 <= gone_s < 10.0


def test_a_memory_of_nothing_comes_back(path: Path) -> None:
    """A trip that ended is remembered as such."""
    Journal(path).keep(TripMemory())
    assert Journal(path).recall()[0] == TripMemory()


def test_nobody_was_there_before(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No file is no mistake."""
    assert Journal(path).recall() == (None, 0.0)
    assert caplog.records == []


def test_only_its_owner_reads_it(path: Path) -> None:
    """Who drives is nobody else's business on this machine."""
    Journal(path).keep(MEMORY)
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
    assert [child.name for child in path.parent.iterdir()] == [path.name]


def test_the_age_is_since_the_last_beat(path: Path) -> None:
    """Written long ago, and alive until a moment ago."""
    daemon = Journal(path)
    daemon.keep(MEMORY)
    old_s = time.clock_gettime(time.CLOCK_BOOTTIME) - 60.0
    os.utime(path, (old_s, old_s))
    assert Journal(path).recall()[1] == pytest.approx(60.0, abs=20.0)
    daemon.beat()
    assert Journal(path).recall()[1] < 20.0


def test_a_beat_before_anything_was_kept_makes_no_file(path: Path) -> None:
    """Nor does it make a file younger that another daemon left and this one did not take."""
    Journal(path).beat()
    assert not path.exists()
    Journal(path).keep(MEMORY)
    os.utime(path, (1.0, 1.0))
    Journal(path).beat()
    assert path.stat().st_mtime == 1.0


def test_another_start_of_the_machine(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After it nothing is remembered, and nobody is warned: it happens every day."""
    Journal(path).keep(MEMORY)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "_boot_id", lambda: "another")
        assert Journal(path).recall() == (None, 0.0)
    assert caplog.records == []
    assert not path.exists()


def test_a_system_without_a_boot_id_remembers_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two unknown starts are not known to be one."""
    monkeypatch.setattr(journal, "_boot_id", lambda: "")
    Journal(path).keep(MEMORY)
    assert Journal(path).recall()[0] is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:0],
        lambda data: data[:-10],
        lambda data: b"\xff" + data,
        lambda data: 1000 * data[:1] * 100,
        lambda data: data + b" " * 2_000_000,
        lambda data: data.replace(b'"schema":1', b'"schema":2'),
        lambda data: data.replace(b'"rejected"', b'"eaten"'),
        lambda data: data.replace(b'"mirrors"', b'"horn"'),
        lambda data: data.replace(b".Position", b".Ejection"),
        lambda data: data.replace(b"120.0", b"1e9"),
        lambda data: data.replace(b"120.0", b'"far"'),
        lambda data: data.replace(b'"opened_s":10.0', b'"opened_s":null'),
        lambda data: data.replace(b'"touched"', b'"torched"'),
    ],
)
def test_a_damaged_file_is_ignored_with_one_warning(
    path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever stands there, the daemon starts; what it says does not repeat what stands there."""
    Journal(path).keep(MEMORY)
    changed = damage(path.read_bytes())
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    os.utime(path, (now_s, now_s))
    caplog.set_level(logging.INFO)
    assert Journal(path).recall() == (None, 0.0)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "7f3a" not in record.getMessage()
    assert not path.exists()


def test_a_file_from_the_future_is_not_ours(path: Path) -> None:
    """A modification time of the calendar, by whoever copied the file there."""
    Journal(path).keep(MEMORY)
    os.utime(path)
    assert Journal(path).recall()[0] is None


def test_a_disk_that_refuses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The daemon goes on without a memory, says so once, and once more after it had worked."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    daemon = Journal(blocked / "trip.json")
    for _ in range(3):
        daemon.keep(MEMORY)
        daemon.beat()
    assert len(caplog.records) == 1
    blocked.unlink()
    daemon.keep(MEMORY)
    assert Journal(blocked / "trip.json").recall()[0] == MEMORY


def test_an_older_memory_does_not_outlive_a_newer_one(path: Path) -> None:
    """What could not be replaced is removed: to remember wrongly is worse than not at all."""
    daemon = Journal(path)
    daemon.keep(MEMORY)
    (path.parent / f".{path.name}.new").mkdir()
    daemon.keep(replace(MEMORY, driver=None))
    assert not path.exists()


def test_commands_are_remembered_for_the_next_daemon(tmp_path: Path) -> None:
    """Ids and the times at which they came survive a restart."""
    now_s = time.monotonic()
    Commands(tmp_path / "run" / "commands.json").keep({"c1": now_s - 3.0, "c2": now_s})
    recalled = Commands(tmp_path / "run" / "commands.json").recall(now_s)
    assert recalled == pytest.approx({"c1": now_s - 3.0, "c2": now_s}, abs=0.05)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"[" * 100_000, b'{"schema":1,"boot":"x","commands":{"c":"x"}}']
)
def test_damaged_commands_are_none_and_told_once(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A daemon obeys without a memory of commands, and says that it has none."""
    (tmp_path / "commands.json").write_bytes(content)
    commands = Commands(tmp_path / "commands.json")
    assert commands.recall(0.0) == commands.recall(0.0) == {}
    assert [record.getMessage().split()[0] for record in caplog.records] == [
        "event=commands_not_kept"
    ]


def test_commands_of_another_start_of_the_machine_are_none(tmp_path: Path) -> None:
    """Their times mean nothing now."""
    path = tmp_path / "commands.json"
    Commands(path).keep({"c1": time.monotonic()})
    boot = re.search(rb'"boot":"([^"]*)"', path.read_bytes())
    assert boot
    path.write_bytes(path.read_bytes().replace(boot[1], b"another"))
    assert Commands(path).recall(time.monotonic()) == {}


def test_a_link_or_a_pipe_in_place_of_the_commands_is_not_followed(tmp_path: Path) -> None:
    """Neither is read, nor written through, nor waited for."""
    other, path = tmp_path / "other", tmp_path / "commands.json"
    other.write_text("precious")
    path.symlink_to(other)
    commands = Commands(path)
    assert commands.recall(0.0) == {}
    commands.keep({"c1": 1.0})
    assert other.read_text() == "precious"
    path.unlink()
    os.mkfifo(path)
    assert Commands(path).recall(0.0) == {}
