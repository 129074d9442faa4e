"""Sufficient statistics of classes: learned in any order and any pieces, and merged.

Every statistic is held as two floats, the value and the rounding error that its additions cut off.
So 10,000 additions of one example cost no more precision than one addition of 10,000 examples.
"""

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.checks import concrete
from lml_jax.heads._sums import Moments as Moments
from lml_jax.heads._sums import Statistics as Statistics
from lml_jax.heads._sums import checked, in_blocks, matmul, nonzero, two_sum


def empty(classes: int, dim: int, *, spread: bool = False, scatter: bool = False) -> Statistics:
    """Statistics of C classes of d features before any example.

    Args:
        classes: C, at least 1.
        dim: d, at least 1.
        spread: keep the squared deviations of each class and feature, [C, d].
        scatter: keep the scatter matrix that all classes share, [d, d].

    Returns:
        `Statistics` of zeros in the default float type, all in buffers of their own.

    Raises:
        ValueError: for C or d below 1.

    Example:
        >>> stats = empty(3, 2, scatter=True)
        >>> stats.classes, stats.dim, stats.moments.scatter.shape
        (3, 2, (2, 2))
    """
    if classes < 1 or dim < 1:
        raise ValueError(f"classes and dim must be at least 1, got {classes} and {dim}")

    def zeros() -> Moments:
        return Moments(
            jnp.zeros(classes),
            jnp.zeros((classes, dim)),
            jnp.zeros((classes, dim)) if spread else None,
            jnp.zeros((dim, dim)) if scatter else None,
        )

    return Statistics(zeros(), zeros())


def learn(stats: Statistics, z: Array, y: Array, weight: Array | None = None) -> Statistics:
    """Statistics after more examples: the same in any order and any pieces.

    With n_k' = n_k + sum w_i and m_k' = m_k + sum w_i (z_i - m_k) / n_k', summed over y_i = k,

        spread_k' = spread_k + sum w_i (z_i - m_k) * (z_i - m_k')
        scatter'  = scatter + sum_k sum w_i (z_i - m_k) (z_i - m_k')^T

    which are exact identities; no term is larger than the deviations themselves, so a common
    offset of the features costs no precision.

    Args:
        stats: the statistics so far.
        z: features, [n, d], any float or integer type; n may be 0.
        y: labels, integers [n], in -1..C-1; -1 is unlabelled and takes no part.
        weight: [n], >= 0, how often each example counts; None is 1. An example of weight 0 is
            padding: its features may be anything, NaN included.

    Returns:
        `Statistics`. Inside jit, a label outside -1..C-1, or a feature that is not finite, makes
        statistics and logits NaN.

    Raises:
        ValueError: for other shapes or types; outside jit also for labels outside -1..C-1, for
            weights that are negative or not finite, and for features that are not finite.

    Example:
        >>> z = jnp.array([[1.0], [3.0], [5.0]])
        >>> m = learn(empty(2, 1, spread=True), z, jnp.array([0, 0, 1])).moments
        >>> m.total.tolist(), m.mean.tolist(), m.spread.tolist()
        ([2.0, 1.0], [[2.0], [5.0]], [[2.0], [0.0]])

    Source:
        Welford. Note on a Method for Calculating Corrected Sums of Squares and Products, 1962,
        for blocks of examples; the compensated sum is that of Knuth, The Art of Computer
        Programming 2, section 4.2.2.
    """
    return in_blocks(stats, *checked(stats, z, y, weight))


