"""A photo is read as it is now, whatever its listing said. A fault of the disk is no fault of the photo."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from spark_jobs.photos import read_photos
from spark_jobs.photos.images import BadImage
from spark_jobs.photos.read_photos import read_photo
from spark_jobs.store.photos import Photo
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import RAW_IMAGES
from tests.jobs import ingest, table
from tests.spark_jobs.support import pointers

PASSING = [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos" / "Kiwi").mkdir(parents=True)
    return tmp_path / "photos"


def read(folder: Path, *, listed: int = 7, max_bytes: int = 100) -> Any:
    return read_photo(open_root(str(folder)), Photo("Kiwi/1.jpg", listed, 0), max_bytes)


def failing(number: int, times: int, read: Callable[..., bytes], path: str = "") -> Callable[..., bytes]:
    """`read`, whose first calls for a path fail."""
    left = [times]

    def fail(root: Any, asked: str, most: int) -> bytes:
        if left[0] and asked.endswith(path):
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return read(root, asked, most)

    return fail


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_photos, "_PAUSES", (0.0, 0.0, 0.0))


def test_a_file_that_grew_is_read_no_further_than_the_limit(folder: Path) -> None:
    (folder / "Kiwi/1.jpg").write_bytes(b"x" * 100)
    assert read(folder) == b"x" * 100
    (folder / "Kiwi/1.jpg").write_bytes(b"x" * 101)
    assert str(read(folder)).startswith("it grew, and its bytes are over the limit of 100 ")


def test_a_file_that_became_a_link_out_of_the_root_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "Kiwi/1.jpg").symlink_to(tmp_path / "secret")
    assert str(read(folder)) == "is a link that leads out of FRUITS_IMAGES"
    (folder / "Kiwi/1.jpg").unlink()
    (folder / "Kiwi/2.jpg").write_bytes(b"content")
    (folder / "Kiwi/1.jpg").symlink_to("2.jpg")
    assert read(folder) == b"content"


def test_a_file_that_became_a_pipe_does_not_block(folder: Path) -> None:
    os.mkfifo(folder / "Kiwi/1.jpg")
    assert str(read(folder)) == "is no file any more"


def test_a_file_that_is_gone_is_a_bad_photo(folder: Path) -> None:
    assert str(read(folder)) == "was deleted during ingestion"


def test_a_file_that_is_gone_with_its_folder_is_a_fault_of_the_disk(folder: Path) -> None:
    (folder / "Kiwi").rmdir()  # as where the disk of the photos is unmounted
    found = read(folder)
    assert isinstance(found, FileNotFoundError)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG])
def test_a_file_that_may_not_be_read_is_a_bad_photo(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(read_photos, "_first_bytes", failing(number, 9, read_photos._first_bytes))
    found = read(folder)
    assert isinstance(found, BadImage)
    assert str(found) == f"cannot be read: {os.strerror(number)}"


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("number", PASSING)
def test_a_fault_of_the_disk_that_passes_is_not_seen(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (folder / "Kiwi/1.jpg").write_bytes(b"content")
    monkeypatch.setattr(read_photos, "_first_bytes", failing(number, 3, read_photos._first_bytes))
    assert read(folder) == b"content"


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("number", PASSING)
def test_a_fault_of_the_disk_that_stays_fails_the_class_which_keeps_its_photos(
    spark: SparkSession, photos: Path, store: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    ingest(spark, photos, store, ["Banana", "Kiwi"])
    before, rows = pointers(store, RAW_IMAGES), len(table(store, RAW_IMAGES, ["Kiwi"]))
    # Spark's workers would not see the fault, so a loop in this process replaces Spark.
    monkeypatch.setattr(
        "spark_jobs.ingest_images.run_tasks",
        lambda spark, stage, function, work, **_: [function(piece) for piece in work],
    )
    failing_read = failing(number, 99, read_photos._first_bytes, "Kiwi/3_100.jpg")
    monkeypatch.setattr(read_photos, "_first_bytes", failing_read)
    for label in ("Banana", "Kiwi"):
        os.utime(photos / label / "3_100.jpg", (1, 1))
    report = ingest(spark, photos, store, ["Banana", "Kiwi"])
    reason = f"'Kiwi/3_100.jpg' cannot be read: {os.strerror(number)}. The class keeps its last version"
    assert report.failed == {"Kiwi": reason}
    assert report.classes["Banana"].images == 8
    assert pointers(store, RAW_IMAGES)["Kiwi"] == before["Kiwi"]
    assert len(table(store, RAW_IMAGES, ["Kiwi"])) == rows
