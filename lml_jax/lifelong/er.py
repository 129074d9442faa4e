"""Experience replay: the loss of what arrives and of stored examples."""

import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses
from lml_jax.checks import check_positive
from lml_jax.lifelong._batches import (
    Given,
    Method,
    batch_learner,
    by_loss,
    drawn,
    loss_of,
    past_labels,
)
from lml_jax.lifelong.label_space import LabelSpace
from lml_jax.memory import reservoir
from lml_jax.types import (
    Batch,
    ExampleLoss,
    Key,
    Learner,
    LifelongLearner,
    MemoryBank,
    Metrics,
    Params,
)


def er(
    learner: Learner,
    tx: optax.GradientTransformation,
    space: LabelSpace,
    *,
    bank: MemoryBank | None = None,
    past_batch: int = 10,
    updates: int = 1,
    loss: ExampleLoss = losses.cross_entropy,
) -> LifelongLearner:
    """Experience replay: each update is on the batch and on examples drawn from the memory M.

    theta <- theta - beta grad 1/(n + m) ( sum_{(x, y) in batch} l + sum_{(x, y) drawn from M} l )

    `observe` stores each batch after its update; with task boundaries the examples of a task enter
    M at its end.

    Args:
        learner: whose network is trained.
        tx: the update rule.
        space: the label space.
        bank: M, of items (x, y, task); None for `reservoir(200)`.
        past_batch: m >= 1, examples drawn from M for each update.
        updates: on each batch, each with a draw of its own, >= 1.
        loss: l, of one example.

    Returns:
        A `LifelongLearner`. Its metrics: `loss`, `accuracy` of the batch, `retention` (the mean
        loss of the stored examples).

    Raises:
        ValueError: for numbers below 1.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.learners.maml import maml
        >>> learner = er(maml(nets.mlp([64], 50), optax.sgd(0.1), steps=1), optax.sgd(0.1),
        ...              LabelSpace(10, jnp.zeros(50, bool)), bank=reservoir(1000))

    Source:
        Chaudhry et al. On Tiny Episodic Memories in Continual Learning, 2019, algorithm 1,
        https://arxiv.org/abs/1902.10486: batches of 10, as many from memory.
    """
    check_positive(past_batch=past_batch, updates=updates)
    bank = reservoir(200) if bank is None else bank

    def of_batch(params: Params, given: Given, key: Key) -> tuple[Array, Metrics]:
        past = drawn(bank, given, key, n=past_batch)
        labels = past_labels(space, given, past)
        now = loss_of(learner, params, given.batch, given.labels, loss)
        before = loss_of(learner, params, past.batch, labels, loss)
        n, m = _mass(given.batch), jnp.sum(past.weight)
        value = (n * now.loss + m * before.loss) / jnp.maximum(n + m, 1e-12)
        return value, {**now.metrics, "retention": before.loss}

    return batch_learner(learner, tx, space, Method(by_loss(of_batch), updates=updates), bank=bank)


def _mass(batch: Batch) -> Array:
    """How much the examples of a batch count together."""
    counts = losses.labelled(batch) if losses.are_labels(batch.y) else losses.weights_of(batch)
    return jnp.sum(counts).astype(jnp.float32)
