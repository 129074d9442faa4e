"""Checks of arguments, and errors that name what was found and what was expected."""

import difflib
import warnings
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np


def known(name: str, names: Iterable[str], *, what: str) -> str:
    """`name`, if it is one of `names`.

    Raises:
        ValueError: otherwise, with the nearest known name and all of them.

    Example:
        >>> known("mam", ["maml", "reptile"], what="learner")
        Traceback (most recent call last):
        ...
        ValueError: unknown learner 'mam'; did you mean 'maml'? Known: maml, reptile
    """
    every = list(names)
    if name in every:
        return name
    near = difflib.get_close_matches(str(name), every, n=1, cutoff=0.0)[0]
    raise ValueError(f"unknown {what} {name!r}; did you mean {near!r}? Known: {', '.join(every)}")


def check_positive(**sizes: int) -> None:
    """Raise ValueError, naming it, for a size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def concrete(*values: Any) -> list[Any] | None:
    """`values` as NumPy arrays (None stays None); or None, if any of them is traced.

    Inside jit, scan or checkpoint an operation of `jnp` gives a traced array even where all that
    goes in is known, and a check of it would crash; so what is checked is computed with NumPy.

    Example:
        >>> concrete(jax.numpy.arange(3), None)
        [array([0, 1, 2], dtype=int32), None]
        >>> jax.jit(lambda x: x + (concrete(x) is None))(1).item()
        2
    """
    if any(isinstance(value, jax.core.Tracer) for value in values):
        return None
    return [None if value is None else np.asarray(value) for value in values]


# How networks of flax, haiku, equinox and PyTorch name what they count of their batches.
_STATISTICS = (
    "batch_stats", "running_mean", "running_var", "moving_mean", "moving_var",
    "moving_average", "num_batches_tracked",
)  # fmt: skip


def statistics_among(params: Any) -> list[str]:
    """Paths of the arrays that are running statistics, by their names.

    Example:
        >>> statistics_among({"params": {"w": 1.0}, "batch_stats": {"mean": 0.0}})
        ['batch_stats/mean']
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return [path for path in paths if any(name in path for name in _STATISTICS)]


def warn_of_statistics(params: Any) -> None:
    """Warn where running statistics are among the parameters, which an optimiser would train."""
    found = statistics_among(params)
    if found:
        warnings.warn(
            f"the network returns running statistics as parameters ({', '.join(found[:3])}), and "
            "they will be trained: keep them apart with nets.bind, or hold them with inner.freeze",
            UserWarning,
            stacklevel=3,
        )
