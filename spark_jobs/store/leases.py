"""Leases: a run that writes to the store says so, and its files are kept as long as it lives.

A run touches `leases/<run>` every minute. Its files lie in folders with its name. A file that nothing refers
to yet may be of a run that has still to commit it. So `sweep` removes no file of a run whose lease is alive.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

from spark_jobs.errors import FruitsError
from spark_jobs.store.root import Root

_FOLDER = "leases"
_TOUCH_SECONDS = 60.0
# A run that was suspended for longer has lost its lease, as a run that was killed.
LIFETIME = timedelta(hours=1)


class Lease:
    """The lease of one run, which `held_lease` renews."""

    def __init__(self, store: Root, run: str) -> None:
        self._store = store
        self.run = run
        self.path = f"{_FOLDER}/{run}"

    def check(self) -> None:
        """Raises `FruitsError` where another run ended the lease: the files of this run may be removed."""
        if not self._store.has(self.path):
            raise FruitsError(
                f"{self._store.uri_of(self.path)} is gone: this run stood still for more than "
                f"{LIFETIME.total_seconds() / 3600:.0f} h, and another run has removed its unfinished files. "
                "Run it again.",
                retry_helps=True,
            )

    def now(self) -> datetime:
        """The time by the clock of the store."""
        self._store.write(self.path, b"")
        time: datetime = self._store.fs.get_file_info(self.path).mtime
        return time

    def keep(self, ended: threading.Event) -> None:
        """Touches the lease until it has ended. Where the store fails for a moment, the next touch counts."""
        while not ended.wait(_TOUCH_SECONDS):
            with suppress(OSError):
                if not self._store.has(self.path):
                    return
                self._store.write(self.path, b"")


@contextmanager
def held_lease(store: Root, run: str) -> Iterator[Lease]:
    """Holds the lease of a run while it writes to the store and commits."""
    lease, ended = Lease(store, run), threading.Event()
    store.write(lease.path, b"")
    thread = threading.Thread(target=lease.keep, args=(ended,), name=f"lease of {run}", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        thread.join()
        store.remove_file(lease.path)


def live_runs(store: Root, now: datetime) -> set[str]:
    """The runs whose leases are alive. It ends the leases of other runs before their files are removed."""
    alive = set()
    for info in store.list(_FOLDER):
        if now - info.mtime < LIFETIME:
            alive.add(info.path.rpartition("/")[2])
        else:
            store.remove_file(info.path)
    return alive
