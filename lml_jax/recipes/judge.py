"""Every measure of a generator on a stream, and a grid of its samples."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from numpy.typing import NDArray

from lml_jax import evaluate, nets
from lml_jax import generator_metrics as measures
from lml_jax.generative.codes import as_float
from lml_jax.types import Batch, Generator, Key, Stream

SHOWN = 10  # samples of each class in a grid
FITTED = 1500  # updates of the classifier that is trained on samples


def judge_of(
    stream: Stream, generator: Generator, *, samples: int, neighbours: int = 5
) -> Callable[[Any, int, Key], dict[str, Any]]:
    """(generator state, tasks learned, key) -> measures by name, in pixels.

    `cas` [T] is a row of the matrix over all seen classes, `spread` over their training examples,
    and `grid` [classes, 10, H, W] are samples to look at. After the last task come `two_sample`,
    the accuracy of telling real from generated, and the rest of `generator_metrics`, on as many
    real training examples as generated ones, at most `samples` a class.
    """
    net, teller = nets.mlp([512], stream.classes), nets.mlp([64], 2)
    tests = [_floats(stream.test(j)) for j in range(stream.tasks)]
    trained = [_floats(stream.train(j)) for j in range(stream.tasks)]
    # The same number of updates and of samples after every task, so that rows can be compared.
    tx = optax.adamw(optax.cosine_decay_schedule(2e-3, FITTED), weight_decay=0.1)
    fit = evaluate.classifier(net, tx, steps=FITTED, batch_size=128)
    score = jax.jit(evaluate.classification_scores(net, fit))
    fit_teller = evaluate.classifier(teller, optax.adam(1e-3), steps=1000)
    tell_apart = jax.jit(evaluate.two_sample_score(teller, fit_teller))
    total = stream.classes * samples
    sample = jax.jit(partial(generator.sample, n=total))
    spread = jax.jit(partial(_spread, _together(trained), classes=stream.classes))
    compare = jax.jit(partial(_compare, k=neighbours))

    def judge(state: Any, row: int, key: Key) -> dict[str, Any]:
        key_sample, key_fit, key_real, key_fake, key_tell, key_grid = jax.random.split(key, 6)
        drawn = sample(state, None, key_sample)
        found = {
            "cas": np.asarray(score(drawn, tests, key_fit)),
            "spread": float(spread(drawn)),
            "grid": _grid(generator, state, stream, row, key_grid),
        }
        if row < stream.tasks:
            return found
        real = _together(trained).x
        n = min(real.shape[0], total)
        real = jax.random.permutation(key_real, real)[:n]
        fake = jax.random.permutation(key_fake, drawn.x)[:n]
        compared = compare(real, fake, _together(tests).x)
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


def _spread(real: Batch, fake: Batch, *, classes: int) -> Array:
    return measures.spread_ratio(_flat(real.x), real.y, _flat(fake.x), fake.y, classes=classes)


def _compare(real: Array, fake: Array, test: Array, *, k: int) -> dict[str, Array]:
    r, g = _flat(real), _flat(fake)
    precision, recall = measures.precision_recall(r, g, k=k)
    density, coverage = measures.density_coverage(r, g, k=k)
    return {
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
        "frechet": measures.frechet_distance(r, g),
        "kernel": measures.kernel_distance(r, g),
        "memorisation": measures.memorisation_ratio(g, r, _flat(test)),
    }


def _grid(
    generator: Generator, state: Any, stream: Stream, row: int, key: Key
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
