"""What the utterances of a trip may teach, kept in memory until the trip is over.

Owns which trips teach: those of one driver from the first to the last. Knows nothing of what is
learned from it. Nothing is kept of a trip that was not open, or when sound was lost.
"""

from __future__ import annotations

from typing import TypeAlias

from whodrives.adaptation import following, guests
from whodrives.adaptation.types import AdaptationSample, TripSamples, UnknownSpeech
from whodrives.trip.types import DriverState
from whodrives.voice.decision import Policy
from whodrives.voice.types import Outcome, Verdict

MOST_OF_DRIVER = 4
"""Utterances of a driver, of one trip: more of the same day teach little and cost the encoder."""


MOST_OF_STRANGERS = 16
"""Utterances of unknown voices, of one trip."""


TripEvent: TypeAlias = TripSamples | UnknownSpeech


class SampleCollector:
    """Hears what is said in one car's trips, one after another.

    Args:
        policy: the promise that utterances were recognised with.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._state = DriverState(float("-inf"))
        self._one_driver = True
        self._taught: dict[str, list[AdaptationSample]] = {}
        self._strange: tuple[AdaptationSample, ...] = ()

    def needs_rest_of(self, verdict: Verdict) -> bool:
        """Whether an utterance is worth hearing to its end although it is judged."""
        taught = self._taught.get(verdict.driver or "", [])
        known = verdict.outcome is Outcome.KNOWN
        return known and self._state.trip_open and len(taught) < MOST_OF_DRIVER

    def heard(self, verdict: Verdict, sample: AdaptationSample, enrolled: int) -> None:
        """An utterance is over: what was concluded of it, and all of it.

        Args:
            verdict: the conclusion, which may have come early.
            sample: the whole utterance.
            enrolled: number of enrolled drivers.
        """
        if not self._state.trip_open:
            return
        if verdict.driver is not None:
            taught = self._taught.setdefault(verdict.driver, [])
            if len(taught) < MOST_OF_DRIVER and self._teaches(verdict.driver, sample, enrolled):
                taught.append(sample)
        elif verdict.outcome is Outcome.UNKNOWN and guests.is_eligible(sample):
            self._strange = (*self._strange, sample)[:MOST_OF_STRANGERS]

    def follow(self, state: DriverState) -> tuple[TripEvent, ...]:
        """Take what the trip says of itself; at its end, say what it taught."""
        before, self._state = self._state, state
        if state.trip_open:
            self._one_driver &= before.driver in {None, state.driver}
            return ()
        over: list[TripEvent] = []
        samples = self._taught.get(before.driver or "", [])
        if self._one_driver and before.driver is not None and samples:
            over.append(TripSamples(state.at_s, before.driver, tuple(samples)))
        if self._strange:
            over.append(
                UnknownSpeech(state.at_s, self._strange, accompanied=before.driver is not None)
            )
        self._one_driver, self._taught, self._strange = True, {}, ()
        return tuple(over)

    def household_changed(self) -> None:
        """What was heard was compared with the old household: it teaches nothing any more."""
        self._taught, self._strange = {}, ()

    def _teaches(self, driver: str, sample: AdaptationSample, enrolled: int) -> bool:
        promise = self._policy.calibration, self._policy.operating_point
        return sample.matches[0].driver == driver and following.is_eligible(
            sample, enrolled, *promise
        )
