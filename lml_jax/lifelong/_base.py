"""What lifelong learners share: the loss of a batch among the active classes, predict, counters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax import losses
from lml_jax.checks import concrete
from lml_jax.lifelong.label_space import LabelSpace, classes_in, training_labels
from lml_jax.metrics import accuracy
from lml_jax.types import (
    Batch,
    ExampleLoss,
    Fast,
    Key,
    Learner,
    LifelongState,
    Metrics,
    Params,
    Predict,
    PredictFrom,
    Recall,
    Task,
)


class Classified(NamedTuple):
    """Loss and metrics of a batch, means over its examples."""

    loss: Array
    metrics: Metrics  # `accuracy`, where y holds labels


def start(learner: Learner, params: Params, x: Array) -> Fast:
    """The fast weights before any adaptation, by an empty support set of examples like `x`."""
    empty = Batch(x[:0], jnp.zeros(0, jnp.int32))
    return learner.adapt(params, empty, jax.random.key(0))


def check_tasks(task: Task, space: LabelSpace) -> None:
    """Raise ValueError for episodes that number their own classes, or of a task that is not there.

    To be called where values may be known, outside the `vmap` over a meta-batch.
    """
    if task.id is None:
        raise ValueError(
            "these episodes number their classes 0..N-1 (Task.id is None), but a lifelong "
            "learner has one head over the whole stream: take them from Stream.episodes"
        )
    found = concrete(task.id)
    if found is not None and not (found[0].min() >= 0 and found[0].max() < space.tasks):
        wrong = next(i for i in found[0].reshape(-1).tolist() if not 0 <= i < space.tasks)
        raise ValueError(f"task {wrong} does not exist, expected 0..{space.tasks - 1}")


def labels_of(task: Task, space: LabelSpace, seen: Array) -> Array:
    """The active classes bool [C] while an episode of the stream is learned.

    Raises:
        ValueError: as `check_tasks`.
    """
    check_tasks(task, space)
    return training_labels(space, seen, jnp.asarray(task.id))


def refused_id(task: Task, space: LabelSpace) -> Array:
    """NaN where the task does not exist, else 1: a factor of its loss, for use inside jit."""
    place = jnp.asarray(task.id)
    return losses.nan_where((place < 0) | (place >= space.tasks))


def batch_loss(
    predict: Predict,
    params: Params,
    fast: Fast,
    batch: Batch,
    labels: Array,
    loss: ExampleLoss = losses.cross_entropy,
) -> Classified:
    """The loss of `batch`, of labels as a softmax over the active classes `labels`."""
    batch = losses.fill_padding(batch)
    outputs = predict(params, fast, batch.x)
    weight = losses.labelled(batch)
    if not losses.are_labels(batch.y):
        return Classified(losses.weighted_mean(loss(outputs, batch.y), weight), {})
    outputs = losses.mask_logits(outputs, labels)
    value = losses.weighted_mean(loss(outputs, batch.y), weight)
    return Classified(value, {"accuracy": share(outputs, batch.y, weight)})


def share(logits: Array, y: Array, weight: Array) -> Array:
    """Accuracy, and 0 where nothing counts: a metric of training is never NaN on purpose."""
    there = jnp.sum(weight) > 0
    return jnp.where(there, accuracy(logits, y, weight=jnp.where(there, weight, 1.0)), 0.0)


def seen_after(state: LifelongState, classes: int, *batches: Batch) -> Array:
    """The classes seen once these batches were."""
    seen = state.seen
    for batch in batches:
        flat = batch._replace(
            y=batch.y.reshape(-1) if jnp.issubdtype(batch.y.dtype, jnp.integer) else batch.y,
            weight=None if batch.weight is None else batch.weight.reshape(-1),
        )
        seen = seen | classes_in(flat, classes)
    return seen


def check_finished(state: LifelongState, space: LabelSpace) -> None:
    """Raise ValueError where T tasks are finished already, as far as that is known."""
    found = concrete(state.finished)
    if found is not None and int(found[0]) >= space.tasks:
        raise ValueError(f"there was room for {space.tasks} tasks, expected no more")


def finished_after(state: LifelongState, space: LabelSpace, batch: Batch) -> LifelongState:
    """One more task, of training examples `batch`, is finished.

    Of more tasks than T, or of a label outside the label space, the learner stops learning, and
    every later step reports `bad_step`; see `check_finished` for outside jit.
    """
    wrong = (state.finished >= space.tasks) | (unknown_labels(batch, space) & counts(batch)).any()
    bad = jnp.where(wrong & (state.train.bad_step < 0), state.train.step, state.train.bad_step)
    return state._replace(train=state.train._replace(bad_step=bad), finished=state.finished + 1)


def counts(batch: Batch) -> Array:
    """Which examples are no padding, bool [n]."""
    return losses.weights_of(batch) > 0


def unknown_labels(batch: Batch, space: LabelSpace) -> Array:
    """Which labels are outside the label space, bool [n]; none of the targets of a regression."""
    if not losses.are_labels(batch.y):
        return jnp.zeros(batch.y.shape[0], bool)
    return losses.outside(losses.as_labels(batch.y), space.classes)


def predict_from(learner: Learner, space: LabelSpace) -> PredictFrom:
    """Adapt to the support set, and predict among its classes."""

    def predict(state: LifelongState, support: Batch, x: Array, key: Key) -> Array:
        params = state.train.params
        if space.target is not None:
            return learner.predict(params, learner.adapt(params, support, key), x)
        labels = classes_in(support, space.classes)
        fast = learner.adapt(params, support, key, labels=labels)
        return losses.mask_logits(learner.predict(params, fast, x), labels)

    return predict


def among_seen(space: LabelSpace, recall: Recall) -> Recall:
    """`recall` with -inf for classes not seen; task-incremental logits are masked by the reader."""

    def masked(state: LifelongState, x: Array, key: Key) -> Array:
        outputs = recall(state, x, key)
        if space.members is not None or space.target is not None:
            return outputs
        return losses.mask_logits(outputs, state.seen)

    return masked


def least_likely(logits: Array, labels: Array) -> Array:
    """Logits [n, C] with -inf at the classes `labels` (bool [1, C]) replaced by the row's lowest.

    The new value is below all others of the row. A score leaves out an example whose own class has
    the logit -inf, as one that was never seen; what was seen and is lost must count as wrong.
    """
    lowest = jnp.min(jnp.where(jnp.isfinite(logits), logits, jnp.inf), axis=1, keepdims=True)
    lowest = jnp.where(jnp.isfinite(lowest), lowest, 0.0)
    # Twice the distance from 0 as well: of a large number 1 is less than rounding.
    below = lowest - 1.0 - jnp.abs(lowest)
    return jnp.where(jnp.isneginf(logits) & labels, below, logits)


def halves(batch: Batch, key: Key) -> tuple[Batch, Batch]:
    """A batch as a support and a query set: random halves, by weights of the same shape.

    With fewer than 2 examples that count, both are the whole batch.
    """
    weight = losses.labelled(batch) if losses.are_labels(batch.y) else losses.weights_of(batch)
    score = jnp.where(weight > 0, jax.random.uniform(key, weight.shape), 2.0)
    rank = jnp.argsort(jnp.argsort(score))
    count = jnp.sum(weight > 0)
    first = (rank < (count + 1) // 2) | (count < 2)
    second = (rank >= (count + 1) // 2) | (count < 2)
    return (
        batch._replace(weight=jnp.where(first, weight, 0.0)),
        batch._replace(weight=jnp.where(second, weight, 0.0)),
    )
