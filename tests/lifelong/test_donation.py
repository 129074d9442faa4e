"""The states of lifelong learners and generators may be donated, as they are made and moved."""

import jax
import jax.numpy as jnp
import optax
import pytest

from lml_jax import memory, nets
from lml_jax.data.arrays import from_arrays
from lml_jax.data.streams import class_incremental
from lml_jax.generative.gan.gan import conditional_gan
from lml_jax.generative.metagan.metagan import metagan
from lml_jax.generative.vaml.images import mlp_parts
from lml_jax.generative.vaml.stream import vaml_stream
from lml_jax.learners.gemcl import gemcl
from lml_jax.learners.maml import maml
from lml_jax.learners.protonet import protonet
from lml_jax.lifelong.finetune import finetune
from lml_jax.lifelong.generative_replay import lifelong_generative
from lml_jax.lifelong.joint import joint
from lml_jax.lifelong.label_space import label_space_of
from lml_jax.lifelong.lifelong_maml import lifelong_maml
from lml_jax.lifelong.memory_replay import memory_learner
from lml_jax.types import StreamGenerator

KEY = jax.random.key(0)
CLASSES, TX = 4, optax.adam(1e-2)
NET = nets.mlp([8], CLASSES)
DESCENT = maml(NET, optax.sgd(0.1), steps=1)


def gan():
    return conditional_gan(
        nets.generator([8], (5,)), nets.projection_discriminator([8]), TX, TX, tasks=2,
        classes=CLASSES, past_batch=4,
    )  # fmt: skip


def vaml():
    parts = mlp_parts(nets.mlp([8], 6), pixels=5, latent=2, hidden=[8])
    return vaml_stream(parts, TX, shape=(5,), tasks=2, classes=CLASSES, past_batch=4)


def few_shot_gan():
    return metagan(
        protonet(NET, classes=CLASSES), nets.mlp([8], 4), nets.generator([8], (5,)), TX, TX,
        classes=CLASSES,
    )[1]  # fmt: skip


def generative(space):
    return lifelong_generative(DESCENT, TX, space, gan(), past_batch=4)


def bounded(space):
    return lifelong_maml(DESCENT, TX, space, bank=memory.reservoir(12), recall_on="bank")


# name -> (the few-shot learner, label space -> the lifelong learner)
LEARNERS = {
    "finetune": (DESCENT, lambda space: finetune(DESCENT, TX, space)),
    "joint": (DESCENT, lambda space: joint(DESCENT, TX, space, capacity=20)),
    "maml": (DESCENT, lambda space: lifelong_maml(DESCENT, TX, space)),
    "maml-bank": (DESCENT, bounded),
    "generative": (DESCENT, generative),
}
for name, few_shot in {
    "protonet": protonet(NET, classes=CLASSES),
    "gemcl": gemcl(NET, classes=CLASSES),
}.items():
    for way in ("samples", "statistics"):
        LEARNERS[f"{name}-{way}"] = (
            few_shot,
            lambda space, f=few_shot, way=way: memory_learner(f, TX, space, recall_by=way),
        )


@pytest.fixture(scope="module")
def stream():
    y = jnp.repeat(jnp.arange(CLASSES), 14)
    data = from_arrays(jax.random.uniform(KEY, (len(y), 5)), y)
    return class_incremental(
        data, tasks=2, classes_per_task=2, seed=0, train_per_class=10, shots=3, queries=3,
        meta_batch=1,
    )  # fmt: skip


@pytest.mark.parametrize(("few_shot", "make"), LEARNERS.values(), ids=LEARNERS)
def test_init_donate_init_donate_end_task_donate(stream, few_shot, make):
    learner, first = make(label_space_of(stream)), stream.train(0)
    step = jax.jit(learner.step, donate_argnums=0)
    params = few_shot.init(KEY, first.x)
    for begin_from in (None, params, params):
        state = learner.init(KEY, first.x, begin_from)
        state, _ = step(state, stream.episodes(0, KEY), KEY)
    for i in range(2):
        state = learner.end_task(state, stream.train(i), KEY)
        state, metrics = step(state, stream.episodes(i, KEY), KEY)
    assert jnp.isfinite(metrics["loss"])
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((params, first)))


@pytest.mark.parametrize("make", [gan, vaml, few_shot_gan])
def test_a_generator_donates_too(stream, make):
    generator = make()
    first = stream.train(0)
    step = jax.jit(generator.step, donate_argnums=0)
    state = generator.init(KEY, first.x)
    for i in range(2):
        state, metrics = step(state, stream.episodes(i, KEY), KEY)
        if isinstance(generator, StreamGenerator):
            state = generator.end_task(state, stream.train(i), KEY)
    assert all(jnp.isfinite(value).all() for value in metrics.values())
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((state, first)))
