"""The encoder as it is shipped: built twice, loaded, and held against independent computations."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import kaldi_native_fbank
import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx.utils import Extractor

from tools.build_models import campplus, checkpoint, fetch, recipes, resnet34
from tools.build_models.errors import BuildError
from whodrives.errors import ModelError
from whodrives.models import manifests, session
from whodrives.models.calibration import load_calibration
from whodrives.models.encoder import known_encoders, load_encoder
from whodrives.voice.scoring import first_part, unit
from whodrives.voice.types import Encoder

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
VOICES = ROOT / "profiles" / "demo" / "voices"
GOLDEN = ROOT / "tests" / "golden"

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    """The committed manifest."""
    return dict(recipes.read_manifest(MODELS / "encoder.json"))


@pytest.fixture(scope="module")
def weights(manifest: dict[str, Any]) -> Mapping[str, NDArray[Any]]:
    """The tensors of the pinned checkpoint."""
    data = fetch.fetch(fetch.Source.from_manifest(manifest), recipes.CACHE)
    return dict(checkpoint.read_checkpoint(data))


@pytest.fixture(scope="module")
def float_model(weights: Mapping[str, NDArray[Any]]) -> bytes:
    """The network before it was quantised."""
    return bytes(campplus.CamPlusPlus.build_float(weights))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """The encoder as the daemon loads it."""
    return load_encoder(MODELS, 1)


@pytest.fixture(scope="module")
def utterances() -> dict[str, list[Floats]]:
    """Three sentences of each of twelve voices, of both sexes, two of them in Hindi."""
    names = sorted(path.name for path in VOICES.iterdir() if path.is_dir())
    chosen = [*names[:-4:3], "hf_alpha", "hm_omega"]
    return {
        name: [
            soundfile.read(VOICES / name / f"{'hi' * (name[0] == 'h')}{i}.opus", dtype="float32")[0]
            for i in (1, 2, 3)
        ]
        for name in chosen
    }


def run(model: bytes, output: str, name: str, value: Floats) -> Floats:
    """One output of a model for one input."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([output], {name: value})[0], np.float32)


def kaldi_log_mel(samples: Floats, window: str = "povey") -> Floats:
    """Kaldi's own filter bank with the options an encoder was trained with, (80, frames)."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = window
    options.mel_opts.num_bins = 80
    bank = kaldi_native_fbank.OnlineFbank(options)
    bank.accept_waveform(16_000, samples.tolist())
    bank.input_finished()
    log_mel = np.stack([bank.get_frame(frame) for frame in range(bank.num_frames_ready)]).T
    return np.asarray(log_mel - log_mel.mean(axis=1, keepdims=True))


# --- the file -------------------------------------------------------------------------------------


def test_building_again_gives_the_pinned_bytes(manifest: dict[str, Any]) -> None:
    """The recipe leads to the manifest's checksum every time, so every machine has one encoder."""
    assert [fetch.sha256(recipes.produce(manifest)) for _ in range(2)] == [manifest["sha256"]] * 2


def test_embeddings_are_those_that_the_fingerprint_names(
    encoder: Encoder, utterances: dict[str, list[Floats]]
) -> None:
    """Templates of this fingerprint are in cars: a new layout of the network leaves them valid.

    Kept are the embeddings of each voice's first second. On another processor their mean cosine is
    0.9994 (docs/performance.md); activation ranges wider by a twentieth make it 0.9974.
    """
    assert encoder.fingerprint.startswith("55bd47dc9d74")
    kept = np.load(GOLDEN / "embeddings.npy")
    now = [encoder.embed(sounds[0][:16_000]) for sounds in utterances.values()]
    assert np.mean([old @ new for old, new in zip(kept, now, strict=True)]) > 0.999


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"head.layer1.0.conv1": [-1.0, 47.5]}, "of head.layer1.0.conv1 begins below 0"),
        ({"head.layer1.0.conv1": None}, "no activation range for head.layer1.0.conv1"),
    ],
    ids=["cuts a ReLU", "missing"],
)
def test_ranges_that_do_not_fit_the_network_are_refused(
    change: dict[str, Any], said: str, manifest: dict[str, Any], weights: Mapping[str, NDArray[Any]]
) -> None:
    """A format that reaches below 0 would let through what a ReLU is there to cut."""
    changed = manifest["activation_ranges"] | change
    ranges = {name: span for name, span in changed.items() if span}
    with pytest.raises(BuildError, match=f"{said}; calibrate again"):
        campplus.CamPlusPlus.build_int8(weights, ranges, 64)


