"""Every head: the same checks for all, then each against its formula in NumPy, float64."""

import sys

import chex
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import optax
import pytest
from scipy import stats as distributions

from lml_jax import heads, losses
from lml_jax.heads import choose_strength, gaussian, lda, nearest_mean, ridge
from lml_jax.heads.gaussian import _gamma_ratio
from lml_jax.heads.ridge import STRENGTHS, regression

C, D = 5, 8
HEADS = {
    "squared": nearest_mean(),
    "euclidean": nearest_mean(distance="euclidean"),
    "cosine": nearest_mean(distance="cosine", tau=10.0, temperature=True),
    "map": gaussian(predictive="map", alpha=2.0, beta=1.0),
    "bayes": gaussian(alpha=2.0, beta=1.0),
    "lda": lda(),
    "lda-frequency": lda(shrinkage=0.01, prior="frequency"),
    "ridge": ridge(),
    "ridge-intercept": ridge(strength=1e-2, intercept=True),
}
every = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)


def features(n=100, seed=0, classes=C, d=D, offset=0.0):
    """Correlated features of overlapping classes, deviations of 1 to 4; (z, y, queries)."""
    rng = np.random.default_rng(seed)
    mix = np.linalg.qr(np.random.default_rng(99).normal(size=(d, d)))[0] * np.linspace(1, 4, d)
    mix = mix @ np.linalg.qr(np.random.default_rng(97).normal(size=(d, d)))[0]
    centres = np.random.default_rng(98).normal(size=(classes, d))
    y = rng.permutation(np.arange(n) % classes)
    labels = rng.integers(0, classes, 40)
    z, q = ((centres[k] + rng.normal(size=(len(k), d))) @ mix + offset for k in (y, labels))
    return tuple(jnp.asarray(a) for a in (z.astype(np.float32), y.astype(np.int32), np.float32(q)))


def learned(head, z, y, classes=C):
    return head.learn(head.init(classes, z.shape[1]), z, y)


@every
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_any_order_any_pieces_and_merged(head, offset):
    """Logits in float32 within 1e-6 of the largest, and the same classes."""
    z, y, q = features(n=400, offset=offset)
    want = head.logits(learned(head, z, y), q)

    @jax.jit
    def one_by_one(stats, z, y):
        return jax.lax.scan(
            lambda s, e: (head.learn(s, e[0][None], e[1][None]), None), stats, (z, y)
        )[0]

    for seed in range(2):
        order = np.random.default_rng(seed).permutation(400)
        first = one_by_one(head.init(C, D), z[order[:250]], y[order[:250]])
        got = head.logits(head.merge(first, learned(head, z[order[250:]], y[order[250:]])), q)
        assert jnp.abs(got - want).max() < 1e-6 * jnp.abs(want).max()
        np.testing.assert_array_equal(got.argmax(1), want.argmax(1))


@every
def test_any_order_where_the_features_are_nearly_dependent(head, x64):
    """In float64, for a float32 loses the digits of the condition number, 1e8 here."""
    z, y, q = (jnp.asarray(np.asarray(a, float)) for a in features(n=60))
    z, q = (a * 10.0 ** jnp.linspace(-4, 0, D)[None] for a in (z, q))
    y = y.astype(jnp.int32)
    want = head.logits(learned(head, z, y), q)
    stats = head.init(C, D)
    for i in range(60)[::-1]:
        stats = head.learn(stats, z[i : i + 1], y[i : i + 1])
    np.testing.assert_allclose(head.logits(stats, q), want, rtol=1e-9, atol=1e-9)


@every
def test_a_prediction_depends_on_no_other_query(head):
    z, y, q = features()
    stats = learned(head, z, y)
    alone = head.logits(stats, q)
    for other in (1e8, jnp.nan, jnp.inf, -1e30):
        more = jnp.concatenate([q, jnp.full((3, D), other, jnp.float32)])
        np.testing.assert_allclose(head.logits(stats, more)[:40], alone, rtol=1e-5, atol=1e-5)


@every
def test_a_class_without_examples_is_never_predicted_and_gradients_are_finite(head):
    z, y, _ = features()

    def loss(params, z):
        logits = head.logits(learned(head, z, y, classes=8), z, params)
        return losses.cross_entropy(logits, y).mean(), logits

    (_, logits), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(head.params(), z)
    assert jnp.isneginf(logits[:, C:]).all()
    assert jnp.isfinite(logits[:, :C]).all()
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(grads))
    assert jnp.isneginf(head.logits(head.init(C, D), z)).all()


