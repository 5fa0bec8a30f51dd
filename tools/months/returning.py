"""Guests who come back over two hundred trips, in a car with three enrolled drivers.

Owns the story of the trips, the truth about who spoke, and what is counted. Who is one person is
decided by the daemon's own code (`whodrives.guests`), and by the way of sherpa-onnx's example.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import sherpa_onnx

from tools.lab.conditions import generator
from tools.months.adapting import Enrolled, as_sample, decided
from tools.months.adapting import voices as enrolled_voices
from tools.months.speakers import Speaker, Utterance
from whodrives.adaptation import following, guests
from whodrives.adaptation.guests import Guest, Rules
from whodrives.adaptation.types import AdaptationSample
from whodrives.voice.decision import Policy
from whodrives.voice.types import Outcome

TRIPS = 200
TRIPS_A_DAY = 2
GUESTS = 30
DRIVERS = 3
SECOND = 0.3
"""Share of the trips that have two guests."""

BESIDE = 0.5
"""Share of the trips in which an enrolled driver speaks too."""

SPOKEN = (2, 5)
"""Utterances of a guest in a trip, from and to."""

CONDITIONS = ("clean", "car 5 dB", "cabin, car 5 dB")

SHERPA_THRESHOLDS = (0.4, 0.5, 0.6)
"""Of the cosine; 0.4 is the default of sherpa-onnx's speaker-identification-with-vad-dynamic.py."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """An utterance that the daemon called unknown, and whose it is."""

    who: str
    sample: AdaptationSample


@dataclass(slots=True)
class Result:
    """What became of the guests.

    Attributes:
        clusters: by cluster, how many utterances of each person it was given.
        alive: the clusters that are there at the end.
        size: bytes of the embeddings that are kept, after each trip.
        count: number of clusters, after each trip.
        offered: clusters that were offered at the end.
        dropped: share of the utterances that no cluster was given.
    """

    clusters: dict[str, Counter[str]] = field(default_factory=dict)
    alive: set[str] = field(default_factory=set)
    size: list[int] = field(default_factory=list)
    count: list[int] = field(default_factory=list)
    offered: set[str] = field(default_factory=set)
    dropped: float = 0.0

    def per_person(self) -> float:
        """Clusters at the end for each person who has one."""
        owners = Counter(self._owner(name) for name in self.alive)
        return len(self.alive) / max(len(owners), 1)

    def worst(self) -> int:
        """Most clusters at the end of one person."""
        return max(Counter(self._owner(name) for name in self.alive).values(), default=0)

    def purity(self) -> float:
        """Share of the utterances, over all clusters there ever were, that are the owner's."""
        given = sum(sum(c.values()) for c in self.clusters.values())
        own = sum(max(c.values()) for c in self.clusters.values() if c)
        return own / max(given, 1)

    def people(self, drivers: Sequence[str]) -> tuple[int, int]:
        """Guests who have a cluster at the end, and drivers who wrongly have one."""
        owners = {self._owner(name) for name in self.alive}
        return len(owners - set(drivers)), len(owners & set(drivers))

    def _owner(self, name: str) -> str:
        return max(sorted(self.clusters[name]), key=self.clusters[name].__getitem__)


def trips(
    people: Sequence[Speaker], policy: Policy, seed: int, count: int = TRIPS, invited: int = GUESTS
) -> tuple[list[list[Spoken]], list[str]]:
    """What the daemon calls unknown in each trip, and the names of the enrolled drivers."""
    rng = generator("guests", seed)
    chosen = [people[int(n)] for n in rng.permutation(len(people))[: invited + DRIVERS]]
    drivers, visitors = chosen[:DRIVERS], chosen[DRIVERS:]
    profiles = [replace(d.profile, id=f"d-{n}") for n, d in enumerate(drivers)]
    enrolled = enrolled_voices(profiles, policy, following.RULES)
    told = []
    for _ in range(count):
        condition = str(rng.choice(CONDITIONS))
        here = [visitors[int(n)] for n in rng.permutation(len(visitors))]
        present = here[: 1 + int(rng.random() < SECOND)]
        if rng.random() < BESIDE:
            present.append(drivers[int(rng.integers(len(drivers)))])
        told.append(
            [
                Spoken(speaker.person.name, sample)
                for speaker in present
                for utterance in _said(speaker, condition, rng)
                if (sample := _unknown(utterance, enrolled, policy)) is not None
            ]
        )
    return told, [driver.person.name for driver in drivers]


