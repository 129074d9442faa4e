"""The statistics of classes as records, and the compensated sums that they are made of."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax.checks import concrete
from lml_jax.losses import as_labels, check_labels, nan_where, outside

_BLOCK = 256  # examples in one matrix product: bounds its memory and its rounding error


class Moments(NamedTuple):
    """Moments of C classes of features z [n, d] with weights w [n].

    `total` [C] is n_k = sum w_i, `mean` [C, d] is m_k = sum w_i z_i / n_k, both over y_i = k.
    `spread` [C, d] is sum w_i (z_i - m_k)^2 of each class, or None where it is not needed.
    `scatter` [d, d] is sum_k sum w_i (z_i - m_k)(z_i - m_k)^T, shared by all classes, or None.
    """

    total: Array
    mean: Array
    spread: Array | None = None
    scatter: Array | None = None


class Statistics(NamedTuple):
    """`Moments` of the examples so far, and the rounding error of their sums.

    The statistic is `moments` + `rounding`, each of |rounding| <= eps |moments|.
    """

    moments: Moments
    rounding: Moments

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return self.moments.total.shape[0]

    @property
    def dim(self) -> int:
        """Width d of the features."""
        return self.moments.mean.shape[1]


def matmul(a: Array, b: Array) -> Array:
    """a @ b in full float precision; the default on GPU and TPU keeps 10 or 7 bits of a factor."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def in_blocks(stats: Statistics, z: Array, y: Array, weight: Array) -> Statistics:
    """Blocks of `_BLOCK` examples one after another, then the rest."""
    n = z.shape[0]
    if n == 0:
        return stats
    full = n // _BLOCK if n > _BLOCK else 0
    if full:
        blocks = jax.tree.map(
            lambda leaf: leaf[: full * _BLOCK].reshape(full, _BLOCK, *leaf.shape[1:]),
            (z, y, weight),
        )
        stats = jax.lax.scan(lambda s, block: (_block(s, *block), None), stats, blocks)[0]
    rest = slice(full * _BLOCK, n)
    return stats if rest.start == n else _block(stats, z[rest], y[rest], weight[rest])


def _block(stats: Statistics, z: Array, y: Array, weight: Array) -> Statistics:
    """Statistics after one block; a negative weight takes an example away."""
    (m, low), classes = stats, stats.classes
    counts = (weight != 0) & (y != -1)
    wrong = counts & outside(y, classes)
    # 0 or NaN, added to every sum: a wrong label must not go unnoticed inside jit.
    poison = (nan_where(wrong.any()) - 1.0).astype(z.dtype)
    weight, y = jnp.where(counts, weight, 0.0), jnp.clip(y, 0, classes - 1)
    member = jax.nn.one_hot(y, classes, axis=0, dtype=z.dtype) * weight[None, :]

    added = member.sum(1) + poison
    total, total_low = two_sum(m.total, low.total, added)
    # Counts that cancel do so up to the rounding of fractional weights.
    gone = total <= 1e-6 * jnp.abs(added)
    # The deviations are from the mean so far, or, of a class that is new, from its first example:
    # the sums below do not depend on which.
    old = (m.total > 0)[:, None]
    first = jax.lax.stop_gradient(z)[jnp.argmax(member != 0, axis=1)]
    base, base_low = jnp.where(old, m.mean, first), jnp.where(old, low.mean, 0.0)
    before = jnp.where(counts[:, None], (z - base[y]) - base_low[y], 0.0)
    step = matmul(member, before) / nonzero(total)[:, None] + poison
    step = jnp.where(gone[:, None], 0.0, step)
    after = jnp.where(counts[:, None], before - step[y], 0.0)

    def cleared(pair: tuple[Array, Array]) -> tuple[Array, Array]:
        of = gone.reshape(-1, *[1] * (pair[0].ndim - 1))
        return jnp.where(of, 0.0, pair[0]), jnp.where(of, 0.0, pair[1])

    total, total_low = cleared((total, total_low))
    mean, mean_low = cleared(two_sum(base, base_low, step))
    spread, scatter = (m.spread, low.spread), (m.scatter, low.scatter)
    if m.spread is not None and low.spread is not None:
        product = matmul(member, before * after) + poison
        spread = cleared(two_sum(m.spread, low.spread, product))
    if m.scatter is not None and low.scatter is not None:
        product = matmul((before * weight[:, None]).T, after) + poison
        scatter = two_sum(m.scatter, low.scatter, product)
    return Statistics(
        Moments(total, mean, spread[0], scatter[0]),
        Moments(total_low, mean_low, spread[1], scatter[1]),
    )


