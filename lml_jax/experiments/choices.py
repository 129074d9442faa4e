"""Settings whose values are names: shown by `--help`, checked with "did you mean"."""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, get_args

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo


def one_of(names: Iterable[str] | Callable[[], Iterable[str]]) -> Any:
    """For `Annotated[str, one_of(entries)]`: the names in a dictionary, or that a function gives.

    They are read when a command runs, so that entries of the user's own are among them.
    """

    def made() -> Any:
        return Annotated[str, _spec(names, 1, lambda text: text[0], str)]

    return tyro.conf.arg(constructor_factory=made)


def several_of(names: Iterable[str]) -> Any:
    """For `Annotated[tuple[str, ...], several_of(entries)]`."""

    def made() -> Any:
        return Annotated[tuple[str, ...], _spec(names, "*", tuple, lambda value: " ".join(value))]

    return tyro.conf.arg(constructor_factory=made)


def _spec(
    names: Iterable[str] | Callable[[], Iterable[str]], nargs: Any, read: Any, show: Any
) -> PrimitiveConstructorSpec:
    listed = ",".join(names() if callable(names) else names)
    # A value is only read here: whoever resolves the settings checks it and names the nearest.
    return PrimitiveConstructorSpec(
        nargs=nargs,
        metavar="{" + listed + "}" + ("..." if nargs == "*" else ""),
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, str | tuple),
        str_from_instance=show,
    )


def literals() -> ConstructorRegistry:
    """A context for `tyro.cli` that reads a `Literal` of strings as `one_of` reads a name."""
    rules = ConstructorRegistry()

    @rules.primitive_rule
    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        if info.type_origin is not Literal:
            return None
        return _spec(get_args(info.type), 1, lambda text: text[0], lambda value: [value])

    return rules
