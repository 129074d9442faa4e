import os
import time
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax.data._cache import cache_dir, cached
from lml_jax.data.arrays import from_arrays, rotations, select
from lml_jax.data.mnist import mnist
from lml_jax.data.omniglot import omniglot

IMAGES = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4)
LABELS = np.array([1, 0, 2, 1, 1, 0])


def prepared(name):
    """The folder of data that tfds prepared, or a skip."""
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder or not list(Path(folder).glob(f"{name}/*/dataset_info.json")):
        pytest.skip(f"{name} is not prepared: set TFDS_DATA_DIR to a folder that holds it")
    return folder


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Omniglot's evaluation half, then all of it: each half is decoded once."""
    folder = prepared("omniglot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LML_JAX_CACHE", str(tmp_path_factory.mktemp("omniglot")))
        yield omniglot("evaluation", data_dir=folder), omniglot("all", data_dir=folder)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("LML_JAX_CACHE", str(tmp_path / "store"))
    return tmp_path / "store"


def test_from_arrays_indexes_each_class():
    data = from_arrays(IMAGES, jnp.asarray(LABELS), group=[0, 1, 1], groups=("a", "b"))
    assert data.x is IMAGES  # not copied, and in host memory
    assert data.rows.tolist() == [1, 5, 0, 3, 4, 2]
    assert data.start.tolist() == [0, 2, 5]
    assert [data.rows_of(c).tolist() for c in range(3)] == [[1, 5], [0, 3, 4], [2]]
    assert data.count.tolist() == [2, 3, 1]
    assert data.group.tolist() == [0, 1, 1]
    assert data.groups == ("a", "b")
    arrays = (data.rows, data.start, data.count, data.group)
    assert all(a.dtype == np.int32 for a in arrays)


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "said"),
    [
        (IMAGES, LABELS[:5], {}, ValueError, "6 examples and y has 5"),
        (IMAGES, LABELS - 1, {}, ValueError, "negative label -1"),
        (IMAGES, LABELS * 2, {}, ValueError, "class 1 has no example"),
        (IMAGES, LABELS + 10**15, {}, ValueError, "largest label 1000000000000002"),
        (IMAGES, LABELS * 1.0, {}, TypeError, "y is of float64"),
        (IMAGES, LABELS[:, None], {}, ValueError, r"\(6, 1\)"),
        (IMAGES[:0], LABELS[:0], {}, ValueError, "expected at least one"),
        (IMAGES[:, 0], LABELS, {}, ValueError, r"\(6, 4\).*expected uint8 images"),
        (IMAGES.astype(bool), LABELS, {}, TypeError, "x is of bool, expected integers or floats"),
        (np.zeros(6), LABELS, {}, ValueError, "rank 2"),
        (np.full((6, 2), np.nan), LABELS, {}, ValueError, "NaN"),
        (IMAGES, LABELS, {"group": [0, 1]}, ValueError, r"\(2,\), expected one per class, \(3,\)"),
        (IMAGES, LABELS, {"group": [0, 1, 2], "groups": ("a", "b")}, ValueError, "0..2"),
        (IMAGES, LABELS, {"group": [0.0, 1, 2]}, TypeError, "group is of float64"),
        (IMAGES, LABELS, {"groups": ("a",)}, ValueError, "group is None"),
    ],
)
def test_from_arrays_names_the_fault(x, y, options, error, said):
    with pytest.raises(error, match=said):
        from_arrays(x, y, **options)


def test_select_keeps_order_and_group_and_drops_the_rest():
    data = from_arrays(IMAGES, LABELS, group=[0, 1, 2], groups=("a", "b", "c"))
    part = select(data, [2, 0])
    assert part.group.tolist() == [2, 0]
    assert part.groups == data.groups
    assert part.count.tolist() == [1, 2]
    np.testing.assert_array_equal(part.x[part.rows_of(0)], IMAGES[[2]])
    np.testing.assert_array_equal(part.x[part.rows_of(1)], IMAGES[[1, 5]])
    assert len(part.x) == 3


@pytest.mark.parametrize("classes", [[0, 3], [-1], [1, 1], [], [[0]]])
def test_select_refuses(classes):
    with pytest.raises(ValueError, match="classes"):
        select(from_arrays(IMAGES, LABELS), np.array(classes, int))


@pytest.mark.parametrize("channels", [False, True])
def test_rotations_turn_by_quarter_turns_from_the_original(channels):
    x = np.stack([IMAGES, IMAGES + 100], -1) if channels else IMAGES
    data = from_arrays(x, LABELS, group=[0, 1, 1], groups=("a", "b"))
    turned = rotations(data)
    assert turned.classes == 12
    assert turned.group.tolist() == [0, 1, 1] * 4
    for r in range(4):
        for c in range(3):
            rows, own = turned.rows_of(c + 3 * r), data.rows_of(c)
            want = np.stack([np.rot90(x[i], r) for i in own])
            np.testing.assert_array_equal(turned.x[rows], want)
            assert turned.count[c + 3 * r] == data.count[c]


def test_rotations_refuse_what_is_not_square():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\)"):
        rotations(from_arrays(np.zeros((2, 3, 4), np.uint8), [0, 1]))


