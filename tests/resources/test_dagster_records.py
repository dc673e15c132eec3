"""After an erasure, no byte of Dagster's records names or shows the photo, and Dagster reads all of them."""

import base64
import gzip
import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from sqlalchemy import NullPool, create_engine, text

from resources import dagster_records
from resources.dagster_records import PREVIEW_REMOVED, blank_records, count_records
from resources.dagster_storage import EventLog
from resources.erased_texts import texts_of
from spark_jobs.errors import FruitsError
from tests.support import DAGSTER_YAML, REPOSITORY

# Every form of the path, escaped or not, holds this word, and no other record does.
WORD = "zwetschge-4711"
PATH = f'Training/Pêche d\'été/0 "{WORD}" \\2.jpg'
DIGEST = hashlib.sha256(WORD.encode()).hexdigest()
TEXTS = texts_of([PATH], [DIGEST])
LABEL, OTHER = "Pêche d'été", "Kiwi"
PREVIEWS = {"raw_images": [LABEL], "pca_features_csv": [LABEL]}
THUMBNAIL = base64.b64encode(b"\xff\xd8" + DIGEST.encode() * 3).decode()
COMPONENTS = "-3.837,5.718"
TRACES = [WORD.encode(), DIGEST.encode(), bytes.fromhex(DIGEST), THUMBNAIL.encode(), COMPONENTS.encode()]

CHECK = "no_doubles"
OTHERS_PREVIEW = "![preview](data:image/jpeg;base64,/9j/)"


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(DAGSTER_YAML, home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.get() as instance:
        yield instance


def run_with_records(instance: dg.DagsterInstance) -> str:
    """A run with all kinds of events that the platform writes about photos. It fails. Returns its ID."""

    @dg.op(config_schema={"photos": [str]})
    def pipeline(context: dg.OpExecutionContext) -> Iterator[Any]:
        print(f"reading {PATH}", flush=True)
        context.log.warning(f"{PATH!r} is quarantined: {DIGEST}")
        for asset, preview in {
            "raw_images": f"![preview](data:image/jpeg;base64,{THUMBNAIL})",
            "pca_features_csv": f"```\npath,label,pc1,pc2\n{PATH},{LABEL},{COMPONENTS}\n```",
        }.items():
            for label, shown in {OTHER: OTHERS_PREVIEW, LABEL: preview}.items():
                yield dg.AssetMaterialization(
                    asset,
                    partition=label,
                    metadata={"images": 2, "preview": dg.MetadataValue.md(shown)},
                    tags={"dagster/data_version": DIGEST},
                )
        yield dg.AssetObservation("fruit_photos", metadata={"new": [PATH], "json": json.dumps([PATH])})
        yield dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey("raw_images"),
            check_name=CHECK,
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"1 photo is a copy: {PATH}",
            metadata={"doubles": [PATH]},
        )
        yield dg.Output(None)
        try:
            raise OSError(2, "No such file", f"/photos/{PATH}")
        except OSError as error:
            raise dg.Failure(f"cannot read {PATH!r}", metadata={"failed_classes": {LABEL: PATH}}) from error

    @dg.job(executor_def=dg.in_process_executor, description=f"A job beside {PATH}")
    def bring_up_to_date() -> None:
        pipeline()

    result = bring_up_to_date.execute_in_process(
        instance=instance,
        run_config={"ops": {"pipeline": {"config": {"photos": [PATH]}}}},
        tags={"photo": PATH, "photos": json.dumps([PATH])},
        raise_on_error=False,
    )
    assert not result.success
    return str(result.run_id)


def leave_records(instance: dg.DagsterInstance) -> str:
    """A run, sensors, ticks, a backfill and cursors that name photos. Returns the ID of the run."""
    run_id = run_with_records(instance)
    instance.run_storage.set_cursor_values({"fruits": json.dumps({"last": PATH})})
    repository = RemoteRepositoryOrigin(
        InProcessCodeLocationOrigin(LoadableTargetOrigin(python_file="fruits.py")), "fruits"
    )
    origin = RemoteInstigatorOrigin(repository, "photo_observation")
    instance.add_instigator_state(
        InstigatorState(
            origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, SensorInstigatorData(cursor=PATH)
        )
    )
    instance.create_tick(
        TickData(
            origin.get_id(),
            origin.instigator_name,
            InstigatorType.SENSOR,
            TickStatus.SKIPPED,
            1.0,
            skip_reason=f"{PATH!r} is new",
            cursor=json.dumps([PATH]),
            selector_id=origin.get_selector().get_id(),
        )
    )
    instance.add_backfill(
        PartitionBackfill(
            backfill_id="abcdefgh",
            status=BulkActionStatus.COMPLETED_SUCCESS,
            from_failure=False,
            tags={"photo": PATH},
            backfill_timestamp=1.0,
            asset_selection=[dg.AssetKey("raw_images")],
            description=f"without {PATH}",
            serialized_asset_backfill_data="{}",
        )
    )
    return run_id


