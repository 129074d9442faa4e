"""Heads on an encoder as few-shot learners; the encoders; the heads by name."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import nets, train
from lml_jax.heads import (
    HEADS,
    encoder,
    grow,
    head_learner,
    identity,
    lda,
    nearest_mean,
    predictor,
    random_features,
    ridge,
)
from lml_jax.learners.gemcl import gemcl
from lml_jax.learners.protonet import protonet
from lml_jax.types import Batch, Net, Task

KEY = jax.random.key(0)
every = pytest.mark.parametrize("name", HEADS)


def small(name, given=identity, classes=3):
    net, head = HEADS[name](given)
    if name == "random-ridge":
        net = random_features(given, 50)
    return head_learner(net, head, classes=classes), net, head


def examples(n=30, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = 2 * np.eye(3, 6)[y] + rng.normal(size=(n, 6)) + 1
    return Batch(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32))


@every
def test_it_learns_features(name):
    learner, net, head = small(name)
    params = learner.init(KEY, examples().x)
    assert set(params) == {"net", "head"}
    fast = learner.adapt(params, examples(), KEY)
    test = examples(300, seed=1)
    logits = learner.predict(params, fast, test.x)
    assert (logits.argmax(1) == test.y).mean() > 0.6
    serve = predictor(net, head, params, fast)
    np.testing.assert_allclose(serve(test.x[:9]), logits[:9], rtol=1e-3, atol=1e-4)


@every
def test_going_on_is_all_at_once(name):
    learner, _, _ = small(name)
    data = examples()
    params = learner.init(KEY, data.x)
    want = learner.predict(params, learner.adapt(params, data, KEY), data.x)
    step = jax.jit(learner.adapt, donate_argnums=3)
    fast = learner.adapt(params, jax.tree.map(lambda leaf: leaf[:0], data), KEY)
    for i in np.random.default_rng(0).permutation(30):
        fast = step(params, jax.tree.map(lambda leaf, i=i: leaf[i][None], data), KEY, fast)
    np.testing.assert_allclose(learner.predict(params, fast, data.x), want, rtol=1e-3, atol=1e-4)


@every
def test_padding_never_reaches_the_network_or_its_gradient(name):
    """A norm has no gradient at 0, and NaN times 0 is NaN: padding must not enter the network."""

    def apply(params, x):
        return x @ params / jnp.linalg.norm(x, axis=1, keepdims=True)

    net = encoder(apply, jax.random.normal(KEY, (6, 6)))
    learner, _, _ = small(name, net)
    data = examples()
    padding = jnp.stack([jnp.zeros(6), jnp.full(6, jnp.nan)])
    padded = Batch(
        jnp.concatenate([padding, data.x]),
        jnp.concatenate([jnp.array([0, 2], jnp.int32), data.y]),
        jnp.ones(32).at[:2].set(0.0),
    )
    params = learner.init(KEY, data.x)

    def loss(params, support):
        logits = learner.predict(params, learner.adapt(params, support, KEY), data.x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, data.y).mean()

    want, slope = jax.value_and_grad(loss)(params, data)
    got, padded_slope = jax.value_and_grad(loss)(params, padded)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(padded_slope), jax.tree.leaves(slope), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-5)


@every
def test_bad_labels_and_features(name):
    learner, _, _ = small(name)
    data = examples()
    params = learner.init(KEY, data.x)
    for label in (3, -2):
        odd = data._replace(y=data.y.at[4].set(label))
        with pytest.raises(ValueError, match=r"expected -1..2"):
            learner.adapt(params, odd, KEY)
        fast = jax.jit(learner.adapt)(params, odd, KEY)
        assert jnp.isnan(learner.predict(params, fast, data.x)).all()
    with pytest.raises(ValueError, match="the first is number 4"):
        learner.adapt(params, data._replace(x=data.x.at[4, 0].set(jnp.nan)), KEY)
    fast = learner.adapt(params, data, KEY)
    if name != "random-ridge":  # whose projection knows the width
        with pytest.raises(ValueError, match=r"expected features \[n, 6\], got \[30, 7\]"):
            learner.adapt(params, data._replace(x=jnp.zeros((30, 7))), KEY, fast)


def test_an_encoder_must_return_one_vector_for_each_example():
    learner = head_learner(identity, lda(), classes=3)
    with pytest.raises(ValueError, match=r"features \[n, d\], got \[n, 4, 4\]"):
        learner.adapt({"net": {}, "head": {}}, Batch(jnp.zeros((3, 4, 4)), jnp.arange(3)), KEY)


def test_labels_that_are_not_active_are_not_learned():
    learner = head_learner(identity, lda(), classes=3)
    data = examples()
    params = learner.init(KEY, data.x)
    active = jnp.array([True, False, True])
    logits = learner.predict(params, learner.adapt(params, data, KEY, None, active), data.x)
    assert jnp.isneginf(logits[:, 1]).all()
    assert jnp.isfinite(logits[:, ::2]).all()


def test_more_classes_than_at_first():
    """`fast` may have grown: its classes count, not those the learner started with."""
    learner = head_learner(identity, nearest_mean(), classes=3)
    data = examples()
    fast = grow(learner.adapt({"net": {}, "head": {}}, data, KEY), 5)
    more = Batch(jnp.full((2, 6), 9.0), jnp.array([4, 4], jnp.int32))
    fast = learner.adapt({"net": {}, "head": {}}, more, KEY, fast)
    assert learner.predict({"net": {}, "head": {}}, fast, more.x).argmax(1).tolist() == [4, 4]


@pytest.mark.parametrize("head", [lda(), ridge()], ids=["lda", "ridge"])
def test_encoder_and_head_are_meta_trained_together(head):
    """Noise in 4 of 6 axes, which only a trained embedding does not see."""

    def task(key):
        key_c, *keys = jax.random.split(key, 3)
        centres = jnp.zeros((3, 6)).at[:, :2].set(jax.random.normal(key_c, (3, 2)))
        y = jnp.repeat(jnp.arange(3, dtype=jnp.int32), 4)
        wide = jnp.array([[0.1, 0.1, 1.0, 1.0, 1.0, 1.0]])
        return Task(*(Batch(centres[y] + wide * jax.random.normal(k, (12, 6)), y) for k in keys))

    learner, tx = head_learner(nets.mlp([16], 8), head, classes=3), optax.adam(1e-2)
    step = train.make_train_step(train.episode_loss(learner), tx)
    params = learner.init(KEY, jnp.zeros((1, 6)))
    many = train.make_runner(
        step, lambda _, key: jax.vmap(task)(jax.random.split(key, 8)), scan=True
    )
    state, metrics = many(train.init_state(train.copy(params), tx), (), KEY, 150)
    assert int(state.bad_step) == -1
    assert metrics["accuracy"][-20:].mean() > metrics["accuracy"][:10].mean() + 0.1
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), state.params["head"], params["head"])
    assert max(jax.tree.leaves(moved)) > 0.01
    assert min(jax.tree.leaves(moved)) > 0


def test_random_features_are_drawn_once_and_not_trained():
    net = random_features(nets.mlp([5], 4), 3000)
    x = examples().x
    params = net.init(KEY, x)
    z = nets.mlp([5], 4).apply(params["net"], x)
    h = net.apply(params, x)
    np.testing.assert_allclose((h**2).mean(1), (z**2).mean(1), rtol=0.15)
    slope = jax.grad(lambda p: net.apply(p, x).sum())(params)
    assert (slope["projection"] == 0).all()
    assert any(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slope["net"]))
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        random_features(identity, 0)


def test_random_features_freeze_with_their_network():
    def freeze(params, x):
        return {"mean": x.mean(0)}

    net = Net(lambda key, x: {"mean": jnp.zeros(6)}, lambda p, x: x - p["mean"][None], freeze)
    wide = random_features(net, 20)
    params = wide.init(KEY, examples().x)
    frozen = wide.freeze(params, examples().x)
    np.testing.assert_allclose(frozen["net"]["mean"], examples().x.mean(0))
    assert (frozen["projection"] == params["projection"]).all()
    assert random_features(identity, 20).freeze is None


def test_random_features_separate_what_no_linear_map_does():
    """Exclusive or."""
    x = jax.random.normal(KEY, (400, 2))
    y = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(jnp.int32)
    scores = []
    for net in (identity, random_features(identity, 100)):
        learner = head_learner(net, ridge(), classes=2)
        params = learner.init(KEY, x)
        fast = learner.adapt(params, Batch(x[:200], y[:200]), KEY)
        scores.append((learner.predict(params, fast, x[200:]).argmax(1) == y[200:]).mean())
    assert scores[0] < 0.7
    assert scores[1] > 0.9


def test_a_far_query_changes_no_other():
    """Issue: centres 0 and 1, queries 0.9 and 1e8, gave class 0 to the first."""
    ident = Net(lambda key, x: {}, lambda params, x: x)
    support = Batch(jnp.array([[0.0], [1.0]]), jnp.array([0, 1]))
    for learner in (
        protonet(ident, classes=2),
        protonet(ident, classes=2, distance="euclidean"),
        gemcl(ident, classes=2, predictive="map"),
        gemcl(ident, classes=2),
    ):
        params = learner.init(KEY, support.x)
        fast = learner.adapt(params, support, KEY)
        alone = learner.predict(params, fast, jnp.array([[0.9]]))
        for other in (1e8, jnp.nan):
            together = learner.predict(params, fast, jnp.array([[0.9], [other]]))
            assert together[0].argmax() == 1
            np.testing.assert_allclose(together[0], alone[0], rtol=1e-6)


def test_no_class_is_refused():
    with pytest.raises(ValueError, match="classes must be at least 1, got 0"):
        head_learner(identity, lda(), classes=0)
