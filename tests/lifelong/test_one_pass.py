"""One pass over a stream, and the recipes made of it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import nets
from lml_jax.data.arrays import from_arrays
from lml_jax.data.streams import class_incremental, in_time
from lml_jax.experiments import one_pass as recipes
from lml_jax.experiments import published
from lml_jax.experiments.lifelong import comparison
from lml_jax.experiments.lifelong.learners import lifelong_learners
from lml_jax.experiments.one_pass import Online, compare, stream_of
from lml_jax.learners.maml import maml
from lml_jax.lifelong.er import er
from lml_jax.lifelong.ewc import ewc
from lml_jax.lifelong.label_space import label_space_of
from lml_jax.lifelong.one_pass import one_pass

KEY = jax.random.key(0)
FEW_SHOT = maml(nets.mlp([], 4), optax.sgd(0.1), steps=1)


def blobs(n, seed):
    """Four classes of images of 2 x 2, easily told apart."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(4), n)
    x = np.eye(4)[y].reshape(-1, 2, 2) + 0.1 * rng.normal(size=(len(y), 2, 2))
    return from_arrays(np.clip(x, 0, 1).astype(np.float32), y)


@pytest.fixture(scope="module")
def stream():
    made = class_incremental(
        blobs(15, 0), tasks=2, classes_per_task=2, seed=0, train_per_class=11, test_per_class=4
    )
    return in_time(made, batch_size=5, seed=0)


