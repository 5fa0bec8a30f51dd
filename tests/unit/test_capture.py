"""Files, pipes and the microphone's own bookkeeping."""

import io
import time
import tracemalloc
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.conftest import Prompts
from whodrives import clock
from whodrives.audio import microphone
from whodrives.audio.blocks import (
    BLOCK_S,
    BLOCK_SAMPLES,
    SAMPLE_RATE_HZ,
    AudioBlock,
    Floats,
    SourceHealth,
    SourceState,
)
from whodrives.audio.files import read_file
from whodrives.audio.framing import paced
from whodrives.audio.level import Level, level
from whodrives.audio.microphone import BACKLOG_BLOCKS, Device, Microphone
from whodrives.audio.pipe import read_pipe
from whodrives.errors import SourceError


@pytest.fixture(scope="module")
def speech(human_prompts: Prompts) -> Floats:
    """Five seconds of a person, 16 kHz."""
    return human_prompts("en", 1)[0]


def joined(blocks: Iterable[AudioBlock]) -> Floats:
    """All samples of the blocks, in order."""
    return np.concatenate([block.samples for block in blocks])


def similarity(heard: Floats, original: Floats) -> float:
    """Correlation coefficient at no lag; the end of `heard` that was filled up does not count."""
    return float(np.corrcoef(heard[: len(original)], original)[0, 1])


def raw(samples: Floats) -> bytes:
    """Samples as signed 16-bit little-endian PCM."""
    pcm: NDArray[np.int16] = np.round(samples * 32767).astype("<i2")
    return pcm.tobytes()


class Dribble(io.BytesIO):
    """A pipe that gives its bytes in pieces of the given sizes, over and over."""

    def __init__(self, data: bytes, sizes: Sequence[int]) -> None:
        super().__init__(data)
        self._sizes, self._turn = sizes, 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Give the next piece, `size` bytes at most."""
        self._turn += 1
        return super().read(min(size or 0, self._sizes[self._turn % len(self._sizes)]))


# --- files ----------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A kind of file, and how like the original its sound must be at least."""

    container: str
    encoding: str
    rate_hz: int
    channels: int
    similarity: float


KINDS = [
    Kind("WAV", "PCM_16", 16_000, 1, 0.9999),
    Kind("WAV", "PCM_24", 16_000, 1, 0.9999),
    Kind("WAV", "FLOAT", 16_000, 1, 0.9999),
    Kind("WAV", "PCM_16", 44_100, 2, 0.999),
    Kind("WAV", "PCM_U8", 48_000, 1, 0.98),
    Kind("WAVEX", "PCM_24", 48_000, 4, 0.999),
    Kind("FLAC", "PCM_16", 16_000, 1, 0.9999),
    Kind("FLAC", "PCM_24", 96_000, 2, 0.999),
    Kind("OGG", "OPUS", 48_000, 1, 0.97),
    Kind("OGG", "OPUS", 16_000, 2, 0.97),
    Kind("OGG", "VORBIS", 22_050, 1, 0.97),
    Kind("MP3", "MPEG_LAYER_III", 44_100, 1, 0.97),
    Kind("AIFF", "PCM_16", 32_000, 1, 0.999),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind[:4])))
def test_every_kind_of_file_gives_the_same_speech(
    speech: Floats, tmp_path: Path, kind: Kind
) -> None:
    """Format, rate and channels make no difference beyond the coding's own loss, nor any delay."""
    path = tmp_path / "speech"
    resampled = soxr.resample(speech, SAMPLE_RATE_HZ, kind.rate_hz, quality="VHQ")
    sound = np.repeat(resampled[:, None], kind.channels, axis=1)
    soundfile.write(path, sound, kind.rate_hz, format=kind.container, subtype=kind.encoding)
    heard = joined(read_file(path))
    assert similarity(heard, speech) > kind.similarity
    assert len(heard) >= len(speech)


def test_blocks_of_a_file_are_whole_and_numbered_by_position(
    speech: Floats, tmp_path: Path
) -> None:
    """480 read-only float32 samples each, `at_s` at each block's end; zeros fill the last."""
    path = tmp_path / "speech.wav"
    soundfile.write(path, speech[:1000], SAMPLE_RATE_HZ, subtype="FLOAT")
    blocks = list(read_file(path))
    assert [block.at_s for block in blocks] == pytest.approx([0.03, 0.06, 0.09])
    assert {(b.samples.shape, b.samples.dtype.name, b.gap) for b in blocks} == {
        ((BLOCK_SAMPLES,), "float32", False)
    }
    assert not any(block.samples.flags.writeable for block in blocks)
    assert np.array_equal(joined(blocks)[:1000], speech[:1000])
    assert not joined(blocks)[1000:].any()


