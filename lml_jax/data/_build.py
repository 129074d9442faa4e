"""From lists of classes to a stream: rows of each class slot, checks of every class's size."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax.checks import known
from lml_jax.data.episodes import Small, check_episode, class_name
from lml_jax.data.stream import Index, Stream, Transform
from lml_jax.types import Dataset


def time_order(stream: Stream, blur: float, rng: np.random.Generator) -> Array:
    """Positions of the training examples, by the time at which each comes; see `in_time`."""
    each = np.asarray(stream.train_index.size).sum(axis=1)
    task = np.repeat(np.arange(stream.tasks), each)
    within, noise = rng.random(len(task)), rng.standard_normal(len(task))
    time = noise if np.isinf(blur) else task + within + blur * noise
    return jnp.asarray(np.argsort(time, kind="stable"), jnp.int32)


@dataclass(frozen=True)
class Build:
    """What every kind of stream is made from."""

    data: Dataset
    test: Dataset | None
    train_per_class: int | None
    test_per_class: int | None
    shots: int
    queries: int
    ways: int | None
    meta_batch: int
    small: Small

    def usable(self) -> np.ndarray:
        """The classes that the stream may use, after the checks of every class's size."""
        known(self.small, ("refuse", "pad", "skip"), what="treatment of small classes")
        if self.test is not None and self.test.classes != self.data.classes:
            raise ValueError(
                f"test has {self.test.classes} classes, but training has {self.data.classes}"
            )
        if self.test is None and self.train_per_class is None:
            raise ValueError("train_per_class must say how many examples train: the rest test")
        if self.train_per_class is not None and self.train_per_class < 1:
            raise ValueError(f"train_per_class must be at least 1, got {self.train_per_class}")
        if self.test_per_class is not None and self.test_per_class < 1:
            raise ValueError(f"test_per_class must be at least 1, got {self.test_per_class}")
        every = np.arange(self.data.classes)
        return every[np.asarray(self.data.count) >= self.least()] if self.small == "skip" else every

    def least(self) -> int:
        """Examples that a class must have."""
        held_out = 0 if self.test is not None else 1
        return max(self.train_per_class or 1, self.shots + self.queries) + held_out

    def stream(
        self,
        tasks: Sequence[Sequence[int]],
        rng: np.random.Generator,
        returning: str,
        transform: Transform | None,
    ) -> Stream:
        """The stream of these classes."""
        slots = max(map(len, tasks))
        ways = slots if self.ways is None else self.ways
        check_episode(ways, self.shots, self.queries, classes=slots)
        original = list(dict.fromkeys(c for classes in tasks for c in classes))
        label = {c: i for i, c in enumerate(original)}
        rows = {c: self._rows(c, rng) for c in original}
        parts = {c: [train] for c, (train, _) in rows.items()}
        if returning == "divide":
            times = {c: sum(c in classes for classes in tasks) for c in original}
            parts = {c: np.array_split(rows[c][0], times[c]) for c in original}
        train: list[list[np.ndarray]] = []
        for i, classes in enumerate(tasks):
            again = {c: sum(c in before for before in tasks[:i]) for c in classes}
            train.append([parts[c][again[c] % len(parts[c])] for c in classes])
            self._check_task(i, classes, train[i])
        labels = np.full((len(tasks), slots), -1, np.int32)
        for i, classes in enumerate(tasks):
            labels[i, : len(classes)] = [label[c] for c in classes]
        test = [[rows[c][1] for c in classes] for classes in tasks]
        for i, parts_of in enumerate(test):
            if not sum(map(len, parts_of)):
                raise ValueError(f"task {i} has no test example: all its examples train")
        train_index, test_index = _index(train, labels), _index(test, labels)
        sizes = [
            int(np.asarray(index.size).sum(axis=1).max()) for index in (train_index, test_index)
        ]
        stream = Stream(
            x=self.data.x,
            test_x=self.data.x if self.test is None else self.test.x,
            train_index=train_index,
            test_index=test_index,
            labels=jnp.asarray(labels),
            original=jnp.asarray(original, jnp.int32),
            order=jnp.zeros(0, jnp.int32),
            classes=len(original),
            names=self.data.names,
            ways=ways,
            shots=self.shots,
            queries=self.queries,
            meta_batch=self.meta_batch,
            train_size=sizes[0],
            test_size=sizes[1],
            transform=transform,
        )
        order = time_order(stream, 0.0, np.random.default_rng(rng.integers(2**31)))
        return replace(stream, order=order)

    def _rows(self, c: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the training and of the test examples of class c."""
        own = self.data.rows_of(c)
        if self.test is not None and self.train_per_class is None:
            return own, self._test_rows(self.test.rows_of(c), rng)
        held_out = 0 if self.test is not None else 1
        kept = self.train_per_class or len(own)
        if kept + held_out > len(own):
            if self.small == "refuse":
                name = class_name(self.data, c)
                raise ValueError(
                    f"train_per_class must leave a test example: expected "
                    f"1..{len(own) - held_out}, got {kept} ({name} has {len(own)})"
                )
            kept = max(1, len(own) - held_out)
        shuffled = own[rng.permutation(len(own))]
        if self.test is None:  # in random order as they are
            return shuffled[:kept], shuffled[kept:][: self.test_per_class]
        return shuffled[:kept], self._test_rows(self.test.rows_of(c), rng)

    def _test_rows(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.test_per_class is None or len(rows) <= self.test_per_class:
            return rows
        return rng.choice(rows, self.test_per_class, replace=False)

    def _check_task(self, i: int, classes: Sequence[int], rows: list[np.ndarray]) -> None:
        need = self.shots + self.queries
        for c, own in zip(classes, rows, strict=True):
            if (self.small != "pad" and len(own) < need) or not len(own):
                raise ValueError(
                    f"{self.shots} shots + {self.queries} queries = {need} examples per class "
                    f"asked for, but {class_name(self.data, c)} has {len(own)} in task {i}; "
                    'small="pad" allows it'
                )


def _index(parts: list[list[np.ndarray]], labels: np.ndarray) -> Index:
    """The index of the rows of each class slot of each task."""
    count = np.zeros(labels.shape, np.int64)
    for i, slots in enumerate(parts):
        count[i, : len(slots)] = [len(rows) for rows in slots]
    flat = count.reshape(-1)
    rows = np.concatenate([rows for slots in parts for rows in slots])
    return Index(
        rows=jnp.asarray(rows, jnp.int32),
        y=jnp.asarray(np.repeat(labels.reshape(-1), flat), jnp.int32),
        start=jnp.asarray((np.cumsum(flat) - flat).reshape(count.shape), jnp.int32),
        size=jnp.asarray(count, jnp.int32),
    )
