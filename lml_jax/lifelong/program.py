"""A whole lifelong run as one pure function, to be compiled and mapped over seeds."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from lml_jax.checks import check_positive
from lml_jax.data.stream import Stream
from lml_jax.lifelong import score as scoring
from lml_jax.lifelong.results import StreamRun
from lml_jax.lifelong.score import Score, Scores, class_accuracy
from lml_jax.types import Key, LifelongLearner, LifelongState, Params


class Program(Protocol):
    """A whole run as a pure function of (stream, key)."""

    def __call__(self, stream: Stream, key: Key, /) -> StreamRun: ...  # noqa: D102


def program(
    learner: LifelongLearner,
    *,
    steps: int,
    chunk: int = 25,
    task_incremental: bool = False,
    score: Score = class_accuracy,
    params: Params | None = None,
) -> Program:
    """A whole run, its tasks, updates and evaluation, as one pure function.

    It gives what `run_stream` gives for the same key, up to rounding.
    `jax.jit(jax.vmap(program(...)))` runs over stacked streams and keys at once; to map over a
    hyper-parameter, build the learner inside the mapped function.

    Args:
        learner: any `LifelongLearner` over the stream's labels.
        steps: updates on each task, >= 1.
        chunk: updates between two measurements of `online`.
        task_incremental: the task's identity is given at test, so that R is R_task.
        score: of a test set.
        params: start from these, trained before; None for new ones.

    Returns:
        (stream, key) -> `StreamRun`, without seconds. Non-finite updates are refused and show in
        `state.bad_step`; nothing is raised.

    Raises:
        ValueError: for steps or chunk below 1.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.data.arrays import from_arrays
        >>> from lml_jax.data.streams import class_incremental
        >>> from lml_jax.learners.maml import maml
        >>> from lml_jax.lifelong.finetune import finetune
        >>> from lml_jax.lifelong.label_space import label_space_of
        >>> x = jax.random.normal(jax.random.key(0), (80, 3))
        >>> data = from_arrays(np.asarray(x), np.repeat(np.arange(4), 20))
        >>> stream = class_incremental(data, tasks=2, classes_per_task=2, seed=0,
        ...                            train_per_class=15)
        >>> few_shot = maml(nets.mlp([8], 4), optax.sgd(0.1), steps=1)
        >>> learner = finetune(few_shot, optax.adam(1e-2), label_space_of(stream))
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> runs = jax.jit(jax.vmap(program(learner, steps=2), in_axes=(None, 0)))
        >>> runs(jax.tree.map(jnp.asarray, stream), keys).R.shape
        (3, 3, 2)
    """
    init, learn, evaluate = phases(
        learner,
        steps=steps,
        chunk=chunk,
        task_incremental=task_incremental,
        score=score,
        params=params,
    )

    def whole(stream: Stream, key: Key) -> StreamRun:
        def task(state: LifelongState, i: Array) -> tuple[LifelongState, tuple[Array, Scores]]:
            state, online = learn(state, stream, key, i)
            return state, (online, evaluate(state, stream, key))

        state = init(stream, key)
        first = evaluate(state, stream, key)
        state, (online, later) = jax.lax.scan(task, state, jnp.arange(stream.tasks))
        every = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, later)
        by_class = every.right.sum(1) / every.shown.sum(1)
        return StreamRun(state, every.R, every.R_task, every.R_adapted, online, by_class, {})

    return whole


class Phases(NamedTuple):
    """What a run consists of, as pure functions; `key` is that of the whole run in each.

    Attributes:
        init: (stream, key) -> the state before the first task.
        learn: (state, stream, key, i) -> (the state after task i, `online` of it [chunks]).
        evaluate: (state, stream, key) -> scores of every task, each [T].
    """

    init: Callable[[Stream, Key], LifelongState]
    learn: Callable[[LifelongState, Stream, Key, Array], tuple[LifelongState, Array]]
    evaluate: Callable[[LifelongState, Stream, Key], Scores]


def phases(
    learner: LifelongLearner,
    *,
    steps: int,
    chunk: int,
    task_incremental: bool,
    score: Score,
    params: Params | None,
) -> Phases:
    """The phases of a run; the arguments are those of `program`."""
    check_positive(steps=steps, chunk=chunk)
    sizes = [min(chunk, steps - done) for done in range(0, steps, chunk)]

    def init(stream: Stream, key: Key) -> LifelongState:
        return learner.init(_split(key).init, stream.train(0).x, params)

    def learn(
        state: LifelongState, stream: Stream, key: Key, i: Array
    ) -> tuple[LifelongState, Array]:
        keys, online = _split(key), []
        for size in sizes:
            before = jax.random.fold_in(keys.online, state.step)
            online.append(scoring.online(learner, state, stream, i, before))
            state = _scanned(learner, stream, keys.train, state, i, size)
        state = learner.end_task(state, stream.train(i), jax.random.fold_in(keys.end, i))
        return state, jnp.stack(online)

    def evaluate(state: LifelongState, stream: Stream, key: Key) -> Scores:
        keys = jax.random.split(_split(key).eval, stream.tasks)
        of = partial(_score_task, learner, score, task_incremental, state, stream)
        return jax.lax.map(lambda args: of(*args), (jnp.arange(stream.tasks), keys))

    return Phases(init, learn, evaluate)


class _Keys(NamedTuple):
    """Keys of a run, as `run_stream` splits them."""

    init: Key
    train: Key
    end: Key
    eval: Key
    online: Key


def _split(key: Key) -> _Keys:
    return _Keys(*jax.random.split(key, 5))


def _score_task(
    learner: LifelongLearner,
    score: Score,
    task_incremental: bool,
    state: LifelongState,
    stream: Stream,
    j: Array,
    key: Key,
) -> Scores:
    support = jax.tree.map(lambda leaf: leaf[0], stream.episodes(j, key).support)
    args = stream.test(j), support, stream.members[j], key
    found = scoring.of_task(learner, score, state, *args)
    return found._replace(R=found.R_task) if task_incremental else found


def _scanned(
    learner: LifelongLearner,
    stream: Stream,
    key: Key,
    state: LifelongState,
    i: Array,
    length: int,
) -> LifelongState:
    """`length` updates, as `train.make_runner` makes them."""

    def one(state: LifelongState, _: None) -> tuple[LifelongState, None]:
        key_sample, key_step = jax.random.split(jax.random.fold_in(key, state.step))
        return learner.step(state, stream.episodes(i, key_sample), key_step)[0], None

    return jax.lax.scan(one, state, length=length)[0]
