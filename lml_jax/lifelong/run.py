"""Run a learner over a stream, and score every task after every task."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax import train
from lml_jax.checkpoint import FORGETFUL, Keeper
from lml_jax.lifelong.label_space import classes_in
from lml_jax.losses import mask_logits
from lml_jax.metrics import accuracy
from lml_jax.types import Batch, Key, LifelongLearner, Metrics, Params, Stream


class StreamRun(NamedTuple):
    """What a run leaves: the state, and scores [T + 1, T] of task j after task i.

    Row 0 is the untrained model; nan where there was nothing to choose from. `R` is by `recall`,
    `R_task` the same logits masked to the task's own labels, `R_adapted` by `predict` with K
    examples a class. `online` [T, chunks]: accuracy of `predict` on a new episode of task i before
    each chunk of updates. `seconds` went into "compile", "train" and "eval".
    """

    state: Any
    R: np.ndarray
    R_task: np.ndarray
    R_adapted: np.ndarray
    online: np.ndarray
    seconds: dict[str, float]


def score(logits: Array, batch: Batch, keep: Array) -> Array:
    """Accuracy in [0, 1] among the labels `keep` bool [C]; nan if no label there is in play.

    An example whose own label has the logit -inf is not counted: it has not been seen, and what
    cannot be right says nothing about what is remembered.

    Example:
        >>> logits = jnp.array([[0.0, 1.0, -jnp.inf], [2.0, 1.0, -jnp.inf]])
        >>> batch = Batch(jnp.zeros((2, 1)), jnp.array([1, 1]))
        >>> float(score(logits, batch, jnp.ones(3, bool)))
        0.5
    """
    logits = mask_logits(logits, keep)
    own = jnp.take_along_axis(logits, batch.y[:, None], axis=1)[:, 0]
    weight = jnp.ones(batch.y.shape) if batch.weight is None else batch.weight
    weight = jnp.where(jnp.isfinite(own), weight, 0.0)
    return accuracy(logits, batch.y, weight=weight)


def run_stream(
    learner: LifelongLearner,
    stream: Stream,
    key: Key,
    *,
    steps: int,
    scan: bool = False,
    chunk: int = 25,
    task_incremental: bool = False,
    params: Params | None = None,
    on_chunk: Callable[[int, int, Metrics], None] = lambda task, steps, metrics: None,
    on_row: Callable[[int, StreamRun], None] = lambda row, so_far: None,
    keeper: Keeper = FORGETFUL,
) -> StreamRun:
    """Learn the tasks of `stream` one after another, and score all of them after each.

    Args:
        learner: any `LifelongLearner` over the stream's labels.
        stream: the tasks.
        key: a typed key.
        steps: updates on each task, >= 1.
        scan: as in `train.make_runner`.
        chunk: updates between two calls of `on_chunk`.
        task_incremental: the task is told at test, so that R is R_task.
        params: begin from these, trained before; None for new ones.
        on_chunk: told (task, steps done, metrics [steps done]) while training.
        on_row: told (i, the run so far) after row i is scored; later rows are nan. A run that goes
            on in the middle of a task tells it of the next row first.
        keeper: from `checkpoint.keeper`. A run that it has kept goes on from there, bit for bit as
            if it had not been cut; it is saved after each chunk and each row.

    Returns:
        A `StreamRun`.

    Raises:
        ValueError: where the learner's head is not the stream's, or a label is outside it.
        train.DivergedError: naming the step and the task; what `on_row` was told still holds.

    Example:
        >>> from lml_jax import nets
        >>> from lml_jax.data.arrays import from_arrays
        >>> from lml_jax.data.streams import class_incremental
        >>> from lml_jax.learners.maml import maml
        >>> from lml_jax.lifelong.label_space import head_of
        >>> from lml_jax.lifelong.lifelong_maml import lifelong_maml
        >>> x = jax.random.normal(jax.random.key(0), (80, 3))
        >>> data = from_arrays(x, jnp.repeat(jnp.arange(4), 20))
        >>> stream = class_incremental(data, tasks=2, classes_per_task=2, seed=0,
        ...                            train_per_class=15)
        >>> few_shot = maml(nets.mlp([8], 4), optax.sgd(0.1), steps=1)
        >>> learner = lifelong_maml(few_shot, optax.adam(1e-2), head_of(stream))
        >>> run_stream(learner, stream, jax.random.key(0), steps=2).R.shape
        (3, 2)
    """
    if steps < 1 or chunk < 1:
        raise ValueError(f"steps and chunk must be at least 1, got {steps} and {chunk}")
    tasks = stream.tasks
    # Compiled with the position traced: eager calls would compile every slice of every task.
    stream = stream._replace(
        episodes=jax.jit(stream.episodes), train=jax.jit(stream.train), test=jax.jit(stream.test)
    )
    key_init, key_train, key_end, key_eval, key_online = jax.random.split(key, 5)
    tests = [stream.test(j) for j in range(tasks)]
    first = stream.train(0)
    state = learner.init(key_init, Batch(first.x[0], first.y[0]), params)
    check_labels(learner, stream, state, first.x)
    run = keeper.start(_unscored(state, tasks, -(-steps // chunk)))
    start = int(run.state.step)
    if start == tasks * steps:
        return run

    many = train.make_runner(learner.step, stream.episodes, scan=scan)
    end_task = jax.jit(learner.end_task)
    evaluate = _evaluation(learner, stream, tests, key_eval, task_incremental)
    before = _online(learner, stream)
    begun = time.perf_counter()
    # Everything is called once for nothing, so that compiling is not counted as learning.
    for length in {min(chunk, steps), steps % chunk or chunk} if scan else {1}:
        jax.block_until_ready(many(train.copy(run.state), 0, key_train, length))
    jax.block_until_ready((end_task(run.state, first, key_end), before(run.state, 0, key_online)))
    scores = evaluate(run.state)
    run = _spent(run if start else _scored(run, 0, scores), "compile", begun)
    if start % steps == 0:
        on_row(start // steps, run)

    for i in range(start // steps, tasks):
        for done in range(int(run.state.step) - i * steps, steps, chunk):
            begun = time.perf_counter()
            right = before(run.state, i, jax.random.fold_in(key_online, run.state.step))
            # A copy: what `on_row` and `keeper` were told outlives the donation, and one buffer may
            # stand in the state twice (parameters that are also what recall uses).
            state, metrics = many(train.copy(run.state), i, key_train, min(chunk, steps - done))
            train.check_finite(state, metrics, where=f", while learning task {i} of the stream")
            online = _with(run.online, (i, done // chunk), float(right))
            run = _spent(run._replace(state=state, online=online), "train", begun)
            done = min(done + chunk, steps)
            on_chunk(i, done, metrics)
            if done < steps:
                keeper.save(i * steps + done, run)
        begun = time.perf_counter()
        state = end_task(run.state, stream.train(i), jax.random.fold_in(key_end, i))
        run = _spent(run._replace(state=jax.block_until_ready(state)), "train", begun)
        begun = time.perf_counter()
        run = _spent(_scored(run, i + 1, evaluate(run.state)), "eval", begun)
        on_row(i + 1, run)
        keeper.save((i + 1) * steps, run)
    return run


def _unscored(state: Any, tasks: int, chunks: int) -> StreamRun:
    R, online = np.full((tasks + 1, tasks), np.nan), np.full((tasks, chunks), np.nan)
    return StreamRun(state, R, R, R, online, {"compile": 0.0, "train": 0.0, "eval": 0.0})


# Each makes a run of its own: the one before may be kept by `on_row` or the keeper.
def _with(array: np.ndarray, where: Any, value: Any) -> np.ndarray:
    array = array.copy()
    array[where] = value
    return array


def _scored(run: StreamRun, row: int, scores: np.ndarray) -> StreamRun:
    matrices = (run.R, run.R_task, run.R_adapted)
    R, R_task, R_adapted = (_with(m, row, s) for m, s in zip(matrices, scores, strict=True))
    return run._replace(R=R, R_task=R_task, R_adapted=R_adapted)


def _spent(run: StreamRun, on: str, since: float) -> StreamRun:
    seconds = run.seconds[on] + time.perf_counter() - since
    return run._replace(seconds={**run.seconds, on: seconds})


def _online(learner: LifelongLearner, stream: Stream) -> Callable[..., Array]:
    """(state, i, key) -> accuracy of `predict` on one new episode of task i."""

    def one(state: Any, i: Array, key: Key) -> Array:
        key_episode, key_predict = jax.random.split(key)
        episode = jax.tree.map(lambda leaf: leaf[0], stream.episodes(i, key_episode))
        logits = learner.predict(state, episode.support, episode.query.x, key_predict)
        return accuracy(logits, episode.query.y, weight=episode.query.weight)

    return jax.jit(one)


def _evaluation(
    learner: LifelongLearner,
    stream: Stream,
    tests: list[Batch],
    key: Key,
    task_incremental: bool,
) -> Callable[[Any], np.ndarray]:
    """(state) -> scores [3, T] of every task: recalled, with the task told, and adapted."""

    def one(state: Any, batch: Batch, support: Batch, members: Array, key: Key) -> Array:
        key_recall, key_predict = jax.random.split(key)
        every = jnp.ones_like(members)
        recalled = learner.recall(state, batch.x, key_recall)
        adapted = learner.predict(state, support, batch.x, key_predict)
        return jnp.stack(
            [
                score(recalled, batch, members if task_incremental else every),
                score(recalled, batch, members),
                score(adapted, batch, every),
            ]
        )

    compiled = jax.jit(one)
    keys = jax.random.split(key, stream.tasks)
    supports = [
        jax.tree.map(lambda leaf: leaf[0], stream.episodes(j, keys[j]).support)
        for j in range(stream.tasks)
    ]

    def evaluate(state: Any) -> np.ndarray:
        columns = [
            compiled(state, tests[j], supports[j], stream.members[j], keys[j])
            for j in range(stream.tasks)
        ]
        return np.stack([np.asarray(column, float) for column in columns], axis=1)

    return evaluate


def check_labels(learner: LifelongLearner, stream: Stream, state: Any, x: Array) -> None:
    """Raise ValueError unless the learner's logits and the stream's labels agree on C."""
    logits = jax.eval_shape(learner.recall, state, x, jax.random.key(0))
    if logits.shape[1] != stream.classes:
        raise ValueError(
            f"the learner's head has {logits.shape[1]} classes, the stream has {stream.classes}"
        )
    for i in range(stream.tasks):
        drawn = stream.episodes(i, jax.random.key(0))
        parts = {
            "train": stream.train(i),
            "test": stream.test(i),
            "episodes": Batch(drawn.query.x, drawn.query.y.ravel()),
        }
        for name, batch in parts.items():
            low, high = int(batch.y.min()), int(batch.y.max())
            if low < -1 or high >= stream.classes:
                raise ValueError(
                    f"labels of task {i} ({name}) are in {low}..{high}, outside the head: "
                    f"expected -1..{stream.classes - 1}"
                )
            extra = classes_in(batch.y, stream.classes) & ~stream.members[i]
            if bool(extra.any()):
                raise ValueError(
                    f"labels {np.flatnonzero(extra).tolist()} of task {i} ({name}) are not among "
                    f"its members {np.flatnonzero(stream.members[i]).tolist()}"
                )
