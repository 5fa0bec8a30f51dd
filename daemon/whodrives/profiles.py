"""The enrolled drivers on disk: sealed, whole, erasable.

Owns the profile files: names, voices (embeddings), consent and preferences, one file per driver.
Hides their format, the key, and how a write survives a power cut. Must never log a name or an
embedding, and must never know how a voice is compared or what is sent to the car.

A file `d-xxxxxxxx.profile` is: magic, schema (1 byte), key id (8), vehicle id (8), encoder's
fingerprint (32), nonce (12), then the AES-256-GCM ciphertext of the payload (NIST SP 800-38D). All
that stands before the nonce, and the driver's id, are bound to it as associated data. The payload
is a JSON object, a newline, and the embeddings as little-endian float32: the enrolled voice's, then
those of the voice before, if there is one.

`guests.sealed` holds the guest book in the same way, as JSON alone; there is none without guests.

A file that is no profile of this car (changed, cut short, of another car or an older format) is set
aside as `*.rejected`: never opened as a profile again, never deleted.

`export` and `import_household` move all profiles in one file, sealed with a passphrase: magic,
schema (1 byte), salt (16), nonce (12), AES-256-GCM ciphertext; the key is scrypt's (RFC 7914) with
N = 2^17, r = 8, p = 1, which takes 128 MiB.
"""

from __future__ import annotations

import base64
import dataclasses
import fcntl
import hmac
import json
import math
import os
import pwd
import re
import secrets
import shlex
import stat
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from whodrives import adaptation, guests, names, vss
from whodrives.domain import RENDITIONS, Adaptation, Floats, Profile, ProfileError
from whodrives.names import folded

_MAGIC = b"whodrives profile"
_SCHEMA = 2
_KEY_ID_BYTES = 8
_VEHICLE_BYTES = 8
_ENCODER_BYTES = 32
_NONCE_BYTES = 12
_HEADER_BYTES = len(_MAGIC) + 1 + _KEY_ID_BYTES + _VEHICLE_BYTES + _ENCODER_BYTES
_HOUSEHOLD_MAGIC = b"whodrives household"
_HOUSEHOLD_SCHEMA = 1
_MOST_HOUSEHOLD_BYTES = 64 * 1024 * 1024
_SALT_BYTES = 16
_SCRYPT = {"n": 2**17, "r": 8, "p": 1}
LEAST_PASSPHRASE_CHARACTERS = 12
REJECTED = ".rejected"
_KEY_BYTES = 32
_MOST_BYTES = 4 * 1024 * 1024  # hundreds of times a usual profile
_TRIAL_BYTES = 256 * 1024  # more than a profile has after years
_MOST_FOB_CHARACTERS = 128
_UNIT_LENGTH_TOLERANCE = 1e-3
_ID = re.compile(r"d-[0-9a-f]{8}")
_GUESTS = "guests"
_CREDENTIAL = "profile-key"


@dataclass(frozen=True, slots=True)
class Consent:
    """That the driver agreed to be enrolled.

    Attributes:
        by: who agreed, as they call themselves; never published, never logged.
        at: when, ISO 8601, UTC, to the second.
        text: the version of the text they agreed to (`coaching.CONSENT`).
    """

    by: str
    at: str
    text: str


@dataclass(frozen=True, slots=True)
class Voice:
    """An enrolled voice that another one has replaced.

    Attributes:
        embeddings: as `domain.Profile` has them.
        speech_s: seconds of speech they were made from.
        enrolled_at: ISO 8601 date, UTC.
    """

    embeddings: Floats
    speech_s: float
    enrolled_at: str


@dataclass(frozen=True, slots=True)
class StoredProfile:
    """A profile and what only people care for.

    Attributes:
        name: what the driver is called; never published, never logged.
        profile: what recognition needs.
        enrolled_at: ISO 8601 date, UTC.
        previous: the preferences before the last change, VSS path to value; None before there
            was one.
        consent: who agreed, when, to what; None for a voice whose consent is recorded elsewhere.
        recognised_on: ISO 8601 date, UTC, of the last trip this driver's voice settled; None before
            the first.
        before: the voice that the present one replaced, until that has settled a trip.
    """

    name: str
    profile: Profile
    enrolled_at: str
    previous: Mapping[str, float] | None = None
    consent: Consent | None = None
    recognised_on: str | None = None
    before: Voice | None = None

    def is_called(self, who: str) -> bool:
        """Whether `who` is the driver's name, in any case, or id."""
        return folded(who) in (folded(self.name), self.profile.id)

    def unused_days(self, today: date) -> int:
        """Days since the driver was recognised last, or enrolled."""
        last = max(self.recognised_on or self.enrolled_at, self.enrolled_at)
        return (today - date.fromisoformat(last)).days


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was erased of a driver.

    Attributes:
        driver: the id.
        at: when, ISO 8601, UTC, to the second.
        erased: a phrase for each thing that is gone.
    """

    driver: str
    at: str
    erased: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What could be read, by ascending id, and a sentence about everything that could not."""

    profiles: tuple[StoredProfile, ...]
    problems: tuple[str, ...]


