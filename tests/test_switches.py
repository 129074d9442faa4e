"""JAX's switches: every few-shot learner, loss and metric works under each of them."""

from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import evaluate, inner, losses, metrics, nets, parallel, train
from lml_jax.data.augment import Jitter, affine
from lml_jax.learners.gemcl import gemcl
from lml_jax.learners.maml import maml
from lml_jax.learners.matching import matching
from lml_jax.learners.protonet import protonet
from lml_jax.learners.reptile import reptile, surrogate
from lml_jax.metrics import diversity, generators
from lml_jax.metrics.trained import classification_scores, classifier
from lml_jax.types import Batch, Task

KEY = jax.random.key(0)


@contextmanager
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


SWITCHES = {
    "debug-nans": lambda: jax.debug_nans(True),
    "no-jit": jax.disable_jit,
    "strict": strict,
}
SGD = optax.sgd(0.1)
LEARNERS = {
    "maml": lambda net: maml(net, SGD, steps=2),
    "maml-first-order": lambda net: maml(net, SGD, steps=2, first_order=True, unroll=True),
    "meta-sgd": lambda net: maml(net, inner.per_parameter(0.1), steps=2),
    "maml++": lambda net: maml(net, inner.per_layer_and_step(0.1, steps=2), steps=2),
    "maml-adam": lambda net: maml(net, optax.adam(0.01, eps_root=1e-8), steps=2),
    "reptile": lambda net: reptile(net, SGD, steps=2, batch_size=2),
    "protonet": lambda net: protonet(net, classes=3),
    "protonet-euclidean": lambda net: protonet(
        net, classes=3, distance="euclidean", temperature=True
    ),
    "gemcl-map": lambda net: gemcl(net, classes=3, predictive="map", alpha=2.0, beta=1.0),
    "gemcl-bayes": lambda net: gemcl(net, classes=3, alpha=2.0, beta=1.0),
    "matching": lambda net: matching(net, classes=3),
    "matching-squared": lambda net: matching(net, classes=3, kernel="squared", tau=1.0),
    "matching-context": lambda net: matching(net, classes=3, context=nets.lstm_context(3, steps=1)),
}
switches = pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES)


def episode(weights=True):
    """Two classes of three, one with padding and an unlabelled example; images of uint8."""
    x = jax.random.randint(KEY, (6, 3, 3), 0, 255, jnp.int32).astype(jnp.uint8)
    y = jnp.array([0, 1, 0, 1, -1, 1], jnp.int32)
    weight = jnp.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0]) if weights else None
    return Task(Batch(x, y, weight), Batch(x, y, weight))


# One operation at a time is slow: the suite runs it for one learner of each kind.
QUICK = ("maml", "reptile", "protonet", "gemcl-bayes", "matching")
learners_and_switches = pytest.mark.parametrize(
    ("name", "switch"),
    [
        pytest.param(
            name, switch, id=f"{name}-{kind}",
            marks=pytest.mark.slow if kind == "no-jit" and name not in QUICK else (),
        )
        for name in LEARNERS
        for kind, switch in SWITCHES.items()
    ],
)  # fmt: skip


@learners_and_switches
def test_a_meta_step_and_a_prediction(name, switch):
    learner, tx, good = LEARNERS[name](nets.mlp([4], 3)), optax.adam(1e-2), episode()
    loss = surrogate(learner) if name == "reptile" else train.episode_loss(learner)
    with switch():
        params = learner.init(KEY, good.support.x)
        state = train.init_state(params, tx)
        step = jax.jit(train.make_train_step(loss, tx))
        state, shown = step(state, jax.tree.map(lambda leaf: leaf[None], good), KEY)
        labels = jnp.array([True, True, False])
        # Class 2 is left out, or has no example: -inf, and no NaN on the way.
        fast = jax.jit(learner.adapt)(state.params, good.support, KEY, None, labels)
        fast = jax.jit(learner.adapt)(state.params, good.support, KEY, fast, labels)
        logits = learner.predict(state.params, fast, good.query.x)
        masked = losses.mask_logits(logits, labels)
        value, slope = jax.value_and_grad(
            lambda z: losses.weighted_mean(losses.cross_entropy(z, good.query.y), None)
        )(masked)
        assert metrics.accuracy(masked, good.query.y) >= 0
    assert int(state.bad_step) == -1
    assert all(np.isfinite(np.asarray(m)).all() for m in jax.tree.leaves(shown))
    assert np.isfinite(value)
    assert np.isfinite(slope).all()


@switches
@pytest.mark.parametrize("norm", ["transductive", "group"])
def test_convolutions(norm, switch):
    net = nets.conv4(2, filters=8, norm=norm)
    x = jax.random.normal(KEY, (2, 16, 16, 3))
    with switch():
        params = net.init(KEY, x)
        slope = jax.grad(lambda p: jnp.sum(net.apply(p, x) ** 2))(params)
        if net.freeze is not None:
            assert jnp.isfinite(net.apply(net.freeze(params, x), x)).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


