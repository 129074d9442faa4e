"""The states of generators may be donated, as they are made and as they are updated."""

import jax
import jax.numpy as jnp
import optax
import pytest

from lml_jax import memory, nets
from lml_jax.generative.gan.gan import conditional_gan
from lml_jax.generative.gan.retention import RETENTIONS
from lml_jax.generative.metagan.metagan import metagan
from lml_jax.generative.vaml.images import mlp_parts, vaml
from lml_jax.generative.vaml.stream import vaml_stream
from lml_jax.learners.protonet import protonet
from lml_jax.types import Batch, StreamGenerator, Task

KEY = jax.random.key(0)
CLASSES, TX = 4, optax.adam(1e-2)
D = nets.projection_discriminator([8])
PARTS = mlp_parts(nets.mlp([8], 6), pixels=5, latent=2, hidden=[8])


def gan(keep):
    retention = RETENTIONS[keep](D, memory.class_balanced(3, classes=CLASSES))
    return conditional_gan(
        nets.generator([8], (5,)), D, TX, TX, tasks=2, classes=CLASSES, past_batch=4,
        retention=retention,
    )  # fmt: skip


def few_shot_gan():
    return metagan(
        protonet(nets.mlp([8], CLASSES), classes=CLASSES), nets.mlp([8], 4),
        nets.generator([8], (5,)), TX, TX, classes=CLASSES,
    )[1]  # fmt: skip


GENERATORS = {
    **{f"gan-{keep}": lambda keep=keep: gan(keep) for keep in RETENTIONS},
    "vaml-stream": lambda: vaml_stream(
        PARTS, TX, shape=(5,), tasks=2, classes=CLASSES, past_batch=4
    ),
    "vaml": lambda: vaml(PARTS, TX, shape=(5,), classes=CLASSES)[1],
    "metagan": few_shot_gan,
}


@pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
def test_init_step_end_task_donate(make):
    generator = make()
    step = jax.jit(generator.step, donate_argnums=0)
    y = jnp.arange(8, dtype=jnp.int32) % 2
    state = generator.init(KEY, jnp.zeros((1, 5)))
    for i in range(2):
        batch = Batch(jax.random.uniform(jax.random.key(i), (8, 5)), y + 2 * i)
        part = jax.tree.map(lambda leaf: leaf[None], batch)
        state, metrics = step(state, Task(part, part), KEY)
        if isinstance(generator, StreamGenerator):
            state = generator.end_task(state, batch, KEY)
    assert int(metrics["bad_step"]) == -1
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((state, batch)))
