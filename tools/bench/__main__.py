"""Measures what whodrives costs on this machine, beside sherpa-onnx, and writes it down.

    python tools/bench [--quick] [--out FILE.json]

The demo's drive goes in real time through a real daemon and a real broker: processor time, memory,
start, idling, and the delay from sound to message; once more with a tenth of a processor; and in
many daemons at once, for the longest of a thousand delays. Then the recognizer alone, as fast as it
goes, with few and many drivers; a trip's end with few and many guests; and what others do: the same
network in the usual loop, in that of a typical add-on, and Resemblyzer if it is installed. About
twenty minutes; --quick takes a piece of the drive and proves that the bench works, no more.
docs/performance.md says what each figure means; tools/bench/pictures.py draws them.
"""

import argparse
import importlib.util
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tools.bench.alone import Alone, listen, speech_s
from tools.bench.limit import limit
from tools.bench.live import (
    BenchError,
    Run,
    Stage,
    run,
    stage,
    start_steps,
)
from tools.bench.usual import ADD_ON_S, HOP_S, RESEMBLYZER, WINDOW_S, measure, write_model
from tools.lab.machine import describe, short_name
from tools.lab.scene import (
    HISS_LEVEL_DB,
    amplify,
    road_noise,
)
from whodrives.adaptation.guests import RULES, Guest
from whodrives.adaptation.types import AdaptationSample, UnknownSpeech
from whodrives.audio.blocks import BLOCK_S, BLOCK_SAMPLES, SAMPLE_RATE_HZ, AudioBlock, Floats
from whodrives.audio.files import read_file
from whodrives.config.location import load_config
from whodrives.errors import WhodrivesError
from whodrives.models.calibration import load_calibration
from whodrives.models.encoder import load_encoder
from whodrives.models.vad import load_vad
from whodrives.service.household import household
from whodrives.service.learning import Learning, today
from whodrives.service.wiring import open_store
from whodrives.voice.decision import Policy

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ROAD_KMH = 70.0
ROAD_LEVEL_DB = -34.0
"""dBFS at 100 km/h, as in the demo's drive."""

