"""The same learner on several streams at once: one seed each, one program for all."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax.checkpoint import FORGETFUL, Keeper
from lml_jax.checks import check_positive
from lml_jax.data.stream import Stream
from lml_jax.divergence import check_finite
from lml_jax.lifelong.program import phases
from lml_jax.lifelong.results import StreamRun, scored, spent, unscored, with_value
from lml_jax.lifelong.score import Score, Scores, class_accuracy
from lml_jax.types import Key, LifelongLearner, LifelongState, Params, PyTree


class OnRows(Protocol):
    """Told (i, the runs so far) after row i of every run is scored."""

    def __call__(self, row: int, so_far: list[StreamRun], /) -> None: ...  # noqa: D102


def run_together(
    learner: LifelongLearner,
    streams: Sequence[Stream],
    keys: Key,
    *,
    steps: int,
    chunk: int = 25,
    task_incremental: bool = False,
    score: Score = class_accuracy,
    params: Params | None = None,
    on_rows: OnRows = lambda row, so_far: None,
    keeper: Keeper = FORGETFUL,
) -> list[StreamRun]:
    """What `run_stream` gives for each stream and key, up to rounding, all at once.

    Each task is one program, mapped over the runs. On a GPU, which one small learner leaves mostly
    idle, several take little longer than one. Images that all streams share are there once.

    Args:
        learner: any `LifelongLearner` over the labels that all streams have.
        streams: S streams of the same sizes.
        keys: [S], typed; run s is that of `run_stream` with keys[s].
        steps: updates on each task, >= 1.
        chunk: updates between two measurements of `online`.
        task_incremental: the task's identity is given at test, so that R is R_task.
        score: of a test set.
        params: all start from these, trained before; None for new ones.
        on_rows: called after each scored row.
        keeper: from `checkpoint.keeper`; the runs are saved after each task.

    Returns:
        S runs. Each has an equal share of the seconds spent.

    Raises:
        ValueError: for streams of different sizes, or not one key for each.
        train.DivergedError: naming the run and its first step that was refused.

    Example:
        >>> import optax
        >>> from lml_jax import nets
        >>> from lml_jax.data.arrays import from_arrays
        >>> from lml_jax.data.streams import class_incremental
        >>> from lml_jax.learners.maml import maml
        >>> from lml_jax.lifelong.finetune import finetune
        >>> from lml_jax.lifelong.label_space import label_space_of
        >>> x = jax.random.normal(jax.random.key(0), (80, 3))
        >>> data = from_arrays(np.asarray(x), np.repeat(np.arange(4), 20))
        >>> streams = [
        ...     class_incremental(data, tasks=2, classes_per_task=2, seed=s, train_per_class=15)
        ...     for s in range(3)
        ... ]
        >>> few_shot = maml(nets.mlp([8], 4), optax.sgd(0.1), steps=1)
        >>> learner = finetune(few_shot, optax.adam(1e-2), label_space_of(streams[0]))
        >>> runs = run_together(learner, streams, jax.random.split(jax.random.key(0), 3), steps=2)
        >>> [run.R.shape for run in runs]
        [(3, 2), (3, 2), (3, 2)]
    """
    check_positive(steps=steps, chunk=chunk)
    begun, runs = time.perf_counter(), len(streams)
    if not runs or keys.shape != (runs,):
        raise ValueError(f"expected one key for each of {runs} streams, got {list(keys.shape)}")
    stream, shared = _stacked(streams)
    compiled = _compiled(learner, shared, steps, chunk, task_incremental, score)
    chunks = -(-steps // chunk)
    state = compiled.init(stream, keys, params)
    so_far = [unscored(_of(state, s), one, chunks) for s, one in enumerate(streams)]
    next_row, state, so_far = keeper.start((0, state, so_far))
    so_far = _spent(so_far, "setup", begun)

    begun = time.perf_counter()
    # What is compiled here serves the calls below, so that it is not counted as learning.
    compiled.learn.lower(state, stream, keys, jnp.int32(0)).compile()
    compiled.evaluate.lower(state, stream, keys).compile()
    so_far = _spent(so_far, "compile", begun)

    for row in range(int(next_row), streams[0].tasks + 1):
        if row:
            begun = time.perf_counter()
            state, online = compiled.learn(state, stream, keys, jnp.int32(row - 1))
            _check_finite(state, row - 1)
            so_far = [
                run._replace(state=_of(state, s), online=with_value(run.online, row - 1, online[s]))
                for s, run in enumerate(so_far)
            ]
            so_far = _spent(so_far, "train", begun)
        begun = time.perf_counter()
        scores = jax.tree.map(np.asarray, compiled.evaluate(state, stream, keys))
        so_far = [scored(run, row, _of(scores, s)) for s, run in enumerate(so_far)]
        so_far = _spent(so_far, "eval", begun)
        on_rows(row, so_far)
        keeper.save(row * steps, (row + 1, state, so_far))
    return so_far


class _Shared(NamedTuple):
    """Whether the training and the test images are those of every stream."""

    x: bool
    test_x: bool


def _stacked(streams: Sequence[Stream]) -> tuple[Stream, _Shared]:
    """The streams as one with a leading axis, but for images that all share."""
    first = streams[0]
    shared = _Shared(
        all(one.x is first.x for one in streams),
        all(one.test_x is first.test_x for one in streams),
    )
    without = [
        replace(one, x=None if shared.x else one.x, test_x=None if shared.test_x else one.test_x)
        for one in streams
    ]
    try:
        stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *without)
    except ValueError as error:
        raise ValueError(
            "runs together need streams of the same sizes: as many tasks, classes and examples in "
            f"each; run them one after another ({error})"
        ) from error
    if shared.x:
        stack = replace(stack, x=jax.tree.map(jnp.asarray, first.x))
    if shared.test_x:  # one copy where they are the training images
        same = shared.x and first.test_x is first.x
        stack = replace(stack, test_x=stack.x if same else jax.tree.map(jnp.asarray, first.test_x))
    return stack, shared


class _Compiled(NamedTuple):
    """The phases of several runs; the streams' shared images are not mapped."""

    init: jax.stages.Wrapped  # (stream, keys, params) -> state
    learn: jax.stages.Wrapped  # (state, stream, keys, i) -> (state, online [S, chunks])
    evaluate: jax.stages.Wrapped  # (state, stream, keys) -> scores, each [S, T]