@every
def test_one_example_of_each_class_is_enough(head):
    z, y, _ = features(n=C)
    np.testing.assert_array_equal(head.logits(learned(head, z, y), z).argmax(1), y)


@every
def test_half_precision_is_computed_in_single(head):
    """Width 1,600 and +8 and -8: a squared distance of 409,600 is above float16's 65,504."""
    z = jnp.array([[8.0], [-8.0]]) * jnp.ones((1, 1600))
    y = jnp.array([0, 1], jnp.int32)
    for dtype in (jnp.float16, jnp.bfloat16):
        half = head.logits(learned(head, z.astype(dtype), y, classes=2), z.astype(dtype))
        assert half.dtype == jnp.float32
        assert jnp.isfinite(half).all()
        np.testing.assert_allclose(half, head.logits(learned(head, z, y, classes=2), z), rtol=1e-6)


@every
def test_gradients_of_parameters_and_features(head, x64):
    z, y, q = (jnp.asarray(np.asarray(a, float)) for a in features(n=15))
    y = y.astype(jnp.int32)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), head.params())

    def loss(params, z):
        logits = head.logits(learned(head, z, y), q[:6], params)
        return losses.cross_entropy(logits, jnp.arange(6, dtype=jnp.int32) % C).mean()

    jax.test_util.check_grads(loss, (params, z), order=2, modes=("rev",), atol=1e-5, rtol=1e-5)


@every
def test_strict_dtypes_and_vmap(head):
    z, y, q = features()
    want = head.logits(learned(head, z, y), q)
    with jax.numpy_dtype_promotion("strict"):
        stats = learned(head, z, y)
        np.testing.assert_allclose(
            head.logits(head.merge(stats, head.init(C, D)), q), want, rtol=1e-4
        )
    both = jax.vmap(lambda z: head.logits(learned(head, z, y), q))(jnp.stack([z, z]))
    np.testing.assert_allclose(both[1], want, rtol=1e-4, atol=1e-4)


@every
def test_the_width_of_queries_is_checked(head):
    with pytest.raises(ValueError, match=r"expected features \[n, 8\], got \[1, 9\]"):
        head.logits(head.init(C, D), jnp.zeros((1, 9)))


@every
def test_forgetting_is_exact_or_not_offered(head):
    z, y, q = features()
    if head.forget is None:
        assert head.init(C, D).moments.scatter is not None
        gone = y == 2
        got = head.unlearn(learned(head, z, y), z[gone], y[gone])
    else:
        got = head.forget(learned(head, z, y), 2)
    want = head.logits(learned(head, z[y != 2], y[y != 2]), q)
    np.testing.assert_allclose(head.logits(got, q), want, rtol=1e-4, atol=1e-4)


def numpy_moments(z, y, classes=C):
    z = np.asarray(z, float)
    means = np.stack([z[np.asarray(y) == k].mean(0) for k in range(classes)])
    deviations = z - means[np.asarray(y)]
    return z, means, deviations.T @ deviations, np.bincount(np.asarray(y), minlength=classes)


def test_nearest_mean_is_its_formula():
    z, y, q = features(n=63)
    _, means, _, _ = numpy_moments(z, y)
    d = ((np.asarray(q, float)[:, None] - means[None]) ** 2).sum(2)
    of = {name: HEADS[name].logits(learned(HEADS[name], z, y), q) for name in HEADS}
    np.testing.assert_allclose(of["squared"], -d, rtol=1e-5)
    np.testing.assert_allclose(of["euclidean"], -np.sqrt(d), rtol=1e-5)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (np.asarray(q, float), means)]
    np.testing.assert_allclose(of["cosine"], 10 * unit[0] @ unit[1].T, atol=1e-5)


def test_a_cosine_with_zero_is_zero_and_large_features_do_not_overflow():
    head = nearest_mean(distance="cosine")
    z = jnp.array([[3e30, 4e30], [0.0, 0.0]])
    stats = learned(head, z, jnp.array([0, 1], jnp.int32), classes=2)
    logits = head.logits(stats, jnp.array([[1e-20, 0.0], [0.0, 0.0]]))
    np.testing.assert_allclose(logits, [[0.6, 0.0], [0.0, 0.0]], atol=1e-6)


def test_a_euclidean_distance_of_zero_has_a_gradient():
    head, z = HEADS["euclidean"], jnp.full((1, 3), 1000.1)
    stats = learned(head, z, jnp.zeros(1, jnp.int32), classes=1)
    assert jnp.isfinite(jax.grad(lambda z: head.logits(stats, z).sum())(z)).all()


