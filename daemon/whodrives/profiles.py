"""The enrolled drivers on disk: sealed, whole, erasable.

Owns the profile files: names, voices (embeddings) and preferences, one file per driver. Hides their
format, the key, and how a write survives a power cut. Must never log a name or an embedding, and
must never know how a voice is compared or what is sent to the car.

A file `d-xxxxxxxx.profile` is: magic, schema (1 byte), key id (8), encoder's sha256 (32), nonce
(12), then the AES-256-GCM ciphertext of the payload (NIST SP 800-38D). All that stands before the
nonce, and the driver's id, are bound to it as associated data. The payload is a JSON object, a
newline, and the enrolled embeddings as little-endian float32.

`guests.sealed` holds the guest book in the same way; there is none without guests.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hmac
import json
import os
import re
import secrets
import stat
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from types import MappingProxyType

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from whodrives import adaptation, guests, vss
from whodrives.domain import Adaptation, Floats, Profile, ProfileError

_MAGIC = b"whodrives profile"
_SCHEMA = 1
_KEY_ID_BYTES = 8
_ENCODER_BYTES = 32
_NONCE_BYTES = 12
_HEADER_BYTES = len(_MAGIC) + 1 + _KEY_ID_BYTES + _ENCODER_BYTES
_KEY_BYTES = 32
_MOST_BYTES = 4 * 1024 * 1024  # hundreds of times a usual profile
_MOST_NAME_CHARACTERS = 64
_UNIT_LENGTH_TOLERANCE = 1e-3
_ID = re.compile(r"d-[0-9a-f]{8}")
_JOINERS = {ord("\u200c"): None, ord("\u200d"): None}  # invisible, but spelling in some scripts
_GUESTS = "guests"
_CREDENTIAL = "profile-key"


@dataclass(frozen=True, slots=True)
class StoredProfile:
    """A profile and what only people care for.

    Attributes:
        name: what the driver is called; never published, never logged.
        profile: what recognition needs.
        enrolled_at: ISO 8601 date, UTC.
    """

    name: str
    profile: Profile
    enrolled_at: str


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

    def __init__(self, directory: Path, key_file: Path, encoder: str, limits: vss.Limits) -> None:
        """Look at nothing yet.

        Args:
            directory: where the profiles are; made, for its owner only, when the first is saved.
            key_file: 32 bytes, outside `directory`, readable by its owner only; made when the
                first profile is saved. The systemd credential `profile-key` goes before it.
            encoder: sha256 of the encoder file, hexadecimal; other encoders' profiles are problems.
            limits: what the car's ECUs accept; preferences outside are problems.
        """
        self._directory = directory
        self._key_file = key_file
        self._encoder = encoder
        self._limits = limits

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
        return Loaded(tuple(profiles.values()), tuple(problems))

    def save(
        self,
        name: str,
        embeddings: Floats,
        speech_s: float,
        preferences: Mapping[str, float] | None = None,
        *,
        replace: bool = False,
    ) -> StoredProfile:
        """Enrol a driver; or, with `replace`, enrol anew one who keeps id and preferences.

        Args:
            name: 1 to 64 printable characters, unlike every other name in more than case.
            embeddings: float32, shape (k, D), rows of unit length.
            speech_s: seconds of speech they were made from.
            preferences: VSS path to value; None keeps what a replaced profile holds.
            replace: whether a driver of this name may exist.
        """
        name = _checked_name(name)
        with self._writing():
            key = self._key_for_first() or self._key()
            old = self._find(name)
            if old and not replace:
                raise ProfileError(
                    f"{name} is enrolled already; take another name, or say that it be replaced"
                )
            kept = old.profile.preferences if old else {}
            wanted = kept if preferences is None else self._checked(preferences)
            driver = old.profile.id if old else self._new_id()
            voice = _voice(embeddings)
            profile = Profile(driver, voice, self._encoder, float(speech_s), wanted)
            return self._write(StoredProfile(name, profile, _today()), key)

    def rename(self, who: str, name: str) -> StoredProfile:
        """Call the driver `name`; the id stays."""
        name = _checked_name(name)
        with self._writing():
            old = self._require(who)
            namesake = self._find(name)
            if namesake and namesake.profile.id != old.profile.id:
                raise ProfileError(f"{name} is another driver's name; take a different one")
            return self._write(dataclasses.replace(old, name=name), self._key())

    def set_preferences(self, who: str, preferences: Mapping[str, float]) -> StoredProfile:
        """Replace the driver's preferences, VSS path to value, by these."""
        wanted = self._checked(preferences)
        with self._writing():
            old = self._require(who)
            profile = dataclasses.replace(old.profile, preferences=wanted)
            return self._write(dataclasses.replace(old, profile=profile), self._key())

    def change(self, who: str, change: Callable[[Profile], Profile]) -> StoredProfile:
        """Replace the driver's profile by what `change` makes of it; it may be called once only."""
        with self._writing():
            old = self._require(who)
            new = dataclasses.replace(old, profile=change(old.profile))
            return self._write(new, self._key())

    def load_guests(self) -> tuple[guests.Guest, ...]:
        """The guest book; empty when there is none."""
        path = self._directory / f"{_GUESTS}.sealed"
        try:
            data = path.read_bytes()
            encoder, payload = _unsealed(self._key(), _GUESTS, data)
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
        path = self._directory / f"{_GUESTS}.sealed"
        if not book and not path.exists():
            return
        with self._writing():
            if not book:
                path.unlink()
                _sync_directory(self._directory)
                return
            key = self._key_for_first() or self._key()
            payload = json.dumps(guests.packed(book), allow_nan=False).encode()
            _write_whole(path, _sealed(key, self._encoder, _GUESTS, payload), os.replace)

    def forget(self, who: str) -> None:
        """Remove the driver's file; by id even one that cannot be read.

        Flash memory may keep the sealed bytes until it reuses the place; they stay unreadable
        without the key.
        """
        with self._writing():
            driver = who if self._path(who) in self._paths() else self._require(who).profile.id
            self._path(driver).unlink()
            _sync_directory(self._directory)

    # --- one file ---

    def _path(self, driver: str) -> Path:
        return self._directory / f"{driver}.profile"

    def _paths(self) -> list[Path]:
        try:
            return sorted(self._directory.glob("*.profile"))
        except OSError as error:
            raise ProfileError(f"cannot list {self._directory}: {error.strerror}") from error

    def _new_id(self) -> str:
        while self._path(driver := f"d-{secrets.token_hex(4)}").exists():
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
            with path.open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise ProfileError(
                f"profile {driver}: cannot be read: {error.strerror}; mend its permissions"
            ) from error
        try:
            return _profile(driver, *_unsealed(key, driver, data))
        except _UnusableError as error:
            raise ProfileError(f"profile {driver}: {error}") from error

    def _write(self, stored: StoredProfile, key: bytes) -> StoredProfile:
        """Put the profile on disk, whole or not at all, and read it back."""
        path = self._path(stored.profile.id)
        sealed = _sealed(key, stored.profile.encoder, stored.profile.id, _payload(stored))
        _write_whole(path, sealed, os.replace)
        return self._read(path, key)

    # --- all files ---

    def _paths_with_key(self) -> Iterator[tuple[Path, bytes]]:
        """Every file with the key, which is not asked for when there is nothing to open."""
        if paths := self._paths():
            key = self._key()
            yield from ((path, key) for path in paths)

    def _find(self, who: str) -> StoredProfile | None:
        """The driver of this name or id, of any encoder."""
        wanted = folded(who)
        for path, key in self._paths_with_key():
            with suppress(ProfileError):
                stored = self._read(path, key)
                if wanted in (folded(stored.name), stored.profile.id):
                    return stored
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
        _write_whole(self._key_file, key, os.link)
        return key

    def _refuse_key_among_profiles(self) -> None:
        if self._key_file.resolve().is_relative_to(self._directory.resolve()):
            raise ProfileError(
                f"the key {self._key_file} lies among the profiles it seals, so that a copy of the "
                "folder is a copy of the voices; move it, and set profiles.key_file"
            )


