"""The content of a profile file, as values and as bytes."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np

from whodrives.adaptation import following
from whodrives.audio.blocks import Floats
from whodrives.errors import ProfileError
from whodrives.store import names
from whodrives.store.calendar import believed
from whodrives.store.index import MOST_WRITES
from whodrives.store.names import folded
from whodrives.store.sealing import SpoiltError
from whodrives.vehicle import vss
from whodrives.voice.profile import AUGMENTATIONS, Adaptation, Profile

_MOST_FOB_CHARACTERS = 128


_UNIT_LENGTH_TOLERANCE = 1e-3


DRIVER_ID = re.compile(r"d-[0-9a-f]{8}")


FINGERPRINT = re.compile(r"[0-9a-f]{64}")


_MOST_SPEECH_S = 1e6


_PATH = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,254}")  # a VSS path, of whatever version


@dataclass(frozen=True, slots=True)
class Consent:
    """The driver's consent to the enrolment.

    Attributes:
        by: name of the person who consented; never published, never logged.
        at: when, ISO 8601, UTC, to the second.
        text: the version of the consent text (`enrolment.prompts.CONSENT`).
    """

    by: str
    at: str
    text: str


class Session(msgspec.Struct, frozen=True):
    """A further enrolment of the same driver.

    Attributes:
        day: ISO 8601 date, UTC.
        speech_s: seconds of speech in it.
    """

    day: str
    speech_s: float


@dataclass(frozen=True, slots=True)
class Voice:
    """An enrolled voice that was replaced, or that a further enrolment was added to.

    Attributes:
        embeddings: as in `voice.profile.Profile`.
        speech_s: seconds of speech they were made from.
        enrolled_at: ISO 8601 date, UTC.
        encoder: fingerprint of what made the embeddings.
        added: the enrolments after the first.
    """

    embeddings: Floats
    speech_s: float
    enrolled_at: str
    encoder: str
    added: tuple[Session, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredProfile:
    """A profile with the data that recognition does not need.

    Attributes:
        name: the driver's name; never published, never logged.
        profile: the data for recognition.
        enrolled_at: ISO 8601 date, UTC.
        previous: the preferences before the last change, VSS path to value; None before the first.
        consent: who consented, when, to what; None if the consent is recorded elsewhere.
        recognised_on: ISO 8601 date, UTC, of the last trip whose driver this voice assigned; None
            before the first.
        before: the replaced voice, until the present one has assigned the driver of a trip.
        revision: number of the store's write that made it; 0 in a store without an index.
    """

    name: str
    profile: Profile
    enrolled_at: str
    previous: Mapping[str, float] | None = None
    consent: Consent | None = None
    recognised_on: str | None = None
    before: Voice | None = None
    revision: int = 0
    added: tuple[Session, ...] = ()

    def is_called(self, who: str) -> bool:
        """Whether `who` is the driver's name, in any case, or id."""
        return folded(who) in (folded(self.name), self.profile.id)

    def unused_days(self, today: date) -> int | None:
        """Days since the last recognition or the enrolment; None without a plausible date."""
        known = [day for day in map(believed, (self.recognised_on, self.enrolled_at)) if day]
        return (today - date.fromisoformat(max(known))).days if known else None


def _stored_name(name: str) -> str:
    """A name from a file; names that older rules allowed stay valid."""
    if not isinstance(name, str) or not (text := names.readable(name)):
        raise ProfileError("a profile without a name")
    names.refuse_id(text)
    return text[: names.MOST_CHARACTERS]


def checked_fob(fob: str) -> str:
    """The key fob's id without surrounding blanks; ProfileError if it is invalid."""
    fob = fob.strip()
    if not fob or not fob.isprintable() or len(fob) > _MOST_FOB_CHARACTERS:
        raise ProfileError(
            f"a key's id is 1 to {_MOST_FOB_CHARACTERS} printable characters; give what the car "
            "reports in Vehicle.Occupant.Row1.DriverSide.Identifier.Subject"
        )
    return fob


def with_preferences(stored: StoredProfile, wanted: Mapping[str, float]) -> StoredProfile:
    """The profile with these preferences; the former ones become `previous` if they differ."""
    if dict(wanted) == dict(stored.profile.preferences):
        return stored
    profile = dataclasses.replace(stored.profile, preferences=wanted)
    return dataclasses.replace(stored, profile=profile, previous=stored.profile.preferences)


