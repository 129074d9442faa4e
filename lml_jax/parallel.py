"""From the loss of one task to the loss of a meta-batch, on one device or many.

Each of these is a `reduce` for `train.make_train_step` and for every lifelong learner that has one.
Task t draws from `fold_in(key, t)` wherever it runs, so the result does not depend on the devices.
What a loss takes beside its task (a bank, say) is passed on as further arguments, the same for
every task: a function over devices may not close over what lies on them.
"""

import os
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
    return _mean_of(_local(loss))


def shard_map_mean(loss: Loss, *, mesh: Mesh | None = None) -> BatchLoss:
    """`vmap_mean` with the tasks spread over a mesh of devices, of one host or many.

    Each device adapts to its own tasks; the gradient is summed over devices once, in one piece.

    Args:
        loss: of one task.
        mesh: over all of whose axes the tasks are spread; all devices by default.

    Raises:
        ValueError: when called, for tasks that the devices do not divide.

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
        _check_divides(mesh.size, keys.shape[0])
        # One vector, so that its gradient is one all-reduce and not one a leaf.
        flat, unravel = ravel_pytree(params)

        def local(tasks: Task, keys: Key, flat: Array, *shared: Any) -> tuple[Array, Metrics]:
            # Without the cast the inner gradient, of what all devices share, would be their sum.
            flat, shared = jax.lax.pcast((flat, shared), axes, to="varying")
            return _local(loss)(unravel(flat), tasks, keys, *shared)

        specs = (P(axes), P(axes), P(), *(P() for _ in shared))
        split = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(axes))
        return split(tasks, keys, flat, *shared)

    return _mean_of(each)


def pmap_mean(loss: Loss, *, devices: int | None = None) -> BatchLoss:
    """`vmap_mean` with the tasks spread over the devices of this host, by `pmap`.

    Args:
        loss: of one task.
        devices: how many; all of them by default.

    Raises:
        ValueError: when called, for tasks that the devices do not divide.

    Example:
        >>> loss = lambda params, task, key: (params * task, {"task": task})
        >>> value, _ = pmap_mean(loss, devices=1)(2.0, jnp.array([1.0, 3.0]), jax.random.key(0))
        >>> float(value)
        4.0
    """
    chosen = jax.local_devices()[:devices]

    def each(params: Params, tasks: Task, keys: Key, *shared: Any) -> tuple[Array, Metrics]:
        count = keys.shape[0]
        _check_divides(len(chosen), count)
        flat, unravel = ravel_pytree(params)

        def local(flat: Array, tasks: Task, keys: Key, *shared: Any) -> tuple[Array, Metrics]:
            return _local(loss)(unravel(flat), tasks, keys, *shared)

        def split(leaf: Array) -> Array:
            return leaf.reshape(len(chosen), -1, *leaf.shape[1:])

        axes = (None, 0, 0, *(None for _ in shared))
        mapped = jax.pmap(local, in_axes=axes, devices=chosen)
        found = mapped(flat, jax.tree.map(split, tasks), split(keys), *shared)
        return jax.tree.map(lambda leaf: leaf.reshape(count, *leaf.shape[2:]), found)

    return _mean_of(each)


def one_device_per_core(cores: int | None = None) -> int:
    """Make each CPU core a device with one thread, for `shard_map_mean` and `pmap_mean`.

    Cores that adapt to tasks of their own keep more of themselves busy than cores that share the
    convolutions of one task. Call it before anything is computed: JAX reads it when it starts.

    Args:
        cores: how many, >= 1; None for all that this process may use.

    Returns:
        The number of devices.

    Raises:
        ValueError: for cores below 1.
        RuntimeError: if JAX has started already.

    Example:
        >>> from lml_jax import parallel
        >>> parallel.one_device_per_core(2)  # doctest: +SKIP
        2
    """
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if not cores or cores < 1:
        raise ValueError(f"cores must be at least 1, got {cores}")
    jax.config.update("jax_num_cpu_devices", cores)
    flag = "--xla_cpu_multi_thread_eigen=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    return cores


def _local(loss: Loss) -> Each:
    def each(params: Params, tasks: Task, keys: Key, *shared: Any) -> tuple[Array, Metrics]:
        return jax.vmap(lambda task, key: loss(params, task, key, *shared))(tasks, keys)

    return each


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


def _check_divides(devices: int, tasks: int) -> None:
    if tasks % devices:
        raise ValueError(f"{tasks} tasks cannot be spread evenly over {devices} devices")
