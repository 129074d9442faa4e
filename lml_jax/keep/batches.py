"""Batches of any size as batches of a few sizes, so that nothing compiles for a request."""

import math
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from lml_jax.keep.kept import encoded
from lml_jax.types import Apply, Params

_SIZES = (8, 64, 256)
_MOST = 2**20  # numbers in one batch of examples


def sizes_for(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes of batches of examples of this shape, the smaller the larger they are.

    Example:
        >>> sizes_for((28, 28)), sizes_for((224, 224, 3))
        ((8, 64, 256), (8,))
    """
    each = math.prod(shape)
    return tuple(size for size in _SIZES if size == _SIZES[0] or size * each <= _MOST)


def padded(n: int, sizes: tuple[int, ...]) -> Iterator[tuple[slice, int]]:
    """(part, size): parts of 0..n, and the size that each is padded to.

    Example:
        >>> [(part.start, part.stop, size) for part, size in padded(300, (8, 64, 256))]
        [(0, 256, 256), (256, 300, 64)]
    """
    begin = 0
    while begin < n:
        size = next((size for size in sizes if n - begin <= size), sizes[-1])
        yield slice(begin, min(n, begin + size)), size
        begin += size


def encode_all(apply: Apply, params: Params, x: np.ndarray, dim: int) -> np.ndarray:
    """Features float32 [n, d] of examples x [n, ...], in batches of few sizes."""
    z = np.empty((len(x), dim), np.float32)
    for part, size in padded(len(x), sizes_for(x.shape[1:])):
        z[part] = encoded(apply, params, jnp.asarray(filled(x[part], size)))[: len(x[part])]
    return z


def filled(x: np.ndarray, size: int) -> np.ndarray:
    """x [n, ...] with rows of zeros up to `size`."""
    if len(x) == size:
        return x
    return np.concatenate([x, np.zeros((size - len(x), *x.shape[1:]), x.dtype)])
