"""One file for one pytree of arrays: what is loaded is what was saved, or an error says why not.

The file is a NumPy archive of plain arrays with a description in JSON; nothing is ever unpickled.
Dicts, lists, tuples and NamedTuples come back as they were, as do types such as bfloat16, typed
keys of `jax.random`, NumPy arrays and Python numbers.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lml_jax._archive import check_archive
from lml_jax._structure import name_of, rebuild, structure_of
from lml_jax.atomic_write import BROKEN_ARCHIVE, replacing
from lml_jax.types import PyTree

_FORMAT = "lml_jax pytree 1"
_DESCRIPTION = "description"
_MISFITS = (KeyError, IndexError, TypeError, AttributeError)
_PLAIN = {"bool": bool, "int": int, "float": float, "str": str}  # held in the description
Path_ = str | os.PathLike[str]


class Packed(NamedTuple):
    """A pytree as plain arrays on the host, and their description for `write`."""

    description: dict[str, Any]
    arrays: list[np.ndarray]


def save(path: Path_, tree: PyTree, *, about: Any = None) -> Path:
    """Write a pytree to one file, whole or not at all, and read it back before it counts.

    Args:
        path: of the file, whose folder is made if it is absent.
        tree: of arrays, numbers, booleans, strings and None, in dicts, lists, tuples and
            NamedTuples; other nodes that jax knows are loaded by `like` alone.
        about: anything that JSON can hold, for `read_about`.

    Returns:
        The path.

    Raises:
        TypeError: for a leaf or a key of a dict that cannot be stored, naming it.
        OSError: if the file cannot be written, or holds something else when it is read back.

    Example:
        >>> import tempfile
        >>> path = save(Path(tempfile.mkdtemp()) / "params.npz", {"a/b": 1.5, "a": {"b": [2]}})
        >>> load(path)
        {'a': {'b': [2]}, 'a/b': 1.5}
    """
    return write(path, pack(tree), about=about)


def load(path: Path_, like: PyTree | None = None) -> PyTree:
    """The pytree that `save` wrote.

    Args:
        path: of the file.
        like: a pytree of the expected structure, of arrays or `jax.ShapeDtypeStruct`; its leaves
            also say whether arrays are NumPy's and on which devices they lie. None for what the
            file holds.

    Returns:
        The pytree, with the types of its arrays.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged; if it lacks an array of `like`, has others, or has one
            of another shape or type, naming them; if it holds 64-bit arrays of jax and this
            process does not allow them; without `like`, for a node that only `like` can rebuild.

    Example:
        >>> import tempfile
        >>> path = save(Path(tempfile.mkdtemp()) / "params.npz", {"w": jnp.ones(2, jnp.bfloat16)})
        >>> load(path)["w"].dtype.name
        'bfloat16'
    """
    description, arrays = _read(Path(path))
    entries = description["leaves"]
    if like is None:
        try:
            leaves = [_leaf(path, *pair) for pair in zip(entries, arrays, strict=True)]
            return rebuild(path, description["structure"], leaves)
        # Of a description that no `save` has written.
        except (*_MISFITS, RecursionError) as error:
            raise ValueError(f"{path} is no whole file of arrays: {error!r}") from error
    wanted = {name_of(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(like)}
    found = {entry["path"]: (entry, array) for entry, array in zip(entries, arrays, strict=True)}
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or extra:
        raise ValueError(
            f"{path} holds another structure than expected: it lacks {_shown(missing)} and has "
            f"{_shown(extra)} besides; to load what it holds, give no structure"
        )
    leaves = [_leaf(path, *found[name], leaf) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def read_about(path: Path_) -> Any:
    """What `save` was given as `about`. Raises as `load`.

    Example:
        >>> import tempfile
        >>> read_about(save(Path(tempfile.mkdtemp()) / "run.npz", (), about={"step": 3}))
        {'step': 3}
    """
    return _read(Path(path), arrays=False)[0]["about"]


def pack(tree: PyTree) -> Packed:
    """Copy a pytree to the host, ready for `write`. Raises as `save`.

    Example:
        >>> pack({"w": jnp.ones(2)}).arrays[0].tolist()
        [1.0, 1.0]
    """
    paths = jax.tree_util.tree_leaves_with_path(tree)
    pairs = [_entry(name_of(path), leaf) for path, leaf in paths]
    structure = structure_of(tree)
    return Packed(
        {"format": _FORMAT, "structure": structure, "leaves": [entry for entry, _ in pairs]},
        [array for _, array in pairs],
    )


def write(path: Path_, packed: Packed, *, about: Any = None) -> Path:
    """Write what `pack` made. Arguments, result and errors are those of `save`.

    Example:
        >>> import tempfile
        >>> write(Path(tempfile.mkdtemp()) / "params.npz", pack(())).name
        'params.npz'
    """
    digests = [_digest(array) for array in packed.arrays]
    text = json.dumps({**packed.description, "digests": digests, "about": about})
    named: dict[str, Any] = {str(i): _as_plain(array) for i, array in enumerate(packed.arrays)}
    named[_DESCRIPTION] = np.frombuffer(text.encode(), np.uint8)
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            np.savez(file, **named)
            file.flush()
            os.fsync(file.fileno())
        try:
            _read(temporary)
        except ValueError as error:
            raise OSError(f"{path} was not written as it should be: {error}") from error
    return Path(path)


def _read(path: Path, *, arrays: bool = True) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The description and, if asked for, the arrays of a file whose digests are right."""
    try:
        # Opened here, because np.load leaves a file that it cannot read open.
        with path.open("rb") as file:
            check_archive(file)
            return _contents(file, arrays=arrays)
    except FileNotFoundError:
        raise
    except BROKEN_ARCHIVE as error:
        raise ValueError(f"{path} is no whole file of arrays: {error}") from error


