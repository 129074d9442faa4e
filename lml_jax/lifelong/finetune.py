"""Fine-tuning: the lower bound of a stream, and training on the union of tasks, which shares it."""

import optax
from jax import Array

from lml_jax import losses
from lml_jax.lifelong._base import batch_loss, labels_of, refused_id, start
from lml_jax.lifelong._gradient import Past, gradient_learner
from lml_jax.lifelong.label_space import LabelSpace
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


def finetune(
    learner: Learner,
    tx: optax.GradientTransformation,
    space: LabelSpace,
    *,
    loss: ExampleLoss = losses.cross_entropy,
    reduce: Reduce = vmap_mean,
) -> LifelongLearner:
    """Ordinary training on each task in turn: theta <- theta - beta grad L_i(theta).

    The lower bound. Support and query sets are one batch; `recall` uses theta, `predict` adapts
    as `learner` does. `observe` makes one update on the batch.

    Args:
        learner: whose network and inner rule are used.
        tx: the update rule.
        space: the label space.
        loss: of one example.
        reduce: as in `train.make_train_step`.

    Returns:
        A `LifelongLearner`. Its metrics: `loss`, `accuracy`.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.learners.maml import maml
        >>> learner = finetune(maml(nets.mlp([64], 50), optax.sgd(0.1), steps=1),
        ...                    optax.adam(1e-3), LabelSpace(10, jnp.zeros(50, bool)))
    """

    def of_episode(params: Params, task: Task, key: Key, past: Past) -> tuple[Array, Metrics]:
        labels = labels_of(task, space, past.seen)
        return episode(learner, params, task, labels, loss, space)

    def recall_with(
        params: Params, batch: Batch, labels: Array, memory: PyTree, key: Key, *, boundless: bool
    ) -> Fast:
        return start(learner, params, batch.x)

    return gradient_learner(
        learner, tx, space, bank=None, loss=of_episode, recall_with=recall_with, reduce=reduce
    )


def episode(
    learner: Learner,
    params: Params,
    task: Task,
    labels: Array,
    loss: ExampleLoss,
    space: LabelSpace,
) -> tuple[Array, Metrics]:
    """Loss and metrics of support and query set together, without adaptation."""
    both = losses.concatenated(task.support, task.query)
    first = start(learner, params, both.x)
    value, metrics = batch_loss(learner.predict, params, first, both, labels, loss)
    return value * refused_id(task, space), metrics
