"""The memory-based lifelong learner: support sets from a bank, and knowledge transfer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses, train
from lml_jax.checks import concrete, known
from lml_jax.lifelong._base import begin, head_loss, labels_of
from lml_jax.lifelong._draws import Drawn, contents, draw, without_gaps
from lml_jax.lifelong.label_space import Head, classes_in, training_mask
from lml_jax.memory import Bank, class_balanced
from lml_jax.parallel import BatchLoss, vmap_mean
from lml_jax.types import (
    Batch,
    Key,
    Learner,
    LifelongLearner,
    Loss,
    Metrics,
    Params,
    Task,
    TrainState,
)

RECALL = ("samples", "statistics")


class State(NamedTuple):
    """One pytree: parameters and optimiser, labels seen bool [C], the bank, tasks finished.

    `fast` holds the statistics of finished tasks, where recall is by them; else None.
    """

    train: TrainState
    seen: Array
    bank: Bank
    finished: Array
    fast: Any

    @property
    def step(self) -> Array:
        """Updates done."""
        return self.train.step

    @property
    def bad_step(self) -> Array:
        """The first step whose update was refused, or -1."""
        return self.train.bad_step

    @property
    def stored(self) -> Any:
        """What is kept of past tasks."""
        return self.bank, self.fast


def memory_learner(
    learner: Learner,
    tx: optax.GradientTransformation,
    head: Head,
    *,
    transfer: float = 1.0,
    form: str = "mean",
    every_task: bool = False,
    per_class: int = 15,
    shots: int = 5,
    transfer_queries: int = 25,
    recall_by: str = "samples",
    reduce: Callable[[Loss], BatchLoss] = vmap_mean,
) -> LifelongLearner:
    """A learner that classifies by its support set, with a bank of samples of every class seen.

    theta <- theta - beta grad ( L_i(theta) + lambda sum_{j<i} L_j(theta) / (i - 1) )

    The support set of an episode of T_i is its own and `shots` samples of each class in the bank
    M; L_i is the loss of its queries, L_j the loss of samples of task j in M that are not in the
    support set, all among every label seen so far. T_i's samples enter M once, at its end.
    `recall` learns from M alone, at the parameters of the moment; `predict` from the support set
    given.

    Args:
        learner: one that classifies by its support set: `protonet`, `gemcl`, `matching`, over the
            head's C classes. Its net must treat each example by itself, as norm="group" does, or
            hold frozen statistics (`Net.freeze`): with those of a batch, the memory of a task
            would depend on which others are recalled beside it.
        tx: the outer update rule; its state is carried from task to task.
        head: the label space, from `head_of(stream)`.
        transfer: lambda >= 0; 0 for no knowledge transfer.
        form: "mean" of L_j over past tasks, as above; or "sum", without the divisor, whose weight
            against L_i grows with the number of tasks.
        every_task: look at every task, instead of one drawn uniformly for each episode, whose
            loss then stands for all of them; the mean over draws is the same.
        per_class: samples of each class kept in M.
        shots: samples of each class of M in the support set of an episode; fewer than `per_class`
            where there is transfer, for the queries are among the others.
        transfer_queries: samples in one estimate of the L_j of a task that is drawn.
        recall_by: "samples", prototypes recomputed from M as the embedding moves; or "statistics",
            what `learner` made of each task at its end, which costs nothing to recall but goes
            stale. M is still used for training.
        reduce: as in `train.make_train_step`.

    Returns:
        A `LifelongLearner`. Its metrics: `loss`, `query_loss`, `accuracy` and, with transfer,
        `transfer` (sum_j L_j).

    Raises:
        ValueError: for a negative lambda, an unknown form or recall, numbers below 1, more shots
            than samples; in `init`, for a learner of other than C classes; in `step`, for episodes
            with labels of their own; outside jit, for labels outside -1..C-1, and in `recall`
            before anything was learned.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.learners.protonet import protonet
        >>> head = Head(tasks=10, known=jnp.zeros(50, bool))
        >>> learner = memory_learner(protonet(nets.mlp([64], 32), classes=50),
        ...                          optax.adam(1e-3), head)

    Source:
        The outer loss is this project's; the classifier's is that of Snell, Swersky, Zemel.
        Prototypical Networks for Few-shot Learning, 2017, or of the learner given.
    """
    known(form, ("sum", "mean"), what="form of the transfer")
    known(recall_by, RECALL, what="recall_by")
    _check(transfer, per_class, shots, transfer_queries)
    bank = class_balanced(per_class, classes=head.classes)

    def of_episode(
        params: Params, task: Task, key: Key, seen: Array, past: Bank, finished: Array
    ) -> tuple[Array, Metrics]:
        key_draw, key_adapt = jax.random.split(key)
        keep = labels_of(task, head, seen)
        drawn = draw(
            past, finished, key_draw,
            shots=shots, n=transfer_queries, every=every_task, queries=transfer > 0,
        )  # fmt: skip
        own = task.support._replace(weight=losses.labelled(task.support))
        support = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), own, drawn.support)
        fast = learner.adapt(params, without_gaps(support), key_adapt)
        value, accuracy = head_loss(learner, params, fast, task.query, keep)
        metrics = {"query_loss": value, "accuracy": accuracy}
        if transfer > 0:
            rows = training_mask(head, seen, drawn.task)
            logits = learner.predict(params, fast, drawn.query.x)
            each = losses.cross_entropy(losses.mask_logits(logits, rows), drawn.query.y)
            total = _sum_over_tasks(each, drawn, finished, head.tasks, every_task)
            metrics["transfer"] = total
            scale = jnp.maximum(finished, 1) if form == "mean" else 1
            value = value + transfer * total / scale
        return value, metrics

    update = train.make_train_step(of_episode, tx, reduce=reduce)

    def init(key: Key, example: Batch, params: Params | None = None) -> State:
        params = learner.init(key, example.x[None]) if params is None else params
        item = (example.x, example.y, jnp.zeros((), jnp.int32))
        zero = jnp.zeros((), jnp.int32)
        _check_classes(learner, params, example.x[None], head.classes)
        fast = begin(learner, params, example.x[None]) if recall_by == "statistics" else None
        # In buffers of its own: the state may be donated, what it was made from is used again.
        state = State(train.init_state(params, tx), head.known, bank.init(item), zero, fast)
        return train.copy(state)

    def step(state: State, episodes: Task, key: Key) -> tuple[State, Metrics]:
        seen = state.seen
        for part in (episodes.support, episodes.query):
            seen = seen | classes_in(part.y, head.classes)
        trained, metrics = update(state.train, episodes, key, seen, state.bank, state.finished)
        return state._replace(train=trained, seen=seen), metrics

    def end_task(state: State, batch: Batch, key: Key) -> State:
        seen = state.seen | classes_in(batch.y, head.classes)
        key_bank, key_adapt = jax.random.split(key)
        where = losses.labelled(batch) > 0
        items = (batch.x, batch.y, jnp.full(batch.y.shape, state.finished))
        fast = state.fast
        if fast is not None:
            fast = learner.adapt(state.train.params, batch, key_adapt, fast)
            _check_same_shapes(state.fast, fast)
        stored = bank.insert(state.bank, items, key_bank, where)
        return State(state.train, seen, stored, state.finished + 1, fast)

    def predict(state: State, support: Batch, x: Array, key: Key) -> Array:
        params, keep = state.train.params, classes_in(support.y, head.classes)
        logits = learner.predict(params, learner.adapt(params, support, key, labels=keep), x)
        return losses.mask_logits(logits, keep)

    def recall(state: State, x: Array, key: Key) -> Array:
        if concrete(state.finished) == [0]:
            raise ValueError("nothing was learned yet: recall needs a task that is finished")
        params, fast = state.train.params, state.fast
        if fast is None:
            # Traced, lest the classes that are still to come be taken for missing ones.
            fast = jax.jit(learner.adapt)(params, contents(state.bank), key)
        return learner.predict(params, fast, x)

    return LifelongLearner(init, step, end_task, predict, recall)


def _sum_over_tasks(each: Array, drawn: Drawn, finished: Array, tasks: int, every: bool) -> Array:
    """sum_j L_j from the losses of the queries, L_j the mean over those of task j."""
    weight = losses.labelled(drawn.query)
    if not every:
        return finished * losses.weighted_mean(each, weight)
    of_task = jax.nn.one_hot(drawn.task, tasks, axis=0) * weight[None]
    return jax.vmap(lambda w: losses.weighted_mean(each, w))(of_task).sum()


def _check(transfer: float, per_class: int, shots: int, transfer_queries: int) -> None:
    if not transfer >= 0:
        raise ValueError(f"the transfer weight lambda must be at least 0, got {transfer}")
    if min(per_class, shots, transfer_queries) < 1:
        raise ValueError(
            "per_class, shots and transfer_queries must be at least 1, got "
            f"{per_class}, {shots} and {transfer_queries}"
        )
    most = per_class - 1 if transfer > 0 else per_class
    if shots > most:
        raise ValueError(
            f"{shots} shots of the {per_class} samples kept of each class leave no queries for the "
            f"transfer: expected at most {most}"
        )


def _check_classes(learner: Learner, params: Params, x: Array, classes: int) -> None:
    found = jax.eval_shape(lambda p: learner.predict(p, begin(learner, p, x), x), params).shape[1]
    if found != classes:
        raise ValueError(f"the learner has {found} classes, expected {classes}, as the head has")


def _check_same_shapes(before: Any, after: Any) -> None:
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (before, after)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "recall by statistics needs a learner whose statistics keep their size, as protonet's "
            "and gemcl's do; this one's grow with each example: use recall_by='samples'"
        )
