"""A `Dataset` from arrays, and selections of its classes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lml_jax.types import Dataset, PyTree


def from_arrays(
    x: PyTree,
    y: ArrayLike,
    *,
    group: ArrayLike | None = None,
    groups: Sequence[str] = (),
    names: Sequence[str] = (),
) -> Dataset:
    """A `Dataset` of the user's own arrays, which are not copied.

    Args:
        x: uint8 images [n, H, W] or [n, H, W, channels] in 0..255, or floats or integers [n, ...]:
            standardised images, features, sequences, token ids. A pytree of arrays that all lead
            with n is one input of several parts (token ids and a mask, say).
        y: labels 0..C-1, integers [n], each at least once.
        group: integers [C], the alphabet or superclass of each class, an index into `groups`; None
            puts all classes into group 0.
        groups: names of the groups.
        names: names of the C classes; empty: none.

    Raises:
        TypeError: an array is of neither integers nor floats, `y` or `group` is not of integers.
        ValueError: a rank, length or value is not as said above.

    Example:
        >>> data = from_arrays(np.zeros((4, 2)), [0, 1, 1, 1])
        >>> data.classes, data.count.tolist(), data.rows_of(1).tolist()
        (2, [1, 3], [1, 2, 3])
    """
    x, y = _check_x(x), _check_y(y)
    sizes = {len(leaf) for leaf in jax.tree.leaves(x)}
    if sizes != {len(y)}:
        found = " and ".join(map(str, sorted(sizes)))
        raise ValueError(f"x has {found} examples and y has {len(y)} labels: expected as many")
    classes = int(y.max()) + 1
    # Tested before anything of size C is made: a stray label may be astronomically large.
    if classes > len(y) or (empty := np.flatnonzero(np.bincount(y) == 0)).size:
        absent = f"class {empty[0]} has no example" if classes <= len(y) else "too few examples"
        raise ValueError(f"y has largest label {classes - 1}, so {classes} classes, but {absent}")
    if names and len(names) != classes:
        raise ValueError(f"names has {len(names)} class names, expected {classes}")
    count = np.bincount(y)
    return Dataset(
        x=x,
        rows=np.argsort(y, kind="stable").astype(np.int32),
        start=(np.cumsum(count) - count).astype(np.int32),
        count=count.astype(np.int32),
        group=_check_group(group, tuple(groups), classes).astype(np.int32),
        groups=tuple(groups),
        names=tuple(str(name) for name in names),
    )


def select(dataset: Dataset, classes: ArrayLike) -> Dataset:
    """The given classes of `dataset`, in that order: class i of the result is `classes[i]`.

    `classes`: distinct integers in 0..C-1. Examples of other classes are dropped, so nothing of a
    held-out class is left in `x`; `group` and `groups` are kept.

    Raises:
        TypeError: `classes` is not of integers.
        ValueError: it is empty, not of rank 1, repeats a class or leaves 0..C-1.

    Example:
        >>> data = from_arrays(np.zeros((3, 2)), [0, 1, 2])
        >>> select(data, [2, 0]).classes
        2
    """
    classes = np.asarray(classes)
    if classes.ndim != 1 or classes.size == 0:
        raise ValueError(f"classes has shape {classes.shape}, expected [k] with k > 0")
    if not np.issubdtype(classes.dtype, np.integer):
        raise TypeError(
            f"classes is of {classes.dtype}, expected integers 0..{dataset.classes - 1}"
        )
    if classes.min() < 0 or classes.max() >= dataset.classes:
        raise ValueError(
            f"classes has values {classes.min()}..{classes.max()}, "
            f"expected 0..{dataset.classes - 1}"
        )
    if len(np.unique(classes)) != len(classes):
        raise ValueError(f"classes repeats {np.sort(classes)[:-1][np.diff(np.sort(classes)) == 0]}")
    rows = np.concatenate([dataset.rows_of(c) for c in classes])
    y = np.repeat(np.arange(len(classes)), np.asarray(dataset.count)[classes])
    return from_arrays(
        jax.tree.map(lambda leaf: np.asarray(leaf)[rows], dataset.x),
        y,
        group=np.asarray(dataset.group)[classes],
        groups=dataset.groups,
        names=[dataset.names[c] for c in classes] if dataset.names else (),
    )


def rotations(dataset: Dataset) -> Dataset:
    """Rotated images as classes of their own: class c + C*r is class c turned by r * 90 degrees.

    Images [n, H, H] or [n, H, H, channels] become [4n, ...], counter-clockwise for r = 0..3; the
    group stays that of class c. In `glyphs` some characters are already rotations of others
    (Canadian syllabics), so there it would name one shape twice.

    Raises:
        ValueError: `x` is not of square images.

    Example:
        >>> rotations(from_arrays(np.zeros((2, 5, 5), np.uint8), [0, 1])).classes
        8

    Source: Santoro et al., "Meta-learning with memory-augmented neural networks", ICML 2016.
    """
    x = np.asarray(dataset.x)
    if x.ndim not in (3, 4) or x.shape[1] != x.shape[2]:
        raise ValueError(
            f"x has shape {x.shape}, expected square images [n, H, H] or [n, H, H, ch]"
        )
    # Each turn starts from the unturned images, never from the turn before.
    turned = np.concatenate([np.rot90(x, r, axes=(1, 2)) for r in range(4)])
    names = [f"{name}, {90 * r} degrees" for r in range(4) for name in dataset.names]
    return Dataset(
        x=turned,
        rows=np.concatenate([np.asarray(dataset.rows) + r * len(x) for r in range(4)]),
        start=np.concatenate([np.asarray(dataset.start) + r * len(dataset.rows) for r in range(4)]),
        count=np.tile(dataset.count, 4),
        group=np.tile(dataset.group, 4),
        groups=dataset.groups,
        names=tuple(names),
    )


def _check_x(x: PyTree) -> PyTree:
    """`x` with numpy arrays for leaves, once their type, rank and values are as said above."""
    if not jax.tree.leaves(x) or not isinstance(x, dict | tuple):
        return _check_part(x)  # one array, or lists that numpy makes one of
    return jax.tree.map(_check_part, x)


def _check_part(given: ArrayLike) -> np.ndarray:
    on_disk = isinstance(given, np.memmap)  # stays one, and its values are not read
    x: np.ndarray = given if isinstance(given, np.memmap) else np.asarray(given)
    if not (np.issubdtype(x.dtype, np.integer) or jnp.issubdtype(x.dtype, jnp.floating)):
        raise TypeError(f"x is of {x.dtype}, expected integers or floats")
    if x.dtype == np.uint8 and x.ndim not in (3, 4):
        raise ValueError(f"x has shape {x.shape}, expected uint8 images [n, H, W] or [n, H, W, ch]")
    if x.ndim < 2:
        raise ValueError(f"x has shape {x.shape}, expected features of rank 2 or more, [n, ...]")
    if x.size == 0:
        raise ValueError(f"x has shape {x.shape}, expected at least one example and one value each")
    if x.dtype == np.uint8:
        if not on_disk and x.max() == 1:
            raise ValueError("images of uint8 are in 0..1, expected 0..255: multiply by 255")
    elif on_disk:
        pass
    elif np.issubdtype(x.dtype, np.integer):
        low, high = np.iinfo(np.int32).min, np.iinfo(np.int32).max
        if x.min() < low or x.max() > high:
            raise ValueError(f"x has integers {x.min()}..{x.max()}, expected values of int32")
    else:
        # Tested as the device will hold it: 1e300 is finite until it becomes a float32.
        large = np.abs(x) > np.finfo(np.float32).max if x.dtype == np.float64 else False
        if not np.isfinite(x).all() or np.any(large):
            raise ValueError("x holds NaN, infinity or values beyond float32, expected finite ones")
    return x


def _check_y(y: ArrayLike) -> np.ndarray:
    """`y` as a numpy array of non-negative integers [n]."""
    y = np.asarray(y)
    if y.ndim != 1:
        raise ValueError(f"y has shape {y.shape}, expected one label per example, [n]")
    if not np.issubdtype(y.dtype, np.integer):
        raise TypeError(f"y is of {y.dtype}, expected integers 0..C-1")
    if y.size and y.min() < 0:
        raise ValueError(f"y has the negative label {y.min()}, expected 0..C-1")
    if y.size == 0:
        raise ValueError("y is empty, expected at least one label")
    return y


def _check_group(group: ArrayLike | None, groups: tuple[str, ...], classes: int) -> np.ndarray:
    """`group` as a numpy array of integers [C] that index `groups`."""
    if group is None:
        if groups:
            raise ValueError(f"groups names {len(groups)} groups, but group is None: expected [C]")
        return np.zeros(classes, np.int32)
    group = np.asarray(group)
    if not np.issubdtype(group.dtype, np.integer):
        raise TypeError(f"group is of {group.dtype}, expected integers")
    if group.shape != (classes,):
        raise ValueError(f"group has shape {group.shape}, expected one per class, ({classes},)")
    largest = len(groups) - 1 if groups else np.iinfo(np.int32).max
    if group.min() < 0 or group.max() > largest:
        raise ValueError(
            f"group has values {group.min()}..{group.max()}, expected 0..{largest}"
            + (f" (groups has {len(groups)} names)" if groups else "")
        )
    return group
