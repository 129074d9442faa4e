"""Files and columns of the user's own as a `Dataset`: .npz, .npy, CSV, a mapping of arrays."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lml_jax._archive import check_member
from lml_jax.atomic_write import BROKEN_ARCHIVE
from lml_jax.data.arrays import from_arrays
from lml_jax.data.folder import check_names
from lml_jax.data.images import PIXELS, Pixels, read_image
from lml_jax.types import Dataset

LABEL_COLUMNS = ("class", "label")  # of a CSV file


def from_labelled(x: Any, labels: ArrayLike, *, names: Sequence[str] = ()) -> Dataset:
    """A `Dataset` of arrays and the class of each example: its name, or any integer.

    Args:
        x: [n, ...], as for `from_arrays`.
        labels: [n] strings; or integers, which index `names` if there are any. Integers that no
            example has are left out.
        names: names of the classes, for labels of integers.

    Returns:
        A `Dataset` with class names; an integer without a name is its own name.

    Raises:
        TypeError: for labels of another type.
        ValueError: for labels outside `names`, or names that differ only in case.

    Example:
        >>> from_labelled(np.zeros((3, 2)), ["dog", "cat", "dog"]).names
        ('cat', 'dog')
        >>> from_labelled(np.zeros((2, 2)), [7, 3]).names
        ('3', '7')
    """
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"labels have shape {labels.shape}, expected one for each example, [n]")
    if labels.dtype.kind not in "iuUST":
        raise TypeError(f"labels are of {labels.dtype}, expected strings or integers")
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8")
    values, y = np.unique(labels, return_inverse=True)
    if names and labels.dtype.kind in "iu":
        if values.size and not (values[0] >= 0 and values[-1] < len(names)):
            raise ValueError(
                f"labels are in {values[0]}..{values[-1]}, but there are {len(names)} names"
            )
        found = [str(names[value]) for value in values]
    else:
        found = [str(value) for value in values]
    check_names(found, where="labels")
    return from_arrays(x, y.astype(np.int32), names=found)


def from_npz(path: str | os.PathLike[str]) -> Dataset:
    """Images or features from an archive of the arrays `x` [n, ...], `y` [n] and maybe `names` [C].

    `x` and `y` are as for `from_labelled`; nothing is unpickled.

    Raises:
        FileNotFoundError: for no such file.
        ValueError: for a file that is no archive, lacks `x` or `y`, or holds something else.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "features.npz"
        >>> np.savez(path, x=np.zeros((2, 3)), y=np.array(["cat", "dog"]))
        >>> from_npz(path).names
        ('cat', 'dog')
    """
    path = Path(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            names = archive.files
            # Before anything is read, which may be large.
            wrong = not {"x", "y"} <= set(names) <= {"x", "y", "names"}
            found = {} if wrong else _members(archive)
    except FileNotFoundError:
        raise
    except BROKEN_ARCHIVE as error:
        raise ValueError(f"{path} is no archive of arrays: {error}") from error
    if wrong:
        raise ValueError(
            f"{path} holds {', '.join(names) or 'nothing'}; expected x [n, ...], y [n] and maybe "
            "names [C]"
        )
    return _named(path, found["x"], found["y"], found.get("names", np.zeros(0, str)))


def from_npy(x: str | os.PathLike[str], y: str | os.PathLike[str]) -> Dataset:
    """Images or features from a pair of .npy files; `x` stays on disk until it is used.

    Args:
        x: file of the examples, [n, ...].
        y: file of their classes, [n] strings or integers.

    Raises: as `from_npz`.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> np.save(folder / "x.npy", np.zeros((2, 3)))
        >>> np.save(folder / "y.npy", np.array([0, 1]))
        >>> from_npy(folder / "x.npy", folder / "y.npy").names
        ('0', '1')
    """
    try:
        examples = np.load(x, mmap_mode="r", allow_pickle=False)
        labels = np.load(y, allow_pickle=False)
    except FileNotFoundError:
        raise
    except BROKEN_ARCHIVE as error:
        raise ValueError(f"{x} and {y} are not both .npy files of arrays: {error}") from error
    return _named(f"{x} with {y}", examples, labels, np.zeros(0, str))


def from_csv(path: str | os.PathLike[str]) -> Dataset:
    """Features from a CSV file: a header, one row per example, its class in one column.

    The column is named "class" or "label"; all other columns are numbers, the features.

    Raises:
        FileNotFoundError: for no such file.
        ValueError: for a header without a class, or a value that is no finite number, naming the
            line and the column; for text that is not UTF-8.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "features.csv"
        >>> _ = path.write_text("a,b,class\\n1,2,cat\\n3,4,dog\\n")
        >>> data = from_csv(path)
        >>> data.names, data.x.tolist()
        (('cat', 'dog'), [[1.0, 2.0], [3.0, 4.0]])
    """
    lines = _lines(Path(path))
    header = [name.strip() for name in next(lines, (0, []))[1]]
    column = next((name for name in LABEL_COLUMNS if name in header), None)
    if column is None or len(header) < 2:
        raise ValueError(
            f"{path} begins with {','.join(header)[:60]!r}, expected a header with the column "
            "'class' and at least one of features"
        )
    at = header.index(column)
    rows, labels = [], []
    for number, values in lines:
        if not values:
            continue
        if len(values) != len(header):
            raise ValueError(f"{path}, line {number}: {len(values)} values, expected {len(header)}")
        labels.append(values[at].strip())
        rows.append([
            _number(value, f"{path}, line {number}, column {name!r}")
            for i, (value, name) in enumerate(zip(values, header, strict=True))
            if i != at
        ])  # fmt: skip
    if not rows:
        raise ValueError(f"{path} holds no example below its header")
    return from_labelled(np.array(rows, np.float32), np.array(labels))


def from_mapping(
    columns: Mapping[str, Any],
    *,
    x: str = "image",
    y: str = "label",
    names: Sequence[str] = (),
    pixels: Pixels = PIXELS,
) -> Dataset:
    """A `Dataset` from a mapping of columns, as a split of a Hugging Face data set is.

    Args:
        columns: by name, [n, ...] each; anything that is indexed by a string.
        x: name of the examples: arrays; or Pillow images of any size, which become arrays as
            files do.
        y: name of the labels.
        names: names of the classes, `split.features["label"].names` there.
        pixels: of Pillow images.

    Raises:
        ValueError: for a column that is not there, as `from_labelled` and `read_image`.

    Example:
        >>> data = from_mapping({"image": np.zeros((2, 4, 4)), "label": [1, 0]}, names=["a", "b"])
        >>> data.names, data.rows_of(0).tolist()
        (('a', 'b'), [1])
    """
    missing = [name for name in (x, y) if name not in _columns(columns)]
    if missing:
        raise ValueError(f"there is no column {missing[0]!r}, only {', '.join(_columns(columns))}")
    examples = columns[x]
    if len(examples) and hasattr(examples[0], "convert"):  # Pillow images
        examples = np.stack([read_image(image, pixels) for image in examples])
    return from_labelled(examples, np.asarray(columns[y]), names=names)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The values of each line of a CSV file, and its number."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            for values in reader:
                yield reader.line_num, values
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text: {error}") from error
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def _members(archive: Any) -> dict[str, np.ndarray]:
    """The arrays of an archive, whose headers claim no more than is there."""
    for member in archive.zip.infolist():
        check_member(archive.zip, member)
    return {name: archive[name] for name in archive.files}


def _columns(columns: Any) -> list[str]:
    return list(getattr(columns, "column_names", None) or columns.keys())


def _named(path: object, x: np.ndarray, y: np.ndarray, names: np.ndarray) -> Dataset:
    try:
        return from_labelled(x, y, names=names.tolist())
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) <= float(np.finfo(np.float32).max):
        raise ValueError(f"{where}: {text!r} is no finite number")
    return value
