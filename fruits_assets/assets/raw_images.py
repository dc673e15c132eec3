"""`raw_images`: the photos, checked, in Parquet."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from fruits_assets.assets.fruit_photos import fruit_photos
from fruits_assets.by_class import Event, materialize_by_class
from fruits_assets.columns import columns
from fruits_assets.decorators import class_asset
from fruits_assets.partitions import known_classes
from fruits_assets.plots import embed
from fruits_assets.provenance import provenance
from resources.job_runner import JobRunner
from resources.settings import Settings
from spark_jobs.ingest_images import ClassIngest, IngestParams, ingest_images
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import QUARANTINED_IMAGES, RAW_IMAGES, described
from spark_jobs.store.tables import current


@class_asset(
    name=RAW_IMAGES,
    deps=[fruit_photos],
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
    params = IngestParams(
        images=settings.images,
        store=settings.store,
        version=context.run.run_id,
        classes=list(context.partition_keys),
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
        max_bad_share=settings.max_bad_share,
        keep_hours=settings.keep_hours,
    )
    yield from materialize_by_class(
        context,
        settings,
        job_runner,
        ingest_images,
        params,
        tags=provenance(context),
        describe=_describe,
        checks=lambda: _checks(open_root(settings.store), known_classes(context.instance)),
    )


def _describe(figures: ClassIngest) -> dict[str, Any]:
    preview = figures.preview_jpeg_base64
    return {
        "found": figures.found,
        "quarantined": figures.quarantined,
        "gone": figures.gone,
        **({"preview": embed(preview)} if preview else {}),
    }


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
