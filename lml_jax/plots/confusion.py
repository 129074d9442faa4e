"""Which classes are taken for which."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lml_jax.plots.style import LARGE, SMALL

_NAMED = 40  # classes whose names fit on the axes


def confusion(counts: ArrayLike, names: Sequence[str]) -> Figure:
    """A square per pair of classes: the share of class i that was taken for class j.

    Args:
        counts: [K, K], examples of class i (row) answered as class j.
        names: of the K classes.

    Raises:
        ValueError: for other shapes.

    Example:
        >>> confusion([[3, 1], [0, 4]], ["cat", "dog"]).axes[0].get_ylabel()
        'class'
    """
    counts = np.asarray(counts, float)
    if counts.shape != (len(names), len(names)):
        raise ValueError(f"counts has shape {counts.shape}, expected {(len(names),) * 2}")
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 3.2 + 0.16 * min(len(names), _NAMED)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    if len(names) <= _NAMED:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=SMALL)
        axes.set_yticks(range(len(names)), names, fontsize=SMALL)
    axes.set_xlabel("answer", fontsize=LARGE)
    axes.set_ylabel("class", fontsize=LARGE)
    figure.colorbar(image, ax=axes, shrink=0.8)
    return figure
