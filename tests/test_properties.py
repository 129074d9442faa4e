"""Properties of banks, episodes, streams and metrics, over inputs that hypothesis draws.

Shapes stay the same within a test, so that each is compiled once.
"""

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lml_jax import memory, metrics
from lml_jax.data.arrays import from_arrays
from lml_jax.data.episodes import episodes
from lml_jax.data.streams import class_incremental

# The same inputs in every run, and no clock: a shared machine may be slow.
seeded = settings(max_examples=40, deadline=None, derandomize=True, database=None)
SEEDS = st.integers(0, 2**31 - 1)
CAPACITY, WIDTH, CLASSES = 5, 4, 3
# Several batches of WIDTH items: the class of each, or -1 for one that is not offered.
HISTORIES = st.lists(
    st.lists(st.integers(-1, CLASSES - 1), min_size=WIDTH, max_size=WIDTH), min_size=1, max_size=5
)


@cache
def bank_and_insert(name):
    bank = {
        "fifo": memory.fifo(CAPACITY),
        "reservoir": memory.reservoir(CAPACITY),
        "balanced": memory.class_balanced(CAPACITY, classes=CLASSES),
    }[name]
    return bank, jax.jit(bank.insert)


def filled(name, history, seed):
    """(bank, state, [(number, class)] of every item offered, in order): an item is its number."""
    bank, insert = bank_and_insert(name)
    state, offered = bank.init((jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))), []
    for b, labels in enumerate(history):
        numbers = np.arange(b * WIDTH, (b + 1) * WIDTH, dtype=np.int32)
        y, key = np.array(labels, np.int32), jax.random.fold_in(jax.random.key(seed), b)
        state = insert(state, (numbers, np.maximum(y, 0)), key, y >= 0)
        offered += [(int(n), int(c)) for n, c in zip(numbers, y, strict=True) if c >= 0]
    return bank, state, offered


def contents(state):
    """[(number, class)] of each group."""
    held = np.asarray(state.filled)
    numbers, classes = (np.asarray(leaf) for leaf in state.items)
    return [
        list(zip(n[h].tolist(), c[h].tolist(), strict=True))
        for n, c, h in zip(numbers, classes, held, strict=True)
    ]


@seeded
@given(HISTORIES, SEEDS)
def test_a_fifo_holds_the_last_items(history, seed):
    _, state, offered = filled("fifo", history, seed)
    assert sorted(contents(state)[0]) == offered[-CAPACITY:]


@seeded
@given(HISTORIES, SEEDS)
def test_a_reservoir_holds_some_items_once(history, seed):
    _, state, offered = filled("reservoir", history, seed)
    held = contents(state)[0]
    assert len(held) == min(len(offered), CAPACITY) == len(set(held))
    assert set(held) <= set(offered)
    assert state.seen.tolist() == [len(offered)]


@seeded
@given(HISTORIES, SEEDS)
def test_classes_do_not_crowd_each_other_out(history, seed):
    _, state, offered = filled("balanced", history, seed)
    for c, held in enumerate(contents(state)):
        own = {item for item in offered if item[1] == c}
        assert set(held) <= own
        assert len(set(held)) == len(held) == min(len(own), CAPACITY)


@seeded
@given(st.sampled_from(["fifo", "reservoir", "balanced"]), HISTORIES, SEEDS)
def test_what_is_drawn_was_held(name, history, seed):
    bank, state, _ = filled(name, history, seed)
    (numbers, classes), valid = bank.sample(state, jax.random.key(seed), n=6)
    held = {item for group in contents(state) for item in group}
    assert valid.tolist() == [bool(held)] * 6
    drawn = set(zip(numbers.tolist(), classes.tolist(), strict=True))
    assert not held or drawn <= held


COUNTS = (4, 7, 5, 4, 6, 9)


