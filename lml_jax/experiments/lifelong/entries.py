"""The record of a lifelong learner as the commands use it, and what it is built from."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import optax

from lml_jax import inner
from lml_jax.data.stream import Stream
from lml_jax.experiments.fewshot.learners import FewShotContext, few_shot_learners
from lml_jax.experiments.lifelong.settings import Option, Plan
from lml_jax.learners.maml import maml
from lml_jax.lifelong.label_space import LabelSpace, label_space_of
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
        defaults: settings that stand in for None, those in `settings.DEFAULTED`; a value, or a
            function of the plan.
        options: settings of its own with their defaults, given as `--options NAME.OPTION=VALUE`.
        generator: context -> the generator that it trains, measured after each task.
        own_rule: it does not train by `Context.tx`, and has no state of an optimiser.
    """

    make: Make
    about: str = ""
    start: Start = "classifier"
    bound: Literal["lower", "upper", ""] = ""
    defaults: Mapping[str, Any] = {}
    options: Mapping[str, Option] = {}
    generator: Callable[[Context], StreamGenerator] | None = None
    own_rule: bool = False


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
