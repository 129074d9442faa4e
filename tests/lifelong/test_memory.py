"""The memory learner: what it draws, what it minimises, and what it recalls."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import losses, memory, nets
from lml_jax.data.arrays import from_arrays
from lml_jax.data.streams import class_incremental, domain_incremental
from lml_jax.learners.gemcl import gemcl
from lml_jax.learners.matching import matching
from lml_jax.learners.protonet import protonet
from lml_jax.lifelong._support import draw, stored
from lml_jax.lifelong.label_space import label_space_of
from lml_jax.lifelong.memory_replay import memory_learner
from lml_jax.lifelong.run import run_stream
from lml_jax.types import Batch, Net

KEY = jax.random.key(0)
TASKS, PER_TASK, PER_CLASS = 3, 2, 8
CLASSES = TASKS * PER_TASK
NET = nets.mlp([16], 8)
FEW_SHOT = {
    "protonet": lambda: protonet(NET, classes=CLASSES),
    "gemcl": lambda: gemcl(NET, classes=CLASSES, alpha=2.0, beta=1.0),
    "matching": lambda: matching(NET, classes=CLASSES),
}


def data(classes=CLASSES, n=20):
    centres = 2 * jax.random.normal(jax.random.key(1), (classes, 5))
    y = jnp.repeat(jnp.arange(classes), n)
    return from_arrays(centres[y] + jax.random.normal(KEY, (classes * n, 5)), y)


@pytest.fixture(scope="module")
def stream():
    return class_incremental(
        data(), tasks=TASKS, classes_per_task=PER_TASK, seed=0, train_per_class=15
    )


def balanced(per_class, classes=CLASSES):
    return memory.class_balanced(per_class, classes=classes)


def learner(stream, few_shot="protonet", **options):
    options = {"bank": balanced(PER_CLASS), "shots": 3, **options}
    space = label_space_of(stream)
    return memory_learner(FEW_SHOT[few_shot](), optax.adam(1e-2), space, **options)


def after(stream, tasks, of):
    """The state after so many tasks, without training."""
    state = of.init(KEY, stream.train(0).x)
    for i in range(tasks):
        state = of.end_task(state, stream.train(i), jax.random.key(i))
    return state


@pytest.mark.parametrize("few_shot", FEW_SHOT)
def test_it_learns_a_stream_and_keeps_it(stream, few_shot):
    run = run_stream(learner(stream, few_shot), stream, KEY, steps=30, scan=True)
    assert np.nanmean(run.R[-1]) > 0.7
    assert np.nanmean(run.R_adapted[-1]) > 0.8
    assert np.isnan(run.R[0]).all()


def drawn_from(state, bank, classes, *, every_task):
    """Three examples per class as a support set, and nine queries."""
    return draw(
        bank, state.memory, state.finished, jnp.array(False), KEY, classes=classes, shots=3, n=9,
        every_task=every_task,
    )  # fmt: skip


def test_support_and_queries_are_disjoint_and_of_past_tasks(stream):
    state = after(stream, 2, learner(stream))
    drawn = drawn_from(state, balanced(PER_CLASS), CLASSES, every_task=True)
    assert drawn.support.x.shape[0] == CLASSES * 3
    # Every stored example has a place; those that count are the others of the classes seen.
    assert drawn.query.x.shape[0] == CLASSES * PER_CLASS
    assert int((drawn.query.weight > 0).sum()) == 2 * PER_TASK * (PER_CLASS - 3)
    assert drawn.support.weight.reshape(CLASSES, 3).sum(1).tolist() == [3, 3, 3, 3, 0, 0]
    support = {tuple(row) for row in np.asarray(drawn.support.x[drawn.support.weight > 0])}
    query = {tuple(row) for row in np.asarray(drawn.query.x[drawn.query.weight > 0])}
    assert not support & query
    real = drawn.query.weight > 0
    np.testing.assert_array_equal(drawn.query.y[real] // PER_TASK, drawn.task[real])


def test_every_example_enters_the_bank_once_with_its_task(stream):
    bank = balanced(20)
    state = after(stream, 3, learner(stream, bank=bank))
    held, task = stored(bank, state.memory)
    kept = np.asarray(held.x[held.weight > 0])
    everything = np.concatenate([np.asarray(stream.train(i).x) for i in range(TASKS)])
    assert len(kept) == len(everything)
    np.testing.assert_allclose(np.sort(kept, axis=0), np.sort(everything, axis=0))
    real = np.asarray(held.weight > 0)
    np.testing.assert_array_equal(np.asarray(task)[real], np.asarray(held.y)[real] // PER_TASK)


def test_empty_slots_hold_repeats_and_recall_does_not_depend_on_them(stream):
    """A net that looks at its whole batch sees each stored example as often as any other."""
    batch = stream.train(0)
    first = stream.members[0].nonzero()[0]
    rows = jnp.concatenate([jnp.flatnonzero(batch.y == c)[:PER_CLASS] for c in first])
    x = jnp.concatenate([batch.x[rows] + i for i in range(TASKS)])
    y = jnp.repeat(jnp.arange(CLASSES), PER_CLASS)
    whole = nets.mlp([16], 8)
    centred = Net(whole.init, lambda p, x: whole.apply(p, x) - x.mean() * x[:, :1])
    for net, few in ((NET, "alone"), (centred, "batch statistics")):
        logits = []
        for capacity in (PER_CLASS, 3 * PER_CLASS):
            of = memory_learner(
                protonet(net, classes=CLASSES), optax.adam(1e-2), label_space_of(stream),
                bank=balanced(capacity), shots=3,
            )  # fmt: skip
            state = of.end_task(of.init(KEY, x), Batch(x, y), KEY)
            logits.append(of.recall(state, x, KEY))
        np.testing.assert_allclose(*logits, rtol=1e-3, atol=1e-3, err_msg=few)
    bank = balanced(20)
    drawn = losses.fill_padding(
        stored(bank, after(stream, 1, learner(stream, bank=bank)).memory)[0]
    )
    assert {tuple(row) for row in np.asarray(drawn.x)} == {tuple(r) for r in np.asarray(batch.x)}
    assert drawn.weight.sum() == len(batch.y)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_drawn_task_is_an_unbiased_estimate(stream, reduction):
    """Both estimators, averaged over draws from the same bank, agree within 4 standard errors."""
    values = {}
    for every in (True, False):
        of = learner(stream, every_task=every, reduction=reduction)
        state = after(stream, 2, of)
        episodes = stream.episodes(2, KEY)

        def total(key, of=of, state=state, episodes=episodes):
            metrics = of.step(state, episodes, key)[1]
            return metrics["loss"] - metrics["query_loss"]

        values[every] = jax.jit(jax.vmap(total))(jax.random.split(jax.random.key(3), 400))
    a, b = (np.asarray(values[every]) for every in (True, False))
    error = np.sqrt(a.var() / len(a) + b.var() / len(b))
    assert a.mean() > 10 * error
    assert abs(a.mean() - b.mean()) < 4 * error


def test_the_sum_is_the_mean_times_the_tasks(stream):
    shares = {}
    for reduction in ("sum", "mean"):
        of = learner(stream, every_task=True, reduction=reduction)
        metrics = of.step(after(stream, 2, of), stream.episodes(2, KEY), KEY)[1]
        shares[reduction] = metrics["loss"] - metrics["query_loss"]
    np.testing.assert_allclose(shares["sum"], 2 * shares["mean"], rtol=1e-5)


def test_without_a_retention_loss_there_is_no_term_and_no_query_is_drawn(stream):
    of = learner(stream, retention_weight=0.0, shots=PER_CLASS)
    metrics = of.step(after(stream, 1, of), stream.episodes(1, KEY), KEY)[1]
    assert "retention" not in metrics
    assert metrics["loss"] == metrics["query_loss"]


def test_before_the_first_task_ends_the_retention_loss_is_zero(stream):
    of = learner(stream)
    state, metrics = of.step(after(stream, 0, of), stream.episodes(0, KEY), KEY)
    assert metrics["retention"] == 0
    assert int(state.bad_step) == -1


def test_stored_statistics_are_the_prototypes_until_the_embedding_moves(stream):
    """Everything is kept, so that samples and statistics see the same."""
    x = stream.test(0).x
    states, recalls = {}, {}
    for way in ("samples", "statistics"):
        of = learner(stream, recall_by=way, bank=balanced(20))
        states[way], recalls[way] = after(stream, 2, of), jax.jit(of.recall)
    logits = {way: recalls[way](states[way], x, KEY) for way in states}
    np.testing.assert_allclose(logits["samples"], logits["statistics"], rtol=1e-4, atol=1e-4)
    for way, state in states.items():
        params = jax.tree.map(lambda w: 1.1 * w, state.train.params)
        # What is recomputed from samples is so after an update, which the step counts.
        trained = state.train._replace(params=params, step=state.train.step + 1)
        moved = state._replace(train=trained)
        logits[way] = recalls[way](moved, x, KEY)
    assert jnp.abs(logits["samples"] - logits["statistics"])[:, :4].max() > 1e-2


def test_statistics_of_samples_are_computed_once_until_something_moves(stream):
    """Not embedding the bank anew changes nothing; an update, or a new example, is noticed."""
    of = learner(stream)
    recall, x = jax.jit(of.recall), stream.test(0).x
    state = after(stream, 2, of)
    anew = state._replace(own=state.own._replace(step=jnp.full_like(state.own.step, -1)))
    assert int(state.own.step) == int(state.train.step)
    np.testing.assert_allclose(recall(state, x, KEY), recall(anew, x, KEY), rtol=1e-4, atol=1e-4)
    # It is the stored statistics that are used: others would be seen.
    other = state._replace(own=state.own._replace(fast=jax.tree.map(jnp.ones_like, state.own.fast)))
    assert jnp.abs(recall(other, x, KEY) - recall(state, x, KEY))[:, :4].max() > 1e-2
    trained = of.step(state, stream.episodes(1, KEY), KEY)[0]
    observed = of.observe(state, stream.batch(0), KEY)[0]
    for moved in (trained, observed):
        anew = moved._replace(own=moved.own._replace(step=jnp.full_like(moved.own.step, -1)))
        np.testing.assert_array_equal(recall(moved, x, KEY), recall(anew, x, KEY))
        assert jnp.abs(recall(moved, x, KEY) - recall(state, x, KEY))[:, :4].max() > 1e-4


def test_recall_of_a_known_state_inside_jit(stream):
    of = learner(stream)
    state, x = after(stream, 1, of), stream.test(0).x
    got = jax.jit(lambda x: of.recall(state, x, KEY))(x)
    np.testing.assert_allclose(got, of.recall(state, x, KEY), rtol=1e-3, atol=1e-4)


def test_unseen_classes_are_masked(stream):
    of = learner(stream)
    logits = of.recall(after(stream, 1, of), stream.test(0).x, KEY)
    assert jnp.isfinite(logits[:, :PER_TASK]).all()
    assert jnp.isneginf(logits[:, PER_TASK:]).all()


def test_predict_chooses_among_the_classes_of_the_support_set(stream):
    of = learner(stream)
    state, episode = after(stream, 2, of), stream.episodes(1, KEY)
    support = jax.tree.map(lambda leaf: leaf[0], episode.support)
    logits = of.predict(state, support, stream.test(1).x, KEY)
    assert jnp.isfinite(logits[:, 2:4]).all()
    assert jnp.isneginf(logits[:, jnp.array([0, 1, 4, 5])]).all()


def test_a_domain_stream_knows_the_task_of_each_sample():
    turned = domain_incremental(
        data(classes=2), lambda i, x: x + jnp.asarray(i, x.dtype), tasks=3, classes=2, seed=0,
        train_per_class=15,
    )  # fmt: skip
    few_shot = protonet(NET, classes=2)
    of = memory_learner(
        few_shot, optax.adam(1e-2), label_space_of(turned), bank=balanced(10, classes=2), shots=3
    )
    state = after(turned, 3, of)
    assert set(np.unique(state.memory.items[2])) == {0, 1, 2}
    drawn = drawn_from(state, balanced(10, classes=2), 2, every_task=False)
    assert len(set(drawn.task.tolist())) == 1
    assert drawn.query.weight.tolist() == [1.0] * 9


def test_the_second_step_compiles_nothing(stream):
    chex.clear_trace_counter()
    of = learner(stream)
    step = jax.jit(chex.assert_max_traces(of.step, n=1), donate_argnums=0)
    state = after(stream, 1, of)
    for i in range(2):
        state, _ = step(state, stream.episodes(1, jax.random.key(i)), KEY)


def test_bad_arguments_are_named(stream):
    with pytest.raises(ValueError, match=r"at least 0, got -1"):
        learner(stream, retention_weight=-1.0)
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        learner(stream, reduction="meen")
    with pytest.raises(ValueError, match="did you mean 'samples'"):
        learner(stream, recall_by="sample")
    with pytest.raises(ValueError, match="room for 48 examples, and a support set may take 48"):
        after(stream, 0, learner(stream, shots=8))
    with pytest.raises(ValueError, match="past_batch must be at least 1, got 0"):
        learner(stream, past_batch=0)
    with pytest.raises(ValueError, match="shots must be at least 1, got 0"):
        learner(stream, shots=0)
    of = learner(stream)
    with pytest.raises(ValueError, match="nothing was learned yet"):
        of.recall(after(stream, 0, of), stream.test(0).x, KEY)
    local = stream.episodes(0, KEY)._replace(id=None)
    with pytest.raises(ValueError, match="number their classes"):
        of.step(after(stream, 0, of), local, KEY)
    first = stream.train(0)
    for wrong in (-100, 100):
        odd = first._replace(y=first.y + wrong)
        with pytest.raises(ValueError, match=r"expected -1\.\.5"):
            of.end_task(after(stream, 0, of), odd, KEY)
        episodes = stream.episodes(0, KEY)
        query = episodes.query._replace(y=episodes.query.y + wrong)
        with pytest.raises(ValueError, match=r"expected -1\.\.5"):
            of.step(after(stream, 0, of), episodes._replace(query=query), KEY)
    small = memory_learner(protonet(NET, classes=5), optax.adam(1e-2), label_space_of(stream))
    with pytest.raises(ValueError, match="the learner has 5 classes, expected 6"):
        after(stream, 0, small)
    with pytest.raises(ValueError, match="keep their size"):
        after(stream, 1, learner(stream, "matching", recall_by="statistics"))
