"""A conditional adversarial generator that learns one task after another."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax.checks import check_positive, known
from lml_jax.generative import conditioning as coding
from lml_jax.generative.conditioning import Codes
from lml_jax.generative.gan import _step as adversary
from lml_jax.generative.gan._step import LOSSES, Game, GanState, scaled
from lml_jax.generative.gan.retention import REDUCTIONS, transfers
from lml_jax.train import copy
from lml_jax.types import Batch, ConditionalNet, Generator, Key

Finish = Callable[[Any, Batch, Key], Any]  # (state, training examples of the task, key) -> state


def conditional_gan(
    generator: ConditionalNet,
    discriminator: ConditionalNet,
    g_tx: optax.GradientTransformation,
    d_tx: optax.GradientTransformation,
    *,
    tasks: int,
    classes: int,
    noise: int = 64,
    loss: str = "relativistic",
    penalty: float = 1.0,
    ema: float = 0.999,
    condition: str = "class",
    transfer: str = "align",
    weight: float = 1.0,
    reduction: str = "sum",
    past_batch: int = 64,
    per_class: int = 10,
    span: tuple[float, float] = (0.0, 1.0),
) -> tuple[Generator, Finish]:
    """G learns task i from D, and past tasks from what it remembers of them.

    theta_D <- descend E l_D(D(x), D(G(z, h))) + gamma E (R1 + R2),
    theta_G <- descend E l_G(D(x), D(G(z, h))) + lambda sum_{j<i} L_j(theta_G),
    one step of each, D first. The source writes D's update with a minus sign, a slip: D ascends
    its objective; and its last formula breaks off, so this one is a reading of it. L_j has six
    named readings, in `transfer`; where it is adversarial, D is trained on task j as well.

    Args:
        generator: (z [n, noise], h [n, k]) -> examples in (-1, 1).
        discriminator: (x in (-1, 1), h) -> logits [n], of each example alone.
        g_tx: update rule of G; its state begins anew with each task, as does that of D.
        d_tx: update rule of D, whose parameters are kept.
        tasks: T, room for codes.
        classes: C, of all tasks together.
        noise: dimensions of z, standard normal.
        loss: "saturating" (the equation), "non_saturating" or "relativistic".
        penalty: gamma >= 0, on R1 + R2.
        ema: decay of the moving average of G, in [0, 1).
        condition: what a code says, one of `codes.CONDITIONS`.
        transfer: the reading of L_j: "none", "frozen_discriminator", "bank", "replay", "align" or
            "replay+align".
        weight: lambda >= 0.
        reduction: "sum" over past tasks, the equation, or their "mean".
        past_batch: draws of past tasks in each step.
        per_class: examples of each class that "bank" keeps.
        span: the range of the examples; images of uint8 become floats in 0..1.

    Returns:
        A `Generator`, and (state, batch, key) -> state for the end of a task, which takes the
        teacher, stores the codes and begins the optimisers anew. Metrics of a step: `d_loss`,
        `g_loss`, `transfer` (the mean L_j, where it is no adversarial loss), `d_accuracy` (how
        often D scores a real example above a generated one of its class) and `spread`
        (`spread_ratio` of this batch: a value far below 1 is a collapse). `encode` gives the code
        of each class in a support set; where a code says the number of the task, only that of the
        arriving task can be given, and a test task's set has none.

    Raises:
        ValueError: for unknown names, numbers out of range; in `init`, for examples outside
            `span`; in `sample`, for n < 1 or a class that was never learned; at the end of a task,
        for more tasks than T. Values are seen outside jit only.

    Example:
        >>> from lml_jax import nets
        >>> gan, finish = conditional_gan(
        ...     nets.generator([16], (8, 8)), nets.projection_discriminator([16]),
        ...     optax.adam(1e-3), optax.adam(1e-3), tasks=5, classes=10)
        >>> state = gan.init(jax.random.key(0), jnp.zeros((1, 8, 8)))
        >>> batch = Batch(jnp.zeros((4, 8, 8)), jnp.array([0, 0, 3, 3]))
        >>> state = finish(state, batch, jax.random.key(1))
        >>> gan.sample(state, None, jax.random.key(2), n=4).y.tolist()
        [0, 0, 3, 3]

    Source:
        Wu, Herranz, Liu, Wang, van de Weijer, Raducanu. Memory Replay GANs: Learning to Generate
        Images from New Categories without Forgetting, 2018, for `replay` and `align`.
    """
    l_d, l_g = LOSSES[known(loss, LOSSES, what="GAN loss")]
    ways = transfers(discriminator, per_class=per_class)
    keeping = ways[known(transfer, ways, what="knowledge transfer")]
    known(reduction, REDUCTIONS, what="reduction")
    width = coding.code_width(condition, tasks=tasks, classes=classes)
    check_positive(tasks=tasks, classes=classes, noise=noise, past_batch=past_batch)
    adversary.check_game(penalty, ema, span)
    if weight < 0:
        raise ValueError(f"the weight lambda must be >= 0, got {weight}")
    code_of = partial(coding.one_hot, condition=condition, tasks=tasks, classes=classes)
    game = Game(
        generator=generator,
        discriminator=discriminator,
        g_tx=g_tx,
        d_tx=d_tx,
        l_d=l_d,
        l_g=l_g,
        transfer=keeping,
        code_of=code_of,
        noise=noise,
        penalty=penalty,
        ema=ema,
        weight=weight,
        reduction=reduction,
        past_batch=past_batch,
        classes=classes,
        by_class=condition != "task",
        span=span,
    )
    made = Generator(
        init=partial(_init, game, coding.empty_table(tasks, classes, width)),
        encode=partial(_encode, game, condition),
        step=partial(adversary.step, game),
        sample=partial(_sample, game),
    )
    return made, partial(_finish, game)


def _init(game: Game, table: Codes, key: Key, x_example: Array) -> GanState:
    x_example = jnp.asarray(x_example)
    coding.check_range(x_example, game.span)
    key_g, key_d = jax.random.split(key)
    x, z = scaled(x_example, game.span)[:1], jnp.zeros((1, game.noise))
    h = table.h[0, :1]
    g, d = game.generator.init(key_g, z, h), game.discriminator.init(key_d, x, h)
    makes = jax.eval_shape(game.generator.apply, g, z, h).shape[1:]
    if makes != x.shape[1:]:
        raise ValueError(f"the generator makes {makes}, expected examples of {x.shape[1:]}")
    fine = jnp.full((), -1, jnp.int32)
    made = GanState(
        step=jnp.zeros((), jnp.int32),
        bad_step=fine,
        bad_net=fine,
        g=g,
        d=d,
        g_opt=game.g_tx.init(g),
        d_opt=game.d_tx.init(d),
        ema=g,
        teacher=g,
        codes=table,
        memory=game.transfer.init(d, x, table.mask),
        finished=jnp.zeros((), jnp.int32),
    )
    # In buffers of its own: what is donated may not hold one twice.
    return copy(made)


def _encode(game: Game, condition: str, state: GanState, support: Batch, key: Key) -> Codes:
    """Codes of classes; where these say a task's number, of the arriving one as far as learned."""
    own = game.code_of(state.finished, support)
    if condition == "class":
        return own
    learned = state.codes.mask.at[state.finished].get(mode="fill", fill_value=False)
    return own._replace(mask=own.mask & learned)


