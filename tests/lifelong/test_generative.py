"""The generative learner on a small stream of images: what it stores, and what it remembers."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import losses, metrics, nets, train
from lml_jax.data.arrays import from_arrays
from lml_jax.data.episodes import episodes
from lml_jax.data.streams import class_incremental
from lml_jax.generative.examples import joined
from lml_jax.generative.gan import retention
from lml_jax.generative.gan.gan import conditional_gan
from lml_jax.learners.maml import maml
from lml_jax.lifelong.finetune import finetune
from lml_jax.lifelong.generative_replay import lifelong_generative
from lml_jax.lifelong.label_space import LabelSpace, label_space_of
from lml_jax.lifelong.run import run_stream
from lml_jax.types import Batch, StreamGenerator

KEY = jax.random.key(0)
CLASSES = 6


def bars(each=20, seed=0):
    """Images 6x6: class c has row c bright, under noise."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(CLASSES), each)
    x = 0.2 * rng.uniform(size=(len(y), 6, 6))
    x[np.arange(len(y)), y] += 0.7
    return from_arrays(x.astype(np.float32), y)


@pytest.fixture(scope="module")
def stream():
    return class_incremental(
        bars(), tasks=3, classes_per_task=2, seed=0, train_per_class=15, shots=6, queries=6,
        meta_batch=1,
    )  # fmt: skip


def learner_of(space, *, options=None, **gan):
    generator = conditional_gan(
        nets.generator([32], (6, 6)),
        nets.projection_discriminator([32]),
        optax.adam(3e-3, b1=0.0, b2=0.99),
        optax.adam(3e-3, b1=0.0, b2=0.99),
        tasks=3,
        classes=CLASSES,
        noise=4,
        ema=0.9,
        retention=retention.align(),
        past_batch=24,
        **gan,
    )
    few_shot = maml(nets.mlp([32], CLASSES), optax.sgd(0.1), steps=1)
    return lifelong_generative(
        few_shot, optax.adam(1e-2), space, generator, past_batch=24, **(options or {})
    )


@pytest.fixture(scope="module")
def runs(stream):
    space = label_space_of(stream)
    few_shot = maml(nets.mlp([32], CLASSES), optax.sgd(0.1), steps=1)
    learners = {
        "align": learner_of(space, options={"test_generated": 8, "generated": 8}),
        "finetune": finetune(few_shot, optax.adam(1e-2), space),
    }
    return {
        name: run_stream(learner, stream, KEY, steps=250, scan=True, chunk=125)
        for name, learner in learners.items()
    }


def test_replay_from_a_generator_that_is_kept_keeps_the_classifier(runs):
    assert metrics.average_accuracy(runs["align"].R) > 0.8
    assert metrics.forgetting(runs["align"].R) < metrics.forgetting(runs["finetune"].R) - 0.3


def test_the_matrices_have_the_gaps_of_a_class_stream(runs):
    seen = np.tril(np.ones((4, 3), bool), -1)
    for run in runs.values():
        np.testing.assert_array_equal(np.isfinite(run.R), seen)
        assert np.isfinite(run.R_adapted).all()


def test_no_example_is_stored(runs, stream):
    """No array of the state holds an image of the stream: those as large are weights."""
    images = jnp.concatenate([stream.train(j).x for j in range(3)]).reshape(-1, 36)
    for leaf in jax.tree.leaves(runs["align"].state):
        if leaf.size % 36 == 0 and leaf.size:
            rows = leaf.reshape(-1, 36)
            gaps = jnp.abs(rows[:, None] - images[None]).sum(axis=2)
            assert float(gaps.min()) > 0.1
    assert jax.tree.leaves(runs["align"].state.own.generator.memory) == []
    assert jax.tree.leaves(runs["align"].state.memory) == []


def test_the_second_task_compiles_nothing(stream):
    learner = learner_of(label_space_of(stream), options={"generated": 4, "test_generated": 4})
    first = stream.train(0)
    state = learner.init(KEY, first.x)
    traces = []

    @jax.jit
    def step(state, i, key):
        traces.append(i)
        return learner.step(state, stream.episodes(i, key), key)

    for i in range(3):
        state, shown = step(state, i, KEY)
        state = jax.jit(learner.end_task)(state, stream.train(i), KEY)
    assert len(traces) == 1
    assert {"loss", "retention", "d_loss", "g_loss", "diversity"} <= set(shown)


