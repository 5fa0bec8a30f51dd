"""The daemon: wires the adapters to the recognizer, runs the one loop, and keeps itself healthy.

Owns the inbox, the order of turns, signals, systemd's notifications, and what is retried when.
Decides nothing about voices or cars. This thread does all the work; PortAudio's and paho's put into
the inbox and nothing else, and a device is opened and closed on a thread of its own, because that
may never come back. Wherever this thread waits, for the inbox, for a pipe or for a file's time to
come, it keeps taking turns: nothing that is slow outside stops it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import signal
import socket
import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from io import FileIO
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import TypeAlias, TypeVar

from whodrives import clock
from whodrives.bus import Bus
from whodrives.capture import STALL_S, Microphone, paced, read_file, read_pipe
from whodrives.claim import Claim
from whodrives.config import MICROPHONE, PIPE, Config
from whodrives.contract import Vitals
from whodrives.decision import Policy
from whodrives.domain import (
    Adopt,
    Apply,
    AudioBlock,
    Begin,
    Cancel,
    CommandResult,
    ConfigError,
    DriverState,
    Enrol,
    EnrolmentStage,
    EnrolmentState,
    Erase,
    Event,
    Guests,
    Health,
    Household,
    Input,
    Learn,
    LinkState,
    Met,
    Prefer,
    Problem,
    Profile,
    ProfileError,
    Recognition,
    Remember,
    SettledBy,
    SourceError,
    SourceHealth,
    SourceState,
    Stray,
    WhodrivesError,
    Withdraw,
)
from whodrives.enrolling import Enrolling, Outcome
from whodrives.inbox import Inbox
from whodrives.inference import (
    load_calibration,
    load_encoder,
    load_gate,
)
from whodrives.journal import Commands, Journal
from whodrives.learning import Learning, forget
from whodrives.loglimit import LogLimit
from whodrives.profiles import Consent, ProfileStore, now
from whodrives.recognizer import Recognizer

log = logging.getLogger(__name__)

TICK_S = 0.25
"""Longest wait of a turn; bounds how late a stop is noticed while a pipe gives nothing."""

QUIET_REST_S = 0.6
SPEECH_REST_S = 0.04
"""So long sound gathers before it is heard at one go: while no verdict is near, and while one is.

Waking costs more than hearing: 30 ms leave the caches cold (docs/performance.md). The price is that
a decision may come so much later; the longer rest delays none, as an utterance is a second old
before anything is decided. News of the car ends either, and so does what becomes of microphone and
broker.
"""

GATHERED_BLOCKS = 24
"""Where so many blocks have come, they are heard without a rest."""

LATE_S = 2.0
"""Sound of a microphone that waited for longer is not heard any more."""

WATCHDOG_S = 1.0
"""systemd is told this often that sound is heard."""

PROGRESS_S = 5.0
"""Sound that was not heard for so long, and is not known to be away, is not going to be."""

LINES_A_MINUTE = 60
"""Log lines of one kind (`event=...`) that are written in a minute; the rest are counted."""

FAREWELL_S = 0.2
"""So long a device may take to close at the end."""

HANGS = "the sound system does not answer"

RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses between attempts to open the microphone; the last one is repeated for ever."""


FromMicrophone: TypeAlias = AudioBlock | SourceState

T = TypeVar("T")


class _StopError(Exception):
    """To stop; the text says by what."""


