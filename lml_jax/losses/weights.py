"""Weights of examples: means under them, and padding, the examples of weight 0."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from lml_jax.losses.labels import are_labels, as_labels, check_labels, nan_where, outside
from lml_jax.types import Batch, PyTree


def weighted_mean(values: Array, weight: Array | None = None) -> Array:
    """Mean of values under weights; 0 where the weights sum to 0.

    m = sum_k w_k v_k / sum_k w_k.

    A value of weight 0 changes neither the mean nor its gradient with respect to the values, even
    if it is infinite or NaN. What computed that value may still turn the gradient of 0 into NaN:
    let padding not enter a network, see `fill_padding`.

    Args:
        values: v, float [n].
        weight: w, [n], >= 0; None for 1 each. A weight of NaN makes the mean NaN.

    Returns:
        A scalar, float32 for half precision.

    Raises:
        ValueError: where the shapes differ.

    Example:
        >>> float(weighted_mean(jnp.array([1.0, 5.0, jnp.inf]), jnp.array([1.0, 1.0, 0.0])))
        3.0
    """
    values = at_least_float32(values)
    if weight is None:
        return jnp.mean(values)
    weight = jnp.asarray(weight)
    if weight.shape != values.shape:
        raise ValueError(f"weight {weight.shape} must have the shape of values, {values.shape}")
    weight = weight.astype(values.dtype)
    # Chosen before the product: 0 * inf would be NaN.
    total = jnp.sum(jnp.where(weight == 0, 0.0, values) * weight)
    mass = jnp.sum(weight)
    return total / jnp.where(mass == 0, 1.0, mass)


def at_least_float32(values: Any) -> Array:
    """`values` in float32, or in their own type if it is wider; integers become float32.

    Example:
        >>> at_least_float32(jnp.ones(1, jnp.bfloat16)).dtype.name
        'float32'
    """
    values = jnp.asarray(values)
    floating = jnp.issubdtype(values.dtype, jnp.floating)
    return values.astype(wider(values.dtype, jnp.float32) if floating else jnp.float32)


def wider(a: DTypeLike, b: DTypeLike) -> DTypeLike:
    """The wider of two float types; unlike `jnp.promote_types`, under strict promotion too.

    Example:
        >>> wider(jnp.bfloat16, jnp.float32).dtype.name
        'float32'
    """
    return a if jnp.dtype(a).itemsize >= jnp.dtype(b).itemsize else b


def labelled(batch: Batch, labels: Array | None = None) -> Array:
    """Weight of each example, 0 where it is unlabelled (y = -1) or its class is not active.

    Args:
        batch: n examples; x may be a pytree of arrays [n, ...].
        labels: the active classes, bool [C] or [n, C]; None for all classes.

    Returns:
        Weights [n]. A label below -1, or outside 0..C-1 where `labels` is given, has the weight
        NaN, so that a loss under these weights is NaN.

    Raises:
        ValueError: for x, y and weight of different lengths; for such labels where values are
            known.

    Example:
        >>> batch = Batch(jnp.zeros((3, 1)), jnp.array([0, 1, -1]))
        >>> labelled(batch, jnp.array([False, True])).tolist()
        [0.0, 1.0, 0.0]
    """
    weight = weights_of(batch)
    lengths = [part.shape[0] for part in (*jax.tree.leaves(batch.x), batch.y, weight)]
    if len(set(lengths)) > 1:
        raise ValueError(f"x, y and weight must be of one length, got {lengths}")
    if not are_labels(batch.y):
        return weight
    classes = None if labels is None else labels.shape[-1]
    check_labels(batch.y, classes, batch.weight)
    y = as_labels(batch.y)
    counted = y != -1
    if labels is not None:
        own = jnp.clip(y, 0, labels.shape[-1] - 1)[:, None]
        rows = jnp.broadcast_to(labels, (y.shape[0], labels.shape[-1]))
        counted &= jnp.take_along_axis(rows, own, axis=1)[:, 0] | outside(y, classes)
    wrong = outside(y, classes) & (weight != 0)
    return jnp.where(counted, weight, 0.0) * nan_where(wrong).astype(weight.dtype)


def fill_padding(batch: Batch) -> Batch:
    """`batch` with copies of the other examples, in turn, in place of those of weight 0.

    Weights stay as they are. A weight of 0 multiplies the loss of an example by 0, but
    0 * NaN = NaN: without this, a network that is not differentiable at the padding, or a target
    that is not finite, would make the gradient NaN. In turn, so that a network with statistics of
    its batch sees each example about equally often.

    Args:
        batch: n examples; x may be a pytree of arrays [n, ...].

    Returns:
        A `Batch` of the same shapes. If no example counts, float and uint8 inputs become a ramp
        from 0 to 1 (0 to 255), labels -1 and targets 0; other integers stay.

    Example:
        >>> batch = Batch(jnp.array([[jnp.nan], [2.0]]), jnp.array([7, 1]), jnp.array([0.0, 1.0]))
        >>> fill_padding(batch).x.tolist(), fill_padding(batch).y.tolist()
        ([[2.0], [2.0]], [1, 1])
    """
    n = batch.y.shape[0]
    if batch.weight is None or n == 0:
        return batch
    counts = batch.weight != 0
    some = counts.any()
    real = jnp.flatnonzero(counts, size=n, fill_value=0)
    turn = (jnp.cumsum(~counts) - 1) % jnp.maximum(jnp.sum(counts), 1)
    rows = jnp.where(counts, jnp.arange(n), real[turn])

    def fill(leaf: Array, otherwise: Any) -> Array:
        leaf = jnp.asarray(leaf)
        return jnp.where(some, leaf[rows], jnp.broadcast_to(otherwise, leaf.shape[1:])[None])

    y = batch.y
    y = fill(as_labels(y), jnp.int32(-1)) if are_labels(y) else fill(y, jnp.zeros_like(y[0]))
    return batch._replace(x=jax.tree.map(lambda leaf: fill(leaf, _ramp(leaf)), batch.x), y=y)


def concatenated(a: Batch, b: Batch) -> Batch:
    """The examples of `a`, then those of `b`; weights are 1 where only the other has some.

    Raises:
        ValueError: where x or y are of different types or shapes, as images of uint8 in 0..255
            and floats in 0..1.

    Example:
        >>> one = Batch(jnp.zeros((1, 2)), jnp.array([0]))
        >>> concatenated(one, one._replace(weight=jnp.zeros(1))).weight.tolist()
        [1.0, 0.0]
    """
    if are_labels(a.y) and are_labels(b.y):
        a, b = a._replace(y=as_labels(a.y)), b._replace(y=as_labels(b.y))
    weight = None
    if a.weight is not None or b.weight is not None:
        parts = [weights_of(part) for part in (a, b)]
        dtype = wider(parts[0].dtype, parts[1].dtype)
        weight = jnp.concatenate([part.astype(dtype) for part in parts])

    def join(one: Array, other: Array) -> Array:
        if one.dtype != other.dtype or one.shape[1:] != other.shape[1:]:
            raise ValueError(
                "expected examples of one type and shape, got "
                f"{one.dtype} {list(one.shape)} and {other.dtype} {list(other.shape)}"
            )
        return jnp.concatenate([one, other])

    return Batch(jax.tree.map(join, a.x, b.x), join(a.y, b.y), weight)


def weights_of(batch: Batch) -> Array:
    """Weights of the examples as floats [n]: 1 each where `batch` has none."""
    if batch.weight is None:
        return jnp.ones(jax.tree.leaves(batch.x)[0].shape[0], jnp.float32)
    weight = jnp.asarray(batch.weight)
    # Weights of bool or integers: fractions of them are taken.
    floating = jnp.issubdtype(weight.dtype, jnp.floating)
    return weight if floating else weight.astype(jnp.float32)


def _ramp(leaf: PyTree) -> Array:
    """An example like those of `leaf` [n, ...] at which networks are differentiable."""
    shape, dtype = leaf.shape[1:], jnp.dtype(leaf.dtype)
    size = int(np.prod(shape))
    ramp = np.linspace(0.0, 1.0, size).reshape(shape)
    if dtype == jnp.uint8:
        return jnp.asarray(255 * ramp, dtype)
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.asarray(ramp, dtype)
    return jnp.asarray(leaf[0])
