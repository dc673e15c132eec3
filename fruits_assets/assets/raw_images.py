"""`raw_images`: the photos, checked, in Parquet."""

from collections.abc import Iterator

import dagster as dg

from fruits_assets.assets.fruit_photos import fruit_photos
from fruits_assets.by_class import GROUP, OWNERS, ClassResult, Event, materialize_classes, share_of_run
from fruits_assets.columns import columns
from fruits_assets.costs.recording import leave_record
from fruits_assets.partitions import fruit_classes, known_classes
from fruits_assets.plots import embed
from fruits_assets.provenance import provenance
from resources.job_runner import JobRunner
from resources.settings import Settings
from spark_jobs.ingest_images import IngestParams, ingest_images
from spark_jobs.store.photos import PhotosError
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import QUARANTINED_IMAGES, RAW_IMAGES, described
from spark_jobs.store.tables import current


@dg.asset(
    name=RAW_IMAGES,
    deps=[fruit_photos],
    partitions_def=fruit_classes,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name=GROUP,
    owners=OWNERS,
    kinds={"spark", "parquet"},
    code_version="1",
    description="The photos of each class, read, hashed and checked. Bad ones are in quarantined_images.",
    metadata=columns(described(RAW_IMAGES)),
    check_specs=[
        dg.AssetCheckSpec(
            "counts_reconcile",
            asset=RAW_IMAGES,
            description="In every class, found = ingested + quarantined.",
        ),
        dg.AssetCheckSpec(
            "nothing_quarantined", asset=RAW_IMAGES, description="No photo of any class is in quarantine."
        ),
    ],
)
def raw_images(
    context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings], job_runner: JobRunner
) -> Iterator[Event]:
    tags = provenance(context)
    params = IngestParams(
        settings.images,
        settings.store,
        context.run.run_id,
        list(context.partition_keys),
        settings.max_image_bytes,
        settings.max_image_pixels,
        settings.max_bad_share,
        settings.keep_hours,
    )
    try:
        run = job_runner.run(context, ingest_images, params)
    except PhotosError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    store = open_root(settings.store)
    total = sum(figures.ingested for figures in run.report.classes.values())
    read = [figures for figures in run.report.classes.values() if not figures.gone]
    images, size = sum(figures.ingested for figures in read), sum(figures.bytes for figures in read)
    leave_record(context, settings, run, images, len(read), size)
    for label, figures in run.report.classes.items():
        if figures.gone:
            context.log.warning(f"{label} has no photos any more; its last version stays current.")
    yield from materialize_classes(
        context,
        tags,
        {
            label: ClassResult(
                figures.data_version,
                share_of_run(run.metadata, figures.ingested, total)
                | {
                    "found": figures.found,
                    "quarantined": figures.quarantined,
                    "bytes": figures.bytes,
                    "gone": figures.gone,
                    "store_path": dg.MetadataValue.path(store.uri_of(RAW_IMAGES)),
                }
                | ({"preview": embed(figures.preview_jpeg_base64)} if figures.preview_jpeg_base64 else {}),
            )
            for label, figures in run.report.classes.items()
        },
        run.report.failed,
        _checks(store, known_classes(context.instance)),
    )


def _checks(store: Root, labels: list[str]) -> Iterator[dg.AssetCheckResult]:
    """The checks, over all current classes."""
    images, quarantined = (current(store, table, labels) for table in (RAW_IMAGES, QUARANTINED_IMAGES))
    wrong = [
        label
        for label, pointer in images.items()
        if pointer.details["found"] != pointer.rows + pointer.details["quarantined"]
    ]
    yield dg.AssetCheckResult(
        check_name="counts_reconcile",
        passed=not wrong,
        metadata={"failing_classes": wrong, "images": sum(pointer.rows for pointer in images.values())},
    )
    bad = {label: pointer.rows for label, pointer in quarantined.items() if pointer.rows}
    yield dg.AssetCheckResult(
        check_name="nothing_quarantined",
        passed=not bad,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{sum(bad.values())} photos of {len(bad)} classes are in quarantine." if bad else None,
        metadata={
            "quarantined": sum(bad.values()),
            "failing_classes": bad,
            "store_path": dg.MetadataValue.path(store.uri_of(QUARANTINED_IMAGES)),
        },
    )
