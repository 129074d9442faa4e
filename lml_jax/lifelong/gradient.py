"""What lifelong learners that descend a loss share: their state, and its four verbs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses, train
from lml_jax.lifelong import history
from lml_jax.lifelong.head import Head, classes_in, training_mask
from lml_jax.parallel import BatchLoss, vmap_mean
from lml_jax.types import (
    Batch,
    Key,
    Learner,
    LifelongLearner,
    Loss,
    MemoryBank,
    Metrics,
    Params,
    Task,
    TrainState,
)


class State(NamedTuple):
    """One pytree: parameters and optimiser, labels seen bool [C], past tasks, what recall uses."""

    train: TrainState
    seen: Array
    history: history.History
    fast: Any

    @property
    def step(self) -> Array:
        """Updates done."""
        return self.train.step

    @property
    def bad_step(self) -> Array:
        """The first step whose update was refused, or -1."""
        return self.train.bad_step


# (learner, params, finished batch, history, key) -> the fast weights that recall will use
RecallWith = Callable[[Learner, Params, Batch, history.History, Key], Any]


def lifelong_learner(
    learner: Learner,
    tx: optax.GradientTransformation,
    head: Head,
    *,
    tasks: int,
    bank: MemoryBank,
    loss: Callable[[Array, history.History], Loss],
    recall_with: RecallWith,
    reduce: Callable[[Loss], BatchLoss] = vmap_mean,
) -> LifelongLearner:
    """A lifelong learner from the loss it descends, given (labels seen, history).

    Args:
        learner: the few-shot learner it carries along the stream.
        tx: the outer update rule; its state is carried from task to task.
        head: the label space.
        tasks: T_max.
        bank: of one finished task.
        loss: (seen, history) -> the `Loss` of one episode.
        recall_with: what `recall` predicts with, computed at the end of each task.
        reduce: as in `train.make_train_step`.

    Returns:
        A `LifelongLearner`.

    Raises:
        ValueError: in `step`, for episodes whose labels are local to the episode; in `end_task`,
            for examples that do not fit the bank.
    """

    def init(key: Key, example: Batch) -> State:
        params = learner.init(key, example.x[None])
        past = history.init(bank, example, tasks=tasks)
        fast = begin(learner, params, example.x[None])
        return State(train.init_state(params, tx), head.known, past, fast)

    def step(state: State, episodes: Task, key: Key) -> tuple[State, Metrics]:
        seen = state.seen
        for part in (episodes.support, episodes.query):
            seen = seen | classes_in(part.y, head.classes)
        update = train.make_train_step(loss(seen, state.history), tx, reduce=reduce)
        trained, metrics = update(state.train, episodes, key)
        return state._replace(train=trained, seen=seen), metrics

    def end_task(state: State, batch: Batch, key: Key) -> State:
        key_bank, key_recall = jax.random.split(key)
        past = history.finish(bank, state.history, batch, key_bank)
        fast = recall_with(learner, state.train.params, batch, past, key_recall)
        return state._replace(history=past, fast=fast)

    def predict(state: State, support: Batch, x: Array, key: Key) -> Array:
        params = state.train.params
        logits = learner.predict(params, learner.adapt(params, support, key), x)
        return losses.mask_logits(logits, classes_in(support.y, head.classes))

    def recall(state: State, x: Array, key: Key) -> Array:
        logits = learner.predict(state.train.params, state.fast, x)
        return losses.mask_logits(logits, state.seen)

    return LifelongLearner(init, step, end_task, predict, recall)


def begin(learner: Learner, params: Params, x: Array) -> Any:
    """The fast weights before any adaptation, by an empty support set of examples like `x`."""
    empty = Batch(x[:0], jnp.zeros(0, jnp.int32))
    return learner.adapt(params, empty, jax.random.key(0))


def head_loss(
    learner: Learner,
    params: Params,
    fast: Any,
    head: Head,
    seen: Array,
    batch: Batch,
    task: Array | None,
) -> tuple[Array, Array]:
    """Cross-entropy and accuracy of `batch` on the labels in play, each a mean over its examples.

    `task` int [] or [n] is the task that the examples belong to.

    Raises:
        ValueError: where it is None: the labels of such an episode are its own.
    """
    if task is None:
        raise ValueError(
            "these episodes number their classes 0..N-1 (Task.id is None), but a lifelong "
            "learner has one head over the whole stream: take them from Stream.episodes"
        )
    logits = learner.predict(params, fast, batch.x)
    logits = losses.mask_logits(logits, training_mask(head, seen, task))
    weight = losses.labelled(batch)
    hits = (jnp.argmax(logits, axis=1) == batch.y).astype(logits.dtype)
    return (
        losses.weighted_mean(losses.cross_entropy(logits, batch.y), weight),
        losses.weighted_mean(hits, weight),
    )


def drawn_batch(drawn: history.Draw) -> Batch:
    """Drawn examples as a batch, of weight 0 where the bank had none."""
    return Batch(drawn.x, drawn.y, drawn.valid.astype(jnp.float32))
