"""Streams of tasks over one label space: class-, task- and domain-incremental."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax.data.augment import turn, warp
from lml_jax.data.episodes import check_episode, draw_examples
from lml_jax.types import Batch, Dataset, Key, Stream, Task

Transform = Callable[[Array | int, Array], Array]  # (position i, x [n, ...]) -> x of domain i


def class_incremental(
    data: Dataset,
    *,
    tasks: int,
    classes_per_task: int,
    seed: int,
    test: Dataset | None = None,
    train_per_class: int | None = None,
    shots: int = 5,
    queries: int = 5,
    meta_batch: int = 4,
) -> Stream:
    """Each task brings classes never seen before, numbered over the whole stream.

    Task i holds the labels i * c .. (i + 1) * c - 1, c = `classes_per_task`. Where `data` has
    several groups (alphabets, scripts), a task is c characters of one of them; otherwise the
    classes are dealt out in a shuffled order. A task-incremental stream is the same stream, read
    with the logits masked to `members[i]`.

    Args:
        data: all examples, or the training examples if `test` is given.
        tasks: T.
        classes_per_task: c.
        seed: of the choice of groups, classes and training examples.
        test: test examples of the same classes, else what `train_per_class` leaves over.
        train_per_class: training examples of each class; None with `test` takes all.
        shots: support examples a class in `episodes`.
        queries: query examples a class in `episodes`.
        meta_batch: episodes in one call of `episodes`.

    Returns:
        A `Stream`; ragged classes are padded, with weight 0.

    Raises:
        ValueError: for an empty stream, too few groups, classes or examples.

    Example:
        >>> from lml_jax.data.glyphs import glyphs
        >>> stream = class_incremental(glyphs(), tasks=5, classes_per_task=4, seed=0,
        ...                            train_per_class=15)
        >>> stream.classes
        20

    Source:
        van de Ven, Tuytelaars, Tolias. Three types of incremental learning, 2022.
    """
    _check_size(tasks, classes_per_task)
    rng = np.random.default_rng(seed)
    chosen = _choose_classes(np.asarray(data.group), tasks, classes_per_task, rng)
    train_rows, test_rows = _rows(data, test, chosen, train_per_class, rng)
    labels = np.arange(tasks * classes_per_task).reshape(tasks, classes_per_task)
    return _stream(data, test, train_rows, test_rows, labels, shots, queries, meta_batch, None)


def domain_incremental(
    data: Dataset,
    transform: Transform,
    *,
    tasks: int,
    classes: int,
    seed: int,
    test: Dataset | None = None,
    train_per_class: int | None = None,
    shots: int = 5,
    queries: int = 5,
    meta_batch: int = 4,
) -> Stream:
    """The same classes in every task, seen through another transformation each time.

    Args:
        data: as in `class_incremental`.
        transform: (i, x [n, ...]) -> x of domain i, on the fly; see `rotated` and `permuted`.
        tasks: T.
        classes: how many classes are drawn from `data`; labels 0..classes-1 in every task.
        seed: as in `class_incremental`.
        test: as in `class_incremental`.
        train_per_class: as in `class_incremental`.
        shots: as in `class_incremental`.
        queries: as in `class_incremental`.
        meta_batch: as in `class_incremental`.

    Returns:
        A `Stream`.

    Raises:
        ValueError: for an empty stream, too few classes or examples.

    Example:
        >>> from lml_jax.data.glyphs import glyphs
        >>> stream = domain_incremental(glyphs(), rotated(18.0), tasks=10, classes=10, seed=0,
        ...                             train_per_class=15)
        >>> stream.classes
        10

    Source:
        Lopez-Paz, Ranzato. Gradient Episodic Memory for Continual Learning, 2017, section 4.
    """
    _check_size(tasks, classes)
    rng = np.random.default_rng(seed)
    chosen = _choose_classes(np.zeros(data.classes, int), 1, classes, rng)
    once = _rows(data, test, chosen, train_per_class, rng)
    train_rows, test_rows = (
        (np.repeat(rows, tasks, axis=0), np.repeat(count, tasks, axis=0)) for rows, count in once
    )
    labels = np.tile(np.arange(classes), (tasks, 1))
    return _stream(data, test, train_rows, test_rows, labels, shots, queries, meta_batch, transform)


def rotated(degrees: float) -> Transform:
    """Domain i is turned by i * `degrees`, counter-clockwise, bilinear, zeros outside.

    Example:
        >>> rotated(90.0)(1, jnp.eye(3)[None].at[0, 0, 1].set(2.0))[0].round(3).tolist()
        [[0.0, 0.0, 1.0], [2.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """

    def transform(i: Array | int, x: Array) -> Array:
        matrix = jnp.broadcast_to(turn(jnp.deg2rad(degrees * i)), (x.shape[0], 2, 2))
        return warp(x, matrix, jnp.zeros((x.shape[0], 2)))

    return transform


def permuted(seed: int) -> Transform:
    """Domain 0 as it is; domain i > 0 with its pixels in one random order, new for each i.

    Example:
        >>> permuted(0)(0, jnp.arange(4).reshape(1, 2, 2)).tolist()
        [[[0, 1], [2, 3]]]
    """

    def transform(i: Array | int, x: Array) -> Array:
        size = int(np.prod(x.shape[1:]))
        order = jax.random.permutation(jax.random.fold_in(jax.random.key(seed), i), size)
        order = jnp.where(jnp.asarray(i) == 0, jnp.arange(size), order)
        return x.reshape(x.shape[0], size)[:, order].reshape(x.shape)

    return transform


def _check_size(tasks: int, classes: int) -> None:
    if tasks < 1 or classes < 1:
        raise ValueError(f"an empty stream: {tasks} tasks of {classes} classes")


def _choose_classes(
    group: np.ndarray, tasks: int, per_task: int, rng: np.random.Generator
) -> np.ndarray:
    """Classes [tasks, per_task]: each task from one group, or all from the only group."""
    ids, sizes = np.unique(group, return_counts=True)
    if len(ids) == 1:
        if tasks * per_task > len(group):
            raise ValueError(
                f"{tasks} tasks of {per_task} classes need {tasks * per_task} classes, "
                f"but there are only {len(group)}"
            )
        return rng.permutation(len(group))[: tasks * per_task].reshape(tasks, per_task)
    large = ids[sizes >= per_task]
    if len(large) < tasks:
        raise ValueError(
            f"{tasks} tasks asked for, but only {len(large)} groups have {per_task} classes or more"
        )
    picked = rng.permutation(large)[:tasks]
    return np.stack([rng.permutation(np.flatnonzero(group == g))[:per_task] for g in picked])


Rows = tuple[np.ndarray, np.ndarray]  # rows [T, c, M] and how many of them are real [T, c]


def _rows(
    data: Dataset,
    test: Dataset | None,
    chosen: np.ndarray,
    train_per_class: int | None,
    rng: np.random.Generator,
) -> tuple[Rows, Rows]:
    """Rows of the training and of the test examples of the chosen classes."""
    index, count = np.asarray(data.index)[chosen], np.asarray(data.count)[chosen]
    smallest = int(count.min())
    kept = smallest if train_per_class is None else train_per_class
    if test is not None:
        if test.classes != data.classes:
            raise ValueError(f"test has {test.classes} classes, but training has {data.classes}")
        held_out = np.asarray(test.index)[chosen], np.asarray(test.count)[chosen]
        if train_per_class is None:
            return (index, count), held_out
    elif not 1 <= kept < smallest:
        raise ValueError(
            f"train_per_class must leave a test example: expected 1..{smallest - 1}, got "
            f"{train_per_class}"
        )
    if not 1 <= kept <= smallest:
        raise ValueError(f"train_per_class must be in 1..{smallest}, got {kept}")
    shuffled = np.zeros_like(index)
    for at in np.ndindex(*chosen.shape):
        n = count[at]
        shuffled[at][:n] = index[at][rng.permutation(n)]
    train = shuffled[..., :kept], np.full(chosen.shape, kept)
    if test is None:
        held_out = shuffled[..., kept:], count - kept
    return train, held_out


def _stream(
    data: Dataset,
    test: Dataset | None,
    train_rows: Rows,
    test_rows: Rows,
    labels: np.ndarray,
    shots: int,
    queries: int,
    meta_batch: int,
    transform: Transform | None,
) -> Stream:
    """The `Stream` over these rows; `labels` [T, c] are the labels of their classes."""
    tasks, per_task = labels.shape
    check_episode(per_task, shots, queries, classes=per_task, examples=int(train_rows[1].min()))
    classes = int(labels.max()) + 1
    members = jnp.zeros((tasks, classes), bool).at[jnp.arange(tasks)[:, None], labels].set(True)
    (train_x, rows, count), (test_x, held_out, held_count) = (
        _used(data.x, *train_rows),
        _used(data.x if test is None else test.x, *test_rows),
    )
    label = jnp.asarray(labels, jnp.int32)

    def images(x: Array, rows: Array, i: Array | int) -> Array:
        found = x[rows]
        return found if transform is None else transform(i, found)

    def whole(x: Array, rows: Array, count: Array, i: Array | int) -> Batch:
        size = rows.shape[2]
        weight = (jnp.arange(size)[None] < count[i][:, None]).astype(jnp.float32)
        y = jnp.repeat(label[i], size)
        return Batch(images(x, rows[i].reshape(-1), i), y, weight.reshape(-1))

    def episode(i: Array | int, key: Key) -> Task:
        def of_class(rows: Array, count: Array, key: Key) -> Array:
            return draw_examples(rows, count, key, n=shots + queries)

        drawn = jax.vmap(of_class)(rows[i], count[i], jax.random.split(key, per_task))

        def batch(part: Array) -> Batch:
            x = images(train_x, part.reshape(-1), i)
            return Batch(x, jnp.repeat(label[i], part.shape[1]))

        return Task(batch(drawn[:, :shots]), batch(drawn[:, shots:]), jnp.asarray(i, jnp.int32))

    return Stream(
        tasks=tasks,
        classes=classes,
        members=members,
        episodes=lambda i, key: jax.vmap(lambda k: episode(i, k))(
            jax.random.split(key, meta_batch)
        ),
        train=lambda i: whole(train_x, rows, count, i),
        test=lambda i: whole(test_x, held_out, held_count, i),
    )


def _used(x: Array, rows: np.ndarray, count: np.ndarray) -> tuple[Array, Array, Array]:
    """The examples that `rows` [T, c, M] name, rows into those, and `count`.

    What a stream closes over is compiled into every step, so it keeps no example it never shows.
    """
    kept, inside = np.unique(rows, return_inverse=True)
    return jnp.asarray(x)[kept], jnp.asarray(inside.reshape(rows.shape)), jnp.asarray(count)
