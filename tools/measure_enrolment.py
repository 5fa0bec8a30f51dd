"""Measure whom enrolment refuses: good recordings, and the same spoilt in each way it names.

    python tools/measure_enrolment.py CORPUS --role train --people 24

CORPUS holds manifest.tsv with the columns role, corpus, group and path, and the 16 kHz mono
recordings it names. Of each person, recordings are taken until 20 s of speech have been heard;
people who have less than 12 s are left out. People are spread evenly over the manifest, and the
second voice is that of the next one in it.

A line per condition: how many were tried, how many refused (in all, and for the reason that the
condition is to give), and every reason that was given; "clean" and "cabin" should give none. Then,
how alike two halves of one person's speech are, and two people: what tells one person under two
names.

The conditions: "telephone" brings the recordings to 8 kHz, 16 bit, and back. "quiet" is speech at
-56 dBFS, "clipped" at 0 dBFS. "white 5 dB" is white noise; "idling" and "music" are tools/scene's
engine and music, 15 dB below the speech. "hall" is an exponential tail of 1 s. "phone speaker" lets
700 Hz to 6 kHz through, compressed 4:1, in the cabin; "car speaker" 150 Hz to 6 kHz. "again" is
four seconds over and over. "half another" and "fifth another" give the second person so much of the
time; who is named apart from the first counts as someone else.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import numpy as np
import soxr

from tools.lab import scene
from tools.lab.corpus import rows
from tools.lab.front_end import blocks
from whodrives.audio.blocks import SAMPLE_RATE_HZ, AudioBlock, Floats
from whodrives.audio.files import read_file
from whodrives.enrolment.recording import ENOUGH_S, Enrolment
from whodrives.errors import EnrolmentError
from whodrives.models.calibration import load_calibration
from whodrives.models.encoder import load_encoder
from whodrives.models.vad import load_vad
from whodrives.voice.profile import AUGMENTATIONS
from whodrives.voice.scoring import mean_subtracted, unit
from whodrives.voice.types import Encoder

MODELS = Path(__file__).parent.parent / "models"
LEAST_RECORDED_S = 12.0
PAUSE_S = 1.0
HISS_DBFS = -80.0
ADVICE = {"one_way_of_speaking", "played_back"}

Spoil: TypeAlias = Callable[[Floats], Floats]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--role", default="train")
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--only", nargs="*", help="conditions; without: all")
    options = parser.parse_args()
    people = spread(recordings(options.corpus, options.role), options.people)
    encoder = load_encoder(MODELS)
    spoken = [sound for sound in map(joined, people) if len(sound) >= LEAST_RECORDED_S * 16_000]
    for name, (reason, spoil) in CONDITIONS.items():
        if not options.only or name in options.only:
            report(name, reason, [heard(encoder, spoil(sound)) for sound in spoken])
    others = [*spoken[1:], *spoken[:1]]
    for name, share in (("half another", 0.5), ("fifth another", 0.2)):
        if not options.only or name in options.only:
            pairs = zip(spoken, others, strict=True)
            report(name, "someone_else", [mixed(encoder, *pair, share) for pair in pairs])
    halves(encoder, spoken)


def report(name: str, reason: str | None, found: Sequence[set[str]]) -> None:
    """Print a condition's line."""
    refused = sum(bool(codes - ADVICE) for codes in found)
    counted = Counter(code for codes in found for code in codes)
    said = ", ".join(f"{code} {count}" for code, count in counted.most_common()) or "-"
    hit = f"{counted[reason]:3} as {reason}" if reason else ""
    print(f"{name:14} {len(found):3} tried {refused:3} refused {hit}: {said}", flush=True)


def recordings(corpus: Path, role: str) -> list[list[Path]]:
    """The recordings of each person of the role."""
    people: dict[str, list[Path]] = {}
    for row in rows(corpus, role):
        people.setdefault(row["group"], []).append(corpus / row["path"])
    return [people[group] for group in sorted(people)]


def spread(people: Sequence[list[Path]], count: int) -> list[list[Path]]:
    """`count` of the people, evenly spread."""
    places = np.linspace(0, len(people) - 1, min(count, len(people))).round().astype(int)
    return [people[place] for place in places]


def joined(person: Sequence[Path]) -> Floats:
    """Half a minute of a person's recordings with pauses between them, in a microphone's hiss."""
    parts: list[Floats] = [np.zeros(round(2 * SAMPLE_RATE_HZ), np.float32)]
    for path in person:
        parts += [np.concatenate([block.samples for block in read_file(path)])]
        parts += [np.zeros(round(PAUSE_S * SAMPLE_RATE_HZ), np.float32)]
        if sum(map(len, parts)) > 2 * ENOUGH_S * SAMPLE_RATE_HZ:
            break
    sound = np.concatenate(parts)
    hiss = np.random.default_rng(len(sound)).standard_normal(len(sound)).astype(np.float32)
    whole: Floats = sound + scene.amplify(hiss, HISS_DBFS)
    return whole


