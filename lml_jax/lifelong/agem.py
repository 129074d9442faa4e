"""Averaged gradient episodic memory (A-GEM)."""

import jax
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
    ExampleLoss,
    Key,
    Learner,
    LifelongLearner,
    MemoryBank,
    Metrics,
    Params,
)


def agem(
    learner: Learner,
    tx: optax.GradientTransformation,
    space: LabelSpace,
    *,
    bank: MemoryBank | None = None,
    past_batch: int = 128,
    loss: ExampleLoss = losses.cross_entropy,
) -> LifelongLearner:
    """Gradients that do not increase the loss of stored examples, to first order.

    g = grad L(batch), r = grad L(drawn from M); theta moves along g where g . r >= 0, else along
    its projection g - (g . r / r . r) r.

    Args:
        learner: whose network is trained.
        tx: the update rule, which is given the projected gradient.
        space: the label space.
        bank: M, of items (x, y, task); None for `reservoir(200)`.
        past_batch: examples drawn from M for each update, >= 1.
        loss: of one example.

    Returns:
        A `LifelongLearner`. Its metrics: `loss` and `accuracy` of the batch, `retention` (the loss
        of the stored examples), `projected` (1 where the gradient was projected).

    Raises:
        ValueError: for a past_batch below 1.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.learners.maml import maml
        >>> learner = agem(maml(nets.mlp([64], 50), optax.sgd(0.1), steps=1), optax.sgd(0.1),
        ...                LabelSpace(10, jnp.zeros(50, bool)), bank=reservoir(500))

    Source:
        Chaudhry, Ranzato, Rohrbach, Elhoseiny. Efficient Lifelong Learning with A-GEM, 2019,
        equation 11, https://arxiv.org/abs/1812.00420.
    """
    check_positive(past_batch=past_batch)
    bank = reservoir(200) if bank is None else bank

    def of_batch(params: Params, given: Given, key: Key) -> tuple[Array, Metrics]:
        now = loss_of(learner, params, given.batch, given.labels, loss)
        return now.loss, now.metrics

    def of_past(params: Params, given: Given, key: Key) -> tuple[Array, Metrics]:
        past = drawn(bank, given, key, n=past_batch)
        labels = past_labels(space, given, past)
        return loss_of(learner, params, past.batch, labels, loss).loss, {}

    def gradient(params: Params, given: Given, key: Key) -> tuple[Array, Params, Metrics]:
        value, g, shown = by_loss(of_batch)(params, given, key)
        before, r, _ = by_loss(of_past)(params, given, key)
        against = dot(g, r) < 0
        shown = {**shown, "retention": before, "projected": against.astype(jnp.float32)}
        return value, projected(g, r), shown

    return batch_learner(learner, tx, space, Method(gradient), bank=bank)


def dot(a: Params, b: Params) -> Array:
    """The inner product of two gradients."""
    parts = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
    return jnp.sum(jnp.stack(jax.tree.leaves(parts)))


def projected(g: Params, r: Params) -> Params:
    """g where g . r >= 0, else g - (g . r / r . r) r, which is orthogonal to r.

    Example:
        >>> projected(jnp.array([1.0, -1.0]), jnp.array([0.0, 2.0])).tolist()
        [1.0, 0.0]
    """
    along, size = dot(g, r), dot(r, r)
    share = jnp.where((along < 0) & (size > 0), along / jnp.where(size > 0, size, 1.0), 0.0)
    return jax.tree.map(lambda x, y: x - share * y, g, r)
