"""The comparison of two stores. `tests/yarn/test_rehearse.py` runs a whole rehearsal."""

import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from rehearsal.compare import compare
from spark_jobs.store.leases import held_lease
from spark_jobs.store.parquet import vectors_column
from spark_jobs.store.root import open_root
from spark_jobs.store.tables import replace_classes
from tests.conftest import CLASSES
from tests.jobs import run_jobs
from tests.support import current_versions, rewrite


@pytest.fixture(scope="module")
def first(
    spark: SparkSession, sample_photos: Path, extractor: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store with the outputs of all jobs."""
    root = tmp_path_factory.mktemp("first")
    run_jobs(spark, sample_photos, str(root), extractor, CLASSES)
    return root


@pytest.fixture
def second(first: Path, tmp_path: Path) -> Path:
    """A copy of the first store, which a test may change."""
    return shutil.copytree(first, tmp_path / "second")


def different(first: Path, second: Path) -> list[str]:
    """The names of the outputs that differ."""
    return [comparison.output for comparison in compare(str(first), str(second)) if not comparison.same]


def part(store: Path, table: str) -> Path:
    """The file of a table's first class."""
    return store / next(iter(current_versions(open_root(str(store)), table).values())).parts[0].path


def test_a_store_is_the_same_as_its_copy(first: Path, second: Path) -> None:
    assert different(first, second) == []


def test_a_changed_feature_is_found(first: Path, second: Path) -> None:
    file = part(second, "mobilenet_features")
    table = pq.read_table(file)
    numbers = table["features"].combine_chunks().flatten().to_numpy().copy()
    numbers[7] += 2e-5
    changed = vectors_column(numbers.reshape(-1, 1280))
    rewrite(file, table.set_column(3, table.schema.field("features"), changed))
    assert different(first, second) == ["features"]


def test_a_changed_component_or_label_is_found(first: Path, second: Path) -> None:
    file = part(second, "pca_features_csv")
    original = pd.read_csv(file)
    for change in ({"pc2": original.pc2 + 2e-5}, {"label": "Lemon"}):
        original.assign(**change).to_csv(file, index=False)
        assert different(first, second) == ["components in CSVs"]


def test_a_missing_class_is_named(first: Path, second: Path) -> None:
    root = open_root(str(second))
    with held_lease(root, "run") as lease:
        replace_classes(root, "raw_images", {"Kiwi": []}, lease)
    [found] = [comparison for comparison in compare(str(first), str(second)) if not comparison.same]
    assert found.output == "raw_images"
    assert found.details.endswith("not the same: 'Kiwi'")


def test_empty_stores_are_different(tmp_path: Path) -> None:
    empty = [tmp_path / name for name in ("a", "b")]
    assert {"raw_images", "features", "pca_model", "components in CSVs"} <= set(different(*empty))
