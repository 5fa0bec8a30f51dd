"""What whodrives is compared with: encoders in loops, each in a process of its own.

    python tools/bench/usual.py ENCODER SOUND WINDOW HOP PAUSE

ENCODER is a model file for sherpa-onnx, or "resemblyzer". WINDOW seconds of sound are embedded
every HOP seconds: 3 and 0.5 in the usual loop, 5 and 5 in that of an assistant's add-on. The model
is the same network from the same checkpoint, in float, with sherpa-onnx's own front end. With a
PAUSE in seconds it sleeps between the windows, as it must in real time. As a program it prints one
line of JSON, so that its memory and its start are its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WINDOW_S = 3.0
HOP_S = 0.5
ADD_ON_S = 5.0
RESEMBLYZER = "resemblyzer"
RATE_HZ = 16_000
METADATA = {
    "framework": "3d-speaker",
    "language": "Chinese-English",
    "url": "",
    "comment": "CAM++",
    "sample_rate": str(RATE_HZ),
    "output_dim": "192",
    "normalize_samples": "1",
    "feature_normalize_type": "global-mean",
}
"""What sherpa-onnx wants to read in the file (its speaker-embedding-extractor-model.cc)."""


def write_model(whole: Path, target: Path) -> None:
    """Cut the front end off the encoder in float: (1, T, 80) features in, an embedding out."""
    import onnx  # noqa: PLC0415 - only the comparison's preparation needs it

    model = onnx.utils.Extractor(onnx.load(whole)).extract_model(["log_mel"], ["embedding"])
    features = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, "frames", 80))
    del model.graph.input[:]
    model.graph.input.append(features)
    model.graph.node.insert(
        0, onnx.helper.make_node("Transpose", ["x"], ["log_mel"], perm=[0, 2, 1])
    )
    onnx.helper.set_model_props(model, METADATA)
    onnx.save(model, target)


def measure(
    encoder: Path | str,
    sound: Path,
    window_s: float = WINDOW_S,
    hop_s: float = HOP_S,
    pause_s: float = 0.0,
) -> dict[str, Any]:
    """Run this file as a program; what it printed, and its start as seen from here."""
    words = [str(encoder), str(sound), str(window_s), str(hop_s), str(pause_s)]
    started_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, __file__, *words], check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    found["ready_s"] = found.pop("ready_at_s") - started_s
    return found


def _sherpa_onnx(model: str) -> Callable[[Any], object]:
    import sherpa_onnx  # noqa: PLC0415 - the imports are part of the start

    settings = sherpa_onnx.SpeakerEmbeddingExtractorConfig(model=model, num_threads=1)
    extractor = sherpa_onnx.SpeakerEmbeddingExtractor(settings)

    def embed(samples: Any) -> object:
        stream = extractor.create_stream()
        stream.accept_waveform(RATE_HZ, samples)
        stream.input_finished()
        return extractor.compute(stream)

    return embed


def _resemblyzer() -> Callable[[Any], object]:
    import torch  # noqa: PLC0415
    from resemblyzer import VoiceEncoder  # noqa: PLC0415

    torch.set_num_threads(1)
    encoder = VoiceEncoder("cpu", verbose=False)
    embed: Callable[[Any], object] = encoder.embed_utterance
    return embed


def main() -> None:
    """Embed every window of the sound; print the processor time of each and the memory."""
    import numpy as np  # noqa: PLC0415 - the imports are part of the start

    from tools.lab.machine import peak_rss_mb  # noqa: PLC0415

    encoder, sound = sys.argv[1:3]
    window_s, hop_s, pause_s = map(float, sys.argv[3:])
    embed = _resemblyzer() if encoder == RESEMBLYZER else _sherpa_onnx(encoder)
    ready_at_s = time.monotonic()
    samples = np.fromfile(sound, "<i2").astype(np.float32) / 32768
    window, hop = int(window_s * RATE_HZ), int(hop_s * RATE_HZ)
    spent_s = []
    for end in range(window, len(samples) + 1, hop):
        time.sleep(pause_s)
        before_s = time.process_time()
        embed(samples[end - window : end])
        spent_s.append(time.process_time() - before_s)
    result = {"ready_at_s": ready_at_s, "window_cpu_s": spent_s, "peak_rss_mb": peak_rss_mb()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
