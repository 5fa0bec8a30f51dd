"""Adapts a profile to its driver's voice over months, within bounds.

Owns eligibility, the quarantine of pending trips, revisions, and their roll-back. Must not know the
calendar or files: a day is a number, a profile is a value. Nothing here changes the enrolment
template.

How speech gets into a profile:

1. An utterance is an *adaptation sample* if it is long, recognised far above the threshold, and far
   from every other driver of the household.
2. At the end of a trip with one driver, its samples become one *pending* trip if their mean is
   similar to the enrolment template.
3. Once pending trips of several days agree, they become a *revision*, if the speaker model as a
   whole then stays similar to the template and comes no nearer to another driver.

Utterances are compared with `speaker_model`: the template and, with a bounded weight, the newest
trips of the revisions. Somebody else would have to pass all three on several days, and could still
not move the profile beyond the bounds.

A driver who is never recognised would never get better. Where a key or a choice on the head unit
told who drives, the speech that is of no other driver (`guests.is_eligible`) and of one voice
(`of_chosen`) therefore becomes a pending trip, too, and may weigh more.

All limits on cosines are for the first encoder, whose part of an embedding they look at.

A profile that was enrolled with the first encoder alone takes over what the second one makes of its
driver's speech from the revisions (`dimension`): from trips in which the voice was recognised, so
that whoever has the key cannot provide it. Until then, the first one alone compares it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whodrives.adaptation import guests
from whodrives.adaptation.types import AdaptationSample
from whodrives.audio.blocks import Floats
from whodrives.voice.profile import (
    AUGMENTATIONS,
    Adaptation,
    Noise,
    PendingTrip,
    Profile,
    Revision,
    extended,
)
from whodrives.voice.scoring import (
    accept_llr,
    centroid,
    mean_subtracted,
    pooled,
    unit,
)
from whodrives.voice.types import Calibration, OperatingPoint


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits of adaptation; docs/months.md has how they were chosen.

    Attributes:
        speech_s: minimum seconds of speech of an adaptation sample.
        wide_llr: its minimum llr above the acceptance threshold, natural log.
        clear_llr: its minimum llr above the second best match.
        template_cosine: minimum cosine of a pending trip to the template, both mean-subtracted.
        alone_cosine: every other voice of a trip whose driver was chosen has a cosine to the
            template that is lower by this.
        agreement_cosine: minimum cosine of the trips of a revision to one of them.
        trips: minimum number of days that a revision has trips of.
        pending: maximum pending trips.
        pending_days: a pending trip is dropped after this many days.
        active: the newest trips of the revisions that the speaker model uses, at most.
        share: their maximum weight against the template.
        chosen_share: the same, if trips whose driver was chosen are among them.
        chosen_windows: such a trip counts as so many windows of enrolment, others as one.
        length: exponent of the length of the speaker model, in [0, 1]: 1 keeps the length of the
            weighted mean, 0 gives unit length. Chosen so that the FPIR does not rise.
        drift_cosine: minimum cosine of the speaker model to the template.
        apart_cosine: a revision may not raise the cosine to another driver above this.
        revisions: maximum revisions kept for roll-back.
    """

    speech_s: float = 2.5
    wide_llr: float = 2.0
    clear_llr: float = 9.0
    template_cosine: float = 0.6
    alone_cosine: float = 0.2
    agreement_cosine: float = 0.6
    trips: int = 3
    pending: int = 8
    pending_days: int = 60
    active: int = 48
    share: float = 0.2
    chosen_share: float = 0.4
    chosen_windows: int = 3
    length: float = 0.2
    drift_cosine: float = 0.85
    apart_cosine: float = 0.3
    revisions: int = 24


RULES = Rules()


CARRIED_TRIPS, CARRIED_S = 3, 10.0
"""A template takes over the second encoder's part from so many trips in which the driver was
recognised, and so many seconds of speech, at least."""


MOST_MISSED = 999
"""`Adaptation.missed` counts no further."""


QUIET_DB, LOUD_DB = 20.0, 10.0
"""SNR at or above QUIET_DB counts as quiet, below LOUD_DB as loud."""


def is_eligible(
    sample: AdaptationSample,
    enrolled: int,
    calibration: Calibration,
    operating_point: OperatingPoint,
    rules: Rules = RULES,
) -> bool:
    """Whether a recognised utterance is clear enough for adaptation."""
    if sample.speech_s < rules.speech_s or not sample.matches:
        return False
    best = sample.matches[0].llr
    threshold = float(accept_llr(sample.speech_s, enrolled, calibration, operating_point))
    clear = len(sample.matches) == 1 or best - sample.matches[1].llr >= rules.clear_llr
    return clear and best >= threshold + rules.wide_llr


