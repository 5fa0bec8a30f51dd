"""From a recording of one person to a voice that can be recognised, or the reason why not.

Owns what a good enough recording is, and says what is wrong while it is wrong. Knows nothing of
where the sound comes from or where the result is kept.

Speech is taken in windows of two seconds. A window counts as *useful* if nothing was wrong while it
was spoken and it is of the voice that began; only useful windows make the profile. So a door that
slams, or a passenger who says something, costs seconds and no second attempt.

The limits were tried on real people (tools/measure_enrolment.py); docs/enrolment.md has the
figures, reason by reason. `played_back` is advice, for it is uncertain: most loudspeakers pass, and
a poor microphone does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whodrives.audio.blocks import BLOCK_S, SAMPLE_RATE_HZ, AudioBlock, Floats
from whodrives.audio.offset import SILENCE, SILENT_SPAN
from whodrives.enrolment.types import Problem
from whodrives.errors import EnrolmentError
from whodrives.voice import acoustics
from whodrives.voice.scoring import unit
from whodrives.voice.segments import Segmenter, SegmenterSettings
from whodrives.voice.types import Encoder, Segment, Sound, UtteranceEnd, VoiceActivity

WINDOW_S = 2.0
"""Enrolment speech is embedded in windows of this length: a little better than one long pass."""


LEAST_S = 6.0
"""Useful speech below which a profile is refused."""


ENOUGH_S = 20.0
"""Useful speech from which more brings little."""


QUIETEST_DBFS = -50.0


CLIPPED_SHARE = 0.002


LEAST_SNR_DB = 10.0


LEAST_ROAD_SNR_DB = 3.0
"""On the road, where its noise is meant to be in the profile."""


UPPER_BAND_DB = -55.0
"""Speech has more than this above the telephone's band, relative to what is within it."""


SLOWEST_DECAY_DB_S = 170.0
"""Speech in a car, or in a furnished room, falls faster; in a hall it cannot."""


MELODY_DB = 11.0


HUM_DB = 5.0


TONES_SNR_DB = 20.0
"""Tones or an engine's lines this far out of the sound of the pauses, and no further than that
below the speech, are wrong."""


LEAST_LOW_DB = -12.0
"""Speech with less than this where its pitch is came from a small loudspeaker, or through a
microphone that is no better."""


ONE_PITCH_SEMITONES = 1.0


ONE_WAY_COSINE = 0.72
"""Speech whose pitch stays within the one, or whose windows are on average as alike as the other,
was all spoken in one way."""


ONE_WAY_S = 12.0
"""So much useful speech is heard before that is said."""


OTHER_COSINE = 0.35
"""A window that is less like the voice that began is somebody else's."""


TWO_VOICES_COSINE = 0.4
"""Two groups of windows that are less alike than this are two people."""


LEAST_WINDOWS = 2
"""So many windows make a group: a single one may be a laugh, or a word half heard."""


OTHERS_SHARE = 0.15
"""With more of somebody else's windows than this it is not clear whose recording it is."""


FIRST_S = 60.0


FIRST_WINDOWS = 3
"""So much of each channel is heard to find the one that the person speaks in."""


MOST_OF_ARRAY = 3
"""From so many channels of one voice on they are a microphone array."""


SPOILT_SHARE = 0.25
"""What spoils so many of the windows is a reason to refuse; less costs its seconds only."""


AUGMENTATION_SNR_DB = 5.0
"""Each window is embedded in noise too, this far under the speech: the profile then is also like
the driver's voice on the road (docs/decisions/0007-household-as-cohort.md)."""


_ROAD_CORNER_HZ = 100.0


_ROAD_DB_PER_DECADE = -24.0
"""Noise in a moving car falls so above the corner: between tyres, which fall faster, and wind."""


_SLOPES_DB = (_ROAD_DB_PER_DECADE, 0.0)
"""How the power of the copies' noise falls per decade: like a road's, and not at all."""


_SEED = 20261125


_MUTE_S = 1.0
"""Nothing but zeros or a constant for this long from the beginning: a muted microphone, or the
wrong one. A microphone that works gives noise in each block."""


_GATED_S = 10.0
"""The same after sound was heard: the pauses of a microphone with a noise gate are shorter."""


_RECENT = 3


_PAUSE_BLOCKS = 50


_GUARD_BLOCKS = 10


_LEAST_PAUSE_BLOCKS = 20


_NO_SPEECH = 0.3


_ROUNDS = 10


_LOOK_BLOCKS = 16


