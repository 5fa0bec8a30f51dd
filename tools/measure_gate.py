"""Measure voice-activity detectors in a car's noise: misses, false alarms, CPU.

    python tools/measure_gate.py CORPUS --role train
    python tools/measure_gate.py CORPUS --role eval --out tools/bench/results/gate-DATE.json

CORPUS holds manifest.tsv with the columns role, corpus, group, path and seconds, and the 16 kHz
mono recordings it names. Recordings of `--role` are brought to -26 dBFS of active speech and put
in a row with pauses of 1.5 to 3 s; noise is added at an SNR over the active speech (see scene.py).

Labels come from the clean recording. A 30 ms block is speech when its level is less than 25 dB
below the recording's 95th percentile. Only recordings whose quietest twentieth lies 40 dB below
that percentile are used: in others, level cannot tell speech from their own noise. Non-speech is
the inserted pauses alone, without 0.3 s at either end, where pre-roll and hangover belong.

"raw" takes the detector's probability at 0.5; "gate" is what `Segmenter` lets through, told by
blocks whose samples carry their own number. Clipping is the speech lost before the first block of
a recording that comes through. False looks are looks (0.5 s of speech and more) in noise alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import webrtcvad
from numpy.typing import NDArray

from tools.lab.corpus import rows
from tools.lab.scene import (
    HISS_LEVEL_DB,
    active_frames,
    amplify,
    cabin,
    frame_levels_db,
    level_speech,
    mix,
    music,
    radio,
    read_speech,
    road_noise,
)
from whodrives.audio.blocks import BLOCK_S, BLOCK_SAMPLES, SAMPLE_RATE_HZ, AudioBlock, Floats
from whodrives.errors import WhodrivesError
from whodrives.models.manifests import read_manifest
from whodrives.models.session import open_session
from whodrives.models.vad import OnnxVoiceActivity, load_vad
from whodrives.voice.segments import Segmenter, SegmenterSettings
from whodrives.voice.types import Segment, VoiceActivity

Flags = NDArray[np.bool_]
Doubles = NDArray[np.float64]

ROOT = Path(__file__).resolve().parents[1]
SEED = 20261123
SNRS_DB = (20.0, 10.0, 5.0, 0.0)
CLEAR_DB = 40.0
NEVER = sys.maxsize
COLLAR = round(0.3 / BLOCK_S)
ROAD_LEVEL_DB = -30.0
"""dBFS of the tyres at 100 km/h where noise is heard alone: 4 dB below a voice."""


# --- detectors ----------------------------------------------------------------------------------


class WebRtc:
    """webrtcvad as a `VoiceActivity`: its answer is yes or no."""

    def __init__(self, mode: int) -> None:
        self._mode = mode
        self.reset()

    def reset(self) -> None:
        """Start a new detector: it has no other way to forget."""
        self._vad = webrtcvad.Vad(self._mode)

    def probabilities(self, blocks: Sequence[Floats]) -> list[float]:
        """1.0 for speech, else 0.0."""
        pcm = [(np.clip(block, -1, 1) * 32767).astype("<i2").tobytes() for block in blocks]
        return [float(self._vad.is_speech(block, SAMPLE_RATE_HZ)) for block in pcm]


class Behind:
    """A costly detector that runs only while a cheap one hears something, and 0.5 s longer."""

    def __init__(self, cheap: VoiceActivity, costly: VoiceActivity) -> None:
        self._cheap = cheap
        self._costly = costly
        self.reset()

    def reset(self) -> None:
        """Forget what was heard."""
        self._cheap.reset()
        self._costly.reset()
        self._left = 0

    def probabilities(self, blocks: Sequence[Floats]) -> list[float]:
        """The costly detector's, or 0.0 while it sleeps."""
        return [self._probability(block) for block in blocks]

    def _probability(self, samples: Floats) -> float:
        (cheap,) = self._cheap.probabilities([samples])
        self._left = 17 if cheap else max(self._left - 1, 0)
        if not self._left:
            return 0.0
        (probability,) = self._costly.probabilities([samples])
        if self._left == 1:
            self._costly.reset()
        return probability


