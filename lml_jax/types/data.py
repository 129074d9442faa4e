"""Examples, episodes and data sets."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jax import Array

PyTree: TypeAlias = Any  # any pytree of arrays
Params: TypeAlias = PyTree  # parameters of a network or learner
Fast: TypeAlias = PyTree  # what adaptation produced; opaque to everyone but its learner
Key: TypeAlias = Array  # a typed key, as made by jax.random.key
Metrics: TypeAlias = dict[str, Array]


class Batch(NamedTuple):
    """Examples. `x` [n, ...]; `y` [n] labels (-1: unlabelled) or [n, d] targets; `weight` [n].

    A weight of 0 marks padding; None means that every example counts 1.
    """

    x: Array
    y: Array
    weight: Array | None = None


class Task(NamedTuple):
    """One episode: adapt on `support`, evaluate on `query`.

    `id` is the task's position in a stream and says that labels are those of the whole stream;
    None says that the classes of this episode are numbered 0..N-1.
    """

    support: Batch
    query: Batch
    id: Array | None = None


class TrainState(NamedTuple):
    """What a train step carries. `bad_step` is -1 until an update was refused as non-finite.

    `bad_parts` says what of it was not finite, of L arrays: the loss, the gradient of each array,
    the update of each. `skips` is how many such updates may still be skipped before one is refused.
    """

    params: Params
    opt_state: PyTree
    step: Array  # int32, updates done
    bad_step: Array  # int32, the first step whose update was refused
    bad_parts: Array  # bool [1 + 2 L]
    skips: Array  # int32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dataset:
    """Labelled examples, indexed by class.

    Arrays stay where they were given, in host memory as a rule; a function that trains moves them
    to the device once. The index is the classes' rows one after another, so that a class of
    40,000 examples among classes of 10 costs no padding.

    Attributes:
        x: [n, ...], or a pytree of such arrays; images as uint8, ink bright.
        rows: int32 [n], rows of `x`, class by class.
        start: int32 [C], where the rows of each class begin in `rows`.
        count: int32 [C], examples of each class.
        group: int32 [C], alphabet, script or superclass of each class, an index into `groups`.
        groups: names of the groups.
        names: names of the classes; empty where they have none.
    """

    x: PyTree
    rows: Array | np.ndarray
    start: Array | np.ndarray
    count: Array | np.ndarray
    group: Array | np.ndarray
    groups: tuple[str, ...] = field(default=(), metadata={"static": True})
    names: tuple[str, ...] = field(default=(), metadata={"static": True})

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return self.count.shape[0]

    def rows_of(self, c: int) -> np.ndarray:
        """Rows of `x` that hold the examples of class c, int32 [count[c]]."""
        start = int(self.start[c])
        return np.asarray(self.rows[start : start + int(self.count[c])])
