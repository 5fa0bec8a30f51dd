"""Measures sound: level, clipping, bandwidth, decay, tones, pitch.

Owns the measurements. Must not know the limits: `enrolment` decides what is too poor for a profile,
`decision` what is too poor for a verdict. Sounds are float32, shape (n,), 16 kHz mono, in [-1, 1].
All functions are pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whodrives.audio.blocks import BLOCK_SAMPLES, FULL_SCALE, SAMPLE_RATE_HZ, Floats
from whodrives.voice.types import Sound

Doubles: TypeAlias = NDArray[np.floating[Any]]


_PART = 240
"""Samples in a part of a block whose spectrum is taken, 15 ms; three overlap by half in a block."""


_VOICE_BINS = slice(5, 51)
"""Spectral bins of a telephone channel, 300 Hz to 3.4 kHz (ITU-T G.712)."""


_EDGE_BINS = slice(42, 51)
"""Bins of the upper end of that channel, 2.8 to 3.4 kHz."""


_UPPER_BINS = slice(68, 98)
"""Bins of wide-band speech that no telephone channel carries, 4.5 to 6.5 kHz."""


_MIRROR_BINS = slice(52, 22, -1)
"""The mirror of `_UPPER_BINS` at 4 kHz, 3.5 to 1.5 kHz, in the same order."""


_LOUDEST_SHARE = 0.1
"""The loudest blocks of a band, which show how far it rises with the speech."""


_FLOOR_PERCENT = 10.0
"""Percentile of a band's power that is taken for its noise."""


_NOISE_RISE = 1.8
"""Mean power of the loudest tenth of the blocks of stationary noise over the tenth percentile:
measured are at most 1.6; it depends on the bandwidth and the length of a block."""


_RESOLUTION = 0.01
"""What rises less than this share of the noise cannot be seen."""


_SPEECH_BLOCK_DB = -30.0
"""Blocks this far below the loud ones (95th percentile) are pauses, whose noise may be louder than
that below the speech: comfort noise, or an opening gain control."""


_IMAGE_COHERENCE = 0.7
"""Coherence of the upper band with its mirror at 4 kHz from which it is an image of the lower band.
Linear interpolation from 8 kHz gives 0.98 and more, wide-band speech at most 0.46."""


_LEAST_BLOCKS = 10
"""With fewer blocks without clipping, clipped ones are used too."""


_ROUNDING_POWER = 3.0 / (12.0 * 32768.0**2)
"""Three times the power of the rounding noise of 16 bits, per sample: the least noise floor."""


_LOW_HZ = (80.0, 280.0)
"""The range of the fundamental frequency, for `low_db`."""


_MIDDLE_HZ = (400.0, 3000.0)
"""The reference band of `low_db`."""


_HOP = SAMPLE_RATE_HZ // 100
"""Samples between two level frames, 10 ms."""


_FRAME = 2 * _HOP
"""Samples in a level frame, 20 ms."""


_SPEECH_RANGE_DB = 25.0
"""Level range of speech; a decay counts if it starts in the upper half."""


_FALL_FRAMES = 5
"""Hops over which a decay is measured."""


_STEEPEST = 95.0
"""Percentile of the decay rates that `decay_db_s` returns."""


_HUM_HZ = (20.0, 160.0)
"""The band of an engine's orders, for `hum_db`."""


_PITCH_HZ = (70.0, 400.0)
"""Range of the fundamental frequency of adults and children."""


_PITCH_FRAME = 640
"""Samples in a pitch frame, 40 ms."""


_VOICED = 0.6
"""Normalised autocorrelation from which a frame is voiced."""


_NEARLY = 0.9
"""The first peak of at least this share of the highest is taken as the period."""


_LEAST_VOICED = 10
"""With fewer voiced frames no pitch is returned."""


_TINY = 1e-12
"""Keeps logarithms and quotients finite."""


def dbfs(level: float) -> float:
    """Convert an RMS `level` in [0, 1] to dBFS; digital silence is -120."""
    return float(20.0 * np.log10(max(level, 1e-6)))


def level_dbfs(sound: Floats) -> float:
    """RMS level, dBFS."""
    return dbfs(float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))) if sound.size else -120


