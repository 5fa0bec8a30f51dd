"""The store of enrolled drivers: sealed files, atomic writes, erasure.

Owns the profile files: names, voices (embeddings), consent and preferences, one file per driver.
Hides their format, the key, and how a write survives a power cut. Must not log a name or an
embedding, and must not know how a voice is compared or what is sent to the car.

A file `d-xxxxxxxx.profile` is: magic, schema (1 byte), key id (8), vehicle id (8), encoder's
fingerprint (32), nonce (12), then the AES-256-GCM ciphertext of the payload (NIST SP 800-38D).
Everything before the nonce, and the driver's id, are associated data. The payload is a JSON object,
a newline, and the embeddings as little-endian float32: those of the enrolled voice, then those of
the replaced voice, if there is one.

`guests.sealed` contains the guest book in the same format, as JSON only; without guests there is no
file. `index.sealed` contains, as JSON, the number of the last write and the write that made each of
these files. Each file contains its number too, so that a restored older copy, or one of an erased
driver, is detected. A restored copy of the whole directory, index included, is not detected.

An unusable file is not changed: with the right key, vehicle, encoder or version of whodrives it can
be used again.

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
import os
import pwd
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from whodrives.adaptation import guests
from whodrives.audio.blocks import Floats
from whodrives.errors import ProfileError
from whodrives.store import calendar, files, names
from whodrives.store.calendar import believed, now
from whodrives.store.export import (
    HOUSEHOLD_MAGIC,
    HOUSEHOLD_SCHEMA,
    MOST_HOUSEHOLD_BYTES,
    SALT_BYTES,
    check_passphrase,
    key_from_passphrase,
    unpack_household,
)
from whodrives.store.index import INDEX, NO_ENCODER, Index, State
from whodrives.store.record import (
    DRIVER_ID,
    Consent,
    Session,
    StoredProfile,
    checked_embeddings,
    checked_fob,
    described,
    pack_record,
    replacing,
    unpack_record,
    unpack_revised,
    with_preferences,
)
from whodrives.store.sealing import (
    GUESTS,
    KEY_BYTES,
    NONCE_BYTES,
    NewerError,
    OtherKeyError,
    OtherVehicleError,
    SpoiltError,
    UnusableError,
    checked_key,
    credential_file,
    foreign_error,
    free_path,
    is_of,
    read_bounded,
    read_head,
    refuse_large,
    refuse_shared,
    seal,
    unseal,
)
from whodrives.vehicle import vss
from whodrives.voice.profile import Adaptation, Profile, joined

REJECTED = ".rejected"


_TRIAL_BYTES = 256 * 1024  # more than a profile has after years


MOST_ADDED = 5
"""Maximum enrolments after the first that are added to a voice."""


_NEW_BOOK = "the daemon sets it aside when it starts or reloads, and starts a new one"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was erased of a driver.

    Attributes:
        driver: the id.
        at: when, ISO 8601, UTC, to the second.
        erased: a phrase for each erased item.
    """

    driver: str
    at: str
    erased: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The usable profiles by ascending id, and a sentence about each problem."""

    profiles: tuple[StoredProfile, ...]
    problems: tuple[str, ...]


class ProfileStore:
    """The profiles of one directory, for one car and the encoder in use.

    Every method raises ProfileError, with the fix in its text, if the key cannot be used, the disk
    fails, or the directory belongs to another car; a profile on disk is then either unchanged or
    completely written. `who` is a driver's name, in any case, or id. Several processes may write:
    a lock serialises them. An operation opens each file at most once; nothing is cached between
    operations.

    The index has the latest revision of each profile. A file that is older, or not in the index,
    was restored from a copy and is not used. Therefore a write replaces an existing profile first
    and then the index; a new profile is listed as pending first, and is enrolled by the index.
    """

    def __init__(
        self,
        directory: Path,
        key_file: Path,
        encoder: str,
        limits: vss.Limits,
        vehicle: str,
        *,
        dimension: int | None = None,
        others: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Create a store without accessing the disk.

        Args:
            directory: the profiles' directory; made, for its owner only, at the first save.
            key_file: 32 bytes, outside `directory`, readable by its owner only; made at the first
                save. The systemd credential `profile-key` takes precedence.
            encoder: fingerprint of the encoder in use, hexadecimal.
            limits: the ranges that the car's ECUs accept; preferences outside are problems.
            vehicle: the car's id; profiles of other cars are problems.
            dimension: dimension of the encoder's embeddings; None: any.
            others: dimension by fingerprint of the other encoders whose profiles can be used;
                profiles of any further one are problems.
        """
        self._directory = directory
        self._key_file = key_file
        self._encoder = encoder
        self._limits = limits
        self._vehicle = vehicle
        self._dimension = dimension
        self._dimensions = {encoder: dimension, **others}

    def load(self) -> Loaded:
        """All usable profiles; the disk is not changed.

        Raises:
            ProfileError: the directory as a whole cannot be used: it belongs to another car or to
                another key, or its index is missing.
        """
        with self._reading() as there:
            if not there or not (self._paths() or os.path.lexists(self._index_path)):
                return Loaded((), tuple(self._set_aside_before()))
            return self._loaded(self._state())

    def _loaded(self, state: State) -> Loaded:
        profiles: dict[str, StoredProfile] = {}
        problems: list[str] = []
        for path in self._paths():
            if state.is_unfinished(path.stem):
                continue
            try:
                stored, left_out = self._usable(self._current(path, state))
                stored, shared = _without_shared_key(stored, profiles.values())
                _refuse_namesake(stored, profiles)
            except _RefusedError:
                raise
            except ProfileError as error:
                problems.append(str(error))
            else:
                profiles[names.folded(stored.name)] = stored
                problems.extend([*left_out, *shared])
        problems.extend(self._missing(state))
        problems.extend(self._set_aside_before())
        return Loaded(tuple(profiles.values()), tuple(problems))

    def _missing(self, state: State) -> Iterator[str]:
        """A sentence for each profile that the index lists and whose file is missing."""
        for driver in state.index.revisions if state.index else ():
            if driver != GUESTS and not os.path.lexists(self._path(driver)):
                yield (
                    f"profile {driver}: its file is missing; put it back from a backup, or run: "
                    f"whodrives drivers forget {driver}"
                )

    def set_aside(self) -> None:
        """Rename a damaged guest book to `guests.sealed.rejected`, so that a new one can start.

        Profiles are never renamed, because an unusable one may become usable again.
        """
        if not os.path.lexists(self._book):
            return
        with self._writing():
            try:
                self._read_guests(self._state())
            except _DamagedError:
                self._reject_book()
                files.sync_folder(self._directory)
            except (ProfileError, OSError):
                return

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
        """Enrol a driver; with `replace`, enrol one again who keeps id, key and preferences.

        Args:
            name: 1 to 64 printable characters; differs from all other names in more than case.
            embeddings: as in `voice.profile.Profile`.
            speech_s: seconds of speech they were made from.
            preferences: VSS path to value; None keeps those of a replaced profile.
            consent: the driver's consent to storing this voice.
            replace: whether a driver with this name may exist.
        """
        name = names.checked(name)
        with self._writing():
            state = self._state_to_write(first=True)
            old = self._find(name, state)
            _refuse_enrolled(name, old, replace=replace)
            voice = embeddings, speech_s
            return self._enrol(state, old, name, voice, preferences, consent)

    def adopt(
        self,
        driver: str | None,
        embeddings: Floats,
        speech_s: float,
        consent: Consent,
        *,
        again: bool = False,
    ) -> StoredProfile:
        """Enrol without a name: a new driver, called "driver N", or `driver`.

        The voice of `driver` is replaced; with `again`, the new one is added to it.
        """
        voice = embeddings, speech_s
        with self._writing():
            state = self._state_to_write(first=True)
            if driver is not None:
                old = self._require(driver, state)
                if again:
                    self._check_again(driver, old)
                return self._enrol(state, old, old.name, voice, None, consent, again=again)
            taken = {names.folded(stored.name) for stored in self._all(state)}
            free = (f"driver {k}" for k in range(1, len(taken) + 2))
            name = next(each for each in free if names.folded(each) not in taken)
            return self._enrol(state, None, name, voice, None, consent)

    def _enrol(  # noqa: PLR0917 (the fields of a profile)
        self,
        state: State,
        old: StoredProfile | None,
        name: str,
        voice: tuple[Floats, float],
        preferences: Mapping[str, float] | None,
        consent: Consent | None,
        *,
        again: bool = False,
    ) -> StoredProfile:
        wanted = None if preferences is None else self._checked(preferences)
        kept = old.profile.preferences if old else wanted or {}
        driver = old.profile.id if old else self._new_id(state)
        fob = old.profile.key if old else None
        rows, speech_s = checked_embeddings(voice[0], self._dimension), float(voice[1])
        profile = Profile(driver, rows, self._encoder, speech_s, kept, fob)
        stored = StoredProfile(name, profile, calendar.today_iso(), consent=consent)
        if old is None:
            return self._write_new([stored], state)[0]
        if again:
            session = Session(stored.enrolled_at, speech_s)
            learned = dataclasses.replace(old.profile.adaptation, missed=0)
            both = joined(old.profile, profile)
            stored = dataclasses.replace(
                stored,
                profile=dataclasses.replace(both, adaptation=learned),
                enrolled_at=old.enrolled_at,
                added=(*old.added, session),
            )
        stored = replacing(old, stored)
        return self._write(stored if wanted is None else with_preferences(stored, wanted), state)

    def restore(self, who: str) -> StoredProfile:
        """Restore the voice that the present one replaced.

        The present voice is erased, and so is the adaptation, which belongs to it.
        """
        with self._writing():
            state = self._state_to_write()
            old = self._require(who, state)
            if old.before is None:
                raise ProfileError(
                    f"{who}: there is no previous voice; it was never replaced, or the new one has "
                    "assigned the driver of a trip since"
                )
            voice = old.before
            if voice.encoder not in self._dimensions:
                raise ProfileError(
                    f"{who}: the previous voice was made by another encoder "
                    f"({voice.encoder[:12]}); restore the models that it was made with first"
                )
            profile = dataclasses.replace(
                old.profile,
                embeddings=voice.embeddings,
                encoder=voice.encoder,
                speech_s=voice.speech_s,
                adaptation=Adaptation(),
            )
            stored = dataclasses.replace(
                old, profile=profile, enrolled_at=voice.enrolled_at, added=voice.added, before=None
            )
            return self._write(stored, state)

    def recognised(self, driver: str) -> None:
        """Record that this driver's voice assigned the driver of a trip today.

        This confirms the voice, so the replaced one is erased, and no trip counts as missed. Writes
        at most once a day, or after a missed trip. The day never decreases, and an implausible day
        is not recorded.
        """
        today = believed(calendar.today_iso())
        with self._writing():
            state = self._state_to_write()
            old = self._require(driver, state)
            days = [day for day in (believed(old.recognised_on), today) if day]
            day = max(days) if days else old.recognised_on
            known = old.profile.adaptation
            if old.recognised_on != day or old.before is not None or known.missed:
                learned = dataclasses.replace(known, missed=0)
                profile = dataclasses.replace(old.profile, adaptation=learned)
                new = dataclasses.replace(old, profile=profile, recognised_on=day, before=None)
                self._write(new, state)

    def rename(self, who: str, name: str) -> StoredProfile:
        """Rename the driver; the id stays."""
        name = names.checked(name)
        with self._writing():
            state = self._state_to_write()
            everybody = list(self._all(state))
            old = _called(who, everybody) or self._require(who, state)
            namesake = _called(name, everybody)
            if namesake and namesake.profile.id != old.profile.id:
                raise ProfileError(f"{name} is another driver's name; give a different one")
            return self._write(dataclasses.replace(old, name=name), state)

    def agreed(self, driver: str, consent: Consent) -> StoredProfile:
        """Replace the record of consent of a driver's last enrolment."""
        with self._writing():
            state = self._state_to_write()
            old = self._require(driver, state)
            return self._write(dataclasses.replace(old, consent=consent), state)

    def set_preferences(self, who: str, preferences: Mapping[str, float]) -> StoredProfile:
        """Replace the driver's preferences, VSS path to value; keep the former ones."""
        wanted = self._checked(preferences)
        with self._writing():
            state = self._state_to_write()
            return self._write(with_preferences(self._require(who, state), wanted), state)

    def adjust_preferences(self, who: str, changes: Mapping[str, float]) -> StoredProfile:
        """Change the driver's preferences that are in `changes`; keep the former ones."""
        changes = self._checked(changes)
        with self._writing():
            state = self._state_to_write()
            old = self._require(who, state)
            wanted = {**old.profile.preferences, **changes}
            return self._write(with_preferences(old, wanted), state)

    def bring_back_preferences(self, who: str) -> StoredProfile:
        """Swap the driver's preferences with those before the last change."""
        with self._writing():
            state = self._state_to_write()
            old = self._require(who, state)
            if old.previous is None:
                raise ProfileError(
                    f"{who}: the preferences were never changed; there is nothing to restore"
                )
            return self._write(with_preferences(old, self._checked(old.previous)), state)

    def set_key(self, who: str, fob: str | None) -> StoredProfile:
        """Set the id of the driver's key fob, as the car reports it; None for none.

        Two drivers cannot have the same key.
        """
        fob = None if fob is None else checked_fob(fob)
        with self._writing():
            state = self._state_to_write()
            everybody = list(self._all(state))
            old = _called(who, everybody) or self._require(who, state)
            _refuse_key_of_another(old.profile.id, fob, everybody)
            profile = dataclasses.replace(old.profile, key=fob)
            return self._write(dataclasses.replace(old, profile=profile), state)

    def change(self, who: str, change: Callable[[Profile], Profile]) -> StoredProfile:
        """Replace the driver's profile by `change` of it; `change` is called at most once."""
        with self._writing():
            state = self._state_to_write()
            old = self._require(who, state)
            return self._write(dataclasses.replace(old, profile=change(old.profile)), state)

    def rehearse(
        self, who: str | None = None, *, replace: bool = False, again: bool = False
    ) -> None:
        """Check whether a profile can be saved: the directory, the key, the name, disk space.

        Call it before anybody speaks. It may make the directories, and leaves nothing else.

        Args:
            who: the name, as for `save`, or with `again` also the id; None: not known yet.
            replace: as for `save`.
            again: as for `adopt`.
        """
        self._refuse_root_among_others()
        with self._writing():
            if self._needs_key():
                state = self._state()
                old = None if who is None else self._find(who, state)
                if who is not None and again:
                    self._check_again(who, old)
                elif who is not None:
                    _refuse_enrolled(who, old, replace=replace)
            elif who is not None and again:
                raise _nobody(who)
            else:
                self._refuse_key_among_profiles()
                files.make_folder(self._key_file.parent)
                _try_writing(self._key_file.parent)
            _try_writing(self._directory)

    def derived_key(self, purpose: str) -> bytes:
        """A 32-byte key for one purpose, derived from the store's key.

        HMAC-SHA-256 of the purpose under the key (RFC 2104). Keys of different purposes are
        independent.

        Raises:
            ProfileError: there is no key yet, or it cannot be used.
        """
        return hmac.digest(self._key(), b"whodrives derived key " + purpose.encode(), "sha256")

    def load_guests(self) -> tuple[guests.Guest, ...]:
        """The guest book; empty if there is none."""
        with self._reading() as there:
            if not there or not os.path.lexists(self._book):
                return ()
            return self._read_guests(self._state())

    def save_guests(self, book: Sequence[guests.Guest]) -> None:
        """Replace the guest book; an empty one has no file."""
        if not book and not os.path.lexists(self._book):
            return
        with self._writing():
            self._write_guests(book, self._state_to_write(first=True))

    def _read_guests(self, state: State) -> tuple[guests.Guest, ...]:
        path = self._book
        try:
            encoder, payload = unseal(state.key, self._vehicle, GUESTS, read_bounded(path))
            facts = msgspec.json.decode(payload)
            # A guest book from before the index is only the list.
            revision, said = (
                (0, facts) if isinstance(facts, list) else unpack_revised(facts, GUESTS)
            )
            state.refuse_stale_book(revision)
            # Embeddings of another encoder cannot be compared; those guests will come again.
            return guests.unpacked(said) if encoder == self._encoder else ()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise ProfileError(f"cannot read {path}: {error.strerror}; replace it") from error
        except SpoiltError as error:
            raise _DamagedError(f"the guest book {path} {error}; {_NEW_BOOK}") from error
        except UnusableError as error:
            raise ProfileError(f"the guest book {path} {error}") from error
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise _DamagedError(f"the guest book {path} contains no guests; {_NEW_BOOK}") from error

    def _write_guests(self, book: Sequence[guests.Guest], state: State) -> None:
        index = state.known
        if not book:
            index.revisions.pop(GUESTS, None)
            self._write_index(index, state.key)
            self._book.unlink(missing_ok=True)
            files.sync_folder(self._directory)
            return
        revision = index.counter + 1
        facts = {"revision": revision, GUESTS: guests.packed(book)}
        payload = json.dumps(facts, allow_nan=False).encode()
        sealed = seal(state.key, self._vehicle, self._encoder, GUESTS, payload)
        refuse_large(sealed)
        files.write_whole(self._book, sealed, os.replace)
        index.counter = index.revisions[GUESTS] = revision
        self._write_index(index, state.key)

    def holds(self, driver: str) -> bool:
        """Whether there is a profile with this id, readable or not."""
        return bool(DRIVER_ID.fullmatch(driver)) and self._path(driver) in self._paths()

    def forget(
        self,
        who: str,
        stays: Callable[[Profile, Sequence[guests.Guest]], Sequence[guests.Guest]] | None = None,
    ) -> Receipt:
        """Erase the driver: every file with that id, readable or not.

        With an id, no key is needed. Flash memory may keep the sealed bytes until it reuses the
        blocks; they are unreadable without the key.

        Args:
            who: name or id.
            stays: given the profile and the guest book, the guests that are not erased with it.
        """
        with self._writing():
            state, refusal = self._state_if_any()
            stored = None
            with suppress(ProfileError):
                stored = self._find(who, state) if state else None
            is_id = bool(DRIVER_ID.fullmatch(who))
            known = bool(state and state.index and who in state.index.revisions)
            if stored is None and not (is_id and (known or self._files_of(who))):
                if refusal is not None:
                    raise refusal
                raise _nobody(who)
            driver = stored.profile.id if stored else who
            erased = [*described(stored)] if stored else ["a profile that was not in use"]
            self._strike_out(driver, state)
            for path in self._files_of(driver):
                erased.append(f"the sealed file {path.name}, {path.lstat().st_size} bytes")
                path.unlink()
            files.sync_folder(self._directory)
            if state is None:
                erased.append(
                    "not removed from the index, which cannot be opened: erase copies of the file"
                )
            elif driver in state.known.revisions:
                self._strike_out(driver, state, anyway=True)
            if stored and stays and state:
                gone = self._erase_guests(stored.profile, stays, state)
                erased += [f"{gone} of the guest book, of the same voice"] if gone else []
        return Receipt(driver, now(), tuple(erased))

    def _strike_out(self, driver: str, state: State | None, *, anyway: bool = False) -> None:
        """Remove the driver from the index; a full disk does not prevent the erasure."""
        if state is None:
            return
        left = {each: n for each, n in state.known.revisions.items() if each != driver}
        index = Index(state.known.counter, left, [p for p in state.known.pending if p != driver])
        try:
            self._write_index(index, state.key)
        except OSError:
            if anyway:
                raise
        else:
            state.index = index

    def _erase_guests(
        self,
        profile: Profile,
        stays: Callable[[Profile, Sequence[guests.Guest]], Sequence[guests.Guest]],
        state: State,
    ) -> int:
        """Erase the guests who are this driver; return how many there were."""
        # An unreadable guest book does not prevent the erasure of the driver.
        with suppress(ProfileError):
            book = self._read_guests(state)
            left = stays(profile, book)
            if len(left) < len(book):
                self._write_guests(left, state)
            return len(book) - len(left)
        return 0

    def accept(self, who: Sequence[str] = ()) -> tuple[StoredProfile, ...]:
        """Accept refused profiles that open with this key, because they were restored or moved.

        These are profiles of another `vehicle.id`, older ones, those set aside by an earlier
        whodrives, and all profiles if the index is missing or damaged. All or none are accepted;
        nothing is erased.

        Args:
            who: names or ids; empty: all except erased drivers, who must be named.

        Returns:
            The profiles accepted by this call.
        """
        with self._writing():
            key = self._key()
            index, is_ours = self._any_index(key)
            if index is None:
                self._refuse_foreign_folder(key, None)
            ours: list[StoredProfile] = []
            found: list[tuple[Path, StoredProfile]] = []
            for path, stored, is_here in self._openable(key):
                least = index.revisions.get(stored.profile.id) if index else 0
                is_listed = is_ours and is_here and least is not None
                is_last = stored.revision >= (least or 0) if index else not stored.revision
                if is_listed and is_last:
                    ours.append(stored)
                elif any(each.profile.id == stored.profile.id for each in ours):
                    continue
                elif any(map(stored.is_called, who)) or (not who and least is not None):
                    found.append((path, stored))
            known = [*ours, *(stored for _, stored in found)]
            for each in who:
                if not any(stored.is_called(each) for stored in known):
                    raise ProfileError(
                        f"no file of {each} opens with this key; give an id that `whodrives "
                        "drivers` lists"
                    )
            _refuse_two_of_one_name(known)
            if found or not is_ours:
                self._take_in(key, index, ours, found)
            return tuple(stored for _, stored in found)

    def _openable(self, key: bytes) -> Iterator[tuple[Path, StoredProfile, bool]]:
        """One file of each id that opens with the key, and whether only the index may refuse it.

        A profile takes precedence over copies that were set aside.
        """
        seen: set[str] = set()
        for path in (*self._paths(), *self._rejected_paths()):
            driver = path.name.partition(".")[0]
            if path != self._path(driver) and os.path.lexists(self._path(driver)):
                continue
            if DRIVER_ID.fullmatch(driver) and driver not in seen:
                with suppress(ProfileError):
                    stored, data = self._read(path, key, None, driver)
                    is_here = path == self._path(driver) and is_of(data, key, self._vehicle)
                    seen.add(driver)
                    yield path, stored, is_here

    def _take_in(
        self,
        key: bytes,
        index: Index | None,
        ours: Sequence[StoredProfile],
        found: Sequence[tuple[Path, StoredProfile]],
    ) -> None:
        """Seal them for this car as the newest revision; the index is written last and enrols."""
        there = [*ours, *(stored for _, stored in found)]
        counter = max([index.counter if index else 0, *(each.revision for each in there)]) + 1
        revisions = dict(index.revisions) if index else {}
        revisions |= {each.profile.id: each.revision for each in ours}
        revisions |= {each.profile.id: counter for _, each in found}
        sealed = [
            (path, each.profile.id, self._sealed_profile(each, counter, key)[0])
            for path, each in found
        ]
        book = self._any_book(key, counter, is_listed=index is not None)
        for _, driver, data in sealed:
            files.write_whole(self._path(driver), data, os.replace)
        if book is not None:
            files.write_whole(self._book, book, os.replace)
            revisions[GUESTS] = counter
        pending = [p for p in index.pending if p not in revisions] if index else []
        self._write_index(Index(counter, revisions, pending), key)
        for path, driver, _ in sealed:
            if path != self._path(driver):
                path.unlink()
        files.sync_folder(self._directory)

    def _any_book(self, key: bytes, revision: int, *, is_listed: bool) -> bytes | None:
        """A guest book of another `vehicle.id`, or without an index, sealed again; else None."""
        try:
            data = read_bounded(self._book)
            if is_listed and is_of(data, key, self._vehicle):
                return None
            encoder, payload = unseal(key, None, GUESTS, data)
            facts = msgspec.json.decode(payload)
            said = facts if isinstance(facts, list) else unpack_revised(facts, GUESTS)[1]
        except (OSError, UnusableError, ValueError, KeyError, TypeError, RecursionError):
            return None
        text = json.dumps({"revision": revision, GUESTS: said}, allow_nan=False)
        return seal(key, self._vehicle, encoder, GUESTS, text.encode())

    def export(self, path: Path, passphrase: str) -> int:
        """Write the household to a new file, sealed with the passphrase; return how many drivers.

        It contains names, voices, consents and preferences: whoever has file and passphrase has
        them. Unusable profiles are left out.
        """
        check_passphrase(passphrase)
        profiles = self.load().profiles
        if not profiles:
            raise ProfileError("nobody is enrolled, so there is nothing to export")
        house = [
            {
                "driver": stored.profile.id,
                "encoder": stored.profile.encoder,
                "payload": base64.b64encode(pack_record(stored)).decode(),
            }
            for stored in profiles
        ]
        text = json.dumps(house).encode()
        if len(text) > MOST_HOUSEHOLD_BYTES:
            raise ProfileError(
                f"the household is larger than {MOST_HOUSEHOLD_BYTES // 2**20} MiB, which no "
                "import accepts; nothing was written"
            )
        header = HOUSEHOLD_MAGIC + bytes([HOUSEHOLD_SCHEMA]) + secrets.token_bytes(SALT_BYTES)
        nonce = secrets.token_bytes(NONCE_BYTES)
        key = key_from_passphrase(passphrase, header[-SALT_BYTES:])
        sealed = AESGCM(key).encrypt(nonce, text, header)
        try:
            files.write_whole(path, header + nonce + sealed, os.link)
        except OSError as error:
            raise ProfileError(
                f"cannot write {path}: {error.strerror}; give another file"
            ) from error
        return len(profiles)

    def import_household(self, path: Path, passphrase: str) -> tuple[StoredProfile, ...]:
        """Import the drivers of an exported file, all or none.

        None is imported if a driver has the name, id or key fob of a driver enrolled here or of
        another one in the file, was made by another encoder, or could not be enrolled here.
        """
        try:
            data, _ = files.read_regular(path, MOST_HOUSEHOLD_BYTES + 1, follow=True)
        except OSError as error:
            said = f"cannot read {path}: {error.strerror}; give the exported file"
            raise ProfileError(said) from error
        try:
            arrivals = unpack_household(data, passphrase, self._dimension_of)
        except UnusableError as error:
            raise ProfileError(f"{path}: {error}; nobody was imported") from error
        with self._writing():
            state = self._state_to_write(first=True)
            there = list(self._all(state))
            for stored in arrivals:
                self._refuse_arrival(stored, there)
                there.append(stored)
            return self._write_new(arrivals, state)

    def _refuse_arrival(self, stored: StoredProfile, there: Sequence[StoredProfile]) -> None:
        """Raise ProfileError if an imported driver conflicts with an enrolled one."""
        profile = stored.profile
        who = f"{stored.name} ({profile.id})"
        if profile.encoder not in self._dimensions:
            raise ProfileError(
                f"{who} was enrolled with another encoder; export again from a car with the models "
                "of this one, or enrol this driver again here; nobody was imported"
            )
        if any(each.profile.id == profile.id for each in there) or self._files_of(profile.id):
            raise ProfileError(
                f"{who} is already enrolled here, or a file with that id exists; nobody was "
                "imported"
            )
        if other := _called(stored.name, there):
            raise ProfileError(
                f"{who} is already enrolled here, as {other.profile.id}: two drivers cannot have "
                f"one name; run: whodrives drivers rename {other.profile.id} NEW-NAME, or rename "
                "the driver in the other car and export again; nobody was imported"
            )
        try:
            _refuse_key_of_another(profile.id, profile.key, there)
        except ProfileError as error:
            raise ProfileError(f"{who}: {error}; nobody was imported") from error

    # --- one file ---

    def _path(self, driver: str) -> Path:
        return self._directory / f"{driver}.profile"

    @property
    def _book(self) -> Path:
        return self._directory / f"{GUESTS}.sealed"

    @property
    def _index_path(self) -> Path:
        return self._directory / f"{INDEX}.sealed"

    def _paths(self) -> list[Path]:
        return self._listed("*.profile")

    def _rejected_paths(self) -> list[Path]:
        """Files that an earlier whodrives set aside."""
        return self._listed(f"*{REJECTED}*")

    def _files_of(self, driver: str) -> list[Path]:
        """The driver's profile, and copies that were set aside."""
        return self._listed(f"{driver}.profile*")

    def _reject_book(self) -> None:
        """Rename the guest book, so that a new one can start and nothing is lost."""
        self._book.rename(free_path(self._book.with_name(self._book.name + REJECTED)))

    def _listed(self, pattern: str) -> list[Path]:
        try:
            return sorted(self._directory.glob(pattern))
        except OSError as error:
            raise ProfileError(f"cannot list {self._directory}: {error.strerror}") from error

    def _set_aside_before(self) -> Iterator[str]:
        """A sentence for each file that an earlier whodrives set aside."""
        for path in self._rejected_paths():
            driver = path.name.partition(".")[0]
            if DRIVER_ID.fullmatch(driver):
                yield (
                    f"profile {driver}: was set aside as {path.name}; to use it again if it is "
                    f"valid: whodrives drivers accept {driver}; to erase it: whodrives drivers "
                    f"forget {driver}"
                )
            else:
                yield (
                    f"a file in {self._directory} that ends in {REJECTED} could not be used and "
                    "was set aside; remove it"
                )

    def _new_id(self, state: State) -> str:
        taken = state.known.revisions
        while self._files_of(driver := f"d-{secrets.token_hex(4)}") or driver in taken:
            pass
        return driver

    def _current(self, path: Path, state: State) -> StoredProfile:
        """The file's profile, of any encoder; ProfileError says why it is not used."""
        stored = self._read(path, state.key, self._vehicle)[0]
        driver = stored.profile.id
        if state.index is None:
            if stored.revision:
                raise self._index_missing()
            return stored
        least = state.index.revisions.get(driver)
        if least is None:
            raise ProfileError(
                f"profile {driver}: is not in the index: it was erased, and its file restored; "
                f"to erase it: whodrives drivers forget {driver}; if you restored it on purpose: "
                f"whodrives drivers accept {driver}"
            )
        if stored.revision < least:
            raise ProfileError(
                f"profile {driver}: is older than what was stored last: an old file was restored; "
                "restore the newer one, or if you restored it on purpose: whodrives drivers accept "
                f"{driver}"
            )
        return stored

    def _read(
        self, path: Path, key: bytes, vehicle: str | None, driver: str | None = None
    ) -> tuple[StoredProfile, bytes]:
        """The file's profile and bytes; ProfileError says why it is unusable."""
        driver = driver or path.stem
        if not DRIVER_ID.fullmatch(driver):
            # The file's name may be a person's, so the message does not repeat it.
            raise ProfileError(
                f"a file in {self._directory} is not named d-xxxxxxxx.profile; move it elsewhere"
            )
        try:
            data = read_bounded(path)
            encoder, payload = unseal(key, vehicle, driver, data)
            return unpack_record(driver, encoder, payload, self._dimension_of(encoder)), data
        except OSError as error:
            raise ProfileError(
                f"profile {driver}: cannot be read: {error.strerror}; fix that, or restore the file"
            ) from error
        except SpoiltError as error:
            raise ProfileError(
                f"profile {driver}: {error}; restore it from a backup; if there is none, erase it "
                f"and enrol again: whodrives drivers forget {driver}"
            ) from error
        except UnusableError as error:
            raise ProfileError(f"profile {driver}: {error}") from error

    def _dimension_of(self, encoder: str) -> int | None:
        return self._dimensions.get(encoder)

    def _sealed_profile(
        self, stored: StoredProfile, revision: int, key: bytes
    ) -> tuple[bytes, StoredProfile]:
        """The bytes of a profile's file, and the profile as read back from them."""
        profile = stored.profile
        payload = pack_record(dataclasses.replace(stored, revision=revision))
        try:
            again = unpack_record(
                profile.id, profile.encoder, payload, self._dimension_of(profile.encoder)
            )
        except UnusableError as error:
            raise ProfileError(f"nothing was stored: it {error}") from error
        sealed = seal(key, self._vehicle, profile.encoder, profile.id, payload)
        refuse_large(sealed)
        return sealed, again

    def _write(self, stored: StoredProfile, state: State) -> StoredProfile:
        """Replace an existing profile atomically."""
        index = state.known
        revision = index.counter + 1
        sealed, again = self._sealed_profile(stored, revision, state.key)
        # Before the index: a file that is newer than its index entry is used.
        files.write_whole(self._path(stored.profile.id), sealed, os.replace)
        index.counter = index.revisions[stored.profile.id] = revision
        self._write_index(index, state.key)
        return again

    def _write_new(
        self, arrivals: Sequence[StoredProfile], state: State
    ) -> tuple[StoredProfile, ...]:
        """Write new profiles, all or none: the index that lists them is written last."""
        before = state.known
        revision = before.counter + 1
        made = [self._sealed_profile(stored, revision, state.key) for stored in arrivals]
        ids = [stored.profile.id for stored in arrivals]
        try:
            self._write_index(Index(before.counter, before.revisions, ids), state.key)
            for (sealed, _), driver in zip(made, ids, strict=True):
                files.write_whole(self._path(driver), sealed, os.link)
            revisions = before.revisions | dict.fromkeys(ids, revision)
            self._write_index(Index(revision, revisions, []), state.key)
        except OSError:
            for driver in ids:
                self._path(driver).unlink(missing_ok=True)
            with suppress(OSError):
                self._write_index(before, state.key)
            raise
        return tuple(again for _, again in made)

    # --- the index ---

    def _state(self) -> State:
        """Key and index; ProfileError if the directory as a whole cannot be used."""
        key = self._key()
        index = self._read_index(key)
        if index is None:
            self._refuse_foreign_folder(key, self._vehicle)
        return State(key, index)

    def _state_to_write(self, *, first: bool = False) -> State:
        """Key and index for writing; makes a missing index, removes an interrupted enrolment.

        Args:
            first: whether to make a key for an empty store.
        """
        if first:
            self._make_first_key()
        elif not self._needs_key():
            return State(b"", Index(0, {}, []))
        state = self._state()
        if state.index is None:
            # Profiles from before the index have no revision; iterating raises if one has.
            for _ in self._all(state):
                pass
            heads = {path.stem: read_head(path) for path in (*self._paths(), self._book)}
            ours = [name for name, head in heads.items() if is_of(head, state.key, self._vehicle)]
            state.index = Index(0, dict.fromkeys(ours, 0), [])
            self._write_index(state.index, state.key)
        if state.index.pending:
            for driver in state.index.pending:
                if DRIVER_ID.fullmatch(driver) and driver not in state.index.revisions:
                    self._path(driver).unlink(missing_ok=True)
            state.index.pending = []
            self._write_index(state.index, state.key)
        return state

    def _state_if_any(self) -> tuple[State | None, ProfileError | None]:
        try:
            return (self._state_to_write() if self._needs_key() else None), None
        except ProfileError as error:
            return None, error

    def _read_index(self, key: bytes) -> Index | None:
        """The index; None if there is none."""
        try:
            return self._unsealed_index(key, self._vehicle)[0]
        except OtherVehicleError as error:
            raise self._other_vehicle() from error
        except (UnusableError, ValueError, RecursionError) as error:
            raise self._index_missing("is damaged") from error

    def _any_index(self, key: bytes) -> tuple[Index | None, bool]:
        """The index, of any `vehicle.id`, and whether it is ours; None if it is damaged."""
        try:
            index, data = self._unsealed_index(key, None)
        except (UnusableError, ValueError, RecursionError):
            return None, False
        return index, index is None or is_of(data, key, self._vehicle)

    def _unsealed_index(self, key: bytes, vehicle: str | None) -> tuple[Index | None, bytes]:
        """The index and its file's bytes, None if there is none; `vehicle` as for `unseal`.

        Raises:
            ProfileError: the file cannot be read, or is sealed with another key or newer.
            UnusableError, ValueError, RecursionError: it is another vehicle's, or damaged.
        """
        try:
            data = read_bounded(self._index_path)
            _, payload = unseal(key, vehicle, INDEX, data)
            return msgspec.json.decode(payload, type=Index), data
        except FileNotFoundError:
            return None, b""
        except OSError as error:
            said = f"cannot read {self._index_path}: {error.strerror}; fix that"
            raise _RefusedError(said) from error
        except OtherKeyError as error:
            raise self._other_key() from error
        except NewerError as error:
            raise _RefusedError(f"{self._index_path} {error}") from error

    def _write_index(self, index: Index, key: bytes) -> None:
        payload = msgspec.json.encode(index)
        sealed = seal(key, self._vehicle, NO_ENCODER, INDEX, payload)
        files.write_whole(self._index_path, sealed, os.replace)

    def _refuse_foreign_folder(self, key: bytes, vehicle: str | None) -> None:
        """Raise if there is no index and all files are foreign; `vehicle` None accepts any."""
        heads = [read_head(path) for path in self._paths()]
        kinds = [kind for head in heads if (kind := foreign_error(head, key, vehicle))]
        if len(kinds) == len(heads):
            if OtherVehicleError in kinds:
                raise self._other_vehicle()
            if OtherKeyError in kinds:
                raise self._other_key()

    def _other_key(self) -> _RefusedError:
        return _RefusedError(
            f"the profiles in {self._directory} were sealed with another key; restore that key as "
            f"{credential_file() or self._key_file}; if it is lost, move {self._directory} away to "
            "start again"
        )

    def _other_vehicle(self) -> _RefusedError:
        return _RefusedError(
            f"the household in {self._directory} belongs to another vehicle than {self._vehicle}, "
            "so no profile is used and nothing was changed; restore vehicle.id, or accept them for "
            "this one: whodrives drivers accept"
        )

    def _index_missing(self, what: str = "is missing") -> _RefusedError:
        return _RefusedError(
            f"{self._index_path} {what}, so it is unknown who was erased; restore it, or "
            "accept all existing profiles as they are: whodrives drivers accept"
        )

    # --- all files ---

    def _all(self, state: State) -> Iterator[StoredProfile]:
        """Every current profile, of any encoder."""
        for path in self._paths():
            if not state.is_unfinished(path.stem):
                try:
                    yield self._current(path, state)
                except _RefusedError:
                    raise
                except ProfileError:
                    continue

    def _find(self, who: str, state: State) -> StoredProfile | None:
        """The profile with this name or id, of any encoder."""
        if DRIVER_ID.fullmatch(who):
            with suppress(ProfileError):
                return self._current(self._path(who), state)
            return None
        return _called(who, self._all(state))

    def _require(self, who: str, state: State) -> StoredProfile:
        found = self._find(who, state)
        if found is None:
            raise _nobody(who)
        return found

    def _check_again(self, who: str, old: StoredProfile | None) -> None:
        """Raise ProfileError if no further enrolment can be added to the profile."""
        if old is None:
            raise _nobody(who)
        self._usable(old)
        if len(old.added) >= MOST_ADDED:
            raise ProfileError(
                f"{who}: was enrolled {1 + MOST_ADDED} times already; more adds nothing: replace "
                "the voice with --replace, or leave it as it is"
            )

    def _usable(self, stored: StoredProfile) -> tuple[StoredProfile, list[str]]:
        """The profile without the preferences that the car refuses, and a sentence for each."""
        profile, ours = stored.profile, self._encoder
        if profile.encoder not in self._dimensions:
            raise ProfileError(
                f"profile {profile.id}: was made by another encoder ({profile.encoder[:12]}, ours "
                f"is {ours[:12]}); their voices cannot be compared: restore the models that it was "
                "made with, or enrol this driver again with --replace, which keeps all but the "
                "voice"
            )
        wanted = profile.preferences
        found = {path: vss.check(path, value, self._limits) for path, value in wanted.items()}
        left_out = [f"profile {profile.id}: left out: {said}" for said in found.values() if said]
        kept = {path: wanted[path] for path, said in found.items() if not said}
        slim = dataclasses.replace(profile, preferences=MappingProxyType(kept))
        return dataclasses.replace(stored, profile=slim), left_out

    def _checked(self, preferences: Mapping[str, float]) -> Mapping[str, float]:
        """The preferences as floats; ProfileError lists those that the car refuses."""
        found = (vss.check(path, value, self._limits) for path, value in preferences.items())
        if mistakes := [said for said in found if said]:
            raise ProfileError("\n  ".join(["preferences not accepted:", *mistakes]))
        return {path: float(value) for path, value in preferences.items()}

    @contextmanager
    def _reading(self) -> Iterator[bool]:
        """Take the shared lock; yields whether the directory exists."""
        try:
            folder = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            yield False
            return
        except OSError as error:
            raise ProfileError(
                f"cannot read {self._directory}: {error.strerror}; run this as the user that "
                "owns it"
            ) from error
        try:
            fcntl.flock(folder, fcntl.LOCK_SH)
            yield True
        finally:
            os.close(folder)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Take the exclusive lock; remove temporary files of an interrupted writer."""
        try:
            files.make_folder(self._directory)
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
                f"cannot write {place}: {error.strerror}; free space or fix the permissions, "
                "then try again"
            ) from error

    # --- the key ---

    def _key(self) -> bytes:
        """The key; a systemd credential takes precedence over the file."""
        if given := credential_file():
            return checked_key(given.read_bytes(), given)
        self._refuse_key_among_profiles()
        try:
            key, status = files.read_regular(self._key_file, KEY_BYTES + 1, follow=True)
        except OSError as error:
            raise ProfileError(
                f"cannot read the key {self._key_file}: {error.strerror}; restore it from a "
                f"backup; if it is lost, move {self._directory} away to start again"
            ) from error
        refuse_shared(status, self._key_file)
        return checked_key(key, self._key_file)

    def _needs_key(self) -> bool:
        """Whether a key exists, or a profile that needs an existing one."""
        there = credential_file() or os.path.lexists(self._key_file) or self._paths()
        return bool(there)

    def _make_first_key(self) -> None:
        """Make a key, unless one exists or a profile needs an existing one."""
        if self._needs_key():
            return
        self._refuse_key_among_profiles()
        # Without the key and without profiles, index and guest book are useless.
        self._index_path.unlink(missing_ok=True)
        if os.path.lexists(self._book):
            self._reject_book()
        files.make_folder(self._key_file.parent)
        files.write_whole(self._key_file, secrets.token_bytes(KEY_BYTES), os.link)

    def _refuse_root_among_others(self) -> None:
        """Raise for root in another user's directory: that user could not read the file."""
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
        # Not Path.resolve, which raises at a link that leads to itself.
        key, folder = map(os.path.realpath, (self._key_file, self._directory))
        if Path(key).is_relative_to(folder):
            raise ProfileError(
                f"the key {self._key_file} lies among the profiles it seals, so a copy of the "
                "directory reveals the voices; move it, and set profiles.key_file"
            )


