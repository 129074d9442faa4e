"""The record of a head: a closed-form classifier that learns from sufficient statistics."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

from jax import Array

from lml_jax.heads import statistics
from lml_jax.heads._sums import check_features
from lml_jax.heads.statistics import Statistics
from lml_jax.types import Params

Fitted: TypeAlias = Params  # a pytree of arrays: what a head computes from its statistics


class LearnFn(Protocol):
    """Adds examples to the statistics, or takes them away."""

    def __call__(
        self, stats: Statistics, z: Array, y: Array, weight: Array | None = None
    ) -> Statistics:
        """Statistics after features z [n, d] with labels y [n] and weights [n]."""


class Head(NamedTuple):
    """A closed-form classifier of features z [n, d] among C classes.

    What it knows of the examples are `Statistics`, so it learns one example at a time exactly as
    all at once, in any order, and needs no stored examples. `fit` computes the classifier from
    them; serve many queries with one `fit`. All functions are pure and work inside jit and vmap;
    `learn` works in place where the statistics are donated.

    Example:
        >>> import jax.numpy as jnp
        >>> from lml_jax.heads import lda
        >>> head = lda()
        >>> stats = head.init(2, 1)
        >>> stats = head.learn(stats, jnp.array([[0.0], [1.0]]), jnp.array([0, 0]))
        >>> stats = head.learn(stats, jnp.array([[4.0], [5.0]]), jnp.array([1, 1]))
        >>> head.logits(stats, jnp.array([[2.0], [3.0]])).argmax(1).tolist()
        [0, 1]
    """

    params: Callable[[], Params]  # () -> initial values of what can be meta-trained
    init: Callable[[int, int], Statistics]  # (classes, dim) -> statistics of no examples
    fit: Callable[[Params, Statistics], Fitted]  # (params, stats) -> the classifier
    predict: Callable[[Fitted, Array], Array]  # (fitted, z [n, d]) -> logits [n, C]
    learn: LearnFn = statistics.learn
    unlearn: LearnFn = statistics.unlearn
    merge: Callable[[Statistics, Statistics], Statistics] = statistics.merge
    # (stats, label) -> stats without the class; None where the statistics do not allow it
    forget: Callable[[Statistics, Array | int], Statistics] | None = None

    def logits(self, stats: Statistics, z: Array, params: Params | None = None) -> Array:
        """Logits [n, C] of features z [n, d]; -inf for a class without examples.

        `params` None takes the initial values. The logits of a query depend on no other query.
        """
        check_features(z, stats.dim)
        return self.predict(self.fit(self.params() if params is None else params, stats), z)
