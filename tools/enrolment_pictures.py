"""Draw the pictures of docs/enrolment.md: what the terminal shows, of real enrolments.

    python tools/enrolment_pictures.py

The voices are the demo's. Writes docs/enrolment-meter.svg (somebody speaks, well and then too
loud) and docs/enrolment-alike.svg (a household, and one person in it twice).
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console

from tools.lab.front_end import blocks
from whodrives.audio.blocks import Floats
from whodrives.audio.files import read_file
from whodrives.cli.enrol import enrol_files, meter, similarity_table
from whodrives.config.schema import Config, ModelFiles, ProfileFiles
from whodrives.enrolment.recording import Enrolment, Progress
from whodrives.models.encoder import load_encoder
from whodrives.models.vad import load_vad
from whodrives.service.wiring import open_store

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "models"
VOICES = ROOT / "profiles/demo/voices"
LOUD_DBFS = -35.0
HOUSEHOLD = {
    "Asha": ("hf_alpha", (1, 2, 3)),
    "Tom": ("bm_george", (1, 2, 3)),
    "Lily": ("bf_lily", (1, 2, 3)),
    "Tommy": ("bm_george", (4, 5)),
}


def main() -> None:
    """Draw both."""
    console = _console()
    moments = list(_moments())
    console.print("[bold]$[/] whodrives enrol Tom\n")
    for said, moment in moments:
        console.print(f"[dim]{said}[/]")
        console.print(meter(moment))
        console.print()
    console.save_svg(str(ROOT / "docs/enrolment-meter.svg"), title="whodrives enrol")
    with tempfile.TemporaryDirectory() as folder:
        settings = Config(
            profiles=ProfileFiles(f"{folder}/profiles", f"{folder}/key"),
            models=ModelFiles(str(MODELS)),
        )
        store = open_store(settings)
        encoder = load_encoder(MODELS)
        for name, (voice, numbers) in HOUSEHOLD.items():
            files = [VOICES / voice / f"{number}.opus" for number in numbers]
            enrolled = enrol_files(Enrolment(load_vad(MODELS), encoder), files)
            store.save(name, enrolled.embeddings, enrolled.speech_s)
        console = _console()
        console.print("[bold]$[/] whodrives drivers alike\n")
        console.print(similarity_table(store.load().profiles, settings))
    console.save_svg(str(ROOT / "docs/enrolment-alike.svg"), title="whodrives drivers alike")


def _console() -> Console:
    return Console(record=True, width=90, file=io.StringIO(), force_terminal=True)


def _moments() -> Iterator[tuple[str, Progress]]:
    """Moments of an enrolment, and what happens just then."""
    enrolment = Enrolment(load_vad(MODELS), load_encoder(MODELS))
    at_s = 0.0
    scenes = (
        ("Speaking well:", "bm_george", (1, 2), 1.0),
        ("The gain is too high:", "bm_george", (3,), 20.0),
        ("Somebody else answers:", "hf_alpha", (1,), 1.0),
    )
    for said, voice, numbers, gain in scenes:
        shown = None
        sound = np.clip(gain * _sound(voice, numbers), -1, 1)
        for block in blocks(sound.astype(np.float32)):
            moment = enrolment.step(type(block)(at_s + block.at_s, block.samples))
            wanted = bool(moment.problems) or (gain == 1.0 and voice == "bm_george")
            if moment.level_dbfs > LOUD_DBFS and wanted:
                shown = moment
        at_s += len(sound) / 16_000
        if shown:
            yield said, shown


def _sound(voice: str, numbers: tuple[int, ...]) -> Floats:
    parts = []
    for number in numbers:
        path = VOICES / voice / f"{number}.opus"
        parts += [np.concatenate([block.samples for block in read_file(path)])]
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
