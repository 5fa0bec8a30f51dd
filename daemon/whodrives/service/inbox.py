"""What waits to be taken by the daemon's loop, and in which order it is taken.

Owns the one queue between the bus's threads and the loop. Any thread may put; one thread takes. A
cancel and a hand on the seat's switch are taken first, however much waits before them. Reports of
the car and positions that nobody takes do not pile up: each holds the whole state, so the newest of
those that follow each other replaces the others.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from queue import Empty, SimpleQueue
from typing import TypeAlias

from whodrives import clock
from whodrives.core.events import Input
from whodrives.enrolment.types import Enrol
from whodrives.trip.types import Cancel, Choose, Listen, Position, Tick
from whodrives.vehicle.state import VehicleReport

MOST_REPORTS = 64
"""Where so many inputs wait, a report replaces the report before it. Fewer keep every change."""


Cancellable: TypeAlias = Choose | Listen | Enrol


class Inbox:
    """Inputs from the bus, for the loop."""

    def __init__(self) -> None:
        self._first: deque[Input] = deque()
        self._waiting: deque[Input] = deque()
        self._lock = threading.Lock()
        # One ring for each item. It may be rung by a signal's handler, so without our lock.
        self._bell: SimpleQueue[None] = SimpleQueue()

    def put(self, item: Input) -> None:
        """Add an input; a `Tick` only ends a wait."""
        if isinstance(item, Tick):
            self.wake()
            return
        with self._lock:
            added = 0
            hand = _hand(item)
            if hand or isinstance(item, Cancel):
                added += _append(self._first, item)
            if not isinstance(item, Cancel):
                # A hand on the switch keeps its place too: it must also outlast what came before.
                added += _append(self._waiting, item)
        for _ in range(added):
            self.wake()

    def wake(self) -> None:
        """End a wait; may be called in a signal's handler."""
        self._bell.put(None)

    def get(self, timeout_s: float) -> Input:
        """The next input; a `Tick` if none comes in `timeout_s`, or somebody wakes us."""
        item = self.pop()
        if item is None:
            with contextlib.suppress(Empty):
                self._bell.get(timeout=timeout_s)
            item = self.pop(rung=True)
        return Tick(clock.now_s()) if item is None else item

    def pop(self, *, rung: bool = False) -> Input | None:
        """The next input, if there is one; `rung` if its ring was taken already."""
        with self._lock:
            lane = self._first or self._waiting
            item = lane.popleft() if lane else None
        if item is not None and not rung:
            with contextlib.suppress(Empty):
                self._bell.get_nowait()
        return item

    def cancelled(self, cancel: Cancel) -> list[Cancellable]:
        """Remove what came before a cancel and would ask for something after it."""
        void: list[Cancellable] = []
        kept: deque[Input] = deque()
        with self._lock:
            for item in self._waiting:
                if isinstance(item, Cancellable) and item.at_s <= cancel.at_s:
                    void.append(item)
                else:
                    kept.append(item)
            self._waiting = kept
        return void

    def qsize(self) -> int:
        """How many inputs wait."""
        return len(self._first) + len(self._waiting)


def _hand(item: Input) -> bool:
    """Whether it reports a hand on a switch of the driver's seat."""
    if not isinstance(item, VehicleReport) or item.state.seat_switch is None:
        return False
    return item.state.seat_switch.value


def _append(lane: deque[Input], item: Input) -> int:
    """Add the item, or let it replace an older one of its kind; returns how many were added."""
    full = len(lane) >= MOST_REPORTS
    if full and isinstance(item, VehicleReport | Position) and isinstance(lane[-1], type(item)):
        lane[-1] = item
        return 0
    lane.append(item)
    return 1
