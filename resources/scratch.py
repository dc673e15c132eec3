"""Scratch folders: temporary files of a process, which go with it, however it ends.

Spark, TensorFlow and their native libraries put files into the temporary folder, and leave them there where
their process is killed. So a process that uses them has a folder of its own there, and holds its lock. The
system releases a lock with its process. A process that makes a scratch folder first removes those of its
user that no process holds.
"""

import atexit
import fcntl
import os
import re
import shutil
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from spark_jobs.errors import FruitsError

_LOCK = ".lock"
_NAME = re.compile(r"fruits-\d+-\w{8}")  # with the number of the user

_making = threading.Lock()
# The scratch folders of this process, by the folder in which they are, and the descriptors of their locks.
_folders: dict[Path, Path] = {}
_locks: list[int] = []


def use_scratch_folder() -> Path:
    """The scratch folder of this process, in which all its temporary files lie from now on.

    Those of the processes that it starts lie there too, unless they have a scratch folder of their own.
    Raises the errors of `scratch_folder`.
    """
    folder = scratch_folder()
    tempfile.tempdir = str(folder)
    if os.environ.get("TMPDIR") != tempfile.tempdir:
        os.environ["TMPDIR"] = tempfile.tempdir
    return folder


def scratch_folder(parent: str | None = None) -> Path:
    """The scratch folder of this process inside a folder, by default inside the temporary folder (TMPDIR).

    The first call makes it, for this user alone. Raises `FruitsError` where that fails.
    """
    above = outside_scratch(parent or tempfile.gettempdir())
    with _making:
        if above not in _folders:
            try:
                above.mkdir(parents=True, exist_ok=True)
                _remove_left(above)
                _folders[above] = _made_in(above)
            except OSError as error:
                raise FruitsError(
                    f"{above} can't be used for temporary files: {error}. Make room in it, or name another "
                    "folder by TMPDIR, or by SPARK_LOCAL_DIRS for Spark's blocks."
                ) from error
        return _folders[above]


def outside_scratch(folder: str) -> Path:
    """The folder itself; of a scratch folder, which a parent process may have named, the folder around it."""
    path = Path(folder).absolute()
    return path.parent if _NAME.fullmatch(path.name) else path


def hand_over_locks() -> None:
    """Lets the program that replaces this process (exec) hold the locks of the scratch folders to its end."""
    for lock in _locks:
        os.set_inheritable(lock, True)


def remove_scratch_folders() -> None:
    """Removes the scratch folders of this process. The end of Python calls it, and `os._exit` does not."""
    for folder in _folders.values():
        shutil.rmtree(folder, ignore_errors=True)


def _made_in(above: Path) -> Path:
    """A new scratch folder, locked."""
    if not _locks:
        process = os.getpid()
        atexit.register(lambda: remove_scratch_folders() if os.getpid() == process else None)  # not in forks
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_prefix(), dir=above))
        with suppress(BlockingIOError, FileNotFoundError):  # another process takes it for one that was left
            _locks.append(_locked(folder))
            return folder


def _remove_left(above: Path) -> None:
    """Removes the scratch folders of this user whose processes have ended."""
    with os.scandir(above) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(_prefix())]
    for folder in (above / name for name in names if _NAME.fullmatch(name)):
        with suppress(OSError):  # a process holds it, or another process removes it too
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            lock = _locked(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _prefix() -> str:
    return f"fruits-{os.getuid()}-"


def _locked(folder: Path) -> int:
    """The descriptor of the lock of a folder, which no child process inherits.

    Raises `BlockingIOError` where another process holds it, and `FileNotFoundError` where another process
    has removed the folder meanwhile.
    """
    path = folder / _LOCK
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(lock), path.stat()):
            raise FileNotFoundError(path)
        return lock
    except BaseException:
        os.close(lock)
        raise