class ProfileStore:
    """The profiles of one folder, for one encoder and one car.

    Every method raises ProfileError, with the mend in its text, if the key cannot be used or the
    disk refuses; a profile on disk is then still whole, as before or as asked. A `who` is a
    driver's name, in any case, or id. Several processes may write: they take turns.
    """

    def __init__(
        self, directory: Path, key_file: Path, encoder: str, limits: vss.Limits, vehicle: str
    ) -> None:
        """Look at nothing yet.

        Args:
            directory: where the profiles are; made, for its owner only, when the first is saved.
            key_file: 32 bytes, outside `directory`, readable by its owner only; made when the
                first profile is saved. The systemd credential `profile-key` goes before it.
            encoder: fingerprint of the encoder, hexadecimal; other encoders' profiles are problems.
            limits: what the car's ECUs accept; preferences outside are problems.
            vehicle: the car's id; other cars' profiles are problems.
        """
        self._directory = directory
        self._key_file = key_file
        self._encoder = encoder
        self._limits = limits
        self._vehicle = vehicle

    def load(self) -> Loaded:
        """All profiles that can be used; nothing on disk is changed."""
        profiles: dict[str, StoredProfile] = {}
        problems: list[str] = []
        for path, key in self._paths_with_key():
            try:
                stored, left_out = self._usable(self._read(path, key))
                _refuse_namesake(stored, profiles)
            except ProfileError as error:
                problems.append(str(error))
            else:
                profiles[folded(stored.name)] = stored
                problems.extend(left_out)
        problems.extend(self._set_aside_before())
        return Loaded(tuple(profiles.values()), tuple(problems))

    def set_aside(self) -> None:
        """Rename every file that can never be a profile of this car, or its guest book.

        They are called `*.rejected` then. Not when the key fits none of them, for then the key is
        wrong; and not what a newer whodrives or another encoder made. `load` goes on naming what
        was set aside.
        """
        if not any(self._is_rejected(path, key) for path, key in self._sealed_with_key()):
            return
        with self._writing():
            found = list(self._sealed_with_key())
            if not any(self._fits(path, key) for path, key in found):
                return
            for path, key in found:
                if self._is_rejected(path, key):
                    path.rename(_free(path.with_name(path.name + REJECTED)))
            _sync_directory(self._directory)

    def save(
        self,
        name: str,
        embeddings: Floats,
        speech_s: float,
        preferences: Mapping[str, float] | None = None,
        *,
        consent: Consent | None = None,
        replace: bool = False,
    ) -> StoredProfile:
        """Enrol a driver; or, with `replace`, enrol anew one who keeps id, key and preferences.

        Args:
            name: 1 to 64 printable characters, unlike every other name in more than case.
            embeddings: as `domain.Profile` has them.
            speech_s: seconds of speech they were made from.
            preferences: VSS path to value; None keeps what a replaced profile holds.
            consent: that the driver agreed to this voice being kept.
            replace: whether a driver of this name may exist.
        """
        name = names.checked(name)
        with self._writing():
            key = self._key_for_first() or self._key()
            old = self._find(name)
            if old and not replace:
                raise ProfileError(
                    f"{name} is enrolled already; take another name, or say that it be replaced"
                )
            wanted = None if preferences is None else self._checked(preferences)
            kept = old.profile.preferences if old else wanted or {}
            driver = old.profile.id if old else self._new_id()
            fob = old.profile.key if old else None
            voice = _voice(embeddings)
            profile = Profile(driver, voice, self._encoder, float(speech_s), kept, fob)
            stored = StoredProfile(name, profile, _today(), consent=consent)
            if old:
                stored = _following(old, stored)
            return self._write(stored if wanted is None else _preferring(stored, wanted), key)

    def adopt(
        self, driver: str | None, embeddings: Floats, speech_s: float, consent: Consent
    ) -> StoredProfile:
        """Enrol whose name is not known: a new driver, called "driver N", or `driver` anew."""
        if driver is not None:
            with self._writing():
                name = self._require(driver).name
            return self.save(name, embeddings, speech_s, consent=consent, replace=True)
        taken = {folded(stored.name) for stored in self.load().profiles}
        name = next(n for n in (f"driver {k}" for k in range(1, 1000)) if folded(n) not in taken)
        return self.save(name, embeddings, speech_s, consent=consent)

    def restore(self, who: str) -> StoredProfile:
        """Go back to the voice that the present one replaced.

        The present one is erased, and what was learned since: it was learned of that one.
        """
        with self._writing():
            old = self._require(who)
            if old.before is None:
                raise ProfileError(
                    f"{who}: there is no voice before this one; it was never replaced, or the new "
                    "one has settled a trip since"
                )
            voice = old.before
            profile = dataclasses.replace(
                old.profile,
                embeddings=voice.embeddings,
                speech_s=voice.speech_s,
                adaptation=Adaptation(),
            )
            stored = dataclasses.replace(
                old, profile=profile, enrolled_at=voice.enrolled_at, before=None
            )
            return self._write(stored, self._key())

    def recognised(self, driver: str) -> None:
        """Remember that this driver's voice settled a trip today.

        It has proved itself, so the voice before is erased. Writes at most once a day.
        """
        today = _today()
        with self._writing():
            old = self._require(driver)
            if old.recognised_on != today or old.before is not None:
                new = dataclasses.replace(old, recognised_on=today, before=None)
                self._write(new, self._key())

    def rename(self, who: str, name: str) -> StoredProfile:
        """Call the driver `name`; the id stays."""
        name = names.checked(name)
        with self._writing():
            old = self._require(who)
            namesake = self._find(name)
            if namesake and namesake.profile.id != old.profile.id:
                raise ProfileError(f"{name} is another driver's name; take a different one")
            return self._write(dataclasses.replace(old, name=name), self._key())

    def set_preferences(self, who: str, preferences: Mapping[str, float]) -> StoredProfile:
        """Replace the driver's preferences, VSS path to value, by these; keep the ones before."""
        wanted = self._checked(preferences)
        with self._writing():
            return self._write(_preferring(self._require(who), wanted), self._key())

    def adjust_preferences(self, who: str, changes: Mapping[str, float]) -> StoredProfile:
        """Replace those of the driver's preferences that are in `changes`; keep the ones before."""
        changes = self._checked(changes)
        with self._writing():
            old = self._require(who)
            wanted = {**old.profile.preferences, **changes}
            return self._write(_preferring(old, wanted), self._key())

    def bring_back_preferences(self, who: str) -> StoredProfile:
        """Swap the driver's preferences with the ones before the last change."""
        with self._writing():
            old = self._require(who)
            if old.previous is None:
                raise ProfileError(
                    f"{who}: the preferences were never changed; there is nothing to bring back"
                )
            return self._write(_preferring(old, self._checked(old.previous)), self._key())

    def set_key(self, who: str, fob: str | None) -> StoredProfile:
        """Say which key fob is the driver's, by the id that the car gives it; None for none.

        No two drivers have one key.
        """
        fob = None if fob is None else _checked_fob(fob)
        with self._writing():
            old = self._require(who)
            owner = self._owner(fob)
            if owner not in (None, old.profile.id):
                raise ProfileError(
                    f"this key is {owner}'s; take it away first: `whodrives drivers key {owner} "
                    "--clear`"
                )
            profile = dataclasses.replace(old.profile, key=fob)
            return self._write(dataclasses.replace(old, profile=profile), self._key())

    def change(self, who: str, change: Callable[[Profile], Profile]) -> StoredProfile:
        """Replace the driver's profile by what `change` makes of it; it may be called once only."""
        with self._writing():
            old = self._require(who)
            new = dataclasses.replace(old, profile=change(old.profile))
            return self._write(new, self._key())

    def rehearse(self) -> None:
        """Try whether a profile can be saved now: the folder, the key, room on the disk.

        To be called before anybody speaks. It may make the folders, and leaves nothing else.
        """
        self._refuse_root_among_others()
        with self._writing():
            if _credential() or self._key_file.exists() or self._paths():
                self._key()
            else:
                self._refuse_key_among_profiles()
                self._key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _try_writing(self._key_file.parent)
            _try_writing(self._directory)

    def load_guests(self) -> tuple[guests.Guest, ...]:
        """The guest book; empty when there is none."""
        path = self._book
        try:
            data = _bytes(path)
            encoder, payload = _unsealed(self._key(), self._vehicle, _GUESTS, data)
            # Another encoder's voices cannot be compared; those guests will come again.
            return guests.unpacked(json.loads(payload)) if encoder == self._encoder else ()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise ProfileError(f"cannot read {path}: {error.strerror}; mend it") from error
        except (_UnusableError, ValueError, KeyError, TypeError) as error:
            raise ProfileError(f"the guest book {path} cannot be used; remove it") from error

    def save_guests(self, book: Sequence[guests.Guest]) -> None:
        """Replace the guest book; an empty one is no file."""
        path = self._book
        if not book and not path.exists():
            return
        with self._writing():
            if not book:
                path.unlink()
                _sync_directory(self._directory)
                return
            key = self._key_for_first() or self._key()
            payload = json.dumps(guests.packed(book), allow_nan=False).encode()
            sealed = _sealed(key, self._vehicle, self._encoder, _GUESTS, payload)
            _write_whole(path, sealed, os.replace)

    def holds(self, driver: str) -> bool:
        """Whether there is a profile of this id, readable or not."""
        return bool(_ID.fullmatch(driver)) and self._path(driver) in self._paths()

    def forget(self, who: str) -> Receipt:
        """Erase the driver: every file there is of that id, set aside or not, readable or not.

        Flash memory may keep the sealed bytes until it reuses the place; they stay unreadable
        without the key.
        """
        with self._writing():
            by_id = bool(_ID.fullmatch(who)) and bool(self._files_of(who))
            stored = None
            with suppress(ProfileError):
                stored = self._find(who)
            if stored is None and not by_id:
                stored = self._require(who)
            driver = stored.profile.id if stored else who
            erased = [*_contents(stored)] if stored else ["a profile that cannot be read"]
            for path in self._files_of(driver):
                erased.append(f"the sealed file {path.name}, {path.stat().st_size} bytes")
                path.unlink()
            _sync_directory(self._directory)
        return Receipt(driver, now(), tuple(erased))

    def export(self, path: Path, passphrase: str) -> int:
        """Write the household to a new file, sealed with the passphrase; how many drivers.

        The names, voices, consents and preferences are in it: whoever has file and passphrase has
        them. Profiles that cannot be used are left out.
        """
        _check_passphrase(passphrase)
        profiles = self.load().profiles
        if not profiles:
            raise ProfileError("nobody is enrolled, so there is nothing to export")
        house = [
            {
                "driver": stored.profile.id,
                "encoder": stored.profile.encoder,
                "payload": base64.b64encode(_payload(stored)).decode(),
            }
            for stored in profiles
        ]
        header = _HOUSEHOLD_MAGIC + bytes([_HOUSEHOLD_SCHEMA]) + secrets.token_bytes(_SALT_BYTES)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        key = _stretched(passphrase, header[-_SALT_BYTES:])
        sealed = AESGCM(key).encrypt(nonce, json.dumps(house).encode(), header)
        try:
            _write_whole(path, header + nonce + sealed, os.link)
        except OSError as error:
            raise ProfileError(f"cannot write {path}: {error.strerror}; take another") from error
        return len(profiles)

    def import_household(self, path: Path, passphrase: str) -> tuple[StoredProfile, ...]:
        """Take in the drivers of an exported file, all of them or none.

        None is taken in if one has the name or id of somebody who is enrolled here, or was made by
        another encoder.
        """
        try:
            with path.open("rb") as file:
                data = file.read(_MOST_HOUSEHOLD_BYTES + 1)
        except OSError as error:
            raise ProfileError(f"cannot read {path}: {error.strerror}") from error
        try:
            arrivals = _household(data, passphrase)
        except _UnusableError as error:
            raise ProfileError(f"{path}: {error}") from error
        with self._writing():
            key = self._key_for_first() or self._key()
            for stored in arrivals:
                self._refuse_arrival(stored)
            return tuple(self._write(stored, key) for stored in arrivals)

    def _refuse_arrival(self, stored: StoredProfile) -> None:
        if stored.profile.encoder != self._encoder:
            raise ProfileError(
                f"{stored.name} was enrolled with another encoder; enrol this driver anew here"
            )
        if self._files_of(stored.profile.id) or self._find(stored.name):
            raise ProfileError(
                f"{stored.name} ({stored.profile.id}) is enrolled here already; rename or forget "
                "that driver first; nobody was taken in"
            )

    # --- one file ---

    def _path(self, driver: str) -> Path:
        return self._directory / f"{driver}.profile"

    @property
    def _book(self) -> Path:
        return self._directory / f"{_GUESTS}.sealed"

    def _paths(self) -> list[Path]:
        try:
            return sorted(self._directory.glob("*.profile"))
        except OSError as error:
            raise ProfileError(f"cannot list {self._directory}: {error.strerror}") from error

    def _files_of(self, driver: str) -> list[Path]:
        """The driver's profile, and what was set aside of it."""
        return sorted(self._directory.glob(f"{driver}.profile*"))

    def _set_aside_before(self) -> Iterator[str]:
        """A sentence for each file that was set aside and is still there."""
        try:
            left = sorted(self._directory.glob(f"*{REJECTED}*"))
            key = self._key() if left else b""
        except (OSError, ProfileError):
            return
        for path in left:
            driver = path.name.partition(".")[0]
            if not _ID.fullmatch(driver):
                yield f"a file in {self._directory} cannot be used and is set aside; remove it"
                continue
            reason = "was set aside"
            try:
                _unsealed(key, self._vehicle, driver, _bytes(path))
            except _UnusableError as error:
                reason = str(error)
            except OSError:
                pass
            yield (
                f"profile {driver}: {reason} (set aside as {path.name}; `whodrives drivers forget "
                f"{driver}` removes it)"
            )

    def _fits(self, path: Path, key: bytes) -> bool:
        """Whether the file says that it was sealed with this key."""
        with suppress(OSError), path.open("rb") as file:
            start = len(_MAGIC) + 1
            return file.read(_HEADER_BYTES)[start : start + _KEY_ID_BYTES] == _key_id(key)
        return False

    def _is_rejected(self, path: Path, key: bytes) -> bool:
        """Whether the file is whole enough to be read, and never a profile of this car."""
        if not _ID.fullmatch(path.stem) and path != self._book:
            return True
        try:
            _unsealed(key, self._vehicle, path.stem, _bytes(path))
        except (_NewerError, OSError):
            return False
        except _UnusableError:
            return True
        return False

    def _new_id(self) -> str:
        while self._files_of(driver := f"d-{secrets.token_hex(4)}"):
            pass
        return driver

    def _read(self, path: Path, key: bytes) -> StoredProfile:
        """What the file holds, whatever encoder made it; ProfileError says why it holds nothing."""
        driver = path.stem
        if not _ID.fullmatch(driver):
            # The file's name may be a person's: it is not repeated.
            raise ProfileError(
                f"a file in {self._directory} is not named d-xxxxxxxx.profile; remove it"
            )
        try:
            data = _bytes(path)
        except OSError as error:
            raise ProfileError(
                f"profile {driver}: cannot be read: {error.strerror}; mend its permissions"
            ) from error
        try:
            return _profile(driver, *_unsealed(key, self._vehicle, driver, data))
        except _UnusableError as error:
            raise ProfileError(f"profile {driver}: {error}") from error

    def _write(self, stored: StoredProfile, key: bytes) -> StoredProfile:
        """Put the profile on disk, whole or not at all, and read it back."""
        path = self._path(stored.profile.id)
        profile, payload = stored.profile, _payload(stored)
        sealed = _sealed(key, self._vehicle, profile.encoder, profile.id, payload)
        _write_whole(path, sealed, os.replace)
        return self._read(path, key)

    # --- all files ---

    def _paths_with_key(self) -> Iterator[tuple[Path, bytes]]:
        """Every file with the key, which is not asked for when there is nothing to open."""
        if paths := self._paths():
            key = self._key()
            yield from ((path, key) for path in paths)

    def _sealed_with_key(self) -> Iterator[tuple[Path, bytes]]:
        """The same, and the guest book."""
        yield from self._paths_with_key()
        if self._book.exists():
            yield self._book, self._key()

    def _find(self, who: str) -> StoredProfile | None:
        """The driver of this name or id, of any encoder."""
        for path, key in self._paths_with_key():
            with suppress(ProfileError):
                stored = self._read(path, key)
                if stored.is_called(who):
                    return stored
        return None

    def _owner(self, fob: str | None) -> str | None:
        """The id of the driver who has this key."""
        for path, key in self._paths_with_key() if fob else ():
            with suppress(ProfileError):
                if (profile := self._read(path, key).profile).key == fob:
                    return profile.id
        return None

    def _require(self, who: str) -> StoredProfile:
        found = self._find(who)
        if found is None:
            raise ProfileError(
                f"no driver is called {who}; `whodrives drivers list` says who is enrolled"
            )
        return found

    def _usable(self, stored: StoredProfile) -> tuple[StoredProfile, list[str]]:
        """The profile without the preferences this car does not accept, and a sentence for each."""
        profile, ours = stored.profile, self._encoder
        if profile.encoder != ours:
            raise ProfileError(
                f"profile {profile.id}: was made by another encoder ({profile.encoder[:12]}, ours "
                f"is {ours[:12]}); their voices cannot be compared: enrol this driver again"
            )
        wanted = profile.preferences
        found = {path: vss.check(path, value, self._limits) for path, value in wanted.items()}
        left_out = [f"profile {profile.id}: left out: {said}" for said in found.values() if said]
        kept = {path: wanted[path] for path, said in found.items() if not said}
        slim = dataclasses.replace(profile, preferences=MappingProxyType(kept))
        return dataclasses.replace(stored, profile=slim), left_out

    def _checked(self, preferences: Mapping[str, float]) -> Mapping[str, float]:
        """The preferences as floats; ProfileError lists all that the car does not accept."""
        found = (vss.check(path, value, self._limits) for path, value in preferences.items())
        if mistakes := [said for said in found if said]:
            raise ProfileError("\n  ".join(["preferences not accepted:", *mistakes]))
        return {path: float(value) for path, value in preferences.items()}

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Be the only writer; sweep up what an interrupted one left."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                for left in self._directory.glob(".*.tmp"):
                    left.unlink()
                yield
            finally:
                os.close(folder)
        except OSError as error:
            place = error.filename or self._directory
            raise ProfileError(
                f"cannot write {place}: {error.strerror}; free space or mend the permissions, then "
                "try again"
            ) from error

    # --- the key ---

    def _key(self) -> bytes:
        """The key; the service manager's credential goes before the file."""
        if given := _credential():
            return _checked_key(given.read_bytes(), given)
        self._refuse_key_among_profiles()
        try:
            with self._key_file.open("rb") as file:
                _refuse_shared(os.fstat(file.fileno()), self._key_file)
                return _checked_key(file.read(_KEY_BYTES + 1), self._key_file)
        except OSError as error:
            raise ProfileError(
                f"cannot read the key {self._key_file}: {error.strerror}; bring it back from a "
                "backup, or forget the drivers and enrol them again"
            ) from error

    def _key_for_first(self) -> bytes | None:
        """A new key, if none was given or made yet and no profile needs an older one."""
        if _credential() or self._key_file.exists() or self._paths():
            return None
        self._refuse_key_among_profiles()
        key = secrets.token_bytes(_KEY_BYTES)
        self._key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_whole(self._key_file, key, os.link)
        return key

    def _refuse_root_among_others(self) -> None:
        """What root writes into another user's folder, that user's daemon cannot read."""
        with suppress(FileNotFoundError, NotADirectoryError):
            owner = self._directory.stat().st_uid
            if os.geteuid() == 0 and owner != 0:
                with suppress(KeyError):
                    raise ProfileError(
                        f"{self._directory} belongs to user {pwd.getpwuid(owner).pw_name}, whose "
                        "daemon could not read what root writes there; run it as that user: "
                        f"`sudo -u {pwd.getpwuid(owner).pw_name} whodrives enrol`"
                    )

    def _refuse_key_among_profiles(self) -> None:
        if self._key_file.resolve().is_relative_to(self._directory.resolve()):
            raise ProfileError(
                f"the key {self._key_file} lies among the profiles it seals, so that a copy of the "
                "folder is a copy of the voices; move it, and set profiles.key_file"
            )


