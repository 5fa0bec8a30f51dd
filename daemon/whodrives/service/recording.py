"""A file or a pipe as a source: a producer on a thread of its own, and standard input for it.

The thread reads, puts blocks into the inbox, and waits whenever the loop has not taken them: no
sound of a recording is lost. It may be stuck in a pipe for ever; nothing waits for it.
"""

from __future__ import annotations

import select
import sys
import threading
from collections.abc import Callable, Iterable
from io import FileIO

from whodrives import clock
from whodrives.audio.blocks import AudioBlock, SourceHealth, SourceState
from whodrives.audio.microphone import STALL_S
from whodrives.errors import SourceError

TICK_S = 0.25
"""How often a pipe that gives nothing is looked at."""


class Recording:
    """Puts what a recording gives, then `SourceState(ENDED)`; see `daemon.Source`.

    Args:
        blocks: with times on the boot-time clock, as they are due.
        put: takes blocks and states; may wait, which keeps the recording waiting.
        wake: ends the loop's wait.
    """

    def __init__(
        self,
        blocks: Iterable[AudioBlock],
        put: Callable[[AudioBlock | SourceState], None],
        wake: Callable[[], None],
    ) -> None:
        self._blocks = blocks
        self._put = put
        self._wake = wake
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def tend(self, now_s: float) -> None:
        """Start to read, at the first call.

        Raises:
            SourceError: the recording is damaged, or the pipe carries no raw sound.
        """
        if self._thread is None:
            self._put(SourceState(now_s, SourceHealth.OPEN))
            self._thread = threading.Thread(target=self._read, name="recording", daemon=True)
            self._thread.start()
        if self._error is not None:
            raise self._error

    def taken(self, state: SourceState) -> None:
        """Nothing to do: a recording is not opened again."""

    def hangs(self, _now_s: float) -> bool:
        """Whether it does not come back; a pipe that gives nothing is known to be away."""
        return False

    def close(self) -> None:
        """Nothing to close; the thread ends with the process."""

    def _read(self) -> None:
        try:
            for block in self._blocks:
                self._put(block)
            self._put(SourceState(clock.now_s(), SourceHealth.ENDED, "the recording has ended"))
        except Exception as error:  # noqa: BLE001 (it is raised by `tend`, in the loop)
            self._error = error
            self._wake()


class Pipe(FileIO):
    """Standard input, read by the producer's thread.

    Args:
        rest: called when nothing is there yet; may take its time.
        put: told that the sound has stopped coming, and that it is back.

    Raises:
        SourceError: standard input cannot be a pipe.
    """

    def __init__(self, rest: Callable[[], None], put: Callable[[SourceState], None]) -> None:
        if sys.stdin is None or sys.stdin.isatty():
            raise SourceError(
                "the pipe: nothing is piped in; give raw PCM, as in "
                "`arecord -t raw -f S16_LE -r 16000 -c 1 | whodrives run`"
            )
        super().__init__(sys.stdin.fileno(), closefd=False)
        self._rest = rest
        self._put = put
        self._silent = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes, as soon as there are some; none at the end."""
        asked_s = clock.now_s()
        if not select.select([self], [], [], 0.0)[0]:
            self._rest()
        while not select.select([self], [], [], TICK_S)[0]:
            if not self._silent and clock.now_s() - asked_s > STALL_S:
                self._change(SourceHealth.LOST, "the pipe gives no sound")
        data: bytes = super().read(size)
        if data and self._silent:
            self._change(SourceHealth.OPEN)
        return data

    def _change(self, health: SourceHealth, reason: str = "") -> None:
        self._silent = health is SourceHealth.LOST
        self._put(SourceState(clock.now_s(), health, reason))
