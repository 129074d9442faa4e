"""MNIST, as tfds prepared it."""

import os

import numpy as np

from lml_jax.checks import known
from lml_jax.data._cache import Arrays, cached
from lml_jax.data._tfds import decode_image, prepared, read_records
from lml_jax.data.arrays import from_arrays
from lml_jax.types import Dataset

_FORMAT = 1  # raise it when what the cache holds changes meaning


def mnist(split: str, *, data_dir: str | os.PathLike | None = None, cache: bool = True) -> Dataset:
    """MNIST: handwritten digits, uint8 [n, 28, 28], ink bright; 60,000 train or 10,000 test.

    `data_dir` is where tfds prepared the data (None: TFDS_DATA_DIR, else ~/tensorflow_datasets).

    Raises:
        FileNotFoundError: the data set is not prepared; the message names the command.
        ValueError: a split other than "train" or "test".

    Example:
        >>> mnist("test").count.sum()  # doctest: +SKIP
        Array(10000, dtype=int32)

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document
    recognition", Proceedings of the IEEE 86, 1998.
    """
    known(split, ("train", "test"), what="split of MNIST")
    folder, stamp = prepared("mnist", data_dir)

    def build() -> Arrays:
        records = read_records(folder, split)
        x = np.stack([np.asarray(decode_image(record)) for record in records])
        return {"x": x, "y": np.array([record["label"] for record in records], np.int32)}

    name = f"mnist-{folder.name}-{stamp}-{split}-v{_FORMAT}"
    arrays = cached(name, build, keys=["x", "y"], cache=cache)
    return from_arrays(arrays["x"], arrays["y"])
