"""The structure of pytrees as JSON, and names of their leaves."""

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import jax

from lml_jax.types import PyTree


def name_of(path: Any) -> str:
    """A path of jax as text; no two paths of a pytree have the same.

    Example:
        >>> [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path({"a/b": [1.0]})]
        ["['a/b'][0]"]
    """
    parts = []
    for key in path:
        kind = type(key).__name__
        own = getattr(key, "key", getattr(key, "idx", getattr(key, "name", None)))
        parts.append(f".{own}" if kind == "GetAttrKey" else f"[{own!r}]")
    return "".join(parts)


def structure_of(tree: PyTree) -> Any:
    """A pytree without its leaves, as JSON can hold it; they are numbered in the order of jax.

    Raises:
        TypeError: for a key of a dict that JSON cannot hold, naming it.

    Example:
        >>> structure_of({"w": 1.0})
        {'node': 'dict', 'keys': ['w'], 'values': [{'node': 'leaf', 'number': 0}]}
    """
    return _structure(tree, itertools.count())


def _structure(tree: PyTree, count: Iterator[int]) -> Any:
    if tree is None:
        return {"node": "none"}
    if type(tree) is dict:
        # jax's order, in which leaves are numbered
        keys = [entry[0].key for entry, _ in _children(tree)]
        for key in keys:
            if type(key) not in (str, int, bool):
                raise TypeError(f"the key {key!r} of a dict cannot be stored, expected a string")
        values = [_structure(tree[key], count) for key in keys]
        return {"node": "dict", "keys": keys, "values": values}
    if isinstance(tree, list | tuple):
        cls = type(tree)
        values = [_structure(part, count) for part in tree]
        if cls in (list, tuple):
            return {"node": cls.__name__, "values": values}
        if hasattr(tree, "_fields"):
            name = {"module": cls.__module__, "class": cls.__qualname__}
            return {"node": "namedtuple", **name, "fields": list(tree._fields), "values": values}
    if jax.tree_util.all_leaves([tree]):
        return {"node": "leaf", "number": next(count)}
    children = [_structure(child, count) for _, child in _children(tree)]
    return {"node": "other", "class": type(tree).__qualname__, "values": children}


def _children(tree: PyTree) -> list[tuple[Any, Any]]:
    """(path, child) of the children of one node, in the order of jax."""
    return jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]


def rebuild(path: Any, structure: Any, leaves: list[Any]) -> PyTree:
    """The pytree of a structure, with its leaves; `path` is the file, for messages.

    Raises:
        ValueError: for a node whose class this process does not have, or cannot rebuild.

    Example:
        >>> rebuild("file", structure_of({"w": 1.0}), [2.0])
        {'w': 2.0}
    """
    kind = structure["node"]
    if kind == "none":
        return None
    if kind == "leaf":
        return leaves[structure["number"]]
    values = [rebuild(path, part, leaves) for part in structure["values"]]
    if kind == "dict":
        return dict(zip(structure["keys"], values, strict=True))
    if kind in ("list", "tuple"):
        return values if kind == "list" else tuple(values)
    name = structure["class"]
    if kind == "namedtuple":
        # Looked up among what is imported, and never imported because a file says so.
        cls: Any = sys.modules.get(structure["module"])
        for part in name.split("."):
            cls = getattr(cls, part, None)
        same = list(getattr(cls, "_fields", ())) == structure["fields"]
        if same and isinstance(cls, type) and issubclass(cls, tuple):
            return tuple.__new__(cls, values)
    raise ValueError(f"{path} holds a {name}, which is rebuilt only from an example of it (`like`)")
