"""Linear discriminant analysis: one covariance that all classes share, learned in a stream."""

import math

import jax
import jax.numpy as jnp

from lml_jax.checks import known
from lml_jax.heads._solve import Affine, affine_logits, solve
from lml_jax.heads._sums import centred, scatter_of
from lml_jax.heads.head import Head
from lml_jax.heads.statistics import Statistics, empty
from lml_jax.types import Params

PRIORS = ("uniform", "frequency")


def lda(*, shrinkage: float = 0.1, prior: str = "uniform") -> Head:
    """Gaussian classes with a shared covariance: streaming linear discriminant analysis.

    With the scatter S of all examples about their class means, N examples of K classes,

        Sigma = (1 - epsilon) S / (N - K) + epsilon s I,    s = trace(S) / (d (N - K))
        logit_k(z) = (z - c)^T Sigma^-1 (m_k - c) - (m_k - c)^T Sigma^-1 (m_k - c) / 2 + log pi_k

    which is the log density of class k up to a term that is the same for all classes; c is the
    mean of the class means. With one example of each class S is 0, and Sigma is I: the nearest
    mean. The parameters are {"logit_shrinkage"}, epsilon = sigmoid of it, to be meta-trained where
    episodes are available.

    Args:
        shrinkage: epsilon, initial value, in (0, 1); 1 is the nearest mean. The less examples
            there are for each feature, the larger it should be.
        prior: pi_k; "uniform", or "frequency" for n_k / N.

    Returns:
        A `Head` with statistics of counts and means of each class, and the scatter matrix
        [d, d]. It has no `forget`, for the matrix mixes the classes: use `unlearn`.

    Raises:
        ValueError: for a shrinkage outside (0, 1), or an unknown prior.

    Example:
        >>> head = lda(shrinkage=0.5)
        >>> z = jnp.array([[0.0, 0.0], [0.0, 2.0], [4.0, 0.0], [4.0, 2.0]])
        >>> stats = head.learn(head.init(2, 2), z, jnp.array([0, 0, 1, 1]))
        >>> head.logits(stats, jnp.array([[1.0, 9.0]])).argmax(1).tolist()
        [0]

    Source:
        Hayes, Kanan. Lifelong Machine Learning with Deep Streaming Linear Discriminant Analysis,
        2020, section 3; https://arxiv.org/abs/1909.01520. There Sigma is shrunk towards I, in the
        units of the features; here towards s I, which is the same in any units, as in Ledoit,
        Wolf. A Well-conditioned Estimator for Large-dimensional Covariance Matrices, 2004.
    """
    known(prior, PRIORS, what="prior")
    if not 0 < shrinkage < 1:
        raise ValueError(f"shrinkage must be between 0 and 1, got {shrinkage}")

    def params() -> Params:
        start = math.log(shrinkage) - math.log1p(-shrinkage)
        return {"logit_shrinkage": jnp.full((), start, float)}

    def fit(params: Params, stats: Statistics) -> Affine:
        offset, means, seen = centred(stats)
        count, scatter = stats.moments.total, scatter_of(stats)
        d = stats.dim
        # An example in a class of its own says nothing of the covariance.
        freedom = jnp.maximum(count.sum() - seen.astype(count.dtype).sum(), 1.0)
        variance = jnp.trace(scatter) / (d * freedom)
        variance = jnp.where(variance == 0, 1.0, variance)
        # As logarithms' sigmoids, lest 1 - epsilon lose its digits near 1.
        keep, shrink = (jax.nn.sigmoid(sign * params["logit_shrinkage"]) for sign in (-1, 1))
        sigma = keep / freedom * scatter + shrink * variance * jnp.eye(d, dtype=scatter.dtype)
        weight = solve(sigma, means.T)
        bias = -0.5 * (means * weight.T).sum(1)
        if prior == "frequency":
            bias = bias + jnp.log(jnp.where(seen, count, 1.0) / count.sum())
        return Affine(weight, bias, offset, seen)

    def init(classes: int, dim: int) -> Statistics:
        return empty(classes, dim, scatter=True)

    return Head(params, init, fit, affine_logits)
