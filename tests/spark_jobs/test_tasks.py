"""Spark tasks in Python workers: what one leaves for the next, and how far a stage says that it is."""

import gc
import os
import random
import sys
from collections import defaultdict
from zipimport import zipimporter

import pytest
from pyspark.sql import SparkSession

from spark_jobs.tasks import run_tasks, spread
from tests.support import quiet


def test_a_worker_collects_and_reads_again_little_between_two_tasks(spark: SparkSession) -> None:
    def look(number: int) -> tuple[int, int, int]:
        archives = [one for one in sys.path_importer_cache.values() if isinstance(one, zipimporter)]
        return os.getpid(), len(archives), gc.get_freeze_count()

    by_worker = defaultdict(list)
    for worker, archives, frozen in run_tasks(spark, "look", look, range(8), lambda _: 1, quiet):
        by_worker[worker].append((archives, frozen))
    assert sum(len(looks) for looks in by_worker.values()) == 8
    for _, *later in by_worker.values():
        for archives, frozen in later:
            assert archives == 0
            assert frozen > 10_000


@pytest.mark.parametrize("parts", [1, 2, 7, 64])
@pytest.mark.parametrize("seed", range(10))
def test_spread_pieces_keep_their_order_in_no_more_lists_than_asked_for(parts: int, seed: int) -> None:
    draw = random.Random(seed)
    pieces = [draw.randint(1, 128) for _ in range(draw.randint(1, 100))]
    lists = spread(pieces, lambda piece: piece, parts)
    assert [piece for one in lists for piece in one] == pieces
    assert all(lists)
    assert len(lists) <= parts
    assert all(sum(one) < sum(pieces) / parts + one[-1] for one in lists)


def test_pieces_that_can_be_spread_evenly_are() -> None:
    assert spread([2] * 6, lambda piece: piece, 3) == [[2, 2]] * 3