def clipped_share(sound: Floats) -> float:
    """Share of the samples at full scale, in [0, 1]."""
    return float(np.count_nonzero(np.abs(sound) >= FULL_SCALE)) / max(sound.size, 1)


class Quality:
    """Accumulates the sound quality of speech that arrives in pieces of any length.

    The band is measured over blocks of 30 ms from the start of each piece; the segmenter's pieces
    consist of whole ones. A shorter remainder is left out, and so are clipped blocks: clipping
    makes harmonics in any band.
    """

    def __init__(self) -> None:
        self._samples = 0
        self._clipped = 0
        self._energy = 0.0
        self._bands: list[_Bands] = []

    def add(self, samples: Floats) -> None:
        """Add float32 samples (n,) in [-1, 1], 16 kHz, n > 0."""
        self._samples += samples.size
        self._clipped += int(np.count_nonzero(np.abs(samples) >= FULL_SCALE))
        self._energy += float(np.sum(np.square(samples, dtype=np.float64)))
        self._bands.append(_bands(samples))

    def sound(self) -> Sound:
        """The quality of all speech so far; raises ValueError before the first piece."""
        if not self._samples:
            raise ValueError("no speech yet")
        return Sound(
            dbfs(float(np.sqrt(self._energy / self._samples))),
            self._clipped / self._samples,
            _upper_band_db(self._bands),
        )


def low_db(sound: Floats) -> float:
    """Power from 80 to 280 Hz (fundamental frequency) relative to 400 Hz to 3 kHz, dB.

    Low for speech from a small loudspeaker, which reproduces little below 500 Hz.
    """
    return _ratio_db(sound, _LOW_HZ, _MIDDLE_HZ)


def decay_db_s(sound: Floats) -> float:
    """Steepest decay of the sound, dB per second, positive; 0 if it is too short.

    Reverberation limits the decay to 60 dB per reverberation time of the room; see Wen, Habets and
    Naylor, "Blind estimation of reverberation time based on the distribution of signal decay
    rates", 2008. The rate is the slope over 50 ms of the level between 500 Hz and 4 kHz, where the
    level falls monotonically and starts at speech level.
    """
    levels = _levels_db(sound, (500.0, 4000.0))
    if levels.size <= _FALL_FRAMES:
        return 0.0
    runs = np.lib.stride_tricks.sliding_window_view(levels, _FALL_FRAMES + 1)
    falls = np.all(np.diff(runs, axis=1) < 0, axis=1)
    loud = runs[:, 0] > np.percentile(levels, 95) - _SPEECH_RANGE_DB / 2
    rates = (runs[:, 0] - runs[:, -1])[falls & loud] * 100.0 / _FALL_FRAMES
    return float(np.percentile(rates, _STEEPEST)) if rates.size else 0.0


