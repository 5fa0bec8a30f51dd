"""A stage for stories: real voices, the real gate, encoder and recognizer, and no clock."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from whodrives.audio.blocks import BLOCK_S, BLOCK_SAMPLES, AudioBlock
from whodrives.core.engine import Recognizer
from whodrives.core.events import Event, Input
from whodrives.enrolment.recording import Enrolment
from whodrives.models.calibration import load_calibration
from whodrives.models.encoder import load_encoder
from whodrives.models.vad import load_vad
from whodrives.service.replay import replay
from whodrives.trip.types import Apply
from whodrives.vehicle.state import Reading, VehicleReport, VehicleState
from whodrives.voice.decision import Policy
from whodrives.voice.profile import Household, Profile
from whodrives.voice.types import Encoder, Recognition, Verdict

ROOT = Path(__file__).parent.parent.parent
MODELS = ROOT / "models"

Sound: TypeAlias = NDArray[np.float32]
Prompts: TypeAlias = Callable[..., list[Sound]]

STANDING = {
    "speed_kmh": 0.0,
    "in_park": True,
    "parking_brake": True,
    "door_open": False,
    "seat_occupied": True,
    "ignition_on": True,
}
SEAT = "Vehicle.Cabin.Seat.Row1.DriverSide.Position"
MIRROR = "Vehicle.Body.Mirrors.DriverSide.Tilt"


@dataclass(frozen=True)
class Stage:
    """The models, and what a test does with them."""

    encoder: Encoder

    def enrol(self, driver: str, sounds: Iterable[Sound], preferred: float = 100) -> Profile:
        """Enrol one driver from recordings, as the command line does."""
        enrolment = Enrolment(load_vad(MODELS), self.encoder)
        at_s = 0.0
        for sound in sounds:
            for block in blocks(sound, at_s):
                enrolment.step(block)
                at_s = block.at_s
            enrolment.pause(at_s)
        enrolled = enrolment.finish(at_s)
        preferences = {SEAT: preferred, MIRROR: preferred / 10}
        fingerprint = self.encoder.fingerprint
        return Profile(driver, enrolled.embeddings, fingerprint, enrolled.speech_s, preferences)

    def play(
        self, household: Sequence[Profile], sound: Sound, news: Sequence[Input] = ()
    ) -> list[Event]:
        """All events of a recording, heard by this household's car."""
        house = Household(0.0, tuple(household))
        return list(replay(self.recognizer(), house, blocks(sound), news))

    def recognizer(self) -> Recognizer:
        """A fresh recognizer with the shipped models and calibration."""
        policy = Policy(load_calibration(MODELS), "1/100")
        return Recognizer(load_vad(MODELS), self.encoder, policy)

    def verdicts(self, household: Sequence[Profile], sound: Sound) -> list[Verdict]:
        """What was concluded about each utterance of a recording."""
        return verdicts(self.play(household, sound))


def blocks(sound: Sound, start_s: float = 0.0) -> Iterable[AudioBlock]:
    """The sound in blocks, the last one filled up with zeros."""
    padded = np.pad(sound, (0, -len(sound) % BLOCK_SAMPLES))
    for number, samples in enumerate(padded.reshape(-1, BLOCK_SAMPLES), 1):
        yield AudioBlock(start_s + number * BLOCK_S, samples)


def car(
    changes: Mapping[float, Mapping[str, float | bool | str | None]], until_s: float
) -> list[VehicleReport]:
    """What a car reports twice a second: it stands, ready to go, but for the changes at a time."""
    reports = []
    state: dict[str, float | bool | str | None] = dict(STANDING)
    for at_s in np.arange(0.0, until_s, 0.5):
        for change_s, change in changes.items():
            if at_s - 0.5 < change_s <= at_s:
                state |= change
        readings = {k: None if v is None else Reading(v, float(at_s)) for k, v in state.items()}
        reports.append(VehicleReport(float(at_s), VehicleState(**readings)))  # type: ignore[arg-type]
    return reports


def verdicts(events: Iterable[Event]) -> list[Verdict]:
    """What was concluded about each utterance."""
    return [event.verdict for event in events if isinstance(event, Recognition)]


def applied(events: Iterable[Event]) -> list[str]:
    """For whom the car was asked to move, in order; no ECU answers, so requests are repeated."""
    asked = {event.request: event.driver for event in events if isinstance(event, Apply)}
    return list(asked.values())


@pytest.fixture(scope="session")
def stage() -> Stage:
    """The models of this checkout."""
    return Stage(load_encoder(MODELS))


@pytest.fixture(scope="session")
def say(voices: Path) -> Callable[..., Sound]:
    """Sentences of a synthetic voice with pauses between them, as in `say("hf_alpha", "hi1")`."""

    def sentences(voice: str, *names: int | str) -> Sound:
        quiet = np.random.default_rng(1).normal(0, 1e-4, 20_000).astype(np.float32)
        parts = [soundfile.read(voices / voice / f"{n}.opus", dtype="float32")[0] for n in names]
        return np.concatenate([quiet, *[p for part in parts for p in (part, quiet)]])

    return sentences
