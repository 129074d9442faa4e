"""Which classes are for training, validation and test."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources

import numpy as np

from lml_jax.checks import known
from lml_jax.data.arrays import select
from lml_jax.data.omniglot import omniglot
from lml_jax.types import Dataset

_BACKGROUND, _ALL = 964, 1623
_MAML_SIZES = {"train": 1100, "validation": 100, "test": 423}


def omniglot_split(
    name: str,
    part: str,
    *,
    data_dir: str | os.PathLike | None = None,
    size: int = 28,
    cache: bool = True,
) -> Dataset:
    """One part of a published split of Omniglot's 1,623 characters.

    `name`: "background/evaluation" (964 train, 659 test), "vinyals" (1,028 / 172 / 423) or
    "maml-random" (1,100 / 100 / 423, drawn over all alphabets). `part`: "train", "validation" or
    "test". The rest is as for `omniglot`. Rotated classes are the caller's choice: see `rotations`.
    In "maml-random" the parts share alphabets, so its scores do not compare with the others'.

    Raises:
        FileNotFoundError: Omniglot is not prepared; the message names the command.
        ValueError: unknown name or part.

    Example:
        >>> omniglot_split("vinyals", "test").classes  # doctest: +SKIP
        423

    Source: Lake et al., Science 350, 2015; Vinyals et al., "Matching networks for one shot
    learning", NeurIPS 2016; Finn et al., "Model-agnostic meta-learning", ICML 2017.
    """
    classes = omniglot_classes(name, part)
    return select(omniglot("all", data_dir=data_dir, size=size, cache=cache), classes)


def omniglot_classes(name: str, part: str) -> np.ndarray:
    """The classes of `omniglot("all")` in one part of a split: int64 [k], ascending. Needs no data.

    Raises:
        ValueError: unknown name or part.

    Example:
        >>> len(omniglot_classes("maml-random", "train"))
        1100
    """
    splits = {
        "background/evaluation": _background_evaluation,
        "maml-random": _maml_random,
        "vinyals": _vinyals,
    }
    parts = splits[known(name, splits, what="split of Omniglot")]()
    _check_partition(name, parts, _ALL)
    return parts[known(part, parts, what=f"part of {name!r}")]


def random_split(
    classes: int, sizes: Mapping[str, int], *, seed: int | str = 0
) -> dict[str, np.ndarray]:
    """Draws disjoint parts of 0..classes-1: the part's name -> int64 [size], ascending.

    The same arguments give the same parts for ever, on every machine and version of numpy.

    Raises:
        ValueError: a negative size, or sizes that sum to more than `classes`.

    Example:
        >>> parts = random_split(10, {"train": 7, "test": 3})
        >>> sorted([*parts["train"].tolist(), *parts["test"].tolist()])
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    if min(sizes.values(), default=0) < 0 or sum(sizes.values()) > classes:
        raise ValueError(f"sizes is {dict(sizes)}, expected no negative and a sum <= {classes}")

    # A hash, because numpy may change what its generators draw from one version to the next.
    def rank(i: int) -> bytes:
        return hashlib.sha256(f"{seed}:{i}".encode()).digest()

    order = np.array(sorted(range(classes), key=rank), np.int64)
    ends = np.cumsum(list(sizes.values()), dtype=int)
    drawn = np.split(order[: ends[-1] if len(ends) else 0], ends[:-1])
    return {part: np.sort(members) for part, members in zip(sizes, drawn, strict=False)}


def _background_evaluation() -> dict[str, np.ndarray]:
    return {"train": np.arange(_BACKGROUND), "test": np.arange(_BACKGROUND, _ALL)}


def _maml_random() -> dict[str, np.ndarray]:
    return random_split(_ALL, _MAML_SIZES, seed="maml-random")


def _vinyals() -> dict[str, np.ndarray]:
    """The listed characters, numbered as `omniglot("all")` numbers them."""
    file = resources.files("lml_jax.data").joinpath("omniglot_vinyals.json")
    listed = json.loads(file.read_text(encoding="utf-8"))
    # Together the parts list every character, so the numbering follows from the file itself.
    characters = {part: list(_characters(halves)) for part, halves in listed.items()}
    everything = sorted(character for part in characters.values() for character in part)
    number = {character: i for i, character in enumerate(everything)}
    return {
        {"val": "validation"}.get(part, part): np.array(sorted(number[c] for c in members))
        for part, members in characters.items()
    }


def _characters(halves: Mapping[str, Mapping[str, Sequence[str]]]) -> Iterable[tuple]:
    """(half, alphabet, character) of each; "background" sorts before "evaluation"."""
    for half, alphabets in halves.items():
        for alphabet, names in alphabets.items():
            yield from ((half, alphabet, name) for name in names)


def _check_partition(name: str, parts: Mapping[str, np.ndarray], classes: int) -> None:
    """Raises unless every class is in exactly one part."""
    times = np.bincount(np.concatenate(list(parts.values())), minlength=classes)
    if len(times) != classes or (times != 1).any():
        raise ValueError(
            f"split {name!r} has {(times == 0).sum()} classes in no part and "
            f"{(times > 1).sum()} in several, expected each of {classes} in one"
        )
