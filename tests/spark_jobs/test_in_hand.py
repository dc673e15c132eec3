"""A run that stands still names its photos, and a lost task is tried again with its photos one by one."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from pyspark import cloudpickle
from pyspark.sql import SparkSession

from spark_jobs import ingest_images, tasks
from spark_jobs.in_hand import forget_hands, photos_in_hand, watched_hand
from spark_jobs.photos import guarded
from spark_jobs.photos.images import Decoded, decode
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import QUARANTINED_IMAGES, RAW_IMAGES
from spark_jobs.tasks import Progress, run_tasks
from tests.conftest import IMAGES_PER_CLASS
from tests.jobs import ingest, table
from tests.support import wait_for

# Spark's workers cannot import the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def test_a_photo_is_named_while_it_is_in_hand_for_long(store: str) -> None:
    root = open_root(store)
    with watched_hand(root, "run", long=0.1) as hand:
        assert photos_in_hand(root, "run") == []
        hand.take("Kiwi/slow.jpg")
        wait_for(lambda: photos_in_hand(root, "run") == ["Kiwi/slow.jpg"], 10)
        hand.take("Kiwi/next.jpg")
        wait_for(lambda: photos_in_hand(root, "run") == ["Kiwi/next.jpg"], 10)
    assert photos_in_hand(root, "run") == []
    assert not (Path(store) / "in_hand").exists()


def test_the_names_that_a_killed_worker_has_left_go_with_the_run(store: str) -> None:
    root = open_root(store)
    root.write("in_hand/run/1", b"Kiwi/slow.jpg")
    forget_hands(root, "run")
    assert photos_in_hand(root, "run") == []


def test_a_stage_that_stands_still_names_its_photos(
    spark: SparkSession, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "STILL_SECONDS", 1.0)
    monkeypatch.setattr(tasks, "REPORT_SECONDS", 0.5)

    def work(path: str) -> None:
        with watched_hand(open_root(store), "run", long=0.1) as hand:
            hand.take(path)
            time.sleep(4)

    reports: list[Progress] = []
    run_tasks(
        spark,
        "raw_images: ingest",
        work,
        work=["Kiwi/slow.jpg"],
        images=lambda _: 1,
        report=reports.append,
        in_hand=lambda: photos_in_hand(open_root(store), "run"),
    )
    said = "raw_images: 0 of 1 image; it has not moved for a minute. In hand for long: 'Kiwi/slow.jpg'"
    assert said in list(map(str, reports))
    assert str(reports[-1]).startswith("raw_images: 1 of 1 image, ")


def test_only_the_first_five_photos_are_named() -> None:
    progress = Progress(stage="raw_images", done=0, total=9, seconds=60.0, in_hand=list("abcdef"))
    assert str(progress).endswith("In hand for long: 'a', 'b', 'c', 'd', 'e', ...")


def crashing_worker(params: ingest_images.IngestParams, pieces: list[Any]) -> list[Any]:
    """A task in whose own process, but not in a child of it, the decoder crashes for one photo."""
    from spark_jobs.ingest_images import _ingest as really  # in the worker, this is the function itself

    def crash(content: bytes, *arguments: int, **options: bool) -> Decoded:
        if b"CRASH" in content:
            os.kill(os.getpid(), signal.SIGSEGV)
        return decode(content, *arguments, **options)

    with mock.patch.object(guarded, "decode", crash):
        return really(params, pieces)


def test_a_lost_task_is_tried_again_with_each_photo_in_a_child(
    spark: SparkSession, photos: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = photos / "Kiwi/0_100.jpg"
    content = photo.read_bytes()
    quantization = content.index(b"\xff\xdb")
    photo.write_bytes(content[:quantization] + b"\xff\xe2\0\x13ICC_PROFILE\0CRASH" + content[quantization:])
    monkeypatch.setattr(ingest_images, "_ingest", crashing_worker)
    report = ingest(spark, photos, store, ["Kiwi"])
    assert report.failed == {}
    assert len(table(store, RAW_IMAGES)) == IMAGES_PER_CLASS
    assert table(store, QUARANTINED_IMAGES).empty
