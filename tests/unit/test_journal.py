"""The file that a daemon leaves: what comes back, and what does not."""

import logging
import math
import os
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from whodrives import clock
from whodrives.store import journal
from whodrives.store.journal import Commands, Journal
from whodrives.trip.types import Delivery, OutboxSnapshot, Request, SettledBy, TripSnapshot

SEAT = "Vehicle.Cabin.Seat.Row1.DriverSide.Position"
KEY = b"k" * 32
NOW_S = 100_000.0
"""The time in every test, by `clock`: what the machine's own is must not matter."""

REQUEST = Request(
    "3f2b7c1e-5a64-8d0e-9c1b-0d2f4a6b8c0e",
    "d-7f3a0000",
    {SEAT: 120.0},
    Delivery.REJECTED,
    "standing",
    NOW_S - 2.0,
)
MEMORY = TripSnapshot(
    opened_s=NOW_S - 5.0,
    settled=True,
    driver="d-7f3a0000",
    since_s=NOW_S - 3.0,
    probability=0.99,
    settled_by=SettledBy.VOICE,
    listen_until_s=NOW_S + 5.0,
    other_voice=True,
    moved=("Vehicle.Body.Mirrors.DriverSide.Tilt",),
    outbox=OutboxSnapshot(
        ("mirrors",), NOW_S + 50.0, cancelled=False, requests=(REQUEST,), touched=("seat",)
    ),
)


def _journal(path: Path, key: bytes | None = KEY) -> Journal:
    return Journal(path, lambda: key)


def _kept(path: Path, memory: TripSnapshot = MEMORY, heard_s: float | None = None) -> None:
    _journal(path).keep(memory, clock.now_s() if heard_s is None else heard_s)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that runs for as long as NOW_S."""
    monkeypatch.setattr(clock, "now_s", lambda: NOW_S)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is; its folder is not there yet."""
    return tmp_path / "run" / "trip-car.json"


def test_all_of_a_memory_comes_back(path: Path) -> None:
    """Every field, as it was; and the time that passed is small."""
    _kept(path)
    memory, gone_s = _journal(path).recall()
    assert memory == MEMORY
    assert 0.0 <= gone_s < 10.0


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_memory_of_nothing_comes_back(path: Path, *, cancelled: bool) -> None:
    """A trip that ended is remembered as such; a cancel is obeyed outside a trip, too."""
    memory = TripSnapshot(outbox=OutboxSnapshot(cancelled=cancelled))
    _kept(path, memory)
    assert _journal(path).recall()[0] == memory


