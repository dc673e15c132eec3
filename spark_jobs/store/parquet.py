"""Writes and reads the Parquet files of the tables: small row groups, and checksums that are verified."""

import json
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spark_jobs.dimensions import FEATURES
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import SCHEMAS
from spark_jobs.store.versions import Part, Version, digest_text, photo_digest

# Feature extraction divides its work by row groups: 128 images take 0.6 s on one core.
ROW_GROUP_IMAGES = 128
ROW_GROUP_BYTES = 4 << 20

# The key in the footer of a file under which it says what is in it, as JSON.
_FOOTER = b"fruits"
_SAID = {"first", "digest", "made_with", "counts", "rules", "metadata"}


_LARGE = ("content", "features", "input")

# The footer of most files is shorter. pyarrow would read 64 KB, often more than the columns that are read.
_END_BYTES = 16 << 10

# A column has the same type in each table.
_TYPES = {column.name: column.type for schema in SCHEMAS.values() for column in schema}


class RowGroup(NamedTuple):
    """One row group of a Parquet file of a class, by its number: the smallest piece of work of a task.

    `picks` are the numbers of the wanted rows in it, and `rows` how many they are; None are all rows. `bytes`
    are about those of the rows in the file.
    """

    label: str
    path: str
    number: int
    rows: int
    picks: tuple[int, ...] | None = None
    bytes: int = 0


class PartWriter:
    """Writes one Parquet file of a table. Each `write` adds one row group; `close` returns the finished file.

    The rows need the columns `path` and `sha256`. `made_with`, `rules` and `metadata` are of the `Part`. Of
    feature vectors, it counts those with NaN or infinity, and those whose values are all the same.
    """

    def __init__(
        self,
        store: Root,
        directory: str,
        schema: pa.Schema,
        made_with: Mapping[str, str] | None = None,
        rules: str = "",
        metadata: str = "",
    ) -> None:
        # The name is new for every attempt, so a task that Spark runs twice never overwrites its own file.
        self.path = f"{directory}/part-{uuid.uuid4().hex}.parquet"
        self._store = store
        self._made_with, self._rules, self._metadata = dict(made_with or {}), rules, metadata
        self._row_groups: list[int] = []
        self._first = ""
        self._digest = 0
        self._counts = {"non_finite": 0, "constant": 0} if "features" in schema.names else {}
        self._stream = store.create(self.path)
        # Photos and features do not repeat: a dictionary would only make the writing 10 times slower.
        self._writer = pq.ParquetWriter(
            self._stream,
            schema,
            compression="snappy",
            use_dictionary=["label", "format", "reason", "preprocessing"],
            # The least and the greatest photo would fill the footer, which each run reads.
            write_statistics=[name for name in schema.names if name not in _LARGE],
            write_page_checksum=True,
        )

    def write(self, rows: pa.RecordBatch) -> None:
        self._writer.write_batch(rows)
        paths, hashes = rows.column("path").to_pylist(), rows.column("sha256").to_pylist()
        self._first = self._first if self._row_groups else paths[0]
        self._digest += sum(map(photo_digest, paths, hashes))
        self._row_groups.append(rows.num_rows)
        if self._counts:
            vectors = vectors_in(rows)
            self._counts["non_finite"] += int(np.count_nonzero(~np.isfinite(vectors).all(axis=1)))
            self._counts["constant"] += int(np.count_nonzero(np.ptp(vectors, axis=1) == 0))

    def close(self) -> Part:
        """Finishes the file and syncs it."""
        content: dict[str, Any] = {
            "first": self._first,
            "digest": digest_text(self._digest),
            "made_with": self._made_with,
            "counts": self._counts,
            "rules": self._rules,
            "metadata": self._metadata,
        }
        self._writer.add_key_value_metadata({_FOOTER.decode(): json.dumps(content)})
        self._writer.close()
        size = self._stream.tell()
        self._stream.close()
        self._store.sync(self.path)
        return Part(self.path, self._row_groups, size, **content)


