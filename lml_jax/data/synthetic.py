"""Tasks made from nothing."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lml_jax.types import Batch, Key, Task


def sinusoids(*, tasks: int, shots: int, queries: int) -> Callable[[Any, Key], Task]:
    """Regression tasks y = A sin(x - p): A ~ U[0.1, 5], p ~ U[0, pi], x ~ U[-5, 5].

    Args:
        tasks: meta-batch, the leading axis.
        shots: K, support points of each task.
        queries: query points of each task.

    Returns:
        (data, key) -> tasks with x and y float [tasks, K, 1]; `data` is not used.

    Raises:
        ValueError: for a number below 1.

    Example:
        >>> sinusoids(tasks=25, shots=10, queries=10)((), jax.random.key(0)).support.x.shape
        (25, 10, 1)

    Source:
        Finn, Abbeel, Levine. Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks,
        2017, section 5.1.
    """
    if min(tasks, shots, queries) < 1:
        raise ValueError(
            f"tasks, shots and queries must be at least 1, got {tasks}, {shots} and {queries}"
        )

    def sample(data: Any, key: Key) -> Task:
        key_amplitude, key_phase, key_x = jax.random.split(key, 3)
        shape = (tasks, 1, 1)
        amplitude = jax.random.uniform(key_amplitude, shape, minval=0.1, maxval=5.0)
        phase = jax.random.uniform(key_phase, shape, minval=0.0, maxval=jnp.pi)
        x = jax.random.uniform(key_x, (tasks, shots + queries, 1), minval=-5.0, maxval=5.0)
        y = amplitude * jnp.sin(x - phase)
        return Task(Batch(x[:, :shots], y[:, :shots]), Batch(x[:, shots:], y[:, shots:]))

    return sample