# --- names ----------------------------------------------------------------------------------------


def _checked_name(name: str) -> str:
    """The name in NFC, without surrounding blanks; ProfileError if nobody can be called so."""
    name = unicodedata.normalize("NFC", name).strip()
    if not name.translate(_JOINERS).isprintable() or not name.translate(_JOINERS):
        raise ProfileError("a name needs letters, and no control characters; give another")
    if len(name) > _MOST_NAME_CHARACTERS:
        raise ProfileError(f"a name has at most {_MOST_NAME_CHARACTERS} characters; shorten it")
    if _ID.fullmatch(name.casefold()):
        raise ProfileError(f"{name} looks like a driver's id; give another name")
    return name


def folded(name: str) -> str:
    """The same for names that differ in case, surrounding blanks or Unicode form only."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).strip().casefold())


def _refuse_namesake(stored: StoredProfile, others: Mapping[str, StoredProfile]) -> None:
    """Two files of one driver can come from a backup; each would make the other ambiguous."""
    if other := others.get(folded(stored.name)):
        raise ProfileError(
            f"profile {stored.profile.id}: its driver's name is that of {other.profile.id}; "
            "forget one of the two"
        )


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


# --- the format -----------------------------------------------------------------------------------


class _UnusableError(Exception):
    """Why a file's bytes are no profile, and the mend; without a name."""


