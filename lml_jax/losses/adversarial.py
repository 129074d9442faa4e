"""Losses of a discriminator and of a generator, one value per pair of scores, [n].

A pair is the score D(x) of a real example and the score D(G(z)) of a generated one, both logits,
under the same condition. `GanLoss` holds the two losses that are minimised against each other.
"""

# ruff: noqa: D102 - the docstring of a function type is that of its Protocol

from collections.abc import Callable
from typing import NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
from jax import Array


class PairLoss(Protocol):
    """Losses [n] of n pairs of logits: real D(x) [n] and fake D(G(z)) [n]."""

    def __call__(self, real: Array, fake: Array, /) -> Array: ...


class GanLoss(NamedTuple):
    """The two losses of a GAN, each a function of (real [n], fake [n]).

    Attributes:
        discriminator: what D minimises.
        generator: what G minimises.

    Example:
        >>> hinge = GanLoss(
        ...     lambda real, fake: jax.nn.relu(1 - real) + jax.nn.relu(1 + fake),
        ...     lambda real, fake: -fake)
        >>> hinge.discriminator(jnp.array([0.5]), jnp.array([-2.0])).tolist()
        [0.5]
    """

    discriminator: PairLoss
    generator: PairLoss


def discriminator_loss(real: Array, fake: Array) -> Array:
    """The discriminator's loss in the minimax objective.

    l_D = -log sigma(D(x)) - log(1 - sigma(D(G(z)))).

    Args:
        real: D(x), logits [n].
        fake: D(G(z)), logits [n].

    Returns:
        Losses [n], in nats, each >= 0.

    Raises:
        AssertionError: on other ranks, or where the shapes differ.

    Example:
        >>> discriminator_loss(jnp.zeros(1), jnp.zeros(1)).round(3).tolist()
        [1.3860000371932983]

    Source:
        Goodfellow et al. Generative Adversarial Nets, 2014, equation 1, negated.
        https://arxiv.org/abs/1406.2661
    """
    _check_scores(real, fake)
    return jax.nn.softplus(-real) + jax.nn.softplus(fake)


def saturating_loss(real: Array, fake: Array) -> Array:
    """The generator's loss in the minimax objective.

    l_G = log(1 - sigma(D(G(z)))).

    Its gradient vanishes where D is confident that a sample is generated.

    Args:
        real: D(x), logits [n]; not used.
        fake: D(G(z)), logits [n].

    Returns:
        Losses [n], in nats, each <= 0.

    Raises:
        AssertionError: on other ranks, or where the shapes differ.

    Example:
        >>> saturating_loss(jnp.zeros(1), jnp.zeros(1)).round(3).tolist()
        [-0.6930000185966492]

    Source:
        Goodfellow et al. Generative Adversarial Nets, 2014, equation 1.
        https://arxiv.org/abs/1406.2661
    """
    _check_scores(real, fake)
    return -jax.nn.softplus(fake)


def non_saturating_loss(real: Array, fake: Array) -> Array:
    """The generator's loss whose gradient does not vanish where D is confident.

    l_G = -log sigma(D(G(z))).

    Args:
        real: D(x), logits [n]; not used.
        fake: D(G(z)), logits [n].

    Returns:
        Losses [n], in nats, each >= 0.

    Raises:
        AssertionError: on other ranks, or where the shapes differ.

    Example:
        >>> non_saturating_loss(jnp.zeros(1), jnp.zeros(1)).round(3).tolist()
        [0.6930000185966492]

    Source:
        Goodfellow et al. Generative Adversarial Nets, 2014, section 3.
        https://arxiv.org/abs/1406.2661
    """
    _check_scores(real, fake)
    return jax.nn.softplus(-fake)


def relativistic_loss(real: Array, fake: Array) -> Array:
    """The discriminator's loss on the difference of a pair; the generator swaps the arguments.

    l_D = -log sigma(D(x) - D(G(z))).

    Args:
        real: D(x), logits [n].
        fake: D(G(z)), logits [n].

    Returns:
        Losses [n], in nats, each >= 0.

    Raises:
        AssertionError: on other ranks, or where the shapes differ.

    Example:
        >>> relativistic_loss(jnp.array([2.0]), jnp.array([2.0])).round(3).tolist()
        [0.6930000185966492]

    Source:
        Jolicoeur-Martineau. The Relativistic Discriminator: a Key Element Missing from Standard
        GAN, 2019. https://arxiv.org/abs/1807.00734
    """
    _check_scores(real, fake)
    return jax.nn.softplus(fake - real)


def saturating() -> GanLoss:
    """The minimax objective: `discriminator_loss` against `saturating_loss`.

    Example:
        >>> loss = saturating()
        >>> float((loss.discriminator(jnp.zeros(1), jnp.zeros(1))
        ...        + 2 * loss.generator(jnp.zeros(1), jnp.zeros(1)))[0])
        0.0
    """
    return GanLoss(discriminator_loss, saturating_loss)


def non_saturating() -> GanLoss:
    """`discriminator_loss` against `non_saturating_loss`.

    Example:
        >>> non_saturating().generator(jnp.zeros(1), jnp.zeros(1)).round(3).tolist()
        [0.6930000185966492]
    """
    return GanLoss(discriminator_loss, non_saturating_loss)


def relativistic() -> GanLoss:
    """`relativistic_loss` of both networks, to be used with a gradient penalty on both sides.

    Example:
        >>> pair = jnp.array([2.0]), jnp.array([-1.0])
        >>> round(float(relativistic().generator(*pair)[0]), 3)
        3.049

    Source:
        Huang, Gokaslan, Kuleshov, Tompkin. The GAN is Dead; Long Live the GAN! A Modern GAN
        Baseline, 2024. https://arxiv.org/abs/2501.05441
    """
    return GanLoss(relativistic_loss, lambda real, fake: relativistic_loss(fake, real))


# Names for the command line; a function takes a `GanLoss`, one of these or the user's own.
GAN_LOSSES: dict[str, Callable[[], GanLoss]] = {
    "saturating": saturating,
    "non_saturating": non_saturating,
    "relativistic": relativistic,
}


def gradient_penalty(scores: Callable[[Array], Array], x: Array) -> Array:
    """Squared slope of D at each example: R1 at real examples, R2 at generated ones.

    R = |grad_x D(x)|^2 / 2, summed over all features.

    Args:
        scores: x [n, ...] -> D(x) [n], each score of its own example alone (no batch-norm).
        x: examples [n, ...].

    Returns:
        Penalties [n], each >= 0.

    Example:
        >>> gradient_penalty(lambda x: 3 * x[:, 0], jnp.ones((2, 2))).tolist()
        [4.5, 4.5]

    Source:
        Mescheder, Geiger, Nowozin. Which Training Methods for GANs do actually Converge?, 2018.
        https://arxiv.org/abs/1801.04406
    """
    slope = jax.grad(lambda x: jnp.sum(scores(x)))(x)
    return jnp.sum(slope.reshape(x.shape[0], -1) ** 2, axis=1) / 2


def _check_scores(real: Array, fake: Array) -> None:
    chex.assert_rank([real, fake], 1)
    chex.assert_equal_shape([real, fake])
