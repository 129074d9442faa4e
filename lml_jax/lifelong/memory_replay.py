"""The memory-based lifelong learner: support sets from a bank, and a retention loss."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses, train
from lml_jax.checks import check_positive, concrete, known, possible
from lml_jax.lifelong import _support
from lml_jax.lifelong._base import (
    batch_loss,
    check_finished,
    check_tasks,
    finished_after,
    halves,
    labels_of,
    least_likely,
    predict_from,
    refused_id,
    seen_after,
    start,
    unknown_labels,
)
from lml_jax.lifelong._gradient import Past, as_stored
from lml_jax.lifelong._support import Drawn
from lml_jax.lifelong.label_space import LabelSpace, training_labels
from lml_jax.memory import class_balanced
from lml_jax.parallel import Reduce, vmap_mean
from lml_jax.types import (
    Batch,
    ExampleLoss,
    Fast,
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

RecallBy = Literal["samples", "statistics"]


class Recalled(NamedTuple):
    """What `recall` predicts with, and the update after which it was computed."""

    fast: Fast
    step: Array  # int32


def memory_learner(
    learner: Learner,
    tx: optax.GradientTransformation,
    space: LabelSpace,
    *,
    bank: MemoryBank | None = None,
    retention_weight: float = 1.0,
    reduction: Literal["mean", "sum"] = "mean",
    every_task: bool = False,
    shots: int = 5,
    past_batch: int = 25,
    recall_by: RecallBy = "samples",
    loss: ExampleLoss = losses.cross_entropy,
    reduce: Reduce = vmap_mean,
) -> LifelongLearner:
    """A learner that classifies by its support set, with a bank of examples of the classes seen.

    theta <- theta - beta grad ( L_i(theta) + lambda sum_{j<i} L_j(theta) / (i - 1) )

    The support set of an episode of T_i is its own and `shots` examples of each class in the bank
    M; L_i is the loss of its queries, L_j the loss of examples of task j in M that are not in the
    support set, all among every class seen so far. T_i's examples enter M once, at its end.
    `recall` learns from M alone, at the current parameters; `predict` from the support set given.

    `observe` takes a random half of a batch as queries and the other half as its support set; the
    retention loss is that of any examples in M.

    Args:
        learner: one that classifies by its support set: `protonet`, `gemcl`, `matching`, over the
            C classes. Its net must treat each example by itself, as norm="group" does, or hold
            frozen statistics (`Net.freeze`): with those of a batch, the memory of a task would
            depend on what else is recalled with it.
        tx: the outer update rule; its state is carried from task to task.
        space: the label space, from `label_space_of(stream)`.
        bank: M, of items (x, y, task); None for `class_balanced(15, classes=C)`.
        retention_weight: lambda >= 0; 0 for no retention loss.
        reduction: "mean" of L_j over past tasks, as above; or "sum", without the divisor, whose
            weight against L_i grows with the number of tasks.
        every_task: the loss of every task, instead of one drawn uniformly for each episode, which
            then stands for all of them; the mean over draws is the same.
        shots: examples of each class of M in the support set of an episode. With a retention loss
            the bank must hold more: the queries are among the others.
        past_batch: examples in one estimate of the L_j of a task that is drawn.
        recall_by: "samples", statistics recomputed from M when the embedding has moved; or
            "statistics", what `learner` made of each task at its end, which costs nothing to
            recall but goes stale. M is still used for training.
        loss: of one example, of logits and its label.
        reduce: as in `train.make_train_step`.

    Returns:
        A `LifelongLearner`. Its metrics: `loss`, `query_loss`, `accuracy` and, with a retention
        loss, `retention` (sum_j L_j).

    Raises:
        ValueError: for a label space of targets, a negative lambda, an unknown name, numbers below
            1; in `init`, for a learner of other than C classes; in `step`, for episodes with
            labels of their own; outside jit, for labels outside -1..C-1, and in `recall` before
            anything was learned.

    Example:
        >>> from lml_jax import memory, nets
        >>> from lml_jax.learners.protonet import protonet
        >>> space = LabelSpace(tasks=10, initial=jnp.zeros(50, bool))
        >>> few_shot = protonet(nets.mlp([64], 32), classes=50)
        >>> learner = memory_learner(few_shot, optax.adam(1e-3), space)
        >>> recent = memory_learner(few_shot, optax.adam(1e-3), space, bank=memory.fifo(500))

    Source:
        The outer loss is this project's; the classifier's is that of Snell, Swersky, Zemel.
        Prototypical Networks for Few-shot Learning, 2017, https://arxiv.org/abs/1703.05175, or of
        the learner given.
    """
    known(reduction, ("sum", "mean"), what="reduction")
    known(recall_by, ("samples", "statistics"), what="recall_by")
    if not possible(lambda w: w >= 0, retention_weight):
        raise ValueError(f"the retention weight lambda must be at least 0, got {retention_weight}")
    if space.target is not None:
        raise ValueError(
            "the memory learner classifies by class statistics: expected a label space of classes, "
            "got one of targets; use lifelong_maml, joint or finetune for other targets"
        )
    check_positive(shots=shots, past_batch=past_batch)
    bank = class_balanced(15, classes=space.classes) if bank is None else bank
    retained = possible(lambda w: w > 0, retention_weight)
    classes, queries = space.classes, past_batch if retained else 0

    def of_episode(params: Params, task: Task, key: Key, *shared: PyTree) -> tuple[Array, Metrics]:
        past: Past = shared[0]
        key_draw, key_adapt = jax.random.split(key)
        labels = labels_of(task, space, past.seen)
        drawn = _support.draw(
            bank, past.memory, past.finished, past.boundless, key_draw,
            classes=classes, shots=shots, n=queries, every_task=every_task,
        )  # fmt: skip
        support = losses.concatenated(_as_labelled(task.support), drawn.support)
        fast = learner.adapt(params, losses.fill_padding(support), key_adapt)
        query = _support.with_a_prototype(task.query, support, past.boundless, classes)
        value, metrics = batch_loss(learner.predict, params, fast, query, labels, loss)
        value = value * refused_id(task, space)
        metrics = {"query_loss": value, **metrics}
        if retained:
            total, tasks = _retention(learner, params, fast, drawn, past, space, loss, every_task)
            metrics["retention"] = total
            divisor = jnp.maximum(tasks, 1) if reduction == "mean" else 1
            value = value + retention_weight * total / divisor
        return value, metrics

    update = train.make_train_step(of_episode, tx, reduce=reduce)

    def recalled(params: Params, memory: PyTree, step: Array, key: Key) -> Recalled:
        """The statistics of everything in the bank."""
        every = losses.fill_padding(_support.stored(bank, memory)[0])
        # Traced, so that classes still to come are not taken for missing ones.
        fast = jax.jit(learner.adapt)(params, every, key)
        # A copy: what is donated may not hold a buffer twice, and the step is the train state's.
        return Recalled(fast, jnp.copy(step))

    def init(key: Key, x: Array, params: Params | None = None) -> LifelongState:
        params = learner.init(key, x) if params is None else params
        _check_classes(learner, params, x, classes)
        memory, zero = bank.init(space.item(x)), jnp.zeros((), jnp.int32)
        _support.check_room(bank, memory, shots * classes, retained)
        if recall_by == "statistics":
            own = Recalled(start(learner, params, x), zero)
        else:
            like = jax.eval_shape(recalled, params, memory, zero, key)
            own = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
            own = own._replace(step=zero - 1)  # computed after no update: never valid
        state = LifelongState(train.init_state(params, tx), space.initial, zero, memory, own)
        # In buffers of its own: the state may be donated, what it was made from is used again.
        return train.copy(state)

    def moved(
        state: LifelongState, tasks: Task, key: Key, boundless: bool
    ) -> tuple[LifelongState, Metrics]:
        check_tasks(tasks, space)
        seen = seen_after(state, classes, tasks.support, tasks.query)
        past = Past(seen, state.finished, state.memory, jnp.asarray(boundless))
        trained, metrics = update(state.train, tasks, key, past)
        return state._replace(train=trained, seen=seen), metrics

    def step(state: LifelongState, tasks: Task, key: Key) -> tuple[LifelongState, Metrics]:
        return moved(state, tasks, key, False)

    def stored(state: LifelongState, batch: Batch, key: Key) -> LifelongState:
        key_bank, key_adapt = jax.random.split(key)
        # Only of an update that was accepted, see `gradient_learner`.
        where = (losses.labelled(batch) > 0) & ~unknown_labels(batch, space)
        where &= state.train.bad_step < 0
        items = (batch.x, as_stored(batch.y), jnp.full(batch.y.shape, state.finished))
        memory = bank.insert(state.memory, items, key_bank, where)
        own, params = state.own, state.train.params
        if recall_by == "statistics":
            fast = learner.adapt(params, losses.fill_padding(batch), key_adapt, own.fast)
            _check_same_shapes(own.fast, fast)
            own = train.copy(Recalled(fast, state.train.step))
        else:
            own = own._replace(step=jnp.full_like(own.step, -1))
        return state._replace(memory=memory, own=own)

    def observe(state: LifelongState, batch: Batch, key: Key) -> tuple[LifelongState, Metrics]:
        key_split, key_step, key_store = jax.random.split(key, 3)
        one = Task(*halves(batch, key_split), jnp.zeros((), jnp.int32))
        tasks = jax.tree.map(lambda leaf: leaf[None], one)
        state, metrics = moved(state, tasks, key_step, True)
        return stored(state, batch, key_store), metrics

    def end_task(state: LifelongState, batch: Batch, key: Key) -> LifelongState:
        check_finished(state, space)
        state = state._replace(seen=seen_after(state, classes, batch))
        key_store, key_recall = jax.random.split(key)
        state = stored(state, batch, key_store)
        if recall_by == "samples":
            # Once per task and not at every recall: valid until the parameters move.
            own = recalled(state.train.params, state.memory, state.train.step, key_recall)
            # A copy: what is donated may not hold a buffer twice, and this is the counter's.
            state = state._replace(own=train.copy(own))
        return finished_after(state, space, batch)

    def recall(state: LifelongState, x: Array, key: Key) -> Array:
        found = concrete(state.seen)
        if found is not None and not found[0].any():
            raise ValueError("nothing was learned yet: recall needs an example of some class")
        params, own = state.train.params, state.own
        if recall_by == "samples":
            own = jax.lax.cond(
                own.step == state.train.step,
                lambda: own,
                lambda: recalled(params, state.memory, state.train.step, key),
            )
        # A class that was seen, and of which the bank holds nothing any more, is forgotten: wrong.
        return least_likely(learner.predict(params, own.fast, x), state.seen[None])

    return LifelongLearner(init, step, observe, end_task, predict_from(learner, space), recall)


def _as_labelled(batch: Batch) -> Batch:
    return batch._replace(weight=losses.labelled(batch))


def _retention(
    learner: Learner,
    params: Params,
    fast: Fast,
    drawn: Drawn,
    past: Past,
    space: LabelSpace,
    loss: ExampleLoss,
    every_task: bool,
) -> tuple[Array, Array]:
    """sum_j L_j from the losses of the queries, and the number of tasks in the sum, a float."""
    query = losses.fill_padding(drawn.query)
    rows = training_labels(space, past.seen, drawn.task)
    logits = losses.mask_logits(learner.predict(params, fast, query.x), rows)
    each, weight = loss(logits, query.y), losses.labelled(query)
    tasks = jnp.where(past.boundless, 1, past.finished).astype(each.dtype)
    if not every_task:
        return tasks * losses.weighted_mean(each, weight), tasks
    of_task = jax.nn.one_hot(drawn.task, space.tasks, axis=0) * weight[None]
    return jax.vmap(lambda w: losses.weighted_mean(each, w))(of_task).sum(), tasks


def _check_classes(learner: Learner, params: Params, x: Array, classes: int) -> None:
    found = jax.eval_shape(lambda p: learner.predict(p, start(learner, p, x), x), params).shape[1]
    if found != classes:
        raise ValueError(
            f"the learner has {found} classes, expected {classes}, as the label space has"
        )


def _check_same_shapes(before: Fast, after: Fast) -> None:
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (before, after)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "recall by statistics needs a learner whose statistics keep their size, as protonet's "
            "and gemcl's do; this one's grow with each example: use recall_by='samples'"
        )
