"""Hostile files beside good photos: mutations of photos in all formats, and bombs."""

import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil

from benchmarks.faults.bombs import BOMBS, LARGE
from benchmarks.faults.findings import Finding
from benchmarks.faults.mutations import MARKER, mutations, repaired
from benchmarks.faults.workplace import Workplace, ended, start_fruits_run
from fruits_assets.readers import read_pandas
from fruits_assets.samples import SAMPLE_PHOTOS
from spark_jobs.photos.images import BadImage, decode
from spark_jobs.store.schemas import MOBILENET_FEATURES, QUARANTINED_IMAGES, RAW_IMAGES

# Files of a round. The first round has the bombs and the largest photos too.
MUTATIONS = 110
# A worker of Spark and its decoder take at most this memory (docs/settings.md).
WORKER_BYTES = 1_500_000_000
_CLASSES, _GOOD = 5, 4
_MAX_PIXELS = 120_000_000

# What Python says of its own indices and types, which is no reason that a person can read.
FOREIGN = re.compile(
    r"index out of range|struct\.error|unpack|Traceback|object has no|NoneType|codec can't"
    r"|\b\w+Error\b|\w+\(\) (got|takes|missing|argument)|not subscriptable|expected str|negative count"
)


def samples() -> list[Path]:
    """A photo of each class of the samples."""
    return sorted(SAMPLE_PHOTOS.rglob("*.jpg"))[::20]


def hostile_files(place: Workplace, number: int) -> Finding:
    """Runs over good photos with hostile files in the same folders.

    Each hostile file is accepted or has a reason, and no accepted file keeps its metadata. Good photos get
    the features that they have without hostile files beside them.
    """
    good = place.photos(_CLASSES, _GOOD)
    finished = place.finished_store(good)
    photos, store = place.folder / f"hostile-{number}", place.folder / f"store-{number}"
    for folder in (photos, store):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, photos)
    labels = sorted(folder.name for folder in photos.iterdir())
    hostile = {}
    for index, (name, content) in enumerate(_files(number)):
        path = f"{labels[index % len(labels)]}/hostile-{name}"
        (photos / path).write_bytes(content)
        hostile[path] = content
    begun = time.monotonic()
    process = start_fruits_run(
        photos, store, place.home("home"), FRUITS_MAX_BAD_SHARE="1", FRUITS_SPARK_CORES="2"
    )
    with watched_workers(process.pid) as workers:
        run = ended(process)
    seconds = time.monotonic() - begun
    if run.status:
        wrong = [f"status {run.status}: {run.sentence}", *run.unreadable]
        bad, kept = {}, {}
    else:
        bad, kept = _reasons(store), _contents(store)
        wrong = [
            *(*_missing(hostile, bad, kept), *_unread(bad)),
            *(*_lost(store, finished), *_kept_metadata(kept, hostile)),
        ]
    peak = max(workers.peaks(), default=0)
    if peak > WORKER_BYTES:
        wrong.append(f"a worker and its decoder took {peak / 1e6:,.0f} MB")
    shutil.rmtree(photos)
    if not wrong:
        shutil.rmtree(store, ignore_errors=True)
    return Finding(
        fault="mutated files and bombs" if number == 0 else "mutated files",
        status=run.status,
        sentence=run.sentence,
        wrong=wrong,
        figures={
            "files": len(hostile),
            "in quarantine": len(bad),
            "accepted": len(hostile.keys() & kept.keys()),
            "seconds": round(seconds, 1),
            "longest seconds of a decoder": round(workers.longest, 1),
            "MB of a worker with its decoder": round(peak / 1e6),
        },
    )


def _files(number: int) -> Iterator[tuple[str, bytes]]:
    yield from mutations(samples(), number, MUTATIONS)
    if number == 0:
        for name, (make, _) in BOMBS.items():
            yield name, make()
        for name, make in LARGE.items():
            yield name, make()


def _reasons(store: Path) -> dict[str, str]:
    rows = read_pandas(str(store), QUARANTINED_IMAGES, columns=["path", "reason"])
    return dict(zip(rows["path"], rows["reason"], strict=True))


def _contents(store: Path) -> dict[str, bytes]:
    rows = read_pandas(str(store), RAW_IMAGES, columns=["path", "content"])
    return dict(zip(rows["path"], rows["content"], strict=True))


