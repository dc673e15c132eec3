"""The sensors and schedules that find new photos and late classes, and bring them up to date."""

import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from fruits_assets.all_assets import UpToDateConfig
from fruits_assets.by_class import failed_classes
from fruits_assets.jobs import BRING_UP_TO_DATE, EVERYTHING_AGAIN, OBSERVE_PHOTOS, REFIT_MODEL
from fruits_assets.photo_changes import changed_photos
from fruits_assets.store_checks import CSVS_FOLLOW_PHOTOS
from resources.photo_folders import Listing, list_photos, without_erased
from resources.runs import classes_tag
from resources.settings import Settings
from spark_jobs.store.schemas import (
    FEATURE_EXTRACTOR,
    FRUIT_PHOTOS,
    MOBILENET_FEATURES,
    PCA_FEATURES_CSV,
    PCA_MODEL,
    RAW_IMAGES,
)

EVERY_SECONDS = 30
# S3 bills each listing of 1,000 keys, about 0.000005 USD.
EVERY_SECONDS_ON_S3 = 900

_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_JOBS = (BRING_UP_TO_DATE, REFIT_MODEL, EVERYTHING_AGAIN)
# The assets whose events other assets follow.
_FOLLOWED = (FRUIT_PHOTOS, RAW_IMAGES, MOBILENET_FEATURES, PCA_MODEL, FEATURE_EXTRACTOR)
_PAGE = 1000
# A run that failed as a whole, as while S3 is down, is tried again after this time.
_AGAIN_SECONDS = 1800

Answer = dg.RunRequest | dg.SkipReason


def photo_observation(settings: Settings) -> dg.SensorDefinition:
    on_disk = not settings.images.startswith("s3://")

    @dg.sensor(
        name="photo_observation",
        job_name=OBSERVE_PHOTOS,
        minimum_interval_seconds=settings.observe_seconds
        or (EVERY_SECONDS if on_disk else EVERY_SECONDS_ON_S3),
        default_status=dg.DefaultSensorStatus.RUNNING if on_disk else dg.DefaultSensorStatus.STOPPED,
        description=(
            "Observes fruit_photos, so that new and changed photos are marked. On disk it looks first, and "
            "starts a run only if photos have changed. On S3 each observation is a run, which lists all keys."
        ),
    )
    def sensor(context: dg.SensorEvaluationContext) -> Answer:
        if _unfinished(context.instance, OBSERVE_PHOTOS):
            return dg.SkipReason("The last observation has not ended.")
        if on_disk:
            listing = without_erased(settings, list_photos(settings.images, may_be_empty=True))
            names = _names(listing)
            if context.cursor == names and not changed_photos(context.instance, listing, listing.classes):
                return dg.SkipReason("No photo is new, changed or gone.")
            context.update_cursor(names)
        return dg.RunRequest()

    return sensor


def _names(listing: Listing) -> str:
    """A hash of the classes and of the refused folders."""
    names = [*sorted(listing.classes), "", *sorted(listing.refused)]
    return hashlib.sha256("\0".join(names).encode()).hexdigest()


@dg.sensor(
    job_name=BRING_UP_TO_DATE,
    minimum_interval_seconds=EVERY_SECONDS,
    description=(
        "Starts one run of bring_up_to_date over all classes whose photos, images or features have changed, "
        "and over all classes after a new model or extractor. It never fits a model."
    ),
)
def keep_up_to_date(context: dg.SensorEvaluationContext) -> Answer:
    instance = context.instance
    if any(_unfinished(instance, job) for job in _JOBS):
        return dg.SkipReason("A run that brings classes up to date has not ended.")
    if instance.get_latest_materialization_event(dg.AssetKey(PCA_MODEL)) is None:
        return dg.SkipReason(f"There is no PCA model yet. Start the job {BRING_UP_TO_DATE} once.")
    if context.cursor is None:
        context.update_cursor(str(_newest(instance)))
        return _request([])
    labels, everything, newest = _changes(instance, int(context.cursor))
    context.update_cursor(str(newest))
    if (again := _to_try_again(instance)) is not None:
        labels, everything = labels.union(again), everything or not again
    if not labels and not everything:
        return dg.SkipReason("Nothing has changed.")
    return _request([] if everything else sorted(labels))


