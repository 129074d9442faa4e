"""The lower and the upper baseline of a stream: fine-tuning, and joint training."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax.lifelong import history
from lml_jax.lifelong._base import begin, drawn_batch, head_loss, labels_of, lifelong_learner
from lml_jax.lifelong.label_space import Head, training_mask
from lml_jax.parallel import BatchLoss, vmap_mean
from lml_jax.types import Batch, Key, Learner, LifelongLearner, Loss, Metrics, Params, Task


def finetune(
    learner: Learner,
    tx: optax.GradientTransformation,
    head: Head,
    *,
    reduce: Callable[[Loss], BatchLoss] = vmap_mean,
) -> LifelongLearner:
    """Ordinary training on each task in turn: theta <- theta - beta grad L_i(theta).

    The lower baseline. Support and query sets are one batch; `recall` uses theta, `predict` adapts
    as `learner` does.

    Args:
        learner: whose network and inner rule are used.
        tx: the update rule.
        head: the label space.
        reduce: as in `train.make_train_step`.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.learners.maml import maml
        >>> learner = finetune(maml(nets.mlp([64], 50), optax.sgd(0.1), steps=1),
        ...                    optax.adam(1e-3), Head(tasks=10, known=jnp.zeros(50, bool)))
    """
    return _plain(learner, tx, head, capacity=1, union=0, reduce=reduce)


def joint(
    learner: Learner,
    tx: optax.GradientTransformation,
    head: Head,
    *,
    capacity: int,
    union_batch: int = 50,
    reduce: Callable[[Loss], BatchLoss] = vmap_mean,
) -> LifelongLearner:
    """Training on the union of all tasks so far: theta <- theta - beta grad 1/i sum_{j<=i} L_j.

    The upper baseline: every training example of every finished task is kept. It goes on from the
    parameters of the task before, with the same number of updates a task as any other learner.

    Args:
        learner: whose network and inner rule are used.
        tx: the update rule.
        head: the label space.
        capacity: examples kept of each task; at least as many as a task has.
        union_batch: examples of past tasks in each episode's loss.
        reduce: as in `train.make_train_step`.

    Raises:
        ValueError: in `end_task`, for a task with more examples than `capacity`.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.learners.maml import maml
        >>> learner = joint(maml(nets.mlp([64], 50), optax.sgd(0.1), steps=1), optax.adam(1e-3),
        ...                 Head(tasks=10, known=jnp.zeros(50, bool)), capacity=75)
    """
    return _plain(learner, tx, head, capacity=capacity, union=union_batch, reduce=reduce)


def _plain(
    learner: Learner,
    tx: optax.GradientTransformation,
    head: Head,
    *,
    capacity: int,
    union: int,
    reduce: Callable[[Loss], BatchLoss],
) -> LifelongLearner:
    """Training without an inner loop, on the arriving task and on `union` past examples."""
    bank = history.bank_of(capacity)

    def loss(seen: Array, past: history.History) -> Loss:
        def of_episode(params: Params, task: Task, key: Key) -> tuple[Array, Metrics]:
            both = jax.tree.map(lambda s, q: jnp.concatenate([s, q]), task.support, task.query)
            start = begin(learner, params, both.x)
            keep = labels_of(task, head, seen)
            value, accuracy = head_loss(learner, params, start, both, keep)
            if union:
                drawn = history.draw_union(bank, past, key, n=union)
                known = training_mask(head, seen, drawn.task)
                before, _ = head_loss(learner, params, start, drawn_batch(drawn), known)
                # The arriving task is one of i; a draw from the others stands for the rest.
                i = past.finished + 1
                value = (value + (i - 1) * before) / i
            return value, {"accuracy": accuracy}

        return of_episode

    def recall_with(params: Params, batch: Batch, keep: Array, past: Any, key: Key) -> Any:
        if union and batch.x.shape[0] > capacity:
            raise ValueError(
                f"joint training keeps every example, but a task has {batch.x.shape[0]} and the "
                f"capacity is {capacity}"
            )
        return begin(learner, params, batch.x)

    return lifelong_learner(
        learner, tx, head, bank=bank, loss=loss, recall_with=recall_with, reduce=reduce
    )
