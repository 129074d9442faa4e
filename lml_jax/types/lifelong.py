"""Lifelong learners and their one state."""

from collections.abc import Hashable
from typing import NamedTuple, Protocol

from jax import Array

from lml_jax.types.data import Batch, Key, Metrics, Params, PyTree, Task, TrainState


class LifelongState(NamedTuple):
    """State of every lifelong learner, one immutable pytree.

    Attributes:
        train: parameters, optimiser, updates done.
        seen: bool [C], the classes seen so far.
        finished: int32, tasks finished.
        memory: what is stored of the past: banks, statistics. Its bytes are reported.
        own: the learner's own pytree: fast weights used by `recall`, a generator, a teacher, ...
    """

    train: TrainState
    seen: Array
    finished: Array
    memory: PyTree = ()
    own: PyTree = ()

    @property
    def step(self) -> Array:
        """Updates done."""
        return self.train.step

    @property
    def bad_step(self) -> Array:
        """The first step whose update was refused, or -1."""
        return self.train.bad_step


class LifelongInit(Protocol):
    """A new learner for examples like x [n, ...]; `params` starts from trained parameters."""

    def __call__(self, key: Key, x: Array, params: Params | None = None) -> LifelongState: ...


class LifelongStep(Hashable, Protocol):
    """One update on a meta-batch of episodes of the arriving task."""

    def __call__(
        self, state: LifelongState, tasks: Task, key: Key, /
    ) -> tuple[LifelongState, Metrics]: ...


class Observe(Protocol):
    """Learn one batch of a stream without task boundaries; each batch is seen once."""

    def __call__(
        self, state: LifelongState, batch: Batch, key: Key, /
    ) -> tuple[LifelongState, Metrics]: ...


class EndTask(Protocol):
    """The state after a task whose training examples are `batch`."""

    def __call__(self, state: LifelongState, batch: Batch, key: Key, /) -> LifelongState: ...


class PredictFrom(Protocol):
    """Logits [n, C] of x after adapting to a few examples; other classes than theirs are -inf."""

    def __call__(self, state: LifelongState, support: Batch, x: Array, key: Key, /) -> Array: ...


class Recall(Protocol):
    """Logits [n, C] of x from what was learned, without examples; unseen classes are -inf."""

    def __call__(self, state: LifelongState, x: Array, key: Key, /) -> Array: ...


class LifelongLearner(NamedTuple):
    """A learner on a stream of tasks.

    `step` and `end_task` learn a stream with task boundaries, `observe` one without; a learner
    that cannot work without boundaries raises ValueError in `observe`.
    """

    init: LifelongInit
    step: LifelongStep
    observe: Observe
    end_task: EndTask
    predict: PredictFrom
    recall: Recall
