import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax.metrics import generators as gm
from lml_jax.metrics.diversity import collapse_of, diversity_ratio, warn_if_collapsed

VARIANTS = pytest.mark.parametrize("variant", [lambda f, **kw: f, jax.jit])


def two_sets(n=60, m=50, d=6, seed=0):
    """Asymmetric on purpose: other sizes, means, scales and correlations."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d))
    return rng.normal(size=(n, d)) @ mix, 0.6 * rng.normal(size=(m, d)) + 0.3


def distances(a, b):
    return np.linalg.norm(a[:, None] - b[None], axis=-1)


def radii(x, k):
    return np.sort(distances(x, x), axis=1)[:, k]  # column 0 is the example itself


@pytest.mark.parametrize("k", [1, 3, 5])
def test_neighbour_measures_against_numpy(k):
    real, fake = two_sets()
    between = distances(real, fake)
    inside = between <= radii(real, k)[:, None]
    precision, recall = gm.precision_recall(jnp.asarray(real), jnp.asarray(fake), k=k)
    density, coverage = gm.density_coverage(jnp.asarray(real), jnp.asarray(fake), k=k)
    np.testing.assert_allclose(precision, inside.any(0).mean(), rtol=1e-6)
    np.testing.assert_allclose(recall, (between <= radii(fake, k)[None]).any(1).mean(), rtol=1e-6)
    np.testing.assert_allclose(density, inside.sum() / (k * len(fake)), rtol=1e-6)
    np.testing.assert_allclose(coverage, inside.any(1).mean(), rtol=1e-6)


def test_neighbour_measures_against_their_authors_package():
    prdc = pytest.importorskip("prdc")
    real, fake = two_sets(seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = prdc.compute_prdc(real_features=real, fake_features=fake, nearest_k=5)
    pair = jnp.asarray(real), jnp.asarray(fake)
    got = [*gm.precision_recall(*pair), *gm.density_coverage(*pair)]
    names = ("precision", "recall", "density", "coverage")
    np.testing.assert_allclose(got, [want[name] for name in names], rtol=1e-6)


def test_neighbour_literals():
    real, fake = jnp.array([[0.0], [1.0], [2.0], [9.0]]), jnp.array([[0.5], [0.6], [30.0]])
    precision, recall = gm.precision_recall(real, fake, k=1)
    # 30 is in no ball of the real; the radii of the fake are .1, .1 and 29.4, so only 0 is missed.
    np.testing.assert_allclose([precision, recall], [2 / 3, 3 / 4], rtol=1e-6)


@VARIANTS
def test_frechet_against_scipy(variant):
    linalg = pytest.importorskip("scipy.linalg")
    real, fake = two_sets()
    s_r, s_g = np.cov(real.T), np.cov(fake.T)
    want = np.sum((real.mean(0) - fake.mean(0)) ** 2) + np.trace(
        s_r + s_g - 2 * linalg.sqrtm(s_r @ s_g).real
    )
    got = variant(gm.frechet_distance)(jnp.asarray(real), jnp.asarray(fake))
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_frechet_of_a_set_with_itself_and_with_degenerate_features():
    real, _ = two_sets()
    assert float(gm.frechet_distance(jnp.asarray(real), jnp.asarray(real))) < 1e-3
    flat = jnp.zeros((20, 4))  # a constant feature has no deviation at all
    assert float(gm.frechet_distance(flat, flat + 2.0)) == pytest.approx(16.0)


@VARIANTS
def test_kernel_distance_against_numpy(variant):
    real, fake = two_sets()
    n, m, d = len(real), len(fake), real.shape[1]

    def mean_kernel(a, b, same):
        values = [
            (a[i] @ b[j] / d + 1) ** 3
            for i in range(len(a))
            for j in range(len(b))
            if not (same and i == j)
        ]
        return np.mean(values)

    want = (
        mean_kernel(real, real, True)
        + mean_kernel(fake, fake, True)
        - 2 * mean_kernel(real, fake, False)
    )
    got = variant(gm.kernel_distance)(jnp.asarray(real), jnp.asarray(fake))
    assert (n, m) == (60, 50)
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_kernel_distance_is_unbiased():
    """Over many pairs of samples of one distribution its mean is 0 within four standard errors."""

    def one(key):
        real, fake = jax.random.normal(key, (2, 12, 3))
        return gm.kernel_distance(real, fake)

    values = np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(0), 4000)))
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert values.min() < 0


def test_diversity_ratio_literals():
    y = jnp.array([0, 0, 1, 1, 2, -1])
    real = jnp.array([[0.0, 0.0], [2.0, 4.0], [5.0, 0.0], [5.0, 2.0], [9.0, 9.0], [99.0, 0.0]])
    # sigma: class 0 (1, 2), class 1 (0, 1): mean 1; class 2 occurs once, -1 is not a class.
    fake = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [50.0, 0.0]])
    got = diversity_ratio(real, y, fake, y, classes=3)
    np.testing.assert_allclose(got, (0.5 + 0.0 + 0.0 + 0.0) / (1 + 2 + 0 + 1), rtol=1e-6)
    np.testing.assert_allclose(diversity_ratio(real, y, real, y, classes=3), 1.0, rtol=1e-6)
    assert jnp.isnan(diversity_ratio(real, y, fake, jnp.full(6, 2), classes=2))


def test_memorisation_of_copies_and_of_fresh_examples():
    rng = np.random.default_rng(0)
    train, test, fresh = (jnp.asarray(rng.normal(size=(200, 4))) for _ in range(3))
    assert float(gm.memorisation_ratio(train[:50], train, test)) == 0.0
    assert 0.8 < float(gm.memorisation_ratio(fresh, train, test)) < 1.2
    assert jnp.isnan(gm.memorisation_ratio(fresh, train, train))


def test_a_perfect_generator_scores_like_the_real():
    rng = np.random.default_rng(1)
    real, fake = (jnp.asarray(rng.normal(size=(400, 3))) for _ in range(2))
    precision, recall = gm.precision_recall(real, fake)
    density, coverage = gm.density_coverage(real, fake)
    assert min(precision, recall, coverage) > 0.9
    assert 0.9 < density < 1.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r, f: gm.precision_recall(r, f[:0]), "fake has 0 examples, expected at least 6"),
        (lambda r, f: gm.precision_recall(r, f[:5]), "fake has 5 examples, expected at least 6"),
        (lambda r, f: gm.density_coverage(r[:5], f), "real has 5 examples, expected at least 6"),
        (lambda r, f: gm.precision_recall(r, f, k=0), "k must be at least 1, got 0"),
        (lambda r, f: gm.frechet_distance(r, f[:, :2]), "real has 6 features and fake 2"),
        (lambda r, f: gm.kernel_distance(r[0], f), r"real must have shape \[n, d\]"),
        (lambda r, f: gm.frechet_distance(r, f[:1]), "fake has 1 examples, expected at least 2"),
        (
            lambda r, f: diversity_ratio(r, jnp.zeros(3, int), f, jnp.zeros(50, int), classes=1),
            r"y_real must have shape \[60\]",
        ),
        (lambda r, f: gm.memorisation_ratio(f, r[:0], r), "train has 0 examples"),
    ],
)
def test_bad_input_is_refused(call, message):
    real, fake = (jnp.asarray(x) for x in two_sets())
    with pytest.raises(ValueError, match=message):
        call(real, fake)


def test_a_collapsed_generator_is_not_passed_over_in_silence():
    assert warn_if_collapsed(0.7, threshold=0.5) is None
    assert warn_if_collapsed(0.7, threshold=0.5, each=[0.26, jnp.nan]) is None
    with pytest.warns(RuntimeWarning, match=r"0.25 of each; in class 1 \(0.20\)"):
        warn_if_collapsed(0.7, threshold=0.5, each=[1.2, 0.2])
    for ratio in (0.3, float("nan")):
        with pytest.warns(RuntimeWarning, match="collapsed after task 2: .* at least 0.5"):
            assert warn_if_collapsed(ratio, threshold=0.5, where=" after task 2")


def test_a_message_names_no_more_classes_than_can_be_read():
    message = collapse_of(0.1, threshold=0.5, each=[0.1] * 9)
    assert "4 (0.10) and 4 more" in message
    assert "5 (0.10)" not in message
