"""Export format: a household in one file under a passphrase, for another car."""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Callable

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from whodrives.errors import ProfileError
from whodrives.store.record import DRIVER_ID, FINGERPRINT, StoredProfile, unpack_record
from whodrives.store.sealing import KEY_BYTES, NONCE_BYTES, UnusableError

HOUSEHOLD_MAGIC = b"whodrives household"


HOUSEHOLD_SCHEMA = 1


MOST_HOUSEHOLD_BYTES = 16 * 1024 * 1024  # a hundred drivers


SALT_BYTES = 16


_SCRYPT = {"n": 2**17, "r": 8, "p": 1}


LEAST_PASSPHRASE_CHARACTERS = 12


def check_passphrase(passphrase: str) -> None:
    """Raise ProfileError for a passphrase that is too short."""
    if len(passphrase) < LEAST_PASSPHRASE_CHARACTERS:
        raise ProfileError(
            f"a passphrase has at least {LEAST_PASSPHRASE_CHARACTERS} characters; four unrelated "
            "words are easy to remember and hard to guess"
        )


def key_from_passphrase(passphrase: str, salt: bytes) -> bytes:
    """The key of a passphrase (scrypt, which is slow and needs 128 MiB, against guessing)."""
    text = unicodedata.normalize("NFC", passphrase).encode()
    return Scrypt(salt=salt, length=KEY_BYTES, **_SCRYPT).derive(text)


class _Parcel(msgspec.Struct):
    """A driver in an exported file; `payload` is base64 of a sealed file's payload."""

    driver: str
    encoder: str
    payload: str


def unpack_household(
    data: bytes, passphrase: str, dimension_of: Callable[[str], int | None]
) -> list[StoredProfile]:
    """The profiles in an exported file's bytes; UnusableError with the fix if it is invalid."""
    magic, rest = data[: len(HOUSEHOLD_MAGIC)], data[len(HOUSEHOLD_MAGIC) :]
    if magic != HOUSEHOLD_MAGIC:
        raise UnusableError("is not a household that whodrives exported; give another file")
    if len(data) > MOST_HOUSEHOLD_BYTES:
        raise UnusableError(
            f"is larger than any household ({MOST_HOUSEHOLD_BYTES // 2**20} MiB); give another file"
        )
    if rest[:1] != bytes([HOUSEHOLD_SCHEMA]):
        raise UnusableError("was exported by another version of whodrives; use that version")
    salt, rest = rest[1 : 1 + SALT_BYTES], rest[1 + SALT_BYTES :]
    header = data[: len(magic) + 1 + SALT_BYTES]
    try:
        key = key_from_passphrase(passphrase, salt)
        text = AESGCM(key).decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], header)
    except (InvalidTag, ValueError) as error:
        raise UnusableError("the passphrase is wrong, or the file was changed") from error
    try:
        return [
            _arrival(parcel, dimension_of)
            for parcel in msgspec.json.decode(text, type=list[_Parcel])
        ]
    except (ValueError, RecursionError, UnusableError) as error:
        raise UnusableError("contains no valid household; export it again") from error


def _arrival(parcel: _Parcel, dimension_of: Callable[[str], int | None]) -> StoredProfile:
    if not DRIVER_ID.fullmatch(parcel.driver) or not FINGERPRINT.fullmatch(parcel.encoder):
        raise ValueError("no driver's id, or no encoder's fingerprint")
    payload = base64.b64decode(parcel.payload, validate=True)
    return unpack_record(parcel.driver, parcel.encoder, payload, dimension_of(parcel.encoder))
