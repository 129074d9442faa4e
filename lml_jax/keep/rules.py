"""What a kept learner does with features, as pure functions: the heads by name."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax import heads
from lml_jax.checks import known
from lml_jax.types import Key, Params, PyTree

PRIOR = {"log_alpha", "log_beta"}  # parameters of a Gaussian head


class RuleInit(Protocol):
    """(parameters, state) of no example, for C classes of features like z [n, d]."""

    def __call__(self, key: Key, classes: int, z: Array, /) -> tuple[Params, PyTree]: ...


class RuleLearn(Protocol):
    """The state with, or without, features z [n, d] of labels y [n]; weight 0 is padding."""

    def __call__(self, params: Params, state: PyTree, z: Array, y: Array, weight: Array, /) -> (
        PyTree
    ): ...  # fmt: skip


class RuleFit(Protocol):
    """The classifier that a state gives, ready for queries."""

    def __call__(self, params: Params, state: PyTree, /) -> PyTree: ...


class RulePredict(Protocol):
    """Logits [n, C] of features z [n, d], each row by itself; -inf for an unknown class."""

    def __call__(self, params: Params, fitted: PyTree, z: Array, /) -> Array: ...


class RuleGrow(Protocol):
    """(parameters, state) with room for more classes."""

    def __call__(
        self, key: Key, params: Params, state: PyTree, classes: int, z: Array, /
    ) -> tuple[Params, PyTree]: ...


class RuleForget(Protocol):
    """The state as if one class had never been learned."""

    def __call__(self, state: PyTree, label: Array, /) -> PyTree: ...


class Rule(NamedTuple):
    """How a kept learner learns and classifies features.

    Attributes:
        name: of the head, or of the lifelong learner.
        init: a state of no example.
        learn: one more batch.
        fit: the classifier that the state gives.
        predict: its logits.
        grow: room for more classes.
        unlearn: the inverse of `learn`, or None: then held-out examples are never learned.
        forget: removes a class exactly, or None.
        about: what a file says of a rule that is no head, pairs.
        resized: the rule for so many classes, whose `grow` then makes room; None: this one.
    """

    name: str
    init: RuleInit
    learn: RuleLearn
    fit: RuleFit
    predict: RulePredict
    grow: RuleGrow
    unlearn: RuleLearn | None = None
    forget: RuleForget | None = None
    about: tuple[tuple[str, Any], ...] = ()
    resized: Callable[[int], "Rule"] | None = None


@cache  # one rule per head, so that what is compiled for it serves every learner
def head_rule(name: str) -> Rule:
    """The rule of a head in `heads.HEADS`.

    Its parameters are {"net": those that widen the features, "head": those of the head}. A Gaussian
    head whose prior was not meta-trained has "relative" besides, 1: its beta is then in units of
    the pooled variance of the examples, for the usual start says nothing of this encoder's scale.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> head_rule("lda").forget is None
        True
    """
    net, head = heads.HEADS[known(name, heads.HEADS, what="head")](heads.identity)

    prior = head.params().keys() >= PRIOR

    def init(key: Key, classes: int, z: Array) -> tuple[Params, PyTree]:
        params = {"net": net.init(key, z), "head": head.params()}
        if prior:
            alpha = params["head"]["log_alpha"]
            params = {**params, "head": {"log_alpha": alpha, "log_beta": alpha},
                      "relative": jnp.ones(())}  # fmt: skip
        width = jax.eval_shape(net.apply, params["net"], z).shape[1]
        return params, head.init(classes, width)

    def learn(params: Params, state: PyTree, z: Array, y: Array, weight: Array) -> PyTree:
        return head.learn(state, net.apply(params["net"], z), y, weight)

    def unlearn(params: Params, state: PyTree, z: Array, y: Array, weight: Array) -> PyTree:
        return head.unlearn(state, net.apply(params["net"], z), y, weight)

    def fit(params: Params, state: PyTree) -> PyTree:
        own = params["head"]
        if prior:
            shift = jnp.where(params["relative"] > 0, jnp.log(pooled_variance(state)), 0.0)
            own = {**own, "log_beta": own["log_beta"] + shift}
        return head.fit(own, state)

    def predict(params: Params, fitted: PyTree, z: Array) -> Array:
        return head.predict(fitted, net.apply(params["net"], z))

    def grow(
        key: Key, params: Params, state: PyTree, classes: int, z: Array
    ) -> tuple[Params, PyTree]:
        return params, heads.grow(state, classes)

    return Rule(name, init, learn, fit, predict, grow, unlearn, head.forget)


def pooled_variance(stats: heads.Statistics) -> Array:
    """The mean variance of a feature within a class; 1 where there is none."""
    assert stats.moments.spread is not None
    total = stats.moments.total
    freedom = jnp.maximum(total.sum() - (total > 0).sum(), 1)
    variance = stats.moments.spread.sum() / (freedom * stats.dim)
    return jnp.where(variance > 0, variance, 1.0)


def some_features(dim: int) -> Array:
    """Features of the width that a rule is made for."""
    return jnp.zeros((1, dim))
