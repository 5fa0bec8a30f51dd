"""The clock that every `at_s` is read from.

Owns the choice of clock and nothing else. Linux's CLOCK_BOOTTIME counts the seconds since the
machine started and is never set, like CLOCK_MONOTONIC; unlike it, it goes on while the machine is
suspended (clock_gettime(2)). So time asleep counts as time away: a reading, a request or an open
trip from before a suspend is as old as it is. Waits of queues and threads need no such clock.
"""

from __future__ import annotations

import time


def now_s() -> float:
    """Seconds since the machine started, the time in which it was suspended included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
