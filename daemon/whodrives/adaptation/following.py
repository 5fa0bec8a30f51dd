"""How a profile follows a voice that changes, without ever leaving the one that was enrolled.

Owns the quarantine, the promotion, and the way back. Knows nothing of the calendar or of files: a
day is a number, a profile is a value. Must never change the enrolled embeddings, the *anchor*.

The way of new speech into a profile:

1. An utterance *teaches* if it is long, recognised far above the threshold and far from everybody
   else in the household.
2. At the end of a trip that had one driver, what the trip taught is *held* in quarantine, if it is
   like the anchor.
3. Once trips of several days agree with each other, they become a *step* of the profile, if the
   profile as a whole then still is like the anchor and no nearer to another driver.

`voice` is what utterances are compared with: the anchor and, as a bounded share of the whole, the
newest trips learned. Somebody who is not the driver has to pass all of it, on
several days, and even then cannot pull the profile further than the bounds let it go.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whodrives.adaptation.types import AdaptationSample
from whodrives.audio.blocks import Floats
from whodrives.voice.profile import AUGMENTATIONS, Adaptation, Noise, PendingTrip, Profile, Revision
from whodrives.voice.scoring import accept_llr, centroid, mean_subtracted, pooled, unit
from whodrives.voice.types import Calibration, OperatingPoint


@dataclass(frozen=True, slots=True)
class Rules:
    """When a profile learns; docs/months.md says how the figures were chosen.

    Attributes:
        speech_s: seconds of speech that an utterance needs, to teach.
        wide_llr: how far above the acceptance threshold it must be recognised, natural log.
        clear_llr: how far from the runner-up.
        template_cosine: how like the anchor a trip must be, both relative to the mean voice.
        agreement_cosine: how like each other the trips of a step must be, in the same way.
        trips: number of trips in a step, on as many days.
        pending: trips in quarantine, at most.
        pending_days: a trip is forgotten when it was held for so long.
        active: number of trips, the newest, that a profile consists of beside the anchor.
        share: their weight against the anchor, at most.
        length: how much shorter than one the mean of both stays: 1 as much as it is, 0 not at all.
            Chosen so that as many strangers pass as before.
        drift_cosine: how like the anchor the profile as a whole stays.
        apart_cosine: a step may not bring a profile nearer to another driver, above this.
        revisions: number of steps that are kept, to go back.
    """

    speech_s: float = 2.5
    wide_llr: float = 2.0
    clear_llr: float = 9.0
    template_cosine: float = 0.6
    agreement_cosine: float = 0.6
    trips: int = 3
    pending: int = 8
    pending_days: int = 60
    active: int = 48
    share: float = 0.2
    length: float = 0.2
    drift_cosine: float = 0.85
    apart_cosine: float = 0.3
    revisions: int = 24


RULES = Rules()


QUIET_DB, LOUD_DB = 20.0, 10.0
"""From the one on speech is called quiet, below the other loud."""


def is_eligible(
    sample: AdaptationSample,
    enrolled: int,
    calibration: Calibration,
    operating_point: OperatingPoint,
    rules: Rules = RULES,
) -> bool:
    """Whether an utterance that was called known is clear enough to learn from."""
    if sample.speech_s < rules.speech_s or not sample.matches:
        return False
    best = sample.matches[0].llr
    threshold = float(accept_llr(sample.speech_s, enrolled, calibration, operating_point))
    clear = len(sample.matches) == 1 or best - sample.matches[1].llr >= rules.clear_llr
    return clear and best >= threshold + rules.wide_llr


def quarantined(
    profile: Profile,
    samples: Sequence[AdaptationSample],
    day: int,
    calibration: Calibration,
    rules: Rules = RULES,
) -> Profile:
    """The profile with what one trip of its driver taught held in quarantine.

    What is not like the anchor is not held. The oldest leave when there are too many, and after
    `Rules.pending_days`; trips of one day may come in any order.
    """
    fresh = [h for h in profile.adaptation.pending if day - h.day <= rules.pending_days]
    if samples:
        spoken = pooled([le.voice for le in samples], [le.speech_s for le in samples])
        likeness = float(
            mean_subtracted(spoken, calibration) @ enrolment_template(profile, calibration)
        )
        if likeness >= rules.template_cosine:
            speech_s = sum(sample.speech_s for sample in samples)
            fresh.append(PendingTrip(day, spoken, speech_s, _noise(samples), likeness))
    held = tuple(sorted(fresh, key=_order))[-rules.pending :]
    return replace(profile, adaptation=replace(profile.adaptation, pending=held))


def promoted(
    profile: Profile,
    others: Sequence[Profile],
    day: int,
    calibration: Calibration,
    rules: Rules = RULES,
) -> tuple[Profile, Revision | None]:
    """Take what is consistent out of quarantine into the profile, if anything is.

    Args:
        profile: the driver's.
        others: the rest of the household.
        day: today.
        calibration: of the encoder that made them.
        rules: when to learn.

    Returns:
        The profile and the step that it made. The trips of a step that would lead away from the
        anchor, or nearer to another driver, leave the quarantine and teach nothing.
    """
    group = _consistent(profile.adaptation.pending, calibration, rules)
    if not group:
        return profile, None
    left = tuple(h for h in profile.adaptation.pending if not any(h is g for g in group))
    step = Revision(day, group)
    steps = (*profile.adaptation.revisions, step)[-rules.revisions :]
    grown = replace(profile, adaptation=Adaptation(steps, left))
    if _is_safe(profile, grown, others, calibration, rules):
        return grown, step
    return replace(profile, adaptation=replace(profile.adaptation, pending=left)), None


def rolled_back(profile: Profile) -> tuple[Profile, Revision | None]:
    """Take the newest step back, and empty the quarantine: it may hold more of the same.

    Before the oldest step that is still kept there is the anchor alone.
    """
    steps = profile.adaptation.revisions
    return replace(profile, adaptation=Adaptation(steps[:-1])), steps[-1] if steps else None


def enrolment_template(profile: Profile, calibration: Calibration) -> Floats:
    """The voice as it was enrolled, (D,): relative to the mean voice, of length one."""
    return mean_subtracted(centroid(profile), calibration)


def speaker_model(profile: Profile, calibration: Calibration, rules: Rules = RULES) -> Floats:
    """What voices are compared with, (D,): relative to the mean voice, of length one at most.

    The weighted mean of the anchor and of the newest trips learned. The more the two differ, the
    shorter their mean is. Left so, every score is the weighted mean of the scores against them;
    stretched to length one, it lets more strangers pass, who are a little like each. Some of the
    length stays lost: see `Rules.length`.
    """
    enrolled = enrolment_template(profile, calibration)
    newest = [trip for step in profile.adaptation.revisions for trip in step.trips][-rules.active :]
    if not newest:
        return enrolled
    learned = unit(np.sum([mean_subtracted(trip.voice, calibration) for trip in newest], axis=0))
    windows = len(profile.embeddings) // AUGMENTATIONS
    share = min(rules.share, len(newest) / (len(newest) + windows))
    mean = (1.0 - share) * enrolled + share * learned
    return np.asarray(mean * np.linalg.norm(mean) ** (rules.length - 1.0), np.float32)


def drift(profile: Profile, calibration: Calibration, rules: Rules = RULES) -> float:
    """How like the anchor the profile as a whole is: a cosine, both relative to the mean voice."""
    return float(
        unit(speaker_model(profile, calibration, rules)) @ enrolment_template(profile, calibration)
    )


def _consistent(
    held: tuple[PendingTrip, ...], calibration: Calibration, rules: Rules
) -> tuple[PendingTrip, ...]:
    """The largest group of held trips that are like one of them, if enough days are in it."""
    voices = [mean_subtracted(h.voice, calibration) for h in held]
    best: tuple[PendingTrip, ...] = ()
    for seed in voices:
        group = tuple(
            h
            for h, voice in zip(held, voices, strict=True)
            if float(seed @ voice) >= rules.agreement_cosine
        )
        if len({h.day for h in group}) >= rules.trips and len(group) > len(best):
            best = group
    return best


def _is_safe(
    before: Profile,
    after: Profile,
    others: Sequence[Profile],
    calibration: Calibration,
    rules: Rules,
) -> bool:
    """Whether a profile stays like its anchor and comes no nearer to anybody's."""
    if drift(after, calibration, rules) < rules.drift_cosine:
        return False
    was, now = speaker_model(before, calibration, rules), speaker_model(after, calibration, rules)
    voices = [enrolment_template(other, calibration) for other in others]
    return all(
        float(now @ other) <= max(float(was @ other), rules.apart_cosine) for other in voices
    )


