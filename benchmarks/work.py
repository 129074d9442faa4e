"""The same work for every contestant: networks, weights and episodes, as NumPy arrays."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
Run = Callable[[int], float]  # takes so many steps, and gives the loss of the last


class Episodes(NamedTuple):
    """A meta-batch, in float32 and int64: support x, y and query x, y, each with [tasks] first."""

    sx: np.ndarray
    sy: np.ndarray
    qx: np.ndarray
    qy: np.ndarray


OUTER_RATE = 1e-3  # of Adam
HEAD_RATE = 0.01  # of SGD, in a trajectory
ONLINE_RATE = 0.1  # of SGD, in a lifelong run


def images(tasks: int, *, ways: int = 5, shots: int = 1, queries: int = 15) -> Episodes:
    """Noise of 28 x 28 around a mean of its own for each class; labels 0..ways-1, class by class.

    Example:
        >>> images(4).qx.shape
        (4, 75, 28, 28)
    """
    draw = np.random.default_rng(0)
    means = draw.random((tasks, ways, 1, 28, 28))

    def part(n: int) -> tuple[np.ndarray, np.ndarray]:
        x = 0.7 * means + 0.3 * draw.random((tasks, ways, n, 28, 28))
        y = np.tile(np.repeat(np.arange(ways), n), (tasks, 1))
        return x.reshape(tasks, ways * n, 28, 28).astype(np.float32), y

    return Episodes(*part(shots), *part(queries))


def sines(tasks: int, *, points: int = 10) -> Episodes:
    """Waves of amplitude U[0.1, 5] and phase U[0, pi] at x in U[-5, 5], shapes [tasks, points, 1].

    Example:
        >>> sines(25).sx.shape
        (25, 10, 1)
    """
    draw = np.random.default_rng(0)
    amplitude, phase = draw.uniform(0.1, 5, (tasks, 1, 1)), draw.uniform(0, np.pi, (tasks, 1, 1))

    def part() -> tuple[np.ndarray, np.ndarray]:
        x = draw.uniform(-5, 5, (tasks, points, 1))
        return x.astype(np.float32), (amplitude * np.sin(x - phase)).astype(np.float32)

    return Episodes(*part(), *part())


def conv4_weights(outputs: int | None, filters: int = 64) -> list[Arrays]:
    """Of four blocks, and a head where there is one: kernels [3, 3, in, out] and [in, out]."""
    draw = np.random.default_rng(1)
    blocks = []
    for channels in (1, filters, filters, filters):
        bound = np.sqrt(6 / (9 * (channels + filters)))
        kernel = draw.uniform(-bound, bound, (3, 3, channels, filters))
        blocks.append({"kernel": kernel.astype(np.float32)})
    return blocks if outputs is None else [*blocks, *mlp_weights(filters, outputs)]


def mlp_weights(*widths: int) -> list[Arrays]:
    """Of linear layers between these widths: kernels [in, out], biases 0."""
    draw = np.random.default_rng(2)
    return [
        {
            "kernel": (draw.standard_normal((a, b)) / np.sqrt(a)).astype(np.float32),
            "bias": np.zeros(b, np.float32),
        }
        for a, b in pairwise(widths)
    ]


def features(
    *, width: int, classes: int, length: int, orders: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of features and labels, [orders, length, width] and [orders, length].

    One class after another, in an order of its own for each sequence, as in OML's meta-test.
    """
    draw = np.random.default_rng(0)
    each = -(-length // classes)
    y = np.stack([np.repeat(draw.permutation(classes), each)[:length] for _ in range(orders)])
    means = draw.standard_normal((classes, width))
    x = means[y] + 0.3 * draw.standard_normal((orders, length, width))
    return np.maximum(x, 0).astype(np.float32), y


def stream(*, tasks: int, samples: int, pixels: int = 784) -> tuple[np.ndarray, np.ndarray]:
    """Two new classes in each task, around means of their own: [tasks, samples, pixels], labels."""
    draw = np.random.default_rng(0)
    y = np.stack([2 * i + draw.integers(0, 2, samples) for i in range(tasks)])
    means = draw.random((2 * tasks, pixels))
    x = 0.5 * means[y] + 0.5 * draw.random((tasks, samples, pixels))
    return x.astype(np.float32), y
