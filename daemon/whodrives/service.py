"""The daemon: wires the adapters to the recognizer, runs the one loop, and keeps itself healthy.

Owns the inbox, the order of turns, signals, systemd's notifications, and what is retried when.
Decides nothing about voices or cars. There is one thread of our own, this one; PortAudio's and
paho's put into the inbox and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import TypeAlias

from whodrives.bus import Bus
from whodrives.capture import Microphone, paced, read_file, read_pipe
from whodrives.config import MICROPHONE, PIPE, Config, Sound
from whodrives.decision import Policy
from whodrives.domain import (
    Apply,
    AudioBlock,
    Event,
    Health,
    Household,
    Input,
    LinkState,
    ProfileError,
    Recognition,
    SourceError,
    SourceHealth,
    SourceState,
    Tick,
)
from whodrives.inference import (
    load_calibration,
    load_encoder,
    load_gate,
)
from whodrives.profiles import ProfileStore
from whodrives.recognizer import Recognizer

log = logging.getLogger(__name__)

TICK_S = 0.25
"""Longest time between two looks at the clock; bounds how long a stop takes."""

WATCHDOG_S = 1.0
"""systemd is told this often that the loop turns."""

RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses between attempts to open the microphone; the last one is repeated for ever."""


@dataclass(frozen=True, slots=True)
class _Stop:
    reason: str


@dataclass(frozen=True, slots=True)
class _Reload:
    pass


_Item: TypeAlias = Input | _Stop | _Reload


def load_recognizer(config: Config) -> Recognizer:
    """The recognizer with the configured models and promise.

    Raises:
        ModelError: a model file is missing, changed or does not fit its calibration.
    """
    models = Path(config.models.directory)
    policy = Policy(load_calibration(models), config.recognition.strangers)
    return Recognizer(load_gate(models), load_encoder(models), policy)


def open_store(config: Config) -> ProfileStore:
    """The configured profiles, for the configured encoder and car.

    Raises:
        ModelError: there is no encoder to bind them to.
    """
    return ProfileStore(
        directory=Path(config.profiles.directory),
        key_file=Path(config.profiles.key_file),
        encoder=load_calibration(Path(config.models.directory)).encoder,
        limits=config.vehicle.signals,
    )


def household(store: ProfileStore, at_s: float) -> Household:
    """Everybody who is enrolled, and what is wrong with the profiles that cannot be used.

    A store that cannot be read at all is a household of nobody, with the reason.
    """
    try:
        loaded = store.load()
    except ProfileError as error:
        return Household(at_s, (), (str(error),))
    return Household(at_s, tuple(stored.profile for stored in loaded.profiles), loaded.problems)


class _Recording:
    """The blocks of the configured file or pipe, in real time.

    Raises:
        SourceError: the file or the pipe cannot be used.
    """

    def __init__(self, sound: Sound) -> None:
        # Unbuffered: what a buffer holds would be invisible to `ready`.
        self._pipe = FileIO(sys.stdin.fileno(), closefd=False) if sound.source == PIPE else None
        blocks = (
            read_pipe(self._pipe, sound.rate_hz, sound.channels)
            if self._pipe
            else read_file(Path(sound.source))
        )
        self._blocks = paced(blocks)

    def ready(self) -> bool:
        """Wait a little for sound, and say whether there is some."""
        return self._pipe is None or bool(select.select([self._pipe], [], [], TICK_S)[0])

    def next(self) -> AudioBlock | None:
        """The next block when it is time for it; None at the end."""
        return next(self._blocks, None)


def replay(
    recognizer: Recognizer, house: Household, blocks: Iterable[AudioBlock], news: Sequence[Input]
) -> Iterator[Event]:
    """What the daemon would have said of a recording; the same every time.

    Args:
        recognizer: a fresh one.
        house: the enrolled drivers.
        blocks: the recording; time is its position in it.
        news: what the car said meanwhile, by ascending `at_s`.

    Yields:
        Every event, in order. The broker is taken to be there all the time.
    """
    waiting = deque(news)
    end_s = 0.0
    for start in (house, SourceState(0.0, SourceHealth.OPEN), LinkState(0.0, connected=True)):
        yield from recognizer.step(start)
    for block in blocks:
        while waiting and waiting[0].at_s <= block.at_s:
            yield from recognizer.step(waiting.popleft())
        yield from recognizer.step(block)
        end_s = block.at_s
    yield from recognizer.step(SourceState(end_s, SourceHealth.ENDED, "the recording has ended"))