@pytest.mark.parametrize("fingerprint", [None, 7, "", "55bd47dc9d74", "X" * 64])
def test_an_encoder_without_a_fingerprint_is_refused(models: Path, fingerprint: object) -> None:
    """Without a name for its embeddings, nobody could tell whose profiles they can be held to."""
    spoil(models, fingerprint=fingerprint)
    for encoders in (1, 2):
        with pytest.raises(ModelError, match=r"encoder\.json: fingerprint must be 64 .* restore"):
            load_encoder(models, encoders, pinned=False)


@pytest.mark.parametrize("weight", [None, "0.7", 0, 1.0, -0.5])
def test_a_second_encoder_without_a_weight_is_refused(models: Path, weight: object) -> None:
    """Nobody could tell what the two embeddings count for in the fused one."""
    spoil(models, "second", weight=weight)
    with pytest.raises(ModelError, match=r"second\.json: weight must be .* restore"):
        load_encoder(models, pinned=False)


def test_an_encoder_is_in_memory_once(encoder: Encoder) -> None:
    """Whoever asks for the same file again is given the same one: a reload needs no second."""
    load_encoder(MODELS)
    assert load_encoder(MODELS, 1) is encoder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A copy of the encoder and its manifest that a test may spoil."""
    for name in ("encoder", "second"):
        for kind in ("json", "onnx"):
            shutil.copy(MODELS / f"{name}.{kind}", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["encoder", "second"])
def test_changed_model_is_refused(name: str, models: Path) -> None:
    """One flipped bit is enough; the error names the file and the fix."""
    path = models / f"{name}.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match=rf"{name}\.onnx has sha256 .* make models"):
        load_encoder(models)


@pytest.mark.parametrize("name", ["encoder", "second"])
def test_missing_model_is_refused(name: str, models: Path) -> None:
    """Without the file, the error says how to build it."""
    (models / f"{name}.onnx").unlink()
    with pytest.raises(ModelError, match=rf"{name}\.onnx cannot be read .* make models"):
        load_encoder(models)


def test_without_the_second_model_one_encoder_works(models: Path) -> None:
    """An installation may leave it out."""
    (models / "second.onnx").unlink()
    assert load_encoder(models, 1).embed(np.zeros(16_000, np.float32)).shape == (192,)
    assert load_calibration(models, 1).dimension == 192


def test_file_that_is_no_model_is_refused(models: Path) -> None:
    """A file with the right checksum that ONNX Runtime cannot load is an error of ours."""
    (models / "encoder.onnx").write_bytes(b"no model")
    spoil(models, sha256=hashlib.sha256(b"no model").hexdigest())
    with pytest.raises(ModelError, match=r"cannot load .*encoder\.onnx"):
        load_encoder(models, 1, pinned=False)


def test_missing_manifest_is_refused(tmp_path: Path) -> None:
    """The wrong folder is the likely reason, and the error says so."""
    with pytest.raises(ModelError, match=r"encoder\.json is missing"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"file": "encoder.onnx"}'])
def test_malformed_manifest_is_refused(tmp_path: Path, text: str) -> None:
    """Anything that is no manifest is an error that names the file."""
    (tmp_path / "encoder.json").write_text(text)
    with pytest.raises(ModelError, match=r"encoder\.json"):
        load_encoder(tmp_path)


def test_a_manifest_that_was_changed_is_refused(models: Path) -> None:
    """Lower thresholds would make strangers known, and every checksum in the folder be right."""
    manifest = json.loads((models / "encoder.json").read_text())
    for point in manifest["calibration"]["points"]:
        point["accept_llr"]["1/100"] = [0.6, 0.6, 0.6, 0.6]
    spoil(models, **manifest)
    for load in (load_encoder, load_calibration):
        with pytest.raises(ModelError, match=r"encoder\.json is not the manifest .* install"):
            load(models)


def test_a_manifest_of_another_model_is_refused(models: Path) -> None:
    """A whole model of somebody else's, with its own manifest, is none of this package's."""
    (models / "encoder.onnx").write_bytes(b"another")
    spoil(models, sha256=hashlib.sha256(b"another").hexdigest())
    with pytest.raises(ModelError, match="is not the manifest"):
        load_encoder(models)


def test_the_package_pins_the_manifests_of_this_checkout() -> None:
    """Whoever changes one writes its checksum into the package, as models/README.md says."""
    pins = (
        (MODELS.parent / "daemon" / "whodrives" / "models" / "models.sha256")
        .read_text()
        .splitlines()
    )
    manifests = sorted(MODELS.glob("*.json"))
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in manifests]
    assert pins == [f"{each}  {path.name}" for each, path in zip(hashes, manifests, strict=True)]


def test_the_bytes_that_were_hashed_are_the_bytes_that_are_loaded(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is swapped between the two, or written into, is not what is loaded."""
    loaded: list[bytes] = []
    file_digest = hashlib.file_digest

    def swapped(file: Any, name: str) -> Any:
        found = file_digest(file, name)
        (models / "encoder.onnx").write_bytes(b"swapped")
        return found

    def open_session(path: Path, _model: Path) -> None:
        loaded.append(path.read_bytes())
        with pytest.raises(PermissionError), path.open("r+b") as file:
            file.write(b"written")

    monkeypatch.setattr(hashlib, "file_digest", swapped)
    monkeypatch.setattr(session, "open_unchecked", open_session)
    session.open_session(manifests.read_manifest(models, "encoder"))
    assert loaded == [(MODELS / "encoder.onnx").read_bytes()]


