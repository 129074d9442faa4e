"""The outer loop: the loss of an episode, a train step, and runs of many steps."""

from collections.abc import Hashable, Iterator
from functools import lru_cache, partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses
from lml_jax.divergence import DivergedError as DivergedError
from lml_jax.divergence import all_finite as all_finite
from lml_jax.divergence import allow_skips as allow_skips
from lml_jax.divergence import bad_parts, nothing_bad
from lml_jax.divergence import check_finite as check_finite
from lml_jax.metrics import accuracy
from lml_jax.parallel import Reduce, vmap_mean
from lml_jax.types import (
    ExampleLoss,
    Key,
    Learner,
    Loss,
    Metrics,
    Params,
    PyTree,
    Task,
    TrainState,
)
from lml_jax.updates import apply_update


class Step(Hashable, Protocol):
    """One update: (state, tasks, key, *shared) -> (state, metrics); the state counts its updates.

    The state has `step` and `bad_step`, as `TrainState`, `LifelongState` and the states of
    generators have.
    """

    def __call__(  # noqa: D102
        self, state: Any, tasks: Any, key: Key, /, *shared: PyTree
    ) -> tuple[Any, Metrics]: ...


class Draw(Hashable, Protocol):
    """Tasks drawn inside jit from `data`, any pytree of arrays."""

    def __call__(self, data: Any, key: Key, /) -> Any: ...  # noqa: D102


class Runner(Protocol):
    """Many steps: (state, data, key, length) -> (state, metrics [length]); donates the state."""

    def __call__(  # noqa: D102
        self, state: Any, data: Any, key: Key, length: int, /
    ) -> tuple[Any, Metrics]: ...


def episode_loss(learner: Learner, *, loss: ExampleLoss = losses.cross_entropy) -> Loss:
    """The outer loss of one episode: adapt on the support set, evaluate on the query set.

    L(theta) = 1/n sum_{(x, y) in query} l(f(x; adapt(theta, support)), y).

    Args:
        learner: any `Learner`.
        loss: l, (outputs [n, ...], y [n, ...]) -> [n].

    Returns:
        A `Loss`; its metrics are `loss` and, where labels are integers, `accuracy` in [0, 1].

    Example:
        >>> from lml_jax import inner, nets
        >>> from lml_jax.learners.maml import maml
        >>> learner = maml(nets.mlp([8], 5), inner.fixed(optax.sgd(0.1)), steps=1)
        >>> step = make_train_step(episode_loss(learner), optax.adam(1e-3))
    """

    def of_task(params: Params, task: Task, key: Key, *shared: PyTree) -> tuple[Array, Metrics]:
        losses.check_task(task)
        query = losses.fill_padding(task.query)
        fast = learner.adapt(params, task.support, key)
        outputs = learner.predict(params, fast, query.x)
        weight = losses.labelled(query)
        value = losses.weighted_mean(loss(outputs, query.y), weight)
        shown = {"loss": value}
        if losses.are_labels(query.y):
            shown["accuracy"] = accuracy(outputs, query.y, weight=weight)
        return value, shown

    return of_task


def init_state(params: Params, tx: optax.GradientTransformation) -> TrainState:
    """A `TrainState` at step 0.

    Example:
        >>> int(init_state({"w": jnp.zeros(2)}, optax.adam(1e-3)).step)
        0
    """
    step, skips = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)  # two buffers, to be donated
    bad_step = jnp.full((), -1, jnp.int32)
    return TrainState(params, tx.init(params), step, bad_step, nothing_bad(params), skips)


def make_train_step(
    loss: Loss,
    tx: optax.GradientTransformation,
    *,
    reduce: Reduce = vmap_mean,
) -> Step:
    """One update of `tx` on the loss of a meta-batch.

    theta <- theta - beta grad L(theta), or what `tx` makes of the gradient. An update that is not
    finite is refused: the state stays at the last good one, `bad_step` says which step it was, and
    no later step changes anything. `allow_skips(state, k)` lets k such updates be skipped before.

    Args:
        loss: the loss of one task.
        tx: the outer update rule.
        reduce: from the loss of one task to that of a meta-batch, which says where tasks go:
            `parallel.vmap_mean`, `parallel.shard_map_mean` or `parallel.pmap_mean`.

    Returns:
        (state, tasks, key) -> (state, metrics); the caller owns jit and donation. What follows the
        key, a bank for instance, goes on to `loss`, for every task the same. The metrics hold
        `bad_step`, -1 or the first step that was refused.

    Example:
        >>> step = make_train_step(lambda w, t, key: ((w - t) ** 2, {}), optax.sgd(0.5))
        >>> state = init_state(jnp.array(0.0), optax.sgd(0.5))
        >>> step(state, jnp.array([1.0, 3.0]), jax.random.key(0))[0].params.item()
        2.0
    """
    value_and_grad = jax.value_and_grad(reduce(loss), has_aux=True)

    def step(state: TrainState, tasks: Task, key: Key, *shared: Any) -> tuple[TrainState, Metrics]:
        (value, metrics), grads = value_and_grad(state.params, tasks, key, *shared)
        state = update(state, value, grads, tx)
        return state, {"loss": value, **metrics, "bad_step": state.bad_step}

    return step


