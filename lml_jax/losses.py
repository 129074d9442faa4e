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


def gaussian_nll(mean: Array, log_scale: Array, y: Array) -> Array:
    """Negative log-likelihood of targets under a diagonal Gaussian, summed over the d outputs.

    l = sum_k [(y_k - f_k)^2 / (2 s^2) + log s + log(2 pi) / 2].

    Args:
        mean: f, float [n, d].
        log_scale: log s, a scalar: the logarithm of the standard deviation.
        y: targets, float [n, d].

    Returns:
        Losses [n], in nats; negative where the density exceeds 1.

    Raises:
        AssertionError: on other ranks, or where the shapes differ.

    Example:
        >>> gaussian_nll(jnp.zeros((1, 2)), jnp.array(0.0), jnp.ones((1, 2))).round(3).tolist()
        [2.8380000591278076]
    """
    chex.assert_rank([mean, log_scale, y], [2, 0, 2])
    chex.assert_equal_shape([mean, y])
    scaled = (y - mean) * jnp.exp(-log_scale)
    return jnp.sum(0.5 * scaled**2 + log_scale + 0.5 * jnp.log(2 * jnp.pi), axis=1)


def bernoulli_nll(logits: Array, x: Array) -> Array:
    """Cross-entropy of values in [0, 1] to Bernoulli probabilities, summed over the p pixels.

    l = -sum_k [x_k log sigma(a_k) + (1 - x_k) log(1 - sigma(a_k))].

    For x in {0, 1} it is the negative log-likelihood; grey values count as that much ink.

    Args:
        logits: a, float [n, p].
        x: float [n, p], in [0, 1].

    Returns:
        Losses [n], in nats, each >= 0.

    Raises:
        AssertionError: on other ranks, or where the shapes differ.

    Example:
        >>> bernoulli_nll(jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]])).round(3).tolist()
        [1.3860000371932983]
    """
    chex.assert_rank([logits, x], 2)
    chex.assert_equal_shape([logits, x])
    return jnp.sum(jax.nn.softplus(logits) - x * logits, axis=1)


def gaussian_kl(mean: Array, precision: Array, mean_0: Array, precision_0: Array) -> Array:
    """Divergence KL(N(m, 1/L) || N(m_0, 1/L_0)) of diagonal Gaussians, summed over the last axis.

    l = 1/2 sum_k [log L_k - log L_0k + L_0k / L_k + L_0k (m_k - m_0k)^2 - 1].

    Args:
        mean: m, float [..., d].
        precision: L, float [..., d], > 0: one over the variance.
        mean_0: m_0, float [..., d].
        precision_0: L_0, float [..., d], > 0.

    Returns:
        Divergences [...], in nats, each >= 0 up to rounding.

    Raises:
        AssertionError: where the shapes differ.

    Example:
        >>> one = jnp.ones(1)
        >>> float(gaussian_kl(one, one, 0 * one, one))
        0.5

    Source:
        Kullback, Leibler. On Information and Sufficiency, 1951.
    """
    chex.assert_equal_shape([mean, precision, mean_0, precision_0])
    ratio = precision_0 / precision
    return 0.5 * jnp.sum(ratio - 1 - jnp.log(ratio) + precision_0 * (mean - mean_0) ** 2, axis=-1)


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


def labelled(batch: Batch, keep: Array | None = None) -> Array:
    """Weight [n] of each example, 0 where it is unlabelled (y = -1) or its label is not in `keep`.

    `keep` is bool [C] or [n, C], the labels in play; None is all of them.

    Example:
        >>> batch = Batch(jnp.zeros((3, 1)), jnp.array([0, 1, -1]))
        >>> labelled(batch, jnp.array([False, True])).tolist()
        [0.0, 1.0, 0.0]
    """
    weight = jnp.ones(batch.x.shape[0]) if batch.weight is None else batch.weight
    if not are_labels(batch.y):
        return weight
    part = batch.y >= 0
    if keep is not None:
        own = jnp.maximum(batch.y, 0)[:, None]
        rows = jnp.broadcast_to(keep, (own.shape[0], keep.shape[-1]))
        part &= jnp.take_along_axis(rows, own, axis=1)[:, 0]
    return jnp.where(part, weight, 0.0)


def squared_distances(z: Array, c: Array, precision: Array | None = None) -> Array:
    """Squared distances between features z [n, d] and centres c [C, d]; [n, C].

    d_ik = sum_j p_kj (z_ij - c_kj)^2, with p = 1 where `precision` [C, d] is None.

    Example:
        >>> squared_distances(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 0.0], [0.0, 0.0]])).tolist()
        [[4.0, 5.0]]
    """
    chex.assert_rank([z, c], 2)
    # Multiplied out into one matrix product, so that nothing of size [n, C, d] is made.
    if precision is None:
        d = jnp.square(z).sum(1)[:, None] - 2 * z @ c.T + jnp.square(c).sum(1)[None, :]
    else:
        pc = precision * c
        both = jnp.concatenate([precision, -2 * pc], axis=1)
        d = jnp.concatenate([jnp.square(z), z], axis=1) @ both.T + (pc * c).sum(1)[None, :]
    return jnp.maximum(d, 0.0)


def mask_logits(logits: Array, keep: Array) -> Array:
    """Logits [n, C] with -inf at the classes that `keep` (bool [C] or [n, C]) leaves out.

    Example:
        >>> mask_logits(jnp.ones((1, 3)), jnp.array([True, False, True])).tolist()
        [[1.0, -inf, 1.0]]
    """
    return jnp.where(jnp.broadcast_to(keep, logits.shape), logits, -jnp.inf)
