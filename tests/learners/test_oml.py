"""OML: its inner loop, and its second-order gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax import losses, nets
from lml_jax.learners.oml import oml
from lml_jax.types import Batch, Net

C, KEY = 3, jax.random.key(0)
RNG = np.random.default_rng(0)
X, Y = jnp.asarray(RNG.normal(size=(4, 2)), jnp.float32), jnp.array([0, 1, 1, 2])
QUERY = Batch(jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32), jnp.array([0, 1, 2]))
NET = nets.mlp([5], 4, activation=jnp.tanh)


def by_loop(params, support, seen, rate=0.3):
    """The head after one step of SGD on each example in turn."""
    head = params["head"]
    for x, y in zip(support.x, support.y, strict=True):

        def loss(head, x=x, y=y):
            z = NET.apply(params["net"], x[None]) @ head["kernel"] + head["bias"][None]
            return losses.cross_entropy(losses.mask_logits(z, seen), y[None])[0]

        head = jax.tree.map(lambda a, g: a - rate * g, head, jax.grad(loss)(head))
    return head


@pytest.mark.parametrize("seen", [None, jnp.array([True, True, False])])
def test_the_head_learns_example_by_example(seen):
    learner = oml(NET, classes=C, rate=0.3)
    params = learner.init(KEY, X)
    support = Batch(X, Y)
    fast = learner.adapt(params, support, KEY, labels=seen)
    if seen is None:
        want = by_loop(params, support, jnp.ones(C, bool))
    else:  # an example of a class that is not active is not learned
        want = by_loop(params, Batch(X[:3], Y[:3]), seen)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), fast, want)
    halves = [Batch(X[:2], Y[:2]), Batch(X[2:], Y[2:])]
    first = learner.adapt(params, halves[0], KEY, labels=seen)
    again = learner.adapt(params, halves[1], KEY, first, labels=seen)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), again, fast)


def test_the_outer_gradient_is_of_second_order(x64):
    learner = oml(NET, classes=C, rate=0.3)
    support, query = (b._replace(x=b.x.astype(jnp.float64)) for b in (Batch(X, Y), QUERY))
    params = jax.tree.map(lambda w: w.astype(jnp.float64), learner.init(KEY, X))

    def outer(params, of=learner):
        fast = of.adapt(params, support, KEY)
        return losses.cross_entropy(of.predict(params, fast, query.x), query.y).mean()

    rng = np.random.default_rng(1)
    along = jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape)), params)

    def at(e):
        return float(outer(jax.tree.map(lambda w, d: w + e * d, params, along)))

    numeric = (at(1e-5) - at(-1e-5)) / 2e-5

    def slope(of):
        grads = jax.grad(outer)(params, of)
        parts = jax.tree.map(lambda g, d: jnp.sum(g * d), grads, along)
        return float(sum(jax.tree.leaves(parts)))

    np.testing.assert_allclose(slope(learner), numeric, rtol=1e-6)
    assert abs(slope(oml(NET, classes=C, rate=0.3, first_order=True)) - numeric) > 1e-3


def test_features_of_the_support_set_are_computed_once():
    calls = []
    counted = Net(NET.init, lambda p, x: calls.append(x.shape) or NET.apply(p, x))
    learner = oml(counted, classes=C)
    params = learner.init(KEY, X)
    calls.clear()

    def outer(params):
        fast = learner.adapt(params, Batch(X, Y), KEY)
        return losses.cross_entropy(learner.predict(params, fast, QUERY.x), QUERY.y).mean()

    jax.grad(outer)(params)
    assert calls == [(4, 2), (3, 2)]


def test_errors():
    with pytest.raises(ValueError, match="rate above 0, got 3 and 0"):
        oml(NET, classes=3, rate=0.0)
    learner = oml(NET, classes=C)
    with pytest.raises(ValueError, match=r"expected -1\.\.2"):
        learner.adapt(learner.init(KEY, X), Batch(X, Y + 1), KEY)