def two_sum(high: Array, low: Array, step: Array) -> tuple[Array, Array]:
    """(high + low) + step as a rounded sum and what the rounding cut off."""
    step = low + step
    total = high + step
    part = total - high
    return total, (high - (total - part)) + (step - part)


def centred(stats: Statistics) -> tuple[Array, Array, Array]:
    """(offset [d], means minus offset [C, d], seen bool [C]); the offset is the mean of the means.

    What the classes have in common is taken off before anything is squared or multiplied, and the
    rounding error of the means is added to what remains, where it counts. It depends on no query.
    A class without examples has its mean at the offset.
    """
    m, low = stats
    seen = m.total != 0  # NaN counts as seen: a wrong label inside jit shows in the logits
    share = seen.astype(m.mean.dtype)
    share = share / jnp.maximum(share.sum(), 1.0)
    offset = jax.lax.stop_gradient((m.mean * share[:, None]).sum(0))
    means = jnp.where(seen[:, None], (m.mean - offset[None, :]) + low.mean, 0.0)
    return offset, means, seen


def spread_of(stats: Statistics) -> Array:
    """The squared deviations [C, d] of each class.

    Raises:
        ValueError: for statistics without them.
    """
    if stats.moments.spread is None:
        raise ValueError("this head needs statistics with a spread, as its own `init` makes them")
    return stats.moments.spread


def scatter_of(stats: Statistics) -> Array:
    """The scatter matrix [d, d] of all classes.

    Raises:
        ValueError: for statistics without it.
    """
    if stats.moments.scatter is None:
        raise ValueError("this head needs statistics with a scatter, as its own `init` makes them")
    return stats.moments.scatter


def nonzero(count: Array) -> Array:
    """Counts to divide by: 1 for a class without examples."""
    return jnp.where(count == 0, 1.0, count)


def checked(
    stats: Statistics, z: Array, y: Array, weight: Array | None
) -> tuple[Array, Array, Array]:
    """Features in the float type of the statistics, labels as int32, weights."""
    z, y, dtype = jnp.asarray(z), as_labels(y), stats.moments.mean.dtype
    check_features(z, stats.dim)
    weight = jnp.ones(y.shape[0], dtype) if weight is None else jnp.asarray(weight)
    lengths = [part.shape[0] if part.ndim else None for part in (z, y, weight)]
    if len(set(lengths)) > 1 or weight.ndim != 1:
        raise ValueError(f"z, y and weight must be of one length, got {lengths}")
    check_labels(y, stats.classes, weight)
    _check_values(z, y, weight)
    return z.astype(dtype), y, weight.astype(dtype)


def check_features(z: Array, dim: int) -> None:
    """Raise ValueError unless features are [n, d] with the d of the statistics."""
    if z.ndim != 2 or z.shape[1] != dim:
        raise ValueError(f"expected features [n, {dim}], got {list(z.shape)}")


def _check_values(z: Array, y: Array, weight: Array) -> None:
    known = concrete(z, y, weight)
    if known is None:
        return
    z, y, weight = known
    odd = np.flatnonzero(~((weight >= 0) & (weight < np.inf)))
    if odd.size:
        raise ValueError(f"weights must be >= 0 and finite, got {weight[odd[0]]} at {odd[0]}")
    used = np.flatnonzero((weight > 0) & (y >= 0))
    wrong = used[~np.isfinite(z[used].astype(np.float32)).all(1)]
    if wrong.size:
        raise ValueError(
            f"features must be finite: those of {wrong.size} examples are not, the first is "
            f"number {wrong[0]} of the batch"
        )
