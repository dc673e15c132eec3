"""Puts the small files of a class together, so that reading the class takes few requests.

The rows, and so the data versions, stay the same. delta-rs's `optimize.compact` is not used: its files have
neither the small row groups nor the page checksums of this project.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple

import pyarrow as pa
from pyspark.sql import SparkSession

from spark_jobs.errors import FruitsError
from spark_jobs.store.leases import Lease
from spark_jobs.store.parquet import ROW_GROUP_BYTES, ROW_GROUP_IMAGES, PartWriter, read_row_groups
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import SCHEMAS
from spark_jobs.store.tables import Change, TableFile, commit, current, current_files
from spark_jobs.store.versions import Part
from spark_jobs.tasks import Reporter, even_tasks, run_tasks
from spark_jobs.wording import counted

# A class with more small files than this is compacted.
MANY_FILES = 16


class _Small(NamedTuple):
    """The small files of one class."""

    label: str
    parts: list[Part]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


class _Compacted(NamedTuple):
    label: str
    old: list[str]  # paths, relative to the store
    new: list[Part]


def compact_table(spark: SparkSession, store: Root, table: str, lease: Lease, report: Reporter) -> None:
    """Compacts each class of a table that has many small files, in one commit.

    A class that another run changes meanwhile stays as that run leaves it; a damaged class is left alone.
    """
    small: dict[str, int] = defaultdict(int)
    for file in current_files(store, table) or ():
        small[file.label] += _is_small(file)
    crowded = [label for label, files in small.items() if files > MANY_FILES]
    if not crowded:
        return
    pieces = [
        _Small(label, [part for part in version.parts if _is_small(part)])
        for label, version in current(store, table, crowded).items()
        if not version.damage
    ]
    compacted = run_tasks(
        spark,
        f"{table}: compact, {counted(len(pieces), 'class', 'classes')}",
        partial(_compact, store.uri, table, lease.run),
        work=even_tasks(spark, pieces, lambda piece: piece.rows, least=ROW_GROUP_IMAGES, most=2048),
        images=lambda pieces: sum(piece.rows for piece in pieces),
        report=report,
    )

    def still_there(files: Sequence[TableFile]) -> Change:
        by_path = {f"{table}/{file.path}": file for file in files}
        whole = [result for results in compacted for result in results if by_path.keys() >= set(result.old)]
        old = [by_path[path] for result in whole for path in result.old]
        return Change({result.label: result.new for result in whole}, old)

    commit(store, table, lease, still_there, data_change=False)


def _is_small(file: TableFile | Part) -> bool:
    """Whether a file fills no row group."""
    return file.rows < ROW_GROUP_IMAGES and file.bytes < ROW_GROUP_BYTES


def _compact(store_uri: str, table: str, run: str, pieces: list[_Small]) -> list[_Compacted]:
    """One Spark task: writes the small files of its classes anew, one file for all that were made alike."""
    store = open_root(store_uri)
    compacted = []
    for piece in pieces:
        alike = sorted(piece.parts, key=lambda part: (*_made(part), part.first))
        try:
            new = [_merge(store, table, run, list(parts)) for _, parts in groupby(alike, key=_made)]
        except FruitsError:
            continue  # the class is damaged: whoever reads it says so
        compacted.append(_Compacted(piece.label, [part.path for part in piece.parts], new))
    return compacted


def _made(part: Part) -> tuple[str, str, list[tuple[str, str]]]:
    """How a file was made, apart from its photos."""
    return part.rules, part.metadata, sorted(part.made_with.items())


def _merge(store: Root, table: str, run: str, parts: list[Part]) -> Part:
    """Writes the rows of several files as one file."""
    first = parts[0]
    writer = PartWriter(store, f"{table}/{run}", SCHEMAS[table], first.made_with, first.rules, first.metadata)
    for rows in _full_groups(_rows(store, table, parts)):
        writer.write(rows)
    return writer.close()


def _rows(store: Root, table: str, parts: list[Part]) -> Iterator[pa.RecordBatch]:
    for part in parts:
        yield from read_row_groups(store, part.path, range(len(part.row_groups)), SCHEMAS[table].names)


def _full_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Joins record batches, in their order, as long as they fit into one row group."""
    group: list[pa.RecordBatch] = []
    for batch in batches:
        rows = sum(member.num_rows for member in group) + batch.num_rows
        size = sum(member.nbytes for member in group) + batch.nbytes
        if group and (rows > ROW_GROUP_IMAGES or size > ROW_GROUP_BYTES):
            yield pa.concat_batches(group)
            group = []
        group.append(batch)
    if group:
        yield pa.concat_batches(group)