@cache
def dataset():
    """Ragged classes; an example is (its row, its class)."""
    y = np.repeat(np.arange(len(COUNTS)), COUNTS)
    return from_arrays(np.stack([np.arange(len(y)), y], axis=1).astype(np.float32), y)


@cache
def sampler():
    return jax.jit(episodes(dataset(), tasks=2, ways=3, shots=2, queries=2))


@seeded
@given(SEEDS)
def test_an_episode_is_disjoint_and_numbers_its_classes(seed):
    drawn = sampler()(dataset(), jax.random.key(seed))
    for t in range(2):
        support, query = (np.asarray(part.x[t], int) for part in (drawn.support, drawn.query))
        rows = np.concatenate([support[:, 0], query[:, 0]])
        assert len(set(rows.tolist())) == len(rows)
        np.testing.assert_array_equal(support[:, 1], query[:, 1])  # class by class, in both
        assert support[:, 1].reshape(3, 2).std(axis=1).max() == 0
        assert len(set(support[:, 1].tolist())) == 3
        assert drawn.support.y[t].tolist() == drawn.query.y[t].tolist() == [0, 0, 1, 1, 2, 2]


@settings(seeded, max_examples=10)
@given(SEEDS)
def test_tasks_share_no_class_and_no_test_example_is_learned(seed):
    stream = class_incremental(
        dataset(), tasks=3, classes_per_task=2, seed=seed, train_per_class=3, shots=1, queries=1
    )
    assert np.asarray(stream.members).sum(axis=0).tolist() == [1] * 6
    learned, original = set(), {}
    for i in range(3):
        train, test = stream.train(i), stream.test(i)
        real = np.ones(len(test.y), bool) if test.weight is None else np.asarray(test.weight) > 0
        for batch, counted in ((train, np.ones(len(train.y), bool)), (test, real)):
            assert np.asarray(stream.members)[i][np.asarray(batch.y)[counted]].all()
            for x, y in zip(
                np.asarray(batch.x)[counted], np.asarray(batch.y)[counted], strict=True
            ):
                assert original.setdefault(int(y), int(x[1])) == int(x[1])
        learned |= set(np.asarray(train.x)[:, 0].astype(int).tolist())
        assert not learned & set(np.asarray(test.x)[real][:, 0].astype(int).tolist())
    assert len(learned) == 18
    assert sorted(original.values()) == list(range(6))


def scores(low=1):
    sizes = st.integers(low, 6)
    unit = st.floats(0, 1, width=32)
    return sizes.flatmap(lambda t: arrays(np.float64, (t + 1, t), elements=unit))


@settings(seeded, max_examples=200)
@given(scores(low=2))
def test_scores_of_a_stream_agree_with_each_other(R):
    found, tasks = metrics.summary(R, R_joint=R), R.shape[1]
    assert 0 <= found["acc"] <= 1
    assert -1 <= found["forgetting"] <= 1
    np.testing.assert_allclose(found["bwt_T"], found["bwt"] * (tasks - 1) / tasks, atol=1e-12)
    # The best ever is at least what was just learned.
    assert found["forgetting"] >= -found["bwt"] - 1e-12
    assert found["intransigence"] == 0
    # ACC = LA + BWT over T: what was learned, and what became of it.
    np.testing.assert_allclose(
        found["acc"], found["learning_accuracy"] + found["bwt_T"], atol=1e-12
    )


@settings(seeded, max_examples=200)
@given(scores(), st.data())
def test_what_cannot_be_computed_is_null_and_never_a_number(R, data):
    row = data.draw(st.integers(0, R.shape[0] - 1))
    R[row, data.draw(st.integers(0, R.shape[1] - 1))] = data.draw(
        st.sampled_from([np.nan, np.inf, -np.inf])
    )
    text = json.dumps(metrics.to_json(metrics.summary(R)), allow_nan=False)
    found = json.loads(text)
    assert (found["acc"] is None) == (row == R.shape[0] - 1)
