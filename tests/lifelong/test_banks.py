"""Every memory bank, and one of a user's own, in the two learners that have one."""

from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import memory, nets
from lml_jax.data.arrays import from_arrays
from lml_jax.data.streams import class_incremental
from lml_jax.learners.maml import maml
from lml_jax.learners.protonet import protonet
from lml_jax.lifelong.label_space import label_space_of
from lml_jax.lifelong.lifelong_maml import lifelong_maml
from lml_jax.lifelong.memory_replay import memory_learner
from lml_jax.lifelong.run import run_stream
from lml_jax.types import MemoryBank

KEY = jax.random.key(0)
TASKS, CLASSES, ROOM = 3, 6, 60


def first_come(capacity):
    """A user's own bank: the first items that come, and none after them."""

    def init(item):
        return jax.tree.map(lambda a: jnp.zeros((capacity, *a.shape), a.dtype), item), jnp.int32(0)

    def insert(bank, items, key, where=None):
        (held, n), first = bank, jax.tree.leaves(items)[0]
        where = jnp.ones(len(first), bool) if where is None else where
        slot = jnp.where(where, n + jnp.cumsum(where) - 1, capacity)
        held = jax.tree.map(lambda a, b: a.at[slot].set(b, mode="drop"), held, items)
        return held, jnp.minimum(n + jnp.sum(where, dtype=jnp.int32), capacity)

    def sample(bank, key, *, n, weights=None, group=None):
        rows = jax.random.randint(key, (n,), 0, jnp.maximum(bank[1], 1))
        return jax.tree.map(lambda a: a[rows], bank[0]), jnp.full(n, bank[1] > 0)

    return MemoryBank(init, insert, sample, lambda b: (b[0], jnp.arange(capacity) < b[1]))


BANKS = {
    "fifo": memory.fifo(ROOM),
    "reservoir": memory.reservoir(ROOM),
    "class_balanced": memory.class_balanced(ROOM // CLASSES, classes=CLASSES),
    "task_indexed": memory.task_indexed(ROOM // TASKS, tasks=TASKS),
    "herding": memory.herding(ROOM // CLASSES, classes=CLASSES, feature_of=itemgetter(0)),
    "sharded": memory.sharded(memory.reservoir(ROOM // 2), 2),
    "own": first_come(ROOM),
}


@pytest.fixture(scope="module")
def stream():
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(CLASSES, 8))
    y = np.repeat(np.arange(CLASSES), 20)
    x = (centres[y] + rng.normal(size=(len(y), 8))).astype(np.float32)
    return class_incremental(
        from_arrays(x, y), tasks=TASKS, classes_per_task=2, seed=0, train_per_class=10, shots=3,
        queries=3, meta_batch=2,
    )  # fmt: skip


def descent(space, bank):
    few_shot = maml(nets.mlp([32], CLASSES), optax.sgd(0.05), steps=1)
    return lifelong_maml(
        few_shot, optax.adam(1e-2), space, bank=bank, past_batch=12, recall_on="bank",
        recall_examples=60,
    )  # fmt: skip


def prototypes(space, bank):
    few_shot = protonet(nets.mlp([16], 8), classes=CLASSES)
    return memory_learner(few_shot, optax.adam(1e-2), space, bank=bank, shots=3, past_batch=12)


# A learner with a head draws from every bank by the same call: three kinds stand for all.
EACH = [(name, prototypes) for name in BANKS] + [
    (name, descent) for name in ("class_balanced", "task_indexed", "own")
]


@pytest.mark.parametrize(("name", "make"), EACH)
def test_every_bank_keeps_a_stream(stream, name, make):
    """Everything fits, so that nothing is forgotten but by the learner."""
    run = run_stream(make(label_space_of(stream), BANKS[name]), stream, KEY, steps=80, scan=True)
    assert int(run.state.bad_step) == -1
    seen = np.tril(np.ones((TASKS + 1, TASKS), bool), -1)
    np.testing.assert_array_equal(np.isfinite(run.R), seen)
    assert run.R[-1].mean() > 0.8
    assert run.R_adapted[-1].mean() > 0.8
    x = stream.test(0).x
    logits = make(label_space_of(stream), BANKS[name]).recall(run.state, x, KEY)
    assert jnp.isfinite(logits).all()
    stored = BANKS[name].contents(run.state.memory)
    assert int(stored[1].sum()) == ROOM
    assert set(np.unique(np.asarray(stored[0][1]))) == set(range(CLASSES))


def test_what_is_stored_decides_what_prototypes_recall(stream):
    """A small bank of the last examples alone holds no more than the last task.

    Of prototypes alone: a learner with a head keeps in its parameters what the bank has lost.
    """
    small = {"last": memory.fifo(20), "all": memory.class_balanced(4, classes=CLASSES)}
    space = label_space_of(stream)
    rows = {}
    for name, bank in small.items():
        learner = prototypes(space, bank)
        rows[name] = run_stream(learner, stream, KEY, steps=40, scan=True).R[-1]
    assert rows["all"].mean() > rows["last"].mean() + 0.2
    assert rows["last"][-1] > 0.8
