"""Other encoders on the same trials: one of ours alone, that in float, sherpa-onnx, Resemblyzer.

Each gets the speech that our gate found and makes of it what its users make: ours take the same
chunks; the others embed all the speech so far at once. What is not installed is left out
and named.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnxruntime

from tools.bench import usual
from tools.lab.conditions import enrolled, tested
from tools.lab.corpus import Person, material
from tools.lab.front_end import DURATIONS, WHOLE_LOOK_S, Heard, Plan, Subject, ear, pieces
from whodrives.audio.blocks import SAMPLE_RATE_HZ, Floats
from whodrives.enrolment.recording import WINDOW_S, in_noise
from whodrives.models.encoder import OnnxEncoder
from whodrives.voice.scoring import pooled, unit
from whodrives.voice.segments import Segmenter, SegmenterSettings
from whodrives.voice.types import Segment

Embed: TypeAlias = Callable[[Sequence[Floats]], Floats]
"""From chunks of speech (n,) to one unit vector."""

TOOLS = Path(__file__).resolve().parents[1]
ONE, FLOAT, SHERPA, RESEMBLYZER = "one encoder", "float", "sherpa-onnx", "Resemblyzer"
ALL = (ONE, FLOAT, SHERPA, RESEMBLYZER)
OURS = (ONE, FLOAT)
"""Of the first encoder."""

CONDITIONS = ("clean", "car 5 dB", "car 0 dB", "broadband 5 dB")
RESEMBLYZER_LEVEL = 10 ** (-30 / 20)
"""Its own preparation raises quieter recordings to -30 dBFS."""


def available(folder: Path, models: Path) -> dict[str, str]:
    """Build what the baselines need in `folder`; for each that cannot run, why."""
    missing: dict[str, str] = {}
    shutil.copy(models / "encoder.onnx", folder / "one.onnx")
    built = _build_float(folder, models)
    if built:
        missing[FLOAT] = missing[SHERPA] = built
    elif importlib.util.find_spec("sherpa_onnx") is None:
        missing[SHERPA] = "not installed: tools/setup test"
    else:
        usual.write_model(folder / "float.onnx", folder / "sherpa.onnx")
    if importlib.util.find_spec("resemblyzer") is None:
        missing[RESEMBLYZER] = "not installed; docs/accuracy.md says how"
    return missing


def _build_float(folder: Path, models: Path) -> str:
    command = [sys.executable, str(TOOLS / "build_models"), "--models", str(models)]
    done = subprocess.run(
        [*command, "--float", str(folder / "float.onnx")],
        check=False,
        capture_output=True,
        text=True,
    )
    return "" if done.returncode == 0 else f"could not be built: {done.stderr.strip()[-200:]}"


def open_baseline(name: str, folder: Path) -> Embed:
    """Return one of the baselines, ready to embed in this process."""
    opened = {
        ONE: lambda: _ours(folder / "one.onnx"),
        FLOAT: lambda: _ours(folder / "float.onnx"),
        SHERPA: lambda: _sherpa(folder),
        RESEMBLYZER: _resemblyzer,
    }
    return opened[name]()


def _ours(model: Path) -> Embed:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    encoder = OnnxEncoder(session, "")
    return lambda chunks: pooled([encoder.embed(c) for c in chunks], [len(c) for c in chunks])


def _sherpa(folder: Path) -> Embed:
    import sherpa_onnx  # noqa: PLC0415 - an optional package

    settings = sherpa_onnx.SpeakerEmbeddingExtractorConfig(
        model=str(folder / "sherpa.onnx"), num_threads=1
    )
    extractor = sherpa_onnx.SpeakerEmbeddingExtractor(settings)

    def embed(chunks: Sequence[Floats]) -> Floats:
        stream = extractor.create_stream()
        stream.accept_waveform(SAMPLE_RATE_HZ, np.concatenate(chunks))
        stream.input_finished()
        return unit(np.asarray(extractor.compute(stream), np.float32))

    return embed


def _resemblyzer() -> Embed:
    import resemblyzer  # noqa: PLC0415 - an optional package
    import torch  # noqa: PLC0415 - comes with it

    torch.set_num_threads(1)
    encoder = resemblyzer.VoiceEncoder("cpu", verbose=False)

    def embed(chunks: Sequence[Floats]) -> Floats:
        speech = np.concatenate(chunks)
        level = max(float(np.sqrt(np.mean(np.square(speech)))), 1e-9)
        louder = speech * max(1.0, RESEMBLYZER_LEVEL / level)
        return unit(np.asarray(encoder.embed_utterance(louder), np.float32))

    return embed


_open: dict[tuple[str, Path], Embed] = {}


def hear_baselines(
    person: Person, plan: Plan, names: Sequence[str], folder: Path
) -> Mapping[str, Subject]:
    """Enrol and test one person with each baseline, from the speech that our gate finds."""
    for name in names:
        if (name, folder) not in _open:
            _open[name, folder] = open_baseline(name, folder)
    embeds = {name: _open[name, folder] for name in names}
    subjects = {name: Subject(person) for name in names}
    said = material(person, plan.sounds)
    windows = _chunks(plan, enrolled(said.enrolment, "clean", person.name), WINDOW_S, 0.0)
    for name, embed in embeds.items():
        if windows:
            # Ours are enrolled as whodrives enrols: with the copies in noise.
            copies = [copy for n, w in enumerate(windows) for copy in in_noise(w, n)]
            subjects[name].centres["clean"] = embed(windows + copies * (name in OURS))
    for condition in CONDITIONS:
        for number, sound in enumerate(said.tests):
            heard = _chunks(plan, tested(sound, condition, person.name, number), 1.0, WHOLE_LOOK_S)
            for name, embed in embeds.items():
                subjects[name].sounds.setdefault(condition, []).append(_by_seconds(embed, heard))
    return subjects


def _chunks(plan: Plan, samples: Floats, segment_s: float, least_s: float) -> list[Floats]:
    """Speech of the looks that are long enough."""
    gate = Segmenter(SegmenterSettings(segment_s=segment_s))
    heard = pieces(ear(plan.models).activity, gate, samples)
    return [p.samples for p in heard if isinstance(p, Segment) and p.new_s >= least_s]


def _by_seconds(embed: Embed, chunks: Sequence[Floats]) -> Heard:
    count = min(len(chunks), DURATIONS[2])
    vectors = [embed(chunks[: n + 1]) for n in range(count)]
    return Heard.of_seconds(np.stack(vectors) if vectors else np.zeros((0, 0), np.float32))