LOGGED_DELAY = re.compile(r"event=recognition .* delay_ms=(\d+)")


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure.

    Attributes:
        drive_s: so much of the drive.
        drives: how often it is driven.
        idle_s: length of each sound without speech.
        passes: passes of the recognizer alone.
        steps: starts that are taken apart.
        daemons: so many at once, for the longest delays.
        rounds: how often each of them hears the drive.
    """

    drive_s: float
    drives: int
    idle_s: float
    passes: int
    steps: int
    daemons: int
    rounds: int


FULL = Effort(drive_s=1e9, drives=3, idle_s=30.0, passes=5, steps=5, daemons=14, rounds=8)
QUICK = Effort(drive_s=6.0, drives=1, idle_s=0.9, passes=1, steps=1, daemons=1, rounds=1)
STARVED_SHARE = 0.1
CROWDS = (3, 30, 300)
GUESTS = (0, 10, 100)
LENGTHS_S = (0.5, 1.0, 2.0, 3.0, 6.0)

Result = dict[str, Any]


def main() -> int:
    """Do what the command line asks; 0 when the result is written."""
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few seconds only; worth nothing")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="default: a name in tools/bench/results"
    )
    options = parser.parse_args()
    try:
        result = bench(QUICK if options.quick else FULL)
    except (BenchError, WhodrivesError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    target = options.out or HERE / "results" / f"{result['date']}-{result['name']}.json"
    target.write_text(json.dumps(rounded(result), indent=1) + "\n", encoding="utf-8")
    show(result)
    print(f"written: {target}")
    return 0


def bench(effort: Effort) -> Result:
    """Everything, one after the other."""
    machine = describe()
    with tempfile.TemporaryDirectory(prefix="whodrives-bench-") as temporary:
        folder = Path(temporary)
        with stage(folder) as scene:
            blocks = [b for b in read_file(scene.drive.sound) if b.at_s <= effort.drive_s]
            piped = [as_piped(block) for block in blocks]
            alone, speech = hear_alone(scene, piped, effort.passes)
            lives = [say(f"drive {n + 1}", run(scene, blocks)) for n in range(effort.drives)]
            idle_lives = {
                name: say(name, run(scene, sound))
                for name, sound in idle_sounds(effort.idle_s).items()
            }
            steps = [start_steps(scene.config) for _ in range(effort.steps)]
            starved = say("with a tenth of a processor", run(scene, blocks, STARVED_SHARE))
            many = drive_many(effort, alone[0])
            crowds = hear_crowds(scene, piped, effort.passes)
            guests = meet_guests(scene, effort.passes)
            lengths = embed_lengths(scene, effort.passes)
            least = limit(Path(load_config(scene.config).models.directory))
            usual, others = hear_usual(scene, piped)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "name": short_name(machine),
        "quick": effort is QUICK,
        "machine": machine,
        "drive": drive_result(lives, alone[0], speech),
        "idle": {name: idle_result(life) for name, life in idle_lives.items()},
        "start": start_result([*lives, *idle_lives.values()], steps),
        "starved": starved_result(starved, alone[0]),
        "many": many,
        "crowds": crowds,
        "guests": guests,
        "encoder_by_length": lengths,
        "limit": least,
        "alone": alone_result(alone, piped, speech),
        "sherpa_onnx": usual,
        "others": others,
    }
    return result | {"ratios": ratios(result)}


def say(what: str, life: Run) -> Run:
    """Show that it goes on."""
    share = 100 * life.cpu_s / life.audio_s
    print(f"{what}: {life.audio_s:.0f} s, {share:.2f} % of a core", file=sys.stderr)
    return life


# --- the sound ------------------------------------------------------------------------------------


def as_piped(block: AudioBlock) -> AudioBlock:
    """The block as the daemon hears it behind a pipe of 16-bit samples."""
    whole = (np.clip(block.samples, -1, 1) * 32767).astype("<i2")
    return AudioBlock(block.at_s, whole.astype(np.float32) / np.float32(32768))


def idle_sounds(seconds: float) -> dict[str, list[AudioBlock]]:
    """Sound without speech: none at all, a microphone's own hiss, a road."""
    count = round(seconds * SAMPLE_RATE_HZ)
    white = np.random.default_rng(1).standard_normal(count).astype(np.float32)
    hiss = amplify(white, HISS_LEVEL_DB)
    road = hiss + amplify(road_noise(seconds, ROAD_KMH, seed=1), ROAD_LEVEL_DB)
    sounds = {"digital_silence": np.zeros(count, np.float32), "hiss": hiss, "road_70_kmh": road}
    return {name: cut(sound) for name, sound in sounds.items()}


