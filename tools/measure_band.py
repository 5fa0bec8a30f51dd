"""Measure how reliably sound of telephone band is told from wide-band sound.

    python tools/measure_band.py CORPUS --role train --part 1/2
    python tools/measure_band.py CORPUS --role eval --out result.json
    python tools/measure_band.py FOLDER --recorded         # a folder per speaker, recorded at 8 kHz
    python tools/measure_band.py CORPUS --households       # realised FPIR and FNIR at 8 kHz

Each person's test sounds (`lab.corpus.material`) are heard through the daemon's VAD and segmenter
under each condition, and measured by `Quality` and `is_telephone` as in recognition: after the
first whole segment, and at the end of the utterance. Utterances that are too short for a verdict
are left out. Narrow-band conditions bring the speech to 8 kHz and back. Levels are those of the
active speech; where a condition has none, it is drawn from LEVELS_DBFS. All sound is stored in 16
bits.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, TypeAlias

# Two processes share two cores; threads that wait for each other would only slow them down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from tools.evaluate.report import flat_table
from tools.evaluate.trials import (
    SHOWN_HOUSEHOLD,
    corpora,
    promised,
    scores,
    views,
    visits,
)
from tools.lab import conditions
from tools.lab.conditions import coded, converted, generator, padded, shaped
from tools.lab.corpus import ADULT, ENDINGS, Person, material, read_people
from tools.lab.front_end import Subject, ear, pieces
from tools.lab.machine import describe
from tools.lab.scene import active_level_db, amplify, level_speech
from whodrives.audio.blocks import SAMPLE_RATE_HZ, Floats
from whodrives.errors import EnrolmentError, WhodrivesError
from whodrives.models.calibration import load_calibration
from whodrives.voice.acoustics import Quality
from whodrives.voice.decision import LEAST_SPEECH_S, is_telephone
from whodrives.voice.scoring import centroid
from whodrives.voice.segments import Segmenter
from whodrives.voice.types import Segment, VoiceActivity

Treatment: TypeAlias = Callable[[Floats, np.random.Generator], Floats]

NARROW_HZ = SAMPLE_RATE_HZ // 2
LEVELS_DBFS = (-45.0, -38.0, -32.0, -26.0, -20.0)
STORED_DBFS = -26.0
SOUNDS = 2
HOUSEHOLD_SOUNDS = 3
RECORDINGS = 40
"""Recordings of each speaker of a folder, at most."""

LEAST_RECORDED_S = 2.0


# --- from 8 kHz to 16 kHz -------------------------------------------------------------------------


def _resampled(narrow: Floats) -> Floats:
    return np.asarray(soxr.resample(narrow, NARROW_HZ, SAMPLE_RATE_HZ), np.float32)


def _polyphase(narrow: Floats) -> Floats:
    """The filter that scipy.signal.resample_poly uses: 41 taps, Kaiser window with beta 5."""
    taps = np.sinc(np.arange(-20, 21) / 2) * np.kaiser(41, 5.0)
    stuffed = np.zeros(2 * len(narrow))
    stuffed[::2] = narrow
    return np.convolve(stuffed, 2 * taps / taps.sum(), "same").astype(np.float32)


def _interpolated(narrow: Floats) -> Floats:
    """Linear interpolation, as ALSA's rate plugin does it without an extra package."""
    at = np.arange(2 * len(narrow)) / 2
    return np.interp(at, np.arange(len(narrow)), narrow).astype(np.float32)


def _repeated(narrow: Floats) -> Floats:
    return np.repeat(narrow, 2)


# --- codecs and noise -----------------------------------------------------------------------------


def _through(coding: str, narrow: Floats) -> Floats:
    return np.resize(coded(narrow, NARROW_HZ, container="WAV", coding=coding), len(narrow))


