"""The photos that Spark's workers have had in hand for long. A run that stands still names them.

A worker that reads or decodes the same photo for half a minute writes its name to the store, where the driver
finds it. Nothing is written in usual runs.
"""

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from spark_jobs.store.root import Root

_FOLDER = "in_hand"
LONG_SECONDS = 30.0
_WATCH_SECONDS = 1.0


class Hand:
    """The photo that a task works on now."""

    def __init__(self) -> None:
        self.path = ""
        self.since = time.monotonic()

    def take(self, path: str) -> None:
        self.path, self.since = path, time.monotonic()


@contextmanager
def watched_hand(store: Root, run: str, long: float = LONG_SECONDS) -> Iterator[Hand]:
    """A hand whose photo the driver of the run can name after `long` seconds."""
    hand, ended = Hand(), threading.Event()
    thread = threading.Thread(target=_watch, args=(store, run, hand, long, ended), daemon=True)
    thread.start()
    try:
        yield hand
    finally:
        ended.set()
        thread.join()


def _watch(store: Root, run: str, hand: Hand, long: float, ended: threading.Event) -> None:
    place, written = f"{_FOLDER}/{run}/{uuid.uuid4().hex}", ""
    while not ended.wait(min(long, _WATCH_SECONDS)):
        path = hand.path if time.monotonic() - hand.since >= long else ""
        if path != written:
            with suppress(OSError):  # the name is a help alone
                _write(store, place, path)
                written = path
    if written:
        with suppress(OSError):
            _write(store, place, "")


def _write(store: Root, place: str, path: str) -> None:
    if path:
        store.write(place, path.encode())
    else:
        store.remove_files([place])


def photos_in_hand(store: Root, run: str) -> list[str]:
    """The photos that the workers of a run have had in hand for long, sorted."""
    with suppress(OSError):
        places = [info.path for info in store.list(f"{_FOLDER}/{run}")]
        return sorted(content.decode() for content in store.read_present(places).values())
    return []


def forget_hands(store: Root, run: str) -> None:
    """Removes the names that workers which were killed have left."""
    with suppress(OSError):
        store.remove(f"{_FOLDER}/{run}")
