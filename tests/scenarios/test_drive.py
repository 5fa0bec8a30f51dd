"""The demo's drive, replayed: the decisions it must lead to, and that they never vary."""

import io
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from tests.scenarios.stage import MODELS, ROOT, Stage, applied
from tools.lab.corpus import read_sound
from whodrives.adaptation.types import TripSamples, UnknownSpeech
from whodrives.audio.blocks import AudioBlock
from whodrives.audio.files import read_file
from whodrives.audio.framing import paced
from whodrives.audio.pipe import read_pipe
from whodrives.cli.commands import recorded_vehicle
from whodrives.cli.demo import Drive, drivers_of_trips, load_drive
from whodrives.cli.demo_screen import LISTEN_AFTER_S
from whodrives.core.events import Event
from whodrives.service.replay import replay
from whodrives.trip.types import Apply
from whodrives.voice.profile import Household, Profile
from whodrives.voice.types import Recognition

pytestmark = pytest.mark.much_speech

GOLDEN = ROOT / "tests/golden/drive.json"


@pytest.fixture(scope="module")
def drive() -> Drive:
    """The script and the sound of the demo."""
    return load_drive(ROOT / "profiles/demo")


@pytest.fixture(scope="module")
def household(stage: Stage, drive: Drive) -> list[Profile]:
    """The demo's household; ids are the names, so that the golden file can be read."""
    profiles = []
    for member in drive.script["household"]:
        folder = drive.folder / "voices" / member["voice"]
        sounds = [read_sound(folder / file) for file in member["enrol"]]
        profile = stage.enrol(member["name"], sounds)
        profiles.append(replace(profile, preferences=member["preferences"]))
    return profiles


def exactly(event: Event) -> tuple[str, list[bytes]]:
    """An event as what is equal only for equal ones: arrays do not compare as a whole."""
    samples = event.samples if isinstance(event, TripSamples | UnknownSpeech) else ()
    return repr(event), [sample.voice.tobytes() for sample in samples]


def decisions(events: list[Event]) -> list[dict[str, object]]:
    """What was decided, when, about whom: the golden file's terms.

    No ECU answers, so each request is repeated under its id; that is no new decision.
    """
    found: list[dict[str, object]] = []
    asked_for: set[str] = set()
    for event in events:
        if isinstance(event, Recognition):
            verdict = event.verdict
            heard = {"outcome": verdict.outcome.value, "driver": verdict.driver}
            found.append({"at_s": round(event.at_s, 2), **heard})
        elif isinstance(event, Apply) and event.request not in asked_for:
            asked_for.add(event.request)
            asked = {"apply": event.driver, "signals": dict(event.signals)}
            found.append({"at_s": round(event.at_s, 2), **asked})
    return found


def play(
    drive: Drive, household: list[Profile], stage: Stage, blocks: Iterable[AudioBlock]
) -> list[Event]:
    """Everything that follows from the drive, wherever its blocks come from."""
    news = recorded_vehicle(drive.vehicle, "demo")
    return list(replay(stage.recognizer(), Household(0.0, tuple(household)), blocks, news))


@pytest.fixture(scope="module")
def events(stage: Stage, drive: Drive, household: list[Profile]) -> list[Event]:
    """Everything that follows from the drive, read from its file."""
    return play(drive, household, stage, read_file(drive.sound))


def test_the_drive_leads_to_these_decisions(
    events: list[Event], pytestconfig: pytest.Config
) -> None:
    """Who was heard when, and what the car was asked for, is as it was agreed."""
    if pytestconfig.getoption("--update-golden"):
        GOLDEN.write_text(json.dumps(decisions(events), indent=1, ensure_ascii=False) + "\n")
    assert decisions(events) == json.loads(GOLDEN.read_text())


def test_each_trip_asks_once_and_for_its_driver(events: list[Event], drive: Drive) -> None:
    """Asha's seat, then Emma's; guest, passenger and radio cause nothing."""
    assert applied(events) == drivers_of_trips(drive) == ["Asha", "Emma"]


def test_everybody_who_speaks_is_who_they_are(events: list[Event], drive: Drive) -> None:
    """Every enrolled voice is known by its name, every other voice as nobody."""
    enrolled = [member["name"] for member in drive.script["household"]]
    for sentence in drive.sentences():
        during = [
            event.verdict.driver
            for event in events
            if isinstance(event, Recognition)
            and sentence.start_s < event.at_s < sentence.end_s + LISTEN_AFTER_S
        ]
        assert during == [sentence.who if sentence.who in enrolled else None], sentence


def test_pipe_file_and_real_time_hear_the_same(
    events: list[Event], drive: Drive, household: list[Profile], stage: Stage
) -> None:
    """A file, the same sound through a pipe, and both in real time lead to equal events."""
    sound, _ = soundfile.read(drive.sound, dtype="int16")
    piped = play(drive, household, stage, read_pipe(io.BytesIO(sound.tobytes())))
    assert [*map(exactly, piped)] == [*map(exactly, events)]

    now_s = [0.0]

    def sleep(seconds: float) -> None:
        now_s[0] += seconds

    in_time = play(drive, household, stage, paced(read_file(drive.sound), lambda: now_s[0], sleep))
    assert decisions(in_time) == decisions(events)


def test_replay_prints_the_same_bytes_twice(drive: Drive, tmp_path: Path) -> None:
    """Two runs of the command line over the drive differ in nothing."""
    command = [sys.executable, "-m", "whodrives", "--config", str(settings(tmp_path)), "replay"]
    arguments = [str(drive.sound), "--vehicle", str(drive.vehicle)]
    first, second = (
        subprocess.run([*command, *arguments], capture_output=True, check=True).stdout
        for _ in range(2)
    )
    assert first == second
    assert first.count(b"recognition") >= 9


def test_replay_of_a_pipe_prints_what_the_file_gives(drive: Drive, tmp_path: Path) -> None:
    """The same samples as raw PCM on standard input lead to the same bytes."""
    command = [sys.executable, "-m", "whodrives", "--config", str(settings(tmp_path)), "replay"]
    sound, _ = soundfile.read(drive.sound, dtype="int16")
    piped = subprocess.run([*command, "-"], input=sound.tobytes(), capture_output=True, check=True)
    filed = subprocess.run([*command, str(drive.sound)], capture_output=True, check=True)
    assert piped.stdout == filed.stdout


def settings(folder: Path) -> Path:
    """A configuration with nobody enrolled and this checkout's models."""
    path = folder / "whodrives.yaml"
    path.write_text(
        f"profiles: {{directory: profiles, key_file: key}}\nmodels: {{directory: {MODELS}}}\n"
    )
    return path
