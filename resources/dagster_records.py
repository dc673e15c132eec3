"""Takes erased photos out of Dagster's own records: its databases, the captured logs, all files of its home.

Each record stays, and what names or shows a photo in it is replaced. Afterwards no free page of SQLite, no
WAL file and no dead row of PostgreSQL holds the old text. The own WAL of a database server, its log and its
backups stay.
"""

import json
import os
import re
import sqlite3
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resources.erased_texts import TextSearch, blank_file, blanked, found_in, search_for
from spark_jobs.errors import FruitsError

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from sqlalchemy import Connection, Engine

# The value of the metadata entry `preview` of an event whose class has lost a photo.
PREVIEW_REMOVED = "removed: a photo of this class was erased"

# Files and folders of the home that belong to the erasure itself.
_OF_ERASURES = ("erasure.key", "erasing")

# A database that another process writes to is waited for. Dagster's own processes wait as long for it.
_PATIENCE_SECONDS = 30

# Rows of one transaction, during which no other process can write to the database.
_ROWS_AT_ONCE = 200

_SQLITE = b"SQLite format 3\0"  # https://sqlite.org/fileformat.html
_BESIDE = ("-wal", "-shm", "-journal")

# The hidden column that addresses a row, and an address in a statement.
_ADDRESSES = {"sqlite": ("rowid", ":key"), "postgresql": ("ctid", "CAST(:key AS tid)")}


class DagsterRecords(NamedTuple):
    """Numbers of records that name or show photos.

    `events` are rows of event logs; SQLite's storage has an asset's event in the run's database and in the
    index. `rows` are rows of all other tables, and `files` are captured logs and other files of the home.
    """

    events: int
    rows: int
    files: int


def count_records(
    instance: "DagsterInstance",
    texts: Sequence[str],
    previews: Mapping[str, Collection[str]],
    apart: Collection[Path] = (),
) -> DagsterRecords:
    """Counts the records that `blank_records` would change, and changes nothing."""
    return _records(instance, _Erased.of(texts, previews), apart, write=False)


def blank_records(
    instance: "DagsterInstance",
    texts: Sequence[str],
    previews: Mapping[str, Collection[str]],
    apart: Collection[Path] = (),
) -> DagsterRecords:
    """Blanks texts in all records of Dagster, and returns how many records it changed.

    `texts` are of `erased_texts.texts_of`. `previews` are the classes {asset: labels} whose events lose their
    metadata entry `preview`. Files below a folder of `apart`, such as a store or photos in the home, stay as
    they are. A process may use the databases and append to the files meanwhile. If it names a photo after
    that, the name stays, so the caller blanks again when the process has ended.

    Raises `FruitsError` for a database that another process keeps busy for 30 seconds, and for a file or a
    database that cannot be read or changed. The records before that are blanked, and a second call does the
    rest.
    """
    return _records(instance, _Erased.of(texts, previews), apart, write=True)


@dataclass(frozen=True)
class _Erased:
    """A search for texts, and the labels by asset whose previews go."""

    search: TextSearch
    previews: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, texts: Sequence[str], previews: Mapping[str, Collection[str]]) -> "_Erased":
        return cls(search_for(texts), {asset: frozenset(labels) for asset, labels in previews.items()})

    def removed_from(self, value: object) -> object:
        """The value of a column without the photos; the value itself where it has none."""
        if isinstance(value, str):
            return self._string(value)
        if isinstance(value, bytes | memoryview):  # psycopg2 returns a memoryview
            content = bytes(value)
            try:
                unpacked = zlib.decompress(content)  # Dagster compresses the snapshots of jobs
            except zlib.error:
                cleaned = blanked(content, self.search)
                return value if cleaned == content else cleaned
            cleaned = self._text(unpacked)
            return value if cleaned == unpacked else zlib.compress(cleaned)
        return value

    def _text(self, content: bytes) -> bytes:
        if self.previews and b"preview" in content:
            content = self._without_previews(content)
        if not found_in(content, self.search):
            return content
        if (parsed := _parsed(content)) is None:
            return blanked(content, self.search)
        # A hostile path, as of a photo named `0", "1.jpg`, would also match quotation marks of JSON itself.
        cleaned = _mapped(parsed, self._string)
        return content if cleaned == parsed else json.dumps(cleaned).encode()

    def _without_previews(self, content: bytes) -> bytes:
        parsed = _parsed(content)
        if parsed is None or not any(asset.encode() in content for asset in self.previews):
            return content
        cleaned = _mapped(parsed, of_object=self._preview)
        return content if cleaned == parsed else json.dumps(cleaned).encode()

    def _preview(self, value: dict[str, Any]) -> dict[str, Any]:
        """An AssetMaterialization, as Dagster writes it, with another value of `preview`."""
        match value:
            case {
                "asset_key": {"path": [str(asset)]},
                "partition": str(label),
                "metadata_entries": list(entries),
            } if label in self.previews.get(asset, ()):
                removed = {"__class__": "MarkdownMetadataEntryData", "md_str": PREVIEW_REMOVED}
                changed = [
                    {**entry, "entry_data": removed} if entry.get("label") == "preview" else entry
                    for entry in entries
                ]
                return {**value, "metadata_entries": changed}
        return value

    def _string(self, text: str) -> str:
        content = text.encode("utf-8", "surrogatepass")
        cleaned = self._text(content)
        return text if cleaned == content else cleaned.decode("utf-8", "surrogatepass")


