"""The scaffold of all runs: folders, records, seeds, resume, divergence."""

import json
from dataclasses import asdict, dataclass

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import storage, train
from lml_jax.checkpoint import Stopped
from lml_jax.data.arrays import from_arrays
from lml_jax.experiments.fewshot.report import over_seeds, summary_of
from lml_jax.experiments.fewshot.run import FEWSHOT, run_fewshot
from lml_jax.experiments.fewshot.settings import FewShot, resolve
from lml_jax.experiments.folder import opened
from lml_jax.experiments.metagan import METAGAN, MetaGan
from lml_jax.experiments.record import fingerprint, read_metrics, resumable, write_metrics
from lml_jax.experiments.runner import Experiment, Part, run, run_parts
from lml_jax.experiments.runner import over_seeds as with_seeds

SINE = FewShot(data="sine", steps=2, episodes=5, queries=5)


@dataclass(frozen=True)
class Settings:
    steps: int = 2
    seed: int = 0
    data_dir: str | None = None


def part(learner, seed, *, settings=None, record=None, calls=None):
    """A part that saves a checkpoint, so that its folder can be resumed, and counts its calls."""
    settings = settings or Settings()

    def work(place, so_far, publish):
        with place.keeping(resumable(vars(settings))) as keeper:
            run = keeper.start({"w": jnp.zeros(2), "done": 0})
            if calls is not None:
                calls.append((learner, seed, so_far, run["done"]))
            keeper.save(1, {**run, "done": 1})
        if record is not None:
            return record(publish)
        return {"score": 10 * seed, "config": vars(settings)}

    return Part({"learner": learner, "seed": seed}, vars(settings), work)


def test_metrics_are_whole_or_absent(tmp_path):
    write_metrics(tmp_path, {"a": float("nan"), "b": np.arange(2)})
    assert read_metrics(tmp_path) == {"a": None, "b": [0, 1]}
    with pytest.raises(TypeError):
        write_metrics(tmp_path, {"a": object()})
    assert read_metrics(tmp_path)["b"] == [0, 1]
    (tmp_path / "metrics.json").write_text('{"a": 1')
    with pytest.raises(ValueError, match=r"metrics.json is damaged"):
        read_metrics(tmp_path)


def test_a_diverged_task_is_counted():
    scores = np.array([[1.0, 0.5], [3.0, np.nan], [2.0, 1e6], [2.0, 0.1]])
    record = summary_of(resolve(FewShot(data="sine")), scores)
    np.testing.assert_allclose(record["diverged_per_inner_step"], [0.0, 0.5])
    np.testing.assert_allclose(record["mse_per_inner_step"][0], 2.0)


def test_seeds_get_a_folder_each_and_their_means_are_reported(tmp_path):
    run = with_seeds(FEWSHOT, SINE, seeds=2, joined=over_seeds)
    report = run(tmp_path / "out")
    assert "mean over 2 seeds" in report
    runs = read_metrics(tmp_path / "out")["runs"]
    assert [r["seed"] for r in runs] == [0, 1]
    assert runs[1] == read_metrics(tmp_path / "out" / "seed1")
    with pytest.raises(FileExistsError, match="holds another run"):
        run(tmp_path / "out")


def test_an_interrupted_recipe_resumes(tmp_path):
    def stop(built, place):
        if built.plan.settings.seed == 1:
            raise Stopped("here")
        return FEWSHOT.train(built, place)

    with_seeds(FEWSHOT, SINE, seeds=2)(tmp_path / "whole")
    with pytest.raises(Stopped):
        with_seeds(FEWSHOT._replace(train=stop), SINE, seeds=2)(tmp_path / "cut")
    with_seeds(FEWSHOT, SINE, seeds=2)(tmp_path / "cut", resume=True)
    for seed in ("seed0", "seed1"):
        whole, resumed = (read_metrics(tmp_path / out / seed) for out in ("whole", "cut"))
        del whole["seconds"], resumed["seconds"]
        assert resumed == whole


def test_the_folder_of_the_data_may_change_and_nothing_else():
    here, there = (resumable(vars(Settings(data_dir=folder))) for folder in ("here", "there"))
    assert here == there
    assert here != resumable(vars(Settings(steps=7)))
    nested = resumable(asdict(MetaGan(FewShot(data_dir="here"))))
    assert nested["base.steps"] == 2000
    assert "base.data_dir" not in nested
    assert METAGAN.seeded(MetaGan(FewShot()), 3).base.seed == 3


