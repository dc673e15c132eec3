"""Leases: a run that writes to the store says so, and its files are kept as long as it lives.

A run touches `leases/<run>` every minute. Its files lie in folders with its name. A file that nothing refers
to yet may be of a run that has still to commit it. So `sweep` removes no file of a run whose lease is alive.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

from spark_jobs.errors import FruitsError
from spark_jobs.store.erasures import check_erasures, erasures_version
from spark_jobs.store.root import Root

_FOLDER = "leases"
_TOUCH_SECONDS = 60.0
# A run that was suspended for longer has lost its lease, as a run that was killed.
LIFETIME = timedelta(hours=1)


class Lease:
    """The lease of one run, which `held_lease` renews, and the list of erasures that the run knows."""

    def __init__(self, store: Root, run: str, erasures: str | None) -> None:
        self._store = store
        self._erasures = erasures
        self.run = run
        self.path = f"{_FOLDER}/{run}"

    def check_erasures(self) -> None:
        """Raises `FruitsError` where photos were erased since the run began: it may have read them before."""
        if self._erasures is not None:
            check_erasures(self._store, self._erasures)

    def check(self) -> None:
        """Raises `FruitsError` where the run may not commit.

        Photos were erased since it began, or another run ended its lease, so that its files may be removed.
        """
        self.check_erasures()
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
def held_lease(store: Root, run: str, erasures: str | None = None) -> Iterator[Lease]:
    """Holds the lease of a run while it writes to the store and commits.

    `erasures` is the version of the list of erasures by which the run has chosen its photos; without it, that
    of now.
    """
    with _held(store, Lease(store, run, erasures_version(store) if erasures is None else erasures)) as lease:
        yield lease


@contextmanager
def lease_of_erasure(store: Root, run: str) -> Iterator[Lease]:
    """Holds the lease of an erasure, which alone may commit while the list of erasures changes."""
    with _held(store, Lease(store, run, None)) as lease:
        yield lease


@contextmanager
def _held(store: Root, lease: Lease) -> Iterator[Lease]:
    ended = threading.Event()
    store.write(lease.path, b"")
    thread = threading.Thread(target=lease.keep, args=(ended,), name=f"lease of {lease.run}", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        thread.join()
        # A lease that stays ends by itself. Its error would hide that of the run.
        with suppress(OSError):
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
