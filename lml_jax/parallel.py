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
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from lml_jax.types import Key, Loss, Metrics, Params, PyTree, Task


class BatchLoss(Protocol):
    """The loss of a meta-batch: the scalar and metrics, with `bad_task` among them."""

    def __call__(  # noqa: D102
        self, params: Params, tasks: PyTree, key: Key, /, *shared: PyTree
    ) -> tuple[Array, Metrics]: ...


class Reduce(Protocol):
    """From the loss of one task to that of a meta-batch: it says where the tasks are computed."""

    def __call__(self, loss: Loss, /) -> BatchLoss: ...  # noqa: D102


Each = Callable[..., tuple[Array, Metrics]]  # (params, tasks, keys [T], *shared) -> each of [T]


def vmap_mean(loss: Loss, *, at_once: int | None = None) -> BatchLoss:
    """The mean of `loss` over the tasks of a meta-batch, by `vmap` on one device.

    L(theta) = 1/T sum_t L_t(theta). Task t receives `fold_in(key, t)`. The metrics are means over
    tasks, and `bad_task` is the first task whose loss is not finite (-1: none).

    Args:
        loss: of one task.
        at_once: tasks side by side, others after them; all by default. The mean can then be
            differentiated by the parameters alone, any number of times.

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
        found = _summed(side_by_side)(params, groups, shared)
        return jax.tree.map(lambda leaf: leaf.reshape(count, *leaf.shape[2:]), found)

    return few_at_once


def _summed(side_by_side: Each) -> Callable[..., tuple[Array, Metrics]]:
    """(params, groups, shared) -> losses and metrics [groups, at_once], one group after another.

    The gradient of the losses' mean to the parameters is added up group by group, so that nothing
    of a group outlives it. It is differentiable again, by the parameters alone: what is asked by
    the tasks or by what is shared is NaN, for none of it is kept.
    """

    @jax.custom_vjp
    def through(params: Params, groups: Any, shared: Any) -> tuple[Array, Metrics]:
        return jax.lax.map(lambda group: side_by_side(params, *group, *shared), groups)

    def forward(params: Params, groups: Any, shared: Any) -> tuple[tuple[Array, Metrics], Any]:
        def total(params: Params, group: Any) -> tuple[Array, tuple[Array, Metrics]]:
            found = side_by_side(params, *group, *shared)
            return found[0].sum(), found

        def add(sums: Params, group: Any) -> tuple[Params, tuple[Array, Metrics]]:
            grads, found = jax.grad(total, has_aux=True)(params, group)
            return jax.tree.map(jnp.add, sums, grads), found

        sums, found = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), groups)
        return found, (sums, groups, shared)

    def backward(saved: Any, cts: Any) -> tuple[Params, Any, Any]:
        sums, *rest = saved
        # Every task counts alike in their mean, so one factor says what all count.
        ct = jnp.mean(cts[0])
        of_params = jax.tree.map(lambda g: g * ct.astype(g.dtype), sums)
        with jax.debug_nans(False):  # NaN is meant here, and dropped where nobody asks for it
            return (of_params, *map(_unknown, rest))

    through.defvjp(forward, backward)
    return through


def _unknown(tree: Any) -> Any:
    """A cotangent of NaN for every float in `tree`."""

    def of_leaf(leaf: Array) -> Any:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf * jnp.nan if floating else np.zeros(leaf.shape, jax.dtypes.float0)

    return jax.tree.map(of_leaf, tree)


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
