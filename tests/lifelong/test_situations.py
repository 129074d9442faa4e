"""Situations in which a lifelong learner could give a wrong number and say nothing."""

import pickle
import warnings
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import losses, memory, nets
from lml_jax.data.arrays import from_arrays
from lml_jax.data.streams import class_incremental, in_time, of_tasks
from lml_jax.experiments.lifelong.settings import Lifelong
from lml_jax.experiments.lifelong.streams import JITTERED
from lml_jax.generative.gan.gan import conditional_gan
from lml_jax.learners.maml import maml
from lml_jax.learners.protonet import protonet
from lml_jax.lifelong.finetune import finetune
from lml_jax.lifelong.generative_replay import lifelong_generative
from lml_jax.lifelong.joint import joint
from lml_jax.lifelong.label_space import LabelSpace, label_space_of
from lml_jax.lifelong.lifelong_maml import lifelong_maml
from lml_jax.lifelong.memory_replay import memory_learner
from lml_jax.lifelong.online import run_online
from lml_jax.lifelong.restart import with_fresh_optimizer
from lml_jax.lifelong.run import run_stream
from lml_jax.lifelong.score import class_accuracy, negative_squared_error, warn_if_mixed
from lml_jax.types import Batch, Net

KEY = jax.random.key(0)
TASKS, CLASSES, WIDTH = 3, 6, 5
TX = optax.adam(1e-2)