def assert_dagster_reads_all(instance: dg.DagsterInstance, run_id: str) -> None:
    """Dagster reads each record, and nothing but the photos has gone."""
    entries = instance.all_logs(run_id)
    kinds = [entry.dagster_event_type.value for entry in entries if entry.dagster_event_type]
    assert {kind: kinds.count(kind) for kind in ("ASSET_MATERIALIZATION", "STEP_FAILURE")} == {
        "ASSET_MATERIALIZATION": 4,
        "STEP_FAILURE": 1,
    }
    assert any("is quarantined" in entry.user_message for entry in entries)
    run = instance.get_run_by_id(run_id)
    assert run and run.status == dg.DagsterRunStatus.FAILURE
    assert len(cast(Any, run.run_config)["ops"]["pipeline"]["config"]["photos"]) == 1
    assert instance.get_job_snapshot(run.job_snapshot_id or "").name == "bring_up_to_date"
    for asset in PREVIEWS:
        key = dg.AssetKey(asset)
        filters = dg.AssetRecordsFilter(key)
        records = instance.fetch_materializations(filters, limit=10).records
        found = {record.partition_key: record.asset_materialization for record in records}
        for label, shown in {LABEL: PREVIEW_REMOVED, OTHER: OTHERS_PREVIEW}.items():
            materialization = found[label]
            assert materialization and materialization.metadata["images"].value == 2
            preview = materialization.metadata["preview"]
            assert isinstance(preview, dg.MarkdownMetadataValue) and preview.value == shown
        last = instance.get_latest_materialization_event(key)
        assert last and last.asset_materialization and last.asset_materialization.partition == LABEL
        [record] = instance.get_asset_records([key])
        entry = record.asset_entry.last_materialization_record
        assert entry and entry.asset_materialization
        assert entry.asset_materialization.metadata["preview"].value == PREVIEW_REMOVED
    assert len(instance.fetch_observations(dg.AssetKey("fruit_photos"), limit=10).records) == 1
    check = dg.AssetCheckKey(dg.AssetKey("raw_images"), CHECK)
    execution, *_ = instance.event_log_storage.get_asset_check_execution_history(check, limit=10)
    evaluation = execution.event and execution.event.dagster_event
    assert evaluation and not evaluation.asset_check_evaluation_data.passed
    [state] = instance.all_instigator_state()
    [tick] = instance.get_ticks(state.instigator_origin_id, state.selector_id)
    assert (tick.skip_reason or "").endswith("is new")
    [backfill] = instance.get_backfills()
    assert (backfill.description or "").startswith("without")
    assert json.loads(instance.run_storage.get_cursor_values({"fruits"})["fruits"])["last"]


