"""From the plan of a few-shot run to its tasks, network, learner, update rule and loss."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from lml_jax import evaluate, losses, nets
from lml_jax.data.arrays import rotations, select
from lml_jax.data.episodes import episodes
from lml_jax.execution import Execution, NetKind, execution
from lml_jax.experiments.datasets import DataRequest
from lml_jax.experiments.fewshot.learners import FewShotContext, OuterContext
from lml_jax.experiments.fewshot.settings import Plan
from lml_jax.experiments.progress import Sampler
from lml_jax.types import Dataset, ExampleLoss, Learner, Loss, Net

HALVED_EVERY = 2000  # updates, in Snell et al. 2017
TURNED = ("maml-random", "vinyals")  # splits whose protocols turn characters at test too


class Tasks(NamedTuple):
    """Data and samplers of training and test tasks; data of regression tasks is ()."""

    train_set: Any
    test_set: Any
    sample: Sampler
    test_sample: Sampler
    validation_set: Any = ()
    validation_sample: Sampler | None = None


def tasks_of(plan: Plan) -> Tasks:
    """The tasks of a run."""
    s = plan.settings
    if plan.data.tasks is not None:
        make = plan.data.tasks
        return Tasks(
            (),
            (),
            make(tasks=s.meta_batch, shots=s.shots, queries=s.train_queries),
            make(tasks=1000, shots=s.test_shots, queries=s.queries),
            (),
            make(tasks=100, shots=s.test_shots, queries=s.queries) if s.validate_every else None,
        )
    # Where an embedding is compared with itself, a turned character is a class of its own.
    turn = plan.data.turned and not plan.entry.embedding
    train_set, test_set, validation_set = image_sets(plan)
    test = partial(
        episodes,
        tasks=20,
        ways=s.ways,
        shots=s.test_shots,
        queries=s.queries,
        small=s.small,
    )
    turned_at_test = turn and s.split in TURNED
    validation = None
    if validation_set is not None:
        validation = test(validation_set, rotate=turned_at_test)
    return Tasks(
        jax.device_put(train_set),
        jax.device_put(test_set),
        episodes(
            train_set,
            tasks=s.meta_batch,
            ways=s.train_ways,
            shots=s.shots,
            queries=s.train_queries,
            rotate=turn,
            small=s.small,
        ),
        test(test_set, rotate=turned_at_test),
        jax.device_put(validation_set),
        validation,
    )


def image_sets(plan: Plan) -> tuple[Dataset, Dataset, Dataset | None]:
    """Training, test and validation classes; the last are held out of the training classes."""
    s, data = plan.settings, plan.data
    assert data.background is not None
    assert data.stream is not None
    request = DataRequest(s.data_dir, s.split, s.size)
    train_set, (test_set, _) = data.background(request), data.stream(request)
    held_out = None
    if s.validate_every:
        train_set, held_out = without_some(train_set, s.validation_classes, s.seed)
    if data.turned and plan.entry.embedding and s.split in TURNED:
        turned = None if held_out is None else rotations(held_out)
        return rotations(train_set), rotations(test_set), turned
    return train_set, test_set, held_out


def without_some(data: Dataset, classes: int, seed: int) -> tuple[Dataset, Dataset]:
    """The data without so many random classes, and these.

    Raises:
        ValueError: where none would be left to train on.
    """
    if classes >= data.classes:
        raise ValueError(
            f"validation_classes must be below {data.classes}, the training classes, got {classes}"
        )
    order = np.random.default_rng(seed).permutation(data.classes)
    return select(data, np.sort(order[classes:])), select(data, np.sort(order[:classes]))


def network_of(plan: Plan) -> Net:
    """The network of the published protocols.

    1-40-40-1 for regression; conv4 for images, strided with a head for learners of the MAML
    family, pooled without one for those that classify in an embedding.
    """
    s = plan.settings
    if plan.regression:
        return nets.mlp([40, 40], 1)
    norm: nets.Norm = "group" if s.batch_statistics == "group" else "transductive"
    if plan.entry.embedding:
        return nets.conv4(None, filters=s.filters, pool=True, norm=norm)
    return nets.conv4(s.ways, filters=s.filters, norm=norm)


def execution_of(plan: Plan) -> Execution:
    """Scan or loop, for the network and the inner steps of the plan."""
    s = plan.settings
    net: NetKind = "dense" if plan.regression else "conv"
    return execution(net, steps=s.steps, inner_steps=s.inner_steps)


def example_loss(plan: Plan) -> ExampleLoss:
    """The loss of one example."""
    return losses.squared_error if plan.regression else losses.cross_entropy


def score_of(plan: Plan) -> evaluate.QueryScore:
    """What a test episode is scored by."""
    return evaluate.query_squared_error if plan.regression else evaluate.query_accuracy


def learner_of(
    plan: Plan, net: Net, *, steps: int, ways: int, loss: ExampleLoss | None = None
) -> Learner:
    """The learner with `steps` inner steps, of `ways` classes where it has no head.

    `loss` is minimised by the inner steps; None takes that of the data.
    """
    how = execution_of(plan)
    return plan.entry.make(
        FewShotContext(
            net=net,
            ways=ways,
            steps=steps,
            trained_steps=plan.settings.inner_steps,
            rate=plan.settings.inner_rate,
            loss=loss or example_loss(plan),
            unroll=how.unroll,
            remat=how.remat,
        )
    )


def outer_rule_of(plan: Plan) -> optax.GradientTransformation:
    """The update rule of the outer loop, with the schedule of its rates."""
    s = plan.settings
    schedules: dict[str, Callable[[float], Any]] = {
        "constant": lambda start: start,
        "cosine": lambda start: optax.cosine_decay_schedule(start, s.steps),
        "halving": partial(
            optax.exponential_decay, transition_steps=HALVED_EVERY, decay_rate=0.5, staircase=True
        ),
    }
    of = schedules[s.schedule]
    return plan.entry.outer(OuterContext(of(s.outer_rate), of(s.step_size_rate), s.clip))


def loss_of(plan: Plan, learner: Learner) -> Loss:
    """What the outer loop minimises."""
    return plan.entry.loss(learner, example_loss(plan))
