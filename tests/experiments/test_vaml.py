"""The VAML recipes, on settings small enough for a test."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lml_jax import train
from lml_jax.data.arrays import from_arrays
from lml_jax.experiments import vaml
from lml_jax.experiments.augmentation import Gain, run_gain
from lml_jax.experiments.augmentation import recipe as gain_recipe
from lml_jax.experiments.vaml import SINE, Vaml, over_seeds, run_vaml, without_last


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


def test_a_run_that_was_cut_goes_on(tmp_path, monkeypatch):
    run = over_seeds(replace(SINE, hidden=(8,), code=4, steps=2, meta_batch=2, episodes=3))
    run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(vaml, "tested", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(train, "run", lambda *args, **options: pytest.fail("trained again"))
        run(tmp_path / "cut", resume=True)
    whole, gone_on = (
        json.loads((tmp_path / out / "seed0" / "metrics.json").read_text())
        for out in ("whole", "cut")
    )
    del whole["seconds"], gone_on["seconds"]
    assert gone_on == whole


@pytest.mark.parametrize("head", [False, True], ids=["evidence", "head"])
def test_omniglot_runs(tmp_path, tfds_dir, head):
    small = Vaml(encoder="mlp", hidden=(8,), code=4, latent=2, draws=1, steps=2, meta_batch=2,
                 episodes=3, queries=1, head=head)  # fmt: skip
    record = run_vaml(small, tmp_path / "run", progress=False)
    assert [row["shots"] for row in record["tests"]] == [1, 5]
    assert all(0 <= row["score"] <= 1 for row in record["tests"])


def test_gain_chooses_on_held_out_alphabets_and_pairs_its_arms(tmp_path, tfds_dir):
    small = Vaml(encoder="mlp", hidden=(8,), code=4, latent=2, draws=1, steps=2, meta_batch=2,
                 queries=2, held_out=2)  # fmt: skip
    settings = Gain(vaml=small, shots=(1,), copies=2, weights=(1.0,), decays=(0.0, 0.1),
                    jitters=(1.0,), chosen_on=3, episodes=4, steps=3)  # fmt: skip
    report = gain_recipe(settings)(tmp_path / "run")
    row = json.loads((tmp_path / "run" / "metrics.json").read_text())["tests"][0]
    arms = {name: arm["accuracy"] for name, arm in row["arms"].items()}
    assert set(arms) == {"none", "generated", "affine", "generated+affine"}
    for name, found in row["differences"].items():
        one, other = name.split(" - ")
        assert found["mean"] == pytest.approx(arms[one] - arms[other])
        assert name in report
    with pytest.raises(ValueError, match="held_out must be at least 1"):
        run_gain(replace(settings, vaml=replace(small, held_out=0)), tmp_path / "none")


def test_held_out_alphabets_are_not_trained_on():
    data = from_arrays(np.zeros((6, 2, 2)), range(6), group=[0, 0, 1, 1, 2, 2])
    kept, held_out = without_last(data, 1)
    assert (kept.classes, held_out.classes) == (4, 2)
    assert held_out.group.tolist() == [2, 2]
    assert without_last(data, 0)[1] is None
