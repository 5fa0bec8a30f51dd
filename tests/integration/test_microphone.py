"""A real PortAudio on a real sound server: what is played is heard, and accidents are survived."""

import os
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import pytest
import sounddevice

from tests.conftest import Prompts, VirtualMicrophone
from tools.lab.corpus import read_sound
from whodrives import clock
from whodrives.audio.blocks import (
    BLOCK_S,
    BLOCK_SAMPLES,
    SAMPLE_RATE_HZ,
    AudioBlock,
    Floats,
    SourceHealth,
    SourceState,
)
from whodrives.audio.microphone import STALL_S, Microphone, devices
from whodrives.errors import SourceError

pytestmark = pytest.mark.realtime

PATIENCE_S = 20.0


class Listener:
    """Owns a microphone as the daemon's loop does: takes what it puts, one by one."""

    def __init__(self, device: str | int | None = "pulse") -> None:
        self.inbox: SimpleQueue[AudioBlock | SourceState] = SimpleQueue()
        self.microphone = Microphone(device, self.inbox.put)

    def next(self) -> AudioBlock | SourceState:
        """The next thing that is put, within PATIENCE_S."""
        try:
            item = self.inbox.get(timeout=PATIENCE_S)
        except Empty:
            pytest.fail(f"the microphone put nothing for {PATIENCE_S:.0f} s")
        if isinstance(item, AudioBlock):
            self.microphone.taken()
        return item

    def listen(self, seconds: float) -> list[AudioBlock]:
        """The blocks of so many seconds of sound, from now on."""
        blocks: list[AudioBlock] = []
        while len(blocks) < seconds / BLOCK_S:
            if isinstance(item := self.next(), AudioBlock):
                blocks.append(item)
        return blocks

    def state(self) -> SourceState:
        """The next state; blocks before it are passed over."""
        while not isinstance(item := self.next(), SourceState):
            pass
        return item


@pytest.fixture
def listener(virtual_microphone: VirtualMicrophone) -> Iterator[Listener]:
    """A listener on the virtual microphone, open."""
    assert virtual_microphone
    ear = Listener()
    ear.microphone.open()
    yield ear
    ear.microphone.close()


def similarity(blocks: list[AudioBlock], played: Floats) -> float:
    """Correlation of `played` with the best place in `blocks`, to a sixteenth of a sample.

    The sound server may resample, and so shift the sound by a part of a sample.
    """
    heard = np.concatenate([block.samples for block in blocks])
    size = 1 << (len(heard) + len(played)).bit_length()
    spectrum = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(played, size))
    products = 16 * np.fft.irfft(spectrum, 16 * size)[: 16 * (len(heard) - len(played))]
    place = int(products.argmax()) // 16
    part = heard[place : place + len(played)]
    return float(products.max() / (np.linalg.norm(part) * np.linalg.norm(played)))


def chirp(rate_hz: int) -> Floats:
    """Two seconds from 100 to 7000 Hz."""
    at_s = np.arange(2 * rate_hz) / rate_hz
    sweep: Floats = (0.5 * np.sin(2 * np.pi * (100 + 1725 * at_s) * at_s)).astype(np.float32)
    return sweep


def open_patiently(microphone: Microphone) -> None:
    """Open as the daemon does: again and again until the device is there."""
    deadline = clock.now_s() + PATIENCE_S
    while True:
        try:
            return microphone.open()
        except SourceError:
            if clock.now_s() > deadline:
                raise
            time.sleep(0.2)


# --- hearing --------------------------------------------------------------------------------------


def test_speech_that_is_played_is_captured(
    virtual_microphone: VirtualMicrophone, listener: Listener, human_prompts: Prompts
) -> None:
    """A person's words reach the inbox as played, without a gap and without a lost block."""
    speech = human_prompts("fr", 1)[0]
    virtual_microphone.play(speech, wait=False)
    blocks = listener.listen(len(speech) / SAMPLE_RATE_HZ + 2)
    assert similarity(blocks, speech) > 0.999
    assert not any(block.gap for block in blocks)
    assert listener.microphone.lost_blocks == 0


def test_live_and_replayed_sound_are_the_same(
    virtual_microphone: VirtualMicrophone, listener: Listener, voices: Path
) -> None:
    """A file played into the microphone and the same file read give the same samples."""
    path = voices / "af_bella" / "1.opus"
    replayed = read_sound(path)
    virtual_microphone.play(path, wait=False)
    blocks = listener.listen(len(replayed) / SAMPLE_RATE_HZ + 2)
    assert similarity(blocks, replayed) > 0.999


