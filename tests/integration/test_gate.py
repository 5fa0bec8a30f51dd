"""The gate as it is shipped: the real detector behind the real rules, on voices in car noise."""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tools import measure_gate
from tools.build_models import fetch, recipes
from tools.lab import scene
from whodrives.audio.blocks import BLOCK_S, BLOCK_SAMPLES, SAMPLE_RATE_HZ, AudioBlock, Floats
from whodrives.errors import ModelError
from whodrives.models.manifests import read_manifest
from whodrives.models.session import open_session
from whodrives.models.vad import OnnxVoiceActivity, load_vad
from whodrives.voice.segments import Segmenter, SegmenterEvent, SegmenterSettings
from whodrives.voice.types import VoiceActivity

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"

PAUSE_BLOCKS = 80
HISS_DB = -75.0


@pytest.fixture(scope="module")
def gate_model() -> VoiceActivity:
    """The detector as the daemon loads it."""
    return load_vad(MODELS)


def in_turn(recordings: list[Floats]) -> tuple[Floats, list[tuple[int, int]]]:
    """Recordings at one level with pauses of 2.4 s, and the blocks that each takes."""
    pieces, marks, at = [], [], 0
    for recording in recordings:
        blocks = len(recording) // BLOCK_SAMPLES
        pieces.append(np.zeros(PAUSE_BLOCKS * BLOCK_SAMPLES, np.float32))
        pieces.append(scene.level_speech(recording)[: blocks * BLOCK_SAMPLES])
        marks.append((at + PAUSE_BLOCKS, at + PAUSE_BLOCKS + blocks))
        at += PAUSE_BLOCKS + blocks
    return np.concatenate(pieces), marks


def shares(
    activity: VoiceActivity, recordings: list[Floats], speed_kmh: float, snr_db: float
) -> tuple[float, float]:
    """Share of speech missed and of pauses let through, in road noise."""
    clean, marks = in_turn(recordings)
    noise = scene.road_noise(len(clean) / SAMPLE_RATE_HZ, speed_kmh, seed=11)
    truth = measure_gate.labelled(clean, marks)
    heard = measure_gate.Stream(
        scene.mix(clean, noise, snr_db), truth.speech, truth.pause, truth.segments
    )
    scored = measure_gate.score_speech(activity, heard, SegmenterSettings())
    return scored.gate_missed, scored.gate_passed


@pytest.mark.parametrize("speed_kmh", [50.0, 100.0])
@pytest.mark.parametrize("snr_db", [20.0, 10.0, 5.0, 0.0])
def test_voices_in_road_noise_are_heard(
    gate_model: VoiceActivity, voices: Path, speed_kmh: float, snr_db: float
) -> None:
    """Twelve synthetic voices: little speech is missed, and hardly a pause lets noise through."""
    names = sorted(path for path in voices.iterdir() if path.is_dir())[::3]
    recordings = [scene.read_speech(name / "3.opus") for name in names]
    missed, passed = shares(gate_model, recordings, speed_kmh, snr_db)
    assert missed < 0.1
    assert passed < 0.05


@pytest.mark.parametrize("language", ["en", "fr", "it", "ru"])
def test_people_in_road_noise_are_heard(
    gate_model: VoiceActivity, human_prompts: Callable[..., list[Floats]], language: str
) -> None:
    """Four people at 5 dB of noise at 100 km/h: what holds for synthetic voices holds for them."""
    missed, passed = shares(gate_model, human_prompts(language, 6), 100.0, 5.0)
    assert missed < 0.12
    assert passed < 0.15