@lru_cache(maxsize=32)
def _compiled(
    learner: LifelongLearner,
    shared: _Shared,
    steps: int,
    chunk: int,
    task_incremental: bool,
    score: Score,
) -> _Compiled:
    of = partial(
        phases, learner, steps=steps, chunk=chunk, task_incremental=task_incremental, score=score
    )
    one = of(params=None)

    def axes(stream: Stream) -> Stream:
        mapped = jax.tree.map(lambda leaf: 0, replace(stream, x=None, test_x=None))
        return replace(mapped, x=None if shared.x else 0, test_x=None if shared.test_x else 0)

    @jax.jit
    def init(stream: Stream, keys: Key, params: Params | None) -> LifelongState:
        return jax.vmap(of(params=params).init, in_axes=(axes(stream), 0))(stream, keys)

    @jax.jit
    def learn(
        state: LifelongState, stream: Stream, keys: Key, i: Array
    ) -> tuple[LifelongState, Array]:
        mapped = jax.vmap(one.learn, in_axes=(0, axes(stream), 0, None))
        return mapped(state, stream, keys, i)

    @jax.jit
    def evaluate(state: LifelongState, stream: Stream, keys: Key) -> Scores:
        return jax.vmap(one.evaluate, in_axes=(0, axes(stream), 0))(state, stream, keys)

    return _Compiled(init, learn, evaluate)


def _of(tree: PyTree, s: int) -> PyTree:
    """Run s of all."""
    return jax.tree.map(lambda leaf: leaf[s], tree)


def _spent(runs: list[StreamRun], on: str, since: float) -> list[StreamRun]:
    """The runs with the seconds since then counted, an equal share for each."""
    share = (time.perf_counter() - since) / len(runs)
    return [spent(run, on, time.perf_counter() - share) for run in runs]


def _check_finite(state: LifelongState, task: int) -> None:
    for s, bad in enumerate(np.asarray(state.bad_step)):
        if bad >= 0:
            where = f", in run {s} of several, while learning task {task} of the stream"
            check_finite(_of(state, s), {}, where=where)