@switches
def test_losses(switch):
    x, z = jnp.array([[0.5, 0.25]]), jnp.array([[1.0, -jnp.inf]])
    with switch():
        found = [
            losses.cross_entropy(z, jnp.array([0], jnp.int8)),
            losses.cross_entropy(jnp.full((1, 2), -jnp.inf), jnp.array([-1])),
            losses.distillation(z, z),
            losses.distillation(x, jnp.full((1, 2), -jnp.inf)),
            losses.squared_error(x, x.astype(jnp.float16)),
            losses.gaussian_nll(x, jnp.array(0.0), x),
            losses.bernoulli_nll(x, x),
            losses.gaussian_kl(x, x, x, x),
            losses.discriminator_loss(x[0], x[0]),
            losses.gradient_penalty(lambda x: jnp.sum(x**2, axis=1), x),
            losses.weighted_mean(jnp.array([1.0, jnp.inf]), jnp.array([1, 0])),
            losses.squared_distances(x, x.astype(jnp.bfloat16)),
            losses.squared_distances(x, jnp.zeros((20000, 2)), jnp.ones((20000, 2)))[:, :1],
            jax.grad(lambda z: losses.distillation(z, z).sum())(x),
        ]
    assert all(np.isfinite(np.asarray(value)).all() for value in found)


@switches
def test_metrics_that_are_undefined_are_nan_and_no_error(switch):
    x = jax.random.normal(KEY, (6, 3))
    y = jnp.array([0, 0, 1, 1, 2, -1], jnp.int16)
    with switch():
        assert jnp.isnan(metrics.accuracy(x, jnp.full(6, -1)))
        assert metrics.accuracy(x.astype(jnp.float16), y, weight=jnp.ones(6, jnp.int32)) >= 0
        ratios = diversity.class_diversity_ratios(x, y, 2 * x, y, classes=4)
        assert jnp.isnan(generators.memorisation_ratio(x, x, x))
        assert diversity.diversity_ratio(x, y, 2 * x, y, classes=4) > 1.9
        assert generators.precision_recall(x, x + 1, k=2)[0] >= 0
        assert generators.density_coverage(x, x, k=2)[1] == 1
        assert generators.frechet_distance(x, x) < 1e-3
        assert jnp.isfinite(generators.kernel_distance(x, x))
        R = np.array([[np.nan, np.nan], [0.5, np.nan], [0.5, 0.75]])
        assert np.isnan(metrics.summary(R)["fwt"])
    assert np.isnan(np.asarray(ratios)[2:]).all()


@switches
def test_a_trained_metric(switch):
    net = nets.mlp([], 3)
    scores = classification_scores(net, classifier(net, optax.adam(0.1), steps=3, batch_size=4))
    generated = Batch(jnp.array([[-1.0], [1.0]]), jnp.array([0, 1], jnp.uint8))
    tests = [Batch(jnp.array([[-3.0]]), jnp.array([0])), Batch(jnp.array([[5.0]]), jnp.array([2]))]
    with switch():
        found = scores(generated, tests, KEY)
    assert np.isnan(found[1])
    assert found[0] in (0.0, 1.0)


@switches
def test_tasks_a_few_at_a_time(switch):
    learner = LEARNERS["maml"](nets.mlp([4], 3))
    tasks = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), episode())
    with switch():
        params = learner.init(KEY, tasks.support.x[0])
        for at_once in (None, 2):
            reduced = parallel.vmap_mean(train.episode_loss(learner), at_once=at_once)
            (value, _), slope = jax.value_and_grad(reduced, has_aux=True)(params, tasks, KEY)
            assert np.isfinite(value)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


@switches
def test_scores_of_episodes_and_augmentation(switch):
    learner = LEARNERS["maml"](nets.mlp([4], 3))
    tasks = jax.tree.map(lambda leaf: leaf[None], episode(weights=False))
    with switch():
        params = learner.init(KEY, tasks.support.x[0])
        of_task = evaluate.per_inner_step(learner, steps=2, score=evaluate.query_accuracy)
        found = list(evaluate.over_episodes(
            of_task, params, lambda data, key: data, tasks, KEY, episodes=1))  # fmt: skip
        assert found[0].shape == (1, 3)
        for x in (tasks.support.x[0], jnp.ones((2, 4, 4, 3)), jnp.ones((2, 4, 4), jnp.float16)):
            moved = affine(x, KEY, Jitter())
            assert (moved.shape, moved.dtype) == (x.shape, x.dtype)


@switches
def test_a_wrong_label_is_still_refused(switch):
    learner, good = LEARNERS["protonet"](nets.mlp([4], 3)), episode()
    odd = good.support._replace(y=good.support.y.at[0].set(9))
    with switch():
        params = learner.init(KEY, good.support.x)
        with pytest.raises(ValueError, match="9"):
            learner.adapt(params, odd, KEY)
