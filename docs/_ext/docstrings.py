"""What Sphinx has to know about docstrings that are written to be read as plain text.

They hold equations such as `|a|` and `w_` outside of backticks, which mean something else in
reStructuredText: such characters are escaped. Fields of records are documented by their class.
"""

import re
from typing import Any, Protocol

from sphinx.application import Sphinx

SPECIAL = re.compile(r"(`[^`]*`)|([*|\\])|(\w_)(?!\w)")
EXAMPLE = re.compile(r"^(\s*)(>>>|\.\.\.)")


def escaped(lines: list[str]) -> list[str]:
    """The lines with what reStructuredText would read as markup escaped.

    Code in backticks may go over the end of a line; doctests stay as they are.

    Example:
        >>> escaped(["L(a) = |a|, as `x|` says"])
        ['L(a) = \\\\|a\\\\|, as `x|` says']
    """
    out: list[str] = []
    text: list[str] = []
    example = False

    def flush() -> None:
        whole = "\n".join(text)
        out.extend(SPECIAL.sub(_escape, whole).split("\n") if text else [])
        text.clear()

    for line in lines:
        example = bool(EXAMPLE.match(line)) or (example and bool(line.strip()))
        if example or not line.strip():
            flush()
            out.append(line)
        else:
            text.append(line)
    flush()
    return out


def _escape(match: re.Match[str]) -> str:
    code, special, word = match.groups()
    if code:
        return code
    return f"\\{special}" if special else f"{word[:-1]}\\_"


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = escaped(lines)


def _skip(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of a NamedTuple, which its docstring and signature show."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def _signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, args: str | None, result: str | None
) -> tuple[str, None] | None:
    """A Protocol has no constructor: its `__call__` is what matters."""
    is_protocol = what == "class" and isinstance(obj, type) and Protocol in obj.__bases__
    return ("", None) if is_protocol else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to autodoc, ahead of napoleon."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", _process, priority=100)
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True}
