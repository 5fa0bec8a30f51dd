"""What happens to a voice on its way: noise, cabin, channel, level. Samples in, samples out.

Every condition is a pure function of the samples and a seed. All are simulated and say so; noise
levels are relative to the active speech and unweighted, as in tools/scene.py. Music is generated;
babble and the radio's speaker are the demo's synthetic voices, so that anyone has them.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import soundfile
from numpy.typing import NDArray

from tools.lab.scene import (
    HISS_LEVEL_DB,
    active_level_db,
    amplify,
    cabin,
    level_speech,
    mix,
    music,
    radio,
    read_speech,
    road_noise,
)
from whodrives.audio.blocks import SAMPLE_RATE_HZ, Floats

Treatment: TypeAlias = Callable[[Floats, np.random.Generator], Floats]

VOICES = Path(__file__).resolve().parents[2] / "profiles" / "demo" / "voices"

NOISE_S = 30.0
SPEEDS_KMH = (50.0, 80.0, 110.0)
BABBLERS = 6
LEAD_S, TAIL_S = 0.6, 1.2
"""Quiet before and after a test sound: the gate learns the noise, and hears the end."""

QUIET_DBFS = -35.0
CLIP_GAIN_DB = 20.0
"""Speech at -26 dBFS raised by this has some 5 % of its samples at full scale."""

TELEPHONE_HZ = (300.0, 3400.0)
OPUS_COMPRESSION = 0.976
"""libsndfile's scale from 0 (256 kbit/s) to 1 (6 kbit/s): 12 kbit/s."""


def _plain(samples: Floats, _rng: np.random.Generator) -> Floats:
    return samples


def padded(samples: Floats, rng: np.random.Generator) -> Floats:
    """Put a small microphone's hiss before, under and after a test sound."""
    lead, tail = round(LEAD_S * SAMPLE_RATE_HZ), round(TAIL_S * SAMPLE_RATE_HZ)
    hiss = rng.standard_normal(lead + len(samples) + tail).astype(np.float32)
    return np.pad(samples, (lead, tail)) + amplify(hiss, HISS_LEVEL_DB)


# --- noises ---------------------------------------------------------------------------------------


@cache
def _road(speed_kmh: float) -> Floats:
    return road_noise(NOISE_S, speed_kmh, round(speed_kmh))


@cache
def _white(_: float) -> Floats:
    count = round(NOISE_S * SAMPLE_RATE_HZ)
    return np.random.default_rng(1).standard_normal(count).astype(np.float32)


@cache
def _music(_: float) -> Floats:
    return music(NOISE_S, seed=5)


@cache
def _talker(number: int) -> Floats:
    """A synthetic voice that lasts for NOISE_S."""
    folders = sorted(path for path in VOICES.iterdir() if path.is_dir())
    folder = folders[(7 * number) % len(folders)]
    said = [level_speech(read_speech(path)) for path in sorted(folder.glob("*.opus"))]
    return np.resize(np.concatenate(said), round(NOISE_S * SAMPLE_RATE_HZ))


@cache
def _babble(_: float) -> Floats:
    voices = [np.roll(_talker(n), 3 * n * SAMPLE_RATE_HZ) for n in range(BABBLERS)]
    return np.asarray(np.sum(voices, axis=0), np.float32)


@cache
def _radio(number: float) -> Floats:
    return radio(_talker(BABBLERS + int(number)))


def _noisy(
    noise: Callable[[float], Floats],
    choices: tuple[float, ...],
    snr_db: float,
    samples: Floats,
    rng: np.random.Generator,
) -> Floats:
    """Add a piece of one of the noises, from a random place in it."""
    sound = noise(float(rng.choice(choices)))
    piece = np.roll(sound, -int(rng.integers(len(sound))))
    return mix(samples, np.resize(piece, len(samples)), snr_db)


def _with(noise: Callable[[float], Floats], choices: tuple[float, ...], snr_db: float) -> Treatment:
    return partial(_noisy, noise, choices, snr_db)


def _car(snr_db: float) -> Treatment:
    return _with(_road, SPEEDS_KMH, snr_db)


# --- rooms and channels ---------------------------------------------------------------------------


def _cabin(samples: Floats, rng: np.random.Generator) -> Floats:
    """A voice in a car; the cabin's reflections and the distance are drawn anew each time."""
    heard = cabin(samples, float(rng.uniform(0.5, 0.9)), seed=int(rng.integers(1 << 30)))
    return level_speech(heard, active_level_db(samples))


def _then(first: Treatment, second: Treatment) -> Treatment:
    return lambda samples, rng: second(first(samples, rng), rng)


def shaped(samples: Floats, gain: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Floats:
    """Apply a gain over Hz to the whole sound."""
    hertz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE_HZ)
    shaped = np.fft.irfft(np.fft.rfft(samples) * gain(np.maximum(hertz, 1.0)), len(samples))
    return shaped.astype(np.float32)


def _telephone(samples: Floats, _rng: np.random.Generator) -> Floats:
    """The band of ITU-T G.712, steep at both ends."""
    low, high = TELEPHONE_HZ
    return shaped(samples, lambda hz: 1 / np.sqrt((1 + (low / hz) ** 12) * (1 + (hz / high) ** 24)))


