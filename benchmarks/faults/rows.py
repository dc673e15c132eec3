"""The rows of the table of faults. A round disturbs the platform once, and returns its findings."""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.faults.check import differences, torn
from benchmarks.faults.power import power_cut
from benchmarks.faults.workplace import Workplace, fruits_run, kill_all, start, start_fruits_run
from spark_jobs.store.csv_copies import stale_copies
from spark_jobs.store.root import open_root

Finding = dict[str, Any]


class FaultRow(NamedTuple):
    """A row of the table: the number of rounds, and a round by its number."""

    rounds: int
    round: Callable[[Workplace, int], Finding]


# The processes that receive SIGKILL, and in how many of the rounds.
VICTIMS = ["driver"] * 7 + ["group"] * 7 + ["JVM"] * 7 + ["Python worker"] * 5


def killed_run(place: Workplace, number: int) -> Finding:
    """Changes a photo, kills a process of `fruits run` at a random moment, and runs again."""
    photos = place.photos(5, 16)
    stores = []
    # Two variants of a photo take turns, so that each run has something to do.
    photo, other = photos / "class 0000" / "0000.jpg", photos / "class 0004" / "0003.jpg"
    first = (photos / "class 0001" / "0001.jpg").read_bytes()
    for variant, content in enumerate((first, other.read_bytes())):
        photo.unlink(missing_ok=True)
        photo.write_bytes(content)
        stores.append(place.finished_store(photos, f"finished-{variant}"))
    variant = (number + 1) % 2
    photo.write_bytes((first, other.read_bytes())[variant])
    store = place.folder / "store"
    if not store.exists():
        place.copied(stores[1 - variant], "store")
    home, seconds = place.home("home"), place.seconds_of_a_run(photos)
    dice = random.Random(number)
    victim = VICTIMS[number % len(VICTIMS)]
    process = start_fruits_run(photos, store, home)
    if number % 2:
        moment = dice.uniform(0.2, 1) * seconds
        _wait(process, lambda: False, moment)
    else:
        # Right after a change in the store: the moments at which half of a change could be visible.
        changes, before = dice.randrange(1, 12), _files(store)
        _wait(process, lambda: len(_files(store) - before) >= changes, 10 * seconds)
    ended = process.poll() is not None
    if not ended:
        _kill(process, victim)
    process.communicate()
    seen = torn(str(store))
    again = fruits_run(photos, store, home)
    return {
        "victim": victim,
        "ended before": ended,
        "status": process.returncode,
        "torn": seen,
        "status of the rerun": again.returncode,
        "wrong after the rerun": differences(str(store), str(stores[variant])) + torn(str(store)),
        "output": [] if again.returncode == 0 else again.stdout.splitlines()[-5:],
    }


def _wait(process: "subprocess.Popen[str]", ready: Callable[[], bool], seconds: float) -> None:
    """Waits until a process has ended, `ready` is true or the time is over, whichever comes first."""
    end = time.monotonic() + seconds
    while process.poll() is None and not ready() and time.monotonic() < end:
        time.sleep(0.005)


def _files(store: Path) -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_mtime_ns) for path in store.rglob("*.json") if path.exists()}


def _kill(process: "subprocess.Popen[str]", victim: str) -> None:
    if victim == "driver":
        process.kill()
        process.wait()
    elif victim == "group":
        kill_all(process)
    else:
        # A run that has no JVM or worker yet gets one soon; a run that ends first was not disturbed.
        while process.poll() is None:
            with suppress(psutil.Error):
                for child in psutil.Process(process.pid).children(recursive=True):
                    command = " ".join(child.cmdline())
                    if ("java" in command) if victim == "JVM" else ("pyspark.daemon" in command):
                        # The daemon forks the workers.
                        workers = child.children() if victim != "JVM" else [child]
                        for worker in workers[:1]:
                            worker.kill()
                            return
            time.sleep(0.01)


def killed_csv_job(place: Workplace, number: int) -> Finding:
    """Kills the job that writes CSVs right after the first pointer of a CSV has changed."""
    classes = 200 if number < 3 else 60
    photos = place.photos(classes, 4)
    store = place.folder / f"store-{classes}"
    if not store.exists():
        _run_jobs(place, photos, store)
    process = start(_jobs_command(place, photos, store, "--repeat-csv"))
    try:
        pointers = store / "pca_features_csv_versions" / "current"
        # The first projections mend the damage of the round before.
        for _ in range(1 + number % 2):
            before = _pointers(pointers)
            _wait(process, lambda: not before & _pointers(pointers), 300)  # noqa: B023
        before = _pointers(pointers)
        _wait(process, lambda: bool(_pointers(pointers) - before), 300)
        time.sleep(random.Random(number).uniform(0, 0.1))
    finally:
        kill_all(process)
    seen, stale = torn(str(store)), stale_copies(open_root(str(store)))
    return {"classes": classes, "torn": seen, "copies behind their pointer": len(stale)}


