"""`ingest_images`: tables, quarantine, data versions and refusals, on a local Spark session."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from pyspark.sql import SparkSession

from spark_jobs import ingest_images as ingest_module
from spark_jobs.store.photos import doubles
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import (
    QUARANTINED_IMAGES,
    RAW_IMAGES,
)
from tests.conftest import CLASSES, IMAGES_PER_CLASS
from tests.jobs import ingest, table
from tests.spark_jobs.support import images_in, pointers
from tests.support import REPOSITORY, without_roots_powers


def test_raw_images_hold_every_photo_unchanged(pipeline: str, sample_photos: Path) -> None:
    rows = table(pipeline, RAW_IMAGES)
    expected = {
        path: content for label in CLASSES for path, content in images_in(sample_photos, label).items()
    }
    assert list(rows["path"]) == list(expected)
    assert list(rows["content"]) == list(expected.values())
    assert list(rows["sha256"]) == [hashlib.sha256(content).hexdigest() for content in expected.values()]
    assert list(rows["bytes"]) == [len(content) for content in expected.values()]
    assert list(rows["label"]) == [label for label in CLASSES for _ in range(IMAGES_PER_CLASS)]
    times = [(sample_photos / path).stat().st_mtime_ns // 1000 for path in expected]
    assert [time.value // 1000 for time in rows["modified"]] == times
    assert rows["etag"].isna().all()
    assert set(zip(rows["width"], rows["height"], rows["format"], strict=True)) == {(100, 100, "JPEG")}


def test_the_report_counts_the_photos_of_each_class(spark: SparkSession, photos: Path, store: str) -> None:
    (photos / "Kiwi/bad.jpg").write_text("no image")
    report = ingest(spark, photos, store, CLASSES, max_bad_share=0.5)
    assert report.failed == {}
    assert {label: (c.found, c.images, c.quarantined) for label, c in report.classes.items()} == {
        "Apple Red 1": (8, 8, 0),
        "Banana": (8, 8, 0),
        "Kiwi": (9, 8, 1),
    }
    assert [len(table(store, RAW_IMAGES, [label])) for label in CLASSES] == [8, 8, 8]


def picture(size: tuple[int, int] = (20, 20), colour: tuple[int, int, int] = (200, 30, 60)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_bad_photos_are_quarantined_with_a_reason_and_good_photos_are_kept(
    spark: SparkSession, photos: Path, store: str
) -> None:
    good = images_in(photos, "Kiwi")
    jpeg = next(iter(good.values()))
    bad = {
        "empty.jpg": (b"", "empty file"),
        "text.jpg": (b"<html>", "not an image in a supported format"),
        "torn.jpg": (jpeg[: len(jpeg) // 2], "truncated or damaged"),
        "bomb.png": (picture((200, 200)), "200 x 200 pixels are over the limit of 20000"),
        "long.jpg": (jpeg + bytes(9000), "bytes are over the limit of 9,000"),
    }
    for name, (content, _) in bad.items():
        (photos / "Kiwi" / name).write_bytes(content)
    limits = {"max_bytes": 9000, "max_pixels": 20_000, "max_bad_share": 0.5}
    report = ingest(spark, photos, store, ["Kiwi"], **limits)
    assert report.failed == {}
    assert dict(table(store, RAW_IMAGES).set_index("path")["content"]) == good
    rows = table(store, QUARANTINED_IMAGES).set_index("path")
    assert sorted(rows.index) == sorted(f"Kiwi/{name}" for name in bad)
    assert set(rows["label"]) == {"Kiwi"}
    for name, (content, reason) in bad.items():
        row = rows.loc[f"Kiwi/{name}"]
        assert reason in row["reason"]
        assert row["bytes"] == len(content)
        if name == "long.jpg":
            assert pd.isna(row["sha256"])  # a photo over the limit is not read
        else:
            assert row["sha256"] == hashlib.sha256(content).hexdigest()


# Spark's workers cannot drop the privileges of root, so a loop in a process without them replaces Spark.
UNREADABLE = """
import json, sys
from types import SimpleNamespace
from spark_jobs import ingest_images as module
from tests.jobs import ingest
no_spark = SimpleNamespace(sparkContext=SimpleNamespace(defaultParallelism=1))
module.run_tasks = lambda spark, stage, function, work, **_: [function(w) for w in work]
report = ingest(no_spark, sys.argv[1], sys.argv[2], ["Kiwi"], max_bad_share=0.5)
print(json.dumps([report.failed, report.classes["Kiwi"].images]))
"""


def test_a_photo_without_read_permission_is_quarantined(photos: Path, store: str) -> None:
    (photos / "Kiwi/3_100.jpg").chmod(0)
    result = subprocess.run(
        [sys.executable, "-c", UNREADABLE, str(photos), store],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        preexec_fn=without_roots_powers,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout) == [{}, 7]
    [row] = table(store, QUARANTINED_IMAGES).to_dict("records")
    assert (row["path"], row["reason"]) == ("Kiwi/3_100.jpg", "cannot be read: Permission denied")


def test_a_class_with_too_many_bad_photos_names_the_two_commonest_reasons_whenever_it_fails(
    spark: SparkSession, photos: Path, store: str
) -> None:
    jpeg = (photos / "Kiwi/0_100.jpg").read_bytes()
    bad = {0: jpeg[:-100], 1: jpeg[:-200], 2: jpeg[:-300], 3: b"", 4: b"", 5: b"<html>"}
    for number, content in bad.items():
        (photos / f"Kiwi/{number}_100.jpg").write_bytes(content)
    for _ in range(2):
        reason = ingest(spark, photos, store, ["Kiwi"]).failed["Kiwi"]
        assert "Most often: 'Kiwi/0_100.jpg' and 2 like it: truncated or damaged: " in reason
        assert "; 'Kiwi/3_100.jpg' and 1 like it: empty file. FRUITS_MAX_BAD_SHARE" in reason


def test_photos_that_are_there_twice_are_found_in_a_class_and_across_classes(
    spark: SparkSession, photos: Path, store: str
) -> None:
    shutil.copy(photos / "Kiwi/0_100.jpg", photos / "Kiwi/again.jpg")
    shutil.copy(photos / "Kiwi/1_100.jpg", photos / "Banana/other.jpg")
    shutil.copy(photos / "Kiwi/1_100.jpg", photos / "Banana/third.jpg")
    ingest(spark, photos, store, CLASSES)
    found = sorted(doubles(open_root(store)))
    assert found == [
        (["Banana/other.jpg", "Banana/third.jpg", "Kiwi/1_100.jpg"], ["Banana", "Banana", "Kiwi"]),
        (["Kiwi/0_100.jpg", "Kiwi/again.jpg"], ["Kiwi", "Kiwi"]),
    ]
    assert [double.across_classes for double in found] == [True, False]
    assert doubles(open_root(f"{store}/elsewhere")) == []


def test_a_class_with_too_many_bad_photos_fails_and_keeps_its_last_version(
    spark: SparkSession, photos: Path, store: str
) -> None:
    ingest(spark, photos, store, CLASSES)
    before = pointers(store, RAW_IMAGES)
    for number in range(4):
        (photos / f"Kiwi/{number}_100.jpg").write_bytes(b"")
    (photos / "Banana/0_100.jpg").unlink()
    report = ingest(spark, photos, store, CLASSES)
    after = pointers(store, RAW_IMAGES)
    assert list(report.failed) == ["Kiwi"]
    reason = report.failed["Kiwi"]
    assert reason.startswith(
        "4 of 8 photos are bad. Most often: 'Kiwi/0_100.jpg' and 3 like it: empty file. "
    )
    assert "FRUITS_MAX_BAD_SHARE" in report.failed["Kiwi"]
    assert sorted(report.classes) == ["Apple Red 1", "Banana"]
    assert after["Kiwi"] == before["Kiwi"]
    assert after["Banana"].rows == 7
    assert list(table(store, QUARANTINED_IMAGES, ["Kiwi"])["reason"]) == ["empty file"] * 4


def test_a_class_without_a_good_photo_fails_at_any_allowed_share(
    spark: SparkSession, photos: Path, store: str
) -> None:
    for path in (photos / "Kiwi").iterdir():
        path.write_bytes(b"")
    report = ingest(spark, photos, store, CLASSES, max_bad_share=1.0)
    assert list(report.failed) == ["Kiwi"]
    assert sorted(pointers(store, RAW_IMAGES)) == ["Apple Red 1", "Banana"]


def test_the_quarantine_of_a_repaired_class_is_empty(spark: SparkSession, photos: Path, store: str) -> None:
    photo = photos / "Kiwi/0_100.jpg"
    content = photo.read_bytes()
    photo.write_bytes(b"")
    ingest(spark, photos, store, ["Kiwi"], max_bad_share=0.5)
    assert pointers(store, QUARANTINED_IMAGES)["Kiwi"].rows == 1
    photo.write_bytes(content)
    ingest(spark, photos, store, ["Kiwi"], max_bad_share=0.5)
    assert pointers(store, QUARANTINED_IMAGES) == {}


def test_the_data_version_depends_on_neither_order_nor_chunks(
    spark: SparkSession, photos: Path, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ingest(spark, photos, store, ["Kiwi"]).classes["Kiwi"].data_version
    again = tmp_path / "again"
    (again / "Kiwi").mkdir(parents=True)
    for path in sorted((photos / "Kiwi").iterdir(), reverse=True):
        (again / "Kiwi" / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(ingest_module, "CHUNK_IMAGES", 3)
    second = ingest(spark, again, store, ["Kiwi"])
    assert second.classes["Kiwi"].data_version == first
    assert [part.rows for part in pointers(store, RAW_IMAGES)["Kiwi"].parts] == [3, 3, 2]
    assert list(table(store, RAW_IMAGES)["path"]) == list(images_in(photos, "Kiwi"))


@pytest.mark.parametrize("change", ["new", "changed", "renamed", "gone"])
def test_a_changed_photo_changes_only_the_data_version_of_its_class(
    spark: SparkSession, photos: Path, store: str, change: str
) -> None:
    before = ingest(spark, photos, store, CLASSES)
    photo = photos / "Kiwi/0_100.jpg"
    if change == "new":
        (photos / "Kiwi/new.png").write_bytes(picture())
    elif change == "changed":
        photo.write_bytes(picture())
    elif change == "renamed":
        photo.rename(photos / "Kiwi/renamed.jpg")
    else:
        photo.unlink()
    after = ingest(spark, photos, store, CLASSES)
    changed = {
        label for label in CLASSES if after.classes[label].data_version != before.classes[label].data_version
    }
    assert changed == {"Kiwi"}


def test_a_run_of_one_class_does_not_change_other_classes(
    spark: SparkSession, photos: Path, store: str
) -> None:
    ingest(spark, photos, store, CLASSES)
    before = pointers(store, RAW_IMAGES)
    ingest(spark, photos, store, ["Kiwi"], recompute=True)
    after = pointers(store, RAW_IMAGES)
    assert {label for label in CLASSES if before[label] != after[label]} == {"Kiwi"}


def test_a_row_group_has_at_most_128_images(spark: SparkSession, photos: Path, store: str) -> None:
    photo = photos / "Kiwi/0_100.jpg"
    for number in range(300):
        os.link(photo, photos / f"Kiwi/more-{number}.jpg")
    ingest(spark, photos, store, ["Kiwi"])
    [part] = pointers(store, RAW_IMAGES)["Kiwi"].parts
    assert sum(part.row_groups) == 308
    assert max(part.row_groups) <= 128
    assert len(set(table(store, RAW_IMAGES)["path"])) == 308
