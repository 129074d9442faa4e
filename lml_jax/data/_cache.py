"""Arrays that are slow to make, kept on disk between runs."""

import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from lml_jax.atomic_write import BROKEN_ARCHIVE, replacing

Arrays = dict[str, np.ndarray]


def cache_dir() -> Path | None:
    """The folder of the cache: LML_JAX_CACHE, else XDG_CACHE_HOME/lml_jax, else ~/.cache/lml_jax.

    None, with a warning, where the user has no home directory, as some users of containers.

    Example:
        >>> from lml_jax.data._cache import cache_dir
        >>> isinstance(cache_dir(), Path)
        True
    """
    own, shared = os.environ.get("LML_JAX_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        if own:
            return Path(own).expanduser()
        return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "lml_jax"
    except RuntimeError:  # Path finds no home
        warnings.warn(
            "there is no home directory, so nothing is cached; set LML_JAX_CACHE to a folder",
            stacklevel=2,
        )
        return None


def cached(
    name: str, build: Callable[[], Arrays], *, keys: Iterable[str], cache: bool = True
) -> Arrays:
    """The arrays of `build()`, read from the cache where an earlier call left them.

    `name` must carry all that the arrays depend on: source, version, size, format. A file that
    cannot be read whole, or lacks one of `keys`, is built anew. A folder that cannot be written
    costs a warning and the time to build, never the result.

    Raises:
        ValueError: `build` did not return exactly `keys`, or an array of Python objects.

    Example:
        >>> cached("demo", lambda: {"x": np.arange(3)}, keys=["x"], cache=False)["x"].tolist()
        [0, 1, 2]
    """
    keys = sorted(keys)
    folder = cache_dir() if cache else None
    path = None if folder is None else folder / f"{name}.npz"
    if path is not None and (found := _read(path, keys)) is not None:
        return found
    arrays = build()
    if sorted(arrays) != keys:
        raise ValueError(f"build of {name!r} returned {sorted(arrays)}, expected {keys}")
    if objects := [key for key in keys if arrays[key].dtype.hasobject]:
        raise ValueError(f"build of {name!r} returned Python objects in {objects}: not storable")
    if path is not None:
        try:
            _write(path, arrays)
        except OSError as error:
            warnings.warn(f"{path} was not written ({error}); set LML_JAX_CACHE", stacklevel=2)
    return arrays


def _read(path: Path, keys: list[str]) -> Arrays | None:
    """The arrays in `path`, or None where it is absent, broken or holds something else."""
    try:
        # A zip archive checks the CRC of each member as it is read, so a flipped bit shows here.
        # Opened here, because np.load leaves a file that it cannot read open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in keys} if sorted(archive.files) == keys else None
    except BROKEN_ARCHIVE:
        return None


def _write(path: Path, arrays: Arrays) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy types allow_pickle in **kwds
