"""What is said of an update that is not finite, and how a run goes on after it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import losses, nets, train
from lml_jax.data.arrays import from_arrays
from lml_jax.data.streams import class_incremental
from lml_jax.learners.maml import maml
from lml_jax.lifelong.finetune import finetune
from lml_jax.lifelong.label_space import label_space_of
from lml_jax.lifelong.run import run_stream
from lml_jax.types import Batch, Task

KEY = jax.random.key(0)
TX = optax.sgd(0.1)


def draw(data, key):
    return data


def caught(step, sample, params, data, tx=TX):
    with pytest.raises(train.DivergedError) as error:
        list(train.run(step, sample, train.init_state(params, tx), data, KEY, steps=3))
    return error.value


PARAMS = {"a": jnp.ones(2), "b": {"w": jnp.zeros(())}}


@pytest.mark.parametrize(("loss", "tx", "message"), [
    (lambda p, t, k: (p["a"].sum() / (0.0 * t), {}), TX, r"^the loss was not finite at step 0"),
    (lambda p, t, k: (jnp.sqrt(t * p["b"]["w"]) + p["a"].sum(), {}), TX,
     r"^the gradient of 1 of 2 arrays \(b/w\) was .*the usual cause is .* a root or a norm at 0"),
    (lambda p, t, k: (p["a"].sum() + 0.0 * p["b"]["w"], {}), optax.adam(1e-3, eps=0.0),
     r"^the update of 1 of 2 arrays \(b/w\) was .*\(loss and gradient were finite\)"),
], ids=["loss", "gradient", "update"])  # fmt: skip
def test_it_is_named_what_was_not_finite(loss, tx, message):
    error = caught(train.make_train_step(loss, tx), draw, PARAMS, jnp.ones(1), tx)
    with pytest.raises(train.DivergedError, match=message):
        raise error


def test_a_task_of_one_class_under_a_clipped_inner_rule():
    """The gradient of a softmax of one class is 0, and a norm has no derivative there."""
    inner = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    learner = maml(nets.mlp([4], 1), inner, steps=1)
    one = Batch(jnp.ones((2, 3)), jnp.zeros(2, jnp.int32))
    tasks = jax.tree.map(lambda leaf: leaf[None], Task(one, one))
    step = train.make_train_step(train.episode_loss(learner), TX)
    error = caught(step, draw, learner.init(KEY, one.x), tasks)
    assert "the gradient of" in str(error)
    assert "clip_by_global_norm where a task has one class" in str(error)


def test_the_labels_of_the_bad_task_are_named():
    learner = maml(nets.mlp([4], 3), TX, steps=1)
    x = jax.random.uniform(KEY, (2, 2, 3))
    good = Batch(x, jnp.array([[0, 1], [0, 1]]))
    tasks = Task(good, good._replace(y=jnp.array([[0, 1], [1, 7]])))
    step = train.make_train_step(train.episode_loss(learner), TX)
    error = caught(step, draw, learner.init(KEY, x[0]), tasks)
    assert "the loss was not finite at step 0, task 1 of its meta-batch" in str(error)
    assert "support labels [0, 1], query labels [1, 7]; no support example has [7]" in str(error)


def bad_at(*steps):
    """A loss that is NaN at some draws of its data, which is what is counted in w."""

    def loss(w, task, key):
        return w * task, {}

    def sample(data, key):
        return data[jax.random.randint(key, (1,), 0, len(data))]

    keys = [jax.random.split(jax.random.fold_in(KEY, t))[0] for t in range(20)]
    where = [int(jax.random.randint(key, (1,), 0, 1000)[0]) for key in keys]
    data = jnp.ones(1000).at[jnp.array([where[t] for t in steps])].set(jnp.nan)
    return train.make_train_step(loss, TX), sample, data


@pytest.mark.parametrize("scan", [True, False])
def test_so_many_bad_batches_are_skipped_and_the_next_one_stops(scan):
    step, sample, data = bad_at(2, 5, 6)
    start = train.init_state(jnp.array(1.0), TX)

    def until(skips, steps=9, state=start):
        state = train.allow_skips(state, skips)
        *_, (last, _) = train.run(step, sample, state, data, KEY, steps=steps, scan=scan, chunk=4)
        return last

    last = until(3)
    assert (int(last.step), int(last.skips), int(last.bad_step)) == (9, 0, -1)
    np.testing.assert_allclose(last.params, 1 - 0.1 * 6, rtol=1e-6)
    with pytest.raises(train.DivergedError, match="at step 6") as error:
        until(2)
    stopped = error.value.state
    assert int(stopped.step) == int(stopped.bad_step) == 6
    chex.assert_trees_all_close(until(0, steps=2, state=stopped).params, last.params, rtol=1e-6)


def test_what_cannot_skip_is_refused():
    with pytest.raises(ValueError, match="at least 0, got -1"):
        train.allow_skips(train.init_state(jnp.ones(1), TX), -1)
    with pytest.raises(TypeError, match="expected a TrainState or a LifelongState, got dict"):
        train.allow_skips({}, 1)


def test_a_stream_goes_on_after_the_batch_that_stopped_it():
    x = np.random.default_rng(0).uniform(size=(40, 3)).astype(np.float32)
    stream = class_incremental(
        from_arrays(x, np.repeat(np.arange(4), 10)), tasks=2, classes_per_task=2, seed=0, shots=2,
        train_per_class=6, queries=2, meta_batch=1,
    )  # fmt: skip

    def loss(outputs, y):  # of one class it is not finite
        return losses.cross_entropy(outputs, y) + jnp.where(y == bad, jnp.nan, 0.0)

    bad = int(np.flatnonzero(stream.members[1])[0])
    learner = finetune(
        maml(nets.mlp([4], 4), TX, steps=1), TX, label_space_of(stream), loss=loss
    )  # fmt: skip
    with pytest.raises(train.DivergedError, match="the loss was not finite at step 3") as error:
        run_stream(learner, stream, KEY, steps=3)
    assert "while learning task 1 of the stream" in str(error.value)
    assert f"support labels {np.flatnonzero(stream.members[1]).tolist()}" in str(error.value)
    state = train.allow_skips(error.value.state, 1)
    moved, metrics = jax.jit(learner.step)(state, stream.episodes(0, KEY), KEY)
    assert int(metrics["bad_step"]) == -1
    assert int(moved.train.step) == 5
