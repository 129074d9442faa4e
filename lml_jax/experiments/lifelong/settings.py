"""What a lifelong run is made of: its settings, stream and learners."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import optax

from lml_jax import inner, nets
from lml_jax.checks import known
from lml_jax.data import streams
from lml_jax.data.augment import Jitter, jittered
from lml_jax.data.glyphs import glyphs
from lml_jax.data.mnist import mnist
from lml_jax.data.omniglot import omniglot
from lml_jax.experiments.generator.settings import Generation, Made, generative_on
from lml_jax.generative.vaml.stream import READINGS
from lml_jax.learners.gemcl import gemcl
from lml_jax.learners.maml import maml
from lml_jax.learners.matching import matching
from lml_jax.learners.protonet import protonet
from lml_jax.lifelong.baselines import finetune, joint
from lml_jax.lifelong.label_space import head_of
from lml_jax.lifelong.lifelong_maml import lifelong_maml
from lml_jax.lifelong.memory_replay import memory_learner
from lml_jax.types import Learner, LifelongLearner, Stream

GENERATIVE = {"lifelong-gan": "gan", "lifelong-vaml": "vaml"}  # and the generator of each
LEARNERS = ("lifelong-maml", "memory", *GENERATIVE, "finetune", "joint")
DATA = ("glyphs", "omniglot", "mnist")
SCENARIOS = ("class", "domain", "task")
STEPS = {"quick": 200, "full": 1000}  # updates a task, by budget


@dataclass(frozen=True)
class Lifelong:
    """Settings of a lifelong run; what is written in its record."""

    data: str = "glyphs"  # glyphs, omniglot (its evaluation alphabets) or mnist
    scenario: str = "class"  # class-, domain- or task-incremental
    tasks: int | None = None  # None: 10, or 5 for mnist
    classes_per_task: int | None = None  # None: 5, or 2 for mnist; 10 in a domain stream
    budget: str = "quick"  # quick or full: 200 or 1,000 updates a task
    steps: int | None = None  # updates a task, in place of the budget's
    decay: float | None = 0.9  # lambda of the history, in (0, 1]; None for no history
    form: str = "normalised"  # of the history weights: normalised, mean or sum
    every_task: bool = False  # look at every past task, instead of one that is drawn
    net: str = "mlp"  # mlp, or conv4 with GroupNorm (slow on CPU)
    shots: int = 5
    queries: int = 5
    train_per_class: int = 15
    meta_batch: int = 4
    history_batch: int = 25
    capacity: int = 50  # examples kept of each task
    transfer: float = 1.0  # lambda of the memory learner's knowledge transfer, >= 0
    transfer_form: str = "mean"  # of L_j over past tasks, or their sum
    few_shot: str = "protonet"  # of the memory learner: protonet, matching or gemcl
    per_class: int = 10  # examples of each class that the memory learner keeps
    memory_shots: int = 5  # of them in the support set of each episode
    recall_by: str = "samples"  # or statistics, of the memory learner
    keep_generator: str = "align"  # how a generator keeps past tasks: align, replay or none
    generator_weight: float = 1.0  # lambda of that, >= 0
    generator_width: int = 256  # of the two hidden layers of each of its networks
    generator_rate: float = 1e-3
    generated: int = 32  # samples that join a task's training set, and a test task's support set
    jitter: bool = False  # an affine map of each training image, new at every draw
    inner_steps: int = 1
    inner_rate: float = 0.1
    outer_rate: float = 1e-3
    data_dir: str | None = None


def checked(settings: Lifelong, learners: tuple[str, ...], seeds: tuple[int, ...]) -> Lifelong:
    """`settings` with its defaults filled in, or a ValueError that names what is wrong."""
    known(settings.data, DATA, what="data set")
    known(settings.scenario, SCENARIOS, what="scenario")
    known(settings.budget, STEPS, what="budget")
    known(settings.net, ("mlp", "conv4"), what="network")
    known(settings.keep_generator, READINGS, what="knowledge transfer of a generator")
    if not learners or not seeds:
        raise ValueError(f"nothing to run: learners {learners}, seeds {seeds}")
    for name in learners:
        known(name, LEARNERS, what="learner")
    if settings.steps is not None and settings.steps < 1:
        raise ValueError(f"steps must be at least 1, got {settings.steps}")
    tasks, classes = sizes(settings)
    return replace(settings, tasks=tasks, classes_per_task=classes)


def sizes(settings: Lifelong) -> tuple[int, int]:
    """(tasks, classes per task), with what suits the data in place of None."""
    digits, domain = settings.data == "mnist", settings.scenario == "domain"
    tasks, classes = settings.tasks, settings.classes_per_task
    return (
        (5 if digits else 10) if tasks is None else tasks,
        (10 if domain else 2 if digits else 5) if classes is None else classes,
    )


def stream_of(settings: Lifelong, seed: int) -> Stream:
    """The stream of one seed. A domain stream turns its images, over half a circle in all."""
    s, (tasks, classes) = settings, sizes(settings)
    test = None
    train_per_class: int | None = s.train_per_class
    if s.data == "mnist":
        data, test = (mnist(part, data_dir=s.data_dir) for part in ("train", "test"))
        train_per_class = None
    elif s.data == "omniglot":
        data = omniglot("evaluation", data_dir=s.data_dir)
    else:
        data = glyphs()
    common: dict[str, Any] = {
        "tasks": tasks,
        "seed": seed,
        "test": test,
        "train_per_class": train_per_class,
        "shots": s.shots,
        "queries": s.queries,
        "meta_batch": s.meta_batch,
    }
    if s.scenario == "domain":
        turn = streams.rotated(180.0 / tasks)
        stream = streams.domain_incremental(data, turn, classes=classes, **common)
    else:
        stream = streams.class_incremental(data, classes_per_task=classes, **common)
    return jittered(stream, Jitter()) if s.jitter else stream


def few_shot_of(settings: Lifelong, classes: int) -> Learner:
    """The MAML learner that all of the gradient family share."""
    conv = settings.net == "conv4"
    # GroupNorm: statistics over a test batch would tell which task it is from.
    net = nets.conv4(classes, norm="group") if conv else nets.mlp([256, 256], classes)
    return maml(
        net, inner.fixed(optax.sgd(settings.inner_rate)), steps=settings.inner_steps, unroll=conv
    )


def embedding_of(settings: Lifelong, classes: int) -> Learner:
    """The few-shot learner of the memory family: the same network, with an embedding for a head."""
    kinds: dict[str, Callable[..., Learner]] = {
        "protonet": protonet, "matching": matching, "gemcl": gemcl,
    }  # fmt: skip
    make = kinds[known(settings.few_shot, kinds, what="few-shot learner of the memory")]
    conv = settings.net == "conv4"
    net = nets.conv4(None, norm="group", pool=True) if conv else nets.mlp([256, 256], 64)
    return make(net, classes=classes)


def made_of(name: str, settings: Lifelong, few_shot: Learner, stream: Stream) -> Made:
    """The lifelong learner by name, and its generator where it has one."""
    if name not in GENERATIVE:
        return Made(stream, None, learner_of(name, settings, few_shot, stream))
    s = settings
    head = head_of(stream, task_incremental=s.scenario == "task")
    return generative_on(stream, head, few_shot, optax.adam(s.outer_rate), generation_of(name, s))


def learner_of(name: str, settings: Lifelong, few_shot: Learner, stream: Stream) -> LifelongLearner:
    """A lifelong learner without a generator, by name."""
    s = settings
    head = head_of(stream, task_incremental=s.scenario == "task")
    tx = optax.adam(s.outer_rate)
    if name == "finetune":
        return finetune(few_shot, tx, head)
    if name == "joint":
        size = jax.eval_shape(stream.train, 0).x.shape[0]
        per_episode = (s.shots + s.queries) * int(stream.members[0].sum())
        return joint(few_shot, tx, head, capacity=size, union_batch=per_episode)
    if name == "memory":
        return memory_learner(
            embedding_of(s, stream.classes),
            tx,
            head,
            transfer=s.transfer,
            form=s.transfer_form,
            every_task=s.every_task,
            per_class=s.per_class,
            shots=s.memory_shots,
            transfer_queries=s.history_batch,
            recall_by=s.recall_by,
        )
    return lifelong_maml(
        few_shot,
        tx,
        head,
        decay=s.decay,
        form=s.form,
        every_task=s.every_task,
        capacity=s.capacity,
        history_batch=s.history_batch,
    )


def generation_of(name: str, settings: Lifelong) -> Generation:
    """The settings of the generator of a learner; its batch is all of a meta-batch."""
    s, (tasks, classes) = settings, sizes(settings)
    return Generation(
        data=s.data,
        tasks=tasks,
        classes_per_task=classes,
        steps=steps_of(s),
        batch=s.meta_batch * classes * (s.shots + s.queries),
        generator=GENERATIVE[name],
        transfer=s.keep_generator,
        weight=s.generator_weight,
        rate=s.generator_rate,
        hidden=s.generator_width,
        augment=s.generated,
        test_augment=s.generated,
    )


def steps_of(settings: Lifelong) -> int:
    """Updates a task."""
    return settings.steps or STEPS[settings.budget]
