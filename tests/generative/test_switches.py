"""Every generator under JAX's switches, and with padding that holds anything at all.

No branch on a name: each entry of MAKERS says what it is built from and which examples it takes.
"""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lml_jax import nets
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
from lml_jax.types import Batch, ConditionalNet, MemoryBank, Net, Task

KEY = jax.random.key(0)
C, PIXELS = 3, 4
TX = optax.adam(1e-2)


def standardised(x):
    """Each example to mean 0 and deviation 1: not smooth, and NaN, at a constant example."""
    x = x.reshape(x.shape[0], -1)
    x = x - x.mean(axis=1, keepdims=True)
    return x / jnp.sqrt(jnp.sum(x**2, axis=1, keepdims=True))


def on_standardised(net):
    return Net(
        lambda key, x: net.init(key, standardised(x)),
        lambda params, x: net.apply(params, standardised(x)),
    )


NET = on_standardised(nets.mlp([4], C))
PLAIN = nets.projection_discriminator([4])
D = ConditionalNet(
    lambda key, x, h: PLAIN.init(key, standardised(x), h),
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
    return Batch(
        jax.random.normal(key, (n, 2)), jax.random.normal(jax.random.fold_in(key, 1), (n, 1)),
        jnp.ones(n),
    )  # fmt: skip


def with_maml(loss):
    return maml(NET, optax.sgd(0.1), steps=1, loss=loss)


MAKERS = {
    **{f"gan-{name}": (partial(gan, name), images) for name in retention.RETENTIONS},
    "metagan-negative": (partial(meta, with_maml, "negative_class"), images),
    "metagan-augment": (partial(meta, protonet(NET, classes=C), "augment"), images),
    "vaml": (partial(on_images, False), images),
    "vaml-head": (partial(on_images, True), images),
    "vaml-regression": (regression, points),
    **{f"vaml-stream-{name}": (partial(on_stream, name), images) for name in VAML_RETENTIONS},
}
each_generator = pytest.mark.parametrize(("make", "examples"), MAKERS.values(), ids=MAKERS)
SWITCHES = {
    "debug_nans": lambda: jax.debug_nans(True),
    "disable_jit": jax.disable_jit,
    "strict": lambda: jax.numpy_dtype_promotion("strict"),
    "key_reuse": lambda: jax.debug_key_reuse(True),
}


def episodes(examples, change=lambda part: part):
    """Two episodes; `change` is applied to each support and query set."""
    keys = jax.random.split(jax.random.key(5), 4)
    parts = [change(examples(k)) for k in keys]
    tasks = [Task(parts[0], parts[1]), Task(parts[2], parts[3])]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)


def outcome(make, examples, change=lambda part: part, steps=2):
    """All that a generator computes in two short tasks."""
    learner, generator = make()
    batch = change(examples(KEY))
    state = generator.init(jax.random.key(1), examples(KEY).x)
    step = jax.jit(generator.step)
    shown = []
    for i in range(2):
        for k in range(steps):
            key = jax.random.fold_in(jax.random.key(2), 10 * i + k)
            state, metrics = step(state, episodes(examples, change), key)
            shown.append(metrics)
        if hasattr(generator, "end_task"):
            state = generator.end_task(state, batch, jax.random.key(3 + i))
    code = generator.encode(state, batch, jax.random.key(7))
    found = [state, shown, code, generator.sample(state, code, jax.random.key(8), n=4)]
    if hasattr(generator, "end_task"):
        found.append(generator.sample(state, None, jax.random.key(9), n=4))
    if learner is not None:
        params = getattr(state, "averaged", getattr(state, "params", None))
        fast = learner.adapt(params, batch, jax.random.key(10))
        found += [fast, learner.predict(params, fast, batch.x)]
    return found


@pytest.fixture(scope="module")
def plain():
    """What each generator computes with no switch set, computed once."""
    known = {}

    def of(make, examples):
        if make not in known:
            known[make] = outcome(make, examples)
        return known[make]

    return of


@each_generator
@pytest.mark.parametrize("switch", SWITCHES)
def test_under_every_switch_of_jax(make, examples, switch, plain):
    expected = plain(make, examples)
    with SWITCHES[switch]():
        found = outcome(make, examples)
    chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-4)
    assert all(int(metrics["bad_step"]) == -1 for metrics in found[1])


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
        outcome(make, examples, filled_with(*padding))[:4]
        for padding in ((0.5, 0), (0.0, 0), (jnp.nan, -1), (jnp.inf, 999))
    ]
    for metrics in results[0][1]:
        assert int(metrics["bad_step"]) == -1
    for other in results[1:]:
        chex.assert_trees_all_equal(other, results[0])


@each_generator
def test_an_episode_of_padding_only_changes_no_code(make, examples):
    """A whole support or query set may be padding, as where a class is too small."""

    def nothing(part):
        return part._replace(x=0 * part.x, weight=0 * part.weight)

    _, generator = make()
    state = generator.init(KEY, examples(KEY).x)
    full, empty = episodes(examples), episodes(examples, nothing)
    step = jax.jit(generator.step)
    for tasks in (
        full._replace(support=empty.support), full._replace(query=empty.query), empty
    ):  # fmt: skip
        after, shown = step(state, tasks, KEY)
        assert int(shown["bad_step"]) == -1
        chex.assert_tree_all_finite(after)


def test_labels_may_be_of_any_integer_type():
    for name in ("gan-align", "metagan-augment", "vaml", "vaml-stream-align"):
        make, _ = MAKERS[name]

        def narrow(key, dtype=jnp.uint8):
            batch = images(key)
            return batch._replace(y=batch.y.astype(dtype))

        wide = outcome(make, images, steps=1)
        for dtype in (jnp.uint8, jnp.int8):
            found = outcome(make, partial(narrow, dtype=dtype), steps=1)
            jax.tree.map(np.testing.assert_array_equal, found, wide)
