"""Support sets and queries from a memory bank of (x, y, task), whatever kind of bank it is."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax import losses
from lml_jax.lifelong.label_space import classes_in
from lml_jax.types import Batch, Key, MemoryBank, PyTree


class Drawn(NamedTuple):
    """From a bank: a support set, and queries that are not in it; `task` int [n] of the queries."""

    support: Batch
    query: Batch
    task: Array


def stored(bank: MemoryBank, memory: PyTree) -> tuple[Batch, Array]:
    """Everything that a bank stores, weight 0 where a slot is empty, and the task of each."""
    (x, y, *_, task), valid = bank.contents(memory)
    return Batch(x, y, valid.astype(jnp.float32)), task


def draw(
    bank: MemoryBank,
    memory: PyTree,
    finished: Array,
    boundless: Array,
    key: Key,
    *,
    classes: int,
    shots: int,
    n: int,
    every_task: bool,
) -> Drawn:
    """`shots` random examples of each class as support set, and queries among the others.

    Args:
        bank: of items (x, y, task).
        memory: its state.
        finished: tasks finished, int.
        boundless: bool; the queries are of any task, for a stream without boundaries.
        key: a typed key.
        classes: C.
        shots: support examples per class; fewer where the bank has fewer.
        n: queries, drawn with replacement from one task, which is drawn uniformly among the
            finished ones; 0 for none.
        every_task: every other example is a query, instead of n.

    Returns:
        A `Drawn`; examples of weight 0 are padding. The support set has C * shots examples.
    """
    key_rank, key_task, key_rows = jax.random.split(key, 3)
    every, task = stored(bank, memory)
    order, rank = _ranked(every, key_rank, classes)
    y = jnp.where(losses.weights_of(every) > 0, every.y, classes)
    ends = jnp.searchsorted(y[order], jnp.arange(classes + 1, dtype=y.dtype))
    at = ends[:-1, None] + jnp.arange(shots)[None]
    there = at < ends[1:, None]
    rows = order[jnp.where(there, at, 0).reshape(-1)]
    support = Batch(every.x[rows], every.y[rows], there.reshape(-1).astype(jnp.float32))
    rest = (losses.weights_of(every) > 0) & (rank >= shots)
    if not n:
        return Drawn(support, jax.tree.map(lambda leaf: leaf[:0], every), task[:0])
    if every_task:
        return Drawn(support, every._replace(weight=rest.astype(jnp.float32)), task)
    j = jax.random.randint(key_task, (), 0, jnp.maximum(finished, 1))
    own = rest & ((task == j) | boundless)
    # Inverse of the cumulative count: a categorical draw would cost N random numbers per query.
    total = jnp.cumsum(own)
    level = jax.random.randint(key_rows, (n,), 0, jnp.maximum(total[-1], 1))
    chosen = jnp.minimum(jnp.searchsorted(total, level, side="right"), total.shape[0] - 1)
    found = jnp.broadcast_to(total[-1] > 0, (n,)).astype(jnp.float32)
    query = Batch(every.x[chosen], every.y[chosen], found)
    return Drawn(support, query, task[chosen])


def _ranked(batch: Batch, key: Key, classes: int) -> tuple[Array, Array]:
    """Examples sorted by class, in random order within each: (order, rank within its class)."""
    real = losses.weights_of(batch) > 0
    y = jnp.where(real, batch.y, classes)
    order = jnp.lexsort((jax.random.uniform(key, y.shape), y))
    first = jnp.searchsorted(y[order], y[order])
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)) - first)
    return order, rank


def with_a_prototype(query: Batch, support: Batch, boundless: Array, classes: int) -> Batch:
    """The query set of a half batch, without examples of a class that the support set lacks.

    The halves of a batch are random: the only example of a class may be among the queries.
    """
    y = losses.as_labels(query.y)
    # A label outside the label space stays: the loss of it is not finite, and says so.
    there = classes_in(support, classes).at[y].get(mode="fill", fill_value=True)
    return query._replace(weight=jnp.where(boundless & ~there, 0.0, losses.labelled(query)))


def check_room(bank: MemoryBank, memory: PyTree, taken: int, retained: bool) -> None:
    room = jax.eval_shape(bank.contents, memory)[1].shape[0]
    if retained and room <= taken:
        raise ValueError(
            f"the bank has room for {room} examples, and a support set may take {taken} of them "
            "(shots x classes): no queries are left for the retention loss; expected a larger "
            "bank, fewer shots, or retention_weight=0"
        )