def unpack_revised(facts: Mapping[str, Any], name: str) -> tuple[int, Any]:
    """The revision and the data of that revision."""
    revision = facts["revision"]
    if not isinstance(revision, int):
        raise TypeError("a revision is a number")
    return revision, facts[name]


def pack_record(stored: StoredProfile) -> bytes:
    """The bytes that are sealed: a JSON object, a newline, and the embeddings."""
    profile, before = stored.profile, stored.before
    facts = {
        "name": stored.name,
        "enrolled_at": stored.enrolled_at,
        "speech_s": profile.speech_s,
        "preferences": dict(profile.preferences),
        "previous": None if stored.previous is None else dict(stored.previous),
        "key": profile.key,
        "shape": profile.embeddings.shape,
        "adaptation": following.packed(profile.adaptation),
        "consent": dataclasses.asdict(stored.consent) if stored.consent else None,
        "recognised_on": stored.recognised_on,
        "revision": stored.revision,
        "added": [msgspec.to_builtins(session) for session in stored.added],
        "before": {
            "speech_s": before.speech_s,
            "enrolled_at": before.enrolled_at,
            "shape": before.embeddings.shape,
            "encoder": before.encoder,
            "added": [msgspec.to_builtins(session) for session in before.added],
        }
        if before
        else None,
    }
    text = json.dumps(facts, allow_nan=False).encode()
    rows = [profile.embeddings, before.embeddings] if before else [profile.embeddings]
    return text + b"\n" + b"".join(each.astype("<f4").tobytes() for each in rows)


class _VoiceFacts(msgspec.Struct):
    """Description of embeddings that follow the text."""

    speech_s: float
    enrolled_at: str
    shape: tuple[int, int]
    encoder: str | None = None
    added: tuple[Session, ...] = ()


class _Facts(msgspec.Struct):
    """A profile's text; older profiles lack the fields with defaults."""

    name: str
    enrolled_at: str
    speech_s: float
    preferences: dict[str, float]
    shape: tuple[int, int]
    previous: dict[str, float] | None = None
    key: str | None = None
    adaptation: dict[str, Any] | None = None
    consent: Consent | None = None
    recognised_on: str | None = None
    before: _VoiceFacts | None = None
    revision: int = 0
    added: tuple[Session, ...] = ()


def unpack_record(
    driver: str, encoder: str, payload: bytes, dimension: int | None
) -> StoredProfile:
    """The payload's profile; SpoiltError if it is invalid."""
    try:
        return _stored(driver, encoder, payload, dimension)
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise SpoiltError("contains no valid profile") from error
    except ProfileError as error:
        raise SpoiltError(f"contains no valid profile ({error})") from error


def _stored(driver: str, encoder: str, payload: bytes, dimension: int | None) -> StoredProfile:
    """The payload's profile; raises built-in errors or ProfileError if it is invalid."""
    text, _, raw = payload.partition(b"\n")
    # Not msgspec's decoder: an older whodrives stored names with lone surrogates.
    facts = msgspec.convert(json.loads(text), _Facts)
    numbers, count = np.frombuffer(raw, dtype="<f4"), math.prod(facts.shape)
    rows = checked_embeddings(numbers[:count].reshape(facts.shape), dimension)
    before = _before(facts.before, numbers[count:], encoder)
    learned = facts.adaptation
    known = following.unpacked(learned, encoder) if learned is not None else Adaptation()
    _check_adaptation(known, encoder, rows.shape[1])
    if not 0 <= facts.revision < MOST_WRITES:
        raise ValueError("no number of a write")
    profile = Profile(
        id=driver,
        embeddings=rows,
        encoder=encoder,
        speech_s=_seconds(facts.speech_s),
        preferences=_numbers(facts.preferences),
        key=None if facts.key is None else checked_fob(facts.key),
        adaptation=known,
    )
    return StoredProfile(
        _stored_name(facts.name),
        profile,
        _day(facts.enrolled_at),
        None if facts.previous is None else _numbers(facts.previous),
        _consent(facts.consent),
        _day(facts.recognised_on) if facts.recognised_on else None,
        before,
        facts.revision,
        _sessions(facts.added),
    )


def _before(facts: _VoiceFacts | None, numbers: Floats, encoder: str) -> Voice | None:
    """The replaced voice; `encoder` made it if the facts do not tell."""
    if facts is None:
        if numbers.size:
            raise ValueError("more embeddings than are described")
        return None
    rows = checked_embeddings(numbers.reshape(facts.shape), None)
    seconds, added = _seconds(facts.speech_s), _sessions(facts.added)
    made_by = _fingerprint(facts.encoder or encoder)
    return Voice(rows, seconds, _day(facts.enrolled_at), made_by, added)


