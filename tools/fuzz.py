"""Throw hostile input at everything that reads what somebody else wrote.

    python tools/fuzz.py                                        # a thousand cases
    python tools/fuzz.py --cases 1000000 --out tools/bench/results/fuzz-DATE.json

Each reader gets real inputs (the contract's golden messages, recorded sound, a sealed profile, the
models' manifests) with bytes changed, cut, repeated and moved, with JSON values replaced by awkward
ones; and texts made of the words of its format. A reader may accept what it gets, or raise the
error that its documentation names. Anything else is a finding: another exception, a case that
takes longer than CPU_LIMIT_S or LIMIT_S, more memory than MEMORY_BYTES beyond what the process had,
a crash.

The cases run in processes of their own, CHUNK at a time, so that a crash or a hang inside a library
ends one process and its case is known. A chunk's number is its seed: the same cases everywhere.
The results are written after each chunk.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import logging
import mmap
import multiprocessing
import os
import platform
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import hypothesis
import numpy as np
import soundfile
from hypothesis import strategies as st

from whodrives import clock
from whodrives.audio.blocks import SAMPLE_RATE_HZ
from whodrives.audio.files import read_file
from whodrives.audio.pipe import read_pipe
from whodrives.cli.commands import recorded_vehicle
from whodrives.config import codec, schema
from whodrives.errors import (
    ConfigError,
    ModelError,
    PayloadError,
    ProfileError,
    SourceError,
    WhodrivesError,
)
from whodrives.models.calibration import load_calibration
from whodrives.models.vad import load_vad
from whodrives.mqtt.decode import Decoder
from whodrives.mqtt.ecosystems import SeatAdjuster
from whodrives.mqtt.payloads import READ_SIGNALS
from whodrives.mqtt.topics import TOPICS
from whodrives.store.journal import Journal
from whodrives.store.profiles import ProfileStore
from whodrives.trip.types import Apply, Delivery, OutboxSnapshot, Request, TripSnapshot
from whodrives.vehicle import vss

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "mqtt"
VOICE = ROOT / "profiles" / "demo" / "voices" / "af_bella" / "1.opus"
MODELS = ROOT / "models"

CPU_LIMIT_S = 5
"""A case that computes for longer hangs."""

LIMIT_S = 60
"""So does one that takes longer by the clock; more, because the machine may be busy."""

MEMORY_BYTES = 512 * 1024 * 1024
"""What a case may take beyond what the process has at its start."""

CHUNK = 2000
"""Cases in one process."""

SHOWN_BYTES = 4096
"""Of a case that is a finding, this much is kept."""

MOST_CASE_BYTES = 1024 * 1024
WALL_S = datetime(2026, 11, 23, 8, 0, 0, tzinfo=UTC).timestamp()

Case = tuple[str, bytes]
"""The reader's name and its input."""


# --- cases ----------------------------------------------------------------------------------------

NUMBERS = (0, -1, 1e308, 1e-320, -0.0, 2**31, 2**63, 2**64, 10**400, 10**5000, 0.1)
WORDS = ("", "\0", "\ud800", "e" * 70_000, "../../etc/passwd", "NaN", "\u202e", "9" * 400, "-" * 9)
AWKWARD: tuple[Any, ...] = (*NUMBERS, *WORDS, None, True, [], {}, [[]], {"": {}}, float("nan"))
RAW = (b"", b"\0", b"\xff" * 8, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"{" * 2000, b"[" * 5000, b"\n")


def mutated(seeds: Sequence[bytes], random: Random) -> bytes:
    """One of the seeds with some of its bytes, or one of its JSON values, made awkward."""
    data = bytearray(random.choice(seeds))
    if data[:1] == b"{" and _one_in(2, random):
        with suppress(ValueError):
            return replaced(json.loads(data), random)
    for _ in range(random.choice((0, 1, 1, 2, 3, 8, 30))):
        place = random.randrange(len(data) + 1)
        end = min(len(data), place + random.choice((0, 1, 2, 4, 16, 300)))
        what = random.choice(("flip", "raw", "noise", "repeat", "cut"))
        if what == "flip" and data:
            data[min(place, len(data) - 1)] ^= 1 << random.randrange(8)
        elif what == "raw":
            data[place:end] = random.choice(RAW)
        elif what == "noise":
            data[place:end] = random.randbytes(end - place)
        elif what == "repeat":
            data[place:place] = data[place:end] * random.choice((1, 2, 50))
        else:
            del data[place : random.choice((end, len(data)))]
    return bytes(data[:MOST_CASE_BYTES])


