"""The game of a conditional generator and its discriminator: state, losses, one step of each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses
from lml_jax.generative import conditioning as coding
from lml_jax.generative.conditioning import Codes, Draw
from lml_jax.generative.gan.retention import Render, Transfer, share
from lml_jax.metrics.generators import spread_ratio
from lml_jax.train import all_finite
from lml_jax.types import Batch, ConditionalNet, Key, Metrics, Params, Task

# name -> (what D descends, what G descends), each of (real scores, fake scores)
LOSSES: dict[str, tuple[Callable[..., Array], Callable[..., Array]]] = {
    "saturating": (losses.discriminator_loss, losses.saturating_loss),
    "non_saturating": (losses.discriminator_loss, losses.non_saturating_loss),
    "relativistic": (
        losses.relativistic_loss,
        lambda real, fake: losses.relativistic_loss(fake, real),
    ),
}
NETS = ("discriminator", "generator")  # by `bad_net`


class Game(NamedTuple):
    """What is fixed for a whole stream; see `gan.conditional_gan` for each."""

    generator: ConditionalNet
    discriminator: ConditionalNet
    g_tx: optax.GradientTransformation
    d_tx: optax.GradientTransformation
    l_d: Callable[[Array, Array], Array]
    l_g: Callable[[Array, Array], Array]
    transfer: Transfer
    code_of: Callable[[Array, Batch], Codes]  # (number of the task, its examples) -> codes
    noise: int
    penalty: float
    ema: float
    weight: float
    reduction: str
    past_batch: int
    classes: int
    by_class: bool  # whether a code says of which class its examples are
    span: tuple[float, float]


class GanState(NamedTuple):
    """One pytree. `bad_step` is -1 until an update was not finite; `bad_net` indexes `NETS`.

    `ema` is the moving average of `g`, which samples are drawn from; `teacher` is `ema` as it was
    when the last task was finished. The table `codes` [T, C] holds the `finished` tasks and the
    arriving one; `memory` is what the knowledge transfer keeps.
    """

    step: Array
    bad_step: Array
    bad_net: Array
    g: Params
    d: Params
    g_opt: Any
    d_opt: Any
    ema: Params
    teacher: Params
    codes: Codes
    memory: Any
    finished: Array

    @property
    def bad_part(self) -> str:
        """Whose update was not finite."""
        return NETS[int(self.bad_net)]


class Pairs(NamedTuple):
    """Real examples x [n, ...] in (-1, 1), their codes h [n, k], and weights [n].

    Each is compared with G(z, h). What a frozen generator made of z meets what G makes of it now,
    so that a pair says nothing while G is unchanged, where others of its class would pull at it.
    """

    x: Array
    h: Array
    weight: Array
    z: Array


def scaled(x: Array, span: tuple[float, float]) -> Array:
    """Examples in `span`, or uint8, to (-1, 1), which both networks speak."""
    x = x.astype(float) / 255 if x.dtype == jnp.uint8 else x
    return (x - span[0]) * (2 / (span[1] - span[0])) - 1


def unscaled(x: Array, span: tuple[float, float]) -> Array:
    """What a generator makes, in (-1, 1), to `span`."""
    return (x + 1) * ((span[1] - span[0]) / 2) + span[0]


def check_game(penalty: float, ema: float, span: tuple[float, float]) -> None:
    """Raise ValueError for what no game can be played with."""
    if penalty < 0:
        raise ValueError(f"the penalty gamma must be >= 0, got {penalty}")
    if not 0 <= ema < 1:
        raise ValueError(f"ema must be in [0, 1), got {ema}")
    if not span[0] < span[1]:
        raise ValueError(f"span must be (low, high) with low < high, got {span}")


def past_codes(state: GanState) -> Codes:
    """The table without the arriving task."""
    finished = jnp.arange(state.codes.mask.shape[0]) < state.finished
    return state.codes._replace(mask=state.codes.mask & finished[:, None])


def step(game: Game, state: GanState, tasks: Task, key: Key) -> tuple[GanState, Metrics]:
    """D moves, then G against the new D; nothing changes from the first bad update on."""
    batch = coding.together(tasks)
    coding.check_range(batch.x, game.span)
    key_draw, key_real, key_g = jax.random.split(key, 3)
    drawn = coding.draw(past_codes(state), key_draw, n=game.past_batch)
    own = game.code_of(state.finished, batch)
    real = _pairs(game, state, batch, own, drawn, key_real)

    of_d = jax.value_and_grad(_d_loss, argnums=1, has_aux=True)
    (value_d, shown), grads_d = of_d(game, state.d, state.g, real)
    d, d_opt = moved(game.d_tx, grads_d, state.d_opt, state.d)
    of_g = jax.value_and_grad(_g_loss, argnums=1, has_aux=True)
    (value_g, (term, fake)), grads_g = of_g(game, state.g, state._replace(d=d), real, drawn, key_g)
    g, g_opt = moved(game.g_tx, grads_g, state.g_opt, state.g)

    ema = averaged(state.ema, g, state.step, decay=game.ema)
    after = state._replace(
        step=state.step + 1, g=g, d=d, g_opt=g_opt, d_opt=d_opt, ema=ema, codes=_noted(state, own)
    )
    fine = jnp.stack([finite(value_d, grads_d, d), finite(value_g, grads_g, g)])
    n = batch.y.shape[0]
    flat = [x[:n].reshape(n, -1) for x in (real.x, fake)]
    within = batch.y if game.by_class else jnp.zeros_like(batch.y)
    within = jnp.where(losses.labelled(batch) > 0, within, -1)
    metrics = {
        "d_loss": value_d,
        "g_loss": value_g,
        "transfer": term,
        **shown,
        "spread": spread_ratio(flat[0], within, flat[1], within, classes=game.classes),
    }
    return kept(state, after, fine), metrics


def _pairs(game: Game, state: GanState, batch: Batch, own: Codes, drawn: Draw, key: Key) -> Pairs:
    """The arriving task's examples and, where L_j is adversarial, those of past tasks."""
    key_now, key_past, key_real = jax.random.split(key, 3)
    mass = losses.labelled(batch)
    now = Pairs(
        scaled(batch.x, game.span),
        own.h[jnp.maximum(batch.y, 0)],
        mass / jnp.maximum(jnp.sum(mass), 1.0),
        _noise(game, key_now, mass.shape[0]),
    )
    if game.transfer.real is None:
        return now
    z = _noise(game, key_past, game.past_batch)
    x = game.transfer.real(state.memory, _render(game, state.teacher), drawn, z, key_real)
    before = Pairs(x, drawn.h, drawn.valid * _share(game, state) / game.past_batch, z)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), now, before)


