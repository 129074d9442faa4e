"""Losses of real and binary targets: one value per example, [n]."""

import chex
import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.losses.weights import at_least_float32


def squared_error(outputs: Array, y: Array) -> Array:
    """Squared error of each example, averaged over the d outputs.

    l = 1/d sum_k (f_k - y_k)^2.

    Args:
        outputs: f, float [n, d].
        y: targets, float [n, d].

    Returns:
        Losses [n], each >= 0.

    Raises:
        ValueError: on other ranks, or where the shapes differ.

    Example:
        >>> squared_error(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 0.0]])).tolist()
        [5.0]
    """
    outputs, y = at_least_float32(outputs), at_least_float32(y)
    _check_targets("outputs", outputs, y)
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
        ValueError: on other ranks, or where the shapes differ.

    Example:
        >>> gaussian_nll(jnp.zeros((1, 2)), jnp.array(0.0), jnp.ones((1, 2))).round(3).tolist()
        [2.8380000591278076]
    """
    mean, y, log_scale = (at_least_float32(part) for part in (mean, y, log_scale))
    if log_scale.ndim:
        raise ValueError(f"log_scale must be a scalar, got shape {list(log_scale.shape)}")
    _check_targets("mean", mean, y)
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
        ValueError: on other ranks, or where the shapes differ.

    Example:
        >>> bernoulli_nll(jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]])).round(3).tolist()
        [1.3860000371932983]
    """
    logits, x = at_least_float32(logits), at_least_float32(x)
    _check_targets("logits", logits, x)
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
        S. Kullback, R. Leibler, On Information and Sufficiency, 1951,
        https://doi.org/10.1214/aoms/1177729694.
    """
    chex.assert_equal_shape([mean, precision, mean_0, precision_0])
    mean, precision, mean_0, precision_0 = (
        at_least_float32(part) for part in (mean, precision, mean_0, precision_0)
    )
    ratio = precision_0 / precision
    return 0.5 * jnp.sum(ratio - 1 - jnp.log(ratio) + precision_0 * (mean - mean_0) ** 2, axis=-1)


def _check_targets(name: str, outputs: Array, y: Array) -> None:
    if outputs.ndim != 2 or outputs.shape != y.shape:
        raise ValueError(
            f"expected {name} and targets of one shape [n, d], got {list(outputs.shape)} and "
            f"{list(y.shape)}"
        )
