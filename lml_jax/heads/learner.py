"""Heads on an encoder as few-shot learners, and the heads by name."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from jax import Array

from lml_jax import losses
from lml_jax.checks import concrete
from lml_jax.heads.encoders import random_features
from lml_jax.heads.gaussian import gaussian
from lml_jax.heads.head import Head
from lml_jax.heads.lda import lda
from lml_jax.heads.nearest_mean import nearest_mean
from lml_jax.heads.ridge import ridge
from lml_jax.heads.statistics import Statistics
from lml_jax.pixels import on_floats
from lml_jax.types import Batch, Key, Learner, Net, Params, PyTree


def head_learner(net: Net, head: Head, *, classes: int) -> Learner:
    """A few-shot learner that embeds examples and classifies the embeddings in closed form.

    The parameters are {"net", "head"}: the encoder's, and what of the head can be meta-trained.
    `fast` is the `Statistics` of the embedded support sets so far. `adapt` with `fast` gives what
    all examples at once would give, in any order, as long as the embedding of an example does not
    depend on its batch: a net with batch statistics is frozen for that, see `Net.freeze`. A class
    of the support set that `labels` leaves out is not learned.

    Args:
        net: z = net(x), [n, ...] -> [n, d]; `identity` for features.
        head: the classifier of the embeddings.
        classes: C, labels 0..C-1; a class without examples has the logit -inf.

    Returns:
        A `Learner`. Its `adapt` raises a ValueError, where values are known, for labels outside
        -1..C-1, for features that are not finite, and for a first support set without examples of
        some class; inside jit the first two make the logits NaN, and a missing class has -inf.
        `predict` computes the classifier anew at every call; see `predictor` for many queries.

    Raises:
        ValueError: for no class.

    Example:
        >>> from lml_jax.heads import identity, lda
        >>> learner = head_learner(identity, lda(), classes=2)
        >>> support = Batch(jnp.array([[0.0], [1.0], [4.0], [5.0]]), jnp.array([0, 0, 1, 1]))
        >>> params = learner.init(jax.random.key(0), support.x)
        >>> fast = learner.adapt(params, support, jax.random.key(1))
        >>> learner.predict(params, fast, support.x).argmax(1).tolist()
        [0, 0, 1, 1]
    """
    if classes < 1:
        raise ValueError(f"classes must be at least 1, got {classes}")
    net = on_floats(net)

    def init(key: Key, x: PyTree) -> Params:
        return {"net": net.init(key, x), "head": head.params()}

    def adapt(
        params: Params,
        support: Batch,
        key: Key,
        fast: Statistics | None = None,
        labels: Array | None = None,
    ) -> Statistics:
        known = classes if fast is None else fast.classes
        losses.check_labels(losses.as_labels(support.y), known, support.weight)
        support = losses.fill_padding(support._replace(y=losses.as_labels(support.y)))
        weight = losses.labelled(support, labels)
        if fast is None:
            fast = head.init(classes, width_of(net, params["net"], support.x))
            check_complete(support, classes, labels)
        if support.y.shape[0] == 0:
            return fast
        z = losses.at_least_float32(net.apply(params["net"], support.x))
        return head.learn(fast, z, support.y, weight)

    def predict(params: Params, fast: Statistics, x: PyTree) -> Array:
        return head.logits(fast, net.apply(params["net"], x), params["head"])

    return Learner(init, adapt, predict)


def predictor(net: Net, head: Head, params: Params, fast: Statistics) -> Callable[[PyTree], Array]:
    """Predictions of many batches by one fit: x [n, ...] -> logits [n, C].

    Args:
        net: the encoder of the learner.
        head: its head.
        params: its parameters {"net", "head"}.
        fast: what it has learned.

    Returns:
        A function that computes nothing of the head but its prediction.

    Example:
        >>> from lml_jax.heads import identity
        >>> head = nearest_mean()
        >>> stats = head.learn(head.init(2, 1), jnp.array([[0.0], [4.0]]), jnp.array([0, 1]))
        >>> predictor(identity, head, {"net": {}, "head": {}}, stats)(jnp.array([[1.0]])).tolist()
        [[-1.0, -9.0]]
    """
    fitted = jax.jit(head.fit)(params["head"], fast)
    predict = jax.jit(lambda p, f, x: head.predict(f, net.apply(p, x)))
    return partial(predict, params["net"], fitted)


# name -> (encoder) -> (encoder, head), with the usual widths and initial values
HEADS: dict[str, Callable[[Net], tuple[Net, Head]]] = {
    "nearest-mean": lambda net: (net, nearest_mean()),
    "nearest-mean-cosine": lambda net: (
        net, nearest_mean(distance="cosine", tau=10.0, temperature=True)
    ),
    "gaussian-map": lambda net: (net, gaussian(predictive="map")),
    "gaussian": lambda net: (net, gaussian()),
    "lda": lambda net: (net, lda()),
    "ridge": lambda net: (net, ridge()),
    "random-ridge": lambda net: (random_features(net, 2000), ridge()),
}  # fmt: skip


def width_of(net: Net, params: Params, x: PyTree) -> int:
    """d, the width of the embedding [n, d] of examples like x [n, ...]; there may be none."""
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), x)
    shape = jax.eval_shape(net.apply, params, one).shape
    if len(shape) != 2:
        raise ValueError(
            f"the encoder must return features [n, d], got [n, {str(list(shape[1:]))[1:-1]}]"
        )
    return shape[1]


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
