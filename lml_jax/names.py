"""Errors for names that are not known."""

import difflib
from collections.abc import Iterable


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