class Louder:
    """An energy detector: 6 dB above a floor that falls at once and rises 1 dB a second."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the floor."""
        self._floor_db = 0.0

    def probabilities(self, blocks: Sequence[Floats]) -> list[float]:
        """1.0 when louder than the floor by 6 dB, else 0.0."""
        return [self._probability(block) for block in blocks]

    def _probability(self, samples: Floats) -> float:
        level_db = 10 * math.log10(float(samples @ samples) / len(samples) + 1e-12)
        self._floor_db = min(self._floor_db + BLOCK_S, level_db)
        return float(level_db > self._floor_db + 6)


def detectors(models: Path) -> dict[str, Callable[[], VoiceActivity]]:
    """Everything that is compared, by name."""
    found: dict[str, Callable[[], VoiceActivity]] = {
        f"webrtc-{mode}": lambda mode=mode: WebRtc(mode)  # type: ignore[misc]
        for mode in range(4)
    }
    found["silero"] = lambda: load_vad(models)
    session = open_session(read_manifest(models, "gate"))
    found["silero as it comes"] = lambda: OnnxVoiceActivity(session, patience=NEVER)
    found["silero<webrtc-1"] = lambda: Behind(WebRtc(1), load_vad(models))
    found["silero<energy"] = lambda: Behind(Louder(), load_vad(models))
    return found


# --- what is heard ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stream:
    """Sound and, per 30 ms block, what it is; both flags False where nothing is scored.

    Attributes:
        segments: first and last block, plus one, of each recording.
    """

    samples: Floats
    speech: Flags
    pause: Flags
    segments: tuple[tuple[int, int], ...]


def _recordings(corpus: Path, role: str) -> list[list[str]]:
    """Paths of the role's recordings, a list for each corpus."""
    found = rows(corpus, role)
    names = sorted({row["corpus"] for row in found})
    return [[row["path"] for row in found if row["corpus"] == name] for name in names]


def _clear(samples: Floats) -> bool:
    low, high = np.percentile(frame_levels_db(samples), (5, 95))
    return bool(high - low >= CLEAR_DB)


def speech_stream(corpus: Path, role: str, minutes: float) -> Stream:
    """String recordings of all corpora together, in turns, with pauses in between."""
    rng = np.random.default_rng(SEED)
    lists = [[*rng.permutation(paths)] for paths in _recordings(corpus, role)]
    pieces: list[Floats] = []
    marks: list[tuple[int, int]] = []
    at = 0
    while at * BLOCK_S < minutes * 60 and any(lists):
        lists = [paths for paths in lists if paths]
        for paths in lists:
            clean = read_speech(corpus / str(paths.pop()))
            if not _clear(clean):
                continue
            pause = int(rng.integers(50, 100))
            blocks = len(clean) // BLOCK_SAMPLES
            pieces += [np.zeros(pause * BLOCK_SAMPLES, np.float32)]
            pieces += [level_speech(clean)[: blocks * BLOCK_SAMPLES]]
            marks.append((at + pause, at + pause + blocks))
            at += pause + blocks
    return labelled(np.concatenate(pieces), marks)


