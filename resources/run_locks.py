"""Locks that tell whether the process of a run lives, also in a container and on another host.

A process holds the lock of each of its runs, a file of DAGSTER_HOME/running. The system releases a lock with
its process, however that ends. The id of a process does not tell it: ids are used again, and the first
process of each container has the id 1.
"""

import enum
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import dagster as dg

_FOLDER = "running"

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,100}")  # the ids of runs and of commands


class Lock(enum.Enum):
    """The state of a lock: a living process holds it, a process that died has left it, or there is none."""

    HELD = "held"
    LEFT = "left"
    NONE = "none"


@contextmanager
def held_lock(instance: dg.DagsterInstance, name: str) -> Iterator[None]:
    """Holds a lock, and removes it at the end."""
    path = _path(instance, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with new.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        new.rename(path)  # no process can see it without its lock
        try:
            yield
        finally:
            remove_lock(instance, name)


def lock_state(instance: dg.DagsterInstance, name: str) -> Lock:
    return _state(_path(instance, name))


def remove_lock(instance: dg.DagsterInstance, name: str) -> None:
    _path(instance, name).unlink(missing_ok=True)


def remove_old_locks(instance: dg.DagsterInstance, before: datetime) -> int:
    """Removes the locks that were taken before a moment and that dead processes have left."""
    removed = 0
    for path in (Path(instance.root_directory) / _FOLDER).glob("*"):
        with suppress(FileNotFoundError):  # its process removes it, or another process does
            if path.stat().st_mtime < before.timestamp() and _state(path) == Lock.LEFT:
                path.unlink()
                removed += 1
    return removed


def _state(path: Path) -> Lock:
    try:
        file = path.open()
    except FileNotFoundError:
        return Lock.NONE
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Lock.HELD
        return Lock.LEFT


def _path(instance: dg.DagsterInstance, name: str) -> Path:
    """The file of a lock. A name may come from a tag, which anybody can write in the UI, such as `../x`."""
    file = name if _PLAIN.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest()
    return Path(instance.root_directory) / _FOLDER / file