_LOUD_DBFS = -50.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an enrolment is.

    Attributes:
        speech_s: useful seconds of speech so far.
        level_dbfs: RMS level of the latest block, dBFS.
        speaking: whether the latest block is part of speech.
        problems: what is wrong just now.
        enough: whether there is enough, and nothing stands against a profile.
    """

    speech_s: float
    level_dbfs: float
    speaking: bool
    problems: tuple[Problem, ...] = ()
    enough: bool = False


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A usable voice, from `speech_s` of speech.

    `embeddings` are float32 (3 k, D), unit length each, in the order of `domain.Profile`.
    """

    embeddings: Floats
    speech_s: float


@dataclass(frozen=True, slots=True)
class _Window:
    """Two seconds of speech: the voice, what was measured, and what was wrong meanwhile."""

    embedding: Floats
    seconds: float
    sound: Sound
    snr_db: float | None
    low_db: float
    decay_db_s: float
    pitch_spread: float
    tones: bool


class Enrolment:
    """Collects one person's speech block by block; keeps the embeddings and drops the sound.

    Args:
        activity: a voice-activity detector of its own.
        encoder: the encoder that recognition will use.
    """

    def __init__(self, activity: VoiceActivity, encoder: Encoder) -> None:
        self._activity = activity
        self._encoder = encoder
        self._segmenter = Segmenter(SegmenterSettings(segment_s=WINDOW_S))
        self._pauses = _Pauses()
        self._useful: list[_Window] = []
        self._in_noise: list[list[Floats]] = [[] for _ in _SLOPES_DB]
        self._recent: deque[_Window] = deque(maxlen=_RECENT)
        self._strange: deque[bool] = deque(maxlen=_RECENT)
        self._others = 0
        self._heard = 0
        self._spoilt: dict[str, int] = {}
        self._wrong: tuple[Problem, ...] = ()
        self._last: dict[str, Problem] = {}
        self._road = False
        self._silent_blocks = 0
        self._sounded = False
        self._judged = 0
        self._standing: tuple[Problem, ...] = ()

    def take_to_the_road(self) -> None:
        """From here on the car drives: the noise of the road is no fault any more."""
        self._road = True

    @property
    def speech_s(self) -> float:
        """Useful seconds of speech so far."""
        return sum(window.seconds for window in self._useful)

    def step(self, block: AudioBlock) -> Progress:
        """Take 30 ms of sound and say how far we are, and what is wrong."""
        if block.gap:
            self._activity.reset()
        (probability,) = self._activity.probabilities([block.samples])
        self._collect(self._segmenter.step(block, probability))
        self._pauses.hear(block.samples, self._segmenter.speaking, probability)
        level = acoustics.level_dbfs(block.samples)
        wrong = (*self._now(block), *self._wrong)
        enough = self.speech_s >= ENOUGH_S and not any(p.blocking for p in self._against())
        return Progress(self.speech_s, level, self._segmenter.speaking, wrong, enough)

    def pause(self, at_s: float) -> None:
        """The recording stops at `at_s`; what comes next does not follow what came before."""
        self._collect(self._segmenter.flush(at_s))
        self._segmenter.reset()
        self._activity.reset()
        self._pauses = _Pauses()
        self._silent_blocks = 0

    def finish(self, at_s: float) -> Enrolled:
        """End the recording at `at_s`.

        Raises:
            EnrolmentError: the recording is not good enough; every reason is in the text.
        """
        self._collect(self._segmenter.flush(at_s))
        problems = [problem for problem in self.problems() if problem.blocking]
        if problems:
            raise EnrolmentError("\n".join(f"{p.code}: {p.text}" for p in problems))
        in_noise_too = np.concatenate([self.windows(), *map(np.stack, self._in_noise)])
        return Enrolled(in_noise_too, self.speech_s)

    def problems(self) -> tuple[Problem, ...]:
        """Everything that now stands against a profile from this recording, and advice."""
        short = () if self.speech_s >= LEAST_S else (_too_short(self.speech_s),)
        return (*self._against(), *short)

    def _against(self) -> tuple[Problem, ...]:
        """`problems` but for the length; worked out anew when a window has come."""
        if self._judged != self._heard:
            self._judged = self._heard
            self._standing = tuple(self._standing_problems())
        return self._standing

    def _standing_problems(self) -> Iterator[Problem]:
        for code, count in self._spoilt.items():
            if count > SPOILT_SHARE * self._heard:
                yield self._last[code]
        if self._others >= LEAST_WINDOWS and self._others > OTHERS_SHARE * self._heard:
            yield _NOT_WHO_BEGAN if all(self._strange) else _SOMEONE_ELSE
        elif len(self._useful) > LEAST_WINDOWS and _are_two_voices(self.windows()):
            yield _SOMEONE_ELSE
        if len(self._useful) >= _RECENT and _is_played_back(self._useful):
            yield _PLAYED_BACK
        if self.speech_s >= ONE_WAY_S and _is_one_way(self._useful):
            yield _ONE_WAY

    def windows(self) -> Floats:
        """The embeddings of the useful windows so far, float32 (k, D), k >= 1."""
        return np.stack([window.embedding for window in self._useful])

    def _now(self, block: AudioBlock) -> Iterator[Problem]:
        """What is wrong with the sound of this moment, before a window is full."""
        clipped = acoustics.clipped_share(block.samples)
        if clipped > CLIPPED_SHARE and all(p.code != "clipped" for p in self._wrong):
            yield _clipping(clipped)
        if not self._useful and not self._road and self._pauses.loud_tones:
            yield _MELODY
        silent = float(np.ptp(block.samples)) <= SILENT_SPAN
        self._silent_blocks = self._silent_blocks + 1 if silent else 0
        self._sounded = self._sounded or not silent
        if self._silent_blocks * BLOCK_S >= (_GATED_S if self._sounded else _MUTE_S):
            yield _SILENT

    def _collect(self, pieces: Sequence[Segment | UtteranceEnd]) -> None:
        for piece in pieces:
            if isinstance(piece, Segment):
                self._take(self._measured(piece), piece.samples)

    def _measured(self, look: Segment) -> _Window:
        sound = look.samples
        pitch = acoustics.pitch_semitones(sound)
        quality = acoustics.Quality()
        quality.add(sound)
        return _Window(
            embedding=self._encoder.embed(sound),
            seconds=look.new_s,
            sound=quality.sound(),
            snr_db=look.snr_db,
            low_db=acoustics.low_db(sound),
            decay_db_s=acoustics.decay_db_s(sound),
            pitch_spread=float(np.std(pitch)) if pitch.size else 0.0,
            tones=self._pauses.have_tones(),
        )

    def _take(self, window: _Window, sound: Floats) -> None:
        self._heard += 1
        self._recent.append(window)
        problems = list(_spoiling(window, tuple(self._recent), road=self._road))
        if not problems:
            strange = self._is_strange(window)
            self._strange.append(strange)
            if strange:
                self._others += 1
                problems = [_NOT_WHO_BEGAN if self._is_another_now() else _SOMEONE_ELSE]
            else:
                copies = in_noise(sound, len(self._useful))
                for rows, copy in zip(self._in_noise, copies, strict=True):
                    rows.append(self._encoder.embed(copy))
                self._useful.append(window)
        else:
            for problem in problems:
                self._spoilt[problem.code] = self._spoilt.get(problem.code, 0) + 1
                self._last[problem.code] = problem
        advice = [problem for problem in self._against() if not problem.blocking]
        self._wrong = (*problems, *advice)

    def _is_strange(self, window: _Window) -> bool:
        """Whether it is not the voice that began."""
        if len(self._useful) < LEAST_WINDOWS:
            return False
        began = unit(self.windows().sum(axis=0))
        return float(began @ window.embedding) < OTHER_COSINE

    def _is_another_now(self) -> bool:
        """Whether nothing but another voice is heard of late."""
        return len(self._strange) == _RECENT and all(self._strange)