@pytest.mark.parametrize("prior", ["uniform", "frequency"])
def test_lda_is_its_formula(prior):
    z, y, q = features(n=63)
    head = lda(shrinkage=0.2, prior=prior)
    _, means, scatter, count = numpy_moments(z, y)
    sigma = scatter / (63 - C)
    sigma = 0.8 * sigma + 0.2 * np.trace(sigma) / D * np.eye(D)
    log_p = np.stack(
        [distributions.multivariate_normal(m, sigma).logpdf(np.asarray(q, float)) for m in means], 1
    )
    log_p = log_p + (np.log(count / 63)[None] if prior == "frequency" else 0.0)
    got = head.logits(learned(head, z, y), q)
    np.testing.assert_allclose(
        jax.nn.log_softmax(got), log_p - np.logaddexp.reduce(log_p, 1, keepdims=True), atol=1e-4
    )


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("strength", [1e-2, 1.0, 100.0])
@pytest.mark.parametrize("intercept", [False, True])
def test_ridge_is_its_formula(offset, strength, intercept):
    z, y, q = features(n=63, offset=offset)
    z64, q64, targets = np.asarray(z, float), np.asarray(q, float), np.eye(C)[np.asarray(y)]
    if intercept:
        mean = z64.mean(0)
        gram = (z64 - mean).T @ (z64 - mean)
        w = np.linalg.solve(gram + strength * np.eye(D), (z64 - mean).T @ targets)
        want = (q64 - mean) @ w + targets.mean(0)
    else:
        w = np.linalg.solve(z64.T @ z64 + strength * np.eye(D), z64.T @ targets)
        want = q64 @ w
    head = ridge(strength=strength, tau=3.0, intercept=intercept)
    np.testing.assert_allclose(head.logits(learned(head, z, y), q), 3 * want, atol=1e-4)


def test_ridge_with_examples_of_several_weights():
    """Weights count examples, and classes may be of any size."""
    z, y, q = features(n=63)
    y = y.at[:30].set(0)
    weight = jnp.asarray(np.random.default_rng(0).integers(0, 3, 63), jnp.float32)
    head = ridge(tau=1.0)
    rows = np.repeat(np.arange(63), np.asarray(weight, int))
    targets = np.eye(C)[np.asarray(y)[rows]]
    z64 = np.asarray(z, float)[rows]
    w = np.linalg.solve(z64.T @ z64 + np.eye(D), z64.T @ targets)
    got = head.logits(head.learn(head.init(C, D), z, y, weight), q)
    np.testing.assert_allclose(got, np.asarray(q, float) @ w, atol=1e-5)


def test_the_strength_is_that_of_the_smallest_held_out_error():
    z, y, _ = features(n=40)
    held, labels, _ = features(n=200, seed=1)
    head = ridge()
    parts = learned(head, z, y), learned(head, held, labels)
    for intercept in (False, True):
        chosen, errors = jax.jit(lambda a, b, i=intercept: choose_strength(a, b, intercept=i))(
            *parts
        )
        by_hand = []
        for strength in STRENGTHS:
            f = regression(parts[0], strength, intercept=intercept)
            outputs = np.asarray((held - f.offset[None]) @ f.weight + f.bias[None], float)
            by_hand.append(((outputs - np.eye(C)[np.asarray(labels)]) ** 2).sum(1).mean())
        np.testing.assert_allclose(errors, by_hand, rtol=1e-4)
        assert float(chosen) == pytest.approx(STRENGTHS[int(np.argmin(by_hand))])
        assert 0 < np.argmin(by_hand) < len(by_hand) - 1


def test_bad_candidates_and_parts_are_named():
    head = ridge()
    z, y, _ = features()
    stats = learned(head, z, y)
    for bad in ([], [1.0, 0.0], [jnp.nan]):
        with pytest.raises(ValueError, match="expected strengths above 0"):
            choose_strength(stats, stats, bad)
    with pytest.raises(ValueError, match="held_out has no examples"):
        choose_strength(stats, head.init(C, D))
    with pytest.raises(ValueError, match=r"got \[5, 8\] and \[6, 8\]"):
        choose_strength(stats, head.init(6, D))


def test_features_that_are_linearly_dependent():
    """Fewer examples than features, equal features and a constant one: finite, and right."""
    z, y, q = features(n=10)
    z, q = (jnp.concatenate([a, a, 0 * a[:, :1] + 7, a * 1e-6], axis=1) for a in (z, q))
    for head in (lda(shrinkage=1e-6), ridge(strength=1e-6), ridge(strength=1e-6, intercept=True)):
        stats = learned(head, z, y)
        assert jnp.isfinite(head.logits(stats, q)).all()
        np.testing.assert_array_equal(head.logits(stats, z).argmax(1), y)


