"""What losses are made from: weights of examples, distances, labels in play."""

import chex
import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.checks import concrete
from lml_jax.types import Batch


def weighted_mean(values: Array, weight: Array | None = None) -> Array:
    """Mean of `values` [n] under `weight` [n]; 0 where the weights sum to 0.

    m = sum_k w_k v_k / sum_k w_k.

    Example:
        >>> float(weighted_mean(jnp.array([1.0, 5.0, 9.0]), jnp.array([1.0, 1.0, 0.0])))
        3.0
    """
    if weight is None:
        return jnp.mean(values)
    # A value of weight 0 is padding and may be inf: 0 * inf would be nan.
    total = jnp.sum(jnp.where(weight > 0, weight * values, 0.0))
    mass = jnp.sum(weight)
    return total / jnp.where(mass > 0, mass, 1.0)


def are_labels(y: Array) -> bool:
    """Whether y holds labels, int [n], rather than targets of a regression."""
    return y.ndim == 1 and jnp.issubdtype(y.dtype, jnp.integer)


def labelled(batch: Batch, labels: Array | None = None) -> Array:
    """Weight [n] of each example, 0 where it is unlabelled (y = -1) or its class is not active.

    `labels` is bool [C] or [n, C], the active classes; None: all classes.

    Raises:
        ValueError: for x, y and weight of different lengths.

    Example:
        >>> batch = Batch(jnp.zeros((3, 1)), jnp.array([0, 1, -1]))
        >>> labelled(batch, jnp.array([False, True])).tolist()
        [0.0, 1.0, 0.0]
    """
    weight = jnp.ones(batch.x.shape[0]) if batch.weight is None else batch.weight
    lengths = [part.shape[0] for part in (batch.x, batch.y, weight)]
    if len(set(lengths)) > 1:
        raise ValueError(f"x, y and weight must be of one length, got {lengths}")
    if not are_labels(batch.y):
        return weight
    part = batch.y >= 0
    if labels is not None:
        own = jnp.maximum(batch.y, 0)[:, None]
        rows = jnp.broadcast_to(labels, (own.shape[0], labels.shape[-1]))
        part &= jnp.take_along_axis(rows, own, axis=1)[:, 0]
    return jnp.where(part, weight, 0.0)


def check_labels(y: Array, classes: int) -> None:
    """Raise unless labels y (any shape; -1 is unlabelled) are in -1..C-1, where they are known.

    Raises:
        ValueError: naming the range found.
    """
    known_now = concrete(y)
    if known_now is None or y.size == 0:
        return
    low, high = int(known_now[0].min()), int(known_now[0].max())
    if low < -1 or high >= classes:
        raise ValueError(f"labels are in {low}..{high}, expected -1..{classes - 1}")


def squared_distances(
    z: Array, c: Array, precision: Array | None = None, where: Array | None = None
) -> Array:
    """Squared distances between features z [n, d] and centres c [C, d]; [n, C].

    d_ik = sum_j p_kj (z_ij - c_kj)^2, with p = 1 where `precision` [C, d] is None. `where` bool [C]
    are the centres that count, None for all; the distances to others are of no meaning. The
    distances of one feature depend on no other. They are computed in float32 at least.

    Example:
        >>> squared_distances(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 0.0], [0.0, 0.0]])).tolist()
        [[4.0, 5.0]]
    """
    chex.assert_rank([z, c], 2)
    dtype = jnp.promote_types(jnp.promote_types(z.dtype, c.dtype), jnp.float32)
    z, c = z.astype(dtype), c.astype(dtype)
    # What the centres have in common is taken off, or it would drown the differences in float32.
    # Not the mean of z: a far query would change, and a NaN spoil, the distances of the others.
    counts = jnp.ones(c.shape[0], bool) if where is None else where
    c = jnp.where(counts[:, None], c, 0.0)
    share = counts.astype(dtype) / jnp.maximum(counts.sum(), 1).astype(dtype)
    offset = jax.lax.stop_gradient((c * share[:, None]).sum(0))[None, :]
    z, c = z - offset, jnp.where(counts[:, None], c - offset, 0.0)

    # Multiplied out into one matrix product, so that nothing of size [n, C, d] is made. In full
    # precision: on GPU and TPU the default rounds the factors to 10 or 7 bits.
    def product(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

    if precision is None:
        d = jnp.square(z).sum(1)[:, None] - 2 * product(z, c.T) + jnp.square(c).sum(1)[None, :]
    else:
        precision = precision.astype(dtype)
        pc = precision * c
        both = jnp.concatenate([precision, -2 * pc], axis=1)
        d = product(jnp.concatenate([jnp.square(z), z], axis=1), both.T) + (pc * c).sum(1)[None, :]
    return jnp.maximum(d, 0.0)


def mask_logits(logits: Array, labels: Array) -> Array:
    """Logits [n, C] with -inf at the classes that `labels` (bool [C] or [n, C]) leaves out.

    Example:
        >>> mask_logits(jnp.ones((1, 3)), jnp.array([True, False, True])).tolist()
        [[1.0, -inf, 1.0]]
    """
    return jnp.where(jnp.broadcast_to(labels, logits.shape), logits, -jnp.inf)
