"""Every lifelong learner on a small stream, with no branch on its name."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import memory, metrics, nets, train
from lml_jax.data.arrays import from_arrays
from lml_jax.data.domains import permuted
from lml_jax.data.episodes import episodes
from lml_jax.data.streams import class_incremental, domain_incremental
from lml_jax.learners.maml import maml
from lml_jax.lifelong.finetune import finetune
from lml_jax.lifelong.joint import joint
from lml_jax.lifelong.label_space import LabelSpace, label_space_of
from lml_jax.lifelong.lifelong_maml import lifelong_maml
from lml_jax.lifelong.run import run_stream
from lml_jax.lifelong.score import class_accuracy
from lml_jax.types import Batch

KEY = jax.random.key(0)
CLASSES = 6


def blobs(classes=CLASSES, each=20, seed=0):
    """Gaussian blobs in 8 dimensions, apart enough to be learned in a few steps."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(classes, 8))
    y = np.repeat(np.arange(classes), each)
    return from_arrays((centres[y] + rng.normal(size=(len(y), 8))).astype(np.float32), y)


def few_shot(classes=CLASSES):
    return maml(nets.mlp([32], classes), optax.sgd(0.1), steps=1)


@pytest.fixture(scope="module")
def stream():
    return class_incremental(
        blobs(), tasks=3, classes_per_task=2, seed=0, train_per_class=15, shots=3, queries=3
    )


def learners(space):
    shared = (few_shot(space.classes), optax.adam(1e-2), space)
    small = memory.task_indexed(20, tasks=space.tasks)
    return {
        "maml": lifelong_maml(*shared, bank=small, past_batch=10),
        "maml, every task": lifelong_maml(*shared, every_task=True, reduction="mean"),
        "maml, no history": lifelong_maml(*shared, decay=None),
        "maml, recall on the bank": lifelong_maml(*shared, recall_on="bank"),
        "finetune": finetune(*shared),
        "joint": joint(*shared, capacity=30),
    }


NAMES = list(learners(LabelSpace(3, jnp.zeros(CLASSES, bool))))


