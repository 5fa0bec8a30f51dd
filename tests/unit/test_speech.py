"""The segmenter: onset, offset, segments, ends of utterances, gaps, and the noise floor."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whodrives.audio.blocks import BLOCK_S, BLOCK_SAMPLES, AudioBlock
from whodrives.errors import ConfigError
from whodrives.voice.segments import Segmenter, SegmenterEvent, SegmenterSettings
from whodrives.voice.types import Segment, UtteranceEnd

SETTINGS = SegmenterSettings()
SPEECH, NOISE = 0.9, 0.01
SEGMENT = math.ceil(SETTINGS.segment_s / BLOCK_S - 1e-6)
SHORTEST = math.ceil(SETTINGS.shortest_segment_s / BLOCK_S - 1e-6)
PAUSE = math.ceil(SETTINGS.pause_s / BLOCK_S - 1e-6)
PRE_ROLL = math.ceil(SETTINGS.pre_roll_s / BLOCK_S - 1e-6)
HANGOVER = math.ceil(SETTINGS.hangover_s / BLOCK_S - 1e-6)
LONGEST = math.ceil(SETTINGS.utterance_s / BLOCK_S - 1e-6)


def block(number: int, *, gap: bool = False) -> AudioBlock:
    """A block whose samples carry its number, so that a segment shows where it came from."""
    return AudioBlock(number * BLOCK_S, np.full(BLOCK_SAMPLES, number, np.float32), gap)


def numbers(segment: Segment) -> list[int]:
    """The numbers of a segment's blocks."""
    return [int(value) for value in segment.samples.reshape(-1, BLOCK_SAMPLES)[:, 0]]


def hear(
    gate: Segmenter, probabilities: Iterable[float], gaps: Iterable[int] = (), start: int = 1
) -> list[SegmenterEvent]:
    """All events for these blocks; those numbered in `gaps` follow a loss."""
    lost = set(gaps)
    heard: list[SegmenterEvent] = []
    for number, probability in enumerate(probabilities, start):
        heard += gate.step(block(number, gap=number in lost), probability)
    return heard


def segments(heard: Iterable[SegmenterEvent]) -> list[Segment]:
    """The segments among the events."""
    return [piece for piece in heard if isinstance(piece, Segment)]


def ends(heard: Iterable[SegmenterEvent]) -> list[UtteranceEnd]:
    """The ends among what was heard."""
    return [piece for piece in heard if isinstance(piece, UtteranceEnd)]


def sound(*parts: tuple[int, float]) -> list[float]:
    """So many blocks of this probability, then of that."""
    return [probability for count, probability in parts for _ in range(count)]


def test_one_sentence_gives_looks_and_then_its_end() -> None:
    """2.5 s of speech: two segments of 1 s as they fill, the remainder and the end at the pause."""
    heard = hear(Segmenter(), sound((20, NOISE), (83, SPEECH), (40, NOISE)))
    assert [type(piece) for piece in heard] == [Segment, Segment, UtteranceEnd]
    assert [segment.new_s for segment in segments(heard)] == pytest.approx([1.02, 1.02])
    assert ends(heard)[0].speech_s == pytest.approx(83 * BLOCK_S)
    assert ends(heard)[0].at_s == pytest.approx((20 + 83 + PAUSE) * BLOCK_S)


def test_a_look_comes_as_soon_as_its_speech_is_there() -> None:
    """The verdict waits for speech alone: a segment's time is that of its last block."""
    gate = Segmenter()
    assert hear(gate, sound((20, NOISE), (SEGMENT - 1, SPEECH))) == []
    (segment,) = gate.step(block(20 + SEGMENT), SPEECH)
    assert isinstance(segment, Segment)
    assert segment.at_s == pytest.approx((20 + SEGMENT) * BLOCK_S)
    assert numbers(segment)[-1] == 20 + SEGMENT


