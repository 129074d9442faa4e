"""Notebooks run from beginning to end, and the two halves of a pair say the same."""

from pathlib import Path

import jupytext
import nbclient
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("default")  # the kernel's own machinery warns
def test_runs(name):
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
