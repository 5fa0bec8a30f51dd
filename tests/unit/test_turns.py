"""In what order the daemon takes what has come, and what it gives up when it cannot keep up."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest

from whodrives.audio.blocks import BLOCK_SAMPLES, AudioBlock, SourceHealth, SourceState
from whodrives.audio.supervisor import LATE_S, FromMicrophone, shed
from whodrives.config.schema import Config, ModelFiles, ProfileFiles
from whodrives.core.events import Event, Input
from whodrives.service import daemon, wiring
from whodrives.service.daemon import Daemon
from whodrives.service.signals import Orders
from whodrives.trip.types import Cancel
from whodrives.vehicle.state import VehicleReport, VehicleState

ROOT = Path(__file__).parents[2]
SOUND = np.zeros(BLOCK_SAMPLES, np.float32)


def block(at_s: float) -> AudioBlock:
    """A block of silence."""
    return AudioBlock(at_s, SOUND)


class Taken:
    """Stands where the recognizer stands, and notes what it is told."""

    heard_s = 0.0

    awaits_verdict = False
    live_requests = 0
    fingerprint = ""

    def __init__(self, *_: Any) -> None:
        self.items: list[Input] = []

    def step(self, news: Input) -> list[Event]:
        """Note it."""
        self.items.append(news)
        return []

    def hear(self, blocks: Sequence[AudioBlock]) -> Iterator[list[Event]]:
        """Note them, one by one."""
        for each in blocks:
            yield self.step(each)


class Silent:
    """Stands where the microphone stands; nothing comes of itself."""

    def __init__(self, _name: str, put: Callable[[FromMicrophone], None]) -> None:
        self.put = put

    def open(self) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close."""

    def taken(self) -> None:
        """Nothing to count."""

    def stalled(self, _now_s: float) -> bool:
        """Never."""
        return False


class StillBus:
    """Stands where the bus stands; nothing comes of itself, and its turns are counted."""

    def __init__(self, _mqtt: Any, _car: Any, put: Callable[[Input], None], *_: Any) -> None:
        self.put = put
        self.turns = 0

    def start(self) -> None:
        """Nothing to connect."""

    def stop(self) -> None:
        """Nothing to leave."""

    def publish(self, _event: Event) -> None:
        """Nobody hears it."""


def configured(folder: Path) -> Config:
    """A daemon's configuration, with nobody enrolled."""
    return Config(
        profiles=ProfileFiles(str(folder / "profiles"), str(folder / "key")),
        models=ModelFiles(str(ROOT / "models")),
    )


def test_no_decision_rests_on_an_older_car_than_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came over the bus goes before the sound that came earlier, a cancel before all."""
    orders, taken = Orders(), Taken()
    sound: list[FromMicrophone] = []
    news: list[Input] = []

    class Bus(StillBus):
        """All comes at its first turn, the end at its second."""

        def poll(self, now_s: float) -> None:
            self.turns += 1
            if self.turns > 1:
                orders.stop = "the test"
                return
            # From now, and not from before the daemon was made: old sound is not heard.
            lost = SourceState(now_s, SourceHealth.LOST, "gone")
            spliced = replace(block(now_s), gap=True)
            sound.extend([block(now_s), block(now_s), lost, spliced, block(now_s)])
            news.extend([Cancel(now_s, "c1"), VehicleReport(now_s, VehicleState())])
            for item in sound:
                microphones[0].put(item)
            for told in news:
                self.put(told)

    microphones: list[Silent] = []

    def microphone(name: str, put: Callable[[FromMicrophone], None]) -> Silent:
        microphones.append(Silent(name, put))
        return microphones[-1]

    monkeypatch.setattr(wiring, "Recognizer", lambda *_: taken)
    monkeypatch.setattr(daemon, "Microphone", microphone)
    monkeypatch.setattr(daemon, "Bus", Bus)
    config = configured(tmp_path)
    assert Daemon(config, lambda: config, orders).run() is None
    expected = [id(item) for item in (*news, *sound)]
    assert [id(item) for item in taken.items if id(item) in expected] == expected


def test_what_becomes_of_the_microphone_ends_a_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that opens or goes away is told at once, however long sound may gather."""
    orders = Orders()
    lost = SourceState(0.0, SourceHealth.LOST, "gone")

    class Bus(StillBus):
        """The microphone is lost during the rest that follows its first turn."""

        def poll(self, _now_s: float) -> None:
            self.turns += 1
            if self.turns == 1:
                Timer(0.05, microphones[0].put, [lost]).start()
            else:
                orders.stop = "the test"

    microphones: list[Silent] = []

    def microphone(name: str, put: Callable[[FromMicrophone], None]) -> Silent:
        microphones.append(Silent(name, put))
        put(SourceState(0.0, SourceHealth.OPEN))
        return microphones[-1]

    monkeypatch.setattr(wiring, "Recognizer", Taken)
    monkeypatch.setattr(daemon, "Microphone", microphone)
    monkeypatch.setattr(daemon, "Bus", Bus)
    monkeypatch.setattr(daemon, "QUIET_REST_S", 3600.0)
    config = configured(tmp_path)
    assert Daemon(config, lambda: config, orders).run() is None


def test_sound_in_time_is_heard_whole() -> None:
    """Who keeps up hears every block, without a gap."""
    items = [block(1.0), block(1.03)]
    assert shed(items, 1.0 + LATE_S) == (items, 0)


def test_who_is_behind_gives_up_the_oldest_sound_and_nothing_else() -> None:
    """Of the sound only the last block is left, and says that it does not follow the one before."""
    lost = SourceState(1.01, SourceHealth.LOST, "gone")
    back = SourceState(1.02, SourceHealth.OPEN)
    items: list[FromMicrophone] = [block(1.0), lost, back, block(1.03), block(1.06)]
    kept, dropped = shed(items, 1.0 + LATE_S + 0.1)
    assert dropped == 2
    assert [item for item in kept if not isinstance(item, AudioBlock)] == [lost, back]
    (last,) = (item for item in kept if isinstance(item, AudioBlock))
    assert (last.at_s, last.gap) == (1.06, True)
