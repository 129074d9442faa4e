import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax.data.arrays import from_arrays
from lml_jax.data.draws import draw_positions, split_shots, take
from lml_jax.data.episodes import episodes, fewer_shots, rotate90
from lml_jax.data.synthetic import sinusoids

KEY = jax.random.key(0)


def coded(counts):
    """Classes of so many images; the first pixel tells the class, the second the example."""
    y = np.repeat(np.arange(len(counts)), counts)
    x = np.zeros((len(y), 4, 4), np.uint8)
    x[:, 0, 0], x[:, 0, 1] = y, np.concatenate([np.arange(c) for c in counts])
    return from_arrays(x, y)


def real(part, t):
    """The examples of task t whose weight is 1, as (class, example)."""
    keep = np.asarray(part.weight[t]) == 1
    assert ((np.asarray(part.weight[t]) == 0) | keep).all()
    x = np.asarray(part.x[t])[keep]
    return [(int(a), int(b)) for a, b in zip(x[:, 0, 0], x[:, 0, 1], strict=True)]


@pytest.fixture
def data():
    return coded([6] * 12)


def test_support_and_query_are_disjoint_examples_of_the_same_classes(data):
    tasks = jax.jit(episodes(data, tasks=50, ways=5, shots=2, queries=3))(data, KEY)
    assert tasks.id is None
    assert tasks.support.x.shape == (50, 10, 4, 4)
    assert tasks.support.x.dtype == jnp.uint8
    for t in range(50):
        real = {}
        rows = []
        for part in (tasks.support, tasks.query):
            assert (part.weight[t] == 1).all()
            for image, label in zip(part.x[t], part.y[t], strict=True):
                assert real.setdefault(int(label), int(image[0, 0])) == int(image[0, 0])
                rows.append((int(image[0, 0]), int(image[0, 1])))
        assert len(set(rows)) == 25
        assert len(set(real.values())) == 5


def test_classes_are_uniform(data):
    tasks = episodes(data, tasks=2000, ways=3, shots=1, queries=1)(data, KEY)
    counts = np.bincount(np.asarray(tasks.support.x[..., 0, 0]).ravel(), minlength=12)
    p = 3 / 12
    np.testing.assert_allclose(counts / 2000, p, atol=5 * np.sqrt(p * (1 - p) / 2000))


def test_different_keys_give_different_episodes(data):
    sample = episodes(data, tasks=4, ways=5, shots=1, queries=1)
    a, b = sample(data, KEY), sample(data, jax.random.key(1))
    assert (a.support.x != b.support.x).any()


def test_positions_are_a_uniform_draw_without_replacement_in_uniform_order():
    keys = jax.random.split(KEY, 6000)
    drawn = np.asarray(jax.vmap(lambda k: draw_positions(jnp.array(5), k, n=3))(keys))
    code = drawn @ [25, 5, 1]
    found, times = np.unique(code, return_counts=True)
    assert len(found) == 60  # every ordered triple of different positions
    assert all(len(set(row)) == 3 for row in drawn.tolist())
    sd = np.sqrt(6000 * (1 / 60) * (59 / 60))
    assert np.abs(times - 100).max() < 5 * sd


def test_ragged_classes_never_give_padding():
    for k in range(20):
        assert sorted(draw_positions(jnp.array(2), jax.random.key(k), n=2).tolist()) == [0, 1]


def test_what_a_class_does_not_have_comes_last_and_is_zero():
    orders = set()
    for k in range(20):
        drawn = draw_positions(jnp.array(2), jax.random.key(k), n=4).tolist()
        assert drawn[2:] == [0, 0]
        orders.add(tuple(drawn[:2]))
    assert orders == {(0, 1), (1, 0)}


def test_a_small_class_is_shared_between_support_and_query():
    split = {c: int(split_shots(jnp.array(c), shots=3, queries=3)) for c in (0, 1, 2, 5, 6, 9)}
    assert split == {0: 0, 1: 1, 2: 1, 5: 2, 6: 3, 9: 3}


