"""The MetaGAN recipes, on settings small enough for a test."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lml_jax.checkpoint import Stopped
from lml_jax.experiments import metagan
from lml_jax.experiments.fewshot.settings import FewShot, checked
from lml_jax.experiments.generator.published import METAGAN, METAGAN_PROTONET
from lml_jax.experiments.metagan import compared, recipe, run_pair
from lml_jax.experiments.progress import train_with_bar

TINY = {"steps": 2, "episodes": 3, "queries": 1, "filters": 8, "meta_batch": 1, "data": "glyphs"}
SMALL = {"encoder": (8,), "code": 4, "generator": (8,), "noise": 2, "collapse": 0.0}

WITHOUT_WEIGHT = replace(
    METAGAN_PROTONET,
    base=replace(METAGAN_PROTONET.base, ways=2, train_ways=3, train_queries=1, **TINY),
    weight=0.0, penalty=0.0, **SMALL,
)  # fmt: skip


def test_maml_with_and_without(tmp_path):
    base = replace(METAGAN.base, ways=2, train_ways=2, test_inner_steps=1, report_step=1, **TINY)
    report = recipe(replace(METAGAN, base=base, **SMALL), seeds=1)(tmp_path / "run")
    run = json.loads((tmp_path / "run" / "metrics.json").read_text())["runs"][0]
    assert run == json.loads((tmp_path / "run" / "seed0" / "metrics.json").read_text())
    assert (tmp_path / "run" / "seed0" / "samples.png").stat().st_size > 1000
    assert "difference" in report
    np.testing.assert_allclose(run["difference"], run["accuracy"] - run["accuracy_base"])
    assert run["config"]["weight"] == 0.25
    assert all(0 <= run[name] <= 1 for name in ("d_real", "d_fake", "d_accuracy"))
    assert run["spread"] >= 0


def test_without_weight_there_is_no_difference(tmp_path):
    run = run_pair(WITHOUT_WEIGHT, tmp_path / "run", progress=False)
    assert run["difference"] == run["ci95_difference"] == 0
    assert run["steps"] == 2


def test_a_pair_that_was_cut_goes_on(tmp_path, monkeypatch):
    def cut(*args, keeper, about, **options):
        def save(step, *run):
            keeper.save(step, *run)
            if "MetaGAN" in about and step == 19:
                raise Stopped("here")

        return train_with_bar(*args, keeper=keeper._replace(save=save), about=about, **options)

    base = replace(WITHOUT_WEIGHT.base, steps=20)  # so that two steps are watched
    run = recipe(replace(WITHOUT_WEIGHT, base=base, weight=0.5))
    run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(metagan, "train_with_bar", cut)
        with pytest.raises(Stopped):
            run(tmp_path / "cut")
    run(tmp_path / "cut", resume=True)
    whole, gone_on = (
        json.loads((tmp_path / out / "seed0" / "metrics.json").read_text())
        for out in ("whole", "cut")
    )
    del whole["seconds"], gone_on["seconds"]
    assert gone_on == whole


def test_differences_are_paired():
    alone, sharp = np.array([[0.2], [0.6], [1.0]]), np.array([[0.3], [0.7], [1.1]])
    found = compared(checked(FewShot(learner="protonet")), alone, sharp)
    np.testing.assert_allclose(found["difference"], 0.1)
    np.testing.assert_allclose(found["ci95_difference"], 0, atol=1e-12)
    assert found["ci95_base"] > 0.4
