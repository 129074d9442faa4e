"""The command line in this process, on settings small enough for a test."""

import json
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from lml_jax import cli

SMALL = [
    "--tasks", "2", "--classes-per-task", "2", "--steps", "2", "--train-per-class", "12",
    "--meta-batch", "2", "--history-batch", "4", "--capacity", "8",
]  # fmt: skip


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["lml-jax", *map(str, arguments)])
    cli.main()


def test_lifelong_writes_what_it_promises(monkeypatch, tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.warns(RuntimeWarning, match="the generator has collapsed"):
        run(monkeypatch, "lifelong", "--out", out, "--seeds", "3", *SMALL)
    runs = json.loads((out / "metrics.json").read_text())["runs"]
    every = ("lifelong-maml", "memory", "lifelong-gan", "lifelong-vaml", "finetune", "joint")
    assert [(r["learner"], r["seed"]) for r in runs] == [(name, 3) for name in every]
    for r in runs:
        R = r["R"]
        assert [len(row) for row in R] == [2, 2, 2]
        assert R[0] == [None, None]
        assert r["tasks_finished"] == 2
        np.testing.assert_allclose(r["acc"], np.mean(R[2]))
        np.testing.assert_allclose(r["bwt"], R[2][0] - R[1][0])
        assert r["fwt"] is None
        assert r["fwt_adapted"] is not None
        assert r["config"]["tasks"] == 2
        assert set(r["seconds"]) == {"compile", "train", "eval"}
        assert r["bytes"]["params"] > 0
        assert r["intransigence"] is not None
        makes = r["learner"] in ("lifelong-gan", "lifelong-vaml")
        assert (r["bytes"]["generator"] > 0) == ("spread" in r) == makes
        assert (r["bytes"]["bank"] == 0) == makes
        assert not makes or f"({r['learner']}, seed 3, after task 2)" in r["warning"]
    figures = ["R_lifelong-maml", "R_joint", "accuracy_over_stream", "adapted_over_stream"]
    figures += [f"samples_lifelong-{g}_seed3_task{i}" for g in ("gan", "vaml") for i in (1, 2)]
    for name in figures:
        assert imread(out / f"{name}.png").std() > 0
    assert "lifelong-maml" in capsys.readouterr().out


@pytest.mark.parametrize("scenario", ["domain", "task"])
def test_other_scenarios(monkeypatch, tmp_path, scenario):
    out = tmp_path / scenario
    run(monkeypatch, "lifelong", "--out", out, "--scenario", scenario,
        "--learners", "lifelong-maml", "finetune", *SMALL)  # fmt: skip
    runs = json.loads((out / "metrics.json").read_text())["runs"]
    assert {r["scenario"] for r in runs} == {scenario}
    assert all(r["fwt"] is not None for r in runs)
    assert all(r["intransigence"] is None for r in runs)  # no joint run to compare with


def test_fewshot_writes_what_it_promises(monkeypatch, tmp_path, capsys):
    out = tmp_path / "run"
    run(monkeypatch, "fewshot", "--out", out, "--data", "glyphs", "--steps", "2", "--filters", "8",
        "--meta-batch", "2", "--episodes", "25", "--queries", "2", "--test-inner-steps", "2",
        "--report-step", "2", "--batch-statistics", "group")  # fmt: skip
    record = json.loads((out / "metrics.json").read_text())
    assert record["episodes"] == 25
    assert record["batch_statistics"] == "group"
    assert len(record["accuracy_per_inner_step"]) == 3
    assert record["accuracy"] == record["accuracy_per_inner_step"][2]
    assert 0 < record["ci95"] < 0.2
    assert imread(out / "accuracy_per_inner_step.png").std() > 0
    assert "group statistics" in capsys.readouterr().out


@pytest.mark.parametrize("learner", ["maml", "fomaml", "meta-sgd", "maml++", "reptile"])
def test_every_few_shot_learner_on_sine(monkeypatch, tmp_path, learner):
    run(monkeypatch, "fewshot", "--out", tmp_path / learner, "--data", "sine", "--learner", learner,
        "--shots", "5", "--queries", "5", "--train-queries", "5", "--steps", "3", "--episodes",
        "10", "--meta-batch", "2", "--inner-rate", "0.01", "--test-inner-steps", "1",
        "--report-step", "1")  # fmt: skip
    record = json.loads((tmp_path / learner / "metrics.json").read_text())
    assert len(record["mse_per_inner_step"]) == 2
    assert record["mse"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lifelong", "--data", "glyfs"], "unknown data set 'glyfs'; did you mean 'glyphs'"),
        (["lifelong", "--scenario", "clas"], "did you mean 'class'"),
        (["lifelong", "--learners", "mamml"], "did you mean 'lifelong-maml'"),
        (
            ["lifelong", "--learners", "finetune", "lifelong-maml", "--decay", "1.5"],
            r"lambda must be in \(0, 1\], got 1.5",
        ),
        (["lifelong", "--tasks", "0"], "an empty stream: 0 tasks"),
        (["lifelong", "--tasks", "99"], "99 tasks asked for, but only"),
        (["lifelong", "--train-per-class", "20"], "expected 1..19, got 20"),
        (["lifelong", "--steps", "0"], "steps must be at least 1, got 0"),
        (["fewshot", "--ways", "100000"], "100000 ways asked for, but there are only"),
        (["fewshot", "--queries", "20"], r"1 shots \+ 20 queries = 21"),
        (["fewshot", "--learner", "mam"], "did you mean 'maml'"),
        (["fewshot", "--batch-statistics", "groop"], "did you mean 'group'"),
        (["fewshot", "--report-step", "11"], "report_step must be in 0..10"),
        (["fewshot", "--test-shots", "0"], "test_shots must be at least 1, got 0"),
        (["lifelong", "--form", "normalized"], "did you mean 'normalised'"),
        (["lifelong", "--keep-generator", "aline"], "did you mean 'align'"),
        (["fewshot", "--data", "omniglot", "--split", "vinals"], "did you mean 'vinyals'"),
        (["reproduce", "sine"], "unknown recipe 'sine'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(monkeypatch, tmp_path, arguments, message):
    out = tmp_path / "run"
    with pytest.raises(SystemExit, match=message) as caught:
        run(monkeypatch, *arguments, "--out", out)
    assert str(caught.value).startswith("lml-jax: ")
    assert not out.exists() or not any(out.iterdir())


def test_data_that_is_not_prepared_names_the_command(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="download_and_prepare"):
        run(monkeypatch, "lifelong", "--data", "mnist", "--data-dir", tmp_path / "none",
            "--out", tmp_path / "run")  # fmt: skip


def test_a_folder_that_holds_another_run_is_refused(monkeypatch, tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"holds another run \(metrics.json"):
        run(monkeypatch, "lifelong", "--out", tmp_path, *SMALL)
    assert (tmp_path / "metrics.json").read_text() == "{}"


def test_the_list_of_recipes(monkeypatch, capsys):
    run(monkeypatch, "reproduce", "--list")
    assert "sine-maml" in capsys.readouterr().out


def test_a_run_that_diverges_keeps_its_last_good_state(monkeypatch, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(SystemExit, match="not finite at step"):
        run(monkeypatch, "lifelong", "--out", out, "--outer-rate", "1e30", "--learners", "finetune",
            *SMALL, "--steps", "4")  # fmt: skip
    everything = json.loads((out / "metrics.json").read_text())
    (record,) = everything["runs"]
    assert record["tasks_finished"] < 2
    assert record["acc"] is None
    assert "finetune_seed0: the loss or its gradient" in everything["diverged"]
    with np.load(out / "last_good_finetune_seed0.npz") as archive:
        assert all(np.isfinite(archive[name]).all() for name in archive.files)
    with pytest.raises(SystemExit, match="not finite at step"):
        run(monkeypatch, "fewshot", "--out", tmp_path / "sine", "--data", "sine", "--steps", "9",
            "--outer-rate", "1e30", "--train-queries", "5")  # fmt: skip
    assert (tmp_path / "sine" / "last_good.npz").exists()
    record = json.loads((tmp_path / "sine" / "metrics.json").read_text())
    assert "not finite at step" in record["diverged"]
