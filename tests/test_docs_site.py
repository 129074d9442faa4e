"""The documentation: code of its pages runs, the site builds without a warning."""

import importlib
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import lml_jax

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
# The examples of extending.md are followed up in tests/test_extending.py.
PAGES = sorted(
    str(path.relative_to(DOCS))
    for path in DOCS.rglob("*.md")
    if "_build" not in path.parts
    and path.name != "extending.md"
    and "```python" in path.read_text()
)


@pytest.mark.parametrize("page", PAGES)
def test_code_runs(page, python_blocks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    python_blocks(DOCS / page, where=lambda block: "import equinox" not in block)


def test_a_network_of_equinox(python_blocks):
    pytest.importorskip("equinox")
    page = DOCS / "how-to" / "own-network.md"
    python_blocks(page, where=lambda block: "def use(net)" in block or "import equinox" in block)


def test_the_site_builds_and_has_every_public_name(tmp_path):
    for needed in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(needed, reason="pip install 'lml-jax[docs]'")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-n", "-d", tmp_path / "trees"]
    done = subprocess.run(
        [*command, DOCS, tmp_path / "html"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = documented(tmp_path / "html" / "objects.inv")
    missing = [name for name in public_names() if name not in found]
    assert not missing, f"not in the API reference: {missing}"


def documented(inventory):
    """The names in an inventory of Sphinx: four lines of text, then zlib."""
    packed = inventory.read_bytes().split(b"\n", 4)[4]
    return {line.split()[0] for line in zlib.decompress(packed).decode().splitlines()}


def public_names():
    """Every public function and class by where it is defined, as Python sees it, and its module."""
    root = Path(lml_jax.__file__).parent
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if any(part.startswith("_") for part in parts):
            continue
        name = ".".join(("lml_jax", *parts))
        yield name
        for own, value in vars(importlib.import_module(name)).items():
            if not own.startswith("_") and getattr(value, "__module__", None) == name:
                yield f"{name}.{own}"
