"""The scaffold of the baselines: lifelong learners that update on one batch at a time."""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses, train
from lml_jax.lifelong import history
from lml_jax.lifelong._base import (
    Classified,
    among_seen,
    batch_loss,
    check_finished,
    check_tasks,
    finished_after,
    predict_from,
    refused_id,
    seen_after,
    start,
    unknown_labels,
)
from lml_jax.lifelong._gradient import as_stored
from lml_jax.lifelong.history import Draw
from lml_jax.lifelong.label_space import LabelSpace, training_labels
from lml_jax.types import (
    Batch,
    ExampleLoss,
    Key,
    Learner,
    LifelongLearner,
    LifelongState,
    MemoryBank,
    Metrics,
    Params,
    PyTree,
    Task,
)


class Given(NamedTuple):
    """What the gradient of one batch is computed from.

    Attributes:
        batch: n examples that have arrived.
        task: int [n], the task of each.
        labels: bool [n, C], the active classes of each.
        seen: bool [C], classes seen so far, those of the batch included.
        finished: int32, tasks finished.
        memory: state of the bank.
        own: what the method keeps in `LifelongState.own`.
    """

    batch: Batch
    task: Array
    labels: Array
    seen: Array
    finished: Array
    memory: PyTree
    own: PyTree


class BatchLoss(Protocol):
    """The loss of a batch and what is shown of it."""

    def __call__(self, params: Params, given: Given, key: Key, /) -> tuple[Array, Metrics]: ...


class Gradient(Protocol):
    """The loss of a batch, the direction that the update rule is given, and what is shown."""

    def __call__(
        self, params: Params, given: Given, key: Key, /
    ) -> tuple[Array, Params, Metrics]: ...


class OwnOf(Protocol):
    """What a method keeps before anything was learned."""

    def __call__(self, params: Params, /) -> PyTree: ...


class Moved(Protocol):
    """What a method keeps after an update by `grads` from `before` to `after`."""

    def __call__(self, own: PyTree, before: Params, after: Params, grads: Params, /) -> PyTree: ...


class Finish(Protocol):
    """What a method keeps after a task; `given.batch` are all of its training examples."""

    def __call__(self, params: Params, given: Given, key: Key, /) -> PyTree: ...


class Extra(Protocol):
    """What a bank stores of examples x [n, ...] besides (x, y, task): arrays [n, ...]."""

    def __call__(self, params: Params, x: Array, /) -> tuple[Array, ...]: ...


class Method(NamedTuple):
    """What one method adds to plain training on each batch.

    Attributes:
        gradient: of a batch.
        own: initial `LifelongState.own`.
        moved: `own` after each update.
        finish: `own` after each task.
        extra: more fields of the items of the bank: (x, y, *extra, task).
        needs_boundaries: why it cannot learn without task boundaries; "" for one that can.
        updates: updates on each batch.
    """

    gradient: Gradient
    own: OwnOf = lambda params: ()
    moved: Moved = lambda own, before, after, grads: own
    finish: Finish = lambda params, given, key: given.own
    extra: Extra = lambda params, x: ()
    needs_boundaries: str = ""
    updates: int = 1


