"""Loads a model into ONNX Runtime.

Owns the session options. Must not know what a model computes. A session runs on the calling thread
alone and keeps no arena of memory between calls.
"""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

import onnxruntime

from whodrives.errors import ModelError
from whodrives.models.manifests import Manifest, verified


def open_session(manifest: Manifest) -> onnxruntime.InferenceSession:
    """Verify and load a model; raises ModelError if it is missing, changed or unusable."""
    with verified(manifest) as path:
        return open_unchecked(path, manifest.model)


def open_unchecked(path: Path, model: Path) -> onnxruntime.InferenceSession:
    """Load a model file that is already verified; `model` names it in errors (ModelError)."""
    try:
        session = onnxruntime.InferenceSession(
            str(path), _session_options(), providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot load {model}: {error}") from error
    _give_back_memory()
    return session


def _give_back_memory() -> None:
    """Return memory freed after loading to the system (malloc_trim(3), glibc only)."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _session_options() -> onnxruntime.SessionOptions:
    """One thread without spinning, and no memory kept between calls."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False  # it would keep a plan for each input length
    # Errors only: the runtime also warns of constants that it folds.
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