# --- names ----------------------------------------------------------------------------------------


def _stored_name(name: str) -> str:
    """A name out of a file; one that an older rule took stays a name."""
    if not isinstance(name, str) or not (text := names.readable(name)):
        raise ProfileError("a profile without a name")
    names.refuse_id(text)
    return text[: names.MOST_CHARACTERS]


def _checked_fob(fob: str) -> str:
    """The key fob's id without surrounding blanks; ProfileError if it cannot be one."""
    fob = fob.strip()
    if not fob or not fob.isprintable() or len(fob) > _MOST_FOB_CHARACTERS:
        raise ProfileError(
            f"a key's id is 1 to {_MOST_FOB_CHARACTERS} printable characters; give what the car "
            "says in Vehicle.Occupant.Row1.DriverSide.Identifier.Subject"
        )
    return fob


def _preferring(stored: StoredProfile, wanted: Mapping[str, float]) -> StoredProfile:
    """The profile with these preferences, and with the ones before if they were others."""
    if dict(wanted) == dict(stored.profile.preferences):
        return stored
    profile = dataclasses.replace(stored.profile, preferences=wanted)
    return dataclasses.replace(stored, profile=profile, previous=stored.profile.preferences)


def _refuse_namesake(stored: StoredProfile, others: Mapping[str, StoredProfile]) -> None:
    """Two files of one driver can come from a backup; each would make the other ambiguous."""
    if other := others.get(folded(stored.name)):
        raise ProfileError(
            f"profile {stored.profile.id}: its driver's name is that of {other.profile.id}; "
            "forget one of the two"
        )


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def now() -> str:
    """This moment as `Consent.at` and `Receipt.at` say it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def unused(
    profiles: Sequence[StoredProfile], retention_days: int
) -> tuple[tuple[StoredProfile, int], ...]:
    """Who was not recognised for longer than `retention_days`, and for how many days; 0: nobody."""
    today = datetime.now(UTC).date()
    days = [(stored, stored.unused_days(today)) for stored in profiles]
    return tuple(pair for pair in days if retention_days and pair[1] > retention_days)


# --- the format -----------------------------------------------------------------------------------


class _UnusableError(Exception):
    """Why a file's bytes are no profile, and the mend; without a name."""


