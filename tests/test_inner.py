"""The inner loop, and meta-gradients against closed forms and finite differences."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from lml_jax import inner, nets

KEY = jax.random.key(0)


def quadratic(a, b):
    """L(theta) = 1/2 (theta - b)^T A (theta - b)."""
    return lambda theta, key=None: 0.5 * (theta - b) @ a @ (theta - b)


@pytest.fixture
def problem(x64):
    keys = jax.random.split(jax.random.key(1), 4)
    half = jax.random.normal(keys[0], (3, 3))
    support = quadratic(half @ half.T + jnp.eye(3), jax.random.normal(keys[1], (3,)))
    query = quadratic(jnp.diag(jnp.array([1.0, 2.0, 0.5])), jax.random.normal(keys[2], (3,)))
    return support, query, jax.random.normal(keys[3], (3,))


def outer(support, query, tx, *, steps, **options):
    def value(theta):
        fast = inner.adapt(support, inner.start(theta, tx), tx, KEY, steps=steps, **options)
        return query(fast.params)

    return value


def test_one_step_on_a_quadratic_has_its_closed_form(problem):
    support, query, theta = problem
    alpha = 0.1
    value = outer(support, query, optax.sgd(alpha), steps=1)
    hessian = jax.hessian(support)(theta)
    adapted = theta - alpha * jax.grad(support)(theta)
    want = (jnp.eye(3) - alpha * hessian).T @ jax.grad(query)(adapted)
    np.testing.assert_allclose(value(theta), query(adapted), rtol=1e-12)
    np.testing.assert_allclose(jax.grad(value)(theta), want, rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_many_steps_on_a_quadratic_have_their_closed_form(problem, steps):
    support, query, theta = problem
    alpha = 0.05
    hessian = jax.hessian(support)(theta)
    adapted = theta
    for _ in range(steps):
        adapted = adapted - alpha * jax.grad(support)(adapted)
    contraction = jnp.linalg.matrix_power(jnp.eye(3) - alpha * hessian, steps)
    value = outer(support, query, optax.sgd(alpha), steps=steps)
    want = contraction.T @ jax.grad(query)(adapted)
    np.testing.assert_allclose(jax.grad(value)(theta), want, rtol=1e-10)


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_meta_gradient_is_that_of_finite_differences(x64, steps, name):
    # eps_root is large here so that central differences of 1e-6 resolve Adam's square root.
    tx = {"sgd": optax.sgd(0.05), "adam": optax.adam(0.05, eps_root=1e-2)}[name]
    net = nets.mlp([5], 2, activation=jnp.tanh)
    x = jax.random.normal(jax.random.key(2), (6, 3), float)
    y = jax.random.normal(jax.random.key(3), (6, 2), float)
    theta = net.init(jax.random.key(4), x)

    def support(params, key):
        return jnp.mean((net.apply(params, x[:3]) - y[:3]) ** 2)

    def query(params):
        return jnp.mean((net.apply(params, x[3:]) - y[3:]) ** 2)

    value = outer(support, query, tx, steps=steps)
    check_grads(value, (theta,), order=1, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6)


def test_second_derivatives_of_the_meta_loss(problem):
    support, query, theta = problem
    value = outer(support, query, optax.sgd(0.05), steps=3)
    check_grads(value, (theta,), order=2, modes=["fwd", "rev"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 3])
def test_first_order_is_the_query_gradient_at_the_adapted_parameters(problem, steps):
    support, query, theta = problem
    tx = optax.sgd(0.1)
    adapted = inner.adapt(support, inner.start(theta, tx), tx, KEY, steps=steps).params
    first = jax.grad(outer(support, query, tx, steps=steps, first_order=True))(theta)
    second = jax.grad(outer(support, query, tx, steps=steps))(theta)
    np.testing.assert_allclose(first, jax.grad(query)(adapted), rtol=1e-12)
    assert np.abs(first - second).max() > 1e-2


def test_adam_needs_eps_root_for_second_order():
    """The trap that presets avoid: without eps_root the meta-gradient of a dead unit is nan."""
    theta = jnp.array([1.0, 0.0])

    def support(params, key):
        return params[0] ** 2 + 0.0 * params[1] ** 2  # a parameter whose gradient is always 0

    def grad(tx):
        return jax.grad(outer(support, jnp.sum, tx, steps=2))(theta)

    assert jnp.isnan(grad(optax.adam(0.1))).any()
    assert jnp.isfinite(grad(optax.adam(0.1, eps_root=1e-8))).all()


@pytest.mark.parametrize("remat", [True, False])
@pytest.mark.parametrize("unroll", [True, False])
def test_scan_unroll_and_remat_agree(problem, remat, unroll):
    support, query, theta = problem
    tx = optax.adam(0.05, eps_root=1e-8)
    plain = jax.value_and_grad(outer(support, query, tx, steps=4, remat=False, unroll=True))
    other = jax.value_and_grad(outer(support, query, tx, steps=4, remat=remat, unroll=unroll))
    chex.assert_trees_all_close(plain(theta), jax.jit(other)(theta), rtol=1e-10)


def test_going_on_equals_never_having_stopped(problem):
    support, _, theta = problem
    tx = optax.adam(0.05, eps_root=1e-8)
    go = partial(inner.adapt, support, tx=tx, key=KEY)
    whole = go(fast=inner.start(theta, tx), steps=5)
    halves = go(fast=go(fast=inner.start(theta, tx), steps=2), steps=3)
    chex.assert_trees_all_close(whole, halves, rtol=1e-12)


def test_meta_sgd_learns_one_size_per_parameter(problem):
    support, query, theta = problem
    rule = inner.per_parameter(0.1)
    alpha = jnp.array([0.1, 0.2, 0.0])

    def value(alpha):
        tx = rule.tx(alpha)
        return query(inner.adapt(support, inner.start(theta, tx), tx, KEY, steps=1).params)

    adapted = theta - alpha * jax.grad(support)(theta)
    np.testing.assert_allclose(value(alpha), query(adapted), rtol=1e-12)
    want = -jax.grad(support)(theta) * jax.grad(query)(adapted)
    np.testing.assert_allclose(jax.grad(value)(alpha), want, rtol=1e-10)


def test_sizes_per_layer_and_step_are_used_in_order_and_the_last_repeats(problem):
    support, _, theta = problem
    rule = inner.per_layer_and_step(0.1, steps=2)
    alpha = jnp.array([0.1, 0.02])
    tx = rule.tx(alpha)
    got = inner.adapt(support, inner.start(theta, tx), tx, KEY, steps=3).params
    want = theta
    for size in (0.1, 0.02, 0.02):
        want = want - size * jax.grad(support)(want)
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_split_and_merge_are_inverse():
    params = {"body": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.zeros(3)}}
    adapted, shared = inner.split(params, lambda path: path == "head/kernel")
    assert len(jax.tree.leaves(adapted)) == len(jax.tree.leaves(shared)) == 1
    chex.assert_trees_all_equal(inner.merge(adapted, shared), params)
    with pytest.raises(ValueError, match="body/kernel"):
        inner.split(params, lambda path: path == "tail")


def test_negative_steps_are_refused(problem):
    support, _, theta = problem
    tx = optax.sgd(0.1)
    with pytest.raises(ValueError, match="-1"):
        inner.adapt(support, inner.start(theta, tx), tx, KEY, steps=-1)


def test_memory_grows_by_one_copy_of_the_weights_per_step(optimized):
    """From 5 to 20 inner steps of conv4: at most 1.2 x 15 x tasks x the bytes of the weights."""
    tasks = 2
    net = nets.conv4(5, filters=32, norm="transductive")
    x = jnp.zeros((5, 28, 28), jnp.uint8)
    theta = net.init(KEY, x)
    tx = optax.sgd(0.1)
    y = jnp.arange(5)

    def temporary(steps):
        def of_task(theta, x):
            def loss(params, key):
                logits = net.apply(params, x)
                return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(5), y])

            fast = inner.adapt(loss, inner.start(theta, tx), tx, KEY, steps=steps)
            return loss(fast.params, KEY)

        def value(theta, x):
            return jnp.mean(jax.vmap(of_task, in_axes=(None, 0))(theta, x))

        images = jnp.zeros((tasks, *x.shape), x.dtype)
        compiled = jax.jit(jax.grad(value)).lower(theta, images).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(theta))
    assert temporary(20) - temporary(5) <= 1.2 * 15 * tasks * weights


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (32, 32, 3)])
def test_the_step_size_for_an_input_size_lowers_the_loss(shape):
    rng, y = np.random.default_rng(0), np.arange(20) % 2
    means = 0.5 + 0.25 * rng.random((2, *shape))
    x = np.clip(means[y] + 0.15 * rng.standard_normal((20, *shape)), 0, 1).astype(np.float32)
    net = nets.mlp([64], 10)
    params = net.init(KEY, jnp.asarray(x))

    def loss(params, key=None):
        logits = net.apply(params, jnp.asarray(x))
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(y)).mean()

    def after(alpha):
        tx = optax.sgd(alpha)
        return loss(inner.adapt(loss, inner.start(params, tx), tx, KEY, steps=3).params)

    assert after(inner.step_size(x)) < 0.75 * loss(params)
    if shape == (32, 32, 3):
        assert after(0.1) > 0.75 * loss(params), "the base rate is not the default at this size"


def test_the_step_size_by_hand():
    x = np.full((3, 16), 4.0)  # squared norm 256
    assert inner.step_size(x, base=0.2, at=64.0) == pytest.approx(0.05)
    assert inner.step_size(np.full((3, 16), 255, np.uint8), base=0.2, at=4.0) == pytest.approx(0.05)
    assert inner.step_size(np.zeros((3, 16))) == 0.1
    for bad in ({"x": x[:0]}, {"x": x, "base": 0.0}, {"x": x, "at": -1.0}):
        with pytest.raises(ValueError, match="expected examples, base > 0 and at > 0"):
            inner.step_size(**bad)
