"""A file of the store that was lost or changed fails its own class, by name, and no other class."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from spark_jobs.errors import FruitsError
from spark_jobs.store.parquet import read_row_groups
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, RAW_IMAGES
from tests.conftest import CLASSES
from tests.jobs import extract, fit, ingest, project, run_jobs
from tests.spark_jobs.support import pointers
from tests.support import current_files, publish_extractor, rewrite


def lose(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    group = pq.ParquetFile(file).metadata.row_group(0)
    columns = map(group.column, range(group.num_columns))
    column = max(columns, key=lambda column: column.total_compressed_size)  # the photos, or the features
    start = column.dictionary_page_offset or column.data_page_offset
    content[start + column.total_compressed_size // 2] ^= 1
    file.write_bytes(content)


DAMAGE = pytest.mark.parametrize("damage", [lose, cut, flip_a_bit])


def file_of(store: str, table: str, label: str) -> Path:
    [file] = current_files(store, table, [label])
    return Path(file)


@DAMAGE
def test_a_damaged_file_of_photos_fails_the_features_of_its_class_only(
    spark: SparkSession, photos: Path, store: str, extractor: Path, damage: Callable[[Path], None]
) -> None:
    publish_extractor(store, extractor)
    ingest(spark, photos, store, CLASSES)
    extract(spark, store, ["Kiwi"])
    before = pointers(store, MOBILENET_FEATURES)["Kiwi"]
    file = file_of(store, RAW_IMAGES, "Kiwi")
    damage(file)
    report = extract(spark, store, CLASSES, recompute=True)
    assert sorted(report.classes) == ["Apple Red 1", "Banana"]
    assert str(file) in report.failed["Kiwi"]
    again = "Compute the class again: fruits run --all --class Kiwi"
    assert report.failed["Kiwi"].endswith(("Materialize raw_images for it again", again))
    assert pointers(store, MOBILENET_FEATURES)["Kiwi"] == before


@pytest.mark.parametrize("keep_metadata", [False, True])
def test_a_photo_that_does_not_match_its_sha256_fails_its_class_by_the_name_of_the_photo(
    spark: SparkSession, photos: Path, store: str, extractor: Path, keep_metadata: bool
) -> None:
    publish_extractor(store, extractor)
    ingest(spark, photos, store, CLASSES, keep_metadata=keep_metadata)
    file = file_of(store, RAW_IMAGES, "Banana")
    rows = pq.ParquetFile(file).read()
    contents = rows.column("content").to_pylist()
    contents[3] = contents[4]  # a photo, but another one
    changed = rows.set_column(
        rows.schema.get_field_index("content"), rows.schema.field("content"), [contents]
    )
    rewrite(file, changed)
    ingest(spark, photos, store, ["Kiwi"])  # it removes metadata from all classes, and keeps what was changed
    report = extract(spark, store, CLASSES)
    assert sorted(report.classes) == ["Apple Red 1", "Kiwi"]
    assert "the photo Banana/3_100.jpg in" in report.failed["Banana"]
    assert "does not match its SHA-256" in report.failed["Banana"]


@DAMAGE
def test_a_damaged_file_of_features_fails_the_csv_of_its_class_only(
    spark: SparkSession, photos: Path, store: str, extractor: Path, damage: Callable[[Path], None]
) -> None:
    run_jobs(spark, photos, store, extractor, CLASSES)
    csv = file_of(store, PCA_FEATURES_CSV, "Kiwi")
    before, pointer = csv.read_bytes(), pointers(store, PCA_FEATURES_CSV)["Kiwi"]
    file = file_of(store, MOBILENET_FEATURES, "Kiwi")
    damage(file)
    report = project(spark, store, CLASSES, recompute=True)
    assert sorted(report.classes) == ["Apple Red 1", "Banana"]
    assert str(file) in report.failed["Kiwi"]
    assert (csv.read_bytes(), pointers(store, PCA_FEATURES_CSV)["Kiwi"]) == (before, pointer)


def test_a_damaged_file_of_features_is_named_by_the_fit(
    spark: SparkSession, photos: Path, store: str, extractor: Path
) -> None:
    publish_extractor(store, extractor)
    ingest(spark, photos, store, CLASSES)
    extract(spark, store, CLASSES)
    file = file_of(store, MOBILENET_FEATURES, "Kiwi")
    cut(file)
    with pytest.raises(FruitsError, match=f"{file} cannot be read"):
        fit(spark, store)


@DAMAGE
def test_a_damaged_model_is_named_and_projects_no_class(
    spark: SparkSession, photos: Path, store: str, extractor: Path, damage: Callable[[Path], None]
) -> None:
    run_jobs(spark, photos, store, extractor, CLASSES)
    before = pointers(store, PCA_FEATURES_CSV)
    fitted = fit(spark, store)
    [file] = (Path(store) / fitted.directory).rglob("*.parquet")
    damage(file)
    with pytest.raises(FruitsError, match=r"Materialize pca_model again") as raised:
        project(spark, store, CLASSES)
    assert str(file.parent) in str(raised.value)
    assert pointers(store, PCA_FEATURES_CSV) == before


def test_each_page_carries_a_checksum_that_readers_verify(
    spark: SparkSession, photos: Path, store: str
) -> None:
    ingest(spark, photos, store, ["Kiwi"])
    file = file_of(store, RAW_IMAGES, "Kiwi")
    flip_a_bit(file)
    root = open_root(store)
    with pytest.raises(FruitsError, match=r"cannot be read \(.*CRC"):
        list(read_row_groups(root, str(file.relative_to(store)), [0], ["content"]))
