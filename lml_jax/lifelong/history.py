"""The loss on past tasks: weights that decay with age, estimated from a memory bank."""

from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.checks import known, possible
from lml_jax.types import Batch, Key, MemoryBank, Metrics, PyTree

Reduction = Literal["normalised", "mean", "sum"]
REDUCTIONS: tuple[Reduction, ...] = ("normalised", "mean", "sum")


class Draw(NamedTuple):
    """Examples of past tasks: x [n, ...], y [n], task int [n], and what each counts, [n].

    `more` are further fields [n, ...] that the bank stores of each example.
    """

    x: Array
    y: Array
    task: Array
    weight: Array
    more: tuple[Array, ...] = ()

    @property
    def batch(self) -> Batch:
        """The examples as a batch."""
        return Batch(self.x, self.y, self.weight)


class PastLoss(Protocol):
    """Losses of past examples, each a mean under their weights: scalars by name."""

    def __call__(self, past: Draw, /) -> Metrics: ...  # noqa: D102


def weights(
    finished: Array, *, tasks: int, decay: float, reduction: Reduction = "normalised"
) -> Array:
    """Weights of the finished tasks while the next one arrives, float [T].

    With i the arriving task and j < i a finished one, w_j is proportional to lambda^(i-j):
    "sum" is lambda^(i-j) itself, "mean" divides by i - 1, "normalised" by the sum over j.

    Args:
        finished: i - 1, int, may be traced.
        tasks: T.
        decay: lambda, in (0, 1].
        reduction: one of `REDUCTIONS`.

    Raises:
        ValueError: for a decay outside (0, 1] or an unknown reduction.

    Example:
        >>> weights(jnp.array(2), tasks=3, decay=0.5, reduction="sum").tolist()
        [0.25, 0.5, 0.0]
    """
    check_decay(decay, reduction)
    age = finished - jnp.arange(tasks)
    raw = jnp.where(age >= 1, decay ** jnp.maximum(age, 0).astype(float), 0.0)
    if reduction == "sum":
        return raw
    divisor = jnp.asarray(finished).astype(raw.dtype) if reduction == "mean" else jnp.sum(raw)
    return raw / jnp.where(finished > 0, divisor, 1)


def check_decay(decay: float, reduction: str) -> None:
    """Raise ValueError for a decay outside (0, 1] or an unknown reduction."""
    if not possible(lambda d: 0 < d <= 1, decay):
        raise ValueError(
            f"the decay lambda must be in (0, 1], got {decay}; decay=None leaves the past out"
        )
    known(reduction, REDUCTIONS, what="reduction")


def draw(
    bank: MemoryBank,
    memory: PyTree,
    filler: Array,
    key: Key,
    *,
    n: int,
    task: Array | None = None,
) -> Draw:
    """n examples from the bank, with replacement: of `task`, or of all that is stored.

    Args:
        bank: of items (x, y, *more, task).
        memory: its state.
        filler: images [m, ...] that stand where the bank has nothing to give, with weight 0: a
            network then never sees the zeros of an empty slot.
        key: a typed key.
        n: how many.
        task: int [], for a bank with `by_task`; None: any.
    """
    (x, y, *more, stored), counts = bank.sample(memory, key, n=n, group=task)
    counts = counts.astype(jnp.float32)
    turns = filler[jnp.arange(n) % filler.shape[0]]
    real = counts > 0
    x = jnp.where(real.reshape(-1, *[1] * (x.ndim - 1)), x, turns)
    y = jnp.where(real.reshape(-1, *[1] * (y.ndim - 1)), y, jnp.zeros_like(y))
    return Draw(x, y, stored if task is None else jnp.full(n, task), counts, tuple(more))


def estimate(
    bank: MemoryBank,
    memory: PyTree,
    loss: PastLoss,
    w: Array,
    filler: Array,
    key: Key,
    *,
    n: int,
    every_task: bool,
) -> Metrics:
    """The past's loss sum_j w_j L_j, estimated from n examples.

    A bank with `by_task` draws task j with probability w_j / W, W = sum_j w_j, and the estimate is
    W L_j; with `every_task` each L_j is estimated, and the cost grows with T. The mean over draws
    is the same. Any other bank draws from all that it stores, and the estimate is
    W sum_k w_{t_k} l_k / sum_k w_{t_k}, t_k the task of example k: consistent, not unbiased.

    Args:
        bank: of items (x, y, task).
        memory: its state.
        loss: of examples of the past.
        w: weights [T], 0 for unfinished tasks.
        filler: as in `draw`.
        key: a typed key.
        n: examples per estimate (of each task, with `every_task`).
        every_task: estimate every L_j instead of one that is drawn.

    Returns:
        The estimate of each scalar that `loss` returns; 0 before any task is finished.
    """
    key_task, key_item = jax.random.split(key)
    total = jnp.sum(w)
    if not bank.by_task:
        past = draw(bank, memory, filler, key_item, n=n)
        past = past._replace(weight=past.weight * w.at[past.task].get(mode="fill", fill_value=0.0))
        return jax.tree.map(lambda scalar: total * scalar, loss(past))
    if every_task:
        tasks = jnp.arange(w.shape[0])
        keys = jax.random.split(key_item, w.shape[0])
        each = jax.vmap(lambda j, k: loss(draw(bank, memory, filler, k, n=n, task=j)))(tasks, keys)
        return jax.tree.map(lambda value: jnp.sum(w * value), each)
    # Where a weight is 0 its logarithm would be an infinity that JAX_DEBUG_INFS stops at.
    log_w = jnp.log(jnp.where(w > 0, w, 1.0)) + jnp.where((w > 0) | (total == 0), 0.0, -1e9)
    task = jax.random.categorical(key_task, log_w)
    value = loss(draw(bank, memory, filler, key_item, n=n, task=task))
    return jax.tree.map(lambda scalar: total * scalar, value)