class _NewerError(_UnusableError):
    """A newer whodrives wrote it: it is well, only not for us."""


def _key_id(key: bytes) -> bytes:
    """Tells keys apart and tells nothing of them."""
    return hmac.digest(key, b"whodrives key id", "sha256")[:_KEY_ID_BYTES]


def _vehicle_id(key: bytes, vehicle: str) -> bytes:
    """Tells cars apart, and tells nobody without the key which car it is."""
    return hmac.digest(key, b"whodrives vehicle " + vehicle.encode(), "sha256")[:_VEHICLE_BYTES]


def _header(key: bytes, vehicle: str, encoder: str) -> bytes:
    ours = _key_id(key) + _vehicle_id(key, vehicle)
    return _MAGIC + bytes([_SCHEMA]) + ours + bytes.fromhex(encoder)


def _sealed(key: bytes, vehicle: str, encoder: str, name: str, payload: bytes) -> bytes:
    header = _header(key, vehicle, encoder)
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return header + nonce + AESGCM(key).encrypt(nonce, payload, header + name.encode())


def _unsealed(key: bytes, vehicle: str, name: str, data: bytes) -> tuple[str, bytes]:
    """The encoder and the payload in a file's bytes."""
    header, rest = data[:_HEADER_BYTES], data[_HEADER_BYTES:]
    _refuse_foreign(header, key, vehicle)
    try:
        nonce, ciphertext = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
        payload = AESGCM(key).decrypt(nonce, ciphertext, header + name.encode())
    except (InvalidTag, ValueError) as error:
        raise _UnusableError(
            "was changed, cut short or renamed since it was sealed; restore it, or enrol again"
        ) from error
    return header[-_ENCODER_BYTES:].hex(), payload


