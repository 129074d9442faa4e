"""What every learner that classifies by an embedding has in common, and what each has alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import nets, train
from lml_jax.learners.gemcl import gemcl
from lml_jax.learners.matching import Attended, class_scores, matching
from lml_jax.learners.protonet import protonet
from lml_jax.types import Batch, Task

KEY = jax.random.key(0)
NET = nets.mlp([16], 8)
LEARNERS = {
    "protonet": lambda c: protonet(NET, classes=c),
    "protonet-euclidean": lambda c: protonet(NET, classes=c, distance="euclidean"),
    "protonet-temperature": lambda c: protonet(NET, classes=c, temperature=True),
    "gemcl-map": lambda c: gemcl(NET, classes=c, predictive="map", alpha=2.0, beta=1.0),
    "gemcl-bayes": lambda c: gemcl(NET, classes=c, alpha=2.0, beta=1.0),
    "matching-cosine": lambda c: matching(NET, classes=c),
    "matching-squared": lambda c: matching(NET, classes=c, kernel="squared", tau=1.0),
}
CONTEXT = {
    "matching-context": lambda c: matching(NET, classes=c, context=nets.lstm_context(8, steps=2))
}
every = pytest.mark.parametrize("make", (LEARNERS | CONTEXT).values(), ids=LEARNERS | CONTEXT)
without_context = pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)


def task(key=KEY, ways=3, shots=4):
    """Noisy points around a centre for each class, which only an embedding of 2 of 6 axes sees."""
    key_c, key_s, key_q = jax.random.split(key, 3)
    centres = jnp.zeros((ways, 6)).at[:, :2].set(jax.random.normal(key_c, (ways, 2)))

    def part(key):
        y = jnp.repeat(jnp.arange(ways, dtype=jnp.int32), shots)
        wide = jnp.array([[0.1, 0.1, 1.0, 1.0, 1.0, 1.0]])
        return Batch(centres[y] + wide * jax.random.normal(key, (ways * shots, 6)), y)

    return Task(part(key_s), part(key_q))


def tasks(n, key=KEY):
    return jax.vmap(task)(jax.random.split(key, n))


@every
def test_it_learns(make):
    learner, tx = make(3), optax.adam(1e-2)
    step = train.make_train_step(train.episode_loss(learner), tx)
    state = train.init_state(learner.init(KEY, task().support.x), tx)
    many = train.make_runner(step, lambda _, key: tasks(8, key), scan=True)
    first = jax.jit(train.episode_loss(learner))(state.params, task(), KEY)[1]["accuracy"]
    state, metrics = many(state, (), KEY, 150)
    assert int(state.bad_step) == -1
    assert metrics["accuracy"][-20:].mean() > max(0.85, first)


@every
def test_vmap_over_tasks_is_a_loop(make):
    learner = make(3)
    params = learner.init(KEY, task().support.x)
    of_task = train.episode_loss(learner)
    four = tasks(4)
    together = jax.vmap(of_task, in_axes=(None, 0, None))(params, four, KEY)[0]
    one_by_one = [
        of_task(params, jax.tree.map(lambda leaf, i=i: leaf[i], four), KEY)[0] for i in range(4)
    ]
    np.testing.assert_allclose(together, jnp.stack(one_by_one), rtol=1e-4, atol=1e-5)


@without_context
def test_going_on_is_all_at_once_in_any_order(make):
    learner = make(3)
    support, query, _ = task()
    params = learner.init(KEY, support.x)
    at_once = learner.predict(params, learner.adapt(params, support, KEY), query.x)
    for seed in range(2):
        order = jax.random.permutation(jax.random.key(seed), 12)
        fast = learner.adapt(params, jax.tree.map(lambda leaf: leaf[:0], support), KEY)
        for i in order:
            one = jax.tree.map(lambda leaf, i=i: leaf[i][None], support)
            fast = learner.adapt(params, one, KEY, fast)
        np.testing.assert_allclose(learner.predict(params, fast, query.x), at_once, atol=1e-4)


@every
def test_padding_and_unlabelled_examples_take_no_part(make):
    learner = make(3)
    support, query, _ = task()
    params = learner.init(KEY, support.x)
    full = learner.adapt(params, support, KEY)
    more = Batch(
        jnp.concatenate([support.x[:5], support.x[:2] + 5, support.x[5:]]),
        jnp.insert(support.y, 5, jnp.array([-1, 1], jnp.int32)),
        jnp.insert(jnp.ones(12), 5, jnp.array([1.0, 0.0])),
    )
    padded = learner.adapt(params, more, KEY)
    np.testing.assert_allclose(
        learner.predict(params, padded, query.x), learner.predict(params, full, query.x), atol=1e-4
    )


@every
def test_inside_jit_a_missing_class_is_masked_and_outside_it_is_an_error(make):
    learner = make(3)
    support, query, _ = task()
    params = learner.init(KEY, support.x)
    two = jax.tree.map(lambda leaf: leaf[:8], support)
    fast = jax.jit(learner.adapt)(params, two, KEY)
    logits = learner.predict(params, fast, query.x)
    assert jnp.isneginf(logits[:, 2]).all()
    assert jnp.isfinite(logits[:, :2]).all()
    with pytest.raises(ValueError, match=r"no example of the classes \[2\]"):
        learner.adapt(params, two, KEY)
    with pytest.raises(ValueError, match=r"in 0..7, expected -1..2"):
        learner.adapt(params, support._replace(y=support.y.at[0].set(7)), KEY)


@every
def test_a_label_outside_the_head_is_named_and_inside_jit_refuses_the_update(make):
    learner = make(3)
    support, query, _ = task()
    params = learner.init(KEY, support.x)
    odd = support._replace(y=support.y.at[0].set(7))
    fast = learner.adapt(params, support, KEY)
    with pytest.raises(ValueError, match=r"in 0..7, expected -1..2; outside are \[7\]"):
        learner.adapt(params, odd, KEY, fast)
    of_task = jax.jit(jax.value_and_grad(train.episode_loss(learner), has_aux=True))
    for wrong in (7, 3, -2):
        bad = Task(support._replace(y=support.y.at[0].set(wrong)), query)
        (value, _), grads = of_task(params, bad, KEY)
        assert not jnp.isfinite(value)
        assert any(not jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
        padded = bad.support._replace(weight=jnp.ones(12).at[0].set(0.0))
        assert jnp.isfinite(of_task(params, Task(padded, query), KEY)[0][0])
    with pytest.raises(ValueError, match=r"of one length, got \[12, 11, 12\]"):
        learner.adapt(params, support._replace(y=support.y[1:]), KEY)


@every
def test_known_labels_inside_jit_scan_and_checkpoint(make):
    """A label that is known is no tracer, but what `jnp` makes of it inside jit is one."""
    learner = make(3)
    support, query, _ = task()
    params = learner.init(KEY, support.x)

    def logits(params):
        fast = learner.adapt(params, support, KEY)
        return learner.predict(params, learner.adapt(params, support, KEY, fast), query.x)

    want = logits(params)
    scanned = jax.lax.scan(lambda carry, _: (carry, logits(params)), 0, length=1)[1][0]
    for got in (jax.jit(logits)(params), scanned, jax.checkpoint(logits)(params)):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


@every
def test_keep_leaves_classes_out(make):
    learner = make(3)
    support, query, _ = task()
    params = learner.init(KEY, support.x)
    keep = jnp.array([True, False, True])
    logits = learner.predict(params, learner.adapt(params, support, KEY, labels=keep), query.x)
    assert jnp.isneginf(logits[:, 1]).all()


@every
def test_an_empty_start_has_no_class(make):
    learner = make(3)
    support, query, _ = task()
    params = learner.init(KEY, support.x)
    fast = learner.adapt(params, jax.tree.map(lambda leaf: leaf[:0], support), KEY)
    assert jnp.isneginf(learner.predict(params, fast, query.x)).all()


@every
def test_the_second_call_compiles_nothing(make):
    chex.clear_trace_counter()
    learner = make(3)
    step = jax.jit(
        chex.assert_max_traces(
            train.make_train_step(train.episode_loss(learner), optax.adam(1e-3)), n=1
        )
    )
    state = train.init_state(learner.init(KEY, task().support.x), optax.adam(1e-3))
    for seed in range(2):
        state, _ = step(state, tasks(2, jax.random.key(seed)), KEY)


def test_prototypes_are_means_of_embeddings():
    learner = protonet(NET, classes=3)
    support, query, _ = task()
    params = learner.init(KEY, support.x)
    z, q = (NET.apply(params["net"], part.x) for part in (support, query))
    prototypes = jnp.stack([z[support.y == k].mean(0) for k in range(3)])
    d = ((q[:, None] - prototypes[None]) ** 2).sum(-1)
    logits = learner.predict(params, learner.adapt(params, support, KEY), query.x)
    np.testing.assert_allclose(logits, -d, rtol=1e-4, atol=1e-5)


def test_attention_sums_the_labels():
    learner = matching(NET, classes=3, tau=3.0)
    support, query, _ = task()
    params = learner.init(KEY, support.x)
    z, q = (NET.apply(params["net"], part.x) for part in (support, query))
    z, q = (v / jnp.linalg.norm(v, axis=1, keepdims=True) for v in (z, q))
    p = jax.nn.softmax(3.0 * q @ z.T, axis=1) @ jax.nn.one_hot(support.y, 3)
    logits = learner.predict(params, learner.adapt(params, support, KEY), query.x)
    np.testing.assert_allclose(jax.nn.softmax(logits), p, rtol=1e-4)


def test_scores_far_below_the_best_still_have_a_gradient():
    scores = jnp.array([[0.0, -500.0, -501.0]])
    fast = Attended(jnp.zeros((3, 1)), jnp.array([0, 1, 1]), jnp.ones(3))
    value, slope = jax.value_and_grad(lambda s: class_scores(s, fast, 2)[0, 1])(scores)
    np.testing.assert_allclose(value, -500 + np.log1p(np.exp(-1)), rtol=1e-6)
    np.testing.assert_allclose(slope[0], [0, 1 / (1 + np.exp(-1)), 1 / (1 + np.e)], rtol=1e-4)


def test_a_support_set_in_context_depends_on_all_of_it():
    context = nets.lstm_context(8, steps=3)
    z = jax.random.normal(KEY, (5, 8))
    params = context.init(KEY, z)
    slope = jax.jacobian(lambda z: context.support(params, z, jnp.ones(5))[2])(z)
    assert (jnp.abs(slope).sum((0, 2)) > 0).all()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="did you mean 'cosine'"):
        matching(NET, classes=3, kernel="cosin")
    with pytest.raises(ValueError, match="tau must be positive, got 0"):
        matching(NET, classes=3, tau=0.0)
    with pytest.raises(ValueError, match="tau must be positive, got nan"):
        matching(NET, classes=3, tau=float("nan"))
    with pytest.raises(ValueError, match="got 8 and 0"):
        nets.lstm_context(8, steps=0)
