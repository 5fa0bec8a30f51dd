"""A PortAudio device that delivers blocks from its own thread."""

from __future__ import annotations

import atexit
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from whodrives import clock
from whodrives.audio.blocks import (
    BLOCK_S,
    SAMPLE_RATE_HZ,
    AudioBlock,
    Floats,
    SourceHealth,
    SourceState,
)
from whodrives.audio.framing import Cutter, chunk_frames
from whodrives.audio.offset import Offset
from whodrives.errors import SourceError

STALL_S = 2.0
"""A microphone that gave nothing for so long is stuck."""


_WATCHED_S = 0.7
"""Whoever asks for a stalled device asks at least so often, unless it was not scheduled."""


BACKLOG_BLOCKS = 333
"""Blocks of a microphone that may wait to be taken: ten seconds."""


_LATENCY_S = 0.2
"""What the device's buffer shall hold while Python is busy; blocks still come at once."""


_LONGEST_DELAY_S = 1.0
"""A device that claims to deliver later than this has no usable clock."""


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
        self._cutter = Cutter(SAMPLE_RATE_HZ)
        self._offset = Offset()
        self._heard_s = -math.inf
        self._last_call_s = -math.inf
        self._asked_s = -math.inf
        self._silent_s = 0.0
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
        """Whether the device is open and has given nothing for STALL_S, at monotonic `now_s`.

        To be asked often. Between two questions at most _WATCHED_S count: a process that was not
        scheduled for longer got no sound either, and the device is not to blame.
        """
        if self._last_call_s >= self._asked_s:
            self._silent_s = min(now_s - self._last_call_s, _WATCHED_S)
        else:
            self._silent_s += min(now_s - self._asked_s, _WATCHED_S)
        self._asked_s = now_s
        return self._stream is not None and self._silent_s > STALL_S

    def _refused(self, device: Device, rate_hz: int) -> str:
        """Open the device at a rate; what it gives as the reason if it refuses, else nothing."""
        portaudio = _portaudio()
        self._rate_hz, self._cutter, self._offset = rate_hz, Cutter(rate_hz), Offset()
        self._hearing, self._last_call_s = False, clock.now_s()
        try:
            stream = portaudio.InputStream(
                device=device.index,
                samplerate=rate_hz,
                channels=1,
                dtype="float32",
                blocksize=chunk_frames(rate_hz),
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
