"""`fruit_photos`: the folders of photos as they are."""

import dagster as dg

from fruits_assets.decorators import GROUP, errors_end_the_step
from fruits_assets.partitions import fruit_classes, known_classes, register_classes
from resources.settings import Settings
from spark_jobs.store.photos import list_photos
from spark_jobs.store.schemas import FRUIT_PHOTOS

# Names in a message or an event, which stays below 30 KB also where they have 255 bytes each.
SHOWN = 20


@dg.observable_source_asset(
    name=FRUIT_PHOTOS,
    partitions_def=fruit_classes,
    group_name=GROUP,
    tags={"dagster/kind/file": ""},  # this decorator has no `kinds`, nor `owners`
    description=(
        "The folders of labelled photos under FRUITS_IMAGES. Observing it registers every class as a "
        "partition and gives each a data version from its file names, sizes and times. It deletes nothing."
    ),
)
@errors_end_the_step
def fruit_photos(
    context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
) -> dg.DataVersionsByPartition:
    listing = list_photos(settings.images)
    known = known_classes(context.instance)
    new = sorted(listing.classes.keys() - set(known))
    gone = sorted(set(known) - listing.classes.keys())
    register_classes(context.instance, new)
    for name, reason in listing.refused.items():
        context.log.warning(f"The folder {name!r} is refused: its name {reason}. Rename it.")
    for name, reason in list(listing.skipped.items())[:SHOWN]:
        context.log.info(f"Skipped {name!r}: it {reason}.")
    if gone:
        context.log.warning(
            f"{len(gone)} classes have no photos any more: {', '.join(gone[:SHOWN])}. Their last versions "
            "stay current; to leave them out of the next model, delete their partitions in Dagster."
        )
    images = sum(len(photos) for photos in listing.classes.values())
    context.log.info(
        f"{images:,} photos in {len(listing.classes):,} classes, {len(new):,} of them new, "
        f"under {settings.images}"
    )
    context.log_event(
        dg.AssetObservation(
            context.asset_key,
            metadata={
                "images": images,
                "bytes": sum(photo.bytes for photos in listing.classes.values() for photo in photos),
                "classes": len(listing.classes),
                "new_classes": new[:SHOWN],
                "gone_classes": gone[:SHOWN],
                "refused": dict(list(listing.refused.items())[:SHOWN]),
                "skipped": dict(list(listing.skipped.items())[:SHOWN]),
            },
        )
    )
    return dg.DataVersionsByPartition({label: listing.version(label) for label in listing.classes})
