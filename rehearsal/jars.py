"""The jars of the rehearsal's daemons: YARN and HDFS.

`python -m rehearsal.jars` downloads all jars, those of S3A too, and writes the files `jars.sha256` anew.
"""

import tempfile
from pathlib import Path

from resources.local.jars import S3A, JarSet, fetch, sha256

_LOCK = Path(__file__).with_name("jars.sha256")

YARN = JarSet(
    "yarn",
    (
        "hadoop-yarn-server-resourcemanager",
        "hadoop-yarn-server-nodemanager",
        # The timeline service is off, but the ResourceManager's web services need its classes.
        "hadoop-yarn-server-timelineservice",
        "hadoop-common",
    ),
    _LOCK,
)
HDFS = JarSet("hdfs", ("hadoop-hdfs",), _LOCK)


def _write_locks() -> None:
    lines: dict[Path, list[str]] = {}
    for jar_set in (YARN, HDFS, S3A):
        with tempfile.TemporaryDirectory() as scratch:
            jars = sorted(fetch(jar_set, Path(scratch)).glob("*.jar"))
            lines.setdefault(jar_set.lock, []).extend(
                f"{sha256(jar)}  {jar_set.name}/{jar.name}\n" for jar in jars
            )
    for lock, written in lines.items():
        lock.write_text("".join(written))


if __name__ == "__main__":
    _write_locks()
