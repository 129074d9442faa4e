import json

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax.checkpoint import Stopped
from lml_jax.experiments import published
from lml_jax.experiments.fewshot.run import run_fewshot, summary_of
from lml_jax.experiments.fewshot.settings import FewShot, checked
from lml_jax.experiments.generator.published import METAGAN
from lml_jax.experiments.lifelong import ablation
from lml_jax.experiments.lifelong.settings import Lifelong
from lml_jax.experiments.published import few_shot
from lml_jax.experiments.record import (
    load_params,
    open_folder,
    resumable,
    save_params,
    write_metrics,
)


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
    record = summary_of(checked(FewShot(data="sine")), scores)
    np.testing.assert_allclose(record["diverged_per_inner_step"], [0.0, 0.5])
    np.testing.assert_allclose(record["mse_per_inner_step"][0], 2.0)


def test_paired_differences_and_their_interval():
    """t for 5 runs is 2.776; differences 1, 2, 3, 4, 5: mean 3, sd sqrt(2.5)."""
    mean, half = ablation.paired([2, 4, 6, 8, 10], [1, 2, 3, 4, 5])
    assert mean == 3.0
    np.testing.assert_allclose(half, 2.776 * np.sqrt(2.5 / 5))


@pytest.mark.parametrize("meta_trained", [True, False])
def test_the_ablation_end_to_end(tmp_path, tfds_dir, meta_trained):
    settings = Lifelong(data="omniglot", data_dir=tfds_dir, tasks=2, classes_per_task=2, steps=2,
                        meta_batch=2, history_batch=4)  # fmt: skip
    run = ablation.ablation(
        "lifelong-maml",
        {arm: ablation.HISTORY[arm] for arm in ("none", "0.9")},
        meta_trained=meta_trained,
        settings=settings,
        seeds=(0, 1),
        start_steps=2,
    )
    report = run(tmp_path / "out")
    assert [line.split()[0] for line in report.splitlines()[2:]] == ["none", "0.9"]
    comparison = json.loads((tmp_path / "out" / "metrics.json").read_text())["comparison"]
    assert comparison["none"]["acc"]["difference"] == [0.0, 0.0]
    arms = [json.loads((tmp_path / "out" / arm / "metrics.json").read_text())["runs"]
            for arm in ("none", "0.9")]  # fmt: skip
    first = [arm[0]["R"][1][0] for arm in arms]
    assert first[0] == first[1]  # before there is a history, the arms are the same run


def test_an_ablation_needs_two_seeds(tmp_path):
    with pytest.raises(ValueError, match="expected 2 to 10 paired seeds, got 1"):
        ablation.ablation("lifelong-maml", ablation.HISTORY, seeds=(0,))


def test_a_published_protocol_end_to_end(tmp_path):
    settings = FewShot(data="sine", steps=2, episodes=5, queries=5)
    report = few_shot(settings, seeds=2)(tmp_path / "out")
    assert "mean over 2 seeds" in report
    with pytest.raises(FileExistsError, match="holds another run"):
        few_shot(settings, seeds=2)(tmp_path / "out")


def test_a_protocol_that_was_cut_goes_on(tmp_path, monkeypatch):
    run = few_shot(FewShot(data="sine", steps=2, episodes=5, queries=5), seeds=2)

    def cut(settings, *args, **options):
        if settings.seed == 1:
            raise Stopped("here")
        return run_fewshot(settings, *args, **options)

    run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(published, "run_fewshot", cut)
        with pytest.raises(Stopped):
            run(tmp_path / "cut")
    run(tmp_path / "cut", resume=True)
    for seed in ("seed0", "seed1"):
        whole, gone_on = (
            json.loads((tmp_path / out / seed / "metrics.json").read_text())
            for out in ("whole", "cut")
        )
        del whole["seconds"], gone_on["seconds"]
        assert gone_on == whole


def test_a_run_may_go_on_where_its_data_has_moved():
    here, there = (resumable(Lifelong(data_dir=folder)) for folder in ("here", "there"))
    assert here == there
    assert here != resumable(Lifelong(steps=7))


def test_a_run_that_was_cut_before_it_kept_anything_begins_anew(tmp_path):
    (tmp_path / "run" / "seed0" / "checkpoints").mkdir(parents=True)
    for resume in (False, True):
        assert open_folder(tmp_path / "run", resume=resume) == tmp_path / "run"
    (tmp_path / "run" / "seed0" / "params.npz").write_text("")
    with pytest.raises(FileExistsError, match=r"holds another run \(seed0, ...\): .* by --resume"):
        open_folder(tmp_path / "run")


def test_a_checkpoint_names_the_setting_within_settings_that_differs():
    assert resumable(METAGAN)["base.steps"] == METAGAN.base.steps
    assert "base.data_dir" not in resumable(METAGAN)
