"""Classifiers over features that are computed, not descended: class means, Gaussian posteriors.

What they keep of the examples is moments of each class, so learning one example at a time gives
what learning all at once gives, in any order.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax import losses
from lml_jax.checks import concrete, known
from lml_jax.types import Batch, Key, Learner, Net, Params

DISTANCES = ("squared", "euclidean")
PREDICTIVES = ("map", "bayes")


class Moments(NamedTuple):
    """Of each class: how many examples [C], their mean [C, d], and sum_i (z_i - mean)^2 [C, d]."""

    total: Array
    mean: Array
    spread: Array


class Classifier(NamedTuple):
    """Classification of features z [n, d] from the moments of C classes."""

    classes: int
    init: Callable[[], Params]  # () -> params
    logits: Callable[[Params, Moments, Array], Array]  # (params, moments, z) -> [n, C]


def no_moments(classes: int, features: int) -> Moments:
    """Moments of C classes before any example."""
    return Moments(jnp.zeros(classes), *(jnp.zeros((classes, features)) for _ in range(2)))


def moments_of(z: Array, y: Array, weight: Array, *, classes: int) -> Moments:
    """Moments of features z [n, d] with labels y [n] and weights [n] >= 0.

    mean_k = 1/n_k sum_{y_i = k} w_i z_i, spread_k = sum_{y_i = k} w_i (z_i - mean_k)^2, with
    n_k = sum_{y_i = k} w_i. A label of no class takes no part.

    Example:
        >>> z = jnp.array([[1.0], [3.0], [5.0]])
        >>> m = moments_of(z, jnp.array([0, 0, 1]), jnp.ones(3), classes=2)
        >>> m.total.tolist(), m.mean.tolist(), m.spread.tolist()
        ([2.0, 1.0], [[2.0], [5.0]], [[2.0], [0.0]])
    """
    # A product with the one-hot labels: it is faster than a scatter, forwards and backwards.
    member = jax.nn.one_hot(y, classes, axis=0) * weight[None, :]
    count = member.sum(1)
    mean = member @ z / _at_least_one(count)
    spread = member @ jnp.square(z - jnp.take(mean, y, axis=0, mode="clip"))
    return Moments(count, mean, spread)


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of two sets of examples together.

    n = n_a + n_b; mean = mean_a + (n_b / n) delta; spread = spread_a + spread_b
    + (n_a n_b / n) delta^2, with delta = mean_b - mean_a.

    Example:
        >>> one = Moments(jnp.ones(1), jnp.array([[1.0]]), jnp.zeros((1, 1)))
        >>> merge(one, one._replace(mean=jnp.array([[3.0]]))).spread.tolist()
        [[2.0]]

    Source:
        Chan, Golub, LeVeque. Updating Formulae and a Pairwise Algorithm for Computing Sample
        Variances, 1979, equation 2.1.
    """
    count = a.total + b.total
    share = (b.total / _at_least_one(count)[:, 0])[:, None]
    delta = b.mean - a.mean
    spread = a.spread + b.spread + a.total[:, None] * share * delta**2
    return Moments(count, a.mean + share * delta, spread)


def nearest_mean(
    classes: int, *, distance: str = "squared", temperature: bool = False
) -> Classifier:
    """The nearest class mean: prototypes.

    p(y = k | z) is proportional to exp(-tau d(z, c_k)), c_k the mean of class k. A class without
    examples has the logit -inf.

    Args:
        classes: C.
        distance: d; "squared" for ||z - c||^2, the published choice, or "euclidean" for ||z - c||.
        temperature: learn tau > 0, else it is 1.

    Raises:
        ValueError: for an unknown distance, or no class.

    Example:
        >>> of = nearest_mean(2)
        >>> m = Moments(jnp.ones(2), jnp.array([[0.0], [4.0]]), jnp.zeros((2, 1)))
        >>> of.logits(of.init(), m, jnp.array([[1.0]])).tolist()
        [[-1.0, -9.0]]

    Source:
        Snell, Swersky, Zemel. Prototypical Networks for Few-shot Learning, 2017, equations 1, 2.
    """
    known(distance, DISTANCES, what="distance")
    _check_classes(classes)

    def init() -> Params:
        return {"log_tau": jnp.zeros(())} if temperature else {}

    def logits(params: Params, moments: Moments, z: Array) -> Array:
        d = losses.squared_distances(z, moments.mean)
        if distance == "euclidean":
            d = jnp.sqrt(d + 1e-12)  # the root has no gradient at 0
        tau = jnp.exp(params["log_tau"]) if temperature else 1.0
        return losses.mask_logits(-tau * d, moments.total > 0)

    return Classifier(classes, init, logits)