def _amr(narrow: Floats) -> Floats:
    """AMR narrow band at 12.2 kbit/s, as in a mobile call."""
    encoder = av.CodecContext.create("libopencore_amrnb", "w")
    encoder.sample_rate, encoder.layout = NARROW_HZ, "mono"
    encoder.format, encoder.bit_rate = "s16", 12_200
    decoder = av.CodecContext.create("libopencore_amrnb", "r")
    decoder.sample_rate, decoder.layout = NARROW_HZ, "mono"
    pcm = (np.clip(narrow, -1, 1) * 32767).astype("<i2")
    heard: list[NDArray[Any]] = []
    for start in range(0, len(pcm) - 159, 160):
        frame = av.AudioFrame.from_ndarray(pcm[None, start : start + 160], "s16", "mono")
        frame.sample_rate, frame.pts = NARROW_HZ, start
        for packet in encoder.encode(frame):
            heard += [decoded.to_ndarray().ravel() for decoded in decoder.decode(packet)]
    return np.resize(np.concatenate(heard).astype(np.float32) / 32768, len(narrow))


def _stored(compression: float, samples: Floats) -> Floats:
    """Stored as Opus at 16 kHz after the band was lost; the codec's noise is in the upper band."""
    how = {"container": "OGG", "coding": "OPUS", "compression_level": compression}
    return np.resize(coded(samples, SAMPLE_RATE_HZ, **how), len(samples))  # type: ignore[arg-type]


def _noise(slope: float, count: int, rng: np.random.Generator) -> Floats:
    """White noise (slope 0) or pink noise (slope 1) of RMS 1."""
    hertz = np.maximum(np.fft.rfftfreq(count, 1 / SAMPLE_RATE_HZ), 20.0)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(count)) * hertz ** (-slope / 2), count)
    return np.asarray(noise / noise.std(), np.float32)


def _hissing(slope: float, snr_db: float, samples: Floats, rng: np.random.Generator) -> Floats:
    hiss = _noise(slope, len(samples), rng)
    return samples + amplify(hiss, active_level_db(samples) - snr_db)


def _comforted(snr_db: float, samples: Floats, rng: np.random.Generator) -> Floats:
    """Comfort noise over the whole band, in pauses only."""
    level_db = active_level_db(samples)
    power = np.convolve(samples**2, np.ones(800) / 800, "same")
    noise = amplify(_noise(0.0, len(samples), rng), level_db - snr_db)
    return np.where(power < 10 ** ((level_db - 35) / 10), samples + noise, samples)


def _dithered(samples: Floats, rng: np.random.Generator) -> Floats:
    size = len(samples)
    return samples + ((rng.random(size) - rng.random(size)) / 32767).astype(np.float32)


# --- the conditions -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Narrow:
    """How speech loses its upper band: before, at 8 kHz, back to 16 kHz, and after.

    `level_dbfs` is that of the active speech; None: drawn.
    """

    level_dbfs: float | None = None
    before: str = "clean"
    codec: Callable[[Floats], Floats] | None = None
    wider: Callable[[Floats], Floats] = _resampled
    after: Treatment | None = None

    def heard(self, speech: Floats, *names: object) -> Floats:
        """What a 16-bit converter at 16 kHz gives."""
        rng = generator("narrow", *names)
        samples = conditions.TESTS[self.before](padded(level_speech(speech), rng), rng)
        level = self.level_dbfs if self.level_dbfs is not None else float(rng.choice(LEVELS_DBFS))
        loud = amplify(samples, level - STORED_DBFS)
        narrow = np.asarray(soxr.resample(loud, SAMPLE_RATE_HZ, NARROW_HZ), np.float32)
        return self.widened(np.clip(narrow, -1, 1), rng)

    def widened(self, narrow: Floats, rng: np.random.Generator) -> Floats:
        """From 8 kHz (n,) to what a 16-bit converter at 16 kHz gives."""
        wide = self.wider(self.codec(narrow) if self.codec else narrow)
        return converted(self.after(wide, rng) if self.after else wide)


HISSES_DB = (50.0, 40.0, 30.0, 20.0)

LEVELLED: Mapping[str, Narrow] = {
    f"level {level:.0f} dBFS": Narrow(level)
    for level in (-45.0, -40.0, -35.0, -30.0, -26.0, -20.0, -15.0, -6.0, 0.0)
}

