"""Loads a model into ONNX Runtime for one thread."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

import onnxruntime

from whodrives.errors import ModelError
from whodrives.models.manifests import Manifest, verified


def open_session(manifest: Manifest) -> onnxruntime.InferenceSession:
    """Check and load a model for one thread; raises ModelError when it is no good."""
    with verified(manifest) as path:
        return open_unchecked(path, manifest.model)


def open_unchecked(path: Path, model: Path) -> onnxruntime.InferenceSession:
    """Load a model file whose bytes are verified already."""
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
