"""N-way K-shot episodes, drawn inside jit by index alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.types import Batch, Dataset, Key, Task


def draw_examples(index: Array, count: Array, key: Key, *, n: int) -> Array:
    """n different rows of one class: `index` [M], of which the first `count` are real -> [n].

    Example:
        >>> rows = draw_examples(jnp.array([7, 8, 9, 0]), jnp.array(3), jax.random.key(0), n=3)
        >>> sorted(rows.tolist())
        [7, 8, 9]
    """
    score = jax.random.uniform(key, index.shape)
    score = jnp.where(jnp.arange(index.shape[0]) < count, score, -1.0)
    return index[jax.lax.top_k(score, n)[1]]


def rotate90(x: Array, turns: Array) -> Array:
    """Images [n, H, H, ...] rotated counter-clockwise by `turns` [n] (0..3) times 90 degrees.

    Example:
        >>> rotate90(jnp.array([[[1, 2], [3, 4]]]), jnp.array([1])).tolist()
        [[[2, 4], [1, 3]]]
    """
    every = jnp.stack([jnp.rot90(x, r, axes=(1, 2)) for r in range(4)])
    return every[turns, jnp.arange(x.shape[0])]


def episodes(
    data: Dataset, *, tasks: int, ways: int, shots: int, queries: int, rotate: bool = False
) -> Callable[[Dataset, Key], Task]:
    """A sampler of episodes with classes renumbered 0..N-1.

    Args:
        data: where the episodes will come from; only its counts are looked at here.
        tasks: meta-batch, the leading axis.
        ways: N, different classes in an episode.
        shots: K, support examples a class.
        queries: query examples a class, disjoint from the support set.
        rotate: turn each class of each episode by a random multiple of 90 degrees, as
            "maml-random" does at training and at test. Images must be square.

    Returns:
        (data, key) -> tasks: x [tasks, N * K, ...] as stored, y int32 [tasks, N * K], class by
        class, and the same for the query set; `id` is None.

    Raises:
        ValueError: for numbers below 1, more ways than classes, or more shots + queries than the
            smallest class has examples.

    Example:
        >>> from lml_jax.data.arrays import from_arrays
        >>> data = from_arrays(jnp.arange(12.0).reshape(6, 2), jnp.array([0, 0, 1, 1, 2, 2]))
        >>> sample = episodes(data, tasks=4, ways=2, shots=1, queries=1)
        >>> sample(data, jax.random.key(0)).support.x.shape
        (4, 2, 2)

    Source:
        Vinyals et al. Matching Networks for One Shot Learning, 2016, section 4.1.
    """
    check_episode(ways, shots, queries, classes=data.classes, examples=int(data.count.min()))
    if tasks < 1:
        raise ValueError(f"tasks must be at least 1, got {tasks}")
    if rotate and (data.x.ndim < 3 or data.x.shape[1] != data.x.shape[2]):
        raise ValueError(f"only square images can be rotated, got x of shape {data.x.shape}")

    def one(data: Dataset, key: Key) -> Task:
        key_class, key_example, key_turn = jax.random.split(key, 3)
        classes = jax.random.choice(key_class, data.classes, (ways,), replace=False)
        turns = jax.random.randint(key_turn, (ways,), 0, 4)

        def of_class(c: Array, key: Key) -> Array:
            return draw_examples(data.index[c], data.count[c], key, n=shots + queries)

        rows = jax.vmap(of_class)(classes, jax.random.split(key_example, ways))

        def batch(rows: Array) -> Batch:
            x = data.x[rows.reshape(-1)]
            if rotate:
                x = rotate90(x, jnp.repeat(turns, rows.shape[1]))
            return Batch(x, jnp.repeat(jnp.arange(ways, dtype=jnp.int32), rows.shape[1]))

        return Task(batch(rows[:, :shots]), batch(rows[:, shots:]))

    checked = data.index.shape

    def sample(data: Dataset, key: Key) -> Task:
        if data.index.shape != checked:
            raise ValueError(
                f"this sampler was made for {checked[0]} classes of up to {checked[1]} examples, "
                f"got {data.index.shape[0]} of up to {data.index.shape[1]}"
            )
        return jax.vmap(one, in_axes=(None, 0))(data, jax.random.split(key, tasks))

    return sample


def fewer_shots(
    sample: Callable[[Any, Key], Task], *, ways: int, shots: int, least: int
) -> Callable[[Any, Key], Task]:
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

    def fewer(data: Any, key: Key) -> Task:
        key_task, key_shots = jax.random.split(key)
        drawn = sample(data, key_task)
        tasks = drawn.support.x.shape[0]
        kept = jax.random.randint(key_shots, (tasks, 1), least, shots + 1)
        place = jnp.tile(jnp.arange(shots), ways)[None]
        weight = (place < kept).astype(float)
        return drawn._replace(support=drawn.support._replace(weight=weight))

    return fewer


def check_episode(ways: int, shots: int, queries: int, *, classes: int, examples: int) -> None:
    """Raise ValueError unless such an episode can be drawn from so many classes and examples."""
    if min(ways, shots, queries) < 1:
        raise ValueError(
            f"ways, shots and queries must be at least 1, got {ways}, {shots} and {queries}"
        )
    if ways > classes:
        raise ValueError(f"{ways} ways asked for, but there are only {classes} classes")
    if shots + queries > examples:
        raise ValueError(
            f"{shots} shots + {queries} queries = {shots + queries} examples a class asked for, "
            f"but the smallest class has {examples}"
        )
