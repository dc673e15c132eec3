"""Reads photos, ahead of their decoding. Nothing that a listing said of a file is trusted.

A photo is at fault itself if it is gone from its folder or not permitted. Other faults of a disk pass, or are
of the disk.
"""

import errno
import os
import stat
import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from spark_jobs.photos.images import BadImage
from spark_jobs.store.photos import Photo
from spark_jobs.store.root import IO_THREADS, Root
from spark_jobs.store.s3_errors import OF_AN_OBJECT, fault_of, read_patiently

READ_AHEAD_BYTES = 64 << 20

_GONE = {errno.ENOENT, errno.ENOTDIR}
_NOT_PERMITTED = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO}
# Seconds until a file is read again after another fault of the disk.
_PAUSES = (0.1, 0.5, 2.0)

# The bytes of a photo, the reason to quarantine it, or the fault of a disk for which its class fails.
Content = bytes | BadImage | OSError


def read_ahead(
    root: Root, photos: Sequence[Photo], max_bytes: int
) -> Generator[tuple[Photo, Content], None, None]:
    """Yields every photo with its content, in order. Threads read ahead, up to `READ_AHEAD_BYTES`."""
    waiting: deque[tuple[Photo, Future[Content]]] = deque()
    pending = 0
    with ThreadPoolExecutor(min(IO_THREADS, len(photos) or 1)) as pool:
        for photo in photos:
            while waiting and (len(waiting) == 2 * IO_THREADS or pending + photo.bytes > READ_AHEAD_BYTES):
                oldest, future = waiting.popleft()
                yield oldest, future.result()
                pending -= oldest.bytes
            waiting.append((photo, pool.submit(read_photo, root, photo, max_bytes)))
            pending += photo.bytes
        while waiting:
            oldest, future = waiting.popleft()
            yield oldest, future.result()


def read_photo(root: Root, photo: Photo, max_bytes: int) -> Content:
    """The content of a photo, at most `max_bytes` long; or the reason to quarantine it, or a fault of a disk.

    Raises `OSError` if the network fails, or if S3 denies the run everything.
    """
    if photo.bytes > max_bytes:
        return _too_large(f"{photo.bytes:,} bytes are", max_bytes)
    try:
        read = _read_from_disk if root.is_local else read_patiently
        content = read(root, photo.path, max_bytes + 1)
    except BadImage as reason:
        return reason
    except OSError as error:
        if not root.is_local:
            gone = isinstance(error, FileNotFoundError)
            return BadImage("was deleted during ingestion") if gone else _refused_by_s3(root, error)
        if error.errno in _GONE:
            # Without its folder, the disk of the photos may be gone: then the class keeps its photos.
            folder = os.path.dirname(os.path.join(root.uri, photo.path))
            return BadImage("was deleted during ingestion") if os.path.isdir(folder) else error
        if error.errno in _NOT_PERMITTED:
            return BadImage(f"cannot be read: {error.strerror}")
        return error
    return content if len(content) <= max_bytes else _too_large("it grew, and its bytes are", max_bytes)


def _too_large(bytes_are: str, max_bytes: int) -> BadImage:
    return BadImage(f"{bytes_are} over the limit of {max_bytes:,} (FRUITS_MAX_IMAGE_BYTES)")


def _refused_by_s3(root: Root, error: OSError) -> BadImage:
    """The reason to quarantine a photo that S3 does not give. Raises an error that is not of the photo."""
    fault = fault_of(str(error))
    if fault and fault.kind in OF_AN_OBJECT:
        root.exists()  # raises where the run has lost its access: then no photo is bad
        return BadImage(f"cannot be read: {fault.cause}. {fault.remedy}")
    raise error


def _read_from_disk(root: Root, path: str, most: int) -> bytes:
    """The first `most` bytes of a file, which is read again after a fault that may pass.

    A file that has become a link out of the root, or a pipe, is not read.
    """
    for pause in (*_PAUSES, None):
        try:
            return _first_bytes(root, path, most)
        except OSError as error:
            if pause is None or error.errno in _GONE | _NOT_PERMITTED:
                raise
        time.sleep(pause)
    raise AssertionError  # the last pause is None


def _first_bytes(root: Root, path: str, most: int) -> bytes:
    top, file = os.path.realpath(root.uri), os.path.realpath(os.path.join(root.uri, root.inside(path)))
    if os.path.commonpath([top, file]) != top:
        raise BadImage("is a link that leads out of FRUITS_IMAGES")
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BadImage("is no file any more")
        return opened.read(most)
