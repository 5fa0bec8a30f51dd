"""Sound in: a microphone, a sound file or a pipe becomes blocks of 16 kHz mono.

Owns and hides sound formats, sampling rates, channels, resampling and the sound device: its names,
its accidents and its time stamps. Must never know what a voice is, nor a profile, model or topic.

One channel is taken, never a mix: a mix cancels a stereo pair of inverse phase, combs the sound of
two microphones that stand apart, and blends two people who were recorded on a channel each. Of a
file it is the channel with the most energy; live, where that is not known beforehand, the first.
"""

import atexit
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from whodrives import clock
from whodrives.domain import (
    BLOCK_S,
    BLOCK_SAMPLES,
    SAMPLE_RATE_HZ,
    AudioBlock,
    Floats,
    SourceError,
    SourceHealth,
    SourceState,
)

STALL_S = 2.0
"""A microphone that gave nothing for so long is stuck."""

BACKLOG_BLOCKS = 333
"""Blocks of a microphone that may wait to be taken: ten seconds."""

_LATENCY_S = 0.2
"""What the device's buffer shall hold while Python is busy; blocks still come at once."""

_LONGEST_DELAY_S = 1.0
"""A device that claims to deliver later than this has no usable clock."""

_PIECE_S = 0.5
"""At most so much of a pipe is taken at one go."""

_UNKNOWN_SIZE = 0x7FFF0000
"""Programs that write a WAV file into a pipe promise about this much, or more."""

_UNKNOWN_FRAMES = 1 << 62
"""libsndfile promises more frames than this when the file does not say."""

_GUESS_S = 0.1
"""An MP3 file's length may be guessed, and wrong by a frame or two of some 0.03 s."""

_PROMISE = re.compile(
    r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)
"""libsndfile's remark on a chunk whose header and length disagree (its log, 1.0.31 to 1.2.2)."""


# --- files and pipes ------------------------------------------------------------------------------


def read_file(path: Path) -> Iterator[AudioBlock]:
    """Read a sound file of any format, rate and channel count that libsndfile knows.

    The file is read as it is consumed, in bounded memory. `at_s` is the position in the file, 0 at
    its start. The last block is filled up with zeros. A file of several channels is read twice.
    A file that promises more sound than it holds is refused; Ogg and MP3 without a Xing header
    promise nothing, and what libsndfile finds in them is taken.

    Raises:
        SourceError: at once, when the file is missing, empty, cut short, no sound, or sampled
            below 16 kHz; while reading, when its sound is damaged.
    """
    rate_hz, channels = _inspect(path)
    channel = _loudest_channel(path, channels)
    return _cut((chunk[:, channel] for chunk in _file_chunks(path)), rate_hz)


def read_pipe(
    stream: BinaryIO, rate_hz: int = SAMPLE_RATE_HZ, channels: int = 1
) -> Iterator[AudioBlock]:
    """Read raw signed 16-bit little-endian PCM, channels interleaved, as `arecord -t raw` writes.

    Gives every 30 ms as soon as they have come. `at_s` is the position in the stream, 0 at its
    start. A frame that the end of the stream cuts in two is dropped; the last block is filled up
    with zeros.

    Args:
        stream: its `read` gives at most so many bytes, as soon as there are some, as a raw file's
            does; none at the end.
        rate_hz: frames per second, 16 kHz or more.
        channels: samples in a frame.

    Raises:
        SourceError: at once, when rate or channels are not acceptable; while reading, when the
            stream has a header or ends before its first sample.
    """
    if rate_hz < SAMPLE_RATE_HZ:
        raise SourceError(f"the pipe: {_too_low(rate_hz)}")
    if channels < 1:
        raise SourceError(f"the pipe: {channels} channels cannot be; give 1 or more")
    return _cut(_pipe_chunks(stream, rate_hz, channels), rate_hz)


