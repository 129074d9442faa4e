"""Streams of tasks over one label space: class-incremental, domain-incremental, given task by task.

A task-incremental stream is a class-incremental one, read with the logits masked to `members[i]`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from lml_jax.checks import known
from lml_jax.data._build import Build, time_order
from lml_jax.data._choice import check_order, from_groups, sizes_of
from lml_jax.data.episodes import Small
from lml_jax.data.stream import Stream, Transform
from lml_jax.types import Dataset


def class_incremental(
    data: Dataset,
    *,
    classes_per_task: int | Sequence[int],
    seed: int,
    tasks: int | None = None,
    order: Sequence[int] | None = None,
    by_group: bool = True,
    test: Dataset | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    shots: int = 5,
    queries: int = 5,
    ways: int | None = None,
    meta_batch: int = 4,
    small: Small = "refuse",
) -> Stream:
    """Each task brings classes never seen before, numbered over the whole stream.

    With c classes per task, task i holds the labels i c .. (i + 1) c - 1.

    Args:
        data: all examples, or the training examples if `test` is given.
        classes_per_task: c, or one number per task, as in `[60] + 8 * [5]`.
        seed: of the choice of groups, classes and training examples.
        tasks: T; may be left out where `classes_per_task` lists every task.
        order: classes of `data` in the order of their labels; None draws them by the seed.
        by_group: where `data` has several groups (alphabets, scripts), make a task of classes of
            one group; needs one c for all tasks, and no `order`. Else classes are drawn from all.
        test: test examples of the same classes, else what `train_per_class` leaves over.
        train_per_class: training examples of each class; None with `test` takes all.
        test_per_class: test examples of each class at most; None takes all. A task's test set is
            padded to the largest: set it where some classes are much larger than others.
        shots: support examples per class in `episodes`.
        queries: query examples per class in `episodes`.
        ways: classes in an episode; None: all of the largest task.
        meta_batch: episodes in one call of `episodes`.
        small: classes with too few examples: "refuse" raises, "pad" uses what they have with
            missing examples of weight 0, "skip" leaves them out of the stream (and of `order`).

    Returns:
        A `Stream`.

    Raises:
        ValueError: for an empty stream, too few groups, classes or examples, or an `order` that
            repeats a class or leaves 0..C-1.

    Example:
        >>> from lml_jax.data.glyphs import glyphs
        >>> stream = class_incremental(glyphs(), tasks=5, classes_per_task=4, seed=0,
        ...                            train_per_class=15)
        >>> stream.classes, stream.tasks
        (20, 5)

    Source:
        van de Ven, Tuytelaars, Tolias. Three types of incremental learning, 2022,
        https://doi.org/10.1038/s42256-022-00568-3.
    """
    sizes = sizes_of(tasks, classes_per_task)
    rng = np.random.default_rng(seed)
    build = Build(
        data, test, train_per_class, test_per_class, shots, queries, ways, meta_batch, small
    )
    usable = build.usable()
    group = np.asarray(data.group)[usable]
    if order is not None:
        classes = check_order(order, data.classes)
        classes = classes[np.isin(classes, usable)]
        if len(classes) < sum(sizes):
            raise ValueError(f"order has {len(classes)} classes, expected at least {sum(sizes)}")
        classes = classes[: sum(sizes)]
    elif by_group and len(np.unique(group)) > 1:
        classes = usable[from_groups(group, sizes, rng)].reshape(-1)
    else:
        if sum(sizes) > len(usable):
            raise ValueError(
                f"{len(sizes)} tasks of {classes_per_task} classes need {sum(sizes)} classes, "
                f"but there are only {len(usable)}"
            )
        classes = usable[rng.permutation(len(usable))[: sum(sizes)]]
    parts = np.split(classes, np.cumsum(sizes)[:-1])
    return build.stream([part.tolist() for part in parts], rng, "divide", None)


def domain_incremental(
    data: Dataset,
    transform: Transform,
    *,
    tasks: int,
    classes: int,
    seed: int,
    test: Dataset | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    shots: int = 5,
    queries: int = 5,
    ways: int | None = None,
    meta_batch: int = 4,
    small: Small = "refuse",
) -> Stream:
    """The same classes in every task, shown through another transformation each time.

    Args:
        data: as in `class_incremental`.
        transform: (i, x [n, ...]) -> x as domain i shows it; see `rotated` and `permuted`.
        tasks: T.
        classes: how many classes are drawn from `data`; labels 0..classes-1 in every task.
        seed: as in `class_incremental`, as is all that follows.
        test: test examples.
        train_per_class: training examples of each class.
        test_per_class: test examples of each class at most.
        shots: support examples per class.
        queries: query examples per class.
        ways: classes in an episode.
        meta_batch: episodes in one call.
        small: treatment of classes with too few examples.

    Returns:
        A `Stream`.

    Raises:
        ValueError: for an empty stream, too few classes or examples.

    Example:
        >>> from lml_jax.data.domains import rotated
        >>> from lml_jax.data.glyphs import glyphs
        >>> stream = domain_incremental(glyphs(), rotated(18.0), tasks=10, classes=10, seed=0,
        ...                             train_per_class=15)
        >>> stream.classes
        10

    Source:
        Lopez-Paz, Ranzato. Gradient Episodic Memory for Continual Learning, 2017, section 4,
        https://arxiv.org/abs/1706.08840.
    """
    sizes_of(tasks, classes)
    rng = np.random.default_rng(seed)
    build = Build(
        data, test, train_per_class, test_per_class, shots, queries, ways, meta_batch, small
    )
    usable = build.usable()
    if classes > len(usable):
        raise ValueError(
            f"1 tasks of {classes} classes need {classes} classes, but there are only {len(usable)}"
        )
    chosen = usable[rng.permutation(len(usable))[:classes]].tolist()
    return build.stream([chosen] * tasks, rng, "repeat", transform)


def of_tasks(
    data: Dataset,
    tasks: Sequence[Sequence[int]],
    *,
    seed: int,
    returning: Literal["divide", "repeat"] = "divide",
    transform: Transform | None = None,
    test: Dataset | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    shots: int = 5,
    queries: int = 5,
    ways: int | None = None,
    meta_batch: int = 4,
    small: Small = "refuse",
) -> Stream:
    """A stream whose tasks are given as lists of classes; tasks may be uneven, classes return.

    Args:
        data: as in `class_incremental`.
        tasks: the classes of `data` in each task. Labels are numbered by first appearance.
        seed: of the choice of training examples.
        returning: the training examples of a class that is in several tasks: "divide" gives each
            task its share, "repeat" gives all of them to each.
        transform: as in `domain_incremental`; None: images as they are.
        test: as in `class_incremental`, as is all that follows.
        train_per_class: training examples of each class.
        test_per_class: test examples of each class at most.
        shots: support examples per class.
        queries: query examples per class.
        ways: classes in an episode.
        meta_batch: episodes in one call.
        small: treatment of classes with too few examples.

    Raises:
        ValueError: for no task or an empty one, a class that `data` does not have or a task that
            names one twice, or too few examples.

    Example:
        >>> from lml_jax.data.glyphs import glyphs
        >>> stream = of_tasks(glyphs(), [[7, 3, 9], [3, 4]], seed=0, train_per_class=15, shots=2,
        ...                   queries=2)
        >>> stream.labels.tolist(), stream.original.tolist()
        ([[0, 1, 2], [1, 3, -1]], [7, 3, 9, 4])
    """
    known(returning, ("divide", "repeat"), what="treatment of returning classes")
    for i, classes in enumerate(tasks):
        check_order(classes, data.classes, what=f"task {i}")
    if not len(tasks):
        raise ValueError("an empty stream: 0 tasks")
    build = Build(
        data, test, train_per_class, test_per_class, shots, queries, ways, meta_batch, small
    )
    usable = set(build.usable().tolist())
    tasks = [[int(c) for c in classes if int(c) in usable] for classes in tasks]
    for i, classes in enumerate(tasks):
        if not classes:
            raise ValueError(f"task {i} has no class (of at least {build.least()} examples)")
    return build.stream(tasks, np.random.default_rng(seed), returning, transform)


def in_time(stream: Stream, *, batch_size: int, seed: int, blur: float = 0.0) -> Stream:
    """The same stream with its training examples in another order of time, for `Stream.batch`.

    An example of task i comes at time i + u + blur * e, u ~ U(0, 1), e ~ N(0, 1).

    Args:
        stream: any stream.
        batch_size: examples in one batch.
        seed: of the order.
        blur: 0 keeps the tasks apart; about 1 mixes neighbouring tasks; `inf` shuffles all.

    Raises:
        ValueError: for a batch size below 1 or a negative blur.

    Example:
        >>> from lml_jax.data.glyphs import glyphs
        >>> stream = class_incremental(glyphs(), tasks=2, classes_per_task=2, seed=0,
        ...                            train_per_class=15)
        >>> in_time(stream, batch_size=8, seed=0).batches
        8
    """
    if batch_size < 1 or not blur >= 0:
        raise ValueError(
            f"batch_size must be at least 1 and blur at least 0, got {batch_size} and {blur}"
        )
    order = time_order(stream, blur, np.random.default_rng(seed))
    return replace(stream, order=order, batch_size=batch_size)
