"""Converts a store of release 0.1, where each table had a pointer for each class, to Delta tables.

Files are written anew, because Delta has no lists of a fixed size, and readers take `version=...` in a path
for a column. Photos are not read again, and nothing is computed again: the data versions stay the same.
"""

import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pyarrow as pa
from pyspark.sql import SparkSession

from spark_jobs.errors import FruitsError
from spark_jobs.photos.model_input import preprocessing
from spark_jobs.store.classes import TABLES
from spark_jobs.store.csv_copies import sha256_of
from spark_jobs.store.leases import Lease, held_lease
from spark_jobs.store.parquet import PartWriter, read_row_groups
from spark_jobs.store.pointers import current_by_class, new_directory, parse_pointer, publish
from spark_jobs.store.root import Root, concurrently, open_root
from spark_jobs.store.schemas import (
    FEATURE_EXTRACTOR,
    MOBILENET_FEATURES,
    PCA_FEATURES_CSV,
    SCHEMAS,
)
from spark_jobs.store.tables import Change, TableFile, commit, upgrade_table
from spark_jobs.store.versions import Part, Version, class_key
from spark_jobs.tasks import Reporter, even_tasks, run_tasks


@contextmanager
def prepared_store(
    spark: SparkSession, uri: str, run: str, report: Reporter, erasures: str | None = None
) -> Iterator[tuple[Root, Lease]]:
    """The store for a job that writes to it, with the lease of its run, and converted if need be.

    `erasures` is that of `held_lease`.
    """
    store = open_root(uri)
    with held_lease(store, run, erasures) as lease:
        convert_store(spark, store, lease, report)
        concurrently(lambda table: upgrade_table(store, table), TABLES)
        yield store, lease


def convert_store(spark: SparkSession, store: Root, lease: Lease, report: Reporter) -> None:
    """Converts the tables and CSVs of release 0.1, if there are any.

    A class whose pointer or file is missing or damaged is left out: its photos are ingested again.
    """
    old = concurrently(lambda output: bool(store.list(f"{output}/current")), (*TABLES, PCA_FEATURES_CSV))
    if any(old):
        for table in TABLES:
            _convert_table(spark, store, table, lease, report)
        _convert_csvs(store, lease)


def _convert_table(spark: SparkSession, store: Root, table: str, lease: Lease, report: Reporter) -> None:
    old = _old_versions(store, table)
    if old:
        written = run_tasks(
            spark,
            f"{table}: convert from release 0.1",
            partial(_rewrite, store.uri, table, lease.run),
            work=even_tasks(spark, old, lambda version: version.rows + 1, least=1, most=2048),
            images=lambda versions: sum(version.rows for version in versions),
            report=report,
        )
        parts = {label: parts for results in written for label, parts in results}

        def absent(files: Sequence[TableFile]) -> Change:
            # A class that is in the table was written by another run since the conversion began.
            present = {file.label for file in files}
            return Change({label: new for label, new in parts.items() if label not in present}, [])

        commit(store, table, lease, absent)
    store.remove(f"{table}/current")


def _old_versions(store: Root, table: str) -> list[Version]:
    """The current versions of release 0.1, sorted by label."""
    return list(current_by_class(store, table).values())


def _rewrite(store_uri: str, table: str, run: str, versions: list[Version]) -> list[tuple[str, list[Part]]]:
    """One Spark task: writes the files of its classes anew, one file for each class."""
    store = open_root(store_uri)
    results = []
    for version in versions:
        try:
            results.append((str(version.label), _rewrite_class(store, table, run, version)))
        except (FruitsError, KeyError, TypeError, ValueError):  # of a pointer without what it should say
            continue
    return results


def _rewrite_class(store: Root, table: str, run: str, version: Version) -> list[Part]:
    if not version.rows:
        return []
    made_with = {}
    if table == MOBILENET_FEATURES:
        extractor = version.inputs[FEATURE_EXTRACTOR]
        made_with = {FEATURE_EXTRACTOR: extractor, "preprocessing": preprocessing(scaled=False)}
    writer = PartWriter(store, f"{table}/{run}", SCHEMAS[table], made_with)
    for rows in _rows(store, table, version):
        writer.write(rows)
    return [writer.close()]


def _rows(store: Root, table: str, version: Version) -> Iterator[pa.RecordBatch]:
    schema = SCHEMAS[table]
    for part in version.parts:
        for rows in read_row_groups(store, part.path, range(len(part.row_groups)), schema.names):
            yield pa.RecordBatch.from_arrays(
                [rows.column(column.name).cast(column.type) for column in schema], schema=schema
            )


def _convert_csvs(store: Root, lease: Lease) -> None:
    """Gives a version to each CSV of release 0.1, where pointers named the CSVs themselves.

    A CSV whose size is not that of its pointer is left out: its class is projected again.
    """
    pointers = f"{PCA_FEATURES_CSV}/current"
    paths = [info.path for info in store.list(pointers) if info.path.endswith(".json")]
    if not paths:
        return
    sizes = {info.path: info.size for info in store.list(PCA_FEATURES_CSV)}
    known, directory = current_by_class(store, PCA_FEATURES_CSV), new_directory(PCA_FEATURES_CSV, lease.run)
    converted = []
    for path, content in store.read_present(paths).items():
        try:
            version = parse_pointer(path, content)
            old = version.parts[0]
        except (FruitsError, IndexError):
            continue
        label = str(version.label)
        if label in known or sizes.get(old.path) != old.bytes:
            continue
        part = Part(f"{directory}/{class_key(label)}/part.csv", old.row_groups, old.bytes)
        store.copy(old.path, part.path)
        details = {"sha256": sha256_of(store, part.path)}
        converted.append(
            replace(version, directory=posixpath.dirname(part.path), parts=[part], details=details)
        )
    publish(store, PCA_FEATURES_CSV, converted)
    store.remove(pointers)
