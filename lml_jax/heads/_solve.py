"""Positive definite systems in float32, and the affine classifiers that they give."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.heads._sums import matmul


class Affine(NamedTuple):
    """A classifier z -> (z - offset) @ weight + bias of C classes.

    `weight` [d, C], `bias` [C], `offset` [d], `seen` bool [C]; the logits of other classes are
    -inf.
    """

    weight: Array
    bias: Array
    offset: Array
    seen: Array


def affine_logits(fitted: Affine, z: Array) -> Array:
    """Logits [n, C] of features z [n, d]."""
    centred = z.astype(fitted.weight.dtype) - fitted.offset[None, :]
    logits = matmul(centred, fitted.weight) + fitted.bias[None, :]
    return jnp.where(fitted.seen[None, :], logits, -jnp.inf)


def solve(a: Array, b: Array) -> Array:
    """x of a x = b for a symmetric, positive semidefinite a [d, d] and b [d, C].

    a is scaled to a unit diagonal, which undoes differences in the scale of the features, and
    factored by Cholesky with the smallest jitter 10^k eps (relative to trace / d) that succeeds;
    one step of iterative refinement takes most of the jitter's bias away. Gradients are those of
    the solution, -a^-1 (da) x, and do not pass through the factorisation.

    A non-finite a gives NaN.
    """
    diagonal = jnp.diagonal(a)
    # The solution does not depend on the scaling, so no gradient passes through it.
    scale = jax.lax.stop_gradient(jnp.where(diagonal > 0, jax.lax.rsqrt(diagonal), 1.0))[:, None]
    unit = (a + a.T) * (0.5 * scale * scale.T)
    factor = _cholesky(jax.lax.stop_gradient(unit))

    def refined(_: object, right: Array) -> Array:
        x = jax.scipy.linalg.cho_solve((factor, True), right)
        return x + jax.scipy.linalg.cho_solve((factor, True), right - matmul(unit, x))

    x = jax.lax.custom_linear_solve(lambda v: matmul(unit, v), scale * b, refined, symmetric=True)
    return scale * x


def _cholesky(a: Array) -> Array:
    """Lower factor of a + jitter, of an a with unit diagonal."""
    eps = jnp.finfo(a.dtype).eps
    eye = jnp.eye(a.shape[0], dtype=a.dtype)

    def factor(jitter: Array) -> Array:
        return jax.lax.linalg.cholesky(a + jitter * eye, symmetrize_input=False)

    def failed(state: tuple[Array, Array]) -> Array:
        jitter, lower = state
        return ~jnp.isfinite(lower[-1, -1]) & (jitter < 1)

    def again(state: tuple[Array, Array]) -> tuple[Array, Array]:
        jitter = 10 * state[0]
        return jitter, factor(jitter)

    first = jnp.asarray(10 * eps, a.dtype)
    return jax.lax.while_loop(failed, again, (first, factor(first)))[1]
