"""The experiments with VAML, on settings small enough for a test."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lml_jax import train
from lml_jax.data.arrays import from_arrays
from lml_jax.experiments import runner
from lml_jax.experiments.augmentation import AUGMENTATION, Augmentation
from lml_jax.experiments.runner import over_seeds
from lml_jax.experiments.vaml import SINE, VAML, Vaml, without_last


def test_sine_writes_what_it_promises(tmp_path):
    small = replace(SINE, hidden=(8,), code=4, steps=2, meta_batch=2, episodes=3)
    report = over_seeds(VAML, small, seeds=2)(tmp_path / "run")
    assert report.count("shots") == 4
    for seed in (0, 1):
        record = json.loads((tmp_path / "run" / f"seed{seed}" / "metrics.json").read_text())
        assert [row["shots"] for row in record["tests"]] == [5, 10]
        assert all(row["episodes"] == 3 and row["score"] > 0 for row in record["tests"])
        assert record["steps"] == 2
        assert record["config"]["seed"] == seed


def test_an_interrupted_run_resumes(tmp_path, monkeypatch):
    small = replace(SINE, hidden=(8,), code=4, steps=2, meta_batch=2, episodes=3)
    over_seeds(VAML, small)(tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        over_seeds(VAML._replace(test=lambda *args: 1 / 0), small)(tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(train, "run", lambda *args, **options: pytest.fail("trained again"))
        over_seeds(VAML, small)(tmp_path / "cut", resume=True)
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
    record = runner.run(VAML, small, tmp_path / "run", progress=False)
    assert [row["shots"] for row in record["tests"]] == [1, 5]
    assert all(0 <= row["score"] <= 1 for row in record["tests"])


def test_augmentation_chooses_on_held_out_alphabets_and_pairs_its_arms(tmp_path, tfds_dir):
    small = Vaml(encoder="mlp", hidden=(8,), code=4, latent=2, draws=1, steps=2, meta_batch=2,
                 queries=2, held_out=2)  # fmt: skip
    settings = Augmentation(vaml=small, shots=(1,), copies=2, weights=(1.0,), decays=(0.0, 0.1),
                    jitters=(1.0,), chosen_on=3, episodes=4, steps=3)  # fmt: skip
    report = over_seeds(AUGMENTATION, settings)(tmp_path / "run")
    row = json.loads((tmp_path / "run" / "seed0" / "metrics.json").read_text())["tests"][0]
    arms = {name: arm["accuracy"] for name, arm in row["arms"].items()}
    assert set(arms) == {"none", "generated", "affine", "generated+affine"}
    for name, found in row["differences"].items():
        one, other = name.split(" - ")
        assert found["mean"] == pytest.approx(arms[one] - arms[other])
        assert name in report
    settings = replace(settings, vaml=replace(small, held_out=0))
    with pytest.raises(ValueError, match="held_out must be at least 1"):
        runner.run(AUGMENTATION, settings, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_held_out_alphabets_are_not_trained_on():
    data = from_arrays(np.zeros((6, 2, 2)), range(6), group=[0, 0, 1, 1, 2, 2])
    kept, held_out = without_last(data, 1)
    assert (kept.classes, held_out.classes) == (4, 2)
    assert held_out.group.tolist() == [2, 2]
    assert without_last(data, 0)[1] is None
