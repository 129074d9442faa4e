"""Measures of a generator by closed formulas, in any embedding: no weights to download.

`real` and `fake` are embedded examples, float [n, d] and [m, d]: pixels for small images, or the
last hidden layer of a classifier trained on the real training data. All are fit for jit. What has
to train something is in `metrics.trained`.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.losses.weights import at_least_float32
from lml_jax.metrics.fewshot import undefined_where


def precision_recall(real: Array, fake: Array, *, k: int = 5) -> tuple[Array, Array]:
    """How much of what is generated is realistic, and how much of what is real is generated.

    P = 1/m sum_j 1[exists i: |g_j - r_i| <= NND_k(r_i)], with NND_k(r_i) the distance from r_i to
    its k-th nearest neighbour among the other real examples; R is P with the roles swapped.

    `real` [n, d], `fake` [m, d], 1 <= k < min(n, m) -> scalars in [0, 1].
    Raises: ValueError if a shape or k is wrong, as for no generated examples.
    Source: Kynkäänniemi, Karras, Laine, Lehtinen and Aila, "Improved Precision and Recall Metric
    for Assessing Generative Models", 2019.

    Example:
        >>> real = jnp.array([[0.0], [1.0], [2.0], [9.0]])
        >>> [float(v) for v in precision_recall(real, jnp.array([[0.5], [0.9]]), k=1)]
        [1.0, 0.25]
    """
    real, fake = checked_features(real, fake, k=k)
    between = _distances(real, fake)
    precision = (between <= _radii(real, k)[:, None]).any(axis=0).mean()
    recall = (between <= _radii(fake, k)[None, :]).any(axis=1).mean()
    return precision, recall


def density_coverage(real: Array, fake: Array, *, k: int = 5) -> tuple[Array, Array]:
    """Precision and recall that single outliers cannot move far.

    D = 1/(k m) sum_j sum_i 1[|g_j - r_i| <= NND_k(r_i)],
    C = 1/n sum_i 1[exists j: |g_j - r_i| <= NND_k(r_i)].

    `real` [n, d], `fake` [m, d], 1 <= k < n -> scalars: D >= 0, about 1 for a perfect generator
    and above it for one that crowds together; C in [0, 1].
    Raises: ValueError if a shape or k is wrong.
    Source: Naeem, Oh, Uh, Choi and Yoo, "Reliable Fidelity and Diversity Metrics for Generative
    Models", 2020.

    Example:
        >>> real = jnp.array([[0.0], [1.0], [2.0], [9.0]])
        >>> [float(v) for v in density_coverage(real, jnp.array([[0.5], [0.6]]), k=1)]
        [2.0, 0.5]
    """
    real, fake = checked_features(real, fake, k=k, both=False)
    inside = _distances(real, fake) <= _radii(real, k)[:, None]
    return inside.sum(axis=0).mean() / k, inside.any(axis=1).mean()


def frechet_distance(real: Array, fake: Array) -> Array:
    """Fréchet distance between Gaussians fitted to both: 0 where means and covariances agree.

    |mu_r - mu_g|^2 + Tr(S_r + S_g - 2 (S_r S_g)^(1/2)), with the covariances S unbiased and
    Tr (S_r S_g)^(1/2) = sum of the roots of the eigenvalues of S_r^(1/2) S_g S_r^(1/2).

    `real` [n, d], `fake` [m, d], n, m >= 2 -> scalar >= 0. It falls as n and m grow: compare at
    fixed sizes only.
    Raises: ValueError if a shape is wrong.
    Source: Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter, "GANs Trained by a Two
    Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017.

    Example:
        >>> float(frechet_distance(jnp.array([[0.0], [2.0]]), jnp.array([[3.0], [5.0]])).round(4))
        9.0
    """
    real, fake = checked_features(real, fake, k=1)
    (mean_r, cov_r), (mean_g, cov_g) = _moments(real), _moments(fake)
    root_r = _root(cov_r)
    # Rounding may leave an eigenvalue of what is positive semidefinite below 0.
    cross = jnp.linalg.eigvalsh(_symmetric(root_r @ cov_g @ root_r))
    shared = jnp.sum(jnp.sqrt(jnp.maximum(cross, 0.0)))
    distance = jnp.sum((mean_r - mean_g) ** 2) + jnp.trace(cov_r) + jnp.trace(cov_g) - 2 * shared
    return jnp.maximum(distance, 0.0)


def kernel_distance(real: Array, fake: Array) -> Array:
    """Squared maximum mean discrepancy under the cubic kernel, unbiased at any size.

    1/(n(n-1)) sum_{i != i'} k(r_i, r_i') + 1/(m(m-1)) sum_{j != j'} k(g_j, g_j')
    - 2/(n m) sum_{i,j} k(r_i, g_j), with k(u, v) = (u.v / d + 1)^3.

    `real` [n, d], `fake` [m, d], n, m >= 2 -> scalar, 0 in the mean where both come from one
    distribution, so at times below 0.
    Raises: ValueError if a shape is wrong.
    Source: Bińkowski, Sutherland, Arbel and Gretton, "Demystifying MMD GANs", 2018.

    Example:
        >>> float(kernel_distance(jnp.array([[0.0], [1.0]]), jnp.array([[1.0], [2.0]])))
        9.5
    """
    real, fake = checked_features(real, fake, k=1)

    def kernel(u: Array, v: Array) -> Array:
        return (u @ v.T / u.shape[1] + 1) ** 3

    def within(x: Array) -> Array:
        n = x.shape[0]
        gram = kernel(x, x)
        return (jnp.sum(gram) - jnp.trace(gram)) / (n * (n - 1))

    return within(real) + within(fake) - 2 * jnp.mean(kernel(real, fake))


def memorisation_ratio(fake: Array, train: Array, test: Array) -> Array:
    """How close generated examples lie to the training set, against unseen real ones.

    median_j min_i |g_j - x_i| / median_t min_i |v_t - x_i|, x the training and v the test set.

    `fake` [m, d], `train` [n, d], `test` [t, d] -> scalar >= 0: about 1 for new examples, far
    below 1 for copies of the training set; NaN if the test set lies in the training set.
    Raises: ValueError if a shape is wrong.
    Source: definition; a median form of the nearest-neighbour test of Meehan, Chaudhuri and
    Dasgupta, "A Non-Parametric Test to Detect Data-Copying in Generative Models", 2020.

    Example:
        >>> train, test = jnp.array([[0.0], [4.0]]), jnp.array([[1.0], [6.0], [2.0]])
        >>> float(memorisation_ratio(jnp.array([[0.5], [4.5], [0.0]]), train, test))
        0.25
    """
    _, fake = checked_features(train, fake, names=("train", "fake"))
    train, test = checked_features(train, test, names=("train", "test"))
    generated, unseen = (jnp.median(_distances(x, train).min(axis=1)) for x in (fake, test))
    return ratio_or(generated, unseen)


def checked_features(
    real: Array,
    fake: Array,
    *,
    k: int = 0,
    both: bool = True,
    names: tuple[str, str] = ("real", "fake"),
) -> tuple[Array, Array]:
    """Both in float32 at least; images of uint8 and half precision would wrap or overflow.

    Raises ValueError unless both are [n, d] of one d, with more than k examples, k >= 0.
    """
    for name, x in zip(names, (real, fake), strict=True):
        if x.ndim != 2:
            raise ValueError(f"{name} must have shape [n, d]; got {x.shape}")
        least = k + 1 if both or x is real else 1
        if k < 0 or x.shape[0] < least:
            raise ValueError(
                f"{name} has {x.shape[0]} examples, expected at least {least} (k = {k})"
            )
    if real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"{names[0]} has {real.shape[1]} features and {names[1]} {fake.shape[1]}, "
            "expected as many"
        )
    return at_least_float32(real), at_least_float32(fake)


def _distances(a: Array, b: Array) -> Array:
    """Euclidean distances [n, m]; row by row, for |a|^2 + |b|^2 - 2 a.b loses those of copies."""
    return jax.lax.map(lambda row: jnp.sqrt(jnp.sum((row[None] - b) ** 2, axis=1)), a, batch_size=8)


def _radii(x: Array, k: int) -> Array:
    """Distance [n] of each example to its k-th nearest neighbour among the others."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    own = jnp.where(jnp.eye(x.shape[0], dtype=bool), jnp.inf, _distances(x, x))
    return jnp.sort(own, axis=1)[:, k - 1]


def _moments(x: Array) -> tuple[Array, Array]:
    mean = jnp.mean(x, axis=0)
    centred = x - mean[None]
    return mean, centred.T @ centred / (x.shape[0] - 1)


def _symmetric(matrix: Array) -> Array:
    return (matrix + matrix.T) / 2


def _root(matrix: Array) -> Array:
    """The square root of a positive semidefinite matrix."""
    values, vectors = jnp.linalg.eigh(_symmetric(matrix))
    return (vectors * jnp.sqrt(jnp.maximum(values, 0.0))[None]) @ vectors.T


def ratio_or(a: Array, b: Array, undefined: float = jnp.nan) -> Array:
    """a / b where b > 0."""
    ratio = a / jnp.where(b > 0, b, 1.0)
    if math.isnan(undefined):
        return undefined_where(~(b > 0), ratio)
    return jnp.where(b > 0, ratio, undefined)
