"""Dagster's event log on this machine's disk, made for steps over thousands of partitions.

Dagster's own SQLite storage opens and compiles anew for every event, five times, and waits for the disk
twice: 1,000 classes make about 10,000 events a run, which took longer than their photos.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

from dagster import EventLogEntry, StringSource
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, QueuePool, create_engine, event

# Events of what Dagster calls a batch (planned events, one result for many partitions) that are one
# transaction. Dagster makes no batches unless this variable says how large.
_BATCH_SIZE = ("DAGSTER_EVENT_BATCH_SIZE", "500")

# Databases that stay open, the index and those of the latest runs: a webserver looks at thousands.
OPEN_DATABASES = 8


class EventLog(SqliteEventLogStorage):
    """The same files as Dagster's own storage in the same DAGSTER_HOME, so either can follow the other.

    In WAL mode, `synchronous=NORMAL` never corrupts a database; a power failure may take the last
    events with it, as it takes the run.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: dict[str, Engine] = {}  # the one used last is the last
        self._tables: set[str] = set()
        self._batch: dict[str, Connection] | None = None
        self._stack = ExitStack()
        super().__init__(base_dir, inst_data)
        # A batch holds it while it stores its events one by one.
        self._db_lock = RLock()  # type: ignore[assignment]

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {"home": StringSource}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "EventLog":
        os.environ.setdefault(*_BATCH_SIZE)
        return cls(str(Path(config_value["home"]) / "history" / "runs"), inst_data)

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
        """A transaction of its own."""
        engine = self._engines.pop(shard, None) or self._open(shard)
        self._engines[shard] = engine
        if len(self._engines) > OPEN_DATABASES:
            self._engines.pop(next(iter(self._engines))).dispose()
        with engine.connect() as connection, connection.begin():
            yield connection

    def _open(self, shard: str) -> Engine:
        """An engine that keeps the statements it has compiled, and one connection: to close a database's
        last one costs more than to store an event."""
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
        return engine

    def has_table(self, table_name: str) -> bool:
        """Whether the index has this table; asked for every event, so what was there once is there."""
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
        """Stores all events, or none of a database's when one of them fails."""
        with self._db_lock, self._stack:
            self._batch = {}
            try:
                super().store_event_batch(events)
            finally:
                self._batch = None
        for run_id in {each.run_id for each in events}:
            self._tell_watchers(run_id)

    def _tell_watchers(self, run_id: str) -> None:
        """Dagster's UI follows a run by changes of its database's file; while that is open, SQLite writes
        to the file beside it."""
        os.utime(self.path_for_shard(run_id))

    def wipe(self) -> None:
        self._close()
        super().wipe()


def _configure(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")
