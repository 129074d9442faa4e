"""The VAML recipes, on settings small enough for a test."""

import json
from dataclasses import replace

import pytest

from lml_jax.recipes.vaml import SINE, Vaml, over_seeds, run_vaml

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_sine_writes_what_it_promises(tmp_path):
    small = replace(SINE, hidden=(8,), code=4, steps=2, meta_batch=2, episodes=3)
    report = over_seeds(small, seeds=2)(tmp_path / "run")
    assert report.count("shots") == 4
    for seed in (0, 1):
        record = json.loads((tmp_path / "run" / f"seed{seed}" / "metrics.json").read_text())
        assert [row["shots"] for row in record["tests"]] == [5, 10]
        assert all(row["episodes"] == 3 and row["score"] > 0 for row in record["tests"])
        assert record["steps"] == 2
        assert record["config"]["seed"] == seed


@pytest.mark.parametrize("head", [False, True], ids=["evidence", "head"])
def test_omniglot_runs(tmp_path, tfds_dir, head):
    small = Vaml(encoder="mlp", hidden=(8,), code=4, latent=2, draws=1, steps=2, meta_batch=2,
                 episodes=3, queries=1, head=head)  # fmt: skip
    record = run_vaml(small, tmp_path / "run", progress=False)
    assert [row["shots"] for row in record["tests"]] == [1, 5]
    assert all(0 <= row["score"] <= 1 for row in record["tests"])
