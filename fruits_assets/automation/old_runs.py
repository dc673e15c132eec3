"""Removes old runs, logs and locks, and nothing that Dagster's marks or checks need.

The sensor does it in Dagster's daemon. Without the daemon, each command that starts runs removes the files.
"""

import shutil
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from resources.run_locks import remove_old_locks
from resources.settings import Settings
from spark_jobs.store.schemas import FRUIT_PHOTOS

EVERY_SECONDS = 3600

# The runs at which one tick looks: a sensor has a minute, and each run takes some milliseconds.
_AT_ONCE = 500

# The events of a run that are read at once. A run over all classes has thousands, of which the first tells.
_EVENTS = 10

_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def old_runs(settings: Settings) -> dg.SensorDefinition:
    """The sensor `old_runs`, for runs that ended more than FRUITS_KEEP_RUN_DAYS ago."""

    @dg.sensor(
        name="old_runs",
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Removes logs of steps and locks that are older than FRUITS_KEEP_RUN_DAYS, and runs that ended "
            "before and have changed nothing: observations without changes, failed runs."
        ),
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        assert context.repository_def is not None
        after = datetime.fromisoformat(context.cursor) if context.cursor else None
        before = remove_old_files(context.instance, settings)
        checks = sorted(context.repository_def.asset_graph.asset_check_keys)
        removed, until = remove_old_runs(context.instance, checks, after, before)
        if until is not None:
            context.update_cursor(until.isoformat())
        return dg.SkipReason(f"Removed runs: {removed}.")

    return sensor


def remove_old_files(instance: dg.DagsterInstance, settings: Settings) -> datetime:
    """Removes the logs of the steps of old runs, and old locks of killed processes.

    It returns the moment before which a run is old. A folder of logs is as old as the first step of its run.
    Other files beside it stay: another code location may keep its outputs there.
    """
    before = datetime.now(UTC) - timedelta(days=settings.keep_run_days)
    remove_old_locks(instance, before)
    for logs in (Path(instance.root_directory) / "storage").glob("*/compute_logs"):
        with suppress(OSError):  # another process removes it too, or the folder has other files
            if logs.stat().st_mtime < before.timestamp():
                shutil.rmtree(logs)
                logs.parent.rmdir()
    return before


def remove_old_runs(
    instance: dg.DagsterInstance,
    checks: list[dg.AssetCheckKey],
    after: datetime | None,
    before: datetime,
) -> tuple[int, datetime | None]:
    """Removes runs that ended in an interval.

    It returns the number of removed runs, and the end of the last run that it looked at. Dagster removes the
    events of a run with it, and compares events of long ago with those of today to mark what is unsynced. So
    only runs go that have no materialization, no observation of a class, and no last evaluation of a check.
    """
    filters = dg.RunsFilter(statuses=_ENDED, updated_after=after, updated_before=before)
    records = instance.get_run_records(filters, limit=_AT_ONCE, order_by="update_timestamp", ascending=True)
    storage = instance.event_log_storage
    last = {record.run_id for record in storage.get_latest_asset_check_execution_by_key(checks).values()}
    last |= {record.run_id for record in instance.fetch_observations(dg.AssetKey(FRUIT_PHOTOS), 1).records}
    removed = 0
    for record in records:
        run_id = record.dagster_run.run_id
        if run_id not in last and not _has_results(instance, run_id):
            instance.delete_run(run_id)
            removed += 1
    return removed, records[-1].update_timestamp.replace(tzinfo=UTC) if records else None


def _has_results(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a run has a materialization, or an observation of a class."""
    kinds = {dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_OBSERVATION}
    cursor, has_more = None, True
    while has_more:
        page = instance.get_records_for_run(run_id, cursor, of_type=kinds, limit=_EVENTS)
        entries = [record.event_log_entry for record in page.records]
        if any(
            entry.asset_materialization or (entry.asset_observation and entry.asset_observation.partition)
            for entry in entries
        ):
            return True
        cursor, has_more = page.cursor, page.has_more
    return False
