"""Measure drivers on days on which they were not enrolled, and what helps.

    python tools/measure_days.py CORPUS --role train --people 24     # simulated days
    python tools/measure_days.py CORPUS --role days                  # real sessions

CORPUS is a folder with manifest.tsv. A *simulated day* draws one way of speaking (pitch within 3 %,
spectral tilt within 3 dB per octave above 1 kHz), one place in the cabin and one noise for all that
is said on it; a *microphone* is drawn once (low cut, roll-off, resonance). The first enrolment is
by another microphone than the car's; everything later is by the car's. A *real session* is what the
file name says of it: the room (krs) or the emotion (turev); without a word, the first, second and
last third of the recordings.

Each person is enrolled on a first day, and again on a second one. Utterances of at most six seconds
from a last day are judged as the daemon judges them, in households of three of the same corpus. The
first lines tell how similar two templates are: of one person, and of two; and the speech of a trip
to the template: the driver's own, and the most similar stranger's. Then the FNIR and the FPIR
follow: with one enrolled day; with both; and with one after three trips whose driver was told by a
key or a choice. At last an attacker with the driver's key, the most similar stranger, drives these
trips in the driver's place: how many profiles learn from that, and how much of the attacker's
speech is accepted before and after.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from tools.lab import corpus
from tools.lab.conditions import converted, generator, padded, shaped
from tools.lab.corpus import Person, read_people, read_sound, speech_s, trimmed
from tools.lab.front_end import Ear, Heard
from tools.lab.scene import active_level_db, cabin, level_speech, mix, road_noise
from whodrives.adaptation import following, guests
from whodrives.adaptation.following import enrolment_template, speaker_model
from whodrives.adaptation.types import AdaptationSample
from whodrives.audio.blocks import SAMPLE_RATE_HZ, Floats
from whodrives.errors import EnrolmentError
from whodrives.voice.decision import Policy, judge
from whodrives.voice.profile import Profile, joined
from whodrives.voice.scoring import compare, mean_subtracted, pooled
from whodrives.voice.types import Evidence, Match, Outcome

MODELS = Path(__file__).parent.parent / "models"
ENROL_S = 12.0
"""Speech of an enrolment, at least, by level; whole recordings make it."""

UTTERANCE_BLOCKS = (67, 200)
"""An utterance lasts 2 to 6 s: recordings of the person joined."""

MOST_UTTERANCES = 6
TRIP_DAYS, LAST_DAY = (2, 3, 4), 5
LEAST_PEOPLE = 2
PARKED_DB, DRIVING_DB = 25.0, (5.0, 15.0)
"""SNR at an enrolment, and the range of SNR on a day of driving."""

NOISE_S = 30.0


def main() -> None:
    """Print the figures of each corpus."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--role", default="train")
    parser.add_argument("--people", type=int, default=24, help="of each corpus, at most")
    parser.add_argument("--only", help="this corpus alone")
    options = parser.parse_args()
    ear = Ear(MODELS)
    people: dict[str, list[Person]] = defaultdict(list)
    for person in read_people(options.corpus, options.role):
        if options.only in {None, person.corpus}:
            people[person.corpus].append(person)
    real = options.role == "days"
    for name, own in people.items():
        chosen = own[:: max(1, len(own) // options.people)][: options.people]
        heard = [found for each in chosen for found in speakers(each, ear, real=real)]
        if len({speaker.name for speaker in heard}) >= LEAST_PEOPLE:
            report(name, heard, Policy(ear.calibration, "1/100"))
        elif heard:
            print(f"{name}: fewer than {LEAST_PEOPLE} people were enrolled on two days")


@dataclass(slots=True)
class Speaker:
    """A person on three days.

    Attributes:
        name: who it is.
        first: enrolled on the first day alone.
        second: enrolled on the second day alone.
        trips: the utterances of each trip before the last day; no recording of the last day's.
        utterances: of the last day.
    """

    name: str
    first: Profile
    second: Profile
    trips: list[list[Heard]] = field(default_factory=list)
    utterances: list[Heard] = field(default_factory=list)

    @property
    def both(self) -> Profile:
        """Enrolled on both days."""
        return joined(self.first, self.second)


def speakers(person: Person, ear: Ear, *, real: bool) -> Iterator[Speaker]:
    """The person, once for each order of days; nobody who is refused, or says too little."""
    name = f"{person.corpus}/{person.name}"
    if real:
        days = sessions(person)
        for first, second, third in permutations(days, 3):
            yield from _speaker(name, [days[first], days[second], days[third]], ear)
        return
    order = generator("days", name).permutation(len(person.files))
    sounds = [read_sound(person.files[index]) for index in order]
    said = [_taken(sounds, ENROL_S), _taken(sounds, ENROL_S), sounds]
    yield from _speaker(name, said, ear, simulated=True)


def _speaker(
    name: str, days: Sequence[Sequence[Floats]], ear: Ear, *, simulated: bool = False
) -> Iterator[Speaker]:
    """The person of three days' sounds."""
    profiles = []
    for number, said in enumerate(days[:2]):
        sound = np.concatenate([*said, np.zeros(1, np.float32)])
        if simulated:
            sound = on_day(sound, f"{name}/{number}", f"{name}/{number}", PARKED_DB)
        with suppress(EnrolmentError):
            rng = generator("enrol", name, number)
            profile = ear.enrol(converted(padded(sound, rng)))
            profiles.append(replace(profile, id=name))
    if len(profiles) < 2:  # noqa: PLR2004 (days of enrolment)
        return
    found = Speaker(name, profiles[0], profiles[1])
    utterances = list(corpus.joined(map(trimmed, days[2]), UTTERANCE_BLOCKS, MOST_UTTERANCES))

    def heard(day: int, said: Sequence[Floats]) -> Iterator[Heard]:
        rng = generator("snr", name, day)
        for number, utterance in enumerate(said):
            sound = utterance
            if simulated:
                sound = on_day(sound, f"{name}/{day}", f"{name}/1", float(rng.uniform(*DRIVING_DB)))
            made = ear.hear(converted(padded(sound, generator("test", name, day, number))))
            if len(made.speech_s):
                yield made

    of_trips = len(utterances) // 2 if simulated else 0
    found.trips = [list(heard(day, utterances[:of_trips])) for day in TRIP_DAYS if of_trips]
    found.utterances = list(heard(LAST_DAY, utterances[of_trips:]))
    if found.utterances:
        yield found


def sessions(person: Person) -> Mapping[str, list[Floats]]:
    """A person's recordings by session, each with all that was said in it."""
    found: dict[str, list[Floats]] = defaultdict(list)
    for number, path in enumerate(person.files):
        word = path.stem.split("_")[0]
        third = str(3 * number // len(person.files))
        found[third if word.isdigit() else word].append(read_sound(path))
    return {
        day: sounds for day, sounds in found.items() if sum(map(speech_s, sounds)) >= ENROL_S / 2
    }


def _taken(sounds: list[Floats], seconds: float) -> list[Floats]:
    """Take whole recordings off the list until there is so much speech."""
    taken: list[Floats] = []
    while sounds and sum(map(speech_s, taken)) < seconds:
        taken.append(sounds.pop())
    return taken


def on_day(sound: Floats, day: str, microphone: str, snr_db: float) -> Floats:
    """A clean recording as it is heard on a simulated day by a simulated microphone."""
    rng = generator("microphone", microphone)
    low, high = float(rng.uniform(60, 300)), float(rng.uniform(5500, 8000))
    centre, peak_db = float(rng.uniform(500, 4000)), float(rng.uniform(-5, 8))
    rng = generator("day", day)
    pitch, tilt_db = float(rng.uniform(0.97, 1.03)), float(rng.uniform(-3, 3))
    distance_m, place = float(rng.uniform(0.4, 1.0)), int(rng.integers(1 << 30))

    def gain(hz: NDArray[np.float64]) -> NDArray[np.float64]:
        tilt = tilt_db * np.log2(np.maximum(hz, 1000) / 1000)
        peak = peak_db * np.exp(-0.5 * (np.log2(hz / centre) / 0.4) ** 2)
        ends: NDArray[np.float64] = 1 / np.sqrt((1 + (low / hz) ** 4) * (1 + (hz / high) ** 4))
        return ends * 10 ** ((tilt + peak) / 20)

    spoken = soxr.resample(sound, SAMPLE_RATE_HZ * pitch, SAMPLE_RATE_HZ)
    heard = shaped(cabin(spoken.astype(np.float32), distance_m, seed=place), gain)
    level_db = active_level_db(sound)
    noise = np.resize(road_noise(NOISE_S, float(rng.uniform(30, 110)), place), len(heard))
    return mix(level_speech(heard, level_db), noise, snr_db)


def report(name: str, heard: Sequence[Speaker], policy: Policy) -> None:
    """Print the similarity of templates and trips, the errors, and what an attacker reaches."""
    print(f"{name}: {len({each.name for each in heard})} people, {len(heard)} orders of days")
    pairs = [pair for pair in combinations(heard, 2) if pair[0].name != pair[1].name]
    _spans("templates of one person", [_cosine(each.first, each.second, policy) for each in heard])
    _spans("templates of two people", [_cosine(a.first, b.second, policy) for a, b in pairs])
    houses = [House.of(each, heard, policy) for each in heard]
    if any(house.driver.trips for house in houses):
        _spans("trips of the driver", [c for h in houses for c in h.cosines(h.driver, policy)])
        attackers = [(house, each) for house in houses for each in house.strangers[:1]]
        _spans("trips of the attacker", [c for h, a in attackers for c in h.cosines(a, policy)])
    _report_errors("one day", [house.driver.first for house in houses], houses, policy)
    _report_errors("two days", [house.driver.both for house in houses], houses, policy)
    if any(house.driver.trips for house in houses):
        after = [house.after(house.driver, policy) for house in houses]
        _report_errors("one day, three trips", after, houses, policy)
        _report_attack(houses, policy)


def _report_errors(
    name: str, drivers: Sequence[Profile], houses: Sequence[House], policy: Policy
) -> None:
    """Print the FNIR of the drivers with these profiles, and the FPIR of the strangers."""
    missed = made = accepted = tried = 0
    for driver, house in zip(drivers, houses, strict=True):
        voices = house.voices(driver, policy)
        own = [_known(utterance, voices, policy) for utterance in house.driver.utterances]
        others = [
            _known(utterance, voices, policy)
            for stranger in house.strangers
            for utterance in stranger.utterances
        ]
        missed, made = missed + sum(who != driver.id for who in own), made + len(own)
        accepted += sum(who is not None for who in others)
        tried += len(others)
    said = f"FNIR {100 * missed / made:.1f} % of {made}" if made else "no utterance"
    strange = f", FPIR {100 * accepted / tried:.2f} % of {tried}" if tried else ""
    print(f"  {name}: {said}{strange}", flush=True)


def _report_attack(houses: Sequence[House], policy: Policy) -> None:
    """Print what profiles learn of an attacker, and how much of his speech they accept."""
    learned = before = after = tried = 0
    for house, attacker in [(own, each) for own in houses for each in own.strangers[:1]]:
        changed = house.after(attacker, policy)
        learned += bool(changed.adaptation.revisions)
        was, now = (house.voices(each, policy) for each in (house.driver.first, changed))
        for utterance in attacker.utterances:
            tried += 1
            before += _known(utterance, was, policy) == changed.id
            after += _known(utterance, now, policy) == changed.id
    print(
        f"  attacker with the key: {learned} of {len(houses)} profiles learn; of {tried}",
        end="",
    )
    print(f" utterances {before} are accepted before, {after} after", flush=True)


@dataclass(frozen=True, slots=True)
class House:
    """A household of three, and who is not of it.

    Attributes:
        driver: whose days are measured.
        mates: the two others.
        strangers: everybody else of the corpus, the most similar to the driver first: that one is
            the attacker.
    """

    driver: Speaker
    mates: tuple[Speaker, ...]
    strangers: tuple[Speaker, ...]

    @classmethod
    def of(cls, driver: Speaker, heard: Sequence[Speaker], policy: Policy) -> House:
        """The household of a driver."""
        others = {each.name: each for each in heard if each.name != driver.name}
        names = generator("household", driver.name).permutation(sorted(others)).tolist()
        near = sorted(
            names[2:], key=lambda name: -_cosine(driver.first, others[name].first, policy)
        )
        members, strangers = (tuple(others[name] for name in each) for each in (names[:2], near))
        return cls(driver, members, strangers)

    def voices(self, driver: Profile, policy: Policy) -> list[tuple[str, Floats]]:
        """What utterances are compared with, the driver first."""
        profiles = [driver, *(mate.first for mate in self.mates)]
        return [(each.id, speaker_model(each, policy.calibration)) for each in profiles]

    def cosines(self, speaker: Speaker, policy: Policy) -> Iterator[float]:
        """Cosine to the driver's template of what the speaker says in each trip."""
        template = enrolment_template(self.driver.first, policy.calibration)
        for trip in speaker.trips:
            said = [(each.voices[-1], float(each.speech_s[-1])) for each in trip]
            if said:
                voices, seconds = zip(*said, strict=True)
                yield float(mean_subtracted(pooled(voices, seconds), policy.calibration) @ template)

    def after(self, speaker: Speaker, policy: Policy) -> Profile:
        """The driver's profile after trips of this speaker whose driver was told."""
        profile, calibration = self.driver.first, policy.calibration
        for day, trip in enumerate(speaker.trips):
            voices = self.voices(profile, policy)
            said = [
                AdaptationSample(voice, seconds, None, matches)
                for heard in trip
                for voice, seconds, matches in _parts(heard, voices, policy)
            ]
            own = [each for each in said if guests.is_eligible(each, apart_from=profile.id)]
            said_by_driver = following.of_chosen(profile, own, calibration)
            held = following.quarantined(profile, said_by_driver, day + 1, calibration, chosen=True)
            rest = [mate.first for mate in self.mates]
            profile, _ = following.promoted(held, rest, day + 1, calibration)
        return profile


def _parts(
    heard: Heard, voices: Sequence[tuple[str, Floats]], policy: Policy
) -> Iterator[tuple[Floats, float, tuple[Match, ...]]]:
    """The embedding of each voice of an utterance, its seconds, and its matches."""
    for part in range(heard.part[-1] + 1):
        last = int(np.flatnonzero(heard.part == part)[-1])
        voice, seconds = heard.voices[last], float(heard.speech_s[last])
        subtracted = mean_subtracted(voice, policy.calibration)
        yield voice, seconds, compare(subtracted, seconds, voices, policy.calibration)


def _spans(name: str, cosines: Sequence[float]) -> None:
    if cosines:
        spans = np.percentile(cosines, [0, 5, 25, 50, 75, 95, 99, 100]).round(2).tolist()
        print(f"  {name}, cosine at 0 5 25 50 75 95 99 100 %: {spans}")


def _cosine(one: Profile, other: Profile, policy: Policy) -> float:
    templates = [enrolment_template(each, policy.calibration) for each in (one, other)]
    return float(templates[0] @ templates[1])


def _known(heard: Heard, voices: Sequence[tuple[str, Floats]], policy: Policy) -> str | None:
    """The driver that an utterance is recognised as, at whichever segment; None for nobody."""
    for voice, speech, telephone in zip(heard.voices, heard.speech_s, heard.telephone, strict=True):
        if telephone:
            continue
        subtracted = mean_subtracted(voice, policy.calibration)
        matches = compare(subtracted, float(speech), voices, policy.calibration)
        evidence = Evidence(matches, float(speech), None, 0.0)
        verdict = judge(evidence, len(voices), policy, final=False)
        if verdict is not None and verdict.outcome is Outcome.KNOWN:
            return verdict.driver
    return None


if __name__ == "__main__":
    main()
