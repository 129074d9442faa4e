"""Situations that users of other libraries report, for every few-shot learner and its losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from lml_jax import evaluate, losses, metrics, nets, pixels, train
from lml_jax.learners.gemcl import gemcl
from lml_jax.learners.maml import maml
from lml_jax.learners.matching import matching
from lml_jax.learners.protonet import protonet
from lml_jax.learners.reptile import reptile, surrogate
from lml_jax.types import Batch, Net, Task

KEY = jax.random.key(0)
IDENTITY = Net(lambda key, x: {}, lambda params, x: x)
MLP = nets.mlp([16], 8)
EMBEDDING = {
    "protonet": lambda net, c: protonet(net, classes=c),
    "protonet-euclidean": lambda net, c: protonet(net, classes=c, distance="euclidean"),
    "gemcl-map": lambda net, c: gemcl(net, classes=c, predictive="map", alpha=2.0, beta=1.0),
    "gemcl-bayes": lambda net, c: gemcl(net, classes=c, alpha=2.0, beta=1.0),
    "matching-cosine": lambda net, c: matching(net, classes=c),
    "matching-squared": lambda net, c: matching(net, classes=c, kernel="squared", tau=1.0),
}
HEADED = {
    "maml": lambda net, c: maml(net, optax.sgd(0.1), steps=2),
    "maml-unrolled": lambda net, c: maml(net, optax.sgd(0.1), steps=2, unroll=True),
    "reptile": lambda net, c: reptile(net, optax.sgd(0.1), steps=2, batch_size=6),
}
LEARNERS = EMBEDDING | HEADED
every = pytest.mark.parametrize("name", LEARNERS)
embedding = pytest.mark.parametrize("name", EMBEDDING)


def built(name, classes=3, net=None):
    """(learner, params, task): the network has `classes` outputs where it is itself the head."""
    net = net or (nets.mlp([16], classes) if name in HEADED else MLP)
    learner = LEARNERS[name](net, classes)
    return learner, learner.init(KEY, task(classes).support.x), task(classes)


def task(classes=3):
    keys = jax.random.split(KEY)
    y = jnp.arange(4 * classes, dtype=jnp.int32) % classes
    return Task(*(Batch(jax.random.normal(key, (len(y), 4)) + y[:, None], y) for key in keys))


def outcome(learner, params, task, loss=None):
    """Loss and gradient norm of one episode, inside jit."""
    of_task = train.episode_loss(learner) if loss is None else loss
    (value, _), grads = jax.jit(jax.value_and_grad(of_task, has_aux=True))(params, task, KEY)
    return float(value), float(optax.tree.norm(grads))


# ---- a prediction depends on its own query alone


@every
@pytest.mark.parametrize("far", [1e8, -1e30, np.nan, np.inf, 0.0])
def test_a_prediction_is_the_same_beside_any_other_query(name, far):
    learner, params, (support, query, _) = built(name)
    fast = learner.adapt(params, support, KEY)
    alone = learner.predict(params, fast, query.x)
    other = jnp.full((5, 4), far)
    beside = learner.predict(params, fast, jnp.concatenate([query.x, other]))[: len(query.y)]
    np.testing.assert_allclose(beside, alone, rtol=1e-5, atol=1e-5)


@embedding
def test_a_query_of_nan_predicts_nothing_and_the_others_what_they_did(name):
    learner, params, (support, query, _) = built(name)
    fast = learner.adapt(params, support, KEY)
    x = query.x.at[3].set(jnp.nan)
    logits = learner.predict(params, fast, x)
    assert jnp.isnan(logits[3]).all()
    assert jnp.isfinite(jnp.delete(logits, 3, axis=0)).all()
    right = metrics.accuracy(logits[3:4], query.y[3:4])
    assert float(right) == 0.0


def test_protonet_between_two_centres_beside_a_far_query():
    """Centres 0 and 1 and the query 0.9: class 1, whatever the other query is."""
    learner = protonet(IDENTITY, classes=2)
    support = Batch(jnp.array([[0.0], [1.0]]), jnp.array([0, 1]))
    fast = learner.adapt({"net": {}, "head": {}}, support, KEY)
    for other in (1e8, np.nan):
        x = jnp.array([[0.9], [other]])
        logits = learner.predict({"net": {}, "head": {}}, fast, x)
        assert int(logits[0].argmax()) == 1
        np.testing.assert_allclose(logits[0], [-0.81, -0.01], rtol=1e-4)


def test_a_far_centre_does_not_drown_the_others():
    c = jnp.array([[0.0], [1.0], [1e8]])
    d = losses.squared_distances(jnp.array([[0.9]]), c)
    np.testing.assert_allclose(d[0], [0.81, 0.01, 1e16], rtol=1e-4)


def test_distances_multiplied_out_are_those_of_differences_and_of_their_own_query():
    keys = jax.random.split(KEY, 3)
    z = 1e3 + jax.random.normal(keys[0], (7, 128))
    c = 1e3 + jax.random.normal(keys[1], (300, 128))
    c = c.at[5].set(0.0)  # a class without examples
    p = jax.random.uniform(keys[2], (300, 128))
    for precision in (None, p):
        want = (np.float64(z)[:, None] - np.float64(c)[None]) ** 2
        want = (want if precision is None else want * np.float64(p)[None]).sum(2)
        found = losses.squared_distances(z, c, precision)
        np.testing.assert_allclose(np.delete(found, 5, 1), np.delete(want, 5, 1), rtol=1e-3)
        far = jnp.concatenate([z, jnp.full((1, 128), jnp.nan), jnp.full((1, 128), 1e8)])
        np.testing.assert_allclose(losses.squared_distances(far, c, precision)[:7], found)


@pytest.mark.parametrize("shape", [(7, 3, 5), (7, 300, 128)], ids=["small", "large"])
def test_the_gradient_of_distances_is_that_of_their_definition(x64, shape):
    n, classes, d = shape
    keys = jax.random.split(KEY, 4)
    z, c, p, v = (jax.random.normal(k, s, float) for k, s in zip(
        keys, [(n, d), (classes, d), (classes, d), (n, classes)], strict=True))  # fmt: skip

    def of(f):
        return jax.grad(lambda *a: jnp.sum(v * f(*a)), argnums=(0, 1, 2))(z, c, jnp.abs(p))

    def definition(z, c, p):
        return jnp.sum(p[None] * (z[:, None] - c[None]) ** 2, axis=2)

    for one, other in zip(of(losses.squared_distances), of(definition), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


# ---- half precision


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_distances_of_wide_half_precision_embeddings(dtype):
    """+8 and -8 in 1600 features: 1600 x 256 = 409600, which float16 cannot hold."""
    z = jnp.concatenate([jnp.full((1, 1600), 8), jnp.full((1, 1600), -8)]).astype(dtype)
    d = losses.squared_distances(z, z)
    assert d.dtype == jnp.float32
    np.testing.assert_array_equal(d, [[0.0, 409600.0], [409600.0, 0.0]])


@embedding
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_learners_of_half_precision_embeddings(name, dtype):
    wide = Net(lambda key, x: {}, lambda params, x: jnp.tile(x, (1, 800)).astype(dtype))
    learner = LEARNERS[name](wide, 2)
    support = Batch(jnp.array([[8.0, 8.0], [-8.0, 8.0]]), jnp.array([0, 1]))
    params = learner.init(KEY, support.x)
    fast = learner.adapt(params, support, KEY)
    logits = learner.predict(params, fast, support.x)
    assert logits.dtype == jnp.float32
    assert jnp.isfinite(logits).all()
    assert logits.argmax(1).tolist() == [0, 1]


def test_losses_and_means_of_half_precision_are_in_float32():
    half = jnp.full((1, 2), 300.0, jnp.float16)
    np.testing.assert_allclose(losses.squared_error(half, 0 * half), [90000.0])
    assert losses.weighted_mean(jnp.full(3, 60000.0, jnp.float16), jnp.ones(3)) == 60000.0
    assert losses.cross_entropy(half, jnp.array([0])).dtype == jnp.float32


# ---- labels outside the head, and of other types


@every
def test_labels_outside_the_head_are_named_where_they_are_known(name):
    learner, params, (support, _, _) = built(name, 5)
    for wrong in ([37, 41], [5, 0], [-2, 0]):
        odd = support._replace(y=support.y.at[:2].set(jnp.array(wrong)))
        named = sorted({w for w in wrong if w not in range(5)})
        with pytest.raises(ValueError, match=str(named).replace("[", r"\[").replace("]", r"\]")):
            learner.adapt(params, odd, KEY)


@every
@pytest.mark.parametrize("wrong", [41, 5, -2])
@pytest.mark.parametrize("part", ["support", "query"])
def test_labels_outside_the_head_refuse_the_update_inside_jit(name, wrong, part):
    learner, params, good = built(name, 5)
    own = getattr(good, part)
    bad = good._replace(**{part: own._replace(y=own.y.at[1].set(wrong))})
    loss = surrogate(learner) if name == "reptile" else None
    value, norm = outcome(learner, params, bad, loss)
    assert not np.isfinite(value)
    if part == "support" or name in HEADED:
        assert not np.isfinite(norm)
    tx = optax.sgd(0.1)
    step = train.make_train_step(loss or train.episode_loss(learner), tx)
    state, _ = jax.jit(step)(
        train.init_state(params, tx), jax.tree.map(lambda leaf: leaf[None], bad), KEY
    )
    assert int(state.bad_step) == 0


def test_a_query_class_that_no_support_example_has_is_named():
    x = jnp.zeros((2, 1))
    odd = Task(Batch(x, jnp.array([0, 1])), Batch(x, jnp.array([1, 2])))
    with pytest.raises(ValueError, match=r"query labels \[1, 2\]; no support example has \[2\]"):
        losses.check_task(odd)
    losses.check_task(odd._replace(id=jnp.array(3)))  # labels of the whole stream
    losses.check_task(odd._replace(query=Batch(x, jnp.array([1, -1]))))
    jax.jit(lambda t: losses.check_task(t))(odd)
    assert losses.label_report(Task(Batch(x, x), Batch(x, x))) == ""


@every
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint32, np.int64])
def test_the_type_of_labels_changes_nothing(name, dtype):
    learner, params, good = built(name)

    def of(cast):
        parts = (part._replace(y=cast(part.y)) for part in (good.support, good.query))
        return outcome(learner, params, Task(*parts))

    assert of(lambda y: np.asarray(y).astype(dtype)) == of(lambda y: y)


@embedding
def test_narrow_labels_of_many_classes_do_not_wrap(name):
    """300 classes, each with one example at its own place; labels of uint8 up to 255."""
    learner = LEARNERS[name](IDENTITY, 300)
    where = jax.random.normal(KEY, (300, 64))
    y = jnp.arange(300, dtype=jnp.int32)
    params = learner.init(KEY, where)
    half = [Batch(where[:256], y[:256].astype(jnp.uint8)), Batch(where[256:], y[256:])]
    fast = learner.adapt(params, jax.tree.map(lambda leaf: leaf[:0], half[0]), KEY)
    for part in half:
        fast = learner.adapt(params, part, KEY, fast)
    assert learner.predict(params, fast, where).argmax(1).tolist() == list(range(300))


def test_accuracy_of_narrow_labels():
    """With 300 classes 259 is not 3, as it would be in uint8."""
    logits = jax.nn.one_hot(jnp.array([259]), 300)
    assert float(metrics.accuracy(logits, np.array([3], np.uint8))) == 0.0
    assert float(metrics.accuracy(logits, np.array([259], np.uint16))) == 1.0
    assert float(metrics.accuracy(logits, np.array([100], np.int8))) == 0.0


def test_nan_rows_are_wrong_and_infinity_at_the_label_is_right():
    rows = jnp.array([[5.0, 0.0], [jnp.nan, jnp.nan], [jnp.inf, 0.0], [jnp.nan, 9.0]])
    y = jnp.array([0, 0, 0, 1])
    each = [float(metrics.accuracy(rows[i : i + 1], y[i : i + 1])) for i in range(4)]
    assert each == [1.0, 0.0, 1.0, 0.0]
    assert float(metrics.accuracy(rows[:2], y[:2])) == 0.5


@every
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: jax.nn.one_hot(y, 3), r"labels must be integers.*got float32 \[12, 3\].*argmax"),
        (lambda y: jax.nn.one_hot(y, 3, dtype=jnp.int32), r"shape \[n\].*argmax\(-1\)"),
        (lambda y: y.astype(float), r"labels must be integers, got float32 \[12\]"),
        (lambda y: y[:, None], r"shape \[n\], got int32 \[12, 1\]; take y\[:, 0\]"),
        (lambda y: y == 1, r"labels must be integers, got bool \[12\]"),
    ],
)
def test_one_hot_float_and_column_labels_are_refused_by_name(name, change, message):
    learner, params, good = built(name)
    bad = good.support._replace(y=change(good.support.y))
    with pytest.raises(ValueError, match=message):
        learner.adapt(params, bad, KEY)


# ---- weights and padding


NAN_AT_ZERO = Net(  # standardises each example: not differentiable at one of equal numbers
    lambda key, x: MLP.init(key, x),
    lambda params, x: MLP.apply(params, (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)),
)


@every
@pytest.mark.parametrize("padding", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("part", ["support", "query"])
def test_padding_reaches_neither_loss_nor_gradient(name, padding, part):
    learner, params, good = built(name, 8, NAN_AT_ZERO)
    loss = surrogate(learner) if name == "reptile" else None
    own = getattr(good, part)

    def padded(n):
        x = jnp.concatenate([own.x, jnp.full((n, 4), padding)])
        y = jnp.concatenate([own.y, jnp.full(n, 99, jnp.int32)])
        weight = jnp.concatenate([jnp.ones(len(own.y)), jnp.zeros(n)])
        return good._replace(**{part: Batch(x, y, weight)})

    # Reptile draws batches of rows, padding among them.
    want = outcome(learner, params, good, loss) if name != "reptile" else None
    got = outcome(learner, params, padded(3), loss)
    assert np.isfinite(got).all()
    if want is not None:
        np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.parametrize("name", HEADED)
def test_a_support_set_of_padding_alone_moves_nothing(name):
    learner, params, good = built(name, 8, NAN_AT_ZERO)
    nothing = Batch(jnp.zeros((6, 4)), jnp.zeros(6, jnp.int32), jnp.zeros(6))

    def moved(params):
        fast = learner.adapt(params, nothing, KEY)
        return jnp.sum(learner.predict(params, fast, good.query.x) ** 2)

    def still(params):
        fast = learner.adapt(params, jax.tree.map(lambda leaf: leaf[:0], nothing), KEY)
        return jnp.sum(learner.predict(params, fast, good.query.x) ** 2)

    got, want = jax.value_and_grad(moved)(params), jax.value_and_grad(still)(params)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_filled_padding_is_a_copy_of_an_example_that_counts():
    x = {"ids": jnp.array([[7, 7], [3, 4]]), "mask": jnp.array([[jnp.nan], [1.0]])}
    batch = Batch(x, jnp.array([99, 1], jnp.uint8), jnp.array([0.0, 2.0]))
    filled = losses.fill_padding(batch)
    assert filled.x["ids"].tolist() == [[3, 4], [3, 4]]
    assert filled.x["mask"].tolist() == [[1.0], [1.0]]
    assert filled.y.tolist() == [1, 1]
    assert filled.weight.tolist() == [0.0, 2.0]
    nothing = losses.fill_padding(batch._replace(weight=jnp.zeros(2)))
    assert nothing.y.tolist() == [-1, -1]
    assert jnp.isfinite(nothing.x["mask"]).all()
    targets = Batch(jnp.ones((2, 1)), jnp.array([[jnp.nan], [2.0]]), jnp.array([0.0, 1.0]))
    assert losses.fill_padding(targets).y.tolist() == [[2.0], [2.0]]


def test_a_padded_value_that_is_infinite_has_no_part_in_the_mean_or_its_gradient():
    weight = jnp.array([1.0, 0.0])
    for odd in (jnp.inf, -jnp.inf, jnp.nan):
        values = jnp.array([3.0, odd])
        mean, slope = jax.value_and_grad(losses.weighted_mean)(values, weight)
        assert float(mean) == 3.0
        assert slope.tolist() == [1.0, 0.0]
        # With respect to what computed the values, where that is filled as `fill_padding` does.
        row = Batch(jnp.array([[1.0], [odd]]), jnp.zeros((2, 1)), weight)
        filled = losses.fill_padding(row).x[:, 0]
        assert float(jax.grad(lambda a, x=filled: losses.weighted_mean(x * a, weight))(1.0)) == 1.0


def test_an_unlabelled_example_gives_no_gradient_whatever_its_logits():
    logits = jnp.array([[jnp.nan, 0.0], [1.0, 0.0], [-jnp.inf, -jnp.inf]])
    y = jnp.array([-1, 0, -1])
    slope = jax.grad(lambda z: losses.cross_entropy(z, y).sum())(logits)
    assert jnp.isfinite(slope).all()
    assert slope[0].tolist() == slope[2].tolist() == [0.0, 0.0]


def test_squared_error_of_a_padded_query():
    """Errors 0 and 100, the second of weight 0: 0, and not 5000."""
    query = Batch(jnp.zeros((2, 1)), jnp.array([[0.0], [100.0]]), jnp.array([1.0, 0.0]))
    assert float(evaluate.query_squared_error(jnp.zeros((2, 1)), query)) == 0.0
    assert float(evaluate.query_squared_error(jnp.ones((2, 1)), query)) == 1.0
    nothing = query._replace(weight=jnp.zeros(2))
    assert jnp.isnan(evaluate.query_squared_error(jnp.zeros((2, 1)), nothing))
    assert jnp.isnan(evaluate.query_accuracy(jnp.zeros((2, 2)), Batch(query.x, jnp.full(2, -1))))


@pytest.mark.parametrize("side", ["support", "query"])
def test_reptile_with_weights_on_one_side_of_the_episode(side):
    learner, params, good = built("reptile")
    loss = surrogate(learner)
    own = getattr(good, side)
    weighted = good._replace(**{side: own._replace(weight=jnp.ones(len(own.y)))})
    np.testing.assert_allclose(
        outcome(learner, params, weighted, loss), outcome(learner, params, good, loss), rtol=1e-6
    )


def test_batches_of_images_and_of_floats_are_not_mixed():
    a = Batch(jnp.zeros((1, 2), jnp.uint8), jnp.array([0]))
    with pytest.raises(ValueError, match="uint8"):
        losses.concatenated(a, Batch(jnp.zeros((1, 2)), jnp.array([0])))
    both = losses.concatenated(a._replace(y=np.array([255], np.uint8)), a)
    assert both.y.tolist() == [255, 0]
    assert both.weight is None


# ---- several arrays per example, networks with randomness and state, inner steps


@every
def test_an_example_may_be_several_arrays(name):
    """Token ids and their mask."""
    classes = 3
    table = jax.random.normal(KEY, (10, 8))

    def apply(params, x):
        mask = x["mask"][..., None]
        mean = (params["table"][x["ids"]] * mask).sum(1) / jnp.maximum(mask.sum(1), 1)
        return mean @ params["out"]

    width = classes if name in HEADED else 8
    net = Net(lambda key, x: {"table": table, "out": jax.random.normal(key, (8, width))}, apply)
    learner = LEARNERS[name](net, classes)
    y = jnp.arange(12, dtype=jnp.int32) % classes
    ids = jnp.stack([y, y + 3, y + 6], axis=1)
    x = {"ids": ids, "mask": jnp.ones((12, 3)).at[::2, 2].set(0.0)}
    good = Task(Batch(x, y, jnp.ones(12)), Batch(x, y))
    params = learner.init(KEY, x)
    loss = surrogate(learner) if name == "reptile" else None
    value, norm = outcome(learner, params, good, loss)
    assert np.isfinite(value)
    assert np.isfinite(norm)
    fast = learner.adapt(params, good.support, KEY)
    assert learner.predict(params, fast, x).shape == (12, classes)


def test_scores_per_inner_step_do_not_depend_on_how_many_steps_the_learner_takes():
    net, good = nets.mlp([16], 3), task()
    scores = {}
    for steps in (0, 1, 5):
        learner = maml(net, optax.adam(0.05, eps_root=1e-8), steps=steps)
        params = learner.init(KEY, good.support.x)
        of_task = evaluate.per_inner_step(learner, steps=5, score=evaluate.query_accuracy)
        scores[steps] = of_task(params, good, KEY)
        assert scores[steps].shape == (6,)
    np.testing.assert_array_equal(scores[1], scores[5])
    np.testing.assert_array_equal(scores[1], scores[0])
    fast = maml(net, optax.adam(0.05, eps_root=1e-8), steps=5).adapt(params, good.support, KEY)
    want = evaluate.query_accuracy(learner.predict(params, fast, good.query.x), good.query)
    assert float(scores[5][5]) == float(want)
    with pytest.raises(ValueError, match="no inner steps"):
        evaluate.per_inner_step(protonet(MLP, classes=3), steps=1, score=evaluate.query_accuracy)
    with pytest.raises(ValueError, match="got -1"):
        evaluate.per_inner_step(learner, steps=-1, score=evaluate.query_accuracy)


class Regularised(nn.Module):
    """Dropout and batch normalisation with running statistics, as in flax."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(16)(x))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(nn.relu(x)))


