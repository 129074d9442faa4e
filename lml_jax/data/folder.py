"""A folder of class folders as a `Dataset`."""

import os
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from lml_jax.checks import known
from lml_jax.data.arrays import from_arrays
from lml_jax.data.images import PIXELS, ChannelsError, Pixels, check_pixels, read_image
from lml_jax.types import Dataset

Unreadable: TypeAlias = Literal["skip", "refuse"]
SUFFIXES = (".png", ".jpg", ".jpeg")


class Labelled(NamedTuple):
    """Image files and the class that each shows."""

    files: list[Path]
    labels: list[str]


def from_folder(
    path: str | os.PathLike[str],
    pixels: Pixels = PIXELS,
    *,
    unreadable: Unreadable = "skip",
) -> Dataset:
    """The images in a folder that has one folder for each class.

    Files are PNG or JPEG of any size, grey or in colour; hidden files are ignored. Classes are
    sorted by name, the files of a class too.

    Args:
        path: the folder; its folders are the classes, and their names those of the classes.
        pixels: the size, channels and filter; those that a network is trained with.
        unreadable: files that cannot be read: "skip" warns and names them, "refuse" raises.

    Returns:
        A `Dataset` of uint8 images with class names.

    Raises:
        FileNotFoundError: for no such folder.
        ValueError: for a folder inside a class folder, a class without images, two classes whose
            names differ only in case, images beside the class folders, or an unreadable file
            that is refused; each is named.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (folder / name).mkdir()
        ...     Image.new("L", (40, 30)).save(folder / name / "1.png")
        >>> data = from_folder(folder)
        >>> data.names, data.x.shape
        (('cat', 'dog'), (2, 28, 28))
    """
    check_pixels(pixels)
    found = class_files(path)
    images, labels = [], []
    for array, label in readable(found, pixels, unreadable=unreadable):
        images.append(array)
        labels.append(label)
    names = list(dict.fromkeys(found.labels))
    check_all_have(names, labels, path)
    place = {name: i for i, name in enumerate(names)}
    y = [place[label] for label in labels]
    return from_arrays(np.stack(images), np.array(y, np.int32), names=names)


def class_files(path: str | os.PathLike[str]) -> Labelled:
    """The image files of a folder of class folders, sorted; no file is opened.

    Raises: as `from_folder`.

    Example:
        >>> class_files("no/such/folder")
        Traceback (most recent call last):
        ...
        FileNotFoundError: no/such/folder is no folder, expected one that holds a folder per class
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder, expected one that holds a folder per class")
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    loose = [entry for entry in entries if entry.is_file() and is_image(entry)]
    if loose:
        raise ValueError(
            f"{loose[0]} lies beside the class folders ({len(loose)} images do), expected every "
            "image in the folder of its class"
        )
    classes = [entry for entry in entries if entry.is_dir()]
    if not classes:
        raise ValueError(f"{root} holds no folder, expected one for each class")
    check_names([entry.name for entry in classes], where=str(root))
    files: list[Path] = []
    labels: list[str] = []
    for folder in classes:
        own = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        for inner in own:
            if inner.is_dir():
                raise ValueError(
                    f"{inner} is a folder inside the class {folder.name!r}, expected image files"
                )
        if not own:
            raise ValueError(f"the class {folder.name!r} in {root} is empty: no image in {folder}")
        files += own
        labels += [folder.name] * len(own)
    return Labelled(files, labels)


def image_files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Files named one by one, or by the folders that hold them at any depth; sorted there.

    Whatever its name is, a file counts as an image, so that none is left out unsaid; files and
    folders that are hidden do not.

    Raises:
        FileNotFoundError: for a path that does not exist.
        ValueError: for a folder without a file.

    Example:
        >>> image_files(["missing.png"])
        Traceback (most recent call last):
        ...
        FileNotFoundError: there is no file missing.png
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            own = sorted(
                entry
                for entry in path.rglob("*")
                if entry.is_file()
                and not any(part.startswith(".") for part in entry.relative_to(path).parts)
            )
            if not own:
                raise ValueError(f"{path} holds no file, expected PNG or JPEG images")
            files += own
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"there is no file {path}")
    return files


def readable(
    found: Labelled, pixels: Pixels, *, unreadable: Unreadable = "skip", quiet: bool = False
) -> Iterator[tuple[np.ndarray, str]]:
    """(image, label) of the files that can be read, one at a time; a warning names the others.

    `quiet`: without the warning.

    Raises:
        ValueError: for an unreadable file, with `unreadable` "refuse".
    """
    for array, label, _ in readable_files(found, pixels, unreadable=unreadable, quiet=quiet):
        yield array, label


def readable_files(
    found: Labelled, pixels: Pixels, *, unreadable: Unreadable = "skip", quiet: bool = False
) -> Iterator[tuple[np.ndarray, str, Path]]:
    """(image, label, file), otherwise as `readable`."""
    known(unreadable, ("skip", "refuse"), what="treatment of unreadable files")
    skipped = []
    for file, label in zip(*found, strict=True):
        try:
            array = read_image(file, pixels)
        except ChannelsError:
            raise  # the file is readable, and skipping it would hide a wrong setting
        except ValueError as error:
            if unreadable == "refuse":
                raise
            skipped.append(str(error))
            continue
        yield array, label, file
    if skipped and not quiet:
        more = f", and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        warnings.warn(f"skipped: {'; '.join(skipped[:5])}{more}", UserWarning, stacklevel=3)


def check_names(names: Sequence[str], *, where: str) -> None:
    """Raise ValueError for two names that differ only in case, or in how letters are composed.

    Example:
        >>> check_names(["cat", "Cat"], where="pets")
        Traceback (most recent call last):
        ...
        ValueError: the classes 'cat' and 'Cat' in pets differ only in case: give them one name
    """
    by_key: dict[str, str] = {}
    for name in names:
        other = by_key.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            same = unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", name)
            how = "how their accents are encoded" if same else "case"
            raise ValueError(
                f"the classes {other!r} and {name!r} in {where} differ only in {how}: give "
                "them one name"
            )


def check_all_have(names: Sequence[str], labels: Iterable[str], where: object) -> None:
    """Raise ValueError for a class of which nothing could be read."""
    there = set(labels)
    missing = [name for name in names if name not in there]
    if missing:
        raise ValueError(f"the class {missing[0]!r} in {where} has no readable image")


def check_each_readable(
    found: Labelled, pixels: Pixels, *, where: object, unreadable: Unreadable = "skip"
) -> None:
    """Read files until there is an image of each class, before any work is done.

    Raises:
        ValueError: for a class of which nothing can be read; for an unreadable file that comes
            first, with `unreadable` "refuse".
        ChannelsError: for an image in colour where `pixels` is strictly grey.
    """
    there: set[str] = set()
    for file, label in zip(*found, strict=True):
        if label in there:
            continue
        try:
            read_image(file, pixels)
        except ChannelsError:
            raise
        except ValueError:
            if unreadable == "refuse":
                raise
            continue
        there.add(label)
    check_all_have(list(dict.fromkeys(found.labels)), there, where)


def is_image(path: Path) -> bool:
    """Whether a file's name is that of a PNG or JPEG, and not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
