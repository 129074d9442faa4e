"""The history of a stream: one small reservoir per finished task, and weights that decay."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.checks import known
from lml_jax.memory import Bank, task_indexed
from lml_jax.types import Batch, Key, MemoryBank

FORMS = ("normalised", "mean", "sum")


class History(NamedTuple):
    """A bank of one group a task, T_max in all, of which the first `finished` are filled."""

    banks: Bank
    finished: Array  # int32, tasks finished so far


class Draw(NamedTuple):
    """Examples of past tasks: x [n, ...], y [n], task int [n], valid bool [n]."""

    x: Array
    y: Array
    task: Array
    valid: Array


def weights(finished: Array, *, tasks: int, decay: float, form: str = "normalised") -> Array:
    """Weights of the finished tasks while the next one arrives, float [T_max].

    With i the arriving task and j < i a finished one, w_j is proportional to lambda^(i-j):
    `sum` is lambda^(i-j) itself, `mean` divides by i - 1, `normalised` by the sum over j.

    Args:
        finished: i - 1, int, may be traced.
        tasks: T_max.
        decay: lambda, in (0, 1].
        form: one of `FORMS`.

    Raises:
        ValueError: for a decay outside (0, 1] or an unknown form.

    Example:
        >>> weights(jnp.array(2), tasks=3, decay=0.5, form="sum").tolist()
        [0.25, 0.5, 0.0]
    """
    check_decay(decay, form)
    age = finished - jnp.arange(tasks)
    raw = jnp.where(age >= 1, decay ** age.astype(float), 0.0)
    if form == "sum":
        return raw
    divisor = finished if form == "mean" else jnp.sum(raw)
    return raw / jnp.where(finished > 0, divisor, 1)


def check_decay(decay: float, form: str) -> None:
    """Raise ValueError for a decay outside (0, 1] or an unknown form."""
    if not 0.0 < decay <= 1.0:
        raise ValueError(
            f"the history decay lambda must be in (0, 1], got {decay}; no history is None"
        )
    known(form, FORMS, what="form of the history weights")


def bank_of(capacity: int) -> MemoryBank:
    """The bank of one finished task; its items are (x, y, task)."""
    return task_indexed(capacity, tasks=1)


def init(bank: MemoryBank, example: Batch, *, tasks: int) -> History:
    """An empty history for at most `tasks` tasks; `example` is one example, x [...] and y []."""
    one = bank.init((example.x, example.y, jnp.zeros((), jnp.int32)))
    # A bank reads its number of groups off its state.
    banks = jax.tree.map(lambda leaf: jnp.zeros((tasks, *leaf.shape[1:]), leaf.dtype), one)
    return History(banks, jnp.zeros((), jnp.int32))


def finish(bank: MemoryBank, history: History, batch: Batch, key: Key) -> History:
    """The history after a task whose training examples are `batch`; each is offered once."""
    i = history.finished
    where = None if batch.weight is None else batch.weight > 0
    items = (batch.x, batch.y, jnp.full(batch.x.shape[0], i))
    return History(bank.insert(history.banks, items, key, where), i + 1)


def draw(bank: MemoryBank, history: History, task: Array, key: Key, *, n: int) -> Draw:
    """n examples of one finished `task` (int, may be traced)."""
    (x, y, _), valid = bank.sample(history.banks, key, n=n, group=task)
    return Draw(x, y, jnp.full(n, task), valid)


def draw_union(bank: MemoryBank, history: History, key: Key, *, n: int) -> Draw:
    """n examples of the finished tasks, each from a task drawn anew: 1/(i-1) sum_{j<i} E_j."""
    (x, y, task), valid = bank.sample(history.banks, key, n=n)
    return Draw(x, y, task, valid)


def estimate(
    bank: MemoryBank,
    history: History,
    loss_of: Any,
    w: Array,
    key: Key,
    *,
    n: int,
    every: bool,
) -> Any:
    """The history term sum_j w_j L_j, from n examples of each task or of one that is drawn.

    With `every`, each L_j is estimated, and the cost grows with T_max. Else j is drawn with
    probability w_j / W, W = sum_j w_j, and the estimate is W L_j: the cost is constant, and the
    mean over draws is the same.

    Args:
        bank: of one task.
        history: the finished tasks.
        loss_of: (Draw) -> pytree of scalars, each a mean over the valid examples.
        w: weights [T_max], 0 for unfinished tasks.
        key: a typed key.
        n: examples of each task looked at.
        every: which estimator.

    Returns:
        The estimate of each scalar that `loss_of` returns; 0 before any task is finished.
    """
    key_task, key_item = jax.random.split(key)
    if every:
        keys = jax.random.split(key_item, w.shape[0])
        each = jax.vmap(lambda j, k: loss_of(draw(bank, history, j, k, n=n)))
        values = each(jnp.arange(w.shape[0]), keys)
        return jax.tree.map(lambda value: jnp.sum(w * value), values)
    total = jnp.sum(w)
    task = jax.random.categorical(key_task, jnp.log(jnp.where(total > 0, w, 1.0)))
    value = loss_of(draw(bank, history, task, key_item, n=n))
    return jax.tree.map(lambda scalar: total * scalar, value)
