"""Headers of sound files that say less, or something else, than the file holds.

Owns what such a header should have said. Pure: bytes go in, bytes come out; `files` reads the
file as if it began with them. Formats: RIFF, RIFX, RF64 (EBU Tech 3306), Sony
Wave64, AIFF, CAF, AU, and the frame headers of MPEG audio (ISO/IEC 11172-3 and 13818-3) with the
Xing tag that tells how many frames follow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import mmap


HEAD_BYTES = 1 << 16
"""The chunk of samples starts within so much of a file."""


_KBITS = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates of layer III, for MPEG 1 (3) and for MPEG 2 and 2.5 (2, 0)."""


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


def counted(data: mmap.mmap | bytes) -> Counted | None:
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


def is_mpeg_audio(data: bytes) -> bool:
    """Whether it starts with two frames of MPEG audio, layer III, or with an ID3 tag."""
    frame = _frame(data, 0)
    return data[:3] == b"ID3" or (frame is not None and _frame(data, frame.size) is not None)


def _first_frame(data: mmap.mmap | bytes) -> int:
    if data[:3] != b"ID3":
        return 0
    # The length has 7 bits a byte, so that no byte looks like a frame's first (ID3v2.4, 3.1).
    length = sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=False))
    return 10 + length


def _frame(data: mmap.mmap | bytes, at: int) -> _Frame | None:
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
