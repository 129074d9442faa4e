"""A `Dataset` from arrays, and selections of its classes."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lml_jax.types import Dataset


def from_arrays(
    x: ArrayLike, y: ArrayLike, *, group: ArrayLike | None = None, groups: Sequence[str] = ()
) -> Dataset:
    """A `Dataset` of the user's own arrays, in the order given.

    `x`: images, uint8 [n, H, W] or [n, H, W, channels], or finite floats [n, ...] of rank 2 or
    more. `y`: integers [n], the labels 0..C-1, each at least once. `group`: integers [C], the
    alphabet or super-class of each class, an index into `groups`; all classes share group 0 where
    it is None.

    Raises:
        TypeError: `x` is neither uint8 nor floating, `y` or `group` is not of integers.
        ValueError: a rank, length or value is not as said above.

    Example:
        >>> data = from_arrays(np.zeros((4, 2)), [0, 1, 1, 1])
        >>> data.classes, data.count.tolist()
        (2, [1, 3])
    """
    x, y = _check_x(x), _check_y(y)
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} examples and y has {len(y)} labels: expected as many")
    classes = int(y.max()) + 1
    # Tested before anything of size C is made: a stray label may be astronomically large.
    if classes > len(y) or (empty := np.flatnonzero(np.bincount(y) == 0)).size:
        absent = f"class {empty[0]} has no example" if classes <= len(y) else "too few examples"
        raise ValueError(f"y has largest label {classes - 1}, so {classes} classes, but {absent}")
    count = np.bincount(y)
    order = np.argsort(y, kind="stable")
    column = np.arange(np.max(count))
    # Padding repeats the first example of the class, so a stray read has at least the right label.
    offset = np.where(column < count[:, None], column, 0)
    index = order[(np.cumsum(count) - count)[:, None] + offset]
    return Dataset(
        x=jnp.asarray(x),
        index=jnp.asarray(index, jnp.int32),
        count=jnp.asarray(count, jnp.int32),
        group=jnp.asarray(_check_group(group, tuple(groups), classes), jnp.int32),
        groups=tuple(groups),
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
    index, count = np.asarray(dataset.index)[classes], np.asarray(dataset.count)[classes]
    real = np.arange(index.shape[1]) < count[:, None]
    y = np.repeat(np.arange(len(classes)), count)
    group = np.asarray(dataset.group)[classes]
    return from_arrays(dataset.x[index[real]], y, group=group, groups=dataset.groups)


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
    x = dataset.x
    if x.ndim not in (3, 4) or x.shape[1] != x.shape[2]:
        raise ValueError(
            f"x has shape {x.shape}, expected square images [n, H, H] or [n, H, H, ch]"
        )
    # Each turn starts from the unturned images, never from the turn before.
    turned = jnp.concatenate([jnp.rot90(x, r, axes=(1, 2)) for r in range(4)])
    index = jnp.concatenate([dataset.index + r * len(x) for r in range(4)])
    return Dataset(
        turned, index, jnp.tile(dataset.count, 4), jnp.tile(dataset.group, 4), dataset.groups
    )


def _check_x(x: ArrayLike) -> np.ndarray:
    """`x` as a numpy array, once its type, rank and values are as `from_arrays` says."""
    x = np.asarray(x)
    if x.dtype != np.uint8 and not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x is of {x.dtype}, expected uint8 images or floating features")
    if x.dtype == np.uint8 and x.ndim not in (3, 4):
        raise ValueError(f"x has shape {x.shape}, expected uint8 images [n, H, W] or [n, H, W, ch]")
    if x.ndim < 2:
        raise ValueError(f"x has shape {x.shape}, expected features of rank 2 or more, [n, ...]")
    if x.size == 0:
        raise ValueError(f"x has shape {x.shape}, expected at least one example and one value each")
    # Tested as the device will hold it: 1e300 is finite until it becomes a float32.
    if x.dtype != np.uint8 and not bool(jnp.isfinite(jnp.asarray(x)).all()):
        raise ValueError("x holds NaN, infinity or values beyond float32, expected finite features")
    if x.ndim >= 3:
        low, high = x.min(), x.max()
        if x.dtype == np.uint8 and high == 1:
            raise ValueError("images of uint8 are in 0..1, expected 0..255: multiply by 255")
        if x.dtype != np.uint8 and (low < 0 or high > 1):
            raise ValueError(f"images of floats are in {low}..{high}, expected 0..1, or uint8")
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
