"""A clock that runs faster than real time, the same in all processes of this machine.

`install` puts it in the place of Python's clocks and waits, before anything of the daemon is
imported. The calendar has an offset in a small shared file, so that it can be stepped from outside
at one moment for all who share it.
"""

from __future__ import annotations

import mmap
import queue
import select
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EPOCH_S = 1_800_000_000.0
"""What the calendar says when our monotonic clock is 0, before any step."""

_real_monotonic = time.monotonic
_real_sleep = time.sleep
_real_select = select.select


class _Seconds:
    """A number of the calendar's file, by its place in it."""

    def __init__(self, place: int) -> None:
        self._bytes = slice(8 * place, 8 * place + 8)

    def __get__(self, calendar: Calendar, _kind: type | None = None) -> float:
        return float(struct.unpack("d", calendar.memory[self._bytes])[0])

    def __set__(self, calendar: Calendar, value: float) -> None:
        calendar.memory[self._bytes] = struct.pack("d", value)


class Calendar:
    """An offset of the calendar, in a file that processes share; and how late one of them is.

    Attributes:
        memory: the file, mapped.
        offset_s: by how much the calendar was stepped.
        late_s: how late the slowest thing of a process was: the machine's fault, not the process's.
        disk_slow_until_s: until when, on the fast monotonic clock, the disk is slow.
        skipped_s: how much time passed at once, on both clocks.
        asleep_s: for how long the machine was suspended, and a monotonic clock stood still.
    """

    offset_s = _Seconds(0)
    late_s = _Seconds(1)
    disk_slow_until_s = _Seconds(2)
    skipped_s = _Seconds(3)
    asleep_s = _Seconds(4)

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(40))
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 40)


@dataclass(slots=True)
class Clock:
    """Seconds of the fast clock.

    Attributes:
        scale: so many of its seconds pass in one of the world's.
        began_s: the world's monotonic time at which it was 1000.
        calendar: the offset of the calendar; None: never stepped.
        stalled_s: when this process last waited because it was made to.
    """

    scale: float
    began_s: float = field(default_factory=_real_monotonic)
    calendar: Calendar | None = None
    stalled_s: float = 0.0

    def now_s(self) -> float:
        """The fast clock, which goes on while the machine is suspended."""
        skipped_s = self.calendar.skipped_s if self.calendar else 0.0
        return 1000.0 + (_real_monotonic() - self.began_s) * self.scale + skipped_s

    def awake_s(self) -> float:
        """The same without the time in which the machine was suspended."""
        return self.now_s() - (self.calendar.asleep_s if self.calendar else 0.0)

    def wall_s(self) -> float:
        """The fast calendar: seconds from 1970-01-01 UTC."""
        return EPOCH_S + self.now_s() + (self.calendar.offset_s if self.calendar else 0.0)


def install(clock: Clock) -> None:
    """Let this process live by the fast clock: `time`, waits of queues, sleeping, `select`."""
    scale = clock.scale

    def now_ns(_clock: int = 0) -> int:
        return int(clock.now_s() * 1e9)

    def sleeps(seconds: Any) -> None:
        _real_sleep(seconds / scale)

    def waits(
        readers: Any, writers: Any, others: Any, timeout: float | None = None
    ) -> tuple[list[Any], list[Any], list[Any]]:
        return _real_select(readers, writers, others, None if timeout is None else timeout / scale)

    time.monotonic = clock.awake_s
    time.monotonic_ns = lambda: int(clock.awake_s() * 1e9)
    time.time = clock.wall_s
    time.sleep = sleeps
    time.clock_gettime = lambda _clock: clock.now_s()
    time.clock_gettime_ns = now_ns
    select.select = waits

    class FastQueue(queue.SimpleQueue):  # type: ignore[type-arg]
        """A queue whose waits are as fast as the clock, and that knows how long things waited."""

        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: FBT001, FBT002
            super().put((clock.awake_s(), item), block, timeout)

        def get(self, block: bool = True, timeout: Any = None) -> Any:  # noqa: FBT001, FBT002
            at_s, item = super().get(block, None if timeout is None else timeout / scale)
            if at_s > clock.stalled_s:
                note_late(clock, clock.awake_s() - at_s)
            return item

        def get_nowait(self) -> Any:
            return self.get(block=False)

    queue.SimpleQueue = FastQueue  # type: ignore[misc]


def note_late(clock: Clock, late_s: float) -> None:
    """Remember the latest."""
    if clock.calendar is not None and late_s > clock.calendar.late_s:
        clock.calendar.late_s = late_s


def watch_lateness(clock: Clock) -> None:
    """Measure for ever how late this process is served."""
    pause_s = 0.3
    while True:
        due_s = clock.awake_s() + pause_s
        _real_sleep(pause_s / clock.scale)
        note_late(clock, clock.awake_s() - due_s)


def stall(clock: Clock, seconds: float) -> None:
    """Wait like a process whose disk is slow; this is no delay of the machine."""
    _real_sleep(seconds / clock.scale)
    clock.stalled_s = clock.awake_s()