class _Pauses:
    """The last second and a half of sound that is surely not speech."""

    def __init__(self) -> None:
        self._blocks: deque[Floats] = deque(maxlen=_PAUSE_BLOCKS)
        self._young: deque[Floats] = deque()
        self._since = _GUARD_BLOCKS
        self._loud = False
        self._looked = 0

    def hear(self, samples: Floats, speaking: bool, probability: float) -> None:  # noqa: FBT001
        """Take 30 ms; what is next to speech is left out."""
        if speaking or probability > _NO_SPEECH:
            self._young.clear()
            self._since = 0
            return
        self._since += 1
        if self._since > _GUARD_BLOCKS:
            self._young.append(samples)
            if len(self._young) > _GUARD_BLOCKS:
                self._blocks.append(self._young.popleft())
        self._look()

    def _look(self) -> None:
        """Look for loud tones twice a second: more would cost much and tell little."""
        self._looked += 1
        if self._looked % _LOOK_BLOCKS == 0 and len(self._blocks) == _PAUSE_BLOCKS:
            level = acoustics.level_dbfs(np.concatenate(self._blocks))
            self._loud = level > _LOUD_DBFS and self.have_tones()

    def have_tones(self) -> bool:
        """Whether music or an engine is heard; False while too little was heard."""
        if len(self._blocks) < _LEAST_PAUSE_BLOCKS:
            return False
        sound = np.concatenate(self._blocks)
        return acoustics.melody_db(sound) > MELODY_DB or acoustics.hum_db(sound) > HUM_DB

    @property
    def loud_tones(self) -> bool:
        """Whether they are loud enough to be told before anybody speaks."""
        return self._loud


