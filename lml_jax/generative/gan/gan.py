"""A conditional GAN that learns the classes of a stream, one task after another."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses
from lml_jax.checks import check_positive, known, possible
from lml_jax.generative import _adversarial as adversarial
from lml_jax.generative import conditioning as coding
from lml_jax.generative.conditioning import Codes, Condition
from lml_jax.generative.gan import _step
from lml_jax.generative.gan._step import GanSettings, GanState
from lml_jax.generative.gan.retention import REDUCTIONS, Reduction, Retention, align
from lml_jax.losses import GanLoss
from lml_jax.pixels import Span, check_range, from_network, to_network
from lml_jax.train import copy
from lml_jax.types import Batch, ConditionalNet, Key, StreamGenerator

RELATIVISTIC, ALIGN = losses.relativistic(), align()


def conditional_gan(
    generator: ConditionalNet,
    discriminator: ConditionalNet,
    g_tx: optax.GradientTransformation,
    d_tx: optax.GradientTransformation,
    *,
    tasks: int,
    classes: int,
    noise: int = 64,
    loss: GanLoss = RELATIVISTIC,
    penalty: float = 1.0,
    ema: float = 0.999,
    condition: Condition = "class",
    retention: Retention = ALIGN,
    retention_weight: float = 1.0,
    reduction: Reduction = "sum",
    past_batch: int = 64,
    span: Span = (0.0, 1.0),
) -> StreamGenerator:
    """A GAN trained on task i, with a retention loss on the past tasks j < i.

    theta_D minimises E l_D(D(x, h), D(G(z, h), h)) + gamma E (R1 + R2),
    theta_G minimises E l_G(D(x, h), D(G(z, h), h)) + lambda sum_{j<i} L_j(theta_G),

    one step of each, D first. L_j is the retention loss: a penalty on G, or an adversarial loss
    on real examples of task j, on which D is then trained as well. (The source text of this
    method writes D's update with a minus sign, a slip, and its last formula breaks off; this is
    how it is completed here.)

    Args:
        generator: G, (z [n, noise], h [n, k]) -> examples [n, ...] in (-1, 1).
        discriminator: D, (x [n, ...] in -1..1, h [n, k]) -> logits [n], each of its own example
            alone (no batch-norm).
        g_tx: optimiser of G; its state, as that of D, is re-initialised at the end of each task.
        d_tx: optimiser of D; D's parameters are kept from task to task.
        tasks: T >= 1, the number of tasks there is room for.
        classes: C >= 1, of all tasks together.
        noise: dimensions of z ~ N(0, I), >= 1.
        loss: l_D and l_G, from `losses`: `saturating()`, `non_saturating()`, `relativistic()`, or
            the user's own `GanLoss`.
        penalty: gamma >= 0, the weight of R1 + R2, see `losses.gradient_penalty`.
        ema: decay of the moving average of G, in [0, 1).
        condition: what a code h says: "class", "task" or "both"; see `conditioning.one_hot`.
        retention: L_j, from `gan.retention`, or the user's own `Retention`.
        retention_weight: lambda >= 0.
        reduction: "sum" of L_j over past tasks, as in the equation, or their "mean".
        past_batch: draws of past tasks in one estimate, >= 1.
        span: the range (low, high) of the examples; images of uint8 become floats in 0..1.

    Returns:
        A `StreamGenerator`. `end_task` freezes the moving average as the teacher, stores the codes
        of the task's classes and calls `retention.keep`. `encode` gives the code of each class in
        a support set; where a code says the number of the task, only those of the arriving task
        can be given. `sample` draws from the moving average or, without a code, from the teacher.
        Metrics of a step: `d_loss`, `g_loss`, `retention` (the mean of L_j where it is a penalty,
        else 0), `d_accuracy` (the share of pairs in which D scores the real example higher),
        `diversity` (`diversity_ratio` of the batch: far below 1 is a collapse; inf where no class
        occurs twice), and `bad_step`, `bad_step_discriminator`, `bad_step_generator`: the step
        whose update was refused as non-finite, or -1.

    Raises:
        ValueError: for unknown names and numbers out of range; in `init`, `step` and `end_task`,
            for examples outside `span` or labels outside -1..C-1; in `sample`, for n < 1 or a
            class that was never learned; in `end_task`, for more than T tasks. Values are known
            outside jit only: inside, an update on a label above C-1, or after a task too many, is
            refused as non-finite.

    Example:
        >>> from lml_jax import nets
        >>> gan = conditional_gan(
        ...     nets.generator([16], (8, 8)), nets.projection_discriminator([16]),
        ...     optax.adam(1e-3), optax.adam(1e-3), tasks=5, classes=10)
        >>> state = gan.init(jax.random.key(0), jnp.zeros((1, 8, 8)))
        >>> batch = Batch(jnp.zeros((4, 8, 8)), jnp.array([0, 0, 3, 3]))
        >>> state = gan.end_task(state, batch, jax.random.key(1))
        >>> gan.sample(state, None, jax.random.key(2), n=4).y.tolist()
        [0, 0, 3, 3]

        A retention loss of one's own, the mean absolute distance to the frozen generator:

        >>> from lml_jax.generative.gan import retention
        >>> def penalty(memory, generator, teacher, drawn, z, key):
        ...     moved = jnp.abs(generator(z, drawn.h) - teacher(z, drawn.h))
        ...     return moved.reshape(len(z), -1).mean(axis=1)  # one value per draw
        >>> own = retention.none()._replace(penalty=penalty)
        >>> gan = conditional_gan(
        ...     nets.generator([16], (8, 8)), nets.projection_discriminator([16]),
        ...     optax.adam(1e-3), optax.adam(1e-3), tasks=5, classes=10, retention=own)

    Source:
        Wu, Herranz, Liu, Wang, van de Weijer, Raducanu. Memory Replay GANs: Learning to Generate
        Images from New Categories without Forgetting, 2018. https://arxiv.org/abs/1809.02058
    """
    settings = GanSettings(**locals())  # first, so that these are the arguments and nothing else
    known(reduction, REDUCTIONS, what="reduction")
    width = coding.code_width(condition, tasks=tasks, classes=classes)
    check_positive(tasks=tasks, classes=classes, noise=noise, past_batch=past_batch)
    adversarial.check_settings(penalty, ema, span)
    if not possible(lambda w: w >= 0, retention_weight):
        raise ValueError(f"retention_weight must be >= 0, got {retention_weight}")
    return StreamGenerator(
        init=partial(_init, settings, width),
        step=partial(_step.step, settings),
        end_task=partial(_end_task, settings),
        encode=partial(_encode, settings),
        sample=partial(_sample, settings),
    )


def _init(settings: GanSettings, width: int, key: Key, x: Array) -> GanState:
    x = jnp.asarray(x)
    check_range(x, settings.span)
    key_g, key_d = jax.random.split(key)
    x, z = to_network(x, settings.span)[:1], jnp.zeros((1, settings.noise))
    table = coding.empty_table(settings.tasks, settings.classes, width)
    h = table.h[0, :1]
    g, d = settings.generator.init(key_g, z, h), settings.discriminator.init(key_d, x, h)
    makes = jax.eval_shape(settings.generator.apply, g, z, h).shape[1:]
    adversarial.check_shapes(makes, x.shape[1:])
    made = GanState(
        step=jnp.zeros((), jnp.int32),
        bad=adversarial.no_bad_steps(),
        g=g,
        d=d,
        g_opt=settings.g_tx.init(g),
        d_opt=settings.d_tx.init(d),
        ema=g,
        teacher=g,
        codes=table,
        memory=settings.retention.init(d, x, table.mask),
        finished=jnp.zeros((), jnp.int32),
    )
    # In buffers of its own: what is donated may not hold one twice.
    return copy(made)


def _end_task(settings: GanSettings, state: GanState, batch: Batch, key: Key) -> GanState:
    """Freeze the teacher, store the codes, re-initialise the optimisers; D is kept."""
    coding.check_room(state.codes, state.finished)
    batch = settings.prepare(batch)
    i, own = state.finished, settings.code_of(state.finished, batch)
    inside = batch._replace(x=to_network(batch.x, settings.span))
    # Inside jit a task too many cannot raise: it stops the generator, as a bad update does.
    full = (i >= settings.tasks) & (state.bad_step < 0)
    return state._replace(
        bad=state.bad._replace(generator=jnp.where(full, state.step, state.bad.generator)),
        g_opt=settings.g_tx.init(state.g),
        d_opt=settings.d_tx.init(state.d),
        teacher=copy(state.ema),
        codes=jax.tree.map(lambda all_, one: all_.at[i].set(one), state.codes, own),
        memory=settings.retention.keep(state.memory, i, state.d, inside, key),
        finished=i + 1,
    )


def _encode(settings: GanSettings, state: GanState, support: Batch, key: Key) -> Codes:
    """Codes of classes; where these say a task's number, of the arriving task's learned classes."""
    own = settings.code_of(state.finished, support)
    if settings.condition == "class":
        return own
    learned = state.codes.mask.at[state.finished].get(mode="fill", fill_value=False)
    return own._replace(mask=own.mask & learned)


def _sample(
    settings: GanSettings, state: GanState, code: Codes | None, key: Key, *, n: int
) -> Batch:
    """From the moving average; without a code, from the teacher and all finished tasks."""
    coding.check_count(n)
    key_draw, key_z = jax.random.split(key)
    if code is None:
        params, table = state.teacher, _step.past_codes(state)
    else:
        learned = state.codes.mask.any(axis=0)
        coding.check_learned(code, learned)
        params, table = state.ema, coding.as_table(code._replace(mask=code.mask & learned))
    drawn = coding.draw(table, key_draw, n=n)
    x = settings.generator.apply(params, settings.draw_noise(key_z, n), drawn.h)
    y = jnp.where(drawn.valid & settings.by_class, drawn.y, -1)
    return Batch(from_network(x, settings.span), y, drawn.valid.astype(x.dtype))
