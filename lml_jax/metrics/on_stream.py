"""Measures of a generator of the classes of a stream, task after task."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from numpy.typing import NDArray

from lml_jax import nets
from lml_jax.data.stream import Stream
from lml_jax.metrics import generators as measures
from lml_jax.metrics.diversity import class_diversity_ratios, diversity_ratio
from lml_jax.metrics.trained import classification_scores, classifier, embedding, two_sample_score
from lml_jax.pixels import as_float
from lml_jax.types import Batch, Key, StreamGenerator

SHOWN = 10  # samples of each class in a grid
FITTED = 1500  # updates of the classifier that is trained on samples
PIXELS = 64  # an image of at most so many is its own embedding
NEAREST = 1000  # generated examples whose nearest training example is looked for
NEIGHBOURS = 5  # k of precision, recall, density and coverage

Measures = dict[str, Any]
Judge = Callable[[Any, int, Key], Measures]  # (generator state, tasks learned, key)


def diversity_of(stream: Stream, generator: StreamGenerator, *, samples: int) -> Judge:
    """`diversity` alone, and of each class, of `samples` per class; and the grid."""
    sample = jax.jit(partial(generator.sample, n=stream.classes * samples))
    every = [_floats(stream.train(j)) for j in range(stream.tasks)]
    diversity = _diversity(every, stream.classes)

    def judge(state: Any, row: int, key: Key) -> Measures:
        key_sample, key_grid = jax.random.split(key)
        return {
            **diversity(sample(state, None, key_sample), row),
            "grid": _grid(generator, state, stream, row, key_grid),
        }

    return judge


def judge_of(stream: Stream, generator: StreamGenerator, *, samples: int) -> Judge:
    """Measures by name.

    `cas` [T] is a row of the matrix of classification accuracy scores over all seen classes,
    `diversity` (and `class_diversity` [C]) is relative to the training examples so far, and `grid`
    [classes, 10, H, W] are samples to look at. After the last task come `two_sample`, the accuracy
    of telling real from generated in pixels, and the rest of `metrics.generators`, on as many real
    training examples as generated ones, at most `samples` per class; of images over 64 pixels in an
    embedding that is trained on the training examples.
    """
    net, teller = nets.mlp([512], stream.classes), nets.mlp([64], 2)
    tests = [_floats(stream.test(j)) for j in range(stream.tasks)]
    trained = [_floats(stream.train(j)) for j in range(stream.tasks)]
    # The same number of updates and of samples after every task, so that rows can be compared.
    tx = optax.adamw(optax.cosine_decay_schedule(2e-3, FITTED), weight_decay=0.1)
    fit = classifier(net, tx, steps=FITTED, batch_size=128)
    score = jax.jit(classification_scores(net, fit))
    fit_teller = classifier(teller, optax.adam(1e-3), steps=1000)
    tell_apart = jax.jit(two_sample_score(teller, fit_teller))
    total = stream.classes * samples
    sample = jax.jit(partial(generator.sample, n=total))
    diversity = _diversity(trained, stream.classes)
    compare = jax.jit(partial(_compare, k=NEIGHBOURS))
    every = _together(trained)
    embed: Callable[[Array], Array] = _flat
    if math.prod(every.x.shape[1:]) > PIXELS:
        embed = jax.jit(embedding(every, stream.classes, jax.random.key(0)))

    def judge(state: Any, row: int, key: Key) -> dict[str, Any]:
        keys = jax.random.split(key, 7)
        key_sample, key_fit, key_real, key_fake, key_tell, key_grid, key_test = keys
        drawn = sample(state, None, key_sample)
        found = {
            "cas": np.asarray(score(drawn, tests, key_fit)),
            **diversity(drawn, row),
            "grid": _grid(generator, state, stream, row, key_grid),
        }
        if row < stream.tasks:
            return found
        n = min(every.x.shape[0], total)
        real = jax.random.permutation(key_real, every.x)[:n]
        fake = jax.random.permutation(key_fake, drawn.x)[:n]
        unseen = jax.random.permutation(key_test, _together(tests).x)[:NEAREST]
        compared = compare(*map(embed, (real, fake, every.x, unseen)))
        return {
            **found,
            **{name: float(value) for name, value in compared.items()},
            "two_sample": float(tell_apart(real, fake, key_tell)),
        }

    return judge


def grid_labels(stream: Stream, row: int) -> list[str]:
    """A name for each row of the grid: the task, and the class within the stream."""
    return [
        f"task {j + 1}, class {c}"
        for j in range(row)
        for c in np.flatnonzero(np.asarray(stream.members[j]))
    ]


def _diversity(trained: list[Batch], classes: int) -> Callable[[Batch, int], Measures]:
    """(samples, tasks learned) -> diversity relative to the training examples of those tasks."""
    real = _together(trained)
    flat = _flat(real.x)
    task = jnp.repeat(jnp.arange(len(trained)), jnp.array([len(part.y) for part in trained]))

    @jax.jit
    def of(fake: Batch, row: int) -> tuple[Array, Array]:
        pair = (flat, jnp.where(task < row, real.y, -1), _flat(fake.x), fake.y)
        return (
            diversity_ratio(*pair, classes=classes),
            class_diversity_ratios(*pair, classes=classes),
        )

    def diversity(fake: Batch, row: int) -> Measures:
        whole, each = of(fake, row)
        return {"diversity": float(whole), "class_diversity": np.asarray(each)}

    return diversity


def _compare(r: Array, g: Array, train: Array, test: Array, *, k: int) -> dict[str, Array]:
    precision, recall = measures.precision_recall(r, g, k=k)
    density, coverage = measures.density_coverage(r, g, k=k)
    return {
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
        "frechet": measures.frechet_distance(r, g),
        "kernel": measures.kernel_distance(r, g),
        "memorisation": measures.memorisation_ratio(g[:NEAREST], train, test),
    }


def _grid(
    generator: StreamGenerator, state: Any, stream: Stream, row: int, key: Key
) -> NDArray[np.floating]:
    """Samples [classes learned, 10, H, W], in the order of the stream."""
    drawn = generator.sample(state, None, key, n=SHOWN * len(grid_labels(stream, row)))
    return np.asarray(drawn.x).reshape(-1, SHOWN, *drawn.x.shape[1:])


def _floats(batch: Batch) -> Batch:
    """Without padding, as floats."""
    keep = slice(None) if batch.weight is None else np.flatnonzero(batch.weight > 0)
    return Batch(as_float(batch.x[keep]), batch.y[keep])


def _together(parts: list[Batch]) -> Batch:
    return Batch(*(jnp.concatenate(leaves) for leaves in zip(*(p[:2] for p in parts), strict=True)))


def _flat(x: Array) -> Array:
    return x.reshape(x.shape[0], -1)
