"""One compiled step reads a bank and then writes it, in place: no copy of the bank's size."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import memory, nets
from lml_jax.learners.maml import maml
from lml_jax.learners.protonet import protonet
from lml_jax.lifelong.er import er
from lml_jax.lifelong.joint import joint
from lml_jax.lifelong.label_space import LabelSpace
from lml_jax.lifelong.lifelong_maml import lifelong_maml
from lml_jax.lifelong.memory_replay import memory_learner
from lml_jax.types import Batch

KEY = jax.random.key(0)
SLOTS, SIDE, CLASSES = 20_000, 16, 2
TX, SPACE = optax.adam(1e-3), LabelSpace(2, jnp.zeros(CLASSES, bool))
DESCENT = maml(nets.mlp([8], CLASSES), optax.sgd(0.1), steps=1)
BATCH = Batch(jnp.ones((6, SIDE, SIDE), jnp.uint8), jnp.arange(6) % CLASSES)

LEARNERS = {
    "maml": lambda: lifelong_maml(DESCENT, TX, SPACE, bank=memory.reservoir(SLOTS)),
    "er": lambda: er(DESCENT, TX, SPACE, bank=memory.reservoir(SLOTS)),
    "joint": lambda: joint(DESCENT, TX, SPACE, capacity=SLOTS // 2),
    "memory": lambda: memory_learner(
        protonet(nets.mlp([8], 4), classes=CLASSES), TX, SPACE,
        bank=memory.class_balanced(SLOTS // CLASSES, classes=CLASSES),
    ),
}  # fmt: skip
BANKS = {
    "fifo": memory.fifo(SLOTS),
    "reservoir": memory.reservoir(SLOTS),
    "class-balanced": memory.class_balanced(SLOTS // 2, classes=2),
    "task-indexed": memory.task_indexed(SLOTS // 2, tasks=2),
}


def assert_in_place(function, state, *args):
    compiled = jax.jit(function, donate_argnums=0).lower(state, *args).compile()
    banks = r"u8\[\d+,\d{4,5},16,16\]|u8\[20000,"
    copies = [
        line.strip()[:120]
        for line in compiled.as_text().splitlines()
        if re.search(rf"= ({banks})[^=]* copy\(", line)
    ]
    assert not copies
    size = SLOTS * SIDE * SIDE
    analysis = compiled.memory_analysis()
    assert analysis.temp_size_in_bytes < size / 2
    assert analysis.alias_size_in_bytes > size


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_that_stores_as_it_goes(name, optimized):
    learner = LEARNERS[name]()
    state = jax.eval_shape(lambda: learner.init(KEY, BATCH.x))
    assert_in_place(learner.observe, state, BATCH, KEY)


def before(bank, state, items, key):
    state, drawn, valid = memory.sample_then_insert(bank, state, items, key, n=6)
    return state, (drawn, valid)


def after(bank, state, items, key):
    state = bank.insert(state, items, key)
    return state, bank.sample(state, key, n=6)


ITEMS = (BATCH.x, BATCH.y.astype(jnp.int32), jnp.zeros(6, jnp.int32))


@pytest.mark.parametrize("name", BANKS)
def test_a_bank_in_either_order(name, optimized):
    bank = BANKS[name]
    item = jax.tree.map(lambda leaf: leaf[0], ITEMS)
    state = jax.eval_shape(bank.init, item)
    for order in (before, after):
        assert_in_place(lambda *args, order=order: order(bank, *args), state, ITEMS, KEY)


@pytest.mark.parametrize("name", BANKS)
def test_what_is_drawn_first_is_what_was_stored_before(name):
    make = {
        "fifo": lambda: memory.fifo(4), "reservoir": lambda: memory.reservoir(4),
        "class-balanced": lambda: memory.class_balanced(2, classes=2),
        "task-indexed": lambda: memory.task_indexed(2, tasks=2),
    }  # fmt: skip
    bank = make[name]()
    label = jnp.array([0, 1, 0, 1])
    old = (jnp.arange(4.0), label, label)
    state = bank.insert(bank.init(jax.tree.map(lambda leaf: leaf[0], old)), old, KEY)
    new = (10 + jnp.arange(4.0), label, label)
    offered = jnp.array([True, False, True, True])
    step = jax.jit(lambda s, key: memory.sample_then_insert(bank, s, new, key, n=8, where=offered))
    moved, (x, y, _), valid = step(state, KEY)
    assert valid.all()
    assert set(np.asarray(x)) <= {0.0, 1.0, 2.0, 3.0}
    np.testing.assert_array_equal(y, x.astype(int) % 2)
    key_sample, key_insert = jax.random.split(KEY)
    np.testing.assert_array_equal(bank.sample(state, key_sample, n=8)[0][0], x)
    want = bank.insert(state, new, key_insert, offered)
    for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)