def _parsed(content: bytes) -> Any:
    """The object or list of a text in JSON; None for any other text."""
    if not content.startswith((b"{", b"[")):
        return None
    try:
        return json.loads(content)
    except ValueError:
        return None


def _mapped(
    value: Any,
    of_string: Callable[[str], str] = str,
    of_object: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Any:
    """A value of JSON, with all its strings and objects replaced."""
    match value:
        case str():
            return of_string(value)
        case list():
            return [_mapped(each, of_string, of_object) for each in value]
        case dict():
            return of_object(
                {of_string(name): _mapped(each, of_string, of_object) for name, each in value.items()}
            )
    return value


def _records(
    instance: "DagsterInstance", erased: _Erased, apart: Collection[Path], *, write: bool
) -> DagsterRecords:
    databases, files = _databases_and_files(Path(instance.root_directory).resolve(), apart)
    events = rows = 0
    for database in [*map(_sqlite, databases), *_postgres(instance)]:
        with _errors_told(database):
            tables = _tables(database)
            for table in tables:
                changed = _rows_changed(database.engine, table, erased, write)
                if table == "event_logs":
                    events += changed
                else:
                    rows += changed
            if write:
                _compact(database, tables)
    return DagsterRecords(events, rows, sum(_file_changed(path, erased, write) for path in files))


class _Database(NamedTuple):
    """A database and its name for people: a file of SQLite, or PostgreSQL's with these tables of Dagster."""

    engine: "Engine"
    name: str
    path: Path | None = None
    dagsters: Collection[str] = ()


def _sqlite(path: Path) -> _Database:
    from sqlalchemy import NullPool, create_engine

    def connect() -> sqlite3.Connection:
        # SQLite would create a database that another process has just removed, without `mode=rw`.
        address = f"{path.as_uri()}?mode=rw"
        connection = sqlite3.connect(address, uri=True, timeout=_PATIENCE_SECONDS, isolation_level=None)
        connection.execute("PRAGMA secure_delete=ON")
        return connection

    return _Database(create_engine("sqlite://", creator=connect, poolclass=NullPool), str(path), path)


def _postgres(instance: "DagsterInstance") -> Iterator[_Database]:
    """The databases of storages in PostgreSQL. Tables of other programs may be in them."""
    from dagster._core.storage.event_log.schema import SqlEventLogStorageMetadata
    from dagster._core.storage.runs.schema import RunStorageSqlMetadata
    from dagster._core.storage.schedules.schema import ScheduleStorageSqlMetadata
    from sqlalchemy import NullPool, create_engine, event

    storages = (instance.run_storage, instance.event_log_storage, instance.schedule_storage)
    schemas = (SqlEventLogStorageMetadata, RunStorageSqlMetadata, ScheduleStorageSqlMetadata)
    tables = {table for schema in schemas for table in schema.tables}
    for url in filter(None, {getattr(storage, "postgres_url", None) for storage in storages}):
        engine = create_engine(url, poolclass=NullPool)
        event.listen(engine, "connect", _wait_for_locks)
        yield _Database(engine, engine.url.render_as_string(hide_password=True), dagsters=tables)


def _wait_for_locks(connection: Any, _: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{_PATIENCE_SECONDS}s'")
    connection.commit()


def _tables(database: _Database) -> list[str]:
    from sqlalchemy import inspect

    names = inspect(database.engine).get_table_names()
    return [name for name in names if database.path or name in database.dagsters]


@contextmanager
def _errors_told(database: _Database) -> Iterator[None]:
    """Raises `FruitsError` for an error of a database. SQLAlchemy's own message would have the values."""
    from sqlalchemy.exc import DatabaseError

    try:
        yield
    except DatabaseError as error:
        reason = str(error.orig).strip().partition("\n")[0]
        if database.path and not database.path.exists():
            return  # a sensor has removed the records of an old run meanwhile
        if re.search(r"\block|deadlock", reason):
            raise _busy(database) from None
        raise FruitsError(
            f"Dagster's records in {database.name} cannot be cleaned: {reason}. Repair the cause, and run "
            "the same command again"
        ) from None
    finally:
        database.engine.dispose()


def _busy(database: _Database) -> FruitsError:
    return FruitsError(
        f"Dagster's records in {database.name} cannot be cleaned: another process has been using them for "
        f"{_PATIENCE_SECONDS} seconds. Stop Dagster's web server, daemon and runs, or wait for their end, "
        "and run the same command again"
    )


def _rows_changed(engine: "Engine", table: str, erased: _Erased, write: bool) -> int:
    """Replaces the photos in the rows of a table, and returns the number of these rows."""
    from sqlalchemy import text

    address, _ = _ADDRESSES[engine.dialect.name]
    changed = 0
    while True:
        with engine.connect() as connection:
            rows = connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(
                text(f'SELECT {address}, * FROM "{table}"')
            )
            found = [row[0] for row in rows if any(erased.removed_from(each) is not each for each in row[1:])]
        if not write:
            return len(found)
        done = 0
        for first in range(0, len(found), _ROWS_AT_ONCE):
            with _writing(engine) as connection:
                for key in found[first : first + _ROWS_AT_ONCE]:
                    done += _row_changed(connection, table, key, erased)
        changed += done
        if done == len(found):
            return changed


def _row_changed(connection: "Connection", table: str, key: object, erased: _Erased) -> bool:
    """Replaces the photos in a row, if no other process has moved or changed it since it was found.

    No statement has an old value: PostgreSQL's log may have statements that failed.
    """
    from sqlalchemy import text

    dialect = connection.dialect.name
    address, place = _ADDRESSES[dialect]
    locked = "" if dialect == "sqlite" else "FOR UPDATE"
    query = text(f'SELECT * FROM "{table}" WHERE {address} = {place} {locked}')
    row = connection.execute(query, {"key": key}).first()
    old = {} if row is None else row._mapping
    new = {
        name: cleaned for name, value in old.items() if (cleaned := erased.removed_from(value)) is not value
    }
    if new:
        columns = ", ".join(f'"{name}" = :value{number}' for number, name in enumerate(new))
        values = {f"value{number}": value for number, value in enumerate(new.values())}
        update = text(f'UPDATE "{table}" SET {columns} WHERE {address} = {place}')
        connection.execute(update, {"key": key, **values})
    return bool(new)


@contextmanager
def _writing(engine: "Engine") -> Iterator["Connection"]:
    """A connection in a transaction that no other process can write into."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection
        connection.commit()


def _compact(database: _Database, tables: Sequence[str]) -> None:
    """Frees the space of old rows and overwrites it, that of rows included that were removed earlier."""
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if database.path is None:
            for table in tables:
                # The statistics hold values of columns, so they are made anew too.
                connection.exec_driver_sql(f'VACUUM (FULL, ANALYZE) "{table}"')
            return
        connection.exec_driver_sql("VACUUM")
        busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").first()
        if busy and busy[0]:
            raise _busy(database)


def _databases_and_files(home: Path, apart: Collection[Path]) -> tuple[list[Path], list[Path]]:
    """The SQLite databases below a home, and all other files that the erasure may change."""
    left = {*(home / name for name in _OF_ERASURES), *(path.resolve() for path in apart)}
    databases: list[Path] = []
    files: list[Path] = []
    for folder, folders, names in os.walk(home):
        folders[:] = [name for name in folders if Path(folder, name) not in left]
        for path in (Path(folder, name) for name in names):
            if path in left or path.is_symlink() or not path.is_file() or _is_beside_sqlite(path):
                continue
            with _file_errors_told(path), path.open("rb") as file:
                # An empty file may be a database that is being created.
                if start := file.read(len(_SQLITE)):
                    (databases if start == _SQLITE else files).append(path)
    return databases, files


def _is_beside_sqlite(path: Path) -> bool:
    """Whether SQLite itself writes a file, and empties it."""
    return any(path.name.endswith(end) and path.with_name(path.name[: -len(end)]).exists() for end in _BESIDE)


def _file_changed(path: Path, erased: _Erased, write: bool) -> bool:
    with _file_errors_told(path):
        return blank_file(path, erased.search, write=write)
    return False


@contextmanager
def _file_errors_told(path: Path) -> Iterator[None]:
    """Raises `FruitsError` for a file that cannot be read or changed; one that has gone is no error."""
    try:
        yield
    except FileNotFoundError:
        return
    except OSError as error:
        raise FruitsError(
            f"The file {path} cannot be cleaned: {error.strerror}. Repair the cause, and run the same "
            "command again"
        ) from None
