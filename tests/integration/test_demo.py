"""The first thing a newcomer does."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.realtime


@pytest.mark.timeout(200)
def test_the_demo_plays_to_its_end_and_is_right(tmp_path: Path) -> None:
    """Broker, daemon and ECU play together for a minute; nothing they do is wrong."""
    picture = tmp_path / "demo.svg"
    command = [sys.executable, "-m", "whodrives", "demo", "--picture", str(picture)]
    played = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert played.returncode == 0, played.stdout + played.stderr
    assert "11 of 11 right." in played.stdout
    assert played.stdout.count("preferences/apply") == 2
    assert "</svg>" in picture.read_text()


def test_the_demo_says_how_to_get_the_broker_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without mosquitto there is one sentence with the command that installs it."""
    monkeypatch.setattr("whodrives.demo.shutil.which", lambda *_args, **_kwargs: None)
    from rich.console import Console  # noqa: PLC0415 (after the patch, as the demo does)

    from whodrives.demo import DemoError, play  # noqa: PLC0415 (the same)

    with pytest.raises(DemoError, match="apt-get install mosquitto"):
        play(Console(quiet=True))