def _pointers(folder: Path) -> set[tuple[str, int]]:
    return {(path.name, path.stat().st_mtime_ns) for path in folder.glob("*.json")}


def _jobs_command(place: Workplace, photos: Path, store: Path, *arguments: str) -> list[str]:
    options = ["--photos", str(photos), "--ir", str(place.ir), "--store", str(store)]
    return [sys.executable, "-m", "benchmarks.faults.jobs", *options, *arguments]


def _run_jobs(place: Workplace, photos: Path, store: Path) -> None:
    process = start(_jobs_command(place, photos, store))
    process.communicate("\n" * 4)
    if process.returncode:
        raise RuntimeError(f"the jobs ended with status {process.returncode}")


def two_writers(place: Workplace, number: int) -> Finding:
    """Two runs at once on the same classes, from equal or two Dagster homes, with equal or two models."""
    photos = place.photos(5, 16)
    finished = place.finished_store(photos)
    store = place.copied(finished, "store")
    homes = [place.home("home"), place.home("home" if number % 4 in (0, 2) else "other home")]
    components = ("15", "30") if number % 4 >= 2 else ("15", "15")
    with _reading(store) as sightings:
        processes = [
            start_fruits_run(photos, store, home, "--components", count)
            for home, count in zip(homes, components, strict=True)
        ]
        outputs = [process.communicate()[0] for process in processes]
    statuses = [process.returncode for process in processes]
    return {
        "looks": sightings["looks"],
        "torn while they ran": sightings["torn"],
        "statuses": statuses,
        "torn at the end": torn(str(store)),
        "copies behind their pointer": stale_copies(open_root(str(store))),
        "output": [out.splitlines()[-5:] for out, status in zip(outputs, statuses, strict=True) if status],
    }


@contextmanager
def _reading(store: Path) -> Any:
    """A reader that looks at the whole store again and again while the context lasts."""
    sightings: dict[str, Any] = {"looks": 0, "torn": []}
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            sightings["torn"] += torn(str(store))
            sightings["looks"] += 1
            time.sleep(0.1)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield sightings
    finally:
        done.set()
        reader.join()


FLIPPED = (
    "raw_images/**/*.parquet",
    "mobilenet_features/**/*.parquet",
    "quarantined_images/**/*.parquet",
    "raw_images/_delta_log/*.json",
    "mobilenet_features/_delta_log/*.json",
    "pca_features_csv_versions/version=*/**/*.csv",
    "pca_features_csv_versions/current/*.json",
    "pca_features_csv/*.csv",
    "pca_model/**/*.parquet",
    "pca_model/current.json",
    "feature_extractor/**/model.bin",
    "feature_extractor/**/model.xml",
    "feature_extractor/current.json",
)


def flipped_bit(place: Workplace, number: int) -> Finding:
    """Flips a bit of one file of the store, reads the store, and runs again."""
    photos = place.photos(5, 16)
    bad = photos / "class 0000" / "bad.jpg"
    if not bad.exists():
        bad.write_text("no photo")
    finished = place.finished_store(photos)
    store = place.copied(finished, f"store-{number}")
    dice = random.Random(number)
    pattern = FLIPPED[number % len(FLIPPED)]
    files = sorted(path for path in store.glob(pattern) if path.stat().st_size)
    file = dice.choice(files)
    content = bytearray(file.read_bytes())
    position = dice.randrange(len(content) * 8)
    content[position // 8] ^= 1 << position % 8
    file.write_bytes(content)
    named: list[str] = _told(lambda: torn(str(store)) + stale_copies(open_root(str(store))))
    again = fruits_run(photos, store, place.home("home"))
    wrong = _told(lambda: differences(str(store), str(finished)))
    return {
        "file": str(file.relative_to(store)),
        "position": position,
        "bytes": len(content),
        "named by readers": named[:3],
        "status of the rerun": again.returncode,
        "different after the rerun": wrong[:5],
        "output": again.stdout.splitlines()[-6:] if again.returncode else [],
    }


def _told(check: Callable[[], list[str]]) -> list[str]:
    """The findings of a check, or its error as the only finding."""
    try:
        return check()
    except Exception as error:
        return [f"{type(error).__name__}: {str(error)[:300]}"]


def power_cut_round(place: Workplace, number: int) -> Finding:
    """The state of a disk at the end of a job, or a second later, after a power cut."""
    photos = place.photos(12, 8)
    return power_cut(place, number, _jobs_command(place, photos, place.folder / "disk" / "store"))


ROWS = {
    "kills": FaultRow(26, killed_run),
    "csv-kills": FaultRow(17, killed_csv_job),
    "writers": FaultRow(16, two_writers),
    "power": FaultRow(24, power_cut_round),
    "flips": FaultRow(25, flipped_bit),
}
