"""The experiments with MetaGAN, on settings small enough for a test."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lml_jax.checkpoint import Stopped
from lml_jax.experiments import metagan, runner
from lml_jax.experiments.fewshot.settings import FewShot, resolve
from lml_jax.experiments.metagan import METAGAN, compared
from lml_jax.experiments.progress import train_with_bar
from lml_jax.experiments.published import PAIR, PAIR_PROTONET
from lml_jax.experiments.runner import over_seeds

TINY = {"steps": 2, "episodes": 3, "queries": 1, "filters": 8, "meta_batch": 1, "data": "glyphs"}
SMALL = {"encoder": (8,), "code": 4, "generator": (8,), "noise": 2, "collapse": 0.0}

WITHOUT_WEIGHT = replace(
    PAIR_PROTONET,
    base=replace(PAIR_PROTONET.base, ways=2, train_ways=3, train_queries=1, **TINY),
    generated_weight=0.0, penalty=0.0, **SMALL,
)  # fmt: skip


def test_maml_with_and_without(tmp_path):
    base = replace(PAIR.base, ways=2, train_ways=2, test_inner_steps=1, report_step=1, **TINY)
    report = over_seeds(METAGAN, replace(PAIR, base=base, **SMALL), seeds=1)(tmp_path / "run")
    run = json.loads((tmp_path / "run" / "metrics.json").read_text())["runs"][0]
    assert run == json.loads((tmp_path / "run" / "seed0" / "metrics.json").read_text())
    assert (tmp_path / "run" / "seed0" / "samples.png").stat().st_size > 1000
    assert "difference" in report
    np.testing.assert_allclose(run["difference"], run["accuracy"] - run["accuracy_base"])
    assert run["config"]["generated_weight"] == 0.25
    assert all(0 <= run[name] <= 1 for name in ("d_real", "d_fake", "d_accuracy"))
    assert run["diversity"] >= 0


def test_without_weight_there_is_no_difference(tmp_path):
    run = runner.run(METAGAN, WITHOUT_WEIGHT, tmp_path / "run", progress=False)
    assert run["difference"] == run["ci95_difference"] == 0
    assert run["steps"] == 2


def test_an_interrupted_pair_resumes(tmp_path, monkeypatch):
    def cut(*args, keeper, about, **options):
        def save(step, *run):
            keeper.save(step, *run)
            if "MetaGAN" in about and step == 25:
                raise Stopped("here")

        return train_with_bar(*args, keeper=keeper._replace(save=save), about=about, **options)

    base = replace(WITHOUT_WEIGHT.base, steps=30)  # a chunk of 25 updates, and one of 5
    settings = replace(WITHOUT_WEIGHT, base=base, generated_weight=0.5)
    run = over_seeds(METAGAN, settings)
    run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(metagan, "train_with_bar", cut)
        with pytest.raises(Stopped):
            run(tmp_path / "cut")
    run(tmp_path / "cut", resume=True)
    whole, resumed = (
        json.loads((tmp_path / out / "seed0" / "metrics.json").read_text())
        for out in ("whole", "cut")
    )
    del whole["seconds"], resumed["seconds"]
    assert resumed == whole


def test_differences_are_paired():
    alone, both = np.array([[0.2], [0.6], [1.0]]), np.array([[0.3], [0.7], [1.1]])
    found = compared(resolve(FewShot(learner="protonet")), alone, both)
    np.testing.assert_allclose(found["difference"], 0.1)
    np.testing.assert_allclose(found["ci95_difference"], 0, atol=1e-12)
    assert found["ci95_base"] > 0.4
