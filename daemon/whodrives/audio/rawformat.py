"""What comes through a pipe that should carry signed 16-bit little-endian PCM, and does not.

Owns how other formats are told: files by their first bytes, other sample formats by what the bytes
would sound like. Pure.

Sound is smooth: neighbouring samples are alike, whatever is said or plays. Read in a wrong format
it is loud noise. So a wrong format is one in which a second of bytes is loud and rough as 16-bit
PCM and smooth as something else; real noise, which is rough in every format, is left alone. Of 250
recordings of speech and of noise, each as it is, quiet and clipped, none was taken for another
format (2026-12-01). Signed 8-bit samples are not noticed: they are smooth at twice the speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

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


def _unsigned8(data: bytes) -> Floats:
    return np.asarray((np.frombuffer(data, np.uint8) - 128.0) / 128.0, np.float32)


def _packed24(little: bool) -> Callable[[bytes], Floats]:  # noqa: FBT001
    def read(data: bytes) -> Floats:
        three = np.frombuffer(data, np.uint8).reshape(-1, 3)
        wide = np.zeros((len(three), 4), np.uint8)
        wide[:, 1:] = three if little else three[:, ::-1]
        return np.asarray(wide.view("<i4")[:, 0] / 2.0**31, np.float32)

    return read


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


UNSIGNED_8 = Format("unsigned 8-bit", "u8")


FULL, QUIET = 0.7, 0.25
"""Unsigned 8-bit silence, the byte 128, is full scale as the upper byte of a sample: what is above
FULL most of the time and below QUIET as 8-bit sound (RMS) is 8-bit sound."""


ROUGH = 0.3
"""Sound whose neighbouring samples correlate less than this is noise, or read wrongly."""


SMOOTH = 0.6
"""Sound whose neighbouring samples correlate more than this is not read wrongly."""


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
        if float(np.median(np.abs(expected))) > FULL and float(np.std(_unsigned8(window))) < QUIET:
            return UNSIGNED_8
        if _smoothness(expected[:: self._channels]) >= ROUGH:
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


def _smoothness(samples: Floats) -> float:
    """Correlation of each sample with the next, in [-1, 1]; 0 for a constant."""
    if samples.size < 2:  # noqa: PLR2004
        return 0.0
    wide = samples.astype(np.float64)
    wide -= wide.mean()
    energy = float(wide @ wide)
    return float(wide[1:] @ wide[:-1]) / energy if energy > 0 else 0.0