def write_without(store: Root, directory: str, schema: pa.Schema, part: Part, paths: Collection[str]) -> Part:
    """Writes the rows of a file anew, without the rows of some photos. At least one row must be left.

    Raises `FruitsError` where the file is missing or damaged.
    """
    writer = PartWriter(store, directory, schema, part.made_with, part.rules, part.metadata)
    for rows in read_row_groups(store, part.path, range(len(part.row_groups)), schema.names):
        left = rows.filter(pc.invert(pc.is_in(rows.column("path"), pa.array(paths, pa.string()))))
        if left.num_rows:
            writer.write(left)
    return writer.close()


@lru_cache(maxsize=1 << 16)
def read_part(store_uri: str, path: str, size: int) -> Part:
    """What a file of a table, of `size` bytes, says of itself. It reads its footer, once in a process.

    Raises `FruitsError`, with the name of the file, where the file is missing, damaged, or of other origin.
    """
    store = open_root(store_uri)
    with _open(store, path) as file:
        return _part(store, path, size, file.metadata)


def read_columns(store: Root, path: str, size: int, columns: Sequence[str]) -> tuple[Part, pa.Table]:
    """What a file of a table, of `size` bytes, says of itself, and some of its columns.

    A plan, an asset and a job ask the same one after another. So the last files are read once in a process.
    Raises the errors of `read_part`.
    """
    return _read_columns(store.uri, path, size, tuple(columns))


@lru_cache(maxsize=1 << 11)
def _read_columns(store_uri: str, path: str, size: int, columns: tuple[str, ...]) -> tuple[Part, pa.Table]:
    store = open_root(store_uri)
    with _open(store, path) as file:
        part = _part(store, path, size, file.metadata)
        return part, _with_all_columns(file.read(columns=list(columns), use_threads=False), columns)


def _part(store: Root, path: str, size: int, metadata: pq.FileMetaData) -> Part:
    said = _parsed((metadata.metadata or {}).get(_FOOTER, b""))
    if said is None:
        raise FruitsError(f"{store.uri_of(path)} was not written by this platform")
    groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    return Part(path, groups, size, **said)


def _parsed(footer: bytes) -> dict[str, Any] | None:
    """What a footer says of its file, without fields that this release does not know.

    It is None for a footer that `PartWriter` did not write.
    """
    try:
        said = json.loads(footer)
        right = (
            re.fullmatch(r"[0-9a-f]{64}", said["digest"])
            and all(
                isinstance(text, str)
                for text in (
                    *(said.get(name, "") for name in ("first", "rules", "metadata")),
                    *said["made_with"].values(),
                )
            )
            and all(isinstance(count, int) for count in said["counts"].values())
        )
        return {name: said[name] for name in _SAID & said.keys()} if right else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def read_row_groups(
    store: Root,
    path: str,
    row_groups: Sequence[int],
    columns: Sequence[str] | Callable[[Mapping[str, Any]], Sequence[str]],
) -> Iterator[pa.RecordBatch]:
    """Yields one record batch for each given row group of a Parquet file, in the given order.

    A function may choose the `columns`. It gets the values, by column, that all rows of a row group share.
    Raises `FruitsError`, with the name of the file, where the file is missing or damaged.
    """
    with _open(store, path) as file:
        for index in row_groups:
            chosen = columns(_shared(file.metadata.row_group(index))) if callable(columns) else columns
            table = file.read_row_group(index, columns=list(chosen), use_threads=False)
            yield from _with_all_columns(table, chosen).combine_chunks().to_batches()


def _shared(group: pq.RowGroupMetaData) -> dict[str, Any]:
    """The values, by column, that the statistics of a row group give for all of its rows."""
    columns = (group.column(number) for number in range(group.num_columns))
    return {
        column.path_in_schema: column.statistics.min
        for column in columns
        if column.is_stats_set
        and column.statistics.has_min_max
        and column.statistics.null_count == 0
        and column.statistics.min == column.statistics.max
    }


