"""Losses: one function, one equation. All return one value per example, [n]."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.types import Batch


def cross_entropy(logits: Array, y: Array) -> Array:
    """Softmax cross-entropy of each example.

    l = logsumexp_c z_c - z_y. Logits of -inf take no part; an unlabelled example (y = -1) gives 0.

    Args:
        logits: z, float [n, C].
        y: labels, int [n], in -1..C-1.

    Returns:
        Losses [n], in nats, each >= 0.

    Raises:
        AssertionError: on other ranks or types.

    Example:
        >>> cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).round(3).tolist()
        [1.3860000371932983]
    """
    chex.assert_rank([logits, y], [2, 1])
    chex.assert_type([logits, y], [float, int])
    picked = jnp.take_along_axis(logits, jnp.maximum(y, 0)[:, None], axis=1)[:, 0]
    loss = jax.nn.logsumexp(logits, axis=1) - picked
    return jnp.where(y >= 0, loss, 0.0)


def squared_error(outputs: Array, y: Array) -> Array:
    """Squared error of each example, averaged over the d outputs.

    l = 1/d sum_k (f_k - y_k)^2.

    Args:
        outputs: f, float [n, d].
        y: targets, float [n, d].

    Returns:
        Losses [n], each >= 0.

    Raises:
        AssertionError: on other ranks, or where the shapes differ.

    Example:
        >>> squared_error(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 0.0]])).tolist()
        [5.0]
    """
    chex.assert_rank([outputs, y], 2)
    chex.assert_equal_shape([outputs, y])
    return jnp.mean((outputs - y) ** 2, axis=1)


def discriminator_loss(real: Array, fake: Array) -> Array:
    """What D descends: -log sigma(D(x)) - log(1 - sigma(D(G(z)))).

    `real` D(x) and `fake` D(G(z)), logits [n] -> losses [n] >= 0.
    Raises: AssertionError on other ranks or shapes.
    Source: Goodfellow et al., "Generative Adversarial Nets", 2014, equation 1, negated.

    Example:
        >>> discriminator_loss(jnp.zeros(1), jnp.zeros(1)).round(3).tolist()
        [1.3860000371932983]
    """
    _check_scores(real, fake)
    return jax.nn.softplus(-real) + jax.nn.softplus(fake)


def saturating_loss(real: Array, fake: Array) -> Array:
    """What G descends in the equation of the minimax game: log(1 - sigma(D(G(z)))).

    Its gradient vanishes while D is sure. `real` takes no part, and is there so that all losses
    of G have one signature; logits [n] -> losses [n] <= 0.
    Raises: AssertionError on other ranks or shapes.
    Source: Goodfellow et al., "Generative Adversarial Nets", 2014, equation 1.

    Example:
        >>> saturating_loss(jnp.zeros(1), jnp.zeros(1)).round(3).tolist()
        [-0.6930000185966492]
    """
    _check_scores(real, fake)
    return -jax.nn.softplus(fake)


def non_saturating_loss(real: Array, fake: Array) -> Array:
    """What G descends instead, so that it learns while D is sure: -log sigma(D(G(z))).

    As `saturating_loss`; losses [n] >= 0.
    Source: Goodfellow et al., "Generative Adversarial Nets", 2014, section 3.

    Example:
        >>> non_saturating_loss(jnp.zeros(1), jnp.zeros(1)).round(3).tolist()
        [0.6930000185966492]
    """
    _check_scores(real, fake)
    return jax.nn.softplus(-fake)


def relativistic_loss(real: Array, fake: Array) -> Array:
    """What D descends if it compares pairs: -log sigma(D(x) - D(G(z))); G, with the two swapped.

    Logits [n] of pairs of one condition -> losses [n] >= 0.
    Raises: AssertionError on other ranks or shapes.
    Source: Jolicoeur-Martineau, "The Relativistic Discriminator: a Key Element Missing from
    Standard GAN", 2019; with both penalties, Huang, Gokaslan, Kuleshov and Tompkin, "The GAN is
    Dead; Long Live the GAN! A Modern GAN Baseline", 2024.

    Example:
        >>> relativistic_loss(jnp.array([2.0]), jnp.array([2.0])).round(3).tolist()
        [0.6930000185966492]
    """
    _check_scores(real, fake)
    return jax.nn.softplus(fake - real)


def gradient_penalty(scores: Callable[[Array], Array], x: Array) -> Array:
    """How steep D is at each example, for R1 at real and R2 at generated ones: |grad_x D(x)|^2 / 2.

    `scores` x [n, ...] -> D(x) [n], each of its own example alone (no batch-norm); `x` [n, ...] ->
    [n] >= 0, summed over all features.
    Source: Mescheder, Geiger and Nowozin, "Which Training Methods for GANs do actually Converge?",
    2018.

    Example:
        >>> gradient_penalty(lambda x: 3 * x[:, 0], jnp.ones((2, 2))).tolist()
        [4.5, 4.5]
    """
    slope = jax.grad(lambda x: jnp.sum(scores(x)))(x)
    return jnp.sum(slope.reshape(x.shape[0], -1) ** 2, axis=1) / 2


def _check_scores(real: Array, fake: Array) -> None:
    chex.assert_rank([real, fake], 1)
    chex.assert_equal_shape([real, fake])


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


def labelled(batch: Batch) -> Array:
    """Weight [n] of each example of `batch`, 0 where it is unlabelled (y = -1)."""
    weight = jnp.ones(batch.x.shape[0]) if batch.weight is None else batch.weight
    if are_labels(batch.y):
        weight = jnp.where(batch.y >= 0, weight, 0.0)
    return weight


def mask_logits(logits: Array, keep: Array) -> Array:
    """Logits [n, C] with -inf at the classes that `keep` (bool [C] or [n, C]) leaves out.

    Example:
        >>> mask_logits(jnp.ones((1, 3)), jnp.array([True, False, True])).tolist()
        [[1.0, -inf, 1.0]]
    """
    return jnp.where(jnp.broadcast_to(keep, logits.shape), logits, -jnp.inf)