NARROW: Mapping[str, Narrow] = {
    **LEVELLED,
    "polyphase filter": Narrow(wider=_polyphase),
    "linear interpolation": Narrow(wider=_interpolated),
    "repeated samples": Narrow(wider=_repeated),
    "dither": Narrow(after=_dithered),
    "G.711 A-law": Narrow(codec=partial(_through, "ALAW")),
    "G.711 mu-law": Narrow(codec=partial(_through, "ULAW")),
    "GSM 13 kbit/s": Narrow(codec=partial(_through, "GSM610")),
    "AMR 12.2 kbit/s": Narrow(codec=_amr),
    **{f"white hiss {db:.0f} dB": Narrow(after=partial(_hissing, 0.0, db)) for db in HISSES_DB},
    **{f"pink hiss {db:.0f} dB": Narrow(after=partial(_hissing, 1.0, db)) for db in HISSES_DB},
    "comfort noise 50 dB": Narrow(after=partial(_comforted, 50.0)),
    "comfort noise 40 dB": Narrow(after=partial(_comforted, 40.0)),
    "car 10 dB": Narrow(before="car 10 dB"),
    "car 0 dB": Narrow(before="car 0 dB"),
    "babble 5 dB": Narrow(before="babble 5 dB"),
    "stored as Opus 30 kbit/s": Narrow(STORED_DBFS, after=lambda s, _: _stored(0.93, s)),
    "stored as Opus 12 kbit/s": Narrow(STORED_DBFS, after=lambda s, _: _stored(0.976, s)),
}
"""Speech without its upper band; all of it should be noticed."""


def _levelled(level_dbfs: float, samples: Floats, _rng: np.random.Generator) -> Floats:
    return amplify(samples, level_dbfs - active_level_db(samples))


def _muffled(corner_hz: float, order: int, samples: Floats, _rng: np.random.Generator) -> Floats:
    """Speech behind a hand or a scarf: a low pass of 6 `order` dB per octave above the corner."""
    return shaped(samples, lambda hz: 1 / np.sqrt(1 + (hz / corner_hz) ** (2 * order)))


def _whispered(samples: Floats, rng: np.random.Generator) -> Floats:
    """Noise with the spectral envelope of the speech, 30 ms at a time, little below 400 Hz."""
    size, hop = 480, 240
    window = np.hanning(size + 1)[:-1]
    noise = rng.standard_normal(len(samples) + size)
    made = np.zeros(len(samples) + size)
    for start in range(0, len(samples) - size, hop):
        magnitude = np.abs(np.fft.rfft(samples[start : start + size] * window, 1024))
        cepstrum = np.fft.irfft(np.log(magnitude + 1e-6))
        cepstrum[30:-30] = 0
        envelope = np.exp(np.fft.rfft(cepstrum).real)
        excited = np.fft.rfft(noise[start : start + size] * window, 1024) * envelope
        made[start : start + size] += np.fft.irfft(excited, 1024)[:size]
    quiet = shaped(made[: len(samples)].astype(np.float32), lambda hz: np.minimum(hz / 400, 1))
    return level_speech(quiet, active_level_db(samples))


_BANDLESS = {"telephone band", "GSM 13 kbit/s"}

WIDE: Mapping[str, Treatment] = {
    **{name: how for name, how in conditions.TESTS.items() if name not in _BANDLESS},
    "level -45 dBFS": partial(_levelled, -45.0),
    "level -6 dBFS": partial(_levelled, -6.0),
    "whispered": _whispered,
    "stored as Opus 30 kbit/s": lambda samples, _: _stored(0.93, samples),
}
"""Wide-band speech; none of it should be taken for narrow."""

MUFFLED: Mapping[str, Treatment] = {
    "muffled, 1 kHz, 6 dB/octave": partial(_muffled, 1000.0, 1),
    "muffled, 1.5 kHz, 12 dB/octave": partial(_muffled, 1500.0, 2),
    "muffled, 2.5 kHz, 18 dB/octave": partial(_muffled, 2500.0, 3),
}
"""Wide-band speech with a steep tilt: much of its upper band lies below the microphone's noise."""


def wide(speech: Floats, name: str, *names: object) -> Floats:
    """Speech under a condition of WIDE or MUFFLED; what muffles a mouth spares the noise."""
    rng = generator("wide", name, *names)
    if name in MUFFLED or name == "whispered":
        return converted(padded((WIDE | MUFFLED)[name](level_speech(speech), rng), rng))  # type: ignore[operator]
    return converted(WIDE[name](padded(level_speech(speech), rng), rng))


