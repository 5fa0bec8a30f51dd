"""Cuts mono sound of any rate into 30 ms blocks at 16 kHz, and paces a recording in real time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice

import numpy as np
import soxr

from whodrives import clock
from whodrives.audio.blocks import BLOCK_S, BLOCK_SAMPLES, SAMPLE_RATE_HZ, AudioBlock, Floats
from whodrives.audio.offset import OFFSET_BLOCKS, Offset

MOST_CHANNELS = 32


HIGHEST_RATE_HZ = 192_000
"""No microphone needs more; memory and time for a file are bounded by these and its length."""


def paced(
    blocks: Iterable[AudioBlock],
    clock: Callable[[], float] = clock.now_s,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[AudioBlock]:
    """Give blocks as a microphone would: in real time and with `at_s` from `clock`.

    The samples are not changed, and a late source is not delayed further. A pipe that is live
    keeps time itself: give it a `sleep` that does nothing, since its clock may be the faster one.
    """
    start_s = None
    for block in blocks:
        if start_s is None:
            start_s = clock() - block.at_s + BLOCK_S
        sleep(max(0.0, start_s + block.at_s - clock()))
        yield replace(block, at_s=clock())


class Cutter:
    """Cuts mono sound of one rate into read-only arrays of BLOCK_SAMPLES at 16 kHz.

    Resamples with soxr at its "HQ" setting, whose delay it makes up for, so the first sample out
    is the first sample in. The output does not depend on the sizes of the input's pieces.
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


def cut_blocks(
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
    cutter = Cutter(rate_hz)
    for chunk in chunks:
        yield from cutter.feed(chunk)
    yield from cutter.feed(np.empty(0, np.float32), last=True)


def chunk_frames(rate_hz: int) -> int:
    """Frames that last as long as a block at this rate."""
    return int(rate_hz * BLOCK_S)


def _too_low(rate_hz: float) -> str:
    return (
        f"sampled at {rate_hz:.0f} Hz, which lacks the upper band of a voice; "
        "record at 16 kHz or more"
    )


def unacceptable(rate_hz: int, channels: int) -> str:
    """Why sound of this rate and so many channels is refused; empty when it is not."""
    if rate_hz < SAMPLE_RATE_HZ:
        return _too_low(rate_hz)
    if rate_hz > HIGHEST_RATE_HZ:
        return f"sampled at {rate_hz} Hz; record at {HIGHEST_RATE_HZ} Hz or less"
    if channels > MOST_CHANNELS:
        return f"has {channels} channels; record {MOST_CHANNELS} or fewer"
    return ""
