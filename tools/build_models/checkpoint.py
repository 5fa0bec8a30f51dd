"""Reads the tensors of a PyTorch checkpoint without PyTorch and without running what is in it.

Owns the format (a zip with one pickle and one file per storage; PyTorch 1.6 and later) and what
the pickle may ask for: two storage types, one function that rebuilds a tensor, and ordered
dictionaries. A pickle is a program; anything else it asks for ends the reading.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.build_models.errors import BuildError


def read_checkpoint(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the tensors by name, read-only, as float32 or int64 arrays.

    Raises:
        BuildError: the bytes are no checkpoint, are cut short, or ask for more than tensors.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            tensors = _TensorUnpickler(archive).load()
    except BuildError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise BuildError(f"the checkpoint cannot be read: {error!r}") from error
    if not (isinstance(tensors, dict) and all(map(_is_tensor, tensors.items()))):
        raise BuildError("the checkpoint holds something other than named tensors")
    return dict(tensors)


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles tensors out of the archive that holds their storages, and nothing else."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise BuildError("the checkpoint holds no single data.pkl")
        super().__init__(io.BytesIO(archive.read(pickles[0])))
        self._archive = archive
        self._storages = pickles[0].removesuffix("data.pkl") + "data/"

    def find_class(self, module: str, name: str) -> Any:
        """Resolve the few names that tensors need."""
        if (module, name) not in _ALLOWED:
            raise BuildError(f"the checkpoint asks for {module}.{name}, which no tensor needs")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        """Read one storage: pid is ("storage", dtype, key, device, number of elements)."""
        _, dtype, key, _, count = pid
        storage = np.frombuffer(self._archive.read(f"{self._storages}{key}"), dtype)
        if len(storage) != count:
            raise BuildError(f"the checkpoint's storage {key} has {len(storage)} of {count} values")
        return storage


def _rebuild_tensor(
    storage: NDArray[Any],
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *_: object,
) -> NDArray[Any]:
    """A row-major view of the storage; what follows the strides concerns training only."""
    count = math.prod(shape)
    row_major = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    if tuple(strides) != row_major or offset < 0 or offset + count > len(storage):
        raise BuildError(f"the checkpoint has a tensor of shape {shape} outside its storage")
    return storage[offset : offset + count].reshape(shape)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


def _is_tensor(item: tuple[object, object]) -> bool:
    name, value = item
    return isinstance(name, str) and isinstance(value, np.ndarray)