def stateful():
    module = Regularised()

    def init(key, x):
        own = module.init(key, x, False)
        return own["params"], own["batch_stats"]

    def apply(params, state, x, key):
        own = {"params": params, "batch_stats": state}
        if key is None:
            return module.apply(own, x, False), state
        out, new = module.apply(own, x, True, rngs={"dropout": key}, mutable=["batch_stats"])
        return out, new["batch_stats"]

    return nets.StatefulNet(init, apply)


@pytest.mark.parametrize("make", [
    lambda net: maml(net, optax.sgd(0.1), steps=2), lambda net: protonet(net, classes=3)
], ids=["maml", "protonet"])  # fmt: skip
def test_a_network_with_dropout_and_running_statistics(make):
    net, good = stateful(), task()
    state_net = net.init(KEY, good.support.x)[1]

    def loss(params, task, key, state):
        key_net, key_state, key = jax.random.split(key, 3)
        learner = make(nets.bind(net, state, key_net))
        value, shown = train.episode_loss(learner)(params, task, key)
        own = params["theta"] if "theta" in params else params["net"]
        new = net.apply(own, state, task.support.x, key_state)[1]
        return value, {**shown, "state": new}

    tx = optax.adam(1e-2)
    step = jax.jit(train.make_train_step(loss, tx))
    learner = make(nets.bind(net, state_net))
    state = train.init_state(learner.init(KEY, good.support.x), tx)
    tasks = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), good)
    statistics, seen = state_net, []
    for t in range(60):
        state, shown = step(state, tasks, jax.random.fold_in(KEY, t), statistics)
        statistics = shown["state"]
        seen.append(float(shown["loss"]))
    assert int(state.bad_step) == -1
    assert len(set(seen[:3])) == 3
    mean = statistics["BatchNorm_0"]["mean"]
    assert jnp.abs(mean - state_net["BatchNorm_0"]["mean"]).max() > 0.1
    fixed = make(nets.bind(net, statistics))
    fast = fixed.adapt(state.params, good.support, KEY)
    logits = fixed.predict(state.params, fast, good.query.x)
    one = fixed.predict(state.params, fast, good.query.x[:1])
    np.testing.assert_allclose(one, logits[:1], rtol=1e-4, atol=1e-5)
    assert metrics.accuracy(logits, good.query.y) > 0.6


