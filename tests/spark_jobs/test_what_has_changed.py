"""The jobs work on photos, features and CSVs that have changed, and keep the files of the other photos."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from pyspark.sql import SparkSession

from resources.photo_folders import list_photos
from spark_jobs import extract_features as extract_module
from spark_jobs import ingest_images as ingest_module
from spark_jobs.store import parquet
from spark_jobs.store.csv_rows import read_csv
from spark_jobs.store.parquet import RowGroup
from spark_jobs.store.photos import Photo
from spark_jobs.store.schemas import (
    MOBILENET_FEATURES,
    PCA_FEATURES_CSV,
    QUARANTINED_IMAGES,
    RAW_IMAGES,
)
from spark_jobs.store.tables import change_classes
from spark_jobs.tasks import even_tasks
from tests.conftest import CLASSES, IMAGES_PER_CLASS
from tests.jobs import extract, fit, ingest, project, table
from tests.spark_jobs.support import pointers
from tests.support import current_files, publish_extractor

# The limits of the tasks of the two jobs.
INGEST, EXTRACT = (
    {"least": module.LEAST_IMAGES, "most": module.MOST_IMAGES} for module in (ingest_module, extract_module)
)


@pytest.fixture
def made(pipeline: str, store: str) -> str:
    """A copy of a finished store, of the photos of the fixture `photos`."""
    return shutil.copytree(pipeline, store)


def new_photo(photos: Path, label: str, name: str = "new.png") -> Path:
    """Adds a photo with a content of its own: a mirrored photo of the class."""
    path = photos / label / name
    ImageOps.mirror(Image.open(photos / label / "0_100.jpg")).save(path)
    return path


def files(store: str, output: str, label: str) -> set[str]:
    return set(current_files(store, output, [label]))


def vectors(store: str, label: str) -> dict[str, np.ndarray[Any, Any]]:
    rows = table(store, MOBILENET_FEATURES, [label])
    return dict(zip(rows["path"], rows["features"], strict=True))


def csv(store: str, label: str) -> pd.DataFrame:
    [file] = current_files(store, PCA_FEATURES_CSV, [label])
    return read_csv(Path(file).read_bytes()).to_pandas()


def bring_up_to_date(spark: SparkSession, photos: Path, store: str, classes: Iterable[str] = CLASSES) -> None:
    assert not ingest(spark, photos, store, classes).failed
    assert not extract(spark, store, classes).failed
    assert not project(spark, store, classes).failed


def test_no_file_is_written_where_nothing_has_changed(spark: SparkSession, photos: Path, made: str) -> None:
    before = [pointers(made, output) for output in (RAW_IMAGES, MOBILENET_FEATURES)]
    report = ingest(spark, photos, made, CLASSES)
    assert {(c.new, c.kept, c.gone, c.written_bytes) for c in report.classes.values()} == {(0, 8, 0, 0)}
    features = extract(spark, made, CLASSES)
    assert {(c.new, c.kept, c.gone, c.written_bytes) for c in features.classes.values()} == {(0, 8, 0, 0)}
    assert [pointers(made, output) for output in (RAW_IMAGES, MOBILENET_FEATURES)] == before


def test_a_new_photo_is_worked_on_alone_and_the_other_files_stay(
    spark: SparkSession, photos: Path, made: str
) -> None:
    outputs = (RAW_IMAGES, MOBILENET_FEATURES)
    before = [files(made, output, "Kiwi") for output in outputs]
    old_csv = csv(made, "Kiwi")
    new_photo(photos, "Kiwi")
    report = ingest(spark, photos, made, CLASSES).classes["Kiwi"]
    assert (report.found, report.images, report.new, report.kept) == (9, 9, 1, 8)
    features = extract(spark, made, CLASSES).classes["Kiwi"]
    assert (features.images, features.new, features.kept) == (9, 1, 8)
    for output, old in zip(outputs, before, strict=True):
        assert old < files(made, output, "Kiwi")
    written = project(spark, made, CLASSES).classes["Kiwi"]
    assert (written.images, written.new, written.kept, written.gone) == (9, 1, 8, 0)
    rows = csv(made, "Kiwi")
    assert list(rows["path"]) == sorted([*old_csv["path"], "Kiwi/new.png"])
    pd.testing.assert_frame_equal(rows[rows["path"] != "Kiwi/new.png"].reset_index(drop=True), old_csv)
    project(spark, made, ["Kiwi"], recompute=True)
    pd.testing.assert_frame_equal(csv(made, "Kiwi"), rows, rtol=1e-9)


def rename(photos: Path) -> None:
    (photos / "Kiwi/0_100.jpg").rename(photos / "Kiwi/renamed.jpg")


def move(photos: Path) -> None:
    (photos / "Banana/0_100.jpg").rename(photos / "Kiwi/banana.jpg")


def copy(photos: Path) -> None:
    shutil.copy(photos / "Banana/0_100.jpg", photos / "Kiwi/banana.jpg")


def rewrite_alike(photos: Path) -> None:
    photo = photos / "Kiwi/0_100.jpg"
    photo.write_bytes(photo.read_bytes())


@pytest.mark.parametrize("change", [rename, move, copy, rewrite_alike])
def test_a_content_that_has_features_is_not_computed_again(
    spark: SparkSession, photos: Path, made: str, change: Callable[[Path], None]
) -> None:
    known = {
        hashlib.sha256((photos / path).read_bytes()).hexdigest(): vector
        for label in CLASSES
        for path, vector in vectors(made, label).items()
    }
    change(photos)
    ingest(spark, photos, made, CLASSES)
    report = extract(spark, made, CLASSES)
    assert report.failed == {}
    assert {features.new for features in report.classes.values()} == {0}
    for label in CLASSES:
        paths = sorted(f"{label}/{path.name}" for path in (photos / label).iterdir())
        found = vectors(made, label)
        assert sorted(found) == paths
        for path, vector in found.items():
            sha256 = hashlib.sha256((photos / path).read_bytes()).hexdigest()
            np.testing.assert_array_equal(vector, known[sha256])


def test_equal_photos_of_a_first_run_are_computed_once(
    spark: SparkSession, photos: Path, store: str, extractor: Path
) -> None:
    publish_extractor(store, extractor)
    shutil.copy(photos / "Kiwi/0_100.jpg", photos / "Banana/kiwi.jpg")
    shutil.copy(photos / "Kiwi/0_100.jpg", photos / "Kiwi/again.jpg")
    ingest(spark, photos, store, CLASSES)
    report = extract(spark, store, CLASSES)
    assert sum(features.new for features in report.classes.values()) == IMAGES_PER_CLASS * len(CLASSES)
    assert [features.images for features in report.classes.values()] == [8, 9, 9]
    kiwi = vectors(store, "Kiwi")["Kiwi/0_100.jpg"]
    np.testing.assert_array_equal(vectors(store, "Banana")["Banana/kiwi.jpg"], kiwi)
    np.testing.assert_array_equal(vectors(store, "Kiwi")["Kiwi/again.jpg"], kiwi)


def test_an_equal_photo_of_a_class_that_fails_is_computed_for_the_other_class(
    spark: SparkSession, photos: Path, store: str, extractor: Path
) -> None:
    """Apple Red 1 comes first, so its photo would be computed for both classes."""
    publish_extractor(store, extractor)
    shutil.copy(photos / "Apple Red 1/0_100.jpg", photos / "Kiwi/apple.jpg")
    ingest(spark, photos, store, CLASSES)
    [file] = current_files(store, RAW_IMAGES, ["Apple Red 1"])
    content = bytearray(Path(file).read_bytes())
    content[len(content) // 2] ^= 1  # in the bytes of a photo
    Path(file).write_bytes(content)
    report = extract(spark, store, CLASSES)
    assert list(report.failed) == ["Apple Red 1"]
    assert report.failed["Apple Red 1"].endswith("fruits run --all --class 'Apple Red 1'")
    assert "Kiwi/apple.jpg" in vectors(store, "Kiwi")


def test_photos_that_are_gone_leave_all_outputs(spark: SparkSession, photos: Path, made: str) -> None:
    (photos / "Kiwi/3_100.jpg").unlink()
    report = ingest(spark, photos, made, CLASSES)
    assert (report.classes["Kiwi"].images, report.classes["Kiwi"].gone) == (7, 1)
    features = extract(spark, made, CLASSES).classes["Kiwi"]
    assert (features.images, features.new, features.gone) == (7, 0, 1)
    written = project(spark, made, CLASSES).classes["Kiwi"]
    assert (written.images, written.gone) == (7, 1)
    left = [f"Kiwi/{number}_100.jpg" for number in range(8) if number != 3]
    assert list(table(made, RAW_IMAGES, ["Kiwi"])["path"]) == left
    assert sorted(vectors(made, "Kiwi")) == left == list(csv(made, "Kiwi")["path"])


def test_a_photo_with_the_same_size_and_another_time_is_read_again(
    spark: SparkSession, photos: Path, made: str
) -> None:
    photo = photos / "Kiwi/0_100.jpg"
    content = bytearray(photo.read_bytes())
    content[-20] ^= 1
    photo.write_bytes(content)
    bring_up_to_date(spark, photos, made)
    rows = table(made, RAW_IMAGES, ["Kiwi"]).set_index("path")
    assert rows.loc["Kiwi/0_100.jpg", "sha256"] == hashlib.sha256(content).hexdigest()


def test_quarantine_keeps_its_verdicts_until_a_limit_changes(
    spark: SparkSession, photos: Path, store: str
) -> None:
    (photos / "Kiwi/bad.jpg").write_text("no image")
    ingest(spark, photos, store, ["Kiwi"], max_bad_share=0.5)
    before = files(store, QUARANTINED_IMAGES, "Kiwi"), files(store, RAW_IMAGES, "Kiwi")
    report = ingest(spark, photos, store, ["Kiwi"], max_bad_share=0.5)
    assert (report.classes["Kiwi"].quarantined, report.classes["Kiwi"].images) == (1, 8)
    assert (files(store, QUARANTINED_IMAGES, "Kiwi"), files(store, RAW_IMAGES, "Kiwi")) == before
    ingest(spark, photos, store, ["Kiwi"], max_bad_share=1.0, max_pixels=9_000)
    assert len(table(store, QUARANTINED_IMAGES)) == 9
    ingest(spark, photos, store, ["Kiwi"], max_bad_share=0.5)
    assert len(table(store, QUARANTINED_IMAGES)) == 1
    assert len(table(store, RAW_IMAGES)) == 8


def test_a_photo_that_could_not_be_read_is_tried_again(
    spark: SparkSession, photos: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing that has a photo which is gone, as when a photo is removed during a run."""
    gone = photos / "Kiwi/gone.jpg"
    gone.write_bytes((photos / "Kiwi/0_100.jpg").read_bytes())
    listed = list_photos(str(photos))
    gone.unlink()
    monkeypatch.setattr("tests.jobs.list_photos", lambda uri: listed)
    ingest(spark, photos, store, ["Kiwi"], max_bad_share=0.5)
    [row] = table(store, QUARANTINED_IMAGES).to_dict("records")
    assert (row["path"], row["reason"]) == ("Kiwi/gone.jpg", "was deleted during ingestion")
    shutil.copy(photos / "Kiwi/0_100.jpg", gone)
    os.utime(gone, ns=(0, listed.classes["Kiwi"][-1].modified * 1000))
    ingest(spark, photos, store, ["Kiwi"], max_bad_share=0.5)
    assert table(store, QUARANTINED_IMAGES).empty
    assert len(table(store, RAW_IMAGES)) == 9