@pytest.mark.parametrize("smaller", [[2] * 12, [1, 2, 3, 4, 5, 6] * 2, [1] * 12])
def test_data_with_smaller_classes_never_shares_support_and_query(data, smaller):
    sample = episodes(data, tasks=50, ways=5, shots=3, queries=3)
    tasks = jax.jit(sample)(coded(smaller), KEY)
    for t in range(50):
        support, query = real(tasks.support, t), real(tasks.query, t)
        assert len(set(support + query)) == len(support) + len(query)
        for c in {c for c, _ in support}:
            mine = sum(k == c for k, _ in support + query)
            assert mine == min(smaller[c], 6)


def test_small_classes_are_refused_by_name_and_allowed_by_padding():
    x = np.zeros((9, 4, 4), np.uint8)
    named = from_arrays(x, [0] * 6 + [1] * 3, names=("Alpha", "Beta"))
    options = {"tasks": 2, "ways": 2, "shots": 3, "queries": 3}
    with pytest.raises(ValueError, match=r'class 1 \(Beta\) has 3; small="pad" allows it'):
        episodes(named, **options)
    tasks = episodes(named, small="pad", **options)(named, KEY)
    assert sorted(tasks.support.weight.sum(1).tolist()) == [4, 4]
    assert sorted(tasks.query.weight.sum(1).tolist()) == [5, 5]


def test_one_large_class_costs_an_index_of_its_examples_alone():
    counts = [4000] + [10] * 99
    y = np.repeat(np.arange(100), counts)
    large = from_arrays(np.zeros((len(y), 2), np.float32), y)
    assert large.rows.size == len(y) == 4990
    assert large.start.size == large.count.size == 100
    np.testing.assert_array_equal(large.rows_of(0), np.arange(4000))
    np.testing.assert_array_equal(large.rows_of(99), np.arange(4980, 4990))
    marked = from_arrays(np.arange(len(y), dtype=np.float32)[:, None], y)
    tasks = jax.jit(episodes(marked, tasks=300, ways=20, shots=5, queries=5))(marked, KEY)
    row = np.concatenate([tasks.support.x, tasks.query.x], 1)[..., 0].astype(int)
    label = np.concatenate([tasks.support.y, tasks.query.y], 1)
    for t in range(300):
        assert len(set(row[t])) == 200
        for n in range(20):
            assert len(set(y[row[t, label[t] == n]])) == 1
    of_large = row[row < 4000]
    assert len(np.unique(of_large)) > 400  # 300 * 20 / 100 draws of 10: few repeats in 4,000
    assert of_large.max() > 3900


def test_data_in_host_memory_and_on_disk_is_sampled_without_jit(data, tmp_path):
    disk = np.memmap(tmp_path / "x", np.uint8, "w+", shape=data.x.shape)
    disk[:] = data.x
    sample = episodes(data, tasks=3, ways=4, shots=2, queries=2, rotate=True)
    want = jax.jit(sample)(data, KEY)
    for other in (data, from_arrays(disk, np.repeat(np.arange(12), 6))):
        got = sample(other, KEY)
        jax.tree.map(np.testing.assert_array_equal, got, want)


def test_rows_of_host_memory_come_as_arrays_of_the_device():
    x = {"a": np.arange(4.0), "b": np.arange(4)}
    got = take(x, jnp.array([3, 1]))
    assert all(isinstance(leaf, jax.Array) for leaf in got.values())
    assert (got["a"].tolist(), got["b"].tolist()) == ([3.0, 1.0], [3, 1])
    traced = jax.vmap(lambda row: take(x, row))(jnp.array([3, 1]))
    assert traced["b"].tolist() == [3, 1]


def test_an_array_on_disk_is_not_read_whole(tmp_path):
    disk = np.memmap(tmp_path / "x", np.float32, "w+", shape=(4, 2))
    with pytest.raises(ValueError, match=r"cannot be read inside jit: .* Stream.local"):
        jax.vmap(lambda row: take(disk, row))(jnp.array([3, 1]))


