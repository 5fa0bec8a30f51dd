"""Clusters unknown speakers over trips: guests, who may be offered to enrol.

Owns which speech belongs to which guest, and when guests are merged or forgotten. Must not know the
calendar, files or consent: a day is a number, the guest book is a value.

A trip's unknown utterances are clustered first, so that a speaker is judged by all that was said.
A cluster is then assigned to a returning guest, or makes a new guest, or is dropped if neither is
certain: a wrong assignment would split one person or mix two, and another trip will come. Guests
that turn out to be one person are merged; a guest is never split.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from whodrives.adaptation.types import AdaptationSample, Offer
from whodrives.audio.blocks import Floats
from whodrives.voice.profile import AUGMENTATIONS, Profile
from whodrives.voice.scoring import centroid, mean_subtracted, one_to_one, pooled
from whodrives.voice.types import Calibration


@dataclass(frozen=True, slots=True)
class Guest:
    """An unknown speaker of one or more trips.

    Attributes:
        id: pseudonymous, `g-` and 8 hexadecimal digits.
        voices: float32, shape (k, D), each of unit length: one per trip, the latest last.
        speech_s: seconds of speech in each of them.
        trips: number of trips in which the guest spoke.
        accompanied: number of them that an enrolled driver drove.
        first_day, last_day: of the first and the latest trip, as `PendingTrip.day`.
    """

    id: str
    voices: Floats = field(repr=False)
    speech_s: tuple[float, ...]
    trips: int
    first_day: int
    last_day: int
    accompanied: int = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits of clustering; docs/months.md has how they were chosen. All llr are natural log.

    But for `household_llr`, they are for the first encoder alone.

    Attributes:
        speech_s: minimum seconds of speech of an eligible utterance.
        snr_db: its minimum SNR.
        household_llr: its maximum llr to any enrolled driver.
        together_llr: two clusters of one trip are joined from this llr.
        group_s: minimum seconds of speech of a cluster.
        back_llr: a cluster belongs to a guest from this llr.
        new_llr: a cluster is a new guest if its llr to every guest is at most this.
        one_llr: two guests are merged from this llr.
        offer_trips: trips without an enrolled driver after which a guest is offered.
        days: a guest is forgotten after this many days without a trip.
        guests: maximum guests.
        voices: maximum embeddings per guest.
    """

    speech_s: float = 1.5
    snr_db: float = 5.0
    household_llr: float = -1.0
    together_llr: float = 3.0
    group_s: float = 2.5
    back_llr: float = 4.0
    new_llr: float = -1.0
    one_llr: float = 5.5
    offer_trips: int = 3
    days: int = 60
    guests: int = 40
    voices: int = 6


RULES = Rules()


MOST_VOICES_A_TRIP = 4
"""More unknown speakers than free seats: assume a radio, and ignore them."""


def is_eligible(
    sample: AdaptationSample, rules: Rules = RULES, *, apart_from: str | None = None
) -> bool:
    """Whether an utterance is long and clean enough, and unlike every driver but `apart_from`."""
    clean = sample.snr_db is None or sample.snr_db >= rules.snr_db
    others = [match.llr for match in sample.matches if match.driver != apart_from]
    unlike_drivers = all(llr <= rules.household_llr for llr in others)
    return clean and unlike_drivers and sample.speech_s >= rules.speech_s


def updated(
    book: Sequence[Guest],
    samples: Sequence[AdaptationSample],
    calibration: Calibration,
    *,
    day: int,
    names: Sequence[str],
    accompanied: bool = False,
    rules: Rules = RULES,
) -> tuple[Guest, ...]:
    """The guest book after one more trip.

    Args:
        book: the guests after the previous trip.
        samples: unknown utterances of the trip; those that are not eligible are ignored.
        calibration: of the encoder that made the voices.
        day: today; guests without a trip for `Rules.days` are forgotten.
        names: MOST_VOICES_A_TRIP unused ids for new guests.
        accompanied: whether an enrolled driver drove.
        rules: limits of clustering.

    Returns:
        The guests, by ascending id. When there are too many, those of the fewest trips leave.
    """
    guests = [guest for guest in book if day - guest.last_day <= rules.days]
    unused = iter(names)
    eligible = [sample for sample in samples if is_eligible(sample, rules)]
    groups = clustered(eligible, calibration, rules)
    heard = {
        _assign(guests, group, day, unused, calibration=calibration, rules=rules)
        for group in (groups if len(groups) <= MOST_VOICES_A_TRIP else ())
    }
    if accompanied:
        guests = [
            replace(guest, accompanied=guest.accompanied + 1) if guest.id in heard else guest
            for guest in guests
        ]
    _merge(guests, heard, calibration, rules)
    guests.sort(key=lambda guest: (-guest.trips, -guest.last_day, guest.id))
    return tuple(sorted(guests[: rules.guests], key=lambda guest: guest.id))


