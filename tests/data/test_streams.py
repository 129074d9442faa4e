import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax.data.arrays import from_arrays
from lml_jax.data.domains import permuted, rotated
from lml_jax.data.streams import class_incremental, domain_incremental

KEY = jax.random.key(0)


def coded(classes=12, each=6, groups=3):
    """The first pixel tells the class, the second the example; classes dealt to groups."""
    y = np.repeat(np.arange(classes), each)
    x = np.zeros((classes * each, 4, 4), np.uint8)
    x[:, 0, 0], x[:, 0, 1] = y, np.tile(np.arange(each), classes)
    group = np.arange(classes) % groups
    return from_arrays(x, y, group=group, groups=tuple(f"g{g}" for g in range(groups)))


def rows(batch):
    keep = np.asarray(batch.weight) > 0
    x = np.asarray(batch.x)[keep]
    return {(int(a), int(b)) for a, b in zip(x[:, 0, 0], x[:, 0, 1], strict=True)}


@pytest.fixture
def stream():
    return class_incremental(
        coded(), tasks=3, classes_per_task=3, seed=0, train_per_class=4, shots=2, queries=2
    )


def test_labels_are_numbered_over_the_whole_stream(stream):
    assert stream.classes == 9
    want = np.kron(np.eye(3, dtype=bool), np.ones((1, 3), bool))
    np.testing.assert_array_equal(stream.members, want)
    for i in range(3):
        assert set(stream.train(i).y.tolist()) == {3 * i, 3 * i + 1, 3 * i + 2}
        episodes = stream.episodes(i, KEY)
        assert episodes.id.tolist() == [i] * 4
        assert set(episodes.query.y.ravel().tolist()) == set(stream.train(i).y.tolist())


def test_a_task_is_of_one_group_and_no_class_comes_twice(stream):
    real = [{c for c, _ in rows(stream.train(i))} for i in range(3)]
    assert all(len({c % 3 for c in classes}) == 1 for classes in real)
    assert len(set.union(*real)) == 9


def test_training_and_test_examples_are_disjoint_and_episodes_are_of_training(stream):
    for i in range(3):
        train, test = rows(stream.train(i)), rows(stream.test(i))
        assert len(train) == 12
        assert len(test) == 6
        assert not train & test
        drawn = stream.episodes(i, KEY)
        for part in (drawn.support, drawn.query):
            x = np.asarray(part.x).reshape(-1, 4, 4)
            assert {(int(a), int(b)) for a, b in zip(x[:, 0, 0], x[:, 0, 1], strict=True)} <= train


def test_the_position_may_be_traced(stream):
    for i in range(3):
        got = jax.jit(stream.episodes)(i, KEY)
        np.testing.assert_array_equal(got.support.x, stream.episodes(i, KEY).support.x)


def test_ragged_classes_are_padded_with_weight_zero():
    y = np.array([0] * 3 + [1] * 5)
    data = from_arrays(
        np.arange(8, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8), y
    )
    stream = class_incremental(
        data, tasks=2, classes_per_task=1, seed=0, test=data, shots=1, queries=1
    )
    sizes = sorted(int(stream.train(i).weight.sum()) for i in range(2))
    assert sizes == [3, 5]
    assert stream.train(0).x.shape == stream.train(1).x.shape


def test_seeds_choose_classes_and_order():
    def classes(seed):
        made = class_incremental(
            coded(), tasks=2, classes_per_task=2, seed=seed, train_per_class=4, shots=1, queries=1
        )
        return [sorted({c for c, _ in rows(made.train(i))}) for i in range(2)]

    assert classes(0) == classes(0)
    assert any(classes(seed) != classes(0) for seed in range(1, 5))


def test_a_domain_stream_keeps_its_labels_and_turns_its_images():
    stream = domain_incremental(
        coded(), rotated(90.0), tasks=4, classes=5, seed=0, train_per_class=4, shots=1, queries=1
    )
    assert stream.classes == 5
    assert bool(stream.members.all())
    first = np.asarray(stream.train(0).x)
    for i in range(4):
        np.testing.assert_array_equal(stream.train(i).y, stream.train(0).y)
        np.testing.assert_array_equal(stream.train(i).x, np.rot90(first, i, axes=(1, 2)))


def test_permutations_are_of_pixels_and_differ_by_domain():
    x = jnp.arange(16).reshape(1, 4, 4)
    np.testing.assert_array_equal(permuted(0)(0, x), x)
    one, two = permuted(0)(1, x), permuted(0)(2, x)
    assert (one != two).any()
    np.testing.assert_array_equal(jnp.sort(one.ravel()), jnp.arange(16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": 0}, "an empty stream: 0 tasks"),
        ({"tasks": 4}, "4 tasks asked for, but only 3 groups"),
        ({"classes_per_task": 5}, "only 0 groups have 5 classes"),
        ({"train_per_class": 6}, r"expected 1..5, got 6"),
        ({"shots": 3, "queries": 2}, r"3 shots . 2 queries = 5 .* has 4"),
    ],
)
def test_what_cannot_be_made_is_refused(options, message):
    settings = {
        "tasks": 3, "classes_per_task": 3, "seed": 0, "train_per_class": 4, "shots": 2,
        "queries": 2,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        class_incremental(coded(), **{**settings, **options})


def test_a_stream_of_one_group_deals_its_classes_out():
    with pytest.raises(ValueError, match="need 15 classes, but there are only 12"):
        class_incremental(coded(groups=1), tasks=5, classes_per_task=3, seed=0, train_per_class=4)


def test_a_group_serves_several_tasks_with_other_classes_where_there_are_few_groups():
    made = class_incremental(
        coded(classes=12, groups=2), tasks=4, classes_per_task=3, seed=0, train_per_class=4,
        shots=1, queries=1,
    )  # fmt: skip
    classes = np.asarray(made.original).reshape(4, 3)
    assert len(set(classes.ravel().tolist())) == 12
    assert all(len({c % 2 for c in task}) == 1 for task in classes.tolist())
    with pytest.raises(ValueError, match="enough for 4 tasks"):
        class_incremental(
            coded(classes=12, groups=2), tasks=5, classes_per_task=3, seed=0, train_per_class=4
        )