def labelled(samples: Floats, marks: Sequence[tuple[int, int]]) -> Stream:
    """Say what each block is, given first and last block, plus one, of each clean recording."""
    speech = np.zeros(len(samples) // BLOCK_SAMPLES, np.bool_)
    pause = speech.copy()
    before = 0
    for start, end in marks:
        pause[before + COLLAR : start - COLLAR] = True
        speech[start:end] = active_frames(samples[start * BLOCK_SAMPLES : end * BLOCK_SAMPLES])
        before = end
    return Stream(samples, speech, pause, tuple(marks))


def _hiss(count: int) -> Floats:
    white = np.random.default_rng(SEED).standard_normal(count).astype(np.float32)
    return amplify(white, HISS_LEVEL_DB)


def _tiled(pieces: Sequence[Floats], count: int) -> Floats:
    """Recordings of noise, each at the same level, end to end, repeated as needed."""
    even = [level_speech(piece, -30) for piece in pieces if np.any(piece)]
    return np.resize(np.concatenate(even), count)


def _noise_files(corpus: Path, *names: str) -> list[Floats]:
    paths = [path for of_corpus in _recordings(corpus, "noise") for path in of_corpus]
    chosen = [path for path in paths if any(name in path for name in names)]
    return [read_speech(corpus / path) for path in chosen]


STREET = ("berlin_noise", "arabic_sc_background", "picovoice_s2i")
LIFELESS = ("Rain", "Sea_waves", "Helicopter", "Chainsaw", "Clock_tick", "Fire_crackling")
LIVING = ("Dog_bark", "Baby_cry", "Person_sneeze", "Rooster")


def noisy_streams(corpus: Path, clean: Stream) -> Iterator[tuple[str, Stream]]:
    """The same speech in silence, in a cabin, and in noises at several SNRs."""
    count = len(clean.samples)
    hiss = _hiss(count)
    yield "clean", _with(clean, clean.samples + hiss)
    yield "cabin", _with(clean, level_speech(cabin(clean.samples)) + hiss)
    noises = {
        "road 50": road_noise(count / SAMPLE_RATE_HZ, 50, SEED),
        "road 100": road_noise(count / SAMPLE_RATE_HZ, 100, SEED + 1),
        "street, kitchen": _tiled(_noise_files(corpus, *STREET), count),
        "esc10 lifeless": _tiled(_noise_files(corpus, *LIFELESS), count),
        "radio music": radio(music(count / SAMPLE_RATE_HZ, SEED)),
    }
    for name, noise in noises.items():
        for snr_db in SNRS_DB:
            yield f"{name}, {snr_db:.0f} dB", _with(clean, mix(clean.samples, noise, snr_db))


def _with(clean: Stream, samples: Floats) -> Stream:
    return Stream(np.clip(samples, -1, 1), clean.speech, clean.pause, clean.segments)


def noise_alone(corpus: Path, minutes: float) -> Iterator[tuple[str, Iterator[Floats]]]:
    """Noises without any speech, each in pieces of five minutes at most."""
    pieces = max(1, round(minutes / 5))
    seconds = 60 * minutes / pieces
    yield "silence", iter([_hiss(round(seconds * SAMPLE_RATE_HZ))])
    for speed in (0, 50, 100, 130):
        yield (
            f"road {speed} km/h",
            (
                amplify(road_noise(seconds, speed, SEED + piece), ROAD_LEVEL_DB)
                for piece in range(pieces)
            ),
        )
    for name, files in (
        ("street, kitchen", STREET),
        ("esc10 lifeless", LIFELESS),
        ("esc10 living", LIVING),
    ):
        recordings = _noise_files(corpus, *files)
        yield name, iter([_tiled(recordings, sum(map(len, recordings)))])
    yield "radio music", iter([level_speech(radio(music(300, SEED)), -30)])


# --- measuring ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpeechResult:
    """Shares in [0, 1]; `clipped_ms` are the median and the 90th percentile over recordings."""

    raw_missed: float
    raw_passed: float
    gate_missed: float
    gate_passed: float
    clipped_ms: tuple[float, float]
    unheard: float
    cpu_ms_per_s: float


@dataclass(frozen=True, slots=True)
class NoiseResult:
    """False looks per hour, those of at least 0.5 s of "speech", and the full ones of 1 s."""

    raw_passed: float
    gate_passed: float
    looks_per_hour: float
    full_looks_per_hour: float
    cpu_ms_per_s: float
    hours: float


def _blocks(samples: Floats) -> Floats:
    return samples[: len(samples) // BLOCK_SAMPLES * BLOCK_SAMPLES].reshape(-1, BLOCK_SAMPLES)


def probabilities(activity: VoiceActivity, samples: Floats) -> tuple[Doubles, float]:
    """The detector's answer to each block, and CPU milliseconds per second of sound."""
    activity.reset()
    blocks = _blocks(samples)
    began = time.process_time()
    answers = np.array([p for block in blocks for p in activity.probabilities([block])])
    cpu_s = time.process_time() - began
    return answers, 1000 * cpu_s / (len(blocks) * BLOCK_S)


def gated(answers: Doubles, settings: SegmenterSettings) -> tuple[Flags, list[Segment]]:
    """Which blocks come out of the gate inside a look, and the looks."""
    gate = Segmenter(settings)
    looks: list[Segment] = []
    for number, answer in enumerate(answers):
        stamped = np.full(BLOCK_SAMPLES, number, np.float32)
        heard = gate.step(AudioBlock(number * BLOCK_S, stamped), float(answer))
        looks += [piece for piece in heard if isinstance(piece, Segment)]
    looks += [p for p in gate.flush(len(answers) * BLOCK_S) if isinstance(p, Segment)]
    passed = np.zeros(len(answers), np.bool_)
    for look in looks:
        passed[look.samples[::BLOCK_SAMPLES].astype(int)] = True
    return passed, looks


def _clipping(stream: Stream, passed: Flags) -> tuple[tuple[float, float], float]:
    lost: list[float] = []
    for start, end in stream.segments:
        speech = np.flatnonzero(stream.speech[start:end])
        heard = np.flatnonzero(passed[start + speech[0] : end])
        if len(heard):
            lost.append(1000 * BLOCK_S * heard[0])
    unheard = 1 - len(lost) / len(stream.segments)
    middle, most = np.percentile(lost, (50, 90)) if lost else (math.nan, math.nan)
    return (float(middle), float(most)), unheard


def score_speech(
    activity: VoiceActivity, stream: Stream, settings: SegmenterSettings
) -> SpeechResult:
    """Score a detector, alone and behind the gate, on speech in noise."""
    answers, cpu_ms = probabilities(activity, stream.samples)
    raw = answers >= 0.5  # noqa: PLR2004 (even odds)
    passed, _ = gated(answers, settings)
    clipped_ms, unheard = _clipping(stream, passed)
    return SpeechResult(
        raw_missed=float(np.mean(~raw[stream.speech])),
        raw_passed=float(np.mean(raw[stream.pause])),
        gate_missed=float(np.mean(~passed[stream.speech])),
        gate_passed=float(np.mean(passed[stream.pause])),
        clipped_ms=clipped_ms,
        unheard=unheard,
        cpu_ms_per_s=cpu_ms,
    )


def score_noise(
    activity: VoiceActivity, pieces: Sequence[Floats], settings: SegmenterSettings
) -> NoiseResult:
    """Count what a detector behind the gate lets through of noise alone."""
    heard = [probabilities(activity, samples) for samples in pieces]
    answers = np.concatenate([answer for answer, _ in heard])
    passed, looks = gated(answers, settings)
    hours = len(answers) * BLOCK_S / 3600
    full = sum(look.new_s >= settings.segment_s for look in looks)
    return NoiseResult(
        raw_passed=float(np.mean(answers >= 0.5)),  # noqa: PLR2004 (even odds)
        gate_passed=float(np.mean(passed)),
        looks_per_hour=len(looks) / hours,
        full_looks_per_hour=full / hours,
        cpu_ms_per_s=float(np.mean([cpu_ms for _, cpu_ms in heard])),
        hours=hours,
    )


# --- the program --------------------------------------------------------------------------------

SPEECH_HEAD = (
    f"{'speech':24} {'detector':18} {'raw miss':>8} {'raw fa':>7} {'miss %':>7} {'fa %':>6}"
    f" {'clip ms 50/90':>14} {'unheard %':>9} {'CPU ms/s':>8}"
)
NOISE_HEAD = (
    f"{'noise alone':24} {'detector':18} {'raw fa %':>8} {'fa %':>7} {'looks/h':>8}"
    f" {'of 1 s/h':>8} {'CPU ms/s':>8} {'hours':>6}"
)


def _show_speech(condition: str, name: str, result: SpeechResult) -> None:
    r = result
    clip = f"{r.clipped_ms[0]:.0f} / {r.clipped_ms[1]:.0f}"
    print(
        f"{condition:24} {name:18} {100 * r.raw_missed:8.1f} {100 * r.raw_passed:7.1f}"
        f" {100 * r.gate_missed:7.1f} {100 * r.gate_passed:6.1f} {clip:>14}"
        f" {100 * r.unheard:9.1f} {r.cpu_ms_per_s:8.2f}",
        flush=True,
    )


def _show_noise(condition: str, name: str, result: NoiseResult) -> None:
    r = result
    print(
        f"{condition:24} {name:18} {100 * r.raw_passed:8.1f} {100 * r.gate_passed:7.1f}"
        f" {r.looks_per_hour:8.1f} {r.full_looks_per_hour:8.1f} {r.cpu_ms_per_s:8.2f}"
        f" {r.hours:6.2f}",
        flush=True,
    )


def measure(options: argparse.Namespace, settings: SegmenterSettings) -> dict[str, Any]:
    """Measure everything and print it as it comes."""
    chosen = detectors(options.models)
    if options.detector:
        chosen = {name: chosen[name] for name in options.detector}
    ready = {name: make() for name, make in chosen.items()}
    clean = speech_stream(options.corpus, options.role, options.minutes)
    speech: dict[str, dict[str, Any]] = {}
    print(SPEECH_HEAD)
    for condition, stream in noisy_streams(options.corpus, clean):
        for name, activity in ready.items():
            scored = score_speech(activity, stream, settings)
            _show_speech(condition, name, scored)
            speech.setdefault(condition, {})[name] = asdict(scored)
    alone: dict[str, dict[str, Any]] = {}
    print(NOISE_HEAD)
    for condition, pieces in noise_alone(options.corpus, options.noise_minutes):
        kept = list(pieces)
        for name, activity in ready.items():
            counted = score_noise(activity, kept, settings)
            _show_noise(condition, name, counted)
            alone.setdefault(condition, {})[name] = asdict(counted)
    return {
        "recordings": len(clean.segments),
        "speech_minutes": float(np.sum(clean.speech) * BLOCK_S / 60),
        "stream_minutes": len(clean.speech) * BLOCK_S / 60,
        "speech": speech,
        "noise_alone": alone,
    }


def _machine() -> str:
    with Path("/proc/cpuinfo").open() as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return f"{os.cpu_count()} cores, {names[0] if names else platform.machine()}"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    defaults = SegmenterSettings()
    parser = argparse.ArgumentParser(description="Measure voice-activity detectors in car noise.")
    parser.add_argument("corpus", type=Path, help="folder with manifest.tsv")
    parser.add_argument("--role", choices=("train", "eval"), required=True)
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument("--minutes", type=float, default=10, help="length of the speech streams")
    parser.add_argument("--noise-minutes", type=float, default=60, help="of each road noise")
    parser.add_argument("--detector", action="append", help="only this one; may be repeated")
    parser.add_argument("--on", type=float, default=defaults.on)
    parser.add_argument("--off", type=float, default=defaults.off)
    parser.add_argument("--onset-blocks", type=int, default=defaults.onset_blocks)
    parser.add_argument("--onset-window", type=int, default=defaults.onset_window)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when everything was measured."""
    options = _options(arguments)
    try:
        settings = SegmenterSettings(
            on=options.on,
            off=options.off,
            onset_blocks=options.onset_blocks,
            onset_window=options.onset_window,
        )
        figures = measure(options, settings)
    except (WhodrivesError, OSError, KeyError) as error:
        print(f"measure_gate: {error}", file=sys.stderr)
        return 1
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": _machine(),
        "role": options.role,
        "settings": asdict(settings),
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({**about, **figures}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
