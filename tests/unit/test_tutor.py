"""What whoever enrols sees on the terminal, without a microphone."""

import builtins
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from whodrives.cli.enrol import meter, similarity_picture
from whodrives.config.schema import Config
from whodrives.enrolment.recording import Progress
from whodrives.enrolment.types import Problem
from whodrives.errors import ProfileError


def shown(progress: Progress, enough_s: float = 20.0) -> str:
    """The meter as text."""
    console = Console(file=io.StringIO(), record=True, width=100)
    console.print(meter(progress, enough_s))
    return console.export_text()


def test_the_meter_shows_level_useful_seconds_and_what_is_wrong() -> None:
    """Everything that the person needs while speaking, in one glance."""
    wrong = Problem("too_quiet", "the speech is at -54 dBFS; come closer")
    text = shown(Progress(12.4, -54.0, speaking=True, problems=(wrong,)))
    assert "-54 dBFS" in text
    assert "12 of 20 s" in text
    assert "speaking" in text
    assert "too_quiet: the speech is at -54 dBFS; come closer" in text


def test_the_meter_of_silence_says_nothing_is_wrong() -> None:
    """Before anybody speaks there is a level and nothing else."""
    text = shown(Progress(0.0, -90.0, speaking=False))
    assert "0 of 20 s" in text
    assert ":" not in text


def test_a_picture_without_matplotlib_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is an extra; the text names it."""
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ProfileError, match=r"-m pip install matplotlib"):
        similarity_picture([], Config(), tmp_path / "a.png")
