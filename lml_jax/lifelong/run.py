"""Run a learner over a stream, and score every task after every task.

A loop on the host, with progress, checkpoints and data of any size; `program` is the same run as
one pure function.
"""

import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax import train
from lml_jax.checkpoint import FORGETFUL, Keeper
from lml_jax.checks import check_positive
from lml_jax.data.stream import Stream
from lml_jax.lifelong import score as scoring
from lml_jax.lifelong.results import OnChunk, OnRow, StreamRun, scored, spent, unscored, with_value
from lml_jax.lifelong.score import Score, Scores, class_accuracy
from lml_jax.types import Batch, Key, LifelongLearner, LifelongState, Params, Recall, Task


def run_stream(
    learner: LifelongLearner,
    stream: Stream,
    key: Key,
    *,
    steps: int,
    scan: bool = False,
    chunk: int = 25,
    task_incremental: bool = False,
    score: Score = class_accuracy,
    params: Params | None = None,
    on_chunk: OnChunk = lambda task, steps, metrics: None,
    on_row: OnRow = lambda row, so_far: None,
    keeper: Keeper = FORGETFUL,
    resident_bytes: int = 2**28,
) -> StreamRun:
    """Learn the tasks of `stream` one after another, and score all of them after each.

    A second run of the same learner on a stream of the same sizes compiles nothing.

    Args:
        learner: any `LifelongLearner` over the stream's labels.
        stream: the tasks.
        key: a typed key.
        steps: updates on each task, >= 1.
        scan: as in `train.make_runner`.
        chunk: updates between two calls of `on_chunk`.
        task_incremental: the task's identity is given at test, so that R is R_task.
        score: of a test set.
        params: start from these, trained before; None for new ones.
        on_chunk: called after each chunk of updates.
        on_row: called after each scored row. A run that is resumed in the middle of a task calls
            it for the next row first.
        keeper: from `checkpoint.keeper`. A run that it has saved is resumed, bit-identical to an
            uninterrupted one; it is saved after each chunk and each row.
        resident_bytes: a stream of at most so many bytes is moved to the device once; of a larger
            one, the arriving task and one test set at a time.

    Returns:
        A `StreamRun`.

    Raises:
        ValueError: where the learner's classes are not the stream's, or a label is outside them.
        train.DivergedError: naming the step and the task; what `on_row` was told stays valid.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.data.arrays import from_arrays
        >>> from lml_jax.data.streams import class_incremental
        >>> from lml_jax.learners.maml import maml
        >>> from lml_jax.lifelong.label_space import label_space_of
        >>> from lml_jax.lifelong.lifelong_maml import lifelong_maml
        >>> x = jax.random.normal(jax.random.key(0), (80, 3))
        >>> data = from_arrays(np.asarray(x), np.repeat(np.arange(4), 20))
        >>> stream = class_incremental(data, tasks=2, classes_per_task=2, seed=0,
        ...                            train_per_class=15)
        >>> few_shot = maml(nets.mlp([8], 4), optax.sgd(0.1), steps=1)
        >>> learner = lifelong_maml(few_shot, optax.adam(1e-2), label_space_of(stream))
        >>> run_stream(learner, stream, jax.random.key(0), steps=2).R.shape
        (3, 2)
    """
    check_positive(steps=steps, chunk=chunk)
    begun, tasks = time.perf_counter(), stream.tasks
    key_init, key_train, key_end, key_eval, key_online = jax.random.split(key, 5)
    source = _source(stream, resident_bytes)
    compiled = _compiled(learner, score, task_incremental)
    arriving = source.task(0)
    state = learner.init(key_init, compiled.train(arriving, 0).x, params)
    _check_labels(learner, stream, state, arriving)
    so_far = keeper.start(unscored(state, stream, -(-steps // chunk)))
    begin = int(so_far.state.step)
    if begin == tasks * steps:
        return so_far
    so_far = spent(so_far, "setup", begun)

    many = train.make_runner(learner.step, _draw, scan=scan)
    begun = time.perf_counter()
    keys = jax.random.split(key_eval, tasks)
    supports = [compiled.support(source.task(j), j, keys[j]) for j in range(tasks)]
    evaluate = partial(_evaluate, compiled, source, supports, keys)
    lengths = {min(chunk, steps), steps % chunk or chunk} if scan else {1}
    for length in lengths if _first_time(learner, score, so_far.state, arriving, lengths) else ():
        # Called once for nothing, so that compiling is not counted as learning.
        jax.block_until_ready(many(train.copy(so_far.state), (arriving, 0), key_train, length))
        jax.block_until_ready(compiled.online(so_far.state, arriving, 0, key_online))
    scores = evaluate(so_far.state, arriving)
    so_far = spent(so_far if begin else scored(so_far, 0, scores), "compile", begun)
    if begin % steps == 0:
        on_row(begin // steps, so_far)

    for i in range(begin // steps, tasks):
        begun = time.perf_counter()
        arriving = source.task(i)
        for done in range(int(so_far.state.step) - i * steps, steps, chunk):
            key_before = jax.random.fold_in(key_online, so_far.state.step)
            right = compiled.online(so_far.state, arriving, i, key_before)
            # A copy: what `on_row` and `keeper` were told outlives the donation.
            state, metrics = many(
                train.copy(so_far.state), (arriving, i), key_train, min(chunk, steps - done)
            )
            train.check_finite(
                state,
                metrics,
                where=f", while learning task {i} of the stream",
                tasks_of=partial(train.drawn_tasks, _draw, (arriving, i), key_train),
            )
            online = with_value(so_far.online, (i, done // chunk), float(right))
            so_far = spent(so_far._replace(state=state, online=online), "train", begun)
            done = min(done + chunk, steps)
            on_chunk(i, done, metrics)
            if done < steps:
                keeper.save(i * steps + done, so_far)
            begun = time.perf_counter()
        whole = compiled.train(arriving, i)
        state = compiled.end_task(so_far.state, whole, jax.random.fold_in(key_end, i))
        so_far = spent(so_far._replace(state=jax.block_until_ready(state)), "train", begun)
        begun = time.perf_counter()
        scores = evaluate(so_far.state, arriving)
        so_far = spent(scored(so_far, i + 1, scores), "eval", begun)
        on_row(i + 1, so_far)
        keeper.save((i + 1) * steps, so_far)
    scoring.warn_if_mixed(compiled.recall, so_far.state, source.test(0), key_eval)
    return so_far


class _Source(NamedTuple):
    """Where a run takes the data of a task from."""

    task: Callable[[int], Stream]
    test: Callable[[int], Batch]


def _source(stream: Stream, resident_bytes: int) -> _Source:
    leaves = jax.tree.leaves((stream.x, stream.test_x))
    sizes = {id(leaf): leaf.nbytes for leaf in leaves}
    on_disk = any(isinstance(leaf, np.memmap) for leaf in leaves)
    if on_disk or sum(sizes.values()) > resident_bytes:
        return _Source(stream.local, lambda j: jax.tree.map(jnp.asarray, stream.test(j)))
    # One copy where training and test images are the same array.
    moved = {id(leaf): jnp.asarray(leaf) for leaf in leaves}
    on_device = jax.tree.map(lambda leaf: moved.get(id(leaf), leaf), stream)
    return _Source(lambda i: on_device, partial(_test, on_device))


@jax.jit
def _test(stream: Stream, j: Array) -> Batch:
    return stream.test(j)


def _draw(data: tuple[Stream, Array], key: Key) -> Task:
    stream, i = data
    return stream.episodes(i, key)


class _Compiled(NamedTuple):
    """The compiled functions of a learner; one set for all its runs."""

    train: Callable[[Stream, int], Batch]
    online: Callable[[LifelongState, Stream, int, Key], Array]
    end_task: Callable[[LifelongState, Batch, Key], LifelongState]
    support: Callable[[Stream, int, Key], Batch]
    score: Callable[[LifelongState, Batch, Batch, Array, Key], Scores]
    recall: Recall


@lru_cache(maxsize=32)
def _compiled(learner: LifelongLearner, score: Score, task_incremental: bool) -> _Compiled:
    def of_task(
        state: LifelongState, test: Batch, support: Batch, members: Array, key: Key
    ) -> Scores:
        found = scoring.of_task(learner, score, state, test, support, members, key)
        return found._replace(R=found.R_task) if task_incremental else found

    return _Compiled(
        train=_train,
        online=jax.jit(partial(scoring.online, learner)),
        end_task=jax.jit(learner.end_task),
        support=_support,
        score=jax.jit(of_task),
        recall=jax.jit(learner.recall),
    )


@jax.jit
def _train(stream: Stream, i: Array) -> Batch:
    return stream.train(i)


@jax.jit
def _support(stream: Stream, i: Array, key: Key) -> Batch:
    return jax.tree.map(lambda leaf: leaf[0], stream.episodes(i, key).support)


def _evaluate(
    compiled: _Compiled,
    source: _Source,
    supports: list[Batch],
    keys: Array,
    state: LifelongState,
    arriving: Stream,
) -> Scores:
    """Scores of every task, each [T]."""
    members = arriving.members
    found = [
        compiled.score(state, source.test(j), support, members[j], keys[j])
        for j, support in enumerate(supports)
    ]
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(v, float) for v in leaves]), *found)


_seen_before: set[tuple] = set()


def _first_time(
    learner: LifelongLearner,
    score: Score,
    state: LifelongState,
    stream: Stream,
    lengths: set[int],
) -> bool:
    """Whether this process has not run this learner at these sizes yet."""
    shapes = jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), (state, stream))
    key = (learner, score, frozenset(lengths), str(shapes), jax.tree.structure(stream))
    new = key not in _seen_before
    _seen_before.add(key)
    return new


def _check_labels(
    learner: LifelongLearner, stream: Stream, state: LifelongState, arriving: Stream
) -> None:
    """Raise ValueError unless the learner's outputs and the stream's labels agree on C."""
    x = jax.eval_shape(arriving.train, 0).x
    outputs = jax.eval_shape(learner.recall, state, x, jax.random.key(0))
    if not stream.classes:
        return
    if outputs.shape[1] != stream.classes:
        raise ValueError(
            f"the learner has {outputs.shape[1]} classes, the stream has {stream.classes}"
        )
    for name, index in (("train", stream.train_index), ("test", stream.test_index)):
        y = np.asarray(index.y)
        if y.size and (y.min() < -1 or y.max() >= stream.classes):
            raise ValueError(
                f"labels ({name}) are in {y.min()}..{y.max()}, expected -1..{stream.classes - 1}"
            )
