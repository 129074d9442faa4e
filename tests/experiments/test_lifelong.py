"""Lifelong runs: meta-trained starts and their cache, learners of the user's own, ablations."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from lml_jax.experiments.lifelong import ablation, pretrain, seeds
from lml_jax.experiments.lifelong.ablation import HISTORY, arms_of, paired
from lml_jax.experiments.lifelong.entries import LifelongEntry, classifier_of, context_of
from lml_jax.experiments.lifelong.learners import lifelong_learners
from lml_jax.experiments.lifelong.run import run_lifelong
from lml_jax.experiments.lifelong.settings import Lifelong, for_learner, resolve
from lml_jax.experiments.lifelong.streams import background_of, load, stream_of
from lml_jax.experiments.runner import Place
from lml_jax.lifelong.finetune import finetune

SMALL = Lifelong(tasks=2, classes_per_task=2, steps=2, train_per_class=12, test_per_class=8,
                 meta_batch=2, past_batch=4, capacity=8, width=16, start_steps=2, start_ways=4,
                 start_net="mlp")  # fmt: skip
PARAMETERS = replace(SMALL, start="parameters")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrain, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def mine(c):
    return finetune(c.classifier, c.tx, c.space)


@pytest.fixture
def background():
    return background_of(resolve(SMALL))


@pytest.mark.parametrize("start", ["classifier", "embedding"])
def test_a_start_is_trained_once_and_read_afterwards(
    cache, tmp_path, monkeypatch, background, start
):
    plan, place = resolve(PARAMETERS), Place(tmp_path / "run", "memory_seed0", progress=False)
    params, found = pretrain.parameters_of(plan, start, 4, background, place)
    assert found["start_cached"] is False
    assert found["start_seconds"] > 0
    monkeypatch.setattr(pretrain, "train_with_bar", lambda *a, **k: pytest.fail("trained again"))
    again, found = pretrain.parameters_of(plan, start, 4, background, place)
    assert found["start_cached"] is True
    jax.tree.map(np.testing.assert_array_equal, params, again)
    for other in ({"start_seed": 1}, {"start_steps": 3}, {"shots": 4}, {"width": 8}):
        plan = resolve(replace(PARAMETERS, **other))
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            pretrain.parameters_of(plan, start, 4, background, place)


def test_a_damaged_start_is_trained_again(cache, tmp_path, background):
    plan, place = resolve(PARAMETERS), Place(tmp_path / "a", progress=False)
    params, found = pretrain.parameters_of(plan, "classifier", 4, background, place)
    (cache / found["start_file"]).write_bytes(b"PK")
    other = Place(tmp_path / "b", progress=False)
    with pytest.warns(UserWarning, match="no whole file of arrays"):
        again, _ = pretrain.parameters_of(plan, "classifier", 4, background, other)
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_a_classifier_is_trained_in_every_unit_of_its_head(cache, tmp_path, background):
    plan, classes = resolve(replace(PARAMETERS, start_steps=40)), 4
    place = Place(tmp_path, progress=False)
    params, _ = pretrain.parameters_of(plan, "classifier", classes, background, place)
    key = jax.random.split(jax.random.fold_in(jax.random.key(0), 1))[0]
    new = classifier_of(plan, classes).init(key, background.x[:2])
    moved = [np.abs(a - b) for a, b in zip(*map(jax.tree.leaves, (params, new)), strict=True)]
    heads = [array for array in moved if array.shape[-1:] == (classes,)]
    assert heads
    assert all((array > 0).any(axis=tuple(range(array.ndim - 1))).all() for array in heads)


def test_features_have_mean_0_and_mean_squared_norm_1(cache, tmp_path, background):
    plan = resolve(SMALL)
    features = pretrain.features_of(plan, background, Place(tmp_path, progress=False))
    z = features.apply(background).x
    assert z.shape == (len(background.x), 64)
    np.testing.assert_allclose(z.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(np.square(z).sum(1).mean(), 1, rtol=0.05)
    # One image at a time as all at once: features are of the image alone.
    one = replace(background, x=background.x[5:6])
    np.testing.assert_allclose(features.apply(one).x[0], z[5], rtol=1e-3, atol=1e-4)


def test_learners_on_features(cache, tmp_path):
    """Two of them; tests/experiments/test_cli.py runs every learner of the command."""
    learners = ("memory", "joint")
    result = run_lifelong(SMALL, tmp_path / "run", learners=learners, progress=False)
    assert [run["learner"] for run in result["runs"]] == list(learners)
    for run in result["runs"]:
        assert run["start"] == "features"
        assert run["config"]["net"] is None
        assert np.isfinite(np.asarray(run["R"])[2]).all()
        assert set(run["data_made"]) == {"background", "train", "made_with"}
    again = run_lifelong(SMALL, tmp_path / "again", learners=("joint",), progress=False)["runs"][0]
    assert again["start_cached"] is True
    np.testing.assert_array_equal(result["runs"][-1]["R"], again["R"])


def test_seeds_together_are_those_one_after_another(cache, tmp_path, monkeypatch):
    options = {"learners": ("finetune",), "seeds": (0, 1), "progress": False}
    alone = run_lifelong(SMALL, tmp_path / "alone", **options)["runs"]
    both = tmp_path / "both"
    monkeypatch.setattr(seeds, "run_stream", lambda *a, **k: pytest.fail("one after another"))
    together = run_lifelong(SMALL, both, **options, seeds_together=True)["runs"]
    again = run_lifelong(SMALL, both, **options, seeds_together=True, resume=True)["runs"]
    for one, other, third in zip(alone, together, again, strict=True):
        assert one["seed"] == other["seed"] == third["seed"]
        assert one["config"] == other["config"]
        # Of 8 test images per class, rounding may move one.
        np.testing.assert_allclose(one["R"], other["R"], atol=0.07)
        np.testing.assert_array_equal(other["R"], third["R"])
        assert (both / f"finetune_seed{one['seed']}.kept").exists()


def test_no_background_class_is_in_the_stream(assert_disjoint, background):
    assert_disjoint(background=background, stream=load(resolve(SMALL)).train)


def test_what_a_run_starts_from():
    assert resolve(SMALL).start == "features"
    assert resolve(replace(SMALL, start="parameters")).start == "parameters"
    assert resolve(replace(SMALL, from_scratch=True)).start == "random"
    assert resolve(replace(SMALL, data="digits")).start == "random"  # has no background classes
    assert resolve(replace(SMALL, jitter=True)).start == "parameters"
    assert resolve(replace(SMALL, scenario="domain")).start == "parameters"
    rates = [resolve(replace(SMALL, start=s)).outer_rate for s in ("features", "parameters")]
    assert rates == [1e-2, 1e-3]


def test_there_are_twenty_test_images_per_class():
    plan = resolve(Lifelong())
    stream = stream_of(plan, load(plan), 0)
    assert (stream.tasks, stream.classes) == (10, 50)
    test = stream.test(0)
    weight = np.ones(len(test.y)) if test.weight is None else np.asarray(test.weight)
    counts = np.bincount(np.asarray(test.y), weights=weight)
    assert counts.min() == counts.max() == 20


def test_learners_are_given_as_a_function_or_an_entry(cache, tmp_path):
    entry = LifelongEntry(mine, start="random", defaults={"outer_rate": 0.5})
    result = run_lifelong(
        replace(SMALL, from_scratch=True), tmp_path / "run",
        learners={"mine": mine, "entry": entry}, progress=False,
    )  # fmt: skip
    rates = {r["learner"]: r["config"]["outer_rate"] for r in result["runs"]}
    assert rates == {"mine": 1e-3, "entry": 0.5}
    assert "mine" not in lifelong_learners


def test_what_is_given_wins_over_a_learners_default():
    defaults = {"past_batch": lambda plan: 7 * plan.tasks, "reduction": "sum"}
    plan = for_learner(resolve(Lifelong()), "x", defaults=defaults, options={})
    assert (plan.past_batch, plan.reduction) == (70, "sum")
    given = resolve(Lifelong(past_batch=3, reduction="mean"))
    plan = for_learner(given, "x", defaults=defaults, options={})
    assert (plan.past_batch, plan.reduction) == (3, "mean")
    options = {"flag": True, "n": 3, "name": "a"}
    given = resolve(Lifelong(options=("x.flag=false", "x.n=5", "y.n=9")))
    plan = for_learner(given, "x", defaults={}, options=options)
    assert plan.options == {"flag": False, "n": 5, "name": "a"}
    with pytest.raises(ValueError, match=r"expected int for 'x\.n=five'"):
        for_learner(resolve(Lifelong(options=("x.n=five",))), "x", defaults={}, options=options)


@pytest.mark.parametrize(("name", "rates"), [("la-maml", (0.15, 0.15)), ("c-maml", (0.1, 0.1))])
def test_rates_of_look_ahead_learners_are_their_own_or_those_given(name, rates):
    """What the record says is what they learn with."""
    entry = lifelong_learners[name]
    stream = stream_of(resolve(SMALL), load(resolve(SMALL)), 0)
    for given, want in (({}, rates), ({"inner_rate": 0.02, "outer_rate": 0.03}, (0.02, 0.03))):
        plan = resolve(replace(SMALL, from_scratch=True, **given))
        own = for_learner(plan, name, defaults=entry.defaults, options=entry.options)
        assert (own.config["inner_rate"], own.config["outer_rate"]) == want
        learner = entry.make(context_of(own, stream, entry))
        state = learner.init(jax.random.key(0), stream.train(0).x)
        for alpha in jax.tree.leaves(state.train.params["alpha"]):
            np.testing.assert_allclose(alpha, want[0], rtol=1e-6)


def test_the_memory_learner_trains_nothing_on_features():
    entry = lifelong_learners["memory"]
    plans = [
        for_learner(resolve(Lifelong(start=start)), "memory", defaults=entry.defaults, options={})
        for start in ("features", "parameters")
    ]
    assert [plan.steps for plan in plans] == [1, 200]
    assert [plan.retention_weight for plan in plans] == [0.0, 1.0]
    assert [plan.config["steps"] for plan in plans] == [1, 200]


def test_every_entry_says_what_it_is():
    for name, entry in lifelong_learners.items():
        assert entry.about, name
    bounds = [entry.bound for entry in lifelong_learners.values() if entry.bound]
    assert sorted(bounds) == ["lower", "upper"]


def test_paired_differences_and_their_interval():
    """t with 4 degrees of freedom is 2.776445; differences 1, 2, 3, 4, 5: sd sqrt(2.5)."""
    mean, half = paired([2, 4, 6, 8, 10], [1, 2, 3, 4, 5])
    assert mean == 3.0
    np.testing.assert_allclose(half, 2.776445 * np.sqrt(2.5 / 5), rtol=1e-6)
    # 40 seeds: t with 39 degrees of freedom is 2.022691
    each = np.tile([0.0, 2.0], 20)
    np.testing.assert_allclose(
        paired(each, np.zeros(40))[1], 2.022691 * each.std(ddof=1) / np.sqrt(40), rtol=1e-6
    )


@pytest.mark.parametrize("scratch", [False, True])
def test_an_ablation_end_to_end(cache, tmp_path, scratch):
    settings = replace(PARAMETERS, from_scratch=scratch)
    arms = {arm: HISTORY[arm] for arm in ("none", "0.9")}
    report = ablation.ablation(arms, settings, seeds=(0, 1))(tmp_path / "out", progress=False)
    assert [line.split()[0] for line in report.splitlines()[2:]] == ["none", "0.9"]
    comparison = json.loads((tmp_path / "out" / "metrics.json").read_text())["comparison"]
    assert comparison["none"]["acc"]["difference"] == [0.0, 0.0]
    runs = [json.loads((tmp_path / "out" / arm / "metrics.json").read_text())["runs"]
            for arm in ("none", "0.9")]  # fmt: skip
    first = [arm[0]["R"][1][0] for arm in runs]
    assert first[0] == first[1]  # before there are past tasks, the arms are the same run
    assert {run["start"] for run in runs[0]} == {"random" if scratch else "classifier"}


def test_a_comparison_needs_two_seeds_that_differ():
    with pytest.raises(ValueError, match="expected at least 2 paired seeds, got 1"):
        ablation.ablation(HISTORY, SMALL, seeds=(0,))
    with pytest.raises(ValueError, match="seeds must differ, got 0 twice"):
        ablation.ablation(HISTORY, SMALL, seeds=(0, 0))
    assert arms_of("memory", {"a": {"steps": 1}})["a"].learner == "memory"
