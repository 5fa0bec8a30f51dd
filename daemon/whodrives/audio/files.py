"""Reads sound files of any format, rate and channel count that libsndfile knows."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from whodrives.audio import headers
from whodrives.audio.blocks import BLOCK_S, AudioBlock, Floats
from whodrives.audio.framing import chunk_frames, cut_blocks, unacceptable
from whodrives.errors import SourceError

_UNKNOWN_SIZE = 0x7FFF0000
"""Programs that write a WAV file into a pipe promise about this much, or more."""


_UNKNOWN_FRAMES = 1 << 62
"""libsndfile promises more frames than this when the file does not say."""


_GUESS_S = 0.1
"""A length may be wrong by so much: that of an MP3 file is guessed, and some recorders count the
header as sound. What is missing then is no word."""


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


def read_file(
    path: Path, *, channel: int | None = None, longest_s: float = LONGEST_S
) -> Iterator[AudioBlock]:
    """Read a sound file of any format, rate and channel count that libsndfile knows.

    The file is read as it is consumed, in bounded memory. `at_s` is the position in the file, 0 at
    its start. The last block is filled up with zeros. A file of which the loudest channel is to be
    found, or of lossy or floating-point samples, is read twice. Floating-point samples beyond full
    scale are scaled down, all by the same factor. A constant offset is removed.

    A file that promises more sound than it holds is refused, but for a tenth of a second; Ogg and
    MP3 without a Xing header promise nothing, and what they hold is taken. A file that holds more
    sound than its header tells of, or a second file, is refused. A header that was never finished
    is read as if it told what is there.

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
    energy = peak = np.ones(facts.channels)
    if (channel is None and facts.channels > 1) or facts.subtype in _FLOATS | _LOSSY:
        energy, peak = _surveyed(path, facts, longest_s)
    chosen = int(energy.argmax()) if channel is None else channel
    full = _OVERSHOOT if facts.subtype in _LOSSY else 1.0
    gain = np.float32(1 / peak[chosen] if peak[chosen] > full else 1)
    chunks = (chunk[:, chosen] for chunk in _file_chunks(path, facts, longest_s))
    scaled = chunks if gain == 1 else (chunk * gain for chunk in chunks)
    return cut_blocks(scaled, facts.rate_hz, expect_offset=True)


def channels_of(path: Path, *, longest_s: float = LONGEST_S) -> tuple[int, ...]:
    """The channels of a file, from 0, the loudest first; a constant offset is not loud.

    Raises:
        SourceError: as `read_file`.
    """
    facts = _inspect(path, longest_s)
    if facts.channels == 1:
        return (0,)
    energy, _ = _surveyed(path, facts, longest_s)
    return tuple(int(channel) for channel in np.argsort(-energy, kind="stable"))


class _Start(NamedTuple):
    """What a file should begin with, and how many of its bytes that replaces."""

    data: bytes
    replaced: int


class _Facts(NamedTuple):
    """What a file's header says; `start` is None if it says what the file holds."""

    rate_hz: int
    channels: int
    subtype: str
    start: _Start | None


def _inspect(path: Path, longest_s: float) -> _Facts:
    """What the header says of a file, where that is no reason to refuse it."""
    _check_regular(path)
    with _unreadable_told(path):
        start = _right_start(path)
    with _opened(path, start) as sound:
        rate_hz = sound.samplerate
        if fault := unacceptable(rate_hz, sound.channels):
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
        return _Facts(rate_hz, sound.channels, sound.subtype, start)


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
def _unreadable_told(path: Path) -> Iterator[None]:
    """Raise SourceError for a file that cannot be opened, or is no sound."""
    try:
        yield
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a name ends in .raw
        reason = getattr(error, "error_string", "raw PCM has no header")
        raise SourceError(
            f"{path}: not sound that can be read ({reason.rstrip('.')}); "
            "give a WAV, FLAC or Ogg Opus file"
        ) from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); check it") from error


@contextlib.contextmanager
def _opened(path: Path, start: _Start | None) -> Iterator[soundfile.SoundFile]:
    """The file, with the header that it should have."""
    with contextlib.ExitStack() as stack:
        with _unreadable_told(path):
            # libsndfile wants bytes: a name need not be UTF-8.
            name = os.fsencode(path)
            file = name if start is None else stack.enter_context(_Restarted(path, *start))
            sound = stack.enter_context(_Sequential(file))
        yield sound


def _right_start(path: Path) -> _Start | None:
    """What a file should begin with; None if it does.

    Raises:
        SourceError: the file holds sound of which no header tells.
    """
    with path.open("rb") as file:
        head = file.read(headers.HEAD_BYTES)
        if (right := headers.completed(head, path.stat().st_size)) is not None:
            return _Start(right, len(head))
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _check_rest(path, headers.rest(data), len(data))
            counted = headers.counted(data) if headers.is_mpeg_audio(head) else None
            if counted is None:
                return None
            start = data[: counted.start]
    with soundfile.SoundFile(os.fsencode(path)) as sound:
        guessed_s = sound.frames / sound.samplerate
    # libsndfile guesses from the first frame, which is right if the bit rate stays.
    if abs(guessed_s - counted.samples / counted.rate_hz) <= _GUESS_S:
        return None
    return _Start(start + counted.tag, counted.start)


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]  # it has no types
    """A file that is read from its start to its end.

    soundfile seeks after each read of what it can seek in, even to where it is. Of an MP3 file that
    starts the decoder anew, which distorts a frame and writes to standard error.
    """

    def seekable(self) -> bool:
        return False


def _check_rest(path: Path, rest: headers.Rest | None, size: int) -> None:
    """Refuse a file of which libsndfile would read the first part only."""
    if rest is None:
        return
    if rest.joined:
        raise SourceError(
            f"{path}: another sound file begins at byte {rest.at} of it, as after `cat`, and would "
            "not be read; give the files one by one"
        )
    whole = _quoted(path.with_name(f"{path.stem}-whole.wav"))
    raise SourceError(
        f"{path}: its header tells of {rest.at} of its {size} bytes, and the rest would not be "
        f"read; record it again, or if it is a WAV file: ffmpeg -ignore_length 1 -i "
        f"{_quoted(path)} {whole}"
    )


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


def _file_chunks(path: Path, facts: _Facts, longest_s: float) -> Iterator[Floats]:
    """30 ms after 30 ms of a file, float32 of shape (n, channels)."""
    with _opened(path, facts.start) as sound:
        frames = chunk_frames(sound.samplerate)
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
    """Energy and peak of each channel; (channels,)."""
    energy, peak = np.zeros(facts.channels), np.zeros(facts.channels)
    for chunk in _file_chunks(path, facts, longest_s):
        # What stays the same for 30 ms, a constant offset, is not heard.
        energy += np.var(chunk, axis=0, dtype=np.float64) * len(chunk)
        np.maximum(peak, np.abs(chunk).max(axis=0), out=peak)
    if peak.max() > _LOUDEST_FLOAT:
        raise SourceError(f"{path}: holds samples of {peak.max():.2g}, no sound; record it again")
    return energy, peak
