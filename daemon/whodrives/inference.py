"""The models: files on disk, checked against their manifests, run by ONNX Runtime.

Owns the format of a manifest, checksums, and how the runtime is set up. Hides ONNX Runtime. Must
never know who is speaking: it turns samples into numbers and remembers nobody.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from whodrives.domain import (
    BLOCK_SAMPLES,
    SAMPLE_RATE_HZ,
    Calibration,
    CalibrationPoint,
    Floats,
    ModelError,
    OperatingPoint,
    VoiceActivity,
)

# From 1.29 on the runtime's builds for Linux tell their maker of every start, by HTTPS, and keep a
# number for this machine in the home folder. Read once, when the runtime is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

EMBEDDING = 192
"""Numbers in an embedding."""

SHORTEST_SAMPLES = int(0.4 * SAMPLE_RATE_HZ)
"""Less speech than this is not embedded: its statistics would rest on a handful of frames."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What models/NAME.json says about one model.

    Attributes:
        path: the manifest itself.
        model: the model file, beside the manifest.
        sha256: of the model file, lower-case hexadecimal.
        facts: everything in the manifest.
    """

    path: Path
    model: Path
    sha256: str
    facts: Mapping[str, Any]


def read_manifest(models_dir: Path, name: str, *, pinned: bool = True) -> Manifest:
    """Read `models_dir`/`name`.json.

    Args:
        models_dir: where the models are.
        name: of the model.
        pinned: whether the manifest must be the one that this package was made with; only tools
            that make or compare models take another.

    Raises:
        ModelError: it is missing, malformed, or not the one of this package.
    """
    path = models_dir / f"{name}.json"
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_MANIFEST_BYTES + 1)
        facts = json.loads(data[:_MOST_MANIFEST_BYTES].decode("utf-8"), parse_constant=_refuse)
        manifest = Manifest(path, models_dir / facts["file"], str(facts["sha256"]), facts)
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; is {models_dir} the folder of the models?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path} is no manifest: it lacks {error}; restore the file") from error
    if pinned and hashlib.sha256(data).hexdigest() != _pins().get(path.name):
        raise ModelError(
            f"{path} is not the manifest that this whodrives was made with: it was changed, or is "
            "of another version; install the package again, or in a checkout restore the file "
            "with git"
        )
    return manifest


_MOST_MANIFEST_BYTES = 4 * 1024 * 1024
_MOST_MODEL_BYTES = 256 * 1024 * 1024


def _pins() -> Mapping[str, str]:
    """The SHA-256 of each manifest by file name, as `sha256sum` wrote it into this package."""
    lines = Path(__file__).with_name("models.sha256").read_text(encoding="ascii").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def _refuse(constant: str) -> None:
    """Refuse NaN and the infinities: every comparison with such a threshold would be false."""
    raise ValueError(f"{constant} is not a number that was measured")


@contextlib.contextmanager
def _verified(manifest: Manifest) -> Iterator[Path]:
    """A path whose bytes are the manifest's and cannot change while the block runs.

    It is a sealed copy in memory (memfd_create(2)), so that the bytes that are hashed are the bytes
    that are loaded, whatever becomes of the file meanwhile. ONNX Runtime takes bytes as well, but
    keeps them beside what it makes of them.

    Raises:
        ModelError: the file cannot be read, or its bytes are others.
    """
    copy = os.memfd_create(manifest.path.stem, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        try:
            with manifest.model.open("rb") as file:
                left = _MOST_MODEL_BYTES
                while left and (sent := os.sendfile(copy, file.fileno(), None, left)):
                    left -= sent
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            reason = getattr(error, "strerror", error)
            raise ModelError(f"{manifest.model} cannot be read ({reason}); {_REBUILD}") from error
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, seals)
        path = Path(f"/proc/self/fd/{copy}")
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != manifest.sha256:
            raise ModelError(
                f"{manifest.model} has sha256 {actual}, but {manifest.path.name} pins "
                f"{manifest.sha256}; {_REBUILD}"
            )
        yield path
    finally:
        os.close(copy)


_REBUILD = (
    "install the package again, or in a checkout delete the file and build it again with: make "
    "models"
)


def open_session(manifest: Manifest) -> onnxruntime.InferenceSession:
    """Check and load a model for one thread; raises ModelError when it is no good."""
    with _verified(manifest) as path:
        return _open_session(path, manifest.model)


def _open_session(path: Path, model: Path) -> onnxruntime.InferenceSession:
    try:
        session = onnxruntime.InferenceSession(
            str(path), _session_options(), providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot load {model}: {error}") from error
    _give_back_memory()
    return session


def _give_back_memory() -> None:
    """Return to the system what loading needed and freed (malloc_trim(3), of glibc alone)."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _session_options() -> onnxruntime.SessionOptions:
    """One thread that sleeps when it has nothing to do, and no memory kept between calls."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False  # it remembers a plan for every length it has seen
    # The runtime warns of constants that it folds away; only its errors concern the operator.
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class OnnxEncoder:
    """A speaker encoder with 16 kHz samples as its input; satisfies `domain.Encoder`."""

    def __init__(self, session: onnxruntime.InferenceSession, fingerprint: str) -> None:
        self._session = session
        self._fingerprint = fingerprint

    @property
    def fingerprint(self) -> str:
        """As `domain.Encoder` says."""
        return self._fingerprint

    def embed(self, samples: Floats) -> Floats:
        """Embed float32 samples of shape (n,), n >= 0.4 s, into a unit vector (192,), read-only.

        Raises:
            ValueError: fewer samples than 0.4 s, or another shape.
        """
        if samples.ndim != 1 or len(samples) < SHORTEST_SAMPLES:
            raise ValueError(f"an embedding needs 0.4 s of mono speech, not {samples.shape}")
        (rows,) = self._session.run(["embedding"], {"samples": samples.astype(np.float32)})
        embedding: Floats = rows[0]
        embedding.setflags(write=False)
        return embedding


def load_encoder(models_dir: Path, *, pinned: bool = True) -> OnnxEncoder:
    """Load the encoder; the one that was loaded last is given again while its file is the same.

    Args:
        models_dir: where the models are.
        pinned: as for `read_manifest`.

    Raises:
        ModelError: it is missing, changed or unusable.
    """
    manifest = read_manifest(models_dir, "encoder", pinned=pinned)
    with _verified(manifest) as path:
        fingerprint = _fingerprint(manifest)
        known = (manifest.model, manifest.sha256, fingerprint)
        if known not in _encoders:
            _encoders.clear()
            _encoders[known] = OnnxEncoder(_open_session(path, manifest.model), fingerprint)
    return _encoders[known]


_encoders: dict[tuple[Path, str, str], OnnxEncoder] = {}
"""The encoder that was loaded last."""


def _fingerprint(manifest: Manifest) -> str:
    """What the manifest calls the encoder's embeddings, however its file is laid out."""
    fingerprint = manifest.facts.get("fingerprint")
    if not isinstance(fingerprint, str) or not re.fullmatch("[0-9a-f]{64}", fingerprint):
        raise ModelError(
            f"{manifest.path}: fingerprint must be 64 hexadecimal digits, not {fingerprint!r}; "
            "restore the file"
        )
    return fingerprint


