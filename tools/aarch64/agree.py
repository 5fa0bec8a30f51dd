"""Whether another machine hears the same: embeddings, evidence and gate on the demo's voices.

    python tools/aarch64/agree.py write FILE                  # on each machine
    python tools/aarch64/agree.py write FILE --louder 2e-6    # as a yardstick
    python tools/aarch64/agree.py compare FILE OTHER

`write` takes the first second of three sentences of each voice through the shipped models as the
daemon loads them. `compare` prints how far two machines are apart and exits 1 beyond the tolerance.
Rounding to eight bits makes much of little: a difference that no ear could hear, in the sound or in
the order of a sum, moves values over the edge of a step, layer by layer. So two machines can agree
no better than one with itself when its sound is louder by a millionth or two.

For the evidence, two sentences of each voice make its profile and the third is the trial, against
every household of five neighbours in the alphabet: each voice with itself and with strangers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from whodrives.audio.blocks import BLOCK_SAMPLES, SAMPLE_RATE_HZ, Floats
from whodrives.models.calibration import load_calibration
from whodrives.models.encoder import load_encoder
from whodrives.models.vad import load_vad
from whodrives.voice.scoring import accept_llr, compare, mean_subtracted, unit
from whodrives.voice.types import Calibration

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
VOICES = ROOT / "profiles" / "demo" / "voices"
ENROLLED, TRIAL = ("1", "2"), "5"
HEARD_S = 1.0
"""What the daemon embeds at a time."""

HOUSEHOLD = 5

Machine = Mapping[str, NDArray[np.float32]]
"""What `write` kept of one."""

LEAST_COSINE = 0.995
MOST_LLR = 0.5
MOST_PROBABILITY = 0.001


def main() -> int:
    """Do what the command line asks; 1 when the machines are too far apart."""
    parser = argparse.ArgumentParser(
        prog="agree", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    written = actions.add_parser("write")
    written.add_argument("file", type=Path)
    written.add_argument("--louder", type=float, default=0.0, help="by this share")
    compared = actions.add_parser("compare")
    compared.add_argument("file", type=Path)
    compared.add_argument("other", type=Path)
    options = parser.parse_args()
    if options.action == "write":
        _write(options.file, options.louder)
        return 0
    return _compare(np.load(options.file), np.load(options.other))


def _write(path: Path, louder: float) -> None:
    """Keep what this machine makes of every voice."""
    encoder, gate = load_encoder(MODELS), load_vad(MODELS)
    voices = sorted(folder for folder in VOICES.iterdir() if folder.is_dir())
    sounds, embeddings, probabilities = [], [], []
    for voice in voices:
        sound = np.stack([_read(voice / f"{name}.opus") for name in (*ENROLLED, TRIAL)])
        sound *= np.float32(1 + louder)
        sounds.append(sound)
        embeddings.append([encoder.embed(samples) for samples in sound])
        gate.reset()
        blocks = sound[-1][: len(sound[-1]) // BLOCK_SAMPLES * BLOCK_SAMPLES]
        blocks = blocks.reshape(-1, BLOCK_SAMPLES)
        probabilities.append(gate.probabilities(list(blocks)))
        print(f"{voice.name} heard", file=sys.stderr)
    np.savez(
        path,
        encoder=np.array(encoder.fingerprint),
        sounds=np.array(sounds),
        embeddings=np.array(embeddings),
        probabilities=np.array(probabilities),
    )


def _read(path: Path) -> Floats:
    samples: Floats = soundfile.read(path, dtype="float32")[0]
    return samples[: int(HEARD_S * SAMPLE_RATE_HZ)]


def _compare(one: Machine, other: Machine) -> int:
    """Print the differences; 1 when one of them is beyond its tolerance."""
    if one["encoder"] != other["encoder"]:
        print("agree: the two files are of different encoders", file=sys.stderr)
        return 1
    calibration = load_calibration(MODELS)
    cosines = (one["embeddings"] * other["embeddings"]).sum(axis=-1, dtype=np.float64)
    llrs = [_evidence(machine["embeddings"], calibration) for machine in (one, other)]
    apart = np.abs(llrs[0] - llrs[1])
    probabilities = _apart(one, other, "probabilities")
    threshold = accept_llr(HEARD_S, HOUSEHOLD, calibration, "1/1000")
    changed = (llrs[0] >= threshold) != (llrs[1] >= threshold)
    print(
        f"{cosines.size} excerpts of {HEARD_S} s, samples apart {_apart(one, other, 'sounds'):.1g}"
    )
    print(f"cosine: lowest {cosines.min():.6f}, mean {cosines.mean():.6f}; at least {LEAST_COSINE}")
    print(f"number of an embedding: apart {_apart(one, other, 'embeddings'):.1g} at most")
    print(
        f"llr of {apart.size} comparisons: apart {apart.max():.3f} at most, {apart.mean():.3f} on "
        f"average; at most {MOST_LLR}; known on one machine only: {changed.sum()}"
    )
    print(f"gate's probability: apart {probabilities:.1g} at most; at most {MOST_PROBABILITY}")
    within = (
        cosines.min() >= LEAST_COSINE
        and apart.max() <= MOST_LLR
        and probabilities <= MOST_PROBABILITY
    )
    print("within the tolerance" if within else "BEYOND the tolerance")
    return 0 if within else 1


def _apart(one: Machine, other: Machine, name: str) -> float:
    return float(np.abs(one[name] - other[name]).max())


def _evidence(embeddings: Floats, calibration: Calibration) -> NDArray[np.float64]:
    """Natural-log likelihood ratios, (voices on trial, households, HOUSEHOLD)."""
    profiles = [mean_subtracted(unit(voice[:-1].mean(axis=0)), calibration) for voice in embeddings]
    trials = [mean_subtracted(voice[-1], calibration) for voice in embeddings]
    names = range(len(profiles))
    ratios = []
    for trial in trials:
        for first in names:
            members = [(first + step) % len(profiles) for step in range(HOUSEHOLD)]
            household = [(f"{member:02}", profiles[member]) for member in members]
            found = {m.driver: m.llr for m in compare(trial, HEARD_S, household, calibration)}
            ratios.append([found[name] for name, _ in household])
    return np.array(ratios).reshape(len(trials), len(profiles), HOUSEHOLD)


if __name__ == "__main__":
    sys.exit(main())
