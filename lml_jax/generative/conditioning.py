"""Codes of tasks and classes: what a generator is conditioned on, and what it keeps of the past."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax.checks import concrete, known
from lml_jax.losses import labelled
from lml_jax.types import Batch, Key, Task

CONDITIONS = ("class", "task", "both")


class Codes(NamedTuple):
    """Codes `h` [C, k] of the classes of a task, of which those in `mask` bool [C] are there.

    A table of tasks has a leading axis [T] in both.
    """

    h: Array
    mask: Array


class Draw(NamedTuple):
    """Drawn from a table: code [n, k], label int [n], task int [n]; valid bool [n]."""

    h: Array
    y: Array
    task: Array
    valid: Array


def empty_table(tasks: int, classes: int, width: int) -> Codes:
    """A table for T tasks with nothing in it."""
    return Codes(jnp.zeros((tasks, classes, width)), jnp.zeros((tasks, classes), bool))


def code_width(condition: str, *, tasks: int, classes: int) -> int:
    """Length k of a code.

    Raises:
        ValueError: for an unknown condition.
    """
    known(condition, CONDITIONS, what="condition")
    return {"class": classes, "task": tasks, "both": tasks + classes}[condition]


def one_hot(task: Array, batch: Batch, *, condition: str, tasks: int, classes: int) -> Codes:
    """One-hot codes of the classes in `batch`, the examples of a task (int, may be traced).

    "class": of the class alone, for streams in which each class belongs to one task; "task": of
    the task alone, one distribution over all its classes; "both": the two side by side, for
    classes that come back looking different.

    Example:
        >>> batch = Batch(jnp.zeros((2, 1)), jnp.array([1, 1]))
        >>> codes = one_hot(jnp.array(0), batch, condition="class", tasks=3, classes=2)
        >>> codes.h.tolist(), codes.mask.tolist()
        ([[1.0, 0.0], [0.0, 1.0]], [False, True])
    """
    of_class = jnp.eye(classes)
    of_task = jnp.broadcast_to(jax.nn.one_hot(task, tasks), (classes, tasks))
    parts = {"class": [of_class], "task": [of_task], "both": [of_task, of_class]}
    where = jnp.where(labelled(batch) > 0, batch.y, classes)
    mask = jnp.zeros(classes, bool).at[where].set(True, mode="drop")
    return Codes(jnp.concatenate(parts[condition], axis=1), mask)


def draw(table: Codes, key: Key, *, n: int) -> Draw:
    """n codes of a table [T, C]: every task there as likely, and every class within its task.

    Drawn systematically: of k equally likely codes each comes n/k times, rounded up or down.

    Example:
        >>> table = Codes(jnp.eye(4).reshape(2, 2, 4), jnp.array([[True, True], [False, True]]))
        >>> drawn = draw(table, jax.random.key(0), n=8)
        >>> drawn.task.tolist(), drawn.y.tolist()
        ([0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1, 1])
    """
    share = table.mask / jnp.maximum(table.mask.sum(axis=1, keepdims=True), 1)
    total = jnp.cumsum(share.reshape(-1))
    level = (jnp.arange(n) + jax.random.uniform(key)) / n * total[-1]
    # Rounding up to the very end would pick what comes after the last code.
    level = jnp.minimum(level, total[-1] * (1 - 1e-6))
    unit = jnp.minimum(jnp.searchsorted(total, level, side="right"), total.shape[0] - 1)
    task, y = jnp.divmod(unit, table.mask.shape[1])
    valid = jnp.broadcast_to(total[-1] > 0, (n,))
    return Draw(table.h[task, y], y.astype(jnp.int32), task.astype(jnp.int32), valid)


def together(tasks: Task) -> Batch:
    """Support and query sets of a meta-batch as one set of examples [n, ...].

    Example:
        >>> part = Batch(jnp.zeros((4, 6, 2)), jnp.zeros((4, 6), jnp.int32))
        >>> together(Task(part, part)).x.shape
        (48, 2)
    """

    def rows(part: Batch) -> Batch:
        weight = jnp.ones(part.y.shape) if part.weight is None else part.weight
        return jax.tree.map(
            lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), Batch(*part[:2], weight)
        )

    return jax.tree.map(
        lambda a, b: jnp.concatenate([a, b]), rows(tasks.support), rows(tasks.query)
    )


def as_float(x: Array) -> Array:
    """Images of uint8 as floats in 0..1, which generated ones are; floats as they are."""
    return x.astype(float) / 255 if x.dtype == jnp.uint8 else x


def joined(real: Batch, generated: Batch, weight: float | Array) -> Batch:
    """One batch of both, in which the generated examples together weigh `weight` x the real ones.

    Example:
        >>> real = Batch(jnp.zeros((4, 1)), jnp.zeros(4, jnp.int32))
        >>> generated = Batch(jnp.ones((2, 1)), jnp.zeros(2, jnp.int32))
        >>> joined(real, generated, 0.5).weight.tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    mass_real, mass = labelled(real), labelled(generated)
    total = jnp.sum(mass)
    mass = mass * weight * jnp.sum(mass_real) / jnp.where(total > 0, total, 1.0)
    return Batch(
        jnp.concatenate([real.x, generated.x]),
        jnp.concatenate([real.y, generated.y]),
        jnp.concatenate([mass_real, mass]),
    )


def as_table(codes: Codes) -> Codes:
    """A table of one task."""
    return jax.tree.map(lambda leaf: leaf[None], codes)


def check_learned(codes: Codes, learned: Array) -> None:
    """Raise unless `codes` asks only for what was `learned` bool [C]; inside jit nothing can.

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
    """Raise unless `table` has a row for another task; inside jit nothing can.

    Raises:
        ValueError: naming the number of rows.
    """
    known_now, rows = concrete(finished), table.mask.shape[0]
    if known_now is not None and int(known_now[0]) >= rows:
        raise ValueError(f"there was room for {rows} tasks, expected no more")


def check_range(x: Array, span: tuple[float, float]) -> None:
    """Raise unless `x` is uint8, or floats in the declared range; inside jit no value can be seen.

    Raises:
        ValueError: naming the range found, or a dtype whose range is not known.
    """
    if x.dtype == jnp.uint8:
        return
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"expected images of uint8, or floats in {span[0]}..{span[1]}; got {x.dtype.name}"
        )
    known_now = concrete(x)
    if known_now is None or x.size == 0:
        return
    low, high = float(known_now[0].min()), float(known_now[0].max())
    if not (span[0] <= low and high <= span[1]):
        raise ValueError(
            f"examples are in {low:g}..{high:g}, expected the declared range {span[0]}..{span[1]}"
        )
