"""One classification head over the whole stream, and which of its labels take part when."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from lml_jax.losses import check_labels
from lml_jax.types import Stream


class Head(NamedTuple):
    """The label space of a lifelong learner: C classes, and room for T tasks.

    `tasks` is T. `known` bool [C]: labels that every task has, declared before the first.
    `members` bool [T, C]: for a task-incremental learner, which is told the task of each example
    and chooses among that task's labels only; else None.
    """

    tasks: int
    known: Array
    members: Array | None = None

    @property
    def classes(self) -> int:
        """Number of labels C."""
        return self.known.shape[0]


def head_of(stream: Stream, *, task_incremental: bool = False) -> Head:
    """The head that `stream` needs.

    Example:
        >>> members = jnp.array([[True, False], [False, True]])
        >>> head_of(Stream(2, 2, members, None, None, None)).known.tolist()
        [False, False]
    """
    members = stream.members if task_incremental else None
    return Head(stream.tasks, stream.members.all(axis=0), members)


def classes_in(y: Array, classes: int) -> Array:
    """Which labels occur in y (any shape; -1 is unlabelled): bool [C].

    Raises:
        ValueError: for labels outside -1..C-1 where they are known; inside jit they are left out.

    Example:
        >>> classes_in(jnp.array([2, 0, -1]), 3).tolist()
        [True, False, True]
    """
    check_labels(y, classes)
    return jnp.zeros(classes, bool).at[jnp.where(y >= 0, y, classes)].set(True, mode="drop")


def training_mask(head: Head, seen: Array, task: Array) -> Array:
    """Labels bool [..., C] that the loss of an example of `task` (int [...]) is a softmax over.

    All labels seen so far, or the task's own where tasks are told apart.
    """
    if head.members is None:
        return jnp.broadcast_to(seen, (*jnp.shape(task), head.classes))
    return head.members[task]