def test_a_model_without_end_is_refused(models: Path) -> None:
    """A device in the file's place takes no more memory than a model may."""
    (models / "encoder.onnx").unlink()
    (models / "encoder.onnx").symlink_to("/dev/zero")
    with pytest.raises(ModelError, match=r"encoder\.onnx"):
        load_encoder(models)


# --- the calibration ------------------------------------------------------------------------------


def spoil(models: Path, manifest: str = "encoder", **changes: Any) -> None:
    """Change keys of a manifest."""
    path = models / f"{manifest}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def calibration(manifest: dict[str, Any]) -> dict[str, Any]:
    """A small calibration of the pinned encoder."""
    accept = {"1/100": [2.0, 3.0], "1/1000": [4.0, 5.0]}
    line = {"slope": 20, "offset": -9, "other_cosine": 0.1, "same_cosine": 0.05}
    point = {"speech_s": 1, **line, "accept_llr": accept}
    return {
        "encoder": manifest["fingerprint"],
        "mean": [0.0625] * 192,
        "households": [1, 3],
        "ambiguity_llr": 2,
        "alike_cosine": 0.5,
        "points": [point, {**point, "speech_s": 3}],
    }


def test_calibration_is_read(models: Path, manifest: dict[str, Any]) -> None:
    """What the manifest says about scores reaches the core unchanged."""
    spoil(models, calibration=calibration(manifest))
    loaded = load_calibration(models, 1, pinned=False)
    assert loaded.encoder == manifest["fingerprint"]
    assert [(point.speech_s, point.slope) for point in loaded.points] == [(1.0, 20.0), (3.0, 20.0)]
    assert loaded.points[0].accept_llr == {"1/100": (2.0, 3.0), "1/1000": (4.0, 5.0)}
    assert (loaded.points[0].other_cosine, loaded.points[0].speaker_change_cosine) == (0.1, 0.05)
    assert (loaded.households, loaded.ambiguity_llr, loaded.cohort_max_cosine) == ((1, 3), 2.0, 0.5)
    assert loaded.mean.tolist() == [0.0625] * 192


def test_calibration_of_another_encoder_is_refused(models: Path, manifest: dict[str, Any]) -> None:
    """Thresholds measured on one encoder mean nothing to another."""
    spoil(models, calibration=calibration(manifest) | {"encoder": "0" * 64})
    with pytest.raises(ModelError, match="measured on encoder 000"):
        load_calibration(models, pinned=False)