def of_chosen(
    profile: Profile,
    samples: Sequence[AdaptationSample],
    calibration: Calibration,
    rules: Rules = RULES,
) -> tuple[AdaptationSample, ...]:
    """The utterances of a trip that are of its chosen driver's voice; none if that is uncertain.

    A passenger speaks, too. The voices of the trip are clustered; one is the driver's if it is the
    only one that is similar to the template.
    """
    groups = guests.clustered(samples, calibration)
    template = enrolment_template(profile, calibration.first)
    voices = [mean_subtracted(guests.voice_of(group), calibration.first) for group in groups]
    ranked = sorted(
        zip((float(voice @ template) for voice in voices), groups, strict=True),
        key=lambda each: -each[0],
    )
    alone = len(ranked) == 1 or (ranked and ranked[0][0] - ranked[1][0] >= rules.alone_cosine)
    return ranked[0][1] if alone else ()


def quarantined(
    profile: Profile,
    samples: Sequence[AdaptationSample],
    day: int,
    calibration: Calibration,
    rules: Rules = RULES,
    *,
    chosen: bool = False,
) -> Profile:
    """Add one trip's samples to the profile's pending trips.

    Samples that are not similar to the template are dropped, and so are the oldest pending trips
    beyond `Rules.pending` or `Rules.pending_days`. Trips of one day may come in any order.
    `chosen` as in `PendingTrip`.
    """
    known = profile.adaptation
    fresh = [h for h in known.pending if day - h.day <= rules.pending_days]
    if samples:
        embedding = pooled([le.voice for le in samples], [le.speech_s for le in samples])
        first = calibration.first
        cosine = float(mean_subtracted(embedding, first) @ enrolment_template(profile, first))
        if cosine >= rules.template_cosine:
            speech_s = sum(sample.speech_s for sample in samples)
            noise = _noise(samples)
            trip = PendingTrip(
                day, embedding, speech_s, noise, cosine, calibration.encoder, chosen=chosen
            )
            fresh.append(trip)
    pending = tuple(sorted(fresh, key=_order))[-rules.pending :]
    return replace(profile, adaptation=replace(known, pending=pending))


def counted(profile: Profile, *, recognised: bool) -> Profile:
    """Count a trip in which the driver was recognised, or was told and not recognised."""
    known = profile.adaptation
    missed = 0 if recognised else min(known.missed + 1, MOST_MISSED)
    return replace(profile, adaptation=replace(known, missed=missed))


def promoted(
    profile: Profile,
    others: Sequence[Profile],
    day: int,
    calibration: Calibration,
    rules: Rules = RULES,
) -> tuple[Profile, Revision | None]:
    """Make a revision of the pending trips that agree, if enough do.

    Args:
        profile: the driver's.
        others: the rest of the household.
        day: today.
        calibration: of the encoder that made them.
        rules: limits of adaptation.

    Returns:
        The profile and its new revision, or None. Trips whose revision would violate
        `Rules.drift_cosine` or `Rules.apart_cosine` are dropped.
    """
    first = calibration.first
    group = _consistent(profile.adaptation.pending, first, rules)
    if not group:
        return profile, None
    left = tuple(h for h in profile.adaptation.pending if not any(h is g for g in group))
    revision = Revision(day, group)
    revisions = (*profile.adaptation.revisions, revision)[-rules.revisions :]
    grown = replace(
        profile, adaptation=replace(profile.adaptation, revisions=revisions, pending=left)
    )
    if _is_safe(profile, grown, others, first, rules):
        return grown, revision
    return replace(profile, adaptation=replace(profile.adaptation, pending=left)), None


def rolled_back(profile: Profile) -> tuple[Profile, Revision | None]:
    """Remove the newest revision and all pending trips, which may contain more of the same.

    Returns the profile and the removed revision, or None if there was none.
    """
    revisions = profile.adaptation.revisions
    return replace(profile, adaptation=Adaptation(revisions[:-1])), revisions[
        -1
    ] if revisions else None


def dimension(profile: Profile, calibration: Calibration) -> int:
    """Dimension of the template that a profile can be compared with, at most the calibration's."""
    return len(_template(profile, calibration))


def enrolment_template(profile: Profile, calibration: Calibration) -> Floats:
    """The enrolment template, mean-subtracted, (D,), unit length.

    Raises:
        ValueError: it has fewer dimensions than the calibration (`dimension`).
    """
    return mean_subtracted(_template(profile, calibration), calibration)


def _template(profile: Profile, calibration: Calibration) -> Floats:
    """Mean embedding of the enrolment, (D,), with the second encoder's part from the trips."""
    enrolled = centroid(profile)
    if len(enrolled) >= calibration.dimension:
        return enrolled
    trips = [trip for trip in _learned(profile, calibration) if not trip.chosen]
    speech_s = [trip.speech_s for trip in trips]
    if len(trips) < CARRIED_TRIPS or sum(speech_s) < CARRIED_S:
        return enrolled
    both = pooled([trip.voice for trip in trips], speech_s)
    template: Floats = extended(enrolled[np.newaxis], both)[0]
    return template


def _learned(profile: Profile, calibration: Calibration) -> list[PendingTrip]:
    """The trips of the revisions that this calibration can compare, oldest first.

    That of the first encoder can compare all of them: it made the first part of each embedding.
    """
    return [
        trip
        for revision in profile.adaptation.revisions
        for trip in revision.trips
        if len(trip.voice) > calibration.dimension or trip.encoder == calibration.encoder
    ]


