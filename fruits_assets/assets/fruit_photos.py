"""`fruit_photos`: the user's folders of photos, which Dagster observes and does not change."""

import warnings
from collections.abc import Iterator
from typing import Any

import dagster as dg

from fruits_assets.decorators import attributes, errors_end_the_step
from fruits_assets.figures import size
from fruits_assets.partitions import fruit_classes, known_classes, register_classes
from fruits_assets.photo_changes import changed_photos
from resources.photo_folders import Listing, PhotoFolders
from resources.photo_names import alike, only_divisions
from resources.settings import Settings
from spark_jobs.store.classes import holdings, old_classes
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import FRUIT_PHOTOS
from spark_jobs.wording import counted, named

# A message or an event lists this many names of a kind. With names of 255 bytes, an event stays below 30 KB.
SHOWN = 10

_KEY = dg.AssetKey(FRUIT_PHOTOS)

# The pin of Dagster holds this decorator still.
warnings.filterwarnings("ignore", message=".*multi_observable_source_asset.* is currently in beta")


@dg.multi_observable_source_asset(  # type: ignore[untyped-decorator]
    name=FRUIT_PHOTOS,
    specs=[
        dg.AssetSpec(
            FRUIT_PHOTOS,
            partitions_def=fruit_classes,
            **attributes("photos", personal=True),
            kinds={"file"},
            description=(
                "The folders of labelled photos under FRUITS_IMAGES. Observe it first: an observation "
                "registers each class of the photos and of the store as a partition, and names the classes "
                "whose photos have changed. It deletes nothing. The data version of a class comes from the "
                "names, sizes and times of its files. Dagster shows 0 % of the partitions as filled: it "
                "counts materializations, and photos are observed."
            ),
        )
    ],
    check_specs=[
        dg.AssetCheckSpec(
            "no_folder_refused", asset=FRUIT_PHOTOS, description="The name of every folder can be a class."
        ),
        dg.AssetCheckSpec(
            "no_class_gone", asset=FRUIT_PHOTOS, description="Every class of the store has photos."
        ),
    ],
)
@errors_end_the_step
def fruit_photos(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    photos: dg.ResourceParam[PhotoFolders],
) -> Iterator[dg.AssetObservation | dg.ObserveResult]:
    listing = photos.listing
    store, known = open_root(settings.store), set(known_classes(context.instance))
    everywhere = {*known, *listing.classes, *holdings(store), *old_classes(store)}
    new, gone = sorted(everywhere - known), sorted(everywhere - listing.classes.keys())
    register_classes(context.instance, new)
    _log_listing(context, listing)
    if gone:
        context.log.warning(
            f"Classes without photos: {len(gone)} ({named(gone, SHOWN)}). Their last versions stay "
            "current. This takes a class out of the store: fruits forget CLASS"
        )
    changes = changed_photos(context.instance, listing, listing.classes)
    changed = sorted(str(change.partition) for change in changes)
    images = sum(len(photos) for photos in listing.classes.values())
    context.log.info(
        f"{images:,} photos in {counted(len(listing.classes), 'class', 'classes')} under {settings.images}. "
        f"New partitions: {len(new):,}. Photos are new or have changed in "
        f"{counted(len(changed), 'class', 'classes')}{': ' if changed else ''}{named(changed, SHOWN)}"
    )
    refused = [f"{name!r}, its name {why}" for name, why in listing.refused.items()]
    yield from changes
    yield dg.ObserveResult(
        metadata={
            "photos": images,
            "size": size(sum(photo.bytes for photos in listing.classes.values() for photo in photos)),
            "classes": len(listing.classes),
            "changed_classes": changed[:SHOWN],
            "new_classes": new[:SHOWN],
            "gone_classes": gone[:SHOWN],
            "refused": dict(list(listing.refused.items())[:SHOWN]),
            "skipped": dict(list(listing.skipped.items())[:SHOWN]),
            "companions": listing.companions,
        },
        check_results=[
            _check(
                "no_folder_refused",
                listing.refused,
                f"Refused: {named(refused, SHOWN)}. Rename the folders.",
            ),
            _check(
                "no_class_gone",
                gone,
                f"Without photos: {named(gone, SHOWN)}. Put the folders back, or take the classes out of the "
                "store: fruits forget CLASS",
            ),
        ],
    )


def _log_listing(context: dg.AssetExecutionContext, listing: Listing) -> None:
    """Says in the log which folders and files are skipped or refused, and which class names look wrong."""
    for name, reason in listing.refused.items():
        context.log.warning(f"Refused the folder {name!r}: its name {reason}. Rename it.")
    for name, reason in list(listing.skipped.items())[:SHOWN]:
        context.log.info(f"Skipped {name!r}: it {reason}.")
    if listing.companions:
        kinds = ", ".join(f"{kind} ({number:,})" for kind, number in sorted(listing.companions.items()))
        context.log.info(f"Skipped files that lie beside photos: {kinds}.")
    if listing.erased:
        context.log.info(
            f"Left out: {counted(listing.erased, 'photo', 'photos')} that fruits erase has erased."
        )
    several = [f"{label}: {number} folders" for label, number in listing.several_folders.items()]
    if several:
        context.log.info(f"Classes of several folders: {len(several)} ({named(several, SHOWN)}).")
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


def _check(name: str, failing: Any, warning: str) -> dg.AssetCheckResult:
    """The result of a check that warns if `failing` has an entry."""
    return dg.AssetCheckResult(
        check_name=name,
        passed=not failing,
        severity=dg.AssetCheckSeverity.WARN,
        description=warning if failing else None,
        metadata={"number": len(failing)},
    )