def shed(items: Sequence[FromMicrophone], now_s: float) -> tuple[Sequence[FromMicrophone], int]:
    """The items as they are while we keep up; when we do not, without the sound that waited.

    Who is behind by more than LATE_S at monotonic `now_s` would stay so, and decide ever later. So
    the utterance under way is given up for the next one: of the blocks only the last is kept, with
    `gap` set.

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


def _drained(queue: SimpleQueue[T]) -> list[T]:
    """All that is in a queue."""
    items: list[T] = []
    with contextlib.suppress(Empty):
        while True:
            items.append(queue.get_nowait())
    return items


def load_policy(config: Config) -> Policy:
    """The configured promise, with the encoder's calibration.

    Raises:
        ModelError: the calibration is missing or does not fit the encoder.
    """
    return Policy(load_calibration(Path(config.models.directory)), config.recognition.strangers)


def load_recognizer(config: Config) -> Recognizer:
    """The recognizer with the configured models and promise.

    Raises:
        ModelError: a model file is missing, changed or does not fit its calibration.
    """
    return _load_hearing(config, load_policy(config))[0]


def _load_hearing(config: Config, policy: Policy) -> tuple[Recognizer, Enrolling]:
    """What hears who drives, and what hears who enrols, with one encoder between them."""
    models = Path(config.models.directory)
    encoder = load_encoder(models)
    recognizer = Recognizer(load_gate(models), encoder, policy)
    return recognizer, Enrolling(lambda: load_gate(models), encoder, policy)


def open_store(config: Config) -> ProfileStore:
    """The configured profiles, for the configured encoder and car.

    Raises:
        ModelError: there is no encoder to bind them to.
    """
    calibration = load_calibration(Path(config.models.directory))
    return ProfileStore(
        directory=Path(config.profiles.directory),
        key_file=Path(config.profiles.key_file),
        encoder=calibration.encoder,
        limits=config.vehicle.signals,
        vehicle=config.vehicle.id,
        dimension=calibration.mean.size,
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


def open_journal(config: Config, store: ProfileStore) -> Journal:
    """Where this configuration's daemon remembers its trip."""

    def key() -> bytes | None:
        with contextlib.suppress(ProfileError):  # an empty store has no key yet
            return store.derived_key("trip")
        return None

    return Journal(_runtime_folder(config) / f"trip-{config.vehicle.id}.json", key)


def _runtime_folder(config: Config) -> Path:
    """Systemd's runtime directory; beside the profiles' key if a person started the daemon."""
    given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Path(given) if given else Path(config.profiles.key_file).parent


class _Pipe(FileIO):
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
    for start in (
        Begin(0.0, "replay"),
        house,
        SourceState(0.0, SourceHealth.OPEN),
        LinkState(0.0, connected=True),
    ):
        yield from recognizer.step(start)
    for block in blocks:
        while waiting and waiting[0].at_s <= block.at_s:
            yield from recognizer.step(waiting.popleft())
        yield from recognizer.step(block)
        end_s = block.at_s
    yield from recognizer.step(SourceState(end_s, SourceHealth.ENDED, "the recording has ended"))


def serve(read: Callable[[], Config]) -> None:
    """Run the daemon until it is told to stop, or until the recording ends.

    SIGTERM and SIGINT end it. SIGHUP lets it read profiles and configuration again; a configuration
    that is wrong is logged, and the one before stays.

    Args:
        read: gives the configuration; its paths are ready to use.

    Raises:
        ConfigError, ModelError, BusError: what it needs cannot work as configured.
        BusyError: another daemon serves this car, or uses its profiles.
        SourceError: the recording is damaged, or the pipe carries no raw sound.
    """
    orders = Orders()
    config = read()
    with contextlib.closing(Claim()) as claim, orders.taken(), _bounded_log() as log_limit:
        claim.take(config)
        daemon: Daemon | None = Daemon(config, read, orders, claim, log_limit)
        while daemon is not None:
            daemon = daemon.run()


class _LogFilter(logging.Filter):
    """Bounds how often a line of one kind is logged, whatever multiplies it."""

    def __init__(self) -> None:
        super().__init__()
        self._limit = LogLimit(LINES_A_MINUTE)
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be written."""
        with self._lock:
            return self._limit.admits(str(record.msg).split()[0], clock.now_s())

    def tend(self, now_s: float = math.inf) -> None:
        """Log how many lines were suppressed, in the minutes that are over by `now_s`."""
        with self._lock:
            over = self._limit.over(now_s)
        for kind, lines in over:
            log.warning("event=suppressed of=%r lines=%d", kind, lines)


@contextlib.contextmanager
def _bounded_log() -> Iterator[_LogFilter]:
    """Put the filter before everything that is written, for as long as the block runs."""
    made = _LogFilter()
    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(made)
    try:
        yield made
    finally:
        made.tend()
        for handler in handlers:
            handler.removeFilter(made)


class Orders:
    """What the process was told by signals, for whichever daemon runs.

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

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self.stop = signal.Signals(number).name
        self.wake()

    def _renew(self, _number: int, _frame: FrameType | None) -> None:
        self.reload = True
        self.wake()


