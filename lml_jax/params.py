"""Parameters in a file: one array per path in an `.npz`, no pickle, whole or not at all."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lml_jax.atomic_write import BROKEN_ARCHIVE, replacing
from lml_jax.types import Params


def save_params(folder: Path, params: Params, *, name: str = "params") -> Path:
    """Write a pytree of arrays to `NAME.npz`, whole or not at all; one array per path, no pickle.

    Raises:
        ValueError: where two arrays have the same path, as `{"a/b": x, "a": {"b": y}}` would.
    """
    path = folder / f"{name}.npz"
    arrays: dict[str, Any] = {}
    for where, leaf in jax.tree_util.tree_leaves_with_path(params):
        key = _path(where)
        if key in arrays:
            raise ValueError(f"two arrays have the path {key}: rename one of them")
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        arrays[key] = np.asarray(leaf)
    # Numpy's format has no name for types such as bfloat16: their bits are stored, and the name.
    stored = {
        f"{key}:{a.dtype}" if a.dtype.kind == "V" else key: (
            a.view(f"u{a.itemsize}") if a.dtype.kind == "V" else a
        )
        for key, a in arrays.items()
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **stored)
    return path


def load_params(path: str | Path, like: Params) -> Params:
    """Parameters of the structure, shapes and types of `like`, from `save_params`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, if an array is missing, has another shape or type, or if
            there is one that `like` does not have; the message names it.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(_typed(name, archive[name]) for name in archive.files)
    except FileNotFoundError:
        raise
    except BROKEN_ARCHIVE as error:
        raise ValueError(f"{path} is no whole file of parameters: {error}") from error

    def leaf(where: Any, old: Any) -> Any:
        name = _path(where)
        shape, kind = jnp.shape(old), jnp.asarray(old).dtype
        if name not in arrays or arrays[name].shape != shape:
            raise ValueError(f"{path} holds no {name} of shape {shape}")
        if arrays[name].dtype != kind:
            raise ValueError(f"{path} holds {name} as {arrays[name].dtype}, expected {kind}")
        return jnp.asarray(arrays[name])

    found = jax.tree.map_with_path(leaf, like)
    names = {_path(where) for where, _ in jax.tree_util.tree_leaves_with_path(like)}
    if extra := sorted(arrays.keys() - names):
        raise ValueError(f"{path} also holds {', '.join(extra)}, which is not expected here")
    return found


def _path(where: Any) -> str:
    return jax.tree_util.keystr(where, simple=True, separator="/")


def _typed(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    plain, _, kind = name.partition(":")
    return (plain, array.view(jnp.dtype(kind))) if kind else (name, array)
