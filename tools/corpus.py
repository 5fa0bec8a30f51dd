"""What the measuring tools share: a corpus's catalogue, and a recording as the daemon hears it.

A catalogue is `manifest.tsv` in the corpus's folder, a row for each recording, with at least the
columns role, corpus, group (the person) and path (relative to the folder).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from whodrives.domain import BLOCK_S, BLOCK_SAMPLES, AudioBlock, Floats, VoiceActivity
from whodrives.speech import Heard, SpeechGate


def rows(corpus: Path, role: str) -> list[dict[str, str]]:
    """The catalogue's rows of one role, in its order."""
    with (corpus / "manifest.tsv").open(encoding="utf-8", newline="") as table:
        return [row for row in csv.DictReader(table, delimiter="\t") if row["role"] == role]


def blocks(samples: Floats) -> Iterator[AudioBlock]:
    """Cut samples (n,) into blocks; an incomplete last one is left out."""
    for end in range(BLOCK_SAMPLES, len(samples) + 1, BLOCK_SAMPLES):
        yield AudioBlock(end / BLOCK_SAMPLES * BLOCK_S, samples[end - BLOCK_SAMPLES : end])


def pieces(activity: VoiceActivity, gate: SpeechGate, samples: Floats) -> list[Heard]:
    """All that a new gate hears in samples (n,), to their end."""
    activity.reset()
    sound = list(blocks(samples))
    probabilities = activity.probabilities([block.samples for block in sound])
    heard = [p for each in zip(sound, probabilities, strict=True) for p in gate.step(*each)]
    return heard + gate.flush(len(samples) / BLOCK_SAMPLES * BLOCK_S)
