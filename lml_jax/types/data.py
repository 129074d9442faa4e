"""Examples, episodes and data sets."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import jax
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
    """What a train step carries. `bad_step` is -1 until an update was refused as non-finite."""

    params: Params
    opt_state: PyTree
    step: Array  # int32, updates done
    bad_step: Array  # int32, the first step whose update was refused


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dataset:
    """Labelled examples on the device, indexed by class.

    `x` [n, ...] (images as uint8, ink bright); `index` int32 [C, M] gives the rows of `x` of each
    class, of which the first `count[c]` are real and the rest repeat row 0; `group` int32 [C] is
    the alphabet (or script, or super-class) of each class, an index into `groups`.
    """

    x: Array
    index: Array
    count: Array
    group: Array
    groups: tuple[str, ...] = field(default=(), metadata={"static": True})

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return self.index.shape[0]


class Stream(NamedTuple):
    """A sequence of tasks over one label space of `classes` labels.

    `members` is bool [tasks, classes]: which labels occur in which task. `i` may be traced.
    """

    tasks: int
    classes: int
    members: Array
    episodes: Callable[[Array | int, Key], Task]  # (i, key) -> tasks, leading axis [meta-batch]
    train: Callable[[Array | int], Batch]
    test: Callable[[Array | int], Batch]
