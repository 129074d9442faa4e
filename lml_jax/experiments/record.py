"""A recipe, and the folder of its run: metrics are written whole or not at all."""

import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lml_jax import storage
from lml_jax.atomic_write import replacing
from lml_jax.metrics import to_json
from lml_jax.train import DivergedError
from lml_jax.types import Params

CHECKPOINTS = "checkpoints"  # in the folder of a run


class Recipe(NamedTuple):
    """What is run, and what it is compared with.

    `run` (folder, resume=False) -> a report to print.
    """

    about: str
    published: str
    run: Callable[..., str]


def open_folder(out: str | os.PathLike[str], *, resume: bool = False) -> Path:
    """A folder for a new run, made if it is absent; or that of a run that is to go on.

    Empty folders in it, of a run that was cut before it kept anything, are nothing.

    Raises:
        FileExistsError: if it holds anything but, with `resume`, a run with checkpoints; nothing
            that another run wrote is ever overwritten.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file, expected a folder for the run")
    if any(path.is_file() for path in folder.rglob("*")):
        kept = next(folder.rglob(CHECKPOINTS), None) is not None  # a run, or one of many in it
        if not (resume and kept):
            raise FileExistsError(
                f"{folder} holds another run ({sorted(p.name for p in folder.iterdir())[0]}, ...)"
                + (" without checkpoints" if resume else "")
                + ": choose another --out, or move it away"
                + (", or go on with it by --resume" if kept else "")
            )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def resumable(settings: Any) -> dict[str, Any]:
    """What a checkpoint must agree with: all settings but the folder that the data lies in.

    Those of settings within them are named as in `base.steps`.
    """

    def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{name}.")
            elif name != "data_dir":
                yield prefix + name, value

    return dict(flat(asdict(settings)))


def write_metrics(folder: Path, metrics: Any) -> Path:
    """Write `metrics.json` into `folder`, whole or not at all; nan becomes null."""
    path = folder / "metrics.json"
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(to_json(metrics), indent=1, allow_nan=False))
    return path


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    names = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in names},
        "device": jax.devices()[0].device_kind,
    }


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays in a pytree."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def save_params(folder: Path, params: Params, *, name: str = "params") -> Path:
    """Write the parameters to `NAME.npz`, whole or not at all; see `storage.save`."""
    return storage.save(folder / f"{name}.npz", params)


def load_params(path: str | Path, like: Params | None = None) -> Params:
    """Parameters from `save_params`, of the structure of `like` if one is given.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or its arrays are not those of `like`, naming them.
    """
    return storage.load(path, like)


@contextmanager
def keeping_last_good(folder: Path, *, about: str = "") -> Iterator[None]:
    """If the run inside diverges, write its last good parameters, and where it came to its end.

    `about` names the run among several in one folder, in the message and in `last_good_ABOUT.npz`.
    What `metrics.json` holds of finished runs stays in it.
    """
    try:
        yield
    except DivergedError as error:
        end = f"_{about}" if about else ""
        state = getattr(error.state, "train", error.state)  # a lifelong state holds a TrainState
        save_params(folder, state.params, name=f"last_good{end}")
        if hasattr(error.state, "generator"):
            save_params(folder, error.state.generator, name=f"last_good_generator{end}")
        path = folder / "metrics.json"
        done = json.loads(path.read_text()) if path.exists() else {}
        said = f"{about}: {error}" if about else str(error)
        write_metrics(folder, {**done, "diverged": said, "steps": int(error.state.step)})
        raise