def _contents(file: IO[bytes], *, arrays: bool) -> tuple[dict[str, Any], list[np.ndarray]]:
    with np.load(file, allow_pickle=False) as archive:
        described = json.loads(archive[_DESCRIPTION].tobytes())
        if described["format"] != _FORMAT:
            raise ValueError(f"its format is {described['format']!r}, expected {_FORMAT!r}")
        if not arrays:
            return described, []
        found = []
        for i, entry in enumerate(described["leaves"]):
            array = archive[str(i)]
            if entry.get("as"):
                array = array.view(_extended(entry["dtype"]))
            if _digest(array) != described["digests"][i]:
                raise ValueError(f"{entry['path']} is not what was written")
            found.append(array)
        return described, found


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _as_plain(array: np.ndarray) -> np.ndarray:
    """An array in a type that NumPy can write, of the same bytes."""
    return array.view(f"u{array.dtype.itemsize}") if _is_extended(array.dtype) else array


def _extended(name: str) -> np.dtype:
    dtype = jnp.dtype(name)
    if not _is_extended(dtype):
        raise ValueError(f"an array is said to be of {name}, expected a type such as bfloat16")
    return dtype


def _is_extended(dtype: np.dtype) -> bool:
    return dtype.isbuiltin == 2  # as bfloat16, which NumPy would write as bytes without a name


def _entry(name: str, leaf: Any) -> tuple[dict[str, Any], np.ndarray]:
    """The description of a leaf, and its array."""
    if not isinstance(leaf, np.generic | np.ndarray | jax.Array):
        for kind, cls in _PLAIN.items():
            if type(leaf) is cls:
                return {"path": name, "kind": kind, "value": leaf}, np.zeros(0)
        raise TypeError(f"{name or 'the tree'} is {type(leaf).__name__}, which cannot be stored")
    entry: dict[str, Any] = {"path": name, "kind": "numpy"}
    if isinstance(leaf, np.generic):
        entry["kind"] = "numpy scalar"
    elif isinstance(leaf, jax.Array):
        entry["kind"] = "jax"
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            entry["kind"], entry["impl"] = "key", str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
    # A copy: the tree may change, or be donated, before it is written.
    array = np.array(leaf)
    if array.dtype.hasobject or array.dtype.names:
        raise TypeError(f"{name} is of type {array.dtype}, which cannot be stored")
    entry["dtype"], entry["as"] = array.dtype.name, _is_extended(array.dtype)
    return entry, array


def _leaf(path: Path_, entry: dict[str, Any], array: np.ndarray, like: Any = None) -> Any:
    kind, name = entry["kind"], entry["path"]
    if like is not None:
        _check(path, entry, array, like)
    if kind in _PLAIN:
        return entry["value"]
    if kind == "key":
        return jax.random.wrap_key_data(jnp.asarray(array), impl=entry["impl"])
    if isinstance(like, np.generic) or (like is None and kind == "numpy scalar"):
        return array[()]
    if isinstance(like, np.ndarray) or (like is None and kind == "numpy"):
        return array
    if isinstance(like, jax.Array) and like.committed:
        return jax.device_put(array, like.sharding)
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise ValueError(
            f"{path} holds {name} of {array.dtype}, which this process would round: set "
            "JAX_ENABLE_X64=1"
        )
    return jnp.asarray(array)


def _check(path: Path_, entry: dict[str, Any], array: np.ndarray, like: Any) -> None:
    """Raise ValueError unless a leaf is of the kind, shape and type of `like`."""

    def kind_of(leaf: Any) -> str:
        if not hasattr(leaf, "dtype"):
            return type(leaf).__name__
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return f"{leaf.dtype} {list(leaf.shape)}"
        return f"{np.dtype(leaf.dtype).name} {list(leaf.shape)}"

    kind = entry["kind"]
    held = kind if kind in _PLAIN else f"{array.dtype.name} {list(array.shape)}"
    if kind == "key":
        held = kind_of(jax.eval_shape(
            lambda data: jax.random.wrap_key_data(data, impl=entry["impl"]), array
        ))  # fmt: skip
    if held != kind_of(like):
        raise ValueError(f"{path} holds {entry['path']} as {held}, expected {kind_of(like)}")


def _shown(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"