def test_replay_has_the_share_of_the_past_tasks(stream):
    """1/i of the arriving task, (i-1)/i of the replay; nothing of it in the first task."""
    learner = learner_of(label_space_of(stream))
    first = stream.train(0)
    state = learner.init(KEY, first.x)

    def of_task(state, seen):
        """The loss of the arriving task alone, among the labels seen."""
        drawn = jax.tree.map(lambda leaf: leaf[0], stream.episodes(seen // 2 - 1, KEY))
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), drawn.support, drawn.query)
        logits = nets.mlp([32], CLASSES).apply(state.train.params["theta"], both.x)
        labels = jnp.arange(CLASSES) < seen
        each = losses.cross_entropy(losses.mask_logits(logits, labels), both.y)
        return float(each.mean())

    alone = of_task(state, seen=2)
    state, shown = learner.step(state, stream.episodes(0, KEY), KEY)
    assert float(shown["retention"]) == 0.0
    np.testing.assert_allclose(shown["loss"], alone, rtol=1e-5)
    state = learner.end_task(state, first, KEY)
    now = of_task(state, seen=4)
    _, shown = learner.step(state, stream.episodes(1, KEY), KEY)
    assert float(shown["retention"]) > 0
    np.testing.assert_allclose(shown["loss"], now / 2 + shown["retention"] / 2, rtol=1e-5)


class Liar(NamedTuple):
    """State of a generator that never learns: what every state of a generator has."""

    step: jnp.ndarray
    bad_step: jnp.ndarray
    finished: jnp.ndarray


def liar(stream):
    """A generator of the finished tasks' own images, with labels that are each off by one."""
    every = jax.tree.map(lambda *rows: jnp.stack(rows), *(stream.train(j) for j in range(3)))
    images, labels = every.x.reshape(-1, 6, 6), every.y.reshape(-1)
    task = jnp.repeat(jnp.arange(3), every.y.shape[1])

    def sample(state, code, key, *, n):
        past = task < state.finished
        rows = jax.random.choice(key, len(labels), (n,), p=past / jnp.maximum(past.sum(), 1))
        own = stream.members[task[rows]] & (jnp.arange(CLASSES)[None] != labels[rows, None])
        weight = jnp.full(n, (state.finished > 0).astype(float))
        return Batch(images[rows], jnp.argmax(own, axis=1), weight)

    zero = jnp.zeros((), jnp.int32)
    return StreamGenerator(
        init=lambda key, x: Liar(zero, zero - 1, zero),
        step=lambda state, tasks, key: (state._replace(step=state.step + 1), {}),
        end_task=lambda state, batch, key: state._replace(finished=state.finished + 1),
        encode=lambda state, support, key: None,
        sample=sample,
    )


def test_the_old_classifier_corrects_the_labels_of_samples(stream):
    few_shot = maml(nets.mlp([32], CLASSES), optax.sgd(0.1), steps=1)
    acc = {}
    for temperature in (None, 2.0):
        learner = lifelong_generative(
            few_shot,
            optax.adam(1e-2),
            label_space_of(stream),
            liar(stream),
            temperature=temperature,
        )
        acc[temperature] = metrics.average_accuracy(
            run_stream(learner, stream, KEY, steps=150, scan=True).R
        )
    assert acc[None] < 0.6
    assert acc[2.0] > 0.9


def test_samples_join_late_in_each_task(stream):
    """The delay begins anew with each task: the step after the first task is without samples."""
    options = {"generated": 8, "generated_from": 3, "generated_weight": 1.0}
    late = learner_of(label_space_of(stream), options=options)
    never = learner_of(label_space_of(stream), options={**options, "generated_weight": 0.0})
    first = stream.train(0)
    state = late.init(KEY, first.x)
    for task, joins in [(0, False), (0, False), (0, False), (0, True), (1, False)]:
        if task == 1 and int(state.finished) == 0:
            state = late.end_task(state, first, KEY)
        moved, other = (
            learner.step(state, stream.episodes(task, KEY), KEY)[0].train.params
            for learner in (late, never)
        )
        assert joins == any(
            jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), moved, other))
        )
        state = late.step(state, stream.episodes(task, KEY), KEY)[0]


