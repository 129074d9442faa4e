import unicodedata

import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax.data.glyphs import characters, glyphs


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("glyphs")
        patch.setenv("LML_JAX_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def data(store):
    return glyphs(per_class=4)


@pytest.fixture(scope="module")
def images(data):
    return np.asarray(data.x).reshape(-1, 4, 28, 28)


def test_there_are_classes_and_scripts_enough(data):
    assert data.classes >= 1000
    assert data.x.dtype == jnp.uint8
    assert data.x.shape == (4 * data.classes, 28, 28)
    assert (np.asarray(data.count) == 4).all()
    per_script = np.bincount(data.group, minlength=len(data.groups))
    assert len(data.groups) >= 15
    assert (per_script >= 10).all()
    assert (np.diff(data.group) >= 0).all()


def test_look_alikes_are_one_class(store):
    chars = characters()
    assert len(set(chars)) == len(chars)
    for one, *others in ("AΑА", "OΟОo", "BΒВ", "HΗН", "XΧХx", "EΕЕ", "D𐌃"):
        assert one in chars
        assert not set(others) & set(chars)
    assert {"Δ", "Ж", "ש", "ᐂ", "→", "a"} <= set(chars)  # what differs stays


def test_group_is_the_script_of_the_character(data):
    for char, group in zip(characters(), np.asarray(data.group), strict=True):
        script = data.groups[group]
        if script not in ("ARROWS", "OPERATORS"):
            assert unicodedata.name(char).startswith(script)


def test_every_image_has_ink_that_is_not_cut_off(images):
    assert (images.max((2, 3)) > 200).all()
    assert 0.08 < images.mean() / 255 < 0.2
    border = np.concatenate([images[:, :, [0, -1]], images[:, :, :, [0, -1]].swapaxes(2, 3)], 2)
    assert (border.max((2, 3)) > 127).mean() < 0.02


def test_examples_vary_and_classes_are_told_apart(images):
    flat = images.reshape(len(images), 4, -1).astype(float)
    assert all(len(np.unique(examples, axis=0)) == 4 for examples in flat)
    flat /= np.linalg.norm(flat, axis=2, keepdims=True)
    draw = np.random.default_rng(0)
    right = []
    for _ in range(400):  # 5-way 1-shot by nearest pixels: Omniglot has 0.48
        five = flat[draw.choice(len(flat), 5, replace=False)]
        right.append((five[:, 0] @ five[:, 1].T).argmax(0) == np.arange(5))
    assert 0.35 < np.mean(right) < 0.7


def test_a_broken_cache_is_rebuilt_and_the_same(data, images, store):
    first = glyphs(per_class=1)
    np.testing.assert_array_equal(first.x, images[:, 0])  # fewer examples are the first of more
    (path,) = store.glob("glyphs-28px-1each-*.npz")
    path.write_bytes(path.read_bytes()[:-100])
    again = glyphs(per_class=1)
    np.testing.assert_array_equal(again.x, first.x)
    assert again.groups == data.groups
    np.testing.assert_array_equal(again.group, data.group)
    cached = glyphs(per_class=4)
    np.testing.assert_array_equal(cached.x, data.x)


def test_seed_changes_images_not_classes(images, store):
    other = glyphs(per_class=1, seed=1, cache=False)
    assert other.classes == len(images)
    assert (np.asarray(other.x) != images[:, 0]).any((1, 2)).mean() > 0.99


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"size": 11}, ValueError, r"size is 11, expected 12\.\.105"),
        ({"size": 28.0}, TypeError, "size is 28.0, expected an integer"),
        ({"per_class": 0}, ValueError, "per_class is 0"),
        ({"per_class": True}, TypeError, "per_class is True"),
        ({"seed": -1}, ValueError, "seed is -1"),
    ],
)
def test_arguments_out_of_range_are_named(options, error, said):
    with pytest.raises(error, match=said):
        glyphs(**options)
