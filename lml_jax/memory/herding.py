"""Exemplars chosen by their features: herding."""

from operator import itemgetter

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.memory.sampling import sample
from lml_jax.memory.slots import Bank, Of, contents, empty_bank, offered_items
from lml_jax.types import Key, MemoryBank, PyTree


def herding(
    per_class: int, *, classes: int, feature_of: Of, label_of: Of = itemgetter(1)
) -> MemoryBank:
    """Exemplars whose running mean stays nearest to the mean of their class, in that order.

    p_k = argmin_x || mu - 1/k (phi(x) + sum_{j<k} phi(p_j)) ||, over x not chosen before: of a
    class that came once, the first m slots are what a capacity of m would have chosen. To be run
    at the end of a task.

    A class that comes again has its exemplars chosen anew, from what is stored and what is new,
    with mu the mean of all that was ever offered. `feature_of` takes phi, float [n, ...], out of
    a batch: it does not follow the embedding. iCaRL scales it to norm 1 first. The rest, and the
    errors, are as in `class_balanced`.

    Example:
        >>> bank = herding(2, classes=1, feature_of=lambda item: item[0])
        >>> state = bank.init((jnp.zeros(1), jnp.array(0)))
        >>> batch = (jnp.array([[0.0], [3.0], [4.0], [9.0]]), jnp.zeros(4, jnp.int32))  # mu = 4
        >>> bank.insert(state, batch, jax.random.key(0)).items[0].tolist()
        [[[4.0], [3.0]]]

    Source:
        Rebuffi et al. iCaRL: Incremental Classifier and Representation Learning, 2017,
        algorithm 4.
    """
    empty = empty_bank(per_class, classes)

    def features(items: PyTree) -> Array:
        phi = feature_of(items)
        return phi.reshape(len(phi), -1).astype(jnp.float32)

    def init(example_item: PyTree) -> Bank:
        bank = empty(example_item)
        d = features(jax.tree.map(lambda leaf: leaf[0], bank.items)).shape[1]
        return bank._replace(sums=jnp.zeros((classes, d)))

    def insert(bank: Bank, batch: PyTree, key: Key, where: Array | None = None) -> Bank:
        batch, group = offered_items(bank, batch, where, label_of, "labels")
        new, old = features(batch), jax.vmap(features)(bank.items)
        seen = bank.seen.at[group].add(1, mode="drop")
        sums = bank.sums.at[group].add(new, mode="drop")
        # Only the classes that came are chosen anew; padded with C, which is out of bounds.
        came = jnp.unique(group, size=min(len(group), classes), fill_value=classes)

        def choose(c: Array) -> Array:
            phi = jnp.concatenate([old[c], new])
            free = jnp.concatenate([bank.filled[c], group == c])
            return _herd(
                phi, free, sums[c] / jnp.maximum(seen[c], 1).astype(jnp.float32), per_class
            )

        chosen = jax.vmap(choose)(came)  # [classes that came, per_class] of stored and new items

        def exemplars(stored: Array, fresh: Array) -> Array:
            kept = stored.at[came[:, None], chosen].get(mode="clip")
            added = fresh[jnp.maximum(chosen - per_class, 0)]
            is_kept = (chosen < per_class).reshape(*chosen.shape, *[1] * (fresh.ndim - 1))
            return stored.at[came].set(jnp.where(is_kept, kept, added), mode="drop")

        return Bank(jax.tree.map(exemplars, bank.items, batch), seen, sums)

    return MemoryBank(init, insert, sample, contents)


def _herd(phi: Array, free: Array, mean: Array, k: int) -> Array:
    """Which k rows of phi [m, d], of those that are `free` bool [m], herding picks in turn."""

    def pick(carry: tuple[Array, Array], before: Array) -> tuple[tuple[Array, Array], Array]:
        total, free = carry
        distance = jnp.sum((mean[None] - (total[None] + phi) / (before + 1)) ** 2, axis=1)
        best = jnp.argmin(jnp.where(free, distance, jnp.inf))
        return (total + phi[best], free.at[best].set(False)), best

    return jax.lax.scan(pick, (jnp.zeros_like(mean), free), jnp.arange(k, dtype=jnp.float32))[1]
