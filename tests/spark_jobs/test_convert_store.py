"""A store of release 0.1 (commit 27477b8): the first job that meets it converts it, and loses nothing.

`store_27477b8.zip` holds such a store, without its extractor, after two runs of that commit on 17 drawn
photos. Before the second run, the photos of the class `Gone` were removed; a photo of `Kiwi` is bad. Beside
it, `expected.json` holds the rows of each table as that commit wrote them: path, SHA-256, and the sum of the
features.
"""

import json
import shutil
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from spark_jobs.convert_store import prepared_store
from spark_jobs.store.csv_copies import stale_copies
from spark_jobs.store.leases import held_lease
from spark_jobs.store.pointers import current_by_class
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import (
    FEATURE_EXTRACTOR,
    MOBILENET_FEATURES,
    PCA_FEATURES_CSV,
    QUARANTINED_IMAGES,
    RAW_IMAGES,
)
from spark_jobs.store.sweep import sweep_table
from spark_jobs.store.tables import current
from tests.jobs import extract, fit, ingest, project, quiet, table
from tests.spark_jobs.store.written import rows_of
from tests.support import publish_extractor

ARCHIVE = Path(__file__).with_name("store_27477b8.zip")
TABLES = (RAW_IMAGES, QUARANTINED_IMAGES, MOBILENET_FEATURES)