def _fingerprint(text: str) -> str:
    if not FINGERPRINT.fullmatch(text):
        raise ValueError("no fingerprint of an encoder")
    return text


def _sessions(added: tuple[Session, ...]) -> tuple[Session, ...]:
    return tuple(Session(_day(each.day), _seconds(each.speech_s)) for each in added)


def _check_adaptation(known: Adaptation, encoder: str, dimension: int) -> None:
    """Raise ValueError unless all embeddings and days of the adaptation are valid.

    Those that `encoder` made have this dimension.
    """
    days = [step.day for step in known.revisions]
    for trip in (*(trip for step in known.revisions for trip in step.trips), *known.pending):
        days.append(trip.day)
        _seconds(trip.speech_s)
        other = _fingerprint(trip.encoder) != encoder
        if trip.voice.ndim != 1 or not (other or len(trip.voice) == dimension):
            raise ValueError("what was learned is no embedding of this length")
        if not _is_unit(trip.voice[np.newaxis]):
            raise ValueError("what was learned is no embedding of unit length")
        if abs(trip.template_cosine) > 1 + _UNIT_LENGTH_TOLERANCE:
            raise ValueError("a cosine beyond 1")
    for day in days:
        date.fromordinal(day)


def _seconds(seconds: float) -> float:
    if not 0 <= seconds <= _MOST_SPEECH_S:
        raise ValueError("no duration")
    return seconds


def _consent(facts: Consent | None) -> Consent | None:
    if facts is None:
        return None
    when = datetime.fromisoformat(facts.at).isoformat(timespec="seconds")
    text = names.readable(facts.text)[: names.MOST_CHARACTERS]
    return Consent(names.readable(facts.by)[: names.MOST_CHARACTERS], when, text)


def _numbers(facts: Mapping[str, float]) -> Mapping[str, float]:
    if not all(_PATH.fullmatch(path) and vss.is_number(value) for path, value in facts.items()):
        raise ValueError("no preferences")
    return MappingProxyType(dict(facts))


def _day(text: str) -> str:
    return date.fromisoformat(text).isoformat()


def replacing(old: StoredProfile, new: StoredProfile) -> StoredProfile:
    """The new voice with the former one as `before`, until the new one has been confirmed.

    An unconfirmed voice is not kept.
    """
    voice = old.profile
    before = old.before or Voice(
        voice.embeddings, voice.speech_s, old.enrolled_at, voice.encoder, old.added
    )
    return dataclasses.replace(
        new,
        previous=old.previous,
        recognised_on=old.recognised_on,
        before=before,
    )


def described(stored: StoredProfile) -> Iterator[str]:
    """The content of a profile in phrases for a receipt, without voice and preferences."""
    count, seconds = len(stored.profile.embeddings), stored.profile.speech_s
    yield f"the name, and the voice: {count} embeddings of {seconds:.1f} s of speech"
    if stored.added:
        yield f"the days of {len(stored.added)} further enrolments"
    if stored.profile.adaptation != Adaptation():
        learned, held = stored.profile.adaptation.revisions, stored.profile.adaptation.pending
        trips = sum(len(step.trips) for step in learned)
        yield f"the adaptation, from {trips} trips, and {len(held)} trips in quarantine"
    if stored.before:
        yield f"the previous voice: {len(stored.before.embeddings)} embeddings"
    if stored.profile.preferences:
        yield f"{len(stored.profile.preferences)} preferences"
    if stored.consent:
        yield "the record of consent"
    if stored.recognised_on:
        yield "the date of the last recognition"


def checked_embeddings(embeddings: Floats, dimension: int | None) -> Floats:
    """The embeddings as read-only float32 (n, D); ProfileError unless rows have unit length."""
    rows = np.array(embeddings, dtype=np.float32)
    match rows.shape:
        case (int(k), int(d)) if k and d and k % AUGMENTATIONS == 0 and dimension in (None, d):
            pass
        case shape:
            raise ProfileError(
                f"a voice is {AUGMENTATIONS} k embeddings of {dimension or 'D'} numbers, not of "
                f"shape {shape}"
            )
    if not _is_unit(rows):
        raise ProfileError("an embedding is not of unit length; normalise it, then save")
    rows.flags.writeable = False
    return rows


def _is_unit(rows: Floats) -> bool:
    lengths = np.linalg.norm(rows, axis=1)
    return bool(np.all(np.abs(lengths - 1) <= _UNIT_LENGTH_TOLERANCE))