def replaced(body: Any, random: Random) -> bytes:
    """The JSON text of a value with some of the values in it taken away or replaced."""
    for _ in range(random.choice((1, 1, 2, 4))):
        parent, key = body, None
        while isinstance(parent, dict | list) and parent:
            key = random.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
            if not isinstance(parent[key], dict | list) or _one_in(3, random):
                break
            parent = parent[key]
        if key is None or not isinstance(parent, dict | list) or not parent:
            continue
        if _one_in(5, random):
            del parent[key]
        elif isinstance(parent, dict) and _one_in(10, random):
            parent[random.choice(WORDS)] = parent.pop(key)
        else:
            # A copy: the next replacement may be inside it.
            parent[key] = copy.deepcopy(random.choice(AWKWARD))
    return _text(body)


def _one_in(many: int, random: Random) -> bool:
    return random.randrange(many) == 0


def _text(body: Any) -> bytes:
    sys.set_int_max_str_digits(0)  # 10**5000 is to be written; the readers have the usual limit
    try:
        return json.dumps(body).encode(errors="surrogatepass")
    finally:
        sys.set_int_max_str_digits(sys.int_info.default_max_str_digits)


def changed(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Mutants of real inputs."""
    return st.integers(0, 2**64 - 1).map(lambda seed: mutated(seeds, Random(seed)))  # noqa: S311


def worded(words: Sequence[str]) -> st.SearchStrategy[bytes]:
    """Texts made of a format's words and marks, and any text."""
    marks = (": ", "\n", "\n  ", "{", "}", "[", "]", ", ", "&a ", "*a", "- ", "'", '"', "|", "? ")
    made = st.lists(st.sampled_from([*words, *marks, "1e400", "9" * 400]), max_size=30).map("".join)
    return (made | st.text(max_size=60)).map(str.encode)


JSON = st.recursive(
    st.integers(0, len(AWKWARD) - 1).map(AWKWARD.__getitem__)
    | st.integers()
    | st.floats()
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)

SIGNALS = st.dictionaries(
    st.sampled_from(sorted({*READ_SIGNALS, *vss.SIGNALS})),
    JSON | st.fixed_dictionaries({"value": JSON, "time": st.just("2026-11-23T08:00:00Z") | JSON}),
    max_size=4,
).map(lambda signals: _text({"schema": 1, "signals": signals}))


# --- readers --------------------------------------------------------------------------------------


class Readers:
    """Everything that reads, each by its public function, in a folder of its own.

    Attributes:
        cases: strategies of inputs, by the reader's name.
        readers: what to call with an input, and the error that it may raise; it gives False for an
            input that it refuses without an error.
        weights: how many of a hundred cases are a reader's, by name.
    """

    def __init__(self, folder: Path) -> None:
        """Write what the readers need into `folder`."""
        self._folder = folder
        reference = codec.reference().encode()
        drive = b'{"at_s": 0, "signals": {"Vehicle.Speed": 0}}\n{"at_s": 9, "signals": {}}\n'
        self._limits = schema.Vehicle().signals
        self._prepare_store()
        self._prepare_models()
        self._journal = folder / "trip.json"
        words = [*reference.decode().replace(":", " ").split(), "null", "!!python/object:os.system"]
        sealed = self._profile.read_bytes()
        manifest = (MODELS / "encoder.json").read_bytes()
        heard = [topic for topic in TOPICS.values() if "whodrives" in topic.readers]
        self._names = [topic.name.replace("<VSS path>", "Vehicle.Speed") for topic in heard]
        vehicle = self._names.index("vehicle")
        golden = [
            bytes([number]) + path.read_bytes()
            for number, topic in enumerate(heard)
            for path in sorted(GOLDEN.glob(f"{topic.file}*.json"))
        ]
        numbered = st.tuples(st.integers(0, 255).map(lambda n: bytes([n])), JSON.map(_text))
        bus = (
            st.integers(0, 2**64 - 1).map(lambda seed: _mutated_message(golden, seed))
            | numbered.map(b"".join)
            | SIGNALS.map(lambda body: bytes([vehicle]) + body)
        )
        self.cases: Mapping[str, st.SearchStrategy[bytes]] = {
            "bus": bus,
            "seat adjuster": changed(_ADJUSTER) | JSON.map(_text),
            "configuration": changed([reference]) | worded(words),
            "preferences": worded([*self._limits, "1", "250"]),
            "recorded car": changed([drive]),
            "sound file": changed(_recordings()),
            "pipe": changed([b"RIFF", bytes(4000), bytes(range(256)) * 8]),
            "profile": changed([sealed]),
            "journal": changed([self._memory()]),
            "calibration": changed([manifest]),
            "fused calibration": changed([(MODELS / "second.json").read_bytes()]),
            "model": changed([(MODELS / "gate.json").read_bytes()]),
        }
        self.weights = {
            "bus": 49,
            "seat adjuster": 5,
            "configuration": 4,
            "preferences": 6,
            "recorded car": 1,  # an hour is said again every half second: a second of CPU
            "sound file": 15,
            "pipe": 4,
            "profile": 5,
            "journal": 5,
            "calibration": 4,
            "fused calibration": 4,
            "model": 2,
        }
        self.readers: Mapping[str, tuple[Callable[[bytes], object], type[WhodrivesError]]] = {
            "bus": (self._bus, PayloadError),
            "seat adjuster": (self._adjuster, PayloadError),
            "configuration": (lambda d: codec.parse(_decoded(d), "c.yaml"), ConfigError),
            "preferences": (
                lambda d: codec.parse_preferences(_decoded(d), "p.yaml", self._limits),
                ProfileError,
            ),
            "recorded car": (
                lambda d: recorded_vehicle(self._put("car.jsonl", d), "car"),
                PayloadError,
            ),
            "sound file": (self._sound, SourceError),
            "pipe": (lambda d: _drain(read_pipe(io.BytesIO(d), 16_000, 1)), SourceError),
            # It names a file that it cannot use, and raises only for the whole store.
            "profile": (self._load_profile, ProfileError),
            # No method of it raises.
            "journal": (self._recall, NeverError),
            "calibration": (self._calibration, ModelError),
            "fused calibration": (self._fused_calibration, ModelError),
            "model": (self._model, ModelError),
        }

    def any_case(self) -> st.SearchStrategy[Case]:
        """A case of some reader, by the readers' weights."""
        names = [name for name, weight in self.weights.items() for _ in range(weight)]

        def of(name: str) -> st.SearchStrategy[Case]:
            return st.tuples(st.just(name), self.cases[name])

        return st.sampled_from(names).flatmap(of)

    def read(self, case: Case) -> str:
        """Give a case to its reader: "accepted" or "refused"; what is raised is a finding."""
        name, data = case
        call, allowed = self.readers[name]
        try:
            refused = call(data) is False
        except allowed:
            refused = True
        return "refused" if refused else "accepted"

    def _put(self, name: str, data: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(data)
        return path

    def _bus(self, data: bytes) -> None:
        # A command is obeyed once: the decoders are new, else all but the first would be repeats.
        secure, name = bool(data[0] & 128), self._names[(data[0] & 127) % len(self._names)]
        Decoder("car", secure=secure).decode(f"whodrives/car/{name}", data[1:], 500.0, WALL_S)

    def _adjuster(self, data: bytes) -> None:
        adjuster = SeatAdjuster(vss.Range(0, 250))
        for topic in adjuster.topics:
            with suppress(PayloadError):
                adjuster.decode(topic, data, 500.0)

    def _sound(self, data: bytes) -> None:
        # libsndfile goes by the first bytes, not by the name.
        _drain(read_file(self._put("recording", data)))

    def _prepare_store(self) -> None:
        store = ProfileStore(
            self._folder / "profiles",
            self._folder / "profile-key",
            "ab" * 32,
            self._limits,
            vehicle="car",
        )
        voice = np.eye(192, dtype=np.float32)[:3]
        driver = store.save("Anna", voice, 20.0, {vss.SEAT_POSITION: 120.0}).profile.id
        self._store, self._profile = store, self._folder / "profiles" / f"{driver}.profile"

    def _load_profile(self, data: bytes) -> bool:
        self._profile.write_bytes(data)
        return bool(self._store.load().profiles)

    def _memory(self) -> bytes:
        """A journal of this start of the machine, with everything in it."""
        name, driver, opened_s = str(UUID(int=1)), "d-7f3a0000", clock.now_s()
        wanted = {vss.SEAT_POSITION: 120.0}
        request = Request(name, driver, wanted, Delivery.REJECTED, "", opened_s)
        outbox = OutboxSnapshot(("mirrors",), opened_s, requests=(request,), touched=("seat",))
        memory = TripSnapshot(
            opened_s, settled=True, driver=driver, since_s=opened_s, outbox=outbox
        )
        self._open_journal().keep(memory, opened_s)
        return self._journal.read_bytes()

    def _recall(self, data: bytes) -> bool:
        self._journal.write_bytes(data)
        self._journal.chmod(0o600)
        return self._open_journal().recall()[0] is not None

    def _open_journal(self) -> Journal:
        return Journal(self._journal, lambda: b"k" * 32)

    def _prepare_models(self) -> None:
        (self._folder / "models").mkdir()
        for name in ("encoder.onnx", "gate.onnx"):
            (self._folder / "models" / name).symlink_to(MODELS / name)

    def _calibration(self, data: bytes) -> None:
        self._put("models/encoder.json", data)
        load_calibration(self._folder / "models", 1, pinned=False)

    def _fused_calibration(self, data: bytes) -> None:
        self._put("models/encoder.json", (MODELS / "encoder.json").read_bytes())
        self._put("models/second.json", data)
        load_calibration(self._folder / "models", pinned=False)

    def _model(self, data: bytes) -> None:
        self._put("models/gate.json", data)
        load_vad(self._folder / "models", pinned=False)


def _mutated_message(golden: Sequence[bytes], seed: int) -> bytes:
    """A topic's number, with the bit for TLS or without, and a mutant of one of its messages."""
    random = Random(seed)  # noqa: S311
    chosen = random.choice(golden)
    return bytes([chosen[0] | random.choice((0, 128))]) + mutated([chosen[1:]], random)


class NeverError(WhodrivesError):
    """Raised by nobody."""


_ADJUSTER = (
    b'{"requestId": "1", "result": {"status": 0, "message": "set"}}',
    b'{"position": 480}',
    json.dumps({"requestId": str(Apply), "result": {"status": -1}}).encode(),
)


def _decoded(data: bytes) -> str:
    return data.decode(errors="replace")


def _drain(blocks: Any) -> None:
    for _ in blocks:
        pass


def _recordings() -> list[bytes]:
    """A third of a second of speech in each format that drivers bring."""
    samples, rate_hz = soundfile.read(VOICE, dtype="float32")
    samples = samples[rate_hz : rate_hz + rate_hz // 3]
    found = []
    for form, subtype in (
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("WAV", "IMA_ADPCM"),
        ("FLAC", "PCM_16"),
        ("OGG", "OPUS"),
        ("OGG", "VORBIS"),
        ("MP3", "MPEG_LAYER_III"),
        ("AIFF", "PCM_16"),
        ("CAF", "ALAC_16"),
        ("W64", "PCM_24"),
    ):
        file = io.BytesIO()
        rate = rate_hz if subtype == "OPUS" else SAMPLE_RATE_HZ
        soundfile.write(file, samples, rate, format=form, subtype=subtype)
        found.append(file.getvalue())
    return found


# --- processes ------------------------------------------------------------------------------------

Finding = dict[str, Any]


def run(cases: int, first_chunk: int, each: Callable[[Counter[str], list[Finding]], None]) -> None:
    """Run `cases` cases; `each` is called after each chunk with its counts and its findings."""
    done, chunk = 0, first_chunk
    while done < cases:
        counts, findings = _chunk(chunk, min(CHUNK, cases - done))
        done += counts.total() or CHUNK
        chunk += 1
        each(counts, findings)


def _chunk(seed: int, cases: int) -> tuple[Counter[str], list[Finding]]:
    """One process's cases; what ends the process is the finding of the case that it was at."""
    place = mmap.mmap(-1, MOST_CASE_BYTES + 4096)
    fork = multiprocessing.get_context("fork")
    told, tell = fork.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        child = fork.Process(target=_run_chunk, args=(seed, cases, Path(folder), place, tell))
        child.start()
        tell.close()
        counts: Counter[str] = Counter()
        findings: list[Finding] = []
        with suppress(EOFError):
            counts, findings = told.recv()
        child.join()
    if child.exitcode:
        why = signal.Signals(-child.exitcode).name if child.exitcode < 0 else "ended"
        why = {
            "SIGALRM": f"took more than {LIMIT_S} s",
            "SIGPROF": f"took more than {CPU_LIMIT_S} s of CPU",
        }.get(why, why)
        name, data = _noted(place)
        if not name:
            raise RuntimeError(f"chunk {seed} ended before its first case; see above")
        findings.append(_finding(seed, (name, data), why))
        counts[f"{name}: ended the process"] += 1
    place.close()
    return counts, findings


def _run_chunk(seed: int, cases: int, folder: Path, place: mmap.mmap, tell: Any) -> None:
    logging.disable()
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)  # it ends the process, in whatever library it is
    readers = Readers(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # libraries grumble there
    _bound_memory()
    counts: Counter[str] = Counter()
    findings: list[Finding] = []
    seen: set[str] = set()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(readers.any_case())
    def one(case: Case) -> None:
        _note(place, case)
        _limit(CPU_LIMIT_S, LIMIT_S)
        end = "found"
        try:
            end = readers.read(case)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is a finding)
            _limit(0, 0)
            where = traceback.extract_tb(error.__traceback__)[-1]
            why = f"{type(error).__name__}: {str(error)[:200]} at {where.name}:{where.lineno}"
            if (kind := f"{case[0]} {type(error).__name__} {where.name}") not in seen:
                seen.add(kind)
                findings.append(_finding(seed, case, why))
        finally:
            _limit(0, 0)
        counts[f"{case[0]}: {end}"] += 1

    one()
    tell.send((counts, findings))
    tell.close()


def _limit(cpu_s: float, wall_s: float) -> None:
    """Let the process be ended after so much CPU or time, by the system itself; 0 for never."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    signal.setitimer(signal.ITIMER_REAL, wall_s)


def _bound_memory() -> None:
    """Let the process grow by MEMORY_BYTES and no more: then allocations fail."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _note(place: mmap.mmap, case: Case) -> None:
    """Leave the case where the parent finds it if this is our last."""
    head = f"{case[0]}\n{len(case[1])}\n".encode()
    place[: len(head) + len(case[1])] = head + case[1]


def _noted(place: mmap.mmap) -> Case:
    place.seek(0)
    name, size = place.readline().decode().strip(), int(place.readline() or b"0")
    return name, place.read(size)


def _finding(seed: int, case: Case, why: str) -> Finding:
    shown = case[1][:SHOWN_BYTES].hex()
    return {"reader": case[0], "seed": seed, "why": why, "bytes": len(case[1]), "input": shown}


# --- the program ----------------------------------------------------------------------------------


def main() -> int:
    """Run; returns 1 if something was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--chunk", type=int, default=0, help="number of the first chunk, its seed")
    parser.add_argument("--out", type=Path, help="JSON of the results, written as it goes")
    options = parser.parse_args()
    began = time.monotonic()
    total: Counter[str] = Counter()
    found: list[Finding] = []

    def each(counts: Counter[str], findings: list[Finding]) -> None:
        total.update(counts)
        for finding in findings:
            print(f"{finding['reader']}: {finding['why']} (chunk {finding['seed']})", flush=True)
        found.extend(findings)
        result = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": platform.machine(),
            "asked": options.cases,
            "cases": total.total(),
            "first_chunk": options.chunk,
            "seconds": round(time.monotonic() - began),
            "by_reader": dict(sorted(total.items())),
            "findings": found[:100],
        }
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            fresh = options.out.with_suffix(".new")
            fresh.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            fresh.replace(options.out)

    run(options.cases, options.chunk, each)
    print(f"{total.total()} cases, {len(found)} findings, {time.monotonic() - began:.0f} s")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
