"""What comes through a pipe that should carry signed 16-bit little-endian PCM, and does not.

Owns how other formats are told: files by their first bytes, other sample formats by what the bytes
would sound like. Pure.

Sound is smooth: neighbouring samples are alike, whatever is said or plays. Read in a wrong format
it is loud noise. So a wrong format is one in which a second of bytes is loud and rough as 16-bit
PCM and smooth as something else; real noise, which is rough in every format, is left alone. Two
8-bit samples make one that is smooth as well; they are told by the correlation of the two bytes,
since the lower byte of loud 16-bit samples correlates with nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from whodrives.audio.blocks import Floats
from whodrives.audio.headers import is_mpeg_audio

_MAGIC = (
    (0, b"RIFF", "WAV"),
    (0, b"RIFX", "WAV"),
    (0, b"RF64", "WAV"),
    (0, b"riff", "Wave64"),
    (0, b"FORM", "AIFF"),
    (0, b".snd", "AU"),
    (0, b"caff", "CAF"),
    (0, b"OggS", "Ogg"),
    (0, b"fLaC", "FLAC"),
    (4, b"ftyp", "MP4 or M4A"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA"),
    (0, b"#!AMR", "AMR"),
    (0, b"NIST_1A", "NIST Sphere"),
    (0, b"\x1f\x8b\x08", "gzip"),
)


_ADTS = 0xFFF0


_ADTS_MASK = 0xFFF6


START_BYTES = 4096
"""So much of the start of a pipe shows which file it is."""


def file_kind(start: bytes) -> str:
    """What kind of sound file begins so; empty for what may be raw samples."""
    for at, magic, kind in _MAGIC:
        if start[at : at + len(magic)] == magic:
            return kind
    if is_mpeg_audio(start):
        return "MP3"
    return "AAC" if _is_adts(start) else ""


def _is_adts(start: bytes) -> bool:
    """Whether two ADTS frames follow each other (ISO/IEC 13818-7, 6.2)."""
    at = 0
    for _ in range(2):
        head = start[at : at + 6]
        if len(head) < 6 or int.from_bytes(head[:2], "big") & _ADTS_MASK != _ADTS:  # noqa: PLR2004
            return False
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        if length < 7:  # noqa: PLR2004 (no shorter than its own header)
            return False
        at += length
    return True


class Format(NamedTuple):
    """A sample format: its name for people, and for ffmpeg."""

    text: str
    ffmpeg: str


def _integers(packed: str) -> Callable[[bytes], Floats]:
    full = 2.0 ** (8 * np.dtype(packed).itemsize - 1)

    def read(data: bytes) -> Floats:
        return np.asarray(np.frombuffer(data, packed) / full, np.float32)

    return read


def _unsigned(packed: str) -> Callable[[bytes], Floats]:
    half = 2.0 ** (8 * np.dtype(packed).itemsize - 1)

    def read(data: bytes) -> Floats:
        return np.asarray(np.frombuffer(data, packed) / half - 1, np.float32)

    return read


def _companded(table: Floats) -> Callable[[bytes], Floats]:
    """Samples of ITU-T G.711, by the table of its 256 bytes."""

    def read(data: bytes) -> Floats:
        return np.asarray(table[np.frombuffer(data, np.uint8)], np.float32)

    return read


def _packed24(little: bool) -> Callable[[bytes], Floats]:  # noqa: FBT001
    def read(data: bytes) -> Floats:
        three = np.frombuffer(data, np.uint8).reshape(-1, 3)
        wide = np.zeros((len(three), 4), np.uint8)
        wide[:, 1:] = three if little else three[:, ::-1]
        return np.asarray(wide.view("<i4")[:, 0] / 2.0**31, np.float32)

    return read


def _a_law() -> Floats:
    byte = np.arange(256) ^ 0x55
    exponent, mantissa = byte >> 4 & 7, byte & 15
    size = np.where(
        exponent == 0, 2 * mantissa + 1, (2 * mantissa + 33) << np.maximum(exponent - 1, 0)
    )
    return np.asarray(np.where(byte & 0x80, size, -size) / 4096, np.float32)


def _mu_law() -> Floats:
    byte = np.arange(256) ^ 0xFF
    size = ((2 * (byte & 15) + 33) << (byte >> 4 & 7)) - 33
    return np.asarray(np.where(byte & 0x80, -size, size) / 8192, np.float32)


def _are_floats(data: bytes, packed: str, most_zeros: float) -> bool:
    """Whether the bytes are floats of a plausible size, at most so many of them zero."""
    with np.errstate(all="ignore"):
        size = np.abs(np.frombuffer(data, packed))
        plausible = (size == 0) | ((size > _LEAST_FLOAT) & (size < _MOST_FLOAT))
    return bool(np.mean(plausible) >= _PLAUSIBLE and np.mean(size == 0) <= most_zeros)


_LEAST_FLOAT, _MOST_FLOAT = 1e-9, 16.0


_PLAUSIBLE = 0.999


_MOST_ZEROS = 0.5


_EXPECTED = _integers("<i2")


FLOATS: Mapping[str, Format] = {
    "<f4": Format("32-bit float", "f32le"),
    ">f4": Format("32-bit float, big-endian", "f32be"),
    "<f8": Format("64-bit float", "f64le"),
}
"""By NumPy's name of the type."""