def hear(activity: VoiceActivity, samples: Floats) -> list[SegmenterEvent]:
    """All that the gate says to this sound, from its first block to its end."""
    activity.reset()
    gate = Segmenter()
    heard: list[SegmenterEvent] = []
    blocks = samples[: len(samples) // BLOCK_SAMPLES * BLOCK_SAMPLES].reshape(-1, BLOCK_SAMPLES)
    for number, probability in enumerate(activity.probabilities(list(blocks))):
        heard += gate.step(AudioBlock(number * BLOCK_S, blocks[number]), probability)
    return heard + gate.flush(len(blocks) * BLOCK_S)


@pytest.mark.parametrize("level_db", [-50.0, -30.0, -15.0])
@pytest.mark.parametrize("speed_kmh", [0.0, 50.0, 100.0, 130.0])
def test_road_noise_alone_is_not_speech(
    gate_model: VoiceActivity, speed_kmh: float, level_db: float
) -> None:
    """A minute of driving with nobody speaking: not one utterance, however loud it is."""
    noise = scene.road_noise(60, speed_kmh, seed=12)
    assert hear(gate_model, np.clip(scene.amplify(noise, level_db), -1, 1)) == []


def test_silence_is_not_speech(gate_model: VoiceActivity) -> None:
    """Digital zero and a microphone's hiss open nothing."""
    hiss = np.random.default_rng(1).standard_normal(20 * SAMPLE_RATE_HZ).astype(np.float32)
    assert hear(gate_model, np.zeros(20 * SAMPLE_RATE_HZ, np.float32)) == []
    assert hear(gate_model, scene.amplify(hiss, HISS_DB)) == []


def test_speech_after_minutes_of_noise_is_heard(gate_model: VoiceActivity, voices: Path) -> None:
    """The detector must not get used to noise: a sentence after two minutes of it comes through."""
    sentence = scene.level_speech(scene.read_speech(voices / "am_michael" / "3.opus"))
    clean = np.concatenate((np.zeros(120 * SAMPLE_RATE_HZ, np.float32), sentence))
    noise = scene.road_noise(len(clean) / SAMPLE_RATE_HZ, 100, seed=13)
    heard = hear(gate_model, clean + scene.amplify(noise, scene.SPEECH_LEVEL_DB - 5))
    speech_s = sum(getattr(piece, "new_s", 0.0) for piece in heard)
    assert speech_s > 0.7 * len(sentence) / SAMPLE_RATE_HZ


def test_the_gate_hears_what_its_makers_network_hears(voices: Path) -> None:
    """Laid out as products of matrices, the published weights give the published numbers."""
    manifest = recipes.read_manifest(MODELS / "gate.json")
    published = fetch.fetch(fetch.Source.from_manifest(manifest), recipes.CACHE)
    theirs = onnxruntime.InferenceSession(published, providers=["CPUExecutionProvider"])
    ours = open_session(read_manifest(MODELS, "gate"))
    state: NDArray[np.float32] = np.zeros((1, 1, 128), np.float32)
    for snr_db in (60.0, 5.0):
        samples = scene.level_speech(scene.read_speech(voices / "bf_emma" / "1.opus"))
        noise = scene.road_noise(len(samples) / SAMPLE_RATE_HZ, 100, seed=17)
        heard = samples + scene.amplify(noise, scene.SPEECH_LEVEL_DB - snr_db)[: len(samples)]
        windows = np.ascontiguousarray(sliding_window_view(heard.astype(np.float32), 576)[::512])
        feed = {"input": windows, "h": state, "c": state}
        for mine, published_one in zip(ours.run(None, feed), theirs.run(None, feed), strict=True):
            assert mine.shape == published_one.shape
            assert mine == pytest.approx(published_one, abs=1e-4)


def test_building_the_gate_again_gives_the_pinned_bytes() -> None:
    """The recipe leads to the manifest's checksum, so every machine has one gate."""
    manifest = recipes.read_manifest(MODELS / "gate.json")
    assert fetch.sha256(recipes.produce(manifest)) == manifest["sha256"]


def test_blocks_give_the_windows_that_the_model_wants(voices: Path) -> None:
    """480-sample blocks lose and delay nothing: the same numbers as over the whole recording."""
    samples = scene.read_speech(voices / "bf_emma" / "1.opus")
    session = open_session(read_manifest(MODELS, "gate"))
    windows = sliding_window_view(np.concatenate((np.zeros(64, np.float32), samples)), 576)[::512]
    state: NDArray[np.float32] = np.zeros((1, 1, 128), np.float32)
    feed = {"input": np.ascontiguousarray(windows), "h": state, "c": state}
    expected = [0.0, *session.run(["speech_probs"], feed)[0]]
    activity = OnnxVoiceActivity(session, patience=sys.maxsize)
    for number in range(len(samples) // BLOCK_SAMPLES):
        block = samples[number * BLOCK_SAMPLES : (number + 1) * BLOCK_SAMPLES]
        complete = (number + 1) * BLOCK_SAMPLES // 512
        assert activity.probabilities([block]) == pytest.approx([expected[complete]], abs=1e-5)


def test_blocks_are_heard_together_as_one_by_one(gate_model: VoiceActivity, voices: Path) -> None:
    """However many are given at a time, over a renewal of the state too: the same numbers."""
    sentence = scene.read_speech(voices / "bf_emma" / "1.opus")
    quiet = np.zeros(3 * SAMPLE_RATE_HZ, np.float32)
    samples = np.concatenate((sentence, quiet, sentence))
    blocks = samples[: len(samples) // BLOCK_SAMPLES * BLOCK_SAMPLES].reshape(-1, BLOCK_SAMPLES)
    alone, _ = measure_gate.probabilities(gate_model, samples)
    assert alone.max() > 0.9
    for sizes in ([2], [3, 1, 14], [len(blocks)]):
        gate_model.reset()
        ends = itertools.accumulate(itertools.chain([0], itertools.cycle(sizes)))
        together: list[float] = []
        for start, end in itertools.pairwise(ends):
            together += gate_model.probabilities(list(blocks[start:end]))
            if end >= len(blocks):
                break
        assert together == pytest.approx(alone.tolist(), abs=1e-6)


def test_reset_makes_the_detector_as_new(gate_model: VoiceActivity, voices: Path) -> None:
    """After a loss of sound the same words give the same numbers again, bit by bit."""
    samples = scene.read_speech(voices / "bf_emma" / "2.opus")
    first, _ = measure_gate.probabilities(gate_model, samples)
    again, _ = measure_gate.probabilities(gate_model, samples)
    assert np.array_equal(first, again)
    assert np.all((first >= 0) & (first <= 1))


def test_a_block_of_another_length_is_refused(gate_model: VoiceActivity) -> None:
    """A wrong block is a mistake of the caller and is said so."""
    with pytest.raises(ValueError, match="480"):
        gate_model.probabilities([np.zeros(512, np.float32)])


def test_a_missing_gate_is_named(tmp_path: Path) -> None:
    """Without its manifest the daemon does not start, and says which file is missing."""
    with pytest.raises(ModelError, match=r"gate\.json is missing"):
        load_vad(tmp_path)
