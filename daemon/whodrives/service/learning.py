"""What the trips taught, put into the store: at most one write a trip.

Owns the point where `TripSamples` and `UnknownSpeech` meet the calendar and the sealed files.
Decides nothing about voices. The log says how many, never whose.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from datetime import date

from whodrives.adaptation import following, guests
from whodrives.adaptation.types import Guests, TripSamples, UnknownSpeech
from whodrives.enrolment.recording import Enrolled
from whodrives.errors import ProfileError
from whodrives.store.calendar import believed, now
from whodrives.store.profiles import ProfileStore, Receipt
from whodrives.voice.profile import Profile
from whodrives.voice.types import Calibration

log = logging.getLogger(__name__)


_NO_DAY = "the machine's clock cannot be right; set it"


class Learning:
    """Executes what trips taught.

    Args:
        store: the sealed profiles and the guest book.
        calibration: of the encoder in use.
        remember_guests: whether there is a guest book at all; without, one that is there is erased.
    """

    def __init__(
        self, store: ProfileStore, calibration: Calibration, *, remember_guests: bool
    ) -> None:
        self._store = store
        self._calibration = calibration
        self._remember_guests = remember_guests

    def learn(self, sample: TripSamples, household: Sequence[Profile]) -> bool:
        """Let the driver's profile learn; returns whether it now is another.

        A store that cannot be written is said in the log, and nothing is learned.
        """
        day = today()
        if day is None:
            log.warning("event=not_learned reason=%r", _NO_DAY)
            return False
        others = [profile for profile in household if profile.id != sample.driver]
        steps = []

        def learned(profile: Profile) -> Profile:
            said = sample.samples
            if sample.chosen:
                said = following.of_chosen(profile, said, self._calibration)
            counted = following.counted(profile, recognised=sample.recognised)
            held = following.quarantined(
                counted, said, day, self._calibration, chosen=sample.chosen
            )
            grown, step = following.promoted(held, others, day, self._calibration)
            steps.append(step)
            return grown

        try:
            self._store.change(sample.driver, learned)
        except ProfileError as error:
            log.warning("event=not_learned reason=%r", str(error))
            return False
        step = steps[-1]
        log.info("event=learned driver=%s trips=%d", sample.driver, len(step.trips) if step else 0)
        return step is not None

    def meet(self, met: UnknownSpeech, household: Sequence[Profile]) -> Guests | None:
        """Enter a trip's unknown voices in the guest book; what may be offered now.

        None when there is no guest book, or it cannot be written.
        """
        if not self._remember_guests:
            return None
        day = today()
        if day is None:
            log.warning("event=guests_not_kept reason=%r", _NO_DAY)
            return None
        names = [f"g-{secrets.token_hex(4)}" for _ in range(guests.MOST_VOICES_A_TRIP)]
        try:
            old = self._store.load_guests()
            book = guests.updated(
                old,
                met.samples,
                self._calibration,
                day=day,
                names=names,
                accompanied=met.accompanied,
            )
            book = guests.not_enrolled(book, household, self._calibration)
            self._store.save_guests(book)
        except ProfileError as error:
            log.warning("event=guests_not_kept reason=%r", str(error))
            return None
        log.info("event=guests count=%d", len(book))
        return Guests(met.at_s, guests.offers(book))

    def guest(self, guest: str) -> Enrolled | None:
        """A guest's voice as one to enrol; None when there is no such guest."""
        if not self._remember_guests:
            return None
        try:
            book = self._store.load_guests()
        except ProfileError as error:
            log.warning("event=guests_not_read reason=%r", str(error))
            return None
        return next((Enrolled(*guests.enrolment(each)) for each in book if each.id == guest), None)

    def tidy(self, household: Sequence[Profile], at_s: float) -> Guests:
        """Bring the guest book up to this day and this household; what may be offered now.

        Called at the start and whenever the household has changed: whoever was enrolled is no
        guest any more, and who was not heard for long is forgotten.
        """
        try:
            if not self._remember_guests:
                self._store.save_guests(())
                return Guests(at_s)
            old = self._store.load_guests()
            book, day = old, today()
            if day is not None:
                book = guests.updated(old, (), self._calibration, day=day, names=())
            book = guests.not_enrolled(book, household, self._calibration)
            if len(book) != len(old):
                self._store.save_guests(book)
        except ProfileError as error:
            log.warning("event=guests_not_kept reason=%r", str(error))
            return Guests(at_s)
        return Guests(at_s, guests.offers(book))


def forget(store: ProfileStore, who: str, calibration: Calibration) -> Receipt:
    """Erase a driver, and every guest who is of the same voice; see `ProfileStore.forget`."""
    return store.forget(who, lambda voice, book: guests.not_enrolled(book, [voice], calibration))


def today() -> int | None:
    """This day in UTC, as `PendingTrip.day` counts; None while the clock cannot be right."""
    day = believed(now()[:10])
    return None if day is None else date.fromisoformat(day).toordinal()