def test_a_file_that_fills_its_last_block_gets_no_empty_one(speech: Floats, tmp_path: Path) -> None:
    """No block of zeros is added where none is needed."""
    path = tmp_path / "speech.wav"
    soundfile.write(path, speech[: 2 * BLOCK_SAMPLES], SAMPLE_RATE_HZ)
    assert len(list(read_file(path))) == 2


def test_stereo_of_inverse_phase_is_heard(speech: Floats, tmp_path: Path) -> None:
    """A microphone cable wired as stereo gives +x and -x, whose mean would be silence."""
    path = tmp_path / "inverse.wav"
    soundfile.write(path, np.stack([speech, -speech], axis=1), SAMPLE_RATE_HZ)
    assert similarity(joined(read_file(path)), speech) > 0.999


def test_the_channel_with_the_speech_is_taken_alone(human_prompts: Prompts, tmp_path: Path) -> None:
    """Of a person on the right and a faint other one on the left, only the right one is heard."""
    one, other = (samples[:32_000] for samples in human_prompts("fr", 2))
    path = tmp_path / "two.wav"
    soundfile.write(path, np.stack([0.1 * other, one], axis=1), SAMPLE_RATE_HZ)
    heard = joined(read_file(path))
    assert similarity(heard, one) > 0.9999


def test_floats_beyond_full_scale_are_clipped(tmp_path: Path) -> None:
    """Whatever the file holds, samples stay in [-1, 1], also after resampling overshoots."""
    path = tmp_path / "loud.wav"
    square = np.where(np.arange(48_000) % 96 < 48, 3.0, -3.0)
    soundfile.write(path, square, 48_000, subtype="FLOAT")
    assert np.abs(joined(read_file(path))).max() == 1.0


def test_a_long_file_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """Five minutes of stereo, 38 MB as floats, pass through less than 4 MB."""
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros((300 * 16_000, 2), np.int16), SAMPLE_RATE_HZ)
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_file(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 10_000
    assert peak < 4_000_000


# --- pipes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate_hz", "channels"), [(16_000, 1), (44_100, 1), (48_000, 2)])
def test_a_pipe_gives_exactly_what_the_file_gives(
    speech: Floats, tmp_path: Path, rate_hz: int, channels: int
) -> None:
    """The same PCM through a WAV file or through a pipe is bit for bit the same blocks."""
    mono = soxr.resample(speech, SAMPLE_RATE_HZ, rate_hz)
    pcm = raw(np.repeat(mono[:, None], channels, axis=1))
    path = tmp_path / "speech.wav"
    frames = np.frombuffer(pcm, "<i2").reshape(-1, channels)
    soundfile.write(path, frames, rate_hz)
    piped = list(read_pipe(io.BytesIO(pcm), rate_hz, channels))
    filed = list(read_file(path))
    assert [block.at_s for block in piped] == [block.at_s for block in filed]
    assert np.array_equal(joined(piped), joined(filed))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=20),
    frames=st.integers(3, 4000),
    rate_hz=st.sampled_from([16_000, 22_050, 44_100, 48_000]),
    channels=st.integers(1, 3),
)
def test_how_a_pipe_hands_its_bytes_in_changes_nothing(
    speech: Floats, sizes: list[int], frames: int, rate_hz: int, channels: int
) -> None:
    """Any chunking of the same bytes gives the same blocks, which hold all of them."""
    data = raw(speech[: frames * channels])
    whole = joined(read_pipe(io.BytesIO(data), rate_hz, channels))
    pieces = joined(read_pipe(Dribble(data, sizes), rate_hz, channels))
    assert np.array_equal(whole, pieces)
    exact = frames * SAMPLE_RATE_HZ / rate_hz
    assert exact - 1 < len(whole) < exact + 1 + BLOCK_SAMPLES


