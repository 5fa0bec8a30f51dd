"""Keeps a microphone open: opens it, watches it, and opens it again for ever."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeAlias

from whodrives import clock
from whodrives.audio.blocks import AudioBlock, SourceHealth, SourceState
from whodrives.audio.microphone import Microphone
from whodrives.errors import SourceError

log = logging.getLogger(__name__)


PROGRESS_S = 5.0
"""Sound that was not heard for so long, and is not known to be away, is not going to be."""


FAREWELL_S = 0.2
"""So long a device may take to close at the end."""


HANGS = "the sound system does not answer"


RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses between attempts to open the microphone; the last one is repeated for ever."""


FromMicrophone: TypeAlias = AudioBlock | SourceState


class _BackgroundCall:
    """A call on a thread of its own, because it may never come back.

    Attributes:
        error: what it raised, once it is over.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self.error: Exception | None = None
        self.began_s = clock.now_s()
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def over(self, within_s: float = 0.0) -> bool:
        """Whether it came back, or does within so long."""
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._call()
        except Exception as error:  # noqa: BLE001 (it is raised where the result is asked for)
            self.error = error


class SupervisedMicrophone:
    """A microphone that is opened, watched and opened again for ever.

    A pure schedule around the device: `tend` is called with the time, often. It never waits for the
    device, which may hang as long as it likes (a frozen sound server makes it do so).
    """

    def __init__(self, microphone: Microphone, put: Callable[[FromMicrophone], None]) -> None:
        self._microphone = microphone
        self._put = put
        self._open = False
        self._call: _BackgroundCall | None = None
        self._failures = 0
        self._retry_at_s = 0.0
        self._reason = ""

    def tend(self, now_s: float) -> None:
        """Open it when it is time; give it up when it is stuck."""
        if self._call is not None:
            if self._call.over():
                error, self._call = self._call.error, None
                self._came_back(error, now_s)
            elif self.hangs(now_s) and self._reason != HANGS:
                self._put(SourceState(now_s, SourceHealth.LOST, HANGS))
                log.warning("event=sound_hangs reason=%r", HANGS)
                self._reason = HANGS
        elif self._open:
            if self._microphone.stalled(now_s):
                self._put(SourceState(now_s, SourceHealth.LOST, "the device gives no sound"))
                self._lose(now_s, "the device gives no sound")
        elif now_s >= self._retry_at_s:
            self._open = True
            self._call = _BackgroundCall(self._microphone.open)

    def taken(self, state: SourceState) -> None:
        """Take note of a state of the device that was taken out of the inbox."""
        if state.health is SourceHealth.OPEN:
            log.info("event=sound_open")
            self._failures, self._reason = 0, ""
        elif self._open and self._call is None:
            self._lose(state.at_s, state.reason)

    def hangs(self, now_s: float) -> bool:
        """Whether the device does not come back from being opened or closed."""
        return self._call is not None and now_s - self._call.began_s > PROGRESS_S

    def close(self) -> None:
        """Let go of the device; of one that hangs, at once."""
        deadline_s = clock.now_s() + FAREWELL_S
        while self._call is not None or self._open:
            if self._call is None:
                self._open, self._call = False, _BackgroundCall(self._microphone.close)
            if not self._call.over(max(0.0, deadline_s - clock.now_s())):
                log.warning("event=sound_stuck")
                self._microphone.abandon()
                return
            self._call = None

    def _came_back(self, error: Exception | None, now_s: float) -> None:
        """The device was opened or closed, or `error` says why not."""
        if error is None:
            return
        if not isinstance(error, SourceError):
            raise error
        self._open = False
        reason = str(error)
        if self._reason != reason:
            self._put(SourceState(now_s, SourceHealth.LOST, reason))
        self._note_loss(now_s, reason)

    def _lose(self, now_s: float, reason: str) -> None:
        self._note_loss(now_s, reason)
        self._open, self._call = False, _BackgroundCall(self._microphone.close)

    def _note_loss(self, now_s: float, reason: str) -> None:
        level = logging.DEBUG if self._reason == reason else logging.WARNING
        self._reason = reason
        pause_s = RETRY_S[min(self._failures, len(RETRY_S) - 1)]
        self._failures += 1
        self._retry_at_s = now_s + pause_s
        log.log(level, "event=sound_lost retry_s=%.0f reason=%r", pause_s, reason)