def test_cache_is_used_then_rebuilt_when_broken(store):
    calls = []

    def build():
        calls.append(None)
        return {"x": np.arange(1000)}

    def get(**options):
        return cached("thing", build, keys=["x"], **options)["x"].sum()

    assert get() == get() == 499500
    assert len(calls) == 1
    assert get(cache=False) == 499500
    assert len(calls) == 2
    path = store / "thing.npz"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    other = b"\x93NUMPY"
    for broken in (b"", b"not an archive", whole[: len(whole) // 2], bytes(flipped), other):
        path.write_bytes(broken)
        before = len(calls)
        assert get() == 499500
        assert len(calls) == before + 1
        assert path.read_bytes() == whole
    with path.open("wb") as file:
        np.savez(file, x=np.array([{}], object), allow_pickle=True)
    assert get() == 499500
    assert [p.name for p in store.iterdir()] == ["thing.npz"]  # no temporary file is left


def test_cache_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LML_JAX_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="LML_JAX_CACHE"):
        assert cached("a", lambda: {"x": np.ones(1)}, keys=["x"])["x"] == 1


def test_cache_dir_follows_the_environment(monkeypatch):
    monkeypatch.setenv("LML_JAX_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_dir() == Path("/a")
    monkeypatch.delenv("LML_JAX_CACHE")
    assert cache_dir() == Path("/b/lml_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "lml_jax"


def test_a_user_without_a_home_directory(monkeypatch):
    """As in a container: nothing is cached, which is said, and only where a cache was asked for."""
    for name in ("HOME", "LML_JAX_CACHE", "XDG_CACHE_HOME", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where the user has no entry

    def get(**options):
        return cached("a", lambda: {"x": np.ones(1)}, keys=["x"], **options)["x"]

    with pytest.warns(UserWarning, match=r"no home directory.*LML_JAX_CACHE"):
        assert get() == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get(cache=False) == 1
    with pytest.raises(FileNotFoundError, match=r"no home directory.*TFDS_DATA_DIR"):
        mnist("train")


@pytest.mark.parametrize(("load", "name"), [(omniglot, "omniglot"), (mnist, "mnist")])
def test_absent_data_names_the_command_at_once(load, name, tmp_path):
    start = time.monotonic()
    with pytest.raises(FileNotFoundError) as caught:
        load("test" if load is mnist else "all", data_dir=tmp_path)
    assert time.monotonic() - start < 5
    said = str(caught.value)
    assert "pip install 'lml-jax[prepare]'" in said
    assert f"tfds.builder('{name}', data_dir='{tmp_path}', file_format='array_record')" in said
    assert ".download_and_prepare()" in said


def test_data_that_only_tensorflow_reads_is_said(tmp_path, monkeypatch):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"fileFormat": "tfrecord"}')
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"'tfrecord'.*expected 'array_record'"):
        mnist("train")


def test_unknown_split_and_size():
    with pytest.raises(ValueError, match="unknown split of Omniglot 'train'"):
        omniglot("train")
    with pytest.raises(ValueError, match="unknown split of MNIST 'all'"):
        mnist("all")
    for size in (3, 106, True, 28.0):
        with pytest.raises(ValueError, match="size is"):
            omniglot("all", size=size)


def test_omniglot_evaluation(halves):
    evaluation, _ = halves
    assert evaluation.classes == 659
    assert evaluation.x.shape == (13180, 28, 28)
    assert evaluation.x.dtype == jnp.uint8
    assert (np.asarray(evaluation.count) == 20).all()
    assert len(evaluation.groups) == 20
    assert list(evaluation.groups) == sorted(evaluation.groups)
    group = np.asarray(evaluation.group)
    assert (np.diff(group) >= 0).all()
    assert set(group) == set(range(20))
    x = np.asarray(evaluation.x) / 255
    assert 0.07 < x.mean() < 0.10  # ink, not paper, is bright; the full-size images have 0.08
    assert x.max() == 1
    assert (x == 0).mean() > 0.5


def test_omniglot_all_is_background_then_evaluation(halves, assert_disjoint):
    evaluation, data = halves
    assert data.classes == 1623
    assert (np.asarray(data.count) == 20).all()
    assert len(data.groups) == 50
    assert set(np.asarray(data.group)[:964]) == set(range(30))
    np.testing.assert_array_equal(data.x[964 * 20 :], evaluation.x)
    assert data.groups[30:] == evaluation.groups
    assert (np.diff(data.group) >= 0).all()
    assert_disjoint(background=select(data, np.arange(964)), evaluation=evaluation)


def test_mnist(store):
    data = mnist("test", data_dir=prepared("mnist"))
    assert data.x.shape == (10000, 28, 28)
    assert data.count.tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert abs(float(jnp.mean(data.x / 255)) - 0.1325) < 0.001
    again = mnist("test", data_dir=prepared("mnist"))
    np.testing.assert_array_equal(again.x, data.x)


def test_images_of_another_range_are_refused():
    with pytest.raises(ValueError, match="multiply by 255"):
        from_arrays(np.eye(4, dtype=np.uint8)[None].repeat(6, 0), LABELS)