def speaker_model(profile: Profile, calibration: Calibration, rules: Rules = RULES) -> Floats:
    """What utterances are compared with, mean-subtracted, (D,), at most of unit length.

    The weighted mean of the template and the newest trips of the revisions. Its length shrinks as
    the two differ. At that length each score is the weighted mean of both scores; at unit length
    the FPIR would rise, because other speakers are a little similar to each. `Rules.length` sets
    the compromise.
    """
    enrolled = enrolment_template(profile, calibration)
    newest = _learned(profile, calibration)[-rules.active :]
    if not newest:
        return enrolled
    learned = unit(np.sum([mean_subtracted(trip.voice, calibration) for trip in newest], axis=0))
    windows = len(profile.embeddings) // AUGMENTATIONS
    count = sum(rules.chosen_windows if trip.chosen else 1 for trip in newest)
    most = rules.chosen_share if any(trip.chosen for trip in newest) else rules.share
    share = min(most, count / (count + windows))
    mean = (1.0 - share) * enrolled + share * learned
    return np.asarray(mean * np.linalg.norm(mean) ** (rules.length - 1.0), np.float32)


def drift(profile: Profile, calibration: Calibration, rules: Rules = RULES) -> float:
    """Cosine between the speaker model and the enrolment template, both mean-subtracted.

    Both are the first encoder's.
    """
    first = calibration.first
    return float(unit(speaker_model(profile, first, rules)) @ enrolment_template(profile, first))


def _consistent(
    held: tuple[PendingTrip, ...], calibration: Calibration, rules: Rules
) -> tuple[PendingTrip, ...]:
    """The largest group of pending trips similar to one of them, if it has enough days."""
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
    """Whether the model stays similar to its template and comes no nearer to another driver."""
    if drift(after, calibration, rules) < rules.drift_cosine:
        return False
    was, now = speaker_model(before, calibration, rules), speaker_model(after, calibration, rules)
    voices = [enrolment_template(other, calibration) for other in others]
    return all(
        float(now @ other) <= max(float(was @ other), rules.apart_cosine) for other in voices
    )


def _noise(samples: Sequence[AdaptationSample]) -> Noise:
    """The noise of the noisiest sample; QUIET if no SNR is known."""
    worst = min((le.snr_db for le in samples if le.snr_db is not None), default=QUIET_DB)
    if worst >= QUIET_DB:
        return Noise.QUIET
    return Noise.SOME if worst >= LOUD_DB else Noise.LOUD


def _order(held: PendingTrip) -> tuple[int, bytes]:
    """Sort key: by day, and within a day independent of the order of arrival."""
    return held.day, held.voice.tobytes()


def packed(known: Adaptation) -> dict[str, Any]:
    """An adaptation as JSON values; embeddings are little-endian float32 in hex."""
    return {
        "steps": [
            {"day": s.day, "trips": [_packed_trip(t) for t in s.trips]} for s in known.revisions
        ],
        "held": [_packed_trip(trip) for trip in known.pending],
        "missed": known.missed,
    }


def unpacked(facts: Mapping[str, Any], encoder: str) -> Adaptation:
    """The inverse of `packed`; `encoder` made the embeddings that do not tell theirs.

    Raises:
        ValueError, KeyError, TypeError: the values are malformed.
    """
    steps = (
        Revision(int(step["day"]), tuple(_unpacked_trip(trip, encoder) for trip in step["trips"]))
        for step in facts["steps"]
    )
    held = tuple(_unpacked_trip(trip, encoder) for trip in facts["held"])
    # Earlier versions did not count missed trips.
    missed = int(facts.get("missed", 0))
    if not 0 <= missed <= MOST_MISSED:
        raise ValueError("no count of trips")
    return Adaptation(tuple(steps), held, missed)


def _packed_trip(trip: PendingTrip) -> dict[str, Any]:
    return {
        "day": trip.day,
        "voice": trip.voice.astype("<f4").tobytes().hex(),
        "speech_s": trip.speech_s,
        "noise": str(trip.noise),
        "anchor_cosine": trip.template_cosine,
        "encoder": trip.encoder,
        "chosen": trip.chosen,
    }


def _unpacked_trip(facts: Mapping[str, Any], encoder: str) -> PendingTrip:
    spoken = np.frombuffer(bytes.fromhex(facts["voice"]), "<f4").astype(np.float32)
    speech_s, cosine = float(facts["speech_s"]), float(facts["anchor_cosine"])
    if not all(map(math.isfinite, (speech_s, cosine, *spoken))):
        raise ValueError("a number that is not finite")
    day, noise = int(facts["day"]), Noise(facts["noise"])
    # Earlier versions had one encoder, and did not learn from chosen drivers.
    made_by, chosen = str(facts.get("encoder", encoder)), bool(facts.get("chosen"))
    return PendingTrip(day, spoken, speech_s, noise, cosine, made_by, chosen=chosen)
