"""Learners that classify in an embedding, from training to their figures."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread

from lml_jax import nets
from lml_jax.data.arrays import from_arrays
from lml_jax.experiments import runner
from lml_jax.experiments.fewshot import sequence
from lml_jax.experiments.fewshot import ways_and_shots as cells
from lml_jax.experiments.fewshot.embedding import embed, frozen
from lml_jax.experiments.fewshot.run import run_fewshot
from lml_jax.experiments.fewshot.settings import FewShot
from lml_jax.heads import empty, gaussian, lda, nearest_mean, ridge

SMALL = FewShot(train_ways=3, filters=8, steps=2, shots=2, train_queries=2, episodes=20, queries=2)


def small(**changes):
    return replace(SMALL, **changes)


def blobs(classes=8, n=20, d=6):
    """Well-parted classes in d dimensions."""
    keys = jax.random.split(jax.random.key(0))
    y = jnp.repeat(jnp.arange(classes), n)
    x = 3 * jax.random.normal(keys[0], (classes, d))[y] + jax.random.normal(keys[1], (len(y), d))
    return from_arrays(x, y)


@pytest.mark.parametrize("learner", ["protonet", "matching", "gemcl"])
def test_fewshot_trains_and_tests_it(learner, tmp_path):
    record = run_fewshot(small(learner=learner), tmp_path / "run", progress=False)
    assert record["batch_statistics"] == "frozen"
    assert record["accuracy_per_inner_step"] == [record["accuracy"]]
    assert record["accuracy"] > 0.25
    assert not (tmp_path / "run" / "accuracy_per_inner_step.png").exists()


def test_cells_come_from_one_network(tmp_path):
    settings = small(learner="protonet")
    both, one = (cells.cells(of=of) for of in ([(2, 1), (4, 2)], [(2, 1)]))
    record = runner.run(both, settings, tmp_path / "run", progress=False)
    assert [line.split()[:2] for line in both.table(record).splitlines()] == [
        ["2-way", "1-shot"], ["4-way", "2-shot"],
    ]  # fmt: skip
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [(c["ways"], c["shots"]) for c in written["cells"]] == [(2, 1), (4, 2)]
    again = runner.run(one, settings, tmp_path / "again", progress=False)
    assert again["cells"][0]["accuracy"] == written["cells"][0]["accuracy"]


def test_an_embedding_of_frozen_statistics_is_that_of_the_image_alone():
    x = np.random.default_rng(0).integers(0, 256, (24, 16, 16), dtype=np.uint8)
    data = from_arrays(x, np.repeat(np.arange(4), 6))
    net = nets.conv4(None, filters=8, pool=True)
    params = frozen(net, net.init(jax.random.key(0), data.x[:2]), data, jax.random.key(1))
    features = embed(net, params, data)
    alone = net.apply(params, data.x[5:6])[0]
    np.testing.assert_allclose(features.x[5], alone, rtol=1e-4, atol=1e-5)


def test_order_changes_no_prediction_and_the_oracle_has_no_lead(monkeypatch):
    monkeypatch.setattr(sequence, "LENGTHS", (2, 6))
    data = blobs()
    heads = {
        "near": (nearest_mean(), {}),
        "map": (gaussian(predictive="map"), gaussian().params()),
        "lda": (lda(), lda().params()),
        "ridge": (ridge(), ridge().params()),
    }
    for seed in range(3):
        for of in sequence.one_draw(data, heads, seed, random=True).values():
            assert of["same"] == 1.0
            assert of["test"] == of["oracle"]
            assert of["test"][0] > 0.9
            assert len(of["train"]) == 2


def test_more_stored_images_recall_more(monkeypatch):
    monkeypatch.setattr(sequence, "LENGTHS", (6,))
    noisy = blobs()
    noisy = from_arrays(
        noisy.x + 3 * jax.random.normal(jax.random.key(2), noisy.x.shape),
        jnp.repeat(jnp.arange(8), 20),
    )
    got = sequence.recall(noisy, 784, {"nearest mean": (nearest_mean(), {})}, draws=5)
    assert got["samples"]["nearest mean"][0] + 0.1 < got["samples"]["nearest mean"][-1]
    assert got["bytes"] == [6 * 784 * k for k in sequence.STORED]
    assert got["statistics"]["nearest mean"]["bytes"] == 4 * 6 * 7


def test_learning_goes_on_where_it_stopped():
    z = jax.random.normal(jax.random.key(0), (4, 3, 5))
    whole = sequence.learn(empty(4, 5, scatter=True), z, jnp.arange(4))
    half = sequence.learn(empty(4, 5, scatter=True), z[:2], jnp.arange(2))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        sequence.learn(half, z[2:], jnp.arange(2, 4)),
        whole,
    )


def test_the_sequence_end_to_end(tmp_path, monkeypatch, tfds_dir):
    monkeypatch.setattr(sequence, "LENGTHS", (5, 20))
    settings = small(
        learner="gemcl", data="omniglot", split="background/evaluation", data_dir=tfds_dir
    )
    report = runner.over_seeds(sequence.sequence(draws=2), settings)(tmp_path / "run")
    assert "first 600 classes" in report
    folder = tmp_path / "run" / "seed0"
    written = json.loads((folder / "metrics.json").read_text())
    assert len(written["accuracy"]["random"]["nearest mean"]["test"]) == 2
    assert written["seconds"]["train"] > 0
    for figure in ("sequence", "recall"):
        assert imread(folder / f"{figure}.png").std() > 0