def test_the_remainder_is_looked_at_when_it_is_half_a_second() -> None:
    """At the end, 0.5 s of new speech make a last segment; less is dropped."""
    enough = hear(Segmenter(), sound((SEGMENT + SHORTEST, SPEECH), (40, NOISE)))
    assert [segment.new_s for segment in segments(enough)] == pytest.approx(
        [1.02, SHORTEST * BLOCK_S]
    )
    short = hear(Segmenter(), sound((SEGMENT + SHORTEST - 1, SPEECH), (40, NOISE)))
    assert [segment.new_s for segment in segments(short)] == pytest.approx([1.02])
    assert ends(short)[0].speech_s == pytest.approx((SEGMENT + SHORTEST - 1) * BLOCK_S)


def test_pre_roll_and_hangover_are_heard_and_not_counted() -> None:
    """Silence at both ends goes along, because the detector is late, but is no evidence."""
    (segment,) = segments(hear(Segmenter(), sound((30, NOISE), (20, SPEECH), (40, NOISE))))
    assert numbers(segment) == list(range(31 - PRE_ROLL, 51 + HANGOVER))
    assert segment.new_s == pytest.approx(20 * BLOCK_S)
    assert segment.speech_s == pytest.approx(20 * BLOCK_S)


def test_a_short_dip_is_part_of_the_speech() -> None:
    """A stop consonant's silence lies between two active blocks: it is bridged and counts."""
    dip = HANGOVER - 1
    heard = hear(Segmenter(), sound((15, SPEECH), (dip, NOISE), (15, SPEECH), (40, NOISE)))
    assert ends(heard)[0].speech_s == pytest.approx((30 + dip) * BLOCK_S)


def test_a_longer_dip_is_not_speech_and_does_not_end_the_utterance() -> None:
    """Half a second between two phrases: one utterance, and only the phrases count."""
    heard = hear(Segmenter(), sound((20, SPEECH), (17, NOISE), (20, SPEECH), (40, NOISE)))
    assert [end.speech_s for end in ends(heard)] == pytest.approx([40 * BLOCK_S])


def test_a_click_does_not_open_the_gate() -> None:
    """Fewer active blocks than the onset asks for are no speech, however often they come."""
    click = sound((SETTINGS.onset_blocks - 1, SPEECH), (SETTINGS.onset_window, NOISE))
    assert hear(Segmenter(), click * 50) == []


def test_doubt_continues_speech_but_does_not_start_it() -> None:
    """Hysteresis: between the two thresholds the state does not change."""
    doubt = (SETTINGS.on + SETTINGS.off) / 2
    assert hear(Segmenter(), sound((200, doubt))) == []
    heard = hear(Segmenter(), sound((5, SPEECH), (20, doubt), (40, NOISE)))
    assert ends(heard)[0].speech_s == pytest.approx(25 * BLOCK_S)


def test_endless_speech_is_cut_and_goes_on() -> None:
    """Evidence of two voices must not mix for long: 6 s end an utterance, the next begins."""
    heard = hear(Segmenter(), sound((LONGEST + 50, SPEECH), (40, NOISE)))
    assert [end.speech_s for end in ends(heard)] == pytest.approx([6.0, 50 * BLOCK_S])
    assert segments(heard)[-1].speech_s == pytest.approx(SEGMENT * BLOCK_S)
    held = [number for segment in segments(heard) for number in numbers(segment)]
    assert held == list(range(1, LONGEST + SEGMENT + 1))


def test_silence_after_a_cut_is_no_utterance() -> None:
    """Who stops speaking just when the utterance is cut has not begun another."""
    assert len(ends(hear(Segmenter(), sound((LONGEST, SPEECH), (60, NOISE))))) == 1


def test_a_gap_discards_the_open_utterance() -> None:
    """Spliced audio is never judged: what was open is discarded, and the rest is an utterance."""
    heard = hear(Segmenter(), sound((30, SPEECH), (30, SPEECH), (40, NOISE)), gaps=[31])
    assert [end.discarded for end in ends(heard)] == [True, False]
    assert [end.speech_s for end in ends(heard)] == pytest.approx([0.9, 0.9])
    (segment,) = segments(heard)
    assert min(numbers(segment)) == 31


def test_a_gap_in_silence_says_nothing() -> None:
    """With nothing open there is nothing to discard."""
    assert hear(Segmenter(), sound((30, NOISE)), gaps=[10, 20]) == []


