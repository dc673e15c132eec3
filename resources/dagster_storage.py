"""Dagster's storages: in SQLite for one machine, or in PostgreSQL for a team.

The variable DAGSTER_POSTGRES_URL names a database, and then Dagster's own storages for PostgreSQL are used.
SQLite's storages here are created by one process at a time, and fast for many events.

Two processes that create Dagster's own run storage at once, as two first runs do, give its database two
versions, and no later process can open it (https://github.com/dagster-io/dagster/issues/27390).

The event log has one open database for many events and one transaction for a batch. For each event,
Dagster's own SQLite storage opens a database and compiles its statements five times, and waits for the disk
twice. A run over 1,000 classes stores about 10,000 events. It takes 27-34 s with this storage, and 83-90 s
with Dagster's own.

Dagster's open issues about the writes of events are https://github.com/dagster-io/dagster/issues/19618 and
https://github.com/dagster-io/dagster/issues/19829. This module can be removed when Dagster's SQLite storage
keeps its connections open and stores a batch of events in one transaction, and the run takes at most 35 s.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar

from dagster import EventLogEntry, StringSource
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.schedules import SqliteScheduleStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._serdes import ConfigurableClassData
from filelock import FileLock
from sqlalchemy import Connection, Engine, QueuePool, create_engine, event

from resources.rights import is_shared, set_umask_like, share_databases
from spark_jobs.errors import FruitsError

# The largest number of events in a batch: planned events, or the events of one result for many partitions.
# Without this variable, Dagster stores each event alone.
_BATCH_SIZE = ("DAGSTER_EVENT_BATCH_SIZE", "500")

# The address of a database, postgresql://user:password@host:5432/name. It holds a password, so dagster.yaml,
# which the UI shows, does not have it.
_POSTGRES_URL = "DAGSTER_POSTGRES_URL"

# The number of databases that stay open: the index and the runs used last. A webserver reads thousands.
OPEN_DATABASES = 8


class _InHome:
    """A storage of Dagster whose files are in a folder of the Dagster home, where Dagster itself puts them.

    A process holds the lock of the home while it opens or creates the storage. Dagster's daemon and web
    server load no settings, so the rights of the home tell for whom their files are. `postgres` is the name
    of the class in `dagster_postgres` that replaces it where a database is named.
    """

    folder: ClassVar[str]
    postgres: ClassVar[str]

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {"home": StringSource}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Any:
        os.environ.setdefault(*_BATCH_SIZE)
        home = Path(config_value["home"])
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        set_umask_like(home)
        if url := os.environ.get(_POSTGRES_URL):
            # SQLAlchemy 2.1 takes psycopg 3 by default, and dagster-postgres brings psycopg 2.
            url = url.replace("postgresql://", "postgresql+psycopg2://", 1)
            return _postgres_class(cls.postgres)(url, should_autocreate_tables=True, inst_data=inst_data)
        with FileLock(home / ".storage.lock", mode=0o660 if is_shared(home) else 0o600):
            storage = cls.from_local(str(home / cls.folder), inst_data)  # type: ignore[attr-defined]
            share_databases(home / cls.folder)
            return storage


def _postgres_class(name: str) -> Any:
    try:
        import dagster_postgres
    except ImportError:
        raise FruitsError(
            f"{_POSTGRES_URL} is set, and the package dagster-postgres is missing. Install it: "
            "pip install 'fruits-platform[postgres]'"
        ) from None
    return getattr(dagster_postgres, name)


class RunStorage(_InHome, SqliteRunStorage):
    """Dagster's own storage of runs."""

    folder, postgres = "history", "PostgresRunStorage"


class ScheduleStorage(_InHome, SqliteScheduleStorage):
    """Dagster's own storage of schedules and sensors."""

    folder, postgres = "schedules", "PostgresScheduleStorage"


class EventLog(_InHome, SqliteEventLogStorage):
    """Stores events in the files of Dagster's own storage, so that either storage can read a DAGSTER_HOME.

    In WAL mode, `synchronous=NORMAL` never corrupts a database (https://sqlite.org/pragma.html). A power
    failure, which ends the run anyway, may remove its last events.
    """

    folder, postgres = "history/runs", "PostgresEventLogStorage"

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: dict[str, Engine] = {}  # in the order of their last use
        self._tables: set[str] = set()
        self._batch: dict[str, Connection] | None = None
        self._stack = ExitStack()
        super().__init__(base_dir, inst_data)
        # Reentrant, because a batch holds the lock while it stores its events one by one.
        self._db_lock = RLock()  # type: ignore[assignment]

    @classmethod
    def from_local(cls, base_dir: str, inst_data: ConfigurableClassData | None = None) -> "EventLog":
        return cls(base_dir, inst_data)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            if self._batch is None:
                with self._begin(shard) as connection:
                    yield connection
            else:
                if shard not in self._batch:
                    self._batch[shard] = self._stack.enter_context(self._begin(shard))
                yield self._batch[shard]

    @contextmanager
    def _begin(self, shard: str) -> Iterator[Connection]:
        """A connection with a transaction that ends with the context."""
        engine = self._engines.pop(shard, None) or self._open(shard)
        self._engines[shard] = engine
        if len(self._engines) > OPEN_DATABASES:
            self._engines.pop(next(iter(self._engines))).dispose()
        with engine.connect() as connection, connection.begin():
            yield connection

    def _open(self, shard: str) -> Engine:
        """An engine that keeps its compiled statements and one connection.

        SQLite takes longer to close the last connection of a database than to store an event.
        """
        engine = create_engine(
            self.conn_string_for_shard(shard),
            poolclass=QueuePool,
            pool_size=1,
            connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS},
        )
        event.listen(engine, "connect", _configure)
        if shard not in self._initialized_dbs:
            self._initdb(engine)
            self._initialized_dbs.add(shard)
            share_databases(Path(self._base_dir), f"{shard}.db")
        return engine

    def has_table(self, table_name: str) -> bool:
        """Whether the index has this table. Dagster asks for each event, so a positive answer is kept."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    def dispose(self) -> None:
        super().dispose()
        self._close()

    def _close(self) -> None:
        with self._db_lock:
            for engine in self._engines.values():
                engine.dispose()
            self._engines.clear()

    def store_event(self, event: EventLogEntry) -> None:
        super().store_event(event)
        if self._batch is None:
            self._tell_watchers(event.run_id)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Stores all events of a batch; where one fails, no event of its database is stored."""
        with self._db_lock, self._stack:
            self._batch = {}
            try:
                super().store_event_batch(events)
            finally:
                self._batch = None
        for run_id in {each.run_id for each in events}:
            self._tell_watchers(run_id)

    def _tell_watchers(self, run_id: str) -> None:
        """Changes the modification time of a run's database, which Dagster's UI watches.

        While the database is open, SQLite writes to its WAL file only.
        """
        os.utime(self.path_for_shard(run_id))

    def wipe(self) -> None:
        self._close()
        super().wipe()


def _configure(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")
