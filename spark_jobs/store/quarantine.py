"""The photos in quarantine."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
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


def commonest_reasons(store: Root, labels: Collection[str]) -> dict[str, str]:
    """The two commonest reasons for which photos of each class are in quarantine, each with an example.

    Reasons that differ in numbers alone are alike. A class whose quarantine cannot be read has none.
    """
    reasons = {}
    for label, version in (current(store, QUARANTINED_IMAGES, labels) if labels else {}).items():
        with suppress(FruitsError):
            paths, texts = (read_column(store, version, column) for column in ("path", "reason"))
            alike: dict[str, list[int]] = defaultdict(list)
            for number, text in enumerate(texts):
                alike[kind_of(text)].append(number)
            commonest = sorted(alike.values(), key=len, reverse=True)[:2]
            reasons[label] = "; ".join(
                f"{paths[first]!r}{f' and {len(others):,} like it' if others else ''}: {texts[first]}"
                for first, *others in commonest
            )
    return reasons


def kind_of(reason: str) -> str:
    """The kind of a reason: reasons that differ in numbers alone are of one kind."""
    return re.sub(r"[\d,]*\d", "0", reason)


def _paths(store: Root, version: Version) -> set[str]:
    """The photos of a class. Raises `FruitsError` where a file is missing, damaged or outside the table."""
    if version.damage:
        raise FruitsError(version.damage)
    return set(read_column(store, version, "path"))