def data(counts=(14,) * CLASSES):
    """Blobs in 0..1."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(CLASSES), counts)
    x = 0.7 * rng.uniform(size=(CLASSES, WIDTH))[y] + 0.3 * rng.uniform(size=(len(y), WIDTH))
    return from_arrays(x.astype(np.float32), y)


@pytest.fixture(scope="module")
def stream():
    return class_incremental(
        data(), tasks=TASKS, classes_per_task=2, seed=0, train_per_class=10, shots=3, queries=3,
        meta_batch=1,
    )  # fmt: skip


def descent(net):
    return maml(net(CLASSES), optax.sgd(0.1), steps=1)


def a_gan():
    return conditional_gan(
        nets.generator([8], (WIDTH,)), nets.projection_discriminator([8]), TX, TX, tasks=TASKS,
        classes=CLASSES, past_batch=4,
    )  # fmt: skip


def generative(net, space):
    return lifelong_generative(descent(net), TX, space, a_gan(), past_batch=4)


# name -> (classes -> network, label space) -> learner
LEARNERS = {
    "finetune": lambda net, space: finetune(descent(net), TX, space),
    "joint": lambda net, space: joint(descent(net), TX, space, capacity=30),
    "maml": lambda net, space: lifelong_maml(descent(net), TX, space),
    "maml, bank": lambda net, space: lifelong_maml(
        descent(net), TX, space, bank=memory.reservoir(20), recall_on="bank"
    ),
    "memory": lambda net, space: memory_learner(
        protonet(net(8), classes=CLASSES), TX, space, shots=3
    ),
    "generative": generative,
}


def mlp(outputs):
    return nets.mlp([8], outputs)


def test_a_row_of_nan_is_wrong_and_of_infinity_right():
    y = jnp.array([0, 0])
    batch, every = Batch(jnp.zeros((2, 1)), y), jnp.ones(2, bool)

    def of(*rows):
        return float(class_accuracy(jnp.array(rows), batch, every))

    nan, inf = jnp.nan, jnp.inf
    assert of([5.0, 0.0], [nan, nan]) == 0.5
    assert of([5.0, 0.0], [nan, 0.0]) == 0.5
    assert of([5.0, 0.0], [0.0, nan]) == 0.5
    assert of([inf, 0.0], [inf, -inf]) == 1.0
    assert of([0.0, inf], [5.0, 0.0]) == 0.5
    assert of([-inf, 0.0], [0.0, 5.0]) == 0.0  # the first was not seen, and is left out
    assert np.isnan(of([-inf, 0.0], [-inf, -inf]))


@pytest.mark.parametrize("name", ["maml, bank", "memory"])
def test_what_was_refused_is_not_remembered(stream, name):
    """A batch with a label outside the head, inside jit: it enters no bank; nor does a task."""
    learner = LEARNERS[name](mlp, label_space_of(stream))
    batch = stream.train(0)
    wrong = batch._replace(y=batch.y.at[0].set(99))
    fresh = learner.init(KEY, batch.x)
    state, metrics = jax.jit(learner.observe)(fresh, wrong, KEY)
    ended = jax.jit(learner.end_task)(fresh, wrong, KEY)
    assert int(metrics["bad_step"]) == int(ended.bad_step) == 0
    assert not memory.contents(state.memory)[1].any()
    (_, y, _), valid = memory.contents(ended.memory)
    assert valid.any()
    assert y[valid].max() < CLASSES


def with_id(tasks, number):
    return tasks._replace(id=jnp.full_like(tasks.id, number))


@pytest.mark.parametrize("name", LEARNERS)
def test_a_task_that_does_not_exist(stream, name):
    learner = LEARNERS[name](mlp, label_space_of(stream))
    state = learner.init(KEY, stream.train(0).x)
    step, tasks = jax.jit(learner.step), stream.episodes(0, KEY)
    for number in (7, -1):
        with pytest.raises(ValueError, match=rf"task {number} does not exist, expected 0\.\.2"):
            learner.step(state, with_id(tasks, number), KEY)
        moved, metrics = step(state, with_id(tasks, number), KEY)
        assert int(metrics["bad_step"]) == int(moved.bad_step) == 0
        chex.assert_trees_all_equal(moved.train.params, state.train.params)


@pytest.mark.parametrize("name", LEARNERS)
def test_more_tasks_than_there_is_room_for(stream, name):
    learner = LEARNERS[name](mlp, label_space_of(stream))
    end_task, step = jax.jit(learner.end_task), jax.jit(learner.step)
    state = learner.init(KEY, stream.train(0).x)
    for i in range(TASKS):
        state = end_task(state, stream.train(i), KEY)
    assert int(state.bad_step) == -1
    with pytest.raises(ValueError, match="room for 3 tasks"):
        learner.end_task(state, stream.train(0), KEY)
    state = end_task(state, stream.train(0), KEY)
    assert int(state.bad_step) == 0
    moved, metrics = step(state, stream.episodes(0, KEY), KEY)
    assert int(metrics["bad_step"]) == 0
    chex.assert_trees_all_equal(moved.train.params, state.train.params)


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("label", [CLASSES, -2])
def test_a_learner_that_stopped_says_so_at_every_step(stream, name, label):
    """After a label outside the label space, seen by nobody inside jit."""
    learner = LEARNERS[name](mlp, label_space_of(stream))
    step = jax.jit(learner.step)
    state, metrics = step(learner.init(KEY, stream.train(0).x), stream.episodes(0, KEY), KEY)
    assert int(metrics["bad_step"]) == -1
    tasks = stream.episodes(0, KEY)
    wrong = tasks._replace(query=tasks.query._replace(y=tasks.query.y.at[0, 0].set(label)))
    with pytest.raises(ValueError, match=r"expected -1\.\.5"):
        learner.step(state, wrong, KEY)
    stopped, metrics = step(state, wrong, KEY)
    assert int(metrics["bad_step"]) == 1
    for key in jax.random.split(KEY, 2):
        stopped, metrics = step(stopped, stream.episodes(0, key), key)
        assert int(metrics["bad_step"]) == int(stopped.bad_step) == 1
    chex.assert_trees_all_equal(stopped.train.params, state.train.params)


def standardised(outputs):
    """Each image by its own mean and deviation: 0 / 0, and no gradient, at one of zeros."""
    net = nets.mlp([8], outputs)

    def shown(x):
        return (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)

    return Net(net.init, lambda params, x: net.apply(params, shown(x)))


@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "generative"])
def test_empty_slots_and_padding_never_reach_a_network(name):
    """Classes of 4 to 9 training examples: banks with gaps, and tasks with padding."""
    uneven = class_incremental(
        data((8, 9, 10, 11, 12, 13)), tasks=TASKS, classes_per_task=2, seed=0, shots=3, queries=3,
        meta_batch=1, test=data(),
    )  # fmt: skip
    net = standardised(2)
    zeros = jnp.zeros((1, WIDTH))
    assert jnp.isnan(net.apply(net.init(KEY, zeros), zeros)).all()
    learner = LEARNERS[name](standardised, label_space_of(uneven))
    run = run_stream(learner, uneven, KEY, steps=3, scan=True)  # raises where it diverges
    assert int(run.state.step) == 3 * TASKS
    assert np.isfinite(run.R[-1]).all()
    assert np.isfinite(run.R_adapted).all()
    logits = learner.recall(run.state, uneven.test(0).x, KEY)
    assert jnp.isfinite(logits).all()
    state, _ = jax.jit(learner.observe)(learner.init(KEY, zeros), uneven.batch(0), KEY)
    assert int(state.bad_step) == -1


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("side", ["support", "query"])
def test_weights_on_one_side_of_an_episode(stream, name, side):
    """None on the other side is 1 for each example."""
    learner = LEARNERS[name](mlp, label_space_of(stream))
    state = learner.init(KEY, stream.train(0).x)
    state = jax.jit(learner.end_task)(state, stream.train(0), KEY)
    tasks = stream.episodes(1, KEY)
    weight = jnp.ones_like(tasks.support.weight).at[:, 0].set(0.0)
    whole = {"support": jnp.ones_like(weight), "query": jnp.ones_like(weight), side: weight}
    given = tasks._replace(**{
        part: getattr(tasks, part)._replace(weight=whole[part]) for part in whole
    })  # fmt: skip
    other = "query" if side == "support" else "support"
    one_side = given._replace(**{other: getattr(given, other)._replace(weight=None)})
    step = jax.jit(learner.step)
    (want, _), (got, metrics) = step(state, given, KEY), step(state, one_side, KEY)
    assert int(metrics["bad_step"]) == -1
    chex.assert_trees_all_close(got.train.params, want.train.params, rtol=1e-5, atol=1e-6)
    _, every = step(state, tasks, KEY)
    assert abs(float(metrics["loss"] - every["loss"])) > 1e-6  # the weight of 0 is heard


def test_batch_statistics_at_test_are_warned_of(stream):
    """With the statistics of a test set of one task the network can tell the task."""

    def batch_norm(outputs):
        net = nets.mlp([8], outputs)
        return Net(
            net.init, lambda p, x: net.apply(p, (x - x.mean(0)[None]) / (x.std(0)[None] + 0.1))
        )

    def learner(net):
        return LEARNERS["finetune"](net, label_space_of(stream))

    with pytest.warns(UserWarning, match="depend on the other test images"):
        run_stream(learner(batch_norm), stream, KEY, steps=1)
    good = learner(mlp)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_mixed(good.recall, good.init(KEY, stream.train(0).x), stream.test(0), KEY)


def test_a_fresh_optimizer_for_each_task(stream):
    tx = optax.adam(1e-2)
    learner = finetune(descent(mlp), tx, label_space_of(stream))
    step = jax.jit(learner.step)
    ends = {
        "carried": jax.jit(learner.end_task),
        "fresh": jax.jit(with_fresh_optimizer(learner, tx).end_task),
    }
    for name, end_task in ends.items():
        state = learner.init(KEY, stream.train(0).x)
        state, _ = step(state, stream.episodes(0, KEY), KEY)
        state = end_task(state, stream.train(0), KEY)
        count = int(state.train.opt_state[0].count)
        moved = max(float(jnp.abs(m).max()) for m in jax.tree.leaves(state.train.opt_state[0].mu))
        assert (count, moved > 0) == ((1, True) if name == "carried" else (0, False))
        assert int(state.step) == 1


@pytest.mark.parametrize("name", ["memory", "generative"])
def test_a_loss_of_the_users_own(stream, name):
    def constant(logits, y):
        return 0.0 * losses.cross_entropy(logits, y) + 7.0

    space = label_space_of(stream)
    make = {
        "memory": lambda loss: memory_learner(
            protonet(mlp(8), classes=CLASSES), TX, space, shots=3, loss=loss
        ),
        "generative": lambda loss: lifelong_generative(
            descent(mlp), TX, space, a_gan(), past_batch=4, loss=loss
        ),
    }[name]
    learner = make(constant)
    state = learner.init(KEY, stream.train(0).x)
    metrics = jax.jit(learner.step)(state, stream.episodes(0, KEY), KEY)[1]
    np.testing.assert_allclose(metrics["loss"], 7.0, rtol=1e-5)


def test_the_memory_learner_says_that_it_classifies():
    space = LabelSpace(TASKS, jnp.zeros(0, bool), target=(1,))
    with pytest.raises(ValueError, match="expected a label space of classes"):
        memory_learner(protonet(mlp(8), classes=1), TX, space)


@pytest.mark.parametrize("name", ["finetune", "joint", "maml"])
def test_several_labels_of_one_example(name):
    """Targets in {0, 1}^3 under a logistic loss, with and without task boundaries."""
    bits = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])

    def loss(outputs, y):
        return optax.sigmoid_binary_cross_entropy(outputs, y).mean(-1)

    few_shot = maml(nets.mlp([8], 3), optax.sgd(0.1), steps=1, loss=loss)
    space = LabelSpace(TASKS, jnp.zeros(0, bool), target=(3,))
    learner = {
        "finetune": lambda: finetune(few_shot, TX, space, loss=loss),
        "joint": lambda: joint(few_shot, TX, space, capacity=30, loss=loss),
        "maml": lambda: lifelong_maml(few_shot, TX, space, loss=loss),
    }[name]()
    x = jax.random.normal(KEY, (10, WIDTH))
    batch = Batch(x, bits[(x[:, 0] > 0).astype(int)])
    state = learner.init(KEY, x)
    observe = jax.jit(learner.observe)
    for key in jax.random.split(KEY, 40):
        state, metrics = observe(state, batch, key)
    assert int(metrics["bad_step"]) == -1
    state = jax.jit(learner.end_task)(state, batch, KEY)
    assert ((learner.recall(state, x, KEY) > 0) == (batch.y > 0)).mean() > 0.9


@pytest.fixture(scope="module")
def regression():
    """Three tasks, each a part of one curve: y = sin(3 x) on its own interval of -1..1."""
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(TASKS), 40)
    x = ((2 * task + 2 * rng.uniform(size=len(task))) / 3 - 1).astype(np.float32)[:, None]
    made = of_tasks(
        from_arrays(x, task), [[0], [1], [2]], seed=0, train_per_class=30, shots=8, queries=8,
        meta_batch=2,
    )  # fmt: skip
    # The classes only say which examples are of a task; what is learned are the targets.
    targets = {
        part: index._replace(y=jnp.sin(3 * jnp.asarray(x)[index.rows]))
        for part, index in (("train_index", made.train_index), ("test_index", made.test_index))
    }
    return replace(made, classes=0, **targets)


@pytest.mark.parametrize("name", ["finetune", "joint", "maml"])
def test_a_regression_stream(regression, name):
    squared = losses.squared_error
    few_shot = maml(nets.mlp([32], 1), optax.sgd(0.05), steps=1, loss=squared)
    space = LabelSpace(TASKS, jnp.zeros(0, bool), target=(1,))
    learner = {
        "finetune": lambda: finetune(few_shot, TX, space, loss=squared),
        "joint": lambda: joint(few_shot, TX, space, capacity=30, loss=squared),
        "maml": lambda: lifelong_maml(few_shot, TX, space, loss=squared),
    }[name]()
    run = run_stream(
        learner, regression, KEY, steps=400, scan=True, chunk=100, score=negative_squared_error
    )
    for scores in (run.R, run.R_task, run.R_adapted, run.online):
        assert np.isfinite(scores).all()
        assert (scores <= 0).all()
    np.testing.assert_allclose(run.R, run.R_task)
    learned = np.array([run.R[i + 1, i] for i in range(TASKS)])
    assert (learned > run.R[0]).all()
    assert learned.min() > -0.1
    # Targets are stored as they are, and nothing is taken for a label.
    if name != "finetune":
        (x, y, _), valid = memory.contents(run.state.memory)
        np.testing.assert_allclose(y[valid], np.sin(3 * x[valid]), atol=1e-5)
    if name == "joint":
        assert run.R[-1].mean() > -0.1


def test_recall_of_an_online_stream_at_defaults():
    """It is of the bank, of all classes, and not of the last batch; lambda has no part in it."""
    online = in_time(
        class_incremental(data((130,) * CLASSES), tasks=TASKS, classes_per_task=2, seed=0,
                          train_per_class=120), batch_size=10, seed=0,
    )  # fmt: skip
    few_shot = maml(nets.mlp([32], CLASSES), optax.sgd(0.1), steps=1)
    scores = {}
    for options in ({}, {"recall_on": "bank", "decay": 1.0}):
        learner = lifelong_maml(few_shot, optax.adam(0.03), label_space_of(online), **options)
        *_, run = run_online(learner, online, KEY, score_every=100)
        scores[options.get("recall_on")] = float(run.anytime[-1])
    assert scores[None] == scores["bank"] > 0.8


def test_a_batch_with_one_example_of_a_class_stops_no_memory_learner():
    """Half of a batch are queries; one whose class has no other example has no part in the loss."""
    blurred = in_time(
        class_incremental(data((30,) * CLASSES), tasks=TASKS, classes_per_task=2, seed=0,
                          train_per_class=20), batch_size=4, seed=0, blur=0.5,
    )  # fmt: skip
    few_shot = protonet(nets.mlp([16], 8), classes=CLASSES)
    learner = memory_learner(few_shot, TX, label_space_of(blurred), shots=2, past_batch=4)
    *_, run = run_online(learner, blurred, KEY, score_every=100)
    assert int(run.state.bad_step) == -1
    assert run.anytime[-1] > 0.5


def rebuilt(sent):
    """What another process does: a learner is built there, of what was sent."""
    stream, state, rate = pickle.loads(sent)
    few_shot = maml(mlp(CLASSES), optax.sgd(rate), steps=1)
    return lifelong_maml(few_shot, TX, label_space_of(stream)), stream, state


def test_what_is_sent_to_another_process(stream):
    """Streams, states, results and settings are pickled; a learner is rebuilt from its settings."""
    jittered = replace(stream, augment=JITTERED)
    learner, _, _ = rebuilt(pickle.dumps((stream, None, 0.1)))
    state = learner.init(KEY, stream.train(0).x)
    again, moved, there = rebuilt(pickle.dumps((jittered, state, 0.1)))
    assert moved.augment is not None
    chex.assert_trees_all_equal(there, state)
    x = stream.test(0).x
    chex.assert_trees_all_equal(again.recall(there, x, KEY), learner.recall(state, x, KEY))
    settings = Lifelong(data="digits", tasks=2, decay=None)
    assert pickle.loads(pickle.dumps(settings)) == settings
