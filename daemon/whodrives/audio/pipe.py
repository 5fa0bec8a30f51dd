"""Reads raw PCM from a stream, such as standard input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from whodrives.audio import rawformat
from whodrives.audio.blocks import SAMPLE_RATE_HZ, AudioBlock, Floats
from whodrives.audio.framing import chunk_frames, cut_blocks, unacceptable
from whodrives.errors import SourceError

_PIECE_S = 0.5
"""At most so much of a pipe is taken at one go."""


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
    if fault := unacceptable(rate_hz, channels):
        raise SourceError(f"the pipe: {fault}")
    if channels < 1:
        raise SourceError(f"the pipe: {channels} channels cannot be; give 1 or more")
    return cut_blocks(_pipe_chunks(stream, rate_hz, channels), rate_hz)


def _pipe_chunks(stream: BinaryIO, rate_hz: int, channels: int) -> Iterator[Floats]:
    """What has come of the first channel of a raw stream, piece by piece, float32 of shape (n,)."""
    frame_bytes = 2 * channels
    data = _read_fully(stream, chunk_frames(rate_hz) * frame_bytes)
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