def test_flush_ends_what_is_open_and_only_once() -> None:
    """A recording that stops within a word still gives its segments and its end."""
    gate = Segmenter()
    hear(gate, sound((20, SPEECH)))
    heard = gate.flush(0.7)
    assert [type(piece) for piece in heard] == [Segment, UtteranceEnd]
    assert ends(heard)[0].at_s == pytest.approx(0.7)
    assert gate.flush(0.8) == []


def test_reset_forgets_the_utterance_and_the_noise() -> None:
    """A reset restores the initial state."""
    gate = Segmenter()
    hear(gate, sound((100, NOISE), (20, SPEECH)))
    gate.reset()
    (segment,) = segments(hear(gate, sound((40, SPEECH))))
    assert segment.speech_s == pytest.approx(SEGMENT * BLOCK_S)
    assert segment.snr_db is None


def test_speaking_follows_speech() -> None:
    """The property is true from the onset to the end of the hangover."""
    gate = Segmenter()
    assert not gate.speaking
    hear(gate, sound((10, SPEECH)))
    assert gate.speaking
    hear(gate, sound((HANGOVER, NOISE)), start=11)
    assert not gate.speaking


@pytest.mark.parametrize("snr_db", [0.0, 5.0, 20.0, 40.0])
def test_snr_is_that_of_the_speech_over_the_noise(snr_db: float) -> None:
    """White speech in white noise: the estimate is within 1 dB of the truth."""
    rng = np.random.default_rng(1)
    sounds = 0.01 * rng.standard_normal((300, BLOCK_SAMPLES))
    sounds[100:200] += 0.01 * 10 ** (snr_db / 20) * rng.standard_normal((100, BLOCK_SAMPLES))
    gate, heard = Segmenter(), []
    for number, samples in enumerate(sounds.astype(np.float32)):
        probability = SPEECH if 100 <= number < 200 else NOISE
        heard += gate.step(AudioBlock(number * BLOCK_S, samples), probability)
    assert [segment.snr_db for segment in segments(heard)] == pytest.approx([snr_db] * 3, abs=1.0)
    assert ends(heard)[0].snr_db == pytest.approx(snr_db, abs=1.0)


def test_snr_is_not_known_before_noise_was_heard() -> None:
    """Speech from the first block on: there is nothing to compare it with."""
    heard = hear(Segmenter(), sound((40, SPEECH)))
    assert segments(heard)[0].snr_db is None


def test_digital_silence_gives_a_bounded_snr() -> None:
    """Zeros have no level; the estimate stays a number that can be published."""
    gate, heard = Segmenter(), []
    for number in range(200):
        samples = np.full(BLOCK_SAMPLES, 0.0 if number < 100 else 0.5, np.float32)
        heard += gate.step(AudioBlock(number * BLOCK_S, samples), float(number >= 100))
    assert [segment.snr_db for segment in segments(heard)] == [80.0, 80.0]


def test_a_slammed_door_hardly_moves_the_noise_floor() -> None:
    """Ten loud blocks among quiet ones do not make the speech after them segment noisy."""
    rng = np.random.default_rng(2)
    sounds = 0.001 * rng.standard_normal((240, BLOCK_SAMPLES))
    sounds[150:160] *= 300
    sounds[200:] *= 100
    gate, heard = Segmenter(), []
    for number, samples in enumerate(sounds.astype(np.float32)):
        heard += gate.step(AudioBlock(number * BLOCK_S, samples), float(number >= 200))
    assert segments(heard)[0].snr_db == pytest.approx(40.0, abs=5.0)


