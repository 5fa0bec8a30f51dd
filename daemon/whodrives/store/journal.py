"""Persists the trip across a restart of the daemon: its state and its age.

Owns one small file: its format, its atomic replacement, its age, and the detection of files that
this daemon's user did not write. Must not know what a trip is for.

The first line of the file is a time (of `clock`, in ns) and an authentication code; the rest is the
trip as JSON. The time is when the daemon last knew seat, door and ignition; it is updated in place
about once a second. The code is an HMAC (RFC 2104, SHA-256) over both, with a key derived from the
profiles' key: without that key a trip cannot be forged. The content is also checked for
plausibility. Without a key nobody is enrolled, and nothing is stored.

The file is valid for one boot, whose id it contains: after a reboot, times of the clock are
meaningless and the driver may have changed. It need not survive a power cut, so it is not synced.
Links are followed neither in reading nor in writing.
"""

from __future__ import annotations

import hmac
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec

from whodrives import clock
from whodrives.store.record import DRIVER_ID
from whodrives.trip.requests import MOST_REQUESTS, WANTED_S
from whodrives.trip.table import LISTEN_S
from whodrives.trip.types import Delivery, OutboxSnapshot, Request, TripSnapshot
from whodrives.vehicle import vss

log = logging.getLogger(__name__)


_SCHEMA = 2


_MOST_BYTES = 1024 * 1024


_MOST_REASON_CHARACTERS = 400


_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


_FIRST_LINE = re.compile(rb"([0-9]{20}) ([0-9a-f]{64})\n")


_FIRST_LINE_BYTES = 20 + 1 + 64 + 1


_REQUEST = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


_CommandId: TypeAlias = Annotated[str, msgspec.Meta(max_length=36)]


class _Sheet(msgspec.Struct, forbid_unknown_fields=True):
    """The content of the trip's file."""

    schema: int
    boot: str
    memory: TripSnapshot


class _Obeyed(msgspec.Struct, forbid_unknown_fields=True):
    """The content of the file of `Commands`: ids, each with its time of arrival by `clock`."""

    schema: int
    boot: str
    commands: dict[_CommandId, float]


