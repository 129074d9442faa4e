"""The lower and the upper baseline of a stream: fine-tuning, and joint training."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax.lifelong import history
from lml_jax.lifelong.gradient import begin, drawn_batch, head_loss, lifelong_learner
from lml_jax.lifelong.head import Head
from lml_jax.parallel import BatchLoss, vmap_mean
from lml_jax.types import Batch, Key, Learner, LifelongLearner, Loss, Metrics, Params, Task


def finetune(
    learner: Learner,
    tx: optax.GradientTransformation,
    head: Head,
    *,
    tasks: int,
    reduce: Callable[[Loss], BatchLoss] = vmap_mean,
) -> LifelongLearner:
    """Ordinary training on each task in turn: theta <- theta - beta grad L_i(theta).

    The lower baseline. Support and query sets are one batch; `recall` uses theta, `predict` adapts
    as `learner` does.

    Args:
        learner: whose network and inner rule are used.
        tx: the update rule.
        head: the label space.
        tasks: T_max.
        reduce: as in `train.make_train_step`.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.learners.maml import maml
        >>> learner = finetune(maml(nets.mlp([64], 50), optax.sgd(0.1), steps=1),
        ...                    optax.adam(1e-3), Head(known=jnp.zeros(50, bool)), tasks=10)
    """
    return _plain(learner, tx, head, tasks=tasks, capacity=1, union=0, reduce=reduce)


def joint(
    learner: Learner,
    tx: optax.GradientTransformation,
    head: Head,
    *,
    tasks: int,
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
        tasks: T_max.
        capacity: examples kept of each task; at least as many as a task has.
        union_batch: examples of past tasks in each episode's loss.
        reduce: as in `train.make_train_step`.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.learners.maml import maml
        >>> learner = joint(maml(nets.mlp([64], 50), optax.sgd(0.1), steps=1), optax.adam(1e-3),
        ...                 Head(known=jnp.zeros(50, bool)), tasks=10, capacity=75)
    """
    return _plain(
        learner, tx, head, tasks=tasks, capacity=capacity, union=union_batch, reduce=reduce
    )


def _plain(
    learner: Learner,
    tx: optax.GradientTransformation,
    head: Head,
    *,
    tasks: int,
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
            value, accuracy = head_loss(learner, params, start, head, seen, both, task.id)
            if union:
                drawn = history.draw_union(bank, past, key, n=union)
                before, _ = head_loss(
                    learner, params, start, head, seen, drawn_batch(drawn), drawn.task
                )
                # The arriving task is one of i; the union of the others holds the rest.
                i = past.finished + 1
                value = (value + (i - 1) * before) / i
            return value, {"accuracy": accuracy}

        return of_episode

    def recall_with(learner: Learner, params: Params, batch: Batch, past: Any, key: Key) -> Any:
        return begin(learner, params, batch.x)

    return lifelong_learner(
        learner, tx, head, tasks=tasks, bank=bank, loss=loss, recall_with=recall_with, reduce=reduce
    )
