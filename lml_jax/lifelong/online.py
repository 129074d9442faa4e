"""Run a learner over a stream without task boundaries, batch by batch, each seen once."""

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lml_jax import losses, train
from lml_jax.checks import check_positive
from lml_jax.data.stream import Stream
from lml_jax.lifelong._base import least_likely
from lml_jax.lifelong.score import Score, class_accuracy, warn_if_mixed
from lml_jax.types import Batch, Key, LifelongLearner, LifelongState, Metrics, Params


class OnlineRun(NamedTuple):
    """What a learner made of a stream so far.

    Attributes:
        state: of the learner.
        batches: batches observed.
        prequential: [batches], accuracy of `recall` on each batch before it was learned; examples
            of classes not seen before count as wrong. NaN for the first batch.
        at: batches after which the test sets were scored.
        anytime: [len(at)], mean accuracy on the test sets of all tasks, over all C classes: what
            was not seen yet counts as wrong.
    """

    state: LifelongState
    batches: int
    prequential: np.ndarray
    at: tuple[int, ...]
    anytime: np.ndarray

    @property
    def prequential_accuracy(self) -> float:
        """Mean accuracy on each batch before it was learned, in [0, 1]."""
        return float(np.nanmean(self.prequential)) if len(self.prequential) > 1 else float("nan")

    @property
    def average_anytime_accuracy(self) -> float:
        """Mean of `anytime`, in [0, 1]."""
        return float(np.mean(self.anytime)) if len(self.anytime) else float("nan")


def run_online(
    learner: LifelongLearner,
    stream: Stream,
    key: Key,
    *,
    score_every: int = 10,
    score: Score = class_accuracy,
    params: Params | None = None,
) -> Iterator[OnlineRun]:
    """Observe the batches of `stream` in their order of time; test before learning each.

    The number of batches need not be known: stop when you like. Nothing that is carried grows with
    it but the scores.

    Args:
        learner: a `LifelongLearner` whose `observe` works without task boundaries.
        stream: its order of time is that of `data.streams.in_time`.
        key: a typed key.
        score_every: batches between two evaluations on all test sets.
        score: of a test set.
        params: start from these, trained before.

    Yields:
        An `OnlineRun` after each evaluation, and after the last batch.

    Raises:
        ValueError: for score_every below 1, or a learner that needs task boundaries.
        train.DivergedError: if an update was non-finite.

    Example:
        >>> from lml_jax import memory, nets
        >>> from lml_jax.data.arrays import from_arrays
        >>> from lml_jax.data.streams import class_incremental, in_time
        >>> from lml_jax.learners.maml import maml
        >>> from lml_jax.lifelong.label_space import label_space_of
        >>> from lml_jax.lifelong.lifelong_maml import lifelong_maml
        >>> import optax
        >>> x = jax.random.normal(jax.random.key(0), (80, 3))
        >>> data = from_arrays(np.asarray(x), np.repeat(np.arange(4), 20))
        >>> stream = in_time(class_incremental(data, tasks=2, classes_per_task=2, seed=0,
        ...                                    train_per_class=15), batch_size=6, seed=0, blur=0.5)
        >>> learner = lifelong_maml(maml(nets.mlp([8], 4), optax.sgd(0.05), steps=1),
        ...                         optax.adam(1e-2), label_space_of(stream),
        ...                         bank=memory.reservoir(20), recall_on="bank")
        >>> [run.batches for run in run_online(learner, stream, jax.random.key(0), score_every=4)]
        [4, 8, 10]

    Source:
        Gama, Sebastião, Rodrigues. On evaluating stream learning algorithms, 2013 (prequential
        accuracy), https://doi.org/10.1007/s10994-012-5320-9; Caccia et al. New Insights on
        Reducing Abrupt Representation Change in Online Continual Learning, 2022 (anytime
        accuracy), https://arxiv.org/abs/2104.05025.
    """
    check_positive(score_every=score_every)
    stream = jax.tree.map(jnp.asarray, stream)
    key_init, key_train, key_eval = jax.random.split(key, 3)
    observe, test, recall = _compiled(learner, score)
    state = learner.init(key_init, stream.batch(0).x, params)
    before: list[Array] = []
    at: list[int] = []
    anytime: list[float] = []
    for t in range(stream.batches):
        key_batch = jax.random.fold_in(key_train, t)
        state, right, metrics = observe(train.copy(state), stream, t, key_batch)
        before.append(right if t else jnp.full((), jnp.nan))
        last = t + 1 == stream.batches
        if (t + 1) % score_every == 0 or last:
            train.check_finite(state, metrics, where=f", by batch {t} of the stream")
            at.append(t + 1)
            anytime.append(float(test(state, stream, key_eval)))
            if last:
                warn_if_mixed(recall, state, stream.test(0), key_eval)
            yield OnlineRun(state, t + 1, np.asarray(before, float), tuple(at), np.asarray(anytime))


class _Compiled(NamedTuple):
    observe: "jax.stages.Wrapped"
    test: "jax.stages.Wrapped"
    recall: "jax.stages.Wrapped"


@lru_cache(maxsize=32)
def _compiled(learner: LifelongLearner, score: Score) -> _Compiled:
    def observe(
        state: LifelongState, stream: Stream, t: Array, key: Key
    ) -> tuple[LifelongState, Array, Metrics]:
        key_batch, key_recall, key_learn = jax.random.split(key, 3)
        batch = stream.batch(t, key_batch)
        right = accuracy_of(learner, score, state, stream.batch(t), key_recall)
        state, metrics = learner.observe(state, batch, key_learn)
        return state, right, metrics

    def test(state: LifelongState, stream: Stream, key: Key) -> Array:
        tasks = jnp.arange(stream.tasks)
        keys = jax.random.split(key, stream.tasks)
        of = partial(accuracy_of, learner, score, state)
        return jnp.mean(jax.lax.map(lambda args: of(stream.test(args[0]), args[1]), (tasks, keys)))

    return _Compiled(jax.jit(observe, donate_argnums=0), jax.jit(test), jax.jit(learner.recall))


def accuracy_of(
    learner: LifelongLearner, score: Score, state: LifelongState, batch: Batch, key: Key
) -> Array:
    """The score of `recall`, in which classes not seen are wrong and not left out."""
    outputs = learner.recall(state, batch.x, key)
    if losses.are_labels(batch.y):
        outputs = least_likely(outputs, jnp.ones((1, outputs.shape[1]), bool))
    return score(outputs, batch, jnp.ones(outputs.shape[1], bool))