def test_features_of_very_different_scales():
    """From 1e-4 to 1e4: scaled to a unit diagonal, float32 is enough."""
    z, y, q = features(n=200)
    scale = np.float32(10.0) ** np.arange(-4, 4, dtype=np.float32)[None]
    z, q = z * scale, q * scale
    _, means, scatter, _ = numpy_moments(z, y)
    sigma = scatter / (200 - C)
    sigma = (1 - 1e-12) * sigma + 1e-12 * np.trace(sigma) / D * np.eye(D)
    w = np.linalg.solve(sigma, means.T)
    want = np.asarray(q, float) @ w - 0.5 * (means * w.T).sum(1)[None]
    head = lda(shrinkage=1e-12)
    got = np.asarray(head.logits(learned(head, z, y), q), float)
    got, want = (a - a.mean(1, keepdims=True) for a in (got, want))
    np.testing.assert_allclose(got, want, atol=1e-3 * np.abs(want).max())


def test_lda_is_the_same_in_other_units():
    z, y, q = features()
    head = lda(shrinkage=0.3)
    np.testing.assert_allclose(
        head.logits(learned(head, 1000 * z, y), 1000 * q),
        head.logits(learned(head, z, y), q),
        rtol=1e-3,
        atol=1e-3,
    )


def test_the_posterior_predictive_is_students_t():
    """The flat prior on the mean leaves a + (n - 1) / 2; SciPy's density is the judge."""
    z, y, q = features(n=30)
    head = gaussian(alpha=1.7, beta=0.6)
    logits = head.logits(learned(head, z, y), q)
    for k in range(C):
        own = np.asarray(z, float)[np.asarray(y) == k]
        n, spread = len(own), own.var(0) * len(own)
        a, b = 1.7 + (n - 1) / 2, 0.6 + spread / 2
        scale = np.sqrt(b / a * (1 + 1 / n))
        log_p = distributions.t.logpdf(np.asarray(q, float), 2 * a, loc=own.mean(0), scale=scale)
        np.testing.assert_allclose(logits[:, k], log_p.sum(1), rtol=1e-5)


def test_classes_of_10_and_of_200000_examples():
    """At d = 64 a difference of gammaln in float32 was nats off: 10.7 instead of 3.1."""
    d, counts = 64, np.array([10.0, 200_000.0])
    rng = np.random.default_rng(0)
    means, variance = 0.3 * rng.normal(size=(2, d)), 0.5 + rng.uniform(size=(2, d))
    head = gaussian(alpha=100.0, beta=100.0)
    stats = head.init(2, d)
    moments = heads.Moments(
        *(jnp.asarray(a, jnp.float32) for a in (counts, means, counts[:, None] * variance))
    )
    q = rng.normal(size=(5, d)).astype(np.float32)
    got = np.asarray(head.logits(stats._replace(moments=moments), jnp.asarray(q)), float)
    log_p = []
    for n, m, s in zip(counts, *(np.asarray(a, float) for a in moments[1:3]), strict=True):
        a, b = 100 + (n - 1) / 2, 100 + s / 2
        scale = np.sqrt(b / a * (1 + 1 / n))
        log_p.append(distributions.t.logpdf(q.astype(float), 2 * a, loc=m, scale=scale).sum(1))
    np.testing.assert_allclose(got, np.stack(log_p, 1), atol=1e-3)


def test_the_ratio_of_gamma_functions():
    """SciPy's float64 from the smallest shape to ten million; its slope with no jump between."""
    a = np.concatenate([[0.5001, 0.7], np.logspace(0, 7, 200)]).astype(np.float32).astype(float)
    want = [np.log(distributions.t.pdf(0, 2 * v)) + 0.5 * np.log(2 * np.pi) for v in a]
    np.testing.assert_allclose(_gamma_ratio(jnp.asarray(a, jnp.float32)), want, atol=3e-7)
    slope = jax.vmap(jax.grad(lambda v: _gamma_ratio(v[None])[0]))(jnp.asarray(a, jnp.float32))
    np.testing.assert_allclose(slope[2:], 1 / (8 * a[2:] ** 2), rtol=0.2, atol=1e-6)


