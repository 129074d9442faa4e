"""A run at every combination of some settings, as one program."""

from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from lml_jax.checks import check_positive
from lml_jax.types import PyTree


class Swept(Protocol):
    """A pure function of settings that are numbers, or keys, each given by its name."""

    def __call__(self, **settings: Array) -> PyTree: ...  # noqa: D102


def sweep(run: Swept, *, at_once: int | None = None, **grid: ArrayLike) -> PyTree:
    """`run` at every combination of its settings, compiled once.

    Args:
        run: a pure function; it builds its learner inside, so that the settings can be mapped.
            Whatever is a number in a formula may be: a step size, a decay, a weight, the key. A
            size may not: a width, a number of steps.
        at_once: combinations side by side, others after them, to bound the memory; all by default.
        **grid: the values of each setting, [n] or an array of n keys.

    Returns:
        What `run` returns, each array with one leading axis for each setting, in their order.

    Raises:
        ValueError: for no setting, or one without a list of values.

    Example:
        >>> found = sweep(lambda rate, decay: rate + decay,
        ...               rate=jnp.array([0.0, 1.0]), decay=jnp.array([1.0, 2.0, 3.0]))
        >>> found.tolist()
        [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]
    """
    values = {name: jnp.asarray(each) for name, each in grid.items()}
    shapes = {name: each.shape for name, each in values.items()}
    if not values or any(len(shape) == 0 or shape[0] == 0 for shape in shapes.values()):
        raise ValueError(f"expected a list of values for each setting, got shapes {shapes}")
    sizes = [shape[0] for shape in shapes.values()]
    places = [index.reshape(-1) for index in jnp.indices(sizes)]
    every = {name: each[i] for (name, each), i in zip(values.items(), places, strict=True)}
    runs = places[0].size
    check_positive(at_once=runs if at_once is None else at_once)

    @jax.jit
    def mapped(every: dict[str, Array]) -> PyTree:
        return jax.lax.map(lambda one: run(**one), every, batch_size=min(at_once or runs, runs))

    return jax.tree.map(lambda leaf: leaf.reshape(*sizes, *leaf.shape[1:]), mapped(every))