def test_samples_join_the_support_set_of_a_test_task(stream):
    """With a class of one bad support example, samples of it move the adapted prediction."""
    space = label_space_of(stream)
    plain, helped = (learner_of(space, options={"test_generated": n}) for n in (0, 32))
    state = run_stream(plain, stream, KEY, steps=60, scan=True).state
    episode = jax.tree.map(lambda leaf: leaf[0], stream.episodes(0, KEY))
    logits = [
        learner.predict(state, episode.support, episode.query.x, KEY) for learner in (plain, helped)
    ]
    assert float(jnp.abs(jnp.where(jnp.isfinite(logits[0]), logits[0] - logits[1], 0)).max()) > 0
    np.testing.assert_array_equal(*(np.isfinite(value) for value in logits))


def test_weights_of_generated_examples():
    real = Batch(jnp.zeros((6, 2)), jnp.array([0, 1, 0, 1, -1, 0]), jnp.array([1.0] * 5 + [0.0]))
    generated = Batch(jnp.ones((3, 2)), jnp.array([0, 1, 0]), jnp.array([1.0, 1.0, 0.0]))
    both = joined(real, generated, 0.5)
    np.testing.assert_allclose(both.weight, [1, 1, 1, 1, 0, 0, 1, 1, 0])
    unborn = joined(real, generated._replace(weight=jnp.zeros(3)), 0.5)
    np.testing.assert_allclose(unborn.weight[6:], 0.0)


@pytest.mark.parametrize(
    ("where", "part"), [("generator", "in the discriminator"), ("classifier", "in the classifier")]
)
def test_what_is_not_finite_is_named_and_stops_the_run(stream, where, part):
    learner = learner_of(label_space_of(stream))
    if where == "generator":
        index = jax.tree.map(np.asarray, stream.train_index)
        x = np.array(stream.x)
        x[index.rows[index.start[1, 0] :][: index.size[1].sum()]] = np.nan
        broken = replace(stream, x=x)
    else:
        tx = optax.chain(
            optax.sgd(1e-2), optax.scale_by_schedule(lambda n: jnp.where(n < 5, 1.0, jnp.inf))
        )
        generator = conditional_gan(
            nets.generator([8], (6, 6)), nets.projection_discriminator([8]), optax.adam(1e-3),
            optax.adam(1e-3), tasks=3, classes=CLASSES,
        )  # fmt: skip
        few_shot = maml(nets.mlp([8], CLASSES), optax.sgd(0.1), steps=1)
        learner = lifelong_generative(few_shot, tx, label_space_of(stream), generator)
        broken = stream
    with pytest.raises(train.DivergedError, match=f"step 5.*{part}") as caught:
        run_stream(learner, broken, KEY, steps=5 if where == "generator" else 8, scan=True)
    state = caught.value.state
    assert int(state.bad_step) == 5
    assert int(state.step) == int(state.own.generator.step) == 5
    floats = [w for w in jax.tree.leaves(state) if jnp.issubdtype(w.dtype, jnp.floating)]
    assert all(jnp.isfinite(w).all() for w in floats)


def test_a_task_incremental_learner_tells_past_samples_from_their_own_task(stream):
    space = label_space_of(stream, task_incremental=True)
    run = run_stream(learner_of(space), stream, KEY, steps=150, scan=True, task_incremental=True)
    np.testing.assert_array_equal(run.R, run.R_task)
    assert metrics.average_accuracy(run.R) > 0.8


def test_labels_local_to_an_episode_are_refused(stream):
    learner = learner_of(label_space_of(stream))
    first = stream.train(0)
    state = learner.init(KEY, first.x)
    local = episodes(bars(), tasks=1, ways=2, shots=1, queries=1)(bars(), KEY)
    with pytest.raises(ValueError, match=r"Task\.id is None"):
        learner.step(state, local, KEY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generated_weight": 1.5}, r"must be in \[0, 1\], got 1.5"),
        ({"generated": -1}, "got 24, -1, 0 and 0"),
        ({"test_generated": -2}, "got 24, 0, -2 and 0"),
        ({"generated_from": -3}, "got 24, 0, 0 and -3"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        learner_of(LabelSpace(3, jnp.zeros(CLASSES, bool)), options=options)


def test_a_stream_without_task_boundaries_is_refused(stream):
    learner = learner_of(label_space_of(stream))
    state = learner.init(KEY, stream.train(0).x)
    with pytest.raises(ValueError, match="needs task boundaries"):
        learner.observe(state, stream.batch(0), KEY)
