"""One training step of a conditional GAN: its settings, its state, the losses of D and of G."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses
from lml_jax.generative import _adversarial as adversarial
from lml_jax.generative import conditioning as coding
from lml_jax.generative._adversarial import BadSteps, weighted_sum
from lml_jax.generative.conditioning import Codes, Condition, Draw
from lml_jax.generative.examples import prepared, together
from lml_jax.generative.gan.retention import Reduction, Render, Retention, total_weight
from lml_jax.losses import GanLoss
from lml_jax.metrics.diversity import diversity_ratio
from lml_jax.pixels import Span, to_network
from lml_jax.train import all_finite
from lml_jax.types import Batch, ConditionalNet, Key, Metrics, Params, PyTree, Task
from lml_jax.updates import apply_update


class GanSettings(NamedTuple):
    """The arguments of `gan.conditional_gan`, which documents them."""

    generator: ConditionalNet
    discriminator: ConditionalNet
    g_tx: optax.GradientTransformation
    d_tx: optax.GradientTransformation
    tasks: int
    classes: int
    noise: int
    loss: GanLoss
    penalty: float
    ema: float
    condition: Condition
    retention: Retention
    retention_weight: float
    reduction: Reduction
    past_batch: int
    span: Span

    @property
    def by_class(self) -> bool:
        """Whether a code says of which class its examples are."""
        return self.condition != "task"

    def prepare(self, batch: Batch) -> Batch:
        """The batch with float examples and int32 labels; see `examples.prepared`."""
        return prepared(batch, classes=self.classes, span=self.span)

    def code_of(self, task: Array, batch: Batch) -> Codes:
        """The codes of the classes in a batch of task number `task`."""
        return coding.one_hot(
            task, batch, condition=self.condition, tasks=self.tasks, classes=self.classes
        )

    def draw_noise(self, key: Key, n: int) -> Array:
        """Noise z [n, noise], standard normal."""
        return jax.random.normal(key, (n, self.noise))

    def render(self, g: Params) -> Render:
        """The generator with these parameters, as a function of noise and codes."""
        return partial(self.generator.apply, g)

    def past_weight(self, finished: Array) -> Array:
        """The factor of the mean retention loss over past tasks."""
        return total_weight(finished, weight=self.retention_weight, reduction=self.reduction)


class GanState(NamedTuple):
    """State of a conditional GAN, one pytree.

    Attributes:
        step: updates done.
        bad: the steps at which an update was refused.
        g: parameters of G.
        d: parameters of D.
        g_opt: optimiser state of G.
        d_opt: optimiser state of D.
        ema: moving average of `g`, from which samples are drawn.
        teacher: `ema` as it was when the last task was finished.
        codes: table [T, C] of the finished tasks and the arriving one.
        memory: what the retention loss stores.
        finished: tasks finished.
    """

    step: Array
    bad: BadSteps
    g: Params
    d: Params
    g_opt: PyTree
    d_opt: PyTree
    ema: Params
    teacher: Params
    codes: Codes
    memory: PyTree
    finished: Array

    @property
    def bad_step(self) -> Array:
        """The first step whose update was refused, or -1."""
        return self.bad.first


class Pairs(NamedTuple):
    """Real examples x [n, ...] in -1..1, each to be compared with G(z, h).

    `h` [n, k] are their codes, `weight` [n] sums to 1 over the arriving task. For a past task z is
    the noise from which the frozen generator made x, so that real and generated example of a pair
    are equal as long as G has not changed; a sample from other noise would pull at G even then.
    """

    x: Array
    h: Array
    weight: Array
    z: Array


def past_codes(state: GanState) -> Codes:
    """The table without the arriving task."""
    finished = jnp.arange(state.codes.mask.shape[0]) < state.finished
    return state.codes._replace(mask=state.codes.mask & finished[:, None])


def step(settings: GanSettings, state: GanState, tasks: Task, key: Key) -> tuple[GanState, Metrics]:
    """One step of D, then one of G against the new D.

    After the first update that is not finite nothing changes any more.
    """
    batch = settings.prepare(together(tasks))
    key_draw, key_real, key_g = jax.random.split(key, 3)
    own = settings.code_of(state.finished, batch)
    drawn = coding.draw(past_codes(state), key_draw, n=settings.past_batch)
    # An invalid draw has weight 0, and is evaluated nevertheless: at a code that G knows.
    drawn = drawn._replace(h=jnp.where(drawn.valid[:, None], drawn.h, own.h[:1]))
    real = _pairs(settings, state, batch, own, drawn, key_real)

    of_d = jax.value_and_grad(_d_loss, argnums=1, has_aux=True)
    (value_d, d_accuracy), grads_d = of_d(settings, state.d, state.g, real)
    d, d_opt, _ = apply_update(settings.d_tx, grads_d, state.d_opt, state.d, value=value_d)
    of_g = jax.value_and_grad(_g_loss, argnums=1, has_aux=True)
    (value_g, (term, fake)), grads_g = of_g(
        settings, state.g, state._replace(d=d), real, drawn, key_g
    )
    g, g_opt, _ = apply_update(settings.g_tx, grads_g, state.g_opt, state.g, value=value_g)

    after = state._replace(
        step=state.step + 1,
        g=g,
        d=d,
        g_opt=g_opt,
        d_opt=d_opt,
        ema=adversarial.moving_average(state.ema, g, state.step, decay=settings.ema),
        codes=_with_arriving(state, own),
    )
    after = adversarial.refuse_non_finite(
        state, after, all_finite(value_d, grads_d, d), all_finite(value_g, grads_g, g)
    )
    return after, {
        "d_loss": value_d,
        "g_loss": value_g,
        "retention": term,
        "d_accuracy": d_accuracy,
        "diversity": _diversity(settings, batch, real, fake),
        **adversarial.bad_step_metrics(after),
    }


def _pairs(
    settings: GanSettings, state: GanState, batch: Batch, own: Codes, drawn: Draw, key: Key
) -> Pairs:
    """The arriving task's examples and, where L_j is adversarial, those of past tasks."""
    key_now, key_past, key_real = jax.random.split(key, 3)
    mass = losses.labelled(batch)
    now = Pairs(
        to_network(batch.x, settings.span),
        coding.code_of_label(own.h, batch.y),
        mass / jnp.maximum(jnp.sum(mass), 1.0),
        settings.draw_noise(key_now, mass.shape[0]),
    )
    if settings.retention.real is None:
        return now
    z = settings.draw_noise(key_past, settings.past_batch)
    teacher = settings.render(state.teacher)
    x, valid = settings.retention.real(state.memory, teacher, drawn, z, key_real)
    x = jnp.where(valid.reshape(-1, *[1] * (x.ndim - 1)), x, now.x[:1])
    share = settings.past_weight(state.finished) / jnp.maximum(jnp.sum(valid), 1).astype(float)
    before = Pairs(x, drawn.h, jnp.where(valid, share, 0.0), z)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), now, before)


