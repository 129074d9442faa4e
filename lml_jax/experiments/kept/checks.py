"""Checks of the kept learner's commands that come before any work is done."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lml_jax.data.folder import check_each_readable, class_files
from lml_jax.data.images import ChannelsError, Pixels
from lml_jax.types import Dataset

OTHER_ENCODER = (
    "for photos in colour give `--encoder efficientnet-lite0` with a new file; for other images "
    "meta-train an encoder with `lml-jax fewshot --data FOLDER --learner protonet`, "
    "and give its folder to `lml-jax teach NEW.kept FOLDER --encoder`"
)


@contextmanager
def colour_explained() -> Iterator[None]:
    """An image in colour that the encoder cannot take is an error that says what can be done."""
    try:
        yield
    except ChannelsError as error:
        found = str(error).rpartition(", expected")[0]  # what follows is for Python
        raise ValueError(f"{found}, but the encoder takes grey images; {OTHER_ENCODER}") from error


def check_images(folder: str, pixels: Pixels) -> None:
    """Read one image of each class.

    Raises:
        ValueError: as `class_files`; for a class of which no image can be read.
        ChannelsError: for an image in colour where the encoder takes grey ones.
    """
    check_each_readable(class_files(folder), pixels, where=folder)


def check_arrays(source: str, data: Dataset, pixels: Pixels, *, invert: bool | None) -> None:
    """Raise ValueError for arrays that are no images as the encoder takes them, or `invert`."""
    shape, dtype = np.shape(data.x)[1:], data.x.dtype
    if invert is not None:
        raise ValueError(
            f"{source} holds arrays, which are taught as they are: invert is for image files"
        )
    if len(shape) > 1 and (shape != pixels.shape or dtype != np.uint8):
        raise ValueError(
            f"{source} holds examples of {dtype} {list(shape)}, but the encoder takes uint8 "
            f"{list(pixels.shape)}; {OTHER_ENCODER}"
        )


def check_writable(path: Path) -> None:
    """Raise OSError if no file can be made in the folder of a path, or where it would be made."""
    folder = next(part for part in path.parents if part.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror} in {folder}") from error


def check_no_input(out: Path, inputs: Iterable[Path]) -> None:
    """Raise ValueError if what is written would replace what is read."""
    if out.exists() and any(path.exists() and out.samefile(path) for path in inputs):
        raise ValueError(f"{out} is read by this command: expected another file to write")
