"""What lifelong learners that descend a loss share: their state, and its four verbs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses, train
from lml_jax.lifelong import history
from lml_jax.lifelong.label_space import Head, classes_in, training_mask
from lml_jax.metrics import accuracy
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

    @property
    def stored(self) -> Any:
        """What is kept of past tasks."""
        return self.history


# (params, finished batch, labels bool [C], history, key) -> the fast weights that recall will use
RecallWith = Callable[[Params, Batch, Array, history.History, Key], Any]


def lifelong_learner(
    learner: Learner,
    tx: optax.GradientTransformation,
    head: Head,
    *,
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

    def of_episode(params: Params, task: Task, key: Key, *known: Any) -> tuple[Array, Metrics]:
        return loss(*known)(params, task, key)

    update = train.make_train_step(of_episode, tx, reduce=reduce)

    def init(key: Key, example: Batch, params: Params | None = None) -> State:
        params = learner.init(key, example.x[None]) if params is None else params
        past = history.init(bank, example, tasks=head.tasks)
        fast = begin(learner, params, example.x[None])
        # In buffers of its own: the state may be donated, what it was made from is used again.
        return train.copy(State(train.init_state(params, tx), head.known, past, fast))

    def step(state: State, episodes: Task, key: Key) -> tuple[State, Metrics]:
        seen = state.seen
        for part in (episodes.support, episodes.query):
            seen = seen | classes_in(part.y, head.classes)
        trained, metrics = update(state.train, episodes, key, seen, state.history)
        return state._replace(train=trained, seen=seen), metrics

    def end_task(state: State, batch: Batch, key: Key) -> State:
        key_bank, key_recall = jax.random.split(key)
        past = history.finish(bank, state.history, batch, key_bank)
        keep = training_mask(head, state.seen, state.history.finished)
        fast = recall_with(state.train.params, batch, keep, past, key_recall)
        # A copy: what is donated may not hold a buffer twice, and these may be the parameters.
        return state._replace(history=past, fast=train.copy(fast))

    def predict(state: State, support: Batch, x: Array, key: Key) -> Array:
        params, keep = state.train.params, classes_in(support.y, head.classes)
        logits = learner.predict(params, learner.adapt(params, support, key, labels=keep), x)
        return losses.mask_logits(logits, keep)

    def recall(state: State, x: Array, key: Key) -> Array:
        logits = learner.predict(state.train.params, state.fast, x)
        # Where the task is told, whoever reads the logits masks them to its labels.
        return losses.mask_logits(logits, state.seen) if head.members is None else logits

    return LifelongLearner(init, step, end_task, predict, recall)


def begin(learner: Learner, params: Params, x: Array) -> Any:
    """The fast weights before any adaptation, by an empty support set of examples like `x`."""
    empty = Batch(x[:0], jnp.zeros(0, jnp.int32))
    return learner.adapt(params, empty, jax.random.key(0))


def labels_of(task: Task, head: Head, seen: Array) -> Array:
    """The labels bool [C] in play while an episode of the stream is learned.

    Raises:
        ValueError: for an episode that numbers its own classes.
    """
    if task.id is None:
        raise ValueError(
            "these episodes number their classes 0..N-1 (Task.id is None), but a lifelong "
            "learner has one head over the whole stream: take them from Stream.episodes"
        )
    return training_mask(head, seen, task.id)


def head_loss(
    learner: Learner, params: Params, fast: Any, batch: Batch, keep: Array
) -> tuple[Array, Array]:
    """Cross-entropy and accuracy of `batch` among the labels `keep`, means over its examples."""
    logits = losses.mask_logits(learner.predict(params, fast, batch.x), keep)
    weight = losses.labelled(batch)
    loss = losses.weighted_mean(losses.cross_entropy(logits, batch.y), weight)
    return loss, accuracy(logits, batch.y, weight=weight)


def drawn_batch(drawn: history.Draw) -> Batch:
    """Drawn examples as a batch, of weight 0 where the bank had none."""
    return Batch(drawn.x, drawn.y, drawn.valid.astype(jnp.float32))