def decoded(content: bytes) -> Iterator[bytes]:
    """A content, and what is compressed in it."""
    yield content
    for unpack in (zlib.decompress, gzip.decompress):
        try:
            yield unpack(content)
        except (OSError, zlib.error, EOFError):
            continue


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All bytes of all files, and all values of the databases, each with its place."""
    for path in folder.rglob("*"):
        # SQLite's shared memory holds numbers of pages.
        if not path.is_file() or path.name.endswith("-shm"):
            continue
        content = path.read_bytes()
        yield from ((str(path), each) for each in decoded(content))
        if content.startswith(b"SQLite format 3"):
            with closing(sqlite3.connect(path)) as connection:
                tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
                for [table] in tables:
                    for row in connection.execute(f'SELECT * FROM "{table}"'):
                        for value in row:
                            raw = value if isinstance(value, bytes) else str(value).encode()
                            yield from ((f"{path} {table}", each) for each in decoded(raw))


def places_of_traces(folder: Path) -> set[str]:
    return {place for place, content in contents(folder) if any(trace in content for trace in TRACES)}


def home_of(instance: dg.DagsterInstance) -> Path:
    return Path(instance.root_directory)


def test_no_byte_of_the_home_names_or_shows_an_erased_photo(instance: dg.DagsterInstance) -> None:
    home, run_id = home_of(instance), leave_records(instance)
    (home / "logs").mkdir(exist_ok=True)
    (home / "logs" / "event.log.gz").write_bytes(gzip.compress(f"read {PATH}".encode()))
    tables = {place.rpartition(" ")[2] for place in places_of_traces(home) if ".db " in place}
    # The test below means something only if the photo is in all of these.
    assert tables == {
        *("event_logs", "asset_keys", "asset_event_tags", "asset_check_executions"),
        *("runs", "run_tags", "snapshots", "bulk_actions", "backfill_tags", "kvs"),
        *("instigators", "jobs", "job_ticks"),
    }
    assert any("compute_logs" in place for place in places_of_traces(home))
    before = count_records(instance, TEXTS, PREVIEWS)
    assert min(before) > 0
    assert blank_records(instance, TEXTS, PREVIEWS) == before
    assert places_of_traces(home) == set()
    assert_dagster_reads_all(instance, run_id)


def test_a_second_erasure_finds_nothing(instance: dg.DagsterInstance) -> None:
    leave_records(instance)
    blank_records(instance, TEXTS, PREVIEWS)
    assert count_records(instance, TEXTS, PREVIEWS) == (0, 0, 0)
    assert blank_records(instance, TEXTS, PREVIEWS) == (0, 0, 0)


def test_a_count_changes_nothing(instance: dg.DagsterInstance) -> None:
    leave_records(instance)
    before = sorted(contents(home_of(instance)))
    count_records(instance, TEXTS, PREVIEWS)
    assert sorted(contents(home_of(instance))) == before


def test_records_of_other_photos_stay_as_they_are(instance: dg.DagsterInstance) -> None:
    leave_records(instance)
    before = sorted(contents(home_of(instance)))
    other = texts_of([PATH.replace(WORD, "another")], [hashlib.sha256(b"another").hexdigest()])
    assert blank_records(instance, other, {"raw_images": ["Banana"]}) == (0, 0, 0)
    values = [(place, content) for place, content in before if ".db " in place]
    assert [each for each in sorted(contents(home_of(instance))) if ".db " in each[0]] == values


def test_what_was_deleted_earlier_leaves_sqlites_free_pages(instance: dg.DagsterInstance) -> None:
    leave_records(instance)
    history = home_of(instance) / "history"
    deleted = {history / "runs.db": "run_tags", history / "runs" / "index.db": "event_logs"}
    for database, table in deleted.items():
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            # Debian's SQLite overwrites what it deletes, other builds do not: https://sqlite.org/compile.html
            connection.execute("PRAGMA secure_delete=OFF")
            connection.execute(f'DELETE FROM "{table}"')
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        # The texts stay in the file, where no row has them.
        assert WORD.encode() in database.read_bytes()
        assert f"{database} {table}" not in places_of_traces(history)
    blank_records(instance, TEXTS, PREVIEWS)
    assert places_of_traces(home_of(instance)) == set()


def test_a_table_that_only_a_newer_dagster_has_is_blanked_too(instance: dg.DagsterInstance) -> None:
    database = home_of(instance) / "history" / "runs.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE of_tomorrow (name TEXT PRIMARY KEY, body BLOB)")
        connection.execute("INSERT INTO of_tomorrow VALUES (?, ?)", (PATH, zlib.compress(PATH.encode())))
    assert blank_records(instance, TEXTS, {}).rows == 1
    assert places_of_traces(home_of(instance)) == set()


def test_json_with_a_path_that_looks_like_json_stays_valid(instance: dg.DagsterInstance) -> None:
    hostile = 'Kiwi/0", "1.jpg'
    instance.run_storage.set_cursor_values({"fruits": json.dumps([hostile, "Kiwi/0", "1.jpg"])})
    texts = texts_of([hostile], [])
    assert blank_records(instance, texts, {}).rows == 1
    assert json.loads(instance.run_storage.get_cursor_values({"fruits"})["fruits"]) == [
        "*" * len(hostile),
        "Kiwi/0",
        "1.jpg",
    ]
    assert blank_records(instance, texts, {}).rows == 0


WRITE_EVENTS = """
import sys
import dagster as dg
run_id, number = sys.argv[1], int(sys.argv[2])
with dg.DagsterInstance.get() as instance:
    run = instance.get_run_by_id(run_id)
    print("ready", flush=True)
    for each in range(number):
        instance.report_engine_event(f"event {each}", run)
    assert len(instance.all_logs(run_id)) > number
    print("written", flush=True)
    input()
    instance.report_engine_event("the last event", run)