def paced(
    blocks: Iterable[AudioBlock],
    clock: Callable[[], float] = clock.now_s,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[AudioBlock]:
    """Give blocks as a microphone would: in real time and with `at_s` from `clock`.

    The samples are untouched, and a source that is late is not made later. A pipe that is live
    keeps time itself: give it a `sleep` that does nothing, since its clock may be the faster one.
    """
    start_s = None
    for block in blocks:
        if start_s is None:
            start_s = clock() - block.at_s + BLOCK_S
        sleep(max(0.0, start_s + block.at_s - clock()))
        yield replace(block, at_s=clock())


class _Cutter:
    """Cuts mono sound of one rate into read-only arrays of BLOCK_SAMPLES at 16 kHz.

    Resamples with soxr at its "HQ" setting, whose delay it makes up for, so the first sample out
    is the first sample in. What comes out does not depend on how the sound was handed in.
    """

    def __init__(self, rate_hz: int) -> None:
        self._resampler = (
            None
            if rate_hz == SAMPLE_RATE_HZ
            else soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")
        )
        self._rest = np.empty(0, np.float32)

    def feed(self, samples: Floats, *, last: bool = False) -> list[Floats]:
        """Take samples of shape (n,); give the blocks they fill. With `last`, zeros fill one up."""
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(np.ascontiguousarray(samples), last=last)
        heard = np.concatenate([self._rest, samples])
        if last:
            heard = np.pad(heard, (0, -len(heard) % BLOCK_SAMPLES))
        whole = len(heard) - len(heard) % BLOCK_SAMPLES
        self._rest = heard[whole:]
        # Resampling may overshoot, and files of floats may hold more than full scale.
        blocks = np.clip(heard[:whole], -1, 1).reshape(-1, BLOCK_SAMPLES)
        blocks.flags.writeable = False
        return list(blocks)

    def held_s(self) -> float:
        """Seconds of sound taken and not given yet."""
        delayed = 0.0 if self._resampler is None else self._resampler.delay()
        return (len(self._rest) + float(delayed)) / SAMPLE_RATE_HZ

    def clear(self) -> None:
        """Forget what is held: the next samples do not follow the last."""
        if self._resampler is not None:
            self._resampler.clear()
        self._rest = self._rest[:0]


def _cut(chunks: Iterable[Floats], rate_hz: int) -> Iterator[AudioBlock]:
    """Blocks of the mono chunks of a whole recording, timed by their position in it."""
    for number, samples in enumerate(_cut_samples(chunks, rate_hz), start=1):
        yield AudioBlock(at_s=number * BLOCK_S, samples=samples)


def _cut_samples(chunks: Iterable[Floats], rate_hz: int) -> Iterator[Floats]:
    cutter = _Cutter(rate_hz)
    for chunk in chunks:
        yield from cutter.feed(chunk)
    yield from cutter.feed(np.empty(0, np.float32), last=True)


def _chunk_frames(rate_hz: int) -> int:
    return int(rate_hz * BLOCK_S)


def _too_low(rate_hz: float) -> str:
    return (
        f"sampled at {rate_hz:.0f} Hz, which lacks the upper band of a voice; "
        "record at 16 kHz or more"
    )


def _inspect(path: Path) -> tuple[int, int]:
    """Sampling rate and channels of a file whose header gives no reason to refuse it."""
    _check_regular(path)
    with _opened(path) as sound:
        if sound.samplerate < SAMPLE_RATE_HZ:
            raise SourceError(f"{path}: {_too_low(sound.samplerate)}")
        _check_whole(path, sound.extra_info)
        if sound.frames == 0:
            raise SourceError(f"{path}: holds no samples; record it again")
        if sound.frames > _UNKNOWN_FRAMES:
            raise SourceError(
                f"{path}: does not say how long it is; record into a file, not through a pipe"
            )
        return sound.samplerate, sound.channels


def _check_regular(path: Path) -> None:
    if not path.exists():
        raise SourceError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise SourceError(f"{path}: is a directory; name one sound file")
    if not path.is_file():
        raise SourceError(f"{path}: is not a regular file; send raw PCM to standard input instead")
    if path.stat().st_size == 0:
        raise SourceError(f"{path}: is empty (0 bytes); record it again")


def _check_whole(path: Path, log: str) -> None:
    """Refuse a file whose header promises more bytes than there are: libsndfile reads it silently.

    One byte may be missing, the padding of an odd chunk.
    """
    for promised, there in _PROMISE.findall(log):
        if int(there) + 1 < int(promised) < _UNKNOWN_SIZE:
            raise SourceError(
                f"{path}: cut short: its header promises {promised} bytes of sound and {there} "
                "are there; copy or record it again"
            )


def _opened(path: Path) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a name that ends in .raw
        reason = getattr(error, "error_string", "raw PCM has no header")
        raise SourceError(
            f"{path}: not sound that can be read ({reason.rstrip('.')}); "
            "give a WAV, FLAC or Ogg Opus file"
        ) from error


def _file_chunks(path: Path) -> Iterator[Floats]:
    """30 ms after 30 ms of a file, float32 of shape (n, channels)."""
    with _opened(path) as sound:
        frames = _chunk_frames(sound.samplerate)
        missing = sound.frames
        while len(chunk := _read_chunk(path, sound, frames)):
            missing -= len(chunk)
            yield chunk
    if missing > _GUESS_S * sound.samplerate:
        raise SourceError(
            f"{path}: cut short: {missing / sound.samplerate:.2f} s of what its header promises "
            "are not there; copy or record it again"
        )


def _read_chunk(path: Path, sound: soundfile.SoundFile, frames: int) -> Floats:
    try:
        chunk: Floats = sound.read(frames, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise SourceError(
            f"{path}: damaged or cut short ({error.error_string.rstrip('.')}); "
            "copy or record it again"
        ) from error
    if not np.isfinite(chunk).all():
        raise SourceError(f"{path}: holds samples that are no numbers; record it again")
    return chunk


def _loudest_channel(path: Path, channels: int) -> int:
    if channels == 1:
        return 0
    energy = np.zeros(channels)
    for chunk in _file_chunks(path):
        energy += np.square(chunk, dtype=np.float64).sum(axis=0)
    return int(energy.argmax())


def _pipe_chunks(stream: BinaryIO, rate_hz: int, channels: int) -> Iterator[Floats]:
    """What has come of the first channel of a raw stream, piece by piece, float32 of shape (n,)."""
    frame_bytes = 2 * channels
    data = _read_fully(stream, _chunk_frames(rate_hz) * frame_bytes)
    _check_raw(data, frame_bytes)
    most = int(_PIECE_S * rate_hz) * frame_bytes
    while data:
        cut = len(data) - len(data) % frame_bytes
        frames = np.frombuffer(data[:cut], "<i2")
        yield frames[::channels].astype(np.float32) / np.float32(32768)
        piece = stream.read(most)
        data = data[cut:] + piece if piece else b""


def _read_fully(stream: BinaryIO, size: int) -> bytes:
    """`size` bytes, or fewer at the end of the stream; a pipe may give them in pieces."""
    data = b""
    while len(data) < size and (piece := stream.read(size - len(data))):
        data += piece
    return data


def _check_raw(start: bytes, frame_bytes: int) -> None:
    if len(start) < frame_bytes:
        raise SourceError("the pipe: ended before any sound came; check the program that records")
    if start[:4] in (b"RIFF", b"OggS", b"fLaC"):
        raise SourceError(
            f"the pipe: a {start[:4].decode()} file comes in, not raw PCM; "
            "record with `arecord -t raw -f S16_LE -r 16000 -c 1`"
        )


# --- the microphone -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Device:
    """A device that can record.

    Attributes:
        index: PortAudio's number of it; it changes when devices come and go.
        name: PortAudio's name of it.
        host_api: the system behind it, as "ALSA".
        channels: how many it can record.
        default_rate_hz: the sampling rate it prefers.
        default: the system records from it when none is named.
    """

    index: int
    name: str
    host_api: str
    channels: int
    default_rate_hz: int
    default: bool


def devices() -> list[Device]:
    """The devices that can record now, by index. Not to be called while a microphone is open.

    PortAudio lists devices once, when it starts, so it is started again: that ends open streams.

    Raises:
        SourceError: PortAudio is missing or does not start.
    """
    portaudio = _portaudio()
    try:
        if portaudio._initialized:  # noqa: SLF001 sounddevice offers no other way to look again
            portaudio._terminate()  # noqa: SLF001
        portaudio._initialize()  # noqa: SLF001
        found, host_apis = portaudio.query_devices(), portaudio.query_hostapis()
    except portaudio.PortAudioError as error:
        raise SourceError(f"PortAudio does not start ({error}); run `arecord -l`") from error
    return [
        Device(
            index=item["index"],
            name=item["name"],
            host_api=host_apis[item["hostapi"]]["name"],
            channels=item["max_input_channels"],
            default_rate_hz=int(item["default_samplerate"]),
            default=item["index"] == portaudio.default.device["input"],
        )
        for item in found
        if item["max_input_channels"] > 0
    ]


class Microphone:
    """A sound device that puts what it hears, block by block, from PortAudio's own thread.

    It puts `SourceState(OPEN)` when the first sound comes, then blocks, and `SourceState(LOST)`
    when the device goes away. A microphone that was lost, or is `stalled`, is closed and opened
    again by whoever owns it; the first block after that has `gap` set. One process has one open
    microphone.

    Whoever takes a block calls `taken` once for it. When ten seconds of blocks wait, new ones are
    dropped, and the next one that is put has `gap` set.

    Attributes:
        lost_blocks: blocks that were dropped, and once more for each loss that the device reports.
    """

    def __init__(
        self, device: str | int | None, put: Callable[[AudioBlock | SourceState], None]
    ) -> None:
        """Prepare a microphone; nothing is opened yet.

        Args:
            device: PortAudio's index; its name, or a part of it that no other has, in any case of
                letters; None is the system's default.
            put: takes blocks and states, from another thread, without waiting:
                `queue.SimpleQueue.put`.
        """
        self.lost_blocks = 0
        self._device = device
        self._put = put
        self._stream: Any = None
        self._rate_hz = SAMPLE_RATE_HZ
        self._cutter = _Cutter(SAMPLE_RATE_HZ)
        self._heard_s = -math.inf
        self._last_call_s = -math.inf
        self._hearing = False
        self._gap = False
        # Each has one writer, so that no lock is needed.
        self._put_blocks = 0
        self._taken_blocks = 0

    def open(self) -> None:
        """Open the device, at 16 kHz if it can, else at its own rate; close it first if open.

        Raises:
            SourceError: PortAudio or the device is missing, or the device does not open.
        """
        self.close()
        device = _choose(self._device, devices())
        rates = sorted({SAMPLE_RATE_HZ, device.default_rate_hz})
        refusals = []
        for rate_hz in [rate for rate in rates if rate >= SAMPLE_RATE_HZ]:
            if not (refusal := self._refused(device, rate_hz)):
                return
            refusals.append(f"{rate_hz} Hz: {refusal}")
        raise SourceError(
            f"microphone {device.name!r}: does not open ({'; '.join(refusals)}); "
            "plug it in, and end other programs that use it"
        )

    def close(self) -> None:
        """Close the device if it is open. Puts nothing."""
        stream, self._stream = self._stream, None
        if stream is not None:
            # stop() waits for buffers to drain, for ever when the device is stuck.
            stream.abort()
            stream.close()
            self._gap = True

    def abandon(self) -> None:
        """Leave a device that hangs alone: the interpreter, at its end, does not wait for it."""
        portaudio = _portaudio()
        # sounddevice ends PortAudio there, which closes what is open. It has no other way.
        atexit.unregister(portaudio._exit_handler)  # noqa: SLF001

    def taken(self) -> None:
        """One more block was taken out of where they are put."""
        self._taken_blocks += 1

    def stalled(self, now_s: float) -> bool:
        """Whether the device is open and has given nothing for STALL_S, at monotonic `now_s`."""
        return self._stream is not None and now_s - self._last_call_s > STALL_S

    def _refused(self, device: Device, rate_hz: int) -> str:
        """Open the device at a rate; what it gives as the reason if it refuses, else nothing."""
        portaudio = _portaudio()
        self._rate_hz, self._cutter = rate_hz, _Cutter(rate_hz)
        self._hearing, self._last_call_s = False, clock.now_s()
        try:
            stream = portaudio.InputStream(
                device=device.index,
                samplerate=rate_hz,
                channels=1,
                dtype="float32",
                blocksize=_chunk_frames(rate_hz),
                latency=_LATENCY_S,
                callback=self._hear,
                finished_callback=self._finished,
            )
        except portaudio.PortAudioError as error:
            return str(error)
        try:
            stream.start()
        except portaudio.PortAudioError as error:
            stream.close()
            return str(error)
        self._stream = stream
        return ""

    def _hear(self, sound: Floats, frames: int, device_time: Any, status: Any) -> None:
        """Runs on PortAudio's thread for each 30 ms: float32 of shape (frames, 1), to be copied."""
        self._last_call_s = now_s = clock.now_s()
        if not self._hearing:
            self._hearing = True
            self._put(SourceState(now_s, SourceHealth.OPEN))
        if status.input_overflow:
            self._cutter.clear()
            self._gap = True
            self.lost_blocks += 1
        blocks = self._cutter.feed(sound[:, 0])
        end_s = now_s - self._delay_s(frames, device_time) - self._cutter.held_s()
        for following, samples in zip(reversed(range(len(blocks))), blocks, strict=True):
            self._offer(end_s - following * BLOCK_S, samples)

    def _delay_s(self, frames: int, device_time: Any) -> float:
        """Seconds since the last sample was heard, by the device's own clock if it has one."""
        first_s = device_time.currentTime - device_time.inputBufferAdcTime
        delay_s: float = first_s - frames / self._rate_hz
        return delay_s if 0 <= delay_s <= _LONGEST_DELAY_S else 0.0

    def _offer(self, at_s: float, samples: Floats) -> None:
        if self._put_blocks - self._taken_blocks >= BACKLOG_BLOCKS:
            self._gap = True
            self.lost_blocks += 1
            return
        self._heard_s = max(self._heard_s, at_s)
        self._put_blocks += 1
        self._put(AudioBlock(self._heard_s, samples, gap=self._gap))
        self._gap = False

    def _finished(self) -> None:
        """Runs on PortAudio's thread when the stream ends; by itself, unless it was closed."""
        if self._stream is not None:
            self._put(SourceState(clock.now_s(), SourceHealth.LOST, "the device went away"))


def _portaudio() -> Any:
    """The library, imported late: its import fails where PortAudio is missing."""
    try:
        import sounddevice  # noqa: PLC0415 files and pipes need no sound device
    except OSError as error:
        raise SourceError(f"{error}; apt-get install libportaudio2") from error
    return sounddevice


def _choose(wanted: str | int | None, found: list[Device]) -> Device:
    """The one device that is meant; an error that lists what there is when that is not clear."""
    matching = [device for device in found if _meant(wanted, device)]
    exact = [d for d in matching if str(wanted).casefold() == d.name.casefold()]
    chosen = exact or matching
    if len(chosen) == 1:
        return chosen[0]
    name = "the default one" if wanted is None else repr(wanted)
    listed = "; ".join(f"{d.index}: {d.name} ({d.host_api})" for d in found) or "none"
    fault = "could be several" if chosen else "is not there"
    raise SourceError(f"microphone: {name} {fault}; plug it in or name one of these: {listed}")


def _meant(wanted: str | int | None, device: Device) -> bool:
    if wanted is None:
        return device.default
    if isinstance(wanted, int):
        return device.index == wanted
    return wanted.casefold() in device.name.casefold()


# --- the meter ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Level:
    """How loud sound is, in dB below full scale (0 dBFS: a sample of 1.0); silence is -inf.

    Attributes:
        peak_dbfs: of the largest sample.
        rms_dbfs: of the root mean square; a sine of full scale has -3.0 dBFS.
    """

    peak_dbfs: float
    rms_dbfs: float


def level(samples: Floats) -> Level:
    """Measure samples of shape (n,), n >= 1, in [-1, 1]."""
    peak = float(np.abs(samples).max())
    rms = math.sqrt(float(np.square(samples, dtype=np.float64).mean()))
    return Level(peak_dbfs=_dbfs(peak), rms_dbfs=_dbfs(rms))


def _dbfs(amplitude: float) -> float:
    return 20 * math.log10(amplitude) if amplitude > 0 else -math.inf
