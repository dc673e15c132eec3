"""The event log holds the events of Dagster's own storage, written in fewer transactions."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.storage.event_log import SqliteEventLogStorage

from resources.dagster_storage import OPEN_DATABASES, EventLog
from tests.support import DAGSTER_YAML, REPOSITORY, wait_for

VERSION = "dagster/data_version"
LABELS = [f"class {number}" for number in range(5)]

classes = dg.DynamicPartitionsDefinition(name="classes")


@dg.asset(partitions_def=classes, backfill_policy=dg.BackfillPolicy.single_run())
def photos(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult | dg.AssetMaterialization]:
    yield dg.MaterializeResult()
    for label in context.partition_keys:
        yield dg.AssetMaterialization("photos", partition=label, tags={VERSION: label})


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """An instance with the project's own `dagster.yaml`, which stores events in batches."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    # The storage sets the variable. After the test, pytest restores it.
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "")
    monkeypatch.delenv("DAGSTER_EVENT_BATCH_SIZE")
    (tmp_path / "dagster.yaml").write_text(DAGSTER_YAML.read_text())
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("classes", LABELS)
        yield instance


def test_a_dagster_yaml_with_the_old_name_of_the_storage_still_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "500")
    (tmp_path / "dagster.yaml").write_text(
        "event_log_storage:\n"
        "  module: resources.event_log\n"
        "  class: EventLog\n"
        "  config: {home: {env: DAGSTER_HOME}}\n"
    )
    with dg.DagsterInstance.get() as instance:
        assert isinstance(instance.event_log_storage, EventLog)


OPEN_WHEN_TOLD = """
import dagster as dg
from resources import dagster_storage
print("ready", flush=True)
input()
with dg.DagsterInstance.get() as instance:
    assert instance.get_runs() == []
"""


def test_processes_that_create_a_home_at_once_leave_one_that_opens(tmp_path: Path) -> None:
    for name in ("first", "second"):
        home = tmp_path / name
        home.mkdir()
        shutil.copy(DAGSTER_YAML, home)
        with ExitStack() as stack:
            processes = [
                stack.enter_context(
                    subprocess.Popen(
                        [sys.executable, "-c", OPEN_WHEN_TOLD],
                        env={**os.environ, "DAGSTER_HOME": str(home), "PYTHONPATH": str(REPOSITORY)},
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        text=True,
                        bufsize=1,
                    )
                )
                for _ in range(3)
            ]
            assert [process.stdout and process.stdout.readline() for process in processes] == ["ready\n"] * 3
            for process in processes:
                assert process.stdin
                process.stdin.write("\n")
        assert [process.returncode for process in processes] == [0, 0, 0]
        for database in home.rglob("*.db"):
            with closing(sqlite3.connect(database)) as connection:
                assert len(connection.execute("SELECT * FROM alembic_version").fetchall()) == 1


def run_all(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    definitions = dg.Definitions([photos], executor=dg.in_process_executor)
    return definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        tags={
            "dagster/asset_partition_range_start": LABELS[0],
            "dagster/asset_partition_range_end": LABELS[-1],
        },
    )


def test_dagsters_own_storage_reads_the_events_of_a_run_in_batches(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(instance.event_log_storage, EventLog)
    batches: list[int] = []
    store = EventLog.store_event_batch

    def counted(self: EventLog, events: Sequence[dg.EventLogEntry]) -> None:
        batches.append(len(events))
        store(self, events)

    monkeypatch.setattr(EventLog, "store_event_batch", counted)
    run = run_all(instance)
    assert max(batches) == len(LABELS)
    own = SqliteEventLogStorage(str(tmp_path / "history" / "runs"))
    key = dg.AssetKey("photos")
    assert own.get_materialized_partitions(key) == set(LABELS)
    logs = own.get_logs_for_run(run.run_id)
    assert [entry.to_json() for entry in logs] == [entry.to_json() for entry in instance.all_logs(run.run_id)]
    kinds = [entry.dagster_event_type for entry in logs if entry.is_dagster_event]
    # For each class, one from the result of the step and one with the class's own data version.
    assert kinds.count(dg.DagsterEventType.ASSET_MATERIALIZATION) == 2 * len(LABELS)
    assert kinds.count(dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED) == len(LABELS)
    assert kinds[-1] == dg.DagsterEventType.RUN_SUCCESS
    newest = own.get_latest_tags_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION, [VERSION])
    assert {label: tags[VERSION] for label, tags in newest.items()} == dict(zip(LABELS, LABELS, strict=True))


def test_a_watcher_sees_every_event_while_the_database_stays_open(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    finished = run_all(instance)
    run = instance.add_run(dg.DagsterRun("job"))
    seen: list[str] = []
    ui = EventLog(str(tmp_path / "history" / "runs"))
    ui.watch(run.run_id, None, lambda entry, _: seen.append(entry.user_message))
    entries = [entry for entry in instance.all_logs(finished.run_id) if entry.is_dagster_event][:4]
    alone, *batch = [entry._replace(run_id=run.run_id) for entry in entries]
    for number in range(1, 4):
        instance.event_log_storage.store_event(alone)
        wait_for(partial(lambda count: len(seen) == count, number))
    instance.event_log_storage.store_event_batch(batch)
    wait_for(lambda: len(seen) == 3 + len(batch))
    ui.dispose()


def test_a_batch_that_fails_stores_no_event(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_all(instance)
    storage = instance.event_log_storage
    before = json.dumps([entry.to_json() for entry in instance.all_logs(run.run_id)])
    [first, *others] = [entry for entry in instance.all_logs(run.run_id) if entry.is_dagster_event]
    store = SqliteEventLogStorage.store_event
    stored: list[dg.EventLogEntry] = []

    def fails_later(self: EventLog, event: dg.EventLogEntry) -> None:
        if len(stored) == 2:
            raise OSError("the disk is full")
        store(self, event)
        stored.append(event)

    monkeypatch.setattr(SqliteEventLogStorage, "store_event", fails_later)
    with pytest.raises(OSError, match="disk is full"):
        storage.store_event_batch([first, *others])
    assert len(stored) == 2
    assert json.dumps([entry.to_json() for entry in instance.all_logs(run.run_id)]) == before


def test_only_the_databases_of_the_latest_runs_stay_open(tmp_path: Path) -> None:
    def opened() -> set[str]:
        files = (Path(file.path) for file in psutil.Process().open_files())
        return {file.stem for file in files if file.suffix == ".db" and file.parent == tmp_path}

    storage = EventLog(str(tmp_path))
    runs = [f"run{number}" for number in range(2 * OPEN_DATABASES)]
    for run in runs:
        assert storage.get_logs_for_run(run) == []
    assert opened() == set(runs[-OPEN_DATABASES:])
    assert storage.has_table("asset_keys")
    assert not storage.has_table("made_up")
    storage.dispose()
    assert opened() == set()
