"""100,000 photos in 2,000 classes: runs, commands, the pages of Dagster's UI, and the ticks of its sensors.

The limits are those at which a person or Dagster gives up, so that they hold on a busy machine too. All other
measurements are figures.
"""

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any, NamedTuple

from PIL import Image

from benchmarks.faults.check import behind, torn
from benchmarks.faults.findings import Finding
from benchmarks.faults.ui_pages import load, load_log, pages
from benchmarks.faults.workplace import FRUITS, Workplace
from benchmarks.photo_sets import first_classes
from benchmarks.processes import environment, run
from fruits_assets.automation.new_photos import keep_up_to_date
from spark_jobs.store.pointers import current_by_class
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import PCA_FEATURES_CSV, RAW_IMAGES
from tests.dagster_ui import CODE, DagsterUi, dagster_ui
from tests.support import wait_for

CLASSES, IMAGES = 2000, 50
CHANGED = 20  # classes of which a photo changes

# Dagster ends a tick of a sensor after a minute. A person does not wait longer for a page, or for a command
# that has nothing to do.
PATIENCE_SECONDS = 60

# The documentation says that a run needs 0.5 GB for Dagster. A machine of 4 GB has room for twice as much.
DRIVER_MB = 1000

# A class has an event of each of four assets. Dagster stores an event twice, and its largest have 30 kB.
HOME_MB = CHANGED * 4 * 2 * 0.03

# The new files of the changed classes, the logs of the tables, which name all classes, and Spark's event log.
STORE_MB = 20

# The photos are seen within two ticks of 30 s, and the run takes as long as one that a person starts.
FOLLOWED_SECONDS = 900


