"""N-way K-shot episodes, drawn inside jit by index alone."""

from dataclasses import replace
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax.checks import known
from lml_jax.data.draws import draw_positions, split_shots, take
from lml_jax.types import Batch, Dataset, Key, PyTree, Task

Small = Literal["refuse", "pad", "skip"]


class Sampler(Protocol):
    """A meta-batch of tasks, drawn inside jit; `data` is what the sampler was made for."""

    def __call__(self, data: PyTree, key: Key, /) -> Task:
        """Tasks with a leading axis [tasks]."""


def rotate90(x: Array, turns: Array) -> Array:
    """Images [n, H, H, ...] rotated counter-clockwise by `turns` [n] (0..3) times 90 degrees.

    Example:
        >>> rotate90(jnp.array([[[1, 2], [3, 4]]]), jnp.array([1])).tolist()
        [[[2, 4], [1, 3]]]
    """
    every = jnp.stack([jnp.rot90(x, r, axes=(1, 2)) for r in range(4)])
    return every[turns, jnp.arange(x.shape[0])]


def episodes(
    data: Dataset,
    *,
    tasks: int,
    ways: int,
    shots: int,
    queries: int,
    rotate: bool = False,
    small: Small = "refuse",
) -> Sampler:
    """A sampler of N-way K-shot episodes with classes renumbered 0..N-1.

    Args:
        data: where the episodes will come from; only its counts are looked at here.
        tasks: meta-batch, the leading axis.
        ways: N, different classes in an episode.
        shots: K, support examples per class.
        queries: query examples per class, disjoint from the support set.
        rotate: turn each class of each episode by a random multiple of 90 degrees, as
            "maml-random" does at training and at test. Images must be square.
        small: classes of fewer than shots + queries examples: "refuse" raises, "pad" divides what
            they have and fills the rest with examples of weight 0.

    Returns:
        (data, key) -> tasks: x [tasks, N * K, ...] as stored, y int32 [tasks, N * K], class by
        class, and the same for the query set; `id` is None. An example that does not exist (with
        "pad", or in other data with smaller classes than those looked at) has weight 0.

    Raises:
        ValueError: for numbers below 1, more ways than classes, or more shots + queries than a
            class has examples, naming the class.

    Example:
        >>> from lml_jax.data.arrays import from_arrays
        >>> data = from_arrays(jnp.arange(12.0).reshape(6, 2), jnp.array([0, 0, 1, 1, 2, 2]))
        >>> sample = episodes(data, tasks=4, ways=2, shots=1, queries=1)
        >>> sample(data, jax.random.key(0)).support.x.shape
        (4, 2, 2)

    Source:
        Vinyals et al. Matching Networks for One Shot Learning, 2016, section 4.1,
        https://arxiv.org/abs/1606.04080.
    """
    known(small, ("refuse", "pad"), what="treatment of small classes")
    least = shots + queries if small == "refuse" else 1
    check_episode(ways, shots, queries, classes=data.classes)
    check_counts(data, least=least, shots=shots, queries=queries)
    if tasks < 1:
        raise ValueError(f"tasks must be at least 1, got {tasks}")
    shape = jax.tree.leaves(data.x)[0].shape
    if rotate and (len(shape) < 3 or shape[1] != shape[2]):
        raise ValueError(f"only square images can be rotated, got x of shape {shape}")
    checked = data.classes

    def sample(data: Dataset, key: Key) -> Task:
        if data.classes != checked:
            raise ValueError(f"this sampler was made for {checked} classes, got {data.classes}")
        index = jax.tree.map(jnp.asarray, replace(data, x=()))

        def one(key: Key) -> tuple[Task, Array]:
            return _draw(index, key, ways=ways, shots=shots, queries=queries)

        drawn, turns = jax.vmap(one)(jax.random.split(key, tasks))

        def look(part: Batch, size: int) -> Batch:
            # Outside of vmap, so that images in host memory stay there but for those drawn.
            x = take(data.x, part.x)
            if rotate:
                x = jax.vmap(rotate90)(x, jnp.repeat(turns, size, axis=1))
            return part._replace(x=x)

        return Task(look(drawn.support, shots), look(drawn.query, queries))

    return sample


