"""Losses of a discriminator and of a generator, one value per pair of scores, [n]."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax import Array


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
