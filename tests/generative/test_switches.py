"""Every generator under JAX's switches, and with padding that holds anything at all.

No branch on a name: each entry of MAKERS says what it is built from and which examples it takes.
"""

from contextlib import ExitStack
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import nets
from lml_jax.generative.examples import prepared
from lml_jax.generative.gan import retention
from lml_jax.generative.gan.gan import conditional_gan
from lml_jax.generative.metagan.metagan import metagan
from lml_jax.generative.vaml.images import mlp_parts, vaml
from lml_jax.generative.vaml.posterior import Weights
from lml_jax.generative.vaml.regression import vaml_regression
from lml_jax.generative.vaml.retention import VAML_RETENTIONS
from lml_jax.generative.vaml.stream import vaml_stream
from lml_jax.learners.maml import maml
from lml_jax.learners.protonet import protonet
from lml_jax.types import Batch, ConditionalNet, MemoryBank, Net, StreamGenerator, Task

KEY = jax.random.key(0)
C, PIXELS = 3, 4
TX = optax.sgd(1e-2, momentum=0.9)  # Adam would make a step of a rounding error


def standardised(x):
    """Each example to mean 0 and deviation 1: not smooth, and NaN, at a constant example."""
    x = x.reshape(x.shape[0], -1)
    x = x - x.mean(axis=1, keepdims=True)
    return x / jnp.sqrt(jnp.sum(x**2, axis=1, keepdims=True))


def on_standardised(net):
    return Net(
        lambda key, x: net.init(key, x.reshape(x.shape[0], -1)),
        lambda params, x: net.apply(params, standardised(x)),
    )


NET = on_standardised(nets.mlp([4], C))
PLAIN = nets.projection_discriminator([4])
D = ConditionalNet(
    lambda key, x, h: PLAIN.init(key, x, h),
    lambda params, x, h: PLAIN.apply(params, standardised(x), h),
)


def whole():
    """A bank with room for three batches, filled in order."""

    def init(item):
        zeros = jax.tree.map(lambda leaf: jnp.zeros((18, *leaf.shape), leaf.dtype), item)
        return zeros, jnp.zeros(18, bool)

    def insert(bank, items, key, where=None):
        old, held = bank
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b])[-18:], old, items)
        return both, jnp.concatenate([held, where])[-18:]

    return MemoryBank(init, insert, None, lambda bank: bank)


def gan(keep):
    made = retention.RETENTIONS[keep](D, whole())
    return None, conditional_gan(
        nets.generator([4], (PIXELS,)), D, TX, TX, tasks=2, classes=C, noise=2, past_batch=3,
        retention=made,
    )  # fmt: skip


def meta(base, role):
    return metagan(
        base, nets.mlp([4], 3), nets.generator([4], (PIXELS,)), TX, TX, classes=C, role=role,
        noise=2, generated=3, penalty=0.1, logit_offset="learned",
    )  # fmt: skip


def parts(head=False):
    return mlp_parts(
        on_standardised(nets.mlp([4], 4)), pixels=PIXELS, latent=2, hidden=[4],
        head=nets.mlp([], 6) if head else None,
    )  # fmt: skip


def on_images(head):
    weights = Weights(0.5, 1.0, 0.1)
    return vaml(parts(head), TX, shape=(PIXELS,), classes=C, weights=weights, discriminative=1.0)


def on_stream(keep):
    return None, vaml_stream(
        parts(), TX, shape=(PIXELS,), tasks=2, classes=C, past_batch=3,
        retention=VAML_RETENTIONS[keep](),
    )  # fmt: skip


def regression():
    inputs = partial(jax.random.uniform, minval=0.0, maxval=1.0)
    return vaml_regression(
        on_standardised(nets.mlp([4], 4)), nets.mlp([4], 1), TX,
        weights=Weights(0.5, 1.0, 0.1), inputs=lambda key, n: inputs(key, (n, 2)),
    )  # fmt: skip