@pytest.mark.parametrize(
    "change",
    [
        {"points": []},
        {"points": [{}]},
        {"points": None},
        {"households": ["many"]},
        {"mean": [0.0]},
        {"mean": ["a"] * 192},
        {"ambiguity_llr": 0},
        {"alike_cosine": 1},
        {"mean": [1.0] * 192},
        {"mean": [float("1e39")] * 192},
        {"households": [1, 1000]},
    ],
)
def test_malformed_calibration_is_refused(
    models: Path, manifest: dict[str, Any], change: dict[str, Any]
) -> None:
    """One with a hole, or that nobody can have measured, is no calibration."""
    spoil(models, calibration=calibration(manifest) | change)
    with pytest.raises(ModelError, match="malformed"):
        load_calibration(models, pinned=False)


def test_threshold_that_is_no_number_is_refused(models: Path, manifest: dict[str, Any]) -> None:
    """Python's JSON knows NaN; compared with it, everybody would be neither known nor unknown."""
    spoil(models, calibration=calibration(manifest) | {"ambiguity_llr": float("nan")})
    with pytest.raises(ModelError, match="NaN is not a finite number"):
        load_calibration(models, pinned=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"accept_llr": {"1/100": [0.0, 0.0], "1/1000": [4.0, 5.0]}}, "accept_llr is 0.0, not 0.5"),
        ({"accept_llr": {"1/100": [2, -1e9], "1/1000": [4, 5]}}, "accept_llr is -1"),
        ({"accept_llr": {"1/100": [5, 6], "1/1000": [4, 5]}}, "accept_llr is lower at"),
        ({"accept_llr": {"1/100": [2, 3]}}, "accept_llr needs 1/100 and 1/1000"),
        ({"slope": 1e6}, "slope is"),
        ({"slope": -20}, "slope is"),
        ({"offset": 9}, "offset is"),
        ({"other_cosine": -1}, "other_cosine is"),
        ({"same_cosine": -1}, "same_cosine is"),
    ],
)
def test_thresholds_that_nobody_can_have_measured_are_refused(
    models: Path, manifest: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    """Each of them would let strangers pass, or two voices be one."""
    absurd = calibration(manifest)
    absurd["points"][1] |= change
    spoil(models, calibration=absurd)
    with pytest.raises(ModelError, match=said):
        load_calibration(models, pinned=False)


def test_missing_calibration_is_refused(models: Path) -> None:
    """Without measurements there are no thresholds, and nobody is recognised."""
    spoil(models, calibration=None)
    with pytest.raises(ModelError, match="no calibration"):
        load_calibration(models, pinned=False)


# --- the numbers ----------------------------------------------------------------------------------


def test_front_end_is_kaldis(float_model: bytes, utterances: dict[str, list[Floats]]) -> None:
    """The graph's log-mel energies are those of Kaldi's filter bank."""
    for samples, *_ in utterances.values():
        ours = run(float_model, "log_mel", "samples", samples)[0]
        difference = np.abs(ours - kaldi_log_mel(samples))
        assert difference.max() < 0.01
        assert difference.mean() < 1e-4


def test_kaldis_front_end_gives_the_same_embedding(
    float_model: bytes, utterances: dict[str, list[Floats]]
) -> None:
    """What is left of a difference between the front ends does not reach the embedding."""
    loaded = onnx.load_from_string(float_model)
    network = Extractor(loaded).extract_model(["log_mel"], ["embedding"]).SerializeToString()
    for samples, *_ in list(utterances.values())[:4]:
        ours = run(float_model, "embedding", "samples", samples)[0]
        kaldis = run(network, "embedding", "log_mel", kaldi_log_mel(samples)[None])[0]
        assert ours @ kaldis > 1 - 1e-5


def test_network_agrees_with_a_plain_computation(
    float_model: bytes, weights: Mapping[str, NDArray[Any]], utterances: dict[str, list[Floats]]
) -> None:
    """The graph computes CAM++ as published, over more than one segment of 2 s."""
    samples = np.concatenate(utterances["hf_alpha"])[: 16_000 * 5]
    log_mel = run(float_model, "log_mel", "samples", samples)[0]
    ours = run(float_model, "embedding", "samples", samples)[0]
    assert np.allclose(ours, PlainCampplus(weights).embed(log_mel), atol=1e-4)


@pytest.mark.much_speech
def test_eight_bits_keep_the_embedding(
    float_model: bytes, encoder: Encoder, utterances: dict[str, list[Floats]]
) -> None:
    """Quantised and float embeddings of the same speech are alike, on average and at the worst."""
    session = onnxruntime.InferenceSession(float_model, providers=["CPUExecutionProvider"])
    cosines = [
        float(encoder.embed(samples) @ session.run(["embedding"], {"samples": samples})[0][0])
        for sentences in utterances.values()
        for samples in sentences
    ]
    assert np.mean(cosines) > 0.99
    assert np.min(cosines) > 0.97


@pytest.mark.much_speech
def test_a_voice_is_more_like_itself_than_like_any_other(
    encoder: Encoder, utterances: dict[str, list[Floats]]
) -> None:
    """Whatever is said, each voice's sentences are closest to that voice's others."""
    embeddings = {name: [*map(encoder.embed, said)] for name, said in utterances.items()}
    for name, own in embeddings.items():
        others = [other for key, said in embeddings.items() if key != name for other in said]
        assert min(a @ b for a, b in pairwise(own)) > max(a @ b for a in own for b in others)


def test_embedding_is_a_read_only_unit_vector(encoder: Encoder) -> None:
    """Even of silence: 192 finite float32 numbers of length 1 that nobody can change."""
    for samples in (np.zeros(6400, np.float32), np.ones(16_000, np.float32)):
        embedding = encoder.embed(samples)
        assert (embedding.shape, embedding.dtype) == ((192,), np.dtype(np.float32))
        assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)
        assert not embedding.flags.writeable


