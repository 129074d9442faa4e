"""Arrays of a PyTorch file, read without PyTorch and without executing anything of it.

The format of before version 1.6: four pickles (a magic number, a version, the system, the state),
the names of the storages, then the numbers of each. The pickles may name nothing but ordered
dictionaries, tensors and storages; any other name is refused. They may not make Python reserve
more memory than a small multiple of the size of the file, either.
"""

import io
import os
import pickle
import pickletools
from collections import OrderedDict
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_MOST = 2**30  # bytes of a file
_TYPES: dict[str, np.dtype[Any]] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
# What a dictionary of tensors is pickled with. Others could reserve memory without end, or change
# what is looked up by name.
_OPCODES = frozenset(
    (
        *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
        *("NONE", "NEWTRUE", "NEWFALSE", "LONG1", "BININT", "BININT1", "BININT2", "BINUNICODE"),
        *("EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    )
)


class _Tensor(NamedTuple):
    """A view of a storage that comes later in the file."""

    key: str
    type: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    key, kind = storage
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError(f"it has a tensor {shape} of strides {strides} from {offset}")
    return _Tensor(key, kind, offset, tuple(shape), tuple(strides))


class _Names(pickle.Unpickler):
    """Knows three kinds of names and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        # Functions of this call alone: a pickle can set attributes of what it has named.
        if (module, name) == ("collections", "OrderedDict"):
            return lambda: OrderedDict()
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *given: _tensor(*given)
        if module == "torch" and name in _TYPES:
            return name
        raise ValueError(f"it names {module}.{name}, which is not read")

    def persistent_load(self, pid: Any) -> Any:
        kind, storage, key, _, _, view = pid
        if kind != "storage" or storage not in _TYPES or view is not None:
            raise ValueError(f"it has a storage of {kind!r} {storage!r}")
        return str(key), storage


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
        return _read(io.BytesIO(path.read_bytes()), size)
    except Exception as error:  # of any damage: a pickle can fail in any way
        raise ValueError(f"{path} is not a PyTorch file that can be read: {error}") from error


def _read(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    magic, version, system, state, keys = (_unpickled(file, size) for _ in range(5))
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
    # Tensors may share a storage, but together they are no larger than a file that has them once.
    total = sum(prod(t.shape) * _TYPES[t.type].itemsize for t in state.values())
    if total > size:
        raise ValueError(f"its tensors have {total} bytes, and the file has {size}")
    return {str(name): _view(tensor, storages[tensor.key]) for name, tensor in state.items()}


def _unpickled(file: BinaryIO, size: int) -> Any:
    """The object of the next pickle, whose opcodes are checked before any is carried out."""
    begin = file.tell()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name not in _OPCODES:
            raise ValueError(f"it has the opcode {opcode.name}, which is not read")
        # Python reserves a table as long as the largest index.
        if opcode.name == "LONG_BINPUT" and (argument or 0) > size:
            raise ValueError(f"it stores object {argument}, and has {size} bytes")
    file.seek(begin)
    return _Names(file).load()


def _view(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    """A copy of the numbers that a tensor has in its storage, which must hold them all."""
    shape, strides = tensor.shape, tensor.strides
    last = tensor.offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if not (all(shape) and last < storage.size):
        raise ValueError(f"a tensor {shape} that its storage of {storage.size} does not hold")
    steps = [s * storage.itemsize for s in strides]
    view = np.lib.stride_tricks.as_strided(storage[tensor.offset :], shape, steps, writeable=False)
    return view.copy()