def _called(who: str, profiles: Iterable[StoredProfile]) -> StoredProfile | None:
    return next((stored for stored in profiles if stored.is_called(who)), None)


def _nobody(who: str) -> ProfileError:
    return ProfileError(f"no driver is called {who}; `whodrives drivers list` says who is enrolled")


def _refuse_enrolled(name: str, old: StoredProfile | None, *, replace: bool) -> None:
    if old and not replace:
        raise ProfileError(
            f"{name} is enrolled already; take another name, or give --again to add to the voice, "
            "or --replace to replace it"
        )


def _refuse_namesake(stored: StoredProfile, others: Mapping[str, StoredProfile]) -> None:
    """Raise ProfileError for a second profile with the same name, as from a backup."""
    if other := others.get(names.folded(stored.name)):
        driver = stored.profile.id
        raise ProfileError(
            f"profile {driver}: its driver's name is that of {other.profile.id}; give it another: "
            f"whodrives drivers rename {driver} NEW-NAME"
        )


def _refuse_two_of_one_name(profiles: Sequence[StoredProfile]) -> None:
    seen: dict[str, str] = {}
    for stored in profiles:
        driver = stored.profile.id
        if other := seen.get(names.folded(stored.name)):
            raise ProfileError(
                f"the drivers of {other} and {driver} have one name; accept one, rename it, then "
                f"accept the other: whodrives drivers accept {other}; whodrives drivers "
                f"rename {other} NEW-NAME; whodrives drivers accept {driver}"
            )
        seen[names.folded(stored.name)] = driver


