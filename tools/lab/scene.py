"""Mix a drive: voices, a radio and road noise into one signal, with the truth about who spoke when.

    python tools/scene.py SCRIPT.yaml --voices DIR --out drive.opus [--truth drive.json]

The script is YAML:

    seed: 7                  # same seed, same samples
    seconds: 60              # optional; else two seconds after the last voice
    noise:                   # optional; without it only a microphone's own hiss
      level_db: -30          # dBFS at 100 km/h; other speeds follow from it
      speed_kmh: [[0, 0], [20, 0], [30, 50]]   # [seconds, km/h], straight lines in between
    spoken:
      - {at: 3.0, file: af_heart/1.opus, who: anna, role: driver, treatment: cabin, gain_db: 0}

`treatment` is plain, cabin (a voice in the front seats), rear (from the back seat), radio (a voice
from the loudspeakers) or radio_music (the same over music). `gain_db` is relative to speech at
-26 dBFS, ITU-T P.56's usual active level.

Everything here is synthetic and says so: the spectra are fitted by eye to published descriptions,
which each function names. It stands in for recordings in a car until there are some.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from numpy.typing import NDArray

from whodrives.audio.blocks import BLOCK_SAMPLES, SAMPLE_RATE_HZ, Floats
from whodrives.errors import ConfigError, WhodrivesError

Doubles = NDArray[np.float64]

SPEECH_LEVEL_DB = -26.0
"""dBFS of active speech at gain 0 (ITU-T P.56 and G.191 use this level for speech material)."""

HISS_LEVEL_DB = -75.0
"""dBFS of a small microphone's own noise; digital zero is never heard in a car."""

ACTIVE_RANGE_DB = 25.0
"""A 30 ms frame this far below the loud ones (95th percentile) no longer holds speech."""

FRAME = SAMPLE_RATE_HZ // 100
"""10 ms: the pace of everything that changes slowly."""


# --- levels -------------------------------------------------------------------------------------


