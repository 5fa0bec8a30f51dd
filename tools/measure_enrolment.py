"""Measure whom enrolment refuses: good recordings, telephone recordings, two people in one.

    python tools/measure_enrolment.py CORPUS --role train --people 100

CORPUS holds manifest.tsv with the columns role, corpus, group and path, and the 16 kHz mono
recordings it names. Of each person, recordings are taken until 20 s of speech have been heard;
people with less than the least that enrolment wants are left out. People are spread evenly over
the manifest, and the second voice is that of the next one in it.

"telephone" brings the recordings to 8 kHz, 16 bit, and back. "half another" and "fifth another"
give the second person so much of the time.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soxr
from corpus import rows

from whodrives.capture import read_file
from whodrives.domain import BLOCK_S, BLOCK_SAMPLES, SAMPLE_RATE_HZ, AudioBlock, Floats
from whodrives.enrolment import ENOUGH_S, Enrolment
from whodrives.inference import OnnxEncoder, load_encoder, load_gate

MODELS = Path(__file__).parent.parent / "models"


def main() -> None:
    """Print a line per condition: how many were tried, and how many refused for which reason."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--role", default="train")
    parser.add_argument("--people", type=int, default=100)
    options = parser.parse_args()
    people = spread(recordings(options.corpus, options.role), options.people)
    encoder = load_encoder(MODELS)
    others = [*people[1:], people[0]]
    conditions = {
        "clean": [heard(encoder, sounds(person)) for person in people],
        "telephone": [heard(encoder, map(over_telephone, sounds(person))) for person in people],
        "half another": [mixed(encoder, *pair, 0.5) for pair in zip(people, others, strict=True)],
        "fifth another": [mixed(encoder, *pair, 0.2) for pair in zip(people, others, strict=True)],
    }
    for name, found in conditions.items():
        tried = [codes for codes in found if "too_short" not in codes]
        refused = sum(bool(codes) for codes in tried)
        reasons = Counter(code for codes in tried for code in codes)
        said = ", ".join(f"{code} {count}" for code, count in reasons.most_common()) or "-"
        print(f"{name:14} {len(tried):4} tried {refused:4} refused: {said}")


def recordings(corpus: Path, role: str) -> list[list[Path]]:
    """The recordings of each person of the role."""
    people: dict[str, list[Path]] = {}
    for row in rows(corpus, role):
        people.setdefault(row["group"], []).append(corpus / row["path"])
    return [people[group] for group in sorted(people)]


def spread(people: Sequence[list[Path]], count: int) -> list[list[Path]]:
    """`count` of the people, evenly spread."""
    places = np.linspace(0, len(people) - 1, min(count, len(people))).round().astype(int)
    return [people[place] for place in places]


def sounds(person: Sequence[Path]) -> Iterator[Floats]:
    """The person's recordings, one by one, float32 (n,) at 16 kHz."""
    for path in person:
        yield np.concatenate([block.samples for block in read_file(path)])


def over_telephone(sound: Floats) -> Floats:
    """The sound after a line of 8 kHz and 16 bit."""
    narrow = soxr.resample(sound, SAMPLE_RATE_HZ, SAMPLE_RATE_HZ // 2)
    wide = soxr.resample(narrow, SAMPLE_RATE_HZ // 2, SAMPLE_RATE_HZ)
    line: Floats = (np.round(np.clip(wide, -1, 1) * 32767) / 32768).astype(np.float32)
    return line


def heard(encoder: OnnxEncoder, recorded: Iterator[Floats]) -> set[str]:
    """The codes of what is wrong with a person's recordings."""
    enrolment = Enrolment(load_gate(MODELS), encoder)
    listen(enrolment, recorded, ENOUGH_S)
    return {problem.code for problem in enrolment.problems()}


def mixed(encoder: OnnxEncoder, one: list[Path], other: list[Path], share: float) -> set[str]:
    """The same for two people, the other with `share` of the time."""
    enrolment = Enrolment(load_gate(MODELS), encoder)
    listen(enrolment, sounds(one), (1 - share) * ENOUGH_S)
    listen(enrolment, sounds(other), ENOUGH_S)
    return {problem.code for problem in enrolment.problems()}


def listen(enrolment: Enrolment, recorded: Iterator[Floats], until_s: float) -> None:
    """Let the enrolment hear recordings until it has so much speech in all."""
    at_s = 0.0
    for sound in recorded:
        padded = np.pad(sound, (0, -len(sound) % BLOCK_SAMPLES))
        for samples in padded.reshape(-1, BLOCK_SAMPLES):
            at_s += BLOCK_S
            if enrolment.step(AudioBlock(at_s, samples)).speech_s >= until_s:
                enrolment.pause(at_s)
                return
        enrolment.pause(at_s)


if __name__ == "__main__":
    main()