def offers(book: Sequence[Guest], rules: Rules = RULES) -> tuple[Offer, ...]:
    """The guests who came back often enough, and probably as drivers, to be offered to enrol.

    A car's own voice (navigation, an assistant) is heard whoever drives. A future driver is heard
    mostly in trips without an enrolled driver.
    """
    return tuple(
        Offer(guest.id, guest.trips, guest.last_day)
        for guest in book
        if guest.trips - guest.accompanied >= max(rules.offer_trips, guest.accompanied)
    )


def enrolment(guest: Guest) -> tuple[Floats, float]:
    """A guest as an enrolment: embeddings as in `Profile`, and seconds of speech.

    Noise augmentation needs the sound, which is gone. The speech has the car's own noise, so each
    embedding is used for all augmentations.
    """
    return np.tile(guest.voices, (AUGMENTATIONS, 1)), sum(guest.speech_s)


def not_enrolled(
    book: Sequence[Guest],
    household: Sequence[Profile],
    calibration: Calibration,
    rules: Rules = RULES,
) -> tuple[Guest, ...]:
    """The guests that are not drivers of the household.

    Neither forgetting a driver nor enrolling a guest may leave the same person as a guest.
    """
    known = _Voices.of_guests(book, calibration)
    kept = np.ones(len(book), bool)
    for profile in household:
        kept &= known.llrs(centroid(profile), profile.speech_s) < rules.back_llr
    return tuple(guest for guest, stays in zip(book, kept, strict=True) if stays)


def clustered(
    samples: Sequence[AdaptationSample], calibration: Calibration, rules: Rules = RULES
) -> list[tuple[AdaptationSample, ...]]:
    """Cluster a trip's utterances by speaker; clusters with too little speech are dropped.

    Agglomerative, most similar first: the order of the utterances does not matter.
    """
    groups: list[tuple[AdaptationSample, ...]] = [(one,) for one in sorted(samples, key=_order)]
    while True:
        voices, seconds = [*map(voice_of, groups)], [*map(_speech_s, groups)]
        known = _Voices.of(voices, seconds, calibration)
        pair = known.most_similar(rules.together_llr, range(len(groups)))
        if pair is None:
            return [group for group in groups if _speech_s(group) >= rules.group_s]
        joined = tuple(sorted(groups[pair[0]] + groups[pair[1]], key=_order))
        groups = [*(group for n, group in enumerate(groups) if n not in pair), joined]


def _assign(
    guests: list[Guest],
    group: Sequence[AdaptationSample],
    day: int,
    unused: Iterator[str],
    *,
    calibration: Calibration,
    rules: Rules,
) -> str | None:
    """Add a cluster to its guest or to a new one; returns the guest's id, None if uncertain."""
    voice, speech_s = voice_of(group), _speech_s(group)
    llrs = _Voices.of_guests(guests, calibration).llrs(voice, speech_s)
    best = int(llrs.argmax()) if guests else None
    if best is None or llrs[best] <= rules.new_llr:
        guests.append(Guest(next(unused), voice[np.newaxis], (speech_s,), 1, day, day))
        return guests[-1].id
    if llrs[best] < rules.back_llr:
        return None
    old = guests[best]
    guests[best] = replace(
        old,
        voices=np.concatenate([old.voices, voice[np.newaxis]])[-rules.voices :],
        speech_s=(*old.speech_s, speech_s)[-rules.voices :],
        trips=old.trips + 1,
        first_day=min(old.first_day, day),
        last_day=max(old.last_day, day),
    )
    return old.id


def _merge(
    guests: list[Guest], heard: Collection[str | None], calibration: Calibration, rules: Rules
) -> None:
    """Merge guests that are one person; the id of the earlier one is kept.

    Only guests heard in this trip can have become similar to another.
    """
    while True:
        known = _Voices.of_guests(guests, calibration)
        among = [n for n, guest in enumerate(guests) if guest.id in heard]
        pair = known.most_similar(rules.one_llr, among)
        if pair is None:
            return
        elder, younger = sorted((guests[n] for n in pair), key=lambda g: (g.first_day, g.id))
        guests[:] = [guest for n, guest in enumerate(guests) if n not in pair]
        guests.append(
            Guest(
                elder.id,
                np.concatenate([elder.voices, younger.voices])[-rules.voices :],
                (*elder.speech_s, *younger.speech_s)[-rules.voices :],
                elder.trips + younger.trips,
                elder.first_day,
                max(elder.last_day, younger.last_day),
                elder.accompanied + younger.accompanied,
            )
        )


