"""The daemon's one loop: takes inputs, lets the engine decide, has its events carried out.

Owns the order of an iteration, the watchdog, and what a signal does. Decides nothing about voices
or cars, and constructs nothing: see `wiring`. All sources put into the inbox from threads of their
own; this thread does all the work, and waits nowhere but for the inbox.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from whodrives import clock
from whodrives.audio.blocks import AudioBlock, SourceHealth, SourceState
from whodrives.audio.supervisor import PROGRESS_S
from whodrives.config.schema import Config
from whodrives.core.events import EnrolReady, Event, Input
from whodrives.enrolment.session import EnrolmentSession
from whodrives.enrolment.types import Enrol
from whodrives.errors import WhodrivesError
from whodrives.service.claim import Claim
from whodrives.service.inbox import Batch, Inbox
from whodrives.service.log import LogFilter, bounded_log
from whodrives.service.signals import SignalFlags
from whodrives.service.systemd import notify
from whodrives.service.wiring import build_daemon
from whodrives.trip.types import Begin, TripSnapshot
from whodrives.voice.profile import Household

log = logging.getLogger(__name__)


QUIET_DELAY_S = 0.6


SPEECH_DELAY_S = 0.04
"""How long sound is batched before it is heard: while no decision is near, and while one is.

Waking costs more than hearing: 30 ms leave the caches cold (docs/performance.md). The price is that
a decision may come so much later; the longer delay costs none, as an utterance is a second old
before anything is decided. Any other input ends it, and so does a change of microphone or broker.
"""


WATCHDOG_S = 1.0
"""How often systemd is told that sound is heard."""


class Engine(Protocol):
    """What decides: `core.engine.Recognizer`."""

    @property
    def heard_s(self) -> float:
        """The last time for which seat, door and ignition were all known."""

    @property
    def awaits_verdict(self) -> bool:
        """Whether any block may decide an utterance."""

    def step(self, item: Input, /) -> list[Event]:
        """Take one input; return what follows from it."""

    def hear(self, blocks: Sequence[AudioBlock], /) -> Iterator[list[Event]]:
        """Take blocks that follow each other; yield what follows from each."""


class Source(Protocol):
    """Where sound comes from; it puts blocks and states into the inbox from its own thread."""

    def tend(self, now_s: float) -> None:
        """Keep it going; called once per iteration.

        Raises:
            SourceError: it is over for ever.
        """

    def taken(self, state: SourceState) -> None:
        """A state that it put was taken out of the inbox."""

    def hangs(self, now_s: float) -> bool:
        """Whether the sound system does not answer."""

    def close(self) -> None:
        """Let go of it."""


class Connection(Protocol):
    """The connection to the car: `mqtt.bus.Bus`."""

    @property
    def room(self) -> int:
        """How many messages may be sent before the broker has acknowledged one."""

    def start(self) -> None:
        """Begin to connect."""

    def poll(self, now_s: float) -> None:
        """Keep it up."""

    def stop(self) -> None:
        """Say that we are offline, and let go."""


class Terminals(Protocol):
    """The connections of terminals on this machine: `control.ControlSocket`."""

    def start(self) -> None:
        """Begin to listen."""

    def close(self) -> None:
        """Close all connections."""


class TripJournal(Protocol):
    """What outlives a daemon that dies: `store.journal.Journal`."""

    def recall(self) -> tuple[TripSnapshot | None, float]:
        """The trip of the daemon before this one, and seconds since that knew of the car."""

    def beat(self, heard_s: float) -> None:
        """Note that this daemon lives."""


class Executor(Protocol):
    """What carries events out: `effects.Effects`."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why whodrives is degraded."""

    def carry_out(self, events: Iterable[Event], heard_s: float) -> None:
        """Carry out what follows from one input."""

    def load_household(self) -> Household:
        """Put the household as it is now into the inbox."""

    def prepare_enrolment(self, command: Enrol) -> None:
        """Check that a voice can be kept; put the outcome into the inbox."""


class _StopError(Exception):
    """To stop; the text says by what."""


def serve(read: Callable[[], Config], spelled: Callable[[str], str]) -> None:
    """Run the daemon until it is told to stop, or until the recording ends.

    SIGTERM and SIGINT end it. SIGHUP lets it read profiles and configuration again; a configuration
    that is wrong is logged, and the one before stays.

    Args:
        read: gives the configuration; its paths are ready to use.
        spelled: adds that configuration to the commands in a text.

    Raises:
        ConfigError, ModelError, BusError: what it needs cannot work as configured.
        BusyError: another daemon serves this car, or uses its profiles.
        SourceError: the recording is damaged, or the pipe carries no raw sound.
    """
    flags = SignalFlags()
    config = read()
    with contextlib.closing(Claim()) as claim, flags.taken(), bounded_log() as log_limit:
        claim.take(config)
        daemon: Daemon | None = build_daemon(config, read, flags, claim, log_limit, spelled=spelled)
        while daemon is not None:
            daemon = daemon.run()