INTEGERS: Mapping[Format, Callable[[bytes], Floats]] = {
    Format("16-bit big-endian", "s16be"): _integers(">i2"),
    Format("24-bit", "s24le"): _packed24(little=True),
    Format("24-bit big-endian", "s24be"): _packed24(little=False),
    Format("32-bit", "s32le"): _integers("<i4"),
    Format("32-bit big-endian", "s32be"): _integers(">i4"),
}
"""Each with what reads it: from bytes, a whole number of samples, to samples in [-1, 1]."""


BYTES: Mapping[Format, Callable[[bytes], Floats]] = {
    Format("8-bit", "s8"): _integers("i1"),
    Format("A-law", "alaw"): _companded(_a_law()),
    Format("mu-law", "mulaw"): _companded(_mu_law()),
}
"""Formats of one byte, in which neighbouring bytes are alike."""


UNSIGNED: Mapping[Format, Callable[[bytes], Floats]] = {
    Format("unsigned 8-bit", "u8"): _unsigned("u1"),
    Format("unsigned 16-bit", "u16le"): _unsigned("<u2"),
}
"""Formats in which silence is the middle of the range."""


FULL, QUIET = 0.7, 0.25
"""Unsigned silence, the middle of the range, is full scale as a signed sample: what is above FULL
most of the time, and below QUIET (RMS) and smooth as unsigned sound, is unsigned sound."""


ROUGH = 0.3
"""Sound whose neighbouring samples correlate less than this is noise, or read wrongly."""


SMOOTH = 0.6
"""Sound whose neighbouring samples correlate more than this is not read wrongly."""


_LEAST_VALUES = 16
"""Different bytes in a second of sound; four times as many in loud 8-bit sound. A square wave has
a few, which correlate by chance, and it is quiet as unsigned sound."""


LOUD = 0.05
"""RMS, -26 dBFS: sound that is read wrongly is at least as loud."""


WINDOW_S = 1.0


WINDOWS = 10
"""So many loud windows are examined: whoever sends raw PCM goes on doing so."""


_FRAME_BYTES = 24
"""A multiple of this holds whole samples of every format."""


class FormatCheck:
    """Watches the start of a pipe for another sample format.

    Args:
        rate_hz: frames per second.
        channels: samples in a frame.
    """

    def __init__(self, rate_hz: int, channels: int) -> None:
        unit = _FRAME_BYTES * channels
        self._size = max(1, int(WINDOW_S * rate_hz * 2 * channels) // unit) * unit
        self._channels = channels
        self._held = b""
        self._left = WINDOWS

    def hear(self, data: bytes) -> Format | None:
        """Take the next bytes, in order and without a gap; the format that they are really in."""
        if not self._left:
            return None
        self._held += data
        while len(self._held) >= self._size and self._left:
            window, self._held = self._held[: self._size], self._held[self._size :]
            found = self._examined(window)
            if found is not None:
                return found
        if not self._left:
            self._held = b""
        return None

    def _examined(self, window: bytes) -> Format | None:
        expected = _EXPECTED(window)
        if float(np.std(expected)) < LOUD:
            return None
        self._left -= 1
        if (other := _unlike_signed_16(window, expected)) is not None:
            return other
        # A whistle near half the sampling rate is alike in every second sample: not wrong either.
        if abs(_smoothness(expected[:: self._channels])) >= ROUGH:
            return None
        for packed, floats in FLOATS.items():
            # No other bytes are numbers of a plausible size throughout.
            if _are_floats(window, packed, _MOST_ZEROS):
                return floats
        if any(_are_floats(window, packed, most_zeros=1.0) for packed in FLOATS):
            # Floats between pauses of zeros: the next windows tell which.
            self._left += 1
            return None
        found = {
            other: _smoothness(read(window)[:: self._channels]) for other, read in INTEGERS.items()
        }
        smoothest = max(found, key=found.__getitem__)
        return smoothest if found[smoothest] > SMOOTH else None


def _unlike_signed_16(window: bytes, expected: Floats) -> Format | None:
    """The unsigned or 8-bit format that the bytes are in; None if they are in none."""
    lower, upper = np.frombuffer(window, np.int8).reshape(-1, 2).T
    values = np.unique(lower).size
    if values < _LEAST_VALUES:
        return None
    if float(np.median(np.abs(expected))) > FULL:
        heard = {each: read(window) for each, read in UNSIGNED.items()}
        smooth = {
            each: correlation
            for each, samples in heard.items()
            # Clipped sound is quiet as unsigned sound, and rough.
            if float(np.std(samples)) < QUIET and (correlation := _smoothness(samples)) > SMOOTH
        }
        return max(smooth, key=smooth.__getitem__, default=None)
    if values < 4 * _LEAST_VALUES or _correlation(lower, upper) < SMOOTH:
        return None
    return max(BYTES, key=lambda each: _smoothness(BYTES[each](window)))


def _smoothness(samples: Floats) -> float:
    """Correlation of each sample with the next, in [-1, 1]; 0 for a constant."""
    return _correlation(samples[:-1], samples[1:])


def _correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Correlation of two signals, in [-1, 1]; 0 if one is empty or constant."""
    if not one.size:
        return 0.0
    first, second = one - one.mean(dtype=np.float64), other - other.mean(dtype=np.float64)
    energy = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / energy if energy > 0 else 0.0