def _missing(
    hostile: Mapping[str, bytes], bad: Mapping[str, str], kept: Mapping[str, bytes]
) -> Iterator[str]:
    """Files that are in no table or in both, and bombs that were accepted."""
    for path in hostile:
        if (path in bad) == (path in kept):
            yield f"{path} is in {'both tables' if path in bad else 'no table'}"
        bomb = BOMBS.get(path.partition("hostile-")[2])
        if bomb and bomb[1] not in bad.get(path, ""):
            yield f"{path}: {bad.get(path, 'was accepted')!r} instead of {bomb[1]!r}"


def _unread(bad: Mapping[str, str]) -> Iterator[str]:
    """Reasons that are none, or that Python gave."""
    for path, reason in bad.items():
        if not is_a_reason(reason):
            yield f"{path}: the reason is {reason!r}"


def is_a_reason(reason: str) -> bool:
    """Whether a person can read a reason: some words on one line, none of them Python's own."""
    return " " in reason.strip() and "\n" not in reason and not FOREIGN.search(reason)


def _lost(store: Path, finished: Path) -> Iterator[str]:
    """Good photos that are lost, or have other features than without hostile files beside them."""
    rows, wanted = (
        read_pandas(str(uri), MOBILENET_FEATURES, columns=["path", "features"]).set_index("path")["features"]
        for uri in (store, finished)
    )
    for path, features in wanted.items():
        if path not in rows.index:
            yield f"the good photo {path} is lost"
        elif not np.array_equal(rows[path], features):
            yield f"the good photo {path} has other features"


def _kept_metadata(kept: Mapping[str, bytes], hostile: Mapping[str, bytes]) -> Iterator[str]:
    for path in hostile.keys() & kept.keys():
        if keeps_metadata(kept[path]):
            yield f"{path} has kept metadata"


def keeps_metadata(stored: bytes) -> bool:
    """Whether the marker is in stored bytes, and is no part of the picture.

    A shift of the data makes any text part of an uncompressed or a damaged picture. Other text there would
    give other pixels, while no pixel depends on metadata.
    """
    if MARKER not in stored:
        return False
    other = repaired(stored.replace(MARKER, bytes(255 - byte for byte in MARKER)))
    return _pixels(stored) == _pixels(other)


def _pixels(content: bytes) -> bytes | None:
    with suppress(BadImage):
        return decode(content, _MAX_PIXELS).image.tobytes()
    return None


class Workers:
    """Spark's workers and their decoders, as they were seen, by the id of a process.

    `memory` has the peaks of a worker and of each of its decoders, in bytes. `longest` is the longest time
    that a decoder was busy without a pause, in seconds.
    """

    def __init__(self) -> None:
        self.memory: dict[int, dict[int, int]] = {}
        self.longest = 0.0
        self._busy: dict[int, float] = {}

    def peaks(self) -> list[int]:
        """The peak of each worker that had a decoder, with its decoders together, in bytes."""
        return [sum(peaks.values()) for peaks in self.memory.values() if len(peaks) > 1]

    def look(self, root: int) -> None:
        for process in psutil.Process(root).children(recursive=True):
            with suppress(psutil.Error, OSError, IndexError, ValueError):
                command = " ".join(process.cmdline())
                is_decoder = "spark_jobs.photos.guarded" in command
                if is_decoder or "pyspark.daemon" in command:
                    worker = process.ppid() if is_decoder else process.pid
                    with open(f"/proc/{process.pid}/status") as status:
                        [peak] = [line.split()[1] for line in status if line.startswith("VmHWM")]
                    self.memory.setdefault(worker, {})[process.pid] = 1024 * int(peak)
                if is_decoder:
                    self._time(process)

    def _time(self, process: psutil.Process) -> None:
        # A decoder that waits for its next photo sleeps.
        if process.status() in (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP):
            since = self._busy.setdefault(process.pid, time.monotonic())
            self.longest = max(self.longest, time.monotonic() - since)
        else:
            self._busy.pop(process.pid, None)


@contextmanager
def watched_workers(root: int) -> Iterator[Workers]:
    """Watches the workers and decoders among the descendants of a process."""
    workers, done = Workers(), threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            with suppress(psutil.NoSuchProcess):
                workers.look(root)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield workers
    finally:
        done.set()
        watcher.join()
