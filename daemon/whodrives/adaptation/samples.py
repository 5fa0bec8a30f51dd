"""Collects the adaptation samples of a trip in memory until the trip is over.

Owns which utterances and trips are used: only trips with one driver from beginning to end. Must not
know how a profile is adapted. Nothing is collected outside a trip, or if sound was lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TypeAlias

from whodrives.adaptation import following, guests
from whodrives.adaptation.types import AdaptationSample, TripSamples, UnknownSpeech
from whodrives.trip.types import DriverState, SettledBy
from whodrives.voice.decision import Policy
from whodrives.voice.types import Outcome, Verdict

MOST_OF_DRIVER = 4
"""Maximum samples of a driver per trip: more of one day add little and cost encoder time."""


MOST_HELD = 16
"""Maximum other utterances per trip, the newest: they may be of a driver whom a key or a choice
on the head unit told."""


MOST_OF_STRANGERS = 16
"""Maximum unknown utterances per trip."""


TripEvent: TypeAlias = TripSamples | UnknownSpeech


class SampleCollector:
    """Collects samples over the trips of one car, one after another.

    Args:
        policy: the policy of recognition.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._state = DriverState(float("-inf"))
        self._one_driver = True
        self._of_drivers: dict[str, list[AdaptationSample]] = {}
        self._unknown: tuple[AdaptationSample, ...] = ()
        self._others: deque[AdaptationSample] = deque(maxlen=MOST_HELD)

    def needs_rest_of(self, verdict: Verdict) -> bool:
        """Whether to embed the rest of an utterance that is already decided."""
        samples = self._of_drivers.get(verdict.driver or "", [])
        known = verdict.outcome is Outcome.KNOWN
        return known and self._state.trip_open and len(samples) < MOST_OF_DRIVER

    def heard(self, verdict: Verdict, sample: AdaptationSample, enrolled: int) -> None:
        """Take an utterance that is over.

        Args:
            verdict: the verdict, perhaps from before the end of the utterance.
            sample: the whole utterance.
            enrolled: number of enrolled drivers.
        """
        if not self._state.trip_open:
            return
        if verdict.driver is not None:
            samples = self._of_drivers.setdefault(verdict.driver, [])
            if len(samples) < MOST_OF_DRIVER and self._is_eligible(
                verdict.driver, sample, enrolled
            ):
                samples.append(sample)
                return
        if verdict.outcome is not Outcome.POOR_SOUND:
            self._others.append(sample)
        if verdict.outcome is Outcome.UNKNOWN and guests.is_eligible(sample):
            self._unknown = (*self._unknown, sample)[:MOST_OF_STRANGERS]

    def follow(self, state: DriverState) -> tuple[TripEvent, ...]:
        """Take the state of the trip; at its end return the collected samples."""
        before, self._state = self._state, state
        if state.trip_open:
            self._one_driver &= before.driver in {None, state.driver}
            return ()
        over: list[TripEvent] = []
        if self._one_driver and before.driver is not None:
            over += self._of_driver(before.driver, before.settled_by, state.at_s)
        if self._unknown:
            over.append(
                UnknownSpeech(state.at_s, self._unknown, accompanied=before.driver is not None)
            )
        self._one_driver = True
        self._clear()
        return tuple(over)

    def _of_driver(
        self, driver: str, settled_by: SettledBy | None, at_s: float
    ) -> Iterator[TripSamples]:
        """What a trip gives its driver: recognised speech, else what may be of a chosen one."""
        if samples := self._of_drivers.get(driver):
            yield TripSamples(at_s, driver, tuple(samples))
        elif settled_by in {SettledBy.KEY, SettledBy.HAND}:
            own = [each for each in self._others if guests.is_eligible(each, apart_from=driver)]
            if own:
                recognised = driver in self._of_drivers
                yield TripSamples(at_s, driver, tuple(own), chosen=True, recognised=recognised)

    def household_changed(self, policy: Policy) -> None:
        """Drop all samples: they were compared with the old household.

        `policy` is that of recognition from now on.
        """
        self._policy = policy
        self._clear()

    def _clear(self) -> None:
        self._of_drivers, self._unknown = {}, ()
        self._others.clear()

    def _is_eligible(self, driver: str, sample: AdaptationSample, enrolled: int) -> bool:
        policy = self._policy.calibration, self._policy.operating_point
        return sample.matches[0].driver == driver and following.is_eligible(
            sample, enrolled, *policy
        )
