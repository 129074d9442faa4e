"""Lifelong learners by name: one entry each."""

from lml_jax import memory
from lml_jax.experiments.lifelong.baselines import baselines
from lml_jax.experiments.lifelong.entries import Context, LifelongEntry, examples_per_step
from lml_jax.experiments.lifelong.generators import gan, vaml
from lml_jax.experiments.lifelong.settings import two_of
from lml_jax.lifelong.finetune import finetune
from lml_jax.lifelong.generative_replay import lifelong_generative
from lml_jax.lifelong.joint import joint
from lml_jax.lifelong.lifelong_maml import lifelong_maml
from lml_jax.lifelong.memory_replay import memory_learner
from lml_jax.types import LifelongLearner


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
# What runs where no learners are named: the families of the package between their bounds.
FAMILIES = tuple(lifelong_learners)
lifelong_learners |= baselines
