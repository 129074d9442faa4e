"""Lifelong MAML: learn each task from a few examples so that the past ones are not damaged."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax.checks import known
from lml_jax.lifelong import history
from lml_jax.lifelong._base import (
    RecallWith,
    begin,
    drawn_batch,
    head_loss,
    labels_of,
    lifelong_learner,
)
from lml_jax.lifelong.label_space import Head, training_mask
from lml_jax.parallel import BatchLoss, vmap_mean
from lml_jax.types import Batch, Key, Learner, LifelongLearner, Loss, Metrics, Params, Task


def lifelong_maml(
    learner: Learner,
    tx: optax.GradientTransformation,
    head: Head,
    *,
    decay: float | None = 0.9,
    form: str = "normalised",
    every_task: bool = False,
    capacity: int = 50,
    history_batch: int = 25,
    recall_examples: int = 100,
    recall_on: str = "task",
    reduce: Callable[[Loss], BatchLoss] = vmap_mean,
) -> LifelongLearner:
    """MAML on a stream, with a decay-weighted loss on past tasks at the adapted parameters.

    theta_i' = theta - alpha grad L_i(theta);
    theta <- theta - beta grad ( L_i(theta_i') + sum_{j<i} w_j L_j(theta_i') ),
    w_j proportional to lambda^(i-j). The gradient flows through theta_i': it asks that learning
    task i does not damage task j. `recall` predicts with the theta_i' of the last finished task.

    Args:
        learner: a MAML learner over the head's C classes.
        tx: the outer update rule.
        head: the label space, from `head_of(stream)`.
        decay: lambda, in (0, 1]; None for no history, which is sequential MAML.
        form: of the weights, one of `history.FORMS`.
        every_task: estimate every L_j (the cost grows with T), instead of one that is drawn
            with probability w_j for each episode.
        capacity: examples kept of each task.
        history_batch: examples of a past task in one estimate of L_j.
        recall_examples: at most so many examples make theta_i' for `recall`.
        recall_on: "task", the examples of the task just finished, or "bank", a draw from all that
            is kept.
        reduce: as in `train.make_train_step`.

    Returns:
        A `LifelongLearner`. Its metrics: `loss`, `query_loss`, `accuracy`, `history`
        (sum_j w_j L_j(theta_i')) and `history_before` (the same at theta).

    Raises:
        ValueError: for a decay outside (0, 1], an unknown form or `recall_on`, numbers below 1.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.learners.maml import maml
        >>> head = Head(tasks=10, known=jnp.zeros(50, bool))
        >>> learner = lifelong_maml(maml(nets.mlp([64], 50), optax.sgd(0.1), steps=1),
        ...                         optax.adam(1e-3), head)

    Source:
        The outer loss is this project's; its parts are Finn et al. 2017 (algorithm 2) and, for a
        loss on past tasks at the adapted parameters, Gupta, Yadav, Paull. Look-ahead Meta
        Learning for Continual Learning, 2020.
    """
    if min(history_batch, recall_examples) < 1:
        raise ValueError(
            "history_batch and recall_examples must be at least 1, got "
            f"{history_batch} and {recall_examples}"
        )
    if decay is not None:
        history.check_decay(decay, form)
    bank = history.bank_of(capacity)

    def loss(seen: Array, past: history.History) -> Loss:
        def past_loss(params: Params, fast: Any, decay: float, key: Key) -> Metrics:
            def of_draw(drawn: history.Draw) -> Metrics:
                batch, start = drawn_batch(drawn), begin(learner, params, drawn.x)
                keep = training_mask(head, seen, drawn.task)
                after, _ = head_loss(learner, params, fast, batch, keep)
                before, _ = head_loss(learner, params, start, batch, keep)
                return {"history": after, "history_before": jax.lax.stop_gradient(before)}

            w = history.weights(past.finished, tasks=head.tasks, decay=decay, form=form)
            return history.estimate(bank, past, of_draw, w, key, n=history_batch, every=every_task)

        def of_episode(params: Params, task: Task, key: Key) -> tuple[Array, Metrics]:
            key_adapt, key_past = jax.random.split(key)
            keep = labels_of(task, head, seen)
            fast = learner.adapt(params, task.support, key_adapt, labels=keep)
            value, accuracy = head_loss(learner, params, fast, task.query, keep)
            metrics = {"query_loss": value, "accuracy": accuracy}
            if decay is not None:
                terms = past_loss(params, fast, decay, key_past)
                value, metrics = value + terms["history"], {**metrics, **terms}
            return value, metrics

        return of_episode

    return lifelong_learner(
        learner,
        tx,
        head,
        bank=bank,
        loss=loss,
        recall_with=adapted_on(learner, recall_on, bank, recall_examples),
        reduce=reduce,
    )


def adapted_on(
    learner: Learner, source: str, bank: history.MemoryBank, examples: int
) -> RecallWith:
    """What `recall` uses: parameters adapted on the finished task, or on a draw from the bank."""

    def task(params: Params, batch: Batch, keep: Array, past: history.History, key: Key) -> Any:
        key_draw, key_adapt = jax.random.split(key)
        n = batch.x.shape[0]
        score = jax.random.uniform(key_draw, (n,))
        if batch.weight is not None:
            score = jnp.where(batch.weight > 0, score, -1.0)
        rows = jax.lax.top_k(score, min(n, examples))[1]
        drawn = jax.tree.map(lambda leaf: leaf[rows], batch)
        return learner.adapt(params, drawn, key_adapt, labels=keep)

    def stored(params: Params, batch: Batch, keep: Array, past: history.History, key: Key) -> Any:
        key_draw, key_adapt = jax.random.split(key)
        drawn = history.draw_union(bank, past, key_draw, n=examples)
        return learner.adapt(params, drawn_batch(drawn), key_adapt, labels=keep)

    ways = {"task": task, "bank": stored}
    return ways[known(source, ways, what="recall_on")]
