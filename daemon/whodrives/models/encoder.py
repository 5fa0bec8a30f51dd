"""The speaker encoder: speech in, unit-length embedding out.

Owns the model's inputs and outputs, and its fingerprint. Must not know profiles or thresholds.
Embeddings are comparable only if their encoders have the same fingerprint.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnxruntime

from whodrives.audio.blocks import SAMPLE_RATE_HZ, Floats
from whodrives.errors import ModelError
from whodrives.models.manifests import Manifest, read_manifest, verified
from whodrives.models.session import open_unchecked

EMBEDDING = 192
"""Dimension of an embedding."""


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
        """Embed float32 samples of shape (n,), n >= 0.4 s, into a unit vector (192,), read-only.

        Raises:
            ValueError: less than 0.4 s, or not one-dimensional.
        """
        if samples.ndim != 1 or len(samples) < SHORTEST_SAMPLES:
            raise ValueError(f"an embedding needs 0.4 s of mono speech, not {samples.shape}")
        (rows,) = self._session.run(["embedding"], {"samples": samples.astype(np.float32)})
        embedding: Floats = rows[0]
        embedding.setflags(write=False)
        return embedding


def load_encoder(models_dir: Path, *, pinned: bool = True) -> OnnxEncoder:
    """Load the encoder; a second call returns the same object while the file is unchanged.

    Args:
        models_dir: folder of the models.
        pinned: as for `read_manifest`.

    Raises:
        ModelError: the model is missing, changed or unusable.
    """
    manifest = read_manifest(models_dir, "encoder", pinned=pinned)
    with verified(manifest) as path:
        fingerprint = fingerprint_of(manifest)
        known = (manifest.model, manifest.sha256, fingerprint)
        if known not in _encoders:
            _encoders.clear()
            _encoders[known] = OnnxEncoder(open_unchecked(path, manifest.model), fingerprint)
    return _encoders[known]


_encoders: dict[tuple[Path, str, str], OnnxEncoder] = {}
"""The last encoder loaded, by model path, SHA-256 and fingerprint."""


def fingerprint_of(manifest: Manifest) -> str:
    """The fingerprint in a manifest; raises ModelError if it is malformed."""
    fingerprint = manifest.facts.get("fingerprint")
    if not isinstance(fingerprint, str) or not re.fullmatch("[0-9a-f]{64}", fingerprint):
        raise ModelError(
            f"{manifest.path}: fingerprint must be 64 hexadecimal digits, not {fingerprint!r}; "
            "restore the file"
        )
    return fingerprint