def gaussian(
    classes: int, *, predictive: str = "bayes", alpha: float = 100.0, beta: float = 1000.0
) -> Classifier:
    """A Gaussian for each class and feature, its mean and precision inferred from the examples.

    Prior: precision rho ~ Gamma(alpha, beta), mean mu flat. With n examples of mean m and spread
    s, a = alpha + (n - 1)/2 and b = beta + s/2 give the posterior rho ~ Gamma(a, b),
    mu | rho ~ N(m, 1/(n rho)), and, summed over features,

        map:    log N(z; m, 1/rho), rho = (a - 1/2) / b
        bayes:  log t_{2a}(z; m, (b/a) (1 + 1/n))

    alpha and beta, one pair for all features, are learned with the embedding. A class without
    examples has the logit -inf.

    Args:
        classes: C.
        predictive: "map", the most probable Gaussian, or "bayes", the posterior predictive.
        alpha: where the learned alpha begins, > 1/2.
        beta: where the learned beta begins, > 0.

    Raises:
        ValueError: for an unknown predictive, no class, or a prior out of range.

    Example:
        >>> of = gaussian(2, predictive="map", alpha=1.0, beta=0.5)
        >>> m = Moments(jnp.ones(2), jnp.array([[0.0], [4.0]]), jnp.zeros((2, 1)))
        >>> (of.logits(of.init(), m, jnp.zeros((1, 1))) @ jnp.array([1.0, -1.0])).round(3).tolist()
        [8.0]

    Source:
        Banayeeanzade, Mirzaiezadeh, Hasani, Soleymani. Generative vs. Discriminative: Rethinking
        The Meta-Continual Learning, 2021, section 4.
    """
    known(predictive, PREDICTIVES, what="predictive")
    _check_classes(classes)
    if not (alpha > 0.5 and beta > 0):
        raise ValueError(f"expected alpha > 1/2 and beta > 0, got {alpha} and {beta}")

    def init() -> Params:
        # alpha stays above 1/2, so that the most probable precision is positive after one example.
        first = {"log_alpha": math.log(alpha - 0.5), "log_beta": math.log(beta)}
        return {name: jnp.full((), value, float) for name, value in first.items()}

    def logits(params: Params, moments: Moments, z: Array) -> Array:
        n = _at_least_one(moments.total)
        a = 0.5 + jnp.exp(params["log_alpha"]) + (n - 1) / 2
        b = jnp.exp(params["log_beta"]) + moments.spread / 2
        if predictive == "map":
            precision = (a - 0.5) / b
            exponent = losses.squared_distances(z, moments.mean, precision)
            log_p = 0.5 * jnp.log(precision).sum(1)[None, :] - 0.5 * exponent
        else:
            log_p = _log_student(z, moments.mean, a, 2 * b * (1 + 1 / n))
        return losses.mask_logits(log_p, moments.total > 0)

    return Classifier(classes, init, logits)


def _log_student(z: Array, mean: Array, a: Array, scale: Array) -> Array:
    """sum_d log t(z_d), of 2a degrees of freedom; `scale` [C, d] is 2a times its squared scale."""
    constant = jax.scipy.special.gammaln(a + 0.5) - jax.scipy.special.gammaln(a)
    heights = (constant - 0.5 * jnp.log(jnp.pi * scale)).sum(1)
    tails = jnp.log1p((z[:, None, :] - mean[None]) ** 2 / scale[None]).sum(2)
    return heights[None, :] - (a[:, 0] + 0.5)[None, :] * tails


def embedding_learner(net: Net, classifier: Classifier) -> Learner:
    """A few-shot learner that embeds examples and classifies the embeddings; nothing is descended.

    The parameters are {"net", "classifier"}; `fast` is the `Moments` of the embedded support sets
    so far. A class of the support set that `labels` leaves out is not learned.

    Args:
        net: z = net(x), [n, ...] -> [n, d].
        classifier: of the embeddings.

    Returns:
        A `Learner`. Its `adapt` raises a ValueError for labels outside -1..C-1, and names the
        classes of which a first support set has no example, where labels are known; inside jit the
        first take no part, and the logits of the others are -inf.
    """
    classes = classifier.classes

    def init(key: Key, x_example: Array) -> Params:
        return {"net": net.init(key, x_example), "classifier": classifier.init()}

    def adapt(
        params: Params,
        support: Batch,
        key: Key,
        fast: Moments | None = None,
        labels: Array | None = None,
    ) -> Moments:
        losses.check_labels(losses.as_labels(support.y), classes, support.weight)
        support = losses.fill_padding(support._replace(y=losses.as_labels(support.y)))
        weight = losses.labelled(support, labels)
        if fast is None:
            fast = no_moments(classes, width_of(net, params["net"], support.x))
            check_complete(support, classes, labels)
        if support.y.shape[0] == 0:
            return fast
        z = losses.at_least_float32(net.apply(params["net"], support.x))
        # A wrong label makes every logit NaN, and the update is refused.
        wrong = losses.outside(support.y, classes) & (weight != 0)
        z = z * losses.nan_where(wrong.any()).astype(z.dtype)
        return merge(fast, moments_of(z, support.y, weight, classes=classes))

    def predict(params: Params, fast: Moments, x: Array) -> Array:
        z = losses.at_least_float32(net.apply(params["net"], x))
        return classifier.logits(params["classifier"], fast, z)

    return Learner(init, adapt, predict)


def width_of(net: Net, params: Params, x: Array) -> int:
    """d, the width of the embedding [n, d] of examples like x [n, ...]; there may be none."""
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), x)
    return jax.eval_shape(net.apply, params, one).shape[1]


def check_complete(support: Batch, classes: int, labels: Array | None) -> None:
    """Raise ValueError where a support set, known outside jit, misses a class.

    An empty support set is a start from nothing, and misses nothing.
    """
    known_now = concrete(support.y, labels, support.weight)
    if known_now is None or support.y.shape[0] == 0:
        return
    y, rows, weight = known_now
    needed = np.ones((1, classes), bool) if rows is None else np.atleast_2d(rows)
    own = np.broadcast_to(needed, (len(y), classes))[np.arange(len(y)), y]
    counts = (y >= 0) & own & (True if weight is None else weight > 0)
    missing = sorted({*np.flatnonzero(needed.any(0)).tolist()} - {*y[counts].tolist()})
    if missing:
        raise ValueError(
            f"the support set has no example of the classes {missing}, expected some of each of "
            f"{classes}; to learn classes one after another, begin with an empty support set"
        )


def _check_classes(classes: int) -> None:
    if classes < 1:
        raise ValueError(f"classes must be at least 1, got {classes}")


def _at_least_one(count: Array) -> Array:
    """Counts [C, 1] to divide by: 1 for a class without examples."""
    return jnp.where(count > 0, count, 1.0)[:, None]
