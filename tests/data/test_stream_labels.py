"""Labels of a stream: class orders, uneven tasks, classes that return, small classes, time."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax.data.arrays import from_arrays
from lml_jax.data.domains import rotated
from lml_jax.data.streams import class_incremental, domain_incremental, in_time, of_tasks

KEY = jax.random.key(0)
NAMES = tuple("abcdefghijkl")


def coded(counts):
    """Classes of so many images; the first pixel tells the class, the second the example."""
    y = np.repeat(np.arange(len(counts)), counts)
    x = np.zeros((len(y), 4, 4), np.uint8)
    x[:, 0, 0], x[:, 0, 1] = y, np.concatenate([np.arange(c) for c in counts])
    x[:, 3, 3] = 255
    return from_arrays(x, y, names=NAMES[: len(counts)])


def real(batch):
    """(class, example) of what counts; every weight is 0 or 1."""
    weight = np.asarray(batch.weight).reshape(-1)
    assert set(weight.tolist()) <= {0.0, 1.0}
    x = np.asarray(batch.x).reshape(-1, 4, 4)[weight == 1]
    return [(int(a), int(b)) for a, b in zip(x[:, 0, 0], x[:, 0, 1], strict=True)]


def test_a_learner_right_on_the_streams_labels_is_right_on_the_users_own():
    order = [7, 2, 11, 0, 5, 9]
    stream = class_incremental(
        coded([6] * 12), tasks=3, classes_per_task=2, order=order, seed=3, train_per_class=4,
        shots=2, queries=2,
    )  # fmt: skip
    assert stream.original.tolist() == order
    assert stream.label_names == ("h", "c", "l", "a", "f", "j")
    assert stream.labels.tolist() == [[0, 1], [2, 3], [4, 5]]
    drawn = class_incremental(
        coded([6] * 12), tasks=3, classes_per_task=2, seed=3, train_per_class=4, shots=2,
        queries=2,
    )  # fmt: skip
    for made in (stream, drawn):
        for i in range(3):
            for part in (made.train(i), made.test(i), made.episodes(i, KEY).query):
                users_own = np.asarray(part.x)[..., 0, 0]
                np.testing.assert_array_equal(made.original[part.y], users_own)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0, 1, 1, 2, 3, 4], "order names a class twice"),
        ([0, 1, 2], "order has 3 classes, expected at least 6"),
        ([0, 1, 2, 3, 4, 12], r"order has classes 0..12, expected 0..11"),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], r"order must list classes 0..11"),
    ],
)
def test_orders_that_are_none_are_refused(order, message):
    with pytest.raises(ValueError, match=message):
        class_incremental(
            coded([6] * 12), tasks=3, classes_per_task=2, order=order, seed=0, train_per_class=4,
            shots=1, queries=1,
        )  # fmt: skip


def test_tasks_may_be_uneven():
    stream = class_incremental(
        coded([6] * 12), classes_per_task=[6] + 3 * [2], seed=0, train_per_class=4, shots=2,
        queries=2, meta_batch=3,
    )  # fmt: skip
    assert (stream.tasks, stream.classes, stream.ways) == (4, 12, 6)
    assert stream.members.sum(1).tolist() == [6, 2, 2, 2]
    assert bool((stream.members.sum(0) == 1).all())
    for i, size in enumerate([6, 2, 2, 2]):
        labels = set(np.flatnonzero(stream.members[i]).tolist())
        train, test = stream.train(i), stream.test(i)
        assert train.x.shape[0] == 24
        assert (len(real(train)), len(real(test))) == (4 * size, 2 * size)
        assert set(train.y[train.weight > 0].tolist()) == labels
        # Padding too is of the task: a learner that ignores weights sees no foreign class.
        assert set(train.y.tolist()) == set(test.y.tolist()) == labels
        episodes = stream.episodes(i, KEY)
        for part in (episodes.support, episodes.query):
            assert part.x.shape == (3, 12, 4, 4)
            assert part.weight.sum(1).tolist() == [2 * size] * 3
            assert set(part.y[part.weight > 0].tolist()) == labels
            assert set(part.y.ravel().tolist()) <= labels
    with pytest.raises(ValueError, match="lists 4 tasks, but tasks is 3"):
        class_incremental(coded([6] * 12), tasks=3, classes_per_task=[6, 2, 2, 2], seed=0,
                          train_per_class=4)  # fmt: skip
    with pytest.raises(ValueError, match=r"an empty stream: tasks of \[3, 0\] classes"):
        class_incremental(coded([6] * 12), classes_per_task=[3, 0], seed=0, train_per_class=4)


@pytest.mark.parametrize("ways", [1, 2])
def test_fewer_ways_than_classes_give_some_of_them(ways):
    stream = class_incremental(
        coded([6] * 12), classes_per_task=[6, 2], seed=0, train_per_class=4, shots=2, queries=1,
        ways=ways, meta_batch=40,
    )  # fmt: skip
    for i, size in enumerate([6, 2]):
        episodes = stream.episodes(i, KEY)
        assert (episodes.support.weight == 1).all()
        support = np.sort(np.asarray(episodes.support.y), axis=1)
        np.testing.assert_array_equal(support[:, ::2], np.sort(episodes.query.y, axis=1))
        assert all(len(set(row)) == ways for row in support.tolist())
        assert len(np.unique(support)) == size  # over many episodes, each class is drawn


@pytest.mark.parametrize("returning", ["divide", "repeat"])
def test_classes_return(returning):
    stream = of_tasks(
        coded([13] * 12), [[7, 3, 9], [3, 4], [9, 3]], seed=0, returning=returning,
        train_per_class=12, shots=2, queries=2,
    )  # fmt: skip
    assert stream.original.tolist() == [7, 3, 9, 4]
    assert stream.labels.tolist() == [[0, 1, 2], [1, 3, -1], [2, 1, -1]]
    assert stream.members.astype(int).tolist() == [[1, 1, 1, 0], [0, 1, 0, 1], [0, 1, 1, 0]]
    of_three = [{row for row in real(stream.train(i)) if row[0] == 3} for i in range(3)]
    if returning == "divide":
        assert [len(rows) for rows in of_three] == [4, 4, 4]
        assert len(set.union(*of_three)) == 12
        assert len(real(stream.train(0))) == 12 + 4 + 6
    else:
        assert of_three[0] == of_three[1] == of_three[2]
        assert len(of_three[0]) == 12
        assert len(real(stream.train(0))) == 36
    for i in range(3):
        held_out = set(real(stream.test(i)))
        assert len(held_out) == [3, 2, 2][i]
        assert not held_out & set.union(*(set(real(stream.train(j))) for j in range(3)))
        drawn = stream.episodes(i, KEY)
        assert set(real(drawn.support)) | set(real(drawn.query)) <= set(real(stream.train(i)))


@pytest.mark.parametrize(
    ("tasks", "options", "message"),
    [
        ([], {}, "an empty stream: 0 tasks"),
        ([[0], []], {}, "task 1 has no class"),
        ([[0, 0]], {}, "task 0 names a class twice"),
        ([[0, 12]], {}, r"task 0 has classes 0..12, expected 0..11"),
        ([[0]], {"returning": "sometimes"}, "unknown treatment of returning classes"),
        ([[0]] * 5, {}, "class 0 .a. has 1 in task 0"),
    ],
)
def test_tasks_that_are_none_are_refused(tasks, options, message):
    with pytest.raises(ValueError, match=message):
        of_tasks(coded([6] * 12), tasks, seed=0, train_per_class=5, shots=1, queries=1, **options)


LONG_TAILED = [40, 20, 12, 9, 6, 5, 4, 3, 2, 2]


def test_small_classes_are_padded():
    stream = class_incremental(
        coded(LONG_TAILED), tasks=5, classes_per_task=2, order=range(10), seed=0,
        train_per_class=10, shots=3, queries=5, meta_batch=20, small="pad",
    )  # fmt: skip
    for i in range(5):
        counts = [min(10, LONG_TAILED[c] - 1) for c in (2 * i, 2 * i + 1)]
        train, test = real(stream.train(i)), real(stream.test(i))
        assert len(train) == len(set(train)) == sum(counts)
        assert not set(train) & set(test)
        assert sorted({c for c, _ in test}) == [2 * i, 2 * i + 1]
        assert len(train) + len(test) == LONG_TAILED[2 * i] + LONG_TAILED[2 * i + 1]
        drawn = stream.episodes(i, KEY)
        for t in range(20):
            support, query = (
                real(jax.tree.map(lambda leaf, t=t: leaf[t], part))
                for part in (drawn.support, drawn.query)
            )
            assert len(set(support + query)) == len(support) + len(query)
            assert set(support + query) <= set(train)
            for c, count in zip((2 * i, 2 * i + 1), counts, strict=True):
                mine = [[row for row in part if row[0] == c] for part in (support, query)]
                assert len(mine[0]) >= 1
                assert len(mine[0]) + len(mine[1]) == min(count, 8)
        for part in (drawn.support, drawn.query):  # padding is of the task, and an image
            assert set(part.y.ravel().tolist()) <= {2 * i, 2 * i + 1}
            assert (part.x[..., 3, 3] == 255).all()


def test_small_classes_are_skipped():
    stream = class_incremental(
        coded(LONG_TAILED), tasks=2, classes_per_task=2, seed=0, train_per_class=8, shots=3,
        queries=5, small="skip",
    )  # fmt: skip
    assert set(stream.original.tolist()) == {0, 1, 2, 3}
    assert (stream.episodes(0, KEY).query.weight == 1).all()
    with pytest.raises(ValueError, match="need 6 classes, but there are only 4"):
        class_incremental(
            coded(LONG_TAILED), tasks=3, classes_per_task=2, seed=0, train_per_class=8, shots=3,
            queries=5, small="skip",
        )  # fmt: skip
    with pytest.raises(ValueError, match="unknown treatment of small classes 'drop'"):
        class_incremental(
            coded(LONG_TAILED), tasks=1, classes_per_task=2, seed=0, train_per_class=8,
            small="drop",
        )  # fmt: skip


def test_one_large_class_does_not_make_every_test_set_large():
    counts = [4000] + [10] * 99
    y = np.repeat(np.arange(100), counts)
    data = from_arrays(np.arange(y.size, dtype=np.int32)[:, None], y)
    options = {"tasks": 20, "classes_per_task": 5, "shots": 2, "queries": 2, "train_per_class": 6}
    for test in (None, data):
        every = class_incremental(data, seed=0, test=test, **options)
        few = class_incremental(data, seed=0, test=test, test_per_class=4, **options)
        assert every.train_index.rows.size == 600
        assert every.test_size >= 3994
        assert few.test_size == 20
        assert few.test_index.rows.size == 400
        for i in range(20):
            some, whole = few.test(i), every.test(i)
            rows = np.asarray(some.x[:, 0])
            assert (some.weight == 1).all()
            assert len(set(rows.tolist())) == 20
            np.testing.assert_array_equal(few.original[some.y], y[rows])
            if test is None:
                assert set(rows.tolist()) <= set(np.asarray(whole.x[:, 0]).tolist())
                assert not set(rows.tolist()) & set(np.asarray(few.train(i).x[:, 0]).tolist())
    with pytest.raises(ValueError, match="test_per_class must be at least 1, got 0"):
        class_incremental(data, seed=0, test_per_class=0, **options)


def test_small_classes_are_skipped_in_lists_and_orders():
    options = {"seed": 0, "train_per_class": 8, "shots": 3, "queries": 5, "small": "skip"}
    stream = of_tasks(coded(LONG_TAILED), [[8, 2], [0, 9, 1]], **options)
    assert stream.original.tolist() == [2, 0, 1]
    assert stream.labels.tolist() == [[0, -1], [1, 2]]
    with pytest.raises(ValueError, match=r"task 1 has no class \(of at least 9 examples\)"):
        of_tasks(coded(LONG_TAILED), [[0, 2], [8, 9]], **options)
    ordered = class_incremental(
        coded(LONG_TAILED), tasks=2, classes_per_task=1, order=[9, 3, 8, 0], **options
    )
    assert ordered.original.tolist() == [3, 0]
    with pytest.raises(ValueError, match="order has 2 classes, expected at least 3"):
        class_incremental(
            coded(LONG_TAILED), tasks=3, classes_per_task=1, order=[9, 3, 8, 0], **options
        )
    with pytest.raises(ValueError, match=r'class 3 .d. has 4 in task 0; small="pad"'):
        of_tasks(coded(LONG_TAILED), [[0, 3], [3]], **options)  # a share of 8


def test_a_class_of_one_example_trains_and_a_task_of_them_is_refused():
    options = {"seed": 0, "train_per_class": 4, "shots": 1, "queries": 1, "small": "pad"}
    stream = of_tasks(coded([9, 1, 9]), [[0, 1], [2]], **options)
    assert real(stream.train(0))[-1] == (1, 0)
    assert {c for c, _ in real(stream.test(0))} == {0}
    with pytest.raises(ValueError, match="task 1 has no test example"):
        of_tasks(coded([9, 1, 9]), [[0], [1]], **options)


@pytest.mark.parametrize("blur", [0.0, 1.0, np.inf])
def test_in_time_each_example_comes_once(blur):
    tasks = 6
    made = class_incremental(
        coded([11] * 12), tasks=tasks, classes_per_task=2, seed=0, train_per_class=10, shots=2,
        queries=2,
    )  # fmt: skip
    stream = in_time(made, batch_size=7, seed=0, blur=blur)
    assert stream.batches == 18  # 120 examples, the last batch has 1
    batches = [stream.batch(t) for t in range(18)]
    assert all(batch.x.shape == (7, 4, 4) for batch in batches)
    assert [int(batch.weight.sum()) for batch in batches] == [7] * 17 + [1]
    came = [row for batch in batches for row in real(batch)]
    train = [row for i in range(tasks) for row in real(stream.train(i))]
    assert len(came) == len(set(came)) == 120
    assert set(came) == set(train)
    for batch in batches:
        np.testing.assert_array_equal(stream.original[batch.y], batch.x[:, 0, 0])
    at = {row: i for i in range(tasks) for row in real(stream.train(i))}
    task = np.array([at[row] for row in came])
    apart = np.abs(task - np.arange(120) // 20)
    if blur == 0:
        assert apart.max() == 0
        classes = np.array([c for c, _ in came[:20]])
        assert (np.diff(classes) != 0).sum() > 2  # within a task its classes are mixed
    elif blur == 1:
        assert 0.5 < apart.mean() < 1.5  # a task early or late, as a rule
        assert np.corrcoef(task, np.arange(120))[0, 1] > 0.7
    else:
        assert abs(np.corrcoef(task, np.arange(120))[0, 1]) < 0.3
    other = in_time(made, batch_size=7, seed=1, blur=blur)
    assert (stream.order != other.order).any()
    traced = jax.jit(lambda s, t: s.batch(t))(stream, 3)
    jax.tree.map(np.testing.assert_array_equal, traced, stream.batch(3))


def test_in_time_shows_each_example_as_its_own_domain_does():
    made = domain_incremental(
        coded([6] * 12), rotated(90.0), tasks=4, classes=3, seed=0, train_per_class=4, shots=1,
        queries=1,
    )  # fmt: skip
    stream = in_time(made, batch_size=8, seed=0, blur=np.inf)
    assert (stream.batches, stream.classes) == (6, 3)
    marked = []
    for t in range(6):
        x = np.asarray(stream.batch(t).x)
        # The bright corner tells by how many quarter turns an image was turned.
        corners = np.stack([x[:, 3, 3], x[:, 0, 3], x[:, 0, 0], x[:, 3, 0]], 1)
        assert (np.sort(corners, 1)[:, -1] == 255).all()
        marked += corners.argmax(1).tolist()
    assert np.bincount(marked).tolist() == [12] * 4


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"blur": -1.0}, {"blur": np.nan}, {"batch_size": -3}]
)
def test_times_that_are_none_are_refused(options):
    made = class_incremental(
        coded([6] * 12), tasks=2, classes_per_task=2, seed=0, train_per_class=4, shots=1, queries=1
    )
    with pytest.raises(ValueError, match="batch_size must be at least 1 and blur at least 0, got"):
        in_time(made, **{"batch_size": 4, "seed": 0, **options})


def test_several_class_orders_are_mapped_over_at_once():
    data = coded([6] * 12)
    orders = [np.random.default_rng(s).permutation(12)[:6] for s in range(5)]
    streams = [
        class_incremental(
            data, tasks=3, classes_per_task=2, order=order, seed=s, train_per_class=4, shots=2,
            queries=2,
        )
        for s, order in enumerate(orders)
    ]  # fmt: skip
    index_alone = [replace(stream, x=(), test_x=()) for stream in streams]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *streams)
    keys = jax.random.split(KEY, 5)
    mapped = jax.jit(jax.vmap(lambda stream, key: stream.episodes(1, key)))(stacked, keys)

    def with_images(stream, key, x):
        return replace(stream, x=x, test_x=x).episodes(1, key)

    shared = jax.vmap(with_images, in_axes=(0, 0, None))(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *index_alone), keys, data.x
    )
    for s, (stream, order) in enumerate(zip(streams, orders, strict=True)):
        want = stream.episodes(1, keys[s])
        for got in (mapped, shared):
            one = jax.tree.map(lambda leaf, s=s: leaf[s], got)
            jax.tree.map(np.testing.assert_array_equal, one, want)
        found = set(np.unique(np.asarray(mapped.query.x[s])[..., 0, 0]).tolist())
        assert found == set(order[2:4].tolist())