class Daemon:
    """The one loop.

    Args:
        inbox: where all inputs come from.
        source: where sound comes from; it puts into the inbox.
        engine: decides.
        enrolment: enrolments that the head unit asks for.
        effects: carries out what was decided; puts consequences into the inbox.
        bus: the connection to the car.
        control: the connections of terminals; it puts into the inbox.
        journal: what the daemon before this one knew.
        flags: what the process is told by signals.
        log_limit: bounds the log.
        keep_claim: called at the start: nothing but this car and its profiles is claimed any more.
        tend_claim: called about once a second with the reasons for being degraded.
        follower: builds the daemon for the configuration as it is now; None: it has not changed.
    """

    def __init__(
        self,
        *,
        inbox: Inbox,
        source: Source,
        engine: Engine,
        enrolment: EnrolmentSession,
        effects: Executor,
        bus: Connection,
        control: Terminals,
        journal: TripJournal,
        flags: SignalFlags,
        log_limit: LogFilter,
        keep_claim: Callable[[], None] = lambda: None,
        tend_claim: Callable[[tuple[str, ...]], None] = lambda _: None,
        follower: Callable[[], Daemon | None] = lambda: None,
        quiet_delay_s: float = QUIET_DELAY_S,
    ) -> None:
        self._inbox = inbox
        self._source = source
        self._engine = engine
        self._enrolment = enrolment
        self._effects = effects
        self._bus = bus
        self._control = control
        self._journal = journal
        self._flags = flags
        self._log_limit = log_limit
        self._keep_claim = keep_claim
        self._tend_claim = tend_claim
        self._follower = follower
        self._quiet_delay_s = quiet_delay_s
        self._next: Daemon | None = None
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
            self._begin()
            while True:
                self._iterate()
        except _StopError as stop:
            reason = str(stop)
        finally:
            if self._next is None:
                notify("STOPPING=1")
            log.info("event=stopping reason=%r", reason)
            self._bus.stop()
            self._control.close()
            self._source.close()
        return self._next

    def handle(self, item: Input) -> None:
        """Take one input, carry out what follows, then handle the consequences of that."""
        self._carry_out(item, self._engine.step(item))
        self._handle_consequences()

    def _handle_consequences(self) -> None:
        """Handle what was put as a consequence, and the consequences of that."""
        while (consequence := self._inbox.consequence()) is not None:
            self._carry_out(consequence, self._engine.step(consequence))

    def _begin(self) -> None:
        self._flags.wake = self._inbox.wake
        self._keep_claim()
        self._bus.start()
        self._control.start()
        remembered, gone_s = self._journal.recall()
        if remembered is not None:
            log.info("event=resumed gone_s=%.1f", gone_s)
        self.handle(Begin(clock.now_s(), uuid.uuid4().hex, remembered, gone_s))
        self._renew_household()
        notify("READY=1")

    def _iterate(self) -> None:
        """One iteration of the loop."""
        self._source.tend(clock.now_s())
        self._take(SPEECH_DELAY_S if self._engine.awaits_verdict else self._quiet_delay_s)
        now_s = clock.now_s()
        self._bus.poll(now_s)
        self._log_limit.tend(now_s)
        self._feed_watchdog(now_s)
        if self._flags.stop:
            raise _StopError(self._flags.stop)
        if self._flags.reload:
            self._flags.reload = False
            self._reload()

    def _take(self, batch_delay_s: float) -> None:
        """Handle what the inbox gives, after at most one batching delay."""
        for item in self._inbox.take(batch_delay_s, self._bus.room):
            if isinstance(item, Batch):
                self._hear(item.blocks)
                continue
            self.handle(item)
            if isinstance(item, SourceState):
                self._source.taken(item)
                if item.health is SourceHealth.ENDED:
                    raise _StopError(item.reason)

    def _hear(self, blocks: Sequence[AudioBlock]) -> None:
        """Handle blocks, each with the consequences of the one before in effect."""
        for block, events in zip(blocks, self._engine.hear(blocks), strict=True):
            self._carry_out(block, events)
            self._handle_consequences()

    def _carry_out(self, item: Input, events: list[Event]) -> None:
        """Let the enrolment take the input too, and have all that follows carried out."""
        if isinstance(item, AudioBlock | SourceState):
            self._heard_s = clock.now_s()
        if isinstance(item, SourceState):
            self._away = item.health is not SourceHealth.OPEN
        if isinstance(item, EnrolReady):
            command = item.command
            outcomes = (
                self._enrolment.step(command)
                if command.guest is None
                else self._enrolment.enrol_guest(command, item.guest)
            )
        elif isinstance(item, Enrol):
            outcomes = []
        else:
            outcomes = self._enrolment.step(item)
        self._effects.carry_out([*events, *outcomes], self._engine.heard_s)
        if isinstance(item, Enrol):
            self._effects.prepare_enrolment(item)

    def _renew_household(self) -> Household:
        """Let the engine know the household as the store has it now."""
        house = self._effects.load_household()
        self._handle_consequences()
        return house

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
            self._take(0.0)
            raise _StopError("another configuration")
        house = self._renew_household()
        enrolled, problems = len(house.profiles), len(house.problems)
        log.info("event=reloaded enrolled=%d problems=%d", enrolled, problems)

    def _feed_watchdog(self, now_s: float) -> None:
        """Tell systemd that we do what we are for.

        Only this loop does, and only while sound is heard or known to be away and tried for: stuck
        models, a stuck store and a stuck sound system are all ended by it.
        """
        if now_s - self._fed_s < WATCHDOG_S:
            return
        self._fed_s = now_s
        self._tend_claim(self._effects.reasons)
        self._journal.beat(self._engine.heard_s)
        trying = self._away and not self._source.hangs(now_s)
        hearing = not self._away and now_s - self._heard_s < PROGRESS_S
        if trying or hearing:
            notify("WATCHDOG=1")
