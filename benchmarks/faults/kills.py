"""Kills: a process of `fruits run`, or the job that writes CSVs, receives SIGKILL."""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.faults.check import torn
from benchmarks.faults.findings import Finding
from benchmarks.faults.workplace import (
    PATIENCE_SECONDS,
    Ended,
    Workplace,
    ended,
    kill_all,
    rerun,
    start,
    start_fruits_run,
)
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, PCA_MODEL, RAW_IMAGES

# The processes that receive SIGKILL.
VICTIMS = ("Dagster's process", "process group", "JVM", "Python worker")
STAGES = (RAW_IMAGES, MOBILENET_FEATURES, PCA_MODEL, PCA_FEATURES_CSV)
# Seconds after the first message of a stage within which the kill comes.
STAGE_SECONDS = 2.0

CSV_CLASSES, MORE_CSV_CLASSES = 60, 200


def killed_run(place: Workplace, number: int) -> Finding:
    """Kills a process of a `fruits run` that has one changed photo in each class, and runs again.

    Each victim is killed at a random time, right after a change in the store, and within a stage. Half of the
    runs fit a new model.
    """
    victim, moment, turn = VICTIMS[number % 4], number // 4 % 3, number // 12
    dice = random.Random(number)
    photos = place.usual_photos
    arguments = ("--refit",) if turn % 2 else ()
    expected = place.store_after(photos, *arguments)
    changed, seconds = place.changed_photos(photos), place.seconds_of_a_run(photos)
    store, home = place.copied(place.finished_store(photos), "store"), place.home("home")
    before = _files(store)
    watched = Watched(start_fruits_run(changed, store, home, *arguments))
    if moment == 0:
        watched.wait(lambda: False, dice.uniform(0.2, 1) * seconds)
        when = "at a random time"
    elif moment == 1:
        # The moments at which half of a change could be visible.
        changes = dice.randrange(1, 12)
        watched.wait(lambda: len(_files(store) - before) >= changes)
        when = "after a change in the store"
    else:
        stages = STAGES if arguments else [stage for stage in STAGES if stage != PCA_MODEL]
        stage = stages[turn % len(stages)]
        watched.wait(lambda: watched.has_begun(stage))
        watched.wait(lambda: False, dice.uniform(0, STAGE_SECONDS))
        when = f"in {stage}"
    killed = _kill(watched.process, victim)
    end = watched.end()
    seen = torn(str(store))
    # Spark starts a worker again.
    survives = victim == "Python worker" or not killed
    return Finding(
        fault=f"SIGKILL of the {victim} {when}" if killed else "the run had ended before its kill",
        status=end.status,
        sentence=end.sentence,
        torn=seen,
        rerun=rerun(changed, store, home, expected, *arguments),
        wrong=[
            *end.unreadable,
            *([f"status {end.status}: {end.sentence}"] if survives and end.status else []),
        ],
    )


class Watched:
    """A run whose output is read while it works."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def has_begun(self, stage: str) -> bool:
        """Whether the log has a message of an asset."""
        return any(f" {stage}: " in line for line in self.lines)

    def wait(self, ready: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
        """Waits until the process has ended, `ready` is true or the time is over, whichever comes first."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and not ready() and time.monotonic() < end:
            time.sleep(0.005)

    def end(self) -> Ended:
        """Waits for the end of the process. Kills a process that hangs."""
        self.wait(lambda: False)
        if self.process.poll() is None:
            kill_all(self.process)
            self.lines.append(f"fruits run: hung for {PATIENCE_SECONDS} s")
        self._reader.join()
        self.process.communicate()  # closes its pipes
        return Ended(self.process.returncode, "".join(self.lines))


def _files(store: Path) -> set[tuple[str, int]]:
    found = set()
    for path in store.rglob("*.json"):
        with suppress(FileNotFoundError):
            found.add((str(path), path.stat().st_mtime_ns))
    return found


def _kill(process: "subprocess.Popen[str]", victim: str) -> bool:
    """Kills a process of a run; false if the run ends before it has that process."""
    if process.poll() is not None:
        return False
    if victim == "Dagster's process":
        process.kill()
        return True
    if victim == "process group":
        kill_all(process)
        return True
    while process.poll() is None:
        with suppress(psutil.Error):
            for child in psutil.Process(process.pid).children(recursive=True):
                command = " ".join(child.cmdline())
                if ("java" in command) if victim == "JVM" else ("pyspark.daemon" in command):
                    # The daemon forks the workers.
                    for worker in [child] if victim == "JVM" else child.children():
                        worker.kill()
                        return True
        time.sleep(0.01)
    return False


def killed_csv_job(place: Workplace, number: int) -> Finding:
    """Kills the job that writes CSVs right after the first pointer of a CSV has changed."""
    classes = MORE_CSV_CLASSES if number < 3 else CSV_CLASSES
    photos = place.photos(classes, 4)
    store = place.folder / f"store-{classes}"
    if not store.exists():
        run_jobs(place, photos, store)
    process = start(jobs_command(place, photos, store, "--repeat-csv"))
    watched = Watched(process)
    pointers = store / f"{PCA_FEATURES_CSV}_versions" / "current"
    try:
        # The first projections mend the damage of the round before.
        for _ in range(1 + number % 2):
            before = _pointers(pointers)
            watched.wait(lambda: not before & _pointers(pointers))  # noqa: B023
        before = _pointers(pointers)
        watched.wait(lambda: bool(_pointers(pointers) - before))
        time.sleep(random.Random(number).uniform(0, 0.1))
        alive = process.poll() is None
    finally:
        kill_all(process)
        watched.end()
    return Finding(
        fault=f"SIGKILL of the job that replaces {classes} CSVs",
        torn=torn(str(store)),
        wrong=[] if alive else ["the job had ended before its kill"],
    )


def _pointers(folder: Path) -> set[tuple[str, int]]:
    found = set()
    for path in folder.glob("*.json"):
        with suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def jobs_command(place: Workplace, photos: Path, store: Path, *arguments: str) -> list[str]:
    """The command that runs the Spark jobs alone, without Dagster."""
    options = ["--photos", str(photos), "--ir", str(place.ir), "--store", str(store)]
    return [sys.executable, "-m", "benchmarks.faults.jobs", *options, *arguments]


def run_jobs(place: Workplace, photos: Path, store: Path) -> None:
    process = start(jobs_command(place, photos, store))
    assert process.stdin is not None
    process.stdin.write("\n" * 4)
    process.stdin.flush()
    if (end := ended(process)).status:
        raise RuntimeError(f"the jobs failed: {end.output[-2000:]}")
