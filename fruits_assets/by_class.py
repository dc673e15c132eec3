"""The skeleton of an asset by class: run a job, record it, yield an event for each class."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import dagster as dg

from fruits_assets.costs.recording import record_stage
from fruits_assets.provenance import DATA_VERSION
from resources.job_runner import JobRunner
from resources.settings import Settings
from spark_jobs.store.root import open_root
from spark_jobs.wire import ClassFigures, Job, Params

# Metadata of a failed step: {class: reason}.
FAILED_CLASSES = "failed_classes"

# Classes that the message of a failure names; Dagster's metadata has all of them.
_NAMED = 20

Figures = TypeVar("Figures", bound=ClassFigures, covariant=True)


class ClassesReport(Protocol[Figures]):
    """The report of a job over classes: the figures of those that are current, and why the others failed."""

    @property
    def classes(self) -> Mapping[str, Figures]: ...

    @property
    def failed(self) -> Mapping[str, str]: ...


Event = dg.MaterializeResult | dg.AssetMaterialization | dg.AssetCheckResult


def materialize_by_class(
    context: dg.AssetExecutionContext,
    settings: Settings,
    job_runner: JobRunner,
    job: Job[Params, ClassesReport[Figures]],
    params: Params,
    *,
    tags: Mapping[str, str],
    describe: Callable[[Figures], Mapping[str, Any]],
    checks: Callable[[], Iterable[dg.AssetCheckResult]],
    extractor: Mapping[str, Any] | None = None,
) -> Iterator[Event]:
    """Runs a job over the classes of a step, records it, and yields an event for each class.

    `tags` is the provenance, taken before the inputs were read. `describe` gives the metadata that only this
    asset has, and `checks` looks at all current classes after the job. `extractor` is the description of the
    extractor that made the features.

    Raises `dagster.Failure`, which names each class that failed, after the events of the others.
    """
    run = job_runner.run(context, job, params)
    table = context.asset_key.to_user_string()
    store_path = dg.MetadataValue.path(open_root(settings.store).uri_of(table))
    figures = [figures for figures in run.report.classes.values() if not figures.gone]
    images = sum(of_class.images for of_class in figures)
    record_stage(
        context,
        settings,
        run,
        images=images,
        classes=len(figures),
        bytes_written=sum(of_class.bytes for of_class in figures),
        extractor=extractor,
    )
    for label, of_class in run.report.classes.items():
        if of_class.gone:
            context.log.warning(f"{label} has no photos any more; its last version stays current.")
    seconds = run.measured.seconds
    of_run = {"images_in_run": images, "images_per_second": round(images / seconds, 1) if seconds else 0.0}
    metadata = {
        label: {
            "images": of_class.images,
            **run.metadata,
            **of_run,
            "bytes": of_class.bytes,
            "store_path": store_path,
            **describe(of_class),
        }
        for label, of_class in run.report.classes.items()
    }
    yield from _events(context, tags, run.report, metadata, checks())


def _events(
    context: dg.AssetExecutionContext,
    tags: Mapping[str, str],
    report: ClassesReport[Figures],
    metadata: Mapping[str, Mapping[str, Any]],
    checks: Iterable[dg.AssetCheckResult],
) -> Iterator[Event]:
    """One event for each class, each with its own metadata and data version.

    Dagster gives one data version to all partitions of a step
    (https://github.com/dagster-io/dagster/issues/18649, https://github.com/dagster-io/dagster/issues/34013),
    so every class gets an event of its own after that of the step. Dagster cannot fail one partition of a
    range (https://github.com/dagster-io/dagster/issues/17836): where classes failed, the result of the step
    is left out, because it would mark them as materialized too.
    """
    if report.failed:
        yield from checks
    else:
        yield dg.MaterializeResult(check_results=list(checks))
    for label, of_class in report.classes.items():
        yield dg.AssetMaterialization(
            context.asset_key,
            partition=label,
            metadata=dict(metadata[label]),
            tags={**tags, DATA_VERSION: of_class.data_version},
        )
    if report.failed:
        named = "; ".join(f"{label}: {reason}" for label, reason in list(report.failed.items())[:_NAMED])
        raise dg.Failure(
            f"{len(report.failed)} of {len(report.failed) + len(report.classes)} classes failed, the others "
            f"are done. {named}",
            metadata={FAILED_CLASSES: dict(report.failed)},
            allow_retries=False,
        )
