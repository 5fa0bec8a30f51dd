"""Sound in: a microphone, a sound file or a pipe becomes blocks of 16 kHz mono.

Owns and hides sound formats, sampling rates, channels, resampling and the sound device: its names,
its accidents and its time stamps. Must never know what a voice is, nor a profile, model or topic.

One channel is taken, never a mix: a mix cancels a stereo pair of inverse phase, combs the sound of
two microphones that stand apart, and blends two people who were recorded on a channel each. Of a
file it is the one that is asked for, or else the loudest, a constant offset apart; live it is the
first. A constant offset (DC) is removed here, so that nobody else has to think of it.
"""

import atexit
import contextlib
import io
import math
import mmap
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from whodrives import clock, headers, rawformat
from whodrives.acoustics import OFFSET_BLOCKS, Offset
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
"""A length may be wrong by so much: that of an MP3 file is guessed, and some recorders count the
header as sound. What is missing then is no word."""

MOST_CHANNELS = 32
HIGHEST_RATE_HZ = 192_000
"""No microphone needs more; memory and time for a file are bounded by these and its length."""

LONGEST_S = 4 * 3600.0
"""A file that is longer is refused: a small one can claim to be days long."""

_LOUDEST_FLOAT = 1e9
"""Floating-point samples beyond this are no sound, in whatever unit."""

_OVERSHOOT = 1.5
"""Decoders of lossy formats give more than full scale by less than this, from sound that was
limited at it; what is beyond was never limited."""

_LOSSY = frozenset({"VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"})
_FLOATS = frozenset({"FLOAT", "DOUBLE"})

_PROMISE = re.compile(
    r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)
"""libsndfile's remark on a chunk whose header and length disagree (its log, 1.0.31 to 1.2.2)."""


# --- files and pipes ------------------------------------------------------------------------------


def read_file(
    path: Path, *, channel: int | None = None, longest_s: float = LONGEST_S
) -> Iterator[AudioBlock]:
    """Read a sound file of any format, rate and channel count that libsndfile knows.

    The file is read as it is consumed, in bounded memory. `at_s` is the position in the file, 0 at
    its start. The last block is filled up with zeros. A file of several channels or of
    floating-point samples is read twice. Floating-point samples beyond full scale are scaled down,
    all by the same factor. A constant offset is removed.

    A file that promises more sound than it holds is refused, but for a tenth of a second; Ogg and
    MP3 without a Xing header promise nothing, and what they hold is taken. A header that was never
    finished is read as if it told what is there.

    Args:
        path: of the file.
        channel: from 0; None is the loudest, where a constant offset is not loud.
        longest_s: a longer file is refused.

    Raises:
        SourceError: at once, when the file is missing, empty, too short or too long, cut short, no
            sound, sampled below 16 kHz or above HIGHEST_RATE_HZ, or has more than MOST_CHANNELS;
            while reading, when its sound is damaged.
    """
    facts = _inspect(path, longest_s)
    energy, peak = _surveyed(path, facts, longest_s)
    chosen = int(energy.argmax()) if channel is None else channel
    full = _OVERSHOOT if facts.subtype in _LOSSY else 1.0
    gain = np.float32(1 / peak[chosen] if peak[chosen] > full else 1)
    chunks = (chunk[:, chosen] for chunk in _file_chunks(path, longest_s))
    scaled = chunks if gain == 1 else (chunk * gain for chunk in chunks)
    return _cut(scaled, facts.rate_hz, expect_offset=True)