@pytest.mark.parametrize("shape", [(0,), (6399,), (1, 16_000)])
def test_too_little_speech_is_refused(encoder: Encoder, shape: tuple[int, ...]) -> None:
    """Less than 0.4 s, or anything but mono, is a mistake of the caller."""
    with pytest.raises(ValueError, match="an embedding needs"):
        encoder.embed(np.zeros(shape, np.float32))


# --- the second encoder, and both as one ----------------------------------------------------------


def test_the_second_encoder_is_the_published_network(utterances: dict[str, list[Floats]]) -> None:
    """In float its graph gives what the published one makes of Kaldi's filter bank."""
    published = fetch.fetch(
        fetch.Source.from_manifest(recipes.read_manifest(MODELS / "second.json")), recipes.CACHE
    )
    built = resnet34.ResNet34.build_float(resnet34.read_published(published))
    for samples, *_ in list(utterances.values())[:3]:
        given = kaldi_log_mel(samples * 32768, "hamming").T[np.newaxis].astype(np.float32)
        theirs = run(published, "embs", "feats", given)[0]
        ours = run(built, "embedding", "samples", samples)[0]
        assert float(ours @ theirs) / np.linalg.norm(theirs) > 0.9999


def test_building_the_second_encoder_again_gives_the_pinned_bytes() -> None:
    """Its recipe leads to its manifest's checksum."""
    manifest = recipes.read_manifest(MODELS / "second.json")
    assert fetch.sha256(recipes.produce(manifest)) == manifest["sha256"]


def test_a_published_file_with_other_layers_is_refused(float_model: bytes) -> None:
    """Weights are taken by their order, so the order is checked."""
    with pytest.raises(BuildError, match="layers, ResNet34 has 37"):
        resnet34.read_published(float_model)
    with pytest.raises(BuildError, match="cannot be read"):
        resnet34.read_published(b"no model")


@pytest.mark.much_speech
def test_eight_bits_keep_the_second_embedding(utterances: dict[str, list[Floats]]) -> None:
    """Quantised and float embeddings of the same speech are alike, on average and at the worst."""
    manifest = recipes.read_manifest(MODELS / "second.json")
    published = fetch.fetch(fetch.Source.from_manifest(manifest), recipes.CACHE)
    exact = resnet34.ResNet34.build_float(resnet34.read_published(published))
    models = exact, (MODELS / "second.onnx").read_bytes()
    sessions = [onnxruntime.InferenceSession(m, providers=["CPUExecutionProvider"]) for m in models]
    cosines = []
    for samples in (samples for sentences in utterances.values() for samples in sentences):
        rows = [each.run(["embedding"], {"samples": samples})[0][0] for each in sessions]
        cosines.append(float(rows[0] @ rows[1]))
    assert np.mean(cosines) > 0.985
    assert np.min(cosines) > 0.96


