"""Headers of sound files that say less, or something else, than the file holds.

Owns what such a header should have said. Pure: bytes go in, bytes come out; `files` reads the
file as if it began with them. Formats: RIFF, RIFX, RF64 (EBU Tech 3306), Sony
Wave64, AIFF, CAF, AU, and the frame headers of MPEG audio (ISO/IEC 11172-3 and 13818-3) with the
Xing tag that tells how many frames follow.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

Bytes: TypeAlias = mmap.mmap | bytes
"""A file's content."""


HEAD_BYTES = 1 << 16
"""The chunk of samples starts within so much of a file."""


_KBITS = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates of layer III, for MPEG 1 (3) and for MPEG 2 and 2.5 (2, 0)."""


_GUESS_S = 0.1
"""Xing tags are wrong by so much."""


_LEAST_REST = 3200
"""Fewer bytes behind the sound are no word: 0.1 s of PCM with 16 bits at 16 kHz, mono."""


_MAGICS = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"riff", b"caff", b".snd", b"OggS", b"fLaC")
"""How a sound file begins."""


_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")
"""How a block with title and author begins; it may follow the sound of any format."""


_FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
"""A FLAC stream's start: the marker, and STREAMINFO with its 34 bytes (RFC 9639, 8.1 and 8.2)."""


_MPEG_1 = 3


_MONO = 3


class _Field(NamedTuple):
    """A number in a header: where it is, how it is packed, what it should be."""

    at: int
    packed: str
    right: int


def completed(head: bytes, size: int) -> bytes | None:
    """The start of a file whose recorder never wrote how long it is, with the length that it has.

    Args:
        head: the first HEAD_BYTES of the file, or all of it.
        size: of the file, in bytes.

    Returns:
        `head` with the right numbers; None when the header already tells a length, when there is no
        sound behind it, or when it is of another format.
    """
    try:
        fields = _fields(head, size)
    except struct.error:  # the header itself is cut off
        return None
    data = bytearray(head)
    for field in fields:
        struct.pack_into(field.packed, data, field.at, field.right)
    return bytes(data) if fields else None


def _fields(head: bytes, size: int) -> list[_Field]:
    """The numbers to write; none where nothing is to be done."""
    kind = head[:4]
    if kind in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return _riff(head, size, "<")
    if kind == b"RIFX" and head[8:12] == b"WAVE":
        return _riff(head, size, ">")
    if kind == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _aiff(head, size)
    others = {b"riff": _wave64, b"caff": _caf, b".snd": _au}
    return others[kind](head, size) if kind in others else []


def _au(head: bytes, size: int) -> list[_Field]:
    (start,) = struct.unpack_from(">I", head, 4)
    return _unset(head, _Field(8, ">I", size - start))


def _unset(head: bytes, field: _Field, *empty: int) -> list[_Field]:
    """The field if it holds nothing, or one of `empty`, although there is something to tell."""
    (told,) = struct.unpack_from(field.packed, head, field.at)
    return [field] if told in (0, *empty) and field.right > 0 else []


def _riff(head: bytes, size: int, order: str) -> list[_Field]:
    long_data: int | None = None
    for name, at, _ in _chunks(head, 12, order + "4sI"):
        if name == b"ds64":
            long_data = at + 8
        elif name == b"data":
            if _only_chunks(head, at, size, order):
                return []
            fields = _unset(head, _Field(at - 4, order + "I", min(size - at, 0xFFFFFFFF)))
            if long_data is not None:
                fields += _unset(head, _Field(long_data, "<Q", size - at), 0xFFFFFFFFFFFFFFFF)
            return fields
    return []


def _only_chunks(head: bytes, at: int, size: int, order: str) -> bool:
    """Whether nothing but whole chunks follows an empty one: then the file is truly empty."""
    end = at
    while end + 8 <= min(size, len(head)):
        name, length = struct.unpack_from(order + "4sI", head, end)
        if not name.isascii() or not name.decode().isprintable():
            return False
        end += 8 + length + length % 2
    return end >= size and end <= size + 1


