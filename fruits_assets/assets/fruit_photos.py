"""`fruit_photos`: the user's folders of photos, which Dagster observes and does not change."""

import dagster as dg

from fruits_assets.decorators import GROUP, errors_end_the_step
from fruits_assets.partitions import fruit_classes, known_classes, register_classes
from resources.photo_folders import PhotoFolders
from resources.photo_names import alike, only_divisions
from resources.settings import Settings
from spark_jobs.store.classes import holdings, old_classes
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import FRUIT_PHOTOS

# A message or an event lists this many names. With names of 255 bytes each, an event stays below 30 KB.
SHOWN = 20


@dg.observable_source_asset(
    name=FRUIT_PHOTOS,
    partitions_def=fruit_classes,
    group_name=GROUP,
    tags={"dagster/kind/file": ""},  # this decorator has neither `kinds` nor `owners`
    description=(
        "The folders of labelled photos under FRUITS_IMAGES. An observation registers each class of the "
        "photos and of the store as a partition. It computes the data version of each class with photos from "
        "the names, sizes and times of its files. It deletes nothing."
    ),
)
@errors_end_the_step
def fruit_photos(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    photos: dg.ResourceParam[PhotoFolders],
) -> dg.DataVersionsByPartition:
    listing = photos.listing
    store, known = open_root(settings.store), set(known_classes(context.instance))
    everywhere = {*known, *listing.classes, *holdings(store), *old_classes(store)}
    new, gone = sorted(everywhere - known), sorted(everywhere - listing.classes.keys())
    register_classes(context.instance, new)
    for name, reason in listing.refused.items():
        context.log.warning(f"Refused the folder {name!r}: its name {reason}. Rename it.")
    for name, reason in list(listing.skipped.items())[:SHOWN]:
        context.log.info(f"Skipped {name!r}: it {reason}.")
    if listing.companions:
        kinds = ", ".join(f"{kind} ({number:,})" for kind, number in sorted(listing.companions.items()))
        context.log.info(f"Skipped files that lie beside photos: {kinds}.")
    several = [f"{label}: {number} folders" for label, number in listing.several_folders.items()]
    if several:
        context.log.info(f"Classes of several folders: {len(several)} ({', '.join(several[:SHOWN])}).")
    for labels in alike(listing.classes)[:SHOWN]:
        context.log.warning(
            f"These class names look alike: {', '.join(map(repr, labels))}. If they are one fruit, give "
            "their folders one name."
        )
    if only_divisions(listing.classes):
        context.log.warning(
            f"The only classes are {', '.join(listing.classes)}. Photos get the name of their own folder, so "
            "put them into a folder for each fruit."
        )
    if gone:
        context.log.warning(
            f"Classes without photos: {len(gone)} ({', '.join(gone[:SHOWN])}). Their last versions stay "
            "current. This takes a class out of the store: fruits forget CLASS"
        )
    images = sum(len(photos) for photos in listing.classes.values())
    context.log.info(
        f"{images:,} photos in {len(listing.classes):,} classes under {settings.images}. "
        f"New partitions: {len(new):,}"
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
                "companions": listing.companions,
            },
        )
    )
    return dg.DataVersionsByPartition({label: listing.version(label) for label in listing.classes})
