"""A classifier from nothing, with more examples and without."""

import jax
import jax.numpy as jnp
import numpy as np

from lml_jax import evaluate, nets
from lml_jax.metrics.augmentation import Strength, jittered, trained_from_nothing
from lml_jax.types import Batch, Task

KEY = jax.random.key(0)


def episode(key):
    """A bright pixel in the left or in the right half; each support image shows one place."""
    y = jnp.arange(2)
    at = jax.random.randint(key, (2, 12), 0, 3)

    def image(place, label):
        return jnp.zeros((6, 6)).at[2, place + 3 * label].set(1.0)

    x = jax.vmap(jax.vmap(image, (0, None)))(at, y)
    support = Batch(x[:, 0], y)
    return Task(support, Batch(x[:, 1:].reshape(-1, 6, 6), jnp.repeat(y, 11)))


def oracle(state, support, strength, key):
    """Every place of each class."""
    task = episode(jax.random.key(5))
    return task.query


def scores(augments, strength, episodes=24):
    of_task = trained_from_nothing(nets.mlp([], 2), augments, steps=60, rate=0.1, batch_size=16)
    batches = evaluate.over_episodes(
        of_task, ((), strength), lambda data, key: jax.vmap(episode)(jax.random.split(key, 8)),
        (), KEY, episodes=episodes,
    )  # fmt: skip
    return np.concatenate(list(batches))[:, 0]


def test_what_is_added_counts_by_its_weight():
    alone, helped = scores((), Strength()), scores((oracle,), Strength(weight=4.0))
    assert helped.mean() > 0.95
    assert alone.mean() < helped.mean() - 0.1
    np.testing.assert_array_equal(scores((oracle,), Strength(weight=0.0)), alone)


def test_several_kinds_are_added_together():
    both = scores((jittered(n=4), oracle), Strength(weight=4.0))
    assert both.mean() > 0.9


def test_decay_and_jitter_may_be_traced():
    of_task = trained_from_nothing(nets.mlp([], 2), (jittered(n=8),), steps=5, rate=0.1)
    every = Strength(jnp.ones(3), jnp.array([0.0, 0.0, 9.0]), jnp.array([0.0, 1.0, 1.0]))
    found = jax.vmap(lambda one: of_task(((), one), episode(KEY), KEY))(every)
    assert found.shape == (3, 1)


def test_copies_are_dealt_out_in_turn_and_moved():
    support = episode(KEY).support
    made = jittered(n=6)((), support, Strength(jitter=2.0), KEY)
    assert made.y.tolist() == [0, 1, 0, 1, 0, 1]
    assert float(jnp.abs(made.x[0] - made.x[2]).max()) > 0.01
    still = jittered(n=2)((), support, Strength(jitter=0.0), KEY)
    np.testing.assert_allclose(still.x, support.x, atol=1e-6)
