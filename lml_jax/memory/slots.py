"""The slots of a bank: its state, what it holds, and the items that are offered to it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax.checks import concrete
from lml_jax.types import PyTree

Of = Callable[[PyTree], Array]  # a batch of items -> something of each, [n, ...]


class Bank(NamedTuple):
    """State of every bank; G and the capacity are read off the shapes."""

    items: PyTree  # every leaf [G, capacity, ...], filled from slot 0 on
    seen: Array  # int32 [G], items offered so far; below 2^31
    sums: PyTree = None  # float32 [G, d], of the features offered so far: `herding` alone

    @property
    def filled(self) -> Array:
        """Which slots hold an item, bool [G, capacity]."""
        slots = jax.tree.leaves(self.items)[0].shape[1]
        return jnp.arange(slots)[None] < self.seen[:, None]


def contents(bank: Bank) -> tuple[PyTree, Array]:
    """Every slot of a bank and whether it holds an item: (leaves [G * capacity, ...], bool).

    Example:
        >>> from lml_jax.memory import fifo
        >>> bank = fifo(3)
        >>> state = bank.insert(bank.init(jnp.zeros(())), jnp.array([3.0, 4.0]), jax.random.key(0))
        >>> items, valid = bank.contents(state)
        >>> items.tolist(), valid.tolist()
        ([3.0, 4.0, 0.0], [True, True, False])
    """
    items = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), bank.items)
    return items, bank.filled.reshape(-1)


def empty_bank(capacity: int, groups: int) -> Callable[[PyTree], Bank]:
    """`init` of a bank of this size."""
    if min(capacity, groups) < 1:
        raise ValueError(f"a bank's capacity and groups must be >= 1, got {capacity} and {groups}")

    def init(example_item: PyTree) -> Bank:
        like = jax.tree.map(jnp.asarray, example_item)
        items = jax.tree.map(lambda x: jnp.zeros((groups, capacity, *x.shape), x.dtype), like)
        return Bank(items, jnp.zeros(groups, jnp.int32))

    return init


def offered_items(
    bank: Bank, batch: PyTree, where: Array | None, group_of: Of | None, what: str
) -> tuple[PyTree, Array]:
    """The batch as arrays, and the group of each item, int [n]; G if it is not to be stored."""
    batch = jax.tree.map(jnp.asarray, batch)
    got, want = (str(jax.tree.structure(tree)) for tree in (batch, bank.items))
    if want != got:
        raise ValueError(f"items of structure {got} do not fit a bank of {want}")
    leaves = jax.tree.leaves(batch)
    n = next((leaf.shape[0] for leaf in leaves if leaf.ndim), 0)
    for stored, new in zip(jax.tree.leaves(bank.items), leaves, strict=True):
        if new.shape != (n, *stored.shape[2:]) or new.dtype != stored.dtype:
            wanted = ", ".join(["n", *map(str, stored.shape[2:])]) + "," * (stored.ndim == 2)
            raise ValueError(
                f"a leaf of shape {new.shape} and type {new.dtype} does not fit the bank: expected "
                f"shape ({wanted}) with the same n (here {n}) in every leaf, of {stored.dtype}"
            )
    if n < 1:
        raise ValueError("a batch to insert must have at least 1 item, got 0")
    offered = jnp.ones(n, bool) if where is None else jnp.asarray(where)
    group = jnp.zeros(n, jnp.int32) if group_of is None else jnp.asarray(group_of(batch))
    for name, array, kind in (("where", offered, np.bool), (what, group, np.integer)):
        if array.shape != (n,) or not jnp.issubdtype(array.dtype, kind):
            found = f"{array.dtype} {list(array.shape)}"
            raise ValueError(f"{name} must be {kind.__name__} [{n}], got {found}")
    return batch, inside(group, offered, len(bank.seen), what)


def inside(group: Array, counts: Array | bool, groups: int, what: str) -> Array:
    """`group` int [n] where it `counts` and is in 0..G-1; else G, which is out of bounds."""
    group = group.astype(jnp.int32)  # a uint8 could not hold G
    inside = (group >= 0) & (group < groups)
    known_now = concrete(group, counts & ~inside)
    if known_now is not None and known_now[1].any():
        found = known_now[0][known_now[1]][0]
        raise ValueError(f"{what} must be in 0..{groups - 1}, got {found}")
    return jnp.where(counts & inside, group, groups)