def images(key, n=6):
    y = jnp.arange(n, dtype=jnp.int32) % C
    return Batch(jax.random.uniform(key, (n, PIXELS)), y, jnp.ones(n))


def points(key, n=6):
    key_x, key_y = jax.random.split(key)
    return Batch(jax.random.normal(key_x, (n, 2)), jax.random.normal(key_y, (n, 1)), jnp.ones(n))


def with_maml(loss):
    return maml(NET, optax.sgd(0.1), steps=1, loss=loss)


MAKERS = {
    "gan-bank": (partial(gan, "bank"), images),
    "gan-frozen": (partial(gan, "frozen_discriminator"), images),
    "gan-replay": (partial(gan, "replay+align"), images),
    "metagan-negative": (partial(meta, with_maml, "negative_class"), images),
    "metagan-augment": (partial(meta, protonet(NET, classes=C), "augment"), images),
    "vaml": (partial(on_images, False), images),
    "vaml-head": (partial(on_images, True), images),
    "vaml-regression": (regression, points),
    "vaml-stream-align": (partial(on_stream, "align"), images),
    "vaml-stream-replay": (partial(on_stream, "replay"), images),
}
each_generator = pytest.mark.parametrize(("make", "examples"), MAKERS.values(), ids=MAKERS)
# Several at once, for each needs a compilation of its own.
SWITCHES = {
    "debug_nans, strict types, key reuse": lambda: (
        jax.debug_nans(True), jax.numpy_dtype_promotion("strict"), jax.debug_key_reuse(True),
    ),
    "disable_jit": lambda: (jax.disable_jit(),),
}  # fmt: skip


def episodes(examples, change=lambda part: part):
    """Two episodes; `change` is applied to each support and query set."""
    keys = jax.random.split(jax.random.key(5), 4)
    parts = [change(examples(k)) for k in keys]
    tasks = [Task(parts[0], parts[1]), Task(parts[2], parts[3])]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)


@cache
def compiled(make):
    """A generator and its learner with every function compiled, once for all tests."""
    learner, generator = make()
    jitted = {name: jax.jit(getattr(generator, name)) for name in generator._fields[1:-1]}
    jitted["sample"] = jax.jit(partial(generator.sample, n=4))
    if learner is not None:
        learner = learner._replace(adapt=jax.jit(learner.adapt), predict=jax.jit(learner.predict))
    return learner, generator._replace(**jitted)


def outcome(make, examples, change=lambda part: part):
    """All that a generator computes in two short tasks."""
    learner, generator = compiled(make)
    batch, tasks = change(examples(jax.random.key(0))), episodes(examples, change)
    state = generator.init(jax.random.key(1), batch.x[:1])
    shown = []
    for i in range(2):
        state, metrics = generator.step(state, tasks, jax.random.key(2 + i))
        shown.append(metrics)
        if isinstance(generator, StreamGenerator):
            state = generator.end_task(state, batch, jax.random.key(4 + i))
    code = generator.encode(state, batch, jax.random.key(7))
    found = [state, shown, code, generator.sample(state, code, jax.random.key(8))]
    if isinstance(generator, StreamGenerator):
        found.append(generator.sample(state, None, jax.random.key(9)))
    if learner is not None:
        params = getattr(state, "averaged", getattr(state, "params", None))
        found.append(learner.adapt(params, batch, jax.random.key(10)))
        found.append(learner.predict(params, found[-1], tasks.query.x[0, :4]))
    return found


# Each costs up to half a minute: the suite runs them for two kinds, and without jit for one.
# tests/test_conformance.py has strict promotion of all that is registered, by shapes alone.
quick = [name for name in MAKERS if name in ("gan-replay", "vaml-stream-align")]
without_jit = [
    pytest.param(*MAKERS[name], "disable_jit", id=f"{name}-disable_jit",
                 marks=() if name == quick[-1] else pytest.mark.slow)
    for name in MAKERS
]  # fmt: skip
strict = [
    pytest.param(*made, next(iter(SWITCHES)), id=f"{name}-strict",
                 marks=() if name in quick else pytest.mark.slow)
    for name, made in MAKERS.items()
]  # fmt: skip