def update(
    state: TrainState, value: Array, grads: Params, tx: optax.GradientTransformation
) -> TrainState:
    """`state` after one step of `tx`, or as it was if loss, gradient or update is not finite.

    Such an update is skipped where `state.skips` allows it; else nothing moves any more.
    """
    params, opt_state, updates = apply_update(tx, grads, state.opt_state, state.params, value=value)
    finite, going = all_finite(value, grads, updates), state.bad_step < 0
    new = state._replace(params=params, opt_state=opt_state)
    kept = jax.tree.map(partial(jnp.where, finite & going), new, state)
    skipped = ~finite & going & (state.skips > 0)
    stopped = ~finite & going & ~skipped
    return kept._replace(
        step=state.step + (going & ~stopped).astype(state.step.dtype),
        bad_step=jnp.where(stopped, state.step, state.bad_step),
        # Looked for where there is something to find: it costs two more passes.
        bad_parts=jax.lax.cond(
            stopped, lambda: bad_parts(value, grads, updates), lambda: state.bad_parts
        ),
        skips=state.skips - skipped.astype(state.skips.dtype),
    )


@lru_cache(maxsize=64)
def make_runner(step: Step, sample: Draw, *, scan: bool = False) -> Runner:
    """Compile `step` together with the sampling of its tasks.

    Step t draws its tasks and its randomness from `fold_in(key, t)`, t = `state.step`, so a run
    that is interrupted and resumed is bit-identical to an uninterrupted one. The same `step` and
    `sample` give the same runner, so nothing is compiled twice for them.

    Args:
        step: (state, tasks, key) -> (state, metrics); the state has `step` and `bad_step`.
        sample: (data, key) -> tasks, run inside jit.
        scan: one compiled scan; else a loop over one step. A scan is faster for MLPs and on
            accelerators; convolutions inside a scan are very slow on CPU.

    Returns:
        (state, data, key, length) -> (state, metrics [length]); donates the state it is given,
        and compiles once (with `scan`, once for each length).

    Example:
        >>> step = make_train_step(lambda w, t, key: ((w - t) ** 2, {}), optax.sgd(0.5))
        >>> many = make_runner(step, lambda data, key: data, scan=True)
        >>> state = init_state(jnp.array(0.0), optax.sgd(0.5))
        >>> many(state, jnp.ones(2), jax.random.key(0), 3)[1]["loss"].tolist()
        [1.0, 0.0, 0.0]
    """

    def one(state: Any, data: Any, key: Key) -> tuple[Any, Metrics]:
        key_sample, key_step = jax.random.split(jax.random.fold_in(key, state.step))
        return step(state, sample(data, key_sample), key_step)

    def scanned(state: Any, data: Any, key: Key, length: int) -> tuple[Any, Metrics]:
        return jax.lax.scan(lambda s, _: one(s, data, key), state, length=length)

    if scan:
        return jax.jit(scanned, donate_argnums=0, static_argnums=3)
    one = jax.jit(one, donate_argnums=0)

    def looped(state: Any, data: Any, key: Key, length: int) -> tuple[Any, Metrics]:
        history = []
        for _ in range(length):
            state, metrics = one(state, data, key)
            history.append(metrics)
        return state, jax.tree.map(lambda *values: jnp.stack(values), *history)

    return looped


def run(
    step: Step,
    sample: Draw,
    state: TrainState,
    data: PyTree,
    key: Key,
    *,
    steps: int,
    scan: bool = False,
    chunk: int = 100,
) -> Iterator[tuple[TrainState, Metrics]]:
    """Train for `steps` steps, yielding (state, metrics [chunk]) after each chunk.

    Args:
        step: from `make_train_step`.
        sample: (data, key) -> tasks, run inside jit.
        state: the start; it stays usable, as does every state that is yielded.
        data: any pytree of arrays, kept on the device.
        key: a typed key, the same for the whole run; see `make_runner`.
        steps: how many steps to do from here, >= 1.
        scan: as in `make_runner`.
        chunk: steps between two yields, >= 1; it does not change the result.

    Raises:
        ValueError: for steps or chunk below 1.
        DivergedError: at the end of the chunk in which a loss or gradient was not finite; it
            carries the last good state, see `allow_skips`.

    Example:
        >>> step = make_train_step(lambda w, t, key: ((w - t) ** 2, {}), optax.sgd(0.5))
        >>> state = init_state(jnp.array(0.0), optax.sgd(0.5))
        >>> sample = lambda data, key: data
        >>> for state, metrics in run(step, sample, state, jnp.ones(2), jax.random.key(0), steps=3):
        ...     print(metrics["loss"].tolist())
        [1.0, 0.0, 0.0]
    """
    if steps < 1 or chunk < 1:
        raise ValueError(f"steps and chunk must be at least 1, got {steps} and {chunk}")
    many = make_runner(step, sample, scan=scan)
    data = jax.tree.map(jnp.asarray, data)  # to the device once
    tasks_of = partial(drawn_tasks, sample, data, key)
    for first in range(0, steps, chunk):
        # A copy, for what was yielded, or given by the caller, must outlive the donation.
        state, metrics = many(copy(state), data, key, min(chunk, steps - first))
        check_finite(state, metrics, tasks_of=tasks_of)
        yield state, metrics


def drawn_tasks(sample: Draw, data: Any, key: Key, step: int) -> Any:
    """The tasks that a runner draws for step `step` of a run with this key."""
    return sample(data, jax.random.split(jax.random.fold_in(key, step))[0])


def copy(state: Any) -> Any:
    """`state` in buffers of its own."""
    return jax.tree.map(jnp.copy, state)
