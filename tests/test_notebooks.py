"""Every notebook runs from top to bottom; its last cell asserts the number it is about."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NEEDS = {
    "03_surrogate": [pytest.mark.needs("geant4_pybind")],
    "04_trigger": [pytest.mark.needs("da4ml", "verilator", "g++")],
}
NOTEBOOKS = [
    pytest.param(path, id=path.stem, marks=NEEDS.get(path.stem, []))
    for path in sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
]


# the kernel's own machinery warns about its event loop and its sockets on some platforms; that says nothing about ours
@pytest.mark.filterwarnings("default::DeprecationWarning", "default::ResourceWarning")
@pytest.mark.parametrize("path", NOTEBOOKS)
def test_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    last = [cell.source for cell in notebook.cells if cell.cell_type == "code"][-1]
    assert "assert " in last, "a notebook ends in an asserted number"
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), "a notebook ends in a figure"
