"""One training step of MetaGAN: its state, the losses of D and of G."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax import losses
from lml_jax.generative import _adversarial as adversarial
from lml_jax.generative import examples
from lml_jax.generative._adversarial import BadSteps
from lml_jax.generative.metagan._adapt import (
    MetaGanSettings,
    adapt,
    encode,
    predict,
    real_score,
    render,
    unlabelled,
    weight_of,
)
from lml_jax.metrics import accuracy
from lml_jax.metrics.diversity import diversity_ratio
from lml_jax.train import all_finite
from lml_jax.types import Batch, Key, Metrics, Params, PyTree, Task
from lml_jax.updates import apply_update


class MetaGanState(NamedTuple):
    """State of MetaGAN, one pytree.

    Attributes:
        step: updates done.
        bad: the steps at which an update was refused.
        params: {"d": {"learner", "offset"}, "g": {"encoder", "generator"}}.
        d_opt: optimiser state of "d".
        g_opt: optimiser state of "g".
        ema: moving average of "g".
    """

    step: Array
    bad: BadSteps
    params: Params
    d_opt: PyTree
    g_opt: PyTree
    ema: Params

    @property
    def bad_step(self) -> Array:
        """The first step whose update was refused, or -1."""
        return self.bad.first

    @property
    def averaged(self) -> Params:
        """The parameters with the moving average of the generator, for use after training."""
        return {"d": self.params["d"], "g": self.ema}


class Adapted(NamedTuple):
    """What the losses of one task are computed from.

    `logits_of` is the adapted learner, `real` the query set, `fake` as many generated examples.
    Example k of both is a pair, whose weight is `fake.weight[k]`.
    """

    logits_of: Callable[[Array], Array]
    real: Batch
    fake: Batch


def step(
    settings: MetaGanSettings, state: MetaGanState, tasks: Task, key: Key
) -> tuple[MetaGanState, Metrics]:
    """One step of D and one of G.

    After the first update that is not finite nothing changes any more.
    """
    for part in (tasks.support, tasks.query):
        examples.check(part, classes=settings.classes, span=settings.span, axes=2)
    key_d, key_g = jax.random.split(key)
    joining = (state.step >= settings.generated_from).astype(float)

    of_d = jax.value_and_grad(settings.reduce(partial(d_loss, settings)), has_aux=True)
    (value_d, shown_d), grads = of_d(state.params, tasks, key_d, joining)
    grads_d = grads["d"]
    d, d_opt, _ = apply_update(
        settings.d_tx, grads_d, state.d_opt, state.params["d"], value=value_d
    )

    opponent = {**state.params, "d": d} if settings.alternating else state.params
    of_g = jax.value_and_grad(settings.reduce(partial(g_loss, settings)), has_aux=True)
    (value_g, shown_g), grads = of_g(opponent, tasks, key_g, joining)
    grads_g = grads["g"]
    g, g_opt, _ = apply_update(
        settings.g_tx, grads_g, state.g_opt, state.params["g"], value=value_g
    )

    after = state._replace(
        step=state.step + 1,
        params={"d": d, "g": g},
        d_opt=d_opt,
        g_opt=g_opt,
        ema=adversarial.moving_average(state.ema, g, state.step, decay=settings.ema),
    )
    after = adversarial.refuse_non_finite(
        state, after, all_finite(value_d, grads_d, d), all_finite(value_g, grads_g, g)
    )
    shown = {"loss": value_d, **shown_g, **shown_d, **adversarial.bad_step_metrics(after)}
    return after, shown


def d_loss(
    settings: MetaGanSettings, params: Params, task: Task, key: Key, joining: Array
) -> tuple[Array, Metrics]:
    """-log p(y | x, real) + a ( l_D(s, s~) + gamma (R1 + R2) ); G is held fixed."""
    params = {**params, "g": jax.lax.stop_gradient(params["g"])}
    logits_of, real, fake = _adapted(settings, params, task, key, joining)

    def scores(x: Array) -> Array:
        return real_score(settings, params["d"], logits_of(x))

    # Real and generated examples in two passes: the prediction of a real one is the base learner's.
    logits, mass = logits_of(real.x), losses.labelled(real)
    missed = losses.weighted_mean(losses.cross_entropy(logits, real.y), mass)
    s, s_fake = real_score(settings, params["d"], logits), scores(fake.x)
    value = settings.loss.discriminator(s, s_fake)
    if settings.penalty:
        slope = partial(losses.gradient_penalty, scores)
        value = value + settings.penalty * (slope(real.x) + slope(fake.x))
    term = losses.weighted_mean(value, fake.weight)

    def share(right: Array) -> Array:
        return losses.weighted_mean(right.astype(float), fake.weight)

    shown = {
        "cross_entropy": missed,
        "accuracy": accuracy(logits, real.y, weight=mass),
        "d_loss": term,
        "d_real": share(s > 0),
        "d_fake": share(s_fake < 0),
        "d_accuracy": share(s > s_fake),
    }
    return missed + settings.generated_weight * _started(settings, joining) * term, shown


def g_loss(
    settings: MetaGanSettings, params: Params, task: Task, key: Key, joining: Array
) -> tuple[Array, Metrics]:
    """l_G(s, s~), and -log p(y | x~, real) of labelled samples; the adapted D is held fixed."""
    params = {**params, "d": jax.lax.stop_gradient(params["d"])}
    logits_of, real, fake = _adapted(settings, params, task, key, joining)
    logits, logits_fake = logits_of(real.x), logits_of(fake.x)
    s, s_fake = (real_score(settings, params["d"], values) for values in (logits, logits_fake))
    value = settings.loss.generator(s, s_fake) + losses.cross_entropy(logits_fake, fake.y)
    value = losses.weighted_mean(value, fake.weight)
    diversity = diversity_ratio(
        *_grouped(settings, real),
        *_grouped(settings, fake),
        classes=settings.classes if settings.by_class else 1,
        undefined=jnp.inf,  # with JAX_DEBUG_NANS a NaN would stop the step
    )
    return _started(settings, joining) * value, {"g_loss": value, "diversity": diversity}


def _adapted(
    settings: MetaGanSettings, params: Params, task: Task, key: Key, joining: Array
) -> Adapted:
    """Adapt to the support set, and generate as many examples as the query set has."""
    key_adapt, key_fake, key_pair = jax.random.split(key, 3)
    support, real = settings.prepare(task.support), settings.prepare(task.query)
    # G is not trained to make D adapt well: no gradient of it through the adapted parameters.
    fixed = {**params, "g": jax.lax.stop_gradient(params["g"])}
    fast = adapt(settings, fixed, support, key_adapt, joining=joining)
    code = encode(settings, params["g"], support)
    fake = render(settings, params["g"], code, key_fake, n=real.x.shape[0])
    # Samples come sorted by class, as the query set may: shuffled, so that no class of samples is
    # paired with padding only.
    order = jax.random.permutation(key_pair, real.x.shape[0])
    fake = jax.tree.map(lambda leaf: leaf[order], fake)
    fake = fake._replace(weight=unlabelled(real) * weight_of(fake))
    return Adapted(predict(settings, params, fast), real, fake)


def _started(settings: MetaGanSettings, joining: Array) -> Array:
    """1 once G is trained: negatives wait for `generated_from`, labelled samples learn at once."""
    return jnp.ones_like(joining) if settings.by_class else joining


def _grouped(settings: MetaGanSettings, batch: Batch) -> tuple[Array, Array]:
    """Examples as rows, and the group within which their diversity counts: class, or task."""
    y = batch.y if settings.by_class else jnp.zeros_like(batch.y)
    flat = jax.lax.stop_gradient(batch.x).reshape(batch.x.shape[0], -1)
    return flat, jnp.where(weight_of(batch) > 0, y, -1)