class _Data(NamedTuple):
    """The photos, the store and the Dagster home of all rounds."""

    photos: Path
    store: Path
    home: Path

    @property
    def variables(self) -> dict[str, str]:
        return {
            "FRUITS_IMAGES": str(self.photos),
            "FRUITS_STORE": str(self.store),
            "FRUITS_WEIGHTS": "embedded",
            "DAGSTER_HOME": str(self.home),
        }

    def files(self, folder: Path) -> dict[str, tuple[int, int]]:
        """The size in bytes and the time of each file of the store or of the home."""
        paths = [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names]
        found = {path: os.stat(path) for path in paths if not path.endswith("dagster.yaml")}
        return {path: (file.st_size, file.st_mtime_ns) for path, file in found.items()}

    @property
    def megabytes(self) -> dict[str, float]:
        folders = {"store MB": self.store, "Dagster home MB": self.home}
        return {
            name: sum(size for size, _ in self.files(folder).values()) / 1e6
            for name, folder in folders.items()
        }

    @property
    def csvs(self) -> dict[str, str]:
        """The data version of the CSV of each class."""
        versions = current_by_class(open_root(str(self.store)), PCA_FEATURES_CSV)
        return {label: version.data_version for label, version in versions.items()}

    def change(self, number: int) -> list[str]:
        """Replaces a photo of some classes by another picture; returns the classes."""
        labels = sorted(path.name for path in self.photos.iterdir())[:: CLASSES // CHANGED]
        for label in labels:
            photo = sorted((self.photos / label).iterdir())[number % IMAGES]
            with Image.open(photo) as opened:
                picture = opened.transpose(Image.Transpose.ROTATE_90)
            photo.unlink()  # it may be a link to a photo of another row
            picture.save(photo, "JPEG", quality=91)
        return labels


def many_classes(place: Workplace, number: int) -> Finding:
    """One part of the work with many classes. It uses the photos, store and home of the parts before it."""
    data = _Data(place.folder / "photos", place.folder / "store", place.folder / "home")
    if number == 0:
        for folder in data:
            shutil.rmtree(folder, ignore_errors=True)
        first_classes(place.photos(CLASSES, IMAGES), None, data.photos)
    place.home(data.home.name)
    return PARTS[number](data)


class _Ran(NamedTuple):
    """The end of a command: status, last message, answer, time and peak memory, and the faults."""

    status: int
    sentence: str
    answer: Mapping[str, Any]
    figures: dict[str, float]
    wrong: list[str]


def _ran(data: _Data, *arguments: str) -> _Ran:
    """Runs a command of `fruits` to its end."""
    try:
        answer = run([str(FRUITS), *arguments, "--json"], data.variables)
    except CalledProcessError as error:
        end = " ".join(error.stderr.split())[-500:]
        failed = f"fruits {' '.join(arguments)} ended with status {error.returncode}: {end}"
        return _Ran(error.returncode, end, {}, {}, [failed])
    memory = {f"{kind} MB": peak for kind, peak in answer["peak_mb"].items() if kind != "other"}
    driver = memory["driver MB"]
    wrong = [f"the driver took {driver:,.0f} MB"] if driver > DRIVER_MB else []
    return _Ran(0, "", answer, {"s": answer["wall"], **memory}, wrong)


def first_run(data: _Data) -> Finding:
    ran = _ran(data, "run")
    wanted = {
        "images": CLASSES * IMAGES,
        "quarantined_images": 0,
        "csv_rows": CLASSES * IMAGES,
        "csv_files": CLASSES,
        "failed_classes": {},
    }
    wrong = [f"{name}: {ran.answer.get(name)}" for name in wanted if ran.answer.get(name) != wanted[name]]
    return Finding(
        fault="the first run",
        status=ran.status,
        sentence=ran.sentence,
        torn=torn(str(data.store)),
        wrong=[*ran.wrong, *wrong, *behind(str(data.store))],
        figures={**ran.figures, **data.megabytes},
    )


def nothing_changed(data: _Data) -> Finding:
    with _nothing_written(data) as wrong:
        ran = _ran(data, "run")
    return Finding(
        fault="a run, nothing has changed",
        status=ran.status,
        sentence=ran.sentence,
        looks=0,
        wrong=[*ran.wrong, *wrong, *_late("the run", ran.figures.get("s", 0))],
        figures=ran.figures,
    )


@contextmanager
def _nothing_written(data: _Data) -> Iterator[list[str]]:
    """Yields a list, which then has the files of store and home that were written in the context."""
    folders = (data.store, data.home)
    before = {path: file for folder in folders for path, file in data.files(folder).items()}
    written: list[str] = []
    yield written
    after = {path: file for folder in folders for path, file in data.files(folder).items()}
    changed = sorted(path for path in before | after if before.get(path) != after.get(path))
    if changed:
        written.append(f"{len(changed)} files were written, such as {changed[0]}")


def _late(name: str, seconds: float) -> list[str]:
    return [f"{name} took {seconds:.0f} s"] if seconds > PATIENCE_SECONDS else []


def some_changed(data: _Data) -> Finding:
    changed, csvs, sizes = data.change(2), data.csvs, data.megabytes
    ran = _ran(data, "run")
    growth = {name: size - sizes[name] for name, size in data.megabytes.items()}
    limits = {"store MB": STORE_MB, "Dagster home MB": HOME_MB}
    wrong = [f"{name}: {growth[name]:.1f} more" for name, limit in limits.items() if growth[name] > limit]
    written = sorted(label for label, version in data.csvs.items() if csvs.get(label) != version)
    if written != changed:
        wrong.append(f"{len(changed)} classes have changed, and {len(written)} CSVs")
    return Finding(
        fault=f"a run, a photo of each of {CHANGED} classes has changed",
        status=ran.status,
        sentence=ran.sentence,
        torn=torn(str(data.store)),
        wrong=[*ran.wrong, *wrong, *behind(str(data.store))],
        figures={**ran.figures, **{f"{name} more": size for name, size in growth.items()}},
    )


def looks(data: _Data) -> Finding:
    data.change(3)
    figures, wrong = dict[str, float](), list[str]()
    with _nothing_written(data) as written:
        for arguments in (("status",), ("run", "--dry-run")):
            ran, name = _ran(data, *arguments), " ".join(arguments)
            figures |= {f"{name} {figure}": value for figure, value in ran.figures.items()}
            wrong += [*ran.wrong, *_late(name, ran.figures.get("s", 0))]
            said = dict(ran.answer.get("changes", ())).get("photos", "")
            if f"{CHANGED} changed in {CHANGED} classes" not in said:
                wrong.append(f"{name} says of the photos: {said}")
    return Finding(fault="fruits status, and a dry run", looks=0, wrong=[*wrong, *written], figures=figures)


def ui(data: _Data) -> Finding:
    """Loads the pages, of the first run that of all events."""
    figures, wrong = dict[str, float](), list[str]()
    with _served(data, daemon=False) as served:
        first = served.runs()[-1]["runId"]
        label = next(iter(data.csvs))
        loads = {
            name: load(served, queries)
            for name, queries in pages(served, asset=RAW_IMAGES, label=label, run=first).items()
        }
        loads["log of the first run"] = load_log(served, first)
    for name, loaded in loads.items():
        figures |= {f"{name} s": loaded.seconds, f"{name} MB": loaded.megabytes}
        wrong += [*(f"{name}: {error}" for error in loaded.errors), *_late(name, loaded.seconds)]
    return Finding(fault="the pages of Dagster's UI", looks=0, wrong=wrong, figures=figures)


def sensors(data: _Data) -> Finding:
    """Photos change while Dagster's daemon runs all sensors, which bring the classes up to date."""
    wrong, csvs, begun = list[str](), data.csvs, time.monotonic()
    with _served(data, daemon=True) as served:
        served.switch_on(keep_up_to_date.name)
        changed = data.change(4)

        def followed() -> bool:
            now = data.csvs
            return all(now[label] != csvs[label] for label in changed) and not served.runs(statuses=_ACTIVE)

        try:
            wait_for(followed, FOLLOWED_SECONDS, pause=2)
        except AssertionError:
            wrong.append(f"the CSVs did not follow the photos within {FOLLOWED_SECONDS} s")
        figures = {"from photos to CSVs s": time.monotonic() - begun}
        for name, ticks in _ticks(served).items():
            seconds = [tick["endTimestamp"] - tick["timestamp"] for tick in ticks if tick["endTimestamp"]]
            figures[f"tick of {name} s"] = max(seconds, default=PATIENCE_SECONDS)
            failed = [tick["error"] for tick in ticks if tick["status"] == "FAILURE"]
            wrong += [f"{name}: {error['message'][:300] if error else 'failed'}" for error in failed[:1]]
            wrong += [] if seconds else [f"{name}: no tick has ended"]
    wrong += behind(str(data.store))
    return Finding(fault="the sensors, while photos change", looks=0, wrong=wrong, figures=figures)


_ACTIVE = ["QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"]


def _ticks(served: DagsterUi) -> dict[str, Sequence[Mapping[str, Any]]]:
    """The last ticks of each sensor that is switched on."""
    answer = served.ask(
        """query ($s: RepositorySelector!) { repositoryOrError(repositorySelector: $s) { ... on Repository {
             sensors { name sensorState { status ticks(limit: 100) {
               status timestamp endTimestamp error { message } } } } } } }""",
        s=CODE,
    )
    found = answer["repositoryOrError"]["sensors"]
    return {
        sensor["name"]: sensor["sensorState"]["ticks"]
        for sensor in found
        if sensor["sensorState"]["status"] == "RUNNING"
    }


@contextmanager
def _served(data: _Data, *, daemon: bool) -> Iterator[DagsterUi]:
    """Dagster's web server, and its daemon, as `fruits ui` starts them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with dagster_ui(environment(data.variables), port, data.home, daemon=daemon) as served:
        yield served


PARTS: tuple[Callable[[_Data], Finding], ...] = (
    first_run,
    nothing_changed,
    some_changed,
    looks,
    ui,
    sensors,
)
