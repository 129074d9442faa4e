"""Draw items from a bank: with replacement, or some of every group without."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax.checks import concrete
from lml_jax.memory.slots import Bank, inside
from lml_jax.types import Key, PyTree


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
        >>> from lml_jax.memory import reservoir
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
        row = inside(jnp.broadcast_to(group, (n,)), True, groups, "groups")
    held = size.at[row].get(mode="fill", fill_value=0)
    slot = jax.random.randint(key_slot, (n,), 0, jnp.maximum(held, 1))
    # Row and slot at once: to take out a group first would copy all of it.
    return jax.tree.map(lambda leaf: leaf.at[row, slot].get(mode="clip"), bank.items), held > 0


def draw_each(bank: Bank, key: Key, *, n: int) -> tuple[PyTree, Array]:
    """n items of every group, without replacement: (leaves [G, n, ...], valid bool [G, n]).

    A group that holds m < n gives each item once, and then `valid` is False. n is at most the
    capacity, else a ValueError. Every slot costs a random number, but only what is drawn is read.

    Example:
        >>> from lml_jax.memory import class_balanced
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


def _check_weights(w: Array) -> None:
    known_now = concrete(w)
    if known_now is not None and not (np.isfinite(known_now[0]) & (known_now[0] >= 0)).all():
        raise ValueError(f"weights must be finite and at least 0, got {known_now[0].tolist()}")
