"""Memory banks of fixed capacity, as immutable pytrees.

A bank is G groups of `capacity` slots: one group in a plain bank, one a class in a class-balanced
one, one a task in a task-indexed one. All run inside jit, scan and vmap, keep the items' types and
never resize. Where the state is donated, `jax.jit(bank.insert, donate_argnums=0)`, items are
written in place, at the cost of the batch alone. So too in one jit that inserts and then samples;
for the other order, see `sample_then_insert`.
"""

from operator import itemgetter
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.checks import known
from lml_jax.memory.sampling import sample
from lml_jax.memory.slots import Bank, Of, contents, empty_bank, offered_items
from lml_jax.types import Key, MemoryBank, PyTree

RuleName = Literal["reservoir", "fifo"]


class Rule(Protocol):
    """The slot that item t of a group takes, int [n]; at or past the capacity: it is not stored."""

    def __call__(self, t: Array, capacity: int, key: Key, /) -> Array: ...  # noqa: D102


# (t, capacity, key) -> the slot that item t takes; past the end, none.
RULES: dict[str, Rule] = {
    "fifo": lambda t, capacity, key: t % capacity,
    "reservoir": lambda t, capacity, key: jnp.where(
        t < capacity, t, jax.random.randint(key, t.shape, 0, t + 1)
    ),
}


def fifo(capacity: int) -> MemoryBank:
    """The last `capacity` items: item t (t = 0, 1, ...) takes slot t mod capacity.

    `init(example_item)` makes zeros. `insert(bank, batch, key, where=None)` takes leaves [n, ...]
    and `where` bool [n] (False: not offered). `sample` is `memory.sample`.

    Raises:
        ValueError: for a capacity below 1; in `insert`, for no items, or items that do not fit.

    Example:
        >>> bank = fifo(2)
        >>> state = bank.init(jnp.zeros(()))
        >>> bank.insert(state, jnp.array([3.0, 4.0, 5.0]), jax.random.key(0)).items.tolist()
        [[5.0, 4.0]]
    """
    return _bank("fifo", capacity)


def reservoir(capacity: int) -> MemoryBank:
    """A uniform sample, without replacement, of everything ever inserted.

    Item t (t = 0, 1, ...) takes slot t while there is room, and then slot s ~ U{0..t} if
    s < capacity: after t items each of them is in the bank with probability capacity / t.
    Its functions and errors are those of `fifo`.

    Example:
        >>> bank = reservoir(2)
        >>> state = bank.init(jnp.zeros(()))
        >>> state = bank.insert(state, jnp.array([3.0, 4.0]), jax.random.key(0))
        >>> state.items.tolist(), state.seen.tolist()
        ([[3.0, 4.0]], [2])

    Source:
        Vitter. Random Sampling with a Reservoir, 1985, algorithm R.
    """
    return _bank("reservoir", capacity)


def class_balanced(
    per_class: int, *, classes: int, label_of: Of = itemgetter(1), rule: RuleName = "reservoir"
) -> MemoryBank:
    """As many slots for each of C classes, whatever the stream brings of it.

    `sample` draws a class, uniformly among those that hold something, then one of its items.
    `label_of` takes the labels int [n] out of a batch; by default they are the second field, y of
    `Batch` and of (x, y). Within a class, `rule` is "reservoir" or "fifo".

    Raises:
        ValueError: as in `fifo`; for an unknown rule; in `insert`, for labels outside 0..C-1 where
            their values are known. Inside jit such items are not stored.

    Example:
        >>> bank = class_balanced(2, classes=3)
        >>> state = bank.init((jnp.zeros(()), jnp.array(0)))
        >>> batch = (jnp.array([3.0, 4.0, 5.0]), jnp.array([0, 2, 2]))
        >>> bank.insert(state, batch, jax.random.key(0)).items[0].tolist()
        [[3.0, 0.0], [0.0, 0.0], [4.0, 5.0]]

    Source:
        Chaudhry et al. On Tiny Episodic Memories in Continual Learning, 2019 (there by fifo).
    """
    return _bank(rule, per_class, classes, label_of, "labels")


def task_indexed(
    per_task: int, *, tasks: int, task_of: Of = itemgetter(-1), rule: RuleName = "reservoir"
) -> MemoryBank:
    """A bank of its own for each task, from which tasks are drawn by given weights.

    `sample(..., weights=w)` draws task j with probability w_j / sum_k w_k over the tasks that hold
    something, `sample(..., group=j)` takes task j. By default the task is the last field of an
    item, as in (x, y, task). The rest, and the errors, are as in `class_balanced`.

    Example:
        >>> bank = task_indexed(2, tasks=3)
        >>> state = bank.init((jnp.zeros(()), jnp.array(0)))
        >>> batch = (jnp.array([3.0, 4.0]), jnp.array([0, 2]))
        >>> state = bank.insert(state, batch, jax.random.key(0))
        >>> w = jnp.array([0.0, 1.0, 0.5])  # task 1 holds nothing
        >>> (x, task), valid = bank.sample(state, jax.random.key(0), n=2, weights=w)
        >>> x.tolist(), task.tolist(), valid.tolist()
        ([4.0, 4.0], [2, 2], [True, True])
    """
    return _bank(rule, per_task, tasks, task_of, "tasks")


def _bank(
    rule: str, capacity: int, groups: int = 1, group_of: Of | None = None, what: str = "groups"
) -> MemoryBank:
    """A bank whose item t, counted within its group, takes the slot that `rule` says."""
    slot_of = RULES[known(rule, RULES, what="rule of a bank")]

    def insert(bank: Bank, batch: PyTree, key: Key, where: Array | None = None) -> Bank:
        batch, group = offered_items(bank, batch, where, group_of, what)
        groups = len(bank.seen)
        t = bank.seen.at[group].get(mode="clip") + _earlier(group)
        slot = slot_of(t, capacity, key)
        # Of several items bound for one slot the last stays, as if they had come one by one; a
        # scatter does not promise that, so the others, like what is not stored, go out of bounds.
        place = jnp.where((group < groups) & (slot < capacity), group * capacity + slot, -1)
        last = _earlier(place[::-1])[::-1] == 0
        row = jnp.where(last & (place >= 0), group, groups)
        items = jax.tree.map(
            lambda stored, new: stored.at[row, slot].set(new, mode="drop"), bank.items, batch
        )
        return Bank(items, bank.seen.at[group].add(1, mode="drop"))

    by_task = what == "tasks"
    return MemoryBank(empty_bank(capacity, groups), insert, sample, contents, by_task)


def _earlier(values: Array) -> Array:
    """How many items before each of int [n] have the same value."""
    order = jnp.argsort(values, stable=True)
    at = jnp.arange(len(values))
    starts = jnp.append(True, jnp.diff(values[order]) != 0)
    return jnp.zeros_like(at).at[order].set(at - jax.lax.cummax(jnp.where(starts, at, 0)))
