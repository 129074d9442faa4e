"""Moments, class means and Gaussian posteriors, against the formulas written out with NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lml_jax import losses
from lml_jax.classifiers import Moments, gaussian, merge, moments_of, nearest_mean, no_moments

CLASSIFIERS = {
    "squared": lambda c: nearest_mean(c),
    "euclidean": lambda c: nearest_mean(c, distance="euclidean"),
    "temperature": lambda c: nearest_mean(c, temperature=True),
    "map": lambda c: gaussian(c, predictive="map", alpha=2.0, beta=1.0),
    "bayes": lambda c: gaussian(c, predictive="bayes", alpha=2.0, beta=1.0),
}


def features(n=30, d=4, classes=3, seed=0):
    key_z, key_y = jax.random.split(jax.random.key(seed))
    y = jnp.arange(n) % classes
    return jax.random.normal(key_z, (n, d)) + y[:, None], jax.random.permutation(key_y, y)


def all_moments(z, y, classes=3):
    return moments_of(z, y, jnp.ones(len(y)), classes=classes)


def test_moments_are_those_of_each_class():
    z, y = features()
    count, mean, spread = all_moments(z, y)
    for k in range(3):
        own = np.asarray(z)[np.asarray(y) == k]
        assert count[k] == len(own)
        np.testing.assert_allclose(mean[k], own.mean(0), rtol=1e-5)
        np.testing.assert_allclose(spread[k], own.var(0) * len(own), rtol=1e-4)


def test_unlabelled_and_weightless_examples_take_no_part():
    z, y = features()
    odd = jnp.where(jnp.arange(30) < 5, -1, y)
    weight = jnp.ones(30).at[25:].set(0.0)
    chex.assert_trees_all_close(
        moments_of(z, odd, weight, classes=3), all_moments(z[5:25], y[5:25]), atol=1e-5
    )


@pytest.mark.parametrize("make", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_one_at_a_time_in_any_order_is_all_at_once(make, x64):
    z, y = features()
    classifier = make(3)
    params = jax.tree.map(jnp.asarray, classifier.init())

    def one(moments, example):
        z, y = example
        return merge(moments, all_moments(z[None], y[None])), None

    at_once = classifier.logits(params, all_moments(z, y), z)
    for seed in range(3):
        order = jax.random.permutation(jax.random.key(seed), 30)
        so_far = jax.lax.scan(one, no_moments(3, 4), (z[order], y[order]))[0]
        np.testing.assert_allclose(classifier.logits(params, so_far, z), at_once, rtol=1e-10)


@pytest.mark.parametrize("make", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_a_class_without_examples_is_never_predicted_and_gradients_are_finite(make):
    z, y = features()
    classifier = make(5)

    def loss(params, z):
        logits = classifier.logits(params, all_moments(z, y, classes=5), z)
        return losses.cross_entropy(logits, y).mean(), logits

    params = jax.tree.map(jnp.asarray, classifier.init())
    (_, logits), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, z)
    assert jnp.isneginf(logits[:, 3:]).all()
    assert jnp.isfinite(logits[:, :3]).all()
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_the_posterior_predictive_is_students_t():
    """The flat prior on the mean leaves a + (n - 1) / 2; SciPy's density is the judge."""
    z, y = features(d=2)
    classifier = gaussian(3, predictive="bayes", alpha=1.7, beta=0.6)
    logits = classifier.logits(classifier.init(), all_moments(z, y), z)
    for k in range(3):
        own = np.asarray(z)[np.asarray(y) == k]
        n, spread = len(own), own.var(0) * len(own)
        a, b = 1.7 + (n - 1) / 2, 0.6 + spread / 2
        scale = np.sqrt(b / a * (1 + 1 / n))
        log_p = stats.t.logpdf(np.asarray(z), 2 * a, loc=own.mean(0), scale=scale).sum(1)
        np.testing.assert_allclose(logits[:, k], log_p, rtol=1e-4)