def test_every_batch_is_observed_once_and_scored_where_its_task_ends(stream):
    """22 examples of each task: the first ends within batch 4, the second with batch 8."""
    learner = er(FEW_SHOT, optax.sgd(0.5), label_space_of(stream))
    done = one_pass(learner, stream, KEY)
    key_init, key_train, key_eval = jax.random.split(KEY, 3)
    observe = jax.jit(learner.observe)
    state = learner.init(key_init, stream.batch(0).x)
    R = np.full((3, 2), np.nan)
    for t in range(stream.batches):
        keys = jax.random.split(jax.random.fold_in(key_train, t))
        state, _ = observe(state, stream.batch(t, keys[0]), keys[1])
        for row, end in ((1, 5), (2, 9)):
            for j in range(2) if t + 1 == end else ():
                test = stream.test(j)
                logits = jnp.where(state.seen, learner.recall(state, test.x, key_eval), -1e9)
                R[row, j] = float((logits.argmax(1) == test.y).mean())
    assert stream.batches == 9
    for a, b in zip(*map(jax.tree.leaves, (done.state, state)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(np.isnan(done.R), [[False] * 2, [False, True], [False] * 2])
    np.testing.assert_allclose(done.R[2], R[2])
    assert done.R[1, 0] == R[1, 0] > 0.9
    every = one_pass(learner, stream, KEY, rows="all")
    np.testing.assert_allclose(every.R[1:], R[1:])
    assert set(every.seconds) == {"compile", "train", "eval"}


def test_what_cannot_be_one_pass(stream):
    learner = er(FEW_SHOT, optax.sgd(0.5), label_space_of(stream))
    with pytest.raises(ValueError, match="not apart in time: expected blur = 0"):
        one_pass(learner, in_time(stream, batch_size=5, seed=0, blur=1.0), KEY)
    with pytest.raises(ValueError, match="unknown rows to score 'some'"):
        one_pass(learner, stream, KEY, rows="some")
    with pytest.raises(ValueError, match="needs task boundaries"):
        one_pass(ewc(FEW_SHOT, optax.sgd(0.5), label_space_of(stream)), stream, KEY)


# --- recipes -------------------------------------------------------------------------------------

TINY = Online(train_per_class=10, test_per_class=4, tasks=2, memories=8, batch=5, hidden=(4,),
              seeds=(0, 1))  # fmt: skip
ARMS = {"er": recipes.SPLIT["er"], "online": recipes.SPLIT["online"]}


@pytest.fixture
def few_digits(monkeypatch):
    monkeypatch.setattr(recipes, "mnist", lambda part, data_dir=None: blobs(25, part == "test"))


def test_a_comparison_end_to_end_and_resumed(few_digits, tmp_path, monkeypatch):
    report = compare(ARMS)(TINY)(tmp_path / "out")
    lines = report.splitlines()
    assert lines[0].startswith("2 paired seeds")
    assert lines[1].split()[-3:] == ["bank", "own", "s"]
    assert [line.split()[0] for line in lines[2:]] == ["er", "online"]
    # What is finished is kept, and more seeds are added.
    monkeypatch.setattr(recipes, "one_pass", lambda *args, **kwargs: pytest.fail("run again"))
    assert compare(ARMS)(TINY)(tmp_path / "out", resume=True) == report
    with pytest.raises(ValueError, match="with other settings: memories is 8 there, 9 here"):
        compare(ARMS)(replace(TINY, memories=9))(tmp_path / "out", resume=True)


def test_tasks_of_a_domain_have_images_of_their_own(few_digits):
    train, test = (recipes.mnist(part) for part in ("train", "test"))
    for scenario in ("rotations", "permutations"):
        stream = stream_of(replace(TINY, scenario=scenario), train, test, 0)
        rows = np.asarray(stream.train_index.rows)
        assert len(rows) == len(set(rows.tolist())) == 2 * 4 * 10
        assert bool(label_space_of(stream).initial.all())
    split = stream_of(TINY, train, test, 0)
    assert split.original.tolist() == [0, 1, 2, 3]


def test_errors_before_anything_runs(few_digits, tmp_path):
    for changes, message in (
        ({"seeds": (0, 0)}, "seeds must differ"),
        ({"memories": 0}, "memories must be at least 1, got 0"),
        ({"scenario": "rotation"}, "did you mean 'rotations'"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(ARMS)(replace(TINY, **changes))(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_quick_says_what_is_modified(few_digits, tmp_path, monkeypatch):
    full = published.recipes["mnist-rotations"]
    assert "modified" in published.modified(full)
    assert "tasks = 5 (20)" in published.modified(full)
    tiny = full._replace(settings=replace(TINY, tasks=1), run=compare(ARMS), quick=TINY)
    monkeypatch.setitem(published.recipes, "tiny", tiny)
    report = published.reproduce("tiny", tmp_path / "quick", quick=True)
    assert "modified, the protocol's values in brackets: tasks = 2 (1)\npublished: " in report
    with pytest.raises(ValueError, match="sine-maml has no quick settings, expected one of split"):
        published.reproduce("sine-maml", tmp_path / "sine", quick=True)


def test_the_families_and_the_baselines_in_one_table(monkeypatch, tmp_path):
    assert set(comparison.EVERY) <= set(lifelong_learners)

    def record(learner, seed):
        figures = {"acc": 0.5 + 0.1 * seed, "forgetting": None, "fwt_adapted": float("nan")}
        sizes = {"bank": 2000, "own": 0}
        return {"learner": learner, "seed": seed, "bytes": sizes, "seconds": {"train": 1.0},
                "learning_accuracy": 0.75, **figures}  # fmt: skip

    def run(settings, out, *, learners, seeds, resume):
        assert settings is comparison.EQUAL
        return {"runs": [record(name, seed) for seed in seeds for name in learners]}

    monkeypatch.setattr(comparison, "run_lifelong", run)
    report = comparison.comparison(("er", "ncm"), seeds=(0, 1))(comparison.EQUAL)(tmp_path)
    lines = report.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["er", "ncm"]
    # t of one degree of freedom is 12.706; the deviation of 50 and 60 is 7.07
    found = " ".join(lines[2].split()[1:])
    assert found == "55.0 ± 63.5 - 75.0 ± 0.0 - (+0.0 ± 0.0) 2 0 1"