def _d_loss(settings: GanSettings, d: Params, g: Params, real: Pairs) -> tuple[Array, Array]:
    """sum_k w_k ( l_D(D(x_k), D(G(z_k))) + gamma (R1_k + R2_k) ), and D's accuracy on pairs."""
    n = real.x.shape[0]
    fake = jax.lax.stop_gradient(settings.generator.apply(g, real.z, real.h))
    both, h = jnp.concatenate([real.x, fake]), jnp.concatenate([real.h, real.h])

    def scores(x: Array) -> Array:
        return settings.discriminator.apply(d, x, h)

    score = scores(both)
    value = settings.loss.discriminator(score[:n], score[n:])
    if settings.penalty:
        slope = losses.gradient_penalty(scores, both)
        value = value + settings.penalty * (slope[:n] + slope[n:])
    right = losses.weighted_mean((score[:n] > score[n:]).astype(float), real.weight)
    return weighted_sum(real.weight, value), right


def _g_loss(
    settings: GanSettings, g: Params, state: GanState, real: Pairs, drawn: Draw, key: Key
) -> tuple[Array, tuple[Array, Array]]:
    """sum_k w_k l_G(D(x_k), D(G(z_k))) + lambda sum_j L_j, L_j the retention penalty."""
    key_past, key_penalty = jax.random.split(key)
    fake = settings.generator.apply(g, real.z, real.h)
    score_real, score_fake = (
        settings.discriminator.apply(state.d, x, real.h) for x in (real.x, fake)
    )
    value = weighted_sum(real.weight, settings.loss.generator(score_real, score_fake))
    term = jnp.zeros(())
    if settings.retention.penalty is not None:
        z = settings.draw_noise(key_past, settings.past_batch)
        render, teacher = settings.render(g), settings.render(state.teacher)
        each = settings.retention.penalty(state.memory, render, teacher, drawn, z, key_penalty)
        term = jnp.mean(jnp.where(drawn.valid, each, 0.0))
    return value + settings.past_weight(state.finished) * term, (term, fake)


def _diversity(settings: GanSettings, batch: Batch, real: Pairs, fake: Array) -> Array:
    """`diversity_ratio` of the arriving task's batch, within classes or within the task."""
    n = batch.y.shape[0]
    x, made = (part[:n].reshape(n, -1) for part in (real.x, fake))
    within = batch.y if settings.by_class else jnp.zeros_like(batch.y)
    within = jnp.where(losses.labelled(batch) > 0, within, -1)
    # inf and not NaN where it is undefined: with JAX_DEBUG_NANS a NaN would stop the step.
    return diversity_ratio(x, within, made, within, classes=settings.classes, undefined=jnp.inf)


def _with_arriving(state: GanState, own: Codes) -> Codes:
    """The table with the codes of the arriving task, for the classes that have occurred so far."""
    i = state.finished
    return Codes(state.codes.h.at[i].set(own.h), state.codes.mask.at[i].max(own.mask))
