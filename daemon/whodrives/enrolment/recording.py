"""Turns a recording of one person into the embeddings of a profile.

Owns the requirements on a recording, and reports each violation while it lasts. Must not know where
the sound comes from or where the result is stored.

Speech is processed in windows of two seconds. A window is *useful* if it has no problem and is of
the speaker who began; only useful windows enter the profile. A slammed door or a passenger's remark
thus costs seconds, but no second attempt.

The limits were measured on real people (tools/measure_enrolment.py); docs/enrolment.md has the
figures. `played_back` is only advice, because it is uncertain: most loudspeakers pass, and a poor
microphone does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whodrives.audio.blocks import BLOCK_S, SAMPLE_RATE_HZ, AudioBlock, Floats
from whodrives.audio.offset import SILENCE, is_silent
from whodrives.enrolment.types import Problem
from whodrives.errors import EnrolmentError
from whodrives.voice import acoustics
from whodrives.voice.decision import is_telephone
from whodrives.voice.scoring import first_part, unit
from whodrives.voice.segments import Segmenter, SegmenterSettings
from whodrives.voice.types import Encoder, Segment, Sound, UtteranceEnd, VoiceActivity

WINDOW_S = 2.0
"""Length of a window; slightly better than one embedding of all speech."""


LEAST_S = 6.0
"""Minimum useful speech of a profile."""


ENOUGH_S = 20.0
"""Useful speech after which an enrolment ends; more improves little."""


QUIETEST_DBFS = -50.0
"""Minimum level of a window."""


CLIPPED_SHARE = 0.002
"""Maximum share of clipped samples of a window."""


LEAST_SNR_DB = 10.0
"""Minimum SNR of a window in a parked car."""


LEAST_ROAD_SNR_DB = 3.0
"""Minimum SNR on the road, whose noise is wanted in the profile."""


SLOWEST_DECAY_DB_S = 170.0
"""Minimum decay (`acoustics.decay_db_s`); a car or a furnished room is above it, a hall below."""


MELODY_DB = 11.0
"""Limit of `acoustics.melody_db` in pauses: above it, music or an engine is heard."""


HUM_DB = 5.0
"""Limit of `acoustics.hum_db` in pauses: above it, an engine is heard."""


TONES_SNR_DB = 20.0
"""Below this SNR, tones in the pauses are a problem, and decay is not measured."""


LEAST_LOW_DB = -12.0
"""Below this `acoustics.low_db`, speech comes from a small loudspeaker or a poor microphone."""


ONE_PITCH_SEMITONES = 1.0
"""Below this standard deviation of the pitch, speech is monotonous."""


ONE_WAY_COSINE = 0.72
"""Above this mean cosine between windows, speech has too little variation."""


ONE_WAY_S = 12.0
"""Minimum useful speech before variation is judged."""


OTHER_COSINE = 0.35
"""A window below this cosine to the speaker who began is of another speaker."""


TWO_VOICES_COSINE = 0.4
"""Two groups of windows below this cosine are two people."""


LEAST_WINDOWS = 2
"""Minimum windows of a group; a single one may be a laugh or half a word."""


OTHERS_SHARE = 0.15
"""Maximum share of windows of other speakers."""


FIRST_S = 60.0
"""Maximum sound per channel to find the channel of the speaker."""


FIRST_WINDOWS = 3
"""Maximum windows per channel to find the channel of the speaker."""


MOST_OF_ARRAY = 3
"""Minimum channels of one speaker that count as a microphone array."""


PROBLEM_SHARE = 0.25
"""A problem of more than this share of the windows refuses the recording."""


AUGMENTATION_SNR_DB = 5.0
"""SNR of the noise augmentation, which makes the profile match speech on the road
(docs/decisions/0007-household-as-cohort.md)."""


_ROAD_CORNER_HZ = 100.0


_ROAD_DB_PER_DECADE = -24.0
"""Slope of the road noise above the corner: between tyre noise (steeper) and wind noise."""


_SLOPES_DB = (_ROAD_DB_PER_DECADE, 0.0)
"""Slopes of the augmentation noise, dB per decade: road noise and white noise."""


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


_TONES_EVERY_BLOCKS = 16


_LOUD_DBFS = -50.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a recording.

    Attributes:
        speech_s: useful seconds of speech so far.
        level_dbfs: RMS level of the latest block, dBFS.
        speaking: whether the latest block is part of speech.
        problems: present problems.
        enough: whether there is enough speech and no blocking problem.
    """

    speech_s: float
    level_dbfs: float
    speaking: bool
    problems: tuple[Problem, ...] = ()
    enough: bool = False


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The result of a good recording, from `speech_s` seconds of speech.

    `embeddings` are float32 (AUGMENTATIONS k, D), unit length each, in the order of `Profile`.
    """

    embeddings: Floats
    speech_s: float


@dataclass(frozen=True, slots=True)
class _Window:
    """The embedding and the measurements of one window."""

    embedding: Floats
    seconds: float
    sound: Sound
    snr_db: float | None
    low_db: float
    decay_db_s: float
    pitch_spread: float
    tones: bool


class Enrolment:
    """Collects one person's speech block by block; keeps embeddings, drops the sound.

    Args:
        activity: a voice-activity detector for this recording alone.
        encoder: the encoder of recognition.
    """

    def __init__(self, activity: VoiceActivity, encoder: Encoder) -> None:
        self._activity = activity
        self._encoder = encoder
        self._segmenter = Segmenter(SegmenterSettings(segment_s=WINDOW_S))
        self._pauses = _Pauses()
        self._useful: list[_Window] = []
        self._in_noise: list[list[Floats]] = [[] for _ in _SLOPES_DB]
        self._recent: deque[_Window] = deque(maxlen=_RECENT)
        self._of_other: deque[bool] = deque(maxlen=_RECENT)
        self._others = 0
        self._heard = 0
        self._problem_counts: dict[str, int] = {}
        self._wrong: tuple[Problem, ...] = ()
        self._last: dict[str, Problem] = {}
        self._road = False
        self._silent_blocks = 0
        self._sounded = False
        self._judged = 0
        self._cached: tuple[Problem, ...] = ()

    def allow_road_noise(self) -> None:
        """Accept road noise from now on: the car drives."""
        self._road = True

    @property
    def speech_s(self) -> float:
        """Useful seconds of speech so far."""
        return sum(window.seconds for window in self._useful)

    def step(self, block: AudioBlock) -> Progress:
        """Take one block; return progress and present problems."""
        if block.gap:
            self._activity.reset()
        (probability,) = self._activity.probabilities([block.samples])
        self._collect(self._segmenter.step(block, probability))
        self._pauses.hear(block.samples, self._segmenter.speaking, probability)
        level = acoustics.level_dbfs(block.samples)
        wrong = (*self._now(block), *self._wrong)
        enough = self.speech_s >= ENOUGH_S and not any(p.blocking for p in self._standing())
        return Progress(self.speech_s, level, self._segmenter.speaking, wrong, enough)

    def pause(self, at_s: float) -> None:
        """End a part of the recording at `at_s`; the next block does not follow it."""
        self._collect(self._segmenter.flush(at_s))
        self._segmenter.reset()
        self._activity.reset()
        self._pauses = _Pauses()
        self._silent_blocks = 0

    def finish(self, at_s: float) -> Enrolled:
        """End the recording at `at_s`.

        Raises:
            EnrolmentError: the recording has blocking problems; the text lists all.
        """
        self._collect(self._segmenter.flush(at_s))
        problems = [problem for problem in self.problems() if problem.blocking]
        if problems:
            raise EnrolmentError("\n".join(f"{p.code}: {p.text}" for p in problems))
        in_noise_too = np.concatenate([self.windows(), *map(np.stack, self._in_noise)])
        return Enrolled(in_noise_too, self.speech_s)

    def problems(self) -> tuple[Problem, ...]:
        """All problems of the recording so far, blocking ones and advice."""
        short = () if self.speech_s >= LEAST_S else (_too_short(self.speech_s),)
        return (*self._standing(), *short)

    def _standing(self) -> tuple[Problem, ...]:
        """`problems` without the length; cached until the next window."""
        if self._judged != self._heard:
            self._judged = self._heard
            self._cached = tuple(self._standing_problems())
        return self._cached

    def _standing_problems(self) -> Iterator[Problem]:
        for code, count in self._problem_counts.items():
            if count > PROBLEM_SHARE * self._heard:
                yield self._last[code]
        if self._others >= LEAST_WINDOWS and self._others > OTHERS_SHARE * self._heard:
            yield _NOT_WHO_BEGAN if all(self._of_other) else _SOMEONE_ELSE
        elif len(self._useful) > LEAST_WINDOWS and _are_two_voices(_firsts(self._useful)):
            yield _SOMEONE_ELSE
        if len(self._useful) >= _RECENT and _is_played_back(self._useful):
            yield _PLAYED_BACK
        if self.speech_s >= ONE_WAY_S and _is_one_way(self._useful):
            yield _ONE_WAY

    def windows(self) -> Floats:
        """The embeddings of the useful windows so far, float32 (k, D), k >= 1."""
        return np.stack([window.embedding for window in self._useful])

    def _now(self, block: AudioBlock) -> Iterator[Problem]:
        """Problems of the present block, before a window is complete."""
        clipped = acoustics.clipped_share(block.samples)
        if clipped > CLIPPED_SHARE and all(p.code != "clipped" for p in self._wrong):
            yield _clipping(clipped)
        if not self._useful and not self._road and self._pauses.loud_tones:
            yield _MELODY
        silent = is_silent(block.samples)
        self._silent_blocks = self._silent_blocks + 1 if silent else 0
        self._sounded = self._sounded or not silent
        if self._silent_blocks * BLOCK_S >= (_GATED_S if self._sounded else _MUTE_S):
            yield _SILENT

    def _collect(self, pieces: Sequence[Segment | UtteranceEnd]) -> None:
        for piece in pieces:
            if isinstance(piece, Segment):
                self._take(self._measured(piece), piece.samples)

    def _measured(self, segment: Segment) -> _Window:
        sound = segment.samples
        pitch = acoustics.pitch_semitones(sound)
        quality = acoustics.Quality()
        quality.add(sound)
        return _Window(
            embedding=self._encoder.embed(sound),
            seconds=segment.new_s,
            sound=quality.sound(),
            snr_db=segment.snr_db,
            low_db=acoustics.low_db(sound),
            decay_db_s=acoustics.decay_db_s(sound),
            pitch_spread=float(np.std(pitch)) if pitch.size else 0.0,
            tones=self._pauses.have_tones(),
        )

    def _take(self, window: _Window, sound: Floats) -> None:
        self._heard += 1
        self._recent.append(window)
        problems = list(_window_problems(window, tuple(self._recent), road=self._road))
        if not problems:
            is_other = self._is_other_speaker(window)
            self._of_other.append(is_other)
            if is_other:
                self._others += 1
                problems = [_NOT_WHO_BEGAN if self._is_another_now() else _SOMEONE_ELSE]
            else:
                augmented = in_noise(sound, len(self._useful))
                for rows, noisy in zip(self._in_noise, augmented, strict=True):
                    rows.append(self._encoder.embed(noisy))
                self._useful.append(window)
        else:
            for problem in problems:
                self._problem_counts[problem.code] = self._problem_counts.get(problem.code, 0) + 1
                self._last[problem.code] = problem
        advice = [problem for problem in self._standing() if not problem.blocking]
        self._wrong = (*problems, *advice)

    def _is_other_speaker(self, window: _Window) -> bool:
        """Whether the window is of another speaker than the one who began."""
        if len(self._useful) < LEAST_WINDOWS:
            return False
        began = unit(_firsts(self._useful).sum(axis=0))
        return float(began @ first_part(window.embedding)) < OTHER_COSINE

    def _is_another_now(self) -> bool:
        """Whether all recent windows are of another speaker."""
        return len(self._of_other) == _RECENT and all(self._of_other)


class _Pauses:
    """The last 1.5 s of sound that is not speech."""

    def __init__(self) -> None:
        self._blocks: deque[Floats] = deque(maxlen=_PAUSE_BLOCKS)
        self._young: deque[Floats] = deque()
        self._since = _GUARD_BLOCKS
        self._loud = False
        self._blocks_seen = 0

    def hear(self, samples: Floats, speaking: bool, probability: float) -> None:  # noqa: FBT001
        """Take one block; blocks close to speech are left out."""
        if speaking or probability > _NO_SPEECH:
            self._young.clear()
            self._since = 0
            return
        self._since += 1
        if self._since > _GUARD_BLOCKS:
            self._young.append(samples)
            if len(self._young) > _GUARD_BLOCKS:
                self._blocks.append(self._young.popleft())
        self._detect_tones()

    def _detect_tones(self) -> None:
        """Detect loud tones every 16 blocks, about twice a second, to save processor time."""
        self._blocks_seen += 1
        if self._blocks_seen % _TONES_EVERY_BLOCKS == 0 and len(self._blocks) == _PAUSE_BLOCKS:
            level = acoustics.level_dbfs(np.concatenate(self._blocks))
            self._loud = level > _LOUD_DBFS and self.have_tones()

    def have_tones(self) -> bool:
        """Whether music or an engine is heard; False until there is enough sound."""
        if len(self._blocks) < _LEAST_PAUSE_BLOCKS:
            return False
        sound = np.concatenate(self._blocks)
        return acoustics.melody_db(sound) > MELODY_DB or acoustics.hum_db(sound) > HUM_DB

    @property
    def loud_tones(self) -> bool:
        """Whether tones are loud enough to be reported before anybody speaks."""
        return self._loud


def _window_problems(
    window: _Window, recent: Sequence[_Window], *, road: bool
) -> Iterator[Problem]:
    """Problems of a window; the decay is measured over the recent ones, too."""
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
    if is_telephone(sound):
        yield _TELEPHONE_BAND
    elif len(recent) == _RECENT and _echoes(recent):
        yield _ECHO


def _echoes(windows: Sequence[_Window]) -> bool:
    """Whether the decay is too slow; False in noise, which hides it."""
    if any(w.snr_db is not None and w.snr_db < TONES_SNR_DB for w in windows):
        return False
    return float(np.median([window.decay_db_s for window in windows])) < SLOWEST_DECAY_DB_S


def _is_played_back(windows: Sequence[_Window]) -> bool:
    return float(np.median([window.low_db for window in windows])) < LEAST_LOW_DB


def _is_one_way(windows: Sequence[_Window]) -> bool:
    """Whether speech has too little variation: monotonous, or the same words again."""
    voices = _firsts(windows)
    cosines = voices @ voices.T
    pairs = cosines[np.triu_indices(len(voices), 1)]
    spread = float(np.median([window.pitch_spread for window in windows]))
    return float(pairs.mean()) > ONE_WAY_COSINE or spread < ONE_PITCH_SEMITONES


def _firsts(windows: Sequence[_Window]) -> Floats:
    """What the first encoder made of the windows, float32 (k, D); the limits here are for it."""
    return np.stack([first_part(window.embedding) for window in windows])


def _are_two_voices(windows: Floats) -> bool:
    """Whether the windows (k, D) form two clusters of different speakers.

    Spherical k-means with two groups (Dhillon and Modha, "Concept Decompositions for Large Sparse
    Text Data Using Clustering", 2001), initialised by the sign of the first principal component.
    Comparing each window with the mean of the others would miss two people with equal shares.
    """
    spread = windows - windows.mean(axis=0)
    group = spread @ np.linalg.svd(spread, full_matrices=False)[2][0] > 0.0
    cosine = 1.0
    for _ in range(_ROUNDS):
        if min(np.count_nonzero(group), np.count_nonzero(~group)) < LEAST_WINDOWS:
            return False
        one, other = unit(windows[group].sum(axis=0)), unit(windows[~group].sum(axis=0))
        cosine = float(one @ other)
        group = windows @ one > windows @ other
    return cosine < TWO_VOICES_COSINE


def first_voice(
    blocks: Iterable[AudioBlock], activity: VoiceActivity, encoder: Encoder
) -> Floats | None:
    """The first encoder's embedding of the first speaker of a recording; None without speech.

    It has the shape (FIRST_DIMENSION,) and unit length.

    Args:
        blocks: the recording; at most FIRST_S or FIRST_WINDOWS of it are used.
        activity: a voice-activity detector for this recording alone.
        encoder: the encoder of recognition.
    """
    segmenter = Segmenter(SegmenterSettings(segment_s=WINDOW_S))
    voices: list[Floats] = []
    for block in blocks:
        (probability,) = activity.probabilities([block.samples])
        pieces = segmenter.step(block, probability)
        voices += [
            first_part(encoder.embed(piece.samples))
            for piece in pieces
            if isinstance(piece, Segment)
        ]
        if len(voices) >= FIRST_WINDOWS or block.at_s > FIRST_S:
            break
    return unit(np.stack(voices).sum(axis=0)) if voices else None


def channel_of_person(voices: Mapping[int, Floats]) -> int:
    """The channel to enrol from, given the speaker of each channel.

    Several channels of one speaker are microphones of one room. A different speaker beside at least
    MOST_OF_ARRAY of them, and at most half as many, is what the device itself plays.

    Args:
        voices: embedding (D,) of the speaker by channel, the loudest first; at least one.

    Raises:
        EnrolmentError: two channels have different speakers; the text names them, from 1.
    """
    groups: list[list[int]] = []
    for channel, voice in voices.items():
        similar = (g for g in groups if float(voices[g[0]] @ voice) >= TWO_VOICES_COSINE)
        same = next(similar, None)
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
    """Noise augmentation: `speech` (n,) with road noise, and with white noise.

    The SNR is AUGMENTATION_SNR_DB; samples are clipped to full scale. The noise depends only on
    `number`, so that the same recording always gives the same profile.
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
