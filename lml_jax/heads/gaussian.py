"""A Gaussian for each class, with means and precisions inferred from the examples (GeMCL)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax import losses
from lml_jax.checks import known
from lml_jax.heads._sums import centred, nonzero, spread_of
from lml_jax.heads.head import Head
from lml_jax.heads.statistics import Statistics, empty, forget
from lml_jax.types import Params

PREDICTIVES = ("map", "bayes")
_CELLS = 1 << 24  # numbers [n, C, d] held at a time


class Posterior(NamedTuple):
    """The posterior of each class: mean [C, d] minus `offset` [d], precision rho ~ Gamma(a, b).

    `a` [C], `b` [C, d], `total` [C] (1 for a class without examples), `seen` bool [C].
    """

    means: Array
    offset: Array
    seen: Array
    total: Array
    a: Array
    b: Array


def gaussian(*, predictive: str = "bayes", alpha: float = 100.0, beta: float = 1000.0) -> Head:
    """A Gaussian for each class and feature, its mean and precision inferred from the examples.

    Prior: precision rho ~ Gamma(alpha, beta), mean mu flat. With n examples of mean m and spread
    s, a = alpha + (n - 1)/2 and b = beta + s/2 give the posterior rho ~ Gamma(a, b),
    mu | rho ~ N(m, 1/(n rho)), and, summed over features,

        map:    log N(z; m, 1/rho), rho = (a - 1/2) / b
        bayes:  log t_{2a}(z; m, (b/a) (1 + 1/n))

    alpha and beta, one pair for all features, are the parameters {"log_alpha", "log_beta"}, of
    alpha - 1/2 and beta; they are meta-trained with the embedding where episodes are available.

    Args:
        predictive: "map", the most probable Gaussian, or "bayes", the posterior predictive.
        alpha: initial value, > 1/2.
        beta: initial value, > 0.

    Returns:
        A `Head` with statistics of each class: count, mean and spread. `forget` is exact. Its
        logits are log densities up to a constant shared by all queries and classes.

    Raises:
        ValueError: for an unknown predictive, or a prior out of range.

    Example:
        >>> head = gaussian(predictive="map", alpha=1.0, beta=0.5)
        >>> stats = head.learn(head.init(2, 1), jnp.array([[0.0], [4.0]]), jnp.array([0, 1]))
        >>> (head.logits(stats, jnp.zeros((1, 1))) @ jnp.array([1.0, -1.0])).round(3).tolist()
        [8.0]

    Source:
        Banayeeanzade, Mirzaiezadeh, Hasani, Soleymani. Generative vs. Discriminative: Rethinking
        The Meta-Continual Learning, 2021, section 4.
    """
    known(predictive, PREDICTIVES, what="predictive")
    if not (0.5 < alpha < math.inf and 0 < beta < math.inf):
        raise ValueError(f"expected alpha > 1/2 and beta > 0, got {alpha} and {beta}")

    def params() -> Params:
        # alpha stays above 1/2, so that the most probable precision is positive after one example.
        first = {"log_alpha": math.log(alpha - 0.5), "log_beta": math.log(beta)}
        return {name: jnp.full((), value, float) for name, value in first.items()}

    def fit(params: Params, stats: Statistics) -> Posterior:
        offset, means, seen = centred(stats)
        n = nonzero(stats.moments.total)
        a = 0.5 + jnp.exp(params["log_alpha"]) + (n - 1) / 2
        # Sums that cancel can end below 0 by a rounding.
        b = jnp.exp(params["log_beta"]) + jnp.maximum(spread_of(stats), 0.0) / 2
        return Posterior(means, offset, seen, n, a, b)

    def predict(fitted: Posterior, z: Array) -> Array:
        z = z.astype(fitted.means.dtype) - fitted.offset[None, :]
        log_p = (_log_normal if predictive == "map" else _log_student)(fitted, z)
        return losses.mask_logits(log_p, fitted.seen)

    def init(classes: int, dim: int) -> Statistics:
        return empty(classes, dim, spread=True)

    return Head(params, init, fit, predict, forget=forget)


def _log_normal(of: Posterior, z: Array) -> Array:
    """sum_d log N(z_d; m, 1/rho), without the constant -d/2 log(2 pi)."""
    precision = (of.a - 0.5)[:, None] / of.b
    exponent = losses.squared_distances(z, of.means, precision, of.seen)
    return 0.5 * jnp.log(precision).sum(1)[None, :] - 0.5 * exponent


def _log_student(of: Posterior, z: Array) -> Array:
    """sum_d log t(z_d) of 2a degrees of freedom and squared scale (b/a) (1 + 1/n).

    log G(a + 1/2) / G(a) grows as log(a) / 2; it is taken together with the scale, so that neither
    is large: only its remainder, which vanishes as a grows, is added.
    """
    features = z.shape[1]
    a, wider = of.a[:, None], (1 + 1 / of.total)[:, None]
    heights = -0.5 * jnp.log(2 * jnp.pi * (of.b / a) * wider).sum(1)
    heights = heights + features * _gamma_ratio(of.a)
    scale = 2 * of.b * wider

    def tails(rows: Array) -> Array:
        return jnp.log1p((rows[:, None, :] - of.means[None]) ** 2 / scale[None]).sum(2)

    rows = max(1, _CELLS // of.means.size)
    few = z.shape[0] <= rows
    total = tails(z) if few else jax.lax.map(lambda q: tails(q[None])[0], z, batch_size=rows)
    return heights[None, :] - (of.a + 0.5)[None, :] * total


def _gamma_ratio(a: Array) -> Array:
    """log G(a + 1/2) - log G(a) - log(a) / 2 for a [C] > 0, to float precision for every a.

    A difference of two `gammaln` loses all digits where a is large: it is 0.06 off at a = 1e5.
    From G(x + 1) = x G(x), the value at a follows from that at a + 8, where the asymptotic series
    -1/(8x) + 1/(192 x^3) - 1/(640 x^5) + ... is below float precision after three terms.

    Source:
        Tricomi, Erdelyi. The Asymptotic Expansion of a Ratio of Gamma Functions, 1951.
    """
    shift = 8
    steps = a[:, None] + jnp.arange(shift, dtype=a.dtype)[None, :]
    back = jnp.log1p(0.5 / steps).sum(1)  # log prod (a + i + 1/2) / (a + i)
    x = a + shift
    series = -1 / (8 * x) + 1 / (192 * x**3) - 1 / (640 * x**5)
    return series + 0.5 * jnp.log1p(shift / a) - back
