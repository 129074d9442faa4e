"""Pages of the API reference, written from the package: one page per room, every public name.

A room is a module or a package directly in `lml_jax`. A name is public if neither it nor a module
on its path starts with an underscore. Names that a package re-exports are listed on its page with
a link to their definition.
"""

import ast
from pathlib import Path
from typing import NamedTuple

from docstrings import escaped

PACKAGE = Path(__file__).parents[2] / "lml_jax"


class Module(NamedTuple):
    """A public module: its dotted name and the names it offers."""

    name: str
    documented: tuple[str, ...]  # functions and classes
    values: dict[str, str]  # constants and type aliases, with the comment on each
    exported: dict[str, str]  # name -> where it is imported from
    summaries: dict[str, str]  # the first line of each docstring; "" names the module


def modules() -> list[Module]:
    """Every public module, packages before what is in them."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            found.append(_module(".".join((PACKAGE.name, *parts)), path.read_text()))
    return sorted(found)


def _module(name: str, source: str) -> Module:
    documented: list[str] = []
    values: dict[str, str] = {}
    exported: dict[str, str] = {}
    lines, tree = source.splitlines(), ast.parse(source)
    summaries = {"": _summary(tree)}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            documented.append(node.name)
            summaries[node.name] = _summary(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named = [target.id for target in targets if isinstance(target, ast.Name)]
            values |= dict.fromkeys(named, _comment(lines, node))
        elif isinstance(node, ast.ImportFrom):
            own = [alias.name for alias in node.names if alias.asname == alias.name]
            # What is private where it is defined is documented where it is offered.
            private = any(part.startswith("_") for part in str(node.module).split("."))
            documented += own if private else []
            exported |= {} if private else {n: f"{node.module}.{n}" for n in own}
    return Module(
        name,
        tuple(n for n in documented if not n.startswith("_")),
        {n: comment for n, comment in values.items() if not n.startswith("_")},
        {n: at for n, at in exported.items() if not n.startswith("_")},
        {**summaries, **values},
    )


def _summary(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]


def _comment(lines: list[str], node: ast.Assign | ast.AnnAssign) -> str:
    """The comment at the end of an assignment, or on the line before it."""
    last, before = lines[node.lineno - 1], lines[node.lineno - 2].strip()
    if "  # " in last:
        return last.split("  # ", 1)[1]
    return before.removeprefix("# ") if before.startswith("# ") else ""


def rooms() -> dict[str, list[Module]]:
    """The modules of each room, and of the package itself under its own name."""
    found: dict[str, list[Module]] = {}
    for module in modules():
        found.setdefault(".".join(module.name.split(".")[:2]), []).append(module)
    return found


def write(folder: Path) -> None:
    """Write the pages; files that are already as they should be are left alone."""
    folder.mkdir(exist_ok=True)
    every = rooms()
    pages = {f"{room}.rst": _page(own, every) for room, own in every.items()}
    pages["index.rst"] = _index(every)
    for old in folder.glob("*.rst"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _index(every: dict[str, list[Module]]) -> str:
    about = [
        _title("API reference", "="),
        "Every public name, one page for each part of the package. Functions that build something",
        "(data sets, streams, learners, generators) are also in :doc:`lml_jax` itself, as in",
        "``import lml_jax as lml; lml.maml(...)``.",
        "",
        ".. toctree::",
        "   :maxdepth: 1",
        "",
        *(f"   {room}" for room in every),
    ]
    return "\n".join(about) + "\n"


def _page(own: list[Module], every: dict[str, list[Module]]) -> str:
    by_name = {module.name: module for found in every.values() for module in found}
    parts: list[str] = []
    for module in own:
        title = module.name.removeprefix("lml_jax.")
        parts += [_title(title, "=" if module is own[0] else "-")]
        parts += [f".. automodule:: {module.name}"]
        parts += [f"   :members: {', '.join(module.documented)}"] if module.documented else []
        parts += [""]
        for name, comment in module.values.items():
            parts += [f".. py:data:: {name}", f"   :module: {module.name}", ""]
            parts += [f"   {escaped([comment])[0]}", ""]
        if module.exported:
            links = [_link(name, at, by_name) for name, at in module.exported.items()]
            parts += ["Names that it offers:", "", *links, ""]
    return "\n".join(parts) + "\n"


def _link(name: str, at: str, by_name: dict[str, Module]) -> str:
    """A line of a list: the name, which links to its definition, and what it is."""
    if at in by_name:
        kind, summary = ":py:mod:", by_name[at].summaries[""]
    else:
        home, _, own = at.rpartition(".")
        while own in by_name[home].exported:
            at = by_name[home].exported[own]
            home, _, own = at.rpartition(".")
        kind, summary = ":py:obj:", by_name[home].summaries.get(own, "")
    return f"- {kind}`{name} <{at}>`" + (f": {escaped([summary])[0]}" if summary else "")


def _title(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n"
