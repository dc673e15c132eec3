"""`raw_images`: the photos, checked, in Parquet."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from fruits_assets.assets.fruit_photos import fruit_photos
from fruits_assets.assets.quarantined_images import quarantine_event
from fruits_assets.by_class import ClassConfig, ClassJob, ClassStep, class_asset
from fruits_assets.class_checks import check_classes
from fruits_assets.free_space import check_free_space
from fruits_assets.photo_changes import changed_photos, photo_changes
from fruits_assets.plots import embed_preview
from fruits_assets.ui.links import quarantine_page
from spark_jobs.ingest_images import ClassIngest, IngestParams, ingest_images
from spark_jobs.store.photos import Double, doubles, known_photos
from spark_jobs.store.quarantine import bad_photos
from spark_jobs.store.root import Root
from spark_jobs.store.schemas import RAW_IMAGES, described
from spark_jobs.store.tables import rows_by_class
from spark_jobs.wording import counted

# A check names this many doubles, and of each this many photos: with names of 255 bytes, 20 KB of an event.
_SHOWN, _SHOWN_PATHS = 20, 4


class IngestConfig(ClassConfig):
    """Whether classes are computed again, and whether they may lose most of their photos."""

    accept_removals: bool = Field(
        default=False,
        description=(
            "Let photos go even if more than half of the photos of a class or of the store have vanished, a "
            "folder cannot be listed, or the store itself has vanished."
        ),
    )


@class_asset(
    name=RAW_IMAGES,
    group="photos",
    deps=[fruit_photos],
    kinds={"spark", "deltalake"},
    code_version="1",
    config=IngestConfig,
    # What is read here may be newer than the last observation.
    observe=lambda step: changed_photos(step.context.instance, step.photos.listing, step.classes),
    description=(
        "The photos of each class: read, hashed and checked. To read new and changed photos, materialize "
        "the classes that fruit_photos names, or run the job bring_up_to_date, which finds them. Bad photos "
        "go to quarantined_images."
    ),
    columns=described(RAW_IMAGES),
    checks={
        "counts_reconcile": "In every class, found = ingested + quarantined.",
        "nothing_quarantined": "No photo of any class is in quarantine.",
        "no_doubles": "No photo of any class is there twice, in its class or in another.",
    },
)
def raw_images(step: ClassStep[IngestConfig]) -> ClassJob[IngestParams, ClassIngest]:
    changes = photo_changes(
        step.settings,
        step.store,
        step.photos.listing,
        step.classes,
        known_photos(step.store, step.classes),
        run=step.run,
        recompute=step.config.recompute,
        accept_removals=step.config.accept_removals,
    )
    check_free_space(step.settings, {label: change.to_read for label, change in changes.changed.items()})
    return ClassJob(
        run=ingest_images,
        params=changes.params,
        to_do=changes.changed.keys(),
        done=changes.done,
        failed=changes.failed,
        describe=_describe,
        events=lambda store: [quarantine_event(store)],
        checks=_checks,
    )


def _describe(label: str, figures: ClassIngest) -> dict[str, Any]:
    text = figures.preview_jpeg_base64
    preview = embed_preview(text) or "no preview: the job gave no small JPEG" if text else None
    return {
        **({"preview": preview} if preview else {}),
        "quarantined": figures.quarantined,
        **({"quarantine": quarantine_page(label)} if figures.quarantined else {}),
        "with_position": figures.with_position,
        **({"without_photos": True} if figures.without_photos else {}),
    }


def _checks(store: Root, figures: Mapping[str, ClassIngest]) -> Iterator[dg.AssetCheckResult]:
    images, bad = rows_by_class(store, RAW_IMAGES), bad_photos(store)
    yield check_classes(
        "counts_reconcile",
        [
            label
            for label, ingested in figures.items()
            if ingested.found != images.get(label, 0) + bad.get(label, 0)
        ],
        images=sum(images.values()),
    )
    photos = counted(sum(bad.values()), "photo", "photos")
    yield check_classes(
        "nothing_quarantined",
        bad,
        warning=f"{photos} of {counted(len(bad), 'class', 'classes')} in quarantine.",
        quarantined=sum(bad.values()),
        quarantine=quarantine_page(),
    )
    yield _no_doubles(doubles(store))


def _no_doubles(found: Sequence[Double]) -> dg.AssetCheckResult:
    across = [double for double in found if double.across_classes]
    within = [double for double in found if not double.across_classes]
    copies = sum(len(double.paths) - 1 for double in found)
    first = [" = ".join(double.paths[:_SHOWN_PATHS]) for double in (*across, *within)[:_SHOWN]]
    said = f"{counted(copies, 'photo is a copy', 'photos are copies')} of other photos"
    said += f", and {counted(len(across), 'photo is', 'photos are')} in several classes" if across else ""
    return dg.AssetCheckResult(
        check_name="no_doubles",
        passed=not found,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{said}: {first[0]}" if found else None,
        metadata={"copies": copies, "photos_in_several_classes": len(across), "doubles": first},
    )