def batch_learner(
    learner: Learner,
    tx: optax.GradientTransformation,
    space: LabelSpace,
    method: Method,
    *,
    bank: MemoryBank | None = None,
) -> LifelongLearner:
    """A lifelong learner from what its method does with a batch.

    In `step` the batch is the whole meta-batch, support and query sets together, and the examples
    of a task enter the bank once, at its end. In `observe` each batch enters it after the update.

    Raises:
        ValueError: in `step`, for episodes whose labels are local to the episode; in `observe`, of
            a method that needs task boundaries.
    """

    def init(key: Key, x: Array, params: Params | None = None) -> LifelongState:
        params = learner.init(key, x) if params is None else params
        memory: PyTree = ()
        if bank is not None:
            image, y, task = space.item(x)
            like = jax.eval_shape(method.extra, params, x[:1])
            more = [jnp.zeros(leaf.shape[1:], leaf.dtype) for leaf in like]
            memory = bank.init((image, y, *more, task))
        zero, own = jnp.zeros((), jnp.int32), method.own(params)
        state = LifelongState(train.init_state(params, tx), space.initial, zero, memory, own)
        # In buffers of its own: the state may be donated, what it was made from is used again.
        return train.copy(state)

    def given_of(state: LifelongState, batch: Batch, task: Array) -> Given:
        labels = training_labels(space, state.seen, task)
        return Given(batch, task, labels, state.seen, state.finished, state.memory, state.own)

    def updated(
        state: LifelongState, batch: Batch, task: Array, key: Key, refused: Array
    ) -> tuple[LifelongState, Metrics]:
        batch = losses.fill_padding(batch)
        state = state._replace(seen=seen_after(state, space.classes, batch))

        def once(state: LifelongState, key: Key) -> tuple[LifelongState, Metrics]:
            before = state.train.params
            value, grads, shown = method.gradient(before, given_of(state, batch, task), key)
            value = value * refused
            trained = train.update(state.train, value, grads, tx)
            own = method.moved(state.own, before, trained.params, grads)
            good = (trained.bad_step < 0) & train.all_finite(value, grads)
            own = jax.tree.map(lambda new, old: jnp.where(good, new, old), own, state.own)
            return state._replace(train=trained, own=own), {"loss": value, **shown}

        if method.updates == 1:
            moved, metrics = once(state, key)
        else:
            moved, every = jax.lax.scan(once, state, jax.random.split(key, method.updates))
            metrics = jax.tree.map(lambda values: values[-1], every)
            # A run counts its calls of `step`, and one of which an update is refused has no effect.
            refused_now = (moved.train.bad_step >= 0) & (state.train.bad_step < 0)
            kept = jax.tree.map(lambda old, new: jnp.where(refused_now, old, new), state, moved)
            good = moved.train.bad_step < 0
            bad_step = jnp.where(refused_now, state.train.step, moved.train.bad_step)
            counted = kept.train._replace(
                step=state.train.step + jnp.where(good, 1, 0),
                bad_step=bad_step,
                bad_parts=moved.train.bad_parts,
            )
            moved = kept._replace(train=counted)
        return moved, {**metrics, "bad_step": moved.train.bad_step}

    def step(state: LifelongState, tasks: Task, key: Key) -> tuple[LifelongState, Metrics]:
        check_tasks(tasks, space)
        parts = [flattened(part) for part in (tasks.support, tasks.query)]
        place = jnp.asarray(tasks.id)
        every = [jnp.repeat(place, len(p.y) // len(place)) for p in parts]
        refused = jnp.mean(refused_id(tasks, space))
        return updated(state, losses.concatenated(*parts), jnp.concatenate(every), key, refused)

    def observe(state: LifelongState, batch: Batch, key: Key) -> tuple[LifelongState, Metrics]:
        if method.needs_boundaries:
            raise ValueError(
                f"this learner needs task boundaries: {method.needs_boundaries}; "
                "use step and end_task"
            )
        key_step, key_store = jax.random.split(key)
        task, before = _task_of(state, batch), state.train.params
        state, metrics = updated(state, batch, task, key_step, jnp.ones(()))
        return stored(state, before, batch, key_store), metrics

    def stored(state: LifelongState, params: Params, batch: Batch, key: Key) -> LifelongState:
        """Offer a batch to the bank, with what the method says of it at `params`."""
        if bank is None:
            return state
        more = method.extra(params, losses.fill_padding(batch).x)
        items = (batch.x, as_stored(batch.y), *more, _task_of(state, batch))
        # Stored after the update was accepted, so that the bank is read before it is written: XLA
        # copies a bank for which it may do both in any order.
        counts = (losses.labelled(batch) > 0) & ~unknown_labels(batch, space)
        counts &= state.train.bad_step < 0
        return state._replace(memory=bank.insert(state.memory, items, key, counts))

    def end_task(state: LifelongState, batch: Batch, key: Key) -> LifelongState:
        check_finished(state, space)
        key_bank, key_own = jax.random.split(key)
        state = state._replace(seen=seen_after(state, space.classes, batch))
        state, params = stored(state, state.train.params, batch, key_bank), state.train.params
        filled = losses.fill_padding(batch)
        own = method.finish(params, given_of(state, filled, _task_of(state, batch)), key_own)
        # A copy: what is donated may not hold a buffer twice, and these may be the parameters.
        return finished_after(state._replace(own=train.copy(own)), space, batch)

    def recall(state: LifelongState, x: Array, key: Key) -> Array:
        return outputs_of(learner, state.train.params, x)

    few = predict_from(learner, space)
    return LifelongLearner(init, step, observe, end_task, few, among_seen(space, recall))


def by_loss(loss: BatchLoss) -> Gradient:
    """The gradient of a loss."""

    def gradient(params: Params, given: Given, key: Key) -> tuple[Array, Params, Metrics]:
        (value, shown), grads = jax.value_and_grad(loss, has_aux=True)(params, given, key)
        return value, grads, shown

    return gradient


def outputs_of(learner: Learner, params: Params, x: Array) -> Array:
    """Outputs [n, ...] of x [n, ...] before any adaptation."""
    return learner.predict(params, start(learner, params, x), x)


def loss_of(
    learner: Learner,
    params: Params,
    batch: Batch,
    labels: Array,
    loss: ExampleLoss = losses.cross_entropy,
) -> Classified:
    """Loss and metrics of a batch before any adaptation, among the active classes `labels`."""
    return batch_loss(learner.predict, params, start(learner, params, batch.x), batch, labels, loss)


def drawn(bank: MemoryBank, given: Given, key: Key, *, n: int) -> Draw:
    """n examples from the bank; of weight 0 where it holds nothing."""
    return history.draw(bank, given.memory, given.batch.x, key, n=n)


def past_labels(space: LabelSpace, given: Given, past: Draw) -> Array:
    """The active classes bool [n, C] of stored examples."""
    return training_labels(space, given.seen, past.task)


def check_classes(space: LabelSpace, *, what: str) -> None:
    """Raise ValueError for a regression, of a method that is defined for classes."""
    if space.target is not None:
        raise ValueError(f"{what} classifies: expected a label space of classes, got a regression")


def flattened(batch: Batch) -> Batch:
    """A meta-batch of batches as one batch."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)


def _task_of(state: LifelongState, batch: Batch) -> Array:
    return jnp.full(batch.y.shape[0], state.finished)
