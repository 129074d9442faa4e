"""The command line in this process, on settings small enough for a test."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from lml_jax import cli
from lml_jax.experiments import registry
from lml_jax.experiments.fewshot.learners import few_shot_learners
from lml_jax.experiments.lifelong import pretrain, report
from lml_jax.lifelong.finetune import finetune

SMALL = [
    "--tasks", "2", "--classes-per-task", "2", "--steps", "2", "--train-per-class", "12",
    "--meta-batch", "2", "--past-batch", "4", "--capacity", "8",
    "--start-steps", "2", "--start-ways", "4", "--test-per-class", "8",
]  # fmt: skip


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["lml-jax", *map(str, arguments)])
    cli.main()


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """What is meta-trained here is not left for a run with the same settings elsewhere."""
    folder = tmp_path_factory.getbasetemp() / "starts"
    monkeypatch.setattr(pretrain, "cache_dir", lambda: folder)
    # A setting of the whole process, which the other tests share.
    monkeypatch.setattr(cli, "keep_compiled_programs", lambda: None)


@pytest.mark.filterwarnings("default")
def test_lifelong_writes_what_it_promises(monkeypatch, tmp_path, capsys):
    out = tmp_path / "run"
    run(monkeypatch, "lifelong", "--out", out, "--seeds", "3", "--start", "parameters", *SMALL)
    runs = json.loads((out / "metrics.json").read_text())["runs"]
    every = ("lifelong-maml", "memory", "lifelong-gan", "lifelong-vaml", "finetune", "joint")
    assert [(r["learner"], r["seed"]) for r in runs] == [(name, 3) for name in every]
    starts = {r["learner"]: r["start"] for r in runs}
    assert starts == {name: "embedding" if name == "memory" else "classifier" for name in every}
    assert {r["learner"]: r["bound"] for r in runs if r["bound"]} == {
        "finetune": "lower", "joint": "upper",
    }  # fmt: skip
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
        assert r["config"]["reduction"] == ("normalised" if r["learner"] == every[0] else "mean")
        assert set(r["seconds"]) == {"setup", "compile", "train", "eval"}
        assert r["bytes"]["params"] > 0
        assert r["intransigence"] is not None
        assert r["data_made"]["train"]["classes"] > 100
        assert "pillow" in r["data_made"]["made_with"]
        makes = r["learner"] in ("lifelong-gan", "lifelong-vaml")
        assert ("diversity" in r) == makes
        stores = r["learner"] in ("lifelong-maml", "memory", "joint")
        assert (r["bytes"]["bank"] > 0) == stores
        assert (r["bytes"]["generator"] > 0) == makes
        assert not makes or f"({r['learner']}, seed 3, after task 2)" in r["warnings"][-1]
    figures = ["R_lifelong-maml", "R_joint", "accuracy_over_stream", "adapted_over_stream"]
    figures += [f"samples_lifelong-{g}_seed3_task{i}" for g in ("gan", "vaml") for i in (1, 2)]
    for name in [*figures, "summary"]:
        assert imread(out / f"{name}.png").std() > 0
    screen = capsys.readouterr()
    for text in ("finetune (lower bound)", "joint (upper bound)", "parameters meta-trained on"):
        assert text in screen.out
    warned = [text for text in screen.err.splitlines() if text.startswith("warning: ")]
    assert any("the generator has collapsed" in text for text in warned)
    assert len(set(warned)) == len(warned)
    assert "step/s" not in screen.err  # no progress bar where there is no terminal
    rows = [json.loads(text) for text in (out / "log.jsonl").read_text().splitlines()]
    last = {row["run"]: row for row in rows}
    assert {f"{name}_seed3" for name in every} < set(last)
    assert all(last[f"{name}_seed3"]["step"] == 4 for name in every)
    assert all(np.isfinite(row["loss"]) for row in rows)
    run(monkeypatch, "report", out)
    page = Path(capsys.readouterr().out.strip()).read_text()
    assert page.count("data:image/png") == 3 + len(every) + 4  # three of all, R, and samples
    for text in ("finetune (lower bound)", "classes_per_task", "jaxlib", "<b>"):
        assert text in page
    assert "http" not in page


def test_a_learner_of_the_users_own_runs_by_name(monkeypatch, tmp_path, capsys):
    def mine(c: registry.Context):
        assert c.plan.options == {"strength": 0.5}
        return finetune(c.classifier, c.tx, c.space)

    entry = registry.LifelongEntry(mine, "my learner", options={"strength": 1.0})
    monkeypatch.setitem(registry.lifelong_learners, "mine", entry)
    run(monkeypatch, "lifelong", "--out", tmp_path / "run", "--learners", "mine", "--from-scratch",
        "--options", "mine.strength=0.5", *SMALL)  # fmt: skip
    (record,) = json.loads((tmp_path / "run" / "metrics.json").read_text())["runs"]
    assert (record["learner"], record["start"]) == ("mine", "random")
    assert record["config"]["options"] == {"strength": 0.5}
    assert "mine" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="did you mean 'strength'"):
        run(monkeypatch, "lifelong", "--out", tmp_path / "no", "--learners", "mine", "--options",
            "mine.strenght=0.5", *SMALL)  # fmt: skip
    with pytest.raises(SystemExit):
        run(monkeypatch, "lifelong", "--help")
    assert "mine" in capsys.readouterr().out


def test_a_few_shot_learner_and_data_of_the_users_own_run_by_name(monkeypatch, tmp_path):
    fewer = registry.datasets["glyphs"]._replace(made_with=())
    monkeypatch.setitem(registry.datasets, "mine", fewer)
    monkeypatch.setitem(registry.few_shot_learners, "mine", few_shot_learners["fomaml"])
    run(monkeypatch, "fewshot", "--out", tmp_path / "run", "--data", "mine", "--learner", "mine",
        "--steps", "2", "--filters", "8", "--meta-batch", "2", "--episodes", "5", "--queries", "2",
        "--test-inner-steps", "1", "--report-step", "1")  # fmt: skip
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (record["learner"], record["data"]) == ("mine", "mine")


def test_a_name_that_is_in_no_dictionary_never_runs(monkeypatch, tmp_path):
    """A name that is only an argument cannot fall through to another algorithm."""
    for command in (["lifelong", "--learners", "packnet"], ["fewshot", "--learner", "anil"]):
        with pytest.raises(SystemExit, match=r"unknown learner '(packnet|anil)'"):
            run(monkeypatch, *command, "--out", tmp_path / "run")


def test_learners_and_seeds_are_added_to_a_finished_run(monkeypatch, tmp_path):
    out = tmp_path / "run"
    common = ["lifelong", "--out", out, "--from-scratch", *SMALL]
    run(monkeypatch, *common, "--learners", "finetune")
    first = json.loads((out / "metrics.json").read_text())["runs"]
    run(monkeypatch, *common, "--resume", "--learners", "joint", "--seeds", "0", "1")
    runs = json.loads((out / "metrics.json").read_text())["runs"]
    assert [(r["learner"], r["seed"]) for r in runs] == [
        ("finetune", 0), ("joint", 0), ("joint", 1),
    ]  # fmt: skip
    same = {k: v for k, v in runs[0].items() if not k.startswith("intransigence")}
    assert same == {k: v for k, v in first[0].items() if not k.startswith("intransigence")}
    assert runs[0]["intransigence"] is not None  # now that there is a run to compare with
    with pytest.raises(SystemExit, match="with other settings: meta_batch is 2 there, 3 here"):
        run(monkeypatch, *common, "--resume", "--learners", "finetune", "--meta-batch", "3")


@pytest.mark.parametrize("scenario", ["domain", "task"])
def test_other_scenarios(monkeypatch, tmp_path, scenario):
    out = tmp_path / scenario
    run(monkeypatch, "lifelong", "--out", out, "--scenario", scenario,
        "--learners", "lifelong-maml", "finetune", "--from-scratch", *SMALL)  # fmt: skip
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
    run(monkeypatch, "report", out)
    page = Path(capsys.readouterr().out.strip()).read_text()
    assert page.count("data:image/png") == 2  # accuracy per inner step, and the training
    assert "report_step" in page


def test_a_folder_without_a_run_has_no_report(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match=r"holds no metrics\.json, expected the folder of a run"):
        run(monkeypatch, "report", tmp_path)
    (tmp_path / "metrics.json").write_text('{"runs": []}')
    with pytest.raises(SystemExit, match="holds no run of a learner on a stream"):
        run(monkeypatch, "report", tmp_path)


def test_the_best_scores_are_bold_and_bounds_never():
    scores = {"acc": 0.5, "forgetting": 0.1}
    runs = [
        {"learner": name, "seed": 0, "bound": bound, "seconds": {}, "start": "random",
         **dict.fromkeys(report.COLUMNS), **scores}
        for name, bound, scores in (
            ("a", "", scores), ("b", "", {"acc": 0.4, "forgetting": 0.05}),
            ("c", "upper", {"acc": 0.9, "forgetting": 0.0}),
        )
    ]  # fmt: skip
    plain = report.table({"runs": runs})
    assert "\033" not in plain
    bold = report.table({"runs": runs}, bold=True)
    assert re.findall(r"\033\[1m *([\d.]+)\033", bold) == ["50.0", "5.0"]


@pytest.mark.parametrize("learner", ["maml", "fomaml", "meta-sgd", "maml++", "reptile"])
def test_every_few_shot_learner_on_sine(monkeypatch, tmp_path, learner):
    run(monkeypatch, "fewshot", "--out", tmp_path / learner, "--data", "sine", "--learner", learner,
        "--shots", "5", "--queries", "5", "--train-queries", "5", "--steps", "3", "--episodes",
        "10", "--meta-batch", "2", "--inner-rate", "0.01", "--test-inner-steps", "1",
        "--report-step", "1", "--validate-every", "1", "--validation-episodes", "9")  # fmt: skip
    record = json.loads((tmp_path / learner / "metrics.json").read_text())
    assert len(record["mse_per_inner_step"]) == 2
    assert record["validation"]["step"] == 3  # the chunk is longer than the run
    assert record["validation"]["score"] < 0  # minus a squared error
    assert record["mse"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lifelong", "--data", "glyfs"], "unknown data set 'glyfs'; did you mean 'glyphs'"),
        (["lifelong", "--scenario", "clas"], "did you mean 'class'"),
        (["lifelong", "--learners", "lifelong-mamml"], "did you mean 'lifelong-maml'"),
        (
            ["lifelong", "--learners", "finetune", "lifelong-maml", "--decay", "1.5"],
            r"lambda must be in \(0, 1\], got 1.5",
        ),
        (["lifelong", "--tasks", "0"], "an empty stream: 0 tasks"),
        (["lifelong", "--tasks", "999"], "999 tasks asked for, but only"),
        (["lifelong", "--data", "digits", "--train-per-class", "200"], "expected 1..180, got 200"),
        (["lifelong", "--steps", "0"], "steps must be at least 1, got 0"),
        (["fewshot", "--ways", "100000"], "100000 ways asked for, but there are only"),
        (["fewshot", "--queries", "20"], r"1 shots \+ 20 queries = 21"),
        (["fewshot", "--learner", "mam"], "did you mean 'maml'"),
        (["fewshot", "--batch-statistics", "groop"], "did you mean 'group'"),
        (["fewshot", "--report-step", "11"], "report_step must be in 0..10"),
        (["fewshot", "--test-shots", "0"], "test_shots must be at least 1, got 0"),
        (["lifelong", "--reduction", "normalized"], "did you mean 'normalised'"),
        (["lifelong", "--retention", "aline"], "did you mean 'align'"),
        (["lifelong", "--net", "conv5"], "did you mean 'conv4'"),
        (["lifelong", "--start", "feature"], "did you mean 'features'"),
        (["lifelong", "--start", "features", "--jitter"], "start must be parameters where the str"),
        (["lifelong", "--few-shot", "maml"], "unknown few-shot learner with an embedding 'maml'"),
        (["lifelong", "--data-dir", "here"], "'glyphs' reads no folder; expected data among omn"),
        (["fewshot", "--data-dir", "here"], "'glyphs' reads no folder"),
        (["fewshot", "--data", "mnist"], "'mnist' has no classes to meta-train on; data for few-"),
        (["lifelong", "--data", "sine"], "'sine' has no classes; data for streams: glyphs"),
        (["lifelong", "--seeds", "-1"], "seeds must be in 0..4294967295, got -1"),
        (["lifelong", "--seeds", "1", "2", "1"], r"seeds must differ, got 1 twice"),
        (["lifelong", "--seeds"], "nothing to run: no seeds"),
        (["lifelong", "--learners"], "nothing to run"),
        (["lifelong", "--learners", "joint", "joint"], "learners must differ, got joint, joint"),
        (["lifelong", "--meta-batch", "0"], "meta_batch must be at least 1, got 0"),
        (["lifelong", "--outer-rate", "-1"], "outer_rate must be a finite number above 0, got -1"),
        (
            ["lifelong", "--inner-rate", "nan"],
            "inner_rate must be a finite number above 0, got nan",
        ),
        (["lifelong", "--save-every", "-1"], "save_every must be at least 0 seconds, got -1"),
        (["lifelong", "--options", "joint.x=1"], "joint has no options of its own"),
        (["lifelong", "--options", "x"], "expected options as LEARNER.OPTION=VALUE, got 'x'"),
        (["fewshot", "--outer-rate", "-0.1"], "outer_rate must be a finite number above 0"),
        (["fewshot", "--clip", "-1"], "clip must be a finite number above 0, got -1"),
        (["fewshot", "--minutes", "-1"], "minutes must be above 0, got -1"),
        (["fewshot", "--meta-batch", "0"], "meta_batch must be at least 1, got 0"),
        (["fewshot", "--seed", "-1"], "seed must be at least 0, got -1"),
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
        run(monkeypatch, "lifelong", "--data", "mnist", "--data-dir", str(tmp_path / "none"),
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
            "--from-scratch", *SMALL, "--steps", "4")  # fmt: skip
    everything = json.loads((out / "metrics.json").read_text())
    (record,) = everything["runs"]
    assert record["tasks_finished"] < 2
    assert record["acc"] is None
    assert "finetune_seed0: the loss was not finite" in everything["diverged"]
    with np.load(out / "last_good_finetune_seed0.npz") as archive:
        assert all(np.isfinite(archive[name]).all() for name in archive.files)
    with pytest.raises(SystemExit, match="not finite at step"):
        run(monkeypatch, "fewshot", "--out", tmp_path / "sine", "--data", "sine", "--steps", "9",
            "--outer-rate", "1e30", "--train-queries", "5")  # fmt: skip
    assert (tmp_path / "sine" / "last_good.npz").exists()
    record = json.loads((tmp_path / "sine" / "metrics.json").read_text())
    assert "not finite at step" in record["diverged"]


def test_help_lists_every_choice(monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "lifelong", "--help")
    assert end.value.code == 0
    text = "".join(capsys.readouterr().out.split())
    for names in ("glyphs,omniglot,mnist,digits", "class,domain,task", "quick,full",
                  "mlp,conv4,convnet,linear", "features,parameters",
                  ",".join(registry.lifelong_learners).replace(",", "")):  # fmt: skip
        assert names.replace(",", "") in text.replace(",", "").replace("│", "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_output_that_is_not_unicode_loses_no_result(encoding):
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding)
    old, sys.stdout = sys.stdout, stream
    try:
        cli.show("98.7 ± 0.4 % λ")
    finally:
        sys.stdout = old
    assert b"98.7" in buffer.getvalue()


def test_the_list_of_recipes_in_an_ascii_terminal():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-m", "lml_jax", "reproduce", "--list"],
        env=environment, capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"sine-maml" in done.stdout


@pytest.mark.parametrize("own", [None, "/somewhere"])
def test_compiled_programs_are_kept_unless_the_user_has_a_folder(tmp_path, own):
    """In a process of its own, which is the only place where it may be set."""
    program = (
        "import jax, lml_jax\n"
        "from lml_jax.compiled import keep_compiled_programs as keep\n"
        "before = jax.config.jax_compilation_cache_dir\n"
        "print(before, keep(), jax.config.jax_compilation_cache_dir)\n"
        "jax.jit(lambda x: x.sort().cumsum() @ x)(jax.numpy.ones(1000)).block_until_ready()\n"
    )
    environment = {
        **os.environ,
        "LML_JAX_CACHE": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    if own:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "own")
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        timeout=300,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    before, folder, used = done.stdout.split()
    if own:
        assert (before, folder) == (used, "None")
        assert not (tmp_path / "compiled").exists()
    else:
        assert before == "None"
        assert folder == used
        assert any((tmp_path / "compiled").rglob("*-cache"))
