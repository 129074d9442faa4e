"""Grids of examples."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lml_jax.plots.style import MEDIUM, SMALL

EM = 0.62 / 72  # inches to a character of one point, on average


def sample_grid(images: NDArray[np.floating], labels: Sequence[str], *, title: str = "") -> Figure:
    """Examples side by side, a row a class: `images` [rows, columns, H, W] in 0..1, ink bright.

    Raises: ValueError if `images` is not of rank 4, or `labels` names another number of rows.
    """
    if images.ndim != 4 or images.shape[0] != len(labels):
        raise ValueError(
            f"expected images [rows, columns, H, W] and a label a row; got {images.shape} and "
            f"{len(labels)} labels"
        )
    rows, columns, h, w = images.shape
    # One image with thin lines between: an axes for each would take seconds to draw.
    sheet = np.full((rows * (h + 1) - 1, columns * (w + 1) - 1), 0.5)
    for i, j in np.ndindex(rows, columns):
        sheet[i * (h + 1) : i * (h + 1) + h, j * (w + 1) : j * (w + 1) + w] = images[i, j]
    scale = min(0.5, 8.0 / max(rows, columns))
    # Inches of the longest label and of the title: what is wider than the figure is cut off.
    beside = 0.2 + max(map(len, labels)) * SMALL * EM
    width = max(columns * scale + beside, 0.2 + len(title) * MEDIUM * EM)
    figure = Figure(figsize=(width, rows * scale + 0.5), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(sheet, vmin=0, vmax=1, cmap="gray_r", aspect="equal", interpolation="nearest")
    axes.set_yticks([i * (h + 1) + h / 2 for i in range(rows)], labels)
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=SMALL)
    axes.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=MEDIUM, x=0.02, ha="left")
    return figure
