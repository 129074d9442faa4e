"""Lifelong learners by name: one entry each."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import optax

from lml_jax import inner, memory
from lml_jax.data.stream import Stream
from lml_jax.experiments.fewshot.learners import FewShotContext, few_shot_learners
from lml_jax.experiments.lifelong.generators import gan, vaml
from lml_jax.experiments.lifelong.settings import Option, Plan, two_of
from lml_jax.learners.maml import maml
from lml_jax.lifelong.finetune import finetune
from lml_jax.lifelong.generative_replay import lifelong_generative
from lml_jax.lifelong.joint import joint
from lml_jax.lifelong.label_space import LabelSpace, label_space_of
from lml_jax.lifelong.lifelong_maml import lifelong_maml
from lml_jax.lifelong.memory_replay import memory_learner
from lml_jax.losses import cross_entropy
from lml_jax.types import Learner, LifelongLearner, Net, StreamGenerator

Start = Literal["classifier", "embedding", "random"]


class Context(NamedTuple):
    """What a lifelong learner is built from.

    Attributes:
        plan: resolved settings; `plan.options` are the learner's own.
        stream: the stream of one seed.
        space: its label space.
        classifier: MAML with a head over all classes of the stream.
        embedding: the few-shot learner of `--few-shot` over all classes, in an embedding.
        tx: update rule of the outer loop.
        generator: what the entry's `generator` built, or None.
    """

    plan: Plan
    stream: Stream
    space: LabelSpace
    classifier: Learner
    embedding: Learner
    tx: optax.GradientTransformation
    generator: StreamGenerator | None = None


Make = Callable[[Context], LifelongLearner]


class LifelongEntry(NamedTuple):
    """A lifelong learner as the commands use it.

    Attributes:
        make: context -> learner.
        about: one line for the documentation.
        start: which meta-trained parameters it starts from with `--start parameters`: those of
            `Context.classifier`, those of `Context.embedding`, or none.
        bound: whether its accuracy is a lower or an upper bound for the others.
        defaults: settings that stand in for None: `steps`, `outer_rate`, `retention_weight`,
            `reduction` and `past_batch`; a value, or a function of the plan.
        options: settings of its own with their defaults, given as `--options NAME.OPTION=VALUE`.
        generator: context -> the generator that it trains, measured after each task.
    """

    make: Make
    about: str = ""
    start: Start = "classifier"
    bound: Literal["lower", "upper", ""] = ""
    defaults: Mapping[str, Any] = {}
    options: Mapping[str, Option] = {}
    generator: Callable[[Context], StreamGenerator] | None = None


def context_of(plan: Plan, stream: Stream, entry: LifelongEntry) -> Context:
    """What the learner of an entry is built from."""
    s = plan.settings
    context = Context(
        plan,
        stream,
        label_space_of(stream, task_incremental=s.scenario == "task"),
        classifier_of(plan, stream.classes),
        embedding_of(plan, stream.classes),
        optax.adam(plan.outer_rate),
    )
    made = None if entry.generator is None else entry.generator(context)
    return context._replace(generator=made)


def classifier_of(plan: Plan, classes: int) -> Learner:
    """MAML with a head of so many classes."""
    s = plan.settings
    return maml(
        plan.net.head(classes, s.width),
        inner.fixed(optax.sgd(plan.inner_rate)),
        steps=s.inner_steps,
        unroll=plan.how.unroll,
        remat=plan.how.remat,
    )


def embedding_of(plan: Plan, classes: int) -> Learner:
    """The few-shot learner of the settings over so many classes, in an embedding."""
    s = plan.settings
    net: Net = plan.net.embedding(s.width)
    return few_shot_learners[s.few_shot].make(
        FewShotContext(net, classes, 0, 0, 0.0, cross_entropy, plan.how.unroll)
    )


def examples_per_step(plan: Plan) -> int:
    """Examples in the episodes of one update."""
    s = plan.settings
    return s.meta_batch * plan.classes * (s.shots + s.queries)


def _maml(c: Context) -> LifelongLearner:
    s = c.plan.settings
    return lifelong_maml(
        c.classifier,
        c.tx,
        c.space,
        bank=memory.task_indexed(s.capacity, tasks=c.stream.tasks),
        decay=s.decay,
        reduction=c.plan.reduction,
        every_task=s.every_task,
        past_batch=c.plan.past_batch,
        # A linear head fits the whole bank in a few steps; a network from scratch does not.
        recall_on="bank" if c.plan.start == "features" else "task",
    )


def _memory(c: Context) -> LifelongLearner:
    s = c.plan.settings
    return memory_learner(
        c.embedding,
        c.tx,
        c.space,
        bank=memory.class_balanced(s.per_class, classes=c.stream.classes),
        retention_weight=c.plan.retention_weight,
        reduction=two_of(c.plan.reduction),
        every_task=s.every_task,
        shots=s.memory_shots,
        past_batch=c.plan.past_batch,
        recall_by=s.recall_by,
    )


def _generative(c: Context) -> LifelongLearner:
    s = c.plan.settings
    assert c.generator is not None
    return lifelong_generative(
        c.classifier,
        c.tx,
        c.space,
        c.generator,
        past_batch=c.plan.past_batch,
        generated=s.generated,
        generated_from=c.plan.steps // 2,
        test_generated=s.test_generated,
        temperature=s.temperature,
    )


def _joint(c: Context) -> LifelongLearner:
    s = c.plan.settings
    per_episode = (s.shots + s.queries) * c.plan.classes
    return joint(c.classifier, c.tx, c.space, capacity=c.stream.train_size, past_batch=per_episode)


_GENERATIVE = {"past_batch": examples_per_step, "reduction": "mean"}

lifelong_learners: dict[str, LifelongEntry] = {
    "lifelong-maml": LifelongEntry(
        _maml, "MAML whose outer loss includes past tasks", defaults={"reduction": "normalised"}
    ),
    "memory": LifelongEntry(
        _memory,
        "prototypes from a bank of stored examples",
        start="embedding",
        # On features there is nothing to train: the network is the identity.
        defaults={
            "steps": lambda plan: 1 if plan.start == "features" else plan.steps,
            "retention_weight": lambda plan: 0.0 if plan.start == "features" else 1.0,
        },
    ),
    "lifelong-gan": LifelongEntry(
        _generative, "generative replay with a conditional GAN", defaults=_GENERATIVE, generator=gan
    ),
    "lifelong-vaml": LifelongEntry(
        _generative, "generative replay with VAML", defaults=_GENERATIVE, generator=vaml
    ),
    "finetune": LifelongEntry(
        lambda c: finetune(c.classifier, c.tx, c.space),
        "training on each task alone",
        bound="lower",
    ),
    "joint": LifelongEntry(_joint, "training on all examples so far", bound="upper"),
}
