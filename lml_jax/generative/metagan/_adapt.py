"""MetaGAN's settings, its task codes and samples, and adaptation with generated examples."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses
from lml_jax.generative import conditioning as coding
from lml_jax.generative.conditioning import Codes
from lml_jax.generative.examples import joined, prepared
from lml_jax.losses import GanLoss
from lml_jax.parallel import BatchLoss
from lml_jax.pixels import Span, from_network
from lml_jax.types import (
    Adapt,
    Batch,
    ConditionalNet,
    ExampleLoss,
    Fast,
    Key,
    Learner,
    Loss,
    Net,
    Params,
)

Role = Literal["negative_class", "augment"]
LogitOffset = Literal["zero", "learned"]
# b = 100 x its parameter: Adam moves each parameter by its learning rate, and squared distances,
# which b has to compensate for, are in the tens.
OFFSET_SCALE = 100.0


class MetaGanSettings(NamedTuple):
    """The arguments of `metagan.metagan`, which documents them."""

    learner: Learner | Callable[[ExampleLoss], Learner]
    encoder: Net
    generator: ConditionalNet
    d_tx: optax.GradientTransformation
    g_tx: optax.GradientTransformation
    classes: int
    role: Role
    generated: int
    generated_weight: float
    generated_from: int
    noise: int
    loss: GanLoss
    penalty: float
    logit_offset: LogitOffset
    ema: float
    alternating: bool
    span: Span
    reduce: Callable[[Loss], BatchLoss]

    @property
    def base(self) -> Learner:
        """The few-shot learner itself, with its own loss."""
        if isinstance(self.learner, Learner):
            return self.learner
        return self.learner(losses.cross_entropy)

    @property
    def by_class(self) -> bool:
        """Whether codes are of classes, and samples labelled."""
        return self.role == "augment"

    def prepare(self, batch: Batch) -> Batch:
        """The batch with float examples and int32 labels; see `examples.prepared`."""
        return prepared(batch, classes=self.classes, span=self.span)


def encode(settings: MetaGanSettings, g: Params, support: Batch) -> Codes:
    """Codes [C, k] of the classes, or [1, k] of the whole task, unlabelled examples included.

    h = sum_i w_i e(x_i) / sum_i w_i over the set; `support` as `prepare` makes it.
    """
    weight = weight_of(support)
    if settings.by_class:
        member = jax.nn.one_hot(support.y, settings.classes, axis=0) * weight[None]
    else:
        member = weight[None]
    mass = member.sum(1)
    z = settings.encoder.apply(g["encoder"], support.x)
    return Codes(member @ z / jnp.where(mass > 0, mass, 1.0)[:, None], mass > 0)


def render(settings: MetaGanSettings, g: Params, code: Codes, key: Key, *, n: int) -> Batch:
    """n examples in the declared range; labelled where the codes are of classes, else y = -1."""
    key_draw, key_z = jax.random.split(key)
    drawn = coding.draw(coding.as_table(code), key_draw, n=n)
    z = jax.random.normal(key_z, (n, settings.noise))
    x = settings.generator.apply(g["generator"], z, drawn.h)
    y = jnp.where(drawn.valid & settings.by_class, drawn.y, -1)
    return Batch(from_network(x, settings.span), y, drawn.valid.astype(x.dtype))


def real_score(settings: MetaGanSettings, d: Params, logits: Array) -> Array:
    """s [n] of logits [n, C]: p(real | x) = sigma(s), s = logsumexp_c l_c + b."""
    offset = OFFSET_SCALE * d["offset"] if settings.logit_offset == "learned" else 0.0
    return jax.nn.logsumexp(logits, axis=1) + offset


def adapt(
    settings: MetaGanSettings,
    params: Params,
    support: Batch,
    key: Key,
    fast: Fast | None = None,
    labels: Array | None = None,
    joining: Array | float = 1.0,
    *,
    one_step: bool = False,
) -> Fast:
    """Adapt the base learner on the support set together with generated examples.

    `one_step` takes one inner step, however many the base takes.

    Generated examples have weight `joining` x a. With role "augment" they are labelled. As
    negatives they enter through the loss that the learner minimises in its inner loop, which has
    all terms of D; a metric learner has no such loss, and ignores them here. `support` is as
    `prepare` makes it.
    """
    d, n = params["d"], support.x.shape[0]
    metric_learner = isinstance(settings.learner, Learner)
    ignored = metric_learner and not settings.by_class
    if not settings.generated_weight or ignored or n == 0:
        own = _adaptation(settings.base, one_step)
        return own(d["learner"], support, key, fast, labels)
    key_fake, key_adapt = jax.random.split(key)
    code = encode(settings, params["g"], support)
    fake = render(settings, params["g"], code, key_fake, n=settings.generated)
    labels = _with_generated(labels, settings.generated)
    weight = joining * settings.generated_weight
    if settings.by_class:
        both = joined(support, fake, weight)
        own = _adaptation(settings.base, one_step)
        return own(d["learner"], both, key_adapt, fast, labels)
    rows, loss = _inner_loss(settings, d, support, fake, weight)
    assert not isinstance(settings.learner, Learner)
    own = _adaptation(settings.learner(loss), one_step)
    return own(d["learner"], rows, key_adapt, fast, labels)


def _adaptation(learner: Learner, one_step: bool) -> Adapt:
    return learner.inner_step if one_step and learner.inner_step is not None else learner.adapt


def _inner_loss(
    settings: MetaGanSettings, d: Params, support: Batch, fake: Batch, weight: Array | float
) -> tuple[Batch, ExampleLoss]:
    """Examples with targets, and a loss whose mean over them is D's objective on the support set.

    The objective is a sum of three means: over labelled, over real and over generated examples.
    The target of an example is its label and its weight in each of the three.
    """
    n, m = support.x.shape[0], fake.x.shape[0]
    none_real, none_fake = jnp.zeros(n), jnp.zeros(m)
    targets = [
        jnp.concatenate([support.y, fake.y]).astype(support.x.dtype),
        jnp.concatenate([_normalised(losses.labelled(support)), none_fake]),
        jnp.concatenate([_normalised(unlabelled(support)), none_fake]),
        jnp.concatenate([none_real, _normalised(weight_of(fake))]),
    ]

    def loss(logits: Array, target: Array) -> Array:
        y, supervised, real, generated = target.T
        s = real_score(settings, d, logits)
        value = supervised * losses.cross_entropy(logits, y.astype(jnp.int32))
        value += weight * (real * jax.nn.softplus(-s) + generated * jax.nn.softplus(s))
        return (n + m) * value  # the learner takes the mean over n + m rows

    return Batch(jnp.concatenate([support.x, fake.x]), jnp.stack(targets, axis=1)), loss


def _with_generated(labels: Array | None, generated: int) -> Array | None:
    """Active classes [n, C] with a row for each generated example: those of any row."""
    if labels is None or labels.ndim == 1:
        return labels
    some = jnp.broadcast_to(labels.any(0)[None], (generated, labels.shape[1]))
    return jnp.concatenate([labels, some])


def unlabelled(batch: Batch) -> Array:
    """Weight [n] of each example as a real one whose label is not used.

    These are the examples with y = -1; where there are none, all of them.

    Example:
        >>> unlabelled(Batch(jnp.zeros((3, 1)), jnp.array([0, -1, 1]))).tolist()
        [0.0, 1.0, 0.0]
        >>> unlabelled(Batch(jnp.zeros((2, 1)), jnp.array([0, 1]))).tolist()
        [1.0, 1.0]
    """
    weight = weight_of(batch)
    free = jnp.where(batch.y < 0, weight, 0.0)
    return jnp.where(jnp.sum(free) > 0, free, weight)


def weight_of(batch: Batch) -> Array:
    """The weight of a batch, 1 where it has none."""
    return jnp.ones(batch.y.shape) if batch.weight is None else batch.weight


def predict(settings: MetaGanSettings, params: Params, fast: Fast) -> Callable[[Array], Array]:
    """The adapted learner, as a function from float examples to logits."""
    return partial(settings.base.predict, params["d"]["learner"], fast)


def _normalised(weight: Array) -> Array:
    """Weights that sum to 1, or to 0 where nothing has a weight."""
    total = jnp.sum(weight)
    return weight / jnp.where(total > 0, total, 1.0)
