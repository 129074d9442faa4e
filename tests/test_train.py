import logging
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import evaluate, losses, nets, train
from lml_jax.data.synthetic import sinusoids
from lml_jax.learners.maml import maml
from lml_jax.parallel import vmap_mean

KEY = jax.random.key(0)


@pytest.fixture
def sine():
    learner = maml(nets.mlp([16], 1), optax.sgd(0.01), steps=1, loss=losses.squared_error)
    tx = optax.adam(1e-2)
    loss = train.episode_loss(learner, loss=losses.squared_error)
    state = train.init_state(learner.init(KEY, jnp.zeros((1, 1))), tx)
    return train.make_train_step(loss, tx), sinusoids(tasks=4, shots=5, queries=5), state


def final(step, sample, state, **options):
    for state, metrics in train.run(step, sample, state, (), KEY, **options):  # noqa: B007, B020
        pass
    return state, metrics


def test_neither_chunks_nor_scan_change_the_result(sine):
    want, _ = final(*sine, steps=6, chunk=6)
    for options in ({"chunk": 2}, {"chunk": 4}, {"chunk": 3, "scan": True}):
        got, _ = final(*sine, steps=6, **options)
        chex.assert_trees_all_close(got.params, want.params, rtol=1e-5)


def test_a_run_that_goes_on_equals_one_that_never_stopped(sine):
    step, sample, state = sine
    want, _ = final(step, sample, state, steps=6)
    half, _ = final(step, sample, state, steps=2)
    got, _ = final(step, sample, half, steps=4)
    chex.assert_trees_all_equal(got, want)


def test_learning_smoke(sine):
    step, sample, state = sine
    means = [m["loss"].mean() for _, m in train.run(step, sample, state, (), KEY, steps=1500,
                                                    scan=True, chunk=500)]  # fmt: skip
    assert means[-1] < 0.9 * means[0]


def test_the_callers_state_survives(sine):
    step, sample, state = sine
    final(step, sample, state, steps=2)
    assert jnp.isfinite(optax.tree.norm(state.params))


def test_the_second_call_compiles_nothing(sine):
    step, sample, state = sine
    traced = jax.jit(chex.assert_max_traces(lambda s, k: step(s, sample((), k), k), n=1))
    for t in range(3):
        state, _ = traced(state, jax.random.fold_in(KEY, t))
    assert int(state.step) == 3


def test_validating_between_runs_compiles_nothing_again(sine, caplog):
    """`run` and `over_episodes`, called again and again with the same functions."""
    step, sample, state = sine
    learner = maml(nets.mlp([8], 1), optax.sgd(0.01), steps=1, loss=losses.squared_error)

    def once(state, key):
        *_, (state, _) = train.run(step, sample, state, (), key, steps=2, scan=True, chunk=2)
        score = evaluate.per_inner_step(learner, steps=1, score=evaluate.query_squared_error)
        params = learner.init(KEY, jnp.zeros((1, 1)))
        return state, list(evaluate.over_episodes(score, params, sample, (), key, episodes=3))

    state, _ = once(state, KEY)
    other = jax.random.key(1)
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        once(state, other)
    assert not [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]


@pytest.mark.parametrize("scan", [False, True])
def test_nothing_passes_between_host_and_device_inside_training(sine, scan):
    step, sample, state = sine
    many = train.make_runner(step, sample, scan=scan)
    state, _ = many(state, (), KEY, 3)
    with jax.transfer_guard("disallow"):
        state, _ = many(state, (), KEY, 3)
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            jax.jit(jnp.sin)(np.ones(2, np.float32))
    assert int(state.step) == 6

    # The guard does not see the other direction on a CPU: nothing there may call back.
    def calls_back(f, *arguments):
        program = str(jax.make_jaxpr(f)(*arguments))
        return any(name in program for name in ("callback", "debug_print", "outfeed"))

    assert not calls_back(lambda s, key: step(s, sample((), key), key), state, KEY)
    assert calls_back(lambda x: jax.debug.print("{}", x), 1.0)
    assert calls_back(lambda x: jax.pure_callback(np.sin, x, x), jnp.ones(()))


@pytest.mark.parametrize("scan", [True, False])
def test_a_loss_that_is_not_finite_stops_the_run_at_the_last_good_state(scan):
    def loss(w, task, key):
        return w * task, {"loss": w * task}

    def sample(data, key):
        return data

    step = train.make_train_step(loss, optax.sgd(0.1))
    state = train.init_state(jnp.array(1.0), optax.sgd(0.1))
    good, _ = final(step, lambda d, k: jnp.array([1.0, 1.0]), state, steps=3)
    with pytest.raises(train.DivergedError, match="step 3, task 1") as caught:
        list(train.run(step, sample, good, jnp.array([1.0, jnp.nan]), KEY, steps=4, scan=scan))
    assert float(caught.value.state.params) == float(good.params)
    assert int(caught.value.state.step) == 3


def test_keys_differ_between_tasks_and_metrics_are_means():
    def loss(w, task, key):
        return jax.random.uniform(key), {"task": task}

    _, metrics = vmap_mean(loss)(0.0, jnp.array([1.0, 3.0]), KEY)
    assert float(metrics["task"]) == 2.0
    values = jax.vmap(lambda t: loss(0.0, t, jax.random.fold_in(KEY, t))[0])(jnp.arange(2))
    assert values[0] != values[1]
    np.testing.assert_allclose(vmap_mean(loss)(0.0, jnp.zeros(2), KEY)[0], values.mean())


def test_steps_must_be_positive(sine):
    with pytest.raises(ValueError, match="0"):
        final(*sine, steps=0)


def test_seeds_by_vmap_equal_seeds_one_after_another():
    learner = maml(nets.mlp([16], 1), optax.sgd(0.01), steps=1, loss=losses.squared_error)
    tx = optax.adam(1e-2)
    step = train.make_train_step(train.episode_loss(learner, loss=losses.squared_error), tx)
    sample = sinusoids(tasks=4, shots=5, queries=5)
    keys = jax.random.split(KEY, 3)

    def whole(key):
        state = train.init_state(learner.init(key, jnp.zeros((1, 1))), tx)
        return train.make_runner(step, sample, scan=True)(state, (), key, 5)[0].params

    together = jax.jit(jax.vmap(whole))(keys)
    for i in range(3):
        alone = whole(keys[i])
        chex.assert_trees_all_close(jax.tree.map(lambda w, i=i: w[i], together), alone, rtol=1e-4)


def test_an_update_that_is_not_finite_is_refused_too():
    tx = optax.adam(1e-3, eps=0.0)  # 0 / 0 where a gradient is always 0
    step = train.make_train_step(lambda w, t, key: (w[0] ** 2 + 0.0 * w[1], {}), tx)
    state, _ = step(train.init_state(jnp.ones(2), tx), jnp.zeros(1), KEY)
    assert int(state.bad_step) == 0
    assert state.params.tolist() == [1.0, 1.0]


def test_a_diverged_error_survives_pickling():
    """As a pool of processes sends it."""
    error = train.DivergedError("step 3", train.init_state({"w": jnp.ones(2)}, optax.adam(1e-3)))
    found = pickle.loads(pickle.dumps(error))
    assert str(found) == "step 3"
    chex.assert_trees_all_equal(found.state, error.state)