# --- measuring ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Count:
    """Utterances, and how many were told to be of telephone band: after a segment, at the end."""

    first: int = 0
    first_noticed: int = 0
    utterances: int = 0
    noticed: int = 0

    def add(self, other: Count) -> None:
        """Add another count."""
        self.first += other.first
        self.first_noticed += other.first_noticed
        self.utterances += other.utterances
        self.noticed += other.noticed


Counts: TypeAlias = dict[str, dict[str, Count]]


def measured(activity: VoiceActivity, samples: Floats) -> Count:
    """Hear a sound and judge each of its utterances."""
    count, quality, speech_s = Count(), Quality(), 0.0
    for piece in pieces(activity, Segmenter(), samples):
        if isinstance(piece, Segment):
            quality.add(piece.samples)
            if not speech_s and piece.new_s >= LEAST_SPEECH_S:
                count.first += 1
                count.first_noticed += is_telephone(quality.sound())
            speech_s += piece.new_s
        elif speech_s:
            if speech_s >= LEAST_SPEECH_S:
                count.utterances += 1
                count.noticed += is_telephone(quality.sound())
            quality, speech_s = Quality(), 0.0
    return count


def _under_all(sound: Floats, *names: object) -> Iterator[tuple[str, str, Floats]]:
    for name, how in NARROW.items():
        yield "narrow", name, how.heard(sound, name, *names)
    for name in WIDE:
        yield "wide", name, wide(sound, name, *names)
    for name in MUFFLED:
        yield "muffled", name, wide(sound, name, *names)


def _of_person(person: Person, models: Path) -> Counts:
    found: Counts = {"narrow": {}, "wide": {}, "muffled": {}}
    for number, sound in enumerate(material(person, SOUNDS).tests):
        for kind, name, samples in _under_all(sound, person.name, number):
            count = measured(ear(models).activity, samples)
            found[kind].setdefault(name, Count()).add(count)
            if kind == "wide" and person.age is not None and person.age < ADULT:
                found[kind].setdefault("children, all conditions", Count()).add(count)
    return found


