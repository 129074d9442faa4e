"""Examples that were taught as another class."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

_NAMED = 5  # in a warning


class Given(NamedTuple):
    """Of some examples: hashes, classes, and where each is from: its file, or its number."""

    mark: np.ndarray
    labels: list[str]
    source: Sequence[Path] | np.ndarray


def described(given: Sequence[Given], i: int, first: str) -> str:
    """Which example it is, and which equal one was taught as another class.

    Args:
        given: all examples so far in parts, the present part last.
        i: number of the example in the last part.
        first: the class that an equal example was taught as.
    """
    part = given[-1]
    own = f"{_named(part, i)} of the class {part.labels[i]!r}"
    for other in given:
        for j in np.flatnonzero(other.mark == part.mark[i]).tolist():
            if other.labels[j] == first:
                return f"{own} equals {_named(other, j)} of the class {first!r}"
    return f"{own} was taught before as {first!r}"


def refuse(text: str, size: tuple[int, int] | None) -> None:
    """Raise ValueError for one conflict; `size` is that to which images are resized."""
    seen = "" if size is None else f" at {size[0]} x {size[1]} pixels"
    raise ValueError(
        f"{text}{seen}: expected one class for each example; remove one of them, or give conflicts "
        "'skip' to leave the later one out"
    )


def warn(conflicts: Sequence[str]) -> None:
    """Warn of the conflicts that were skipped."""
    if conflicts:
        more = f", and {len(conflicts) - _NAMED} more" if len(conflicts) > _NAMED else ""
        warnings.warn(
            f"skipped, taught as another class: {'; '.join(conflicts[:_NAMED])}{more}",
            UserWarning,
            stacklevel=3,
        )


def _named(part: Given, i: int) -> str:
    source = part.source[i]
    return str(source) if isinstance(source, Path) else f"example {source}"