def _to_try_again(instance: dg.DagsterInstance) -> list[str] | None:
    """The classes of the last run that this sensor started, if it failed as a whole some time ago; else None.

    An empty list is all classes.
    """
    tags = {"dagster/sensor_name": keep_up_to_date.name}
    for record in instance.get_run_records(dg.RunsFilter(tags=tags), limit=1):
        run = record.dagster_run
        ended_for = time.time() - (record.end_time or time.time())
        if run.is_failure and ended_for >= _AGAIN_SECONDS and not _is_complete(instance, run.run_id):
            config: Any = run.run_config
            return list(config.get("classes", []))
    return None


def _request(labels: list[str]) -> dg.RunRequest:
    """A run of `bring_up_to_date` over these classes, or over all classes."""
    config = UpToDateConfig(classes=labels).model_dump(exclude_none=True)
    return dg.RunRequest(run_config=config, tags=classes_tag(labels))


def _changes(instance: dg.DagsterInstance, cursor: int) -> tuple[set[str], bool, int]:
    """The classes with events after the cursor, whether all classes are meant, and the newest event.

    Events of a run that brought all of its classes up to date are not counted. Those of such a run that ended
    early are counted.
    """
    labels: set[str] = set()
    everything, newest, complete = False, cursor, dict[str, bool]()
    for asset in _FOLLOWED:
        fetch: Callable[..., Any] = (
            instance.fetch_observations if asset == FRUIT_PHOTOS else instance.fetch_materializations
        )
        for record in _records(fetch, dg.AssetKey(asset), cursor):
            newest = max(newest, record.storage_id)
            if record.run_id not in complete:
                complete[record.run_id] = _is_complete(instance, record.run_id)
            if complete[record.run_id]:
                continue
            if asset in (PCA_MODEL, FEATURE_EXTRACTOR):
                everything = True
            elif record.partition_key is not None:
                labels.add(record.partition_key)
    return labels, everything, newest


def _is_complete(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a run has brought its classes up to date, except those that failed by name."""
    run = instance.get_run_by_id(run_id)
    if run is None or run.job_name not in _JOBS:
        return False
    failures = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    return run.is_success or any(failed_classes(entry.get_dagster_event()) for entry in failures)


def _records(fetch: Callable[..., Any], key: dg.AssetKey, after: int) -> Iterator[Any]:
    """The records of events of an asset after a storage id."""
    cursor = None
    while True:
        found = fetch(
            dg.AssetRecordsFilter(key, after_storage_id=after), limit=_PAGE, cursor=cursor, ascending=True
        )
        yield from found.records
        if not found.has_more:
            return
        cursor = found.cursor


def _newest(instance: dg.DagsterInstance) -> int:
    """The storage id of the newest event of any asset."""
    found = [
        fetch(dg.AssetKey(asset), limit=1).records
        for asset in _FOLLOWED
        for fetch in (instance.fetch_observations, instance.fetch_materializations)
    ]
    return max((records[0].storage_id for records in found if records), default=0)


def _unfinished(instance: dg.DagsterInstance, job: str) -> bool:
    return bool(instance.get_run_ids(dg.RunsFilter(job_name=job, statuses=_UNFINISHED), limit=1))


nightly = dg.ScheduleDefinition(
    name="nightly",
    job_name=BRING_UP_TO_DATE,
    cron_schedule="0 2 * * *",
    description="Brings everything up to date each night, for teams that prefer a time to a sensor.",
)


def late_classes(settings: Settings) -> dg.ScheduleDefinition:
    key = dg.AssetCheckKey(dg.AssetKey(PCA_FEATURES_CSV), CSVS_FOLLOW_PHOTOS)
    on_disk = not settings.store.startswith("s3://")
    return dg.ScheduleDefinition(
        name="late_classes",
        target=dg.AssetSelection.checks(key),
        cron_schedule="0 * * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING if on_disk else dg.DefaultScheduleStatus.STOPPED,
        description="Evaluates each hour whether CSVs are late.",
    )