def cut(samples: Floats) -> list[AudioBlock]:
    """Whole blocks of a signal, each stamped with its end."""
    whole = samples[: len(samples) // BLOCK_SAMPLES * BLOCK_SAMPLES].reshape(-1, BLOCK_SAMPLES)
    return [AudioBlock((n + 1) * BLOCK_S, block) for n, block in enumerate(whole)]


# --- measuring ------------------------------------------------------------------------------------


def hear_alone(
    scene: Stage, blocks: Sequence[AudioBlock], passes: int
) -> tuple[list[Alone], float]:
    """The recognizer's passes over the drive, and the seconds of speech it heard there."""
    settings = load_config(scene.config)
    models = Path(settings.models.directory)
    policy = Policy(load_calibration(models), settings.recognition.strangers)
    house = household(open_store(settings), 0.0)
    gate, encoder = load_vad(models), load_encoder(models)
    speech = speech_s(gate, blocks)
    found = []
    for _ in range(passes):
        gate.reset()
        found.append(listen(gate, encoder, policy, house, blocks))
    return found, speech


def hear_crowds(scene: Stage, blocks: Sequence[AudioBlock], passes: int) -> list[Result]:
    """The recognizer with ever more drivers enrolled: the household, and people who never speak."""
    settings = load_config(scene.config)
    models = Path(settings.models.directory)
    policy = Policy(load_calibration(models), settings.recognition.strangers)
    house = household(open_store(settings), 0.0)
    gate, encoder = load_vad(models), load_encoder(models)
    rng = np.random.default_rng(1)
    found = []
    for count in CROWDS:
        strangers = [
            replace(house.profiles[0], id=f"d-{n:08x}", embeddings=voices)
            for n, voices in enumerate(_nobodies(rng, house.profiles[0].embeddings, count))
        ]
        crowd = replace(house, profiles=(*house.profiles, *strangers)[:count])
        spent = []
        for _ in range(passes):
            gate.reset()
            spent.append(listen(gate, encoder, policy, crowd, blocks).cpu_s)
        cpu_ms = 1000 * statistics.median(spent)
        found.append({"profiles": count, "cpu_ms_per_audio_s": cpu_ms / (len(blocks) * BLOCK_S)})
    return found


def _nobodies(rng: np.random.Generator, like: Floats, count: int) -> list[Floats]:
    """Voices of nobody: each as many embeddings as `like` has, near a direction of their own."""
    found = []
    for _ in range(count):
        rows = rng.standard_normal(like.shape[1]) + 0.5 * rng.standard_normal(like.shape)
        found.append((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    return found


def drive_many(effort: Effort, alone: Alone) -> Result:
    """The drive in many daemons at once, again and again: the longest delays are rare.

    They get into each other's way on few cores, so this is more than one daemon's delay.
    """
    with ProcessPoolExecutor(effort.daemons) as pool:
        each = list(pool.map(drive_again, repeat(effort, effort.daemons), repeat(alone)))
    delays = [delay for found in each for delay in found]
    found = spread(delays)
    tail = found and found | {"p99_9": float(np.percentile(delays, 99.9))}
    return {"daemons": effort.daemons, "rounds": effort.rounds, "delay_ms": tail}


def drive_again(effort: Effort, alone: Alone) -> list[float]:
    """One of many daemons: the delays of its rounds, ms.

    Raises:
        BenchError: it did not decide as the recognizer does alone.
    """
    found: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="whodrives-bench-") as folder,
        stage(Path(folder)) as scene,
    ):
        blocks = [b for b in read_file(scene.drive.sound) if b.at_s <= effort.drive_s]
        for _ in range(effort.rounds):
            life = run(scene, blocks)
            if not decided_as(alone, life):
                raise BenchError(f"a daemon decided otherwise:\n{life.log}")
            found += delays_ms([life], alone)
    return found


def meet_guests(scene: Stage, passes: int) -> list[Result]:
    """What a trip's end with an unknown voice costs, after ever more guests have been met.

    The book holds `guests.Rules.guests` of them; it is read, judged, sealed and written.
    """
    settings = load_config(scene.config)
    calibration = load_calibration(Path(settings.models.directory))
    store = open_store(settings)
    learning = Learning(store, calibration, remember_guests=True)
    drivers = household(store, 0.0).profiles
    rng = np.random.default_rng(1)
    like = np.empty((RULES.voices, drivers[0].embeddings.shape[1]), np.float32)
    found = []
    day = today() or 1  # a bench measures under a wrong clock too
    for count in GUESTS:
        seconds = (RULES.group_s,) * RULES.voices
        book = [
            Guest(f"g-{n:08x}", voices, seconds, RULES.voices, day, day)
            for n, voices in enumerate(_nobodies(rng, like, count))
        ]
        spent = []
        for voices in _nobodies(rng, like, 4 * passes):
            store.save_guests(tuple(book[: RULES.guests]))
            sample = AdaptationSample(voices[0], RULES.group_s, None, ())
            before_s = time.thread_time()
            learning.meet(UnknownSpeech(0.0, (sample,)), drivers)
            spent.append(time.thread_time() - before_s)
        found.append({"guests": count, "cpu_ms": 1000 * statistics.median(spent)})
    store.save_guests(())
    return found


def embed_lengths(scene: Stage, passes: int) -> list[Result]:
    """What one embedding costs, by the length of the speech."""
    encoder = load_encoder(Path(load_config(scene.config).models.directory))
    noise = np.random.default_rng(1).standard_normal(round(LENGTHS_S[-1] * SAMPLE_RATE_HZ))
    samples = (0.1 * noise).astype(np.float32)
    found = []
    for length_s in LENGTHS_S:
        spent = []
        for _ in range(4 * passes):
            before_s = time.thread_time()
            encoder.embed(samples[: round(length_s * SAMPLE_RATE_HZ)])
            spent.append(time.thread_time() - before_s)
        found.append({"speech_s": length_s, "cpu_ms": 1000 * statistics.median(spent)})
    return found


def hear_usual(scene: Stage, blocks: Sequence[AudioBlock]) -> tuple[Result, list[Result]]:
    """sherpa-onnx over the same samples, in a process of its own; and others like it."""
    whole, model = scene.folder / "float.onnx", scene.folder / "usual.onnx"
    sound = scene.folder / "drive.raw"
    builder = [sys.executable, str(ROOT / "tools/build_models"), "--float", str(whole)]
    subprocess.run(builder, check=True, stdout=subprocess.DEVNULL)
    write_model(whole, model)
    samples = np.concatenate([block.samples for block in blocks])
    np.rint(samples * 32768).astype("<i2").tofile(sound)
    runs = [measure(model, sound) for _ in range(3)]
    live_s = measure(model, sound, pause_s=HOP_S)["window_cpu_s"]
    others = [other("typical add-on", measure(model, sound, ADD_ON_S, ADD_ON_S), len(blocks))]
    if importlib.util.find_spec(RESEMBLYZER):
        others.append(other("Resemblyzer", measure(RESEMBLYZER, sound), len(blocks)))
    audio_s = len(samples) / SAMPLE_RATE_HZ
    spent_s = np.median([run["window_cpu_s"] for run in runs], axis=0)
    ends_s = WINDOW_S + HOP_S * np.arange(len(spent_s))
    spoken = np.array([somebody_speaks(scene, end_s - HOP_S, end_s) for end_s in ends_s])
    found = {
        "window_s": WINDOW_S,
        "hop_s": HOP_S,
        "cpu_ms_per_window": 1000 * float(np.median(spent_s)),
        "cpu_ms_per_audio_s": 1000 * sum(live_s) / audio_s,
        "cpu_ms_per_audio_s_without_pauses": 1000 * float(spent_s.sum()) / audio_s,
        "cpu_ms_per_audio_s_without_pauses_speech_only": 1000
        * float(spent_s[spoken].sum())
        / audio_s,
        "peak_rss_mb": statistics.median(run["peak_rss_mb"] for run in runs),
        "ready_s": statistics.median(run["ready_s"] for run in runs),
        "model_mb": model.stat().st_size / 1e6,
    }
    return found, others


def other(name: str, seen: Result, blocks: int) -> Result:
    """One more loop, as fast as it goes."""
    return {
        "name": name,
        "cpu_ms_per_window": 1000 * statistics.median(seen["window_cpu_s"]),
        "cpu_ms_per_audio_s": 1000 * sum(seen["window_cpu_s"]) / (blocks * BLOCK_S),
        "peak_rss_mb": seen["peak_rss_mb"],
        "ready_s": seen["ready_s"],
    }


def somebody_speaks(scene: Stage, start_s: float, end_s: float) -> bool:
    """Whether the drive's script has a voice between these seconds."""
    return any(s.start_s < end_s and s.end_s > start_s for s in scene.drive.sentences())


# --- what it comes to -----------------------------------------------------------------------------


def drive_result(lives: Sequence[Run], alone: Alone, speech: float) -> Result:
    """The whole daemon over the drive; medians over the drives, delays over all decisions."""
    audio_s = statistics.median(life.audio_s for life in lives)
    cpu_ms = 1000 * statistics.median(life.cpu_s for life in lives)
    same = all(decided_as(alone, life) for life in lives)
    return {
        "drives": len(lives),
        "audio_s": audio_s,
        "speech_s": speech,
        "cpu_ms_per_audio_s": cpu_ms / audio_s,
        "cpu_ms_per_speech_s": cpu_ms / speech,
        "peak_rss_mb": max(life.peak_rss_mb for life in lives),
        "decisions": len(alone.decisions),
        "decisions_as_in_replay": same,
        "delay_ms": spread(delays_ms(lives, alone)) if same else None,
        "logged_delay_ms": spread(
            [float(ms) for life in lives for ms in LOGGED_DELAY.findall(life.log)]
        ),
    }


def starved_result(life: Run, alone: Alone) -> Result:
    """The drive with a tenth of a processor."""
    same = decided_as(alone, life)
    return {
        "share": STARVED_SHARE,
        "decisions_as_in_replay": same,
        "delay_ms": spread(delays_ms([life], alone)) if same else None,
    }


def decided_as(alone: Alone, life: Run) -> bool:
    """Whether the daemon said what the recognizer says alone."""
    expected = [str(event.verdict.outcome) for _, event in alone.decisions]
    return [heard.body["outcome"] for heard in life.came("recognition")] == expected


def delays_ms(lives: Sequence[Run], alone: Alone) -> list[float]:
    """From the moment the last needed block was written until the decision reached a subscriber."""
    return [
        1000 * (heard.at_s - life.sent_s[block])
        for life in lives
        for heard, (block, _) in zip(life.came("recognition"), alone.decisions, strict=True)
        if block < len(life.sent_s)
    ]


def idle_result(life: Run) -> Result:
    """A daemon that hears nobody."""
    return {
        "audio_s": life.audio_s,
        "cpu_percent_of_a_core": 100 * life.cpu_s / life.audio_s,
        "recognitions": len(life.came("recognition")),
    }


def start_result(lives: Sequence[Run], steps: Sequence[Sequence[Mapping[str, Any]]]) -> Result:
    """From the process's start to the retained `online`, and what it consists of."""
    ready = [life.ready_s for life in lives]
    return {
        "starts": len(ready),
        "ready_s": {"median": statistics.median(ready), "max": max(ready)},
        "steps": [
            {
                "step": same[0]["step"],
                "ms": statistics.median(step["ms"] for step in same),
                "rss_mb": statistics.median(step["rss_mb"] for step in same),
            }
            for same in zip(*steps, strict=True)
        ],
    }


def alone_result(passes: Sequence[Alone], blocks: Sequence[AudioBlock], speech: float) -> Result:
    """The recognizer as fast as it goes; the median pass."""
    median = sorted(passes, key=lambda one: one.cpu_s)[len(passes) // 2]
    audio_s = len(blocks) * BLOCK_S
    rest_s = median.cpu_s - median.gate_s - median.encoder_s
    return {
        "passes": len(passes),
        "real_time_factor": median.cpu_s / audio_s,
        "cpu_ms_per_audio_s": 1000 * median.cpu_s / audio_s,
        "cpu_ms_per_speech_s": 1000 * median.cpu_s / speech,
        "gate_ms_per_audio_s": 1000 * median.gate_s / audio_s,
        "encoder_ms_per_look": 1000 * median.encoder_s / max(median.looks, 1),
        "encoder_ms_per_speech_s": 1000 * median.encoder_s / speech,
        "rest_ms_per_audio_s": 1000 * rest_s / audio_s,
        "looks": median.looks,
    }


def spread(values: Sequence[float]) -> Result | None:
    """Median, 95th percentile and maximum."""
    if not values:
        return None
    return {
        "count": len(values),
        "median": statistics.median(values),
        "p95": float(np.percentile(values, 95)),
        "max": max(values),
    }


def ratios(result: Result) -> Result:
    """The comparison: sherpa-onnx's figure divided by ours."""
    usual, drive, alone = result["sherpa_onnx"], result["drive"], result["alone"]
    return {
        "cpu_usual_loop_to_daemon": usual["cpu_ms_per_audio_s"] / drive["cpu_ms_per_audio_s"],
        "cpu_usual_loop_to_recognizer_alone": (
            usual["cpu_ms_per_audio_s_without_pauses"] / alone["cpu_ms_per_audio_s"]
        ),
        "cpu_speech_only_to_recognizer_alone": (
            usual["cpu_ms_per_audio_s_without_pauses_speech_only"] / alone["cpu_ms_per_audio_s"]
        ),
        "rss_usual_loop_to_daemon": usual["peak_rss_mb"] / drive["peak_rss_mb"],
    }


def rounded(value: Any) -> Any:
    """Three digits: more would pretend that the machine repeats itself."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value


# --- showing --------------------------------------------------------------------------------------


def show(result: Result) -> None:
    """Print the result as a table."""
    console = Console()
    machine = result["machine"]
    title = f"{result['date']}, {machine['processor']}, {machine['cores']} cores"
    table = Table("", "whodrives", "sherpa-onnx", title=title + (" (quick)" * result["quick"]))
    for name, ours, theirs in rows(rounded(result)):
        table.add_row(name, ours, theirs)
    console.print(table)
    steps = Table("step of the start", "ms", "MB", title="Where the start and the memory go")
    for step in rounded(result)["start"]["steps"]:
        steps.add_row(step["step"], f"{step['ms']:.0f}", f"{step['rss_mb']:.0f}")
    console.print(steps)


def rows(result: Result) -> list[tuple[str, str, str]]:
    """What the table says."""
    drive, alone, usual = result["drive"], result["alone"], result["sherpa_onnx"]
    ready = result["start"]["ready_s"]
    return [
        (
            "whole path, CPU ms per second of sound",
            f"{drive['cpu_ms_per_audio_s']}",
            f"{usual['cpu_ms_per_audio_s']} (embedding only)",
        ),
        ("whole path, CPU ms per second of speech", f"{drive['cpu_ms_per_speech_s']}", ""),
        *(
            (f"nobody speaks, {name.replace('_', ' ')}, % of a core", str(cpu), "")
            for name, cpu in ((n, i["cpu_percent_of_a_core"]) for n, i in result["idle"].items())
        ),
        (
            "without pauses, CPU ms per second of sound",
            f"{alone['cpu_ms_per_audio_s']}",
            f"{usual['cpu_ms_per_audio_s_without_pauses']}",
        ),
        (
            "  embedding only where somebody speaks",
            f"{alone['cpu_ms_per_audio_s']}",
            f"{usual['cpu_ms_per_audio_s_without_pauses_speech_only']}",
        ),
        ("  the same per second of speech", f"{alone['cpu_ms_per_speech_s']}", ""),
        ("    gate, per second of sound", f"{alone['gate_ms_per_audio_s']}", ""),
        (
            "    encoder, per embedding",
            f"{alone['encoder_ms_per_look']}",
            f"{usual['cpu_ms_per_window']}",
        ),
        (
            "      of it at least arithmetic, per second of speech",
            f"{result['limit']['encoder_ms_per_speech_s']}",
            "",
        ),
        ("    the rest, per second of sound", f"{alone['rest_ms_per_audio_s']}", ""),
        *(
            (f"  with {crowd['profiles']} drivers", f"{crowd['cpu_ms_per_audio_s']}", "")
            for crowd in result["crowds"]
        ),
        *(
            (f"  a trip's end after {each['guests']} guests, CPU ms", f"{each['cpu_ms']}", "")
            for each in result["guests"]
        ),
        ("most memory, MB", f"{drive['peak_rss_mb']}", f"{usual['peak_rss_mb']}"),
        ("start to ready, s", f"{ready['median']}, max {ready['max']}", f"{usual['ready_s']}"),
        ("last needed sample to message, ms", delay(drive["delay_ms"]), ""),
        ("  by the daemon's own log", delay(drive["logged_delay_ms"]), ""),
        ("  with a tenth of a processor", delay(result["starved"]["delay_ms"]), ""),
        (
            f"  {result['many']['daemons']} daemons at once",
            f"{delay(result['many']['delay_ms'])}, 99.9 % {result['many']['delay_ms']['p99_9']}",
            "",
        ),
        *(
            (f"{each['name']}, CPU ms per second of sound", "", f"{each['cpu_ms_per_audio_s']}")
            for each in result["others"]
        ),
    ]


def delay(found: Mapping[str, Any] | None) -> str:
    """A spread in words."""
    if found is None:
        return "no decision, or not those of the replay"
    return f"{found['median']}, 95 % {found['p95']}, max {found['max']}"


if __name__ == "__main__":
    sys.exit(main())