"""


def test_a_process_that_writes_meanwhile_loses_no_event(instance: dg.DagsterInstance) -> None:
    run_id = leave_records(instance)
    command = [sys.executable, "-c", WRITE_EVENTS, run_id, "300"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=REPOSITORY
    ) as writer:
        assert writer.stdin and writer.stdout
        assert writer.stdout.readline() == "ready\n"
        blank_records(instance, TEXTS, PREVIEWS)
        for _ in range(5):
            assert blank_records(instance, TEXTS, PREVIEWS) == (0, 0, 0)
        assert writer.stdout.readline() == "written\n"
        # The process has the database open, and waits.
        blank_records(instance, TEXTS, PREVIEWS)
        writer.stdin.write("\n")
    assert writer.returncode == 0
    messages = [entry.dagster_event.message for entry in instance.all_logs(run_id) if entry.dagster_event]
    assert [each for each in messages if each and each.startswith("event ")] == [
        f"event {number}" for number in range(300)
    ]
    assert messages[-1] == "the last event"
    assert places_of_traces(home_of(instance)) == set()
    assert_dagster_reads_all(instance, run_id)


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "BEGIN; SELECT * FROM runs"])
def test_a_database_that_stays_busy_is_named(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    run_id = leave_records(instance)
    monkeypatch.setattr(dagster_records, "_PATIENCE_SECONDS", 1)
    database = home_of(instance) / "history" / "runs.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        for each in statement.split("; "):
            other.execute(each).fetchone()
        with pytest.raises(FruitsError, match=r"history/runs\.db cannot be cleaned.* 1 seconds\. Stop D"):
            blank_records(instance, TEXTS, PREVIEWS)
    blank_records(instance, TEXTS, PREVIEWS)
    assert places_of_traces(home_of(instance)) == set()
    assert_dagster_reads_all(instance, run_id)


def test_a_damaged_database_is_named_without_what_it_holds(instance: dg.DagsterInstance) -> None:
    leave_records(instance)
    database = home_of(instance) / "history" / "runs.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = database.read_bytes()
    database.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(FruitsError, match=r"history/runs\.db cannot be cleaned: ") as raised:
        blank_records(instance, TEXTS, PREVIEWS)
    assert WORD not in str(raised.value)


def test_a_process_that_appends_to_a_log_keeps_its_place(instance: dg.DagsterInstance) -> None:
    log = home_of(instance) / "spark.log"
    with log.open("a") as written:
        print(f"read file:/photos/{PATH}", file=written, flush=True)
        assert blank_records(instance, TEXTS, {}).files == 1
        print("the next line", file=written, flush=True)
    first, second = log.read_text().splitlines()
    assert first.startswith("read file:/photos/***") and second == "the next line"


def test_the_erasures_own_files_and_folders_apart_stay(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    home = home_of(instance)
    kept = [home / "erasure.key", home / "erasing" / "1.json", home / "store" / "file", tmp_path / "outside"]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.write_text(PATH)
    (home / "link").symlink_to(tmp_path / "outside")
    assert blank_records(instance, TEXTS, {}, apart=[home / "store"]).files == 0
    assert [path.read_text() for path in kept] == [PATH] * len(kept)


def test_a_file_that_cannot_be_changed_is_named(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = home_of(instance) / "spark.log"
    log.write_text(PATH)

    def refuse(*_: object, **__: object) -> bool:
        raise PermissionError(13, "Permission denied", str(log))

    # The user of CI may be root, whom no permission stops.
    monkeypatch.setattr(dagster_records, "blank_file", refuse)
    with pytest.raises(FruitsError, match=r"home/.* cannot be cleaned: Permission denied"):
        blank_records(instance, TEXTS, {})


@pytest.mark.slow
@pytest.mark.postgres
def test_no_page_of_postgresql_names_or_shows_an_erased_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str, port: int
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", database)
    shutil.copy(DAGSTER_YAML, tmp_path)
    # The tables' files. The server's own log of changes, pg_wal, is beside them.
    pages = Path(f"/tmp/fruits-postgres-{port}/data/base")
    engine = create_engine(
        database.replace("postgresql:", "postgresql+psycopg2:"),
        isolation_level="AUTOCOMMIT",
        poolclass=NullPool,
    )

    def traces() -> set[str]:
        with engine.connect() as connection:
            connection.execute(text("CHECKPOINT"))
        return places_of_traces(pages)

    with dg.DagsterInstance.get() as instance:
        assert not isinstance(instance.event_log_storage, EventLog)
        run_id = leave_records(instance)
        deleted = run_with_records(instance)
        instance.delete_run(deleted)
        with engine.connect() as connection:
            connection.execute(text("CREATE TABLE of_another_program (name TEXT)"))
            connection.execute(text("INSERT INTO of_another_program VALUES ('Pear')"))
        assert traces()
        before = count_records(instance, TEXTS, PREVIEWS)
        assert before.events and before.rows
        assert blank_records(instance, TEXTS, PREVIEWS) == before
        assert traces() == set()
        assert places_of_traces(tmp_path) == set()
        assert count_records(instance, TEXTS, PREVIEWS) == (0, 0, 0)
        assert_dagster_reads_all(instance, run_id)

        monkeypatch.setattr(dagster_records, "_PATIENCE_SECONDS", 1)
        with engine.connect().execution_options(isolation_level="READ COMMITTED") as other:
            other.execute(text("SELECT * FROM event_logs"))
            with pytest.raises(FruitsError, match=r"postgresql.* cannot be cleaned.* 1 seconds"):
                blank_records(instance, TEXTS, PREVIEWS)
