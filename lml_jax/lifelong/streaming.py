"""A few-shot learner that learns a stream by going on from what it has adapted to."""

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses, train
from lml_jax.lifelong._base import (
    among_seen,
    batch_loss,
    check_finished,
    check_tasks,
    finished_after,
    predict_from,
    refused_id,
    seen_after,
    start,
)
from lml_jax.lifelong._batches import flattened
from lml_jax.lifelong.label_space import LabelSpace, training_labels
from lml_jax.lifelong.score import possible
from lml_jax.types import (
    Batch,
    Key,
    Learner,
    LifelongLearner,
    LifelongState,
    Metrics,
    Params,
    Task,
    TrainState,
)


def streaming(learner: Learner, space: LabelSpace) -> LifelongLearner:
    """A few-shot learner whose fast weights adapt to all that comes: S <- adapt(S, batch).

    Its parameters stay as they are. With `heads.head_learner` this is the nearest class mean, LDA
    or ridge regression on a fixed embedding: exact, in any order, and nothing is stored but
    statistics. With a learner that makes gradient steps it is the meta-test phase of meta-continual
    learning.

    `observe` adapts to each batch. With task boundaries `end_task` adapts to all examples of the
    task, and `step` computes the loss of its episodes alone.

    Args:
        learner: any few-shot learner over the C classes whose fast weights keep their shapes.
        space: the label space.

    Returns:
        A `LifelongLearner`; `own` holds the fast weights. Its metrics: `loss` and `accuracy` of the
        batch before it is learned, of examples of the classes that were learned before.

    Raises:
        ValueError: in `step`, for episodes whose labels are local to the episode; of the learner.

    Example:
        >>> from lml_jax import heads, nets
        >>> few_shot = heads.head_learner(nets.mlp([64], 32), heads.nearest_mean(), classes=50)
        >>> learner = streaming(few_shot, LabelSpace(10, jnp.zeros(50, bool)))

    Source:
        Mensink, Verbeek, Perronnin, Csurka. Distance-Based Image Classification: Generalizing to
        New Classes at Near-Zero Cost, 2013 (nearest class mean),
        https://doi.org/10.1109/TPAMI.2013.83.
    """

    def init(key: Key, x: Array, params: Params | None = None) -> LifelongState:
        params = learner.init(key, x) if params is None else params
        zero = jnp.zeros((), jnp.int32)
        state = train.init_state(params, optax.identity())
        fast = start(learner, params, x)
        # In buffers of its own: the state may be donated, what it was made from is used again.
        return train.copy(LifelongState(state, space.initial, zero, (), fast))

    def shown(state: LifelongState, batch: Batch) -> Metrics:
        """Of a batch before it is learned; an example of a class not learned yet has no part."""
        params, batch = state.train.params, losses.fill_padding(batch)
        if losses.are_labels(batch.y):
            logits = losses.mask_logits(learner.predict(params, state.own, batch.x), state.seen)
            batch = batch._replace(weight=possible(logits, batch))
        found = batch_loss(learner.predict, params, state.own, batch, state.seen)
        return {"loss": found.loss, **found.metrics}

    def noted(state: TrainState, good: Array) -> TrainState:
        """Stopped at this step, unless it was `good` or an earlier one was not."""
        bad_step = jnp.where(good | (state.bad_step >= 0), state.bad_step, state.step)
        return state._replace(bad_step=bad_step)

    def counted(state: TrainState, good: Array) -> TrainState:
        """One more step, if it was `good` and all before it were."""
        state = noted(state, good)
        return state._replace(step=jnp.where(state.bad_step < 0, state.step + 1, state.step))

    def step(state: LifelongState, tasks: Task, key: Key) -> tuple[LifelongState, Metrics]:
        check_tasks(tasks, space)
        batch = losses.concatenated(flattened(tasks.support), flattened(tasks.query))
        metrics = shown(state, batch)
        good = jnp.isfinite(metrics["loss"] * jnp.mean(refused_id(tasks, space)))
        state = state._replace(
            train=counted(state.train, good), seen=seen_after(state, space.classes, batch)
        )
        return state, {**metrics, "bad_step": state.train.bad_step}

    def learned(state: LifelongState, batch: Batch, key: Key) -> tuple[LifelongState, Array]:
        """After a batch, and whether what was learned is finite; else nothing was."""
        state = state._replace(seen=seen_after(state, space.classes, batch))
        labels = training_labels(space, state.seen, jnp.full(batch.y.shape[0], state.finished))
        fast = learner.adapt(state.train.params, batch, key, state.own, labels)
        good = train.all_finite(jnp.zeros(()), fast) & (state.train.bad_step < 0)
        fast = jax.tree.map(lambda new, old: jnp.where(good, new, old), fast, state.own)
        return state._replace(own=fast), good

    def observe(state: LifelongState, batch: Batch, key: Key) -> tuple[LifelongState, Metrics]:
        metrics = shown(state, batch)
        state, good = learned(state, batch, key)
        good = good & jnp.isfinite(metrics["loss"])
        state = state._replace(train=counted(state.train, good))
        return state, {**metrics, "bad_step": state.train.bad_step}

    def end_task(state: LifelongState, batch: Batch, key: Key) -> LifelongState:
        check_finished(state, space)
        state, good = learned(state, batch, key)
        return finished_after(state._replace(train=noted(state.train, good)), space, batch)

    def recall(state: LifelongState, x: Array, key: Key) -> Array:
        return learner.predict(state.train.params, state.own, x)

    few = predict_from(learner, space)
    return LifelongLearner(init, step, observe, end_task, few, among_seen(space, recall))
