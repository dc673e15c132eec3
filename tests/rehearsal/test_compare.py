"""What a rehearsal says of two stores; the rehearsal itself is in tests/emr."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from rehearsal.compare import compare
from spark_jobs.store.root import open_root
from spark_jobs.store.tables import current
from tests.conftest import CLASSES
from tests.jobs import run_jobs


@pytest.fixture(scope="module")
def one(
    spark: SparkSession, sample_photos: Path, extractor: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store that every job has filled."""
    root = tmp_path_factory.mktemp("one")
    run_jobs(spark, sample_photos, str(root), extractor, CLASSES)
    return root


@pytest.fixture
def other(one: Path, tmp_path: Path) -> Path:
    """A copy of it, to change at will."""
    return shutil.copytree(one, tmp_path / "other")


def unlike(one: Path, other: Path) -> list[str]:
    return [comparison.what for comparison in compare(str(one), str(other)) if not comparison.same]


def part(store: Path, table: str) -> Path:
    """The file of a table's first class."""
    return store / next(iter(current(open_root(str(store)), table).values())).parts[0].path


def test_a_store_is_the_same_as_its_copy(one: Path, other: Path) -> None:
    assert unlike(one, other) == []


def test_a_feature_that_is_apart_is_seen(one: Path, other: Path) -> None:
    file = part(other, "mobilenet_features")
    table = pq.read_table(file)
    numbers = table["features"].combine_chunks().flatten().to_numpy().copy()
    numbers[7] += 2e-5
    changed = pa.FixedSizeListArray.from_arrays(pa.array(numbers), 1280)
    pq.write_table(table.set_column(3, table.schema.field("features"), changed), file)
    assert unlike(one, other) == ["features"]


def test_a_component_or_a_label_that_is_apart_is_seen(one: Path, other: Path) -> None:
    file = part(other, "pca_features_csv")
    right = pd.read_csv(file)
    for change in ({"pc2": right.pc2 + 2e-5}, {"label": "Lemon"}):
        right.assign(**change).to_csv(file, index=False)
        assert unlike(one, other) == ["components in CSVs"]


def test_a_class_that_is_missing_is_named(one: Path, other: Path) -> None:
    [pointer, *_] = (other / "raw_images" / "current").iterdir()
    pointer.unlink()
    [found] = [comparison for comparison in compare(str(one), str(other)) if not comparison.same]
    assert found.what == "raw_images"
    assert found.found.endswith(
        f"not the same: {json.loads((one / pointer.relative_to(other)).read_text())['label']!r}"
    )


def test_empty_stores_are_not_the_same(tmp_path: Path) -> None:
    empty = [tmp_path / name for name in ("a", "b")]
    assert {"raw_images", "features", "pca_model", "components in CSVs"} <= set(unlike(*empty))
