"""The sealed file format: header, AES-256-GCM, and the key."""

from __future__ import annotations

import hmac
import os
import secrets
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from whodrives.errors import ProfileError
from whodrives.store import files

_MAGIC = b"whodrives profile"


_SCHEMA = 2


_KEY_ID_BYTES = 8


_VEHICLE_BYTES = 8


ENCODER_BYTES = 32


NONCE_BYTES = 12


_HEADER_BYTES = len(_MAGIC) + 1 + _KEY_ID_BYTES + _VEHICLE_BYTES + ENCODER_BYTES


KEY_BYTES = 32


_MOST_BYTES = 4 * 1024 * 1024  # hundreds of times a usual profile


GUESTS = "guests"


_CREDENTIAL = "profile-key"


class UnusableError(Exception):
    """Why a file's bytes cannot be used, and the fix; without the file's name."""


class NewerError(UnusableError):
    """A newer whodrives wrote it."""


class OtherKeyError(UnusableError):
    """It was sealed with another key."""


class OtherVehicleError(UnusableError):
    """It belongs to another vehicle."""


class SpoiltError(UnusableError):
    """It was sealed for us and is damaged."""


def _key_id(key: bytes) -> bytes:
    """An id that distinguishes keys without revealing them."""
    return hmac.digest(key, b"whodrives key id", "sha256")[:_KEY_ID_BYTES]


def _vehicle_id(key: bytes, vehicle: str) -> bytes:
    """An id that distinguishes cars and, without the key, does not reveal the car."""
    return hmac.digest(key, b"whodrives vehicle " + vehicle.encode(), "sha256")[:_VEHICLE_BYTES]


def _header(key: bytes, vehicle: str, encoder: str) -> bytes:
    ours = _key_id(key) + _vehicle_id(key, vehicle)
    return _MAGIC + bytes([_SCHEMA]) + ours + bytes.fromhex(encoder)


def seal(key: bytes, vehicle: str, encoder: str, name: str, payload: bytes) -> bytes:
    """The bytes of a sealed file: header, nonce, ciphertext."""
    header = _header(key, vehicle, encoder)
    nonce = secrets.token_bytes(NONCE_BYTES)
    return header + nonce + AESGCM(key).encrypt(nonce, payload, header + name.encode())


def unseal(key: bytes, vehicle: str | None, name: str, data: bytes) -> tuple[str, bytes]:
    """The encoder's fingerprint and the payload; `vehicle` None accepts any vehicle."""
    header, rest = data[:_HEADER_BYTES], data[_HEADER_BYTES:]
    kind = foreign_error(header, key, vehicle)
    if kind is SpoiltError:
        raise SpoiltError("is damaged or not a file of whodrives")
    if kind is not None:
        raise kind(_FOREIGN[kind].format(written=header[len(_MAGIC)], read=_SCHEMA))
    if len(data) > _MOST_BYTES:
        raise SpoiltError(f"is larger than {_MOST_BYTES // 2**20} MiB")
    try:
        nonce, ciphertext = rest[:NONCE_BYTES], rest[NONCE_BYTES:]
        payload = AESGCM(key).decrypt(nonce, ciphertext, header + name.encode())
    except (InvalidTag, ValueError) as error:
        raise SpoiltError("was changed, truncated or renamed since it was sealed") from error
    return header[-ENCODER_BYTES:].hex(), payload


_FOREIGN: Mapping[type[UnusableError], str] = {
    NewerError: "has format {written}, this whodrives reads {read}; install the whodrives that "
    "wrote it",
    UnusableError: "has format {written}, this whodrives reads {read}; install the whodrives that "
    "wrote it",
    OtherKeyError: "was sealed with another key; bring that key back",
    OtherVehicleError: "belongs to another vehicle.id; set vehicle.id to that one, or take it "
    "over: whodrives drivers accept",
}


def foreign_error(header: bytes, key: bytes, vehicle: str | None) -> type[UnusableError] | None:
    """Which of the usual reasons keeps a file from being opened; None: its header is ours."""
    magic, rest = header[: len(_MAGIC)], header[len(_MAGIC) :]
    if magic != _MAGIC or len(header) < _HEADER_BYTES:
        return SpoiltError
    if rest[0] != _SCHEMA:
        return NewerError if rest[0] > _SCHEMA else UnusableError
    if not hmac.compare_digest(rest[1 : 1 + _KEY_ID_BYTES], _key_id(key)):
        return OtherKeyError
    theirs = rest[1 + _KEY_ID_BYTES : 1 + _KEY_ID_BYTES + _VEHICLE_BYTES]
    if vehicle is not None and not hmac.compare_digest(theirs, _vehicle_id(key, vehicle)):
        return OtherVehicleError
    return None


def is_of(data: bytes, key: bytes, vehicle: str) -> bool:
    """Whether the file says that it was sealed with this key for this vehicle."""
    return foreign_error(data[:_HEADER_BYTES], key, vehicle) is None


def credential_file() -> Path | None:
    """The key from systemd's LoadCredential=, if any; systemd protects that file."""
    path = Path(os.environ.get("CREDENTIALS_DIRECTORY", os.devnull)) / _CREDENTIAL
    return path if path.is_file() else None


def checked_key(key: bytes, path: Path) -> bytes:
    """The key if it has the right length; ProfileError if not."""
    if len(key) != KEY_BYTES:
        raise ProfileError(f"the key {path} is not {KEY_BYTES} bytes long; restore the right one")
    return key


def refuse_shared(status: os.stat_result, path: Path) -> None:
    """Raise ProfileError for a key that others can read or write."""
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ProfileError(
            f"others may use the key {path}; run `chmod 600 {shlex.quote(str(path))}`"
        )


def read_bounded(path: Path) -> bytes:
    """The bytes of a sealed file; of a too large one, enough for `unseal` to refuse it."""
    return files.read_regular(path, _MOST_BYTES + 1)[0]


def read_head(path: Path) -> bytes:
    """The header of a sealed file; empty if it cannot be read."""
    try:
        return files.read_regular(path, _HEADER_BYTES)[0]
    except OSError:
        return b""


def refuse_large(sealed: bytes) -> None:
    """Raise ProfileError for a sealed file that would be too large to read back."""
    if len(sealed) > _MOST_BYTES:
        raise ProfileError(
            f"a profile or guest book is larger than {_MOST_BYTES // 2**20} MiB, and could not be "
            "read again; nothing was stored"
        )


def free_path(path: Path) -> Path:
    """The path, with a number appended if it exists."""
    candidates = (path.with_name(f"{path.name}.{n}" if n else path.name) for n in range(1000))
    return next(each for each in candidates if not each.exists())
