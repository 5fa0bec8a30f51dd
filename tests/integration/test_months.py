"""Months: what a profile learned, on the command line; the simulation on the demo's voices.

The voices are synthetic and more alike than people, so the bounds are for this corpus alone.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from whodrives.adaptation import following
from whodrives.adaptation.types import AdaptationSample
from whodrives.cli import main
from whodrives.config.schema import Vehicle
from whodrives.models.calibration import load_calibration
from whodrives.store.profiles import ProfileStore
from whodrives.voice.profile import Profile
from whodrives.voice.scoring import unit

ROOT = Path(__file__).parents[2]
CALIBRATION = load_calibration(ROOT / "models", 1)


class House:
    """An installation with one driver, whose profile can be taught without sound."""

    def __init__(self, folder: Path) -> None:
        profiles = {"directory": str(folder / "profiles"), "key_file": str(folder / "key")}
        settings = {"profiles": profiles, "models": {"directory": str(ROOT / "models")}}
        self.config = folder / "whodrives.yaml"
        self.config.write_text(yaml.safe_dump(settings))
        self._voice = np.random.default_rng(1).normal(size=192).astype(np.float32)
        limits = Vehicle().signals
        self.store = ProfileStore(
            folder / "profiles", folder / "key", CALIBRATION.encoder, limits, Vehicle().id
        )
        self.store.save("Anna", np.stack([self._take(n) for n in range(9)]), 16.0)

    def _take(self, number: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        other = np.random.default_rng(100 + number).normal(size=192).astype(np.float32)
        return unit(unit(self._voice) + np.float32(0.3) * unit(other))

    def drive(self, day: int) -> None:
        """A trip of Anna's."""

        def learned(profile: Profile) -> Profile:
            sample = AdaptationSample(self._take(day), 4.0, 15.0, ())
            held = following.quarantined(profile, [sample], day, CALIBRATION)
            return following.promoted(held, (), day, CALIBRATION)[0]

        self.store.change("Anna", learned)

    def says(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        """What a command prints."""
        assert main.main(["--config", str(self.config), "drivers", *arguments]) == 0
        return capsys.readouterr().out


def test_history_says_where_each_step_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Days, seconds, noise and similarity of each step, and what is still in quarantine."""
    house = House(tmp_path)
    assert "cosine 1.00" in house.says(capsys, "history", "Anna")
    first = 739_000
    for day in range(first, first + 4):
        house.drive(day)
    told = house.says(capsys, "history", "anna")
    assert "2024-04-26  learned from 3 trips: 12.0 s, noise some, cosine from 0." in told
    assert "(2024-04-24, 2024-04-25, 2024-04-26)" in told
    assert "in quarantine: 1 trip: 4.0 s" in told


def test_undo_takes_back_the_latest_step_or_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says how many; with nothing left to take back it is no error."""
    house = House(tmp_path)
    for day in range(9):
        house.drive(1 + day)
    assert "Rolled back: 1 revision;" in house.says(capsys, "undo", "Anna")
    assert house.says(capsys, "history", "Anna").count("learned from") == 2
    assert "Rolled back: 2 revisions;" in house.says(capsys, "undo", "Anna", "--all")
    assert "has no revisions" in house.says(capsys, "undo", "Anna")
    assert "cosine 1.00" in house.says(capsys, "history", "Anna")


# --- the simulation -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The small simulation, run once."""
    out = tmp_path_factory.mktemp("months") / "small.json"
    command = [sys.executable, str(ROOT / "tools/months"), "--small", "--out", str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def test_profiles_that_learn_recognise_no_fewer_and_let_no_more_pass(
    small: dict[str, Any],
) -> None:
    """After twenty trips; steps were made at all."""
    usual = small["adaptation"]["none"]
    assert usual["steps"] >= 1
    assert usual["fnir"]["after"] <= usual["fnir"]["before"] + 1.0
    assert usual["fpir"]["after"] <= usual["fpir"]["before"] + 1.0


@pytest.mark.parametrize("attack", ["speak", "creep"])
def test_no_attacker_poisons_a_profile(small: dict[str, Any], attack: str) -> None:
    """Neither who drives with the driver's key, nor who knows the rules and creeps in."""
    told = small["adaptation"][attack]
    assert told["poisoned"] == 0
    assert told["drift_cosine"]["least"] >= following.RULES.drift_cosine
    assert told["attacker"]["after"] <= told["attacker"]["before"] + 5.0


def test_guests_are_told_apart_better_than_by_the_baseline(small: dict[str, Any]) -> None:
    """Few clusters a person, and hardly a wrong one among them."""
    ours, theirs = (small["guests"][name] for name in ("whodrives", "sherpa-onnx 0.4"))
    assert ours["clusters_per_person"]["mean"] <= 1.2
    assert ours["purity"]["mean"] >= 0.95
    assert ours["clusters_per_person"]["mean"] <= theirs["clusters_per_person"]["mean"]
