"""What a run writes: metrics, versions and parameters, each file whole or not at all."""

import hashlib
import json
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lml_jax import storage
from lml_jax.atomic_write import replacing
from lml_jax.metrics import to_json
from lml_jax.types import Dataset, PyTree

Record = dict[str, Any]  # what `metrics.json` holds of one run

_HASHED = 2**26  # bytes of a data set's examples, at most


def resumable(config: Record) -> Record:
    """The settings that a checkpoint must agree with, flat: all but the folder of the data.

    Those of settings within them are named as in `base.steps`.
    """

    def flat(values: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{name}.")
            elif name != "data_dir":
                yield prefix + name, value

    return dict(flat(config))


def write_metrics(folder: Path, metrics: Any) -> Path:
    """Write `metrics.json` into `folder`, whole or not at all; nan becomes null."""
    path = folder / "metrics.json"
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(to_json(metrics), indent=1, allow_nan=False))
    return path


def read_metrics(folder: Path) -> Record:
    """What `metrics.json` in `folder` holds; {} if there is none.

    Raises:
        ValueError: if the file is damaged.
    """
    path = folder / "metrics.json"
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): move it away to continue") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__}, expected an object")
    return found


def versions() -> dict[str, str]:
    """Versions of Python and the libraries that computed the numbers, and the device."""
    names = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in names},
        "device": jax.devices()[0].device_kind,
    }


def fingerprint(data: Dataset) -> Record:
    """Examples, classes and a hash of a data set, so that runs on different data can be told apart.

    Of more than 64 MB, evenly spaced examples are hashed.
    """
    leaves = jax.tree.leaves(data.x)
    every = max(1, -(-sum(leaf.nbytes for leaf in leaves) // _HASHED))
    digest = hashlib.sha256()
    for array in (*(leaf[::every] for leaf in leaves), data.rows, data.count, data.group):
        digest.update(np.ascontiguousarray(array).tobytes())
    return {"examples": len(leaves[0]), "classes": data.classes, "sha256": digest.hexdigest()[:16]}


def tree_bytes(tree: PyTree) -> int:
    """Bytes of all arrays in a pytree."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def save_params(folder: Path, params: PyTree, *, name: str = "params") -> Path:
    """Write a pytree to `NAME.npz`, whole or not at all; `storage.load` reads it."""
    return storage.save(folder / f"{name}.npz", params)
