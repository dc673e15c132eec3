"""Compaction: a class with many small files gets few files, and keeps its rows and its data version."""

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from spark_jobs.compact_tables import MANY_FILES, compact_table
from spark_jobs.store.leases import Lease, held_lease
from spark_jobs.store.parquet import ROW_GROUP_IMAGES, read_column
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.tables import current, log_entry, replace_classes
from spark_jobs.tasks import Progress
from tests.jobs import quiet
from tests.spark_jobs.store.written import TABLE, commit_class, write_part

SMALL_FILES = MANY_FILES + 4


@pytest.fixture
def root(store: str) -> Root:
    return open_root(store)


def commit_small_files(root: Root, label: str, files: int, first: int = 0) -> None:
    """Replaces a class by files of 10 rows each, in an order that is not that of their paths."""
    with held_lease(root, "run") as lease:
        numbers = sorted(range(files), key=lambda number: number * 7 % files)
        parts = [
            write_part(root, label, [f"{first + 10 * number + row:05}" for row in range(10)])
            for number in numbers
        ]
        replace_classes(root, TABLE, {label: parts}, lease)


def compact(spark: SparkSession, root: Root) -> None:
    with held_lease(root, "compaction") as lease:
        compact_table(spark, root, TABLE, lease, quiet)


def test_a_class_with_many_small_files_gets_one_file_with_the_same_rows(
    spark: SparkSession, root: Root
) -> None:
    commit_small_files(root, "Kiwi", SMALL_FILES)
    before = current(root, TABLE)["Kiwi"]
    compact(spark, root)
    after = current(root, TABLE)["Kiwi"]
    assert (len(before.parts), len(after.parts)) == (SMALL_FILES, 1)
    assert after.data_version == before.data_version
    assert read_column(root, after, "path") == sorted(read_column(root, before, "path"))


def test_compacted_files_have_the_row_groups_and_checksums_of_the_jobs(
    spark: SparkSession, root: Root
) -> None:
    commit_small_files(root, "Kiwi", SMALL_FILES)
    compact(spark, root)
    [part] = current(root, TABLE)["Kiwi"].parts
    assert max(part.row_groups) <= ROW_GROUP_IMAGES
    assert len(part.row_groups) == -(-SMALL_FILES * 10 // (ROW_GROUP_IMAGES // 10 * 10))
    assert "=" not in part.path
    damaged = bytearray(root.read(part.path))
    damaged[200] ^= 1
    root.write(part.path, bytes(damaged))
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(root.uri_of(part.path), page_checksum_verification=True).read()


def test_compaction_changes_no_data_in_the_log(spark: SparkSession, root: Root) -> None:
    commit_small_files(root, "Kiwi", SMALL_FILES)
    compact(spark, root)
    version = DeltaTable(root.uri_of(TABLE)).version()
    entry = root.read(log_entry(TABLE, version)).decode()
    assert entry.count('"dataChange":false') == SMALL_FILES + 1
    assert '"dataChange":true' not in entry


def test_classes_with_few_small_files_and_large_files_are_left_alone(spark: SparkSession, root: Root) -> None:
    commit_small_files(root, "Few", MANY_FILES)
    large = commit_class(root, "Large", [f"{row:05}" for row in range(ROW_GROUP_IMAGES)])
    before = DeltaTable(root.uri_of(TABLE)).version()
    compact(spark, root)
    assert DeltaTable(root.uri_of(TABLE)).version() == before
    assert current(root, TABLE)["Large"].parts == [large]


def test_a_class_that_another_run_replaces_meanwhile_stays_as_that_run_leaves_it(
    spark: SparkSession, root: Root
) -> None:
    for label in ("Kiwi", "Lemon"):
        commit_small_files(root, label, SMALL_FILES)
    kept: dict[str, Lease] = {}

    def replace_kiwi(progress: Progress) -> None:
        """Runs while the small files are compacted, before the commit."""
        if not kept and progress.done == progress.total:
            commit_class(root, "Kiwi", ["of another run"], "another")
            kept["done"] = lease

    with held_lease(root, "compaction") as lease:
        compact_table(spark, root, TABLE, lease, replace_kiwi)
    after = current(root, TABLE)
    assert read_column(root, after["Kiwi"], "path") == ["of another run"]
    assert len(after["Lemon"].parts) == 1
    assert after["Lemon"].rows == 10 * SMALL_FILES


def test_a_damaged_class_is_left_alone_and_other_classes_are_compacted(
    spark: SparkSession, root: Root
) -> None:
    for label in ("Kiwi", "Lemon"):
        commit_small_files(root, label, SMALL_FILES)
    root.remove_file(current(root, TABLE)["Kiwi"].parts[0].path)
    compact(spark, root)
    after = current(root, TABLE)
    assert len(after["Kiwi"].parts) == SMALL_FILES
    assert len(after["Lemon"].parts) == 1
