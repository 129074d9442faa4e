"""A stream of tasks as data: a pytree of arrays with static sizes."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax.data.draws import draw_positions, split_shots, take
from lml_jax.types import Batch, Key, PyTree, Task


class Transform(Protocol):
    """Images x [n, ...] as domain i shows them; `i` int32 [], may be traced."""

    def __call__(self, i: Array | int, x: Array, /) -> Array: ...  # noqa: D102


class Augment(Protocol):
    """Images x [n, ...], each changed at random, new at every draw."""

    def __call__(self, x: Array, key: Key, /) -> Array: ...  # noqa: D102


class Index(NamedTuple):
    """Which examples each task has, class slot by class slot.

    The examples of slot k of task i are `rows[start[i, k] : start[i, k] + size[i, k]]`; those of
    a whole task follow one another.
    """

    rows: Array  # int32 [n], rows of the images
    y: Array  # int32 [n], their labels in the stream
    start: Array  # int32 [T, K]
    size: Array  # int32 [T, K]; 0 where task i has fewer than K classes


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Stream:
    """A sequence of T tasks over one label space of C classes.

    The methods are pure and may be traced in `i`, so a stream is an argument of a compiled
    function and never a constant of it. Streams with the same sizes share compiled programs, and
    `jax.vmap` runs over several class orders at once.

    Attributes:
        x: training images [n, ...] (or a pytree of arrays), on a device or in host memory; a
            memory-mapped array may be larger than both.
        test_x: test images, alike.
        train_index: the training examples of each task.
        test_index: the test examples of each task.
        labels: int32 [T, K], the labels of a task's K class slots; -1: an empty slot.
        original: int32 [C], the class of the data set that each label stands for.
        order: int32 [N], positions in `train_index.rows` in the order of time, for `batch`.
        classes: C.
        names: names of the data set's classes: label c is called `names[original[c]]`.
        ways: classes in an episode, <= K.
        shots: support examples per class of an episode.
        queries: query examples per class of an episode.
        meta_batch: episodes in one call of `episodes`.
        train_size: training examples of the largest task: what `train` pads to.
        test_size: test examples of the largest task.
        batch_size: examples in one call of `batch`.
        transform: how domain i shows an image; None: as it is.
        augment: random changes of the images of episodes and batches; None: none.
    """

    x: PyTree
    test_x: PyTree
    train_index: Index
    test_index: Index
    labels: Array
    original: Array
    order: Array
    classes: int = field(metadata={"static": True})
    names: tuple[str, ...] = field(metadata={"static": True})
    ways: int = field(metadata={"static": True})
    shots: int = field(metadata={"static": True})
    queries: int = field(metadata={"static": True})
    meta_batch: int = field(metadata={"static": True})
    train_size: int = field(metadata={"static": True})
    test_size: int = field(metadata={"static": True})
    batch_size: int = field(default=10, metadata={"static": True})
    transform: Transform | None = field(default=None, metadata={"static": True})
    augment: Augment | None = field(default=None, metadata={"static": True})

    @property
    def tasks(self) -> int:
        """Number of tasks T."""
        return self.labels.shape[0]

    @property
    def batches(self) -> int:
        """Number of batches of the stream in the order of time."""
        return -(-self.order.shape[0] // self.batch_size)

    @property
    def members(self) -> Array:
        """Which labels occur in which task, bool [T, C]."""
        task = jnp.arange(self.tasks)[:, None]
        column = jnp.where(self.labels >= 0, self.labels, self.classes)
        empty = jnp.zeros((self.tasks, self.classes), bool)
        return empty.at[task, column].set(True, mode="drop")

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels 0..C-1, where the classes of the data set have names."""
        return tuple(self.names[c] for c in np.asarray(self.original)) if self.names else ()

    def train(self, i: Array | int) -> Batch:
        """Every training example of task i, [train_size, ...]; padding has weight 0."""
        return self._whole(self.x, self.train_index, i, self.train_size)

    def test(self, i: Array | int) -> Batch:
        """Every test example of task i, [test_size, ...]; padding has weight 0."""
        return self._whole(self.test_x, self.test_index, i, self.test_size)

    def episodes(self, i: Array | int, key: Key) -> Task:
        """Episodes of task i, each `ways` of its classes: leading axis [meta_batch]."""
        drawn = jax.vmap(lambda k: self._draw(i, k))(jax.random.split(key, self.meta_batch))

        def look(part: Batch, key: Key) -> Batch:
            # Outside of vmap, so that images in host memory stay there but for those drawn.
            x = take(self.x, part.x)
            if self.transform is not None or self.augment is not None:
                x = jax.vmap(lambda images, k: self._show(i, images, k))(x, key)
            return part._replace(x=x)

        support, query = look(drawn.support, drawn.key_support), look(drawn.query, drawn.key_query)
        return Task(support, query, jnp.full(self.meta_batch, i, jnp.int32))

    def batch(self, t: Array | int, key: Key | None = None) -> Batch:
        """Batch t of the stream in the order of time, [batch_size, ...]; each example comes once.

        `key` draws the random changes of `augment`; None: the images as they are.
        """
        column = t * self.batch_size + jnp.arange(self.batch_size)
        real = column < self.order.shape[0]
        at = self.order[jnp.where(real, column, 0)]
        x = take(self.x, self.train_index.rows[at])
        if self.transform is not None:
            first = self.train_index.start[:, 0]
            task = jnp.sum(at[:, None] >= first[None], axis=1) - 1
            one = jax.tree.map(lambda leaf: leaf[:, None], x)
            x = jax.tree.map(lambda leaf: leaf[:, 0], jax.vmap(self.transform)(task, one))
        if self.augment is not None and key is not None:
            x = self.augment(x, key)
        return Batch(x, self.train_index.y[at], real.astype(jnp.float32))

    def local(self, i: int) -> "Stream":
        """The same stream with the training images of task i alone, on the device.

        For data larger than a device: `episodes(i, key)` and `train(i)` of the result are those of
        the whole stream. The images are padded to those of the largest task, so that all tasks
        share one compiled program.
        """
        index = jax.tree.map(np.asarray, self.train_index)
        first, size = index.start[i, 0], int(index.size[i].sum())
        rows = index.rows[first : first + size]

        def of_leaf(leaf: Array | np.ndarray) -> Array:
            out = np.zeros((self.train_size, *leaf.shape[1:]), leaf.dtype)
            out[:size] = leaf[rows]
            return jnp.asarray(out)

        inside = np.zeros(len(index.rows), np.int32)
        inside[first : first + size] = np.arange(size)
        local = index._replace(rows=inside)
        x = jax.tree.map(of_leaf, self.x)
        # The test images stay behind: `run` asks the whole stream for them, task by task.
        return replace(self, x=x, test_x=(), train_index=jax.tree.map(jnp.asarray, local))

    def _whole(self, x: PyTree, index: Index, i: Array | int, size: int) -> Batch:
        first, count = index.start[i, 0], index.size[i].sum()
        column = jnp.arange(size)
        # Padding repeats the first example: an image that a network can look at.
        at = first + jnp.where(column < count, column, 0)
        images = take(x, index.rows[at])
        if self.transform is not None:
            images = self.transform(i, images)
        return Batch(images, index.y[at], (column < count).astype(jnp.float32))

    def _show(self, i: Array | int, x: PyTree, key: Key) -> PyTree:
        if self.transform is not None:
            x = self.transform(i, x)
        return x if self.augment is None else self.augment(x, key)

    def _draw(self, i: Array | int, key: Key) -> "_Drawn":
        """One episode of task i, with rows for images."""
        key_class, key_example, key_support, key_query = jax.random.split(key, 4)
        slots = self.labels.shape[1]
        count, start = self.train_index.size[i], self.train_index.start[i]
        if self.ways < slots:
            score = jnp.where(count > 0, jax.random.uniform(key_class, (slots,)), -1.0)
            chosen = jnp.sort(jax.lax.top_k(score, self.ways)[1])
            count, start = count[chosen], start[chosen]
        total = self.shots + self.queries
        keys = jax.random.split(key_example, self.ways)
        at = jax.vmap(lambda c, k: draw_positions(c, k, n=total))(count, keys)
        support = split_shots(count, shots=self.shots, queries=self.queries)

        def part(first: Array, size: int, there: Array) -> Batch:
            """Of each class, the drawn examples first..first + size, of which so many are real."""
            column = first[:, None] + jnp.arange(size)[None]
            place = jnp.take_along_axis(at, jnp.minimum(column, total - 1), axis=1)
            real = (jnp.arange(size)[None] < there[:, None]).reshape(-1)
            # An empty slot, or a missing example, repeats what task i begins with.
            begin = self.train_index.start[i, 0]
            position = jnp.where(real, (start[:, None] + place).reshape(-1), begin)
            rows = self.train_index.rows[position]
            return Batch(rows, self.train_index.y[position], real.astype(jnp.float32))

        there = jnp.minimum(count - support, self.queries)
        return _Drawn(
            part(jnp.zeros_like(support), self.shots, support),
            part(support, self.queries, there),
            key_support,
            key_query,
        )


class _Drawn(NamedTuple):
    support: Batch
    query: Batch
    key_support: Key
    key_query: Key
