"""Learning without forgetting (LwF)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses
from lml_jax.checks import possible
from lml_jax.lifelong._batches import (
    Given,
    Method,
    batch_learner,
    by_loss,
    check_classes,
    loss_of,
    outputs_of,
)
from lml_jax.lifelong.label_space import LabelSpace
from lml_jax.types import Key, Learner, LifelongLearner, Metrics, Params


class Teacher(NamedTuple):
    """The parameters after the last task, and the classes bool [C] that it knew."""

    params: Params
    taught: Array


def lwf(
    learner: Learner,
    tx: optax.GradientTransformation,
    space: LabelSpace,
    *,
    strength: float = 1.0,
    temperature: float = 2.0,
) -> LifelongLearner:
    """The network after the last task teaches its answers to the new examples.

    L = L(batch) - lambda 1/n sum_x sum_c q_c(x) log p_c(x), q = softmax(h*(x) / T) of the network
    after the last task and p = softmax(h(x) / T), both over the classes of past tasks. Where the
    identity of the task is given there is one such term for each past task, over its own classes.

    Args:
        learner: whose network is trained.
        tx: the update rule.
        space: the label space.
        strength: lambda >= 0.
        temperature: T > 0.

    Returns:
        A `LifelongLearner` that needs task boundaries. Its metrics: `loss`, `accuracy`,
        `distillation`. Nothing is stored but the old network.

    Raises:
        ValueError: for numbers out of range, or a regression; in `observe`.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.learners.maml import maml
        >>> learner = lwf(maml(nets.mlp([64], 50), optax.sgd(0.1), steps=1), optax.sgd(0.03),
        ...               LabelSpace(10, jnp.zeros(50, bool)))

    Source:
        Li, Hoiem. Learning without Forgetting, 2016, equations 2 to 4,
        https://arxiv.org/abs/1606.09282: lambda = 1, T = 2, each task with a head of its own.
    """
    check_classes(space, what="LwF")
    if not possible(lambda s, t: s >= 0 and t > 0, strength, temperature):
        raise ValueError(
            f"strength must be at least 0 and temperature above 0, got {strength}, {temperature}"
        )

    def of_batch(params: Params, given: Given, key: Key) -> tuple[Array, Metrics]:
        now = loss_of(learner, params, given.batch, given.labels)
        z = outputs_of(learner, params, given.batch.x)
        old = outputs_of(learner, given.own.params, given.batch.x)
        weight = losses.weights_of(given.batch)

        def taught(labels: Array) -> Array:
            told = losses.mask_logits(old, labels)
            # Before the first task there is no such class, and a softmax over none has no gradient.
            answer = losses.mask_logits(z, labels | ~labels.any())
            each = losses.distillation(answer, told, temperature=temperature) / temperature**2
            return losses.weighted_mean(each, weight)

        if space.members is None:
            kept = taught(given.own.taught)
        else:
            past = jnp.arange(space.tasks) < given.finished
            kept = jnp.sum(jnp.where(past, jax.vmap(taught)(space.members), 0.0))
        return now.loss + strength * kept, {**now.metrics, "distillation": kept}

    def own(params: Params) -> Teacher:
        return Teacher(params, jnp.zeros(space.classes, bool))

    def finish(params: Params, given: Given, key: Key) -> Teacher:
        return Teacher(params, given.seen)

    reason = "the network at the end of a task is the teacher of the next"
    method = Method(by_loss(of_batch), own, finish=finish, needs_boundaries=reason)
    return batch_learner(learner, tx, space, method)
