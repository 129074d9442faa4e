"""Joint training: the upper bound of a stream."""

import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses
from lml_jax.checks import check_positive
from lml_jax.lifelong import history
from lml_jax.lifelong._base import batch_loss, labels_of, start
from lml_jax.lifelong._gradient import Past, gradient_learner
from lml_jax.lifelong.finetune import episode
from lml_jax.lifelong.label_space import LabelSpace, training_labels
from lml_jax.memory import task_indexed
from lml_jax.parallel import Reduce, vmap_mean
from lml_jax.types import (
    Batch,
    ExampleLoss,
    Fast,
    Key,
    Learner,
    LifelongLearner,
    Metrics,
    Params,
    PyTree,
    Task,
)


def joint(
    learner: Learner,
    tx: optax.GradientTransformation,
    space: LabelSpace,
    *,
    capacity: int,
    past_batch: int = 50,
    loss: ExampleLoss = losses.cross_entropy,
    reduce: Reduce = vmap_mean,
) -> LifelongLearner:
    """Training on the union of all tasks so far: theta <- theta - beta grad 1/i sum_{j<=i} L_j.

    The upper bound: every training example of every finished task is stored. Training continues
    from the parameters of the task before, with the same number of updates per task as any other
    learner. `observe` updates on the batch and on stored examples, half and half, and needs room
    for all of them as one task.

    Args:
        learner: whose network and inner rule are used.
        tx: the update rule.
        space: the label space.
        capacity: examples stored of each task; at least as many as a task has.
        past_batch: examples of past tasks in each episode's loss.
        loss: of one example.
        reduce: as in `train.make_train_step`.

    Returns:
        A `LifelongLearner`. Its metrics: `loss`, `accuracy`.

    Raises:
        ValueError: for numbers below 1; in `end_task`, for a task with more examples than
            `capacity`.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.learners.maml import maml
        >>> learner = joint(maml(nets.mlp([64], 50), optax.sgd(0.1), steps=1), optax.adam(1e-3),
        ...                 LabelSpace(10, jnp.zeros(50, bool)), capacity=75)
    """
    check_positive(past_batch=past_batch)
    bank = task_indexed(capacity, tasks=space.tasks)

    def of_episode(params: Params, task: Task, key: Key, past: Past) -> tuple[Array, Metrics]:
        labels = labels_of(task, space, past.seen)
        value, metrics = episode(learner, params, task, labels, loss, space)
        drawn = history.draw(bank, past.memory, task.query.x, key, n=past_batch)
        active = training_labels(space, past.seen, drawn.task)
        first = start(learner, params, drawn.x)
        before = batch_loss(learner.predict, params, first, drawn.batch, active, loss).loss
        # The arriving task is one of i; a draw from the others stands for the rest.
        there = (jnp.sum(drawn.weight) > 0).astype(past.finished.dtype)
        i = (jnp.where(past.boundless, there, past.finished) + 1).astype(value.dtype)
        return (value + (i - 1) * before) / i, metrics

    def recall_with(
        params: Params, batch: Batch, labels: Array, memory: PyTree, key: Key, *, boundless: bool
    ) -> Fast:
        if batch.y.shape[0] > capacity:
            raise ValueError(
                f"joint training stores every example, but a task has {batch.y.shape[0]} and the "
                f"capacity is {capacity}"
            )
        return start(learner, params, batch.x)

    return gradient_learner(
        learner, tx, space, bank=bank, loss=of_episode, recall_with=recall_with, reduce=reduce
    )