def _of_folder(folder: Path, models: Path) -> Counts:
    """A speaker's recordings, which were made at 8 kHz, as they are and at several levels."""
    found: dict[str, Count] = {}
    paths = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in ENDINGS]
    read = (soundfile.read(path, dtype="float32") for path in paths)
    long = [s for s, rate in read if rate == NARROW_HZ and len(s) >= LEAST_RECORDED_S * rate]
    for number, narrow in enumerate(long[:: max(1, len(long) // RECORDINGS)][:RECORDINGS]):
        rng = generator(folder.name, number)
        silence = np.zeros(NARROW_HZ, np.float32)
        said = np.concatenate([silence, narrow, silence])
        found.setdefault("as recorded", Count()).add(
            measured(ear(models).activity, Narrow().widened(said, rng))
        )
        for name, how in NARROW.items():
            if how.codec is not None or how.before != "clean":
                continue
            level = how.level_dbfs if how.level_dbfs is not None else rng.choice(LEVELS_DBFS)
            loud = np.clip(amplify(said, float(level) - active_level_db(narrow)), -1, 1)
            count = measured(ear(models).activity, how.widened(loud, rng))
            found.setdefault(name, Count()).add(count)
    return {"narrow": found}


# --- what it means for drivers and strangers ------------------------------------------------------

HOUSEHOLD_CONDITIONS = ("level -45 dBFS", "level -26 dBFS", "white hiss 40 dB", "white hiss 20 dB")


def _heard(person: Person, models: Path) -> Subject:
    """A person who is enrolled in wide band, and tested at 8 kHz and in wide band."""
    own, subject, said = ear(models), Subject(person), material(person, HOUSEHOLD_SOUNDS)
    with contextlib.suppress(EnrolmentError):
        profile = own.enrol(conditions.enrolled(said.enrolment, "clean", person.name))
        subject.centres["clean"] = centroid(profile)
    for name in HOUSEHOLD_CONDITIONS:
        subject.sounds[name] = [
            own.hear(NARROW[name].heard(sound, name, person.name, number))
            for number, sound in enumerate(said.tests)
        ]
    subject.sounds["wide band"] = [
        own.hear(conditions.tested(sound, "clean", person.name, number))
        for number, sound in enumerate(said.tests)
    ]
    return subject


def _households(subjects: Sequence[Subject], models: Path) -> list[dict[str, Any]]:
    """Realised FPIR and FNIR within 6 s; `unnoticed`: if no telephone band were refused."""
    calibration, rows = load_calibration(models, pinned=False), []
    for view in corpora(views(subjects)):
        for name in ("wide band", *HOUSEHOLD_CONDITIONS):
            scored = scores(view, name, "clean", calibration)
            played = visits(scored, SHOWN_HOUSEHOLD)
            if played is None:
                continue
            blind = replace(scored, look_telephone=np.zeros_like(scored.look_telephone))
            noticed = promised(scored, played, calibration, "1/100", None)
            unnoticed = promised(blind, played, calibration, "1/100", None)
            row: dict[str, Any] = {"corpus": view.name, "condition": name}
            row |= {"utterances": noticed["utterances"]}
            row |= {f"{key}_percent": 100 * noticed[key] for key in ("telephone", "fpir", "fnir")}
            row |= {f"unnoticed_{key}_percent": 100 * unnoticed[key] for key in ("fpir", "fnir")}
            rows.append({k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()})
    return rows


# --- the program ----------------------------------------------------------------------------------


def _sum(several: Iterable[Counts]) -> Counts:
    total: Counts = {}
    for counts in several:
        for kind, found in counts.items():
            for name, count in found.items():
                total.setdefault(kind, {}).setdefault(name, Count()).add(count)
    return total


def _rows(total: Counts) -> list[dict[str, Any]]:
    rows = []
    for kind, found in total.items():
        every = Count()
        for name, count in found.items():
            if not name.startswith("children"):
                every.add(count)
        for name, count in [*found.items(), (f"all {kind}", every)]:
            rows.append(
                {
                    "kind": kind,
                    "condition": name,
                    "utterances": count.utterances,
                    "noticed_percent": _percent(count.noticed, count.utterances),
                    "first_second_percent": _percent(count.first_noticed, count.first),
                }
            )
    return rows


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 2) if whole else None


def _selected(people: Sequence[Person], part: str, left_out: Sequence[str]) -> list[Person]:
    number, of = map(int, part.split("/"))
    return [p for p in people[number - 1 :: of] if p.name not in left_out]


def _measured(options: argparse.Namespace, pool: Executor) -> list[dict[str, Any]]:
    if options.recorded:
        folders = sorted(path for path in options.corpus.iterdir() if path.is_dir())
        return _rows(_sum(pool.map(_of_folder, folders, repeat(options.models))))
    people = read_people(options.corpus, options.role)
    people = _selected(people, options.part, options.leave_out)
    if options.households:
        heard = list(pool.map(_heard, people, repeat(options.models)))
        return _households(heard, options.models)
    return _rows(_sum(pool.map(_of_person, people, repeat(options.models))))


def main() -> int:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path, help="folder with manifest.tsv, or one per speaker")
    parser.add_argument("--role", default="train")
    parser.add_argument("--part", default="1/1", help="every n-th person: 1/2 and 2/2 are halves")
    parser.add_argument("--leave-out", nargs="*", default=[], help="groups that are narrow-band")
    parser.add_argument("--recorded", action="store_true", help="recordings made at 8 kHz")
    parser.add_argument("--households", action="store_true", help="rates of errors at 8 kHz")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    try:
        with ProcessPoolExecutor(options.processes) as pool:
            rows = _measured(options, pool)
    except WhodrivesError as error:
        print(f"measure_band: {error}", file=sys.stderr)
        return 1
    heading, table = flat_table(rows)
    for line in (heading, *table):
        print("  ".join(f"{figure:>20}" for figure in line))
    if options.out:
        result = {"role": options.role, "part": options.part, "machine": describe(), "rows": rows}
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
