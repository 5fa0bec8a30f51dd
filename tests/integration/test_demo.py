"""The first thing a newcomer does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from tests.conftest import Broker, wait_until
from tools.schemas import check
from whodrives.cli.demo import ROOT, TOPICS, Audience, load_drive
from whodrives.cli.demo_screen import Story

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


def test_the_demo_s_gateway_satisfies_the_published_schemas(broker: Broker) -> None:
    """Every state of the car in the drive, as it goes over the broker."""
    came: list[MQTTMessage] = []
    listener = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    listener.on_message = lambda _client, _data, message: came.append(message)
    listener.on_connect = lambda client, *_: client.subscribe(TOPICS + "#", qos=1)
    ready: list[object] = []
    listener.on_subscribe = lambda *words: ready.append(words)
    listener.connect(broker.host, broker.port)
    listener.loop_start()
    wait_until(lambda: bool(ready), "the listener has subscribed")
    drive = load_drive(ROOT / "profiles/demo")
    gateway = Audience(broker.port, Story(drive.sentences(), drive.signals()), {})
    for second in range(66):
        gateway.report(drive.car(float(second)))
    wait_until(lambda: len(came) == 66, "all reports have come")
    gateway.close()
    listener.disconnect()
    listener.loop_stop()
    for message in came:
        check(message.topic.removeprefix(TOPICS), bytes(message.payload))
    assert len({json.dumps(json.loads(m.payload)["signals"]) for m in came}) > 1


def test_the_demo_says_how_to_get_the_broker_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without mosquitto there is one sentence with the command that installs it."""
    monkeypatch.setattr("whodrives.cli.demo.shutil.which", lambda *_args, **_kwargs: None)
    from rich.console import Console  # noqa: PLC0415 (after the patch, as the demo does)

    from whodrives.cli.demo import DemoError, play  # noqa: PLC0415

    with pytest.raises(DemoError, match="apt-get install mosquitto"):
        play(Console(quiet=True))
