"""Gaussian codes of tasks and classes, updated in closed form: at once or example by example."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import Array

from lml_jax import losses
from lml_jax.checks import possible
from lml_jax.types import Params


class Posterior(NamedTuple):
    """q(h|S) = N(mean, 1/precision), diagonal: one code h of d numbers, or one of each class.

    Attributes:
        mean: [d] or [C, d].
        precision: as `mean`, > 0.
        seen: [] or [C], the sum of the weights of the examples seen; where it is 0 the code is
            the prior.
    """

    mean: Array
    precision: Array
    seen: Array


class Weights(NamedTuple):
    """Weights of the terms in the objective of a task, each >= 0.

    max E_q(h|S,Q) [log p(Q|h) + a log p(S|h)] - beta KL(q(h|S,Q) || q(h|S)) - g KL(q(h|S,Q) || p)

    with the learned prior p = q(h|empty set). a = g = 0 and beta = 1 is a lower bound on
    log p(Q|S), with q(h|S) as the prior of Q; a = g = 1 and beta = 0 is one on log p(S, Q).

    Attributes:
        beta: weight of the divergence from q(h|S).
        support: a.
        prior: g.
    """

    beta: float = 1.0
    support: float = 0.0
    prior: float = 0.0


QUERY_BOUND = Weights()


def initial(d: int) -> Params:
    """Parameters of a prior at N(0, 1): m_0 and log l_0, of d numbers each.

    Example:
        >>> initial(2)["mean"].tolist()
        [0.0, 0.0]
    """
    return {"mean": jnp.zeros(d), "log_precision": jnp.zeros(d)}


def prior(params: Params, classes: int | None = None) -> Posterior:
    """q(h | no example): one code, or the same for each of C classes.

    Args:
        params: {"mean": m_0 [d], "log_precision": log l_0 [d]}.
        classes: C; None for one code.

    Example:
        >>> prior(initial(2), 3).precision.shape
        (3, 2)
    """
    lead = () if classes is None else (classes,)
    shape = (*lead, *params["mean"].shape)
    precision = jnp.exp(params["log_precision"])
    return Posterior(
        jnp.broadcast_to(params["mean"], shape), jnp.broadcast_to(precision, shape), jnp.zeros(lead)
    )


def update(posterior: Posterior, factors: Array, weight: Array) -> Posterior:
    """The posterior after more examples.

    L' = L + sum_k w_k l_k,  mu' = (L mu + sum_k w_k l_k m_k) / L'.

    A product of Gaussians: the result depends neither on the order of the examples nor on whether
    they come at once or one by one.

    Args:
        posterior: the current one, of one code or of C.
        factors: (m_k, log l_k) side by side, float [n, 2d].
        weight: w_k >= 0, float [n] for one code, [n, C] for one of each class.

    Returns:
        The new posterior, of the same shapes.

    Raises:
        AssertionError: where `weight` has not one axis more than `posterior.seen`, or d differs.

    Example:
        >>> factors = jnp.array([[3.0, 0.0], [6.0, 0.0]])
        >>> update(prior(initial(1)), factors, jnp.ones(2)).mean.tolist()
        [3.0]

    Source:
        Lee, Jeon, Son, Kim. Learning to Continually Learn with the Bayesian Principle, 2024.
        https://arxiv.org/abs/2405.18758
    """
    chex.assert_rank([factors, weight], [2, posterior.seen.ndim + 1])
    chex.assert_axis_dimension(factors, 1, 2 * posterior.mean.shape[-1])
    # An example of weight 0 may be anything, and 0 * inf would be NaN.
    counts = weight > 0 if weight.ndim == 1 else (weight > 0).any(axis=1)
    mean, log_precision = jnp.split(jnp.where(counts[:, None], factors, 0.0), 2, axis=1)
    gain = jnp.exp(log_precision)
    precision = posterior.precision + jnp.tensordot(weight, gain, axes=(0, 0))
    moment = posterior.precision * posterior.mean + jnp.tensordot(weight, gain * mean, axes=(0, 0))
    return Posterior(moment / precision, precision, posterior.seen + weight.sum(0))


def draw(posterior: Posterior, noise: Array) -> Array:
    """h = mean + noise / sqrt(precision), for standard normal `noise` of the shape of the mean.

    Example:
        >>> draw(Posterior(jnp.ones(1), jnp.full(1, 4.0), jnp.ones(())), jnp.ones(1)).tolist()
        [1.5]
    """
    return posterior.mean + noise * jax.lax.rsqrt(posterior.precision)


def divergence(posterior: Posterior, start: Posterior) -> Array:
    """KL(posterior || start), [] or [C], in nats, each >= 0.

    Example:
        >>> float(divergence(prior(initial(1)), prior(initial(1))))
        0.0
    """
    return losses.gaussian_kl(posterior.mean, posterior.precision, start.mean, start.precision)


def penalty(full: Posterior, start: Posterior, first: Posterior, weights: Weights) -> Array:
    """beta KL(q(h|S,Q) || q(h|S)) + g KL(q(h|S,Q) || p), summed over codes: a scalar, in nats.

    Example:
        >>> one = Posterior(jnp.ones(1), jnp.ones(1), jnp.ones(()))
        >>> float(penalty(one, one, prior(initial(1)), Weights(prior=2.0)))
        1.0
    """
    terms = weights.beta * divergence(full, start) + weights.prior * divergence(full, first)
    return jnp.sum(terms)


def check_weights(weights: Weights) -> None:
    """Raise ValueError for a negative weight, naming it."""
    for name, weight in weights._asdict().items():
        if not possible(lambda w: w >= 0, weight):
            raise ValueError(f"the weight {name} must be at least 0, got {weight}")
