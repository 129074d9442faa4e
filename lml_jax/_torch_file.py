"""Arrays of a PyTorch file, read without PyTorch and without executing anything of it.

The format of before version 1.6: four pickles (a magic number, a version, the system, the state),
the names of the storages, then the numbers of each. The pickles may name nothing but ordered
dictionaries, tensors and storages; any other name is refused.
"""

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_MOST = 2**30  # bytes of a file
_TYPES: dict[str, np.dtype[Any]] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _Tensor:
    """A view of a storage that comes later in the file."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> None:
        self.key, self.type, self.numbers = storage
        self.offset, self.shape, self.strides = offset, shape, strides


class _Names(pickle.Unpickler):
    """Knows three kinds of names and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in _TYPES:
            return name
        raise ValueError(f"it names {module}.{name}, which is not read")

    def persistent_load(self, pid: Any) -> Any:
        kind, storage, key, _, numbers, view = pid
        if kind != "storage" or storage not in _TYPES or view is not None:
            raise ValueError(f"it has a storage of {kind!r} {storage!r}")
        return str(key), storage, int(numbers)


def read_torch(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The state dictionary of a file.

    Returns:
        Arrays by name, float32 or int64.

    Raises:
        ValueError: for a file that is not one of arrays in this format, or damaged; it names the
            file.

    Example:
        >>> read_torch("model.pth")["conv1.weight"].shape  # doctest: +SKIP
        (64, 3, 7, 7)
    """
    path = Path(path)
    size = path.stat().st_size
    if size > _MOST:
        raise ValueError(f"{path} has {size} bytes, expected at most {_MOST}")
    try:
        return _read(io.BytesIO(path.read_bytes()))
    except Exception as error:  # of any damage: a pickle can fail in any way
        raise ValueError(f"{path} is not a PyTorch file that can be read: {error}") from error


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    magic, version, system, state, keys = (_Names(file).load() for _ in range(5))
    if (magic, version) != (_MAGIC, _VERSION) or not system["little_endian"]:
        raise ValueError("another format or byte order")
    if not isinstance(state, dict) or not all(isinstance(v, _Tensor) for v in state.values()):
        raise ValueError("something else than a dictionary of tensors")
    types = {tensor.key: tensor.type for tensor in state.values()}
    storages = {}
    for key in keys:
        numbers = int(np.frombuffer(file.read(8), "<i8")[0])
        dtype = _TYPES[types[key]]
        raw = file.read(numbers * dtype.itemsize) if numbers >= 0 else b""
        storages[key] = np.frombuffer(raw, dtype, count=numbers)
    return {str(name): _view(tensor, storages[tensor.key]) for name, tensor in state.items()}


def _view(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    """A copy of the numbers that a tensor has in its storage, which must hold them all."""
    shape, strides = tuple(tensor.shape), tuple(tensor.strides)
    whole = all(n > 0 and s >= 0 for n, s in zip(shape, strides, strict=True))
    last = tensor.offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if not (whole and tensor.offset >= 0 and last < storage.size):
        raise ValueError(f"a tensor {shape} that its storage of {storage.size} does not hold")
    if np.prod(shape, dtype=np.int64) > storage.size:
        raise ValueError(f"a tensor {shape} of a storage of {storage.size}")
    steps = [s * storage.itemsize for s in strides]
    view = np.lib.stride_tricks.as_strided(storage[tensor.offset :], shape, steps, writeable=False)
    return view.copy()
