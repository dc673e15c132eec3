"""A `fruits run` that a round disturbs as one of its stages begins, and what must hold afterwards."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.faults.check import differences, torn
from benchmarks.faults.findings import Finding
from benchmarks.faults.kills import Watched
from benchmarks.faults.workplace import FRUITS, Ended, Workplace, rerun, start
from spark_jobs.store.schemas import FEATURE_EXTRACTOR

START, EXTRACTOR, INGEST, EXTRACT, FIT, CSV = "start", "extractor", "ingest", "extract", "fit", "CSV"
# The stages whose Spark job holds a lease in the store, in their order.
_JOBS = (INGEST, EXTRACT, FIT, CSV)
STAGES = (EXTRACTOR, *_JOBS)

# The settings of folders.
PHOTOS, STORE, HOME, SPARK = "FRUITS_IMAGES", "FRUITS_STORE", "DAGSTER_HOME", "SPARK_LOCAL_DIRS"

# With these arguments and changed photos, each stage but the first has something to do.
_ARGUMENTS = ("--refit",)


class DisturbedRun:
    """A run on changed photos and a copy of the finished store, with the folder of a setting on `disk`.

    The run converts the extractor again if that is the stage to disturb. `program` starts the command with
    other rights.
    """

    def __init__(
        self, place: Workplace, stage: str, setting: str, disk: Path, program: Sequence[str] = ()
    ) -> None:
        photos, self.stage, self._program = place.usual_photos, stage, program
        self.expected, self.photos = place.store_after(photos, *_ARGUMENTS), place.changed_photos(photos)
        self.folder = disk / setting.lower()
        on_disk = str(self.folder.relative_to(place.folder))
        if setting == PHOTOS:
            self.photos = place.copied(self.photos, on_disk)
        store = place.finished_store(photos)
        self.store = place.copied(store, on_disk if setting == STORE else "store")
        self.folder.mkdir(exist_ok=True)
        self.home = place.home(on_disk if setting == HOME else "home")
        self.temporary = {name: str(self.folder) for name in (SPARK, "TMPDIR") if setting == SPARK}
        if stage == EXTRACTOR:
            shutil.rmtree(self.store / FEATURE_EXTRACTOR)

    def end(self, disturb: Callable[[], None]) -> tuple[Ended, float]:
        """Calls `disturb` when the stage begins. Returns the end of the run, and its seconds from then on."""
        begun = time.monotonic()
        if self.stage == START:
            disturb()
        command = [*self._program, str(FRUITS), "run", *_ARGUMENTS]
        folders = {PHOTOS: self.photos, STORE: self.store, HOME: self.home}
        watched = Watched(start(command, **folders, **self.temporary))
        if self.stage != START:
            watched.wait(begins(self.stage, self.store, watched.lines))
            begun = time.monotonic()
            disturb()
        return watched.end(), time.monotonic() - begun

    def finding(self, fault: str, ended: Ended, seconds: float) -> Finding:
        """What holds in the store, in the message of the run, and after another run."""
        seen, wrong = torn(str(self.store)), list(ended.unreadable)
        if ended.status == 0:
            different = differences(str(self.store), str(self.expected))
            wrong += [f"the run ended with status 0: {difference}" for difference in different]
        else:
            wrong += [f"status {ended.status}"] if ended.status != 1 else []
            if f"={self.folder}" not in ended.sentence:
                wrong.append(f"the message does not name {self.folder} with its setting")
        return Finding(
            fault=fault,
            status=ended.status,
            sentence=ended.sentence,
            torn=seen,
            rerun=rerun(self.photos, self.store, self.home, self.expected, *_ARGUMENTS, **self.temporary),
            wrong=wrong,
            figures={"failed": ended.status != 0, "seconds to the end": round(seconds, 1)},
        )


def begins(stage: str, store: Path, lines: Sequence[str]) -> Callable[[], bool]:
    """A function that tells whether a stage of a run has begun; it must be called all the time.

    The job of a stage has taken the lease of the run in the store; of the extractor, the log tells it.
    """
    if stage == EXTRACTOR:
        return lambda: any(f" {FEATURE_EXTRACTOR}: Converting" in line for line in lines)
    leases, held = 0, False

    def has_begun() -> bool:
        nonlocal leases, held
        before, held = held, any(path.name[0] != "." for path in (store / "leases").glob("*"))
        leases += held and not before
        return leases > _JOBS.index(stage)

    return has_begun
