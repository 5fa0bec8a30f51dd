"""The evaluation on the demo's voices: accuracy must not get worse, and every input format works.

The voices are synthetic and more alike than people, so the bounds are for this corpus alone.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def evaluate(out: Path, *arguments: str) -> dict[str, Any]:
    """Run the command; what it wrote."""
    command = [sys.executable, str(ROOT / "tools/evaluate"), *arguments, "--out", str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The small evaluation, run once."""
    out = tmp_path_factory.mktemp("evaluation")
    return out, evaluate(out, "--small")


def by_condition(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Entries of the result by test condition."""
    return {entry["condition"]: entry for entry in result["results"]}


BOUNDS = {"clean": (0.02, 0.02, 0.15), "cabin": (0.03, 0.05, 0.15), "car 5 dB": (0.05, 0.15, 0.12)}
"""EER after 2 s, FNIR at FPIR 1 % after 2 s, and realised FPIR at a promised 1 %: at most."""


@pytest.mark.parametrize("condition", BOUNDS)
def test_recognition_is_no_worse_than_it_was(
    small: tuple[Path, dict[str, Any]], condition: str
) -> None:
    """Error rates on synthetic voices stay below bounds that leave room for chance."""
    entry = by_condition(small[1])[condition]
    eer, fnir, fpir = BOUNDS[condition]
    assert entry["verification"]["2 s"]["eer"] <= eer
    assert entry["identification"]["3"]["2 s"]["fnir_at_0.01"] <= fnir
    assert entry["daemon"]["3"]["1/100"]["fpir"] <= fpir


def test_an_enrolled_driver_is_recognised_soon(small: tuple[Path, dict[str, Any]]) -> None:
    """In a quiet car nearly every driver is known within the utterance, half of them at once."""
    daemon = by_condition(small[1])["clean"]["daemon"]["3"]["1/100"]
    assert daemon["fnir"] <= 0.05
    assert daemon["misidentified"] <= 0.01
    assert daemon["speech_until_decision_s"]["median"] <= 1.2


def test_the_page_shows_the_promise_first(small: tuple[Path, dict[str, Any]]) -> None:
    """All pictures are there, the calibration's before the others, and the figures are finite."""
    page = (small[0] / "page.html").read_text()
    names = ("calibration.png", "det.png", "conditions.png")
    places = [page.index(f'src="{name}"') for name in names]
    assert places == sorted(places)
    assert all((small[0] / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_a_trial_list_in_voxceleb_s_format_is_verified(tmp_path: Path, voices: Path) -> None:
    """Pairs of one voice and of two give a low error after two seconds."""
    names = sorted(path.name for path in voices.iterdir() if path.is_dir())[:8]
    lines = [f"1 {name}/1.opus {name}/4.opus" for name in names]
    lines += [f"0 {a}/1.opus {b}/4.opus" for a in names for b in names if a != b]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    result = evaluate(tmp_path / "out", str(tmp_path / "list.txt"), "--root", str(voices))
    after = {entry["speech_s"]: entry for entry in result["trials"]}
    assert after[1]["targets"] == 8
    assert after[1]["nontargets"] == 56
    assert after[2]["people"] == 8
    assert after[2]["eer"] <= 0.17


def test_a_corpus_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    """The error names the folder and what it should hold; there is no traceback."""
    command = [sys.executable, str(ROOT / "tools/evaluate"), str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr
