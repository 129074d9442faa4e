"""Experience replay with an asymmetric cross-entropy (ER-ACE)."""

import optax
from jax import Array

from lml_jax.checks import check_positive
from lml_jax.lifelong._batches import (
    Given,
    Method,
    batch_learner,
    by_loss,
    check_classes,
    drawn,
    loss_of,
    past_labels,
)
from lml_jax.lifelong.label_space import LabelSpace, classes_in
from lml_jax.memory import reservoir
from lml_jax.types import Key, Learner, LifelongLearner, MemoryBank, Metrics, Params


def er_ace(
    learner: Learner,
    tx: optax.GradientTransformation,
    space: LabelSpace,
    *,
    bank: MemoryBank | None = None,
    past_batch: int = 10,
    updates: int = 1,
) -> LifelongLearner:
    """Experience replay in which new examples do not push old classes away.

    theta <- theta - beta grad ( L(batch; C_batch) + L(drawn from M; C_seen) )

    L(.; C) is the cross-entropy of a softmax over the classes C: for the batch the classes that
    occur in it, for stored examples all that were seen.

    Args:
        learner: whose network is trained.
        tx: the update rule.
        space: the label space.
        bank: M, of items (x, y, task); None for `reservoir(200)`.
        past_batch: examples drawn from M for each update, >= 1.
        updates: on each batch, each with a draw of its own, >= 1.

    Returns:
        A `LifelongLearner`. Its metrics: `loss`, `accuracy` of the batch among its classes,
        `retention` (the loss of the stored examples).

    Raises:
        ValueError: for numbers below 1, or a regression.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.learners.maml import maml
        >>> learner = er_ace(maml(nets.mlp([64], 50), optax.sgd(0.1), steps=1), optax.sgd(0.1),
        ...                  LabelSpace(10, jnp.zeros(50, bool)), bank=reservoir(1000))

    Source:
        Caccia et al. New Insights on Reducing Abrupt Representation Change in Online Continual
        Learning, 2022, equation 4, https://arxiv.org/abs/2104.05025.
    """
    check_positive(past_batch=past_batch, updates=updates)
    check_classes(space, what="ER-ACE")
    bank = reservoir(200) if bank is None else bank

    def of_batch(params: Params, given: Given, key: Key) -> tuple[Array, Metrics]:
        past = drawn(bank, given, key, n=past_batch)
        present = classes_in(given.batch, space.classes)
        now = loss_of(learner, params, given.batch, given.labels & present[None])
        before = loss_of(learner, params, past.batch, past_labels(space, given, past))
        return now.loss + before.loss, {**now.metrics, "retention": before.loss}

    return batch_learner(learner, tx, space, Method(by_loss(of_batch), updates=updates), bank=bank)
