"""Examples to teach in parts, of a folder or of arrays: only one part is in memory."""

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lml_jax.data.folder import Unreadable, check_each_readable, class_files, readable_files
from lml_jax.keep.kept import Kept
from lml_jax.types import Batch, Dataset

_CHUNK = 256  # examples that are read and learned at a time


class Part(NamedTuple):
    """Examples, the class of each, and where each is from: its file, or its number."""

    x: np.ndarray
    labels: list[str]
    source: Sequence[Path] | np.ndarray


def parts_of_folder(
    kept: Kept, path: str | os.PathLike[str], unreadable: Unreadable
) -> tuple[Iterator[Part], list[str]]:
    """Parts of a folder, and the class of every file.

    Raises:
        ValueError: for a bad folder, or a class without a readable image.
    """
    if kept.pixels is None:
        raise ValueError(
            f"this learner takes arrays of shape {list(kept.shape)}, and no image files: it was "
            "made without `pixels`"
        )
    found = class_files(path)
    check_each_readable(found, kept.pixels, where=path, unreadable=unreadable)
    each = readable_files(found, kept.pixels, unreadable=unreadable)

    def parts() -> Iterator[Part]:
        while chunk := list(islice(each, _CHUNK)):
            images, labels, files = zip(*chunk, strict=True)
            yield Part(np.stack(images), list(labels), files)

    return parts(), found.labels


def parts_of_arrays(
    kept: Kept, examples: Dataset | Batch, names: Sequence[str]
) -> tuple[Iterator[Part], list[str]]:
    """Parts of arrays, and the class of every example."""
    if isinstance(examples, Dataset):
        given = names or examples.names
        y = np.repeat(np.arange(examples.classes), np.asarray(examples.count))
        x = examples.x
        rows = np.asarray(examples.rows)
    else:
        given, y, x = names, np.asarray(examples.y), examples.x
        rows = np.arange(len(y))
        if examples.weight is not None:
            y = np.where(np.asarray(examples.weight) > 0, y, -1)
    if y.size and y.max() >= len(given):
        raise ValueError(f"there are {len(given)} class names, but a label {y.max()}: expected a "
                         "name for each class")  # fmt: skip
    rows, y = rows[y >= 0], y[y >= 0]
    labels = [str(given[c]) for c in y.tolist()]

    def parts() -> Iterator[Part]:
        for i in range(0, len(rows), _CHUNK):
            own = rows[i : i + _CHUNK]
            yield Part(np.asarray(x[own]), labels[i : i + _CHUNK], own)

    return parts(), labels
