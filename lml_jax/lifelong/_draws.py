"""Batches from a bank of (x, y, task): all it holds, or a support set and queries."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax import losses
from lml_jax.memory import Bank, draw_each
from lml_jax.types import Batch, Key


class Drawn(NamedTuple):
    """From the bank: a support set, and queries of past tasks, `task` int [n] for each."""

    support: Batch
    query: Batch
    task: Array


def contents(bank: Bank) -> Batch:
    """All that a bank of (x, y, task) has room for, [C * capacity]; weight 0 where it is empty."""
    x, y, _ = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), bank.items)
    return without_gaps(Batch(x, y, bank.filled.reshape(-1).astype(float)))


def without_gaps(batch: Batch) -> Batch:
    """`batch` with repeats of the others, in turn, in place of what has weight 0, which it keeps.

    What a network sees besides real examples is then none of the zeros of an empty slot.

    Example:
        >>> batch = Batch(jnp.array([3.0, 0.0, 4.0, 0.0]), jnp.zeros(4, jnp.int32),
        ...               jnp.array([1.0, 0.0, 1.0, 0.0]))
        >>> without_gaps(batch).x.tolist(), without_gaps(batch).weight.tolist()
        ([3.0, 3.0, 4.0, 4.0], [1.0, 0.0, 1.0, 0.0])
    """
    full = losses.labelled(batch) > 0
    real = jnp.flatnonzero(full, size=len(full), fill_value=0)
    turn = (jnp.cumsum(~full) - 1) % jnp.maximum(full.sum(), 1)
    rows = jnp.where(full, jnp.arange(len(full)), real[turn])
    return Batch(batch.x[rows], batch.y[rows], batch.weight)


def draw(
    bank: Bank, finished: Array, key: Key, *, shots: int, n: int, every: bool, queries: bool
) -> Drawn:
    """A support set of `shots` samples a class of the bank, and queries that are not among them.

    With `every`, all other samples are queries; else n, with replacement, of one task that is
    drawn uniformly among those finished.
    """
    key_each, key_task, key_rows = jax.random.split(key, 3)
    capacity = bank.filled.shape[1]
    (x, y, task), valid = draw_each(bank, key_each, n=capacity if queries else shots)

    def flat(leaf: Array) -> Array:
        return leaf.reshape(-1, *leaf.shape[2:])

    def batch(part: slice) -> Batch:
        return Batch(
            flat(x[:, part]), flat(y[:, part]).astype(jnp.int32), flat(valid[:, part]).astype(float)
        )

    support, rest = batch(slice(0, shots)), batch(slice(shots, None))
    tasks = flat(task[:, shots:])
    if not queries or every:
        return Drawn(support, without_gaps(rest) if queries else rest, tasks)
    j = jax.random.randint(key_task, (), 0, jnp.maximum(finished, 1))
    of_j = (tasks == j) & (losses.labelled(rest) > 0)
    chosen = jax.random.categorical(key_rows, jnp.where(of_j, 0.0, -jnp.inf), shape=(n,))
    chosen = jnp.where(of_j.any(), chosen, 0)
    rest = jax.tree.map(lambda leaf: leaf[chosen], rest)
    found = jnp.broadcast_to(of_j.any(), (n,)).astype(float)
    return Drawn(support, rest._replace(weight=found), jnp.full(n, j))
