"""VAML that learns one task after another, and remembers the past by decoding stored codes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses, train
from lml_jax.checks import known
from lml_jax.generative import conditioning as coding
from lml_jax.generative.conditioning import Codes
from lml_jax.generative.gan.retention import REDUCTIONS, share
from lml_jax.generative.vaml import class_model, posterior
from lml_jax.generative.vaml import elbo as evidence
from lml_jax.generative.vaml.class_model import Model
from lml_jax.generative.vaml.elbo import Parts
from lml_jax.generative.vaml.posterior import QUERY_BOUND, Weights
from lml_jax.parallel import vmap_mean
from lml_jax.types import Batch, Generator, Key, Metrics, Params, Task, TrainState

# (model, params, the teacher's params, h [m, d], key) -> losses [m]
Reading = Callable[[Model, Params, Params, Array, Key], Array]


class VamlState(NamedTuple):
    """One pytree. `teacher` are the parameters as they were when the last task was finished.

    `codes` [T, C] holds the `finished` tasks: mean and log precision of each of their classes.
    """

    train: TrainState
    teacher: Params
    codes: Codes
    finished: Array

    @property
    def step(self) -> Array:
        """Updates done."""
        return self.train.step

    @property
    def bad_step(self) -> Array:
        """The first step whose update was refused, or -1."""
        return self.train.bad_step


def vaml_stream(
    parts: Parts,
    tx: optax.GradientTransformation,
    *,
    shape: Sequence[int],
    tasks: int,
    classes: int,
    weights: Weights = QUERY_BOUND,
    transfer: str = "align",
    weight: float = 1.0,
    reduction: str = "sum",
    past_batch: int = 64,
) -> tuple[Generator, Callable[[Any, Batch, Key], VamlState]]:
    """VAML learns task i from its evidence, and past tasks from the codes it stored of them.

    theta <- descend -objective(T_i; theta) + lambda sum_{j<i} L_j(theta), the objective that of
    `vaml`, for each query image, with a code of each class; L_j takes h ~ q_j, the stored
    posterior of a class of task j, and one of the readings
    "align": s E_z KL(p'(x|z, h) || p(x|z, h)), summed over pixels, p' the frozen decoder's, each
    pixel counted s = `parts.sharpness` times as in the evidence;
    "replay": -b(x', h), the bound on log p(x'|h) for images x' that the frozen decoder makes;
    "none": 0, and VAML forgets.
    Both also descend KL(f'(h|x') || f(h|x')), f' the frozen encoder's Gaussian factor: a code
    that is stored is worth what the encoder still says of such images. "align" is 0 while decoder
    and encoder do with task j what they did. All are in nats an image. No image is stored.

    Args:
        parts: as in `vaml`.
        tx: the update rule; its state begins anew with each task.
        shape: of an image; as in `vaml`.
        tasks: T, room for codes.
        classes: C, of all tasks together.
        weights: of the terms of the objective.
        transfer: the reading of L_j.
        weight: lambda >= 0.
        reduction: "sum" over past tasks, the equation, or their "mean".
        past_batch: draws of past tasks in each step.

    Returns:
        A `Generator`, and (state, batch, key) -> state for the end of a task, which stores the
        codes of its classes given all of `batch`, takes the teacher and begins the optimiser anew.
        A code is a `Codes` of the classes in the support set, from those examples alone. Metrics
        of a step: `vaml_loss` (of T_i), `transfer` (the mean L_j), and `bound`, `kl_code` and
        `kl_latent` as in `vaml`.

    Raises:
        ValueError: for unknown names, numbers out of range, images outside the declared shape or
            range; in `sample`, for n < 1 or a code with no class; at the end of a task, for more
            tasks than T. Values are seen outside jit only.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.generative.vaml.images import mlp_parts
        >>> generator, finish = vaml_stream(
        ...     mlp_parts(nets.mlp([16], 8), pixels=64, latent=2, hidden=[16]), optax.adam(1e-3),
        ...     shape=(8, 8), tasks=5, classes=10)
        >>> state = generator.init(jax.random.key(0), jnp.zeros((1, 8, 8)))
        >>> batch = Batch(jnp.zeros((4, 8, 8)), jnp.array([0, 0, 3, 3]))
        >>> state = finish(state, batch, jax.random.key(1))
        >>> generator.sample(state, None, jax.random.key(2), n=4).y.tolist()
        [0, 0, 3, 3]

    Source:
        Ours, as `vaml` is; `align` after Wu, Herranz, Liu, Wang, van de Weijer, Raducanu. Memory
        Replay GANs: Learning to Generate Images from New Categories without Forgetting, 2018.
    """
    reading = READINGS[known(transfer, READINGS, what="knowledge transfer")]
    known(reduction, REDUCTIONS, what="reduction")
    posterior.check_weights(weights)
    if min(tasks, classes, past_batch) < 1 or weight < 0:
        raise ValueError(
            "tasks, classes and past_batch must be at least 1, and the weight lambda at least 0; "
            f"got {tasks}, {classes}, {past_batch} and {weight}"
        )
    model = Model(parts, tuple(shape), classes, weights, 0.0, 1)

    def init(key: Key, x_example: Array) -> VamlState:
        params = class_model.init(model, key, x_example)
        d = params["prior"]["mean"].shape[0]
        table = coding.empty_table(tasks, classes, 2 * d)
        # In buffers of its own: what is donated may not hold one twice.
        return train.copy(
            VamlState(train.init_state(params, tx), params, table, jnp.zeros((), jnp.int32))
        )

    def step(state: VamlState, episodes: Task, key: Key) -> tuple[VamlState, Metrics]:
        key_now, key_past = jax.random.split(key)
        lam = share(state.finished, weight=weight, reduction=reduction)

        def loss(params: Params) -> tuple[Array, Metrics]:
            of_batch = vmap_mean(partial(class_model.objective, model))
            value, shown = of_batch(params, episodes, key_now)
            shown["vaml_loss"] = shown.pop("loss")
            past = jnp.zeros(())
            if reading is not None:
                past = _past(model, reading, params, state, key_past, past_batch)
            return value + lam * past, {**shown, "transfer": past}

        (value, shown), grads = jax.value_and_grad(loss, has_aux=True)(state.train.params)
        moved = train.update(state.train, value, grads, tx)
        return state._replace(train=moved), shown

    def finish(state: VamlState, batch: Batch, key: Key) -> VamlState:
        coding.check_room(state.codes, state.finished)
        params, own = state.train.params, _encode(model, state, batch, key)
        return VamlState(
            state.train._replace(opt_state=tx.init(params)),
            train.copy(params),
            jax.tree.map(lambda all_, one: all_.at[state.finished].set(one), state.codes, own),
            state.finished + 1,
        )

    return Generator(init, partial(_encode, model), step, partial(_sample, model)), finish


def _encode(model: Model, state: VamlState, support: Batch, key: Key) -> Codes:
    code = class_model.adapt(model, state.train.params, support, key)
    return class_model.stored(code, code.seen > 0)


def _sample(model: Model, state: VamlState, code: Codes | None, key: Key, *, n: int) -> Batch:
    """By the decoder as it is; without a code, by the teacher and of all finished tasks."""
    if n < 1:
        raise ValueError(f"expected at least 1 generated sample, got n = {n}")
    if code is None:
        return class_model.sample(model, state.teacher, state.codes, key, n=n)
    coding.check_learned(code, jnp.ones_like(code.mask))
    return class_model.sample(model, state.train.params, code, key, n=n)


def _past(
    model: Model, reading: Reading, params: Params, state: VamlState, key: Key, n: int
) -> Array:
    """E_j L_j over the finished tasks, each as likely; 0 before there is one."""
    key_draw, key_h, key_reading = jax.random.split(key, 3)
    drawn = coding.draw(state.codes, key_draw, n=n)
    h = class_model.drawn_code(drawn.h, key_h)
    each = reading(model, params, state.teacher, h, key_reading)
    return jnp.mean(jnp.where(drawn.valid, each, 0.0))


def _align(model: Model, params: Params, teacher: Params, h: Array, key: Key) -> Array:
    z = class_model.noise(model, params, key, h.shape[0]).z
    told, now = (class_model.decode(model, p, z, h) for p in (teacher, params))
    x = jax.nn.sigmoid(told)
    moved = losses.bernoulli_nll(now, x) - losses.bernoulli_nll(told, x)
    return model.parts.sharpness * moved + _encoded(model, params, teacher, x)


def _replay(model: Model, params: Params, teacher: Params, h: Array, key: Key) -> Array:
    key_image, key_bound = jax.random.split(key)
    z, eps = (class_model.noise(model, params, k, h.shape[0]).z for k in (key_image, key_bound))
    x = jax.nn.sigmoid(class_model.decode(model, teacher, z, h))
    bound = evidence.image_bound(model.parts, params, x, h, eps)[0]
    return _encoded(model, params, teacher, x) - bound


def _encoded(model: Model, params: Params, teacher: Params, x: Array) -> Array:
    """KL(f'(h|x) || f(h|x)) of each image [n, p], f' the teacher's factor."""
    images = jax.lax.stop_gradient(x).reshape(x.shape[0], *model.shape)
    told, now = (
        jnp.split(model.parts.encode.apply(p["encode"], images), 2, axis=1)
        for p in (teacher, params)
    )
    return losses.gaussian_kl(told[0], jnp.exp(told[1]), now[0], jnp.exp(now[1]))


READINGS: dict[str, Reading | None] = {"none": None, "replay": _replay, "align": _align}