def _refuse_foreign(header: bytes, key: bytes, vehicle: str) -> None:
    """Say of a file that cannot be opened which of the usual reasons it is."""
    magic, rest = header[: len(_MAGIC)], header[len(_MAGIC) :]
    if magic != _MAGIC or len(header) < _HEADER_BYTES:
        raise _UnusableError("is damaged or no profile of whodrives; restore it, or enrol again")
    if rest[0] != _SCHEMA:
        mistake = _NewerError if rest[0] > _SCHEMA else _UnusableError
        raise mistake(
            f"has format {rest[0]}, this whodrives reads {_SCHEMA}; install the whodrives that "
            "wrote it, or enrol again"
        )
    if not hmac.compare_digest(rest[1 : 1 + _KEY_ID_BYTES], _key_id(key)):
        raise _UnusableError("was sealed with another key; bring that key back, or enrol again")
    if not hmac.compare_digest(
        rest[1 + _KEY_ID_BYTES : 1 + _KEY_ID_BYTES + _VEHICLE_BYTES], _vehicle_id(key, vehicle)
    ):
        raise _UnusableError(
            "belongs to another vehicle; set vehicle.id to that one's, or move the household with "
            "`whodrives drivers export` and `import`"
        )


def _payload(stored: StoredProfile) -> bytes:
    profile, before = stored.profile, stored.before
    facts = {
        "name": stored.name,
        "enrolled_at": stored.enrolled_at,
        "speech_s": profile.speech_s,
        "preferences": dict(profile.preferences),
        "previous": None if stored.previous is None else dict(stored.previous),
        "key": profile.key,
        "shape": profile.embeddings.shape,
        "adaptation": adaptation.packed(profile.adaptation),
        "consent": dataclasses.asdict(stored.consent) if stored.consent else None,
        "recognised_on": stored.recognised_on,
        "before": {
            "speech_s": before.speech_s,
            "enrolled_at": before.enrolled_at,
            "shape": before.embeddings.shape,
        }
        if before
        else None,
    }
    text = json.dumps(facts, allow_nan=False).encode()
    rows = [profile.embeddings, before.embeddings] if before else [profile.embeddings]
    return text + b"\n" + b"".join(each.astype("<f4").tobytes() for each in rows)