class Daemon:
    """The one loop: takes what comes in, lets the recognizer decide, says what follows.

    Args:
        config: everything that can be set; its paths are ready to use.
        read: gives the configuration as it is now, when it is to be read again.
        orders: what the process is told by signals.
        claim: what keeps another daemon from serving this car; the car is claimed already.
        log_limit: bounds the log.

    Raises:
        ModelError, BusError, SourceError: what it needs cannot work as configured.
    """

    def __init__(
        self,
        config: Config,
        read: Callable[[], Config],
        orders: Orders,
        claim: Claim | None = None,
        log_limit: _LogFilter | None = None,
    ) -> None:
        # Apart, so that news ends the rest in which sound gathers, and is taken before it.
        self._inbox = Inbox()
        self._from_microphone: SimpleQueue[FromMicrophone] = SimpleQueue()
        self._gathered: list[AudioBlock] = []
        self._config = config
        self._read = read
        self._orders = orders
        self._claim = claim or Claim()
        self._reasons: tuple[str, ...] = ()
        self._log_limit = log_limit or _LogFilter()
        self._next: Daemon | None = None
        self._sound = config.sound
        self._recording = None if config.sound.source == MICROPHONE else self._recorded()
        self._microphone = _Watched(
            Microphone(self._sound.device, self._put_sound), self._put_sound
        )
        policy = load_policy(config)
        self._recognizer, self._enrolling = _load_hearing(config, policy)
        self._store = open_store(config)
        self._proved: tuple[str | None, float | None] = (None, None)
        self._drivers: tuple[Profile, ...] = ()
        self._calibration = policy.calibration
        self._learning = Learning(
            self._store, self._calibration, remember_guests=config.guests.remember
        )
        self._signals_of_car = frozenset(config.vehicle.signals)
        self._journal = open_journal(config, self._store)
        memory = Commands(_runtime_folder(config) / f"commands-{config.vehicle.id}.json")
        self._bus = Bus(config.mqtt, config.vehicle, self._inbox.put, self._vitals, memory)
        self._fed_s = self._heard_s = float("-inf")
        self._away = True

    def run(self) -> Daemon | None:
        """Work until told to stop, or until the recording ends.

        However it ends, an error included, the car is told first that whodrives is offline.

        Returns:
            The daemon that follows, if the configuration was changed.

        Raises:
            SourceError: the recording is damaged, or the pipe carries no raw sound.
        """
        reason = "an error"
        try:
            reason = self._work()
        finally:
            if self._next is None:
                notify("STOPPING=1")
            log.info("event=stopping reason=%r", reason)
            self._bus.stop()
            self._microphone.close()
        return self._next

    def _work(self) -> str:
        """Start, and go on until something ends it; returns what that was."""
        self._orders.wake = self._inbox.wake
        self._claim.keep_only(self._config)
        self._bus.start()
        remembered, gone_s = self._journal.recall()
        if remembered is not None:
            log.info("event=resumed gone_s=%.1f", gone_s)
        self._take(Begin(clock.now_s(), uuid.uuid4().hex, remembered, gone_s))
        self._take(self._household())
        notify("READY=1")
        try:
            if self._recording is None:
                self._listen()
            else:
                self._play(self._recording)
        except _StopError as stop:
            return str(stop)
        return "the recording has ended"

    def _put_sound(self, item: FromMicrophone) -> None:
        """Take in what comes from the microphone, on whichever thread; its fate ends a rest."""
        self._from_microphone.put(item)
        if isinstance(item, SourceState):
            self._inbox.wake()

    def _listen(self) -> None:
        """The microphone's loop."""
        while True:
            self._microphone.tend(clock.now_s())
            behind = self._from_microphone.qsize() >= GATHERED_BLOCKS
            self._turn(0.0 if behind else self._rest_s())
            self._take_all()

    def _take_all(self) -> None:
        """Take all that has come: the news first, so that nothing is decided on an older state."""
        # What comes meanwhile waits: a flood must not keep sound from being heard.
        for _ in range(self._inbox.qsize()):
            if (news := self._inbox.pop()) is not None:
                self._take(news)
        sound = _drained(self._from_microphone)
        now_s = clock.now_s()
        items, dropped = shed(sound, now_s)
        if dropped:
            log.warning("event=behind late_s=%.1f dropped=%d", now_s - sound[0].at_s, dropped)
        for item in items:
            if isinstance(item, AudioBlock):
                self._gathered.append(item)
            else:
                self._hear()
                self._take(item)
        self._hear()
        for item in sound:
            self._microphone.taken(item)

    def _play(self, blocks: Iterable[AudioBlock]) -> None:
        """The loop over a file or a pipe; turns are taken while its next block is waited for."""
        self._take(SourceState(clock.now_s(), SourceHealth.OPEN))
        for block in blocks:
            self._gathered.append(block)
            if len(self._gathered) >= GATHERED_BLOCKS:
                self._hear()
                self._care()
        self._hear()
        ended = SourceState(clock.now_s(), SourceHealth.ENDED, "the recording has ended")
        self._take(ended)

    def _recorded(self) -> Iterator[AudioBlock]:
        """The configured file in real time, or the configured pipe as it comes."""
        sound = self._sound
        if sound.source != PIPE:
            return paced(read_file(Path(sound.source)), sleep=self._idle)
        pipe = _Pipe(lambda: self._idle(0.0), self._rest, self._take)
        # A live pipe keeps time itself; by our clock it would fall behind little by little.
        return paced(
            read_pipe(pipe, sound.rate_hz, sound.channels), sleep=lambda _: self._take_news()
        )

    def _rest(self) -> None:
        """Hear a pipe's sound, and let it gather again; news of the car ends it."""
        self._hear()
        self._turn(self._rest_s())

    def _rest_s(self) -> float:
        return SPEECH_REST_S if self._recognizer.awaits_verdict else QUIET_REST_S

    def _take_news(self) -> None:
        """Before a block of the pipe, which tells the time itself: take what came meanwhile."""
        if self._inbox.qsize():
            self._take_all()

    def _idle(self, seconds: float) -> None:
        """Take turns for so long, and until all is taken that waited then."""
        until_s = clock.now_s() + seconds
        while (left_s := until_s - clock.now_s()) > 0.0:
            self._turn(min(left_s, TICK_S))
        for _ in range(max(1, self._inbox.qsize())):
            self._turn(0.0)

    def _turn(self, wait_s: float) -> None:
        """Hear what sound has gathered, and take one input, or the passing of `wait_s`.

        Then care for bus and watchdog.
        """
        self._hear()
        self._take(self._inbox.get(wait_s))
        self._care()

    def _care(self) -> None:
        """Keep bus and watchdog going, and do what the process is told."""
        now_s = clock.now_s()
        self._bus.poll(now_s)
        self._log_limit.tend(now_s)
        self._feed_watchdog(now_s)
        if self._orders.stop:
            raise _StopError(self._orders.stop)
        if self._orders.reload:
            self._orders.reload = False
            self._reload()

    def _take(self, news: Input) -> None:
        """One input in, its events out."""
        for void in self._inbox.cancelled(news) if isinstance(news, Cancel) else ():
            if void.command is not None:
                self._say(CommandResult(news.at_s, void.command, "cancelled"))
        self._follow(news, self._recognizer.step(news))

    def _hear(self) -> None:
        """The blocks that have gathered in, their events out."""
        blocks, self._gathered = self._gathered, []
        for block, events in zip(blocks, self._recognizer.hear(blocks), strict=True):
            self._follow(block, events)

    def _follow(self, news: Input, events: Iterable[Event]) -> None:
        """Do what follows from an input."""
        orders: list[Prefer | Erase | Adopt | Learn | Met] = []
        for event in events:
            if isinstance(event, Remember):
                # Before what follows it is sent: a daemon that dies then asks for nothing twice.
                self._journal.keep(event.memory, self._recognizer.heard_s)
            elif isinstance(event, Prefer | Erase | Learn | Met):
                orders.append(event)
            else:
                self._say(event)
        if isinstance(news, SourceState):
            self._away = news.health is not SourceHealth.OPEN
        if isinstance(news, AudioBlock | SourceState):
            self._heard_s = clock.now_s()
        for outcome in self._enrolled(news):
            if isinstance(outcome, Adopt):
                orders.append(outcome)
            else:
                self._say(outcome)
        if isinstance(news, Household):
            self._drivers = news.profiles
            self._say(self._learning.tidy(news.profiles, news.at_s))
        for order in orders:
            self._execute(order)

    def _enrolled(self, news: Input) -> list[Outcome]:
        """What follows for the enrolment that the head unit asks for."""
        if isinstance(news, Enrol):
            try:
                # Nobody is to speak for a voice that cannot be kept.
                self._store.rehearse()
            except ProfileError as error:
                log.warning("event=not_enrolled reason=%r", str(error))
                return [CommandResult(news.at_s, news.command, "not_stored")]
        if isinstance(news, Enrol) and news.guest is not None:
            return self._enrolling.enrol_guest(news, self._learning.guest(news.guest))
        return self._enrolling.step(news)

    def _say(self, event: Event) -> None:
        if isinstance(event, Health):
            self._reasons = event.reasons
        self._bus.publish(event)
        if isinstance(event, DriverState) and event.settled_by is SettledBy.VOICE:
            self._prove(event)
        report(event, clock.now_s())

    def _prove(self, event: DriverState) -> None:
        """Note that a driver's voice settled a trip: once for each settling."""
        settling = event.driver, event.since_s
        if event.driver is None or settling == self._proved:
            return
        self._proved = settling
        try:
            self._store.recognised(event.driver)
        except ProfileError as error:
            log.warning("event=not_noted reason=%r", str(error))

    def _execute(self, order: Prefer | Erase | Adopt | Learn | Met) -> None:
        """Change the store, let the recognizer know, and answer."""
        if isinstance(order, Adopt):
            self._adopt(order)
            return
        if isinstance(order, Learn | Met):
            self._learn(order)
            return
        reason = self._preferred(order) if isinstance(order, Prefer) else self._erased(order)
        if not reason:
            self._take(self._household())
        self._say(CommandResult(clock.now_s(), order.command, reason))

    def _learn(self, event: Learn | Met) -> None:
        """Put what a trip taught into the store; a profile that learned is heard with at once."""
        if isinstance(event, Learn):
            if self._learning.learn(event, self._drivers):
                self._take(self._household())
        elif (offered := self._learning.meet(event, self._drivers)) is not None:
            self._say(offered)

    def _adopt(self, order: Adopt) -> None:
        """Keep a voice that the head unit had enrolled, and tell it."""
        consent = Consent(order.by, now(), order.text)
        reason, driver = "", order.driver
        try:
            stored = self._store.adopt(driver, order.embeddings, order.speech_s, consent)
            driver = stored.profile.id
        except ProfileError as error:
            log.warning("event=not_enrolled reason=%r", str(error))
            reason = "not_stored"
        now_s = clock.now_s()
        if not reason:
            log.info("event=enrolled driver=%s speech_s=%.1f", driver, order.speech_s)
            self._take(self._household())
        stage = EnrolmentStage.REFUSED if reason else EnrolmentStage.DONE
        problems = (Problem(reason, "the voice could not be stored"),) if reason else ()
        self._say(EnrolmentState(now_s, order.command, stage, order.speech_s, problems, driver))
        self._say(CommandResult(now_s, order.command, reason))

    def _household(self) -> Household:
        """Everybody who is enrolled, once a guest book that cannot be used is set aside."""
        try:
            self._store.set_aside()
        except ProfileError as error:
            log.warning("event=not_set_aside reason=%r", str(error))
        return household(self._store, clock.now_s())

    def _preferred(self, order: Prefer) -> str:
        """Keep the position of what this car's drivers may set; why not, if it cannot be."""
        wanted = {p: v for p, v in order.signals.items() if p in self._signals_of_car}
        if not wanted:
            return "no_position"
        try:
            self._store.adjust_preferences(order.driver, wanted)
        except ProfileError as error:
            log.warning("event=not_stored reason=%r", str(error))
            return "not_stored"
        return ""

    def _erased(self, order: Erase) -> str:
        """Erase who is named by id; why not, if that cannot be."""
        try:
            # What came over the bus may be anything, a name too: it is not repeated.
            if not self._store.holds(order.driver):
                return "unknown_driver"
            forget(self._store, order.driver, self._calibration)
        except ProfileError as error:
            log.warning("event=not_erased reason=%r", str(error))
            return "not_erased"
        return ""

    def _vitals(self) -> Vitals:
        """How the loop does; the bus adds what it counts itself."""
        return Vitals(
            requests=self._recognizer.live_requests,
            backlog=self._inbox.qsize() + self._from_microphone.qsize(),
            encoder=self._recognizer.fingerprint,
        )

    def _reload(self) -> None:
        """Read configuration and profiles again.

        Another configuration is another daemon's, which is made before this one ends: if it cannot
        be, everything stays as it is.
        """
        try:
            self._next = self._follower()
        except WhodrivesError as error:
            log.warning("event=not_configured reason=%r", str(error))
        if self._next is not None:
            # What has come and was not taken would be lost with it.
            self._take_all()
            raise _StopError("another configuration")
        house = self._household()
        self._take(house)
        enrolled, problems = len(house.profiles), len(house.problems)
        log.info("event=reloaded enrolled=%d problems=%d", enrolled, problems)

    def _follower(self) -> Daemon | None:
        """The daemon for the configuration as it is now, if that was changed."""
        config = self._read()
        if config == self._config:
            return None
        if self._recording is not None or config.sound.source != MICROPHONE:
            raise ConfigError(
                "a file or a pipe is heard from its start: restart whodrives to change settings"
            )
        self._claim.take(config)
        return Daemon(config, self._read, self._orders, self._claim, self._log_limit)

    def _feed_watchdog(self, now_s: float) -> None:
        """Tell systemd that we do what we are for.

        Only this loop does, and only while sound is heard or known to be away and tried for: stuck
        models, a stuck store and a stuck sound system are all ended by it.
        """
        if now_s - self._fed_s < WATCHDOG_S:
            return
        self._fed_s = now_s
        self._claim.tend(self._reasons)
        self._journal.beat(self._recognizer.heard_s)
        trying = self._away and not self._microphone.hangs(now_s)
        hearing = not self._away and now_s - self._heard_s < PROGRESS_S
        if trying or hearing:
            notify("WATCHDOG=1")


