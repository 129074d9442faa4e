"""Checks of arguments, and errors that name what was found and what was expected."""

import difflib
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