def _said(speaker: Speaker, condition: str, rng: np.random.Generator) -> Iterator[Utterance]:
    sounds = [*speaker.trips[condition], *speaker.tests[condition]]
    for n in rng.integers(len(sounds), size=int(rng.integers(SPOKEN[0], SPOKEN[1] + 1))):
        yield sounds[int(n)]


def _unknown(utterance: Utterance, enrolled: Enrolled, policy: Policy) -> AdaptationSample | None:
    outcome = decided(utterance, enrolled, policy).outcome
    return as_sample(utterance, enrolled, policy) if outcome is Outcome.UNKNOWN else None


def ours(told: Sequence[Sequence[Spoken]], policy: Policy, rules: Rules) -> Result:
    """The daemon's guest book over all trips."""
    result = Result()
    book: tuple[Guest, ...] = ()
    heard = lost = serial = 0
    calibration = policy.calibration
    for number, spoken in enumerate(told):
        who = {s.sample.voice.tobytes(): s.who for s in spoken}
        names = [f"g-{serial + n:08x}" for n in range(guests.MOST_VOICES_A_TRIP)]
        serial += len(names)
        samples = [s.sample for s in spoken]
        before = book
        day = number // TRIPS_A_DAY
        book = guests.updated(before, samples, calibration, day=day, names=names, rules=rules)
        eligible = [sample for sample in samples if guests.is_eligible(sample, rules)]
        groups = guests.clustered(eligible, calibration, rules)
        heard += len(samples)
        lost += len(samples)
        _merge(result, before, book)
        for group in groups:
            name = _of(book, guests.voice_of(group))
            if name is not None:
                counter = result.clusters.setdefault(name, Counter())
                counter.update(who[sample.voice.tobytes()] for sample in group)
                lost -= len(group)
        result.size.append(sum(guest.voices.nbytes for guest in book))
        result.count.append(len(book))
    result.alive = {guest.id for guest in book}
    result.offered = {offer.guest for offer in guests.offers(book, rules)}
    result.dropped = lost / max(heard, 1)
    return result


def _of(book: Sequence[Guest], voice: np.ndarray) -> str | None:
    for guest in book:
        if any(np.array_equal(row, voice) for row in guest.voices):
            return guest.id
    return None


def _merge(result: Result, before: Sequence[Guest], after: Sequence[Guest]) -> None:
    """Guests who became one take what they were given along."""
    there = {guest.id for guest in after}
    for gone in before:
        if gone.id not in there and gone.id in result.clusters:
            heir = _of(after, gone.voices[-1])
            if heir is not None:
                result.clusters.setdefault(heir, Counter()).update(result.clusters.pop(gone.id))


def baseline(told: Sequence[Sequence[Spoken]], threshold: float) -> Result:
    """sherpa-onnx's example: an utterance that no speaker matches opens a new speaker."""
    result = Result()
    manager: sherpa_onnx.SpeakerEmbeddingManager | None = None
    for spoken in told:
        for said in spoken:
            voice = said.sample.voice
            if manager is None:
                manager = sherpa_onnx.SpeakerEmbeddingManager(len(voice))
            name = manager.search(voice.tolist(), threshold=threshold)
            if not name:
                name = f"speaker_{manager.num_speakers}"
                manager.add(name, voice.tolist())
            result.clusters.setdefault(name, Counter())[said.who] += 1
        number = manager.num_speakers if manager else 0
        result.count.append(number)
        result.size.append(number * 4 * (manager.dim if manager else 0))
    result.alive = set(result.clusters)
    return result


def figures(result: Result, drivers: Sequence[str]) -> Mapping[str, float]:
    """What a result comes to."""
    people, wrong = result.people(drivers)
    return {
        "clusters_per_person": round(result.per_person(), 3),
        "most_clusters_of_a_person": result.worst(),
        "purity": round(result.purity(), 4),
        "clusters": len(result.alive),
        "guests_with_a_cluster": people,
        "drivers_with_a_cluster": wrong,
        "offered": len(result.offered),
        "utterances_dropped": round(result.dropped, 3),
        "bytes_after_half": result.size[len(result.size) // 2 - 1],
        "bytes_at_the_end": result.size[-1],
    }
