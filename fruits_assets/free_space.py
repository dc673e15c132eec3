"""Looks at the free space before a run begins, by what the run will write."""

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

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
    for need in _needs(settings, classes):
        shared[os.stat(_existing(need.path)).st_dev].append(need)
    for needs in shared.values():
        free = shutil.disk_usage(_existing(needs[0].path)).free
        wanted = sum(need.bytes for need in needs)
        if free < wanted:
            places = " and ".join(f"{need.setting}={need.path}" for need in needs)
            raise FruitsError(
                f"{places}: {free / 1e6:,.0f} MB are free, and the run writes about {wanted / 1e6:,.0f} MB. "
                "Make room, or name a folder on another disk."
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
        folders = os.environ.get("SPARK_LOCAL_DIRS", tempfile.gettempdir())
        needs += [_Need("SPARK_LOCAL_DIRS", folder, _SPARK_BYTES) for folder in folders.split(",")]
    return needs


def _existing(path: str) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    folder = Path(path).absolute()
    return next(candidate for candidate in (folder, *folder.parents) if candidate.exists())
