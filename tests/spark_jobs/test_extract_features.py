"""`extract_features`: features, pointers and refusals, on a local Spark session."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from spark_jobs.errors import FruitsError
from spark_jobs.inference import MODEL_BIN, MODEL_XML, compile_ir
from spark_jobs.photos.images import decode
from spark_jobs.photos.model_input import model_input
from spark_jobs.store.schemas import (
    MOBILENET_FEATURES,
    RAW_IMAGES,
    SCHEMAS,
)
from tests.conftest import CLASSES, IMAGES_PER_CLASS
from tests.jobs import extract, ingest, table
from tests.spark_jobs.support import images_in, pointers
from tests.support import current_files, publish_extractor


@pytest.mark.parametrize("name", [RAW_IMAGES, MOBILENET_FEATURES])
def test_the_files_of_a_table_have_the_declared_schema(pipeline: str, name: str) -> None:
    for file in current_files(pipeline, name):
        assert pq.read_schema(file).equals(SCHEMAS[name])


def test_spark_reads_exactly_the_declared_columns(spark: SparkSession, pipeline: str) -> None:
    frame = spark.read.parquet(*current_files(pipeline, MOBILENET_FEATURES))
    assert frame.columns == SCHEMAS[MOBILENET_FEATURES].names
    assert frame.count() == len(CLASSES) * IMAGES_PER_CLASS


def test_features_are_bit_identical_to_those_of_a_plain_loop(
    pipeline: str, sample_photos: Path, extractor: Path
) -> None:
    network = compile_ir((extractor / MODEL_XML).read_bytes(), (extractor / MODEL_BIN).read_bytes())
    for label in CLASSES:
        contents = list(images_in(sample_photos, label).values())
        expected = np.stack([network(model_input(decode(content, 10**9).image)) for content in contents])
        features = np.stack(table(pipeline, MOBILENET_FEATURES, [label])["features"])
        assert features.dtype == np.float32
        assert np.array_equal(features, expected)


def test_features_of_a_photo_do_not_depend_on_other_photos(
    spark: SparkSession, photos: Path, store: str, pipeline: str, extractor: Path
) -> None:
    for number in range(IMAGES_PER_CLASS - 1):
        (photos / f"Kiwi/{number}_100.jpg").unlink()
    publish_extractor(store, extractor)
    ingest(spark, photos, store, ["Kiwi"])
    extract(spark, store, ["Kiwi"])
    [alone] = table(store, MOBILENET_FEATURES)["features"]
    among = table(pipeline, MOBILENET_FEATURES, ["Kiwi"])["features"].iloc[-1]
    np.testing.assert_array_equal(alone, among)


def test_features_keep_the_order_and_the_sha256_of_raw_images(pipeline: str) -> None:
    raw, features = table(pipeline, RAW_IMAGES), table(pipeline, MOBILENET_FEATURES)
    for column in ("path", "label", "sha256"):
        assert list(features[column]) == list(raw[column])


def test_the_pointer_of_features_names_the_version_of_raw_images(pipeline: str) -> None:
    raw, features = pointers(pipeline, RAW_IMAGES), pointers(pipeline, MOBILENET_FEATURES)
    for label in CLASSES:
        assert features[label].inputs[RAW_IMAGES] == raw[label].data_version
        assert features[label].details == {"non_finite": 0, "constant": 0}


def test_a_changed_extractor_is_refused_by_its_sha256(
    spark: SparkSession, photos: Path, store: str, extractor: Path
) -> None:
    pointer = publish_extractor(store, extractor)
    ingest(spark, photos, store, CLASSES)
    weights = Path(store) / pointer.directory / MODEL_BIN
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(FruitsError, match=r"SHA-256 \w+, not \w+: it was changed after it was written"):
        extract(spark, store, CLASSES)
    assert pointers(store, MOBILENET_FEATURES) == {}


def test_a_class_without_raw_images_fails_and_other_classes_succeed(
    spark: SparkSession, photos: Path, store: str, extractor: Path
) -> None:
    publish_extractor(store, extractor)
    ingest(spark, photos, store, ["Kiwi"])
    report = extract(spark, store, ["Kiwi", "Banana"])
    assert list(report.classes) == ["Kiwi"]
    assert report.failed == {"Banana": "it has no raw_images yet; materialize raw_images for it first"}


def test_a_new_extractor_version_changes_the_data_version(
    spark: SparkSession, photos: Path, store: str, extractor: Path
) -> None:
    publish_extractor(store, extractor)
    ingest(spark, photos, store, ["Kiwi"])
    versions = [
        extract(spark, store, ["Kiwi"], extractor_version=version).classes["Kiwi"].data_version
        for version in ("1", "1", "2")
    ]
    assert versions[0] == versions[1] != versions[2]