def _sample(game: Game, state: GanState, code: Codes | None, key: Key, *, n: int) -> Batch:
    """From the moving average; without a code, from the teacher and all finished tasks."""
    if n < 1:
        raise ValueError(f"expected at least 1 generated sample, got n = {n}")
    key_draw, key_z = jax.random.split(key)
    if code is None:
        params, table = state.teacher, adversary.past_codes(state)
    else:
        learned = state.codes.mask.any(axis=0)
        coding.check_learned(code, learned)
        params, table = state.ema, coding.as_table(code._replace(mask=code.mask & learned))
    drawn = coding.draw(table, key_draw, n=n)
    x = game.generator.apply(params, jax.random.normal(key_z, (n, game.noise)), drawn.h)
    y = jnp.where(drawn.valid & game.by_class, drawn.y, -1)
    return Batch(adversary.unscaled(x, game.span), y, drawn.valid.astype(x.dtype))


def _finish(game: Game, state: GanState, batch: Batch, key: Key) -> GanState:
    """Take the teacher, store the codes, begin the optimisers anew; D is kept."""
    coding.check_range(batch.x, game.span)
    coding.check_room(state.codes, state.finished)
    i, own = state.finished, game.code_of(state.finished, batch)
    inside = batch._replace(x=scaled(batch.x, game.span))
    return state._replace(
        g_opt=game.g_tx.init(state.g),
        d_opt=game.d_tx.init(state.d),
        teacher=copy(state.ema),
        codes=jax.tree.map(lambda all_, one: all_.at[i].set(one), state.codes, own),
        memory=game.transfer.keep(state.memory, i, state.d, inside, key),
        finished=i + 1,
    )
