"""Matching Networks: attend over the support examples in an embedding."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax import losses
from lml_jax.checks import known
from lml_jax.heads.learner import check_complete, width_of, without_padding
from lml_jax.types import Batch, Context, Key, Learner, Net, Params

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
        ValueError: for an unknown kernel, a tau that is not positive, no class; in `adapt`,
            outside jit, for a first support set that misses a class, or labels past the range;
            inside jit these make the logits NaN.

    Example:
        >>> from lml_jax import nets
        >>> learner = matching(nets.mlp([16], 8), classes=2)
        >>> support = Batch(jnp.array([[0.0], [1.0]]), jnp.array([0, 1]))
        >>> params = learner.init(jax.random.key(0), support.x)
        >>> fast = learner.adapt(params, support, jax.random.key(1))
        >>> learner.predict(params, fast, support.x).shape
        (2, 2)

    Source:
        Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra. Matching Networks for One Shot
        Learning, 2016, equation 1 and section 2.1; the learned temperature is ours.
    """
    known(kernel, KERNELS, what="kernel")
    if classes < 1:
        raise ValueError(f"classes must be at least 1, got {classes}")
    if not tau > 0:
        raise ValueError(f"tau must be positive, got {tau}")

    def init(key: Key, x_example: Array) -> Params:
        key_net, key_context = jax.random.split(key)
        params = {
            "net": net.init(key_net, x_example),
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
        weight = losses.labelled(support, labels)
        losses.check_labels(support.y, classes)
        if fast is None:
            check_complete(support, classes, labels)
            empty = jnp.zeros((0, width_of(net, params["net"], support.x)))
            fast = Attended(empty, jnp.zeros(0, jnp.int32), jnp.zeros(0))
        if support.x.shape[0] == 0:
            return fast
        z = net.apply(params["net"], without_padding(support.x, weight))
        given = True if support.weight is None else support.weight > 0
        wrong = ((support.y < -1) | (support.y >= classes)) & given
        # Inside jit, where nothing can be raised, a wrong label makes every logit NaN.
        new = Attended(jnp.where(wrong.any(), jnp.nan, z), support.y, weight)
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), fast, new)

    def predict(params: Params, fast: Attended, x: Array) -> Array:
        f, g = net.apply(params["net"], x), fast.z
        if g.shape[0] == 0:
            return jnp.full((x.shape[0], classes), -jnp.inf)
        if context is not None:
            g = context.support(params["context"], g, fast.weight)
            f = context.query(params["context"], f, g, fast.weight)
        if kernel == "cosine":
            alike = _cosine(f, g)
        else:
            alike = -losses.squared_distances(f, g, where=fast.weight > 0)
        return class_scores(jnp.exp(params["log_tau"]) * alike, fast, classes)

    return Learner(init, adapt, predict)


def class_scores(scores: Array, fast: Attended, classes: int) -> Array:
    """log sum_{i: y_i = k} w_i exp(s_ji) of scores [q, n]: [q, C], -inf for a class without any."""
    members = jax.nn.one_hot(fast.y, classes, axis=0) * fast.weight[None, :]  # [C, n]
    # Each class is scaled by its own best score, lest a far one vanish and have no gradient.
    inside = members[None] > 0
    best = jax.lax.stop_gradient(jnp.where(inside, scores[:, None, :], -jnp.inf).max(2))
    found = jnp.isfinite(best)
    best = jnp.where(found, best, 0.0)
    below = jnp.where(inside, scores[:, None, :] - best[..., None], 0.0)
    total = (members[None] * jnp.exp(below)).sum(2)
    return jnp.where(found, jnp.log(jnp.where(found, total, 1.0)) + best, -jnp.inf)


def _cosine(f: Array, g: Array) -> Array:
    """Cosines [q, n] of f [q, d] and g [n, d]; an embedding of zeros has the cosine 0."""
    dtype = jnp.promote_types(jnp.promote_types(f.dtype, g.dtype), jnp.float32)
    f, g = f.astype(dtype), g.astype(dtype)  # the squares of half precision overflow
    f, g = (v * jax.lax.rsqrt(jnp.square(v).sum(1, keepdims=True) + 1e-12) for v in (f, g))
    return f @ g.T
