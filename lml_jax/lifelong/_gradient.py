"""Lifelong learners that are trained by gradient descent on a loss of (episode, memory)."""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses, train
from lml_jax.lifelong._base import (
    among_seen,
    check_finished,
    check_tasks,
    counts,
    finished_after,
    halves,
    predict_from,
    seen_after,
    start,
    unknown_labels,
)
from lml_jax.lifelong.label_space import LabelSpace, training_labels
from lml_jax.parallel import Reduce, vmap_mean
from lml_jax.types import (
    Batch,
    Fast,
    Key,
    Learner,
    LifelongLearner,
    LifelongState,
    MemoryBank,
    Metrics,
    Params,
    PyTree,
    Task,
)


class Past(NamedTuple):
    """What the losses of all episodes of a step share: the past."""

    seen: Array  # bool [C]
    finished: Array  # int32
    memory: PyTree
    # Without task boundaries: everything in memory is past, whatever its task.
    boundless: Array  # bool


class EpisodeLoss(Protocol):
    """The loss of one episode, given what the past left; returns metrics too."""

    def __call__(
        self, params: Params, task: Task, key: Key, past: Past, /
    ) -> tuple[Array, Metrics]: ...


class RecallWith(Protocol):
    """The fast weights that `recall` will use, after a batch was learned and stored.

    `boundless`: it is a batch of a stream without task boundaries, and not a whole task.
    """

    def __call__(
        self, params: Params, batch: Batch, labels: Array, memory: PyTree, key: Key, /,
        *, boundless: bool,
    ) -> Fast: ...  # fmt: skip


def gradient_learner(
    learner: Learner,
    tx: optax.GradientTransformation,
    space: LabelSpace,
    *,
    bank: MemoryBank | None,
    loss: EpisodeLoss,
    recall_with: RecallWith,
    reduce: Reduce = vmap_mean,
) -> LifelongLearner:
    """A lifelong learner from the loss that it minimises.

    Args:
        learner: the few-shot learner whose parameters are carried along the stream.
        tx: the outer update rule; its state is carried from task to task.
        space: the label space.
        bank: of items (x, y, task); None stores nothing.
        loss: of one episode.
        recall_with: what `recall` predicts with, computed at the end of each task, and after each
            batch where there are no tasks.
        reduce: as in `train.make_train_step`.

    Returns:
        A `LifelongLearner`; `own` holds the fast weights of `recall`.

    Raises:
        ValueError: in `step`, for episodes whose labels are local to the episode; in `end_task`,
            for examples that do not fit the bank.
    """

    def of_episode(params: Params, task: Task, key: Key, *shared: PyTree) -> tuple[Array, Metrics]:
        return loss(params, task, key, *shared)

    update = train.make_train_step(of_episode, tx, reduce=reduce)

    def init(key: Key, x: Array, params: Params | None = None) -> LifelongState:
        params = learner.init(key, x) if params is None else params
        memory = () if bank is None else bank.init(space.item(x))
        fast = start(learner, params, x)
        zero = jnp.zeros((), jnp.int32)
        state = LifelongState(train.init_state(params, tx), space.initial, zero, memory, fast)
        # In buffers of its own: the state may be donated, what it was made from is used again.
        return train.copy(state)

    def moved(
        state: LifelongState, tasks: Task, key: Key, boundless: bool
    ) -> tuple[LifelongState, Metrics]:
        check_tasks(tasks, space)
        seen = seen_after(state, space.classes, tasks.support, tasks.query)
        past = Past(seen, state.finished, state.memory, jnp.asarray(boundless))
        trained, metrics = update(state.train, tasks, key, past)
        return state._replace(train=trained, seen=seen), metrics

    def step(state: LifelongState, tasks: Task, key: Key) -> tuple[LifelongState, Metrics]:
        return moved(state, tasks, key, False)

    def observe(state: LifelongState, batch: Batch, key: Key) -> tuple[LifelongState, Metrics]:
        key_split, key_step, key_store = jax.random.split(key, 3)
        support, query = halves(batch, key_split)
        one = Task(support, query, state.finished * 0)
        tasks = jax.tree.map(lambda leaf: leaf[None], one)
        state, metrics = moved(state, tasks, key_step, True)
        return stored(state, batch, key_store, boundless=True), metrics

    def stored(state: LifelongState, batch: Batch, key: Key, *, boundless: bool) -> LifelongState:
        """Remember a batch: in the bank, and in what `recall` uses."""
        key_bank, key_recall = jax.random.split(key)
        memory = state.memory
        if bank is not None:
            task = jnp.full(batch.y.shape[0], state.finished)
            items = (batch.x, as_stored(batch.y), task)
            # Only of an update that was accepted. XLA then writes the bank in place, for it knows
            # that all was read before: without this it copies the whole bank.
            where = counts(batch) & ~unknown_labels(batch, space) & (state.train.bad_step < 0)
            memory = bank.insert(memory, items, key_bank, where)
        labels = training_labels(space, state.seen, state.finished)
        args = state.train.params, batch, labels, memory, key_recall
        fast = recall_with(*args, boundless=boundless)
        # A copy: what is donated may not hold a buffer twice, and these may be the parameters.
        return state._replace(memory=memory, own=train.copy(fast))

    def end_task(state: LifelongState, batch: Batch, key: Key) -> LifelongState:
        check_finished(state, space)
        state = state._replace(seen=seen_after(state, space.classes, batch))
        return finished_after(stored(state, batch, key, boundless=False), space, batch)

    def recall(state: LifelongState, x: Array, key: Key) -> Array:
        return learner.predict(state.train.params, state.own, x)

    return LifelongLearner(
        init, step, observe, end_task, predict_from(learner, space), among_seen(space, recall)
    )


def as_stored(y: Array) -> Array:
    """Labels as a bank keeps them, int32; targets as they are."""
    return losses.as_labels(y) if jnp.issubdtype(y.dtype, jnp.integer) else y
