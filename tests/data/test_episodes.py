import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax.data.arrays import from_arrays
from lml_jax.data.episodes import draw_examples, episodes, fewer_shots, rotate90
from lml_jax.data.synthetic import sinusoids

KEY = jax.random.key(0)


@pytest.fixture
def data():
    """12 classes of 6 images; the first pixel tells the class, the second the example."""
    y = np.repeat(np.arange(12), 6)
    x = np.zeros((72, 4, 4), np.uint8)
    x[:, 0, 0], x[:, 0, 1] = y, np.tile(np.arange(6), 12)
    return from_arrays(x, y)


def test_support_and_query_are_disjoint_examples_of_the_same_classes(data):
    tasks = jax.jit(episodes(data, tasks=50, ways=5, shots=2, queries=3))(data, KEY)
    assert tasks.id is None
    assert tasks.support.x.shape == (50, 10, 4, 4)
    assert tasks.support.x.dtype == jnp.uint8
    for t in range(50):
        real = {}
        rows = []
        for part in (tasks.support, tasks.query):
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


def test_ragged_classes_never_give_padding():
    index, count = jnp.array([3, 4, 0, 0]), jnp.array(2)
    for k in range(20):
        assert sorted(draw_examples(index, count, jax.random.key(k), n=2).tolist()) == [3, 4]


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


def test_a_sampler_refuses_data_of_another_shape(data):
    sample = episodes(data, tasks=2, ways=5, shots=2, queries=2)
    with pytest.raises(ValueError, match="made for 12 classes of up to 6 examples, got 6 of up to"):
        sample(from_arrays(np.asarray(data.x[:36]), np.repeat(np.arange(6), 6)), KEY)


def test_fewer_shots_leaves_the_same_examples_of_every_class_out(data):
    sample = episodes(data, tasks=50, ways=3, shots=4, queries=1)
    fewer = fewer_shots(sample, ways=3, shots=4, least=2)
    weight = fewer(data, KEY).support.weight.reshape(50, 3, 4)
    assert set(weight.sum(2).reshape(-1).tolist()) == {2.0, 3.0, 4.0}
    assert (weight == weight[:, :1]).all()
    assert (weight[..., :2] == 1).all()
    with pytest.raises(ValueError, match=r"0\.\.4, got 5"):
        fewer_shots(sample, ways=3, shots=4, least=5)