OWN_NET = Net(lambda key, x: jnp.tile(jnp.arange(3.0), (x.shape[1], 1)), lambda w, x: x @ w)


@pytest.mark.parametrize("make", [
    lambda net: maml(net, optax.sgd(0.1), steps=1),
    lambda net: reptile(net, optax.sgd(0.1), steps=1),
    lambda net: protonet(net, classes=3),
    lambda net: matching(net, classes=3),
    lambda net: gemcl(net, classes=3),
], ids=["maml", "reptile", "protonet", "matching", "gemcl"])  # fmt: skip
def test_a_network_of_the_users_own_gets_images_in_0_to_1(make):
    """As the networks of `nets` do; token ids stay integers."""
    y = jnp.arange(3)
    images = (40 * jax.random.uniform(KEY, (3, 4))).astype(jnp.uint8) + 100
    learner, results = make(OWN_NET), []
    for x in (images, images.astype(float) / 255):
        params = learner.init(KEY, x)
        fast = learner.adapt(params, Batch(x, y), KEY)
        results.append(learner.predict(params, fast, x))
    np.testing.assert_allclose(*results, rtol=1e-5)
    ids = Net(lambda key, x: {}, lambda p, x: jax.nn.one_hot(x[:, 0], 300))
    assert pixels.on_floats(ids).apply({}, jnp.array([[299]], jnp.int16)).argmax() == 299
