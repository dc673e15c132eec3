"""Versioned tables of independent partitions, replaced whole and read whole, without a lock.

A run writes the files of a class under `<table>/version=<run>/`, in a directory of its own that no
reader looks at. The class becomes current when one small pointer, `<table>/current/<class>.json`,
is put: one atomic PUT on S3, one rename on disk. Readers start from the pointers (`current`,
`files`), so they see the old version of a class or the new one, never half of either. Two runs on
different classes touch different pointers; two runs on the same class each put a whole version, and
the last one stands. A run that dies leaves files that nothing points to, which `sweep` removes.

Table formats (Delta, Iceberg, Hudi) do much more, and for it need a catalogue or a lock service
where two writers meet on S3. The partitions here are independent and always replaced whole, so
one pointer a class is enough.
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

from spark_jobs.store.root import IO_THREADS, Root, open_root


@dataclass(frozen=True)
class Part:
    """One finished file: path below the store, rows of each Parquet row group, size in bytes."""

    path: str
    row_groups: list[int]
    bytes: int

    @property
    def rows(self) -> int:
        return sum(self.row_groups)


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """The current version of a class in a table, or of a table that has no classes.

    `data_version` names the content: equal versions hold equal data. `inputs` are the data versions
    of what it was made from, and `details` what else a reader may want to know.
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
    """One row group, by its number, of a class's Parquet file: a piece of a task's work."""

    label: str
    path: str
    number: int
    rows: int


def class_key(label: str) -> str:
    """A name for a class that every file system, Spark and a glob take literally.

    What is legible of the label, and 12 hexadecimal digits of its SHA-256, so that no two collide.
    """
    ascii_label = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
    legible = re.sub(r"[^A-Za-z0-9]+", "-", ascii_label).strip("-")[:48]
    return f"{legible}-{hashlib.sha256(label.encode()).hexdigest()[:12]}".lstrip("-")


def new_directory(table: str, version: str) -> str:
    """A directory for one attempt of one run at a table, below the store."""
    return f"{table}/version={version}/{uuid.uuid4().hex[:8]}"


def pointer_path(table: str, label: str | None) -> str:
    return f"{table}/current.json" if label is None else f"{table}/current/{class_key(label)}.json"


def publish(store: Root, table: str, pointers: Iterable[Pointer]) -> None:
    """Makes versions current, each in one step. Their files must be complete."""
    store.write_many(
        (pointer_path(table, pointer.label), json.dumps(asdict(pointer), ensure_ascii=False).encode())
        for pointer in pointers
    )


def current(store: Root, table: str, labels: Iterable[str] | None = None) -> dict[str, Pointer]:
    """The current version of every class of a table, or of the given ones that have any.

    Sorted by label. This is how all readers find files: what it does not name is not part of the
    table.
    """
    wanted = None if labels is None else {pointer_path(table, label) for label in labels}
    paths = [info.path for info in store.list(f"{table}/current") if info.path.endswith(".json")]
    chosen = [path for path in paths if wanted is None or path in wanted]
    pointers = [_parse(content) for content in store.read_many(chosen)]
    return {str(pointer.label): pointer for pointer in sorted(pointers, key=lambda p: str(p.label))}


def current_one(store: Root, table: str) -> Pointer | None:
    """The current version of a table without classes, or None before its first."""
    try:
        return _parse(store.read(pointer_path(table, None)))
    except FileNotFoundError:
        return None


def files(store_uri: str, table: str, labels: Iterable[str] | None = None) -> list[str]:
    """Full names of the files that make up a table now, in the order of class and path.

    For `pandas.read_parquet`, `spark.read.parquet(*files)` and pyarrow:

        pd.read_parquet(files("/data/store", "mobilenet_features", ["Lychee"]), partitioning=None)

    Without `partitioning=None`, pyarrow takes `version=...` in their names for one more column.
    """
    store = open_root(store_uri)
    return [
        store.uri_of(part.path)
        for pointer in current(store, table, labels).values()
        for part in pointer.parts
    ]


def _parse(content: bytes) -> Pointer:
    fields = json.loads(content)
    return Pointer(**fields | {"parts": [Part(**part) for part in fields["parts"]]})


class PartWriter:
    """Writes one Parquet file, one row group a `write`; `close` returns what was written."""

    def __init__(self, store: Root, directory: str, schema: pa.Schema) -> None:
        # The name is new for every attempt: a task that Spark runs twice never writes over itself.
        self.path = f"{directory}/part-{uuid.uuid4().hex}.parquet"
        self.row_groups: list[int] = []
        self._stream = store.create(self.path)
        # Photos and features do not repeat, so a dictionary would only cost time (10 times slower).
        self._writer = pq.ParquetWriter(
            self._stream, schema, compression="snappy", use_dictionary=["label", "format", "reason"]
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
    """The chosen row groups of one Parquet file, one batch each, in their order."""
    with store.fs.open_input_file(path) as source:
        file = pq.ParquetFile(source, pre_buffer=True)
        for index in row_groups:
            table = file.read_row_group(index, columns=list(columns), use_threads=False)
            yield from table.combine_chunks().to_batches()


def row_groups(pointers: dict[str, Pointer]) -> list[RowGroup]:
    """Every row group of some classes, in the order of class and path."""
    return [
        RowGroup(label=label, path=part.path, number=number, rows=rows)
        for label, pointer in pointers.items()
        for part in pointer.parts
        for number, rows in enumerate(part.row_groups)
    ]


def rows_in(groups: Iterable[RowGroup]) -> int:
    return sum(group.rows for group in groups)


def sweep(store: Root, table: str, keep: timedelta) -> int:
    """Removes the directories of a table that nothing points to; returns how many.

    A directory goes once both its newest file and the pointer that replaced it are older than
    `keep`: a run that is still writing keeps its directory young, and a reader that followed the
    old pointer has `keep` to finish.
    """
    cutoff = datetime.now(UTC) - keep
    newest: dict[str, datetime] = defaultdict(lambda: datetime.min.replace(tzinfo=UTC))
    pointers: dict[str, datetime] = {}
    for info in store.list(table):
        parts = info.path.split("/")
        if parts[1].startswith("version=") and len(parts) > 4:
            directory = "/".join(parts[:4])
            newest[directory] = max(newest[directory], info.mtime)
        elif info.path.endswith(".json") and parts[1] in ("current", "current.json"):
            pointers[info.path] = info.mtime

    def replaced(directory: str) -> datetime:
        key = directory.rpartition("/")[2]
        moment = pointers.get(f"{table}/current/{key}.json") or pointers.get(f"{table}/current.json")
        return moment or newest[directory]

    old = [path for path in newest if max(newest[path], replaced(path)) < cutoff]
    if not old:
        return 0
    referenced = {_parse(content).directory for content in store.read_many(pointers)}
    unreferenced = [path for path in old if path not in referenced]
    with ThreadPoolExecutor(IO_THREADS) as pool:
        list(pool.map(store.remove, unreferenced))
    return len(unreferenced)


def combined_version(*parts: str) -> str:
    """A data version that is made of others, in their order: 16 hexadecimal digits of a SHA-256."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
