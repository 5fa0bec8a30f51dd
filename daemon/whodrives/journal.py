"""What a daemon that dies leaves to the one that follows it: its trip, and when it was last alive.

Owns one small file. Hides its format, how it is replaced as a whole, and how its age is told. Must
never know what a trip is for.

The file belongs to one start of the machine, whose identity stands in it: after another start,
times of the monotonic clock mean nothing and whoever sat there is gone. It need not survive a power
cut, so nothing is forced to the disk. The file's modification time is not the calendar's, which
may be set, but CLOCK_BOOTTIME's: seconds since the machine started, sleep included.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec

from whodrives import vss
from whodrives.domain import TripMemory

log = logging.getLogger(__name__)

_SCHEMA = 1
_MOST_BYTES = 1024 * 1024
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


_CommandId: TypeAlias = Annotated[str, msgspec.Meta(max_length=36)]


class _Sheet(msgspec.Struct, forbid_unknown_fields=True):
    """What is in the file."""

    schema: int
    boot: str
    memory: TripMemory


class _Obeyed(msgspec.Struct, forbid_unknown_fields=True):
    """What is in the file of `Commands`: ids, with CLOCK_BOOTTIME's seconds at which each came."""

    schema: int
    boot: str
    commands: dict[_CommandId, float]


class Commands:
    """Which commands were obeyed in the last seconds, for the daemon that follows this one.

    No method raises: a daemon that cannot keep them says so once in the log, and obeys. Who can
    write the file can only suppress a command, and only one that names an id in it.

    Args:
        path: the file; its folder is made when the first command is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._boot = _boot_id()
        self._failed = False

    def recall(self, now_s: float) -> Mapping[str, float]:
        """The ids that are kept, with the monotonic time at which each came; monotonic `now_s`."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                found = msgspec.json.decode(file.read(_MOST_BYTES), type=_Obeyed)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            self._fail(type(error).__name__)
            return {}
        if not self._boot or (found.schema, found.boot) != (_SCHEMA, self._boot):
            return {}
        ahead_s = now_s - _since_start_s()
        # A time to come would keep an id for ever.
        return {key: min(now_s, at_s + ahead_s) for key, at_s in found.commands.items()}

    def keep(self, obeyed: Mapping[str, float]) -> None:
        """Replace what is kept by ids, with the monotonic time at which each came."""
        temporary = self._path.with_name(f".{self._path.name}.new")
        ahead_s = _since_start_s() - time.monotonic()
        commands = {key: at_s + ahead_s for key, at_s in obeyed.items()}
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(_Obeyed(_SCHEMA, self._boot, commands)))
            temporary.replace(self._path)
        except OSError as error:
            self._fail(str(error.strerror))

    def _fail(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            log.warning("event=commands_not_kept reason=%r", f"{self._path}: {reason}")


class Journal:
    """The memory of one daemon's trip.

    No method raises: a daemon without a memory still works, and says so once in the log.

    Args:
        path: the file; its folder is made when the first thing is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._boot = _boot_id()
        self._ours = False
        self._failed = False

    def recall(self) -> tuple[TripMemory | None, float]:
        """What the daemon before this one remembered, and the seconds since it was last alive.

        None, and 0 seconds, if there was none in this start of the machine, or what it left is
        damaged or not ours; that is then removed.
        """
        try:
            memory, gone_s = self._read()
        except FileNotFoundError:
            return None, 0.0
        except (OSError, ValueError, TypeError, RecursionError) as error:
            # The text of an error may hold what is in the file; its kind does not.
            self._forget(f"{self._path} is damaged or not ours ({type(error).__name__})")
            return None, 0.0
        if memory is None:
            self._forget("")
        self._ours = memory is not None
        return memory, gone_s

    def keep(self, memory: TripMemory) -> None:
        """Replace what is remembered; whole or not at all."""
        temporary = self._path.with_name(f".{self._path.name}.new")
        sheet = _Sheet(_SCHEMA, self._boot, memory)
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(_encoded(sheet))
            _stamp(temporary)
            temporary.replace(self._path)
        except OSError as error:
            # An older memory would be worse than none.
            self._forget(f"{self._path}: {error.strerror}")
        else:
            self._ours, self._failed = True, False

    def beat(self) -> None:
        """Say that we are alive. To be called every second or so."""
        if self._ours:
            try:
                _stamp(self._path)
            except OSError as error:
                self._forget(f"{self._path}: {error.strerror}")

    def _read(self) -> tuple[TripMemory | None, float]:
        with self._path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
            gone_s = _since_start_s() - os.fstat(file.fileno()).st_mtime
        if len(data) > _MOST_BYTES:
            raise ValueError("too long")
        sheet = msgspec.json.decode(data, type=_Sheet)
        if not self._boot or sheet.boot != self._boot:
            return None, 0.0
        if sheet.schema != _SCHEMA or _encoded(sheet) != data or gone_s < 0.0:
            raise ValueError("not as we write it")
        _check(sheet.memory)
        return sheet.memory, gone_s

    def _forget(self, reason: str) -> None:
        """Remove the file; `reason` is what went wrong, said once."""
        self._ours = False
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            reason = reason or f"{self._path}: {error.strerror}"
        if reason and not self._failed:
            self._failed = True
            log.warning("event=journal_failed reason=%r", reason)


def _encoded(sheet: _Sheet) -> bytes:
    # The hook is for mappings that are not dicts.
    return msgspec.json.encode(sheet, enc_hook=dict)


def _check(memory: TripMemory) -> None:
    """Refuse what no daemon can have remembered; ValueError."""
    box = memory.outbox
    for name in (*box.waiting, *box.touched):
        vss.Group(name)
    for request in box.requests:
        for path, value in request.signals.items():
            if path not in vss.SIGNALS or value not in vss.SIGNALS[path].range:
                raise ValueError("no signal of ours")
    if memory.opened_s is None and (memory.settled or box.waiting):
        raise ValueError("a driver without a trip")


def _boot_id() -> str:
    """What names this start of the machine; empty if the system does not say: nothing is kept."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _since_start_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _stamp(path: Path) -> None:
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    os.utime(path, ns=(now_ns, now_ns))