def _d_loss(game: Game, d: Params, g: Params, real: Pairs) -> tuple[Array, Metrics]:
    """sum_k w_k ( l_D(D(x_k), D(G(z_k))) + gamma (R1_k + R2_k) )."""
    n = real.x.shape[0]
    fake = jax.lax.stop_gradient(game.generator.apply(g, real.z, real.h))
    both, h = jnp.concatenate([real.x, fake]), jnp.concatenate([real.h, real.h])

    def scores(x: Array) -> Array:
        return game.discriminator.apply(d, x, h)

    score = scores(both)
    value = game.l_d(score[:n], score[n:])
    if game.penalty:
        steep = losses.gradient_penalty(scores, both)
        value = value + game.penalty * (steep[:n] + steep[n:])
    right = losses.weighted_mean((score[:n] > score[n:]).astype(float), real.weight)
    return jnp.sum(real.weight * value), {"d_accuracy": right}


def _g_loss(
    game: Game, g: Params, state: GanState, real: Pairs, drawn: Draw, key: Key
) -> tuple[Array, tuple[Array, Array]]:
    """sum_k w_k l_G(D(x_k), D(G(z_k))), and lambda sum_j L_j where that is no adversarial loss."""
    key_past, key_pick = jax.random.split(key)
    fake = game.generator.apply(g, real.z, real.h)
    score_real, score_fake = (game.discriminator.apply(state.d, x, real.h) for x in (real.x, fake))
    value = jnp.sum(real.weight * game.l_g(score_real, score_fake))
    term = jnp.zeros(())
    if game.transfer.penalty is not None:
        z = _noise(game, key_past, game.past_batch)
        each = game.transfer.penalty(
            state.memory, _render(game, g), _render(game, state.teacher), drawn, z, key_pick
        )
        term = jnp.mean(jnp.where(drawn.valid, each, 0.0))
    return value + _share(game, state) * term, (term, fake)


def _share(game: Game, state: GanState) -> Array:
    return share(state.finished, weight=game.weight, reduction=game.reduction)


def _noise(game: Game, key: Key, n: int) -> Array:
    return jax.random.normal(key, (n, game.noise))


def _render(game: Game, g: Params) -> Render:
    return lambda z, h: game.generator.apply(g, z, h)


def moved(
    tx: optax.GradientTransformation, grads: Params, opt_state: Any, params: Params
) -> tuple[Params, Any]:
    """Parameters and optimiser state after one step of `tx`."""
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def _noted(state: GanState, own: Codes) -> Codes:
    """The table with the codes of the arriving task, as far as its classes have been met."""
    i = state.finished
    return Codes(state.codes.h.at[i].set(own.h), state.codes.mask.at[i].max(own.mask))


def averaged(old: Params, new: Params, step: Array, *, decay: float) -> Params:
    """The moving average of parameters, after so many steps."""
    # An average that began with the start would hold on to it for 1 / (1 - decay) steps.
    slow = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, b: slow * a + (1 - slow) * b, old, new)


def finite(value: Array, grads: Params, params: Params) -> Array:
    """Whether an update is finite: its loss, its gradient and what it made."""
    return all_finite(value, grads, params)


def kept(old: Any, new: Any, fine: Array) -> Any:
    """State `new`, or `old` from the first update on that was not `fine` [2], of D and of G."""
    first = (old.bad_step < 0) & ~fine.all()
    # A branch and not a choice per array: a choice reads and writes the whole state once more.
    state = jax.lax.cond(fine.all() & (old.bad_step < 0), lambda: new, lambda: old)
    return state._replace(
        bad_step=jnp.where(first, old.step, old.bad_step),
        bad_net=jnp.where(first, jnp.argmin(fine).astype(jnp.int32), old.bad_net),
    )