class _Errand:
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


class _Watched:
    """A microphone that is opened, watched and opened again for ever.

    A pure schedule around the device: `tend` is called with the time, often. It never waits for the
    device, which may hang as long as it likes (a frozen sound server makes it do so).
    """

    def __init__(self, microphone: Microphone, put: Callable[[FromMicrophone], None]) -> None:
        self._microphone = microphone
        self._put = put
        self._open = False
        self._errand: _Errand | None = None
        self._failures = 0
        self._retry_at_s = 0.0
        self._reason = ""

    def tend(self, now_s: float) -> None:
        """Open it when it is time; give it up when it is stuck."""
        if self._errand is not None:
            if self._errand.over():
                error, self._errand = self._errand.error, None
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
            self._errand = _Errand(self._microphone.open)

    def taken(self, item: object) -> None:
        """Hear what was taken out of the inbox: the device's blocks and its fate concern us."""
        if isinstance(item, AudioBlock):
            self._microphone.taken()
        elif isinstance(item, SourceState) and item.health is SourceHealth.OPEN:
            log.info("event=sound_open")
            self._failures, self._reason = 0, ""
        elif isinstance(item, SourceState) and self._open and self._errand is None:
            self._lose(item.at_s, item.reason)

    def hangs(self, now_s: float) -> bool:
        """Whether the device does not come back from being opened or closed."""
        return self._errand is not None and now_s - self._errand.began_s > PROGRESS_S

    def close(self) -> None:
        """Let go of the device; of one that hangs, at once."""
        deadline_s = clock.now_s() + FAREWELL_S
        while self._errand is not None or self._open:
            if self._errand is None:
                self._open, self._errand = False, _Errand(self._microphone.close)
            if not self._errand.over(max(0.0, deadline_s - clock.now_s())):
                log.warning("event=sound_stuck")
                self._microphone.abandon()
                return
            self._errand = None

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
        self._open, self._errand = False, _Errand(self._microphone.close)

    def _note_loss(self, now_s: float, reason: str) -> None:
        level = logging.DEBUG if self._reason == reason else logging.WARNING
        self._reason = reason
        pause_s = RETRY_S[min(self._failures, len(RETRY_S) - 1)]
        self._failures += 1
        self._retry_at_s = now_s + pause_s
        log.log(level, "event=sound_lost retry_s=%.0f reason=%r", pause_s, reason)