def over_telephone(sound: Floats) -> Floats:
    """The sound after a line of 8 kHz and 16 bit."""
    narrow = soxr.resample(sound, SAMPLE_RATE_HZ, SAMPLE_RATE_HZ // 2)
    wide = soxr.resample(narrow, SAMPLE_RATE_HZ // 2, SAMPLE_RATE_HZ)
    line: Floats = (np.round(np.clip(wide, -1, 1) * 32767) / 32768).astype(np.float32)
    return line


def in_hall(sound: Floats, reverberation_s: float = 1.0) -> Floats:
    """The sound in a hall: direct, and as an exponential tail of Gaussian noise of twice that."""
    count = round(reverberation_s * SAMPLE_RATE_HZ)
    at_s = np.arange(count) / SAMPLE_RATE_HZ
    tail = np.random.default_rng(6).standard_normal(count) * 10 ** (-3 * at_s / reverberation_s)
    tail /= np.sqrt(np.sum(tail**2))
    tail[0] += 0.7
    size = len(sound) + count
    spectrum = np.fft.rfft(sound, size) * np.fft.rfft(tail, size)
    return np.asarray(np.fft.irfft(spectrum, size)[: len(sound)], np.float32)


def under(noise: Callable[[float], Floats], snr_db: float) -> Spoil:
    """Add noise so far below the speech."""

    def spoilt(sound: Floats) -> Floats:
        return scene.mix(sound, noise(len(sound) / SAMPLE_RATE_HZ + 0.1), snr_db)

    return spoilt


def white(seconds: float) -> Floats:
    """White noise."""
    count = round(seconds * SAMPLE_RATE_HZ)
    return np.random.default_rng(7).standard_normal(count).astype(np.float32)


def from_telephone(sound: Floats) -> Floats:
    """The sound as a telephone's loudspeaker plays it in a car."""
    hertz = np.maximum(np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE_HZ), 1e-3)
    gain = 1 / np.sqrt((1 + (700 / hertz) ** 4) * (1 + (hertz / 7000) ** 4))
    banded = np.fft.irfft(np.fft.rfft(sound) * gain, len(sound)).astype(np.float32)
    return scene.radio(banded)


def again(sound: Floats) -> Floats:
    """Four seconds of it, over and over."""
    return np.tile(sound[2 * SAMPLE_RATE_HZ : 6 * SAMPLE_RATE_HZ], 8)


CONDITIONS: dict[str, tuple[str | None, Spoil]] = {
    "clean": (None, lambda sound: sound),
    "cabin": (None, scene.cabin),
    "telephone": ("telephone_band", over_telephone),
    "quiet": ("too_quiet", lambda sound: scene.amplify(scene.level_speech(sound), -30)),
    "clipped": ("clipped", lambda sound: np.clip(20 * scene.level_speech(sound), -1, 1)),
    "white 5 dB": ("noise", under(white, 5)),
    "idling 15 dB": ("engine_or_music", under(lambda s: scene.road_noise(s, 0, 4), 15)),
    "music 15 dB": ("engine_or_music", under(lambda s: scene.music(s, 5), 15)),
    "hall": ("echo", in_hall),
    "phone speaker": ("played_back", from_telephone),
    "car speaker": ("played_back", scene.radio),
    "again": ("one_way_of_speaking", again),
}


def heard(encoder: Encoder, sound: Floats) -> set[str]:
    """The codes of what is wrong with a recording."""
    enrolment = Enrolment(load_vad(MODELS), encoder)
    listen(enrolment, sound, ENOUGH_S)
    return {problem.code for problem in enrolment.problems()}


def mixed(encoder: Encoder, one: Floats, other: Floats, share: float) -> set[str]:
    """The same for two people, the other with `share` of the time; who is not named apart."""
    enrolment = Enrolment(load_vad(MODELS), encoder)
    heard_s = listen(enrolment, one, (1 - share) * ENOUGH_S)
    listen(enrolment, other[: round(2 * share * ENOUGH_S * SAMPLE_RATE_HZ)], ENOUGH_S, heard_s)
    codes = {problem.code for problem in enrolment.problems()}
    return {code.replace("not_the_voice_that_began", "someone_else") for code in codes}


def listen(enrolment: Enrolment, sound: Floats, until_s: float, from_s: float = 0.0) -> float:
    """Let the enrolment hear a recording until it has so much useful speech; when that was."""
    at_s = from_s
    for block in blocks(sound):
        at_s = from_s + block.at_s
        if enrolment.step(AudioBlock(at_s, block.samples)).speech_s >= until_s:
            break
    enrolment.pause(at_s)
    return at_s


def halves(encoder: Encoder, spoken: Sequence[Floats]) -> None:
    """Print how alike a person's two halves are, and neighbours in the manifest."""
    calibration = load_calibration(MODELS)
    pairs = []
    for sound in spoken:
        enrolment = Enrolment(load_vad(MODELS), encoder)
        at_s = listen(enrolment, sound, ENOUGH_S)
        with suppress(EnrolmentError):
            rows = enrolment.finish(at_s).embeddings
            copies = rows.reshape(AUGMENTATIONS, -1, rows.shape[1])
            parts = np.array_split(copies, 2, axis=1)
            pairs.append(
                [mean_subtracted(unit(part.mean(axis=(0, 1))), calibration) for part in parts]
            )
    same = [float(one @ other) for one, other in pairs]
    different = [float(a[0] @ b[1]) for i, a in enumerate(pairs) for b in pairs[:i]]
    for name, cosines in (("same person", same), ("two people", different)):
        spans = np.percentile(cosines, [0, 1, 5, 50, 95, 99, 100]).round(2)
        print(f"{name:14} {len(cosines):4} pairs, cosines at 0 1 5 50 95 99 100 %: {spans}")


if __name__ == "__main__":
    main()
