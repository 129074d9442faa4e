"""What can be checked of arrays, and when: a traced value is not known until it is run."""

from typing import Any

import jax
import numpy as np


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
