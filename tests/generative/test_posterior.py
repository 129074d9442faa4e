"""The conjugate code: order, batches, the empty set, and its divergence."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax import losses
from lml_jax.generative.vaml import posterior
from lml_jax.generative.vaml.posterior import Posterior, Weights

KEY = jax.random.key(0)


def start(classes=None, d=6):
    params = {"mean": jnp.linspace(-1, 1, d), "log_precision": jnp.linspace(-2, 1, d)}
    return posterior.prior(params, classes)


def factors(n=20, d=6):
    return jax.random.normal(KEY, (n, 2 * d))


def weight(classes, n=20):
    drawn = jax.random.uniform(jax.random.key(1), (n, classes))
    return jnp.where(drawn > 0.4, drawn, 0.0) if classes > 1 else drawn[:, 0]


@pytest.mark.parametrize("classes", [None, 3])
def test_order_does_not_matter_nor_does_coming_one_by_one(classes):
    f, w = factors(), weight(classes or 1)
    once = posterior.update(start(classes), f, w)
    turn = jax.random.permutation(jax.random.key(2), len(f))
    chex.assert_trees_all_close(posterior.update(start(classes), f[turn], w[turn]), once, atol=1e-5)

    def one(q, row):
        return posterior.update(q, row[0][None], row[1][None]), None

    for order in (jnp.arange(len(f)), turn):
        last, _ = jax.lax.scan(one, start(classes), (f[order], w[order]))
        chex.assert_trees_all_close(last, once, atol=1e-5)


def test_nothing_seen_is_the_prior_and_precision_only_grows():
    q = start()
    chex.assert_trees_all_equal(posterior.update(q, factors(0), jnp.zeros(0)), q)
    chex.assert_trees_all_close(posterior.update(q, factors(4), jnp.zeros(4)), q, rtol=1e-6)
    steps = [posterior.update(q, factors(k), jnp.ones(k)).precision for k in range(6)]
    assert all((b > a).all() for a, b in itertools.pairwise(steps))


def test_it_is_the_posterior_of_a_gaussian_mean():
    """With l_k = 1/s^2 and m_k = y_k it is Bayes' rule for the mean of N(h, s^2)."""
    y, s, l0, m0 = np.array([1.0, 2.5, -0.5]), 0.7, 0.3, 2.0
    grid = np.linspace(-10, 10, 200001)
    log = -0.5 * l0 * (grid - m0) ** 2 - 0.5 * ((y[:, None] - grid) ** 2).sum(0) / s**2
    p = np.exp(log - log.max())
    p /= p.sum()
    mean, var = (p * grid).sum(), (p * grid**2).sum() - (p * grid).sum() ** 2
    q = posterior.prior({"mean": jnp.array([m0]), "log_precision": jnp.log(jnp.array([l0]))})
    pairs = jnp.stack([jnp.array(y), jnp.full(3, -2 * jnp.log(s))], axis=1)
    q = posterior.update(q, pairs, jnp.ones(3))
    np.testing.assert_allclose(q.mean[0], mean, rtol=1e-5)
    np.testing.assert_allclose(1 / q.precision[0], var, rtol=1e-4)


def test_divergence_is_positive_and_equals_a_literal():
    rows = jax.random.normal(KEY, (4, 50, 6))
    kl = losses.gaussian_kl(rows[0], jnp.exp(rows[1]), rows[2], jnp.exp(rows[3]))
    chex.assert_shape(kl, (50,))
    assert kl.min() > 0
    # 1/2 [log 4 - log 1 + 1/4 + 1 (3 - 1)^2 - 1]
    two = losses.gaussian_kl(*(jnp.array([v]) for v in (3.0, 4.0, 1.0, 1.0)))
    np.testing.assert_allclose(two, 0.5 * (np.log(4) + 0.25 + 4 - 1), rtol=1e-6)
    same = losses.gaussian_kl(rows[0], jnp.exp(rows[1]), rows[0], jnp.exp(rows[1]))
    np.testing.assert_allclose(same, 0, atol=1e-6)


def test_draws_have_the_moments_of_the_posterior():
    q = Posterior(jnp.array([2.0]), jnp.array([4.0]), jnp.ones(()))
    drawn = jax.vmap(lambda e: posterior.draw(q, e))(jax.random.normal(KEY, (20_000, 1)))
    assert abs(drawn.mean() - 2.0) < 4 * 0.5 / 20_000**0.5
    assert abs(drawn.std() - 0.5) < 4 * 0.5 / 40_000**0.5


@pytest.mark.parametrize("classes", [None, 3])
def test_an_example_of_weight_zero_may_be_anything(classes):
    w = weight(classes or 1).at[3:6].set(0.0)
    bad = factors().at[3:6].set(jnp.array([jnp.inf, jnp.nan, -jnp.inf])[:, None])
    seen = posterior.update(start(classes), bad, w)
    chex.assert_trees_all_equal(seen, posterior.update(start(classes), factors(), w))
    grad = jax.grad(lambda f: posterior.update(start(classes), f, w).mean.sum())(bad)
    assert (grad[3:6] == 0).all()
    assert jnp.isfinite(grad).all()


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match=r"prior must be at least 0, got -1"):
        posterior.check_weights(Weights(prior=-1.0))
