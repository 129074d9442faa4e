"""Memory banks of fixed capacity, as immutable pytrees.

`insert` and `sample` run inside jit, scan and vmap; nothing is ever resized.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.types import Key, MemoryBank


class Reservoir(NamedTuple):
    """State of `reservoir`: the items, and how many were offered so far."""

    items: Any  # every leaf [capacity, ...]
    seen: Array  # int32


def reservoir(capacity: int) -> MemoryBank:
    """A uniform sample, without replacement, of everything ever inserted.

    Item t (t = 0, 1, ...) takes slot t while there is room, and then slot s ~ U{0..t} if
    s < capacity: after t items each of them is in the bank with probability capacity / t.

    `init(example_item)`, `insert(bank, batch, key, where=None)` with every leaf of `batch`
    [n, ...] and `where` bool [n] (False: not offered), `sample(bank, key, *, n)` -> (batch, valid
    bool [n]), with replacement; an empty bank answers with zeros and `valid` False.

    Raises:
        ValueError: for a capacity below 1.

    Example:
        >>> bank = reservoir(2)
        >>> state = bank.init(jnp.zeros(()))
        >>> state = bank.insert(state, jnp.array([3.0, 4.0]), jax.random.key(0))
        >>> state.items.tolist(), int(state.seen)
        ([3.0, 4.0], 2)

    Source:
        Vitter. Random Sampling with a Reservoir, 1985, algorithm R.
    """
    if capacity < 1:
        raise ValueError(f"the capacity of a bank must be at least 1, got {capacity}")

    def init(example_item: Any) -> Reservoir:
        def zeros(leaf: Any) -> Array:
            leaf = jnp.asarray(leaf)
            return jnp.zeros((capacity, *leaf.shape), leaf.dtype)

        return Reservoir(jax.tree.map(zeros, example_item), jnp.zeros((), jnp.int32))

    def insert(bank: Reservoir, batch: Any, key: Key, where: Array | None = None) -> Reservoir:
        _check_items(bank, batch)
        n = jax.tree.leaves(batch)[0].shape[0]
        where = jnp.ones(n, bool) if where is None else where
        t = bank.seen + jnp.cumsum(where) - where  # how many came before each item
        draw = jnp.floor(jax.random.uniform(key, (n,)) * (t + 1)).astype(jnp.int32)
        slot = jnp.where(t < capacity, t, draw)
        slot = jnp.where(where, slot, capacity)
        # Of several items bound for one slot the last stays, as if they had come one by one; a
        # scatter does not promise that, so all but the last are sent out of bounds. Sorted by
        # slot, an item is the last of its slot if the next item has another.
        order = jnp.argsort(slot, stable=True)
        last = jnp.append(jnp.diff(slot[order]) != 0, True)
        slot = jnp.where(jnp.zeros(n, bool).at[order].set(last), slot, capacity)
        items = jax.tree.map(lambda b, x: b.at[slot].set(x, mode="drop"), bank.items, batch)
        return Reservoir(items, bank.seen + jnp.sum(where, dtype=jnp.int32))

    def sample(bank: Reservoir, key: Key, *, n: int) -> tuple[Any, Array]:
        size = jnp.minimum(bank.seen, capacity)
        rows = jax.random.randint(key, (n,), 0, jnp.maximum(size, 1))
        batch = jax.tree.map(lambda b: b[rows], bank.items)
        return batch, jnp.broadcast_to(size > 0, (n,))

    return MemoryBank(init, insert, sample)


def _check_items(bank: Reservoir, batch: Any) -> None:
    """Raise unless `batch` is made of the bank's items: same structure, shapes and types."""
    want: Any = jax.tree.structure(bank.items)
    got: Any = jax.tree.structure(batch)
    if want != got:
        raise ValueError(f"items of structure {got} do not fit a bank of {want}")
    pairs = zip(jax.tree.leaves(bank.items), jax.tree.leaves(batch), strict=True)
    for stored, new in pairs:
        if stored.shape[1:] != new.shape[1:] or stored.dtype != new.dtype:
            raise ValueError(
                f"items of shape {new.shape[1:]} and type {new.dtype} do not fit a bank of "
                f"shape {stored.shape[1:]} and type {stored.dtype}"
            )
