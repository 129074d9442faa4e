import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import inner, losses, nets, train
from lml_jax.learners.maml import maml
from lml_jax.types import Batch, Net, Task

KEY = jax.random.key(0)


def batch(key, n=5):
    return Batch(jax.random.normal(key, (n, 4)), jnp.arange(n, dtype=jnp.int32) % 3)


def task():
    keys = jax.random.split(KEY)
    return Task(batch(keys[0]), batch(keys[1]))


def test_an_empty_support_set_gives_the_start():
    learner = maml(nets.mlp([8], 3), optax.sgd(0.5), steps=3)
    params = learner.init(KEY, task().support.x)
    empty = jax.tree.map(lambda leaf: leaf[:0], task().support)
    fast = learner.adapt(params, empty, KEY)
    chex.assert_trees_all_equal(fast.params, params["theta"])


def test_weight_zero_is_as_if_it_were_not_there():
    learner = maml(nets.mlp([8], 3), optax.sgd(0.5), steps=2)
    support = task().support
    params = learner.init(KEY, support.x)
    cut = jax.tree.map(lambda leaf: leaf[:3], support)
    padded = support._replace(weight=jnp.array([1.0, 1.0, 1.0, 0.0, 0.0]))
    chex.assert_trees_all_close(
        learner.adapt(params, cut, KEY), learner.adapt(params, padded, KEY), rtol=1e-5
    )


def test_what_is_not_adapted_stays_and_is_not_batched():
    learner = maml(
        nets.mlp([8], 3), optax.sgd(0.5), steps=1, adapt_only=lambda path: path.startswith("head")
    )
    params = learner.init(KEY, task().support.x)
    tasks = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), task())
    fast = jax.vmap(lambda t: learner.adapt(params, t.support, KEY))(tasks)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(fast.params)} == {4}
    assert fast.params["layer1"]["kernel"] is None
    outputs = jax.vmap(lambda f: learner.predict(params, f, task().query.x))(fast)
    chex.assert_shape(outputs, (4, 5, 3))


@pytest.mark.parametrize(
    "rule",
    [optax.sgd(0.1), inner.per_parameter(0.1), inner.per_layer_and_step(0.1, steps=2)],
    ids=["fixed", "meta-sgd", "maml++"],
)
def test_step_sizes_are_learned_where_the_rule_says_so(rule):
    learner = maml(nets.mlp([8], 3), rule, steps=2)
    params = learner.init(KEY, task().support.x)
    grads = jax.grad(lambda p: train.episode_loss(learner)(p, task(), KEY)[0])(params)
    sizes = jax.tree.leaves(grads["alpha"])
    if isinstance(rule, optax.GradientTransformation):
        assert not sizes
    else:
        assert sizes
        assert all(jnp.abs(g).max() > 0 for g in sizes)


def test_a_network_written_by_hand_plugs_in():
    net = Net(
        init=lambda key, x: 0.1 * jax.random.normal(key, (x.shape[1], 3)),
        apply=lambda w, x: jnp.tanh(x @ w),
    )
    learner = maml(net, optax.sgd(1.0), steps=5)
    params = learner.init(KEY, task().support.x)
    loss = train.episode_loss(learner)
    same = task()._replace(query=task().support)
    before = losses.cross_entropy(net.apply(params["theta"], same.query.x), same.query.y).mean()
    assert loss(params, same, KEY)[0] < before


def test_a_conv4_meta_step_of_4_tasks_compiles_in_20_seconds(optimized):
    learner = maml(nets.conv4(5), optax.sgd(0.4), steps=1, unroll=True)
    x = jnp.zeros((4, 5, 28, 28), jnp.uint8)
    part = Batch(x, jnp.tile(jnp.arange(5, dtype=jnp.int32), (4, 1)))
    tx = optax.adam(1e-3)
    step = train.make_train_step(train.episode_loss(learner), tx)
    state = train.init_state(learner.init(KEY, x[0]), tx)
    # Seconds of the processor, on two cores: what runs beside the test does not count.
    begun = time.process_time()
    compiled = jax.jit(step).lower(state, Task(part, part), KEY).compile()
    assert time.process_time() - begun < 40
    assert np.isfinite(compiled(state, Task(part, part), KEY)[1]["loss"])


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match="-2"):
        maml(nets.mlp([8], 3), optax.sgd(0.1), steps=-2)
