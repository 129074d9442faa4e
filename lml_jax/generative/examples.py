"""Batches as the generators take them: labels as int32, padding harmless, several as one."""

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax import losses
from lml_jax.pixels import Span, as_float, check_range
from lml_jax.types import Batch, Task


def prepared(batch: Batch, *, classes: int, span: Span) -> Batch:
    """A batch as a generator takes it.

    Labels become int32, images of uint8 floats, and a missing weight 1. What has weight 0 is
    padding: it becomes a copy of a real example, so that no value in it can make a loss or a
    gradient non-finite; see `losses.fill_padding`.

    Args:
        batch: x [n, ...], y int [n] in -1..C-1, weight [n] or None.
        classes: C.
        span: the declared range of x.

    Returns:
        The batch, with the same shapes, and a weight.

    Raises:
        ValueError: for labels that are not integers of shape [n]; where values are known, for
            labels outside -1..C-1, or examples outside `span`.

    Example:
        >>> batch = Batch(jnp.array([[3.0], [jnp.inf]]), jnp.array([1, 7]), jnp.array([1.0, 0.0]))
        >>> made = prepared(batch, classes=2, span=(0.0, 5.0))
        >>> made.x.tolist(), made.y.tolist()
        ([[3.0], [3.0]], [1, 1])
    """
    check(batch, classes=classes, span=span)
    x, y = as_float(jnp.asarray(batch.x)), losses.as_labels(batch.y)
    batch = losses.fill_padding(Batch(x, y, batch.weight))
    return batch._replace(weight=losses.weights_of(batch))


def check(batch: Batch, *, classes: int, span: Span, axes: int = 1) -> None:
    """Raise where `prepared` would; `axes` is 2 for a meta-batch of batches.

    Example:
        >>> check(Batch(jnp.zeros((1, 2)), jnp.array([7])), classes=5, span=(0.0, 1.0))
        Traceback (most recent call last):
        ...
        ValueError: labels are in 7..7, expected -1..4; outside are [7]
    """
    x, y = jnp.asarray(batch.x), losses.as_labels(batch.y, rank=axes)
    weight = y if batch.weight is None else jnp.asarray(batch.weight)
    for name, shape in (("y", y.shape), ("weight", weight.shape)):
        if shape != x.shape[:axes]:
            raise ValueError(f"{name} has shape {shape}, expected {x.shape[:axes]}, that of x")
    check_range(x, span, batch.weight)
    losses.check_labels(y, classes, batch.weight)


def together(tasks: Task) -> Batch:
    """Support and query sets of a meta-batch as one set of examples [n, ...].

    Example:
        >>> part = Batch(jnp.zeros((4, 6, 2)), jnp.zeros((4, 6), jnp.int32))
        >>> together(Task(part, part)).x.shape
        (48, 2)
    """

    def rows(part: Batch) -> Batch:
        weight = jnp.ones(part.y.shape) if part.weight is None else part.weight
        return jax.tree.map(
            lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), Batch(*part[:2], weight)
        )

    return jax.tree.map(
        lambda a, b: jnp.concatenate([a, b]), rows(tasks.support), rows(tasks.query)
    )


def joined(real: Batch, generated: Batch, weight: float | Array) -> Batch:
    """One batch of both, in which all generated examples together weigh `weight` x the real ones.

    w_j = weight sum_i v_i / sum_k u_k u_j for generated weights u and real weights v.

    Example:
        >>> real = Batch(jnp.zeros((4, 1)), jnp.zeros(4, jnp.int32))
        >>> generated = Batch(jnp.ones((2, 1)), jnp.zeros(2, jnp.int32))
        >>> joined(real, generated, 0.5).weight.tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    mass_real, mass = losses.labelled(real), losses.labelled(generated)
    total = jnp.sum(mass)
    mass = mass * weight * jnp.sum(mass_real) / jnp.where(total > 0, total, 1.0)
    return Batch(
        jnp.concatenate([real.x, generated.x]),
        jnp.concatenate([real.y.astype(jnp.int32), generated.y.astype(jnp.int32)]),
        jnp.concatenate([mass_real, mass]),
    )
