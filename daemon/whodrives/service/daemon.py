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
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

from whodrives import clock
from whodrives.adaptation.types import TripSamples, UnknownSpeech
from whodrives.audio.blocks import AudioBlock, SourceHealth, SourceState
from whodrives.audio.files import read_file
from whodrives.audio.framing import paced
from whodrives.audio.microphone import Microphone
from whodrives.audio.pipe import read_pipe
from whodrives.audio.supervisor import PROGRESS_S, FromMicrophone, Watched, shed
from whodrives.config.schema import MICROPHONE, PIPE, Config
from whodrives.core.events import Event, Health, Input
from whodrives.enrolment.session import Outcome
from whodrives.enrolment.types import Enrol, EnrolmentStage, EnrolmentState, Problem, StoreVoice
from whodrives.errors import ConfigError, ProfileError, WhodrivesError
from whodrives.mqtt.bus import Bus
from whodrives.mqtt.encode import Vitals
from whodrives.service.channels import taken_channel
from whodrives.service.claim import Claim
from whodrives.service.inbox import Inbox
from whodrives.service.learning import Learning, forget
from whodrives.service.log import LogFilter, bounded_log, report
from whodrives.service.pipe import TICK_S, Pipe
from whodrives.service.signals import Orders
from whodrives.service.systemd import notify
from whodrives.service.wiring import (
    household,
    load_hearing,
    load_policy,
    open_journal,
    open_store,
    runtime_folder,
)
from whodrives.store.calendar import now
from whodrives.store.journal import Commands
from whodrives.store.record import Consent
from whodrives.trip.types import (
    Begin,
    Cancel,
    CommandResult,
    DriverState,
    Erase,
    PersistTrip,
    SavePreferences,
    SettledBy,
)
from whodrives.voice.profile import Household, Profile

log = logging.getLogger(__name__)

T = TypeVar("T")


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


WATCHDOG_S = 1.0
"""systemd is told this often that sound is heard."""


class _StopError(Exception):
    """To stop; the text says by what."""


def _drained(queue: SimpleQueue[T]) -> list[T]:
    """All that is in a queue."""
    items: list[T] = []
    with contextlib.suppress(Empty):
        while True:
            items.append(queue.get_nowait())
    return items


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
    with contextlib.closing(Claim()) as claim, orders.taken(), bounded_log() as log_limit:
        claim.take(config)
        daemon: Daemon | None = Daemon(config, read, orders, claim, log_limit)
        while daemon is not None:
            daemon = daemon.run()


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
        log_limit: LogFilter | None = None,
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
        self._log_limit = log_limit or LogFilter()
        self._next: Daemon | None = None
        self._sound = config.sound
        self._recording = None if config.sound.source == MICROPHONE else self._recorded()
        self._microphone = Watched(Microphone(self._sound.device, self._put_sound), self._put_sound)
        policy = load_policy(config)
        self._recognizer, self._enrolling = load_hearing(config, policy)
        self._store = open_store(config)
        self._proved: tuple[str | None, float | None] = (None, None)
        self._drivers: tuple[Profile, ...] = ()
        self._calibration = policy.calibration
        self._learning = Learning(
            self._store, self._calibration, remember_guests=config.guests.remember
        )
        self._signals_of_car = frozenset(config.vehicle.signals)
        self._journal = open_journal(config, self._store)
        memory = Commands(runtime_folder(config) / f"commands-{config.vehicle.id}.json")
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
            path = Path(sound.source)
            taken = taken_channel(path, self._config)
            if taken.of > 1:
                log.info("event=source file=%r reason=%r", sound.source, str(taken))
            return paced(read_file(path, channel=taken.channel), sleep=self._idle)
        pipe = Pipe(lambda: self._idle(0.0), self._rest, self._take)
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
        orders: list[SavePreferences | Erase | StoreVoice | TripSamples | UnknownSpeech] = []
        for event in events:
            if isinstance(event, PersistTrip):
                # Before what follows it is sent: a daemon that dies then asks for nothing twice.
                self._journal.keep(event.memory, self._recognizer.heard_s)
            elif isinstance(event, SavePreferences | Erase | TripSamples | UnknownSpeech):
                orders.append(event)
            else:
                self._say(event)
        if isinstance(news, SourceState):
            self._away = news.health is not SourceHealth.OPEN
        if isinstance(news, AudioBlock | SourceState):
            self._heard_s = clock.now_s()
        for outcome in self._enrolled(news):
            if isinstance(outcome, StoreVoice):
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

    def _execute(
        self, order: SavePreferences | Erase | StoreVoice | TripSamples | UnknownSpeech
    ) -> None:
        """Change the store, let the recognizer know, and answer."""
        if isinstance(order, StoreVoice):
            self._adopt(order)
            return
        if isinstance(order, TripSamples | UnknownSpeech):
            self._learn(order)
            return
        reason = (
            self._preferred(order) if isinstance(order, SavePreferences) else self._erased(order)
        )
        if not reason:
            self._take(self._household())
        self._say(CommandResult(clock.now_s(), order.command, reason))

    def _learn(self, event: TripSamples | UnknownSpeech) -> None:
        """Put what a trip taught into the store; a profile that learned is heard with at once."""
        if isinstance(event, TripSamples):
            if self._learning.learn(event, self._drivers):
                self._take(self._household())
        elif (offered := self._learning.meet(event, self._drivers)) is not None:
            self._say(offered)

    def _adopt(self, order: StoreVoice) -> None:
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

    def _preferred(self, order: SavePreferences) -> str:
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
            silent_s=self._recognizer.silent_s,
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
