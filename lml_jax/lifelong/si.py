"""Synaptic intelligence (SI)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses
from lml_jax.checks import possible
from lml_jax.lifelong._batches import Given, Method, batch_learner, by_loss, loss_of
from lml_jax.lifelong.ewc import Anchor, anchor_at, quadratic
from lml_jax.lifelong.label_space import LabelSpace
from lml_jax.types import ExampleLoss, Key, Learner, LifelongLearner, Metrics, Params


class Path(NamedTuple):
    """The penalty of past tasks, and omega of the arriving one."""

    anchor: Anchor
    omega: Params


def si(
    learner: Learner,
    tx: optax.GradientTransformation,
    space: LabelSpace,
    *,
    strength: float = 0.1,
    damping: float = 0.1,
    loss: ExampleLoss = losses.cross_entropy,
) -> LifelongLearner:
    """A quadratic penalty that holds parameters by what they contributed to lower losses.

    L = L(batch) + c sum_k Omega_k (theta_k - theta*_k)^2, theta* the parameters after the last
    task. Over the updates of a task omega_k = - sum_t g_k(t) (theta_k(t + 1) - theta_k(t)), g the
    gradient of L(batch) alone; at its end
    Omega_k <- Omega_k + omega_k / ((theta_k - theta*_k)^2 + xi).

    Args:
        learner: whose network is trained.
        tx: the update rule; its state is carried from task to task.
        space: the label space.
        strength: c >= 0.
        damping: xi > 0.
        loss: of one example.

    Returns:
        A `LifelongLearner` that needs task boundaries. Its metrics: `loss`, `accuracy`, `penalty`.
        Nothing is stored but theta*, Omega and omega.

    Raises:
        ValueError: for numbers out of range; in `observe`.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.learners.maml import maml
        >>> learner = si(maml(nets.mlp([64], 50), optax.sgd(0.1), steps=1), optax.adam(1e-3),
        ...              LabelSpace(10, jnp.zeros(50, bool)))

    Source:
        Zenke, Poole, Ganguli. Continual Learning Through Synaptic Intelligence, 2017, equations
        3 to 5, https://arxiv.org/abs/1703.04200. The defaults are those of permuted MNIST.
    """
    if not possible(lambda s, d: s >= 0 and d > 0, strength, damping):
        raise ValueError(
            f"strength must be at least 0 and damping above 0, got {strength} and {damping}"
        )

    def of_batch(params: Params, given: Given, key: Key) -> tuple[Array, Metrics]:
        now = loss_of(learner, params, given.batch, given.labels, loss)
        held = strength * quadratic(params, given.own.anchor)
        return now.loss + held, {**now.metrics, "penalty": held}

    def own(params: Params) -> Path:
        return Path(anchor_at(params), jax.tree.map(jnp.zeros_like, params))

    def moved(own: Path, before: Params, after: Params, grads: Params) -> Path:
        def add(total: Array, g: Array, old: Array, new: Array, anchor: Array, big: Array) -> Array:
            of_loss = g - 2 * strength * big * (old - anchor)
            return total - of_loss * (new - old)

        held = own.anchor
        trees = own.omega, grads, before, after, held.params, held.importance
        return own._replace(omega=jax.tree.map(add, *trees))

    def finish(params: Params, given: Given, key: Key) -> Path:
        held, omega = given.own

        def add(big: Array, small: Array, new: Array, anchor: Array) -> Array:
            # As the authors' code does: a negative importance would reward moving away.
            return jax.nn.relu(big + small / (jnp.square(new - anchor) + damping))

        importance = jax.tree.map(add, held.importance, omega, params, held.params)
        return Path(Anchor(params, importance), jax.tree.map(jnp.zeros_like, params))

    reason = "SI consolidates at the end of a task"
    method = Method(by_loss(of_batch), own, moved, finish, needs_boundaries=reason)
    return batch_learner(learner, tx, space, method)