@pytest.fixture
def old(tmp_path: Path) -> str:
    """The store of release 0.1."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    return str(tmp_path / "store")


@pytest.fixture
def expected(old: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(old).parent / "expected.json").read_text(encoding="utf-8"))
    return content


class KilledError(Exception):
    pass


def killed(*_: Any) -> None:
    raise KilledError


def convert(spark: SparkSession, store: str) -> None:
    with prepared_store(spark, store, "conversion", quiet):
        pass


def rows_in(store: str, name: str, label: str) -> list[list[Any]]:
    rows = table(store, name, [label])
    columns = [rows["path"], rows["sha256"]]
    if name == MOBILENET_FEATURES:
        columns.append(rows["features"].map(lambda vector: float(np.sum(vector.astype(np.float64)))))
    return [list(row) for row in zip(*columns, strict=True)]


@pytest.mark.parametrize("name", TABLES)
def test_each_class_keeps_its_rows_and_its_data_version(
    spark: SparkSession, old: str, expected: dict[str, Any], name: str
) -> None:
    convert(spark, old)
    with_rows = {label: said for label, said in expected[name].items() if said["rows"]}
    versions = current(open_root(old), name)
    assert list(versions) == sorted(with_rows)
    for label, said in with_rows.items():
        assert rows_in(old, name, label) == said["rows"]
        if name != QUARANTINED_IMAGES:  # each run gave a quarantine another version
            assert versions[label].data_version == said["data_version"]


def test_the_photos_themselves_are_kept(spark: SparkSession, old: str) -> None:
    convert(spark, old)
    photos = table(old, RAW_IMAGES)
    assert len(photos) == 20
    assert all(len(content) == size for content, size in zip(photos["content"], photos["bytes"], strict=True))


def test_features_and_csvs_are_up_to_date_and_not_computed_again(spark: SparkSession, old: str) -> None:
    csvs = {path.name: path.read_bytes() for path in (Path(old) / PCA_FEATURES_CSV).glob("*.csv")}
    convert(spark, old)
    root = open_root(old)
    images, features = current(root, RAW_IMAGES), current(root, MOBILENET_FEATURES)
    converted = current_by_class(root, PCA_FEATURES_CSV)
    assert images.keys() == features.keys() == converted.keys()
    for label in images:
        assert features[label].inputs[RAW_IMAGES] == images[label].data_version
        assert converted[label].inputs[MOBILENET_FEATURES] == features[label].data_version
        assert root.read(converted[label].parts[0].path) == csvs[f"{label}.csv"]
    assert stale_copies(root) == []


def test_nothing_of_the_old_layout_is_left_after_a_sweep(spark: SparkSession, old: str) -> None:
    convert(spark, old)
    root = open_root(old)
    with held_lease(root, "sweeping") as lease:
        for name in TABLES:
            sweep_table(root, name, timedelta(0), lease)
    left = [path for name in TABLES for path in Path(old, name).rglob("*") if "=" in str(path)]
    assert left == []
    assert {path.parts[-3] for path in Path(old).glob("*/current/*")} == {"pca_features_csv_versions"}
    assert sum(rows_of(root).values()) == 1


@pytest.mark.parametrize("job", ["ingest", "extract", "fit", "project"])
def test_each_job_converts_the_store_that_it_meets(
    spark: SparkSession, old: str, extractor: Path, photos: Path, job: str
) -> None:
    if job == "ingest":
        ingest(spark, photos, old, ["Kiwi"])
    elif job == "extract":
        publish_extractor(old, extractor)
        extract(spark, old, ["Kiwi"])
    elif job == "fit":
        fit(spark, old, 3)
    else:
        project(spark, old, ["Kiwi"])
    assert len(current(open_root(old), RAW_IMAGES)) == 5
    assert len(current(open_root(old), MOBILENET_FEATURES)) == 5


def test_a_class_with_a_damaged_file_is_left_out_and_other_classes_are_kept(
    spark: SparkSession, old: str, expected: dict[str, Any]
) -> None:
    [pear] = Path(old).glob(f"{MOBILENET_FEATURES}/version=*/*/Pear-*/*.parquet")
    pear.write_bytes(pear.read_bytes()[:-100])
    [kiwi] = Path(old).glob(f"{RAW_IMAGES}/current/Kiwi-*.json")
    kiwi.write_bytes(b"")
    torn = Path(old) / PCA_FEATURES_CSV / "Pear.csv"
    torn.write_bytes(torn.read_bytes() + b"x\n")
    convert(spark, old)
    root = open_root(old)
    labels = expected[RAW_IMAGES].keys()
    assert current(root, MOBILENET_FEATURES).keys() == labels - {"Pear"}
    assert current(root, RAW_IMAGES).keys() == labels - {"Kiwi"}
    assert current_by_class(root, PCA_FEATURES_CSV).keys() == labels - {"Pear"}


@pytest.mark.parametrize("lost", ["details", "inputs", "parts"])
def test_a_pointer_that_does_not_say_everything_concerns_its_class_alone(
    spark: SparkSession, old: str, expected: dict[str, Any], lost: str
) -> None:
    for name in (MOBILENET_FEATURES, PCA_FEATURES_CSV):
        [pointer] = Path(old).glob(f"{name}/current/Pear-*.json")
        said = json.loads(pointer.read_bytes())
        pointer.write_text(json.dumps({**said, lost: type(said[lost])()}))
    convert(spark, old)
    labels = expected[RAW_IMAGES].keys()
    features = current(open_root(old), MOBILENET_FEATURES)
    # The details are counts of features, which the conversion makes anew.
    assert features.keys() == (labels if lost == "details" else labels - {"Pear"})
    assert all(version.details.keys() == {"non_finite", "constant"} for version in features.values())
    csvs = current_by_class(open_root(old), PCA_FEATURES_CSV).keys()
    assert csvs == (labels - {"Pear"} if lost == "parts" else labels)


def test_a_conversion_never_replaces_a_class_that_a_run_has_written_since(
    spark: SparkSession, old: str, photos: Path
) -> None:
    pointers = Path(old) / RAW_IMAGES / "current"
    copied = shutil.copytree(pointers, Path(old).parent / "pointers")
    ingest(spark, photos, old, ["Kiwi"])
    written = current(open_root(old), RAW_IMAGES)["Kiwi"]
    shutil.copytree(copied, pointers)  # as a second run sees them that began at the same time
    convert(spark, old)
    assert current(open_root(old), RAW_IMAGES)["Kiwi"] == written


def test_a_conversion_that_is_killed_before_its_end_is_made_again(
    spark: SparkSession, old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("spark_jobs.convert_store.commit", killed)
        with pytest.raises(KilledError):
            convert(spark, old)
    convert(spark, old)
    assert len(current(open_root(old), MOBILENET_FEATURES)) == 5
    assert current(open_root(old), MOBILENET_FEATURES)["Pear"].inputs.keys() >= {FEATURE_EXTRACTOR}
