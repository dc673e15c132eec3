"""The copy of a report on S3 that a browser opens: in DAGSTER_HOME, where an erasure finds it."""

import os
from pathlib import Path

_COPY = "report.html"


def keep_copy(content: bytes, home: Path) -> Path:
    """Writes a copy of a report into a folder, for its owner alone, and returns its absolute path."""
    home = home.absolute()
    new = home / f".{_COPY}.{os.getpid()}"
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    return new.replace(home / _COPY)


def find_copies(home: Path) -> list[Path]:
    """The copies in a folder, also one that a killed process has left unfinished."""
    return [*home.glob(_COPY), *home.glob(f".{_COPY}.*")]


def remove_copies(home: Path) -> int:
    """Removes the copies in a folder, and returns their number."""
    copies = find_copies(home)
    for copy in copies:
        copy.unlink(missing_ok=True)
    return len(copies)