def load_calibration(models_dir: Path, *, pinned: bool = True) -> Calibration:
    """Read what was measured of the encoder.

    Args:
        models_dir: where the models are.
        pinned: as for `read_manifest`.

    Raises:
        ModelError: there is no calibration, it is malformed, or it is another encoder's.
    """
    manifest = read_manifest(models_dir, "encoder", pinned=pinned)
    facts = manifest.facts.get("calibration")
    if not facts:
        raise ModelError(f"{manifest.path} has no calibration; restore the file")
    try:
        calibration = _calibration(facts)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"{manifest.path}: the calibration is malformed: {error!r}; restore the file"
        ) from error
    fingerprint = _fingerprint(manifest)
    if calibration.encoder != fingerprint:
        raise ModelError(
            f"{manifest.path}: the calibration was measured on encoder {calibration.encoder}, not "
            f"on {fingerprint}; restore the file, or measure again with tools/calibrate"
        )
    return calibration


def _calibration(facts: Mapping[str, Any]) -> Calibration:
    points = [
        CalibrationPoint(
            speech_s=float(point["speech_s"]),
            slope=float(point["slope"]),
            offset=float(point["offset"]),
            other_cosine=float(point["other_cosine"]),
            same_cosine=float(point["same_cosine"]),
            accept_llr={
                key: tuple(float(value) for value in values)
                for key, values in point["accept_llr"].items()
            },
        )
        for point in facts["points"]
    ]
    mean = np.array(facts["mean"], np.float64)
    if mean.shape != (EMBEDDING,):
        raise ValueError(f"mean has the shape {mean.shape}, not ({EMBEDDING},)")
    if not np.all(np.abs(mean) <= 1.0):
        raise ValueError("mean has a number beyond -1 to 1")
    calibration = Calibration(
        encoder=str(facts["encoder"]),
        mean=mean.astype(np.float32),
        points=tuple(sorted(points, key=lambda point: point.speech_s)),
        ambiguity_llr=float(facts["ambiguity_llr"]),
        households=tuple(int(size) for size in facts["households"]),
        alike_cosine=float(facts["alike_cosine"]),
    )
    _refuse_absurd(calibration)
    return calibration


_BOUNDS = {
    "speech_s": (0.1, 60.0),
    "slope": (1.0, 200.0),
    "offset": (-100.0, 0.0),
    "other_cosine": (-0.2, 0.5),
    "same_cosine": (-0.5, 0.9),
    "accept_llr": (0.5, 50.0),
    "ambiguity_llr": (0.5, 50.0),
    "households": (1, 32),
    "alike_cosine": (0.2, 0.95),
    "length of mean": (0.0, 1.0),
}
"""Beyond these nothing was ever measured, and a stranger could be known.

The logit of a person who is like everybody else is `offset`; who is accepted is more likely that
driver than not, so the least `accept_llr` is above 0. The mean of unit vectors is not longer than
they are.
"""