def test_blocks_are_stamped_when_they_were_heard(listener: Listener) -> None:
    """Stamps rise by 30 ms on average, on the daemon's clock, and are never in the future."""
    blocks = listener.listen(3)
    now_s = clock.now_s()
    stamps = np.array([block.at_s for block in blocks])
    assert (np.diff(stamps) >= 0).all()
    assert np.polyfit(np.arange(len(stamps)), stamps, 1)[0] == pytest.approx(BLOCK_S, rel=0.02)
    assert now_s - 2 < stamps[-1] <= now_s


def test_open_is_said_before_the_first_block(listener: Listener) -> None:
    """The source is open when sound comes, not when the device promises some."""
    first = listener.next()
    assert isinstance(first, SourceState)
    assert first.health is SourceHealth.OPEN
    block = listener.next()
    assert isinstance(block, AudioBlock)
    assert block.samples.shape == (BLOCK_SAMPLES,)


def test_device_that_cannot_do_16_khz_is_resampled(
    virtual_microphone: VirtualMicrophone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 48 kHz stereo device that refuses 16 kHz is opened at its own rate: the sound is right."""
    real = sounddevice.InputStream

    def picky(**settings: Any) -> object:
        if settings["samplerate"] == SAMPLE_RATE_HZ:
            raise sounddevice.PortAudioError("Invalid sample rate", -9997)
        return real(**settings)

    monkeypatch.setenv("PULSE_SOURCE", VirtualMicrophone.CABIN)
    monkeypatch.setattr(sounddevice, "InputStream", picky)
    ear = Listener()
    ear.microphone.open()
    try:
        assert ear.microphone._rate_hz > SAMPLE_RATE_HZ
        stereo = np.repeat(chirp(48_000)[:, None], 2, axis=1)
        virtual_microphone.play(stereo, 48_000, wait=False, sink=VirtualMicrophone.CABIN)
        blocks = ear.listen(4)
    finally:
        ear.microphone.close()
    assert similarity(blocks, chirp(SAMPLE_RATE_HZ)) > 0.999
    stamps = [block.at_s for block in blocks]
    assert stamps == sorted(stamps)


# --- naming a device ------------------------------------------------------------------------------


def test_devices_are_listed(virtual_microphone: VirtualMicrophone) -> None:
    """Name, system and channels of what can record; one of them is the default."""
    assert virtual_microphone
    found = {device.name: device for device in devices()}
    assert found["pulse"].host_api == "ALSA"
    assert found["pulse"].channels > 0
    assert sum(device.default for device in found.values()) == 1


@pytest.mark.parametrize("name", [None, "PULSE", "lse", "default"])
def test_device_is_found_by_part_of_its_name(
    virtual_microphone: VirtualMicrophone, name: str | None
) -> None:
    """Any part in any case will do if only one device has it; None is the default."""
    assert virtual_microphone
    ear = Listener(name)
    ear.microphone.open()
    try:
        assert ear.state().health is SourceHealth.OPEN
    finally:
        ear.microphone.close()


def test_device_is_found_by_its_index(virtual_microphone: VirtualMicrophone) -> None:
    """The number that the list shows is accepted."""
    assert virtual_microphone
    ear = Listener(devices()[0].index)
    ear.microphone.open()
    try:
        assert ear.state().health is SourceHealth.OPEN
    finally:
        ear.microphone.close()


@pytest.mark.parametrize(
    ("name", "fault"),
    [("Røde", "'Røde' is not there"), (99, "99 is not there"), ("u", "'u' could be several")],
)
def test_device_that_is_not_clear_is_refused_with_the_list(
    virtual_microphone: VirtualMicrophone, name: str | int, fault: str
) -> None:
    """An unknown or ambiguous name never opens just any microphone; the error lists them all."""
    assert virtual_microphone
    with pytest.raises(SourceError, match=fault) as caught:
        Listener(name).microphone.open()
    assert "pulse (ALSA)" in str(caught.value)
    assert "default (ALSA)" in str(caught.value)


# --- accidents ------------------------------------------------------------------------------------


def test_unplugged_microphone_is_lost_and_comes_back(
    virtual_microphone: VirtualMicrophone, listener: Listener
) -> None:
    """LOST is said; opening fails while it is away and works again after; then comes a gap."""
    listener.listen(0.3)
    virtual_microphone.unplug()
    try:
        lost = listener.state()
        assert lost.health is SourceHealth.LOST
        assert lost.reason
        with pytest.raises(SourceError):
            listener.microphone.open()
    finally:
        virtual_microphone.plug()
    open_patiently(listener.microphone)
    assert listener.state().health is SourceHealth.OPEN
    first, second = listener.listen(2 * BLOCK_S)
    assert (first.gap, second.gap) == (True, False)


def test_dead_sound_server_is_survived(
    virtual_microphone: VirtualMicrophone, listener: Listener
) -> None:
    """When the sound server crashes and returns, the same microphone hears again."""
    listener.listen(0.3)
    virtual_microphone.kill_server()
    try:
        assert listener.state().health is SourceHealth.LOST
        with pytest.raises(SourceError):
            listener.microphone.open()
    finally:
        virtual_microphone.start()
    open_patiently(listener.microphone)
    assert listener.state().health is SourceHealth.OPEN


@pytest.mark.usefixtures("virtual_microphone")
def test_a_microphone_that_comes_back_under_another_number_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices are numbered anew at each opening; the name is what counts."""
    devices_before = "pcm.cabin { type pulse }"
    devices_after = "pcm.another { type pulse }\n" + devices_before
    ear = Listener()
    ear.microphone = Microphone("cabin", ear.inbox.put)
    numbers = []
    for number, listed in enumerate((devices_before, devices_after)):
        settings = tmp_path / f"{number}.conf"
        settings.write_text(f"</usr/share/alsa/alsa.conf>\n{listed}\n")
        monkeypatch.setenv("ALSA_CONFIG_PATH", str(settings))
        open_patiently(ear.microphone)
        assert len(ear.listen(0.3)) == 10
        ear.microphone.close()
        numbers.append(next(each.index for each in devices() if each.name == "cabin"))
    assert numbers[0] != numbers[1]


def test_stalled_microphone_is_noticed_and_closed_without_hanging(
    virtual_microphone: VirtualMicrophone, listener: Listener
) -> None:
    """A device that stays and gives nothing is told from a quiet car, and can be opened again."""
    listener.listen(0.3)
    assert not listener.microphone.stalled(clock.now_s())
    virtual_microphone.suspend()
    try:
        deadline = clock.now_s() + PATIENCE_S
        while not listener.microphone.stalled(clock.now_s()):
            assert clock.now_s() < deadline
            time.sleep(STALL_S / 10)
        listener.microphone.close()
    finally:
        virtual_microphone.resume()
    open_patiently(listener.microphone)
    blocks = [listener.listen(BLOCK_S)[0] for _ in range(20)]
    assert any(block.gap for block in blocks)
    assert not listener.microphone.stalled(clock.now_s())


def test_sound_that_was_lost_while_we_stood_still_is_never_joined(
    virtual_microphone: VirtualMicrophone, listener: Listener
) -> None:
    """Stopped for longer than buffers last: where a tone does not go on, `gap` is set."""
    hertz = 1000.0  # 30 ms are whole periods of it
    times_s = np.arange(20 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    tone = (0.5 * np.sin(2 * np.pi * hertz * times_s)).astype(np.float32)
    virtual_microphone.play(tone, wait=False)
    blocks = listener.listen(1.0)
    me = os.getpid()
    pause = f"kill -STOP {me}; sleep 6; kill -CONT {me}"
    with subprocess.Popen(["sh", "-c", pause]):
        blocks += listener.listen(8.0)
    turn = np.exp(-2j * np.pi * hertz * times_s[:BLOCK_SAMPLES])
    heard = [(complex(block.samples @ turn) / BLOCK_SAMPLES, block.gap) for block in blocks]
    joined = [
        abs(np.angle(now / before))
        for (before, _), (now, gap) in pairwise(heard)
        if not gap and min(abs(before), abs(now)) > 0.2
    ]
    assert max(joined) < 0.1


def test_closing_is_no_accident(listener: Listener) -> None:
    """A microphone that is closed on purpose does not say that it was lost."""
    listener.listen(0.3)
    listener.microphone.close()
    left = [listener.inbox.get() for _ in range(listener.inbox.qsize())]
    assert not any(isinstance(item, SourceState) for item in left)
    assert not listener.microphone.stalled(clock.now_s() + 2 * STALL_S)
