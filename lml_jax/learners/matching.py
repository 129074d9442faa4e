"""Matching Networks: attend over the support examples in an embedding."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax import losses
from lml_jax.checks import known, possible, warn_of_statistics
from lml_jax.heads.learner import check_complete, width_of
from lml_jax.pixels import on_floats
from lml_jax.types import Batch, Context, Key, Learner, Net, Params, PyTree

KERNELS = ("cosine", "squared")


class Attended(NamedTuple):
    """The support set so far: embeddings [n, d], labels [n], weights [n]."""

    z: Array
    y: Array
    weight: Array


def matching(
    net: Net,
    *,
    classes: int,
    kernel: str = "cosine",
    tau: float = 10.0,
    context: Context | None = None,
) -> Learner:
    """A learner that weighs the labels of its support examples by attention.

    p(y = k | x) = sum_{i: y_i = k} a(x, x_i), a(x, x_i) proportional to
    exp(tau c(f(x), g(x_i))), where c is the cosine, or minus the squared Euclidean distance.

    tau > 0 is learned. With the cosine it decides whether the learner trains at all: without it no
    class of N can have a probability above e^2 / (e^2 + N - 1), 0.28 for 20 ways.

    The parameters are {"net", "log_tau"} and, with full context embeddings, "context"; `fast` is
    an `Attended`, which grows as `adapt` goes on from it.

    Args:
        net: the embedding, from x [n, ...] to [n, d].
        classes: C, labels 0..C-1; a class without support examples has the logit -inf.
        kernel: "cosine" or "squared".
        tau: where the learned tau begins; 1 suits "squared".
        context: makes f and g depend on the whole support set, `nets.lstm_context`; then going on
            from `fast` is not the same as all at once in another order. None: f = g = net.

    Returns:
        A `Learner`; its logits are log p(y | x) up to a constant of each example.

    Raises:
        ValueError: for an unknown kernel, a tau that is not positive, no class; in `adapt`, where
            values are known, for a first support set that misses a class and for labels outside
            -1..C-1. Inside jit the logits are -inf and NaN then.

    Example:
        >>> from lml_jax import nets
        >>> learner = matching(nets.mlp([16], 8), classes=2)
        >>> support = Batch(jnp.array([[0.0], [1.0]]), jnp.array([0, 1]))
        >>> params = learner.init(jax.random.key(0), support.x)
        >>> fast = learner.adapt(params, support, jax.random.key(1))
        >>> learner.predict(params, fast, support.x).shape
        (2, 2)

    Source:
        O. Vinyals, C. Blundell, T. Lillicrap, K. Kavukcuoglu, D. Wierstra, Matching Networks for
        One Shot Learning, 2016, https://arxiv.org/abs/1606.04080, equation 1 and section 2.1; the
        learned temperature is not in the paper.
    """
    known(kernel, KERNELS, what="kernel")
    if classes < 1:
        raise ValueError(f"classes must be at least 1, got {classes}")
    if not possible(lambda t: t > 0, tau):
        raise ValueError(f"tau must be positive, got {tau}")
    net = on_floats(net)

    def init(key: Key, x_example: PyTree) -> Params:
        key_net, key_context = jax.random.split(key)
        theta = net.init(key_net, x_example)
        warn_of_statistics(theta)
        params = {
            "net": theta,
            "log_tau": jnp.full((), math.log(tau), float),
        }
        if context is not None:
            z = jnp.zeros((1, width_of(net, params["net"], x_example)))
            params["context"] = context.init(key_context, z)
        return params

    def adapt(
        params: Params,
        support: Batch,
        key: Key,
        fast: Attended | None = None,
        labels: Array | None = None,
    ) -> Attended:
        losses.check_labels(losses.as_labels(support.y), classes, support.weight)
        support = losses.fill_padding(support._replace(y=losses.as_labels(support.y)))
        weight = losses.labelled(support, labels)
        # A NaN in the weights makes every score NaN, and the update is refused.
        wrong = losses.outside(support.y, classes) & (weight != 0)
        weight = weight * losses.nan_where(wrong).astype(weight.dtype)
        if fast is None:
            check_complete(support, classes, labels)
            empty = jnp.zeros((0, width_of(net, params["net"], support.x)))
            fast = Attended(empty, jnp.zeros(0, jnp.int32), jnp.zeros(0))
        if support.y.shape[0] == 0:
            return fast
        z = losses.at_least_float32(net.apply(params["net"], support.x))
        return jax.tree.map(
            lambda a, b: jnp.concatenate([a, b.astype(a.dtype)]),
            fast,
            Attended(z, support.y, weight),
        )

    def predict(params: Params, fast: Attended, x: PyTree) -> Array:
        f, g = losses.at_least_float32(net.apply(params["net"], x)), fast.z
        if g.shape[0] == 0:
            return jnp.full((f.shape[0], classes), -jnp.inf)
        if context is not None:
            g = context.support(params["context"], g, fast.weight)
            f = context.query(params["context"], f, g, fast.weight)
        alike = _cosine(f, g) if kernel == "cosine" else -losses.squared_distances(f, g)
        return class_scores(jnp.exp(params["log_tau"]) * alike, fast, classes)

    return Learner(init, adapt, predict)


def class_scores(scores: Array, fast: Attended, classes: int) -> Array:
    """Logarithms of the attention that each class gets.

    l_jk = log sum_{i: y_i = k} w_i exp(s_ji).

    Args:
        scores: s, float [q, n].
        fast: labels y [n] and weights w [n] >= 0 of the support examples.
        classes: C.

    Returns:
        [q, C]; -inf for a class without examples. A NaN in a row of scores makes that row NaN.

    Example:
        >>> fast = Attended(jnp.zeros((2, 1)), jnp.array([0, 0]), jnp.ones(2))
        >>> class_scores(jnp.zeros((1, 2)), fast, 2).round(3).tolist()
        [[0.6930000185966492, -inf]]
    """
    y = losses.as_labels(fast.y)
    weight = fast.weight[None, :]
    # Not one_hot * weight: a weight of NaN spreads to every class, and one of 0 to none.
    own = y[None, :] == jnp.arange(classes, dtype=jnp.int32)[:, None]
    members = jnp.where(own | jnp.isnan(weight), weight, 0.0)  # [C, n]
    inside = members[None] != 0
    found = (members != 0).any(1)[None]
    # Each class is scaled by its own best score, lest a far one vanish and have no gradient.
    best = jax.lax.stop_gradient(jnp.where(inside, scores[:, None, :], -jnp.inf).max(2))
    best = jnp.where(jnp.isinf(best), 0.0, best)
    below = jnp.where(inside, scores[:, None, :] - best[..., None], 0.0)
    total = (members[None] * jnp.exp(below)).sum(2)
    return jnp.where(found, jnp.log(jnp.where(found, total, 1.0)) + best, -jnp.inf)


def _cosine(f: Array, g: Array) -> Array:
    """Cosines [q, n] of f [q, d] and g [n, d]; an embedding of zeros has the cosine 0."""

    def unit(v: Array) -> Array:
        # Scaled first, so that no square overflows or vanishes.
        largest = jax.lax.stop_gradient(jnp.abs(v).max(1, keepdims=True))
        v = v / jnp.where(largest == 0, 1.0, largest)
        return v * jax.lax.rsqrt(jnp.square(v).sum(1, keepdims=True) + 1e-12)

    return jnp.matmul(unit(f), unit(g).T, precision=jax.lax.Precision.HIGHEST)
