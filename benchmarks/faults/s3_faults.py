"""Faults of S3: photos and store are on a real S3 server, and a proxy disturbs the requests of a run."""

import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.faults.check import behind, differences, torn
from benchmarks.faults.findings import Finding
from benchmarks.faults.s3_proxy import (
    DENIED,
    EXPIRED,
    INTERNAL_ERROR,
    NO_BUCKET,
    SLOW_DOWN,
    Cut,
    Delay,
    Judge,
    Pace,
    Verdict,
    s3_proxy,
)
from benchmarks.faults.versitygw import BUCKET, Bucket, built, running
from benchmarks.faults.workplace import Ended, Workplace, fruits_run
from benchmarks.faults.writers import reading
from spark_jobs.store.schemas import MOBILENET_FEATURES, PCA_FEATURES_CSV, RAW_IMAGES

SHARE = 0.05  # of the requests, which random faults disturb
STALL_SECONDS = 60.0
LATENCY_SECONDS = 0.2
BYTES_PER_SECOND = 1e6

# Names in the bucket.
STORE, _PHOTOS, _CHANGED = "store", "photos", "photos-changed"
_WRITES = ("PUT", "POST", "DELETE")
# A fault in the middle of a run begins with the first write of a stage.
_STAGES = (RAW_IMAGES, MOBILENET_FEATURES, PCA_FEATURES_CSV)


class Disturbance(NamedTuple):
    """A disturbance: its name, a new judge of the requests of a run, and the run.

    A first run has an empty store. Another run has a finished store, and a changed photo in each class.
    """

    fault: str
    judge: Callable[[], Judge]
    is_first: bool = False


def _random(seed: int, *verdicts: Verdict) -> Callable[[], Judge]:
    """Disturbs a share of the requests, each in one of some ways."""

    def judge() -> Judge:
        dice = random.Random(seed)
        return lambda *_: dice.choice(verdicts) if dice.random() < SHARE else None

    return judge


def _always(verdict: Verdict) -> Callable[[], Judge]:
    return lambda: lambda *_: verdict


def _from(stage: str, verdict: Callable[[str, float], Verdict]) -> Callable[[], Judge]:
    """Disturbs requests from a stage on, by their method and the seconds since the fault began."""

    def judge() -> Judge:
        begun: list[float] = []

        def judged(method: str, path: str, key: str) -> Verdict:
            if not begun and method in _WRITES and path.startswith(f"/{BUCKET}/{STORE}/{stage}"):
                begun.append(time.monotonic())
            return verdict(method, time.monotonic() - begun[0]) if begun else None

        return judged

    return judge


def _stall(method: str, seconds: float) -> Verdict:
    return Delay(STALL_SECONDS - seconds) if seconds < STALL_SECONDS else None


def _lost_commits() -> Judge:
    """Loses the first answer to each commit of a table."""
    lost: set[str] = set()

    def judged(method: str, path: str, key: str) -> Verdict:
        if method != "PUT" or path in lost or not re.search(r"/_delta_log/\d+\.json$", path):
            return None
        lost.add(path)
        return Cut.AFTER

    return judged


def _disturbances() -> Iterator[Disturbance]:
    share = f"{SHARE:.0%} of the requests"
    errors: dict[str, tuple[Verdict, ...]] = {
        f"{share}: 500 InternalError": (INTERNAL_ERROR,),
        f"{share}: 503 SlowDown": (SLOW_DOWN,),
        f"{share}: the connection is reset": (Cut.BEFORE,),
    }
    mixed = f"{share}: an error, a reset, or a lost answer"
    for seed in (1, 2):
        yield from (Disturbance(name, _random(seed, *verdicts)) for name, verdicts in errors.items())
        yield Disturbance(mixed, _random(seed, INTERNAL_ERROR, SLOW_DOWN, *Cut))
    for is_first in (True, False):
        yield Disturbance(mixed, _random(3, INTERNAL_ERROR, SLOW_DOWN, *Cut), is_first)
        yield Disturbance("the answer to each commit is lost", _lost_commits, is_first)
        latency = f"each request takes {LATENCY_SECONDS * 1000:.0f} ms longer"
        yield Disturbance(latency, _always(Delay(LATENCY_SECONDS)), is_first)
        rate = f"{BYTES_PER_SECOND / 1e6:.0f} MB/s in all"
        yield Disturbance(rate, _always(Pace(BYTES_PER_SECOND)), is_first)
    lasting: dict[str, Callable[[str, float], Verdict]] = {
        f"all requests stand still for {STALL_SECONDS:.0f} s": _stall,
        "the credentials expire": lambda *_: EXPIRED,
        "all writes are denied": lambda method, _: DENIED if method in _WRITES else None,
        "the bucket vanishes": lambda *_: NO_BUCKET,
    }
    for name, verdict in lasting.items():
        for stage in _STAGES:
            yield Disturbance(f"{name}, from the first write to {stage} on", _from(stage, verdict))


