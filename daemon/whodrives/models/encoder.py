"""The speaker encoders: speech in, unit-length embedding out.

Owns the models' inputs and outputs, their fingerprints, and how two embeddings become one. Must not
know profiles or thresholds. Embeddings are comparable only if their fingerprints are the same.

The embedding by two encoders is both side by side, each times the square root of its weight. Its
cosine is then the weighted mean of both cosines: two scores are fused, and everything behind the
encoder has one embedding to deal with (docs/decisions/0013-two-encoders.md).
"""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path

import numpy as np
import onnxruntime

from whodrives.audio.blocks import SAMPLE_RATE_HZ, Floats
from whodrives.errors import ModelError
from whodrives.models.manifests import Manifest, read_manifest, verified
from whodrives.models.session import open_unchecked
from whodrives.voice.scoring import FIRST_DIMENSION
from whodrives.voice.types import Encoder

SECOND_DIMENSION = 256
"""Dimension of the second encoder's embeddings."""


FIRST, SECOND = "encoder", "second"
"""The names of the manifests."""


SHORTEST_SAMPLES = int(0.4 * SAMPLE_RATE_HZ)
"""Minimum speech for an embedding; shorter speech has too few frames for pooling."""


class OnnxEncoder:
    """A speaker encoder that takes 16 kHz samples; implements `voice.types.Encoder`."""

    def __init__(self, session: onnxruntime.InferenceSession, fingerprint: str) -> None:
        self._session = session
        self._fingerprint = fingerprint

    @property
    def fingerprint(self) -> str:
        """See `Encoder.fingerprint`."""
        return self._fingerprint

    def embed(self, samples: Floats) -> Floats:
        """Embed float32 samples of shape (n,), n >= 0.4 s, into a unit vector (D,), read-only.

        Raises:
            ValueError: less than 0.4 s, or not one-dimensional.
        """
        if samples.ndim != 1 or len(samples) < SHORTEST_SAMPLES:
            raise ValueError(f"an embedding needs 0.4 s of mono speech, not {samples.shape}")
        (rows,) = self._session.run(["embedding"], {"samples": samples.astype(np.float32)})
        embedding: Floats = rows[0]
        embedding.setflags(write=False)
        return embedding


class FusedEncoder:
    """Two encoders as one; implements `voice.types.Encoder`.

    Args:
        first: of FIRST_DIMENSION.
        second: of SECOND_DIMENSION.
        weight: of the first one's cosine, in (0, 1).
        fingerprint: of both together, `fused_fingerprint`.
    """

    def __init__(
        self, first: OnnxEncoder, second: OnnxEncoder, weight: float, fingerprint: str
    ) -> None:
        self._encoders = first, second
        self._lengths = np.float32(math.sqrt(weight)), np.float32(math.sqrt(1.0 - weight))
        self._fingerprint = fingerprint

    @property
    def fingerprint(self) -> str:
        """See `Encoder.fingerprint`."""
        return self._fingerprint

    def embed(self, samples: Floats) -> Floats:
        """As `OnnxEncoder.embed`; D is FIRST_DIMENSION + SECOND_DIMENSION."""
        parts = [encoder.embed(samples) for encoder in self._encoders]
        scaled = [part * length for part, length in zip(parts, self._lengths, strict=True)]
        embedding: Floats = np.concatenate(scaled)
        embedding.setflags(write=False)
        return embedding


def load_encoder(models_dir: Path, encoders: int = 2, *, pinned: bool = True) -> Encoder:
    """Load the encoder, or the two as one; a model is in memory once while its file is unchanged.

    Args:
        models_dir: folder of the models.
        encoders: 1 or 2, as in `config.schema.ModelFiles`.
        pinned: as for `read_manifest`.

    Raises:
        ModelError: a model is missing, changed or unusable.
    """
    first = read_manifest(models_dir, FIRST, pinned=pinned)
    if encoders == 1:
        return _load(first)
    second = read_manifest(models_dir, SECOND, pinned=pinned)
    fingerprint = fused_fingerprint(first, second)
    return FusedEncoder(_load(first), _load(second), weight_of(second), fingerprint)


def _load(manifest: Manifest) -> OnnxEncoder:
    with verified(manifest) as path:
        fingerprint = fingerprint_of(manifest)
        known = (manifest.model, manifest.sha256, fingerprint)
        found = _encoders.get(manifest.model.name)
        if found is None or found[0] != known:
            found = known, OnnxEncoder(open_unchecked(path, manifest.model), fingerprint)
            _encoders[manifest.model.name] = found
    return found[1]


_encoders: dict[str, tuple[tuple[Path, str, str], OnnxEncoder]] = {}
"""The last encoders loaded, by file name, with model path, SHA-256 and fingerprint."""


def fingerprint_of(manifest: Manifest) -> str:
    """The fingerprint in a manifest; raises ModelError if it is malformed."""
    fingerprint = manifest.facts.get("fingerprint")
    if not isinstance(fingerprint, str) or not re.fullmatch("[0-9a-f]{64}", fingerprint):
        raise ModelError(
            f"{manifest.path}: fingerprint must be 64 hexadecimal digits, not {fingerprint!r}; "
            "restore the file"
        )
    return fingerprint


def weight_of(second: Manifest) -> float:
    """The first encoder's weight, in the second's manifest; raises ModelError without one."""
    weight = second.facts.get("weight")
    if not isinstance(weight, float) or not 0.0 < weight < 1.0:
        raise ModelError(
            f"{second.path}: weight must be a number between 0 and 1, not {weight!r}; restore the "
            "file"
        )
    return weight


def fused_fingerprint(first: Manifest, second: Manifest) -> str:
    """The fingerprint of both encoders as one: the SHA-256 of theirs and of the weight."""
    parts = fingerprint_of(first), fingerprint_of(second), repr(weight_of(second))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def known_encoders(models_dir: Path, encoders: int) -> dict[str, int]:
    """The dimension of each embedding that can be compared, by fingerprint, the one in use first.

    With one encoder, an embedding by both can be compared, too: it begins with the first one's.

    Raises:
        ModelError: a manifest is missing or is not this package's.
    """
    first, second = (read_manifest(models_dir, name) for name in (FIRST, SECOND))
    one = {fingerprint_of(first): FIRST_DIMENSION}
    both = {fused_fingerprint(first, second): FIRST_DIMENSION + SECOND_DIMENSION}
    return one | both if encoders == 1 else both | one
