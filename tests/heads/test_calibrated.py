"""Class means of new classes, calibrated by base classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax.heads import calibrated_mean, nearest_mean

BASE, CLASSES, DIM = 4, 6, 5


@pytest.fixture(scope="module")
def taught():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(CLASSES), 7)
    z = (rng.normal(size=(CLASSES, DIM))[y] + rng.normal(size=(len(y), DIM))).astype(np.float32)
    head = calibrated_mean(BASE)
    return head.learn(head.init(CLASSES + 1, DIM), z, y), z, y


def test_it_is_the_formula(taught):
    stats, z, y = taught
    alpha, tau = 0.3, 5.0
    means = np.stack([z[y == c].mean(0) for c in range(CLASSES)])
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    want = means.copy()
    for n in range(BASE, CLASSES):
        w = np.exp(tau * unit[:BASE] @ unit[n])
        want[n] = alpha * means[n] + (1 - alpha) * (w / w.sum()) @ means[:BASE]
    x = z[::3]
    cosines = (x @ want.T) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(want, axis=1)
    logits = calibrated_mean(BASE, alpha=alpha, tau=tau).logits(stats, x)
    np.testing.assert_allclose(logits[:, :CLASSES], cosines, rtol=1e-4, atol=1e-5)
    assert jnp.isneginf(logits[:, CLASSES]).all()  # a class without examples


def test_alpha_1_is_the_nearest_mean_by_cosine(taught):
    stats, z, _ = taught
    got = calibrated_mean(BASE, alpha=1.0).logits(stats, z)
    np.testing.assert_allclose(got, nearest_mean(distance="cosine").logits(stats, z), atol=1e-5)


def test_without_a_base_class_new_ones_stay_where_they_are(taught):
    _, z, y = taught
    head = calibrated_mean(BASE)
    stats = head.learn(head.init(CLASSES, DIM), z[y >= BASE], y[y >= BASE])
    got = head.logits(stats, z)
    np.testing.assert_allclose(got, nearest_mean(distance="cosine").logits(stats, z), atol=1e-5)
    gradient = jax.grad(lambda x: head.logits(stats, x)[:, BASE:].sum())(jnp.asarray(z))
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"base": 0}, "base must be at least 1 class, got 0"),
        ({"base": 1, "alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
        ({"base": 1, "tau": 0.0}, "tau must be positive and finite, got 0.0"),
    ],
)
def test_bad_arguments_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        calibrated_mean(**options)