def test_nobody_was_there_before(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No file is no mistake."""
    assert _journal(path).recall() == (None, 0.0)
    assert caplog.records == []


def test_only_its_owner_reads_it(path: Path) -> None:
    """Who drives is nobody else's business on this machine."""
    _kept(path)
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
    assert [child.name for child in path.parent.iterdir()] == [path.name]


def test_the_age_is_since_the_car_was_last_heard(path: Path) -> None:
    """A daemon that lived, and was deaf for a minute, has been away for a minute."""
    daemon = _journal(path)
    daemon.keep(MEMORY, clock.now_s() - 60.0)
    assert _journal(path).recall()[1] == pytest.approx(60.0, abs=20.0)
    daemon.beat(clock.now_s() - 40.0)
    memory, gone_s = _journal(path).recall()
    assert memory == MEMORY
    assert gone_s == pytest.approx(40.0, abs=15.0)
    daemon.beat(clock.now_s())
    assert _journal(path).recall()[1] < 20.0


def test_a_car_that_was_never_heard_of(path: Path) -> None:
    """Then it is as old as the machine's life."""
    _kept(path, heard_s=-math.inf)
    assert _journal(path).recall()[1] == pytest.approx(clock.now_s(), abs=10.0)


def test_a_beat_before_anything_was_kept_makes_no_file(path: Path) -> None:
    """Nor does it make a file younger that another daemon left and this one did not take."""
    _journal(path).beat(clock.now_s())
    assert not path.exists()
    _kept(path, heard_s=1.0)
    before = path.read_bytes()
    _journal(path).beat(clock.now_s())
    assert path.read_bytes() == before


def test_without_a_key_nothing_is_kept_or_believed(path: Path) -> None:
    """Nobody is enrolled then; what somebody put there is removed."""
    _journal(path, None).keep(MEMORY, NOW_S)
    assert not path.exists()
    _kept(path)
    assert _journal(path, None).recall() == (None, 0.0)


def test_a_trip_is_sealed_with_the_key(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A whole and possible trip, written by somebody who cannot read the key."""
    _journal(path, b"x" * 32).keep(MEMORY, NOW_S)
    assert _journal(path).recall() == (None, 0.0)
    assert len(caplog.records) == 1
    assert not path.exists()


def test_an_older_trip_is_not_made_younger(path: Path) -> None:
    """Neither by a time that was changed in the file, nor by the file's own."""
    _kept(path, heard_s=NOW_S - 60.0)
    os.utime(path)
    assert _journal(path).recall()[1] > 50.0
    data = path.read_bytes()
    path.write_bytes(b"%020d" % round(NOW_S * 1e9) + data[20:])
    assert _journal(path).recall() == (None, 0.0)


@pytest.mark.parametrize(
    "impossible",
    [
        {"opened_s": NOW_S + 3600.0},
        {"opened_s": math.nan},
        {"opened_s": -1.0},
        {"opened_s": None},
        {"since_s": NOW_S - 6.0},
        {"since_s": NOW_S + 3600.0},
        {"since_s": None},
        {"settled": False},
        {"driver": None},
        {"driver": "../d-7f3a0000"},
        {"driver": "d-7f3a0000\n"},
        {"probability": 1.5},
        {"listen_until_s": NOW_S + 3600.0},
        {"moved": ("Vehicle.Horn",)},
        {"outbox": replace(MEMORY.outbox, wanted_until_s=NOW_S + 3600.0)},
        {"outbox": replace(MEMORY.outbox, waiting=("horn",))},
        {"outbox": replace(MEMORY.outbox, requests=(REQUEST,) * 33)},
        {"outbox": replace(MEMORY.outbox, requests=(replace(REQUEST, request="r-1"),))},
        {"outbox": replace(MEMORY.outbox, requests=(replace(REQUEST, driver="Tom"),))},
        {"outbox": replace(MEMORY.outbox, requests=(replace(REQUEST, signals={}),))},
        {"outbox": replace(MEMORY.outbox, requests=(replace(REQUEST, signals={SEAT: 1e9}),))},
        {"outbox": replace(MEMORY.outbox, requests=(replace(REQUEST, asked_at_s=NOW_S + 3600.0),))},
        {"outbox": replace(MEMORY.outbox, requests=(replace(REQUEST, asked_at_s=1e-3),))},
        {"outbox": replace(MEMORY.outbox, requests=(replace(REQUEST, reason="x" * 401),))},
        {"outbox": replace(MEMORY.outbox, requests=(replace(REQUEST, delivery=Delivery.WAITING),))},
    ],
)
def test_what_cannot_be_is_not_believed_though_it_is_sealed(
    path: Path, impossible: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """Times to come, other trips' times, names and values that no daemon writes."""
    _kept(path, replace(MEMORY, **impossible))  # type: ignore[arg-type]
    assert _journal(path).recall() == (None, 0.0)
    assert len(caplog.records) == 1
    assert not path.exists()


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _hard_link(path: Path) -> None:
    path.with_name("elsewhere").hardlink_to(path)


def _shared(path: Path) -> None:
    path.chmod(0o644)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    "change", [_link, _hard_link, _fifo, _shared], ids=lambda change: change.__name__
)
def test_what_is_no_file_of_our_own_is_not_read(
    path: Path, change: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A link is not followed, a FIFO does not keep us waiting, what others may read is not ours."""
    _kept(path)
    change(path)
    assert _journal(path).recall() == (None, 0.0)
    assert len(caplog.records) == 1
    assert not path.exists()


def test_no_file_is_overwritten_through_a_link(path: Path) -> None:
    """Neither through one in place of the journal, nor of its temporary file."""
    path.parent.mkdir()
    victim = path.with_name("victim")
    victim.write_text("precious")
    path.symlink_to(victim)
    path.with_name(f".{path.name}.new").symlink_to(victim)
    daemon = _journal(path)
    daemon.keep(MEMORY, clock.now_s())
    assert stat.S_ISREG(path.lstat().st_mode)
    assert _journal(path).recall()[0] == MEMORY
    path.unlink()
    path.symlink_to(victim)
    daemon.beat(clock.now_s())
    assert victim.read_text() == "precious"
    assert not path.exists()


def test_a_file_that_was_replaced_is_not_kept_young(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody puts an older one back while we live: it is removed, and the log says so."""
    daemon = _journal(path)
    daemon.keep(MEMORY, clock.now_s())
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.chmod(0o600)
    other.replace(path)
    daemon.beat(clock.now_s())
    assert not path.exists()
    assert len(caplog.records) == 1


def test_another_start_of_the_machine(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After it nothing is remembered, and nobody is warned: it happens every day."""
    _kept(path)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "_boot_id", lambda: "another")
        assert _journal(path).recall() == (None, 0.0)
    assert caplog.records == []
    assert not path.exists()


def test_a_system_without_a_boot_id_remembers_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two unknown starts are not known to be one."""
    monkeypatch.setattr(journal, "_boot_id", lambda: "")
    _kept(path)
    assert _journal(path).recall()[0] is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:0],
        lambda data: data[:-10],
        lambda data: b"\xff" + data,
        lambda data: 1000 * data[:1] * 100,
        lambda data: data + b" " * 2_000_000,
        lambda data: data.replace(b'"schema":2', b'"schema":3'),
        lambda data: data.replace(b'"rejected"', b'"eaten"'),
        lambda data: data.replace(b'"mirrors"', b'"horn"'),
        lambda data: data.replace(b".Position", b".Ejection"),
        lambda data: data[:86] + b" " + data[86:],
        lambda data: data.replace(b"120.0", b"1e9"),
        lambda data: data.replace(b"120.0", b'"far"'),
        lambda data: data.replace(b'"settled":true', b'"settled":null'),
        lambda data: data.replace(b'"touched"', b'"torched"'),
    ],
)
def test_a_damaged_file_is_ignored_with_one_warning(
    path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever stands there, the daemon starts; what it says does not repeat what stands there."""
    _kept(path)
    changed = damage(path.read_bytes())
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    caplog.set_level(logging.INFO)
    assert _journal(path).recall() == (None, 0.0)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "7f3a" not in record.getMessage()
    assert not path.exists()


def test_a_file_from_the_future_is_not_ours(path: Path) -> None:
    """A time that this start of the machine has not reached."""
    _kept(path, heard_s=clock.now_s() + 3600.0)
    assert _journal(path).recall()[0] is None


def test_a_disk_that_refuses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The daemon goes on without a memory, says so once, and once more after it had worked."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    daemon = _journal(blocked / "trip.json")
    for _ in range(3):
        daemon.keep(MEMORY, clock.now_s())
        daemon.beat(clock.now_s())
    assert len(caplog.records) == 1
    blocked.unlink()
    daemon.keep(MEMORY, clock.now_s())
    assert _journal(blocked / "trip.json").recall()[0] == MEMORY


def test_an_older_memory_does_not_outlive_a_newer_one(path: Path) -> None:
    """What could not be replaced is removed: to remember wrongly is worse than not at all."""
    daemon = _journal(path)
    daemon.keep(MEMORY, clock.now_s())
    (path.parent / f".{path.name}.new").mkdir()
    daemon.keep(replace(MEMORY, driver=None), clock.now_s())
    assert not path.exists()


def test_commands_are_remembered_for_the_next_daemon(tmp_path: Path) -> None:
    """Ids and the times at which they came survive a restart."""
    now_s = clock.now_s()
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
    Commands(path).keep({"c1": clock.now_s()})
    boot = re.search(rb'"boot":"([^"]*)"', path.read_bytes())
    assert boot
    path.write_bytes(path.read_bytes().replace(boot[1], b"another"))
    assert Commands(path).recall(clock.now_s()) == {}


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
