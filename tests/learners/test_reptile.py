import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from lml_jax import nets, train
from lml_jax.learners.reptile import reptile, surrogate
from lml_jax.types import Batch, Task

KEY = jax.random.key(0)


@pytest.fixture
def episode():
    x = jax.random.normal(KEY, (6, 4))
    y = jnp.arange(6, dtype=jnp.int32) % 3
    return Task(Batch(x[:3], y[:3]), Batch(x[3:], y[3:]))


def test_an_outer_sgd_step_moves_towards_the_adapted_weights(episode):
    learner = reptile(nets.mlp([8], 3), optax.sgd(0.5), steps=3)
    params = learner.init(KEY, episode.support.x)
    tasks = jax.tree.map(lambda leaf: leaf[None], episode)
    tx = optax.sgd(0.25)
    step = train.make_train_step(surrogate(learner), tx)
    state, metrics = step(train.init_state(params, tx), tasks, KEY)
    both = jax.tree.map(lambda s, q: jnp.concatenate([s, q]), episode.support, episode.query)
    fast = learner.adapt(params, both, jax.random.fold_in(KEY, 0))
    want = jax.tree.map(lambda w, f: w + 0.25 * (f - w), params, fast.params)
    chex.assert_trees_all_close(state.params, want, rtol=1e-5, atol=1e-7)
    assert metrics["true_loss"] > 0


def test_batches_are_drawn_anew_at_each_step(episode):
    both = jax.tree.map(lambda s, q: jnp.concatenate([s, q]), episode.support, episode.query)
    learner = reptile(nets.mlp([], 3), optax.sgd(0.5), steps=1, batch_size=2)
    params = learner.init(KEY, both.x)
    moved = [learner.adapt(params, both, jax.random.key(k)).params["head"]["kernel"]
             for k in range(8)]  # fmt: skip
    assert len({float(w.sum()) for w in moved}) > 1


def test_a_batch_larger_than_the_support_set_is_refused(episode):
    learner = reptile(nets.mlp([], 3), optax.sgd(0.5), steps=1, batch_size=9)
    params = learner.init(KEY, episode.support.x)
    with pytest.raises(ValueError, match="9 is more than the 3"):
        learner.adapt(params, episode.support, KEY)
