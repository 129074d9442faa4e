"""From the loss of one task to the loss of a meta-batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.types import Key, Loss, Metrics, Params, Task

BatchLoss = Callable[[Params, Task, Key], tuple[Array, Metrics]]


def vmap_mean(loss: Loss) -> BatchLoss:
    """The mean of `loss` over the tasks of a meta-batch, by `vmap` on one device.

    L(theta) = 1/T sum_t L_t(theta). Task t receives `fold_in(key, t)`. The metrics are means over
    tasks, and `bad_task` is the first task whose loss is not finite (-1: none).

    Example:
        >>> loss = lambda params, task, key: (params * task, {"task": task})
        >>> value, metrics = vmap_mean(loss)(2.0, jnp.array([1.0, 3.0]), jax.random.key(0))
        >>> float(value), float(metrics["task"]), int(metrics["bad_task"])
        (4.0, 2.0, -1)
    """

    def mean(params: Params, tasks: Task, key: Key) -> tuple[Array, Metrics]:
        count = jax.tree.leaves(tasks)[0].shape[0]
        keys = jax.vmap(lambda t: jax.random.fold_in(key, t))(jnp.arange(count))
        losses, metrics = jax.vmap(loss, in_axes=(None, 0, 0))(params, tasks, keys)
        bad = ~jnp.isfinite(losses)
        metrics = jax.tree.map(lambda m: jnp.mean(m, axis=0), metrics)
        metrics["bad_task"] = jnp.where(bad.any(), jnp.argmax(bad), -1)
        return jnp.mean(losses), metrics

    return mean
