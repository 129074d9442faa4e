"""Dark experience replay (DER++): stored examples keep the logits that they were given."""

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses
from lml_jax.checks import check_positive, possible
from lml_jax.lifelong._batches import (
    Given,
    Method,
    batch_learner,
    by_loss,
    check_classes,
    drawn,
    loss_of,
    outputs_of,
    past_labels,
)
from lml_jax.lifelong.label_space import LabelSpace
from lml_jax.memory import reservoir
from lml_jax.types import Key, Learner, LifelongLearner, MemoryBank, Metrics, Params


def derpp(
    learner: Learner,
    tx: optax.GradientTransformation,
    space: LabelSpace,
    *,
    bank: MemoryBank | None = None,
    past_batch: int = 10,
    updates: int = 1,
    logits_weight: float = 1.0,
    labels_weight: float = 0.5,
) -> LifelongLearner:
    """Replay of stored logits and of stored labels.

    L = L(batch) + alpha 1/(m C) sum_{(x, z) from M} ||z - h(x)||^2 + beta 1/m sum_{(x, y) from M} l

    h(x) are the C logits, z those of the moment when x was stored: in `observe` those of the
    parameters before the update on its batch, with task boundaries those at the end of its task.
    The two draws from M are independent. With `labels_weight` 0 this is DER.

    Args:
        learner: whose network is trained.
        tx: the update rule.
        space: the label space.
        bank: M, of items (x, y, z, task); None for `reservoir(500)`.
        past_batch: m >= 1, examples in each of the two draws.
        updates: on each batch, each with draws of its own, >= 1.
        logits_weight: alpha >= 0. The squared error is a mean over classes, as in the authors'
            code.
        labels_weight: beta >= 0.

    Returns:
        A `LifelongLearner`. Its metrics: `loss`, `accuracy` of the batch, `logits_loss`,
        `retention` (the loss of stored labels).

    Raises:
        ValueError: for numbers below 1, a negative weight, or a regression.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.learners.maml import maml
        >>> learner = derpp(maml(nets.mlp([64], 50), optax.sgd(0.1), steps=1), optax.sgd(0.1),
        ...                 LabelSpace(10, jnp.zeros(50, bool)), bank=reservoir(500))

    Source:
        Buzzega, Boschini, Porrello, Abati, Calderara. Dark Experience for General Continual
        Learning: a Strong, Simple Baseline, 2020, equation 6, https://arxiv.org/abs/2004.07211.
        The defaults are the authors' for Split MNIST with 500 memories.
    """
    check_positive(past_batch=past_batch, updates=updates)
    check_classes(space, what="DER++")
    if not possible(lambda a, b: a >= 0 and b >= 0, logits_weight, labels_weight):
        raise ValueError(
            "logits_weight and labels_weight must be at least 0, got "
            f"{logits_weight} and {labels_weight}"
        )
    bank = reservoir(500) if bank is None else bank

    def of_batch(params: Params, given: Given, key: Key) -> tuple[Array, Metrics]:
        keys = jax.random.split(key)
        of_logits, of_labels = (drawn(bank, given, k, n=past_batch) for k in keys)
        now = loss_of(learner, params, given.batch, given.labels)
        z = outputs_of(learner, params, of_logits.x)
        each = jnp.mean(jnp.square(of_logits.more[0] - z), axis=1)
        stored = losses.weighted_mean(each, of_logits.weight)
        labels = past_labels(space, given, of_labels)
        before = loss_of(learner, params, of_labels.batch, labels).loss
        value = now.loss + logits_weight * stored + labels_weight * before
        return value, {**now.metrics, "logits_loss": stored, "retention": before}

    def extra(params: Params, x: Array) -> tuple[Array, ...]:
        return (losses.at_least_float32(outputs_of(learner, params, x)),)

    method = Method(by_loss(of_batch), extra=extra, updates=updates)
    return batch_learner(learner, tx, space, method, bank=bank)
