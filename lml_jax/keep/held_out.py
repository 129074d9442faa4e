"""Which examples were taught, and which of them are held out to measure and calibrate."""

from hashlib import blake2b
from typing import NamedTuple

import numpy as np

_SHARE = np.uint64(2**64 // 5)  # hashes below it are held out
PER_CLASS = 5  # held-out examples of a class, at most
NEVER = np.uint64(2**64 - 1)  # a hash that is not held out


class HeldOut(NamedTuple):
    """Features of examples by which the learner is measured and calibrated.

    An example is held out by a hash of its values, so that it does not matter in what order and
    pieces examples come: at most 5 of each class, of one example in 5.
    """

    z: np.ndarray  # float32 [m, d]
    y: np.ndarray  # int32 [m]
    mark: np.ndarray  # uint64 [m]


class Marks(NamedTuple):
    """A hash of each example that was taught, sorted, and its class: 12 bytes per example."""

    mark: np.ndarray  # uint64 [n]
    y: np.ndarray  # int32 [n]


def marks_of(x: np.ndarray) -> np.ndarray:
    """A hash of each example, uint64 [n]."""
    return np.array(
        [int.from_bytes(blake2b(row.tobytes(), digest_size=8).digest(), "big") for row in x],
        np.uint64,
    )


def inserted(marks: Marks, mark: np.ndarray, y: np.ndarray) -> Marks:
    """The hashes with those of more examples."""
    order = np.argsort(mark)
    at = np.searchsorted(marks.mark, mark[order])
    return Marks(np.insert(marks.mark, at, mark[order]), np.insert(marks.y, at, y[order]))


def earlier_class(marks: Marks, mark: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which examples were not taught before, here or earlier in the chunk; and their first class.

    Returns:
        Booleans [n]; and the class [n] that each was first taught as, `y` where it is new.
    """
    known_marks = np.concatenate([marks.mark, mark])
    known_y = np.concatenate([marks.y, y])
    values, first = np.unique(known_marks, return_index=True)
    earlier = first[np.searchsorted(values, mark)]
    return earlier == len(marks.mark) + np.arange(len(mark)), known_y[earlier]


def with_held_out(
    held: HeldOut, z: np.ndarray, y: np.ndarray, mark: np.ndarray
) -> tuple[HeldOut, np.ndarray]:
    """The held-out examples of old and new ones, and which of the new are among them.

    Of each class those of the smallest hashes below a fifth: a choice that does not depend on the
    order in which examples come.
    """
    able = np.flatnonzero(mark < _SHARE)
    every = HeldOut(
        np.concatenate([held.z, z[able]]),
        np.concatenate([held.y, y[able]]),
        np.concatenate([held.mark, mark[able]]),
    )
    order = np.lexsort((every.mark, every.y))
    sorted_y = every.y[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_y, sorted_y)
    chosen = np.sort(order[rank < PER_CLASS])
    here = np.zeros(len(y), bool)
    here[able[chosen[chosen >= len(held.y)] - len(held.y)]] = True
    return HeldOut(*(part[chosen] for part in every)), here