def test_a_frame_cut_in_two_by_the_end_of_a_pipe_is_dropped(speech: Floats) -> None:
    """A recorder that is stopped may leave half a sample: no error, and no click."""
    data = raw(speech[:1000])
    odd, even = (joined(read_pipe(io.BytesIO(data[: 2000 - cut]))) for cut in (1, 2))
    assert np.array_equal(odd, even)


# --- pace -----------------------------------------------------------------------------------------


def test_paced_blocks_are_the_same_sound_at_the_clock_s_time(
    speech: Floats, tmp_path: Path
) -> None:
    """Real time changes `at_s` and nothing else: 30 ms apart, however slow the consumer is."""
    path = tmp_path / "speech.wav"
    soundfile.write(path, speech, SAMPLE_RATE_HZ)
    now = SimpleNamespace(s=1000.0)

    def sleep(seconds: float) -> None:
        now.s += seconds

    fast, live = list(read_file(path)), []
    for block in paced(read_file(path), lambda: now.s, sleep):
        live.append(block)
        now.s += 0.02
    assert np.array_equal(joined(fast), joined(live))
    assert [block.at_s for block in live] == pytest.approx([1000.0 + block.at_s for block in fast])


def test_a_paced_block_is_never_stamped_before_it_came() -> None:
    """A source that stops for a second is stamped when it comes, and time does not run back."""
    now = SimpleNamespace(s=0.0)

    def sleep(seconds: float) -> None:
        now.s += seconds

    def stuttering() -> Iterable[AudioBlock]:
        for number in range(1, 100):
            now.s += 1.0 if number == 5 else 0.0
            yield AudioBlock(number * BLOCK_S, np.zeros(BLOCK_SAMPLES, np.float32))

    stamps = [block.at_s for block in paced(stuttering(), lambda: now.s, sleep)]
    assert stamps[4] >= 1.0
    assert stamps == sorted(stamps)


# --- the microphone's bookkeeping -----------------------------------------------------------------


class Ear:
    """Calls a microphone as PortAudio does, and takes what it puts."""

    def __init__(self) -> None:
        self.inbox: SimpleQueue[AudioBlock | SourceState] = SimpleQueue()
        self.microphone = Microphone(None, self.inbox.put)
        self.heard = 0

    def hear(self, frames: int = BLOCK_SAMPLES, *, overflow: bool = False) -> None:
        """One callback with samples that count up, in a buffer that is used again at once."""
        buffer = np.arange(self.heard, self.heard + frames, dtype=np.float32)[:, None] / 1e6
        self.heard += frames
        times = SimpleNamespace(currentTime=7.03, inputBufferAdcTime=7.0)
        status = SimpleNamespace(input_overflow=overflow)
        self.microphone._hear(buffer, frames, times, status)
        buffer[:] = np.nan

    def take(self) -> list[AudioBlock]:
        """All blocks that wait."""
        items = [self.inbox.get() for _ in range(self.inbox.qsize())]
        blocks = [item for item in items if isinstance(item, AudioBlock)]
        for _ in blocks:
            self.microphone.taken()
        return blocks


def test_callbacks_of_any_length_become_blocks_that_follow_each_other() -> None:
    """PortAudio may give any number of frames and reuses its buffer; no sample is spoilt."""
    ear = Ear()
    for frames in (100, 480, 7, 960, 1, 373, 959):
        ear.hear(frames)
    blocks = ear.take()
    assert np.allclose(joined(blocks) * 1e6, np.arange(2880))
    assert all(not b.gap and not b.samples.flags.writeable for b in blocks)
    assert [b.at_s for b in blocks] == sorted(b.at_s for b in blocks)


def test_a_block_is_stamped_when_its_last_sample_was_heard() -> None:
    """The stamp is the monotonic clock's, less what the device says it took to deliver."""
    ear = Ear()
    before = time.monotonic()
    ear.hear()
    assert before <= ear.take()[0].at_s <= time.monotonic()


def test_the_first_sound_says_that_the_source_is_open() -> None:
    """OPEN is put once, before the first block: a device that gives no sound is not open."""
    ear = Ear()
    ear.hear()
    ear.hear()
    first, *rest = [ear.inbox.get() for _ in range(ear.inbox.qsize())]
    assert isinstance(first, SourceState)
    assert first.health is SourceHealth.OPEN
    assert all(isinstance(item, AudioBlock) for item in rest)


