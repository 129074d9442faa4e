"""Online elastic weight consolidation (EWC)."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses
from lml_jax.checks import known, possible
from lml_jax.lifelong._batches import (
    Given,
    Method,
    batch_learner,
    by_loss,
    check_classes,
    loss_of,
    outputs_of,
)
from lml_jax.lifelong.label_space import LabelSpace
from lml_jax.types import Batch, Key, Learner, LifelongLearner, Metrics, Params

Fisher = Literal["expected", "empirical"]
_AT_ONCE = 16  # examples whose gradients are held at the same time


class Anchor(NamedTuple):
    """A quadratic penalty: where the parameters were, and how important each of them is."""

    params: Params
    importance: Params


def ewc(
    learner: Learner,
    tx: optax.GradientTransformation,
    space: LabelSpace,
    *,
    strength: float = 180.0,
    decay: float = 1.0,
    fisher: Fisher = "expected",
    fisher_examples: int | None = None,
) -> LifelongLearner:
    """A quadratic penalty that holds parameters by their Fisher information.

    L = L(batch) + lambda / 2 sum_k F_k (theta_k - theta*_k)^2, theta* the parameters after the last
    task. After each task F <- gamma F + F_i, with the diagonal
    F_i = 1/n sum_x sum_c p(c|x) (d log p(c|x) / d theta)^2 on its training examples; "empirical"
    takes the label of x alone in place of the sum over c.

    Args:
        learner: whose network is trained.
        tx: the update rule.
        space: the label space. p is a softmax over the classes seen, or those of the task where it
            is given.
        strength: lambda >= 0.
        decay: gamma in [0, 1].
        fisher: "expected" or "empirical".
        fisher_examples: random examples of the task for F_i; None takes all. The cost is a backward
            pass for each example and, if "expected", for each of the C classes.

    Returns:
        A `LifelongLearner` that needs task boundaries. Its metrics: `loss`, `accuracy`, `penalty`.
        Nothing is stored but theta* and F.

    Raises:
        ValueError: for numbers out of range, an unknown `fisher` or a regression; in `observe`.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.learners.maml import maml
        >>> learner = ewc(maml(nets.mlp([64], 50), optax.sgd(0.1), steps=1), optax.sgd(0.03),
        ...               LabelSpace(10, jnp.zeros(50, bool)))

    Source:
        Kirkpatrick et al. Overcoming catastrophic forgetting in neural networks, 2017,
        https://arxiv.org/abs/1612.00796, equation 3; Schwarz et al. Progress & Compress, 2018,
        https://arxiv.org/abs/1805.06370, equation 9 (online, with gamma). `strength` and
        `decay` are those of Mammoth for Split MNIST, whose lambda is without the 1/2.
    """
    known(fisher, ("expected", "empirical"), what="fisher")
    check_classes(space, what="EWC")
    if not possible(lambda s, d: s >= 0 and 0 <= d <= 1, strength, decay):
        raise ValueError(
            f"strength must be at least 0 and decay in [0, 1], got {strength} and {decay}"
        )
    if fisher_examples is not None and fisher_examples < 1:
        raise ValueError(f"fisher_examples must be at least 1, got {fisher_examples}")

    def of_batch(params: Params, given: Given, key: Key) -> tuple[Array, Metrics]:
        now = loss_of(learner, params, given.batch, given.labels)
        held = 0.5 * strength * quadratic(params, given.own)
        return now.loss + held, {**now.metrics, "penalty": held}

    def finish(params: Params, given: Given, key: Key) -> Anchor:
        found = fisher_diagonal(learner, params, given, key, kind=fisher, examples=fisher_examples)
        importance = jax.tree.map(lambda f, new: decay * f + new, given.own.importance, found)
        return Anchor(params, importance)

    reason = "EWC consolidates at the end of a task"
    method = Method(by_loss(of_batch), own=anchor_at, finish=finish, needs_boundaries=reason)
    return batch_learner(learner, tx, space, method)


def anchor_at(params: Params) -> Anchor:
    """A penalty that holds nothing yet."""
    return Anchor(params, jax.tree.map(jnp.zeros_like, params))


def quadratic(params: Params, anchor: Anchor) -> Array:
    """sum_k importance_k (theta_k - theta*_k)^2."""
    each = jax.tree.map(
        lambda w, a, f: jnp.sum(f * jnp.square(w - a)), params, anchor.params, anchor.importance
    )
    return jnp.sum(jnp.stack(jax.tree.leaves(each)))


def fisher_diagonal(
    learner: Learner,
    params: Params,
    given: Given,
    key: Key,
    *,
    kind: Fisher,
    examples: int | None = None,
) -> Params:
    """The mean over examples of squared gradients of the log-likelihood, like the parameters."""
    batch, labels = given.batch, given.labels
    weight = losses.labelled(batch)
    y = jnp.where(weight > 0, losses.as_labels(batch.y), 0)
    if examples is not None and examples < len(y):
        score = jnp.where(weight > 0, jax.random.uniform(key, weight.shape), -1.0)
        rows = jax.lax.top_k(score, examples)[1]
        batch, labels = Batch(batch.x[rows], y[rows]), labels[rows]
        weight, y = weight[rows], y[rows]

    def log_p(params: Params, x: Array, active: Array) -> Array:
        z = losses.mask_logits(outputs_of(learner, params, x[None]), active)[0]
        return jnp.where(active, jax.nn.log_softmax(z), 0.0)

    def squared(x: Array, y: Array, active: Array) -> Params:
        if kind == "empirical":
            grads = jax.grad(lambda p: log_p(p, x, active)[y])(params)
            return jax.tree.map(jnp.square, grads)
        p = jnp.where(active, jnp.exp(log_p(params, x, active)), 0.0)
        grads = jax.jacrev(log_p)(params, x, active)
        return jax.tree.map(lambda g: jnp.tensordot(p, jnp.square(g), 1), grads)

    def add(total: Params, group: tuple[Array, ...]) -> tuple[Params, None]:
        *args, w = group
        each = jax.vmap(squared)(*args)
        return jax.tree.map(lambda t, e: t + jnp.tensordot(w, e, 1), total, each), None

    groups = _in_groups((batch.x, y, labels, weight), _AT_ONCE)
    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), groups)
    mass = jnp.sum(weight)
    return jax.tree.map(lambda t: t / jnp.where(mass > 0, mass, 1.0), total)


def _in_groups(arrays: tuple[Array, ...], size: int) -> tuple[Array, ...]:
    """Arrays [n, ...] as [groups, size, ...]; what is missing of the last group weighs 0.

    The last array are the weights. Padding repeats the last example.
    """
    n = arrays[0].shape[0]
    size = min(size, n)
    short = -n % size

    def split(leaf: Array, mode: str) -> Array:
        leaf = jnp.pad(leaf, [(0, short)] + [(0, 0)] * (leaf.ndim - 1), mode=mode)
        return leaf.reshape(-1, size, *leaf.shape[1:])

    return (*(split(leaf, "edge") for leaf in arrays[:-1]), split(arrays[-1], "constant"))
