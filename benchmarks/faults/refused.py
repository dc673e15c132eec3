"""Folders that refuse the platform: read-only, without permission, or on a disk that was unmounted."""

import subprocess
from pathlib import Path

from benchmarks.faults.findings import Finding
from benchmarks.faults.mounts import (
    SMALL_BYTES,
    make_read_only,
    mount_again,
    new_image,
    of_image,
    unmount_at_once,
)
from benchmarks.faults.stages import (
    CSV,
    EXTRACT,
    FIT,
    HOME,
    INGEST,
    PHOTOS,
    SPARK,
    STAGES,
    START,
    STORE,
    DisturbedRun,
)
from benchmarks.faults.workplace import Workplace

READ_ONLY, UNMOUNTED, IMMUTABLE, NOT_PERMITTED = "read-only", "unmounted", "immutable", "not permitted"

# What happens, the setting of the folder to which it happens, and the stage in which it does.
CASES = [
    *((READ_ONLY, STORE, stage) for stage in (START, *STAGES)),
    *((READ_ONLY, setting, stage) for setting in (HOME, SPARK) for stage in (START, INGEST, CSV)),
    *((UNMOUNTED, STORE, stage) for stage in (START, *STAGES)),
    *((UNMOUNTED, PHOTOS, stage) for stage in (START, INGEST)),
    *((IMMUTABLE, STORE, stage) for stage in (EXTRACT, CSV)),
    *((NOT_PERMITTED, setting, START) for setting in (STORE, HOME, SPARK, PHOTOS)),
    *((NOT_PERMITTED, STORE, stage) for stage in (INGEST, FIT)),
]

# Root that obeys the modes of files.
_OBEYS_MODES = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


def refused(place: Workplace, number: int) -> Finding:
    """Takes a folder away as a stage of a run begins, gives it back after its end, and runs again."""
    how, setting, stage = CASES[number % len(CASES)]
    disk, image = place.folder / "disk", place.folder / "disk.img"
    new_image(image, SMALL_BYTES)
    with of_image(image, disk):
        run = DisturbedRun(place, stage, setting, disk, _OBEYS_MODES if how == NOT_PERMITTED else ())
        if (how, setting, stage) == (UNMOUNTED, STORE, START):
            run.end(lambda: None)  # Dagster's home knows the store
        subprocess.run(["sync", "--file-system", disk], check=True)
        ended, seconds = run.end(lambda: _take(how, disk, run.folder))
        _give_back(how, image, disk, run.folder)
        return run.finding(f"{setting} {how}: {stage}", ended, seconds)


def _take(how: str, disk: Path, folder: Path) -> None:
    if how == READ_ONLY:
        make_read_only(disk)
    elif how == UNMOUNTED:
        unmount_at_once(disk)
    elif how == IMMUTABLE:
        subprocess.run(["chattr", "-R", "+i", folder], check=True)
    else:
        # The owner of photos that cannot be read may not list them either.
        subprocess.run(
            ["chmod", "-R", "a-w" if folder.name != PHOTOS.lower() else "a-rwx", folder], check=True
        )


def _give_back(how: str, image: Path, disk: Path, folder: Path) -> None:
    if how in (READ_ONLY, UNMOUNTED):
        mount_again(image, disk)
    elif how == IMMUTABLE:
        subprocess.run(["chattr", "-R", "-i", folder], check=True)
    else:
        subprocess.run(["chmod", "-R", "u+rwX", folder], check=True)
