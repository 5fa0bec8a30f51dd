"""The work that `count.py` counts: an encoder embeds speech once, between two yields.

python tools/aarch64/work.py MODEL SECONDS
"""

import hashlib
import os
import sys
from pathlib import Path

import soundfile

from whodrives.audio.blocks import SAMPLE_RATE_HZ
from whodrives.models.encoder import OnnxEncoder
from whodrives.models.manifests import Manifest
from whodrives.models.session import open_session

ROOT = Path(__file__).resolve().parents[2]
SPEECH = ROOT / "profiles" / "demo" / "voices" / "af_bella" / "5.opus"


def main(model: Path, seconds: float) -> None:
    """Load the model as the daemon does, and embed."""
    checksum = hashlib.sha256(model.read_bytes()).hexdigest()
    encoder = OnnxEncoder(open_session(Manifest(model, model, checksum, {})), checksum)
    samples = soundfile.read(SPEECH, dtype="float32")[0][: int(seconds * SAMPLE_RATE_HZ)]
    os.sched_yield()
    embedding = encoder.embed(samples)
    os.sched_yield()
    print(*(f"{number:.6f}" for number in embedding))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