def test_the_fused_cosine_is_the_weighted_mean(
    encoder: Encoder, utterances: dict[str, list[Floats]]
) -> None:
    """Side by side, each times the root of its weight: two scores are fused as one embedding."""
    fused = load_encoder(MODELS)
    weight = recipes.read_manifest(MODELS / "second.json")["weight"]
    one, other = (sounds[0] for sounds in list(utterances.values())[:2])
    a, b = fused.embed(one), fused.embed(other)
    assert (a.shape, a.dtype, a.flags.writeable) == ((448,), np.dtype(np.float32), False)
    assert np.linalg.norm(a) == pytest.approx(1, abs=1e-5)
    first = float(encoder.embed(one) @ encoder.embed(other))
    second = float(unit(a[192:]) @ unit(b[192:]))
    assert float(a @ b) == pytest.approx(weight * first + (1 - weight) * second, abs=1e-5)
    assert first_part(a) == pytest.approx(encoder.embed(one), abs=1e-6)


def test_the_fused_calibration_has_the_first_encoders_with_it() -> None:
    """Households of before are served with it."""
    fused, single = load_calibration(MODELS), load_calibration(MODELS, 1)
    assert (fused.dimension, single.dimension) == (448, 192)
    assert fused.single is not None
    assert (fused.first.encoder, single.first) == (single.encoder, single)
    assert fused.encoder == load_encoder(MODELS).fingerprint != single.encoder
    assert [*known_encoders(MODELS, 2).items()] == [(fused.encoder, 448), (single.encoder, 192)]
    assert [*known_encoders(MODELS, 1)] == [single.encoder, fused.encoder]


# --- CAM++ once more, with nothing but numpy ------------------------------------------------------


