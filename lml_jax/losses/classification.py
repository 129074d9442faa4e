"""Losses of class scores: one value per example, [n]."""

import chex
import jax
import jax.numpy as jnp
from jax import Array

from lml_jax import checks
from lml_jax.losses.labels import as_labels, check_labels, nan_where, outside
from lml_jax.losses.weights import at_least_float32


def cross_entropy(logits: Array, y: Array) -> Array:
    """Softmax cross-entropy of each example.

    l = logsumexp_c z_c - z_y. Logits of -inf take no part; an unlabelled example (y = -1) gives 0
    and no gradient, whatever its logits are.

    Args:
        logits: z, float [n, C].
        y: labels, integers [n], in -1..C-1.

    Returns:
        Losses [n], in nats, each >= 0, in float32 at least. A label outside -1..C-1 gives NaN, and
        NaN in the gradient; a class whose logit is -inf gives inf.

    Raises:
        ValueError: for other shapes or types, as of one-hot labels; for labels outside -1..C-1
            where they are known.

    Example:
        >>> cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).round(3).tolist()
        [1.3860000371932983]
    """
    if logits.ndim != 2 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"expected float logits [n, C], got {logits.dtype} {list(logits.shape)}")
    y = as_labels(y)
    n, classes = logits.shape
    if y.shape != (n,):
        raise ValueError(f"expected one label for each of {n} logits, got {y.shape[0]}")
    check_labels(y, classes)
    # Before the logarithm: 0 * NaN would be NaN.
    logits = jnp.where((y == -1)[:, None], 0.0, at_least_float32(logits))
    own = jnp.clip(y, 0, classes - 1)[:, None]
    picked = jnp.take_along_axis(logits, own, axis=1)[:, 0]
    loss = jnp.where(y == -1, 0.0, jax.nn.logsumexp(logits, axis=1) - picked)
    return loss * nan_where(outside(y, classes)).astype(loss.dtype)


def mask_logits(logits: Array, labels: Array) -> Array:
    """Logits [n, C] with -inf at the classes that `labels` (bool [C] or [n, C]) leaves out.

    Example:
        >>> mask_logits(jnp.ones((1, 3)), jnp.array([True, False, True])).tolist()
        [[1.0, -inf, 1.0]]
    """
    return jnp.where(jnp.broadcast_to(labels, logits.shape), logits, -jnp.inf)


def distillation(logits: Array, teacher: Array, *, temperature: float = 2.0) -> Array:
    """Cross-entropy of each example to a teacher's softened probabilities.

    l = -T^2 sum_c q_c log p_c, with q = softmax(t / T) and p = softmax(z / T). A teacher's logit
    of -inf has q_c = 0 and takes no part; where all are -inf the loss is 0. No gradient reaches t.

    Args:
        logits: z, float [n, C]; finite where the teacher's are.
        teacher: t, float [n, C].
        temperature: T > 0.

    Returns:
        Losses [n], in nats, each >= 0, in float32 at least.

    Raises:
        AssertionError: on other ranks, or where the shapes differ.
        ValueError: for a temperature of 0 or less.

    Example:
        >>> same = jnp.log(jnp.array([[0.5, 0.5]]))
        >>> distillation(same, same, temperature=1.0).round(3).tolist()
        [0.6930000185966492]

    Source:
        G. Hinton, O. Vinyals, J. Dean, Distilling the Knowledge in a Neural Network, 2015,
        https://arxiv.org/abs/1503.02531, equation 1.
    """
    chex.assert_rank([logits, teacher], 2)
    chex.assert_equal_shape([logits, teacher])
    if not checks.possible(lambda t: t > 0, temperature):
        raise ValueError(f"temperature must be above 0, got {temperature}")
    logits, teacher = at_least_float32(logits), at_least_float32(teacher)
    t = jax.lax.stop_gradient(teacher) / temperature
    possible = t > -jnp.inf
    some = possible.any(axis=1, keepdims=True)
    # Of rows of -inf alone, log-softmax is -inf - (-inf) = NaN.
    q = jnp.where(possible, jax.nn.softmax(jnp.where(some, t, 0.0), axis=1), 0.0)
    z = logits / temperature
    log_p = z - jax.nn.logsumexp(z, axis=1, keepdims=True)
    # 0 * -inf would be NaN.
    return -(temperature**2) * jnp.sum(q * jnp.where(q > 0, log_p, 0.0), axis=1)