def _aiff(head: bytes, size: int) -> list[_Field]:
    frames: _Field | None = None
    for name, at, _ in _chunks(head, 12, ">4sI"):
        if name == b"COMM":
            channels, _, bits = struct.unpack_from(">hIh", head, at)
            frame_bytes = max(1, channels * ((bits + 7) // 8))
            frames = _Field(at + 2, ">I", frame_bytes)
        elif name == b"SSND" and frames is not None:
            right = size - at - 8
            if right <= 0:
                return []
            count = _Field(frames.at, ">I", right // frames.right)
            return _unset(head, _Field(at - 4, ">I", right + 8), 8) + _unset(head, count)
    return []


def _wave64(head: bytes, size: int) -> list[_Field]:
    at = 40
    while at + 24 <= len(head):
        name, length = struct.unpack_from("<16sQ", head, at)
        if name[:4] == b"data":
            return _unset(head, _Field(at + 16, "<Q", size - at), 24)
        at += max(24, length + -length % 8)
    return []


def _caf(head: bytes, size: int) -> list[_Field]:
    for name, at, _ in _chunks(head, 8, ">4sQ", even=False):
        if name == b"data":
            # The chunk starts with a count of edits, 4 bytes.
            right = size - at
            return _unset(head, _Field(at - 8, ">Q", right), 4) if right > 4 else []  # noqa: PLR2004
    return []


def _chunks(
    head: bytes, at: int, packed: str, *, even: bool = True
) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and length of chunk after chunk."""
    size = struct.calcsize(packed)
    while at + size <= len(head):
        name, length = struct.unpack_from(packed, head, at)
        yield name, at + size, length
        at += size + length + (length % 2 if even else 0)


class _Frame(NamedTuple):
    size: int
    samples: int
    rate_hz: int
    version: int
    mode: int


class Counted(NamedTuple):
    """An MP3 file's frames, counted.

    Attributes:
        start: where the first frame is, in bytes.
        samples: number of samples a channel.
        rate_hz: sampling rate.
        tag: a frame that tells the count, to be put in front of the first one.
    """

    start: int
    samples: int
    rate_hz: int
    tag: bytes


def counted(data: Bytes) -> Counted | None:
    """Count the frames of an MP3 file that does not say how many it has.

    Returns:
        None when it is no MP3 file, or says how many.
    """
    at = start = _first_frame(data)
    first = _frame(data, at)
    if first is None:
        return None
    if any(tag in data[start : start + first.size] for tag in (b"Xing", b"Info", b"VBRI")):
        return None
    count = 0
    while (frame := _frame(data, at)) is not None:
        count += 1
        at += frame.size
    tag = _xing(data[start : start + 4], count, at - start)
    return Counted(start, count * first.samples, first.rate_hz, tag)


class Rest(NamedTuple):
    """The end of a file that no header accounts for.

    Attributes:
        at: where it begins, in bytes.
        joined: whether another sound file begins there.
    """

    at: int
    joined: bool


def rest(data: Bytes) -> Rest | None:
    """What a sound file holds behind the sound that its header tells of; libsndfile leaves it out.

    Files that were joined (`cat a.mp3 b.mp3`), and headers that were written long before the end of
    a recording. Blocks with title and author are no rest, nor is a tenth of a second or less.

    Returns:
        None when there is none, or when the format is unknown.
    """
    try:
        end = _end(data)
    except struct.error:  # the header itself is cut off
        return None
    if end is None or end[0] == 0:  # the sound library says what is wrong at the start
        return None
    at, joined = end
    first = data[at : at + HEAD_BYTES]
    joined = joined or first.startswith(_MAGICS)
    unread = len(data) - at >= _LEAST_REST and any(first) and not first.startswith(_TAGS)
    return Rest(at, joined) if joined or unread else None


def _end(data: Bytes) -> tuple[int, bool] | None:
    """Where the sound that libsndfile reads has its end, and whether another file begins there."""
    kind = data[:4]
    if (packed := _CHUNKS.get((kind, data[8:12]))) is not None:
        return _chunks_end(data, 12, packed), False
    if kind in _ENDS:
        return _ENDS[kind](data), False
    if kind == b"fLaC":
        another = _FLAC.search(data, 4)
        return (another.start(), True) if another else None
    if kind == b"OggS":
        return _ogg_end(data)
    return _mpeg_end(data) if is_mpeg_audio(data[:HEAD_BYTES]) else None


def _chunks_end(data: Bytes, at: int, packed: str) -> int:
    """Where the last chunk has its end."""
    header = struct.calcsize(packed)
    long_data = 0
    while at + header <= len(data):
        name, length = struct.unpack_from(packed, data, at)
        if name in _MAGICS or not name.isascii() or not name.decode().isprintable():
            break
        if name == b"ds64":
            (long_data,) = struct.unpack_from("<Q", data, at + header + 8)
        elif name == b"data" and long_data and length == 0xFFFFFFFF:  # noqa: PLR2004 (EBU Tech 3306)
            length = long_data
        at += header + length
        # Some programs leave out the byte that makes a length even.
        at += header == 8 and length % 2 == 1 and data[at : at + 1] == b"\0"  # noqa: PLR2004
    return at


def _wave64_end(data: Bytes) -> int:
    """Where the last chunk has its end; a length counts the chunk's header, and is padded to 8."""
    at = 40
    while at + 24 <= len(data):
        name, length = struct.unpack_from("<4s12xQ", data, at)
        if name in _MAGICS:
            break
        at += max(24, length + -length % 8)
    return at


def _au_end(data: Bytes) -> int:
    start, length = struct.unpack_from(">II", data, 4)
    return int(start + length)


_CHUNKS = {
    (b"RIFF", b"WAVE"): "<4sI",
    (b"RF64", b"WAVE"): "<4sI",
    (b"RIFX", b"WAVE"): ">4sI",
    (b"FORM", b"AIFF"): ">4sI",
    (b"FORM", b"AIFC"): ">4sI",
}


_ENDS: Mapping[bytes, Callable[[Bytes], int]] = {
    b"caff": lambda data: _chunks_end(data, 8, ">4sQ"),
    b"riff": _wave64_end,
    b".snd": _au_end,
}


def _ogg_end(data: Bytes) -> tuple[int, bool]:
    """Where the pages end (RFC 3533, 6), or where another stream begins behind the first."""
    at, begun = 0, False
    while data[at : at + 4] == b"OggS" and at + 27 <= len(data):
        first = bool(data[at + 5] & 2)
        if first and begun:
            return at, True
        begun = begun or not first
        segments = data[at + 26]
        at += 27 + segments + sum(data[at + 27 : at + 27 + segments])
    return at, False


def _mpeg_end(data: Bytes) -> tuple[int, bool]:
    """Where the frames end, or those of which the Xing tag tells."""
    at = _first_frame(data)
    first = _frame(data, at)
    told = _told_frames(data[at : at + first.size]) if first else None
    count = 0
    while (frame := _frame(data, at)) is not None:
        # The frame with the tag is not counted, and encoders differ by one or two.
        if told is not None and (count - told - 3) * frame.samples > _GUESS_S * frame.rate_hz:
            return at, True
        count += 1
        at += frame.size
    return at, _frame(data, at + _first_frame(data[at : at + _ID3_BYTES])) is not None


def _told_frames(frame: bytes) -> int | None:
    """The number of frames that a Xing tag tells; None if it tells none."""
    for tag in (b"Xing", b"Info"):
        at = frame.find(tag)
        if at >= 0 and len(frame) >= at + 12 and frame[at + 7] & 1:
            return int.from_bytes(frame[at + 8 : at + 12], "big")
    return None


def is_mpeg_audio(data: bytes) -> bool:
    """Whether it starts with two frames of MPEG audio, layer III, or with an ID3 tag."""
    frame = _frame(data, 0)
    return data[:3] == b"ID3" or (frame is not None and _frame(data, frame.size) is not None)


_ID3_BYTES = 10
"""The header of an ID3 tag (ID3v2.4, 3.1)."""


def _first_frame(data: Bytes) -> int:
    """The length of an ID3 tag at the start; 0 without one."""
    if data[:3] != b"ID3":
        return 0
    # The length has 7 bits a byte, so that no byte looks like a frame's first (ID3v2.4, 3.1).
    length = sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=False))
    return _ID3_BYTES + length


def _frame(data: Bytes, at: int) -> _Frame | None:
    head = data[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:  # noqa: PLR2004
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    rate, kbits = head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or layer != 1 or rate == 3 or kbits in (0, 15):  # noqa: PLR2004 (reserved)
        return None
    rate_hz = (44100, 48000, 32000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    samples = 1152 if version == _MPEG_1 else 576
    bit_rate = 1000 * _KBITS[_MPEG_1 if version == _MPEG_1 else 2][kbits]
    padding = head[2] >> 1 & 1
    return _Frame(
        samples // 8 * bit_rate // rate_hz + padding, samples, rate_hz, version, head[3] >> 6
    )


def _xing(head: bytes, count: int, size: int) -> bytes:
    """A silent frame like the one that starts with `head`, with the Xing tag in it."""
    # Without checksum and padding, at the first bit rate whose frame has room for the tag.
    tag = b"Xing" + struct.pack(">III", 3, count, size)
    for kbits in range(1, 15):
        start = bytes((head[0], head[1] | 1, (kbits << 4) | (head[2] & 0x0D), head[3]))
        frame = _frame(start, 0)
        if frame is None:
            continue
        side = {True: (32, 17), False: (17, 9)}[frame.version == _MPEG_1][frame.mode == _MONO]
        if 4 + side + len(tag) <= frame.size:
            return (start + bytes(side) + tag).ljust(frame.size, b"\0")
    return b""
