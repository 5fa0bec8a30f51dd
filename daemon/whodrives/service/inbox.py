"""The one inbox: what waits for the loop, in which order it is taken, and how it is bounded.

Any thread may put; the loop's thread takes. The order is: consequences of what the loop itself has
just done, a cancel or a hand on the seat's switch, everything else from the bus, answers to refused
commands, sound. Each lane is bounded:

- Vehicle reports and positions hold the whole state, so a newer one replaces an older one.
- Refused commands beyond MOST_REFUSALS are not answered.
- Sound that can wait is waited for (`put_sound`); of a microphone, new blocks are dropped, and the
  next one that is put has `gap` set.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import TypeAlias

from whodrives import clock
from whodrives.audio.blocks import AudioBlock, SourceState
from whodrives.audio.microphone import BACKLOG_BLOCKS
from whodrives.core.events import Input, RefusedCommand
from whodrives.enrolment.types import Enrol
from whodrives.trip.types import Cancel, Choose, Listen, Position, Tick
from whodrives.vehicle.state import VehicleReport

log = logging.getLogger(__name__)


MOST_REPORTS = 64
"""Where so many inputs wait, a report replaces the report before it. Fewer keep every change."""


MOST_REFUSALS = 20
"""Refused commands that may wait to be answered."""


REFUSALS_PER_ITERATION = 4
"""Refused commands answered per iteration, so that a flood of them leaves room for the rest."""


GATHERED_BLOCKS = 24
"""When so many blocks wait, they are taken without further delay."""


MOST_WAITING_BLOCKS = 2 * GATHERED_BLOCKS
"""A file or a pipe waits when so many of its blocks have not been taken."""


LATE_S = 2.0
"""A daemon that is more than LATE_S behind never catches up; it drops the backlog."""


REST_MARGIN_S = 0.1
"""How much longer than the batching delay the loop waits for a producer that observes it itself."""


Sound: TypeAlias = AudioBlock | SourceState


Cancellable: TypeAlias = Choose | Listen | Enrol


@dataclass(frozen=True, slots=True)
class Batch:
    """Blocks that follow each other, to be heard together."""

    blocks: Sequence[AudioBlock]


def drop_backlog(items: Sequence[Sound], now_s: float) -> tuple[Sequence[Sound], int]:
    """All of the items, or, when the first block is older than LATE_S, without the backlog.

    Of a backlog only the last block is kept, with `gap` set, so that the utterance under way is
    given up for the next one. States are all kept.

    Args:
        items: in the order in which they came.
        now_s: seconds on the boot-time clock.

    Returns:
        The items to take, and how many blocks were dropped.
    """
    places = [n for n, item in enumerate(items) if isinstance(item, AudioBlock)]
    if not places or now_s - items[places[0]].at_s <= LATE_S:
        return items, 0
    last = places[-1]
    kept = [
        replace(item, gap=True) if isinstance(item, AudioBlock) else item
        for n, item in enumerate(items)
        if n == last or not isinstance(item, AudioBlock)
    ]
    return kept, len(places) - 1


class Inbox:
    """Inputs for the loop, from every source."""

    def __init__(self) -> None:
        self._consequences: deque[Input] = deque()
        self._first: deque[Input] = deque()
        self._waiting: deque[Input] = deque()
        self._refusals: deque[RefusedCommand] = deque()
        self._sound: deque[Sound] = deque()
        self._lossless = False
        self._dropped = False
        self._delay_s = 0.0
        self._rested = False
        self._idle = False
        self._waits = 0
        self._lock = threading.Lock()
        self._taken = threading.Condition(self._lock)
        # Rung when there is something to take. A signal's handler rings it, so without our lock.
        self._bell: SimpleQueue[None] = SimpleQueue()

    def put(self, item: Input) -> None:
        """Add an input from the bus; a `Tick` only ends a wait."""
        if isinstance(item, Tick):
            self.wake()
            return
        with self._lock:
            if isinstance(item, RefusedCommand):
                if len(self._refusals) < MOST_REFUSALS:
                    self._refusals.append(item)
                return  # it is answered when the loop comes to it
            if _is_hand(item) or isinstance(item, Cancel):
                _append(self._first, item)
            if not isinstance(item, Cancel):
                # A hand on the switch keeps its place too: it must also outlast what came before.
                _append(self._waiting, item)
        self.wake()

    def put_consequence(self, item: Input) -> None:
        """Add what follows from an event that was carried out; it is taken before all else."""
        with self._lock:
            self._consequences.append(item)

    def put_sound(self, item: Sound, *, lossless: bool = False) -> None:
        """Add a block or the state of its source.

        Args:
            item: what is added; it ends a wait if it is a state, or if GATHERED_BLOCKS wait.
            lossless: wait while MOST_WAITING_BLOCKS wait. Otherwise a block is dropped when
                BACKLOG_BLOCKS wait, and the next one has `gap` set.
        """
        with self._taken:
            if lossless:
                self._lossless = True
                self._taken.wait_for(lambda: len(self._sound) < MOST_WAITING_BLOCKS)
            elif isinstance(item, AudioBlock):
                if len(self._sound) >= BACKLOG_BLOCKS:
                    self._dropped = True
                    return
                if self._dropped:
                    item = replace(item, gap=True)
                    self._dropped = False
            self._sound.append(item)
            ring = isinstance(item, SourceState) or len(self._sound) >= GATHERED_BLOCKS
        if ring:
            self.wake()

    def rest(self) -> None:
        """For a producer that has put all there is: let it be taken, then gather for one delay.

        Waits until the loop has taken the sound and waits again, and then for the batching delay.
        """
        with self._taken:
            self._rested = True
            if self._sound or not self._idle:
                self.wake()
                waits = self._waits
                self._taken.wait_for(lambda: self._waits > waits and not self._sound)
            delay_s = self._delay_s
        time.sleep(delay_s)

    def wake(self) -> None:
        """End a wait; may be called in a signal's handler."""
        self._bell.put(None)

    def take(
        self, batch_delay_s: float, answers: int = REFUSALS_PER_ITERATION
    ) -> Iterator[Input | Batch]:
        """Wait for inputs, and give those that have come: sound last, so that it meets a new state.

        What comes while they are handled waits for the next call, but for what goes first: a
        flood must not keep sound from being heard.

        Args:
            batch_delay_s: how long sound is gathered. Any other input ends the wait, and so do a
                state of the source, GATHERED_BLOCKS, and `wake`.
            answers: how many refused commands may be answered.

        Yields:
            Inputs; a `Tick` if nothing came from the bus; blocks that follow each other as `Batch`.
        """
        self._wait(batch_delay_s)
        told = False
        for _ in range(len(self._first) + len(self._waiting)):
            for item in self._next():
                told = True
                yield item
        if not told:
            yield Tick(clock.now_s())
        for _ in range(min(answers, REFUSALS_PER_ITERATION, len(self._refusals))):
            yield self._refusals.popleft()
        for blocks, items in groupby(self._take_sound(), lambda item: isinstance(item, AudioBlock)):
            if blocks:
                yield Batch([item for item in items if isinstance(item, AudioBlock)])
            else:
                yield from items

    def consequence(self) -> Input | None:
        """The next consequence of what was carried out, if there is one."""
        with self._lock:
            return self._consequences.popleft() if self._consequences else None

    def qsize(self) -> int:
        """How many inputs and blocks wait."""
        return len(self._first) + len(self._waiting) + len(self._refusals) + len(self._sound)

    def _wait(self, batch_delay_s: float) -> None:
        """Wait until there is something to take, or for the batching delay."""
        with self._taken:
            self._delay_s, self._idle = batch_delay_s, True
            self._waits += 1
            self._taken.notify_all()
            ready = self._first or self._waiting or len(self._sound) >= GATHERED_BLOCKS
            ready = ready or any(isinstance(item, SourceState) for item in self._sound)
            timeout_s = batch_delay_s + (REST_MARGIN_S if self._rested and batch_delay_s else 0.0)
        if not ready:
            with contextlib.suppress(Empty):
                self._bell.get(timeout=timeout_s)
        self._idle = False
        # Not before the wait: whoever rang since the loop last looked is to end it.
        with contextlib.suppress(Empty):
            while True:
                self._bell.get_nowait()

    def _next(self) -> list[Input]:
        """The next input; before a cancel, the refusal of each command that it voids."""
        with self._lock:
            lane = self._first or self._waiting
            item = lane.popleft() if lane else None
            if item is None:
                return []
            if not isinstance(item, Cancel):
                return [item]
            voided: list[Input] = []
            kept: deque[Input] = deque()
            for other in self._waiting:
                if isinstance(other, Cancellable) and other.at_s <= item.at_s:
                    if other.command is not None:
                        voided.append(RefusedCommand(item.at_s, other.command, "cancelled"))
                else:
                    kept.append(other)
            self._waiting = kept
        return [*voided, item]

    def _take_sound(self) -> Sequence[Sound]:
        """All sound that waits, without the backlog if we are too late for it."""
        with self._taken:
            sound = tuple(self._sound)
            self._sound.clear()
            self._taken.notify_all()
            if self._lossless:
                return sound
        now_s = clock.now_s()
        items, dropped = drop_backlog(sound, now_s)
        if dropped:
            log.warning("event=behind late_s=%.1f dropped=%d", now_s - sound[0].at_s, dropped)
        return items


def _is_hand(item: Input) -> bool:
    """Whether it reports a hand on a switch of the driver's seat."""
    if not isinstance(item, VehicleReport) or item.state.seat_switch is None:
        return False
    return item.state.seat_switch.value


def _append(lane: deque[Input], item: Input) -> None:
    """Add the item, or let it replace an older one of its kind."""
    full = len(lane) >= MOST_REPORTS
    if full and isinstance(item, VehicleReport | Position) and isinstance(lane[-1], type(item)):
        lane[-1] = item
    else:
        lane.append(item)