def _refuse_absurd(calibration: Calibration) -> None:
    """Raise ValueError unless every number is one that can have been measured."""
    found: list[tuple[str, float]] = [
        ("ambiguity_llr", calibration.ambiguity_llr),
        ("alike_cosine", calibration.alike_cosine),
        ("length of mean", float(np.linalg.norm(calibration.mean))),
        *(("households", size) for size in calibration.households),
    ]
    for point in calibration.points:
        names = ("speech_s", "slope", "offset", "other_cosine", "same_cosine")
        found += [(name, getattr(point, name)) for name in names]
        found += [("accept_llr", llr) for row in point.accept_llr.values() for llr in row]
        if set(point.accept_llr) != set(get_args(OperatingPoint)):
            raise ValueError(f"accept_llr needs {' and '.join(get_args(OperatingPoint))}")
        if any(
            strict < loose
            for strict, loose in zip(
                point.accept_llr["1/1000"], point.accept_llr["1/100"], strict=True
            )
        ):
            raise ValueError("accept_llr lets more strangers pass at 1/1000 than at 1/100")
    for name, value in found:
        low, high = _BOUNDS[name]
        # NaN is in no bounds.
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}, not {low} to {high}")


_GATE_STEP = 512
"""New samples in a window of the gate's model."""

_GATE_CONTEXT = 64
"""Samples of the window before, which the model wants in front of the new ones."""

_GATE_STATE = (1, 1, 128)
"""Shape of each half of its LSTM's state."""


_GATE_QUIET = 0.1
"""Below this probability a window counts as quiet."""

_GATE_PATIENCE = 63
"""Quiet windows on end, 2 s, after which the state is renewed."""


class OnnxVoiceActivity:
    """Silero VAD on 30 ms blocks; satisfies `domain.VoiceActivity`.

    The model wants 32 ms windows. A block completes one or none; if none, the last probability
    stands. Less than a window is kept. Windows that are heard together cost a third of what they
    cost one by one, and their numbers are the same.

    Left to itself the LSTM gets used to noise and then misses speech for seconds. So its state is
    renewed after `patience` quiet windows on end; docs/decisions/0003-gate.md has the measurement.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, patience: int = _GATE_PATIENCE
    ) -> None:
        self._session = session
        self._patience = patience
        self.reset()

    def reset(self) -> None:
        """Forget what was heard: the next block does not follow the last."""
        self._unread: Floats = np.zeros(_GATE_CONTEXT, np.float32)
        self._probability = 0.0
        self._renew()

    def _renew(self) -> None:
        self._state = (np.zeros(_GATE_STATE, np.float32), np.zeros(_GATE_STATE, np.float32))
        self._quiet = 0

    def probabilities(self, blocks: Sequence[Floats]) -> list[float]:
        """Probability of speech, in [0, 1], in each of blocks that follow each other.

        Args:
            blocks: float32 of shape (BLOCK_SAMPLES,).

        Raises:
            ValueError: another shape.
        """
        for block in blocks:
            if block.shape != (BLOCK_SAMPLES,):
                raise ValueError(f"a block has {BLOCK_SAMPLES} samples, not {block.shape}")
        fresh = len(self._unread) - _GATE_CONTEXT
        complete = [(fresh + n * BLOCK_SAMPLES) // _GATE_STEP for n in range(1, len(blocks) + 1)]
        self._unread = np.concatenate((self._unread, *blocks), dtype=np.float32)
        found = [self._probability]
        while len(self._unread) >= _GATE_CONTEXT + _GATE_STEP:
            found += self._read_windows()
        self._probability = found[-1]
        return [found[windows] for windows in complete]

    def _read_windows(self) -> list[float]:
        """Hear the windows that are there, but none beyond the next renewal of the state."""
        there = (len(self._unread) - _GATE_CONTEXT) // _GATE_STEP
        starts = [n * _GATE_STEP for n in range(min(there, self._patience - self._quiet))]
        windows = np.stack([self._unread[s : s + _GATE_CONTEXT + _GATE_STEP] for s in starts])
        feed = {"input": windows, "h": self._state[0], "c": self._state[1]}
        speech, *state = self._session.run(["speech_probs", "hn", "cn"], feed)
        self._state = (state[0], state[1])
        self._unread = self._unread[len(starts) * _GATE_STEP :]
        found: list[float] = speech.tolist()
        for probability in found:
            self._quiet = self._quiet + 1 if probability < _GATE_QUIET else 0
        if self._quiet >= self._patience:
            self._renew()
        return found


def load_gate(models_dir: Path, *, pinned: bool = True) -> VoiceActivity:
    """Load the voice-activity detector; raises ModelError when it is missing or unusable."""
    return OnnxVoiceActivity(open_session(read_manifest(models_dir, "gate", pinned=pinned)))
