"""Carries out the engine's events: tells the bus and the log, writes the journal and the store.

Never calls the engine. What an effect changes for it (a household, an answer that is due once that
took effect) goes into the inbox as a consequence, which the loop takes before anything else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol, TypeAlias

from whodrives import clock
from whodrives.adaptation.types import Guests, TripSamples, UnknownSpeech
from whodrives.core.events import EnrolReady, Event, Executed, Health, Input, RefusedCommand
from whodrives.enrolment.types import Enrol, EnrolmentStage, EnrolmentState, Problem, StoreVoice
from whodrives.errors import ProfileError
from whodrives.service.household import household
from whodrives.service.learning import Learning, forget
from whodrives.service.log import report
from whodrives.store.calendar import now
from whodrives.store.journal import Journal
from whodrives.store.profiles import ProfileStore
from whodrives.store.record import Consent
from whodrives.trip.types import (
    CommandResult,
    DriverState,
    Forget,
    PersistTrip,
    SavePreferences,
    SettledBy,
)
from whodrives.voice.profile import Household, Profile
from whodrives.voice.types import Calibration

log = logging.getLogger(__name__)


class Publisher(Protocol):
    """Tells the car."""

    def publish(self, event: Event) -> bool:
        """Send an event, if it is one for the bus; return whether it went out."""


class Terminals(Protocol):
    """Tells the terminals on this machine."""

    def tell(self, event: Event) -> None:
        """Let them know of an event; never waits."""


StoreOrder: TypeAlias = SavePreferences | Forget | StoreVoice | TripSamples | UnknownSpeech
"""Events that change the store."""


class Effects:
    """Carries out events.

    Args:
        bus: tells the car.
        control: tells the terminals on this machine.
        store: the sealed profiles and the guest book.
        journal: what outlives a daemon that dies.
        learning: what trips taught.
        calibration: of the encoder in use.
        signals: VSS paths that this car's drivers may set.
        put: takes consequences, for the loop to handle before anything else.
        spelled: adds the configuration to the commands in a text.

    Attributes:
        reasons: why whodrives is degraded, as it was told last; empty: it is not.
    """

    def __init__(
        self,
        *,
        bus: Publisher,
        control: Terminals,
        store: ProfileStore,
        journal: Journal,
        learning: Learning,
        calibration: Calibration,
        signals: Iterable[str],
        put: Callable[[Input], None],
        spelled: Callable[[str], str] = str,
    ) -> None:
        self.reasons: tuple[str, ...] = ()
        self._bus = bus
        self._control = control
        self._store = store
        self._journal = journal
        self._learning = learning
        self._calibration = calibration
        self._signals = frozenset(signals)
        self._put = put
        self._spelled = spelled
        self._drivers: tuple[Profile, ...] = ()
        self._proved: tuple[str | None, float | None] = (None, None)

    def carry_out(self, events: Iterable[Event], heard_s: float) -> None:
        """Carry out what follows from one input: tell first, then change the store.

        Args:
            events: in the engine's order.
            heard_s: the last time for which seat, door and ignition were all known.
        """
        orders: list[StoreOrder] = []
        for event in events:
            if isinstance(event, PersistTrip):
                # Before what follows it is sent: a daemon that dies then asks for nothing twice.
                self._journal.keep(event.memory, heard_s)
            elif isinstance(event, StoreOrder):
                orders.append(event)
            else:
                self._tell(event)
        for order in orders:
            self._execute(order)

    def load_household(self) -> Household:
        """Read the profiles, and put the household, and the guests that remain, as consequences."""
        try:
            # A guest book that cannot be used is set aside first.
            self._store.set_aside()
        except ProfileError as error:
            log.warning("event=not_set_aside reason=%r", str(error))
        house = household(self._store, clock.now_s())
        house = replace(house, problems=tuple(map(self._spelled, house.problems)))
        self._drivers = house.profiles
        self._put(house)
        self._put(Executed(house.at_s, (self._learning.tidy(house.profiles, house.at_s),)))
        return house

    def prepare_enrolment(self, command: Enrol) -> None:
        """Check that a voice can be kept before anybody speaks; the outcome is a consequence."""
        try:
            known = command.driver in {profile.id for profile in self._drivers}
            added_to = command.driver if command.again and known else None
            self._store.rehearse(added_to, again=command.again)
        except ProfileError as error:
            log.warning("event=not_enrolled reason=%r", str(error))
            self._put(RefusedCommand(command.at_s, command.command, "not_stored"))
            return
        guest = None if command.guest is None else self._learning.guest(command.guest)
        self._put(EnrolReady(command.at_s, command, guest))

    def _tell(self, event: Event) -> None:
        if isinstance(event, Health):
            self.reasons = event.reasons
        self._bus.publish(event)
        self._control.tell(event)
        if isinstance(event, DriverState) and event.settled_by is SettledBy.VOICE:
            self._note_recognised(event)
        report(event, clock.now_s())

    def _note_recognised(self, event: DriverState) -> None:
        """Note that a driver's voice decided who drives, once for each decision."""
        decision = event.driver, event.since_s
        if event.driver is None or decision == self._proved:
            return
        self._proved = decision
        try:
            self._store.recognised(event.driver)
        except ProfileError as error:
            log.warning("event=not_noted reason=%r", str(error))

    def _execute(self, order: StoreOrder) -> None:
        """Change the store, and put what follows from that."""
        match order:
            case StoreVoice():
                self._store_voice(order)
            case TripSamples():
                if self._learning.learn(order, self._drivers):
                    self.load_household()
            case UnknownSpeech():
                if (offered := self._learning.meet(order, self._drivers)) is not None:
                    self._answer(offered)
            case SavePreferences():
                self._answer_command(order.command, self._save_preferences(order))
            case Forget():
                self._answer_command(order.command, self._forget(order))

    def _answer_command(self, command: str, reason: str) -> None:
        """Answer a command that changed the household, unless `reason` says why it did not."""
        if not reason:
            self.load_household()
        self._answer(CommandResult(clock.now_s(), command, reason))

    def _answer(self, *events: CommandResult | EnrolmentState | Guests) -> None:
        self._put(Executed(clock.now_s(), events))

    def _store_voice(self, order: StoreVoice) -> None:
        """Keep a voice that the head unit had enrolled, and tell it."""
        consent = Consent(order.by, now(), order.text)
        reason, driver = "", order.driver
        try:
            stored = self._store.adopt(
                driver, order.embeddings, order.speech_s, consent, again=order.again
            )
            driver = stored.profile.id
        except ProfileError as error:
            log.warning("event=not_enrolled reason=%r", str(error))
            reason = "not_stored"
        now_s = clock.now_s()
        if not reason:
            log.info("event=enrolled driver=%s speech_s=%.1f", driver, order.speech_s)
            self.load_household()
        stage = EnrolmentStage.REFUSED if reason else EnrolmentStage.DONE
        problems = (Problem(reason, "the voice could not be stored"),) if reason else ()
        self._answer(
            EnrolmentState(now_s, order.command, stage, order.speech_s, problems, driver),
            CommandResult(now_s, order.command, reason),
        )

    def _save_preferences(self, order: SavePreferences) -> str:
        """Keep the position of what this car's drivers may set; why not, if it cannot be."""
        wanted = {p: v for p, v in order.signals.items() if p in self._signals}
        if not wanted:
            return "no_position"
        try:
            self._store.adjust_preferences(order.driver, wanted)
        except ProfileError as error:
            log.warning("event=not_stored reason=%r", str(error))
            return "not_stored"
        return ""

    def _forget(self, order: Forget) -> str:
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
