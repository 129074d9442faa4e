"""The worked examples of docs/extending.md: they run, and do what the page says."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import from_arrays, label_space_of, lifelong_maml, maml, nets, run_stream
from lml_jax.data.streams import class_incremental, in_time
from lml_jax.experiments import registry
from lml_jax.experiments.lifelong.run import run_lifelong
from lml_jax.experiments.lifelong.settings import Lifelong
from lml_jax.lifelong.online import run_online

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def names(python_blocks):
    before = [
        (d, dict(d)) for d in (registry.lifelong_learners, registry.datasets, registry.recipes)
    ]
    yield python_blocks(PAGE)
    for own, old in before:
        own.clear()
        own.update(old)


@pytest.fixture(scope="module")
def stream():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 20)
    x = 3 * rng.normal(size=(4, 6))[y] + rng.normal(size=(80, 6))
    data = from_arrays(x.astype(np.float32), y)
    made = class_incremental(
        data, tasks=2, classes_per_task=2, seed=0, train_per_class=15, shots=3, queries=3
    )
    return in_time(made, batch_size=6, seed=0)


def few_shot(classes=4):
    return maml(nets.mlp([16], classes), optax.sgd(0.1), steps=1)


def test_the_learner_learns_a_stream_with_and_without_boundaries(names, stream):
    from lml_jax import memory

    learner = names["experience_replay"](
        few_shot(), optax.adam(1e-2), label_space_of(stream), bank=memory.reservoir(40)
    )
    run = run_stream(learner, stream, KEY, steps=40, scan=True)
    assert np.nanmean(run.R[-1]) > 0.8
    *_, last = run_online(learner, stream, KEY, score_every=5)
    assert last.batches == stream.batches == 10
    assert last.anytime[-1] > 0.4


def test_the_bank_works_in_a_learner(names, stream):
    learner = lifelong_maml(
        few_shot(), optax.adam(1e-2), label_space_of(stream), bank=names["largest_first"](20),
        past_batch=5, recall_on="bank",
    )  # fmt: skip
    run = run_stream(learner, stream, KEY, steps=10, scan=True)
    assert np.isfinite(run.R[-1]).all()
    items, valid = names["largest_first"](20).contents(run.state.memory)
    assert bool(valid.all())
    assert items[0].shape == (20, 6)


def test_the_entries_run_from_the_experiments(names, tmp_path):
    settings = Lifelong(
        data="blobs", steps=2, meta_batch=1, past_batch=4, width=8, from_scratch=True, net="mlp",
        test_per_class=5, shots=2, queries=2,
    )  # fmt: skip
    result = run_lifelong(settings, tmp_path / "run", learners=("my-er",), progress=False)
    (record,) = result["runs"]
    assert record["learner"] == "my-er"
    assert len(record["R"]) == 4
    assert set(record["label_names"]) <= {f"blob {c}" for c in range(12)}
    assert "my-sine" in registry.recipes


def test_a_refused_update_is_reported(names, stream):
    from lml_jax import memory
    from lml_jax.types import Batch

    learner = names["experience_replay"](
        few_shot(), optax.adam(1e-2), label_space_of(stream), bank=memory.reservoir(40)
    )
    state = learner.init(KEY, jnp.zeros((1, 6)))
    bad = Batch(jnp.full((2, 6), jnp.nan), jnp.array([0, 1]))
    _, metrics = learner.observe(state, bad, KEY)
    assert int(metrics["bad_step"]) == 0