def test_a_damaged_file_of_photos_is_made_again_from_the_photos(
    spark: SparkSession, photos: Path, made: str
) -> None:
    [file] = current_files(made, RAW_IMAGES, ["Kiwi"])
    Path(file).write_bytes(b"PAR1")
    parquet._read_columns.cache_clear()  # another process finds the damage
    report = ingest(spark, photos, made, CLASSES).classes["Kiwi"]
    assert (report.images, report.new) == (8, 8)
    assert len(table(made, RAW_IMAGES, ["Kiwi"])) == 8


def test_recompute_works_on_all_photos_and_gives_the_same_data_versions(
    spark: SparkSession, photos: Path, made: str
) -> None:
    before = [pointers(made, output) for output in (RAW_IMAGES, MOBILENET_FEATURES)]
    assert ingest(spark, photos, made, ["Kiwi"], recompute=True).classes["Kiwi"].new == 8
    assert extract(spark, made, ["Kiwi"], recompute=True).classes["Kiwi"].new == 8
    after = [pointers(made, output) for output in (RAW_IMAGES, MOBILENET_FEATURES)]
    for old, new in zip(before, after, strict=True):
        assert old["Kiwi"].data_version == new["Kiwi"].data_version
        assert {part.path for part in old["Kiwi"].parts}.isdisjoint(part.path for part in new["Kiwi"].parts)
        assert old["Banana"] == new["Banana"]


