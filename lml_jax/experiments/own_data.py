"""Data of the user's own as entries: a folder, an archive, a CSV file, a name that tfds knows."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lml_jax.data._tfds import prepared
from lml_jax.data.arrays import select
from lml_jax.data.files import from_csv, from_npy, from_npz
from lml_jax.data.folder import class_files, from_folder, is_image
from lml_jax.data.images import Pixels
from lml_jax.data.prepared import from_tfds, splits_of
from lml_jax.types import Dataset

SOURCES = "a folder of class folders, a .npz or .csv file, X.npy,Y.npy or tfds:NAME"
_TFDS = "tfds:"
_TRAIN = 0.75  # share of the examples of the smallest class that train
_HELD_OUT = 1 / 3  # share of the classes that test episodes are made of


class EpisodeSizes(NamedTuple):
    """The largest episodes that data of the user's own allow.

    Attributes:
        train_classes: classes to meta-train on.
        test_classes: classes of test episodes, none of them trained on.
        examples: of the smallest class.
    """

    train_classes: int
    test_classes: int
    examples: int


Load = Callable[[int, str | None], tuple[Dataset, Dataset | None]]


def loader_of(source: str) -> Load | None:
    """(size, data_dir) -> (examples, test examples or None) of a source; None for a plain name.

    What is loaded stays in memory as long as the loader.

    Raises:
        FileNotFoundError: for what looks like a path and does not exist.
    """
    if source.startswith(_TFDS):
        return cache(lambda size, data_dir: _tfds(source.removeprefix(_TFDS), data_dir))
    first, _, second = source.partition(",")
    path = Path(source)
    readers: dict[str, Callable[[], Dataset]] = {
        ".npz": lambda: from_npz(path),
        ".csv": lambda: from_csv(path),
    }
    if first.endswith(".npy") and second.endswith(".npy"):
        return cache(lambda size, data_dir: (from_npy(first, second), None))
    if path.suffix in readers:
        if not path.exists():
            raise FileNotFoundError(f"there is no file {path}")
        return cache(lambda size, data_dir: (readers[path.suffix](), None))
    if path.is_dir():
        return cache(lambda size, data_dir: (_folder(path, size), None))
    if "/" in source or path.suffix:
        raise FileNotFoundError(f"there is no {source}, expected {SOURCES}")
    return None


def is_folder_of_classes(source: str) -> bool:
    """Whether a folder of images by class lies there."""
    try:
        return any(map(is_image, class_files(source).files))
    except (OSError, ValueError):
        return False


def smallest_class(source: str, load: Load, data_dir: str | None) -> tuple[int, int]:
    """Number of classes, and of examples of the smallest; images of a folder are not decoded."""
    if Path(source).is_dir():
        _, count = np.unique(class_files(source).labels, return_counts=True)
        return len(count), int(count.min())
    data, _ = load(28, data_dir)
    return data.classes, int(np.asarray(data.count).min())


def training_examples(smallest: int) -> int:
    """Training examples per class, where the rest tests."""
    return max(1, int(_TRAIN * smallest))


def episode_sizes(classes: int, smallest: int) -> EpisodeSizes:
    """A third of the classes test, at least two.

    Raises:
        ValueError: for fewer than four classes.
    """
    if classes < 4:
        raise ValueError(
            f"there are {classes} classes, expected at least 4: 2 to meta-train on and 2 to test on"
        )
    test = max(2, round(_HELD_OUT * classes))
    return EpisodeSizes(classes - test, test, smallest)


def divided(data: Dataset, *, held_out: bool) -> Dataset:
    """Two thirds of the classes, or the others, drawn once and for all.

    Raises: as `episode_sizes`.
    """
    test = episode_sizes(data.classes, 1).test_classes
    order = np.random.default_rng(0).permutation(data.classes)
    return select(data, np.sort(order[:test] if held_out else order[test:]))


def _folder(path: Path, size: int) -> Dataset:
    data = from_folder(path, Pixels((size, size), "colour"))
    x = np.asarray(data.x)
    grey = (x == x[..., :1]).all()  # no image is in colour
    return replace(data, x=np.ascontiguousarray(x[..., 0])) if grey else data


def _tfds(name: str, data_dir: str | None) -> tuple[Dataset, Dataset | None]:
    splits = splits_of(prepared(name, data_dir)[0])
    train = from_tfds(name, "train" if "train" in splits else splits[0], data_dir=data_dir)
    test = from_tfds(name, "test", data_dir=data_dir) if "test" in splits else None
    same = test is None or test.names == train.names
    return train, test if same else None
