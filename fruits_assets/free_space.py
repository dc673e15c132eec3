"""Free space: before a run, by what the run will write, and after an error that tells of a full disk."""

import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from resources.scratch import outside_scratch
from resources.settings import Settings
from spark_jobs.dimensions import FEATURES
from spark_jobs.errors import FruitsError
from spark_jobs.store.photos import Photo

# Bytes of a photo in `raw_images` beside its content, and of its row in a CSV of 15 components: measured on
# 5,928 photos.
_ROW_BYTES = 300
_CSV_BYTES = 400
# The extractor (8.8 MB), the PCA model, reports and Spark's event logs of a run.
_FIXED_BYTES = 12_000_000
# Dagster's events of a class and run: 123 MB for a run over 2,000 classes.
_EVENT_BYTES = 62_000
_HOME_BYTES = 2_000_000
# Spark keeps blocks in memory, and writes little more than its native libraries.
_SPARK_BYTES = 5_000_000

# How Python, Java and SQLite tell that a disk is full. SQLite may also tell of a mere error of the disk.
_FULL = re.compile("No space left on device|Disk quota exceeded|database or disk is full", re.IGNORECASE)
_PERHAPS_FULL = re.compile("disk I/O error|unable to open database file")
_LEAST_BYTES = 1_000_000


class _Need(NamedTuple):
    """A place that a run writes to: the name of its setting, its path, and the bytes that it will write."""

    setting: str
    path: str
    bytes: int


def check_free_space(settings: Settings, classes: Mapping[str, Sequence[Photo]]) -> None:
    """Raises `FruitsError` where a file system of this machine has less room than the run will write.

    `classes` are the photos of the classes of the run, which are written anew. Old files remain beside them.
    """
    shared: dict[int, list[_Need]] = defaultdict(list)
    free_bytes: dict[int, int] = {}
    for need in _needs(settings, classes):
        device, free = _disk(need.path)
        shared[device].append(need)
        free_bytes[device] = free
    for device, needs in shared.items():
        free = free_bytes[device]
        wanted = sum(need.bytes for need in needs)
        if free < wanted:
            places = " and ".join(f"{need.setting}={need.path}" for need in needs)
            raise FruitsError(
                f"{places}: {free / 1e6:,.0f} MB are free, and the run writes about {wanted / 1e6:,.0f} MB. "
                "Make room, or name a folder on another disk."
            )


@contextmanager
def full_disk_explained(settings: Settings | None) -> Iterator[None]:
    """Turns an error that tells of a full disk, or has that cause, into one that names the full place.

    Where no place of this machine is full, the error may be of a quota, or of a node of a cluster.
    """
    try:
        yield
    except Exception as error:
        if settings is None:
            raise
        free = {need: _disk(need.path)[1] for need in _needs(settings, {})}
        place = min(free, key=lambda need: free[need])
        full = free[place] < place.bytes
        if _tells(error, _FULL) or (free[place] < _LEAST_BYTES and _tells(error, _PERHAPS_FULL)):
            named = f"{place.setting}={place.path} is full: {free[place] / 1e6:,.1f} MB are free."
            elsewhere = (
                f"A disk or a quota is full: {error}. The folders of the run on this machine have at least "
                f"{free[place] / 1e6:,.0f} MB free."
            )
            raise FruitsError(
                f"{named if full else elsewhere} Make room, or name a folder on another disk, and run again. "
                "Each class keeps its last whole version."
            ) from error
        raise


def _tells(error: BaseException | None, words: re.Pattern[str]) -> bool:
    """Whether an error or one of its causes has these words."""
    return error is not None and (
        bool(words.search(str(error))) or _tells(error.__cause__ or error.__context__, words)
    )


def _needs(settings: Settings, classes: Mapping[str, Sequence[Photo]]) -> list[_Need]:
    photos = [photo for photos in classes.values() for photo in photos]
    row = _ROW_BYTES + 4 * FEATURES + _CSV_BYTES
    home = os.environ.get("DAGSTER_HOME") or tempfile.gettempdir()
    needs = [_Need("DAGSTER_HOME", home, _HOME_BYTES + len(classes) * _EVENT_BYTES)]
    if not settings.store.startswith("s3://"):
        content = sum(photo.bytes for photo in photos)
        needs.append(_Need("FRUITS_STORE", settings.store, _FIXED_BYTES + content + len(photos) * row))
    if settings.env == "local":
        # Spark's native libraries go to the first, and its blocks too unless it names another folder.
        folders = {"TMPDIR": tempfile.gettempdir(), "SPARK_LOCAL_DIRS": os.environ.get("SPARK_LOCAL_DIRS")}
        needs += [
            _Need(setting, str(outside_scratch(folder)), _SPARK_BYTES)
            for setting, named in folders.items()
            for folder in (named.split(",") if named else [])
        ]
    return needs


def _disk(path: str) -> tuple[int, int]:
    """The device of a path, or of the nearest folder above it that exists, and its free bytes.

    A file system that can hold no further file has no free bytes. Some file systems do not limit the number.
    """
    folder = Path(path).absolute()
    existing = next(candidate for candidate in (folder, *folder.parents) if candidate.exists())
    files = os.statvfs(existing)
    free = shutil.disk_usage(existing).free if files.f_favail or not files.f_files else 0
    return os.stat(existing).st_dev, free