class Daemon:
    """The one loop: takes what comes in, lets the recognizer decide, says what follows.

    Args:
        config: everything that can be set; its paths are ready to use.

    Raises:
        ModelError, SourceError, BusError: what it needs cannot work as configured.
    """

    def __init__(self, config: Config) -> None:
        self._inbox: SimpleQueue[_Item] = SimpleQueue()
        self._recognizer = load_recognizer(config)
        self._store = open_store(config)
        recorded = config.sound.source != MICROPHONE
        self._recording = _Recording(config.sound) if recorded else None
        self._microphone = _Watched(
            Microphone(config.sound.device, self._inbox.put), self._inbox.put
        )
        self._bus = Bus(config.mqtt, config.vehicle.id, self._inbox.put)
        self._fed_s = float("-inf")

    def run(self) -> None:
        """Work until told to stop, or until the recording ends."""
        with self._signals():
            self._bus.start()
            self._take(household(self._store, time.monotonic()))
            notify("READY=1", "STATUS=listening")
            reason = self._play(self._recording) if self._recording else self._listen()
        notify("STOPPING=1")
        log.info("event=stopping reason=%r", reason)
        self._microphone.close()
        self._bus.stop()

    def _listen(self) -> str:
        """The microphone's loop; returns why it ended."""
        while True:
            now_s = time.monotonic()
            self._microphone.tend(now_s)
            self._bus.poll(now_s)
            self._feed_watchdog(now_s)
            try:
                item = self._inbox.get(timeout=TICK_S)
            except Empty:
                item = Tick(time.monotonic())
            if isinstance(item, _Stop):
                return item.reason
            self._take(item)

    def _play(self, recording: _Recording) -> str:
        """The loop over a file or a pipe, in real time; returns why it ended."""
        self._take(SourceState(time.monotonic(), SourceHealth.OPEN))
        while True:
            now_s = time.monotonic()
            self._bus.poll(now_s)
            self._feed_watchdog(now_s)
            while not self._inbox.empty():
                item = self._inbox.get()
                if isinstance(item, _Stop):
                    return item.reason
                self._take(item)
            if not recording.ready():
                self._take(Tick(time.monotonic()))
                continue
            block = recording.next()
            if block is None:
                reason = "the recording has ended"
                self._take(SourceState(time.monotonic(), SourceHealth.ENDED, reason))
                return reason
            self._take(block)

    def _take(self, item: Input | _Reload) -> None:
        """One turn: one input in, its events out."""
        if isinstance(item, _Reload):
            item = household(self._store, time.monotonic())
            log.info(
                "event=reloaded enrolled=%d problems=%d", len(item.profiles), len(item.problems)
            )
        if isinstance(item, AudioBlock):
            self._microphone.taken(item)
        elif isinstance(item, SourceState):
            self._microphone.changed(item)
        for event in self._recognizer.step(item):
            self._bus.publish(event)
            report(event, time.monotonic())

    def _feed_watchdog(self, now_s: float) -> None:
        """Only this loop feeds it, so neither a stuck model nor a stuck store can."""
        if now_s - self._fed_s >= WATCHDOG_S:
            self._fed_s = now_s
            notify("WATCHDOG=1")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Take SIGTERM, SIGINT and SIGHUP for as long as the block runs."""
        handlers = {
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGHUP: lambda _number, _frame: self._inbox.put(_Reload()),
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self._inbox.put(_Stop(signal.Signals(number).name))


class _Watched:
    """A microphone that is opened, watched and opened again for ever.

    A pure schedule around the device: `tend` is called with the time, often.
    """

    def __init__(self, microphone: Microphone, put: Callable[[Input], None]) -> None:
        self._microphone = microphone
        self._put = put
        self._open = False
        self._failures = 0
        self._retry_at_s = 0.0
        self._reason = ""

    def tend(self, now_s: float) -> None:
        """Open it when it is time; give it up when it is stuck."""
        if self._open:
            if self._microphone.stalled(now_s):
                self._put(SourceState(now_s, SourceHealth.LOST, "the device gives no sound"))
                self._lose(now_s, "the device gives no sound")
        elif now_s >= self._retry_at_s:
            self._try(now_s)

    def changed(self, state: SourceState) -> None:
        """Hear what became of the device."""
        if state.health is SourceHealth.OPEN:
            log.info("event=sound_open")
            self._failures, self._reason = 0, ""
        elif self._open:
            self._lose(state.at_s, state.reason)

    def taken(self, _block: AudioBlock) -> None:
        """A block was taken out of the inbox."""
        self._microphone.taken()

    def close(self) -> None:
        """Let go of the device."""
        self._microphone.close()

    def _try(self, now_s: float) -> None:
        try:
            self._microphone.open()
            self._open = True
        except SourceError as error:
            if self._reason != str(error):
                self._put(SourceState(now_s, SourceHealth.LOST, str(error)))
            self._lose(now_s, str(error))

    def _lose(self, now_s: float, reason: str) -> None:
        level = logging.DEBUG if self._reason == reason else logging.WARNING
        self._microphone.close()
        self._open, self._reason = False, reason
        pause_s = RETRY_S[min(self._failures, len(RETRY_S) - 1)]
        self._failures += 1
        self._retry_at_s = now_s + pause_s
        log.log(level, "event=sound_lost retry_s=%.0f reason=%r", pause_s, reason)


def report(event: Event, now_s: float) -> None:
    """Log an event in one line: never a name, never sound, never an embedding."""
    if isinstance(event, Recognition):
        verdict, evidence = event.verdict, event.verdict.evidence
        best = f"{evidence.matches[0].llr:.2f}" if evidence.matches else "-"
        log.info(
            "event=recognition outcome=%s driver=%s speech_s=%.2f llr=%s delay_ms=%.0f",
            *(verdict.outcome, verdict.driver or "-", evidence.speech_s, best),
            1000 * (now_s - event.at_s),
        )
    elif isinstance(event, Apply):
        log.info("event=apply driver=%s signals=%d", event.driver, len(event.signals))
    elif isinstance(event, Health):
        level = logging.WARNING if event.reasons else logging.INFO
        log.log(
            level,
            "event=health state=%s reasons=%r",
            "degraded" if event.reasons else "online",
            event.reasons,
        )
    else:
        log.info(
            "event=driver driver=%s preferences=%s waiting_for=%s",
            event.driver or "-",
            event.delivery,
            ",".join(event.waiting_for) or "-",
        )


def notify(*lines: str) -> None:
    """Tell systemd, if it started us (sd_notify(3)); silently nothing otherwise."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    path = "\0" + address[1:] if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.sendto("\n".join(lines).encode(), path)