def _order(sample: AdaptationSample) -> bytes:
    """Sort key that does not depend on the order of the utterances."""
    return sample.voice.tobytes()


def voice_of(group: Sequence[AdaptationSample]) -> Floats:
    """Mean embedding of a cluster, (D,), unit length."""
    return pooled([sample.voice for sample in group], [sample.speech_s for sample in group])


def _speech_s(group: Sequence[AdaptationSample]) -> float:
    return sum(sample.speech_s for sample in group)


class _Voices(NamedTuple):
    """Embeddings that are compared in one vectorised step.

    Attributes:
        centres: by the first encoder, mean-subtracted, shape (n, D).
        speech_s: seconds of speech of each, (n,).
        calibration: of the first encoder.
    """

    centres: Floats
    speech_s: NDArray[np.float64]
    calibration: Calibration

    @classmethod
    def of(
        cls, voices: Sequence[Floats], speech_s: Sequence[float], calibration: Calibration
    ) -> _Voices:
        first = calibration.first
        centres = [mean_subtracted(voice, first) for voice in voices]
        stacked = np.stack(centres) if centres else np.empty((0, first.dimension), np.float32)
        return cls(stacked, np.array(speech_s, np.float64), first)

    @classmethod
    def of_guests(cls, guests: Sequence[Guest], calibration: Calibration) -> _Voices:
        voices = [pooled(list(guest.voices), guest.speech_s) for guest in guests]
        return cls.of(voices, [sum(guest.speech_s) for guest in guests], calibration)

    def llrs(self, voice: Floats, speech_s: float) -> NDArray[np.float64]:
        """The llr of an embedding (D,) with each, (n,)."""
        return self._ratios(mean_subtracted(voice, self.calibration), speech_s)

    def most_similar(self, least_llr: float, among: Collection[int]) -> tuple[int, int] | None:
        """The most similar pair from `least_llr` on, one in `among`; None if there is none."""
        best, found = least_llr, None
        for n in among:
            llrs = self._ratios(self.centres[n], self.speech_s[n])
            llrs[n] = -np.inf
            m = int(llrs.argmax())
            if llrs[m] >= best:
                best, found = float(llrs[m]), (m, n)
        return found

    def _ratios(self, centre: Floats, speech_s: float) -> NDArray[np.float64]:
        return one_to_one(centre, speech_s, self.centres, self.speech_s, self.calibration)


def packed(book: Sequence[Guest]) -> list[dict[str, Any]]:
    """Guests as JSON values; embeddings are little-endian float32 in hex."""
    return [
        {
            "id": guest.id,
            "voices": [voice.astype("<f4").tobytes().hex() for voice in guest.voices],
            "speech_s": list(guest.speech_s),
            "trips": guest.trips,
            "first_day": guest.first_day,
            "last_day": guest.last_day,
            "accompanied": guest.accompanied,
        }
        for guest in book
    ]


def unpacked(facts: Sequence[Mapping[str, Any]]) -> tuple[Guest, ...]:
    """The inverse of `packed`.

    Raises:
        ValueError, KeyError, TypeError: the values are malformed.
    """
    book = []
    for said in facts:
        rows = [np.frombuffer(bytes.fromhex(text), "<f4") for text in said["voices"]]
        voices = np.stack(rows).astype(np.float32)
        speech_s = tuple(float(seconds) for seconds in said["speech_s"])
        finite = np.isfinite(voices).all() and np.isfinite(speech_s).all()
        if len(speech_s) != len(voices) or not finite:
            raise ValueError("a guest's voices and their seconds do not match")
        days = int(said["first_day"]), int(said["last_day"])
        # Earlier versions did not store `accompanied`.
        trips, accompanied = int(said["trips"]), int(said.get("accompanied", 0))
        if not 0 <= accompanied <= trips:
            raise ValueError("a guest was in more trips with a driver than in trips")
        book.append(Guest(str(said["id"]), voices, speech_s, trips, *days, accompanied))
    return tuple(book)
