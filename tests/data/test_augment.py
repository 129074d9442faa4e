"""Affine maps of images, against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax.data.arrays import from_arrays
from lml_jax.data.augment import Jitter, affine, turn, warp
from lml_jax.data.domains import jittered
from lml_jax.data.streams import class_incremental

KEY = jax.random.key(0)
X = jax.random.uniform(KEY, (3, 5, 5))


@pytest.mark.parametrize("turns", range(4))
def test_a_quarter_turn_is_that_of_numpy(turns):
    matrix = jnp.broadcast_to(turn(jnp.array(turns * jnp.pi / 2)), (3, 2, 2))
    turned = warp(X, matrix, jnp.zeros((3, 2)))
    np.testing.assert_allclose(turned, np.rot90(X, turns, axes=(1, 2)), atol=1e-5)


def test_half_a_pixel_is_the_mean_of_two():
    moved = warp(
        X, jnp.broadcast_to(jnp.eye(2), (3, 2, 2)), jnp.tile(jnp.array([[0.5, 0.0]]), (3, 1))
    )
    np.testing.assert_allclose(moved[:, :-1], (X[:, :-1] + X[:, 1:]) / 2, atol=1e-5)
    assert (
        warp((255 * X).astype(jnp.uint8), jnp.zeros((3, 2, 2)), jnp.zeros((3, 2))).dtype == "uint8"
    )


def test_jitter_moves_each_image_its_own_way_within_its_limits():
    same = jnp.broadcast_to(X[:1], (40, 5, 5))
    moved = affine(same, KEY, Jitter())
    assert float(jnp.abs(moved[0] - moved[1]).max()) > 0.01
    np.testing.assert_array_equal(moved, affine(same, KEY, Jitter()))
    dot = jnp.zeros((40, 21, 21)).at[:, 10, 10].set(1.0)
    shifted = affine(dot, KEY, Jitter(0.0, 0.0, 0.0, 0.1))
    away = jnp.abs(jnp.argwhere(shifted > 0)[:, 1:] - 10)
    assert 1 <= int(away.max()) <= 3  # at most 0.1 x 21 pixels, spread over the next one


def test_a_jittered_stream_moves_what_is_drawn_and_nothing_else():
    images = np.asarray(jax.random.uniform(KEY, (12, 5, 5)))
    stream = class_incremental(
        from_arrays(images, np.repeat([0, 1], 6)), tasks=1, classes_per_task=2, seed=0,
        train_per_class=4, shots=2, queries=2, meta_batch=3,
    )  # fmt: skip
    moved = jittered(stream, Jitter())
    plain, drawn = stream.episodes(0, KEY), moved.episodes(0, KEY)
    for part, still in ((drawn.support, plain.support), (drawn.query, plain.query)):
        assert part.x.shape == (3, 4, 5, 5)
        assert (np.abs(part.x - still.x).max((2, 3)) > 0.01).all()  # every image moved
        np.testing.assert_array_equal(part.y, still.y)
    # The same image is moved anew in each episode, and in the support as in the query set.
    of_still = np.asarray(plain.support.x).reshape(-1, 25)
    of_moved = np.asarray(drawn.support.x).reshape(-1, 25)
    rows, times = np.unique(of_still, axis=0, return_counts=True)
    twice = np.flatnonzero((of_still == rows[times.argmax()]).all(1))
    assert len(twice) > 1
    assert np.abs(of_moved[twice[0]] - of_moved[twice[1]]).max() > 0.01
    jax.tree.map(np.testing.assert_array_equal, moved.train(0), stream.train(0))
    jax.tree.map(np.testing.assert_array_equal, moved.test(0), stream.test(0))
    jax.tree.map(np.testing.assert_array_equal, moved.batch(0), stream.batch(0))
    assert float(jnp.abs(moved.batch(0, KEY).x - stream.batch(0).x).max()) > 0.01


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.float16])
def test_colour_images_move_as_their_channels_do(dtype):
    rgb = (255 * jax.random.uniform(KEY, (3, 6, 5, 3))).astype(dtype)
    moved = affine(rgb, KEY, Jitter())
    assert (moved.shape, moved.dtype) == (rgb.shape, rgb.dtype)
    for c in range(3):
        np.testing.assert_array_equal(moved[..., c], affine(rgb[..., c], KEY, Jitter()))


def test_a_quarter_turn_of_a_colour_image_is_that_of_numpy():
    rgb = jax.random.uniform(KEY, (2, 4, 4, 3))
    matrix = jnp.broadcast_to(turn(jnp.array(jnp.pi / 2)), (2, 2, 2))
    turned = warp(rgb, matrix, jnp.zeros((2, 2)))
    np.testing.assert_allclose(turned, np.rot90(rgb, 1, axes=(1, 2)), atol=1e-5)


def test_channels_first_images_are_refused_by_name():
    for shape in ((2, 3, 28, 28), (2, 1, 28, 32)):
        with pytest.raises(ValueError, match=r"looks like \[n, channels, H, W\]"):
            affine(jnp.zeros(shape), KEY, Jitter())
    with pytest.raises(ValueError, match=r"got shape \(2, 28\)"):
        warp(jnp.zeros((2, 28)), jnp.zeros((2, 2, 2)), jnp.zeros((2, 2)))