def test_an_example_may_be_of_several_arrays():
    ids = np.arange(24, dtype=np.int32).reshape(12, 2)
    mask = np.ones((12, 2), np.float32) * np.arange(12)[:, None]
    tokens = from_arrays({"ids": ids, "mask": mask}, np.repeat([0, 1, 2], 4))
    sample = episodes(tokens, tasks=20, ways=2, shots=2, queries=1)
    for tasks in (sample(tokens, KEY), jax.jit(sample)(tokens, KEY)):
        assert tasks.support.x["ids"].shape == (20, 4, 2)
        assert tasks.query.x["mask"].shape == (20, 2, 2)
        for part in (tasks.support, tasks.query):  # the arrays stay in step, and with the labels
            row = np.asarray(part.x["mask"][..., 0]).astype(int)
            np.testing.assert_array_equal(part.x["ids"], ids[row])
        dataset_class = np.asarray(tasks.support.x["mask"][..., 0]).astype(int) // 4
        of_query = np.asarray(tasks.query.x["mask"][..., 0]).astype(int) // 4
        np.testing.assert_array_equal(dataset_class[:, ::2], of_query)


def test_rotation_is_by_multiples_of_90_degrees_and_one_for_each_class():
    x = np.random.default_rng(0).integers(0, 255, (8, 5, 5), dtype=np.uint8)
    got = rotate90(jnp.asarray(x), jnp.arange(8) % 4)
    for i in range(8):
        np.testing.assert_array_equal(got[i], np.rot90(x[i], i % 4))
    same = from_arrays(np.stack([x[0]] * 6), np.repeat([0, 1], 3))
    tasks = episodes(same, tasks=40, ways=2, shots=1, queries=2, rotate=True)(same, KEY)
    turned = np.asarray(tasks.query.x)
    np.testing.assert_array_equal(turned[:, 0], turned[:, 1])  # within a class
    np.testing.assert_array_equal(turned[:, 0], tasks.support.x[:, 0])
    assert (turned[:, 0] != turned[:, 2]).any()  # between classes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 13}, "13 ways .* only 12 classes"),
        ({"shots": 4, "queries": 3}, "4 shots . 3 queries = 7 .* has 6"),
        ({"shots": 0}, "at least 1, got 5, 0 and 1"),
        ({"tasks": 0}, "got 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(data, options, message):
    with pytest.raises(ValueError, match=message):
        episodes(data, **{"tasks": 2, "ways": 5, "shots": 1, "queries": 1, **options})


def test_sinusoids_have_the_ranges_of_the_paper():
    tasks = sinusoids(tasks=5000, shots=5, queries=3)((), KEY)
    x = np.asarray(tasks.support.x)
    assert -5 <= x.min() < -4.9
    assert 4.9 < x.max() <= 5
    peak = np.abs(np.asarray(tasks.support.y)).max()
    assert 4.5 < peak <= 5
    # y = A sin(x - p): the amplitude is common to support and query
    both_x = np.concatenate([tasks.support.x, tasks.query.x], 1)[..., 0]
    both_y = np.concatenate([tasks.support.y, tasks.query.y], 1)[..., 0]
    basis = np.stack([np.sin(both_x), np.cos(both_x)], -1)
    for t in range(5):
        (a, b), residual, *_ = np.linalg.lstsq(basis[t], both_y[t], rcond=None)
        assert residual.sum() < 1e-6
        assert 0.1 - 1e-4 <= np.hypot(a, b) <= 5 + 1e-4
        assert -1e-3 <= np.arctan2(-b, a) <= np.pi + 1e-3  # the phase


def test_no_tasks_are_refused():
    with pytest.raises(ValueError, match="got 0, 1 and 1"):
        sinusoids(tasks=0, shots=1, queries=1)


def test_a_sampler_refuses_data_of_other_classes(data):
    sample = episodes(data, tasks=2, ways=5, shots=2, queries=2)
    with pytest.raises(ValueError, match="made for 12 classes, got 6"):
        sample(from_arrays(data.x[:36], np.repeat(np.arange(6), 6)), KEY)


def test_fewer_shots_leaves_the_same_examples_of_every_class_out(data):
    sample = episodes(data, tasks=50, ways=3, shots=4, queries=1)
    fewer = fewer_shots(sample, ways=3, shots=4, least=2)
    weight = fewer(data, KEY).support.weight.reshape(50, 3, 4)
    assert set(weight.sum(2).reshape(-1).tolist()) == {2.0, 3.0, 4.0}
    assert (weight == weight[:, :1]).all()
    assert (weight[..., :2] == 1).all()
    with pytest.raises(ValueError, match=r"0\.\.4, got 5"):
        fewer_shots(sample, ways=3, shots=4, least=5)
