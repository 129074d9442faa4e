"""Classifiers trained on samples: what they score where the answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import metrics, nets
from lml_jax.metrics.trained import classification_scores, classifier, two_sample_score
from lml_jax.types import Batch

KEY = jax.random.key(0)


def blobs(key, n, classes=(0, 1, 2, 3), shift=0.0):
    """Classes far apart along a circle, each a Gaussian."""
    key_y, key_x = jax.random.split(key)
    y = jnp.asarray(classes)[jax.random.randint(key_y, (n,), 0, len(classes))]
    angle = y * jnp.pi / 2
    centre = 4 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    return Batch(centre + shift + jax.random.normal(key_x, (n, 2)), y)


@pytest.fixture(scope="module")
def scores():
    net = nets.mlp([16], 4)
    return jax.jit(classification_scores(net, classifier(net, optax.adam(1e-2), steps=200)))


def test_samples_of_the_true_distribution_score_like_real_data(scores):
    tests = [blobs(jax.random.key(1), 300, classes=pair) for pair in ((0, 1), (2, 3))]
    got = scores(blobs(jax.random.key(2), 400), tests, KEY)
    assert got.min() > 0.95


def test_a_generator_with_the_wrong_labels_scores_at_chance_or_below(scores):
    generated = blobs(jax.random.key(2), 400)
    wrong = generated._replace(y=(generated.y + 1) % 4)
    assert float(scores(wrong, [blobs(jax.random.key(1), 300)], KEY)[0]) < 0.1


def test_the_matrix_shows_what_tasks_alone_would_hide(scores):
    """After task 2 the generator makes class 2 in place of class 0."""
    tests = [blobs(jax.random.key(1), 300, classes=pair) for pair in ((0, 1), (2, 3))]
    first = blobs(jax.random.key(2), 400, classes=(0, 1))
    second = blobs(jax.random.key(3), 400)
    lost = second._replace(y=jnp.where(second.y == 0, 2, second.y))
    R = np.stack([np.full(2, np.nan), scores(first, tests, KEY), scores(lost, tests, KEY)])
    np.testing.assert_array_equal(np.isfinite(R), [[False, False], [True, False], [True, True]])
    assert R[1, 0] > 0.95
    assert metrics.forgetting(R) > 0.4


def test_padding_and_unlabelled_samples_train_nothing(scores):
    good = blobs(jax.random.key(2), 400)
    bad = good._replace(y=(good.y + 1) % 4, weight=jnp.zeros(400))
    unlabelled = good._replace(y=jnp.full(400, -1), weight=jnp.ones(400))
    parts = [good._replace(weight=jnp.ones(400)), bad, unlabelled]
    mixed = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    assert float(scores(mixed, [blobs(jax.random.key(1), 300)], KEY)[0]) > 0.95


def test_two_samples_of_one_distribution_cannot_be_told_apart():
    net = nets.mlp([16], 2)
    score = jax.jit(two_sample_score(net, classifier(net, optax.adam(1e-2), steps=200)))
    one, other = (blobs(jax.random.key(k), 800).x for k in (4, 5))
    # 800 are held out: five standard deviations about 1/2.
    assert abs(float(score(one, other, KEY)) - 0.5) < 5 / (2 * np.sqrt(800))
    assert float(score(one, other + 9.0, KEY)) > 0.95


def test_bad_input_is_refused():
    net = nets.mlp([], 2)
    fit = classifier(net, optax.sgd(0.1), steps=1)
    with pytest.raises(ValueError, match="steps and batch_size must be at least 1, got 0 and 64"):
        classifier(net, optax.sgd(0.1), steps=0)
    with pytest.raises(ValueError, match="no examples to train"):
        fit(Batch(jnp.zeros((0, 2)), jnp.zeros(0, int)), KEY)
    with pytest.raises(ValueError, match=r"got shapes \(4, 2\) and \(3, 2\)"):
        two_sample_score(net, fit)(jnp.zeros((4, 2)), jnp.zeros((3, 2)), KEY)
