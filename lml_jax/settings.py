"""Checks of settings: records of numbers and names that a command or a notebook gave."""

import math
from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lml_jax.checks import known


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


def check_numbers(settings: Any, *, least: Mapping[str, float], above: Iterable[str] = ()) -> None:
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


def check_seeds(seeds: Sequence[int]) -> None:
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
