"""The example notebooks: reading the outputs of a run, and the four jobs one after another."""

from pathlib import Path

import nbclient
import nbformat
import pyarrow.fs as pafs
import pytest

from spark_jobs.store.classes import holdings
from spark_jobs.store.root import open_root
from tests.docs.conftest import LABELS
from tests.support import REPOSITORY


def outputs(name: str) -> str:
    """All texts that the cells of a notebook print, once all cells have run."""
    notebook = nbformat.read(REPOSITORY / "docs" / name, as_version=4)
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    return "\n".join(
        output.get("text", "") or output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


def test_the_notebook_on_outputs_reads_every_output(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRUITS_STORE", store)
    shown = outputs("read_outputs.ipynb")
    assert all(label in shown for label in LABELS)
    assert "pca_features" in shown
    assert "bad.jpg" in shown


@pytest.fixture
def photos(store: str, real_names: Path) -> str:
    """The photos of the store, on disk or on S3 as the store is."""
    if not store.startswith("s3://"):
        return str(real_names)
    images = open_root(store.replace("/store", "/photos"))
    pafs.copy_files(str(real_names), "", destination_filesystem=images.fs)
    return images.uri


def test_the_notebook_on_the_jobs_walks_from_photos_to_csvs(
    photos: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRUITS_IMAGES", photos)
    monkeypatch.setenv("FRUITS_STORE", store)
    assert "[ab] 100% *" in outputs("walk_the_jobs.ipynb")
    assert holdings(open_root(f"{store}_notebook")) == holdings(open_root(store))