def _key_id(key: bytes) -> bytes:
    """Tells keys apart and tells nothing of them."""
    return hmac.digest(key, b"whodrives key id", "sha256")[:_KEY_ID_BYTES]


def _header(key: bytes, encoder: str) -> bytes:
    return _MAGIC + bytes([_SCHEMA]) + _key_id(key) + bytes.fromhex(encoder)


def _sealed(key: bytes, encoder: str, name: str, payload: bytes) -> bytes:
    header = _header(key, encoder)
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return header + nonce + AESGCM(key).encrypt(nonce, payload, header + name.encode())


def _unsealed(key: bytes, name: str, data: bytes) -> tuple[str, bytes]:
    """The encoder and the payload in a file's bytes."""
    header, rest = data[:_HEADER_BYTES], data[_HEADER_BYTES:]
    _refuse_foreign(header, key)
    try:
        nonce, ciphertext = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
        payload = AESGCM(key).decrypt(nonce, ciphertext, header + name.encode())
    except (InvalidTag, ValueError) as error:
        raise _UnusableError(
            "was changed, cut short or renamed since it was sealed; restore it, or enrol again"
        ) from error
    return header[-_ENCODER_BYTES:].hex(), payload


def _refuse_foreign(header: bytes, key: bytes) -> None:
    """Say of a file that cannot be opened which of the usual reasons it is."""
    magic, rest = header[: len(_MAGIC)], header[len(_MAGIC) :]
    if magic != _MAGIC or len(header) < _HEADER_BYTES:
        raise _UnusableError("is damaged or no profile of whodrives; restore it, or enrol again")
    if rest[0] != _SCHEMA:
        raise _UnusableError(
            f"has format {rest[0]}, this whodrives reads {_SCHEMA}; install the whodrives that "
            "wrote it, or enrol again"
        )
    if not hmac.compare_digest(rest[1 : 1 + _KEY_ID_BYTES], _key_id(key)):
        raise _UnusableError("was sealed with another key; bring that key back, or enrol again")


def _payload(stored: StoredProfile) -> bytes:
    profile = stored.profile
    facts = {
        "name": stored.name,
        "enrolled_at": stored.enrolled_at,
        "speech_s": profile.speech_s,
        "preferences": dict(profile.preferences),
        "shape": profile.embeddings.shape,
        "adaptation": adaptation.packed(profile.adaptation),
    }
    text = json.dumps(facts, allow_nan=False).encode()
    return text + b"\n" + profile.embeddings.astype("<f4").tobytes()


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
    preferences = {str(path): float(value) for path, value in facts["preferences"].items()}
    # Profiles that were made before there was such a thing do not hold it.
    learned = facts.get("adaptation")
    profile = Profile(
        id=driver,
        embeddings=_voice(np.frombuffer(raw, dtype="<f4").reshape(facts["shape"])),
        encoder=encoder,
        speech_s=float(facts["speech_s"]),
        preferences=MappingProxyType(preferences),
        adaptation=adaptation.unpacked(learned) if learned else Adaptation(),
    )
    if not all(map(vss.is_number, (profile.speech_s, *preferences.values()))):
        raise ValueError("a number that is not finite")
    enrolled_at = date.fromisoformat(facts["enrolled_at"]).isoformat()
    return StoredProfile(_checked_name(facts["name"]), profile, enrolled_at)


def _voice(embeddings: Floats) -> Floats:
    """The embeddings, read-only; ProfileError unless they are rows of unit length."""
    rows = np.array(embeddings, dtype=np.float32)
    match rows.shape:
        case (int(k), int(d)) if k and d:
            pass
        case shape:
            raise ProfileError(f"a voice is k embeddings of D numbers, not of shape {shape}")
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
        raise ProfileError(f"others may use the key {path}; run `chmod 600 {path}`")


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


def _sync_directory(directory: Path) -> None:
    """Make the directory's names durable: fsync(2) of a file does not."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