def channels_of(path: Path, *, longest_s: float = LONGEST_S) -> tuple[int, ...]:
    """The channels of a file, from 0, the loudest first; a constant offset is not loud.

    Raises:
        SourceError: as `read_file`.
    """
    energy, _ = _surveyed(path, _inspect(path, longest_s), longest_s)
    return tuple(int(channel) for channel in np.argsort(-energy, kind="stable"))


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
            stream is a sound file or has another sample format, or ends before its first sample.
    """
    if fault := _unacceptable(rate_hz, channels):
        raise SourceError(f"the pipe: {fault}")
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


def _cut(
    chunks: Iterable[Floats], rate_hz: int, *, expect_offset: bool = False
) -> Iterator[AudioBlock]:
    """Blocks of the mono chunks of a whole recording, timed by their position in it.

    With `expect_offset` the first second is read before it is given, so that not even that has a
    constant offset.
    """
    offset = Offset()
    samples = _cut_samples(chunks, rate_hz)
    first = list(islice(samples, OFFSET_BLOCKS)) if expect_offset else []
    offset.expect(first)
    for number, block in enumerate(chain(first, samples), start=1):
        yield AudioBlock(at_s=number * BLOCK_S, samples=offset.remove(block))


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


def _unacceptable(rate_hz: int, channels: int) -> str:
    """Why sound of this rate and so many channels is refused; empty when it is not."""
    if rate_hz < SAMPLE_RATE_HZ:
        return _too_low(rate_hz)
    if rate_hz > HIGHEST_RATE_HZ:
        return f"sampled at {rate_hz} Hz; record at {HIGHEST_RATE_HZ} Hz or less"
    if channels > MOST_CHANNELS:
        return f"has {channels} channels; record {MOST_CHANNELS} or fewer"
    return ""


class _Facts(NamedTuple):
    """What a file's header says."""

    rate_hz: int
    channels: int
    subtype: str


def _inspect(path: Path, longest_s: float) -> _Facts:
    """What the header says of a file, where that is no reason to refuse it."""
    _check_regular(path)
    with _opened(path) as sound:
        rate_hz = sound.samplerate
        if fault := _unacceptable(rate_hz, sound.channels):
            raise SourceError(f"{path}: {fault}")
        if sound.frames == 0:
            raise SourceError(f"{path}: holds no samples; record it again")
        if sound.frames > _UNKNOWN_FRAMES:
            raise SourceError(
                f"{path}: does not say how long it is, as if it was recorded through a pipe; "
                f"convert it: ffmpeg -i {_quoted(path)} {_quoted(path.with_suffix('.wav'))}"
            )
        _check_whole(path, sound)
        if sound.frames < rate_hz * BLOCK_S:
            some = "1 sample" if sound.frames == 1 else f"{sound.frames} samples"
            raise SourceError(
                f"{path}: holds {some}, {1000 * sound.frames / rate_hz:.2g} ms, and no word is so "
                "short; record it again"
            )
        if sound.frames > rate_hz * longest_s:
            raise SourceError(f"{path}: {_too_long(sound.frames / rate_hz, longest_s)}")
        return _Facts(rate_hz, sound.channels, sound.subtype)


def _too_long(length_s: float, longest_s: float) -> str:
    return (
        f"is {length_s / 60:.0f} minutes long, and {longest_s / 60:.0f} are the most; "
        "give the part with the voice"
    )


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _check_regular(path: Path) -> None:
    if not path.exists():
        raise SourceError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise SourceError(f"{path}: is a directory; name one sound file")
    if not path.is_file():
        raise SourceError(f"{path}: is not a regular file; send raw PCM to standard input instead")
    if path.stat().st_size == 0:
        raise SourceError(f"{path}: is empty (0 bytes); record it again")


def _check_whole(path: Path, sound: soundfile.SoundFile) -> None:
    """Refuse a file whose header promises more bytes than there are: libsndfile reads it silently.

    Bytes for less than _GUESS_S may be missing.
    """
    for promised, there in _PROMISE.findall(sound.extra_info):
        second = max(1.0, int(there) * sound.samplerate / max(sound.frames, 1))
        missing = int(promised) - int(there)
        if int(promised) < _UNKNOWN_SIZE and missing > max(1.0, _GUESS_S * second):
            raise SourceError(
                f"{path}: cut short: its header promises {promised} bytes of sound and {there} "
                "are there; copy or record it again"
            )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    """The file, with the header that it should have."""
    with contextlib.ExitStack() as stack:
        try:
            right = _right_start(path)
            file = path if right is None else stack.enter_context(_Restarted(path, *right))
            sound = stack.enter_context(soundfile.SoundFile(file))
        except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a name ends in .raw
            reason = getattr(error, "error_string", "raw PCM has no header")
            raise SourceError(
                f"{path}: not sound that can be read ({reason.rstrip('.')}); "
                "give a WAV, FLAC or Ogg Opus file"
            ) from error
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror}); check it") from error
        yield sound


