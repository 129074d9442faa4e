"""Draw from a bank and insert into it in one compiled step, without a copy of the bank."""

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.types import Key, MemoryBank, PyTree


def sample_then_insert(
    bank: MemoryBank,
    memory: PyTree,
    batch: PyTree,
    key: Key,
    *,
    n: int,
    where: Array | None = None,
    weights: Array | None = None,
    group: Array | int | None = None,
) -> tuple[PyTree, PyTree, Array]:
    """`bank.sample`, then `bank.insert`: what is drawn was stored before the batch came.

    Inside one jit XLA may run the two in any order, and copies the whole bank to be safe. Here the
    insertion waits for what was drawn, so that a donated bank is written in place. A train step
    that stores only where its update was accepted, `where=trained.bad_step < 0`, waits by itself.

    Args:
        bank: any bank.
        memory: its state; to be donated.
        batch: items to insert.
        key: a typed key.
        n: items to draw.
        where: bool [m], which items of the batch are offered; None: all.
        weights: as in `memory.sample`.
        group: as in `memory.sample`.

    Returns:
        The new state, the items drawn, and which of them are valid, bool [n].

    Example:
        >>> from lml_jax.memory import fifo
        >>> bank = fifo(2)
        >>> memory = bank.insert(bank.init(jnp.zeros(())), jnp.ones(2), jax.random.key(0))
        >>> memory, drawn, valid = sample_then_insert(
        ...     bank, memory, jnp.array([3.0, 4.0]), jax.random.key(0), n=2)
        >>> drawn.tolist(), memory.items.tolist()
        ([1.0, 1.0], [[3.0, 4.0]])
    """
    key_sample, key_insert = jax.random.split(key)
    items, valid = bank.sample(memory, key_sample, n=n, weights=weights, group=group)
    offered = jnp.ones(jax.tree.leaves(batch)[0].shape[0], bool) if where is None else where
    # Always true; but to know it, everything that was drawn must have been read.
    read = sum(jnp.sum(leaf.astype(jnp.int32)) for leaf in jax.tree.leaves(items))
    done = (jnp.sum(valid.astype(jnp.int32)) >= 0) | (read > 0)
    return bank.insert(memory, batch, key_insert, offered & done), items, valid