@pytest.fixture(scope="module")
def runs(stream):
    made = learners(label_space_of(stream))
    return {name: run_stream(made[name], stream, KEY, steps=60, scan=True) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_matrices_have_the_shape_and_the_gaps_of_a_class_stream(runs, name):
    run = runs[name]
    assert run.R.shape == run.R_task.shape == run.R_adapted.shape == (4, 3)
    seen = np.tril(np.ones((4, 3), bool), -1)
    np.testing.assert_array_equal(np.isfinite(run.R), seen)
    np.testing.assert_array_equal(np.isfinite(run.R_task), seen)
    assert np.isfinite(run.R_adapted).all()
    assert np.isfinite(run.online).all()
    assert {"setup", "compile", "train", "eval"} == set(run.seconds)


@pytest.mark.parametrize("name", NAMES)
def test_every_learner_learns_each_task_as_it_comes(runs, name):
    assert metrics.learning_accuracy(runs[name].R_task) > 0.7


def test_history_forgets_less_than_none_and_than_finetuning(runs):
    forgotten = {name: metrics.forgetting(run.R) for name, run in runs.items()}
    assert forgotten["maml"] < forgotten["maml, no history"] - 0.2
    assert forgotten["maml"] < forgotten["finetune"] - 0.2
    assert metrics.average_accuracy(runs["joint"].R) > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_the_second_step_compiles_nothing(stream, name):
    learner = learners(label_space_of(stream))[name]
    first = stream.train(0)
    state = learner.init(KEY, first.x)
    traces = []

    @jax.jit
    def step(state, i, key):
        traces.append(i)
        return learner.step(state, stream.episodes(i, key), key)

    for i in range(3):
        state, _ = step(state, i, KEY)
        state = jax.jit(learner.end_task)(state, stream.train(i), KEY)
    assert len(traces) == 1


@pytest.mark.parametrize("name", NAMES)
def test_labels_local_to_an_episode_are_refused(stream, name):
    learner = learners(label_space_of(stream))[name]
    first = stream.train(0)
    state = learner.init(KEY, first.x)
    local = episodes(blobs(), tasks=2, ways=2, shots=1, queries=1)(blobs(), KEY)
    with pytest.raises(ValueError, match=r"Task\.id is None"):
        learner.step(state, local, KEY)


def test_a_label_space_of_another_size_is_refused(stream):
    space = LabelSpace(3, jnp.zeros(9, bool))
    learner = finetune(few_shot(9), optax.adam(1e-2), space)
    with pytest.raises(ValueError, match="learner has 9 classes, the stream has 6"):
        run_stream(learner, stream, KEY, steps=1)


def test_labels_outside_the_label_space_are_refused(stream):
    learner = finetune(few_shot(), optax.adam(1e-2), label_space_of(stream))
    for part in ("train", "test"):
        index = getattr(stream, f"{part}_index")
        for far, found in ((5, "5..10"), (-2, "-2..3")):
            wrong = replace(stream, **{f"{part}_index": index._replace(y=index.y + far)})
            message = rf"labels \({part}\) are in {found}, expected -1\.\.5"
            with pytest.raises(ValueError, match=message):
                run_stream(learner, wrong, KEY, steps=1)


def with_bad_images(stream, i):
    """The stream, the training images of its task i NaN."""
    index = jax.tree.map(np.asarray, stream.train_index)
    rows = index.rows[index.start[i, 0] :][: index.size[i].sum()]
    x = np.array(stream.x)
    x[rows] = np.nan
    return replace(stream, x=x)


def test_a_loss_that_is_not_finite_names_its_task_and_keeps_the_rows_so_far(stream):
    rows = []
    learner = lifelong_maml(few_shot(), optax.adam(1e-2), label_space_of(stream))
    with pytest.raises(train.DivergedError, match=r"step 5.*task 1 of the stream") as caught:
        run_stream(
            learner, with_bad_images(stream, 1), KEY, steps=5,
            on_row=lambda i, run: rows.append((i, run.R[i].copy())),
        )  # fmt: skip
    assert [i for i, _ in rows] == [0, 1]
    assert np.isfinite(rows[1][1][0])
    assert all(jnp.isfinite(w).all() for w in jax.tree.leaves(caught.value.state.train.params))


def test_a_task_incremental_learner_is_given_the_classes_of_each_task(stream):
    learner = finetune(few_shot(), optax.adam(1e-2), label_space_of(stream, task_incremental=True))
    run = run_stream(learner, stream, KEY, steps=60, scan=True, task_incremental=True)
    np.testing.assert_array_equal(run.R, run.R_task)
    assert np.isfinite(run.R).all()  # given the task, there is always something to choose from
    assert np.isfinite(metrics.forward_transfer(run.R))
    assert metrics.average_accuracy(run.R) > 0.7


def test_trained_parameters_are_what_row_0_scores():
    data = blobs(classes=3)
    stream = domain_incremental(
        data, permuted(0), tasks=2, classes=3, seed=0, train_per_class=15, shots=3, queries=3
    )
    learner = finetune(few_shot(3), optax.adam(1e-2), label_space_of(stream))
    trained = run_stream(learner, stream, KEY, steps=60, scan=True)
    params = trained.state.train.params
    again = run_stream(learner, stream, KEY, steps=1, params=params)
    np.testing.assert_array_equal(again.R[0], trained.R[2])


def test_a_domain_stream_has_every_cell():
    data = blobs(classes=3)
    stream = domain_incremental(
        data, permuted(0), tasks=3, classes=3, seed=0, train_per_class=15, shots=3, queries=3
    )
    learner = lifelong_maml(few_shot(3), optax.adam(1e-2), label_space_of(stream))
    run = run_stream(learner, stream, KEY, steps=40, scan=True)
    assert np.isfinite(run.R).all()
    assert np.isfinite(metrics.forward_transfer(run.R))
    assert metrics.learning_accuracy(run.R) > 0.7


def test_a_score_counts_only_what_could_be_right():
    logits = jnp.array([[1.0, 0.0, -jnp.inf], [1.0, 0.0, -jnp.inf], [0.0, 9.0, -jnp.inf]])
    batch = Batch(jnp.zeros((3, 1)), jnp.array([0, 1, 2]))
    every = jnp.ones(3, bool)
    assert float(class_accuracy(logits, batch, every)) == 0.5
    assert float(class_accuracy(logits, batch, jnp.array([False, True, False]))) == 1.0
    assert jnp.isnan(class_accuracy(logits, batch, jnp.array([False, False, True])))
    padded = batch._replace(weight=jnp.array([1.0, 0.0, 1.0]))
    assert float(class_accuracy(logits, padded, every)) == 1.0


def test_joint_training_refuses_a_bank_that_cannot_keep_everything(stream):
    learner = joint(few_shot(), optax.adam(1e-2), label_space_of(stream), capacity=29)
    with pytest.raises(ValueError, match="a task has 30 and the capacity is 29"):
        run_stream(learner, stream, KEY, steps=1)


def test_the_state_that_was_reported_outlives_the_run(stream):
    states = []
    learner = finetune(few_shot(), optax.adam(1e-2), label_space_of(stream))
    run_stream(learner, stream, KEY, steps=2, on_row=lambda i, so_far: states.append(so_far.state))
    assert all(jnp.isfinite(w).all() for s in states for w in jax.tree.leaves(s.train.params))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1.5}, "got 1.5"),
        ({"reduction": "average"}, "'average'"),
        ({"recall_on": "memory"}, "'memory'"),
        ({"past_batch": 0}, "past_batch must be at least 1, got 0"),
        ({"recall_examples": 0}, "recall_examples must be at least 1, got 0"),
        ({"every_task": True, "bank": memory.fifo(9)}, "a bank that groups by task"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    space = LabelSpace(3, jnp.zeros(6, bool))
    with pytest.raises(ValueError, match=message):
        lifelong_maml(few_shot(), optax.adam(1e-2), space, **options)


def test_a_bank_without_room_is_refused():
    with pytest.raises(ValueError, match="0"):
        memory.task_indexed(0, tasks=3)
