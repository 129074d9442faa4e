"""The game that sharpens a few-shot learner: its losses, its adaptation, one step of D and of G."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses
from lml_jax.generative import conditioning as coding
from lml_jax.generative.conditioning import Codes, as_float, joined
from lml_jax.generative.gan._step import NETS, averaged, finite, kept, moved, unscaled
from lml_jax.metrics import accuracy
from lml_jax.metrics.generators import spread_ratio
from lml_jax.parallel import BatchLoss
from lml_jax.types import (
    Batch,
    ConditionalNet,
    ExampleLoss,
    Key,
    Learner,
    Loss,
    Metrics,
    Net,
    Params,
    Task,
)

ROLES = ("negative_class", "augment")
# A learned level moves by so many times the step of another parameter: Adam moves each number by
# its rate, and squared distances are in the tens.
GAIN = 100.0


class Rules(NamedTuple):
    """What is fixed; see `metagan.metagan` for each."""

    base: Learner
    descending: Callable[[ExampleLoss], Learner] | None  # None: nothing is descended in `adapt`
    encoder: Net
    generator: ConditionalNet
    d_tx: optax.GradientTransformation
    g_tx: optax.GradientTransformation
    l_d: Callable[[Array, Array], Array]
    l_g: Callable[[Array, Array], Array]
    classes: int
    role: str
    weight: float
    start: int
    samples: int
    noise: int
    penalty: float
    level: str
    ema: float
    alternating: bool
    span: tuple[float, float]
    reduce: Callable[[Loss], BatchLoss]


class MetaGanState(NamedTuple):
    """One pytree. `bad_step` is -1 until an update was not finite; `bad_net` indexes `NETS`.

    `params` is {"d": {"learner", "level"}, "g": {"encoder", "generator"}}, and `ema` the moving
    average of its "g".
    """

    step: Array
    bad_step: Array
    bad_net: Array
    params: Params
    d_opt: Any
    g_opt: Any
    ema: Params

    @property
    def bad_part(self) -> str:
        """Whose update was not finite."""
        return NETS[int(self.bad_net)]

    @property
    def averaged(self) -> Params:
        """The parameters with the moving average of the generator, for use after training."""
        return {"d": self.params["d"], "g": self.ema}


def encode(rules: Rules, g: Params, support: Batch) -> Codes:
    """Codes [C, k] of the classes, or [1, k] of the whole task, unlabelled examples included.

    h = sum_i w_i e(x_i) / sum_i w_i over the set.
    """
    weight = _weight(support)
    if rules.role == "augment":
        member = jax.nn.one_hot(support.y, rules.classes, axis=0) * weight[None]
    else:
        member = weight[None]
    mass = member.sum(1)
    z = rules.encoder.apply(g["encoder"], as_float(support.x))
    return Codes(member @ z / jnp.where(mass > 0, mass, 1.0)[:, None], mass > 0)


def render(rules: Rules, g: Params, code: Codes, key: Key, *, n: int) -> Batch:
    """n examples in the declared range; labelled where the codes are of classes, else y = -1."""
    key_draw, key_z = jax.random.split(key)
    drawn = coding.draw(coding.as_table(code), key_draw, n=n)
    x = rules.generator.apply(g["generator"], jax.random.normal(key_z, (n, rules.noise)), drawn.h)
    known = drawn.valid & (rules.role == "augment")
    return Batch(
        unscaled(x, rules.span), jnp.where(known, drawn.y, -1), drawn.valid.astype(x.dtype)
    )


def score(rules: Rules, d: Params, logits: Array) -> Array:
    """s [n] of logits [n, C]: p(y <= N | x) = sigma(s), s = logsumexp_n l_n + level."""
    level = GAIN * d["level"] if rules.level == "learned" else 0.0
    return jax.nn.logsumexp(logits, axis=1) + level


def adapt(
    rules: Rules,
    params: Params,
    support: Batch,
    key: Key,
    fast: Any = None,
    labels: Array | None = None,
    on: Array | float = 1.0,
) -> Any:
    """The base learner's `fast`, from the support set beside generated examples of weight on x a.

    With role "augment" these are labelled. As negatives they need a loss that is descended, one of
    all terms of D; a learner without one meets them in the outer loss alone.
    """
    d, n = params["d"], support.x.shape[0]
    unused = rules.role == "negative_class" and rules.descending is None
    if not rules.weight or unused or n == 0:
        return rules.base.adapt(d["learner"], support, key, fast, labels)
    key_fake, key_adapt = jax.random.split(key)
    support = support._replace(x=as_float(support.x))
    code = encode(rules, params["g"], support)
    fake = render(rules, params["g"], code, key_fake, n=rules.samples)
    if labels is not None and labels.ndim == 2:  # a row for each generated example too
        some = jnp.broadcast_to(labels.any(0)[None], (rules.samples, labels.shape[1]))
        labels = jnp.concatenate([labels, some])
    share = on * rules.weight
    if rules.descending is None or rules.role == "augment":
        both = joined(support, fake, share)
        return rules.base.adapt(d["learner"], both, key_adapt, fast, labels)

    every = n + rules.samples
    y = jnp.concatenate([support.y, fake.y])
    nothing = jnp.zeros(rules.samples)
    supervised = jnp.concatenate([_mean(losses.labelled(support)), nothing])
    real = jnp.concatenate([_mean(unlabelled(support)), nothing])
    made = jnp.concatenate([jnp.zeros(n), _mean(_weight(fake))])

    def loss(logits: Array, row: Array) -> Array:
        s = score(rules, d, logits)
        value = supervised[row] * losses.cross_entropy(logits, y[row])
        value += share * (real[row] * jax.nn.softplus(-s) + made[row] * jax.nn.softplus(s))
        return every * value

    # The labels are row numbers, by which the loss knows what each example is. The learner
    # descends the mean over the rows, here the sum of three means.
    rows = Batch(jnp.concatenate([support.x, fake.x]), jnp.arange(every, dtype=jnp.int32))
    return rules.descending(loss).adapt(d["learner"], rows, key_adapt, fast, labels)


def step(rules: Rules, state: MetaGanState, tasks: Task, key: Key) -> tuple[MetaGanState, Metrics]:
    """D moves and G moves; nothing changes from the first bad update on."""
    for part in (tasks.support, tasks.query):
        coding.check_range(part.x, rules.span)
    key_d, key_g = jax.random.split(key)
    on = (state.step >= rules.start).astype(float)

    of_d = jax.value_and_grad(rules.reduce(partial(d_loss, rules, on)), has_aux=True)
    (value_d, shown_d), grads = of_d(state.params, tasks, key_d)
    grads_d = grads["d"]
    d, d_opt = moved(rules.d_tx, grads_d, state.d_opt, state.params["d"])

    judge = {**state.params, "d": d} if rules.alternating else state.params
    of_g = jax.value_and_grad(rules.reduce(partial(g_loss, rules, on)), has_aux=True)
    (value_g, shown_g), grads = of_g(judge, tasks, key_g)
    grads_g = grads["g"]
    g, g_opt = moved(rules.g_tx, grads_g, state.g_opt, state.params["g"])

    after = state._replace(
        step=state.step + 1,
        params={"d": d, "g": g},
        d_opt=d_opt,
        g_opt=g_opt,
        ema=averaged(state.ema, g, state.step, decay=rules.ema),
    )
    fine = jnp.stack([finite(value_d, grads_d, d), finite(value_g, grads_g, g)])
    return kept(state, after, fine), {"loss": value_d, **shown_g, **shown_d}


def d_loss(rules: Rules, on: Array, params: Params, task: Task, key: Key) -> tuple[Array, Metrics]:
    """-log p(y | x, y <= N) + a ( l_D(s, s~) + gamma (R1 + R2) ); G is held fixed."""
    params = {**params, "g": jax.lax.stop_gradient(params["g"])}
    logits_of, real, fake = _played(rules, on, params, task, key)

    def scores(x: Array) -> Array:
        return score(rules, params["d"], logits_of(x))

    # Apart from the generated ones: what is said of a real example is the base learner's.
    logits, mass = logits_of(real.x), losses.labelled(task.query)
    missed = losses.weighted_mean(losses.cross_entropy(logits, task.query.y), mass)
    s, s_fake = score(rules, params["d"], logits), scores(fake.x)
    value = rules.l_d(s, s_fake)
    if rules.penalty:
        steep = partial(losses.gradient_penalty, scores)
        value = value + rules.penalty * (steep(real.x) + steep(fake.x))
    term = losses.weighted_mean(value, fake.weight)

    def share(right: Array) -> Array:
        return losses.weighted_mean(right.astype(float), fake.weight)

    shown = {
        "cross_entropy": missed,
        "accuracy": accuracy(logits, task.query.y, weight=mass),
        "d_loss": term,
        "d_real": share(s > 0),
        "d_fake": share(s_fake < 0),
        "d_accuracy": share(s > s_fake),
    }
    return missed + rules.weight * _begun(rules, on) * term, shown


def g_loss(rules: Rules, on: Array, params: Params, task: Task, key: Key) -> tuple[Array, Metrics]:
    """l_G(s, s~), plus -log p(y | x~, y <= N) of labelled samples; the adapted D is held fixed."""
    params = {**params, "d": jax.lax.stop_gradient(params["d"])}
    logits_of, real, fake = _played(rules, on, params, task, key)
    logits, logits_fake = logits_of(real.x), logits_of(fake.x)
    s, s_fake = (score(rules, params["d"], values) for values in (logits, logits_fake))
    value = rules.l_g(s, s_fake) + losses.cross_entropy(logits_fake, fake.y)
    value = losses.weighted_mean(value, fake.weight)
    within = rules.classes if rules.role == "augment" else 1
    spread = spread_ratio(*_grouped(rules, real), *_grouped(rules, fake), classes=within)
    return _begun(rules, on) * value, {"g_loss": value, "spread": spread}


def unlabelled(batch: Batch) -> Array:
    """Weight [n] of each example as one without a label: of those with y = -1.

    Where there are none, the labelled ones are taken without their labels.

    Example:
        >>> unlabelled(Batch(jnp.zeros((3, 1)), jnp.array([0, -1, 1]))).tolist()
        [0.0, 1.0, 0.0]
        >>> unlabelled(Batch(jnp.zeros((2, 1)), jnp.array([0, 1]))).tolist()
        [1.0, 1.0]
    """
    weight = _weight(batch)
    free = jnp.where(batch.y < 0, weight, 0.0)
    return jnp.where(jnp.sum(free) > 0, free, weight)


def _played(
    rules: Rules, on: Array, params: Params, task: Task, key: Key
) -> tuple[Callable[[Array], Array], Batch, Batch]:
    """The adapted D as a function to logits, the query set, and as many generated examples.

    The weights of the generated ones are those of the pairs that the two make.
    """
    key_adapt, key_fake, key_pair = jax.random.split(key, 3)
    # G is not asked to make D learn well: no gradient of it through what D has adapted to.
    fixed = {**params, "g": jax.lax.stop_gradient(params["g"])}
    fast = adapt(rules, fixed, task.support, key_adapt, on=on)
    query = task.query._replace(x=as_float(task.query.x), weight=_weight(task.query))
    code = encode(rules, params["g"], task.support)
    fake = render(rules, params["g"], code, key_fake, n=query.x.shape[0])
    # They come class by class, as the query set may: a class is not to meet its own padding alone.
    order = jax.random.permutation(key_pair, query.x.shape[0])
    fake = jax.tree.map(lambda leaf: leaf[order], fake)
    logits_of = partial(rules.base.predict, params["d"]["learner"], fast)
    return logits_of, query, fake._replace(weight=unlabelled(query) * _weight(fake))


def _begun(rules: Rules, on: Array) -> Array:
    """1 once the game has begun: negatives wait for `start`, labelled samples must be learned."""
    return on if rules.role == "negative_class" else jnp.ones_like(on)


def _grouped(rules: Rules, batch: Batch) -> tuple[Array, Array]:
    """Examples as rows, and within what their spread counts: their class, or the task."""
    y = batch.y if rules.role == "augment" else jnp.zeros_like(batch.y)
    flat = jax.lax.stop_gradient(batch.x).reshape(batch.x.shape[0], -1)
    return flat, jnp.where(_weight(batch) > 0, y, -1)


def _weight(batch: Batch) -> Array:
    return jnp.ones(batch.y.shape) if batch.weight is None else batch.weight


def _mean(weight: Array) -> Array:
    """Weights that sum to 1, or to 0 where nothing has a weight."""
    total = jnp.sum(weight)
    return weight / jnp.where(total > 0, total, 1.0)
