"""The example notebook on the outputs of the Spark jobs."""

from pathlib import Path

import nbclient
import nbformat
import pytest
from pyspark.sql import SparkSession

from fruits_assets.samples import copy_samples
from tests.jobs import run_jobs
from tests.support import REPOSITORY

NOTEBOOK = REPOSITORY / "docs" / "read_outputs.ipynb"


def test_the_example_notebook_reads_every_output(
    spark: SparkSession, extractor: Path, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The notebook splits the photos by the numbers in their names, so the samples keep their names.
    classes = copy_samples(tmp_path / "photos")[:3]
    (tmp_path / "photos" / classes[0] / "41_100.jpg").write_text("no photo")
    run_jobs(spark, tmp_path / "photos", store, extractor, classes)
    monkeypatch.setenv("FRUITS_STORE", store)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    shown = "\n".join(
        output.get("text", "") or output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert all(label in shown for label in classes)
    assert "pca_features" in shown
    assert "41_100.jpg" in shown
