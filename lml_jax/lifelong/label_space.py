"""The label space of a lifelong learner: which classes there are, and which are active when."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from lml_jax import losses
from lml_jax.data.stream import Stream
from lml_jax.types import Batch


class LabelSpace(NamedTuple):
    """C classes, and room for T tasks.

    Attributes:
        tasks: T.
        initial: bool [C], classes that are active from the start: those that every task has.
        members: bool [T, C], which classes each task has, for a task-incremental learner, which is
            given the identity of the task of each example; else None.
        target: shape of a target of a regression; None for classification.
    """

    tasks: int
    initial: Array
    members: Array | None = None
    target: tuple[int, ...] | None = None

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return self.initial.shape[0]

    def item(self, x: Array) -> tuple[Array, Array, Array]:
        """One item (x, y, task) of a memory bank, all zeros, for examples like x [n, ...]."""
        y = jnp.zeros((), jnp.int32) if self.target is None else jnp.zeros(self.target)
        return jnp.zeros(x.shape[1:], x.dtype), y, jnp.zeros((), jnp.int32)


def label_space_of(stream: Stream, *, task_incremental: bool = False) -> LabelSpace:
    """The label space of a stream.

    Args:
        stream: whose tasks and classes.
        task_incremental: the identity of each example's task is given at training and at test.

    Example:
        >>> from lml_jax.data.glyphs import glyphs
        >>> from lml_jax.data.streams import class_incremental
        >>> stream = class_incremental(glyphs(), tasks=2, classes_per_task=3, seed=0,
        ...                            train_per_class=15)
        >>> label_space_of(stream).initial.tolist()
        [False, False, False, False, False, False]
    """
    members = stream.members
    return LabelSpace(stream.tasks, members.all(axis=0), members if task_incremental else None)


def classes_in(batch: Batch, classes: int) -> Array:
    """Which labels occur in a batch with a weight above 0 (-1 is unlabelled): bool [C].

    None of them where `y` holds targets of a regression.

    Raises:
        ValueError: for labels outside -1..C-1 where they are known; inside jit they are left out.

    Example:
        >>> batch = Batch(jnp.zeros((3, 1)), jnp.array([2, 0, -1]))
        >>> classes_in(batch, 3).tolist()
        [True, False, True]
    """
    y = batch.y
    if not jnp.issubdtype(y.dtype, jnp.integer):
        return jnp.zeros(classes, bool)
    losses.check_labels(y, classes, batch.weight)
    counts = (y >= 0) if batch.weight is None else (y >= 0) & (batch.weight > 0)
    return jnp.zeros(classes, bool).at[jnp.where(counts, y, classes)].set(True, mode="drop")


def training_labels(space: LabelSpace, seen: Array, task: Array) -> Array:
    """Classes bool [..., C] that the loss of an example of `task` (int [...]) is a softmax over.

    All classes seen so far, or the task's own where the identity of the task is given.
    """
    if space.members is None:
        return jnp.broadcast_to(seen, (*jnp.shape(task), space.classes))
    return space.members[task]
