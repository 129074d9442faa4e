"""Checks of arguments, and errors that name what was found and what was expected."""

import difflib
import math
from collections.abc import Iterable
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import jax
import numpy as np


def known(name: str, names: Iterable[str], *, what: str) -> str:
    """`name`, if it is one of `names`.

    Raises:
        ValueError: otherwise, with the nearest known name and all of them.

    Example:
        >>> known("mam", ["maml", "reptile"], what="learner")
        Traceback (most recent call last):
        ...
        ValueError: unknown learner 'mam'; did you mean 'maml'? Known: maml, reptile
    """
    every = list(names)
    if name in every:
        return name
    near = difflib.get_close_matches(str(name), every, n=1, cutoff=0.0)[0]
    raise ValueError(f"unknown {what} {name!r}; did you mean {near!r}? Known: {', '.join(every)}")


def check_positive(**sizes: int) -> None:
    """Raise ValueError, naming it, for a size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def concrete(*values: Any) -> list[Any] | None:
    """`values` as NumPy arrays (None stays None); or None, if any of them is traced.

    Inside jit, scan or checkpoint an operation of `jnp` gives a traced array even where all that
    goes in is known, and a check of it would crash; so what is checked is computed with NumPy.

    Example:
        >>> concrete(jax.numpy.arange(3), None)
        [array([0, 1, 2], dtype=int32), None]
        >>> jax.jit(lambda x: x + (concrete(x) is None))(1).item()
        2
    """
    if any(isinstance(value, jax.core.Tracer) for value in values):
        return None
    return [None if value is None else np.asarray(value) for value in values]


def check_literals(settings: Any) -> None:
    """Raise ValueError, with the nearest choice, for a value that its `Literal` does not list.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Settings:
        ...     colour: Literal["red", "green"] = "red"
        >>> check_literals(Settings("rde"))
        Traceback (most recent call last):
        ...
        ValueError: unknown colour 'rde'; did you mean 'red'? Known: red, green
    """
    for name, hint in get_type_hints(type(settings)).items():
        options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        choices = [value for o in options if get_origin(o) is Literal for value in get_args(o)]
        value = getattr(settings, name)
        if choices and not (value is None and type(None) in options):
            known(value, choices, what=name.replace("_", " "))


def check_numbers(settings: Any, *, least: dict[str, float], above: Iterable[str] = ()) -> None:
    """Raise ValueError, naming it, for a number below its `least` or not `above` 0; None passes.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Settings:
        ...     outer_rate: float
        >>> check_numbers(Settings(-1.0), least={}, above=["outer_rate"])
        Traceback (most recent call last):
        ...
        ValueError: outer_rate must be a finite number above 0, got -1.0
    """
    for name, low in least.items():
        value = getattr(settings, name)
        if value is not None and not low <= value < math.inf:
            raise ValueError(f"{name} must be at least {low}, got {value}")
    for name in above:
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be a finite number above 0, got {value}")


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Raise ValueError for no seeds, a negative seed or a seed given twice.

    Example:
        >>> check_seeds((0, 1, 0))
        Traceback (most recent call last):
        ...
        ValueError: seeds must differ, got 0 twice in (0, 1, 0)
    """
    if not seeds:
        raise ValueError("nothing to run: no seeds")
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise ValueError(f"seeds must be in 0..{2**32 - 1}, got {seed}")
        if seeds.count(seed) > 1:
            raise ValueError(f"seeds must differ, got {seed} twice in {seeds}")
