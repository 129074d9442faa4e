"""Which classes make up which task of a stream."""

from collections.abc import Sequence

import numpy as np


def sizes_of(tasks: int | None, classes_per_task: int | Sequence[int]) -> list[int]:
    """Classes of each task."""
    if isinstance(classes_per_task, int | np.integer):
        if tasks is None:
            raise ValueError("tasks must say how many tasks there are, got None")
        if tasks < 1 or classes_per_task < 1:
            raise ValueError(f"an empty stream: {tasks} tasks of {classes_per_task} classes")
        return [int(classes_per_task)] * tasks
    sizes = [int(size) for size in classes_per_task]
    if not sizes or min(sizes) < 1:
        raise ValueError(f"an empty stream: tasks of {sizes} classes")
    if tasks not in (None, len(sizes)):
        raise ValueError(f"classes_per_task lists {len(sizes)} tasks, but tasks is {tasks}")
    return sizes


def check_order(order: Sequence[int], classes: int, *, what: str = "order") -> np.ndarray:
    """`order` as an array, once it is a list of different classes."""
    found = np.asarray(order) if len(order) else np.zeros(0, int)
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"{what} must list classes 0..{classes - 1}, got {order}")
    if found.size and (found.min() < 0 or found.max() >= classes):
        raise ValueError(
            f"{what} has classes {found.min()}..{found.max()}, expected 0..{classes - 1}"
        )
    if len(np.unique(found)) < len(found):
        raise ValueError(f"{what} names a class twice: {list(order)}")
    return found


def from_groups(group: np.ndarray, sizes: list[int], rng: np.random.Generator) -> np.ndarray:
    """Positions [T, c] in `group`: each task from one group."""
    tasks, per_task = len(sizes), sizes[0]
    if set(sizes) != {per_task}:
        raise ValueError(
            f"tasks of {sizes} classes cannot each come from one group: give order= or "
            "by_group=False"
        )
    ids, members = np.unique(group, return_counts=True)
    room = {int(g): int(n) // per_task for g, n in zip(ids, members, strict=True)}
    large = ids[members >= per_task]
    if sum(room.values()) < tasks:
        raise ValueError(
            f"{tasks} tasks asked for, but only {len(large)} groups have {per_task} classes or "
            f"more, enough for {sum(room.values())} tasks; by_group=False draws from all groups"
        )
    # Every group once before one comes again: group g serves as tasks t, t + len(picked), ...
    picked, chosen = rng.permutation(large), []
    for turn in range(-(-tasks // len(picked))):
        chosen += [(g, turn) for g in picked if room[int(g)] > turn]
    order = {
        int(g): rng.permutation(np.flatnonzero(group == g))
        for g, turn in chosen[:tasks]
        if not turn
    }
    return np.stack([order[int(g)][t * per_task : (t + 1) * per_task] for g, t in chosen[:tasks]])
