"""One pass over a stream in its order of time, scored where its tasks end."""

import time
from functools import lru_cache
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax import train
from lml_jax.checks import known
from lml_jax.data.stream import Stream
from lml_jax.lifelong.online import accuracy_of
from lml_jax.lifelong.score import Score, class_accuracy
from lml_jax.types import Key, LifelongLearner, LifelongState, Params

Rows = Literal["ends", "all"]


class OnePass(NamedTuple):
    """What a learner made of a stream.

    Attributes:
        state: of the learner.
        R: [T + 1, T], accuracy of `recall` on task j after task i, over all C classes; NaN where it
            was not scored.
        seconds: spent in "compile", "train" and "eval".
    """

    state: LifelongState
    R: np.ndarray
    seconds: dict[str, float]


def one_pass(
    learner: LifelongLearner,
    stream: Stream,
    key: Key,
    *,
    rows: Rows = "ends",
    score: Score = class_accuracy,
    params: Params | None = None,
) -> OnePass:
    """Observe every batch of `stream` once; the learner is not told where a task ends.

    Args:
        learner: a `LifelongLearner` whose `observe` works without task boundaries.
        stream: its order of time keeps the tasks apart, as that of `data.streams.in_time` without
            blur does. A batch that two tasks share counts to the first.
        key: a typed key.
        rows: "ends" scores each task when it ends and after the last one: all that ACC, BWT and
            learning accuracy need. "all" scores every task after every task.
        score: of a test set.
        params: start from these, trained before.

    Returns:
        A `OnePass`.

    Raises:
        ValueError: for tasks that are not apart in time, or a learner that needs task boundaries.
        train.DivergedError: if an update was non-finite.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.data.arrays import from_arrays
        >>> from lml_jax.data.streams import class_incremental, in_time
        >>> from lml_jax.learners.maml import maml
        >>> from lml_jax.lifelong.er import er
        >>> from lml_jax.lifelong.label_space import label_space_of
        >>> import optax
        >>> x = jax.random.normal(jax.random.key(0), (80, 3))
        >>> data = from_arrays(np.asarray(x), np.repeat(np.arange(4), 20))
        >>> stream = in_time(class_incremental(data, tasks=2, classes_per_task=2, seed=0,
        ...                                    train_per_class=15), batch_size=6, seed=0)
        >>> learner = er(maml(nets.mlp([8], 4), optax.sgd(0.1), steps=1), optax.sgd(0.1),
        ...              label_space_of(stream))
        >>> np.isnan(one_pass(learner, stream, jax.random.key(0)).R[1:]).tolist()
        [[False, True], [False, False]]
    """
    known(rows, ("ends", "all"), what="rows to score")
    ends = _ends(stream)
    stream = jax.tree.map(jnp.asarray, stream)
    key_init, key_train, key_eval = jax.random.split(key, 3)
    learn, test = _compiled(learner, score)
    begun = time.perf_counter()
    state = learner.init(key_init, stream.batch(0).x, params)
    tasks, keys = stream.tasks, jax.random.split(key_eval, stream.tasks)
    # Once for nothing, so that compiling is not counted as learning.
    jax.block_until_ready(learn(train.copy(state), stream, key_train, 0, 0))
    R = np.full((tasks + 1, tasks), np.nan)
    R[0] = [float(test(state, stream, j, keys[j])) for j in range(tasks)]
    seconds = {"compile": time.perf_counter() - begun, "train": 0.0, "eval": 0.0}
    done = 0
    for i, end in enumerate(ends, 1):
        begun = time.perf_counter()
        state = jax.block_until_ready(learn(state, stream, key_train, done, end))
        seconds["train"] += time.perf_counter() - begun
        train.check_finite(state, {}, where=f", while learning task {i - 1} of the stream")
        begun, done = time.perf_counter(), end
        scored = range(tasks) if rows == "all" or i == tasks else (i - 1,)
        for j in scored:
            R[i, j] = float(test(state, stream, j, keys[j]))
        seconds["eval"] += time.perf_counter() - begun
    return OnePass(state, R, seconds)


def _ends(stream: Stream) -> list[int]:
    """How many batches have come when each task ends.

    Raises:
        ValueError: where an example of a task comes after one of the next.
    """
    sizes = np.asarray(stream.train_index.size).sum(axis=1)
    first = np.asarray(stream.train_index.start)[:, 0]
    task = np.searchsorted(first, np.asarray(stream.order), side="right") - 1
    if (np.diff(task) < 0).any():
        raise ValueError("the tasks of the stream are not apart in time: expected blur = 0")
    return [-(-int(count) // stream.batch_size) for count in np.cumsum(sizes)]


class _Compiled(NamedTuple):
    learn: "jax.stages.Wrapped"
    test: "jax.stages.Wrapped"


@lru_cache(maxsize=32)
def _compiled(learner: LifelongLearner, score: Score) -> _Compiled:
    def learn(
        state: LifelongState, stream: Stream, key: Key, begin: Array, end: Array
    ) -> LifelongState:
        def one(t: Array, state: LifelongState) -> LifelongState:
            key_batch, key_learn = jax.random.split(jax.random.fold_in(key, t))
            return learner.observe(state, stream.batch(t, key_batch), key_learn)[0]

        return jax.lax.fori_loop(begin, end, one, state)

    def test(state: LifelongState, stream: Stream, j: Array, key: Key) -> Array:
        return accuracy_of(learner, score, state, stream.test(j), key)

    return _Compiled(jax.jit(learn, donate_argnums=0), jax.jit(test))
