"""Two runs that write at once, and a reader that reads the whole store again and again."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.faults.check import behind, differences, torn
from benchmarks.faults.findings import Finding
from benchmarks.faults.workplace import Workplace, ended, fruits_run, start_fruits_run
from spark_jobs.store.schemas import MOBILENET_FEATURES, QUARANTINED_IMAGES, RAW_IMAGES

# The seconds between the starts of both runs are at most these.
APART_SECONDS = 4.0


class _Pair(NamedTuple):
    """Two runs: the disturbance, the arguments of each, and whether they share a Dagster home."""

    fault: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    shared: bool


_SOME = tuple(word for number in (0, 1, 2) for word in ("--class", f"class {number:04}"))
_OTHERS = tuple(word for number in (1, 2, 3) for word in ("--class", f"class {number:04}"))
PAIRS = (
    _Pair("two runs on the same classes, one home", (), (), True),
    _Pair("two runs on the same classes, two homes", (), (), False),
    _Pair("two runs that fit 15 and 30 components, one home", ("--refit",), ("--components", "30"), True),
    _Pair("two runs that fit 15 and 30 components, two homes", ("--refit",), ("--components", "30"), False),
    _Pair(
        "two runs on overlapping classes, one of them fits, two homes", _SOME, ("--components", "30"), False
    ),
    _Pair("two runs on overlapping classes, two homes", _SOME, _OTHERS, False),
)


def two_writers(place: Workplace, number: int) -> Finding:
    """Two runs at once on changed photos. A third run follows."""
    pair = PAIRS[number % len(PAIRS)]
    photos = place.usual_photos
    changed, expected = place.changed_photos(photos), place.store_after(photos)
    store = place.copied(place.finished_store(photos), "store")
    homes = [place.home("home"), place.home("home" if pair.shared else "other home")]
    with reading(store) as sightings:
        first = start_fruits_run(changed, store, homes[0], *pair.first)
        time.sleep(random.Random(number).uniform(0, APART_SECONDS))
        second = start_fruits_run(changed, store, homes[1], *pair.second)
        ends = [ended(first), ended(second)]
    third = fruits_run(changed, store, homes[0])
    outputs = (RAW_IMAGES, QUARANTINED_IMAGES, MOBILENET_FEATURES)
    return Finding(
        fault=pair.fault,
        status=max(end.status for end in ends),
        sentence="\n".join(end.sentence for end in ends if end.sentence),
        looks=sightings.looks,
        torn=[*sightings.torn, *torn(str(store))],
        rerun=[
            *([f"the third run ended with status {third.status}: {third.sentence}"] if third.status else []),
            *torn(str(store)),
            *behind(str(store)),
            *differences(str(store), str(expected), outputs),
        ],
        wrong=[f"a run ended with status {end.status}: {end.sentence}" for end in ends if end.status],
    )


@dataclass
class Sightings:
    looks: int = 0
    torn: list[str] = field(default_factory=list)


@contextmanager
def reading(store: Path) -> Iterator[Sightings]:
    """A reader that reads the whole store again and again while the context lasts."""
    sightings = Sightings()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            sightings.torn += torn(str(store))
            sightings.looks += 1
            time.sleep(0.1)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield sightings
    finally:
        done.set()
        reader.join()
