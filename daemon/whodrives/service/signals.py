"""SIGTERM, SIGINT and SIGHUP as flags that the loop reads."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


class SignalFlags:
    """What the process was told by signals, or over the control socket, for whichever daemon runs.

    Attributes:
        stop: the name of the signal that ends us; empty until one does.
        reload: whether all is to be read again.
        wake: ends the daemon's wait, however much waits in its inbox.
    """

    def __init__(self) -> None:
        self.stop = ""
        self.reload = False
        self.wake: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Take SIGTERM, SIGINT and SIGHUP for as long as the block runs."""
        handlers = {signal.SIGTERM: self._end, signal.SIGINT: self._end, signal.SIGHUP: self._renew}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def renew(self) -> None:
        """Have all read again."""
        self.reload = True
        self.wake()

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self.stop = signal.Signals(number).name
        self.wake()

    def _renew(self, _number: int, _frame: FrameType | None) -> None:
        self.renew()
