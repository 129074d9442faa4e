"""Banks: which items they keep and draw, and that the cost is not the capacity's."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax.memory import (
    class_balanced,
    draw_each,
    fifo,
    herding,
    reservoir,
    sample,
    sharded,
    task_indexed,
)
from lml_jax.types import Batch

KEY = jax.random.key(0)
ITEM = (jnp.zeros((2, 2), jnp.uint8), jnp.zeros((), jnp.int32))
BANKS = {
    "fifo": lambda slots: fifo(slots),
    "reservoir": lambda slots: reservoir(slots),
    "class_balanced": lambda slots: class_balanced(slots // 2, classes=2),
    "task_indexed": lambda slots: task_indexed(slots // 2, tasks=2, rule="fifo"),
}
HERDING = herding(2, classes=2, feature_of=lambda item: item[0].astype(float))
every_bank = pytest.mark.parametrize("bank", [make(8) for make in BANKS.values()], ids=BANKS)
every_bank_and_herding = pytest.mark.parametrize(
    "bank", [*(make(8) for make in BANKS.values()), HERDING], ids=[*BANKS, "herding"]
)


def items(n, start=0):
    """Images whose pixels count up from start, with the labels 0, 1, 0, ..."""
    x = jnp.arange(start, start + n, dtype=jnp.uint8)
    return jnp.tile(x[:, None, None], (1, 2, 2)), jnp.arange(start, start + n) % 2


def filled_with(bank, values, groups):
    state = bank.init((jnp.zeros(()), jnp.zeros((), jnp.int32)))
    return bank.insert(state, (jnp.array(values, float), jnp.array(groups)), KEY)


@every_bank_and_herding
def test_types_and_items_are_kept(bank):
    state = bank.insert(bank.init(ITEM), items(4), KEY)
    assert [leaf.dtype for leaf in state.items] == [jnp.uint8, jnp.int32]
    assert int(state.seen.sum()) == 4
    x, y = jax.tree.map(lambda leaf: leaf[state.filled], state.items)
    assert sorted(x[:, 0, 0].tolist()) == [0, 1, 2, 3]
    np.testing.assert_array_equal(x[:, 1, 1] % 2, y)


@every_bank_and_herding
def test_an_empty_bank_answers_with_a_mask(bank):
    (x, y), valid = bank.sample(bank.init(ITEM), KEY, n=5)
    assert not valid.any()
    assert (x.shape, x.dtype, y.shape) == ((5, 2, 2), jnp.uint8, (5,))


@every_bank_and_herding
def test_sampling_reaches_all_that_is_stored_and_nothing_else(bank):
    x, y = items(3, start=5)
    state = bank.insert(bank.init(ITEM), (x, y), KEY)
    drawn, valid = bank.sample(state, KEY, n=200)
    assert valid.all()
    assert {int(v) for v in drawn[0][:, 1, 0]} == {5, 6, 7}


@every_bank_and_herding
def test_what_is_not_offered_leaves_no_trace(bank):
    where = jnp.array([True, False, True, False, True, False])
    x, y = items(6)
    some = jax.tree.map(lambda leaf: leaf[::2], (x, y))
    y = jnp.where(where, y, -1)  # padding needs no label
    chex.assert_trees_all_equal(
        bank.insert(bank.init(ITEM), (x, y), KEY, where)._replace(sums=None),
        bank.insert(bank.init(ITEM), some, KEY)._replace(sums=None),
    )


@every_bank_and_herding
def test_contents_are_all_that_is_stored_once(bank):
    state = bank.insert(bank.init(ITEM), items(3, start=5), KEY)
    (x, y), valid = jax.jit(bank.contents)(state)
    slots = state.filled.size
    assert (x.shape, y.shape, valid.shape) == ((slots, 2, 2), (slots,), (slots,))
    assert sorted(x[valid][:, 0, 0].tolist()) == [5, 6, 7]
    np.testing.assert_array_equal(x[valid][:, 1, 1] % 2, y[valid])
    assert not bank.contents(bank.init(ITEM))[1].any()


def test_contents_of_a_dealt_bank_are_those_of_its_shards():
    bank = sharded(fifo(3), 2)
    state = bank.insert(bank.init(jnp.zeros(())), jnp.arange(4.0) + 1, KEY)
    x, valid = bank.contents(state)
    assert valid.tolist() == [True, True, False] * 2
    assert x[valid].tolist() == [1, 2, 3, 4]


def test_only_a_bank_of_tasks_says_that_its_groups_are_tasks():
    said = {name: make(8).by_task for name, make in BANKS.items()}
    assert said == {name: name == "task_indexed" for name in BANKS}
    assert not HERDING.by_task
    assert not sharded(fifo(2), 2).by_task


def test_fifo_keeps_the_last():
    bank = fifo(4)
    state = bank.insert(bank.init(jnp.zeros(())), jnp.arange(3.0), KEY)
    assert state.items.tolist() == [[0, 1, 2, 0]]
    state = bank.insert(state, jnp.arange(3.0, 6.0), KEY)
    assert state.items.tolist() == [[4, 5, 2, 3]]
    state = bank.insert(state, jnp.arange(6.0, 17.0), KEY)  # more than fit
    assert state.items.tolist() == [[16, 13, 14, 15]]
    assert state.seen.tolist() == [17]


@pytest.mark.parametrize("sizes", [[1] * 11, [7, 4], [11]])
def test_fifo_in_batches_is_fifo_one_by_one(sizes):
    bank = task_indexed(3, tasks=2, rule="fifo")
    state, start = bank.init(ITEM), 0
    for size in sizes:
        state, start = bank.insert(state, items(size, start), KEY), start + size
    assert state.items[0][:, :, 0, 0].tolist() == [[6, 8, 10], [7, 9, 5]]


def test_every_item_is_kept_with_the_same_probability():
    """capacity / t for each of t items, in batches across the capacity; 5 standard errors."""
    capacity, total, runs = 5, 20, 4000
    bank = reservoir(capacity)

    def kept(key):
        state = bank.init(jnp.zeros((), jnp.int32))
        for start, size in ((0, 3), (3, 7), (10, 10)):
            key, own = jax.random.split(key)
            state = bank.insert(state, jnp.arange(start, start + size), own)
        return jnp.zeros(total).at[state.items[0]].add(1.0)

    counts = jax.jit(jax.vmap(kept))(jax.random.split(KEY, runs))
    assert counts.max() == 1.0  # nothing twice
    p = capacity / total
    error = np.sqrt(p * (1 - p) / runs)
    np.testing.assert_allclose(counts.mean(axis=0), p, atol=5 * error)


def test_each_class_is_a_reservoir_of_its_own():
    """12 items of class 0 and 4 of class 1, mixed, in 2 slots each; 5 standard errors."""
    bank, runs = class_balanced(2, classes=2), 4000
    y = (jnp.arange(16) % 4 == 1).astype(jnp.int32)

    def kept(key):
        state = bank.init((jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)))
        state = bank.insert(state, (jnp.arange(16), y), key)
        return jnp.zeros(16).at[state.items[0].ravel()].add(1.0)

    counts = jax.jit(jax.vmap(kept))(jax.random.split(KEY, runs))
    p = np.where(y == 1, 2 / 4, 2 / 12)
    assert np.all(np.abs(counts.mean(axis=0) - p) < 5 * np.sqrt(p * (1 - p) / runs))


def test_classes_that_hold_something_are_drawn_alike():
    state = filled_with(class_balanced(8, classes=3), [1, 2, 3, 4, 5], [0, 0, 0, 0, 2])
    (x, y), valid = sample(state, KEY, n=6000)
    assert valid.all()
    np.testing.assert_allclose((y == 2).mean(), 0.5, atol=5 * np.sqrt(0.25 / 6000))
    shares = np.bincount(x.astype(int), minlength=6)[1:5] / 3000
    np.testing.assert_allclose(shares, 0.25, atol=6 * np.sqrt(0.1875 / 3000))


def test_tasks_are_drawn_by_their_weights():
    state = filled_with(task_indexed(4, tasks=4), [1, 2, 3], [0, 1, 3])
    weights = jnp.array([1.0, 3.0, 5.0, 0.0])  # task 2 holds nothing
    draw = jax.jit(lambda w: sample(state, KEY, n=6000, weights=w))
    (x, task), valid = draw(weights)
    assert valid.all()
    assert set(task.tolist()) == {0, 1}
    np.testing.assert_allclose((task == 1).mean(), 0.75, atol=5 * np.sqrt(0.1875 / 6000))
    np.testing.assert_array_equal(x, task + 1.0)
    for nothing in ([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]):
        assert not draw(jnp.array(nothing))[1].any()


def test_a_given_task_is_drawn_alone():
    state = filled_with(task_indexed(4, tasks=3), [1, 2, 3, 4], [0, 2, 0, 2])
    draw = jax.jit(lambda j: sample(state, KEY, n=50, group=j))
    (x, task), valid = draw(2)
    assert valid.all()
    assert set(x.tolist()) == {2, 4}
    assert set(task.tolist()) == {2}
    for nothing in (1, 3, -1):  # empty, and out of range
        assert not draw(nothing)[1].any()
    (_, task), valid = draw(jnp.arange(50) % 3)
    assert valid.tolist() == [j % 3 != 1 for j in range(50)]
    assert task[valid].tolist() == [j % 3 for j in range(50) if j % 3 != 1]


def test_draw_each_gives_distinct_items_of_every_group():
    state = filled_with(class_balanced(4, classes=3), [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 2, 2])
    draw = jax.jit(jax.vmap(lambda key: draw_each(state, key, n=3)))
    (x, y), valid = draw(jax.random.split(KEY, 4000))
    assert (x.shape, valid.shape) == ((4000, 3, 3), (4000, 3, 3))
    assert valid[0].tolist() == [[True] * 3, [False] * 3, [True, True, False]]
    assert (y[:, 0] == 0).all()
    assert all(len(set(row)) == 3 for row in x[:50, 0].tolist())
    assert all(set(row) == {5, 6} for row in x[:50, 2, :2].tolist())
    shares = np.bincount(x[:, 0].astype(int).ravel(), minlength=5)[1:] / 4000
    np.testing.assert_allclose(shares, 0.75, atol=5 * np.sqrt(0.1875 / 4000))


def herded(phi, mean, m):
    """Algorithm 4 of iCaRL, by hand."""
    chosen = []
    for k in range(1, min(m, len(phi)) + 1):
        total = sum((phi[j] for j in chosen), np.zeros_like(mean))
        distance = np.linalg.norm(mean - (phi + total) / k, axis=1)
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
    return phi[chosen]


def test_herding_is_algorithm_4_and_a_class_that_comes_again_is_chosen_anew():
    rng = np.random.default_rng(0)
    bank = herding(4, classes=5, feature_of=lambda item: item.x)
    state = bank.init(Batch(jnp.zeros(3), jnp.zeros((), jnp.int32)))
    insert = jax.jit(bank.insert)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    y = np.array([0, 1, 3] * 9 + [1] * 3 + [0] * 8 + [4] * 2)  # class 2 never comes
    state = insert(state, Batch(x[:30], y[:30]), KEY)
    first = {c: herded(x[:30][y[:30] == c], x[:30][y[:30] == c].mean(0), 4) for c in (0, 1, 3)}
    for c, want in first.items():
        np.testing.assert_array_equal(state.items.x[c], want)
    state = insert(state, Batch(x[30:], y[30:]), KEY)
    both = np.concatenate([first[0], x[30:][y[30:] == 0]])
    np.testing.assert_array_equal(state.items.x[0], herded(both, x[y == 0].mean(0), 4))
    for c in (1, 3):  # did not come again
        np.testing.assert_array_equal(state.items.x[c], first[c])
    np.testing.assert_array_equal(
        state.items.x[4, :2], herded(x[y == 4], x[y == 4].mean(0), 2)
    )  # fewer than fit
    assert state.filled.sum(axis=1).tolist() == [4, 4, 0, 4, 2]


def test_herding_keeps_the_mean_better_than_chance():
    x = jax.random.normal(KEY, (200, 8))
    batch = (x, jnp.zeros(200, jnp.int32))
    errors = []
    for bank in (herding(10, classes=1, feature_of=lambda item: item[0]), reservoir(10)):
        state = bank.insert(bank.init((x[0], batch[1][0])), batch, KEY)
        errors.append(jnp.linalg.norm(state.items[0][0].mean(axis=0) - x.mean(axis=0)))
    assert errors[0] < 0.2 * errors[1]


@every_bank_and_herding
def test_under_jit_scan_and_vmap(bank):
    def run(key):
        def body(state, i):
            state = bank.insert(state, jax.tree.map(lambda leaf: leaf[i], every), key)
            return state, bank.sample(state, key, n=2)[1]

        return jax.lax.scan(body, bank.init(ITEM), jnp.arange(5))

    every = jax.tree.map(lambda leaf: leaf.reshape(5, 3, *leaf.shape[1:]), items(15))
    keys = jax.random.split(KEY, 2)
    states, valid = jax.jit(jax.vmap(run))(keys)
    assert states.seen.sum(axis=1).tolist() == [15, 15]
    assert valid.all()
    alone = bank.init(ITEM)
    for i in range(5):
        alone = bank.insert(alone, jax.tree.map(lambda leaf, i=i: leaf[i], every), keys[1])
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[1], states), alone)


@every_bank_and_herding
def test_donated_the_items_stay_where_they_are(bank):
    chex.clear_trace_counter()
    insert = jax.jit(chex.assert_max_traces(bank.insert, n=1), donate_argnums=0)
    plain, state = bank.init(ITEM), bank.init(ITEM)
    for start in (0, 7):
        before = [leaf.unsafe_buffer_pointer() for leaf in state.items]
        given, state = state, insert(state, items(7, start), KEY)
        assert [leaf.unsafe_buffer_pointer() for leaf in state.items] == before
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
        plain = bank.insert(plain, items(7, start), KEY)
    chex.assert_trees_all_equal(state, plain)


def equations(jaxpr):
    """All equations that hold no others, at any depth."""
    for equation in jaxpr.eqns:
        values = jax.tree.leaves(list(equation.params.values()))
        inner = [value.jaxpr for value in values if hasattr(value, "jaxpr")]
        for each in inner:
            yield from equations(each)
        if not inner:
            yield equation


@pytest.mark.parametrize("kind", BANKS)
def test_the_cost_is_not_the_capacitys(kind):
    """Nothing of the size of the bank is computed but the items in place, and nothing is copied."""
    batch = items(64)
    temporary = []
    for slots in (1_000, 100_000):
        bank = BANKS[kind](slots)

        def step(state, bank=bank):
            state = bank.insert(state, batch, KEY)
            return state, bank.sample(state, KEY, n=64)

        state = jax.eval_shape(bank.init, ITEM)
        large = [
            equation.primitive.name
            for equation in equations(jax.make_jaxpr(step)(state).jaxpr)
            if max(out.aval.size for out in equation.outvars) >= slots // 2
        ]
        assert large == ["scatter", "scatter"] or slots == 1_000
        compiled = jax.jit(step, donate_argnums=0).lower(state).compile().memory_analysis()
        assert compiled.alias_size_in_bytes >= slots * (4 + 4)
        temporary.append(compiled.temp_size_in_bytes)
    assert temporary[0] == temporary[1] < 20_000


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (jnp.zeros((2, 3)), r"\(2, 3\)"),
        (jnp.zeros((2, 2), jnp.int32), "int32"),
        ((jnp.zeros((2, 2)),), "structure"),
        (jnp.zeros(2), r"shape \(2,\)"),
        (jnp.zeros((0, 2)), "at least 1 item, got 0"),
    ],
)
def test_items_that_do_not_fit_are_refused(batch, message):
    bank = reservoir(2)
    with pytest.raises(ValueError, match=message):
        bank.insert(bank.init(jnp.zeros(2)), batch, KEY)


def test_leaves_of_different_lengths_are_refused():
    bank = fifo(2)
    with pytest.raises(ValueError, match=r"\(3,\).*shape \(n,\) with the same n \(here 2\)"):
        bank.insert(bank.init(ITEM), (items(2)[0], jnp.zeros(3, jnp.int32)), KEY)


@pytest.mark.parametrize("where", [jnp.ones(3, bool), jnp.ones(2)])
def test_a_mask_that_does_not_fit_is_refused(where):
    bank = fifo(2)
    with pytest.raises(ValueError, match=r"where must be bool \[2\], got"):
        bank.insert(bank.init(ITEM), items(2), KEY, where)


@pytest.mark.parametrize("label", [-1, 2])
@pytest.mark.parametrize("bank", [class_balanced(3, classes=2), HERDING], ids=["balanced", "herd"])
def test_a_label_outside_the_range_is_refused_or_inside_jit_not_stored(bank, label):
    batch = (items(3)[0], jnp.array([1, label, 1]))
    with pytest.raises(ValueError, match=rf"labels must be in 0\.\.1, got {label}"):
        bank.insert(bank.init(ITEM), batch, KEY)
    state = jax.jit(bank.insert)(bank.init(ITEM), batch, KEY)
    assert state.seen.tolist() == [0, 2]
    assert sorted(state.items[0][1, :2, 0, 0].tolist()) == [0, 2]
    assert not state.items[0][0].any()


def test_labels_must_be_one_integer_an_item():
    bank = class_balanced(2, classes=3)
    with pytest.raises(ValueError, match=r"labels must be integer \[2\], got float32 \[2\]"):
        bank.insert(bank.init(Batch(0.0, 0.0)), Batch(jnp.zeros(2), jnp.zeros(2)), KEY)
    with pytest.raises(ValueError, match=r"got int32 \[\]"):  # an item that has no second field
        bank.insert(bank.init(0), jnp.zeros(2, jnp.int32), KEY)


def test_labels_in_few_bits():
    bank = class_balanced(2, classes=300, label_of=lambda item: item)
    labels = jnp.array([255, 0, 255], jnp.uint8)
    state = bank.insert(bank.init(jnp.zeros((), jnp.uint8)), labels, KEY)
    assert state.items[255].tolist() == [255, 255]
    assert int(state.seen[0]) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: fifo(0),
        lambda: reservoir(0),
        lambda: class_balanced(0, classes=3),
        lambda: herding(0, classes=3, feature_of=lambda item: item),
        lambda: task_indexed(3, tasks=0),
    ],
)
def test_sizes_must_be_positive(make):
    with pytest.raises(ValueError, match=r"must be >= 1, got .*\b0\b"):
        make()


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="'ring'"):
        class_balanced(2, classes=2, rule="ring")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "got n = 0"),
        ({"n": 2, "weights": jnp.ones(2)}, r"shape \(3,\), got \(2,\)"),
        ({"n": 2, "weights": jnp.ones(3), "group": 0}, "only one"),
        ({"n": 2, "group": 3}, r"groups must be in 0\.\.2, got 3"),
        ({"n": 2, "group": 1.7}, "group must be an integer, got float32"),
        ({"n": 2, "weights": jnp.array([-1.0, 1, 2])}, "finite and at least 0, got"),
        ({"n": 2, "weights": jnp.array([1.0, jnp.nan, 2])}, "finite and at least 0, got"),
    ],
)
def test_samples_that_make_no_sense_are_refused(options, message):
    bank = task_indexed(2, tasks=3)
    with pytest.raises(ValueError, match=message):
        bank.sample(bank.init(ITEM), KEY, **options)


def test_inside_jit_a_bad_weight_counts_as_0():
    bank = task_indexed(2, tasks=3)
    state = filled_with(bank, [0.0, 1.0, 2.0], [0, 1, 2])
    w = jnp.array([-5.0, jnp.nan, 1.0])
    draw = jax.jit(lambda w: bank.sample(state, KEY, n=20, weights=w))
    (x, _), valid = draw(w)
    assert valid.all()
    assert set(x.tolist()) == {2.0}
    assert not draw(-jnp.ones(3))[1].any()


@pytest.mark.parametrize("n", [0, 4])
def test_draw_each_cannot_give_more_than_there_are_slots(n):
    bank = class_balanced(3, classes=2)
    with pytest.raises(ValueError, match=rf"1\.\.3, the slots of a group, got {n}"):
        draw_each(bank.init(ITEM), KEY, n=n)


def test_a_dealt_bank_draws_without_bias_where_its_shards_are_unlike():
    bank = sharded(reservoir(5), 4)
    state = bank.init(jnp.zeros(()))
    # Shard s is offered 2 s items around 10 s, of which it has room for 5: it holds 0, 2, 4, 5.
    where = jnp.arange(32) % 8 < 2 * (jnp.arange(32) // 8)
    x = 10.0 * (jnp.arange(32) // 8) + jnp.arange(32) % 8
    state = jax.jit(bank.insert)(state, x, jax.random.key(0), where)
    held = state.items[jax.vmap(lambda part: part.filled)(state)]
    assert len(held) == 11
    keys = jax.random.split(jax.random.key(1), 2000)
    drawn, weight = jax.jit(jax.vmap(lambda key: bank.sample(state, key, n=8)))(keys)
    means = (weight * drawn).mean(1)
    error = means.std() / np.sqrt(len(keys))
    assert abs(means.mean() - held.mean()) < 4 * error
    assert abs(drawn.mean() - held.mean()) > 20 * error  # what the weights are for
    assert float(weight.sum(1).mean()) == pytest.approx(8)


def test_a_dealt_bank_says_what_does_not_divide():
    bank = sharded(fifo(2), 4)
    state = bank.init(jnp.zeros(()))
    with pytest.raises(ValueError, match="that 4 shards divide, got 6"):
        bank.insert(state, jnp.zeros(6), jax.random.key(0))
    with pytest.raises(ValueError, match="that 4 shards divide, got 0"):
        bank.sample(state, jax.random.key(0), n=0)
    with pytest.raises(ValueError, match="at least 1 shard, got 0"):
        sharded(fifo(2), 0)
    with pytest.raises(ValueError, match="one group, got one of 3"):
        sharded(class_balanced(2, classes=3), 4).init((jnp.zeros(()), jnp.array(0)))
    _, weight = bank.sample(state, jax.random.key(0), n=4)
    assert weight.tolist() == [0.0] * 4
