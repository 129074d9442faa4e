"""Records and aliases that every other room speaks in.

Arrays are pytree leaves; whatever is static lives in the factory that made the record.
One leading axis is written first in brackets, so `[n, H, W]` is a batch of n images.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
from jax import Array

Params = Any  # any pytree of arrays
Key = Array  # a typed key, as made by jax.random.key
Metrics = dict[str, Array]

Apply = Callable[[Params, Array], Array]  # (params, x [n, ...]) -> logits [n, C] or outputs [n, d]
ExampleLoss = Callable[[Array, Array], Array]  # (outputs [n, ...], y [n, ...]) -> losses [n]


class Batch(NamedTuple):
    """Examples. `x` [n, ...]; `y` [n] labels (-1: unlabelled) or [n, d] targets; `weight` [n].

    A weight of 0 marks padding; None means that every example counts 1.
    """

    x: Array
    y: Array
    weight: Array | None = None


class Task(NamedTuple):
    """One episode: adapt on `support`, judge on `query`.

    `id` is the task's position in a stream, and says that labels are numbered over the whole
    stream; None says that the classes of this episode were renumbered 0..N-1.
    """

    support: Batch
    query: Batch
    id: Array | None = None


# (params, task, key) -> (scalar, metrics): the one signature of everything that is minimised; what
# all tasks of a meta-batch share may follow the key.
Loss = Callable[..., tuple[Array, Metrics]]


class Net(NamedTuple):
    """A network as two pure functions; any library's model fits."""

    init: Callable[[Key, Array], Params]  # (key, x_example [n, ...]) -> params
    apply: Apply
    # (params, x) -> params that hold the batch statistics of x for good: from then on an output
    # depends on its own input alone. None for a net without batch statistics.
    freeze: Callable[[Params, Array], Params] | None = None


class Context(NamedTuple):
    """Embeddings in the context of a support set, as pure functions of embeddings.

    `weight` [n] is that of the support examples; one of weight 0 changes nothing for the others.
    """

    init: Callable[[Key, Array], Params]  # (key, z [n, d]) -> params
    support: Callable[[Params, Array, Array], Array]  # (params, z [n, d], weight) -> g [n, d]
    # (params, z [q, d], g [n, d], weight) -> f [q, d]
    query: Callable[[Params, Array, Array, Array], Array]


class ConditionalNet(NamedTuple):
    """A network of two inputs, examples or noise x and codes h; any library's model fits."""

    init: Callable[[Key, Array, Array], Params]  # (key, x_example [n, ...], h_example [n, k])
    apply: Callable[[Params, Array, Array], Array]  # (params, x [n, ...], h [n, k]) -> [n, ...]


class Learner(NamedTuple):
    """A few-shot learner. `fast` is opaque: whatever adaptation produced."""

    init: Callable[[Key, Array], Params]  # (key, x_example) -> params
    # (params, support, key, fast=None, keep=None) -> fast. `fast` None starts anew, else it goes
    # on; an empty support gives the start. `keep` bool [C] or [n, C]: the labels in play.
    adapt: Callable[..., Any]
    predict: Callable[[Params, Any, Array], Array]  # (params, fast, x) -> logits or outputs


class MemoryBank(NamedTuple):
    """A bank of fixed capacity; its state is an immutable pytree."""

    init: Callable[[Any], Any]  # (example_item) -> bank
    insert: Callable[..., Any]  # (bank, batch, key, where=None) -> bank
    sample: Callable[..., tuple[Any, Array]]  # (bank, key, *, n) -> (batch, valid bool[n])


class Generator(NamedTuple):
    """A generator of examples of a task, or of a class; its state is one immutable pytree."""

    # (key, x_example) -> state: params, optimiser state, EMA, frozen teacher, task codes
    init: Callable[[Key, Array], Any]
    encode: Callable[[Any, Batch, Key], Any]  # (state, support, key) -> code of a task, or classes
    step: Callable[[Any, Task, Key], tuple[Any, Metrics]]  # (state, tasks, key) -> (state, metrics)
    # (state, code, key, *, n) -> Batch: labelled, or y = -1. `code` None: of the finished tasks,
    # as the frozen teacher has them; weight 0 where there is none.
    sample: Callable[..., Batch]


class LifelongLearner(NamedTuple):
    """A learner on a stream of tasks. `logits` are always [n, C]; unseen classes are masked."""

    # (key, example, params=None) -> state. `example` is one example, x [...] and y []; `params`
    # begins from parameters trained before.
    init: Callable[..., Any]
    step: Callable[[Any, Task, Key], tuple[Any, Metrics]]  # (state, tasks, key) -> (state, metrics)
    end_task: Callable[[Any, Batch, Key], Any]  # (state, batch, key) -> state
    predict: Callable[[Any, Batch, Array, Key], Array]  # (state, support, x, key) -> logits
    recall: Callable[[Any, Array, Key], Array]  # (state, x, key) -> logits


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


class TrainState(NamedTuple):
    """What a train step carries. `bad_step` is -1 until a loss or gradient was not finite."""

    params: Params
    opt_state: Any
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
