"""What is loaded is what was saved: structure, types and bits, or an error."""

from collections import OrderedDict
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from lml_jax import nets, storage, train
from lml_jax.learners.protonet import protonet

KEY = jax.random.key(0)


class Point(NamedTuple):
    x: jax.Array
    y: object


def everything():
    return {
        "a/b": jnp.ones(2),
        "a": {"b": jnp.zeros(3), "": jnp.ones(()), "0": jnp.zeros(1)},
        "numbers": {1: jnp.ones(1), 0: jnp.zeros(1)},
        "half": jnp.array([1.5, -0.0, jnp.inf], jnp.bfloat16),
        "tiny": jnp.array([1.0], jnp.float8_e4m3fn),
        "bytes": np.array([255], np.uint8),
        "wide": np.array([1e-300, np.nan]),
        "scalar": np.float32(0.1),
        "key": jax.random.key(7),
        "keys": jax.random.split(jax.random.key(7, impl="rbg"), 2),
        "list": [1, 2.5, True, "text", None, float("nan"), 2**70],
        "tuple": (Point(jnp.arange(3), None), ()),
        "empty": jnp.zeros((0, 4), jnp.int8),
        "complex": jnp.array([1 + 2j]),
    }


def assert_same(found, want):
    assert jax.tree.structure(found) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        assert type(a) is type(b)
        if hasattr(b, "dtype"):
            assert a.dtype == b.dtype
            if jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
                a, b = jax.random.key_data(a), jax.random.key_data(b)
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
            assert a.shape == b.shape
        else:
            assert a == b or a != a != b


def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path):
    path = storage.save(tmp_path / "all.npz", everything())
    assert_same(storage.load(path), everything())
    assert_same(storage.load(path, everything()), everything())
    found = storage.load(path)
    assert isinstance(found["tuple"][0], Point)
    assert found["a/b"].shape == (2,)
    assert found["a"]["b"].shape == (3,)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e5m2", "int4", "uint4", "bool"])
def test_types_that_numpy_cannot_write(tmp_path, dtype):
    w = np.array([0, 1, 1], jnp.dtype(dtype))
    found = storage.load(storage.save(tmp_path / "w.npz", {"w": jnp.asarray(w)}))["w"]
    assert found.dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(np.asarray(found), w)
    assert storage.load(storage.save(tmp_path / "n.npz", w)).dtype == w.dtype


def test_a_train_state_comes_back_without_an_example_of_it(tmp_path):
    state = train.init_state({"w": jnp.ones(3)}, optax.adam(1e-3))
    assert_same(storage.load(storage.save(tmp_path / "state.npz", state)), state)


def test_frozen_statistics_of_a_protonet_are_not_dropped(tmp_path):
    """A structure without them is refused by name; what is loaded predicts what was saved."""
    net = nets.conv4(None, filters=8)
    learner, x = protonet(net, classes=2), jax.random.normal(KEY, (4, 8, 8))
    fresh = learner.init(KEY, x)
    params = {**fresh, "net": net.freeze(fresh["net"], x)}
    path = storage.save(tmp_path / "params.npz", params)
    with pytest.raises(ValueError, match=r"lacks nothing and has .*\['norm1'\]\['mean'\]"):
        storage.load(path, fresh)
    with pytest.raises(ValueError, match=r"lacks .*\['norm1'\]\['mean'\].* and has nothing"):
        storage.load(storage.save(tmp_path / "fresh.npz", fresh), params)
    for like in (None, params, jax.eval_shape(lambda: params)):
        found = storage.load(path, like)
        np.testing.assert_array_equal(
            net.apply(found["net"], x[:1]), net.apply(params["net"], x[:1])
        )


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"w": jnp.ones(3)}, r"\['w'\] as float32 \[2\], expected float32 \[3\]"),
        ({"w": jnp.ones(2, jnp.bfloat16)}, r"as float32 \[2\], expected bfloat16 \[2\]"),
        ({"w": np.ones(2)}, r"expected float64 \[2\]"),
        ({"w": 1.0}, "expected float"),
        ({"w": jax.random.split(KEY)}, r"expected key<fry> \[2\]"),
    ],
)
def test_another_shape_or_type_is_refused_and_not_cast(tmp_path, like, message):
    path = storage.save(tmp_path / "w.npz", {"w": jnp.ones(2)})
    with pytest.raises(ValueError, match=message):
        storage.load(path, like)


def test_what_cannot_be_stored_is_named_before_anything_is_written(tmp_path):
    for tree in ({"w": object()}, {"w": np.array([None])}, {("a", "b"): jnp.ones(1)}, {"w": {1}}):
        with pytest.raises(TypeError, match="cannot be stored"):
            storage.save(tmp_path / "w.npz", tree)
    assert not list(tmp_path.iterdir())


def test_sixty_four_bits_are_not_rounded_in_silence(tmp_path):
    with jax.enable_x64(True):
        path = storage.save(tmp_path / "w.npz", {"w": jnp.array([0.1], jnp.float64)})
        assert storage.load(path)["w"].dtype == "float64"
    with pytest.raises(ValueError, match=r"\['w'\] of float64.*JAX_ENABLE_X64"):
        storage.load(path)


def test_a_node_of_another_kind_needs_an_example(tmp_path):
    tree = OrderedDict(a=jnp.ones(1), b=(jnp.zeros(2),))
    path = storage.save(tmp_path / "tree.npz", tree)
    with pytest.raises(ValueError, match="OrderedDict, which is rebuilt only from an example"):
        storage.load(path)
    assert_same(storage.load(path, tree), tree)


def test_a_file_cannot_make_this_process_import_or_call_anything(tmp_path, monkeypatch):
    path = storage.save(tmp_path / "p.npz", Point(jnp.ones(1), None))
    monkeypatch.setattr(Point, "_fields", ("x", "z"))
    with pytest.raises(ValueError, match="holds a Point"):
        storage.load(path)


@pytest.mark.parametrize("name", ["[x].npz", "a\\b.npz", "*?.npz", "ü .npz"])
def test_names_with_special_characters(tmp_path, name):
    path = storage.save(tmp_path / "[y]" / name, {"w": jnp.ones(2)}, about={"lr": float("nan")})
    assert path.name == name
    assert storage.load(path)["w"].tolist() == [1.0, 1.0]
    assert np.isnan(storage.read_about(path)["lr"])


def test_a_file_that_reads_back_differently_is_not_kept(tmp_path, monkeypatch):
    storage.save(tmp_path / "w.npz", {"w": jnp.ones(2)})
    savez = np.savez

    def broken(file, **arrays):
        savez(file, **{**arrays, "0": arrays["0"] + 1})

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match=r"\['w'\] is not what was written"):
        storage.save(tmp_path / "w.npz", {"w": jnp.zeros(2)})
    monkeypatch.undo()
    assert storage.load(tmp_path / "w.npz")["w"].tolist() == [1.0, 1.0]
    assert [p.name for p in tmp_path.iterdir()] == ["w.npz"]


def test_another_file_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", w=np.ones(2))
    with pytest.raises(ValueError, match=r"other.npz is no whole file of arrays"):
        storage.load(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        storage.load(tmp_path / "none.npz")


def test_extended_types_are_those_of_ml_dtypes():
    assert storage._is_extended(np.dtype(ml_dtypes.bfloat16))
    assert not storage._is_extended(np.dtype("<f4"))
    assert not storage._is_extended(np.dtype(">i8"))
    assert not storage._is_extended(np.dtype("U3"))