def _right_start(path: Path) -> tuple[bytes, int] | None:
    """What a file should begin with, and how many of its bytes that replaces; None if it does."""
    with path.open("rb") as file:
        head = file.read(headers.HEAD_BYTES)
        if (right := headers.completed(head, path.stat().st_size)) is not None:
            return right, len(head)
        if not headers.is_mpeg_audio(head):
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            counted = headers.counted(data)
            if counted is None:
                return None
            start = data[: counted.start]
    with soundfile.SoundFile(path) as sound:
        guessed_s = sound.frames / sound.samplerate
    # libsndfile guesses from the first frame, which is right if the bit rate stays.
    if abs(guessed_s - counted.samples / counted.rate_hz) <= _GUESS_S:
        return None
    return start + counted.tag, counted.start


class _Restarted(io.RawIOBase):
    """A file of which the first `skipped` bytes are replaced by `start`."""

    def __init__(self, path: Path, start: bytes, skipped: int) -> None:
        self._file = path.open("rb")
        self._start, self._skipped = start, skipped
        self._size = len(start) + path.stat().st_size - skipped
        self._at = 0

    def close(self) -> None:
        self._file.close()
        super().close()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer as far as there is something: libsndfile takes less for the end."""
        view = memoryview(buffer)
        first = self._start[self._at : self._at + len(view)]
        view[: len(first)] = first
        self._file.seek(max(0, self._at - len(self._start)) + self._skipped)
        rest = self._file.readinto(view[len(first) :]) if len(first) < len(view) else 0
        self._at += len(first) + rest
        return len(first) + rest


def _file_chunks(path: Path, longest_s: float = LONGEST_S) -> Iterator[Floats]:
    """30 ms after 30 ms of a file, float32 of shape (n, channels)."""
    with _opened(path) as sound:
        frames = _chunk_frames(sound.samplerate)
        missing = sound.frames
        while len(chunk := _read_chunk(path, sound, frames)):
            missing -= len(chunk)
            if sound.frames - missing > longest_s * sound.samplerate + frames:
                raise SourceError(f"{path}: {_too_long(longest_s + BLOCK_S, longest_s)}")
            yield chunk
        rate_hz = sound.samplerate
    if missing > _GUESS_S * rate_hz:
        raise SourceError(
            f"{path}: cut short: {missing / rate_hz:.2f} s of what its header promises "
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


def _surveyed(
    path: Path, facts: _Facts, longest_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Energy and peak of each channel; (channels,). Ones where nothing depends on them."""
    energy, peak = np.ones(facts.channels), np.ones(facts.channels)
    if facts.channels == 1 and facts.subtype not in _FLOATS | _LOSSY:
        return energy, peak
    energy[:] = peak[:] = 0
    for chunk in _file_chunks(path, longest_s):
        # What stays the same for 30 ms, a constant offset, is not heard.
        energy += np.var(chunk, axis=0, dtype=np.float64) * len(chunk)
        np.maximum(peak, np.abs(chunk).max(axis=0), out=peak)
    if peak.max() > _LOUDEST_FLOAT:
        raise SourceError(f"{path}: holds samples of {peak.max():.2g}, no sound; record it again")
    return energy, peak