def _with_all_columns(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The columns in their order. A column that an earlier release did not write has no values."""
    for name in columns:
        if name not in rows.schema.names:
            rows = rows.append_column(name, pa.nulls(rows.num_rows, _TYPES[name]))
    return rows.select(list(columns))


def read_column(store: Root, version: Version, column: str) -> list[Any]:
    """The values of a column of a class. Raises `FruitsError` where a file is missing or damaged."""
    return [value for part in version.parts for value in read_column_of(store, part, column)]


def read_column_of(store: Root, part: Part, column: str) -> list[Any]:
    """The values of a column of a file. Raises `FruitsError` where it is missing or damaged."""
    return [
        value
        for rows in read_row_groups(store, part.path, range(len(part.row_groups)), [column])
        for value in rows.column(column).to_pylist()
    ]


@contextmanager
def _open(store: Root, path: str) -> Iterator[pq.ParquetFile]:
    """An open Parquet file, whose errors become a `FruitsError` with its name."""
    try:
        with store.fs.open_input_file(store.inside(path)) as source:
            footer = _footer(source)
            yield pq.ParquetFile(source, metadata=footer, pre_buffer=True, page_checksum_verification=True)
    except (OSError, pa.ArrowInvalid, ValueError) as error:
        # pyarrow names a failure of S3 by these words. Spark then repeats the task.
        if "AWS Error" in str(error) and not isinstance(error, FileNotFoundError):
            raise
        raise FruitsError(
            f"{store.uri_of(path)} cannot be read ({error}): it was removed or changed after it was written"
        ) from error


def _footer(source: pa.NativeFile) -> pq.FileMetaData:
    """The footer of a Parquet file. Its length is in the four bytes before the last four."""
    size = source.size()
    end = source.read_at(min(size, _END_BYTES), max(0, size - _END_BYTES))
    length = int.from_bytes(end[-8:-4], "little") + 8
    if len(end) < length <= size:
        end = source.read_at(length, size - length)
    return pq.read_metadata(pa.BufferReader(end))


def row_groups(versions: Mapping[str, Version]) -> list[RowGroup]:
    """Every row group of the given classes, in the order of the classes and their parts."""
    return [
        RowGroup(label=label, path=part.path, number=number, rows=rows)
        for label, version in versions.items()
        for part in version.parts
        for number, rows in enumerate(part.row_groups)
    ]


def rows_in(groups: Iterable[RowGroup]) -> int:
    return sum(group.rows for group in groups)


def vectors_column(features: NDArray[np.float32]) -> pa.ListArray:
    """Feature vectors (n, 1280) as a column of lists. Delta has no lists of a fixed size."""
    ends = np.arange(0, features.size + 1, features.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(ends, features.reshape(-1))


def vectors_in(rows: pa.RecordBatch) -> NDArray[np.float32]:
    """The feature vectors of rows of `mobilenet_features`: (n, 1280)."""
    vectors: NDArray[np.float32] = rows.column("features").flatten().to_numpy().reshape(-1, FEATURES)
    return vectors


def vectors_at(store: Root, part: Part, rows: Sequence[int]) -> NDArray[np.float32]:
    """The feature vectors of some rows of a file of `mobilenet_features`: (n, 1280), in the given order.

    It reads only their row groups. Raises `FruitsError` where the file is missing or damaged.
    """
    ends = np.cumsum(part.row_groups)
    groups, of_row = np.unique(np.searchsorted(ends, rows, side="right"), return_inverse=True)
    batches = read_row_groups(store, part.path, groups.tolist(), ["features"])
    read = np.concatenate([np.empty((0, FEATURES), np.float32), *map(vectors_in, batches)])
    # Where the row groups begin in the file, and in what was read.
    starts, read_starts = (ends - part.row_groups)[groups], np.cumsum([0, *np.take(part.row_groups, groups)])
    chosen: NDArray[np.float32] = read[np.array(rows, np.intp) - starts[of_row] + read_starts[of_row]]
    return chosen