def test_the_most_probable_gaussian_maximises_the_posterior():
    """On a grid of precisions, for one class and one feature."""
    z = np.array([0.3, 1.1, 2.0])
    alpha, beta = 1.7, 0.6
    rho = np.linspace(1e-3, 10, 200_001)
    log_joint = (alpha - 1 + 1.5) * np.log(rho) - rho * (beta + ((z - z.mean()) ** 2).sum() / 2)
    best = rho[log_joint.argmax()]
    head = gaussian(predictive="map", alpha=alpha, beta=beta)
    stats = learned(head, jnp.asarray(z, jnp.float32)[:, None], jnp.zeros(3, jnp.int32), classes=1)
    logits = head.logits(stats, jnp.array([[0.0], [z.mean()]], jnp.float32))
    # log N differs between the two points by rho / 2 times the squared distance.
    np.testing.assert_allclose(logits[1, 0] - logits[0, 0], best / 2 * z.mean() ** 2, rtol=1e-3)


def test_a_wide_prior_makes_the_gaussian_the_nearest_mean():
    z, y, q = features()
    wide, near = gaussian(predictive="map", alpha=1e6, beta=1e6), nearest_mean()
    chosen = [head.logits(learned(head, z, y), q).argmax(1) for head in (wide, near)]
    np.testing.assert_array_equal(*chosen)


def test_many_queries_of_a_gaussian_are_taken_in_pieces(monkeypatch):
    z, y, q = features()
    head = HEADS["bayes"]
    want = head.logits(learned(head, z, y), q)
    monkeypatch.setattr(sys.modules["lml_jax.heads.gaussian"], "_CELLS", 7 * C * D)
    np.testing.assert_allclose(head.logits(learned(head, z, y), q), want, rtol=1e-6)


@pytest.mark.parametrize("name", ["lda", "ridge", "map", "bayes", "cosine"])
def test_parameters_are_meta_trained(name):
    """Episodes of few examples in many dimensions: a better prior than the initial one is found."""
    bad = {
        "lda": lda(shrinkage=0.001), "ridge": ridge(strength=1e-3),
        "cosine": nearest_mean(distance="cosine", temperature=True),
        "map": gaussian(predictive="map", alpha=1.0, beta=0.01),
        "bayes": gaussian(alpha=1.0, beta=0.01),
    }[name]  # fmt: skip

    def loss(params, key):
        key_c, key_s, key_q = jax.random.split(key, 3)
        centres, y = jax.random.normal(key_c, (C, 20)), jnp.arange(15) % C
        z, q = (centres[y] + jax.random.normal(k, (15, 20)) for k in (key_s, key_q))
        return losses.cross_entropy(bad.logits(learned(bad, z, y), q, params), y).mean()

    def batch(params, key):
        return jax.vmap(loss, in_axes=(None, 0))(params, jax.random.split(key, 20)).mean()

    tx = optax.adam(0.2)

    @jax.jit
    def step(carry, key):
        params, state = carry
        updates, state = tx.update(jax.grad(batch)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    test, params = jax.random.key(1), bad.params()
    keys = jax.random.split(jax.random.key(0), 40)
    trained = jax.lax.scan(step, (params, tx.init(params)), keys)[0][0]
    assert batch(trained, test) < 0.9 * batch(params, test)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="did you mean 'euclidean'"):
        nearest_mean(distance="euklidean")
    with pytest.raises(ValueError, match="tau must be positive and finite, got 0"):
        nearest_mean(tau=0)
    with pytest.raises(ValueError, match="did you mean 'bayes'"):
        gaussian(predictive="baies")
    for alpha in (0.4, float("nan")):
        with pytest.raises(ValueError, match=f"got {alpha} and 1"):
            gaussian(alpha=alpha, beta=1.0)
    for shrinkage in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match=f"between 0 and 1, got {shrinkage}"):
            lda(shrinkage=shrinkage)
    with pytest.raises(ValueError, match="did you mean 'uniform'"):
        lda(prior="uniforn")
    with pytest.raises(ValueError, match="strength must be positive and finite, got -1"):
        ridge(strength=-1)
    with pytest.raises(ValueError, match="tau must be positive and finite, got inf"):
        ridge(tau=float("inf"))


@pytest.mark.parametrize("head", [lda(), ridge()], ids=["lda", "ridge"])
def test_a_fit_compiles_once(head):
    chex.clear_trace_counter()
    fit = jax.jit(chex.assert_max_traces(lambda params, stats: head.fit(params, stats), n=1))
    for seed in range(2):
        z, y, _ = features(seed=seed)
        fit(head.params(), learned(head, z, y))