def _without_shared_key(
    stored: StoredProfile, others: Iterable[StoredProfile]
) -> tuple[StoredProfile, list[str]]:
    """The profile without a key fob that another driver has too, and a sentence if so."""
    fob, driver = stored.profile.key, stored.profile.id
    other = next((each.profile.id for each in others if fob and each.profile.key == fob), None)
    if other is None:
        return stored, []
    said = (
        f"profile {driver}: its key is also that of {other}, and is not used; remove it from "
        f"one of the two: whodrives drivers key {driver} --clear"
    )
    return dataclasses.replace(stored, profile=dataclasses.replace(stored.profile, key=None)), [
        said
    ]


def _refuse_key_of_another(driver: str, fob: str | None, others: Iterable[StoredProfile]) -> None:
    """Raise ProfileError if another driver has this key fob."""
    for other in others:
        owner = other.profile.id
        if fob and other.profile.key == fob and owner != driver:
            raise ProfileError(
                f"this key is {owner}'s; remove it first: whodrives drivers key {owner} --clear"
            )


MISSED_TRIPS = 3
"""After so many trips in a row without recognition another enrolment is proposed."""


def missed(profiles: Iterable[StoredProfile]) -> Iterator[str]:
    """A sentence for each driver who is not recognised, with the fix; it holds the id only."""
    for stored in profiles:
        driver, count = stored.profile.id, stored.profile.adaptation.missed
        if count >= MISSED_TRIPS:
            yield (
                f"{driver} was not recognised in the last {count} trips, although a key or the "
                "head unit told that this driver drives; enrol again in the car, in addition: "
                f"whodrives enrol {driver} --again"
            )


def unused(
    profiles: Sequence[StoredProfile], retention_days: int
) -> tuple[tuple[StoredProfile, int], ...]:
    """Profiles not recognised for more than `retention_days`, each with that number of days.

    Empty if `retention_days` is 0 or the clock is implausible; skips profiles without a date.
    """
    today = believed(calendar.today_iso())
    if today is None or not retention_days:
        return ()
    days = [(stored, stored.unused_days(date.fromisoformat(today))) for stored in profiles]
    return tuple((stored, n) for stored, n in days if n is not None and n > retention_days)


class _RefusedError(ProfileError):
    """The directory as a whole cannot be used."""


class _DamagedError(ProfileError):
    """The guest book is damaged."""


def _try_writing(folder: Path) -> None:
    """Raise OSError unless the directory has room for a profile."""
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
