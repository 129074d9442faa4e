"""VAML on a stream: it learns one task after another, and decodes stored codes of past ones."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import train
from lml_jax.checks import known
from lml_jax.generative import conditioning as coding
from lml_jax.generative.conditioning import Codes
from lml_jax.generative.gan.retention import REDUCTIONS, Reduction, total_weight
from lml_jax.generative.vaml import class_model, posterior
from lml_jax.generative.vaml.class_model import Model
from lml_jax.generative.vaml.elbo import Parts
from lml_jax.generative.vaml.posterior import QUERY_BOUND, Weights
from lml_jax.generative.vaml.retention import VamlRetention, align, functions_of
from lml_jax.parallel import vmap_mean
from lml_jax.types import Batch, Key, Metrics, Params, StreamGenerator, Task, TrainState

ALIGN = align()


class VamlState(NamedTuple):
    """State of VAML on a stream, one pytree.

    Attributes:
        train: parameters, optimiser, updates done.
        teacher: the parameters as they were when the last task was finished.
        codes: table [T, C] of the finished tasks: mean and log precision of each class.
        finished: tasks finished.
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


class StreamSettings(NamedTuple):
    """The arguments of `vaml_stream`, which documents them."""

    model: Model
    tx: optax.GradientTransformation
    tasks: int
    retention: VamlRetention
    retention_weight: float
    reduction: Reduction
    past_batch: int


def vaml_stream(
    parts: Parts,
    tx: optax.GradientTransformation,
    *,
    shape: Sequence[int],
    tasks: int,
    classes: int,
    weights: Weights = QUERY_BOUND,
    retention: VamlRetention = ALIGN,
    retention_weight: float = 1.0,
    reduction: Reduction = "sum",
    past_batch: int = 64,
) -> StreamGenerator:
    """VAML trained on task i, with a retention loss on the stored codes of the past tasks j < i.

    theta minimises -objective(T_i; theta) + lambda sum_{j<i} L_j(theta), the objective that of
    `vaml`, per query image. L_j takes codes h ~ q_j, the stored posterior of a class of task j.
    All is in nats per image. No image is stored.

    Args:
        parts: as in `vaml`.
        tx: the optimiser; its state is re-initialised at the end of each task.
        shape: of an image; as in `vaml`.
        tasks: T >= 1, the number of tasks there is room for.
        classes: C >= 1, of all tasks together.
        weights: of the terms of the objective.
        retention: L_j, from `vaml.retention`, or the user's own `VamlRetention`.
        retention_weight: lambda >= 0.
        reduction: "sum" of L_j over past tasks, as in the equation, or their "mean".
        past_batch: draws of past tasks in one estimate, >= 1.

    Returns:
        A `StreamGenerator`. `end_task` stores the codes of the task's classes given all of its
        batch, and freezes the parameters as the teacher. A code is a `Codes` of the classes in the
        support set, from those examples alone. `sample` uses the current decoder or, without a
        code, the teacher's. Metrics of a step: `vaml_loss` (of T_i), `retention` (the mean L_j),
        `bound`, `kl_code` and `kl_latent` as in `vaml`, and `bad_step`.

    Raises:
        ValueError: for unknown names and numbers out of range; for images outside the declared
            shape or range, labels outside -1..C-1; in `sample`, for n < 1 or a code with no class;
            in `end_task`, for more than T tasks. Values are known outside jit only: inside, a task
            too many stops the generator as a refused update does.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.generative.vaml.images import mlp_parts
        >>> parts = mlp_parts(nets.mlp([16], 8), pixels=64, latent=2, hidden=[16])
        >>> generator = vaml_stream(parts, optax.adam(1e-3), shape=(8, 8), tasks=5, classes=10)
        >>> state = generator.init(jax.random.key(0), jnp.zeros((1, 8, 8)))
        >>> batch = Batch(jnp.zeros((4, 8, 8)), jnp.array([0, 0, 3, 3]))
        >>> state = generator.end_task(state, batch, jax.random.key(1))
        >>> generator.sample(state, None, jax.random.key(2), n=4).y.tolist()
        [0, 0, 3, 3]

        A retention loss of one's own, the squared distance to the frozen decoder's logits:

        >>> def penalty(model, teacher, h, key):
        ...     z = model.noise(key, len(h))
        ...     return jnp.sum((model.decode(z, h) - teacher.decode(z, h)) ** 2, axis=1)
        >>> generator = vaml_stream(parts, optax.adam(1e-3), shape=(8, 8), tasks=5, classes=10,
        ...                         retention=VamlRetention(penalty))

    Source:
        Ours, as `vaml` is.
    """
    known(reduction, REDUCTIONS, what="reduction")
    posterior.check_weights(weights)
    if min(tasks, classes, past_batch) < 1 or not retention_weight >= 0:
        raise ValueError(
            "tasks, classes and past_batch must be at least 1, and retention_weight at least 0; "
            f"got {tasks}, {classes}, {past_batch} and {retention_weight}"
        )
    model = Model(parts, tuple(shape), classes, weights, 0.0, 1)
    settings = StreamSettings(model, tx, tasks, retention, retention_weight, reduction, past_batch)
    return StreamGenerator(
        init=partial(_init, settings),
        step=partial(_step, settings),
        end_task=partial(_end_task, settings),
        encode=partial(_encode, model),
        sample=partial(_sample, model),
    )


