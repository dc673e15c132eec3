"""Spark tasks in Python workers, the division of work among them, and their progress."""

import gc
import os
import random
import sys
from collections import defaultdict
from zipimport import zipimporter

import pytest
from pyspark.sql import SparkSession

from spark_jobs.tasks import Progress, run_tasks, spread
from tests.jobs import quiet


def test_between_tasks_a_worker_keeps_no_zip_importer_and_freezes_its_objects(spark: SparkSession) -> None:
    def look(number: int) -> tuple[int, int, int]:
        importers = sys.path_importer_cache.values()
        archives = [importer for importer in importers if isinstance(importer, zipimporter)]
        return os.getpid(), len(archives), gc.get_freeze_count()

    by_worker = defaultdict(list)
    looks = run_tasks(spark, "look", look, work=range(8), images=lambda _: 1, report=quiet)
    for worker, archives, frozen in looks:
        by_worker[worker].append((archives, frozen))
    assert sum(map(len, by_worker.values())) == 8
    for _, *later in by_worker.values():
        for archives, frozen in later:
            assert archives == 0
            assert frozen > 10_000


@pytest.mark.parametrize("parts", [1, 2, 7, 64])
@pytest.mark.parametrize("seed", range(10))
def test_spread_keeps_the_order_and_fills_at_most_the_given_number_of_lists(parts: int, seed: int) -> None:
    generator = random.Random(seed)
    pieces = [generator.randint(1, 128) for _ in range(generator.randint(1, 100))]
    lists = spread(pieces, lambda piece: piece, parts)
    assert [piece for pieces_of_task in lists for piece in pieces_of_task] == pieces
    assert all(lists)
    assert len(lists) <= parts
    share = sum(pieces) / parts
    assert all(sum(pieces_of_task) < share + pieces_of_task[-1] for pieces_of_task in lists)


def test_equal_pieces_are_spread_evenly() -> None:
    assert spread([2] * 6, lambda piece: piece, 3) == [[2, 2]] * 3


@pytest.mark.parametrize(
    ("done", "total", "seconds", "text"),
    [
        (1024, 5928, 3.3, "raw_images: 1,024 of 5,928 images, 310 images/s, 16 s left"),
        (0, 5928, 2.0, "raw_images: 0 of 5,928 images"),
        (1, 3, 4.0, "raw_images: 1 of 3 images, 0.2 images/s, 8 s left"),
        (5928, 5928, 19.0, "raw_images: 5,928 of 5,928 images, 312 images/s"),
        (1, 1, 0.0, "raw_images: 1 of 1 image"),
    ],
    ids=["under way", "nothing done", "slow", "finished", "one image"],
)
def test_progress_shows_the_images_then_the_rate_and_the_time_left(
    done: int, total: int, seconds: float, text: str
) -> None:
    assert str(Progress(stage="raw_images", done=done, total=total, seconds=seconds)) == text
