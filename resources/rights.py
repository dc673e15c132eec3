"""Who may read and write what this process writes on disk: its user alone, or a group too.

The rights come from the umask, which Spark's JVM, its Python workers and the libraries inherit. Spark gives
its event logs the mode 660 whatever the umask; the umask closes their folder.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from spark_jobs.errors import FruitsError

OWN, SHARED = 0o077, 0o007  # the bits that a umask takes away


def set_umask(shared: bool) -> None:
    """New files and folders of this process and its children are its user's own, or also its group's."""
    os.umask(SHARED if shared else OWN)


def set_umask_like(folder: Path) -> None:
    """New files and folders get the rights of an existing folder: for its group too where that shares it.

    A umask that already keeps other users out stays as it is: `load_settings` has set it.
    """
    before = os.umask(SHARED if is_shared(folder) else OWN)
    if before & SHARED == SHARED:
        os.umask(before)


def share_databases(folder: Path, name: str = "*.db") -> None:
    """Lets the group of a shared folder write to SQLite's databases in it, with their WAL files.

    SQLite creates a database with the mode 644 less the umask (SQLITE_DEFAULT_FILE_PERMISSIONS).
    """
    if is_shared(folder):
        for file in folder.glob(f"{name}*"):
            with suppress(PermissionError, FileNotFoundError):  # of another user, or a WAL file that is gone
                file.chmod(0o660)


def check_shared(setting: str, folder: Path) -> None:
    """Raises `FruitsError` where new files in a folder, or in the folder that it will be in, get no group."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not is_shared(existing):
        raise FruitsError(
            f"FRUITS_SHARED=true, but {setting}={folder} is not shared with a group: new files in {existing} "
            "would not get its group, or the group could not write them. Share it: "
            f"mkdir -p {folder} && chgrp -R GROUP {folder} && chmod -R g+rwX,o= {folder} && "
            f"find {folder} -type d -exec chmod g+s {{}} +"
        )


def open_to_all(folder: Path) -> bool:
    """Whether each user of this machine can list a folder that exists."""
    try:
        rights = [path.stat().st_mode for path in (folder, *folder.parents)]
    except OSError:
        return False
    return bool(rights[0] & stat.S_IROTH) and all(mode & stat.S_IXOTH for mode in rights)


def is_shared(folder: Path) -> bool:
    """Whether the group of a folder can write to it, and new files in it get this group (setgid)."""
    needed = stat.S_ISGID | stat.S_IRWXG
    return folder.stat().st_mode & needed == needed
