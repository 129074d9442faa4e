"""Class means of new classes, moved towards those of the base classes that they are like."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax import losses
from lml_jax.heads._sums import matmul
from lml_jax.heads.head import Head
from lml_jax.heads.nearest_mean import unit
from lml_jax.heads.statistics import Statistics, empty, forget
from lml_jax.types import Params


class Prototypes(NamedTuple):
    """Unit vectors [C, d], one of each class, and seen bool [C]."""

    means: Array
    seen: Array


def calibrated_mean(base: int, *, alpha: float = 0.5, tau: float = 16.0) -> Head:
    """The nearest class mean by cosine, with the means of new classes calibrated: TEEN.

    A class of few examples has an uncertain mean c_n, and is taken for the base classes that it is
    like. Its mean is moved towards theirs,

        c_n <- alpha c_n + (1 - alpha) sum_b w_bn c_b,   w_bn = softmax_b(tau cos(c_b, c_n)),

    and x belongs to the class of the largest cosine. Nothing is trained.

    Args:
        base: B, the classes 0..B-1 are base classes, with many examples; the others are new.
        alpha: in [0, 1], the weight of the class's own mean; 1 is the nearest mean by cosine.
        tau: > 0, of the weights of the base classes.

    Returns:
        A `Head` without parameters, with statistics of each class: a count and a mean.

    Raises:
        ValueError: for a base below 1, an alpha outside [0, 1] or a tau that is not positive.

    Example:
        >>> head = calibrated_mean(1, alpha=0.5)
        >>> stats = head.learn(head.init(2, 2), jnp.eye(2), jnp.array([0, 1]))
        >>> head.logits(stats, jnp.array([[1.0, 1.1]])).argmax(1).tolist()
        [1]

    Source:
        Wang, Zhou, Zhang, Zhan, Ye. Few-Shot Class-Incremental Learning via Training-Free Prototype
        Calibration, 2023; https://arxiv.org/abs/2312.05229
    """
    if base < 1:
        raise ValueError(f"base must be at least 1 class, got {base}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    if not 0 < tau < math.inf:
        raise ValueError(f"tau must be positive and finite, got {tau}")

    def fit(params: Params, stats: Statistics) -> Prototypes:
        seen = stats.moments.total > 0
        means = jnp.where(seen[:, None], stats.moments.mean, 0.0)
        is_base = jnp.arange(len(means)) < base
        cosines = matmul(unit(means), unit(means).T)
        to = (is_base & seen)[None]
        weights = jnp.where(to, jax.nn.softmax(jnp.where(to, tau * cosines, -1e9), axis=1), 0.0)
        like = matmul(weights, means)
        moved = alpha * means + (1 - alpha) * like
        return Prototypes(unit(jnp.where(is_base[:, None], means, moved)), seen)

    def predict(fitted: Prototypes, z: Array) -> Array:
        cosines = matmul(unit(z.astype(fitted.means.dtype)), fitted.means.T)
        return losses.mask_logits(cosines, fitted.seen)

    return Head(dict, lambda classes, dim: empty(classes, dim), fit, predict, forget=forget)
