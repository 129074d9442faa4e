"""From the loss of one task to the loss of a meta-batch, on one device or many.

Each of these is a `reduce` for `train.make_train_step` and for every lifelong learner that has one.
Task t draws from `fold_in(key, t)` wherever it runs, so the result does not depend on the devices.
What a loss takes beside its task (a bank, say) is passed on as further arguments, the same for
every task: a function over devices may not close over what lies on them.

Tasks run side by side; with `at_once`, a few of them at a time, whose gradients are added up as
they come. That needs the memory of so many tasks alone, and on a CPU one task at a time stays in
the cache.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from lml_jax.types import Key, Loss, Metrics, Params, Task

BatchLoss = Callable[..., tuple[Array, Metrics]]  # (params, tasks, key, *shared)
Each = Callable[..., tuple[Array, Metrics]]  # (params, tasks, keys [T], *shared) -> each of [T]


def vmap_mean(loss: Loss, *, at_once: int | None = None) -> BatchLoss:
    """The mean of `loss` over the tasks of a meta-batch, by `vmap` on one device.

    L(theta) = 1/T sum_t L_t(theta). Task t receives `fold_in(key, t)`. The metrics are means over
    tasks, and `bad_task` is the first task whose loss is not finite (-1: none).

    Args:
        loss: of one task.
        at_once: tasks side by side, others after them; all by default.

    Raises:
        ValueError: when called, for tasks that `at_once` does not divide.

    Example:
        >>> loss = lambda params, task, key: (params * task, {"task": task})
        >>> value, metrics = vmap_mean(loss)(2.0, jnp.array([1.0, 3.0]), jax.random.key(0))
        >>> float(value), float(metrics["task"]), int(metrics["bad_task"])
        (4.0, 2.0, -1)
    """
    return _mean_of(_local(loss, at_once))


def shard_map_mean(
    loss: Loss, *, mesh: Mesh | None = None, at_once: int | None = None
) -> BatchLoss:
    """`vmap_mean` with the tasks spread over a mesh of devices, of one host or many.

    Each device adapts to its own tasks; the gradient is summed over devices once, in one piece.

    Args:
        loss: of one task.
        mesh: over all of whose axes the tasks are spread; all devices by default.
        at_once: tasks side by side on a device, as for `vmap_mean`.

    Raises:
        ValueError: when called, for tasks that the devices, or `at_once` on one, do not divide.

    Example:
        >>> loss = lambda params, task, key: (params * task, {"task": task})
        >>> value, _ = shard_map_mean(loss)(2.0, jnp.array([1.0, 3.0]), jax.random.key(0))
        >>> float(value)
        4.0
    """
    if mesh is None:
        mesh = Mesh(np.array(jax.devices()), "tasks")
    # Made anew, for the axes of `jax.make_mesh` expect tasks that are laid out over them already.
    mesh = Mesh(mesh.devices, mesh.axis_names)
    axes = mesh.axis_names

    def each(params: Params, tasks: Task, keys: Key, *shared: Any) -> tuple[Array, Metrics]:
        _check_divides(mesh.size, keys.shape[0], what="{} devices")
        # One vector, so that its gradient is one all-reduce and not one a leaf.
        flat, unravel = ravel_pytree(params)

        def local(tasks: Task, keys: Key, flat: Array, *shared: Any) -> tuple[Array, Metrics]:
            # Without the cast the inner gradient, of what all devices share, would be their sum.
            flat, shared = jax.lax.pcast((flat, shared), axes, to="varying")
            return _local(loss, at_once)(unravel(flat), tasks, keys, *shared)

        specs = (P(axes), P(axes), P(), *(P() for _ in shared))
        split = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(axes))
        return split(tasks, keys, flat, *shared)

    return _mean_of(each)


def pmap_mean(loss: Loss, *, devices: int | None = None, at_once: int | None = None) -> BatchLoss:
    """`vmap_mean` with the tasks spread over the devices of this host, by `pmap`.

    Args:
        loss: of one task.
        devices: how many; all of them by default.
        at_once: tasks side by side on a device, as for `vmap_mean`.

    Raises:
        ValueError: when called, for tasks that the devices, or `at_once` on one, do not divide.

    Example:
        >>> loss = lambda params, task, key: (params * task, {"task": task})
        >>> value, _ = pmap_mean(loss, devices=1)(2.0, jnp.array([1.0, 3.0]), jax.random.key(0))
        >>> float(value)
        4.0
    """
    chosen = jax.local_devices()[:devices]

    def each(params: Params, tasks: Task, keys: Key, *shared: Any) -> tuple[Array, Metrics]:
        count = keys.shape[0]
        _check_divides(len(chosen), count, what="{} devices")
        flat, unravel = ravel_pytree(params)

        def local(flat: Array, tasks: Task, keys: Key, *shared: Any) -> tuple[Array, Metrics]:
            return _local(loss, at_once)(unravel(flat), tasks, keys, *shared)

        def split(leaf: Array) -> Array:
            return leaf.reshape(len(chosen), -1, *leaf.shape[1:])

        axes = (None, 0, 0, *(None for _ in shared))
        mapped = jax.pmap(local, in_axes=axes, devices=chosen)
        found = mapped(flat, jax.tree.map(split, tasks), split(keys), *shared)
        return jax.tree.map(lambda leaf: leaf.reshape(count, *leaf.shape[2:]), found)

    return _mean_of(each)


def _local(loss: Loss, at_once: int | None) -> Each:
    """The tasks of one device."""

    def side_by_side(params: Params, tasks: Task, keys: Key, *shared: Any) -> tuple[Array, Metrics]:
        return jax.vmap(lambda task, key: loss(params, task, key, *shared))(tasks, keys)

    if at_once is None:
        return side_by_side

    def few_at_once(params: Params, tasks: Task, keys: Key, *shared: Any) -> tuple[Array, Metrics]:
        count = keys.shape[0]
        _check_divides(at_once, count, what="groups of {}")
        groups = jax.tree.map(
            lambda leaf: leaf.reshape(-1, at_once, *leaf.shape[1:]), (tasks, keys)
        )

        # Differentiated here, once and for all: what is outside must not do it again.
        fixed, shared = jax.lax.stop_gradient((params, shared))

        def total(params: Params, group: tuple[Task, Key]) -> tuple[Array, tuple[Array, Metrics]]:
            found = side_by_side(params, *group, *shared)
            return found[0].sum(), found

        def add(sums: Params, group: tuple[Task, Key]) -> tuple[Params, tuple[Array, Metrics]]:
            grads, found = jax.grad(total, has_aux=True)(fixed, group)
            return jax.tree.map(jnp.add, sums, grads), found

        sums, found = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, fixed), groups)
        losses, metrics = jax.tree.map(lambda leaf: leaf.reshape(count, *leaf.shape[2:]), found)
        return _with_gradient(params, losses, jax.tree.map(lambda g: g / count, sums)), metrics

    return few_at_once


@jax.custom_vjp
def _with_gradient(params: Params, losses: Array, mean: Params) -> Array:
    """The losses, whose mean has the gradient `mean`, found already, to the parameters."""
    return losses


def _forward(params: Params, losses: Array, mean: Params) -> tuple[Array, Any]:
    return losses, (losses, mean)


def _backward(saved: tuple[Array, Params], ct: Array) -> tuple[Params, Array, Params]:
    losses, mean = saved
    grads = jax.tree.map(lambda g: g * ct.sum().astype(g.dtype), mean)
    return grads, jnp.zeros_like(losses), jax.tree.map(jnp.zeros_like, mean)


_with_gradient.defvjp(_forward, _backward)


def _mean_of(each: Each) -> BatchLoss:
    def mean(params: Params, tasks: Task, key: Key, *shared: Any) -> tuple[Array, Metrics]:
        count = jax.tree.leaves(tasks)[0].shape[0]
        keys = jax.vmap(lambda t: jax.random.fold_in(key, t))(jnp.arange(count))
        losses, metrics = each(params, tasks, keys, *shared)
        # A minimum, which devices find together by one small reduction, where argmax gathers.
        first = jnp.min(jnp.where(jnp.isfinite(losses), count, jnp.arange(count)))
        metrics = jax.tree.map(lambda m: jnp.mean(m, axis=0), metrics)
        metrics["bad_task"] = jnp.where(first < count, first, -1)
        return jnp.mean(losses), metrics

    return mean


def _check_divides(parts: int, tasks: int, *, what: str) -> None:
    if parts < 1 or tasks % parts:
        raise ValueError(f"{tasks} tasks cannot be spread evenly over {what.format(parts)}")