def _profile(driver: str, encoder: str, payload: bytes) -> StoredProfile:
    """The payload's profile; _UnusableError if it is not one."""
    try:
        return _stored(driver, encoder, payload)
    except (ValueError, KeyError, TypeError, ProfileError) as error:
        raise _UnusableError("holds no valid profile; enrol this driver again") from error


def _stored(driver: str, encoder: str, payload: bytes) -> StoredProfile:
    """The payload's profile; any of the usual errors if it is not one, however it came about."""
    text, _, raw = payload.partition(b"\n")
    facts = json.loads(text)
    preferences = _numbers(facts["preferences"])
    # Profiles that were made before there were such things do not hold them.
    earlier, fob = facts.get("previous"), facts.get("key")
    previous = None if earlier is None else _numbers(earlier)
    numbers, count = np.frombuffer(raw, dtype="<f4"), math.prod(facts["shape"])
    before = _before(facts.get("before"), numbers[count:])
    learned = facts.get("adaptation")
    profile = Profile(
        id=driver,
        embeddings=_voice(numbers[:count].reshape(facts["shape"])),
        encoder=encoder,
        speech_s=float(facts["speech_s"]),
        preferences=preferences,
        key=None if fob is None else _checked_fob(fob),
        adaptation=adaptation.unpacked(learned) if learned else Adaptation(),
    )
    seconds = profile.speech_s, before.speech_s if before else 0.0
    wanted = (*preferences.values(), *(previous or {}).values())
    if not all(map(vss.is_number, (*seconds, *wanted))):
        raise ValueError("a number that is not finite")
    return StoredProfile(
        _stored_name(facts["name"]),
        profile,
        _day(facts["enrolled_at"]),
        previous,
        _consent(facts.get("consent")),
        _day(facts["recognised_on"]) if facts.get("recognised_on") else None,
        before,
    )


