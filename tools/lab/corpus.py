"""Where speech comes from: a catalogue, a folder per speaker, or a list of trials.

Owns the formats and which recordings enrol a person and which test. Knows nothing of what is
measured.
"""

from __future__ import annotations

import csv
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.lab.scene import active_frames
from whodrives.audio.blocks import BLOCK_SAMPLES, SAMPLE_RATE_HZ, Floats
from whodrives.audio.files import read_file
from whodrives.errors import WhodrivesError

ENROL_S = 10.0
"""Speech in an enrolment, at least, by level; whole recordings, so most become 11 to 14 s."""

TEST_BLOCKS = (190, 207)
"""A test sound lasts 5.7 to 6.2 s: about one utterance, which is cut after 6 s of speech."""

SHORT_BLOCKS = 60
"""Somebody with little material has one test sound of at least 1.8 s."""

EDGE_BLOCKS = 4
"""Blocks kept before and after the speech of a recording: joined ones sound like one utterance."""

LONG_BLOCKS = 400
PIECE_BLOCKS = 200
"""A recording of more than 12 s is cut into pieces of 6 s."""

ENDINGS = {".wav", ".flac", ".ogg", ".opus", ".mp3"}
ADULT = 18


class CorpusError(WhodrivesError):
    """A corpus cannot be used; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who speaks in `files`; `age` in years where it is known."""

    corpus: str
    name: str
    age: float | None
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Material:
    """A person's speech: joined recordings to enrol from, and test sounds of other recordings."""

    enrolment: Floats
    tests: tuple[Floats, ...]


@dataclass(frozen=True, slots=True)
class ListedTrial:
    """A line of a trial list: whether two recordings are of one person."""

    same: bool
    enrolment: Path
    test: Path


def read_people(source: Path, role: str) -> list[Person]:
    """Everybody in a catalogue (a folder with manifest.tsv) or in a folder per speaker.

    Raises:
        CorpusError: there is nobody in it.
    """
    catalogue = source / "manifest.tsv"
    people = _catalogued(catalogue, role) if catalogue.exists() else _folders(source)
    if not people:
        raise CorpusError(
            f"{source}: neither a manifest.tsv with the role {role!r} nor a folder per speaker;"
            " give a folder that has one of them, or a trial list"
        )
    return people


def _catalogued(catalogue: Path, role: str) -> list[Person]:
    """Rows of one role, by the person they are of (`group`), whatever names that person has."""
    files: dict[tuple[str, str], list[Path]] = defaultdict(list)
    ages: dict[tuple[str, str], float] = {}
    with catalogue.open(encoding="utf-8") as table:
        for row in csv.DictReader(table, delimiter="\t"):
            missing = {"role", "corpus", "group", "path"} - row.keys()
            if missing:
                raise CorpusError(f"{catalogue}: lacks the columns {sorted(missing)}; add them")
            if row["role"] != role:
                continue
            key = row["corpus"], row["group"]
            files[key].append(catalogue.parent / row["path"])
            if row.get("age"):
                ages[key] = float(row["age"])
    return [
        Person(corpus, name, ages.get((corpus, name)), tuple(paths))
        for (corpus, name), paths in sorted(files.items())
    ]


def _folders(source: Path) -> list[Person]:
    found = []
    for folder in sorted(path for path in source.glob("*") if path.is_dir()):
        files = tuple(sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS))
        if files:
            found.append(Person(source.name, folder.name, None, files))
    return found


def read_trials(path: Path, root: Path | None = None) -> list[ListedTrial]:
    """A trial list in VoxCeleb's format, `1 a.wav b.wav`; paths are relative to `root`.

    Without a root they are relative to the list's own folder.

    Raises:
        CorpusError: a line is something else; the text has its number.
    """
    base = root or path.parent
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or fields[0] not in {"0", "1"}:  # noqa: PLR2004 (label and two files)
            raise CorpusError(f"{path}:{number}: want `1 a.wav b.wav` (or 0), got {line!r}")
        found.append(ListedTrial(fields[0] == "1", base / fields[1], base / fields[2]))
    if not {True, False} <= {trial.same for trial in found}:
        raise CorpusError(f"{path}: needs trials with 1 and trials with 0")
    return found


def read_sound(path: Path) -> Floats:
    """Samples (n,) at 16 kHz as the daemon hears the file; raises SourceError if it is no sound."""
    return np.concatenate([block.samples for block in read_file(path)])


def material(person: Person, tests: int) -> Material:
    """Divide a person's recordings, in an order that a fixed seed shuffles: enrolment, then tests.

    At most `tests` test sounds; what is left over is not used.
    """
    shuffled = np.random.default_rng(zlib.crc32(person.name.encode())).permutation(
        len(person.files)
    )
    pieces = [piece for i in shuffled for piece in _pieces(read_sound(person.files[i]))]
    used, enrolment_s = 0, 0.0
    while used < len(pieces) and enrolment_s < ENROL_S:
        enrolment_s += speech_s(pieces[used])
        used += 1
    enrolment = np.concatenate(pieces[:used]) if used else np.zeros(0, np.float32)
    left = [trimmed(piece) for piece in pieces[used:]]
    made = tuple(joined(left, TEST_BLOCKS, tests))
    if not made and sum(map(len, left)) >= SHORT_BLOCKS * BLOCK_SAMPLES:
        made = (np.concatenate(left),)
    return Material(enrolment, made)


def joined(pieces: Iterable[Floats], blocks: tuple[int, int], most: int) -> Iterator[Floats]:
    """Join trimmed pieces to at most so many sounds.

    Each has at least `blocks[0]` blocks; what is beyond `blocks[1]` is cut off.
    """
    least, longest = (count * BLOCK_SAMPLES for count in blocks)
    waiting: list[Floats] = []
    made = 0
    for piece in pieces:
        waiting.append(piece)
        if sum(map(len, waiting)) >= least and made < most:
            yield np.concatenate(waiting)[:longest]
            waiting, made = [], made + 1


def _pieces(sound: Floats) -> list[Floats]:
    if len(sound) <= LONG_BLOCKS * BLOCK_SAMPLES:
        return [sound]
    return np.split(
        sound, range(PIECE_BLOCKS * BLOCK_SAMPLES, len(sound), PIECE_BLOCKS * BLOCK_SAMPLES)
    )


def speech_s(sound: Floats) -> float:
    """Seconds of speech in a clean recording, by level alone."""
    return float(np.count_nonzero(active_frames(sound)) * BLOCK_SAMPLES / SAMPLE_RATE_HZ)


def trimmed(sound: Floats) -> Floats:
    """Cut the silence at both ends of a clean recording, but for EDGE_BLOCKS."""
    active = np.flatnonzero(active_frames(sound))
    if not len(active):
        return sound
    first, last = max(0, active[0] - EDGE_BLOCKS), active[-1] + 1 + EDGE_BLOCKS
    return sound[first * BLOCK_SAMPLES : last * BLOCK_SAMPLES]


def rows(corpus: Path, role: str) -> list[dict[str, str]]:
    """The catalogue's rows of one role, in its order; a catalogue is `corpus`/manifest.tsv."""
    with (corpus / "manifest.tsv").open(encoding="utf-8", newline="") as table:
        return [row for row in csv.DictReader(table, delimiter="\t") if row["role"] == role]
