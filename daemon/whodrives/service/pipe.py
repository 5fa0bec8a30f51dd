"""Standard input as a source that never blocks the loop."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from io import FileIO

from whodrives import clock
from whodrives.audio.blocks import SourceHealth, SourceState
from whodrives.audio.microphone import STALL_S
from whodrives.errors import SourceError

TICK_S = 0.25
"""Longest wait of a turn; bounds how late a stop is noticed while a pipe gives nothing."""


class Pipe(FileIO):
    """Standard input that never keeps the loop waiting.

    Args:
        turn: called again and again while nothing comes.
        rest: called when nothing is there yet; may take its time.
        take: told that the sound has stopped coming, and that it is back.

    Raises:
        SourceError: standard input cannot be a pipe.
    """

    def __init__(
        self,
        turn: Callable[[], None],
        rest: Callable[[], None],
        take: Callable[[SourceState], None],
    ) -> None:
        if sys.stdin is None or sys.stdin.isatty():
            raise SourceError(
                "the pipe: nothing is piped in; give raw PCM, as in "
                "`arecord -t raw -f S16_LE -r 16000 -c 1 | whodrives run`"
            )
        super().__init__(sys.stdin.fileno(), closefd=False)
        self._turn = turn
        self._rest = rest
        self._take = take
        self._silent = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes, as soon as there are some; none at the end."""
        asked_s = clock.now_s()
        if not select.select([self], [], [], 0.0)[0]:
            self._rest()
        while not select.select([self], [], [], TICK_S)[0]:
            self._turn()
            if not self._silent and clock.now_s() - asked_s > STALL_S:
                self._change(SourceHealth.LOST, "the pipe gives no sound")
        data: bytes = super().read(size)
        if data and self._silent:
            self._change(SourceHealth.OPEN)
        return data

    def _change(self, health: SourceHealth, reason: str = "") -> None:
        self._silent = health is SourceHealth.LOST
        self._take(SourceState(clock.now_s(), health, reason))
