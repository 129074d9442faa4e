"""Ridge regression on one-hot labels, its strength chosen on held-out examples or meta-trained."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax.checks import concrete
from lml_jax.heads._solve import Affine, affine_logits, solve
from lml_jax.heads._sums import centred, matmul, scatter_of
from lml_jax.heads.head import Head
from lml_jax.heads.statistics import Statistics, empty
from lml_jax.types import Params

STRENGTHS = tuple(10.0**k for k in range(-4, 9))


def ridge(*, strength: float = 1.0, tau: float = 10.0, intercept: bool = False) -> Head:
    """Ridge regression of one-hot labels on the features.

    With the Gram matrix G = sum_i w_i z_i z_i^T and the class sums C = sum_i w_i z_i e_{y_i}^T,

        logits(z) = tau z^T (G + lambda I)^-1 C

    or, with an intercept, the same of features and labels minus their means. The parameters are
    {"log_strength", "log_tau"}; log lambda is meta-trained where episodes are available, or chosen
    by `choose_strength`. G is computed from the scatter matrix and the class means, and the part
    of it that all examples share is inverted in closed form, so a common offset of the features
    costs no precision.

    Args:
        strength: lambda > 0, initial value, in squared units of the features times the number of
            examples it should outweigh.
        tau: > 0, initial value; scales the regression's outputs, of about 0 to 1, to logits.
        intercept: fit an offset of the outputs, without penalty.

    Returns:
        A `Head` with statistics of counts and means of each class, and the scatter matrix [d, d].
        On `random_features` it is RanPAC's classifier. It has no `forget`: use `unlearn`.

    Raises:
        ValueError: for a strength or tau that is not positive and finite.

    Example:
        >>> head = ridge(strength=1e-3, tau=1.0)
        >>> stats = head.learn(head.init(2, 2), jnp.eye(2), jnp.array([0, 1]))
        >>> head.logits(stats, jnp.eye(2)).argmax(1).tolist()
        [0, 1]

    Source:
        McDonnell, Gong, Parvaneh, Abbasnejad, van den Hengel. RanPAC: Random Projections and
        Pre-trained Models for Continual Learning, 2023, equations 5, 6;
        https://arxiv.org/abs/2307.02251. Meta-trained lambda and tau: Bertinetto, Henriques, Torr,
        Vedaldi. Meta-learning with Differentiable Closed-form Solvers, 2019.
    """
    for name, value in {"strength": strength, "tau": tau}.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")

    def params() -> Params:
        first = {"log_strength": math.log(strength), "log_tau": math.log(tau)}
        return {name: jnp.full((), value, float) for name, value in first.items()}

    def fit(params: Params, stats: Statistics) -> Affine:
        fitted = regression(stats, jnp.exp(params["log_strength"]), intercept=intercept)
        scale = jnp.exp(params["log_tau"])
        return fitted._replace(weight=scale * fitted.weight, bias=scale * fitted.bias)

    def init(classes: int, dim: int) -> Statistics:
        return empty(classes, dim, scatter=True)

    return Head(params, init, fit, affine_logits)


def regression(stats: Statistics, strength: Array | float, *, intercept: bool = False) -> Affine:
    """The affine map of the ridge regression, with outputs of about 0 to 1.

    With m the mean and N the number of all examples, T = G - N m m^T their scatter, A = T + lambda
    I, and C_k = n_k (m_k - m): without an intercept, by Sherman and Morrison,

        (G + lambda I)^-1 (C_k + n_k m) = a_k + u (n_k - N m^T a_k) / (1 + N m^T u)

    with a_k = A^-1 C_k and u = A^-1 m, in which nothing of the size of N m m^T cancels.

    Args:
        stats: with a scatter matrix.
        strength: lambda > 0; may be traced.
        intercept: fit an offset of the outputs.

    Returns:
        `Affine`.

    Example:
        >>> stats = empty(2, 1, scatter=True)
        >>> float(regression(stats, 1.0).weight.sum())
        0.0
    """
    offset, means, seen = centred(stats)
    count = stats.moments.total
    total = jnp.where(count.sum() == 0, 1.0, count.sum())
    middle = (count / total) @ means  # the mean of all examples, minus the offset
    own = means - middle[None, :]
    sums = count[:, None] * own
    scatter = scatter_of(stats) + matmul(own.T, sums)
    a = scatter + strength * jnp.eye(stats.dim, dtype=scatter.dtype)
    mean = offset + middle
    if intercept:
        return Affine(solve(a, sums.T), count / total, mean, seen)
    solved = solve(a, jnp.concatenate([sums, mean[None, :]]).T)
    weight, u = solved[:, :-1], solved[:, -1]
    along, own_share = mean @ weight, mean @ u
    below = 1 + total * own_share
    bias = (along + own_share * count) / below
    weight = weight + u[:, None] * ((count - total * along) / below)[None, :]
    return Affine(weight, bias, mean, seen)


def choose_strength(
    train: Statistics,
    held_out: Statistics,
    strengths: Sequence[float] = STRENGTHS,
    *,
    intercept: bool = False,
) -> tuple[Array, Array]:
    """The ridge strength with the smallest squared error on held-out examples.

    e(lambda) = sum_i w_i ||f_lambda(z_i) - e_{y_i}||^2 / sum_i w_i, with f fitted to `train`. The
    error follows from the statistics of the held-out examples, so these need not be stored either:
    keep two statistics, learn one example in five into the second, choose, and `merge`.

    Args:
        train: statistics of the examples that f is fitted to.
        held_out: statistics of other examples, of classes that `train` has seen.
        strengths: the candidates for lambda, each > 0.
        intercept: as in `ridge`.

    Returns:
        (lambda, mean squared errors [len(strengths)]); NaN without held-out examples.

    Raises:
        ValueError: for no or non-positive candidates, statistics of other shapes, or, outside
            jit, no held-out example.

    Example:
        >>> from lml_jax.heads.statistics import learn
        >>> key_z, key_y = jax.random.split(jax.random.key(0))
        >>> y = jax.random.randint(key_y, (40,), 0, 2)
        >>> z = y[:, None] + jax.random.normal(key_z, (40, 3))
        >>> none = empty(2, 3, scatter=True)
        >>> train, held_out = learn(none, z[:30], y[:30]), learn(none, z[30:], y[30:])
        >>> strength, errors = choose_strength(train, held_out)
        >>> errors.shape
        (13,)

    Source:
        As `ridge`: RanPAC chooses lambda on a fifth of a task's examples, by squared error.
    """
    values = np.asarray(strengths, float)
    if values.ndim != 1 or not values.size or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"expected strengths above 0, got {list(strengths)}")
    if jax.tree.map(jnp.shape, train) != jax.tree.map(jnp.shape, held_out):
        raise ValueError(
            "train and held_out must be statistics of equal shapes, got "
            f"{[train.classes, train.dim]} and {[held_out.classes, held_out.dim]}"
        )
    counts = concrete(held_out.moments.total)
    if counts is not None and counts[0].sum() == 0:
        raise ValueError("held_out has no examples: some are needed to choose the strength")
    count = held_out.moments.total

    def error(strength: Array) -> Array:
        fitted = regression(train, strength, intercept=intercept)
        within = (fitted.weight * matmul(scatter_of(held_out), fitted.weight)).sum()
        means = matmul(held_out.moments.mean - fitted.offset[None, :], fitted.weight)
        wrong = means + fitted.bias[None, :] - jnp.eye(held_out.classes)
        return (within + (count * jnp.square(wrong).sum(1)).sum()) / count.sum()

    candidates = jnp.asarray(values, held_out.moments.mean.dtype)
    errors = jax.lax.map(error, candidates)
    return candidates[jnp.argmin(errors)], errors
