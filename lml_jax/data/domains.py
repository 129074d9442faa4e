"""How a stream shows its images: by a domain that depends on the task, or changed at random."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax.data.augment import Jitter, affine, turn, warp
from lml_jax.data.stream import Stream, Transform
from lml_jax.types import Key


def rotated(degrees: float) -> Transform:
    """Domain i is turned by i * `degrees`, counter-clockwise, bilinear, zeros outside.

    Example:
        >>> rotated(90.0)(1, jnp.eye(3)[None].at[0, 0, 1].set(2.0))[0].round(3).tolist()
        [[0.0, 0.0, 1.0], [2.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    return _Rotated(float(degrees))


def permuted(seed: int) -> Transform:
    """Domain 0 as it is; domain i > 0 with its pixels in one random order, new for each i.

    Example:
        >>> permuted(0)(0, jnp.arange(4).reshape(1, 2, 2)).tolist()
        [[[0, 1], [2, 3]]]
    """
    return _Permuted(int(seed))


def jittered(stream: Stream, jitter: Jitter) -> Stream:
    """`stream`, each image of its episodes and batches moved by a new random affine map.

    What `train` and `test` give stays as it is.

    Example:
        >>> from lml_jax.data.glyphs import glyphs
        >>> from lml_jax.data.streams import class_incremental
        >>> plain = class_incremental(glyphs(), tasks=2, classes_per_task=2, seed=0,
        ...                           train_per_class=15)
        >>> drawn = jittered(plain, Jitter()).episodes(0, jax.random.key(0))
        >>> drawn.query.x.shape == plain.episodes(0, jax.random.key(0)).query.x.shape
        True
    """
    return replace(stream, augment=_Jittered(jitter))


# Records and not closures: two of the same arguments are equal, so streams made with them share
# compiled programs, and they can be sent to another process.
@dataclass(frozen=True)
class _Rotated:
    degrees: float

    def __call__(self, i: Array | int, x: Array) -> Array:
        matrix = jnp.broadcast_to(turn(jnp.deg2rad(self.degrees * i)), (x.shape[0], 2, 2))
        return warp(x, matrix, jnp.zeros((x.shape[0], 2)))


@dataclass(frozen=True)
class _Permuted:
    seed: int

    def __call__(self, i: Array | int, x: Array) -> Array:
        size = int(np.prod(x.shape[1:]))
        order = jax.random.permutation(jax.random.fold_in(jax.random.key(self.seed), i), size)
        order = jnp.where(jnp.asarray(i) == 0, jnp.arange(size), order)
        return x.reshape(x.shape[0], size)[:, order].reshape(x.shape)


@dataclass(frozen=True)
class _Jittered:
    jitter: Jitter

    def __call__(self, x: Array, key: Key) -> Array:
        return affine(x, key, self.jitter)
