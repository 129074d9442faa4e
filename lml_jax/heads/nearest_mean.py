"""The nearest class mean, by Euclidean distance or cosine: prototypes."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax import losses
from lml_jax.checks import known
from lml_jax.heads._sums import centred, matmul
from lml_jax.heads.head import Head
from lml_jax.heads.statistics import Statistics, empty, forget
from lml_jax.types import Params

DISTANCES = ("squared", "euclidean", "cosine")


class Centres(NamedTuple):
    """Class means [C, d] minus `offset` [d], seen bool [C], and the temperature tau."""

    means: Array
    offset: Array
    seen: Array
    tau: Array


def nearest_mean(*, distance: str = "squared", temperature: bool = False, tau: float = 1.0) -> Head:
    """The nearest class mean.

    p(y = k | z) is proportional to exp(-tau d(z, c_k)), c_k the mean of class k. Its parameters
    are {"log_tau"} with a learned temperature, else {}.

    Args:
        distance: d; "squared" for ||z - c||^2, the published choice, "euclidean" for ||z - c||, or
            "cosine" for -cos(z, c), which is 0 where either is zero.
        temperature: make tau a parameter that can be trained; else it is constant.
        tau: > 0, its (initial) value; about 10 suits the cosine.

    Returns:
        A `Head` with statistics of each class: a count and a mean. `forget` is exact.

    Raises:
        ValueError: for an unknown distance, or a tau that is not positive and finite.

    Example:
        >>> head = nearest_mean()
        >>> stats = head.learn(head.init(2, 1), jnp.array([[0.0], [4.0]]), jnp.array([0, 1]))
        >>> head.logits(stats, jnp.array([[1.0]])).tolist()
        [[-1.0, -9.0]]

    Source:
        Snell, Swersky, Zemel. Prototypical Networks for Few-shot Learning, 2017, equations 1, 2.
        https://arxiv.org/abs/1703.05175
    """
    known(distance, DISTANCES, what="distance")
    if not 0 < tau < math.inf:
        raise ValueError(f"tau must be positive and finite, got {tau}")

    def params() -> Params:
        return {"log_tau": jnp.full((), math.log(tau), float)} if temperature else {}

    def fit(params: Params, stats: Statistics) -> Centres:
        offset, means, seen = centred(stats)
        if distance == "cosine":  # angles are those at the origin
            means, offset = jnp.where(seen[:, None], stats.moments.mean, 0.0), 0.0 * offset
        scale = jnp.exp(params["log_tau"]) if temperature else jnp.asarray(tau, means.dtype)
        return Centres(means, offset, seen, scale)

    def predict(fitted: Centres, z: Array) -> Array:
        z = z.astype(fitted.means.dtype) - fitted.offset[None, :]
        if distance == "cosine":
            d = -matmul(unit(z), unit(fitted.means).T)
        else:
            d = losses.squared_distances(z, fitted.means, where=fitted.seen)
        if distance == "euclidean":
            d = jnp.sqrt(d + 1e-12)  # the root has no gradient at 0
        return losses.mask_logits(-fitted.tau * d, fitted.seen)

    return Head(params, lambda classes, dim: empty(classes, dim), fit, predict, forget=forget)


def unit(v: Array) -> Array:
    """Rows of length 1; a row of zeros stays. Scaled first, so that no square overflows."""
    largest = jax.lax.stop_gradient(jnp.abs(v).max(1, keepdims=True))
    v = v / jnp.where(largest == 0, 1.0, largest)
    return v * jax.lax.rsqrt(jnp.square(v).sum(1, keepdims=True) + 1e-12)