def _before(facts: Mapping[str, Any] | None, numbers: Floats) -> Voice | None:
    if facts is None:
        if numbers.size:
            raise ValueError("more embeddings than are described")
        return None
    rows = _voice(numbers.reshape(facts["shape"]))
    return Voice(rows, float(facts["speech_s"]), _day(facts["enrolled_at"]))


def _consent(facts: Mapping[str, Any] | None) -> Consent | None:
    if facts is None:
        return None
    when = datetime.fromisoformat(facts["at"]).isoformat(timespec="seconds")
    return Consent(names.readable(str(facts["by"])), when, str(facts["text"]))


def _numbers(facts: Mapping[str, float]) -> Mapping[str, float]:
    return MappingProxyType({str(path): float(value) for path, value in facts.items()})


def _day(text: str) -> str:
    return date.fromisoformat(text).isoformat()


def _following(old: StoredProfile, new: StoredProfile) -> StoredProfile:
    """The newly enrolled voice with the one before kept, until the new one has proved itself.

    A voice that itself has not is not kept; and one of another encoder cannot be gone back to.
    """
    before = old.before or Voice(old.profile.embeddings, old.profile.speech_s, old.enrolled_at)
    return dataclasses.replace(
        new,
        previous=old.previous,
        recognised_on=old.recognised_on,
        before=before if old.profile.encoder == new.profile.encoder else None,
    )


def _contents(stored: StoredProfile) -> Iterator[str]:
    """What a profile held, in words for a receipt, without the voice or the preferences."""
    count, seconds = len(stored.profile.embeddings), stored.profile.speech_s
    yield f"the name, and the voice: {count} embeddings of {seconds:.1f} s of speech"
    if stored.profile.adaptation != Adaptation():
        learned, held = stored.profile.adaptation.steps, stored.profile.adaptation.held
        trips = sum(len(step.trips) for step in learned)
        yield f"what was learned since, from {trips} trips, and {len(held)} trips in quarantine"
    if stored.before:
        yield f"the voice before: {len(stored.before.embeddings)} embeddings"
    if stored.profile.preferences:
        yield f"{len(stored.profile.preferences)} preferences"
    if stored.consent:
        yield "the record of consent"
    if stored.recognised_on:
        yield "the date of the last recognition"


