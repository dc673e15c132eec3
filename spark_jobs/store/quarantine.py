"""The photos in quarantine."""

from collections.abc import Iterable

from spark_jobs.store.parquet import read_column
from spark_jobs.store.root import Root
from spark_jobs.store.schemas import QUARANTINED_IMAGES, RAW_IMAGES
from spark_jobs.store.tables import current


def bad_photos(store: Root, labels: Iterable[str] | None = None) -> dict[str, int]:
    """The number of photos of each class that are in quarantine, of all classes that have any.

    A photo that is in `raw_images` too counts as an image: its class keeps an earlier version, because too
    many photos are bad, or because a run was killed between its two commits.
    """
    bad = current(store, QUARANTINED_IMAGES, labels)
    good = current(store, RAW_IMAGES, bad)
    counts = {}
    for label, version in bad.items():
        paths = set(read_column(store, version, "path"))
        if label in good and not good[label].damage:
            paths -= set(read_column(store, good[label], "path"))
        counts[label] = len(paths)
    return {label: count for label, count in counts.items() if count}
