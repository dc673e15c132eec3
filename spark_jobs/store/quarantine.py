"""The photos in quarantine."""

from collections.abc import Iterable
from contextlib import suppress

from spark_jobs.errors import FruitsError
from spark_jobs.store.parquet import read_column
from spark_jobs.store.root import Root
from spark_jobs.store.schemas import QUARANTINED_IMAGES, RAW_IMAGES
from spark_jobs.store.tables import current
from spark_jobs.store.versions import Version


def bad_photos(store: Root, labels: Iterable[str] | None = None) -> dict[str, int]:
    """The number of photos of each class that are in quarantine, of all classes that have any.

    A photo that is in `raw_images` too counts as an image: its class keeps an earlier version, because too
    many photos are bad, or because a run was killed between its two commits. Where a file of a class is
    missing or damaged, all rows of its quarantine count.
    """
    bad = current(store, QUARANTINED_IMAGES, labels)
    good = current(store, RAW_IMAGES, bad) if bad else {}
    counts = {}
    for label, version in bad.items():
        counts[label] = version.rows
        with suppress(FruitsError):
            images = _paths(store, good[label]) if label in good else set()
            counts[label] = len(_paths(store, version) - images)
    return {label: count for label, count in counts.items() if count}


def _paths(store: Root, version: Version) -> set[str]:
    """The photos of a class. Raises `FruitsError` where a file is missing, damaged or outside the table."""
    if version.damage:
        raise FruitsError(version.damage)
    return set(read_column(store, version, "path"))
