"""Spark tasks in Python workers: what one leaves for the next, and how far a stage says that it is."""

import gc
import os
import sys
from collections import defaultdict
from zipimport import zipimporter

from pyspark.sql import SparkSession
from support import quiet

from fruits_assets.jobs.tasks import run_tasks


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
