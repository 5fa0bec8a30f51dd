"""Reads a model's manifest and verifies the model file against it.

Owns manifests, their pinned checksums, and the verified copy of a model. Must not know ONNX. A
model is loaded only from bytes whose SHA-256 its manifest names, and a manifest is used only if its
own SHA-256 is in this package (`models.sha256`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whodrives.errors import ModelError


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of models/NAME.json.

    Attributes:
        path: of the manifest.
        model: path of the model file, beside the manifest.
        sha256: of the model file, lower-case hexadecimal.
        facts: the whole manifest as parsed JSON.
    """

    path: Path
    model: Path
    sha256: str
    facts: Mapping[str, Any]


def read_manifest(models_dir: Path, name: str, *, pinned: bool = True) -> Manifest:
    """Read `models_dir`/`name`.json.

    Args:
        models_dir: folder of the models.
        name: of the model.
        pinned: require the manifest that this package was built with; only tools that build or
            compare models pass False.

    Raises:
        ModelError: it is missing, malformed, or not this package's.
    """
    path = models_dir / f"{name}.json"
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_MANIFEST_BYTES + 1)
        facts = json.loads(data[:_MOST_MANIFEST_BYTES].decode("utf-8"), parse_constant=_refuse)
        manifest = Manifest(path, models_dir / facts["file"], str(facts["sha256"]), facts)
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; is {models_dir} the folder of the models?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path} is no manifest: it lacks {error}; restore the file") from error
    if pinned and hashlib.sha256(data).hexdigest() != _pins().get(path.name):
        raise ModelError(
            f"{path} is not the manifest that this whodrives was made with: it was changed, or is "
            "of another version; install the package again, or in a checkout restore the file "
            "with git"
        )
    return manifest


_MOST_MANIFEST_BYTES = 4 * 1024 * 1024


_MOST_MODEL_BYTES = 256 * 1024 * 1024


def _pins() -> Mapping[str, str]:
    """SHA-256 of each manifest by file name, from `models.sha256`."""
    lines = Path(__file__).with_name("models.sha256").read_text(encoding="ascii").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def _refuse(constant: str) -> None:
    """Refuse NaN and infinities: every comparison with such a threshold would be false."""
    raise ValueError(f"{constant} is not a finite number")


@contextlib.contextmanager
def verified(manifest: Manifest) -> Iterator[Path]:
    """Yield a path to a verified copy of the model file that cannot change.

    The copy is a sealed memory file (memfd_create(2)), so the hashed bytes are the loaded bytes
    whatever happens to the file. Passing bytes to ONNX Runtime would keep them in memory twice.

    Raises:
        ModelError: the file cannot be read, or has another SHA-256.
    """
    copy = os.memfd_create(manifest.path.stem, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        try:
            with manifest.model.open("rb") as file:
                left = _MOST_MODEL_BYTES
                while left and (sent := os.sendfile(copy, file.fileno(), None, left)):
                    left -= sent
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            reason = getattr(error, "strerror", error)
            raise ModelError(f"{manifest.model} cannot be read ({reason}); {_REBUILD}") from error
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, seals)
        path = Path(f"/proc/self/fd/{copy}")
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != manifest.sha256:
            raise ModelError(
                f"{manifest.model} has sha256 {actual}, but {manifest.path.name} pins "
                f"{manifest.sha256}; {_REBUILD}"
            )
        yield path
    finally:
        os.close(copy)


_REBUILD = (
    "install the package again, or in a checkout delete the file and build it again with: make "
    "models"
)