def melody_db(sound: Floats) -> float:
    """Prominence of steady tones over the sound around them, dB; 0 if the sound is too short.

    Give it about a second of sound without speech. Noise of any colour gives the same value; steady
    tones (engine orders, music) give more. It is the level of each spectral line from 60 Hz to
    3 kHz over the median of its neighbours, averaged over the upper tenth.
    """
    size = 4096
    if sound.size < size:
        return 0.0
    starts = range(0, sound.size - size + 1, size // 2)
    power = np.mean([_power(sound[start : start + size]) for start in starts], axis=0)
    low, high = (int(hertz * size / SAMPLE_RATE_HZ) for hertz in (60.0, 3000.0))
    around = np.lib.stride_tricks.sliding_window_view(power, 31)[low - 15 : high - 15]
    over = 10 * np.log10((power[low:high] + _TINY) / (np.median(around, axis=1) + _TINY))
    return float(np.mean(np.sort(over)[-over.size // 10 :]))


def hum_db(sound: Floats) -> float:
    """Inverse spectral flatness from 20 to 160 Hz, dB, if most of the power is there; else 0.

    Give it about a second of sound without speech. Engine orders are spectral lines (four cylinders
    at 800 rpm fire 27 times a second); noise of road and wind has none. Inverse flatness is the
    arithmetic mean of the power over its geometric mean.
    """
    size = 8192
    if sound.size < size:
        return 0.0
    starts = range(0, sound.size - size + 1, size // 4)
    power = np.mean([_power(sound[start : start + size]) for start in starts], axis=0)
    hertz = np.arange(power.size) * SAMPLE_RATE_HZ / size
    low = power[(hertz > _HUM_HZ[0]) & (hertz < _HUM_HZ[1])]
    if low.sum() < power[hertz >= _HUM_HZ[1]].sum():
        return 0.0
    return float(10 * np.log10(low.mean() / np.exp(np.log(low + _TINY * _TINY).mean())))


def pitch_semitones(sound: Floats) -> Doubles:
    """Pitch of each voiced 40 ms frame, semitones above 70 Hz, (k,); empty if too few are voiced.

    Uses the peak of the normalised autocorrelation between 70 and 400 Hz.
    """
    count = max(0, (sound.size - _PITCH_FRAME) // (_PITCH_FRAME // 2) + 1)
    if not count:
        return np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(sound, _PITCH_FRAME)[:: _PITCH_FRAME // 2]
    frames = (frames - frames.mean(axis=1, keepdims=True)) * np.hanning(_PITCH_FRAME)
    window = np.hanning(_PITCH_FRAME)
    size = 2 * _PITCH_FRAME
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, size, axis=1)) ** 2, axis=1)
    own = np.fft.irfft(np.abs(np.fft.rfft(window, size)) ** 2)
    first, last = (int(SAMPLE_RATE_HZ / hertz) for hertz in reversed(_PITCH_HZ))
    lags = correlation[:, first:last] / (correlation[:, :1] + _TINY) * own[0] / own[first:last]
    # Take the first peak near the maximum: multiples of the period are peaks, too.
    near = lags > _NEARLY * lags.max(axis=1, keepdims=True)
    best = np.argmax(near & (lags >= np.roll(lags, -1, axis=1)), axis=1)
    loud = correlation[:, 0] > 0.05 * np.percentile(correlation[:, 0], 95)
    voiced = (lags[np.arange(len(lags)), best] > _VOICED) & loud
    if np.count_nonzero(voiced) < _LEAST_VOICED:
        return np.zeros(0)
    hertz = SAMPLE_RATE_HZ / (best[voiced] + first)
    return np.asarray(12 * np.log2(hertz / _PITCH_HZ[0]))


@dataclass(frozen=True, slots=True)
class _Bands:
    """Power of k blocks by band, and how the upper band compares with its mirror at 4 kHz.

    `voice`, `edge` and `upper` are sums over the bins; `mirrored` is the product of the spectra of
    the upper band and of its mirror, `mirrored_size` the product of their magnitudes; all (k,).
    """

    voice: Doubles
    edge: Doubles
    upper: Doubles
    mirrored: NDArray[np.complexfloating[Any]]
    mirrored_size: Doubles
    clipped: NDArray[np.bool_]


def _bands(samples: Floats) -> _Bands:
    blocks = samples[: samples.size // BLOCK_SAMPLES * BLOCK_SAMPLES].reshape(-1, BLOCK_SAMPLES)
    starts = range(0, BLOCK_SAMPLES - _PART + 1, _PART // 2)
    parts = np.stack([blocks[:, start : start + _PART] for start in starts], axis=1)
    spectrum = np.fft.rfft(parts.astype(np.float64) * np.hanning(_PART + 1)[:-1], axis=2)
    power = np.mean(np.abs(spectrum) ** 2, axis=1)
    mirrored = spectrum[:, :, _UPPER_BINS] * spectrum[:, :, _MIRROR_BINS]
    return _Bands(
        power[:, _VOICE_BINS].sum(axis=1),
        power[:, _EDGE_BINS].sum(axis=1),
        power[:, _UPPER_BINS].sum(axis=1),
        mirrored.sum(axis=(1, 2)),
        np.abs(mirrored).sum(axis=(1, 2)),
        np.any(np.abs(blocks) >= FULL_SCALE, axis=1),
    )


def _upper_band_db(pieces: Sequence[_Bands]) -> float:
    """`Sound.upper_band_db`; 0 without a single block.

    Compared is what rises with the speech, because the level alone says little: rounding noise and
    hiss fill an upper band that carries no speech. An upper band that is the mirror image of the
    lower one does not count either: poor interpolation from 8 kHz leaves it.
    """
    clipped = np.concatenate([piece.clipped for piece in pieces])
    if not clipped.size:
        return 0.0
    kept = ~clipped if np.count_nonzero(~clipped) >= _LEAST_BLOCKS else np.ones_like(clipped)
    voice, edge, upper, size = (
        np.concatenate([getattr(piece, name) for piece in pieces])[kept]
        for name in ("voice", "edge", "upper", "mirrored_size")
    )
    speech = voice >= np.percentile(voice, 95) * 10 ** (_SPEECH_BLOCK_DB / 10)
    is_image = _imaged(pieces, kept) > _IMAGE_COHERENCE * float(size.sum())
    least = _RESOLUTION * _noise(upper, _UPPER_BINS)
    rise = least if is_image else _rise(upper, speech, _UPPER_BINS)
    below = _decibels(_rise(edge, speech, _EDGE_BINS)) + _decibels(float(voice.mean()))
    return _decibels(rise) - below / 2


def _imaged(pieces: Sequence[_Bands], kept: NDArray[np.bool_]) -> float:
    """How much of `mirrored_size` is of one phase: all of it if the upper band is an image.

    An image and its mirror are the same samples' spectrum, so that their product has the phase of
    the clock of 8 kHz. It turns steadily if that clock is not exactly half of ours.
    """
    ends = np.cumsum([piece.clipped.size for piece in pieces])
    imaged = 0.0
    for piece, used in zip(pieces, np.split(kept, ends[:-1]), strict=True):
        if used.any():
            turning = np.fft.fft(np.where(used, piece.mirrored, 0.0), 2 * used.size)
            imaged += float(np.abs(turning).max())
    return imaged


def _noise(power: Doubles, bins: slice) -> float:
    """Noise in a band, given its power in each block; at least the rounding noise of 16 bits."""
    window = float(np.sum(np.hanning(_PART + 1) ** 2))
    least: float = _ROUNDING_POWER * window * (bins.stop - bins.start)
    return max(float(np.percentile(power, _FLOOR_PERCENT)), least)


def _rise(power: Doubles, speech: NDArray[np.bool_], bins: slice) -> float:
    """How far the power of a band rises above its noise with the speech, at least what is seen."""
    noise = _noise(power, bins)
    loudest = np.sort(power[speech])[-max(1, round(_LOUDEST_SHARE * np.count_nonzero(speech))) :]
    rise: float = max(float(loudest.mean()) - _NOISE_RISE * noise, _RESOLUTION * noise)
    return rise


def _decibels(power: float) -> float:
    return 10.0 * float(np.log10(power + 1e-20))


def _power(sound: Floats) -> Doubles:
    return np.asarray(np.abs(np.fft.rfft(sound * np.hanning(sound.size))) ** 2)


def _ratio_db(sound: Floats, band: tuple[float, float], to: tuple[float, float]) -> float:
    power = _power(sound)
    hertz = np.fft.rfftfreq(sound.size, 1.0 / SAMPLE_RATE_HZ)
    return _decibels(_within(power, hertz, band)) - _decibels(_within(power, hertz, to))


def _within(power: Doubles, hertz: Doubles, band: tuple[float, float]) -> float:
    return float(power[(hertz > band[0]) & (hertz < band[1])].sum())


def _levels_db(sound: Floats, band: tuple[float, float]) -> Doubles:
    """Level of each 20 ms frame, every 10 ms, within a band, dB; (k,)."""
    if sound.size < _FRAME:
        return np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(sound, _FRAME)[::_HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(_FRAME), axis=1)) ** 2
    hertz = np.fft.rfftfreq(_FRAME, 1.0 / SAMPLE_RATE_HZ)
    within = (hertz > band[0]) & (hertz < band[1])
    return np.asarray(10 * np.log10(power[:, within].sum(axis=1) + _TINY))
