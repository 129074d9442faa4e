"""What a run of the generative learner is made of: its settings, stream, generator and learner."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import optax

from lml_jax import nets
from lml_jax.data import streams
from lml_jax.data.augment import Jitter, jittered
from lml_jax.data.digits import digits
from lml_jax.data.mnist import mnist
from lml_jax.data.omniglot import omniglot
from lml_jax.generative.conditioning import check_range
from lml_jax.generative.gan.gan import conditional_gan
from lml_jax.generative.vaml.images import mlp_parts
from lml_jax.generative.vaml.stream import vaml_stream
from lml_jax.learners.maml import maml
from lml_jax.lifelong.generative_replay import lifelong_generative
from lml_jax.lifelong.label_space import Head, head_of
from lml_jax.types import Dataset, Generator, Learner, LifelongLearner, Stream

DATA = ("digits", "mnist", "omniglot")


@dataclass(frozen=True)
class Generation:
    """Settings of a run of the generative learner; what is written in its record."""

    data: str = "digits"  # digits (8x8, in scikit-learn), mnist, or omniglot's evaluation half
    tasks: int = 5
    classes_per_task: int = 2
    steps: int = 2000  # on each task, of D, G and the classifier each
    batch: int = 64  # real examples in each, over the classes of the task
    generator: str = "gan"  # or vaml
    transfer: str = "align"  # the reading of L_j
    weight: float = 1.0  # lambda
    reduction: str = "mean"  # over past tasks
    per_class: int = 10  # examples of each class that `bank` keeps
    loss: str = "relativistic"  # this and the next two: of a GAN
    penalty: float = 1.0  # gamma
    ema: float = 0.998
    rate: float = 1e-3  # of the generator, falling along a cosine on each task
    hidden: int = 256  # width of the two hidden layers of each of its networks
    noise: int = 32  # length of z
    code: int = 16  # d, length of VAML's code of a class
    sharpness: float = 1.0  # of its pixels
    classifier: int = 256  # width of the two hidden layers of f_theta
    classifier_rate: float = 1e-3
    augment: int = 32  # samples that join the arriving task, after half of its steps
    test_augment: int = 32  # samples that join the support set of a test task
    temperature: float = 2.0  # of the old classifier's labels of past samples
    train_per_class: int | None = 143  # None: all, where test examples are apart (mnist)
    jitter: bool = False  # affine jitter of the real examples, new at every draw
    samples: int = 500  # of each class, for the measures
    neighbours: int = 5
    collapse: float = 0.5  # warn below this spread
    data_dir: str | None = None


class Made(NamedTuple):
    """What a run is made of; `generator` is None where the learner has none."""

    stream: Stream
    generator: Generator | None
    learner: LifelongLearner


def build(settings: Generation, seed: int) -> Made:
    """The stream of a seed, the generator and the learner."""
    s = settings
    train_data, test_data = data_of(s)
    per_class = s.batch // s.classes_per_task
    stream = streams.class_incremental(
        train_data,
        tasks=s.tasks,
        classes_per_task=s.classes_per_task,
        seed=seed,
        test=test_data,
        train_per_class=s.train_per_class,
        shots=per_class // 2,
        queries=per_class - per_class // 2,
        meta_batch=1,
    )
    if s.jitter:
        stream = jittered(stream, Jitter())
    few_shot = maml(nets.mlp([s.classifier] * 2, stream.classes), optax.sgd(0.1), steps=1)
    return generative_on(stream, head_of(stream), few_shot, optax.adam(s.classifier_rate), s)


def generative_on(
    stream: Stream,
    head: Head,
    few_shot: Learner,
    tx: optax.GradientTransformation,
    settings: Generation,
) -> Made:
    """The generator of the settings on any stream, with `few_shot` as f_theta.

    Raises:
        ValueError: for training examples outside 0..1, which nothing could see inside jit.
    """
    s = settings
    shape = jax.eval_shape(stream.train, 0).x.shape[1:]
    for i in range(stream.tasks):
        check_range(stream.train(i).x, (0.0, 1.0))
    generator, finish = GENERATORS[s.generator](s, stream, shape)
    learner = lifelong_generative(
        few_shot,
        tx,
        head,
        generator,
        finish,
        replay_batch=s.batch,
        augment_batch=s.augment,
        augment_from=s.steps // 2,
        test_batch=s.test_augment,
        temperature=s.temperature,
    )
    return Made(stream, generator, learner)


def data_of(settings: Generation) -> tuple[Dataset, Dataset | None]:
    """Training examples and, where they are apart, test examples."""
    if settings.data == "mnist":
        train_data, test_data = (
            mnist(part, data_dir=settings.data_dir) for part in ("train", "test")
        )
        return train_data, test_data
    if settings.data == "omniglot":
        return omniglot("evaluation", data_dir=settings.data_dir), None
    return digits(), None


Pair = tuple[Generator, Callable[..., Any]]  # and what ends a task


def gan_of(s: Generation, stream: Stream, shape: tuple[int, ...]) -> Pair:
    """A conditional GAN of perceptrons."""
    # Adam without momentum: what D looked like some steps ago says nothing about it now.
    tx = optax.adam(_rate(s), b1=0.0, b2=0.99)
    again = bool((stream.members.sum(axis=0) > 1).any())
    return conditional_gan(
        nets.generator([s.hidden] * 2, shape),
        nets.projection_discriminator([s.hidden] * 2),
        tx,
        tx,
        tasks=s.tasks,
        classes=stream.classes,
        noise=s.noise,
        loss=s.loss,
        penalty=s.penalty,
        ema=s.ema,
        condition="both" if again else "class",
        transfer=s.transfer,
        weight=s.weight,
        reduction=s.reduction,
        past_batch=s.batch,
        per_class=s.per_class,
    )


def vaml_of(s: Generation, stream: Stream, shape: tuple[int, ...]) -> Pair:
    """VAML of perceptrons."""
    hidden = [s.hidden] * 2
    return vaml_stream(
        mlp_parts(
            nets.mlp(hidden, 2 * s.code),
            pixels=math.prod(shape),
            latent=s.noise,
            hidden=hidden,
            sharpness=s.sharpness,
        ),
        optax.adam(_rate(s)),
        shape=shape,
        tasks=s.tasks,
        classes=stream.classes,
        transfer=s.transfer,
        weight=s.weight,
        reduction=s.reduction,
        past_batch=s.batch,
    )


def _rate(s: Generation) -> optax.Schedule:
    return optax.cosine_decay_schedule(s.rate, s.steps, 0.05)


GENERATORS = {"gan": gan_of, "vaml": vaml_of}