# --- a household in one file ----------------------------------------------------------------------


def _check_passphrase(passphrase: str) -> None:
    if len(passphrase) < LEAST_PASSPHRASE_CHARACTERS:
        raise ProfileError(
            f"a passphrase has at least {LEAST_PASSPHRASE_CHARACTERS} characters; four words that "
            "have nothing to do with each other are easy to remember and hard to guess"
        )


def _stretched(passphrase: str, salt: bytes) -> bytes:
    """The key of a passphrase; made slow and large on purpose, against guessing."""
    text = unicodedata.normalize("NFC", passphrase).encode()
    return Scrypt(salt=salt, length=_KEY_BYTES, **_SCRYPT).derive(text)


def _household(data: bytes, passphrase: str) -> list[StoredProfile]:
    """The profiles in an exported file's bytes."""
    magic, rest = data[: len(_HOUSEHOLD_MAGIC)], data[len(_HOUSEHOLD_MAGIC) :]
    if magic != _HOUSEHOLD_MAGIC or len(data) > _MOST_HOUSEHOLD_BYTES:
        raise _UnusableError("is no household that whodrives exported; give another file")
    if rest[:1] != bytes([_HOUSEHOLD_SCHEMA]):
        raise _UnusableError("was exported by another version of whodrives; use that one")
    salt, rest = rest[1 : 1 + _SALT_BYTES], rest[1 + _SALT_BYTES :]
    header = data[: len(magic) + 1 + _SALT_BYTES]
    try:
        key = _stretched(passphrase, salt)
        text = AESGCM(key).decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], header)
    except (InvalidTag, ValueError) as error:
        raise _UnusableError("the passphrase is another, or the file was changed") from error
    try:
        return [_arrival(facts) for facts in json.loads(text)]
    except (ValueError, KeyError, TypeError, ProfileError) as error:
        raise _UnusableError("holds no valid household") from error


def _arrival(facts: Mapping[str, str]) -> StoredProfile:
    if not _ID.fullmatch(facts["driver"]):
        raise ValueError("no driver's id")
    payload = base64.b64decode(facts["payload"], validate=True)
    return _stored(facts["driver"], facts["encoder"], payload)


def _voice(embeddings: Floats) -> Floats:
    """The embeddings, read-only; ProfileError unless they are rows of unit length."""
    rows = np.array(embeddings, dtype=np.float32)
    match rows.shape:
        case (int(k), int(d)) if k and d and k % RENDITIONS == 0:
            pass
        case shape:
            raise ProfileError(
                f"a voice is {RENDITIONS} k embeddings of D numbers, not of shape {shape}"
            )
    lengths = np.linalg.norm(rows, axis=1)
    if not bool(np.all(np.abs(lengths - 1) <= _UNIT_LENGTH_TOLERANCE)):
        raise ProfileError("an embedding is not of unit length; normalise it, then save")
    rows.flags.writeable = False
    return rows


# --- files ----------------------------------------------------------------------------------------


def _credential() -> Path | None:
    """The key that systemd's LoadCredential= gives a service; it guards that file itself."""
    path = Path(os.environ.get("CREDENTIALS_DIRECTORY", os.devnull)) / _CREDENTIAL
    return path if path.is_file() else None


def _checked_key(key: bytes, path: Path) -> bytes:
    if len(key) != _KEY_BYTES:
        raise ProfileError(
            f"the key {path} is not {_KEY_BYTES} bytes long; bring the right one back"
        )
    return key


def _refuse_shared(status: os.stat_result, path: Path) -> None:
    """A key that others can read or write seals nothing."""
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ProfileError(
            f"others may use the key {path}; run `chmod 600 {shlex.quote(str(path))}`"
        )


def _bytes(path: Path) -> bytes:
    """What is in a sealed file; of one that is too large to be ours, enough not to open."""
    with path.open("rb") as file:
        return file.read(_MOST_BYTES + 1)


def _write_whole(path: Path, data: bytes, publish: Callable[[Path, Path], None]) -> None:
    """Write a file that is either whole or not there, also after a power cut.

    `publish` gives the finished temporary file its name: os.replace, or os.link for a file that
    must not be there yet.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _try_writing(folder: Path) -> None:
    """Raise OSError unless a profile's worth of bytes can be written into the folder."""
    trial = folder / f".trial.{secrets.token_hex(4)}.tmp"
    try:
        descriptor = os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _TRIAL_BYTES)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    finally:
        trial.unlink(missing_ok=True)


def _free(path: Path) -> Path:
    """The path, or with a number after it if something is there."""
    candidates = (path.with_name(f"{path.name}.{n}" if n else path.name) for n in range(1000))
    return next(each for each in candidates if not each.exists())


def _sync_directory(directory: Path) -> None:
    """Make the directory's names durable: fsync(2) of a file does not."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
