"""Generators of the classes of a stream, as the generative learners train them."""

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from lml_jax import losses, memory, nets
from lml_jax.checks import known
from lml_jax.data.stream import Stream
from lml_jax.experiments.lifelong.settings import two_of
from lml_jax.generative.gan.gan import conditional_gan
from lml_jax.generative.gan.retention import RETENTIONS
from lml_jax.generative.vaml.images import mlp_parts
from lml_jax.generative.vaml.retention import VAML_RETENTIONS
from lml_jax.generative.vaml.stream import vaml_stream
from lml_jax.pixels import check_range
from lml_jax.types import Batch, Key, Metrics, StreamGenerator, Task

if TYPE_CHECKING:
    from lml_jax.experiments.lifelong.entries import Context
    from lml_jax.experiments.lifelong.settings import Plan


def gan(c: "Context") -> StreamGenerator:
    """A conditional GAN of perceptrons.

    Raises:
        ValueError: for an unknown retention loss, or images outside 0..1.
    """
    s, classes = c.plan.settings, c.stream.classes
    discriminator = nets.projection_discriminator([s.generator_width] * 2)
    # Adam without momentum: the discriminator of some steps ago says nothing about it now.
    tx = optax.adam(_rate(c.plan), b1=0.0, b2=0.99)
    again = bool((c.stream.members.sum(axis=0) > 1).any())
    retention = RETENTIONS[known(s.retention, RETENTIONS, what="retention loss of a GAN")]
    generator = conditional_gan(
        nets.generator([s.generator_width] * 2, shape_of(c.stream)),
        discriminator,
        tx,
        tx,
        tasks=c.stream.tasks,
        classes=classes,
        noise=s.noise,
        loss=losses.GAN_LOSSES[s.gan_loss](),
        penalty=s.penalty,
        ema=s.ema,
        condition="both" if again else "class",
        retention=retention(discriminator, memory.class_balanced(s.per_class, classes=classes)),
        retention_weight=c.plan.retention_weight,
        reduction=two_of(c.plan.reduction),
        past_batch=c.plan.past_batch,
    )
    return in_range(c, generator)


def vaml(c: "Context") -> StreamGenerator:
    """VAML of perceptrons.

    Raises:
        ValueError: for an unknown retention loss, or images outside 0..1.
    """
    s, shape = c.plan.settings, shape_of(c.stream)
    hidden = [s.generator_width] * 2
    retention = VAML_RETENTIONS[known(s.retention, VAML_RETENTIONS, what="retention loss of VAML")]
    generator = vaml_stream(
        mlp_parts(
            nets.mlp(hidden, 2 * s.code),
            pixels=math.prod(shape),
            latent=s.noise,
            hidden=hidden,
            reconstruction_weight=s.reconstruction_weight,
        ),
        optax.adam(_rate(c.plan)),
        shape=shape,
        tasks=c.stream.tasks,
        classes=c.stream.classes,
        retention=retention(),
        retention_weight=c.plan.retention_weight,
        reduction=two_of(c.plan.reduction),
        past_batch=c.plan.past_batch,
    )
    return in_range(c, generator)


def shape_of(stream: Stream) -> tuple[int, ...]:
    """Shape of one image of a stream."""
    return jax.tree.leaves(stream.x)[0].shape[1:]


def in_range(c: "Context", generator: StreamGenerator) -> StreamGenerator:
    """The generator for examples of the range `plan.span`, mapped to 0..1 and back.

    Raises:
        ValueError: for images outside 0..1, which nothing could see inside jit.
    """
    low, high = c.plan.span
    if (low, high) == (0.0, 1.0):
        check_range(jax.tree.leaves(c.stream.x)[0], (0.0, 1.0))
        return generator
    width = high - low

    def to(batch: Batch) -> Batch:
        return batch._replace(x=jnp.clip((batch.x - low) / width, 0.0, 1.0))

    def back(batch: Batch) -> Batch:
        return batch._replace(x=low + width * batch.x)

    def step(state: Any, tasks: Task, key: Key) -> tuple[Any, Metrics]:
        mapped = tasks._replace(support=to(tasks.support), query=to(tasks.query))
        return generator.step(state, mapped, key)

    return StreamGenerator(
        init=lambda key, x: generator.init(key, to(Batch(x, x)).x),
        step=step,
        end_task=lambda state, batch, key: generator.end_task(state, to(batch), key),
        encode=lambda state, support, key: generator.encode(state, to(support), key),
        sample=lambda state, code, key, *, n: back(generator.sample(state, code, key, n=n)),
    )


def _rate(plan: "Plan") -> optax.Schedule:
    return optax.cosine_decay_schedule(plan.settings.generator_rate, plan.steps, 0.05)
