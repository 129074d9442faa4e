"""Parameters in a file: what is read is what was saved, or an error names the difference."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax.params import load_params, save_params


def test_parameters_come_back(tmp_path):
    params = {"theta": {"head": {"kernel": jnp.arange(6.0).reshape(2, 3)}}, "alpha": ()}
    path = save_params(tmp_path, params)
    like = {"theta": {"head": {"kernel": jnp.zeros((2, 3))}}, "alpha": ()}
    chex.assert_trees_all_equal(load_params(path, like), params)


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16, jnp.int8, jnp.float8_e4m3fn, bool])
def test_types_come_back(tmp_path, kind):
    params = {"w": jnp.array([0, 1, 1, 0]).astype(kind)}
    found = load_params(save_params(tmp_path, params), params)["w"]
    assert found.dtype == kind
    np.testing.assert_array_equal(found.astype(jnp.float32), [0, 1, 1, 0])


def test_what_differs_is_named(tmp_path):
    path = save_params(tmp_path, {"net": {"kernel": jnp.ones((2, 3)), "mean": jnp.ones(3)}})
    with pytest.raises(ValueError, match=r"holds no net/kernel of shape \(3, 3\)"):
        load_params(path, {"net": {"kernel": jnp.zeros((3, 3)), "mean": jnp.ones(3)}})
    with pytest.raises(ValueError, match="also holds net/mean, which is not expected"):
        load_params(path, {"net": {"kernel": jnp.zeros((2, 3))}})
    with pytest.raises(ValueError, match="holds net/mean as float32, expected int32"):
        load_params(path, {"net": {"kernel": jnp.ones((2, 3)), "mean": jnp.ones(3, int)}})
    with pytest.raises(ValueError, match="two arrays have the path a/b"):
        save_params(tmp_path, {"a/b": jnp.ones(1), "a": {"b": jnp.zeros(1)}})


def test_a_key_is_stored_as_its_data(tmp_path):
    path = save_params(tmp_path, {"key": jax.random.key(3)})
    data = jax.random.key_data(jax.random.key(3))
    np.testing.assert_array_equal(load_params(path, {"key": data})["key"], data)
