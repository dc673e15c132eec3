"""The example notebook on the outputs of a run."""

import nbclient
import nbformat
import pytest

from tests.docs.conftest import LABELS
from tests.support import REPOSITORY

NOTEBOOK = REPOSITORY / "docs" / "read_outputs.ipynb"


def test_the_example_notebook_reads_every_output(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRUITS_STORE", store)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    shown = "\n".join(
        output.get("text", "") or output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert all(label in shown for label in LABELS)
    assert "pca_features" in shown
    assert "bad.jpg" in shown