def _init(settings: StreamSettings, key: Key, x: Array) -> VamlState:
    params = class_model.init(settings.model, key, x)
    d = params["prior"]["mean"].shape[0]
    table = coding.empty_table(settings.tasks, settings.model.classes, 2 * d)
    state = train.init_state(params, settings.tx)
    # In buffers of its own: what is donated may not hold one twice.
    return train.copy(VamlState(state, params, table, jnp.zeros((), jnp.int32)))


def _step(
    settings: StreamSettings, state: VamlState, tasks: Task, key: Key
) -> tuple[VamlState, Metrics]:
    model = settings.model
    key_now, key_past = jax.random.split(key)
    factor = total_weight(
        state.finished, weight=settings.retention_weight, reduction=settings.reduction
    )

    def loss(params: Params) -> tuple[Array, Metrics]:
        of_batch = vmap_mean(partial(class_model.objective, model))
        value, shown = of_batch(params, tasks, key_now)
        shown["vaml_loss"] = shown.pop("loss")
        past = _past_loss(settings, params, state, key_past)
        return value + factor * past, {**shown, "retention": past}

    class_model.check_tasks(model, tasks)
    (value, shown), grads = jax.value_and_grad(loss, has_aux=True)(state.train.params)
    moved = train.update(state.train, value, grads, settings.tx)
    return state._replace(train=moved), {**shown, "bad_step": moved.bad_step}


def _past_loss(settings: StreamSettings, params: Params, state: VamlState, key: Key) -> Array:
    """E_j L_j over the finished tasks, each as likely; 0 before there is one."""
    if settings.retention.penalty is None:
        return jnp.zeros(())
    key_draw, key_h, key_penalty = jax.random.split(key, 3)
    drawn = coding.draw(state.codes, key_draw, n=settings.past_batch)
    h = class_model.drawn_code(drawn.h, key_h)
    each = settings.retention.penalty(
        functions_of(settings.model, params),
        functions_of(settings.model, state.teacher),
        h,
        key_penalty,
    )
    return jnp.mean(jnp.where(drawn.valid, each, 0.0))


def _end_task(settings: StreamSettings, state: VamlState, batch: Batch, key: Key) -> VamlState:
    coding.check_room(state.codes, state.finished)
    i, params = state.finished, state.train.params
    own = _encode(settings.model, state, batch, key)
    # Inside jit a task too many cannot raise: it stops the generator, as a bad update does.
    full = (i >= settings.tasks) & (state.bad_step < 0)
    return VamlState(
        state.train._replace(
            opt_state=settings.tx.init(params),
            bad_step=jnp.where(full, state.step, state.bad_step),
        ),
        train.copy(params),
        jax.tree.map(lambda all_, one: all_.at[i].set(one), state.codes, own),
        i + 1,
    )


def _encode(model: Model, state: VamlState, support: Batch, key: Key) -> Codes:
    code = class_model.adapt(model, state.train.params, support, key)
    return class_model.stored(code, code.seen > 0)


def _sample(model: Model, state: VamlState, code: Codes | None, key: Key, *, n: int) -> Batch:
    """By the current decoder; without a code, by the teacher and of all finished tasks."""
    coding.check_count(n)
    if code is None:
        return class_model.sample(model, state.teacher, state.codes, key, n=n)
    coding.check_learned(code, jnp.ones_like(code.mask))
    return class_model.sample(model, state.train.params, code, key, n=n)