@pytest.mark.parametrize(("make", "examples", "switch"), strict + without_jit)
def test_under_every_switch_of_jax(make, examples, switch):
    expected = outcome(make, examples)
    with ExitStack() as stack:
        for context in SWITCHES[switch]():
            stack.enter_context(context)
        found = outcome(make, examples)
    chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-4)
    assert all(int(metrics["bad_step"]) == -1 for metrics in found[1])
    if switch == list(SWITCHES)[-1]:
        jax.clear_caches()  # operations one by one leave thousands of small programs behind


def filled_with(value, label):
    """The last two examples are padding, with this value and label."""

    def change(part):
        y = part.y.at[-2:].set(label if part.y.ndim == 1 else value)
        return Batch(part.x.at[-2:].set(value), y, part.weight.at[-2:].set(0.0))

    return change


@each_generator
def test_padding_reaches_no_loss_and_no_gradient(make, examples):
    """Whether it is 0, at which the networks here are not smooth, or no number at all."""
    results = [
        outcome(make, examples, filled_with(*padding))
        for padding in ((0.0, -1), (jnp.inf, 0), (jnp.nan, 999))
    ]
    for metrics in results[0][1]:
        assert int(metrics["bad_step"]) == -1
    for other in results[1:]:
        chex.assert_trees_all_equal(other, results[0])


@each_generator
def test_an_episode_of_padding_only_is_finite(make, examples):
    """A whole query set or episode may be padding, as where a class is too small."""

    def nothing(part):
        return part._replace(x=0 * part.x, weight=0 * part.weight)

    _, generator = compiled(make)
    state = generator.init(KEY, examples(jax.random.key(1)).x)
    full, empty = episodes(examples), episodes(examples, nothing)
    for tasks in (full._replace(query=empty.query), empty):
        after, shown = generator.step(state, tasks, KEY)
        assert int(shown["bad_step"]) == -1
        chex.assert_tree_all_finite(after)


def test_what_a_batch_is_made_into():
    """Labels become int32, images floats, padding copies of a real example."""
    x = jnp.array([[9], [51], [255]], jnp.uint8)
    batch = Batch(x, jnp.array([250, 199, 0], jnp.uint8), jnp.array([0.0, 2.0, 1.0]))
    made = prepared(batch, classes=200, span=(0.0, 1.0))
    np.testing.assert_allclose(made.x[:, 0], [0.2, 0.2, 1.0], rtol=1e-6)
    assert made.y.dtype == jnp.int32
    assert made.y.tolist() == [199, 199, 0]
    assert made.weight.tolist() == [0.0, 2.0, 1.0]
    alone = prepared(batch._replace(weight=jnp.zeros(3)), classes=200, span=(0.0, 1.0))
    assert jnp.isfinite(alone.x).all()
    grown = prepared(batch._replace(x=jnp.zeros((3, 5)), weight=None), classes=251, span=(0, 1))
    assert grown.weight.tolist() == [1.0] * 3
    for part, message in (
        (batch._replace(y=batch.y.astype(float)), "labels must be integers, got float32"),
        (batch._replace(y=batch.y[:, None]), r"got uint8 \[3, 1\]; take y\[:, 0\]"),
        (
            batch._replace(weight=jnp.ones(2)),
            r"weight has shape \(2,\), expected \(3,\)",
        ),
        (batch._replace(weight=None), r"labels are in 0\.\.250, expected -1\.\.199"),
        (batch._replace(x=x.astype(float)), r"in 51\.\.255, expected the declared range"),
    ):
        with pytest.raises(ValueError, match=message):
            prepared(part, classes=200, span=(0.0, 1.0))
