"""Disks that become full: of the store, of Dagster's home, and of Spark's local folder."""

from benchmarks.faults.findings import Finding
from benchmarks.faults.mounts import fill, in_memory, make_room, take_inodes
from benchmarks.faults.stages import CSV, EXTRACTOR, HOME, INGEST, SPARK, STAGES, START, STORE, DisturbedRun
from benchmarks.faults.workplace import Workplace

# The setting of the folder on the disk that becomes full, the stage in which it does, and whether it lacks
# files instead of bytes.
CASES = [
    *((setting, stage, False) for setting in (STORE, HOME, SPARK) for stage in (START, *STAGES)),
    *((setting, INGEST, True) for setting in (STORE, HOME, SPARK)),
    (STORE, CSV, True),
    (SPARK, EXTRACTOR, True),
]


def full_disk(place: Workplace, number: int) -> Finding:
    """Fills a disk as a stage of a run begins, makes room after the end of the run, and runs again."""
    setting, stage, lacks_files = CASES[number % len(CASES)]
    disk = place.folder / "disk"
    with in_memory(disk):
        run = DisturbedRun(place, stage, setting, disk)
        ended, seconds = run.end(lambda: take_inodes(disk) if lacks_files else fill(disk))
        make_room(disk)
        full = "no room for another file" if lacks_files else "no room"
        return run.finding(f"{full} in {setting}: {stage}", ended, seconds)