class PlainCampplus:
    """CAM++ written down from the paper layer by layer, in float64; `embed` takes (80, frames)."""

    def __init__(self, weights: Mapping[str, NDArray[Any]]) -> None:
        self.weights = weights

    def embed(self, log_mel: Floats) -> Floats:
        """Head, dense blocks, statistics, unit length."""
        x = relu(self.norm(self.conv2d(log_mel[None].astype(float), "head.conv1"), "head.bn1"))
        for name in ("head.layer1", "head.layer2"):
            x = self.residual(self.residual(x, f"{name}.0", 2), f"{name}.1", 1)
        x = relu(self.norm(self.conv2d(x, "head.conv2", 2), "head.bn2"))
        x = self.conv1d(x.reshape(-1, x.shape[2]), "xvector.tdnn.linear", stride=2)
        x = relu(self.norm(x, "xvector.tdnn.nonlinear.batchnorm"))
        for number, layers, dilation in ((1, 12, 1), (2, 24, 2), (3, 16, 2)):
            for item in range(1, layers + 1):
                news = self.layer(x, f"xvector.block{number}.tdnnd{item}", dilation)
                x = np.concatenate([x, news])
            transit = f"xvector.transit{number}"
            x = relu(self.norm(x, f"{transit}.nonlinear.batchnorm"))
            x = self.conv1d(x, f"{transit}.linear")
        x = relu(self.norm(x, "xvector.out_nonlinear.batchnorm"))
        statistics = np.concatenate([x.mean(axis=1), x.std(axis=1, ddof=1)])
        dense = self.weights["xvector.dense.linear.weight"][:, :, 0] @ statistics
        embedding = self.norm(dense, "xvector.dense.nonlinear.batchnorm")
        return np.asarray(embedding / np.linalg.norm(embedding), np.float32)

    def norm(self, x: Doubles, name: str) -> Doubles:
        """Batch normalisation with the statistics of training; the last has no weights."""
        scale, shift = np.ones(len(x)), np.zeros(len(x))
        if f"{name}.weight" in self.weights:
            scale, shift = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        mean, variance = (self.weights[f"{name}.running_{item}"] for item in ("mean", "var"))
        axes = (-1, *[1] * (x.ndim - 1))
        scale = scale / np.sqrt(variance.astype(float) + 1e-5)
        return np.asarray((x - mean.reshape(axes)) * scale.reshape(axes) + shift.reshape(axes))

    def conv2d(self, x: Doubles, name: str, stride: int = 1) -> Doubles:
        """Same padding; `stride` along the first image axis, the mel bands."""
        kernel = self.weights[f"{name}.weight"]
        pad = kernel.shape[-1] // 2
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        windows = sliding_window_view(padded, kernel.shape[2:], axis=(1, 2))[:, ::stride]
        return np.tensordot(kernel, windows, axes=([1, 2, 3], [0, 3, 4]))

    def conv1d(self, x: Doubles, name: str, stride: int = 1, dilation: int = 1) -> Doubles:
        """Same padding, over time."""
        kernel = self.weights[f"{name}.weight"]
        reach = dilation * (kernel.shape[-1] - 1)
        padded = np.pad(x, ((0, 0), (reach // 2, reach // 2)))
        windows = sliding_window_view(padded, reach + 1, axis=1)[:, ::stride, ::dilation]
        y = np.tensordot(kernel, windows, axes=([1, 2], [0, 2]))
        bias = self.weights.get(f"{name}.bias")
        return y if bias is None else y + bias[:, None]

    def residual(self, x: Doubles, name: str, stride: int) -> Doubles:
        """Two convolutions beside a shortcut."""
        inner = relu(self.norm(self.conv2d(x, f"{name}.conv1", stride), f"{name}.bn1"))
        inner = self.norm(self.conv2d(inner, f"{name}.conv2"), f"{name}.bn2")
        if stride > 1:
            x = self.norm(self.conv2d(x, f"{name}.shortcut.0", stride), f"{name}.shortcut.1")
        return relu(inner + x)

    def layer(self, x: Doubles, name: str, dilation: int) -> Doubles:
        """Local convolution, masked by the means of the utterance and of each 100 frames."""
        x = self.conv1d(relu(self.norm(x, f"{name}.nonlinear1.batchnorm")), f"{name}.linear1")
        x = relu(self.norm(x, f"{name}.nonlinear2.batchnorm"))
        segments = np.split(x, range(100, x.shape[1], 100), axis=1)
        means = [np.repeat(part.mean(1, keepdims=True), part.shape[1], 1) for part in segments]
        context = np.concatenate(means, axis=1) + x.mean(axis=1, keepdims=True)
        context = relu(self.conv1d(context, f"{name}.cam_layer.linear1"))
        mask = self.conv1d(context, f"{name}.cam_layer.linear2")
        local = self.conv1d(x, f"{name}.cam_layer.linear_local", dilation=dilation)
        return np.asarray(local / (1 + np.exp(-mask)))


def relu(x: Doubles) -> Doubles:
    """Negative values become zero."""
    return np.maximum(x, 0)


LOADS_OURS = (
    f"from pathlib import Path; import whodrives.models.vad as i; i.load_vad(Path({str(MODELS)!r}))"
)
LOADS_PLAIN = f"import onnxruntime as o; o.InferenceSession({str(MODELS / 'gate.onnx')!r})"


@pytest.mark.parametrize(("program", "silent"), [(LOADS_OURS, True), (LOADS_PLAIN, False)])
def test_the_runtime_tells_its_maker_nothing(program: str, tmp_path: Path, *, silent: bool) -> None:
    """Left to itself, it keeps a number for this machine in the home folder, to send with reports.

    That it does so without us shows that this test would notice. The environment is a user's: in
    a CI's, the runtime is silent anyway.
    """
    home = {"HOME": str(tmp_path), "PATH": "/usr/bin"}
    subprocess.run([sys.executable, "-c", program], env=home, check=True, capture_output=True)
    assert (not any(tmp_path.iterdir())) == silent


TOO_LARGE = '{"file": "encoder.onnx", "sha256": "", "calibration": {"points": [{"speech_s": 1%s}]}}'


@pytest.mark.parametrize(
    ("text", "load", "said"),
    [
        ("[" * 100_000, load_encoder, "cannot be read"),
        (r'{"file": "\u0000", "sha256": ""}', load_encoder, "cannot be read"),
        (TOO_LARGE % ("0" * 400), load_calibration, "the calibration is malformed: OverflowError"),
    ],
    ids=["deep", "no name", "too large"],
)
def test_a_hostile_manifest_is_named(
    text: str, load: Callable[..., object], said: str, tmp_path: Path
) -> None:
    """What JSON allows and no manifest holds is told with the file, as every other mistake."""
    (tmp_path / "encoder.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=f"(?s)^{tmp_path}.*{said}"):
        load(tmp_path, 1, pinned=False)
