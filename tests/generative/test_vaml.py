"""VAML: one pass adapts, in any order; what it generates, how it classifies, what it refuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import evaluate, nets, train
from lml_jax.data.synthetic import sinusoids
from lml_jax.generative.vaml.images import mlp_parts, vaml
from lml_jax.generative.vaml.posterior import Weights
from lml_jax.generative.vaml.regression import vaml_regression
from lml_jax.types import Batch, Task

KEY = jax.random.key(0)
C, SHAPE = 3, (6, 6)


def images_of(key, n=9):
    """Class c has its ink in rows 2c and 2c + 1."""
    y = jnp.arange(n, dtype=jnp.int32) % C
    ink = (jnp.arange(6)[None] // 2 == y[:, None])[..., None]
    return Batch(jnp.where(ink, jax.random.uniform(key, (n, *SHAPE), minval=0.5), 0.0), y)


def tasks_of(data, key, tasks=4):
    def one(key):
        keys = jax.random.split(key)
        return Task(images_of(keys[0]), images_of(keys[1]))

    return jax.vmap(one)(jax.random.split(key, tasks))


def class_model(head=False, tx=None, **options):
    parts = mlp_parts(
        nets.mlp([16], 8), pixels=36, latent=2, hidden=[32], head=nets.mlp([], 10) if head else None
    )
    options = {"discriminative": 1.0, **options}
    return vaml(parts, tx or optax.adam(1e-2), shape=SHAPE, classes=C, **options)


def task_model(**options):
    options = {"inputs": lambda key, n: jax.random.uniform(key, (n, 1)), **options}
    return vaml_regression(nets.mlp([16], 8), nets.mlp([16], 1), optax.adam(3e-3), **options)


def points(key, n=9):
    key_x, key_y = jax.random.split(key)
    return Batch(jax.random.normal(key_x, (n, 1)), jax.random.normal(key_y, (n, 1)))


MODELS = {
    "evidence": (class_model, images_of),
    "head": (lambda: class_model(head=True), images_of),
    "regression": (task_model, points),
}
every_model = pytest.mark.parametrize(("make", "batch"), MODELS.values(), ids=MODELS)


@every_model
def test_any_order_and_any_batches_give_one_posterior(make, batch):
    learner, _ = make()
    support = batch(KEY)
    params = learner.init(KEY, support.x)
    once = learner.adapt(params, support, KEY)
    turn = jax.random.permutation(jax.random.key(1), 9)
    turned = jax.tree.map(lambda leaf: leaf[turn], support)
    chex.assert_trees_all_close(learner.adapt(params, turned, KEY), once, atol=1e-5)

    def one(fast, example):
        single = jax.tree.map(lambda leaf: leaf[None], example)
        return learner.adapt(params, single, KEY, fast), None

    empty = jax.tree.map(lambda leaf: leaf[:0], support)
    start = learner.adapt(params, empty, KEY)
    last, _ = jax.lax.scan(one, start, turned)
    chex.assert_trees_all_close(last, once, atol=1e-5)
    np.testing.assert_array_equal(start.seen, 0)
    np.testing.assert_array_equal(start.precision, 1)
    np.testing.assert_array_equal(start.mean, 0)


@every_model
def test_weight_zero_and_unlabelled_examples_count_nothing(make, batch):
    learner, _ = make()
    support = batch(KEY)
    params = learner.init(KEY, support.x)
    cut = learner.adapt(params, jax.tree.map(lambda leaf: leaf[:5], support), KEY)
    padded = support._replace(weight=(jnp.arange(9) < 5).astype(float))
    chex.assert_trees_all_close(learner.adapt(params, padded, KEY), cut, rtol=1e-5)
    if support.y.ndim == 1:
        unlabelled = support._replace(y=jnp.where(jnp.arange(9) < 5, support.y, -1))
        chex.assert_trees_all_close(learner.adapt(params, unlabelled, KEY), cut, rtol=1e-5)


@every_model
def test_tasks_by_vmap_are_tasks_one_by_one(make, batch):
    learner, generator = make()
    tasks = Task(*(jax.vmap(batch)(jax.random.split(k, 3)) for k in jax.random.split(KEY)))
    params = learner.init(KEY, tasks.support.x[0])

    def outputs(task):
        fast = learner.adapt(params, task.support, KEY)
        return fast, learner.predict(params, fast, task.query.x)

    looped = [outputs(jax.tree.map(lambda leaf, t=t: leaf[t], tasks)) for t in range(3)]
    chex.assert_trees_all_close(
        jax.vmap(outputs)(tasks),
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped),
        rtol=1e-4,
    )
    state = generator.init(KEY, tasks.support.x[0])
    stepped, metrics = jax.jit(generator.step)(state, tasks, KEY)
    assert int(stepped.step) == 1
    assert int(stepped.bad_step) == int(metrics["bad_step"]) == -1
    chex.assert_tree_all_finite((stepped.params, metrics))


@pytest.mark.parametrize("weights", [Weights(), Weights(0.5, 1.0, 0.1)], ids=["query", "all"])
@every_model
def test_every_array_learns_by_a_finite_gradient(make, batch, weights):
    tasks = Task(*(jax.vmap(batch)(jax.random.split(k, 2)) for k in jax.random.split(KEY)))
    makers = {images_of: class_model, points: task_model}
    options = {"head": True} if make is MODELS["head"][0] else {}
    _, generator = makers[batch](weights=weights, **options)
    start = generator.init(KEY, tasks.support.x[0])
    step, state = jax.jit(generator.step), start
    for i in range(2):
        state, _ = step(state, tasks, jax.random.fold_in(KEY, i))
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), start.params, state.params)
    assert all(jax.tree.leaves(moved)), moved


def test_a_mask_hides_what_it_masks_from_the_loss():
    _, generator = class_model(tx=optax.sgd(0.1))
    tasks = tasks_of((), KEY, 2)
    weight = jnp.tile((jnp.arange(9) < 6).astype(float), (2, 1))
    hidden = tasks._replace(
        support=tasks.support._replace(weight=weight), query=tasks.query._replace(weight=weight)
    )
    other = jax.tree.map(
        lambda leaf: leaf.at[:, 6:].set(leaf[:, :3]), hidden._replace(query=hidden.query)
    )
    other = other._replace(
        support=other.support._replace(weight=weight), query=other.query._replace(weight=weight)
    )
    state = generator.init(KEY, tasks.support.x[0])
    a, b = (generator.step(state, t, KEY)[0].params for t in (hidden, other))
    chex.assert_trees_all_close(a, b, atol=1e-6)


@pytest.mark.parametrize("head", [False, True], ids=["evidence", "head"])
def test_it_learns_to_classify_and_to_generate(head):
    learner, generator = class_model(head)
    state = generator.init(KEY, images_of(KEY).x)
    for current, _ in train.run(
        generator.step, tasks_of, state, (), KEY, steps=300, scan=True, chunk=300
    ):
        state = current
    task = jax.tree.map(lambda leaf: leaf[0], tasks_of((), jax.random.key(5)))
    fast = learner.adapt(state.params, task.support, KEY)
    outputs = learner.predict(state.params, fast, task.query.x)
    assert evaluate.query_accuracy(outputs, task.query) > 0.95
    made = generator.sample(state, fast, KEY, n=30)
    assert made.x.shape == (30, *SHAPE)
    assert made.x.min() >= 0
    assert made.x.max() <= 1
    np.testing.assert_array_equal(jnp.bincount(made.y, length=C), 10)
    inked = made.x.sum(2).reshape(30, 3, 2).sum(2)
    assert (inked.argmax(1) == made.y).mean() > 0.9


@pytest.mark.parametrize("head", [False, True], ids=["evidence", "head"])
def test_predictions_do_not_depend_on_the_others_of_the_batch(head):
    learner, _ = class_model(head)
    batch = images_of(KEY)
    params = learner.init(KEY, batch.x)
    fast = learner.adapt(params, batch, KEY)
    whole = learner.predict(params, fast, batch.x)
    np.testing.assert_allclose(learner.predict(params, fast, batch.x[:2]), whole[:2], rtol=1e-5)
    assert whole.max() < 0
    unseen = learner.adapt(params, jax.tree.map(lambda leaf: leaf[:1], batch), KEY)
    chex.assert_tree_all_finite(learner.predict(params, unseen, batch.x))


def test_the_error_of_a_regression_falls_with_the_number_of_points():
    learner, generator = vaml_regression(
        nets.mlp([64, 64], 32), nets.mlp([64, 64], 1), optax.adam(3e-3), weights=Weights(support=1)
    )
    sample = sinusoids(tasks=16, shots=10, queries=5)

    def fewer(data, key):
        tasks = sample(data, key)
        k = jax.random.randint(jax.random.fold_in(key, 1), (16, 1), 0, 11)
        weight = (jnp.arange(10)[None] < k).astype(float)
        return tasks._replace(support=tasks.support._replace(weight=weight))

    state = generator.init(KEY, jnp.zeros((1, 1)))
    for current, _ in train.run(
        generator.step, fewer, state, (), KEY, steps=1500, scan=True, chunk=1500
    ):
        state = current
    tasks = sinusoids(tasks=200, shots=10, queries=10)((), jax.random.key(9))

    def of_task(task, k):
        support = jax.tree.map(lambda leaf: leaf[:k], task.support)
        fast = learner.adapt(state.params, support, KEY)
        error = learner.predict(state.params, fast, task.query.x) - task.query.y
        return jnp.mean(error**2)

    errors = [float(jax.vmap(lambda t, k=k: of_task(t, k))(tasks).mean()) for k in (0, 2, 5, 10)]
    assert errors == sorted(errors, reverse=True), errors
    assert errors[-1] < 0.5 * errors[0]


def test_samples_have_labels_of_the_classes_seen_only():
    _, generator = class_model()
    support = images_of(KEY)
    state = generator.init(KEY, support.x)
    two = jax.tree.map(lambda leaf: leaf[jnp.array([0, 2, 3])], support)
    code = generator.encode(state, two, KEY)
    made = jax.jit(lambda s, c, k: generator.sample(s, c, k, n=8))(state, code, KEY)
    assert made.x.shape == (8, *SHAPE)
    assert made.y.tolist() == [0] * 4 + [2] * 4
    assert made.y.dtype == jnp.int32
    only = code._replace(seen=code.seen.at[0].set(0.0))
    assert generator.sample(state, only, KEY, n=3).y.tolist() == [2, 2, 2]
    nothing = generator.encode(state, jax.tree.map(lambda leaf: leaf[:0], support), KEY)
    made = jax.jit(lambda c: generator.sample(state, c, KEY, n=4))(nothing)
    assert made.y.tolist() == [-1] * 4
    assert made.weight.tolist() == [0.0] * 4
    other = generator.sample(state, code, jax.random.key(7), n=8)
    assert jnp.any(other.x != generator.sample(state, code, KEY, n=8).x)


def test_samples_of_a_task_are_points():
    _, generator = task_model()
    state = generator.init(KEY, points(KEY).x)
    code = generator.encode(state, points(KEY), KEY)
    made = generator.sample(state, code, KEY, n=7)
    assert made.x.shape == made.y.shape == (7, 1)
    assert made.x.min() >= 0


def test_bad_images_and_requests_are_refused():
    learner, generator = class_model()
    batch = images_of(KEY)
    state = generator.init(KEY, batch.x)
    code = generator.encode(state, batch, KEY)
    with pytest.raises(ValueError, match=r"0\.\.3, expected the declared range 0"):
        learner.adapt(state.params, batch._replace(x=batch.x.at[0, 0, 0].set(3.0)), KEY)
    with pytest.raises(ValueError, match=r"-1\.\."):
        learner.predict(state.params, code, batch.x.at[0, 0, 0].set(-1.0))
    with pytest.raises(ValueError, match=r"nan\.\.nan"):
        generator.init(KEY, jnp.full((1, *SHAPE), jnp.nan))
    with pytest.raises(ValueError, match=r"\(5, 6\), declared was \(6, 6\)"):
        generator.encode(state, batch._replace(x=batch.x[:, 1:]), KEY)
    with pytest.raises(ValueError, match="int32"):
        generator.init(KEY, jnp.zeros((1, *SHAPE), jnp.int32))
    with pytest.raises(ValueError, match="at least 1 generated sample, got n = 0"):
        generator.sample(state, code, KEY, n=0)
    with pytest.raises(ValueError, match=r"labels are in 0\.\.3, expected -1\.\.2"):
        learner.adapt(state.params, batch._replace(y=batch.y.at[0].set(3)), KEY)
    nothing = code._replace(seen=jnp.zeros(C))
    with pytest.raises(ValueError, match="seen no class"):
        generator.sample(state, nothing, KEY, n=1)


def test_known_images_inside_jit():
    learner, generator = class_model()
    batch = images_of(KEY)
    params = generator.init(KEY, batch.x).params
    jax.jit(lambda params: learner.adapt(params, batch, KEY))(params)


def test_bad_settings_are_refused():
    parts = mlp_parts(nets.mlp([8], 8), pixels=35, hidden=[8], head=nets.mlp([], 9))
    with pytest.raises(ValueError, match="nothing would train the head"):
        vaml(parts, optax.sgd(0.1), shape=SHAPE, classes=C)
    with pytest.raises(ValueError, match="0, 4 and"):
        vaml(parts, optax.sgd(0.1), shape=SHAPE, classes=0)
    with pytest.raises(ValueError, match="reconstruction_weight must be above 0, got 0"):
        mlp_parts(nets.mlp([8], 8), pixels=36, reconstruction_weight=0)
    with pytest.raises(ValueError, match="beta must be at least 0, got -1"):
        class_model(weights=Weights(beta=-1))
    learner, _ = vaml(parts, optax.sgd(0.1), shape=SHAPE, classes=C, discriminative=1.0)
    with pytest.raises(ValueError, match="decoder makes 35 pixels, expected 36"):
        learner.init(KEY, images_of(KEY).x)
    wrong = vaml(parts, optax.sgd(0.1), shape=(5, 7), classes=C, discriminative=1.0)[0]
    with pytest.raises(ValueError, match="makes 9 numbers, expected"):
        wrong.init(KEY, jnp.zeros((1, 5, 7)))
    with pytest.raises(ValueError, match="0 and 1"):
        task_model(draws=0)
    regression, _ = task_model()
    with pytest.raises(ValueError, match=r"y \[n, 1\], got \(9, 1\) and \(9,\)"):
        regression.adapt(
            regression.init(KEY, points(KEY).x), points(KEY)._replace(y=jnp.zeros(9)), KEY
        )
    _, silent = task_model(inputs=None)
    state = silent.init(KEY, points(KEY).x)
    with pytest.raises(ValueError, match="n >= 1; got None"):
        silent.sample(state, silent.encode(state, points(KEY), KEY), KEY, n=1)
