"""Errors of disks as sentences: the folder with its setting, the cause and the remedy.

Python, pyarrow, delta-rs, Spark, Java and SQLite tell a fault of a disk in different words, and some of them
without a path. So after an error, the folders of the run are tried.
"""

import errno
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import dagster as dg

from fruits_assets.free_space import Place, disk, existing_folder, places
from resources.settings import Settings
from spark_jobs.errors import FruitsError

FULL, READ_ONLY, DENIED, FAILING = "full", "read-only", "denied", "failing"

_KINDS = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EROFS: READ_ONLY,
    errno.EACCES: DENIED,
    errno.EPERM: DENIED,
    errno.EIO: FAILING,
    errno.ESTALE: FAILING,
    errno.ENOTCONN: FAILING,
}
# The words of errors of each kind, as the system, SQLite and Java write them.
_WORDS = {
    FULL: "No space left on device|Disk quota exceeded|database or disk is full",
    READ_ONLY: "Read-only file system",
    DENIED: "Permission denied|Operation not permitted",
    FAILING: "Input/output error|Stale file handle|Transport endpoint is not connected",
}
# Words of errors that a disk may have caused, whose kind they do not tell.
_PERHAPS = (
    "disk I/O error|unable to open database file|attempt to write a readonly database|"
    "Spark did not start|Spark's Java process ended|conversion of the feature extractor failed"
)
# SQLite has failed for want of room only where there is less.
_LEAST_BYTES = 1_000_000

_REMEDIES = {
    FULL: "Make room",
    READ_ONLY: "Mount the disk for writing",
    DENIED: "Give the user the right to read and write it",
    FAILING: "Check the disk and its connection",
}
_ELSEWHERE = "or name a folder on another disk, and run again. Each class keeps its last whole version."


@contextmanager
def disk_errors_explained(settings: Settings | None) -> Iterator[None]:
    """Turns an error that a disk has caused into a `FruitsError` with the folder, the cause and the remedy.

    Also where nothing has failed, it raises `FruitsError` if a folder is not the same as at the beginning:
    its disk was unmounted, and what was written since is elsewhere. Other errors pass unchanged.
    """
    begun = {place: _identity(place) for place in _places(settings)}
    try:
        yield
    except dg.Failure:  # of a step or of classes, which has its reason
        raise
    except Exception as error:
        if fault := _gone(begun) or fault_of_disk(settings, error):
            raise fault from error
        raise
    if fault := _gone(begun):
        raise fault


def _places(settings: Settings | None) -> list[Place]:
    """The folders of this machine that a run uses; it writes no bytes to that of the photos."""
    if settings is None:
        return []
    photos = [] if settings.images.startswith("s3://") else [Place("FRUITS_IMAGES", settings.images, 0)]
    return [*places(settings, {}), *photos]


def _identity(place: Place) -> tuple[int, int] | None:
    """The device and the inode of a folder; None where it is not there."""
    try:
        status = os.stat(place.path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _gone(begun: Mapping[Place, tuple[int, int] | None]) -> FruitsError | None:
    """The error of the first folder that is missing or another one now; `begun` is what they were."""
    for place, identity in begun.items():
        if identity is not None and _identity(place) != identity:
            return FruitsError(
                f"{place.named} is not the same folder as when the command began: its disk was unmounted, or "
                "the folder was moved or removed. Mount the disk or put the folder back, and run again. Each "
                "class keeps its last whole version there."
            )
    return None


def fault_of_disk(settings: Settings | None, error: Exception) -> FruitsError | None:
    """The fault of a disk that has caused an error, or None.

    The folder is one that has the fault when it is tried now, or else one that the text of the error names.
    """
    text = "\n".join(_texts(error))
    told = next((kind for kind, words in _WORDS.items() if re.search(words, text, re.IGNORECASE)), None)
    if told is None and not re.search(_PERHAPS, text):
        return None
    tried = sorted(_places(settings), key=_free)
    if any(place.named in str(error) for place in tried):
        return None  # it has a sentence already
    faults = {place: kind for place in tried if (kind := _fault(place, told))}
    named = sorted((place for place in tried if place.path in text), key=lambda place: -len(place.path))
    if place := next((place for place in named if place in faults), next(iter(faults), None)):
        return _refused(place, faults[place], error)
    if told == FULL and tried:
        least = _free(tried[0]) / 1e6
        return FruitsError(
            f"A disk or a quota is full: {error}. The folders of the run on this machine have at least "
            f"{least:,.0f} MB free. Make room, {_ELSEWHERE}"
        )
    if told and named:
        return _refused(named[0], told, error)
    if told and isinstance(error, OSError) and error.filename:
        return FruitsError(f"{error.filename}: {error.strerror}. {_REMEDIES[told]}, or name another place.")
    return None


def _texts(error: BaseException | None) -> Iterator[str]:
    """The texts of an error and of its causes."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield str(error)
        error = error.__cause__ or error.__context__


def _fault(place: Place, told: str | None) -> str | None:
    """The kind of the fault that a folder has now: a full disk if the error told of one, else no other."""
    if _free(place) < (place.bytes if told == FULL else min(place.bytes, _LEAST_BYTES)):
        kind: str | None = FULL
    else:
        kind = _refusal(place)
    # A disk that has failed is read-only afterwards.
    return kind if told is None or (told == FULL) == (kind == FULL) else None


def _refusal(place: Place) -> str | None:
    """The kind of the error that a folder, or that which it will be in, gives when a file is made in it.

    The photos are only listed.
    """
    folder = existing_folder(place.path)
    try:
        if place.bytes:
            tempfile.NamedTemporaryFile(dir=folder, prefix=".fruits-").close()
        else:
            os.listdir(folder)
    except OSError as error:
        return _KINDS.get(error.errno or 0)
    return None


def _free(place: Place) -> int:
    try:
        return disk(place.path)[1]
    except OSError:  # of a disk that fails
        return 0


def _refused(place: Place, kind: str, error: Exception) -> FruitsError:
    """The sentence of a fault, with the words of the error if they tell the file or folder."""
    told = next((text for text in _texts(error) if re.search(_WORDS[kind], text, re.IGNORECASE)), "")
    reason = f" ({told.splitlines()[0]})" if told else ""
    causes = {
        FULL: f" is full: {_free(place) / 1e6:,.1f} MB are free",
        READ_ONLY: " is read-only, which an error of its disk may have caused",
        DENIED: f": the system denies the user {os.geteuid()} a file or folder there{reason}",
        FAILING: f": the disk fails{reason}",
    }
    return FruitsError(f"{place.named}{causes[kind]}. {_REMEDIES[kind]}, {_ELSEWHERE}")