def coded(samples: Floats, rate_hz: int, *, container: str, coding: str, **how: float) -> Floats:
    """What a codec of libsndfile leaves of a sound; `how` are its further arguments."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1, 1), rate_hz, format=container, subtype=coding, **how)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return np.asarray(decoded, np.float32)


def _opus(samples: Floats, _rng: np.random.Generator) -> Floats:
    """Opus at 12 kbit/s, as a hands-free link or a cloud recorder uses it."""
    decoded = coded(
        samples, SAMPLE_RATE_HZ, container="OGG", coding="OPUS", compression_level=OPUS_COMPRESSION
    )
    return np.resize(decoded, len(samples))


def _mobile(samples: Floats, rng: np.random.Generator) -> Floats:
    """GSM 06.10 full rate, 13 kbit/s at 8 kHz: AMR's ancestor, and what libsndfile brings."""
    narrow = _telephone(samples, rng)[::2]
    decoded = coded(narrow, SAMPLE_RATE_HZ // 2, container="WAV", coding="GSM610")
    return _doubled(np.resize(decoded, len(narrow)), len(samples))


def _doubled(narrow: Floats, count: int) -> Floats:
    """From 8 to 16 kHz, with nothing above 4 kHz."""
    spectrum = np.fft.rfft(narrow)
    wide = np.zeros(count // 2 + 1, np.complex128)
    size = min(len(spectrum), len(wide))
    wide[:size] = spectrum[:size]
    return (np.fft.irfft(wide, count) * count / len(narrow)).astype(np.float32)


def _cheap(samples: Floats, rng: np.random.Generator) -> Floats:
    """A cheap electret behind a grille: no bass, a resonance at 3.5 kHz, dull above 6, hiss."""

    def gain(hz: NDArray[np.float64]) -> NDArray[np.float64]:
        resonance = 1 + 1.5 * np.exp(-0.5 * (np.log2(hz / 3500) / 0.3) ** 2)
        slopes: NDArray[np.float64] = 1 / np.sqrt((1 + (250 / hz) ** 4) * (1 + (hz / 6000) ** 8))
        return slopes * resonance

    heard = level_speech(shaped(samples, gain), active_level_db(samples))
    hiss = rng.standard_normal(len(samples)).astype(np.float32)
    return heard + amplify(hiss, active_level_db(samples) - 30)


def _quiet(samples: Floats, _rng: np.random.Generator) -> Floats:
    return level_speech(samples, QUIET_DBFS)


def _clipped(samples: Floats, _rng: np.random.Generator) -> Floats:
    return np.clip(amplify(level_speech(samples), CLIP_GAIN_DB), -1, 1)


TESTS: Mapping[str, Treatment] = {
    "clean": _plain,
    "car 10 dB": _car(10),
    "car 5 dB": _car(5),
    "car 0 dB": _car(0),
    "broadband 10 dB": _with(_white, (0.0,), 10),
    "broadband 5 dB": _with(_white, (0.0,), 5),
    "broadband 0 dB": _with(_white, (0.0,), 0),
    "music 5 dB": _with(_music, (0.0,), 5),
    "babble 5 dB": _with(_babble, (0.0,), 5),
    "radio speech 5 dB": _with(_radio, (0.0, 1.0, 2.0, 3.0), 5),
    "cabin": _cabin,
    "cabin, car 5 dB": _then(_cabin, _car(5)),
    "telephone band": _telephone,
    "Opus 12 kbit/s": _opus,
    "GSM 13 kbit/s": _mobile,
    "cheap microphone": _cheap,
    "level -35 dBFS": _quiet,
    "clipping": _clipped,
}
"""Under which an utterance is tested."""

ENROLMENTS: Mapping[str, Treatment] = {
    "clean": _plain,
    "parked car": _then(_cabin, _with(_road, (0.0,), 25)),
    "car 15 dB": _car(15),
    "cheap microphone": _cheap,
}
"""Under which a driver is enrolled. Less than 10 dB over the noise would be refused."""


def generator(*names: object) -> np.random.Generator:
    """Random numbers that belong to these names, the same on every machine."""
    return np.random.default_rng(zlib.crc32("/".join(map(str, names)).encode()))


def converted(samples: Floats) -> Floats:
    """What a 16-bit converter makes of it; a band that a codec emptied is never quite empty."""
    return (np.round(np.clip(samples, -1, 1) * 32767) / 32767).astype(np.float32)


def tested(samples: Floats, condition: str, *names: object) -> Floats:
    """A test sound under a condition, in [-1, 1]; the noise lasts longer than the speech."""
    rng = generator(condition, *names)
    return converted(TESTS[condition](padded(samples, rng), rng))


def enrolled(samples: Floats, condition: str, *names: object) -> Floats:
    """An enrolment recording under a condition, in [-1, 1]."""
    rng = generator("enrolment", condition, *names)
    return converted(ENROLMENTS[condition](padded(samples, rng), rng))
