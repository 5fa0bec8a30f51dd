"""What whodrives is compared with: sherpa-onnx in the usual loop, 3 s of sound every 0.5 s.

    python tools/bench/usual.py MODEL SOUND [PAUSE]

The same network from the same checkpoint, in float, with sherpa-onnx's own front end. As a program
it prints one line of JSON, so that its memory and its start are those of a process of its own.
With a PAUSE in seconds it sleeps between the windows, as it must in real time.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WINDOW_S = 3.0
HOP_S = 0.5
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


def measure(model: Path, sound: Path, pause_s: float = 0.0) -> dict[str, Any]:
    """Run this file as a program; what it printed, and its start as seen from here."""
    started_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, __file__, str(model), str(sound), str(pause_s)],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    found["ready_s"] = found.pop("ready_at_s") - started_s
    return found


def main() -> None:
    """Embed every window of the sound; print the processor time of each and the memory."""
    import numpy as np  # noqa: PLC0415 - the imports are part of the start
    import sherpa_onnx  # noqa: PLC0415
    from machine import peak_rss_mb  # noqa: PLC0415

    model, sound, *pause = sys.argv[1:]
    settings = sherpa_onnx.SpeakerEmbeddingExtractorConfig(model=model, num_threads=1)
    extractor = sherpa_onnx.SpeakerEmbeddingExtractor(settings)
    ready_at_s = time.monotonic()
    samples = np.fromfile(sound, "<i2").astype(np.float32) / 32768
    window, hop = int(WINDOW_S * RATE_HZ), int(HOP_S * RATE_HZ)
    spent_s = []
    for end in range(window, len(samples) + 1, hop):
        time.sleep(float(pause[0]) if pause else 0.0)
        before_s = time.process_time()
        stream = extractor.create_stream()
        stream.accept_waveform(RATE_HZ, samples[end - window : end])
        stream.input_finished()
        extractor.compute(stream)
        spent_s.append(time.process_time() - before_s)
    result = {"ready_at_s": ready_at_s, "window_cpu_s": spent_s, "peak_rss_mb": peak_rss_mb()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
