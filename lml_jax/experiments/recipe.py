"""The record of a published protocol."""

from collections.abc import Callable
from typing import Any, NamedTuple

from lml_jax.experiments.runner import Report


class Recipe(NamedTuple):
    """A published protocol.

    Attributes:
        about: what is run.
        published: what it is compared with.
        settings: of the protocol.
        run: settings -> (folder, resume=False) -> a report to print.
        quick: settings that take minutes; None where there are none.
    """

    about: str
    published: str
    settings: Any
    run: Callable[[Any], Report]
    quick: Any = None
