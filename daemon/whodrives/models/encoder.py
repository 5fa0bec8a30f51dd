"""The speaker encoder: speech in, unit-length embedding out."""

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
"""Numbers in an embedding."""


SHORTEST_SAMPLES = int(0.4 * SAMPLE_RATE_HZ)
"""Less speech than this is not embedded: its statistics would rest on a handful of frames."""


class OnnxEncoder:
    """A speaker encoder with 16 kHz samples as its input; satisfies `domain.Encoder`."""

    def __init__(self, session: onnxruntime.InferenceSession, fingerprint: str) -> None:
        self._session = session
        self._fingerprint = fingerprint

    @property
    def fingerprint(self) -> str:
        """As `domain.Encoder` says."""
        return self._fingerprint

    def embed(self, samples: Floats) -> Floats:
        """Embed float32 samples of shape (n,), n >= 0.4 s, into a unit vector (192,), read-only.

        Raises:
            ValueError: fewer samples than 0.4 s, or another shape.
        """
        if samples.ndim != 1 or len(samples) < SHORTEST_SAMPLES:
            raise ValueError(f"an embedding needs 0.4 s of mono speech, not {samples.shape}")
        (rows,) = self._session.run(["embedding"], {"samples": samples.astype(np.float32)})
        embedding: Floats = rows[0]
        embedding.setflags(write=False)
        return embedding


def load_encoder(models_dir: Path, *, pinned: bool = True) -> OnnxEncoder:
    """Load the encoder; the one that was loaded last is given again while its file is the same.

    Args:
        models_dir: where the models are.
        pinned: as for `read_manifest`.

    Raises:
        ModelError: it is missing, changed or unusable.
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
"""The encoder that was loaded last."""


def fingerprint_of(manifest: Manifest) -> str:
    """What the manifest calls the encoder's embeddings, however its file is laid out."""
    fingerprint = manifest.facts.get("fingerprint")
    if not isinstance(fingerprint, str) or not re.fullmatch("[0-9a-f]{64}", fingerprint):
        raise ModelError(
            f"{manifest.path}: fingerprint must be 64 hexadecimal digits, not {fingerprint!r}; "
            "restore the file"
        )
    return fingerprint