def unlearn(stats: Statistics, z: Array, y: Array, weight: Array | None = None) -> Statistics:
    """Statistics without examples that were learned before: the inverse of `learn`.

    Args:
        stats: statistics that contain the examples.
        z: their features, [n, d].
        y: their labels, [n].
        weight: their weights, [n]; None is 1.

    Returns:
        `Statistics`, up to rounding those of the remaining examples. A class of which nothing
        remains is as before its first example.

    Raises:
        ValueError: as `learn`.

    Example:
        >>> z, y = jnp.array([[1.0], [3.0], [8.0]]), jnp.zeros(3, int)
        >>> m = unlearn(learn(empty(1, 1, spread=True), z, y), z[2:], y[2:]).moments
        >>> m.mean.tolist(), m.spread.tolist()
        ([[2.0]], [[2.0]])
    """
    z, y, weight = checked(stats, z, y, weight)
    return in_blocks(stats, z, y, -weight)


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Statistics of two sets of examples together.

    n = n_a + n_b; mean = mean_a + (n_b / n) delta; spread = spread_a + spread_b
    + (n_a n_b / n) delta^2, with delta = mean_b - mean_a; the scatter with delta delta^T.

    Raises:
        ValueError: for statistics of other shapes, or with other second moments.

    Example:
        >>> one = empty(1, 1, spread=True)
        >>> a, b = (learn(one, jnp.array([[x]]), jnp.array([0])) for x in (1.0, 3.0))
        >>> merge(a, b).moments.spread.tolist()
        [[2.0]]

    Source:
        Chan, Golub, LeVeque. Updating Formulae and a Pairwise Algorithm for Computing Sample
        Variances, 1979, equation 2.1.
    """
    if jax.tree.map(jnp.shape, a) != jax.tree.map(jnp.shape, b):
        raise ValueError(
            "only statistics of equal shapes can be merged, got "
            f"{jax.tree.map(jnp.shape, a.moments)} and {jax.tree.map(jnp.shape, b.moments)}"
        )
    (m, low), (own, own_low) = a, b
    share = (own.total / nonzero(m.total + own.total))[:, None]
    delta = (own.mean - m.mean) + (own_low.mean - low.mean)
    cross = m.total[:, None] * share
    moved = two_sum(m.mean, low.mean, share * delta)
    # A class that only b has is b's, without another rounding.
    new = (m.total == 0)[:, None]
    mean = (jnp.where(new, own.mean, moved[0]), jnp.where(new, own_low.mean, moved[1]))

    def added(name: str, step: Array | None) -> tuple[Array | None, Array | None]:
        parts = [getattr(of, name) for of in (m, low, own, own_low)]
        if parts[0] is None or step is None:
            return None, None
        high, rest = two_sum(*parts[:3])
        return two_sum(high, rest, parts[3] + step)

    total = two_sum(*two_sum(m.total, low.total, own.total), own_low.total)
    spread = added("spread", cross * delta**2)
    scatter = (
        (None, None) if m.scatter is None else added("scatter", matmul(delta.T, cross * delta))
    )
    return Statistics(
        Moments(total[0], mean[0], spread[0], scatter[0]),
        Moments(total[1], mean[1], spread[1], scatter[1]),
    )


def forget(stats: Statistics, label: Array | int) -> Statistics:
    """Statistics without one class, exactly as if it had not been learned.

    Args:
        stats: statistics without a scatter matrix, which mixes all classes: there `unlearn` removes
            examples that are given again.
        label: 0..C-1; may be traced.

    Raises:
        ValueError: for statistics with a scatter matrix; outside jit for a label outside 0..C-1.

    Example:
        >>> stats = learn(empty(2, 1), jnp.array([[1.0], [3.0]]), jnp.array([0, 1]))
        >>> forget(stats, 1).moments.total.tolist()
        [1.0, 0.0]
    """
    if stats.moments.scatter is not None:
        raise ValueError(
            "one class cannot be taken out of a scatter matrix that all classes share: remove its "
            "examples by `unlearn`, or use a head with statistics of each class"
        )
    known = concrete(label)
    if known is not None and not 0 <= int(known[0]) < stats.classes:
        raise ValueError(f"expected a label in 0..{stats.classes - 1}, got {int(known[0])}")
    here = jnp.arange(stats.classes) == label
    return jax.tree.map(
        lambda leaf: jnp.where(here.reshape(-1, *[1] * (leaf.ndim - 1)), 0.0, leaf), stats
    )


def grow(stats: Statistics, classes: int) -> Statistics:
    """Statistics with room for more classes; those of the old ones are unchanged.

    Args:
        stats: of C classes.
        classes: the new C, at least the old.

    Raises:
        ValueError: for fewer classes than there are.

    Example:
        >>> grow(empty(2, 3), 4).moments.mean.shape
        (4, 3)
    """
    more = classes - stats.classes
    if more < 0:
        raise ValueError(f"expected at least {stats.classes} classes, got {classes}")

    def padded(moments: Moments) -> Moments:
        of_classes = jax.tree.map(
            lambda leaf: jnp.pad(leaf, [(0, more), *[(0, 0)] * (leaf.ndim - 1)]),
            moments._replace(scatter=None),
        )
        return of_classes._replace(scatter=moments.scatter)

    return Statistics(*map(padded, stats))