def test_the_most_probable_gaussian_maximises_the_posterior():
    """On a grid of precisions, for one class and one feature."""
    z = np.array([0.3, 1.1, 2.0])
    alpha, beta = 1.7, 0.6
    rho = np.linspace(1e-3, 10, 200_001)
    log_joint = (
        (alpha - 1) * np.log(rho)
        - beta * rho
        + 1.5 * np.log(rho)
        - rho / 2 * ((z - z.mean()) ** 2).sum()
    )
    best = rho[log_joint.argmax()]
    classifier = gaussian(1, predictive="map", alpha=alpha, beta=beta)
    moments = all_moments(jnp.asarray(z)[:, None], jnp.zeros(3, int), classes=1)
    logits = classifier.logits(classifier.init(), moments, jnp.array([[0.0], [z.mean()]]))
    # log N differs between the two points by rho / 2 times the squared distance.
    np.testing.assert_allclose(logits[1, 0] - logits[0, 0], best / 2 * z.mean() ** 2, rtol=1e-3)


def test_a_wide_prior_makes_the_gaussian_the_nearest_mean():
    z, y = features()
    wide = gaussian(3, predictive="map", alpha=1e6, beta=1e6)
    near = nearest_mean(3)
    m = all_moments(z, y)
    chosen = wide.logits(wide.init(), m, z).argmax(1)
    np.testing.assert_array_equal(chosen, near.logits(near.init(), m, z).argmax(1))


# jaxlib 0.10.2 returns garbage for some forms of this on CPU, and only inside jit.
@pytest.mark.parametrize(("n", "c", "d"), [(500, 600, 64), (300, 20, 64), (128, 128, 128)])
@pytest.mark.parametrize("weighted", [False, True])
def test_squared_distances_inside_jit(n, c, d, weighted):
    keys = jax.random.split(jax.random.key(0), 3)
    z, centre = jax.random.normal(keys[0], (n, d)), jax.random.normal(keys[1], (c, d))
    p = jax.random.uniform(keys[2], (c, d), minval=0.5) if weighted else None
    got = jax.jit(losses.squared_distances)(z, centre, p)
    by_hand = (np.asarray(z)[:, None] - np.asarray(centre)[None]) ** 2
    by_hand = by_hand * (1.0 if p is None else np.asarray(p)[None])
    np.testing.assert_allclose(got, by_hand.sum(2), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_common_offset_costs_no_precision(weighted):
    keys = jax.random.split(jax.random.key(0), 3)
    z, c = jax.random.normal(keys[0], (30, 6)), jax.random.normal(keys[1], (10, 6))
    p = jax.random.uniform(keys[2], (10, 6), minval=0.5) if weighted else None
    z, c = z + 300.0, (c + 300.0).at[0].set(0.0)  # a class without examples
    want = (np.asarray(z, float)[:, None] - np.asarray(c, float)[None]) ** 2
    want = (want * (1.0 if p is None else np.asarray(p)[None])).sum(2)
    got = losses.squared_distances(z, c, p)
    np.testing.assert_allclose(got[:, 1:], want[:, 1:], rtol=1e-4, atol=1e-3)


def test_distances_are_never_negative_and_their_root_has_a_gradient():
    z = jnp.ones((1, 3)) * 1000.1
    near = nearest_mean(1, distance="euclidean")
    m = Moments(jnp.ones(1), z, jnp.zeros((1, 3)))
    slope = jax.grad(lambda z: near.logits({}, m, z).sum())(z)
    assert jnp.isfinite(slope).all()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="euclidean"):
        nearest_mean(3, distance="euklidean")
    with pytest.raises(ValueError, match="bayes"):
        gaussian(3, predictive="baies")
    with pytest.raises(ValueError, match="classes must be at least 1, got 0"):
        nearest_mean(0)
    with pytest.raises(ValueError, match=r"got 0\.4 and 1"):
        gaussian(3, alpha=0.4, beta=1.0)
    with pytest.raises(ValueError, match="got nan and 1"):
        gaussian(3, alpha=float("nan"), beta=1.0)