@pytest.mark.parametrize("module", [ingest_module, extract_module])
def test_a_class_that_another_run_changes_meanwhile_is_compared_again(
    spark: SparkSession, photos: Path, made: str, monkeypatch: pytest.MonkeyPatch, module: Any
) -> None:
    new_photo(photos, "Kiwi", "a.png")
    ingest(spark, photos, made, CLASSES)
    new_photo(photos, "Kiwi", "b.png")
    other_runs: list[int] = []

    def meets_another_run(*arguments: Any) -> set[str]:
        if not other_runs:
            other_runs.append(1)
            with monkeypatch.context() as patch:
                patch.setattr(module, "change_classes", change_classes)
                ingest(spark, photos, made, ["Kiwi"])
                extract(spark, made, ["Kiwi"])
        return change_classes(*arguments)

    monkeypatch.setattr(module, "change_classes", meets_another_run)
    bring_up_to_date(spark, photos, made)
    assert len(table(made, RAW_IMAGES, ["Kiwi"])) == len(set(table(made, RAW_IMAGES, ["Kiwi"])["path"])) == 10
    assert sorted(vectors(made, "Kiwi")) == sorted(table(made, RAW_IMAGES, ["Kiwi"])["path"])


def test_a_csv_of_another_model_is_projected_as_a_whole(spark: SparkSession, photos: Path, made: str) -> None:
    new_photo(photos, "Kiwi")
    bring_up_to_date(spark, photos, made)
    fit(spark, made, components=5)
    written = project(spark, made, CLASSES).classes["Kiwi"]
    assert (written.new, written.kept, written.gone) == (9, 0, 0)
    assert list(csv(made, "Kiwi").columns) == ["path", "label", "pc1", "pc2", "pc3", "pc4", "pc5"]


def test_photos_of_phones_are_several_tasks_a_core_and_small_photos_one(spark: SparkSession) -> None:
    cores = spark.sparkContext.defaultParallelism

    def tasks(size: int) -> tuple[int, int]:
        photos = [Photo(f"Kiwi/{number:03}.jpg", size, 0) for number in range(200)]
        groups = [RowGroup("Kiwi", "a file", number, 1, None, size) for number in range(200)]
        return (
            len(
                even_tasks(
                    spark, list(ingest_module._chunks("Kiwi", photos)), ingest_module._weight, **INGEST
                )
            ),
            len(even_tasks(spark, groups, extract_module._weight, **EXTRACT)),
        )

    assert tasks(5_000) == (1, cores)
    assert min(tasks(3_000_000)) >= 4 * cores