DISTURBANCES = tuple(_disturbances())
S3_ROUNDS = len(DISTURBANCES)


def s3_fault(place: Workplace, number: int) -> Finding:
    """Disturbs the requests of a `fruits run`, and runs again without a disturbance."""
    disturbance = DISTURBANCES[number]
    with running(built(place.folder), place.folder / "s3") as bucket:
        site = _Site(place, bucket)
        finished, changed = site.finished(), site.finished_after_changes()
        store = bucket.folder / STORE
        shutil.rmtree(store, ignore_errors=True)
        if disturbance.is_first:
            photos, expected = _PHOTOS, finished
            store.mkdir()
            # A home that knows a store refuses to begin it anew: its disk may not be mounted.
            shutil.rmtree(place.home("home"))
        else:
            photos, expected = _CHANGED, changed
            shutil.copytree(finished, store)
        counts = _Counts(disturbance.judge())
        begun = time.monotonic()
        with s3_proxy(counts.judge, bucket.address) as address, reading(store) as sightings:
            end = site.run(photos, STORE, "home", address)
        seconds = time.monotonic() - begun
        seen = torn(str(store))
        again = site.run(photos, STORE, "home")
        return Finding(
            fault=disturbance.fault,
            status=end.status,
            sentence=end.sentence,
            looks=sightings.looks + 1,
            torn=[*sightings.torn, *seen],
            rerun=[
                *([f"the rerun ended with status {again.status}: {again.sentence}"] if again.status else []),
                *torn(str(store)),
                *behind(str(store)),
                *differences(str(store), str(expected)),
            ],
            wrong=[*end.unreadable, *([] if counts.faults else ["no request was disturbed"])],
            figures={
                "seconds": round(seconds),
                "requests": counts.requests,
                "disturbed requests": counts.faults,
            },
        )


class _Counts:
    """Counts the requests that a judge has seen, and those that it has disturbed."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._lock = threading.Lock()
        self.requests = self.faults = 0

    def judge(self, method: str, path: str, key: str) -> Verdict:
        with self._lock:
            verdict = self._judge(method, path, key)
            self.requests += 1
            self.faults += verdict is not None
        return verdict


class _Site(NamedTuple):
    """The photos and stores in the bucket, which are prepared once."""

    place: Workplace
    bucket: Bucket

    def run(self, photos: str, store: str, home: str, proxy: str = "") -> Ended:
        """`fruits run` on photos and a store in the bucket."""
        uri = f"s3://{BUCKET}"
        variables = self.bucket.variables(proxy)
        return fruits_run(f"{uri}/{photos}", f"{uri}/{store}", self.place.home(home), **variables)

    def finished(self) -> Path:
        """The folder of the store of an undisturbed run on the photos."""
        self._uploaded(_PHOTOS, self.place.photos(5, 16))
        return self._made("finished", lambda name: self._undisturbed(_PHOTOS, name))

    def finished_after_changes(self) -> Path:
        """The folder of the same store after an undisturbed run on the changed photos."""
        self._uploaded(_CHANGED, self.place.changed_photos(self.place.photos(5, 16)))

        def make(name: str) -> None:
            shutil.copytree(self.finished(), self.bucket.folder / name)
            self._undisturbed(_CHANGED, name)

        return self._made("finished-after-changes", make)

    def _undisturbed(self, photos: str, store: str) -> None:
        end = self.run(photos, store, f"{store}-home")
        if end.status:
            raise RuntimeError(f"the undisturbed run failed: {end.output[-2000:]}")

    def _uploaded(self, name: str, photos: Path) -> None:
        def upload(prefix: str) -> None:
            client = self.bucket.client()
            for photo in photos.rglob("*.jpg"):
                key = f"{prefix}/{photo.relative_to(photos).as_posix()}"
                client.put_object(Bucket=BUCKET, Key=key, Body=photo.read_bytes())

        self._made(name, upload)

    def _made(self, name: str, make: Callable[[str], None]) -> Path:
        """The folder of a prefix, which appears only when it is whole."""
        folder, new = self.bucket.folder / name, f"{name}-new"
        if not folder.exists():
            shutil.rmtree(self.bucket.folder / new, ignore_errors=True)
            make(new)
            (self.bucket.folder / new).rename(folder)
        return folder
