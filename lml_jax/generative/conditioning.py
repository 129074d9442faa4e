"""Codes of tasks and classes: what a generator is conditioned on and stores of the past."""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax.checks import concrete, known
from lml_jax.losses import labelled
from lml_jax.types import Batch, Key

Condition = Literal["class", "task", "both"]


class Codes(NamedTuple):
    """Codes `h` [C, k] of the classes of a task, of which those in `mask` bool [C] are present.

    A table of tasks has a leading axis [T] in both.
    """

    h: Array
    mask: Array


class Draw(NamedTuple):
    """n codes drawn from a table: code [n, k], label int [n], task int [n]; valid bool [n]."""

    h: Array
    y: Array
    task: Array
    valid: Array


def empty_table(tasks: int, classes: int, width: int) -> Codes:
    """A table with room for T tasks and no class in its mask.

    Example:
        >>> empty_table(2, 3, 4).h.shape
        (2, 3, 4)
    """
    return Codes(jnp.zeros((tasks, classes, width)), jnp.zeros((tasks, classes), bool))


def code_width(condition: Condition, *, tasks: int, classes: int) -> int:
    """Length k of a code.

    Raises:
        ValueError: for an unknown condition.

    Example:
        >>> code_width("both", tasks=5, classes=10)
        15
    """
    known(condition, get_args(Condition), what="condition")
    return {"class": classes, "task": tasks, "both": tasks + classes}[condition]


def one_hot(task: Array, batch: Batch, *, condition: Condition, tasks: int, classes: int) -> Codes:
    """One-hot codes of the classes that occur in a task's examples.

    Args:
        task: the task's number, int [], may be traced.
        batch: examples of the task; those of weight 0 or without a label do not count.
        condition: "class": the code of the class alone, for streams in which each class belongs to
            one task; "task": of the task alone, one distribution over all its classes; "both": the
            two side by side, for classes that return with other images.
        tasks: T.
        classes: C.

    Example:
        >>> batch = Batch(jnp.zeros((2, 1)), jnp.array([1, 1]))
        >>> codes = one_hot(jnp.array(0), batch, condition="class", tasks=3, classes=2)
        >>> codes.h.tolist(), codes.mask.tolist()
        ([[1.0, 0.0], [0.0, 1.0]], [False, True])
    """
    of_class = jnp.eye(classes)
    of_task = jnp.broadcast_to(jax.nn.one_hot(task, tasks), (classes, tasks))
    parts = {"class": [of_class], "task": [of_task], "both": [of_task, of_class]}
    where = jnp.where(labelled(batch) > 0, batch.y.astype(jnp.int32), classes)
    mask = jnp.zeros(classes, bool).at[where].set(True, mode="drop")
    return Codes(jnp.concatenate(parts[condition], axis=1), mask)


def code_of_label(h: Array, y: Array) -> Array:
    """The code of each label: rows of h [C, k] for y int [n]; row 0 where y = -1.

    NaN for a label above C-1, so that the update is refused instead of training another class.

    Example:
        >>> code_of_label(jnp.eye(2), jnp.array([1, -1, 2])).tolist()
        [[0.0, 1.0], [1.0, 0.0], [nan, nan]]
    """
    return h.at[jnp.maximum(y, 0)].get(mode="fill", fill_value=jnp.nan)


def draw(table: Codes, key: Key, *, n: int) -> Draw:
    """n codes of a table [T, C]: each task with equal probability, then each class of the task.

    Systematic sampling: of k equally likely codes each is drawn n/k times, rounded up or down.
    From an empty table every draw is invalid, and its code is 0.

    Example:
        >>> table = Codes(jnp.eye(4).reshape(2, 2, 4), jnp.array([[True, True], [False, True]]))
        >>> drawn = draw(table, jax.random.key(0), n=8)
        >>> drawn.task.tolist(), drawn.y.tolist()
        ([0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1, 1])
    """
    count = jnp.maximum(table.mask.sum(axis=1, keepdims=True), 1)
    share = table.mask.astype(float) / count.astype(float)
    total = jnp.cumsum(share.reshape(-1))
    position = (jnp.arange(n).astype(float) + jax.random.uniform(key)) / n * total[-1]
    # Rounding up to the very end would pick what comes after the last code.
    position = jnp.minimum(position, total[-1] * (1 - 1e-6))
    unit = jnp.minimum(jnp.searchsorted(total, position, side="right"), total.shape[0] - 1)
    task, y = jnp.divmod(unit, table.mask.shape[1])
    valid = jnp.broadcast_to(total[-1] > 0, (n,))
    return Draw(table.h[task, y], y.astype(jnp.int32), task.astype(jnp.int32), valid)


def as_table(codes: Codes) -> Codes:
    """A table of one task."""
    return jax.tree.map(lambda leaf: leaf[None], codes)


def check_learned(codes: Codes, learned: Array) -> None:
    """Raise unless `codes` asks only for what was `learned` bool [C]; inside jit nothing is known.

    Raises:
        ValueError: for no class at all, or a class that was never learned, naming it.
    """
    known_now = concrete(codes.mask, learned)
    if known_now is None:
        return
    mask, learned = known_now
    if not mask.any():
        raise ValueError("the code has no class in its mask, expected at least one")
    unknown = np.flatnonzero(mask & ~learned).tolist()
    if unknown:
        there = np.flatnonzero(learned).tolist()
        raise ValueError(f"classes {unknown} were never learned, expected some of {there}")


def check_room(table: Codes, finished: Array) -> None:
    """Raise unless `table` has a row for another task; inside jit nothing is known.

    Raises:
        ValueError: naming the number of rows.
    """
    known_now, rows = concrete(finished), table.mask.shape[0]
    if known_now is not None and int(known_now[0]) >= rows:
        raise ValueError(f"there was room for {rows} tasks, expected no more")


def check_count(n: int) -> None:
    """Raise ValueError for fewer than one sample."""
    if n < 1:
        raise ValueError(f"expected at least 1 generated sample, got n = {n}")
