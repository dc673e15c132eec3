"""The folders that a run writes to on this machine, and their free space by what the run will write."""

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
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
# A run makes more files than this in each folder, and a step that fails removes some of them.
_LEAST_FILES = 20


class Place(NamedTuple):
    """A folder that a run writes to: the name of its setting, its path, and the bytes that it will write."""

    setting: str
    path: str
    bytes: int

    @property
    def named(self) -> str:
        return f"{self.setting}={self.path}"


def check_free_space(settings: Settings, classes: Mapping[str, Sequence[Photo]]) -> None:
    """Raises `FruitsError` where a file system of this machine has less room than the run will write.

    `classes` are the photos of the classes of the run, which are written anew. Old files remain beside them.
    """
    shared: dict[int, list[Place]] = defaultdict(list)
    free_bytes: dict[int, int] = {}
    for need in places(settings, classes):
        device, free = disk(need.path)
        shared[device].append(need)
        free_bytes[device] = free
    for device, needs in shared.items():
        free = free_bytes[device]
        wanted = sum(need.bytes for need in needs)
        if free < wanted:
            names = " and ".join(need.named for need in needs)
            raise FruitsError(
                f"{names}: {free / 1e6:,.0f} MB are free, and the run writes about {wanted / 1e6:,.0f} MB. "
                "Make room, or name a folder on another disk."
            )


def places(settings: Settings, classes: Mapping[str, Sequence[Photo]]) -> list[Place]:
    """The folders of this machine that a run over the photos of classes writes to."""
    photos = [photo for photos in classes.values() for photo in photos]
    row = _ROW_BYTES + 4 * FEATURES + _CSV_BYTES
    home = os.environ.get("DAGSTER_HOME") or tempfile.gettempdir()
    needs = [Place("DAGSTER_HOME", home, _HOME_BYTES + len(classes) * _EVENT_BYTES)]
    if not settings.store.startswith("s3://"):
        content = sum(photo.bytes for photo in photos)
        needs.append(Place("FRUITS_STORE", settings.store, _FIXED_BYTES + content + len(photos) * row))
    if settings.env == "local":
        # Spark's native libraries go to the first, and its blocks too unless it names another folder.
        folders = {"TMPDIR": tempfile.gettempdir(), "SPARK_LOCAL_DIRS": os.environ.get("SPARK_LOCAL_DIRS")}
        needs += [
            Place(setting, str(outside_scratch(folder)), _SPARK_BYTES)
            for setting, named in folders.items()
            for folder in (named.split(",") if named else [])
        ]
    return needs


def disk(path: str) -> tuple[int, int]:
    """The device of a path, or of the nearest folder above it that exists, and its free bytes.

    A file system with room for few further files has no free bytes. Some file systems limit no number.
    """
    existing = existing_folder(path)
    files = os.statvfs(existing)
    lacks_files = files.f_files and files.f_favail < _LEAST_FILES
    free = 0 if lacks_files else shutil.disk_usage(existing).free
    return os.stat(existing).st_dev, free


def existing_folder(path: str) -> Path:
    """A folder, or the nearest folder above it that exists."""
    folder = Path(path).absolute()
    # `Path.exists` raises where the folder above may not be entered.
    return next(candidate for candidate in (folder, *folder.parents) if os.path.exists(candidate))
