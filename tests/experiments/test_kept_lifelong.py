"""Every registered lifelong learner is kept with its whole state."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax import keep
from lml_jax.data.arrays import from_arrays
from lml_jax.data.streams import class_incremental
from lml_jax.experiments.kept.lifelong import kept_of, lifelong_rule, rules
from lml_jax.experiments.lifelong.entries import context_of
from lml_jax.experiments.lifelong.learners import lifelong_learners
from lml_jax.experiments.lifelong.settings import Lifelong, for_learner, resolve
from lml_jax.types import Batch

TINY = Lifelong(
    from_scratch=True, tasks=2, classes_per_task=2, net="mlp", width=6, steps=4, meta_batch=1,
    shots=2, queries=2, capacity=8, per_class=4, memory_shots=2, past_batch=4, noise=2, code=2,
    generator_width=6, generated=2, test_generated=2,
)  # fmt: skip
RNG = np.random.default_rng(0)
X = RNG.integers(0, 128, (32, 3, 3), np.uint8) + RNG.integers(0, 128, (4, 3, 3), np.uint8).repeat(
    8, axis=0
)
DATA = from_arrays(X, np.repeat(np.arange(4), 8), names=list("abcd"))
STREAM = class_incremental(
    DATA, tasks=2, classes_per_task=2, seed=0, train_per_class=5, shots=2, queries=2, meta_batch=1
)


OBSERVE = ("memory", "finetune", "joint", "lifelong-maml", "er")  # some that learn without tasks


def built(name):
    """The learner, and what it was built from."""
    entry = lifelong_learners[name]
    plan = for_learner(resolve(TINY), name, defaults=entry.defaults, options=entry.options)
    context = context_of(plan, STREAM, entry)
    return entry.make(context), context


@pytest.mark.parametrize("name", lifelong_learners)
def test_the_whole_state_is_kept(name, tmp_path):
    learner, context = built(name)
    # Of its shapes alone, for time.
    shapes = jax.eval_shape(lambda key: learner.init(key, STREAM.train(0).x), jax.random.key(0))
    state = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    kept = kept_of(name, context, state, images=DATA, embedding=None, origin={})
    path = keep.save(tmp_path / "l.kept", kept)
    loaded = keep.load(path, rules=rules())
    assert loaded.classes == STREAM.label_names
    assert jax.tree.structure(loaded.state) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, loaded.state, state)
    with pytest.raises(ValueError, match=r"l\.kept holds a learner of the kind 'lifelong'"):
        keep.load(path)
    # Room for one more class, and a batch of it, traced alone: compiling all takes minutes.
    larger = loaded.rule.resized(8)
    z, y, weight = jnp.zeros((8, loaded.dim)), jnp.zeros(8, jnp.int32), jnp.ones(8)
    try:
        params, grown = jax.eval_shape(
            lambda key: larger.grow(key, loaded.params, loaded.state, 8, z), jax.random.key(0)
        )
        after = jax.eval_shape(larger.learn, params, grown, z, y, weight)
    except ValueError as error:
        assert f"{name!r} cannot learn one more class without its stream" in str(error)  # noqa: PT017
        assert name not in OBSERVE
        return
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, grown)


# One, for time: the other learners that observe differ from it in what they compile alone.
@pytest.mark.parametrize("name", ["finetune"])
def test_it_answers_by_what_it_recalls_and_is_taught_more(name, tmp_path):
    learner, context = built(name)

    @jax.jit
    def taught(key):
        state = learner.init(key, STREAM.train(0).x)
        state, _ = learner.step(state, STREAM.episodes(0, key), key)
        state = learner.end_task(state, STREAM.train(0), key)
        return state, jax.nn.softmax(learner.recall(state, X, key))

    state, recalled = taught(jax.random.key(0))
    kept = kept_of(name, context, state, images=DATA, embedding=None, origin={})
    np.testing.assert_allclose(keep.ask(kept, X).probabilities, recalled, atol=1e-5)
    more = keep.teach(kept, Batch(255 - X[:8], np.zeros(8, int)), names=["e"])
    assert more.classes == (*STREAM.label_names, "e")
    assert len(more.names) == 8
    again = keep.load(keep.save(tmp_path / "l.kept", more), rules=rules())
    assert again.classes == more.classes
    about = dict(kept.rule.about)
    about["plan"] = {**about["plan"], "tasks": 10**9}
    with pytest.raises(ValueError, match="4 classes are said to have come in 1000000000 tasks"):
        lifelong_rule(json.dumps(about, sort_keys=True))
    jax.tree.map(np.testing.assert_array_equal, again.state, more.state)
