"""Versioned tables of independent partitions, which are written and read as a whole, without a lock.

A run writes the files of a class to a new directory under `<table>/version=<run>/`, which no reader opens
yet. The class becomes current when the run writes one small pointer, `<table>/current/<class>.json`: one
atomic PUT on S3, one rename on disk. Readers start from the pointers (`current`, `files`), so they see the
old version of a class or the new version, never a part of either.

Two runs on different classes write different pointers. Two runs on the same class each write a whole
version, and the pointer written last is current. A killed run leaves files without a pointer, which `sweep`
removes.

Table formats (Delta, Iceberg, Hudi) do much more, but need a catalogue or a lock service for concurrent
writers on S3. The partitions here are independent and always replaced as a whole, so one pointer for each
class is enough.
"""

import hashlib
import json
import re
import unicodedata
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from spark_jobs.errors import FruitsError
from spark_jobs.store.root import IO_THREADS, Root, open_root
from spark_jobs.store.schemas import VERSION_FOLDERS


@dataclass(frozen=True)
class Part:
    """One finished file: path relative to the store, rows of each Parquet row group, size in bytes."""

    path: str
    row_groups: list[int]
    bytes: int

    @property
    def rows(self) -> int:
        return sum(self.row_groups)


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """The current version of a class in a table, or of a table without classes.

    `data_version` identifies the content: equal versions hold equal data. `inputs` holds the data version of
    each input by its table. `details` holds further figures of this version.
    """

    label: str | None
    directory: str
    data_version: str
    parts: list[Part] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


class RowGroup(NamedTuple):
    """One row group of a Parquet file of a class, by its number: the smallest piece of work of a task."""

    label: str
    path: str
    number: int
    rows: int


def class_key(label: str) -> str:
    """A name for a class without characters that file systems, Spark or globs treat specially.

    It joins the ASCII letters and digits of the label and 12 hexadecimal digits of the label's SHA-256,
    which keep the names of different classes different.
    """
    ascii_label = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
    legible = re.sub(r"[^A-Za-z0-9]+", "-", ascii_label).strip("-")[:48]
    return f"{legible}-{hashlib.sha256(label.encode()).hexdigest()[:12]}".lstrip("-")


def new_directory(table: str, version: str) -> str:
    """A new directory, relative to the store, for one attempt of a run to write a table."""
    return f"{_folder(table)}/version={version}/{uuid.uuid4().hex[:8]}"


def pointer_path(table: str, label: str | None) -> str:
    folder = _folder(table)
    return f"{folder}/current.json" if label is None else f"{folder}/current/{class_key(label)}.json"


def _folder(table: str) -> str:
    return VERSION_FOLDERS.get(table, table)


def publish(store: Root, table: str, pointers: Iterable[Pointer]) -> None:
    """Makes each version current in one step. All files of the versions must be complete."""
    store.write_many(
        (pointer_path(table, pointer.label), json.dumps(asdict(pointer), ensure_ascii=False).encode())
        for pointer in pointers
    )


def current(store: Root, table: str, labels: Iterable[str] | None = None) -> dict[str, Pointer]:
    """The current version of every class of a table, or of each given class that has a version, by label.

    The result is sorted by label. All readers find their files here: other files are not part of the table.
    """
    wanted = None if labels is None else {pointer_path(table, label) for label in labels}
    paths = [info.path for info in store.list(f"{_folder(table)}/current") if info.path.endswith(".json")]
    chosen = [path for path in paths if wanted is None or path in wanted]
    pointers = [parse_pointer(content) for content in store.read_many(chosen)]
    return {
        str(pointer.label): pointer for pointer in sorted(pointers, key=lambda pointer: str(pointer.label))
    }


def current_one(store: Root, table: str) -> Pointer | None:
    """The current version of a table without classes, or None if no version was published."""
    try:
        return parse_pointer(store.read(pointer_path(table, None)))
    except FileNotFoundError:
        return None


def files(store_uri: str, table: str, labels: Iterable[str] | None = None) -> list[str]:
    """The full names of the current files of a table, sorted by class and path.

    For `pandas.read_parquet`, `spark.read.parquet(*files)` and pyarrow:

        pd.read_parquet(files("/data/store", "mobilenet_features", ["Lychee"]), partitioning=None)

    Without `partitioning=None`, pyarrow would read `version=...` in the names as one more column.
    """
    store = open_root(store_uri)
    return [
        store.uri_of(part.path)
        for pointer in current(store, table, labels).values()
        for part in pointer.parts
    ]


