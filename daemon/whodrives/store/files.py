"""Safe file access: reads that cannot block, atomic writes.

Owns reads that no FIFO, device or link can block or redirect, replacements that survive a power
cut, and directories for their owner only. Must not know what is in a file.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

_KINDS = (
    (stat.S_ISLNK, "it is a symbolic link"),
    (stat.S_ISFIFO, "it is a named pipe"),
    (stat.S_ISSOCK, "it is a socket"),
    (stat.S_ISCHR, "it is a device"),
    (stat.S_ISBLK, "it is a device"),
    (stat.S_ISDIR, "it is a folder"),
)


def read_regular(
    path: Path, most_bytes: int, *, follow: bool = False
) -> tuple[bytes, os.stat_result]:
    """Up to `most_bytes` of a regular file, and its fstat(2) result; never blocks.

    Args:
        path: the file.
        most_bytes: maximum number of bytes to read.
        follow: whether the path may be a symbolic link.

    Raises:
        OSError: the file cannot be read or is not regular; `strerror` says what it is.
    """
    # Check before opening: opening a device can have side effects.
    _refuse_other_kinds(path, path.stat() if follow else path.lstat())
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        _refuse_other_kinds(path, status)
        return file.read(most_bytes), status


def write_whole(path: Path, data: bytes, publish: Callable[[Path, Path], None]) -> None:
    """Write a file atomically, also across a power cut.

    Args:
        path: the file; readable by its owner only.
        data: its content.
        publish: gives the finished temporary file its name: os.replace, or os.link for a file that
            must not exist yet.

    Raises:
        OSError: the write failed; the file is unchanged.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make the directory and its missing parents, each for its owner only.

    Raises:
        OSError: a directory cannot be made.
    """
    if not path.is_dir():
        if path.parent != path:
            make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the directory's entries durable; fsync(2) of a file does not."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_other_kinds(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        what = next((said for is_kind, said in _KINDS if is_kind(status.st_mode)), "no file")
        raise OSError(errno.EINVAL, f"{what}, and must be a regular file", str(path))
