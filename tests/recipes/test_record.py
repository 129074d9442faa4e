import json

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax.recipes import history
from lml_jax.recipes.fewshot import FewShot, summary_of
from lml_jax.recipes.record import load_params, save_params, write_metrics


def test_parameters_come_back(tmp_path):
    params = {"theta": {"head": {"kernel": jnp.arange(6.0).reshape(2, 3)}}, "alpha": ()}
    path = save_params(tmp_path, params)
    like = {"theta": {"head": {"kernel": jnp.zeros((2, 3))}}, "alpha": ()}
    chex.assert_trees_all_equal(load_params(path, like), params)
    with pytest.raises(ValueError, match=r"no theta/head/kernel of shape \(3, 3\)"):
        load_params(path, {"theta": {"head": {"kernel": jnp.zeros((3, 3))}}})


def test_metrics_are_whole_or_absent(tmp_path):
    write_metrics(tmp_path, {"a": float("nan"), "b": np.arange(2)})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"a": None, "b": [0, 1]}
    with pytest.raises(TypeError):
        write_metrics(tmp_path, {"a": object()})
    assert json.loads((tmp_path / "metrics.json").read_text())["b"] == [0, 1]


def test_a_diverged_task_is_counted():
    scores = np.array([[1.0, 0.5], [3.0, np.nan], [2.0, 1e6], [2.0, 0.1]])
    record = summary_of(FewShot(data="sine", report_step=1), scores)
    np.testing.assert_allclose(record["diverged_per_inner_step"], [0.0, 0.5])
    np.testing.assert_allclose(record["mse_per_inner_step"][0], 2.0)


def test_paired_differences_and_their_interval():
    """t for 5 runs is 2.776; differences 1, 2, 3, 4, 5: mean 3, sd sqrt(2.5)."""
    mean, half = history.paired([2, 4, 6, 8, 10], [1, 2, 3, 4, 5])
    assert mean == 3.0
    np.testing.assert_allclose(half, 2.776 * np.sqrt(2.5 / 5))
