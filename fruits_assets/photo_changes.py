"""How the photos have changed since they were ingested, and whether classes may lose photos for it."""

import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import dagster as dg

from fruits_assets.figures import size
from fruits_assets.provenance import DATA_VERSION, versions_by_class
from resources.photo_folders import Listing
from resources.photo_names import companion
from resources.settings import Settings
from spark_jobs.ingest_images import ClassIngest, IngestParams, up_to_date
from spark_jobs.store.photos import PHOTO_TABLES, Difference, KnownPhotos, image_versions
from spark_jobs.store.quarantine import bad_photos
from spark_jobs.store.root import Root
from spark_jobs.store.schemas import FRUIT_PHOTOS
from spark_jobs.store.tables import rows_by_class

# The share of the photos of a class, or of the store, that may vanish at once.
_MAY_VANISH = 0.5


@dataclass(frozen=True, kw_only=True)
class PhotoChanges:
    """The work that the photos of the classes of a step or run give.

    `params` are of the job for the classes whose photos have `changed`. The figures of the classes that need
    nothing, or have no photos, are in `done`. `failed` has the reason of each class that cannot be worked on.
    """

    params: IngestParams
    changed: Mapping[str, Difference]
    done: Mapping[str, ClassIngest]
    failed: Mapping[str, str]


def photo_changes(
    settings: Settings,
    store: Root,
    listing: Listing,
    labels: Collection[str],
    known: KnownPhotos,
    *,
    run: str = "",
    recompute: bool = False,
    accept_removals: bool = False,
) -> PhotoChanges:
    """Compares the photos of classes with those that the store knows. `run` is the id of the run.

    If more than half of the photos of a class or of the store are gone, or a folder cannot be listed, a class
    that would lose photos for it fails, unless `accept_removals` is true.
    """
    params = IngestParams(
        images=settings.images,
        store=settings.store,
        version=run,
        photos={label: listing.classes[label] for label in labels if label in listing.classes},
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
        limits=settings.decode_limits,
        scaled=settings.decodes_scaled,
        keep_metadata=settings.keep_metadata,
        max_bad_share=settings.max_bad_share,
        keep_hours=settings.keep_hours,
        recompute=recompute,
        erasures=listing.erasures,
    )
    done, changed, failed = up_to_date(params, known)
    absent = [label for label in labels if label not in listing.classes]
    hidden = {label: path for label in absent if (path := listing.hidden(label))}
    kept = _without_photos(store, {label: known[label] for label in absent if label in known.keys() - hidden})
    failed |= {label: f"its folder cannot be listed: {path}" for label, path in hidden.items()}
    failed |= {
        label: listing.refused.get(label)
        or f"there are no photos of it under FRUITS_IMAGES={settings.images}; put the folder back, or take "
        f"the class out of the store: fruits forget {shlex.quote(label)}"
        for label in absent
        if label not in kept and label not in hidden
    }
    if not accept_removals:
        failed |= _vanished(store, listing, changed)
    to_do = {label: change for label, change in changed.items() if label not in failed}
    return PhotoChanges(
        params=replace(params, photos={label: params.photos[label] for label in to_do}),
        changed=to_do,
        done={**done, **kept},
        failed=failed,
    )


def changed_photos(
    instance: dg.DagsterInstance, listing: Listing, labels: Iterable[str]
) -> list[dg.AssetObservation]:
    """An observation of each of these classes whose photos differ from those that Dagster has seen last."""
    key = dg.AssetKey(FRUIT_PHOTOS)
    seen = versions_by_class(instance, key, dg.DagsterEventType.ASSET_OBSERVATION)
    versions = {label: listing.version(label) for label in labels if label in listing.classes}
    return [
        dg.AssetObservation(
            key,
            partition=label,
            metadata={
                "photos": len(listing.classes[label]),
                "size": size(sum(photo.bytes for photo in listing.classes[label])),
            },
            tags={DATA_VERSION: version},
        )
        for label, version in versions.items()
        if seen.get(label) != version
    ]


def _vanished(store: Root, listing: Listing, changed: Mapping[str, Difference]) -> dict[str, str]:
    """The classes that would lose photos although too many are gone, or a folder cannot be listed."""
    losing = {label: change for label, change in changed.items() if change.gone}
    if not losing:
        return {}
    rows = [rows_by_class(store, table) for table in PHOTO_TABLES]
    known = sum(sum(table.values()) for table in rows)
    vanished = {label: len(_photos(change.gone)) for label, change in losing.items()}
    gone = sum(vanished.values())
    gone += sum(images for table in rows for label, images in table.items() if label not in listing.classes)
    held = {}
    for label, change in losing.items():
        unreadable = next((path for path in listing.unreadable if _is_below(path, change.gone)), None)
        if unreadable is not None:
            held[label] = f"{unreadable!r} cannot be listed, so its photos seem to be gone"
        elif vanished[label] > _MAY_VANISH * change.known:
            held[label] = f"{vanished[label]:,} of its {change.known:,} photos are gone"
        elif gone > _MAY_VANISH * known:
            held[label] = f"{gone:,} of the {known:,} photos of the store are gone"
    remedy = "The class keeps its last version. If the photos are to go: fruits run --accept-removals"
    return {label: f"{reason}. {remedy}" for label, reason in held.items()}


def _photos(paths: Collection[str]) -> list[str]:
    """The paths without those of files beside photos, which an earlier release took for bad photos."""
    return [path for path in paths if not companion(path.rpartition("/")[2])]


def _is_below(folder: str, paths: Collection[str]) -> bool:
    """Whether a path is the folder or file itself, or is below the folder."""
    return any(path == folder or path.startswith(f"{folder}/") or not folder for path in paths)


def _without_photos(store: Root, known: KnownPhotos) -> dict[str, ClassIngest]:
    """The figures of the last versions of classes that have no photos."""
    if not known:
        return {}
    quarantined = bad_photos(store, known)
    return {
        label: ClassIngest(
            found=version.rows + quarantined.get(label, 0),
            images=version.rows,
            quarantined=quarantined.get(label, 0),
            bytes=version.bytes,
            written_bytes=0,
            data_version=version.data_version,
            new=0,
            kept=version.rows,
            gone=0,
            without_photos=True,
        )
        for label, version in image_versions(known).items()
    }
