"""Few-shot learners by name: one entry each."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import optax

from lml_jax import inner, train
from lml_jax.learners.gemcl import gemcl
from lml_jax.learners.maml import maml
from lml_jax.learners.matching import matching
from lml_jax.learners.protonet import protonet
from lml_jax.learners.reptile import reptile, surrogate
from lml_jax.types import ExampleLoss, Learner, Loss, Net


class FewShotContext(NamedTuple):
    """What a few-shot learner is built from.

    Attributes:
        net: with a head of `ways` outputs, or an embedding for an entry with `embedding`.
        ways: classes of an episode.
        steps: inner steps of one call of `adapt`.
        trained_steps: inner steps at training.
        rate: inner step size, or its start where it is learned.
        loss: what the inner steps minimise.
        unroll: unroll the inner steps.
        remat: recompute the inner steps in the backward pass.
    """

    net: Net
    ways: int
    steps: int
    trained_steps: int
    rate: float
    loss: ExampleLoss
    unroll: bool
    remat: bool = True


class OuterContext(NamedTuple):
    """Rates of the outer loop; `clip` is the largest norm of its gradient, or None."""

    rate: optax.Schedule
    step_size_rate: optax.Schedule
    clip: float | None


class FewShotEntry(NamedTuple):
    """A few-shot learner as the commands use it.

    Attributes:
        make: context -> learner.
        about: one line for the documentation.
        defaults: settings that stand in for None in classification.
        regression: the same in regression; None for a learner that only classifies.
        embedding: it classifies in an embedding: without a head, and without inner steps.
        outer: context -> update rule of the outer loop, over `make`'s parameters.
        loss: (learner, loss of an example) -> what the outer loop minimises.
    """

    make: Callable[[FewShotContext], Learner]
    about: str
    defaults: Mapping[str, Any] = {}
    regression: Mapping[str, Any] | None = None
    embedding: bool = False
    outer: Callable[[OuterContext], optax.GradientTransformation] = lambda c: optax.adam(c.rate)
    loss: Callable[[Learner, ExampleLoss], Loss] = lambda learner, loss: train.episode_loss(
        learner, loss=loss
    )


def _maml(
    rule: Callable[[FewShotContext], inner.Rule], *, first_order: bool = False
) -> Callable[[FewShotContext], Learner]:
    return lambda c: maml(
        c.net,
        rule(c),
        steps=c.steps,
        loss=c.loss,
        first_order=first_order,
        unroll=c.unroll,
        remat=c.remat,
    )


def _sgd(c: FewShotContext) -> inner.Rule:
    return inner.fixed(optax.sgd(c.rate))


def _learned_rates(c: OuterContext) -> optax.GradientTransformation:
    """Adam, with a rate of its own for learned step sizes."""
    rules: dict[Hashable, optax.GradientTransformation] = {
        "theta": optax.adam(c.rate),
        "alpha": optax.adam(c.step_size_rate),
    }
    clip = optax.identity() if c.clip is None else optax.clip_by_global_norm(c.clip)
    return optax.chain(clip, optax.multi_transform(rules, {"theta": "theta", "alpha": "alpha"}))


def _maml_entry(
    rule: Callable[[FewShotContext], inner.Rule],
    about: str,
    *,
    first_order: bool = False,
    rates: tuple[float, float] = (0.4, 0.001),
    **changes: Any,
) -> FewShotEntry:
    """`rates` are the inner rates in classification and in regression."""
    common = {"inner_steps": 1, "test_inner_steps": 10, **changes}
    return FewShotEntry(
        _maml(rule, first_order=first_order),
        about,
        {**common, "meta_batch": 16, "report_step": 3, "inner_rate": rates[0]},
        {**common, "meta_batch": 25, "report_step": 1, "inner_rate": rates[1]},
        outer=_learned_rates,
    )


# Many ways at training, and one network for every number of shots.
_EMBEDDING = {
    "shots": 5,
    "train_queries": 5,
    "train_ways": 20,
    "meta_batch": 1,
    "inner_steps": 0,
    "test_inner_steps": 0,
    "report_step": 0,
    "inner_rate": 0.0,
    "batch_statistics": "frozen",
}


def _embedding(make: Callable[..., Learner], about: str) -> FewShotEntry:
    return FewShotEntry(lambda c: make(c.net, classes=c.ways), about, _EMBEDDING, embedding=True)


few_shot_learners: dict[str, FewShotEntry] = {
    "maml": _maml_entry(_sgd, "MAML, second order"),
    "fomaml": _maml_entry(_sgd, "MAML, first order", first_order=True),
    "meta-sgd": _maml_entry(
        lambda c: inner.per_parameter(c.rate),
        "MAML with a learned step size per parameter",
        rates=(0.1, 0.01),
    ),
    "maml++": _maml_entry(
        lambda c: inner.per_layer_and_step(c.rate, steps=c.trained_steps),
        "MAML with a learned step size per layer and step",
        rates=(0.1, 0.001),
        inner_steps=5,
        # Several learned steps in a row diverge at Adam's usual rate, as large as they are.
        step_size_rate=1e-5,
        clip=10.0,
    ),
    "reptile": FewShotEntry(
        # Adam without momentum, as the paper's inner loop.
        lambda c: reptile(
            c.net, optax.adam(c.rate, b1=0.0), steps=c.steps, loss=c.loss, unroll=c.unroll
        ),
        "Reptile",
        # Ten examples per class in all, and many more steps at test than at training.
        {
            "train_queries": 9, "meta_batch": 5, "inner_steps": 5, "test_inner_steps": 50,
            "report_step": 50, "inner_rate": 1e-3, "outer_rate": 1.0,
        },
        {
            "train_queries": 10, "meta_batch": 5, "inner_steps": 5, "test_inner_steps": 10,
            "report_step": 10, "inner_rate": 0.01, "outer_rate": 0.1,
        },
        outer=lambda c: optax.sgd(c.rate),
        loss=lambda learner, loss: surrogate(learner, loss=loss),
    ),
    "protonet": _embedding(protonet, "prototypical networks"),
    "matching": _embedding(matching, "matching networks"),
    "gemcl": _embedding(gemcl, "GeMCL, Gaussian classes with a meta-trained prior"),
}  # fmt: skip


def embeddings() -> list[str]:
    """The learners that classify in an embedding."""
    return [name for name, entry in few_shot_learners.items() if entry.embedding]
