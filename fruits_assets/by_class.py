"""The skeleton of an asset by class: run one Spark job, record it, and yield an event for each class."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import dagster as dg
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION
from pydantic import Field

from fruits_assets.costs.recording import record_stage
from fruits_assets.decorators import column_schema, pipeline_asset
from fruits_assets.erase import erase_returned
from fruits_assets.figures import TABLE_ROWS, class_figures, size
from fruits_assets.partitions import fruit_classes
from fruits_assets.provenance import DATA_VERSION, provenance
from fruits_assets.store_checks import report_after_step
from fruits_assets.ui.links import report_page
from resources.job_runner import JobRun, JobRunner
from resources.photo_folders import PhotoFolders
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.store.classes import current_versions
from spark_jobs.store.erasures import ERASED_MEANWHILE, erasures_version
from spark_jobs.store.root import Root, open_root
from spark_jobs.wire import ClassFigures, Job, Params
from spark_jobs.wording import counted

# Metadata of a failed step: {class: reason}.
FAILED_CLASSES = "failed_classes"

# Metadata of a class: where the store has its table.
STORE_PATH = "store_path"

# Metadata of a result for which Dagster writes no event: its own observations of source assets have it.
_NO_EVENT = {SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True}

# The description of the event of a class that needed no work.
UNCHANGED = "Nothing has changed."

# The message of a failure names this many classes; its metadata names all.
_NAMED = 20

# A step looks again after this number of erasures beside it.
_MOST_ATTEMPTS = 20

Event = dg.MaterializeResult[Any] | dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckResult

Config = TypeVar("Config", bound="ClassConfig")
Figures = TypeVar("Figures", bound=ClassFigures)
ReportedFigures = TypeVar("ReportedFigures", bound=ClassFigures, covariant=True)


class ClassesReport(Protocol[ReportedFigures]):
    """The report of a job over classes: figures of each current class, and a reason for each failed class."""

    @property
    def classes(self) -> Mapping[str, ReportedFigures]: ...

    @property
    def failed(self) -> Mapping[str, str]: ...


class ClassConfig(dg.Config):
    """Whether a step computes its classes again."""

    recompute: bool = Field(
        default=False,
        description="Compute all images of the classes again, also those that have not changed.",
    )


@dataclass(frozen=True, kw_only=True)
class ClassStep(Generic[Config]):
    """A step of an asset by class: its context, settings and configuration, and the folders of the photos."""

    context: dg.AssetExecutionContext
    settings: Settings
    config: Config
    photos: PhotoFolders

    @property
    def store(self) -> Root:
        return open_root(self.settings.store)

    @property
    def run(self) -> str:
        return str(self.context.run.run_id)

    @property
    def classes(self) -> list[str]:
        return list(self.context.partition_keys)


@dataclass(frozen=True, kw_only=True)
class ClassJob(Generic[Params, Figures]):
    """A Spark job over the classes `to_do` of a step, and what its asset reports about all classes.

    `done` has the figures of the classes that need no work, and `failed` the reason of each class that cannot
    be worked on. `describe` returns the metadata of one class that only this asset has, by its label and
    figures; `table` is the metadata of the whole table. `events` are more events after the job. `checks`
    evaluates all classes of the store after the job; its arguments are the store and the figures by class.
    `extractor` describes the extractor of the features, for the run record.
    """

    run: Job[Params, ClassesReport[Figures]]
    params: Params
    to_do: Collection[str]
    done: Mapping[str, Figures]
    failed: Mapping[str, str] = field(default_factory=dict)
    describe: Callable[[str, Figures], Mapping[str, Any]]
    table: Mapping[str, Any] = field(default_factory=dict)
    checks: Callable[[Root, Mapping[str, Figures]], Iterable[dg.AssetCheckResult]]
    events: Callable[[Root], Iterable[dg.AssetMaterialization]] = lambda _: ()
    extractor: Mapping[str, Any] = field(default_factory=dict)


def class_asset(
    *,
    name: str,
    columns: Mapping[str, tuple[str, str]],
    config: type[Config] = ClassConfig,  # type: ignore[assignment]
    observe: Callable[["ClassStep[Config]"], Iterable[dg.AssetObservation]] = lambda _: (),
    **definition: Any,
) -> Callable[[Callable[[ClassStep[Config]], ClassJob[Any, Any]]], dg.AssetsDefinition]:
    """Makes an asset with one partition for each class from a function that returns its `ClassJob`.

    `columns` are the columns of its table as {name: (type, description)}. `observe` returns observations of
    inputs that Dagster does not know yet. `definition` goes to `pipeline_asset`. A materialization calls the
    function, runs the job if there is work, writes the run record, and yields one event for each class. If
    classes failed, it ends with a `dagster.Failure` that names them.
    """
    config_type = config

    def decorate(class_job: Callable[[ClassStep[Config]], ClassJob[Any, Any]]) -> dg.AssetsDefinition:
        @pipeline_asset(
            name=name,
            partitions_def=fruit_classes,
            metadata=column_schema(columns),
            personal=True,
            **definition,
        )
        def materialize(
            context: dg.AssetExecutionContext,
            config: config_type,  # type: ignore[valid-type]
            settings: dg.ResourceParam[Settings],
            photos: dg.ResourceParam[PhotoFolders],
            job_runner: JobRunner,
        ) -> Iterator[Event]:
            step = ClassStep(context=context, settings=settings, config=config, photos=photos)
            yield from observe(step)
            # `class_job` may read the inputs, so the versions of the inputs are taken first.
            tags = provenance(context)
            job, run = _without_erased(step, class_job, job_runner)
            figures, failed = dict(job.done), dict(job.failed)
            summary: list[dg.AssetMaterialization | dg.AssetObservation] = []
            if run is not None:
                figures |= run.report.classes
                failed |= run.report.failed
                summary += [*job.events(step.store), _record(context, settings, job, run)]
            for label, found in figures.items():
                if found.without_photos:
                    context.log.warning(f"The class {label!r} has no photos. Its last version stays current.")
            if unchanged := len(job.done):
                context.log.info(f"{name}: nothing has changed in {counted(unchanged, 'class', 'classes')}.")
            # Dagster's page of an asset shows the columns that the last event names. A run of all assets has
            # no event of a class without a change.
            last = max(figures.keys() - job.done.keys() or figures, default=None)
            place = dg.MetadataValue.path(step.store.uri_of(name))
            events = [
                dg.AssetMaterialization(
                    context.asset_key,
                    partition=label,
                    description=UNCHANGED if label in job.done else None,
                    metadata={
                        **job.describe(label, found),
                        **class_figures(found.images, found.bytes),
                        "new_images": found.new,
                        "kept_images": found.kept,
                        "gone_images": found.gone,
                        STORE_PATH: place,
                        **(job.table if label == last else {}),
                    },
                    tags={**tags, DATA_VERSION: found.data_version},
                )
                for label, found in sorted(figures.items())
            ]
            report_after_step(context, settings)
            yield from _events(events, summary, list(job.checks(step.store, figures)), failed)

        return materialize

    return decorate


def _without_erased(
    step: ClassStep[Any], class_job: Callable[[ClassStep[Any]], ClassJob[Any, Any]], job_runner: JobRunner
) -> tuple[ClassJob[Any, Any], JobRun[ClassesReport[ClassFigures]] | None]:
    """The job of a step and its run, if there was work, after which no erased photo is in the store.

    Where a photo that was erased has come back, or photos were erased meanwhile, they are erased again, and
    the step looks again at what there is to do.
    """
    for _ in range(_MOST_ATTEMPTS):
        erasures, meanwhile = erasures_version(step.store), False
        job, run = class_job(step), None
        try:
            if job.to_do:
                run = job_runner.run(step.context, job.run, job.params)
        except FruitsError as error:
            if ERASED_MEANWHILE not in str(error):
                raise
            step.context.log.warning(str(error))
            meanwhile = True
        meanwhile = meanwhile or erasures_version(step.store) != erasures
        if not erase_returned(step.settings, step.context.instance, thoroughly=meanwhile) and not meanwhile:
            return job, run
        step.photos.read_erasures_again()
    raise FruitsError("Photos are erased all the time. Run it again when that has ended.", retry_helps=True)


def _record(
    context: dg.AssetExecutionContext,
    settings: Settings,
    job: ClassJob[Any, Any],
    run: JobRun[ClassesReport[ClassFigures]],
) -> dg.AssetObservation:
    """Writes the record of a job; returns the figures of the run and of the whole table, as an observation.

    The rate is of the new images.
    """
    figures, seconds = run.report.classes.values(), run.measured.seconds
    images = sum(found.new for found in figures)
    record_stage(
        context,
        settings,
        run,
        images=images,
        classes=len(figures),
        bytes_written=sum(found.written_bytes for found in figures),
        extractor=job.extractor,
    )
    versions = current_versions(open_root(settings.store), context.asset_key.to_user_string())
    return dg.AssetObservation(
        context.asset_key,
        metadata={
            TABLE_ROWS: sum(version.rows for version in versions.values()),
            "size": size(sum(version.bytes for version in versions.values())),
            "classes": len(versions),
            "classes_in_run": len(figures),
            "images_in_run": images,
            "images_per_second": round(images / seconds, 1) if seconds else 0.0,
            "report": report_page(),
            **run.metadata,
        },
    )


def _events(
    events: Sequence[dg.AssetMaterialization],
    summary: Iterable[dg.AssetMaterialization | dg.AssetObservation],
    checks: Sequence[dg.AssetCheckResult],
    failed: Mapping[str, str],
) -> Iterator[Event]:
    """Yields the event of each class, with the metadata and the data version of that class.

    Dagster would give one data version to all partitions of a step
    (https://github.com/dagster-io/dagster/issues/18649, https://github.com/dagster-io/dagster/issues/34013),
    and mark failed classes of a range as materialized
    (https://github.com/dagster-io/dagster/issues/17836). So the result of the step has no event of its own.
    """
    yield from events
    yield from summary
    yield dg.MaterializeResult(metadata=_NO_EVENT, check_results=checks)
    if failed:
        raise classes_failed(failed, len(failed) + len(events))


def failed_classes(event: dg.DagsterEvent) -> dict[str, str] | None:
    """The classes that a failed step names, with the reasons; None if it failed as a whole."""
    failure = event.step_failure_data.user_failure_data
    classes: Any = failure.metadata.get(FAILED_CLASSES) if failure else None
    return None if classes is None else dict(classes.value)


def classes_failed(failed: Mapping[str, str], number: int) -> dg.Failure:
    """The failure of a step in which some of a number of classes failed; `failed` has the reasons."""
    reasons = "; ".join(f"{label}: {reason}" for label, reason in list(failed.items())[:_NAMED])
    return dg.Failure(
        f"{len(failed)} of {number} classes failed. The other classes succeeded. {reasons}",
        metadata={FAILED_CLASSES: dict(failed)},
        allow_retries=False,
    )
