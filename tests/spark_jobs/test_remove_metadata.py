"""The store holds photos without metadata, also where an earlier release has stored it."""

import hashlib
import io
from pathlib import Path

import pytest
from PIL import ExifTags, Image
from pyspark.sql import SparkSession

from spark_jobs import remove_metadata
from spark_jobs.photos.images import decode
from spark_jobs.store.schemas import MOBILENET_FEATURES, QUARANTINED_IMAGES, RAW_IMAGES
from tests.conftest import CLASSES
from tests.jobs import extract, ingest, table
from tests.support import current_files, publish_extractor

SECRET = b"SECRET maker"


@pytest.fixture(autouse=True)
def makers(photos: Path) -> None:
    """Gives each photo of two classes a maker and a position."""
    for label in ("Banana", "Kiwi"):
        for file in (photos / label).iterdir():
            exif = Image.Exif()
            exif[ExifTags.Base.Artist] = SECRET.decode()
            exif.get_ifd(ExifTags.IFD.GPSInfo).update(
                {1: "N", 2: (48.0, 51.0, 0.0), 3: "E", 4: (2.0, 21.0, 0.0)}
            )
            content = io.BytesIO()
            with Image.open(file) as image:
                image.save(content, "JPEG", quality="keep", exif=exif)
            file.write_bytes(content.getvalue())


def secrets(store: str) -> list[Path]:
    """The files of the store in which the maker can be read: photos are not compressed in Parquet's pages."""
    return [path for path in Path(store).rglob("*") if path.is_file() and SECRET in path.read_bytes()]


def test_photos_are_stored_without_metadata_under_both_hashes(
    spark: SparkSession, photos: Path, store: str, extractor: Path
) -> None:
    report = ingest(spark, photos, store, CLASSES)
    assert {label: figures.with_position for label, figures in report.classes.items()} == {
        "Apple Red 1": 0,
        "Banana": 8,
        "Kiwi": 8,
    }
    assert secrets(store) == []
    for row in table(store, RAW_IMAGES).to_dict("records"):
        original = (photos / row["path"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(original).hexdigest()
        assert row["sha256_stored"] == hashlib.sha256(row["content"]).hexdigest()
        assert row["bytes"] == len(original)
        pixels = [decode(content, 10**6).image.tobytes() for content in (row["content"], original)]
        assert pixels[0] == pixels[1]
    publish_extractor(store, extractor)
    assert extract(spark, store, CLASSES).failed == {}
    assert list(table(store, MOBILENET_FEATURES)["sha256"]) == list(table(store, RAW_IMAGES)["sha256"])


def test_metadata_can_be_kept(spark: SparkSession, photos: Path, store: str) -> None:
    ingest(spark, photos, store, CLASSES, keep_metadata=True)
    for row in table(store, RAW_IMAGES).to_dict("records"):
        assert row["content"] == (photos / row["path"]).read_bytes()
        assert row["sha256_stored"] == row["sha256"]


def test_the_next_run_mends_the_whole_store_and_removes_the_old_files_at_once(
    spark: SparkSession, photos: Path, store: str
) -> None:
    ingest(spark, photos, store, CLASSES, keep_metadata=True)
    (photos / "Banana/0_100.jpg").unlink()  # the file that has it is replaced, and kept for a day
    ingest(spark, photos, store, CLASSES, keep_metadata=True)
    before = table(store, RAW_IMAGES).drop(columns=["content", "sha256_stored"])
    assert secrets(store)
    report = ingest(spark, photos, store, ["Apple Red 1"])
    assert report.failed == {}
    assert secrets(store) == []
    assert table(store, RAW_IMAGES).drop(columns=["content", "sha256_stored"]).equals(before)
    files = current_files(store, RAW_IMAGES, ["Kiwi"])
    report = ingest(spark, photos, store, ["Kiwi"])
    assert (report.classes["Kiwi"].new, report.classes["Kiwi"].kept) == (0, 8)
    assert current_files(store, RAW_IMAGES, ["Kiwi"]) == files


def test_a_photo_whose_metadata_cannot_be_removed_is_quarantined_with_the_reason(
    spark: SparkSession, photos: Path, store: str
) -> None:
    with Image.open(photos / "Kiwi/0_100.jpg") as photo:
        photo.save(photos / "Kiwi/0_100.jpg", "TIFF", big_tiff=True)
    for keep in (True, False):
        report = ingest(spark, photos, store, ["Kiwi"], max_bad_share=0.5, keep_metadata=keep)
        assert report.failed == {}
    [row] = table(store, QUARANTINED_IMAGES).to_dict("records")
    assert row["path"] == "Kiwi/0_100.jpg"
    assert row["reason"].startswith("its metadata cannot be removed with certainty: ")
    assert len(table(store, RAW_IMAGES)) == 7


def test_metadata_that_was_kept_for_a_while_goes_again(
    spark: SparkSession, photos: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for keep in (False, False, True, False):
        assert ingest(spark, photos, store, CLASSES, keep_metadata=keep).failed == {}
        assert bool(secrets(store)) == keep
    # The table says that it is clean: its files are not looked at again.
    monkeypatch.setattr(remove_metadata, "_remove_metadata", None)
    assert ingest(spark, photos, store, CLASSES).failed == {}