@pytest.mark.parametrize(
    "change",
    [
        {"on": 0.1},
        {"on": 1.5},
        {"off": 0.0},
        {"onset_blocks": 0},
        {"onset_blocks": 9},
        {"pre_roll_s": -0.1},
        {"hangover_s": 0.0},
        {"hangover_s": 0.9},
        {"pause_s": 11.0},
        {"shortest_segment_s": 1.2},
        {"segment_s": 7.0},
        {"utterance_s": 100.0},
        {"segment_s": float("nan")},
    ],
)
def test_impossible_settings_are_refused_by_name(change: dict[str, float]) -> None:
    """Settings with which speech could never start, or never end, are refused."""
    with pytest.raises(ConfigError, match=next(iter(change))):
        SegmenterSettings(**change)  # type: ignore[arg-type]


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[float], list[int]]:
    """Runs of speech, noise, doubt and flutter, and the blocks before which sound was lost."""
    level = st.sampled_from([0.0, NOISE, SETTINGS.off, 0.2, SETTINGS.on, SPEECH, 1.0])
    run = st.tuples(st.integers(1, 60), level)
    runs = draw(st.lists(st.one_of(run, st.tuples(st.just(1), level)), max_size=40))
    probabilities = sound(*runs)
    gaps = st.lists(st.integers(1, max(1, len(probabilities))), max_size=3)
    return probabilities, draw(gaps)


@given(conversations())
def test_looks_are_disjoint_in_order_and_whole(case: tuple[list[float], list[int]]) -> None:
    """No block is ever judged twice or out of order, whatever the detector says."""
    probabilities, gaps = case
    gate = Segmenter()
    heard = hear(gate, probabilities, gaps) + gate.flush(len(probabilities) * BLOCK_S)
    held = [number for segment in segments(heard) for number in numbers(segment)]
    assert held == sorted(set(held))


@given(conversations())
def test_looks_hold_their_speech_and_little_else(case: tuple[list[float], list[int]]) -> None:
    """Every segment has at least 0.5 s of speech, and bounded samples."""
    probabilities, gaps = case
    gate = Segmenter()
    heard = hear(gate, probabilities, gaps) + gate.flush(len(probabilities) * BLOCK_S)
    openings = math.ceil(SEGMENT / SETTINGS.onset_blocks)
    most = SEGMENT + SETTINGS.onset_window + HANGOVER + openings * (PRE_ROLL + HANGOVER)
    for segment in segments(heard):
        assert (
            SHORTEST
            <= round(segment.new_s / BLOCK_S)
            <= len(segment.samples) / BLOCK_SAMPLES
            <= most
        )
        assert not segment.samples.flags.writeable


@given(conversations())
def test_every_utterance_ends_exactly_once(case: tuple[list[float], list[int]]) -> None:
    """Segments of one utterance count up from zero, and its end has at least their sum."""
    probabilities, gaps = case
    gate = Segmenter()
    heard = hear(gate, probabilities, gaps) + gate.flush(len(probabilities) * BLOCK_S)
    speech_s = 0.0
    for piece in heard:
        if isinstance(piece, Segment):
            speech_s += piece.new_s
            assert piece.speech_s == pytest.approx(speech_s)
        else:
            assert speech_s <= piece.speech_s + 1e-9
            assert 0 < piece.speech_s <= SETTINGS.utterance_s + SETTINGS.hangover_s + 1e-9
            speech_s = 0.0
    assert speech_s == 0.0
    assert sum(end.discarded for end in ends(heard)) <= len(set(gaps))


@given(conversations())
def test_no_speech_crosses_a_gap(case: tuple[list[float], list[int]]) -> None:
    """Wherever sound was lost, no segment has blocks from both sides."""
    probabilities, gaps = case
    gate = Segmenter()
    heard = hear(gate, probabilities, gaps) + gate.flush(len(probabilities) * BLOCK_S)
    for segment in segments(heard):
        assert not any(numbers(segment)[0] < gap <= numbers(segment)[-1] for gap in gaps)


@given(conversations(), conversations())
def test_after_a_gap_the_gate_is_as_new(
    before: tuple[list[float], list[int]], after: tuple[list[float], list[int]]
) -> None:
    """What was said before a gap changes nothing after it but the noise floor."""
    used, fresh = Segmenter(), Segmenter()
    hear(used, before[0])
    used.step(block(0, gap=True), NOISE)
    fresh.step(block(0), NOISE)
    one, other = hear(used, after[0]), hear(fresh, after[0])
    assert [type(piece) for piece in one] == [type(piece) for piece in other]
    assert [numbers(segment) for segment in segments(one)] == [
        numbers(segment) for segment in segments(other)
    ]
