"""The skeleton of an asset by class: run one Spark job, record it, and yield an event for each class."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import dagster as dg

from fruits_assets.costs.recording import record_stage
from fruits_assets.decorators import pipeline_asset
from fruits_assets.partitions import fruit_classes
from fruits_assets.provenance import DATA_VERSION, provenance
from resources.job_runner import JobRunner
from resources.settings import Settings
from spark_jobs.store.root import Root, open_root
from spark_jobs.wire import ClassFigures, Job, Params

# Metadata of a failed step: {class: reason}.
FAILED_CLASSES = "failed_classes"

# The message of a failure names this many classes; its metadata names all.
_NAMED = 20

Event = dg.MaterializeResult[Any] | dg.AssetMaterialization | dg.AssetCheckResult

Figures = TypeVar("Figures", bound=ClassFigures)
ReportedFigures = TypeVar("ReportedFigures", bound=ClassFigures, covariant=True)


class ClassesReport(Protocol[ReportedFigures]):
    """The report of a job over classes: figures of each current class, and a reason for each failed class."""

    @property
    def classes(self) -> Mapping[str, ReportedFigures]: ...

    @property
    def failed(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, kw_only=True)
class ClassJob(Generic[Params, Figures]):
    """A Spark job over the classes of a step, and what its asset reports about them.

    `describe` returns the metadata of one class that only this asset has. `checks` evaluates all classes of
    the store after the job; its arguments are the store and the figures of the job by class. `extractor`
    describes the extractor of the features, for the run record.
    """

    run: Job[Params, ClassesReport[Figures]]
    params: Params
    describe: Callable[[Figures], Mapping[str, Any]]
    checks: Callable[[Root, Mapping[str, Figures]], Iterable[dg.AssetCheckResult]]
    extractor: Mapping[str, Any] = field(default_factory=dict)


def class_asset(
    *, name: str, columns: Mapping[str, tuple[str, str]], **definition: Any
) -> Callable[[Callable[[dg.AssetExecutionContext, Settings], ClassJob[Any, Any]]], dg.AssetsDefinition]:
    """Makes an asset with one partition for each class from a function that returns its `ClassJob`.

    `columns` are the columns of its table as {name: (type, description)}. `definition` goes to
    `pipeline_asset`. A materialization calls the function, runs the job, writes the run record, and yields
    one event for each class. If classes failed, it ends with a `dagster.Failure` that names them.
    """
    schema = dg.TableSchema([dg.TableColumn(column, kind, text) for column, (kind, text) in columns.items()])

    def decorate(
        class_job: Callable[[dg.AssetExecutionContext, Settings], ClassJob[Any, Any]],
    ) -> dg.AssetsDefinition:
        @pipeline_asset(
            name=name,
            partitions_def=fruit_classes,
            metadata={"dagster/column_schema": schema},
            **definition,
        )
        def materialize(
            context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings], job_runner: JobRunner
        ) -> Iterator[Event]:
            # `class_job` may read the inputs, so the versions of the inputs are taken first.
            tags = provenance(context)
            job = class_job(context, settings)
            run = job_runner.run(context, job.run, job.params)
            for label, figures in run.report.classes.items():
                if figures.gone:
                    context.log.warning(f"The class {label!r} has no photos. Its last version stays current.")
            present = [figures for figures in run.report.classes.values() if not figures.gone]
            images = sum(figures.images for figures in present)
            record_stage(
                context,
                settings,
                run,
                images=images,
                classes=len(present),
                bytes_written=sum(figures.bytes for figures in present),
                extractor=job.extractor,
            )
            store, seconds = open_root(settings.store), run.measured.seconds
            run_metadata = {
                **run.metadata,
                "images_in_run": images,
                "images_per_second": round(images / seconds, 1) if seconds else 0.0,
                "store_path": dg.MetadataValue.path(store.uri_of(name)),
            }
            metadata = {
                label: {
                    "images": figures.images,
                    "bytes": figures.bytes,
                    **run_metadata,
                    **job.describe(figures),
                }
                for label, figures in run.report.classes.items()
            }
            checks = job.checks(store, run.report.classes)
            yield from _events(context, run.report, tags=tags, metadata=metadata, checks=list(checks))

        return materialize

    return decorate


def _events(
    context: dg.AssetExecutionContext,
    report: ClassesReport[Figures],
    *,
    tags: Mapping[str, str],
    metadata: Mapping[str, Mapping[str, Any]],
    checks: list[dg.AssetCheckResult],
) -> Iterator[Event]:
    """Yields one event for each class, with the metadata and the data version of that class.

    Dagster gives one data version to all partitions of a step
    (https://github.com/dagster-io/dagster/issues/18649, https://github.com/dagster-io/dagster/issues/34013).
    So each class gets an event of its own, after the result of the step. Dagster cannot fail one partition
    of a range (https://github.com/dagster-io/dagster/issues/17836). If classes failed, the step therefore
    yields no result, because a result would mark the failed classes as materialized too.
    """
    if report.failed:
        yield from checks
    else:
        yield dg.MaterializeResult(check_results=checks)
    for label, figures in report.classes.items():
        yield dg.AssetMaterialization(
            context.asset_key,
            partition=label,
            metadata=dict(metadata[label]),
            tags={**tags, DATA_VERSION: figures.data_version},
        )
    if report.failed:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in list(report.failed.items())[:_NAMED])
        raise dg.Failure(
            f"{len(report.failed)} of {len(report.failed) + len(report.classes)} classes failed. The other "
            f"classes succeeded. {reasons}",
            metadata={FAILED_CLASSES: dict(report.failed)},
            allow_retries=False,
        )
