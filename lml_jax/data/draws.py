"""Draws without replacement from a class of any size, inside jit."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax.checks import concrete
from lml_jax.types import Key, PyTree


def draw_positions(count: Array, key: Key, *, n: int) -> Array:
    """n different positions in 0..count-1, in random order; int32 [n].

    Floyd's algorithm: for t = 0..n-1 draw r from {0, ..., count - n + t}, and take r, or
    count - n + t where r was taken before. It costs n^2 comparisons whatever `count` is. Where
    count < n, the first `count` are the positions in random order and the rest are 0.

    Args:
        count: int32 [], may be traced.
        key: a typed key.
        n: how many, >= 1.

    Example:
        >>> sorted(draw_positions(jnp.array(3), jax.random.key(0), n=3).tolist())
        [0, 1, 2]

    Source:
        Bentley, Floyd. Programming Pearls: A Sample of Brilliance, 1987,
        https://doi.org/10.1145/30401.315746.
    """
    key_draw, key_order = jax.random.split(key)
    highest = jnp.maximum(count - n, 0) + jnp.arange(n)
    # Integers of 32 bits modulo the range: the bias is below count / 2^32.
    drawn = jax.random.randint(key_draw, (n,), 0, highest + 1)

    def take(t: Array, taken: Array) -> Array:
        before = jnp.any((taken == drawn[t]) & (jnp.arange(n) < t))
        return taken.at[t].set(jnp.where(before, highest[t], drawn[t]))

    taken = jax.lax.fori_loop(0, n, take, jnp.zeros(n, jnp.int32))
    # Floyd's set is uniform but not its order: support and query sets are cut from it.
    real = jnp.arange(n) < count
    order = jnp.argsort(jnp.where(real, jax.random.uniform(key_order, (n,)), 2.0))
    return jnp.where(real, taken[order], 0)


def split_shots(count: Array, *, shots: int, queries: int) -> Array:
    """Support examples that a class of `count` gives: `shots`, or its share of what there is.

    A class of fewer than shots + queries examples is divided in the same proportion, with one
    support example at least.

    Example:
        >>> [int(split_shots(jnp.array(c), shots=5, queries=15)) for c in (40, 8, 1)]
        [5, 2, 1]
    """
    share = jnp.maximum(count * shots // (shots + queries), 1)
    return jnp.where(count >= shots + queries, shots, jnp.minimum(share, count))


def take(x: PyTree, rows: Array) -> PyTree:
    """The given rows of every array of x, on the device.

    Of an array in host memory, or memory-mapped, nothing but these rows is read, unless `rows` is
    traced: then an array in host memory moves to the device as a whole.

    Raises:
        ValueError: for a memory-mapped array inside jit or vmap, which would be read whole.

    Example:
        >>> take({"ids": jnp.arange(4)}, jnp.array([2, 0]))["ids"].tolist()
        [2, 0]
    """
    known_now = concrete(rows)

    def of_leaf(leaf: Array | np.ndarray) -> Array:
        if not isinstance(leaf, np.ndarray):
            return leaf[rows]
        if known_now is not None:
            return jnp.asarray(leaf[known_now[0]])
        if isinstance(leaf, np.memmap):
            raise ValueError(
                "a memory-mapped array cannot be read inside jit: take one task at a time to the "
                "device with Stream.local(i), as run_stream does"
            )
        return jnp.asarray(leaf)[rows]

    return jax.tree.map(of_leaf, x)