def _spoiling(window: _Window, recent: Sequence[_Window], *, road: bool) -> Iterator[Problem]:
    """What was wrong while the window was spoken; slow measures rest on the recent ones too."""
    sound = window.sound
    if sound.level_dbfs < QUIETEST_DBFS:
        yield _too_quiet(sound.level_dbfs)
    if sound.clipped > CLIPPED_SHARE:
        yield _clipping(sound.clipped)
    snr_db = window.snr_db
    if not road and snr_db is not None and snr_db < TONES_SNR_DB and window.tones:
        yield _MELODY
    elif snr_db is not None and snr_db < (LEAST_ROAD_SNR_DB if road else LEAST_SNR_DB):
        yield _noisy(snr_db)
    if sound.upper_band_db < UPPER_BAND_DB:
        yield _TELEPHONE_BAND
    elif len(recent) == _RECENT and _echoes(recent):
        yield _ECHO


def _echoes(windows: Sequence[_Window]) -> bool:
    """Noise hides how the sound dies: nothing is said of it then."""
    if any(w.snr_db is not None and w.snr_db < TONES_SNR_DB for w in windows):
        return False
    return float(np.median([window.decay_db_s for window in windows])) < SLOWEST_DECAY_DB_S


def _is_played_back(windows: Sequence[_Window]) -> bool:
    return float(np.median([window.low_db for window in windows])) < LEAST_LOW_DB


def _is_one_way(windows: Sequence[_Window]) -> bool:
    """Whether all that was said was said in one way: on one note, or the same words again."""
    voices = np.stack([window.embedding for window in windows])
    likeness = voices @ voices.T
    pairs = likeness[np.triu_indices(len(voices), 1)]
    spread = float(np.median([window.pitch_spread for window in windows]))
    return float(pairs.mean()) > ONE_WAY_COSINE or spread < ONE_PITCH_SEMITONES


def _are_two_voices(windows: Floats) -> bool:
    """Whether the windows (k, D) fall into two groups that do not sound like one person.

    Spherical k-means with two groups (Dhillon and Modha, "Concept Decompositions for Large Sparse
    Text Data Using Clustering", 2001), begun at the two sides of the first principal component.
    Comparing each window with the mean of the others instead misses people with equal shares: the
    mean is then like both.
    """
    spread = windows - windows.mean(axis=0)
    group = spread @ np.linalg.svd(spread, full_matrices=False)[2][0] > 0.0
    likeness = 1.0
    for _ in range(_ROUNDS):
        if min(np.count_nonzero(group), np.count_nonzero(~group)) < LEAST_WINDOWS:
            return False
        one, other = unit(windows[group].sum(axis=0)), unit(windows[~group].sum(axis=0))
        likeness = float(one @ other)
        group = windows @ one > windows @ other
    return likeness < TWO_VOICES_COSINE


def first_voice(
    blocks: Iterable[AudioBlock], activity: VoiceActivity, encoder: Encoder
) -> Floats | None:
    """The voice that speaks first in a recording, (D,), unit length; None when nobody does.

    Args:
        blocks: the recording, of which FIRST_S are heard, or less if FIRST_WINDOWS are full before.
        activity: a voice-activity detector of its own.
        encoder: the encoder that recognition will use.
    """
    segmenter = Segmenter(SegmenterSettings(segment_s=WINDOW_S))
    voices: list[Floats] = []
    for block in blocks:
        (probability,) = activity.probabilities([block.samples])
        pieces = segmenter.step(block, probability)
        voices += [encoder.embed(piece.samples) for piece in pieces if isinstance(piece, Segment)]
        if len(voices) >= FIRST_WINDOWS or block.at_s > FIRST_S:
            break
    return unit(np.stack(voices).sum(axis=0)) if voices else None


