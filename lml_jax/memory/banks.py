"""Memory banks of fixed capacity, as immutable pytrees.

A bank is G groups of `capacity` slots: one group in a plain bank, one a class in a class-balanced
one, one a task in a task-indexed one. All run inside jit, scan and vmap, keep the items' types and
never resize. Where the state is donated, `jax.jit(bank.insert, donate_argnums=0)`, items are
written in place, at the cost of the batch alone. So too in one jit that inserts and then samples;
for the other order, see `sample_then_insert`.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax.checks import concrete, known
from lml_jax.types import Key, MemoryBank, PyTree

Of = Callable[[PyTree], Array]  # a batch of items -> something of each, [n, ...]
RuleName = Literal["reservoir", "fifo"]


class Rule(Protocol):
    """The slot that item t of a group takes, int [n]; at or past the capacity: it is not stored."""

    def __call__(self, t: Array, capacity: int, key: Key, /) -> Array: ...  # noqa: D102


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


def sample(
    bank: Bank,
    key: Key,
    *,
    n: int,
    weights: Array | None = None,
    group: Array | int | None = None,
) -> tuple[PyTree, Array]:
    """n items, with replacement, each of a group drawn anew: (leaves [n, ...], valid bool [n]).

    P(group g) = w_g / sum_h w_h over the groups that hold something; uniform within the group.
    Where there is nothing to draw, the item means nothing and `valid` is False.

    `weights` is w >= 0, float [G], 1 if None; `group`, int [] or [n], is taken instead of drawn.
    Inside jit a weight that is negative or nan counts as 0.

    Raises:
        ValueError: for n below 1, weights of another shape, both weights and a group, or a group
            that is no integer; where values are known, for a group outside 0..G-1, or weights that
            are negative or not finite.

    Example:
        >>> bank = reservoir(4)
        >>> sample(bank.init(jnp.zeros(())), jax.random.key(0), n=2)[1].tolist()
        [False, False]
    """
    if n < 1:
        raise ValueError(f"a sample must have at least 1 item, got n = {n}")
    if weights is not None and group is not None:
        raise ValueError("give weights to draw a group by, or the group: only one of the two")
    groups, capacity = jax.tree.leaves(bank.items)[0].shape[:2]
    size = jnp.minimum(bank.seen, capacity)
    key_group, key_slot = jax.random.split(key)
    if group is None:
        w = jnp.ones(groups) if weights is None else jnp.asarray(weights)
        if w.shape != (groups,):
            raise ValueError(f"weights must be of shape ({groups},), got {w.shape}")
        _check_weights(w)
        p = jnp.where((size > 0) & (w > 0), w, 0.0)
        drawn = jax.random.choice(key_group, groups, (n,), p=p)
        row = jnp.where(p.any(), drawn, groups)
    else:
        group = jnp.asarray(group)
        if not jnp.issubdtype(group.dtype, jnp.integer):
            raise ValueError(f"group must be an integer, got {group.dtype}")
        row = _inside(jnp.broadcast_to(group, (n,)), True, groups, "groups")
    held = size.at[row].get(mode="fill", fill_value=0)
    slot = jax.random.randint(key_slot, (n,), 0, jnp.maximum(held, 1))
    # Row and slot at once: to take out a group first would copy all of it.
    return jax.tree.map(lambda leaf: leaf.at[row, slot].get(mode="clip"), bank.items), held > 0


def draw_each(bank: Bank, key: Key, *, n: int) -> tuple[PyTree, Array]:
    """n items of every group, without replacement: (leaves [G, n, ...], valid bool [G, n]).

    A group that holds m < n gives each item once, and then `valid` is False. n is at most the
    capacity, else a ValueError. Every slot costs a random number, but only what is drawn is read.

    Example:
        >>> bank = class_balanced(2, classes=2)
        >>> state = bank.init((jnp.zeros(()), jnp.array(0)))
        >>> batch = (jnp.array([3.0, 4.0, 5.0]), jnp.array([0, 1, 1]))
        >>> state = bank.insert(state, batch, jax.random.key(0))
        >>> draw_each(state, jax.random.key(0), n=2)[1].tolist()
        [[True, False], [True, True]]
    """
    held = bank.filled
    groups, capacity = held.shape
    if not 1 <= n <= capacity:
        raise ValueError(f"n must be in 1..{capacity}, the slots of a group, got {n}")
    score = jnp.where(held, jax.random.uniform(key, held.shape), -1.0)
    slot = jax.lax.top_k(score, n)[1]
    return jax.tree.map(lambda b: b[jnp.arange(groups)[:, None], slot], bank.items), held[:, :n]


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


def contents(bank: Bank) -> tuple[PyTree, Array]:
    """Every slot of a bank and whether it holds an item: (leaves [G * capacity, ...], bool).

    Example:
        >>> bank = fifo(3)
        >>> state = bank.insert(bank.init(jnp.zeros(())), jnp.array([3.0, 4.0]), jax.random.key(0))
        >>> items, valid = bank.contents(state)
        >>> items.tolist(), valid.tolist()
        ([3.0, 4.0, 0.0], [True, True, False])
    """
    items = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), bank.items)
    return items, bank.filled.reshape(-1)


def _earlier(values: Array) -> Array:
    """How many items before each of int [n] have the same value."""
    order = jnp.argsort(values, stable=True)
    at = jnp.arange(len(values))
    starts = jnp.append(True, jnp.diff(values[order]) != 0)
    return jnp.zeros_like(at).at[order].set(at - jax.lax.cummax(jnp.where(starts, at, 0)))


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
    return batch, _inside(group, offered, len(bank.seen), what)


def _check_weights(w: Array) -> None:
    known_now = concrete(w)
    if known_now is not None and not (np.isfinite(known_now[0]) & (known_now[0] >= 0)).all():
        raise ValueError(f"weights must be finite and at least 0, got {known_now[0].tolist()}")


def _inside(group: Array, counts: Array | bool, groups: int, what: str) -> Array:
    """`group` int [n] where it `counts` and is in 0..G-1; else G, which is out of bounds."""
    group = group.astype(jnp.int32)  # a uint8 could not hold G
    inside = (group >= 0) & (group < groups)
    known_now = concrete(group, counts & ~inside)
    if known_now is not None and known_now[1].any():
        found = known_now[0][known_now[1]][0]
        raise ValueError(f"{what} must be in 0..{groups - 1}, got {found}")
    return jnp.where(counts & inside, group, groups)