class Commands:
    """Persists the ids of recently accepted commands for the next daemon.

    No method raises: a daemon that cannot write logs that once and accepts commands. Whoever can
    write the file can only suppress a command whose id is in it.

    Args:
        path: the file; its directory is made when the first command is stored.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._boot = _boot_id()
        self._failed = False

    def recall(self, now_s: float) -> Mapping[str, float]:
        """The stored ids, each with its time of arrival; `now_s` by `clock`."""
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
        # A time in the future would keep an id for ever.
        return {key: min(now_s, at_s) for key, at_s in found.commands.items()}

    def keep(self, obeyed: Mapping[str, float]) -> None:
        """Replace the stored ids; each with its time of arrival by `clock`."""
        data = msgspec.json.encode(_Obeyed(_SCHEMA, self._boot, dict(obeyed)))
        try:
            _replace(self._path, data)
        except OSError as error:
            self._fail(str(error.strerror))

    def _fail(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            log.warning("event=commands_not_kept reason=%r", f"{self._path}: {reason}")


class Journal:
    """Persists one daemon's trip.

    No method raises: if the journal fails, the daemon logs that once and works without it.

    Args:
        path: the file; its directory is made at the first write.
        key: gives the key of the HMAC; None while there is none.
    """

    def __init__(self, path: Path, key: Callable[[], bytes | None]) -> None:
        self._path = path
        self._find_key = key
        self._found_key: bytes | None = None
        self._boot = _boot_id()
        # The last written content and the file's device and inode; empty before the first write.
        self._body = b""
        self._file: tuple[int, int] | None = None
        self._failed = False

    def recall(self) -> tuple[TripSnapshot | None, float]:
        """The previous daemon's trip, and the seconds since it last knew the car's state.

        None and 0 seconds if there was none since boot, or if the file is damaged or not ours; such
        a file is removed.
        """
        try:
            memory, gone_s = self._read()
        except FileNotFoundError:
            return None, 0.0
        except (OSError, ValueError, TypeError, RecursionError) as error:
            # The text of an error may contain the file's content; its type does not.
            self._forget(f"{self._path} is damaged or not ours ({type(error).__name__})")
            return None, 0.0
        if memory is None:
            self._forget("")
        return memory, gone_s

    def keep(self, memory: TripSnapshot, heard_s: float) -> None:
        """Replace the stored trip atomically.

        Args:
            memory: the trip.
            heard_s: when seat, door and ignition were last known, by `clock`.
        """
        self._body = msgspec.json.encode(
            _Sheet(_SCHEMA, self._boot, memory),
            enc_hook=dict,  # for mappings that are not dicts
        )
        key = self._key()
        if key is None:
            self._forget("")
            return
        try:
            found = _replace(self._path, _first_line(key, _ns(heard_s), self._body) + self._body)
        except OSError as error:
            # An outdated trip would be worse than none.
            self._forget(f"{self._path}: {error.strerror}")
        else:
            self._file, self._failed = (found.st_dev, found.st_ino), False

    def beat(self, heard_s: float) -> None:
        """Store when seat, door and ignition were last known. Call about once a second."""
        key = self._key() if self._file is not None else None
        if key is None:
            return
        line, replaced = _first_line(key, _ns(heard_s), self._body), False
        try:
            with _opened(self._path, os.O_WRONLY) as descriptor:
                found = os.fstat(descriptor)
                replaced = (found.st_dev, found.st_ino) != self._file
                if not replaced:
                    os.pwrite(descriptor, line, 0)
        except OSError as error:
            self._forget(f"{self._path}: {error.strerror}")
        except ValueError:
            replaced = True
        if replaced:
            self._forget(f"{self._path} was replaced by somebody else")

    def _key(self) -> bytes | None:
        if self._found_key is None:
            self._found_key = self._find_key()
        return self._found_key

    def _read(self) -> tuple[TripSnapshot | None, float]:
        with _opened(self._path, os.O_RDONLY) as descriptor:
            data = os.read(descriptor, _MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ValueError("too long")
        line, body = data[:_FIRST_LINE_BYTES], data[_FIRST_LINE_BYTES:]
        told = _FIRST_LINE.fullmatch(line)
        key = self._key()
        if told is None or key is None:
            raise ValueError("not as we write it")
        if not hmac.compare_digest(line, _first_line(key, int(told[1]), body)):
            raise ValueError("not sealed by us")
        sheet = msgspec.json.decode(body, type=_Sheet)
        if not self._boot or sheet.boot != self._boot:
            return None, 0.0
        heard_s, now_s = int(told[1]) / 1e9, clock.now_s()
        if sheet.schema != _SCHEMA or heard_s > now_s:
            raise ValueError("not as we write it")
        _check(sheet.memory, now_s)
        return sheet.memory, now_s - heard_s

    def _forget(self, reason: str) -> None:
        """Remove the file; log `reason`, if any, once."""
        self._file = None
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            reason = reason or f"{self._path}: {error.strerror}"
        if reason and not self._failed:
            self._failed = True
            log.warning("event=journal_failed reason=%r", reason)


def _replace(path: Path, data: bytes) -> os.stat_result:
    """Replace a file atomically, unsynced; return the fstat(2) result of the new one.

    Raises:
        OSError: the write failed; the file is unchanged.
    """
    temporary = path.with_name(f".{path.name}.new")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Never write through a file or link that somebody else has made.
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        found = os.fstat(file.fileno())
    temporary.replace(path)
    return found


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """A descriptor of a regular file that only its owner, our user, can access.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is not ours alone.
    """
    # Non-blocking, so that a FIFO cannot block.
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        if not ours or stat.S_IMODE(found.st_mode) & 0o077 or found.st_nlink != 1:
            raise ValueError("no file of our own")
        yield descriptor
    finally:
        os.close(descriptor)


def _ns(heard_s: float) -> int:
    """The time in ns for the first line; 0, the boot, if the state was never known."""
    return round(max(heard_s, 0.0) * 1e9)


def _first_line(key: bytes, heard_ns: int, body: bytes) -> bytes:
    told = b"%020d" % heard_ns
    return told + b" " + hmac.new(key, told + body, "sha256").hexdigest().encode() + b"\n"


def _check(memory: TripSnapshot, now_s: float) -> None:
    """Raise ValueError for a trip that no daemon can have stored by now."""
    if memory.opened_s is None:
        # Outside a trip only a cancel may be stored.
        if memory != TripSnapshot(outbox=OutboxSnapshot(cancelled=memory.outbox.cancelled)):
            raise ValueError("something without a trip")
        return
    box, since_s, driver = memory.outbox, memory.since_s, memory.driver
    can_be = (
        0.0 <= memory.opened_s <= now_s,
        driver is None or (memory.settled and DRIVER_ID.fullmatch(driver)),
        (driver is None) == (since_s is None),
        since_s is None or memory.opened_s <= since_s <= now_s,
        0.0 <= (memory.probability or 0.0) <= 1.0,
        (memory.listen_until_s or 0.0) <= now_s + LISTEN_S,
        (box.wanted_until_s or 0.0) <= now_s + WANTED_S,
        driver is not None or not box.waiting,
        {*box.waiting, *box.touched} <= {*vss.Group},
        {*memory.moved} <= {*vss.SIGNALS},
        len(box.requests) <= MOST_REQUESTS,
        *(_can_be(request, memory.opened_s, now_s) for request in box.requests),
    )
    if not all(can_be):
        raise ValueError("no trip of ours")


def _can_be(request: Request, opened_s: float, now_s: float) -> bool:
    return bool(
        _REQUEST.fullmatch(request.request)
        and DRIVER_ID.fullmatch(request.driver)
        and request.signals
        and all(
            path in vss.SIGNALS and value in vss.SIGNALS[path].range
            for path, value in request.signals.items()
        )
        and request.delivery not in (Delivery.NONE, Delivery.WAITING)
        and len(request.reason) <= _MOST_REASON_CHARACTERS
        and opened_s <= request.asked_at_s <= now_s
    )


def _boot_id() -> str:
    """The boot id; empty if the system has none: then nothing is read back."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