def test_a_run_interrupted_before_it_saved_anything_begins_again(tmp_path):
    (tmp_path / "run" / "seed0" / "checkpoints").mkdir(parents=True)
    for resume in (False, True):
        with opened(tmp_path / "run", resume=resume) as folder:
            assert folder == tmp_path / "run"
    (tmp_path / "run" / "seed0" / "params.npz").write_text("")
    with (
        pytest.raises(FileExistsError, match=r"holds another run \(seed0, ...\): .* with --resume"),
        opened(tmp_path / "run"),
    ):
        pass


def test_a_finished_run_is_extended_and_keeps_its_rows(tmp_path):
    run_parts([part("a", 0), part("b", 0)], tmp_path / "out", progress=False)
    calls = []
    more = [part("b", 0, calls=calls), part("b", 1, calls=calls), part("c", 1, calls=calls)]
    result = run_parts(more, tmp_path / "out", resume=True, progress=False)
    assert [(r["learner"], r["seed"]) for r in result["runs"]] == [
        ("a", 0), ("b", 0), ("b", 1), ("c", 1),
    ]  # fmt: skip
    assert read_metrics(tmp_path / "out") == result
    # What was finished comes from its checkpoint, with its record at hand.
    row = {"learner": "b", "seed": 0, "score": 0, "config": vars(Settings())}
    assert calls[0] == ("b", 0, row, 1)
    assert [call[3] for call in calls] == [1, 0, 0]


def test_records_of_other_settings_are_refused(tmp_path):
    run_parts([part("a", 0)], tmp_path / "out", progress=False)
    other = Settings(steps=5, data_dir="elsewhere")
    with pytest.raises(ValueError, match="holds a_seed0 with other settings: steps is 2 there, 5"):
        run_parts([part("a", 0, settings=other)], tmp_path / "out", resume=True)
    moved = part("a", 0, settings=Settings(data_dir="elsewhere"))
    run_parts([moved], tmp_path / "out", resume=True, progress=False)


def test_a_diverged_part_keeps_the_rows_of_the_others(tmp_path):
    state = train.init_state({"w": jnp.ones(2)}, optax.sgd(0.1))

    def diverges(place, so_far, publish):
        publish({"tasks_finished": 1})
        with place.keeping({}):
            raise train.DivergedError("not finite at step 3", state)

    bad = Part({"learner": "bad", "seed": 0}, {}, diverges)
    with pytest.raises(train.DivergedError):
        run_parts([part("a", 0), bad], tmp_path / "out", progress=False)
    written = read_metrics(tmp_path / "out")
    assert [r["learner"] for r in written["runs"]] == ["a", "bad"]
    assert written["diverged"] == "bad_seed0: not finite at step 3"
    last_good = storage.load(tmp_path / "out" / "last_good_bad_seed0.npz")
    np.testing.assert_array_equal(last_good["w"], [1, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": 0}, "minutes must be above 0, got 0"),
        ({"minutes": float("nan")}, "minutes must be above 0, got nan"),
        ({"save_every": -1.0}, "save_every must be at least 0 seconds, got -1"),
    ],
)
def test_bad_times_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run_fewshot(SINE, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_an_experiment_of_ones_own_in_ten_lines(tmp_path):
    def build(settings):
        return settings

    def fit(settings, place):
        with place.keeping(resumable(vars(settings))) as keeper:
            keeper.save(settings.steps, {"w": jnp.ones(1)})
        return settings.steps, {"train": 0.0}

    mine = Experiment(build, fit, lambda built, steps, place: {"score": steps}, str, vars)
    record = run(mine, Settings(steps=3), tmp_path / "run")
    assert record["score"] == 3
    assert record["config"]["steps"] == 3
    assert set(record["seconds"]) == {"train", "eval"}
    assert "jax" in record["versions"]


def test_a_fingerprint_tells_data_apart():
    x = np.random.default_rng(0).integers(0, 256, (8, 4, 4), dtype=np.uint8)
    one = fingerprint(from_arrays(x, np.repeat(np.arange(2), 4)))
    assert one == fingerprint(from_arrays(x.copy(), np.repeat(np.arange(2), 4)))
    x[0, 0, 0] ^= 1
    other = fingerprint(from_arrays(x, np.repeat(np.arange(2), 4)))
    assert (one["examples"], one["classes"]) == (8, 2)
    assert one["sha256"] != other["sha256"]


def test_a_record_is_json(tmp_path):
    record = run_fewshot(SINE, tmp_path / "run", progress=False)
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert written["config"]["inner_rate"] == record["config"]["inner_rate"] == 0.001
    assert None not in (written["config"]["shots"], written["config"]["report_step"])


def test_a_folder_in_use_is_refused_by_name(tmp_path):
    with (
        opened(tmp_path / "run"),
        pytest.raises(BlockingIOError, match="is in use by process"),
        opened(tmp_path / "run"),
    ):
        pass
