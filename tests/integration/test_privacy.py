"""After a whole scenario nothing of a person is outside the sealed store: all is searched."""

import base64
import json
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import numpy as np
import pytest

from tests.conftest import wait_until
from tests.integration.installation import POSITION, Installation
from tests.integration.running import STANDING, pcm
from tests.integration.test_security import Party, SecureBroker
from tools.schemas import checked
from whodrives.adaptation.guests import Guest
from whodrives.audio.blocks import SAMPLE_RATE_HZ
from whodrives.config.location import load_config
from whodrives.models.encoder import load_encoder
from whodrives.service.wiring import open_store

MODELS = Path(__file__).parents[2] / "models"
NAME = "Zebediah Quux"
PATIENCE_S = 120.0


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[SecureBroker]:
    """A broker that knows who is who."""
    (tmp_path / "broker").mkdir()
    made = SecureBroker(tmp_path / "broker")
    yield made
    made.stop()


class Scene:
    """A running daemon at that broker; a head unit, a gateway, a monitor that hears all."""

    def __init__(self, folder: Path, broker: SecureBroker) -> None:
        self.installed = Installation(folder)
        mqtt = {"host": broker.host, "port": broker.port, "tls": broker.tls()}
        self.installed.configure(mqtt=mqtt, sound={"source": "-"}, guests={"remember": True})
        self.monitor = Party(broker, "monitor")
        self.headunit = Party(broker, "headunit")
        self.gateway = Party(broker, "gateway")
        self.log = folder / "daemon.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.installed.command("run"), stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        self._speech: Queue[bytes] = Queue()
        self._closed = threading.Event()
        self._feeder = threading.Thread(target=self._feed)
        self._feeder.start()

    def close(self) -> None:
        """Leave nothing behind."""
        self._closed.set()
        self._feeder.join()
        self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        for party in (self.monitor, self.headunit, self.gateway):
            party.close()

    def say(self, sound: bytes) -> None:
        """Speak into the pipe, without waiting for it to be heard."""
        self._speech.put(sound)

    def _feed(self) -> None:
        """What a microphone does: silence while nobody speaks, for a pipe without is a fault."""
        pipe = self.process.stdin
        assert pipe is not None
        while not self._closed.is_set():
            try:
                sound = self._speech.get(timeout=0.1)
            except Empty:
                sound = bytes(2 * SAMPLE_RATE_HZ // 10)
            pipe.write(sound)
            pipe.flush()

    def told(self, topic: str) -> list[Any]:
        """All bodies on a topic."""
        full = f"whodrives/car/{topic}"
        return [json.loads(m.payload) for m in self.monitor.heard if m.topic == full and m.payload]

    def command(self, name: str, **said: Any) -> str:
        """Let the head unit say a command; gives its id."""
        command = str(uuid.uuid4())
        body = {"schema": 1, "command_id": command, "issued_at": _now()} | said
        topic = f"command/{name}"
        self.headunit.client.publish(f"whodrives/car/{topic}", checked(topic, body), qos=1)
        return command

    def until(self, ready: Any, what: str) -> None:
        """Report the parked car until something is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not ready():
            assert time.monotonic() < deadline, f"{what}: in vain\n{self.log.read_text()}"
            signals = {path: {"value": v, "time": _now()} for path, v in STANDING.items()}
            body = checked("vehicle", {"schema": 1, "signals": signals})
            self.gateway.client.publish("whodrives/car/vehicle", body, qos=1)
            time.sleep(0.2)


def _now() -> str:
    return datetime.now(UTC).isoformat()


@pytest.fixture
def scene(tmp_path: Path, secure: SecureBroker) -> Iterator[Scene]:
    """The scene, online with nobody enrolled."""
    made = Scene(tmp_path, secure)
    yield made
    made.close()


@pytest.mark.much_speech
def test_no_sound_embedding_or_name_is_anywhere_but_in_the_sealed_store(
    scene: Scene, voices: Path, tmp_path: Path
) -> None:
    """Enrolled from the head unit, named, recognised, seated; then every byte is searched.

    The enrolment is the head unit's, over TLS with its own certificate; it says how far it is.
    """
    scene.until(lambda: scene.told("status"), "the daemon is there")
    consent = {"by": "account-3", "text": "2026-11"}
    command = scene.command("enrol", driver=None, consent=consent)
    scene.until(lambda: scene.told("enrolment"), "it listens")
    sentences = b"".join(pcm(voices / "bm_george" / f"{n}.opus") for n in (1, 2, 3, 4, 1, 2, 3, 4))
    scene.say(sentences)

    def results() -> list[Any]:
        return [said for said in scene.told("command/result") if said["command_id"] == command]

    scene.until(results, "the enrolment ends")
    assert results()[0]["reason"] is None
    stages = [state["state"] for state in scene.told("enrolment")]
    assert stages[0] == "listening"
    assert stages[-2:] == ["enough", "done"]
    driver = scene.told("enrolment")[-1]["driver"]

    installed = scene.installed
    assert installed.run("drivers", "rename", "driver 1", NAME).returncode == 0
    done = installed.run("drivers", "preferences", NAME, "--set", f"{POSITION}=120")
    assert done.returncode == 0
    (stored,) = open_store(load_config(installed.config)).load().profiles
    assert (stored.profile.id, stored.consent and stored.consent.by) == (driver, "account-3")
    scene.process.send_signal(signal.SIGHUP)
    sound = pcm(voices / "bm_george" / "5.opus")
    wait_until(lambda: "event=reloaded" in scene.log.read_text(), "the profiles are read again")
    scene.say(sound)
    scene.until(lambda: scene.told("preferences/apply"), "the seat is asked to move")
    (stored,) = open_store(load_config(installed.config)).load().profiles
    assert stored.recognised_on == datetime.now(UTC).date().isoformat()

    limits = Path(f"/proc/{scene.process.pid}/limits").read_text()
    assert "Max core file size        0 " in limits
    names = [word.encode() for word in (NAME, *NAME.split())]
    needles = [*names, *_voice(stored.profile.embeddings), *_sound(sentences), *_sound(sound)]
    heard = b"\n".join(m.topic.encode() + m.payload for m in scene.monitor.heard)
    places = {"bus": heard} | {
        str(path.relative_to(tmp_path)): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert f"profiles/{driver}.profile" in places
    assert "daemon.log" in places
    found = {place for place, data in places.items() for needle in needles if needle in data}
    assert found == set()

    scene.command("forget", driver=driver)
    scene.until(lambda: not list((tmp_path / "profiles").glob("*.profile")), "it is forgotten")


def test_a_guest_who_agrees_becomes_a_driver_and_leaves_the_guest_book(
    scene: Scene, voices: Path, tmp_path: Path
) -> None:
    """Offered by pseudonym; enrolled from the head unit with consent, and then no guest."""
    scene.until(lambda: scene.told("status"), "the daemon is there")
    encoder = load_encoder(MODELS)
    sentences = [pcm(voices / "bm_george" / f"{n}.opus") for n in (1, 2, 3, 4)]
    scale = np.float32(32768)
    heard = [np.frombuffer(said, "<i2").astype(np.float32) / scale for said in sentences]
    day = datetime.now(UTC).date().toordinal()
    trips = np.stack([encoder.embed(sound) for sound in heard])
    guest = Guest("g-3f2a9c1e", trips, (3.0,) * len(trips), len(trips), day - 3, day)
    store = open_store(load_config(scene.installed.config))
    store.save_guests([guest])
    scene.process.send_signal(signal.SIGHUP)
    scene.until(lambda: scene.told("guest"), "the guest is offered")
    assert [each["guest"] for each in scene.told("guest")[-1]["guests"]] == [guest.id]

    consent = {"by": "account-3", "text": "2026-11"}
    command = scene.command("enrol", driver=None, guest=guest.id, consent=consent)

    def results() -> list[Any]:
        return [said for said in scene.told("command/result") if said["command_id"] == command]

    scene.until(results, "the guest is enrolled")
    assert results()[0]["reason"] is None
    (stored,) = store.load().profiles
    assert stored.profile.id == scene.told("enrolment")[-1]["driver"]
    assert stored.consent is not None
    assert store.load_guests() == ()
    topic = "whodrives/car/guest"
    scene.until(
        lambda: [m for m in scene.monitor.heard if m.topic == topic][-1].payload == b"",
        "nobody is offered any more",
    )
    assert list((tmp_path / "profiles").glob("guests*")) == []


def _voice(embeddings: np.ndarray[Any, Any]) -> Iterator[bytes]:
    """What a voice would look like in a file or a message: binary, base64, or as digits."""
    for row in (*embeddings, embeddings.mean(axis=0)):
        for numbers in (row[:4], row[96:100]):
            yield numbers.astype("<f4").tobytes()
            yield numbers.astype("<f8").tobytes()
            yield base64.b64encode(numbers[:3].astype("<f4").tobytes())
        yield f"{abs(float(row[0])):.6f}".encode()


def _sound(data: bytes) -> Iterator[bytes]:
    """Loud places of the sound, as integers, floats and base64."""
    samples = np.frombuffer(data, "<i2")
    for start in np.argsort(-np.abs(samples.astype(int)))[:20]:
        piece = samples[start - 8 : start + 8]
        yield piece.tobytes()
        yield (piece / 32768).astype("<f4").tobytes()
        yield base64.b64encode(piece[:12].tobytes())