def channel_of_person(voices: Mapping[int, Floats]) -> int:
    """The channel to enrol from, where each that somebody speaks in has a voice, (D,).

    Several channels of one voice are microphones of one room. One of another voice beside at least
    three of them, and at least twice as many, is what the device itself plays.

    Args:
        voices: by channel, the loudest first; one at least.

    Raises:
        EnrolmentError: two channels hold different voices; the text says which, counted from 1.
    """
    groups: list[list[int]] = []
    for channel, voice in voices.items():
        alike = (g for g in groups if float(voices[g[0]] @ voice) >= TWO_VOICES_COSINE)
        same = next(alike, None)
        if same is None:
            groups.append([channel])
        else:
            same.append(channel)
    first, *others = sorted(groups, key=len, reverse=True)
    if all(len(first) >= max(MOST_OF_ARRAY, 2 * len(other)) for other in others):
        return first[0]
    told = "; another in ".join(
        ", ".join(str(channel + 1) for channel in sorted(group)) for group in (first, *others)
    )
    raise EnrolmentError(f"two people, one in channel {told}")


def in_noise(speech: Floats, number: int) -> list[Floats]:
    """`speech` (n,) in road noise and in broadband noise, NOISY_COPIES_DB under it.

    Never beyond full scale. The noise is the same for the same `number`: enrolling from one
    recording twice gives one profile.
    """
    level = float(np.sqrt(np.mean(np.square(speech, dtype=np.float64))))
    return [
        np.clip(
            speech
            + _noise(number, speech.size, slope_db) * level * 10 ** (-AUGMENTATION_SNR_DB / 20),
            -1.0,
            1.0,
        ).astype(np.float32)
        for slope_db in _SLOPES_DB
    ]


def _noise(number: int, count: int, slope_db: float) -> Floats:
    """Noise of RMS 1 whose power falls by `slope_db` per decade above _ROAD_CORNER_HZ."""
    rng = np.random.default_rng((_SEED, number))
    hertz = np.fft.rfftfreq(count, 1.0 / SAMPLE_RATE_HZ)
    decades = np.log10(np.maximum(hertz, _ROAD_CORNER_HZ) / _ROAD_CORNER_HZ)
    spectrum = np.fft.rfft(rng.standard_normal(count)) * 10 ** (slope_db * decades / 20)
    noise = np.fft.irfft(spectrum, count)
    return np.asarray(noise / np.sqrt(np.mean(noise**2)), np.float32)


def _too_short(speech_s: float) -> Problem:
    return Problem(
        "too_short",
        f"{speech_s:.1f} s of useful speech heard, at least {LEAST_S:.0f} s are needed"
        f" ({ENOUGH_S:.0f} s are better); speak longer, or add recordings",
    )


_SILENT = Problem("no_sound", SILENCE)


def _too_quiet(level_dbfs: float) -> Problem:
    fix = f"raise the gain or come closer (above {QUIETEST_DBFS:.0f} dBFS)"
    return Problem("too_quiet", f"the speech is at {level_dbfs:.0f} dBFS; {fix}")


def _clipping(share: float) -> Problem:
    said = f"{100 * share:.1f} % of the samples are at full scale"
    return Problem("clipped", f"{said}; lower the gain")


def _noisy(snr_db: float) -> Problem:
    fix = f"stop engine, fan and radio (at least {LEAST_SNR_DB:.0f} dB)"
    return Problem("noise", f"the speech is only {snr_db:.0f} dB above the noise; {fix}")


_MELODY = Problem(
    "engine_or_music", "an engine or music is heard in the pauses; switch it off for this minute"
)


_TELEPHONE_BAND = Problem(
    "telephone_band",
    "there is nothing above 4 kHz, as over a telephone; record at 16 kHz or more, wide band",
)


_ECHO = Problem(
    "echo", "the sound comes back from far walls, as in a hall; record in the car, doors shut"
)


_SOMEONE_ELSE = Problem(
    "someone_else",
    "parts do not sound like the rest, as if someone else spoke too; record one person alone",
)


_NOT_WHO_BEGAN = Problem(
    "not_the_voice_that_began",
    "this is not the voice that this recording began with; let the same person go on, or begin "
    "anew",
)


_PLAYED_BACK = Problem(
    "played_back",
    "this sounds like a small loudspeaker; let the person speak here and now",
    blocking=False,
)


_ONE_WAY = Problem(
    "one_way_of_speaking",
    "all of it is spoken in one way; ask a question, speak up, or tell of something that annoyed "
    "you",
    blocking=False,
)