def _draw(data: Dataset, key: Key, *, ways: int, shots: int, queries: int) -> tuple[Task, Array]:
    """One episode with rows for images, and the quarter turns of each of its classes."""
    key_class, key_example, key_turn = jax.random.split(key, 3)
    classes = jax.random.choice(key_class, data.classes, (ways,), replace=False)
    turns = jax.random.randint(key_turn, (ways,), 0, 4)
    count = data.count[classes]
    keys = jax.random.split(key_example, ways)
    at = jax.vmap(lambda c, k: draw_positions(c, k, n=shots + queries))(count, keys)
    support = split_shots(count, shots=shots, queries=queries)

    def batch(first: Array, size: int, there: Array) -> Batch:
        """Of each class, the drawn examples first..first + size, of which so many are there."""
        column = first[:, None] + jnp.arange(size)[None]
        place = jnp.take_along_axis(at, jnp.minimum(column, at.shape[1] - 1), axis=1)
        real = jnp.arange(size)[None] < there[:, None]
        start = data.start[classes][:, None]
        rows = data.rows[start + jnp.where(real, place, 0)].reshape(-1)
        y = jnp.repeat(jnp.arange(ways, dtype=jnp.int32), size)
        return Batch(rows, y, real.reshape(-1).astype(jnp.float32))

    first = jnp.zeros_like(support)
    there = jnp.minimum(count - support, queries)
    return Task(batch(first, shots, support), batch(support, queries, there)), turns


def fewer_shots(sample: Sampler, *, ways: int, shots: int, least: int) -> Sampler:
    """`sample`, with a random number of support examples in each task: K' ~ U{least, ..., K}.

    The others stay where they are, with weight 0: shapes do not depend on K'.

    Args:
        sample: (data, key) -> tasks with x [tasks, N * K, ...], class by class.
        ways: N; 1 for a regression.
        shots: K, support examples a class.
        least: the smallest K', in 0..K.

    Raises:
        ValueError: for `least` outside 0..K.

    Example:
        >>> from lml_jax.data.synthetic import sinusoids
        >>> sample = sinusoids(tasks=1, shots=3, queries=1)
        >>> fewer = fewer_shots(sample, ways=1, shots=3, least=0)
        >>> fewer((), jax.random.key(3)).support.weight.tolist()
        [[1.0, 0.0, 0.0]]
    """
    if not 0 <= least <= shots:
        raise ValueError(f"least must be in 0..{shots}, got {least}")

    def fewer(data: PyTree, key: Key) -> Task:
        key_task, key_shots = jax.random.split(key)
        drawn = sample(data, key_task)
        tasks = drawn.support.y.shape[0]
        kept = jax.random.randint(key_shots, (tasks, 1), least, shots + 1)
        place = jnp.tile(jnp.arange(shots), ways)[None]
        weight = (place < kept).astype(jnp.float32)
        if drawn.support.weight is not None:
            weight = weight * drawn.support.weight
        return drawn._replace(support=drawn.support._replace(weight=weight))

    return fewer


def check_episode(ways: int, shots: int, queries: int, *, classes: int) -> None:
    """Raise ValueError unless such an episode can be drawn from so many classes."""
    if min(ways, shots, queries) < 1:
        raise ValueError(
            f"ways, shots and queries must be at least 1, got {ways}, {shots} and {queries}"
        )
    if ways > classes:
        raise ValueError(f"{ways} ways asked for, but there are only {classes} classes")


def check_counts(data: Dataset, *, least: int, shots: int, queries: int) -> None:
    """Raise ValueError, naming the smallest class, if it has fewer than `least` examples."""
    smallest = int(np.argmin(data.count))
    if (count := int(data.count[smallest])) < least:
        raise ValueError(
            f"{shots} shots + {queries} queries = {shots + queries} examples per class asked for, "
            f'but {class_name(data, smallest)} has {count}; small="pad" allows it'
        )


def class_name(data: Dataset, c: int) -> str:
    """Class c in an error message, by its number and its name.

    Example:
        >>> from lml_jax.data.arrays import from_arrays
        >>> class_name(from_arrays(np.zeros((2, 1)), [0, 1], names=("cat", "dog")), 1)
        'class 1 (dog)'
    """
    return f"class {c} ({data.names[c]})" if data.names else f"class {c}"