def test_sound_before_an_overflow_is_not_joined_to_sound_after_it() -> None:
    """After a loss that the device reports, a fresh block begins, and it has `gap` set."""
    ear = Ear()
    ear.hear(600)
    ear.hear(600, overflow=True)
    before, after = ear.take()
    assert (before.gap, after.gap) == (False, True)
    assert np.allclose(after.samples * 1e6, np.arange(600, 1080))
    assert ear.microphone.lost_blocks == 1


def test_a_consumer_that_sleeps_costs_bounded_memory_and_a_gap() -> None:
    """Ten seconds wait at most; what comes then is dropped and counted, the next one has `gap`."""
    ear = Ear()
    for _ in range(BACKLOG_BLOCKS + 50):
        ear.hear()
    waiting = ear.take()
    ear.hear()
    ear.hear()
    awake = ear.take()
    assert len(waiting) == BACKLOG_BLOCKS
    assert ear.microphone.lost_blocks == 50
    assert [block.gap for block in awake] == [True, False]
    assert not any(block.gap for block in waiting)


def test_a_process_that_was_not_scheduled_does_not_blame_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without callbacks for minutes it has not stalled yet, if nobody could ask meanwhile."""
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(clock, "now_s", lambda: now.s)
    ear = Ear()
    ear.microphone._stream = ear  # it is open
    ear.hear()
    assert not ear.microphone.stalled(300.0)
    assert not ear.microphone.stalled(600.0)
    now.s = 601.0
    ear.hear()
    assert not any(ear.microphone.stalled(601.0 + asked / 2) for asked in range(5))
    assert ear.microphone.stalled(603.5)


def test_a_microphone_that_is_not_open_has_not_stalled() -> None:
    """Nothing can be expected of it."""
    now_s, microphone = time.monotonic(), Microphone(None, print)
    assert not any(microphone.stalled(now_s + n / 2) for n in range(10))


def test_a_device_s_full_name_wins_over_a_part_of_another_s() -> None:
    """Named "mic", "Mic" is taken and not "mic array"; a part that both have is refused."""
    mic, array = (
        Device(index, name, "ALSA", 1, 48_000, default=False)
        for index, name in enumerate(("Mic", "mic array"))
    )
    assert microphone._choose("mic", [array, mic]) == mic
    assert microphone._choose("ARRAY", [array, mic]) == array
    with pytest.raises(SourceError, match=r"could be several.*0: Mic .*1: mic array"):
        microphone._choose("mi", [mic, array])


def test_two_devices_of_one_name_are_told_apart_by_the_system_behind_them() -> None:
    """Their numbers change when devices come and go; "NAME (ALSA)" does not."""
    one, other = (
        Device(index, "Mic", api, 1, 48_000, default=False)
        for index, api in enumerate(("ALSA", "JACK Audio Connection Kit"))
    )
    assert microphone._choose("mic (alsa)", [one, other]) == one
    assert microphone._choose("Mic (JACK Audio Connection Kit)", [one, other]) == other
    with pytest.raises(SourceError, match=r"name, with what is in brackets,.*0: Mic \(ALSA\)"):
        microphone._choose("Mic", [one, other])
    twin = replace(one, index=7)
    with pytest.raises(SourceError, match="give the number of one of these"):
        microphone._choose("Mic (ALSA)", [one, twin])
    assert microphone._choose(7, [one, twin]) == twin


def test_a_machine_without_a_microphone_says_so() -> None:
    """The list of what could be named is empty, and that is said."""
    with pytest.raises(SourceError, match=r"the default one is not there.*: none"):
        microphone._choose(None, [])


# --- the meter ------------------------------------------------------------------------------------


def test_levels_are_relative_to_full_scale() -> None:
    """A full-scale sine has a peak of 0 dBFS and an RMS of -3; half of it is 6 dB less."""
    sine: Floats = np.sin(2 * np.pi * np.arange(16_000) / 16).astype(np.float32)
    assert (level(sine).peak_dbfs, level(sine).rms_dbfs) == pytest.approx((0, -3.01), abs=0.01)
    assert level(np.float32(0.5) * sine).rms_dbfs == pytest.approx(-9.03, abs=0.01)


def test_silence_has_a_level_too() -> None:
    """Digital silence is minus infinity, without a warning."""
    silence = np.zeros(BLOCK_SAMPLES, np.float32)
    assert level(silence) == Level(-np.inf, -np.inf)
