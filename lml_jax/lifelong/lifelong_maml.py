"""Lifelong MAML: learn each task from a few examples so that past tasks are not damaged."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lml_jax import losses
from lml_jax.checks import check_positive, known
from lml_jax.lifelong import history
from lml_jax.lifelong._base import batch_loss, labels_of, refused_id, start
from lml_jax.lifelong._gradient import Past, RecallWith, gradient_learner
from lml_jax.lifelong.history import Draw, Reduction
from lml_jax.lifelong.label_space import LabelSpace, training_labels
from lml_jax.memory import task_indexed
from lml_jax.parallel import Reduce, vmap_mean
from lml_jax.types import (
    Batch,
    ExampleLoss,
    Fast,
    Key,
    Learner,
    LifelongLearner,
    MemoryBank,
    Metrics,
    Params,
    PyTree,
    Task,
)

RecallOn = Literal["task", "bank"]


def lifelong_maml(
    learner: Learner,
    tx: optax.GradientTransformation,
    space: LabelSpace,
    *,
    bank: MemoryBank | None = None,
    decay: float | None = 0.9,
    reduction: Reduction = "normalised",
    every_task: bool = False,
    past_batch: int = 25,
    recall_examples: int = 100,
    recall_on: RecallOn | None = None,
    loss: ExampleLoss = losses.cross_entropy,
    reduce: Reduce = vmap_mean,
) -> LifelongLearner:
    """MAML on a stream, with a decay-weighted loss on past tasks at the adapted parameters.

    theta_i' = theta - alpha grad L_i(theta);
    theta <- theta - beta grad ( L_i(theta_i') + sum_{j<i} w_j L_j(theta_i') ),
    w_j proportional to lambda^(i-j). The gradient flows through theta_i': it asks that learning
    task i does not damage task j. `recall` predicts with the theta_i' of the last finished task.

    `observe` takes a random half of a batch as support set and the other as query set; everything
    in the bank is then past, with weight 1 in all whatever lambda is, and is stored as one task:
    `memory.reservoir(n)` has room for n examples, the default bank for 50.

    Args:
        learner: a MAML learner over the C classes; `inner.step_size(x)` is an inner step size
            that suits the size of its inputs.
        tx: the outer update rule.
        space: the label space, from `label_space_of(stream)`.
        bank: of items (x, y, task); None for `task_indexed(50, tasks=T)`, 50 examples per task.
        decay: lambda, in (0, 1]; None for no past, which is sequential MAML.
        reduction: of the weights: "normalised" (sum to 1), "mean" or "sum".
        every_task: estimate every L_j (the cost grows with T), instead of one that is drawn with
            probability w_j for each episode. For a bank with `by_task`.
        past_batch: examples of past tasks in one estimate.
        recall_examples: at most so many examples make theta_i' for `recall`.
        recall_on: "task", the examples of the task, or batch, just learned; or "bank", a draw from
            all that is stored. None: of the task at its end, and of the bank after `observe`,
            where the last batch has a few of the classes alone.
        loss: of one example, for the outer loss; the inner one is the learner's.
        reduce: as in `train.make_train_step`.

    Returns:
        A `LifelongLearner`. Its metrics: `loss`, `query_loss`, `accuracy`, `retention`
        (sum_j w_j L_j(theta_i')) and `retention_before` (the same at theta).

    Raises:
        ValueError: for a decay outside (0, 1], an unknown reduction or `recall_on`, numbers below
            1; for `every_task` with a bank that does not group by task.

    Example:
        >>> from lml_jax import memory, nets
        >>> from lml_jax.learners.maml import maml
        >>> space = LabelSpace(tasks=10, initial=jnp.zeros(50, bool))
        >>> few_shot = maml(nets.mlp([64], 50), optax.sgd(0.1), steps=1)
        >>> learner = lifelong_maml(few_shot, optax.adam(1e-3), space)
        >>> bounded = lifelong_maml(few_shot, optax.adam(1e-3), space,
        ...                         bank=memory.reservoir(200), recall_on="bank")

    Source:
        The outer loss is this project's; its parts are Finn, Abbeel, Levine. Model-Agnostic
        Meta-Learning for Fast Adaptation of Deep Networks, 2017, algorithm 2,
        https://arxiv.org/abs/1703.03400, and, for a loss on past tasks at the adapted parameters,
        Gupta, Yadav, Paull. Look-ahead Meta Learning for Continual Learning, 2020,
        https://arxiv.org/abs/2007.13904.
    """
    check_positive(past_batch=past_batch, recall_examples=recall_examples)
    if recall_on is not None:
        known(recall_on, ("task", "bank"), what="recall_on")
    if decay is not None:
        history.check_decay(decay, reduction)
    bank = task_indexed(50, tasks=space.tasks) if bank is None else bank
    if every_task and not bank.by_task:
        raise ValueError("every_task needs a bank that groups by task, such as task_indexed")

    def past_loss(params: Params, fast: Fast, task: Task, past: Past, key: Key) -> Metrics:
        def of_draw(drawn: Draw) -> Metrics:
            labels = training_labels(space, past.seen, drawn.task)
            args = drawn.batch, labels, loss
            after = batch_loss(learner.predict, params, fast, *args).loss
            first = start(learner, params, drawn.x)
            before = batch_loss(learner.predict, params, first, *args).loss
            return {"retention": after, "retention_before": jax.lax.stop_gradient(before)}

        lambda_ = 1.0 if decay is None else decay
        w = history.weights(past.finished, tasks=space.tasks, decay=lambda_, reduction=reduction)
        # Without boundaries all that is stored is one past task, the first.
        w = jnp.where(past.boundless, jnp.zeros_like(w).at[past.finished].set(1.0), w)
        return history.estimate(
            bank, past.memory, of_draw, w, task.query.x, key, n=past_batch, every_task=every_task
        )

    def of_episode(params: Params, task: Task, key: Key, past: Past) -> tuple[Array, Metrics]:
        key_adapt, key_past = jax.random.split(key)
        labels = labels_of(task, space, past.seen)
        active = None if space.target is not None else labels
        fast = learner.adapt(params, task.support, key_adapt, labels=active)
        value, metrics = batch_loss(learner.predict, params, fast, task.query, labels, loss)
        value = value * refused_id(task, space)
        metrics = {"query_loss": value, **metrics}
        if decay is not None:
            terms = past_loss(params, fast, task, past, key_past)
            value, metrics = value + terms["retention"], {**metrics, **terms}
        return value, metrics

    recall_with = _adapted_on(learner, space, recall_on, bank, recall_examples)
    return gradient_learner(
        learner, tx, space, bank=bank, loss=of_episode, recall_with=recall_with, reduce=reduce
    )


def _adapted_on(
    learner: Learner, space: LabelSpace, given: RecallOn | None, bank: MemoryBank, examples: int
) -> RecallWith:
    """What `recall` uses: parameters adapted on the batch just learned, or on a draw."""

    def recall_with(
        params: Params, batch: Batch, labels: Array, memory: PyTree, key: Key, *, boundless: bool
    ) -> Fast:
        source = given or ("bank" if boundless else "task")
        key_draw, key_adapt = jax.random.split(key)
        if source == "task":
            n = batch.y.shape[0]
            score = jax.random.uniform(key_draw, (n,))
            if batch.weight is not None:
                score = jnp.where(batch.weight > 0, score, -1.0)
            rows = jax.lax.top_k(score, min(n, examples))[1]
            drawn = jax.tree.map(lambda leaf: leaf[rows], batch)
        else:
            drawn = history.draw(bank, memory, batch.x, key_draw, n=examples).batch
        active = None if space.target is not None else labels
        return learner.adapt(params, drawn, key_adapt, labels=active)

    return recall_with