def frame_levels_db(samples: Floats) -> Doubles:
    """Level of each whole 30 ms frame, dBFS, shape (n // BLOCK_SAMPLES,)."""
    frames = samples[: len(samples) // BLOCK_SAMPLES * BLOCK_SAMPLES].reshape(-1, BLOCK_SAMPLES)
    power: Doubles = np.mean(np.square(frames, dtype=np.float64), axis=1)
    levels: Doubles = 10 * np.log10(np.maximum(power, 1e-12))
    return levels


def active_frames(clean: Floats) -> NDArray[np.bool_]:
    """Which 30 ms frames of a clean recording hold speech, by level alone."""
    levels = frame_levels_db(clean)
    if not len(levels):
        return np.zeros(0, np.bool_)
    active: NDArray[np.bool_] = levels > np.percentile(levels, 95) - ACTIVE_RANGE_DB
    return active


def active_level_db(clean: Floats) -> float:
    """Mean level of the frames that hold speech, dBFS (the idea of ITU-T P.56)."""
    levels = frame_levels_db(clean)[active_frames(clean)]
    return float(10 * np.log10(np.mean(10 ** (levels / 10)))) if len(levels) else -120.0


def amplify(samples: Floats, gain_db: float) -> Floats:
    """Change the level by so many dB."""
    return (samples * 10 ** (gain_db / 20)).astype(np.float32)


def level_speech(clean: Floats, level_db: float = SPEECH_LEVEL_DB) -> Floats:
    """Bring the active speech of a clean recording to a level in dBFS."""
    return amplify(clean, level_db - active_level_db(clean))


def mix(speech: Floats, noise: Floats, snr_db: float) -> Floats:
    """Add noise so that the *speech-active* part of `speech` stands `snr_db` above it.

    Unweighted, over the whole band. Car noise is loudest below 200 Hz, so 5 dB of it sounds milder
    than 5 dB of white noise. `noise` is at least as long as `speech`.
    """
    noise = noise[: len(speech)]
    noise_db = 10 * np.log10(max(float(np.mean(np.square(noise, dtype=np.float64))), 1e-12))
    return speech + amplify(noise, active_level_db(speech) - snr_db - noise_db)


# --- road noise ---------------------------------------------------------------------------------

# (Hz, dB of power density). Structure-borne tyre noise dominates below 500 Hz and falls steeply
# above; see Sandberg and Ejsmont, "Tyre/Road Noise Reference Book", 2002. The bump at 225 Hz is
# the resonance of the air in the tyre: Thompson, "Plane wave resonance in the tire air cavity as a
# vehicle interior noise source", 1995.
TYRE_SPECTRUM = (
    (20, -10), (40, 0), (110, -3), (200, -8), (225, -3), (250, -9),
    (500, -19), (1000, -24), (2000, -38), (4000, -52), (8000, -66),
)  # fmt: skip

# Turbulent flow over pillars and mirrors: broad, falling slowly.
WIND_SPECTRUM = (
    (20, -6), (100, 0), (500, -6), (1000, -12), (2000, -20), (4000, -30), (8000, -42),
)  # fmt: skip

TYRE_EXPONENT_DB = 35.0
"""dB per decade of speed; Sandberg and Ejsmont give 30 to 40."""

WIND_EXPONENT_DB = 60.0
"""Sixth power of the speed: Curle, "The influence of solid boundaries upon aerodynamic
sound", 1955."""

WIND_AT_100_DB = -8.0
ENGINE_AT_3000_RPM_DB = -6.0
IDLE_RPM = 800.0

# km/h up to which a gear is used, and km/h per 1000 rpm in it: a usual five-speed gearbox.
GEARS = ((15.0, 8.0), (28.0, 14.0), (45.0, 22.0), (70.0, 31.0), (1e9, 40.0))

# Four cylinders fire twice per turn, so the even orders lead. (Order of the crankshaft, dB.)
ENGINE_ORDERS = ((0.5, -22), (1, -14), (1.5, -22), (2, 0), (3, -18), (4, -8), (6, -13), (8, -20))


def _shaped(rng: np.random.Generator, count: int, spectrum: Sequence[tuple[int, int]]) -> Doubles:
    """Gaussian noise of RMS 1 with this power spectrum, straight lines over the logarithm of Hz."""
    hz, db = np.array(spectrum, np.float64).T
    bins = np.fft.rfftfreq(count, 1 / SAMPLE_RATE_HZ)
    gain = 10 ** (np.interp(np.log(np.maximum(bins, 1.0)), np.log(hz), db) / 20)
    gain[bins < hz[0] / 2] = 0
    noise: Doubles = np.fft.irfft(np.fft.rfft(rng.standard_normal(count)) * gain, count)
    noise /= max(float(np.sqrt(np.mean(noise**2))), 1e-12)
    return noise


def _wander(rng: np.random.Generator, frames: int, pace_s: float) -> Doubles:
    """Slow random movement of standard deviation 1, one value per 10 ms."""
    knots = rng.standard_normal(int(frames * 0.01 / pace_s) + 3)
    at = np.arange(frames) * 0.01 / pace_s
    values: Doubles = np.interp(at, np.arange(len(knots)), knots)
    return values


def _stretch(frames: Doubles, count: int) -> Doubles:
    """One value per 10 ms to one per sample."""
    return np.interp(np.arange(count), np.arange(len(frames)) * FRAME, frames)


def _rpm(speed_kmh: Doubles) -> Doubles:
    limits, ratios = np.array(GEARS).T
    ratio = ratios[np.searchsorted(limits, speed_kmh)]
    rpm = np.maximum(IDLE_RPM, speed_kmh / ratio * 1000)
    clutch = np.ones(30) / 30  # a change of gear takes 0.3 s
    smooth: Doubles = np.convolve(np.pad(rpm, (15, 14), mode="edge"), clutch, mode="valid")
    return smooth


def _engine(rng: np.random.Generator, speed_kmh: Doubles, count: int) -> Doubles:
    rpm = _rpm(speed_kmh) * (1 + 0.004 * _wander(rng, len(speed_kmh), 0.15))
    turns = np.cumsum(_stretch(rpm, count)) / 60 / SAMPLE_RATE_HZ
    sound = np.zeros(count)
    for order, db in ENGINE_ORDERS:
        loudness = db + 1.5 * _wander(rng, len(speed_kmh), 0.4)
        phase = 2 * np.pi * (order * turns + rng.random())
        sound += _stretch(10 ** (loudness / 20), count) * np.sin(phase)
    gain_db = ENGINE_AT_3000_RPM_DB + 30 * np.log10(rpm / 3000)
    return sound * _stretch(10 ** (gain_db / 20), count)


def drive_noise(speed_kmh: Doubles, seed: int) -> Floats:
    """Noise of a drive whose speed is given per 10 ms; the tyres at 100 km/h have RMS 1."""
    rng = np.random.default_rng(seed)
    count = len(speed_kmh) * FRAME
    decades = np.log10(np.maximum(speed_kmh, 1.0) / 100)
    tyre_db = TYRE_EXPONENT_DB * decades + 1.5 * _wander(rng, len(speed_kmh), 0.7)
    wind_db = WIND_AT_100_DB + WIND_EXPONENT_DB * decades + 2.5 * _wander(rng, len(speed_kmh), 0.5)
    noise = _engine(rng, speed_kmh, count)
    for spectrum, gain_db in ((TYRE_SPECTRUM, tyre_db), (WIND_SPECTRUM, wind_db)):
        noise += _shaped(rng, count, spectrum) * _stretch(10 ** (gain_db / 20), count)
    return noise.astype(np.float32)


def road_noise(seconds: float, speed_kmh: float, seed: int) -> Floats:
    """Noise in a car at a steady speed: engine orders, tyres, wind, all slowly fluctuating.

    Returns:
        float32, shape (seconds * 16000,); at 100 km/h about RMS 1, so scale it (see `mix`).
    """
    count = round(seconds * SAMPLE_RATE_HZ)
    return drive_noise(np.full(-(-count // FRAME), float(speed_kmh)), seed)[:count]


# --- what happens to a voice --------------------------------------------------------------------


def _filtered(samples: Floats, low_hz: float, high_hz: float) -> Doubles:
    """Second-order roll-off (Butterworth's magnitude, no phase) below and above."""
    hz = np.maximum(np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE_HZ), 1e-3)
    gain = 1 / np.sqrt((1 + (low_hz / hz) ** 4) * (1 + (hz / high_hz) ** 4))
    filtered: Doubles = np.fft.irfft(np.fft.rfft(samples) * gain, len(samples))
    return filtered


def _compressed(samples: Doubles, threshold_db: float, ratio: float) -> Doubles:
    """Broadcast-like compression by the level over 30 ms."""
    frames = -(-len(samples) // FRAME)
    padded = np.pad(samples, (0, frames * FRAME - len(samples))).reshape(frames, FRAME)
    power = np.convolve(np.mean(padded**2, axis=1), np.ones(3) / 3, mode="same")
    over_db = np.maximum(10 * np.log10(np.maximum(power, 1e-12)) - threshold_db, 0)
    return samples * _stretch(10 ** (-over_db * (1 - 1 / ratio) / 20), len(samples))


FIRST_TAIL = round(0.004 * SAMPLE_RATE_HZ)
"""Before 4 ms the reflections of a cabin can still be told apart."""


def cabin(samples: Floats, distance_m: float = 0.6, seed: int = 1) -> Floats:
    """A voice in a small car: direct sound, early reflections, a short tail.

    The microphone sits by the mirror. Six reflections from glass, roof and dashboard come within
    8 ms; the tail dies with RT60 = 0.08 s (cabins have 0.05 to 0.1 s: Kleiner and Tichy, "Acoustics
    of Small Rooms", 2014). The direct share of the sound falls with the distance of the mouth. The
    length stays the same.
    """
    rng = np.random.default_rng(seed)
    response = np.zeros(round(0.12 * SAMPLE_RATE_HZ))
    response[0] = 0.6 / distance_m
    early = rng.integers(round(0.001 * SAMPLE_RATE_HZ), round(0.008 * SAMPLE_RATE_HZ), 6)
    response[early] += rng.uniform(0.15, 0.45, 6) * rng.choice([-1, 1], 6)
    at_s = np.arange(len(response)) / SAMPLE_RATE_HZ
    tail = 0.05 * rng.standard_normal(len(response)) * 10 ** (-3 * at_s / 0.08)
    response[FIRST_TAIL:] += tail[FIRST_TAIL:]
    return _convolved(samples, response / np.sqrt(np.sum(response**2)))


def _convolved(samples: Floats, response: Doubles) -> Floats:
    size = len(samples) + len(response)
    product = np.fft.rfft(samples, size) * np.fft.rfft(response, size)
    return np.fft.irfft(product, size)[: len(samples)].astype(np.float32)


def radio(samples: Floats, music: Floats | None = None) -> Floats:
    """A voice from the car's radio: 150 Hz to 6 kHz, compressed 4:1, then the cabin.

    `music` of at least the same length is added before the compression, 12 dB below the voice.
    """
    band = _filtered(samples, 150, 6000)
    if music is not None:
        under = level_speech(music[: len(samples)], active_level_db(samples) - 12)
        band += _filtered(under, 150, 6000)
    compressed = _compressed(band, active_level_db(samples) - 6, 4).astype(np.float32)
    return cabin(compressed, distance_m=1.2, seed=2)


def _note(hz: float, count: int) -> Doubles:
    """A plucked string: harmonics that die the faster the higher they are."""
    at_s = np.arange(count) / SAMPLE_RATE_HZ
    orders = np.arange(1, 9)[:, None]
    tones = np.sin(2 * np.pi * hz * orders * at_s) * np.exp(-at_s * (1.5 + 0.8 * orders)) / orders
    return np.asarray(np.sum(tones * (hz * orders < SAMPLE_RATE_HZ / 2.2), axis=0))


def music(seconds: float, seed: int) -> Floats:
    """Instrumental pop: four chords, a bass, a melody and a drum at 110 beats a minute."""
    rng = np.random.default_rng(seed)
    beat = round(SAMPLE_RATE_HZ * 60 / 110)
    count = round(seconds * SAMPLE_RATE_HZ)
    sound = np.zeros(count + 4 * beat)
    for index, start in enumerate(range(0, count, beat)):
        root = (0, 9, 5, 7)[index // 4 % 4]  # I vi IV V
        scale = (0, 2, 4, 7, 9)
        steps = [root - 12, root, root + 4, root + 7, 12 + scale[rng.integers(len(scale))]]
        for step in steps:
            sound[start : start + 2 * beat] += _note(220 * 2 ** (step / 12), 2 * beat)
        drum = rng.standard_normal(beat) * np.exp(-np.arange(beat) / (0.03 * SAMPLE_RATE_HZ))
        sound[start : start + beat] += 1.5 * drum
    return (0.1 * sound[:count]).astype(np.float32)


def _radio_over_music(samples: Floats) -> Floats:
    return radio(samples, music(len(samples) / SAMPLE_RATE_HZ, seed=3))


TREATMENTS: Mapping[str, Callable[[Floats], Floats]] = {
    "plain": lambda samples: samples,
    "cabin": cabin,
    "rear": lambda samples: cabin(samples, distance_m=1.6, seed=4),
    "radio": radio,
    "radio_music": _radio_over_music,
}


# --- the scene ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spoken:
    """The truth about one voice of the scene; `who` is None for nobody in particular."""

    start_s: float
    end_s: float
    who: str | None
    role: str
    text: str
    file: str


def _field(item: Mapping[str, Any], where: str, name: str, kind: type | tuple[type, ...]) -> Any:
    if name not in item:
        raise ConfigError(f"{where}: {name} is missing; add it")
    if not isinstance(item[name], kind) or isinstance(item[name], bool):
        raise ConfigError(f"{where}: {name} is {item[name]!r}, which is not of the right kind")
    return item[name]


def read_speech(path: Path) -> Floats:
    """Read a mono recording at 16 kHz.

    Raises:
        ConfigError: the file is not there, not sound, or not 16 kHz mono.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32")
    except (OSError, soundfile.LibsndfileError) as error:
        raise ConfigError(f"{path}: cannot be read as sound ({error})") from error
    if rate != SAMPLE_RATE_HZ or samples.ndim != 1:
        raise ConfigError(f"{path}: must be 16 kHz mono, is {rate} Hz of shape {samples.shape}")
    return np.asarray(samples, np.float32)


def _texts(voices_dir: Path) -> dict[str, str]:
    manifest = voices_dir / "manifest.json"
    if not manifest.exists():
        return {}
    return {entry["path"]: entry["text"] for entry in json.loads(manifest.read_text())}


def _voice(item: Mapping[str, Any], where: str, voices_dir: Path) -> Floats:
    treatment = item.get("treatment", "plain")
    if treatment not in TREATMENTS:
        raise ConfigError(f"{where}: treatment {treatment!r} is not one of {sorted(TREATMENTS)}")
    clean = level_speech(read_speech(voices_dir / _field(item, where, "file", str)))
    treated = level_speech(TREATMENTS[treatment](clean))
    return amplify(treated, float(item.get("gain_db", 0)))


def _noise(script: Mapping[str, Any], count: int, seed: int) -> Floats:
    hiss = np.random.default_rng(seed).standard_normal(count).astype(np.float32)
    noise = amplify(hiss, HISS_LEVEL_DB)
    if "noise" not in script:
        return noise
    described = _field(script, "script", "noise", dict)
    try:
        at_s, speed = np.array(_field(described, "noise", "speed_kmh", list), np.float64).T
    except ValueError as error:
        raise ConfigError("noise: speed_kmh must be a list of [seconds, km/h]") from error
    frames = -(-count // FRAME)
    speeds = np.interp(np.arange(frames) * 0.01, at_s, speed)
    level_db = float(_field(described, "noise", "level_db", (int, float)))
    return noise + amplify(drive_noise(speeds, seed)[:count], level_db)


def render(script: Mapping[str, Any], voices_dir: Path) -> tuple[Floats, list[Spoken]]:
    """Mix the scene that the script describes (see the top of this file).

    Returns:
        float32 samples at 16 kHz in [-1, 1], and who spoke when, by start.

    Raises:
        ConfigError: the script or a file it names cannot be used; the text names the item.
    """
    texts = _texts(voices_dir)
    voices: list[tuple[Spoken, Floats]] = []
    for index, item in enumerate(_field(script, "script", "spoken", list)):
        where = f"spoken[{index}]"
        voice = _voice(item, where, voices_dir)
        start_s = float(_field(item, where, "at", (int, float)))
        file, role = item["file"], _field(item, where, "role", str)
        end_s = start_s + len(voice) / SAMPLE_RATE_HZ
        voices.append(
            (Spoken(start_s, end_s, item.get("who"), role, texts.get(file, ""), file), voice)
        )
    voices.sort(key=lambda pair: pair[0].start_s)
    last_s = max((spoken.end_s for spoken, _ in voices), default=0.0)
    count = round(float(script.get("seconds", last_s + 2)) * SAMPLE_RATE_HZ)
    sound = _noise(script, count, int(script.get("seed", 0)))
    for spoken, voice in voices:
        start = round(spoken.start_s * SAMPLE_RATE_HZ)
        part = sound[start : start + len(voice)]
        part += voice[: len(part)]
    return np.clip(sound, -1, 1), [spoken for spoken, _ in voices]


def write(path: Path, samples: Floats) -> None:
    """Write 16 kHz mono; the name's ending (.opus, .flac, .wav) says how.

    Raises:
        ConfigError: the ending is another.
    """
    formats = {".opus": ("OGG", "OPUS"), ".flac": ("FLAC", "PCM_16"), ".wav": ("WAV", "PCM_16")}
    if path.suffix not in formats:
        raise ConfigError(f"{path}: the name must end in one of {sorted(formats)}")
    container, coding = formats[path.suffix]
    soundfile.write(path, samples, SAMPLE_RATE_HZ, format=container, subtype=coding)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when the drive was written."""
    parser = argparse.ArgumentParser(description="Mix a drive from a script.")
    parser.add_argument("script", type=Path)
    parser.add_argument("--voices", type=Path, required=True, help="folder of the voice files")
    parser.add_argument("--out", type=Path, required=True, help="drive.opus, .flac or .wav")
    parser.add_argument("--truth", type=Path, help="write who spoke when, as JSON")
    options = parser.parse_args(arguments)
    try:
        samples, truth = render(yaml.safe_load(options.script.read_text()), options.voices)
        write(options.out, samples)
    except (WhodrivesError, yaml.YAMLError) as error:
        print(f"{options.script}: {error}", file=sys.stderr)
        return 1
    for spoken in truth:
        print(
            f"{spoken.start_s:7.2f} {spoken.end_s:7.2f} {spoken.role:10} {spoken.who} {spoken.text}"
        )
    if options.truth:
        options.truth.write_text(json.dumps([asdict(spoken) for spoken in truth], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
