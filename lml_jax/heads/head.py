"""The record of a head: a closed-form classifier that learns from sufficient statistics."""

from typing import NamedTuple, Protocol, TypeAlias

from jax import Array

from lml_jax.heads import statistics
from lml_jax.heads._sums import check_features
from lml_jax.heads.statistics import Statistics
from lml_jax.types import Params

Fitted: TypeAlias = Params  # a pytree of arrays: what a head computes from its statistics


class ParamsFn(Protocol):
    """Initial values of what can be meta-trained: a pytree of scalars, maybe empty."""

    def __call__(self) -> Params: ...


class InitFn(Protocol):
    """Statistics of no example of C classes of d features."""

    def __call__(self, classes: int, dim: int) -> Statistics: ...


class FitFn(Protocol):
    """The classifier that the statistics give, ready for queries; differentiable."""

    def __call__(self, params: Params, stats: Statistics, /) -> Fitted: ...


class PredictFn(Protocol):
    """Logits [n, C] of features z [n, d], each row by itself; -inf for a class without examples."""

    def __call__(self, fitted: Fitted, z: Array, /) -> Array: ...


class LearnFn(Protocol):
    """Statistics with, or without, features z [n, d] of labels y [n] and weights [n]."""

    def __call__(
        self, stats: Statistics, z: Array, y: Array, weight: Array | None = None
    ) -> Statistics: ...


class MergeFn(Protocol):
    """Statistics of two sets of examples together."""

    def __call__(self, a: Statistics, b: Statistics, /) -> Statistics: ...


class ForgetFn(Protocol):
    """Statistics as if one class had not been learned; `label` may be traced."""

    def __call__(self, stats: Statistics, label: Array | int, /) -> Statistics: ...


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

    params: ParamsFn
    init: InitFn
    fit: FitFn
    predict: PredictFn
    learn: LearnFn = statistics.learn
    unlearn: LearnFn = statistics.unlearn
    merge: MergeFn = statistics.merge
    forget: ForgetFn | None = None  # None where the statistics do not allow it

    def logits(self, stats: Statistics, z: Array, params: Params | None = None) -> Array:
        """Logits [n, C] of features z [n, d]; -inf for a class without examples.

        `params` None takes the initial values. The logits of a query depend on no other query.
        """
        check_features(z, stats.dim)
        return self.predict(self.fit(self.params() if params is None else params, stats), z)
