"""Closed-form classifiers taught in sessions: CIFAR-100 and few-shot Omniglot, small."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from lml_jax import heads
from lml_jax.data.arrays import from_arrays
from lml_jax.experiments import exemplar_free, few_shot_incremental
from lml_jax.experiments.exemplar_free import ExemplarFree
from lml_jax.experiments.few_shot_incremental import FewShotIncremental, scores_of
from lml_jax.experiments.sessions import CLASSIFIERS, Classifier, Session, prior_of, taught

DIM = 8


def blobs(classes, each, seed=0):
    rng = np.random.default_rng(0)
    centres = 2 * rng.normal(size=(40, DIM))[:classes]
    y = np.repeat(np.arange(classes), each)
    x = centres[y] + np.random.default_rng([1, seed]).normal(size=(len(y), DIM))
    return from_arrays(x.astype(np.float32), y)


def test_rows_are_those_of_the_head_alone():
    data = blobs(4, 10)
    x, y = jnp.asarray(data.x), jnp.repeat(jnp.arange(4), 10)
    parts = [slice(0, 20), slice(20, 40)]
    sessions = [Session(x[p], y[p], x[p] + 1, y[p]) for p in parts]
    record = taught(Classifier(heads.lda()), sessions, classes=4, width=1, seed=0)
    head = heads.lda()
    stats = head.learn(head.init(4, DIM), x[parts[0]], y[parts[0]])
    first = float((head.logits(stats, x[parts[0]] + 1).argmax(1) == y[parts[0]]).mean())
    stats = head.learn(stats, x[parts[1]], y[parts[1]])
    last = [float((head.logits(stats, x[p] + 1).argmax(1) == y[p]).mean()) for p in parts]
    np.testing.assert_allclose(record["R"], [[np.nan] * 2, [first, np.nan], last])
    assert record["parameters"] == pytest.approx(
        {name: float(value) for name, value in head.params().items()}
    )
    assert record["bytes"]["own"] >= 4 * (4 * DIM + DIM * DIM)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_learns(name):
    data = blobs(6, 30)
    x, y = jnp.asarray(data.x), jnp.repeat(jnp.arange(6), 30)
    sessions = [Session(x[y // 2 == i], y[y // 2 == i], x[y // 2 == i], y[y // 2 == i])
                for i in range(3)]  # fmt: skip
    record = taught(CLASSIFIERS[name], sessions, classes=6, width=64, seed=0)
    assert record["acc"] > 0.8
    initial = {key: float(value) for key, value in CLASSIFIERS[name].head.params().items()}
    if CLASSIFIERS[name].params is None:
        assert record["parameters"] == pytest.approx(initial)


def test_a_gaussian_head_takes_the_scale_of_the_features():
    """The prior of GeMCL's features says nothing of small ones, and of classes of few examples."""
    data = blobs(6, 30)
    x, y = 0.01 * jnp.asarray(data.x), jnp.repeat(jnp.arange(6), 30)
    old, new = y < 4, np.flatnonzero(y >= 4)
    few = new.reshape(2, 30)[:, :3].reshape(-1)  # three of 30
    sessions = [Session(x[old], y[old], x[old], y[old]), Session(x[few], y[few], x[new], y[new])]
    found = {
        name: taught(Classifier(heads.gaussian(), params=params), sessions, classes=6, width=1,
                     seed=0)["R"][2]
        for name, params in {"initial": None, "chosen": prior_of}.items()
    }  # fmt: skip
    assert found["initial"][1] == 0.0
    assert found["chosen"].min() > 0.6


def test_cifar_runs_and_a_finished_run_is_kept(tmp_path, monkeypatch):
    parts = {"train": blobs(20, 12), "test": blobs(20, 4, seed=1)}
    monkeypatch.setattr(exemplar_free.keep, "efficientnet_lite0", lambda size: None)
    monkeypatch.setattr(exemplar_free.keep, "features", lambda encoder, data: data)
    monkeypatch.setattr(exemplar_free, "from_tfds", lambda name, part, data_dir: parts[part])
    few = {name: CLASSIFIERS[name] for name in ("nearest-mean", "random-ridge")}
    monkeypatch.setattr(exemplar_free, "CLASSIFIERS", few)
    settings = ExemplarFree(tasks=5, width=32, seeds=(0, 1))
    report = exemplar_free.compare(settings)(tmp_path / "run")
    assert "random-ridge" in report
    again = exemplar_free.run_classifiers(settings, tmp_path / "run", resume=True)
    assert [(r["learner"], r["seed"]) for r in again["runs"]] == [
        (name, seed) for seed in (0, 1) for name in few
    ]
    assert len({tuple(np.ravel(r["R"])[-5:]) for r in again["runs"]}) > 1
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        exemplar_free.run_classifiers(ExemplarFree(width=0), tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_few_shot_sessions(tmp_path, monkeypatch):
    parts = {"background": blobs(10, 20), "evaluation": blobs(12, 20, seed=1)}
    monkeypatch.setattr(few_shot_incremental, "omniglot", lambda part, data_dir: parts[part])
    features = SimpleNamespace(apply=lambda data: data, about={"start": "features"})
    monkeypatch.setattr(few_shot_incremental, "features_of", lambda *args: features)
    few = {"cosine": CLASSIFIERS["cosine"], "calibrated": Classifier(heads.calibrated_mean(10))}
    monkeypatch.setattr(few_shot_incremental, "classifiers_of", lambda base: few)
    s = FewShotIncremental(sessions=3, ways=2, shots=4, seeds=(0, 1))
    runs = few_shot_incremental.run_classifiers(s, tmp_path / "run")["runs"]
    assert len(runs) == 4
    for run in runs:
        R = np.asarray(run["R"], float)
        assert R.shape == (5, 4)
        assert run["base"] == R[4, 0]
        assert run["new"] == pytest.approx(R[4, 1:].mean())
        assert len(run["by_session"]["harmonic"]) == 3
    for bad, said in (({"sessions": 7}, "7 sessions of 2 classes: there are 12"),
                      ({"shots": 20, "sessions": 1}, "shots must be below 20")):  # fmt: skip
        settings = FewShotIncremental(**{"ways": 2, **bad})
        with pytest.raises(ValueError, match=said):
            few_shot_incremental.run_classifiers(settings, tmp_path / "bad")


def test_a_session_has_other_examples_for_the_test():
    base = from_arrays(np.arange(60, dtype=np.float32)[:, None], np.repeat(np.arange(3), 20))
    s = FewShotIncremental(sessions=1, ways=2, shots=5)
    first, second = few_shot_incremental.sessions_of(s, base, base, 0)
    for session, shots in ((first, 15), (second, 5)):
        seen, tested = np.ravel(session.z), np.ravel(session.z_test)
        assert not set(seen) & set(tested)
        assert len(seen) == shots * len(set(np.asarray(session.y)))
        assert len(seen) + len(tested) == 20 * len(set(np.asarray(session.y)))
    assert set(np.asarray(second.y)) == {3, 4}


def test_scores_are_weighted_by_images():
    s = FewShotIncremental(sessions=1, ways=5, shots=5)
    found = scores_of(np.array([[np.nan] * 2, [0.9, np.nan], [0.8, 0.4]]), s, 10)
    assert found["harmonic"] == pytest.approx(2 * 0.8 * 0.4 / 1.2)
    assert found["acc"] == pytest.approx((50 * 0.8 + 75 * 0.4) / 125)
    assert found["average"] == pytest.approx((0.9 + found["acc"]) / 2)
