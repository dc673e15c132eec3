"""The copy of a report on S3 that a browser opens: in DAGSTER_HOME, where an erasure finds it."""

import os
from pathlib import Path

from fruits_assets.report.write import PATH
from spark_jobs.store.root import Root

_COPY = "report.html"


def keep_copy(store: Root, home: Path) -> Path:
    """Writes a copy of the report into a folder, for its owner alone, and returns its path."""
    home = home.absolute()
    new = home / f".{_COPY}.{os.getpid()}"
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(store.read(PATH))
    return new.replace(home / _COPY)


def remove_copy(home: Path) -> bool:
    """Removes the copy in a folder; returns whether there was one."""
    copies = [*home.glob(_COPY), *home.glob(f".{_COPY}.*")]
    for copy in copies:
        copy.unlink(missing_ok=True)
    return bool(copies)
