"""What a run over a stream leaves, and how it grows row by row."""

import time
from typing import NamedTuple, Protocol

import numpy as np
from jax import Array

from lml_jax.data.stream import Stream
from lml_jax.lifelong.score import Scores
from lml_jax.types import LifelongState, Metrics


class StreamRun(NamedTuple):
    """What a run leaves: the state, and scores [T + 1, T] of task j after task i.

    Row 0 is the untrained model; NaN where there was nothing to choose from.

    Attributes:
        state: of the learner.
        R: by `recall`, among all classes seen.
        R_task: the same logits among the task's own classes.
        R_adapted: by `predict`, with a few examples per class.
        online: [T, chunks], accuracy of `predict` on a new episode of task i before each chunk of
            updates.
        class_accuracy: [T + 1, C], accuracy of `recall` on the test examples of each class; NaN
            for a class without test examples in the stream.
        seconds: spent in "setup", "compile", "train" and "eval"; empty in a `program`.
    """

    state: LifelongState
    R: Array | np.ndarray
    R_task: Array | np.ndarray
    R_adapted: Array | np.ndarray
    online: Array | np.ndarray
    class_accuracy: Array | np.ndarray
    seconds: dict[str, float]


class OnChunk(Protocol):
    """Told (task, updates done on it, metrics [updates]) after each chunk."""

    def __call__(self, task: int, steps: int, metrics: Metrics, /) -> None: ...  # noqa: D102


class OnRow(Protocol):
    """Told (i, the run so far) after row i is scored; later rows are NaN."""

    def __call__(self, row: int, so_far: StreamRun, /) -> None: ...  # noqa: D102


def unscored(state: LifelongState, stream: Stream, chunks: int) -> StreamRun:
    """A run before anything was scored."""
    tasks = stream.tasks
    R, online = np.full((tasks + 1, tasks), np.nan), np.full((tasks, chunks), np.nan)
    by_class = np.full((tasks + 1, stream.classes), np.nan)
    seconds = dict.fromkeys(("setup", "compile", "train", "eval"), 0.0)
    return StreamRun(state, R, R, R, online, by_class, seconds)


# Each makes a run of its own: the one before may be held by `on_row` or the keeper.
def with_value(
    array: Array | np.ndarray, where: int | tuple[int, int], value: float | Array | np.ndarray
) -> np.ndarray:
    """A copy of `array` with one value, or row, replaced."""
    array = np.array(array)
    array[where] = value
    return array


def scored(so_far: StreamRun, row: int, scores: Scores) -> StreamRun:
    """The run with one more row: scores of every task, each [T]."""
    right, shown = np.sum(scores.right, axis=0), np.sum(scores.shown, axis=0)
    by_class = np.where(shown > 0, right / np.maximum(shown, 1), np.nan)
    return so_far._replace(
        R=with_value(so_far.R, row, scores.R),
        R_task=with_value(so_far.R_task, row, scores.R_task),
        R_adapted=with_value(so_far.R_adapted, row, scores.R_adapted),
        class_accuracy=with_value(so_far.class_accuracy, row, by_class),
    )


def spent(so_far: StreamRun, on: str, since: float) -> StreamRun:
    """The run with the seconds since then counted."""
    seconds = so_far.seconds[on] + time.perf_counter() - since
    return so_far._replace(seconds={**so_far.seconds, on: seconds})
