"""What the settings of a few-shot run are built into: network, learner, outer rule, loss.

All take checked settings, in which nothing is None.
"""

from collections.abc import Callable
from typing import Any

import optax

from lml_jax import inner, losses, nets, train
from lml_jax.experiments.fewshot.settings import METRIC
from lml_jax.learners.gemcl import gemcl
from lml_jax.learners.maml import maml
from lml_jax.learners.matching import matching
from lml_jax.learners.protonet import protonet
from lml_jax.learners.reptile import reptile, surrogate
from lml_jax.types import ExampleLoss, Learner, Loss, Net

HALVED_EVERY = 2000  # steps, in Snell et al. 2017


def network_of(settings: Any) -> Net:
    """The network of the published protocol.

    1-40-40-1 for sine; conv4 for images, strided with a head for MAML, pooled without one for the
    learners that classify in an embedding.
    """
    s = settings
    if s.data == "sine":
        return nets.mlp([40, 40], 1)
    norm: nets.Norm = "group" if s.batch_statistics == "group" else "transductive"
    if s.learner in METRIC:
        return nets.conv4(None, filters=s.filters, pool=True, norm=norm)
    return nets.conv4(s.ways, filters=s.filters, norm=norm)


def learner_of(
    settings: Any, net: Net, *, steps: int, ways: int, loss: ExampleLoss | None = None
) -> Learner:
    """The learner by name, with `steps` inner steps, of `ways` classes where it has no head.

    `loss` is what the inner steps descend; None takes what suits the data.
    """
    embedded: dict[str, Callable[..., Learner]] = {
        "protonet": protonet, "matching": matching, "gemcl": gemcl,
    }  # fmt: skip
    if settings.learner in embedded:
        return embedded[settings.learner](net, classes=ways)
    rate, unroll = settings.inner_rate, settings.data != "sine"
    if loss is None:
        loss = losses.squared_error if settings.data == "sine" else losses.cross_entropy
    if settings.learner == "reptile":
        # Adam without momentum, as the paper's inner loop.
        return reptile(net, optax.adam(rate, b1=0.0), steps=steps, loss=loss, unroll=unroll)
    rules = {
        "meta-sgd": lambda: inner.per_parameter(rate),
        "maml++": lambda: inner.per_layer_and_step(rate, steps=settings.inner_steps),
    }
    rule = rules.get(settings.learner, lambda: inner.fixed(optax.sgd(rate)))()
    return maml(
        net, rule, steps=steps, loss=loss, first_order=settings.learner == "fomaml", unroll=unroll
    )


def outer_rule_of(settings: Any) -> optax.GradientTransformation:
    """SGD for Reptile, else Adam; learned step sizes have a rate of their own."""
    s = settings

    def rate(start: float) -> Any:
        return {
            "constant": lambda: start,
            "cosine": lambda: optax.cosine_decay_schedule(start, s.steps),
            "halving": lambda: optax.exponential_decay(start, HALVED_EVERY, 0.5, staircase=True),
        }[s.schedule]()

    if s.learner == "reptile":
        return optax.sgd(rate(s.outer_rate))
    if s.learner in METRIC:
        return optax.adam(rate(s.outer_rate))
    rules = {
        "theta": optax.adam(rate(s.outer_rate)),
        "alpha": optax.adam(rate(s.step_size_rate)),
    }
    clip = optax.identity() if s.clip is None else optax.clip_by_global_norm(s.clip)
    return optax.chain(clip, optax.multi_transform(rules, {"theta": "theta", "alpha": "alpha"}))


def loss_of(settings: Any, learner: Learner) -> Loss:
    """What the outer loop minimises."""
    loss = losses.squared_error if settings.data == "sine" else losses.cross_entropy
    if settings.learner == "reptile":
        return surrogate(learner, loss=loss)
    return train.episode_loss(learner, loss=loss)
