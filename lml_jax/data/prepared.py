"""Any data set of labelled images that tfds prepared, by its name."""

import io
import json
import os
from pathlib import Path

import numpy as np

from lml_jax.checks import known
from lml_jax.data._cache import Arrays, cached
from lml_jax.data._tfds import prepared, read_records
from lml_jax.data.files import from_labelled
from lml_jax.data.images import Pixels, check_pixels, read_image
from lml_jax.types import Dataset

_FORMAT = 1  # raise it when what the cache holds changes meaning


def from_tfds(
    name: str,
    split: str = "train",
    pixels: Pixels | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    label: str = "label",
    cache: bool = True,
) -> Dataset:
    """Labelled images that tfds prepared in array_record format; nothing is downloaded.

    Args:
        name: of the data set, such as "cifar100".
        split: one of its splits.
        pixels: size, channels and filter; None for those of the data set, where all images have
            one size.
        data_dir: where tfds prepared it; None: TFDS_DATA_DIR, else ~/tensorflow_datasets.
        label: name of the feature that holds the class.
        cache: keep the decoded images on disk.

    Returns:
        A `Dataset` of uint8 images with class names.

    Raises:
        FileNotFoundError: if it is not prepared; the message names the command.
        ValueError: for an unknown split or label, data without images, or images of many sizes
            without `pixels`.

    Example:
        >>> from_tfds("cifar100", "test").names[:2]  # doctest: +SKIP
        ('apple', 'aquarium_fish')
    """
    folder, stamp = prepared(name, data_dir)
    features = json.loads((folder / "features.json").read_text())["featuresDict"]["features"]
    labels = [key for key, about in features.items() if "classLabel" in about]
    if "image" not in features or not labels:
        raise ValueError(f"{name} has {', '.join(features)}; expected an image and a class label")
    known(label, labels, what=f"label of {name}")
    known(split, splits_of(folder), what=f"split of {name}")
    pixels = _own_pixels(name, features["image"]) if pixels is None else pixels
    check_pixels(pixels)

    def build() -> Arrays:
        records = read_records(folder, split)
        x = np.stack([read_image(io.BytesIO(record["image"]), pixels) for record in records])
        return {"x": x, "y": np.array([record[label] for record in records], np.int32)}

    how = "-".join(map(str, (*pixels.size, *pixels[1:4])))
    key = f"tfds-{name}-{folder.name}-{stamp}-{split}-{label}-{how}-v{_FORMAT}"
    arrays = cached(key, build, keys=["x", "y"], cache=cache)
    listed = folder / f"{label}.labels.txt"
    names = listed.read_text(encoding="utf-8").split("\n") if listed.exists() else []
    return from_labelled(arrays["x"], arrays["y"], names=[line for line in names if line])


def splits_of(folder: Path) -> list[str]:
    """Names of the splits of a prepared data set."""
    info = json.loads((folder / "dataset_info.json").read_text())
    return [split["name"] for split in info["splits"]]


def _own_pixels(name: str, about: dict) -> Pixels:
    """The size and channels that the data set says its images have."""
    shape = [int(size) for size in about["image"]["shape"]["dimensions"]]
    if min(shape[:2]) < 1:
        raise ValueError(f"the images of {name} have many sizes: pass pixels=Pixels(size=(H, W))")
    return Pixels(size=(shape[0], shape[1]), channels="grey" if shape[2] == 1 else "colour")
