"""A bank dealt over devices: each holds a part, and draws from it alone."""

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.memory.slots import Bank
from lml_jax.types import Key, MemoryBank, PyTree


def sharded(bank: MemoryBank, shards: int) -> MemoryBank:
    """`shards` banks side by side, S in all, which together hold S times as much.

    Of n items the first n / S go to shard 0, and so on: as tasks go to devices. `sample` draws
    n / S items from each shard s, and returns a weight of each in place of `valid`,
    w = S m_s / sum_r m_r, with m_s the items that shard s holds. So 1/n sum_k w_k f(x_k) has the
    mean of f over all items held for its expectation, however unlike the shards are; w = 0 where a
    shard holds nothing.

    Every leaf of the state leads with S. Laid out over devices that divide S, by
    `jax.device_put(state, NamedSharding(Mesh(jax.devices(), "tasks"), P("tasks")))`, neither
    `insert` nor `sample` moves an item between them; the sum of the m_s alone is shared. The result
    depends on S, and not on how many devices there are.

    Args:
        bank: of one group: `fifo` or `reservoir`.
        shards: S >= 1.

    Returns:
        A `MemoryBank` whose `sample(state, key, *, n)` is (items, weight float [n]).

    Raises:
        ValueError: for shards below 1, or a bank of several groups; in `insert` and `sample`, for
            a number of items that S does not divide.

    Example:
        >>> from lml_jax.memory import fifo
        >>> bank = sharded(fifo(4), 2)
        >>> state = bank.insert(bank.init(jnp.zeros(())), jnp.arange(8.0), jax.random.key(0),
        ...                     jnp.array([True] * 3 + [False] * 4 + [True]))
        >>> bank.sample(state, jax.random.key(0), n=2)[1].tolist()
        [1.5, 0.5]

    Source:
        Importance weights of stratified sampling; Cochran. Sampling Techniques, 1977, chapter 5.
    """
    if shards < 1:
        raise ValueError(f"expected at least 1 shard, got {shards}")

    def keys_of(key: Key) -> Array:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(shards))

    def split(leaf: Array) -> Array:
        _check_divides(shards, len(leaf))
        return leaf.reshape(shards, -1, *leaf.shape[1:])

    def init(example_item: PyTree) -> Bank:
        one = bank.init(example_item)
        if len(one.seen) > 1:
            raise ValueError(f"expected a bank of one group, got one of {len(one.seen)}")
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * shards), one)

    def insert(state: Bank, batch: PyTree, key: Key, where: Array | None = None) -> Bank:
        batch = jax.tree.map(jnp.asarray, batch)
        offered = jnp.ones(len(jax.tree.leaves(batch)[0]), bool) if where is None else where
        parts = jax.tree.map(split, (batch, jnp.asarray(offered)))
        return jax.vmap(bank.insert)(state, parts[0], keys_of(key), parts[1])

    def sample(
        state: Bank,
        key: Key,
        *,
        n: int,
        weights: Array | None = None,
        group: Array | int | None = None,
    ) -> tuple[PyTree, Array]:
        if weights is not None or group is not None:
            raise ValueError("a sharded bank has one group: expected neither weights nor a group")
        _check_divides(shards, n)
        draw = jax.vmap(lambda part, key: bank.sample(part, key, n=n // shards))
        items, valid = draw(state, keys_of(key))
        held = jax.vmap(lambda part: jnp.sum(part.filled))(state).astype(float)
        share = shards * held / jnp.maximum(jnp.sum(held), 1.0)
        weight = jnp.where(valid, share[:, None], 0.0)
        return jax.tree.map(lambda leaf: leaf.reshape(n, *leaf.shape[2:]), (items, weight))

    def contents(state: Bank) -> tuple[PyTree, Array]:
        items, valid = jax.vmap(bank.contents)(state)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (items, valid))

    return MemoryBank(init, insert, sample, contents)


def _check_divides(shards: int, n: int) -> None:
    if n < 1 or n % shards:
        raise ValueError(f"expected a number of items that {shards} shards divide, got {n}")
