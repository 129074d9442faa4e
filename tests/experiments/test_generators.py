"""Lifelong runs of generators with all measures, on settings small enough for a test."""

import json
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from lml_jax.checkpoint import Stopped
from lml_jax.experiments.lifelong import seeds
from lml_jax.experiments.lifelong.ablation import ablation, arms_of, generators
from lml_jax.experiments.lifelong.run import run_lifelong
from lml_jax.experiments.lifelong.settings import Lifelong
from lml_jax.lifelong.run import run_stream
from lml_jax.metrics import on_stream

pytest.importorskip("sklearn")
SMALL = Lifelong(data="digits", tasks=2, steps=4, meta_batch=1, shots=4, queries=4,
                 generator_width=16, width=16, samples=20, noise=4, collapse=0.0,
                 measures="all")  # fmt: skip


@pytest.fixture(autouse=True)
def quick_measures(monkeypatch):
    monkeypatch.setattr(on_stream, "FITTED", 50)


def run(settings, out, learner="lifelong-gan", **options):
    return run_lifelong(settings, out, learners=(learner,), progress=False, **options)


def test_a_run_writes_its_measures_and_its_grids(tmp_path):
    out = tmp_path / "run"
    with pytest.warns(RuntimeWarning, match=r"collapsed \(lifelong-gan, seed 0, after task"):
        run(replace(SMALL, collapse=1e9, retention="none"), out)
    (record,) = json.loads((out / "metrics.json").read_text())["runs"]
    assert np.shape(record["cas"]) == np.shape(record["R"]) == (3, 2)
    assert record["cas"][0] == [None, None]
    assert record["cas"][1][1] is None
    np.testing.assert_allclose(record["acc_cas"], np.mean(record["cas"][2]))
    assert len(record["generator"]) == len(record["warnings"]) == 2
    for name in ("precision", "recall", "coverage", "two_sample"):
        assert 0 <= record[name] <= 1
    for name in ("density", "frechet", "diversity", "memorisation"):
        assert record[name] >= 0
    assert record["bytes"]["bank"] == 0
    assert record["bytes"]["own"] > 0
    for task in (1, 2):
        assert imread(out / f"samples_lifelong-gan_seed0_task{task}.png").std() > 0


def test_arms_share_stream_and_start_and_a_report_names_them(tmp_path):
    arms = arms_of("lifelong-gan", {"align": {}, "bank": {"retention": "bank"}})
    report = ablation(arms, SMALL, seeds=(3,), report=generators)(tmp_path / "run", progress=False)
    assert "bank, seed 3" in report
    runs = json.loads((tmp_path / "run" / "metrics.json").read_text())["runs"]
    assert [(run["arm"], run["seed"]) for run in runs] == [("align", 3), ("bank", 3)]
    first = {run["arm"]: run["cas"][1][0] for run in runs}
    # The variants differ only once there is a past task.
    assert first["bank"] == pytest.approx(first["align"], abs=0.05)


def test_an_interrupted_run_resumes(tmp_path, monkeypatch):
    def cut_at(*where, saved=np.inf):
        def cut(*args, on_chunk, keeper, **options):
            def save(step, *run):
                if step <= saved:
                    keeper.save(step, *run)

            def on_chunk_or_cut(task, done, values):
                if (task, done) == where:
                    raise Stopped("here")
                on_chunk(task, done, values)

            kept = keeper._replace(save=save)
            own = {"chunk": 2, "on_chunk": on_chunk_or_cut, "keeper": kept}
            return run_stream(*args, **options | own)

        monkeypatch.setattr(seeds, "run_stream", cut)

    def result(out, **options):
        run(SMALL, tmp_path / out, **options)
        found = json.loads((tmp_path / out / "metrics.json").read_text())["runs"]
        grids = [
            (tmp_path / out / f"samples_lifelong-gan_seed0_task{n}.png").read_bytes()
            for n in (1, 2)
        ]
        return [{name: run[name] for name in run if name != "seconds"} for run in found], grids

    cut_at()
    whole = result("whole")
    # In the middle of the second task: its first half was saved, or only half of the first task.
    for out, saved in (("saved", np.inf), ("behind", 2)):
        cut_at(1, 4, saved=saved)
        with pytest.raises(Stopped):
            result(out)
        measured = tmp_path / out / "metrics.json"
        assert len(json.loads(measured.read_text())["runs"][0]["generator"]) == 1
        cut_at()
        assert result(out, resume=True) == whole
    assert result(out, resume=True) == whole  # where nothing is left to do
    measured.unlink()
    with pytest.raises(ValueError, match="measures of lifelong-gan_seed0 after 0 tasks, and its"):
        result(out, resume=True)


def test_vaml_in_place_of_the_gan(tmp_path):
    settings = replace(SMALL, code=4, reconstruction_weight=4.0)
    (record,) = run(settings, tmp_path / "run", "lifelong-vaml")["runs"]
    assert np.isfinite(record["cas"][2]).all()
    assert record["bytes"]["bank"] == 0
    assert imread(tmp_path / "run" / "samples_lifelong-vaml_seed0_task2.png").std() > 0


@pytest.mark.parametrize(
    ("learner", "options", "message"),
    [
        ("lifelong-gan", {"data": "digit"}, "unknown data set 'digit'; did you mean 'digits'"),
        ("lifelong-vam", {}, "unknown learner 'lifelong-vam'; did you mean 'lifelong-vaml'"),
        ("lifelong-vaml", {"retention": "bank"}, "unknown retention loss of VAML 'bank'"),
        ("lifelong-gan", {"retention": "aligned"}, "did you mean 'align'"),
        ("lifelong-gan", {"tasks": 6}, "6 tasks of 2 classes need 12 classes"),
        ("lifelong-gan", {"shots": 200}, "204 examples|200 shots"),
        ("lifelong-gan", {"retention_weight": -1.0}, "retention_weight must be at least 0"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path, learner, options, message):
    with pytest.raises(ValueError, match=message):
        run(replace(SMALL, **options), tmp_path / "run", learner)
    assert not (tmp_path / "run").exists()