def report(event: Event, now_s: float) -> None:
    """Log an event in one line, and show systemd our health; never a name, sound or embedding."""
    if isinstance(event, Recognition):
        verdict, evidence = event.verdict, event.verdict.evidence
        best = f"{evidence.matches[0].llr:.2f}" if evidence.matches else "-"
        log.info(
            "event=recognition outcome=%s driver=%s speech_s=%.2f llr=%s delay_ms=%.0f",
            *(verdict.outcome, verdict.driver or "-", evidence.speech_s, best),
            1000 * (now_s - event.at_s),
        )
    elif isinstance(event, Apply):
        log.info(
            "event=apply driver=%s signals=%d request=%s",
            *(event.driver, len(event.signals), event.request),
        )
    elif isinstance(event, Withdraw):
        log.info("event=withdraw request=%s reason=%s", event.request, event.reason)
    elif isinstance(event, CommandResult):
        log.info("event=command command=%s reason=%s", event.command, event.reason or "-")
    elif isinstance(event, EnrolmentState):
        codes = ",".join(problem.code for problem in event.problems) or "-"
        facts = event.stage, event.speech_s, codes
        log.info("event=enrolment stage=%s speech_s=%.1f problems=%s", *facts)
    elif isinstance(event, Stray):
        log.info("event=stray_answer request=%s", event.request)
    elif isinstance(event, Health):
        state = "degraded" if event.reasons else "online"
        reasons = "; ".join(event.reasons)
        level = logging.WARNING if event.reasons else logging.INFO
        log.log(level, "event=health state=%s reasons=%r", state, reasons)
        notify(f"STATUS={state}{': ' if reasons else ''}{reasons}")
    elif isinstance(event, Guests):
        log.info("event=guests offered=%d", len(event.offers))
    elif isinstance(event, DriverState):
        log.info(
            "event=driver driver=%s settled_by=%s preferences=%s reason=%r waiting_for=%s",
            *(event.driver or "-", event.settled_by or "-", event.delivery, event.reason),
            ",".join(event.waiting_for) or "-",
        )


def notify(*lines: str) -> None:
    """Tell systemd, if it started us (sd_notify(3)); silently nothing otherwise.

    A manager that does not read does not stop us: what it has no room for is lost.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    path = "\0" + address[1:] if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.settimeout(0.0)
        out.sendto("\n".join(" ".join(line.split()) for line in lines).encode(), path)
