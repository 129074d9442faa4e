"""The recipes of generators, on settings small enough for a test."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from lml_jax.experiments.generator import evaluation as judge
from lml_jax.experiments.generator import run as generation
from lml_jax.experiments.generator.run import recipe, run_generation, table
from lml_jax.experiments.generator.settings import Generation, build
from matplotlib.image import imread

from lml_jax.checkpoint import Stopped
from lml_jax.lifelong.run import run_stream

pytest.importorskip("sklearn")
SMALL = Generation(
    tasks=2, steps=4, batch=16, hidden=16, classifier=16, samples=20, noise=4, collapse=0.0
)


@pytest.fixture(autouse=True)
def quick_measures(monkeypatch):
    monkeypatch.setattr(judge, "FITTED", 50)


def test_a_run_writes_its_measures_and_its_grids(tmp_path):
    out = tmp_path / "run"
    with pytest.warns(RuntimeWarning, match=r"collapsed \(none, seed 0, after task"):
        result = run_generation(
            replace(SMALL, collapse=1e9), out,
            arms={"none": {"transfer": "none"}}, progress=False,
        )  # fmt: skip
    run = json.loads((out / "metrics.json").read_text())["runs"][0]
    assert np.shape(run["cas"]) == np.shape(run["R"]) == (3, 2)
    assert run["cas"][0] == [None, None]
    assert run["cas"][1][1] is None
    np.testing.assert_allclose(run["acc_cas"], np.mean(run["cas"][2]))
    assert len(run["generator"]) == len(run["warnings"]) == 2
    last = run["generator"][-1]
    for name in ("precision", "recall", "coverage", "two_sample"):
        assert 0 <= last[name] <= 1
    for name in ("density", "frechet", "spread", "memorisation"):
        assert last[name] >= 0
    assert run["bytes"]["bank"] == 0
    assert run["bytes"]["generator"] > 0
    for task in (1, 2):
        assert imread(out / f"samples_none_seed0_task{task}.png").std() > 0
    assert "none, seed 0" in table(result)


def test_arms_share_stream_and_start_and_a_report_names_them(tmp_path):
    arms = {"align": {}, "bank": {"transfer": "bank"}}
    with pytest.warns(RuntimeWarning, match="collapsed"):  # after so few steps
        report = recipe(replace(SMALL, collapse=1e9), arms, seeds=(3,))(tmp_path / "run")
    assert "bank, seed 3" in report
    runs = json.loads((tmp_path / "run" / "metrics.json").read_text())["runs"]
    assert [(run["arm"], run["seed"]) for run in runs] == [("align", 3), ("bank", 3)]
    first = {run["arm"]: run["cas"][1][0] for run in runs}
    # The readings differ only once there is a past task.
    assert first["bank"] == pytest.approx(first["align"], abs=0.05)
    assert [run["bytes"]["bank"] > 0 for run in runs] == [False, True]


def test_a_run_that_was_cut_goes_on(tmp_path, monkeypatch):
    def cut_at(*where, saved=np.inf):
        def run(*args, on_chunk, keeper, **options):
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

        monkeypatch.setattr(generation, "run_stream", run)

    def run(out, **options):
        recipe(SMALL, {"align": {}}, seeds=(0,))(tmp_path / out, **options)
        found = json.loads((tmp_path / out / "metrics.json").read_text())["runs"]
        grids = [(tmp_path / out / f"samples_align_seed0_task{n}.png").read_bytes() for n in (1, 2)]
        return [{name: run[name] for name in run if name != "seconds"} for run in found], grids

    cut_at()
    whole = run("whole")
    # In the middle of the second task: its first half was saved, or only half of the first task.
    for out, saved in (("saved", np.inf), ("behind", 2)):
        cut_at(1, 4, saved=saved)
        with pytest.raises(Stopped):
            run(out)
        measured = tmp_path / out / "metrics.json"
        assert len(json.loads(measured.read_text())["runs"][0]["generator"]) == 1
        cut_at()
        assert run(out, resume=True) == whole
    cut_at(0, 0)
    assert run(out, resume=True) == whole  # where nothing is left to do
    with pytest.raises(ValueError, match="of another run: it holds arm align, seed 0"):
        recipe(SMALL, {"other": {}}, seeds=(0,))(tmp_path / out, resume=True)
    measured.unlink()
    with pytest.raises(ValueError, match="says of align, seed 0, what was measured after 0 tasks"):
        run(out, resume=True)


def test_vaml_stands_in_for_the_gan(tmp_path):
    arms = {"align": {"transfer": "align"}}
    settings = Generation(**{**SMALL.__dict__, "generator": "vaml", "code": 4, "sharpness": 4.0})
    result = run_generation(settings, tmp_path / "run", arms=arms, progress=False)
    assert [run["arm"] for run in result["runs"]] == list(arms)
    for run in result["runs"]:
        assert np.isfinite(run["cas"][2]).all()
        assert run["bytes"]["bank"] == 0
        assert imread(tmp_path / "run" / f"samples_{run['arm']}_seed0_task2.png").std() > 0


def test_a_stream_of_alphabets_is_jittered(tfds_dir):
    settings = Generation(
        **{**SMALL.__dict__, "data": "omniglot", "train_per_class": 15, "jitter": True}
    )
    stream = build(settings, 0).stream
    drawn, train = stream.episodes(0, jax.random.key(0)), stream.train(0)
    images = {image.tobytes() for image in np.asarray(train.x)}
    assert not any(image.tobytes() in images for image in np.asarray(drawn.query.x[0]))
    assert train.x.shape == (30, 28, 28)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "digit"}, "unknown data set 'digit'; did you mean 'digits'"),
        ({"generator": "vam"}, "unknown generator 'vam'; did you mean 'vaml'"),
        ({"generator": "vaml", "transfer": "bank"}, "unknown knowledge transfer 'bank'"),
        ({"transfer": "aligned"}, "did you mean 'align'"),
        ({"tasks": 6}, "6 tasks of 2 classes need 12 classes"),
        ({"batch": 600}, "300 examples a class asked for"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path, options, message):
    settings = replace(SMALL, **options)
    with pytest.raises(ValueError, match=message):
        run_generation(settings, tmp_path / "run", arms={"one": {}}, progress=False)
    assert not (tmp_path / "run").exists()