def _noise(samples: Sequence[AdaptationSample]) -> Noise:
    """Of the noisiest of the samples; where no noise was heard it was quiet."""
    worst = min((le.snr_db for le in samples if le.snr_db is not None), default=QUIET_DB)
    if worst >= QUIET_DB:
        return Noise.QUIET
    return Noise.SOME if worst >= LOUD_DB else Noise.LOUD


def _order(held: PendingTrip) -> tuple[int, bytes]:
    """By day; within a day in an order that does not depend on which came first."""
    return held.day, held.voice.tobytes()


def packed(known: Adaptation) -> dict[str, Any]:
    """An adaptation as values fit for JSON; an embedding is its float32, little-endian, in hex."""
    return {
        "steps": [
            {"day": s.day, "trips": [_packed_trip(t) for t in s.trips]} for s in known.revisions
        ],
        "held": [_packed_trip(trip) for trip in known.pending],
    }


def unpacked(facts: Mapping[str, Any]) -> Adaptation:
    """What `packed` was given.

    Raises:
        ValueError, KeyError, TypeError: it is something else.
    """
    steps = (
        Revision(int(step["day"]), tuple(_unpacked_trip(trip) for trip in step["trips"]))
        for step in facts["steps"]
    )
    return Adaptation(tuple(steps), tuple(_unpacked_trip(trip) for trip in facts["held"]))


def _packed_trip(trip: PendingTrip) -> dict[str, Any]:
    return {
        "day": trip.day,
        "voice": trip.voice.astype("<f4").tobytes().hex(),
        "speech_s": trip.speech_s,
        "noise": str(trip.noise),
        "anchor_cosine": trip.template_cosine,
    }


def _unpacked_trip(facts: Mapping[str, Any]) -> PendingTrip:
    spoken = np.frombuffer(bytes.fromhex(facts["voice"]), "<f4").astype(np.float32)
    speech_s, cosine = float(facts["speech_s"]), float(facts["anchor_cosine"])
    if not all(map(math.isfinite, (speech_s, cosine, *spoken))):
        raise ValueError("a number that is not finite")
    return PendingTrip(int(facts["day"]), spoken, speech_s, Noise(facts["noise"]), cosine)
