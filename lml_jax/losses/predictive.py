"""Losses of predictions: one function, one equation. All return one value per example, [n]."""

import chex
import jax
import jax.numpy as jnp
from jax import Array


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


def distillation(logits: Array, teacher: Array, *, temperature: float = 2.0) -> Array:
    """Cross-entropy of each example to a teacher's softened probabilities.

    l = -T^2 sum_c q_c log p_c, with q = softmax(t / T) and p = softmax(z / T). Logits of -inf take
    no part; what the teacher holds for possible must be so in `logits`, and where it holds nothing
    for possible the loss is 0. No gradient reaches t.

    Args:
        logits: z, float [n, C].
        teacher: t, float [n, C].
        temperature: T > 0.

    Returns:
        Losses [n], in nats, each >= 0.

    Raises:
        AssertionError: on other ranks, or where the shapes differ.
        ValueError: for a temperature of 0 or less.

    Example:
        >>> same = jnp.log(jnp.array([[0.5, 0.5]]))
        >>> distillation(same, same, temperature=1.0).round(3).tolist()
        [0.6930000185966492]

    Source:
        Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network, 2015, equation 1.
    """
    chex.assert_rank([logits, teacher], 2)
    chex.assert_equal_shape([logits, teacher])
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    t = jax.lax.stop_gradient(teacher) / temperature
    q = jnp.where(jnp.isfinite(t), jnp.exp(t - jax.nn.logsumexp(t, axis=1, keepdims=True)), 0.0)
    # 0 * -inf would be nan.
    log_p = jnp.where(q > 0, jax.nn.log_softmax(logits / temperature), 0.0)
    return -(temperature**2) * jnp.sum(q * log_p, axis=1)


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