def parse_pointer(content: bytes) -> Pointer:
    fields = json.loads(content)
    return Pointer(**fields | {"parts": [Part(**part) for part in fields["parts"]]})


class PartWriter:
    """Writes one Parquet file. Each `write` adds one row group; `close` returns the finished file."""

    def __init__(self, store: Root, directory: str, schema: pa.Schema) -> None:
        # The name is new for every attempt, so a task that Spark runs twice never overwrites its own file.
        self.path = f"{directory}/part-{uuid.uuid4().hex}.parquet"
        self.row_groups: list[int] = []
        self._stream = store.create(self.path)
        # Photos and features do not repeat: a dictionary would only make the writing 10 times slower.
        self._writer = pq.ParquetWriter(
            self._stream,
            schema,
            compression="snappy",
            use_dictionary=["label", "format", "reason"],
            write_page_checksum=True,
        )

    def write(self, rows: pa.RecordBatch) -> None:
        self._writer.write_batch(rows)
        self.row_groups.append(rows.num_rows)

    def close(self) -> Part:
        self._writer.close()
        size = self._stream.tell()
        self._stream.close()
        return Part(self.path, self.row_groups, size)


def read_row_groups(
    store: Root, path: str, row_groups: Sequence[int], columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Yields one record batch for each given row group of a Parquet file, in the given order.

    Raises `FruitsError`, with the name of the file, where the file is missing or damaged.
    """
    try:
        with store.fs.open_input_file(path) as source:
            file = pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True)
            for index in row_groups:
                table = file.read_row_group(index, columns=list(columns), use_threads=False)
                yield from table.combine_chunks().to_batches()
    except (OSError, pa.ArrowInvalid) as error:
        # pyarrow names a failure of S3 by these words. Spark then repeats the task.
        if "AWS Error" in str(error) and not isinstance(error, FileNotFoundError):
            raise
        raise FruitsError(
            f"{store.uri_of(path)} cannot be read ({error}): it was removed or changed after it was written"
        ) from error


def row_groups(pointers: dict[str, Pointer]) -> list[RowGroup]:
    """Every row group of the given classes, in the order of the classes and their parts."""
    return [
        RowGroup(label=label, path=part.path, number=number, rows=rows)
        for label, pointer in pointers.items()
        for part in pointer.parts
        for number, rows in enumerate(part.row_groups)
    ]


def rows_in(groups: Iterable[RowGroup]) -> int:
    return sum(group.rows for group in groups)


def sweep(store: Root, table: str, keep: timedelta) -> int:
    """Removes the directories of a table that no pointer names, and returns their number.

    A directory is removed once both its newest file and the pointer that replaced it are older than `keep`.
    So a directory that a run still writes to is kept, and a reader of the old pointer has `keep` to finish.
    """
    folder = _folder(table)
    cutoff = datetime.now(UTC) - keep
    newest: dict[str, datetime] = defaultdict(lambda: datetime.min.replace(tzinfo=UTC))
    pointers: dict[str, datetime] = {}
    for info in store.list(folder):
        parts = info.path.split("/")
        if parts[1].startswith("version=") and len(parts) > 4:
            directory = "/".join(parts[:4])
            newest[directory] = max(newest[directory], info.mtime)
        elif info.path.endswith(".json") and parts[1] in ("current", "current.json"):
            pointers[info.path] = info.mtime

    def replaced(directory: str) -> datetime:
        key = directory.rpartition("/")[2]
        moment = pointers.get(f"{folder}/current/{key}.json") or pointers.get(f"{folder}/current.json")
        return moment or newest[directory]

    old = [path for path in newest if max(newest[path], replaced(path)) < cutoff]
    if not old:
        return 0
    referenced = {parse_pointer(content).directory for content in store.read_many(pointers)}
    unreferenced = [path for path in old if path not in referenced]
    with ThreadPoolExecutor(IO_THREADS) as pool:
        list(pool.map(store.remove, unreferenced))
    return len(unreferenced)


def combined_version(*parts: str) -> str:
    """A data version from other versions, in their order: 16 hexadecimal digits of a SHA-256."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