def _pipe_chunks(stream: BinaryIO, rate_hz: int, channels: int) -> Iterator[Floats]:
    """What has come of the first channel of a raw stream, piece by piece, float32 of shape (n,)."""
    frame_bytes = 2 * channels
    data = _read_fully(stream, _chunk_frames(rate_hz) * frame_bytes)
    if data[:1] == b"\xff":
        # Perhaps MP3 or AAC, whose frames are longer than 30 ms of PCM.
        data += _read_fully(stream, rawformat.START_BYTES - len(data))
    _check_raw(data, rate_hz, channels)
    check = rawformat.FormatCheck(rate_hz, channels)
    most = int(_PIECE_S * rate_hz) * frame_bytes
    fresh = data
    while data:
        if (found := check.hear(fresh)) is not None:
            given = f"-f {found.ffmpeg} -ar {rate_hz} -ac {channels}"
            raise SourceError(
                f"the pipe: {found.text} samples come in, not signed 16-bit little-endian; "
                f"{_conversion(rate_hz, channels, given)}"
            )
        cut = len(data) - len(data) % frame_bytes
        frames = np.frombuffer(data[:cut], "<i2")
        yield frames[::channels].astype(np.float32) / np.float32(32768)
        fresh = stream.read(most)
        data = data[cut:] + fresh if fresh else b""


def _conversion(rate_hz: int, channels: int, given: str = "") -> str:
    """What to type so that a pipe carries the right thing."""
    recorded = f"record with `arecord -t raw -f S16_LE -r {rate_hz} -c {channels}`"
    given = f"{given} " if given else ""
    return (
        f"{recorded}, or convert it with "
        f"`ffmpeg {given}-i - -f s16le -ar {rate_hz} -ac {channels} -`"
    )


def _read_fully(stream: BinaryIO, size: int) -> bytes:
    """`size` bytes, or fewer at the end of the stream; a pipe may give them in pieces."""
    data = b""
    while len(data) < size and (piece := stream.read(size - len(data))):
        data += piece
    return data


def _check_raw(start: bytes, rate_hz: int, channels: int) -> None:
    if len(start) < 2 * channels:
        raise SourceError("the pipe: ended before any sound came; check the program that records")
    if kind := rawformat.file_kind(start):
        raise SourceError(
            f"the pipe: a file comes in ({kind}), not raw PCM; {_conversion(rate_hz, channels)}"
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
                letters, with " (ALSA)" or another system behind it where two of them know the name;
                None is the system's default.
            put: takes blocks and states, from another thread, without waiting:
                `queue.SimpleQueue.put`.
        """
        self.lost_blocks = 0
        self._device = device
        self._put = put
        self._stream: Any = None
        self._rate_hz = SAMPLE_RATE_HZ
        self._cutter = _Cutter(SAMPLE_RATE_HZ)
        self._offset = Offset()
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
        self._rate_hz, self._cutter, self._offset = rate_hz, _Cutter(rate_hz), Offset()
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
            self._offer(end_s - following * BLOCK_S, self._offset.remove(samples))

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
    exact = [d for d in matching if str(wanted).casefold() in (d.name.casefold(), _full(d))]
    chosen = exact or matching
    if len(chosen) == 1:
        return chosen[0]
    name = "the default one" if wanted is None else repr(wanted)
    listed = "; ".join(f"{d.index}: {d.name} ({d.host_api})" for d in found) or "none"
    if not chosen:
        fault = "is not there; plug it in or name"
    elif len({_full(d) for d in chosen}) < len(chosen):
        fault = "could be several; give the number of"
    else:
        fault = "could be several; name, with what is in brackets,"
    raise SourceError(f"microphone: {name} {fault} one of these: {listed}")


def _meant(wanted: str | int | None, device: Device) -> bool:
    if wanted is None:
        return device.default
    if isinstance(wanted, int):
        return device.index == wanted
    return wanted.casefold() in _full(device)


def _full(device: Device) -> str:
    """A device's name with the system that it belongs to, in small letters."""
    return f"{device.name} ({device.host_api})".casefold()


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
