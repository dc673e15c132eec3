"""The jars that stand for an EMR node's software: YARN's daemons, and S3A in the place of EMRFS.

Spark's own Ivy resolves them, so neither Maven nor an installed Hadoop is needed, and a mirror named by
Spark's `DEFAULT_ARTIFACT_REPOSITORY` is honoured. What they must be stands in `jars.sha256`, which
`python -m rehearsal.jars` writes anew from what it fetches.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyspark

from resources.local.java import java_home, trust_options
from spark_jobs.errors import FruitsError

# The Hadoop that Spark 3.5 is built with.
HADOOP = "3.3.4"

SETS = {
    "yarn": (
        "hadoop-yarn-server-resourcemanager",
        "hadoop-yarn-server-nodemanager",
        # Off, but the ResourceManager's web services don't load without its classes.
        "hadoop-yarn-server-timelineservice",
        "hadoop-common",
    ),
    "s3a": ("hadoop-aws",),
}

SPARK_HOME = Path(pyspark.__file__).parent

_LOCK = Path(__file__).with_name("jars.sha256")


def cache_folder() -> Path:
    """Where the rehearsal keeps what it has fetched: `$XDG_CACHE_HOME/fruits`, else `~/.cache/fruits`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fruits"


@contextmanager
def cache_lock() -> Iterator[Path]:
    """The cache's folder, for one process at a time."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder


def jars(name: str) -> list[Path]:
    """The jars of one of `SETS`, fetched if they are not in the cache, and verified each time.

    Raises `FruitsError` when a jar is missing, is not in the lock, or has another SHA-256 than there.
    """
    with cache_lock() as cache:
        folder = cache / f"{name}-{HADOOP}"
        if not folder.exists():
            _fetch(name, folder)
        found = sorted(folder.glob("*.jar"))
        _verify(name, folder, {jar.name: _sha256(jar) for jar in found})
        return found


def _fetch(name: str, folder: Path) -> None:
    packages = ",".join(f"org.apache.hadoop:{artifact}:{HADOOP}" for artifact in SETS[name])
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        # Spark resolves packages before it runs a program: an empty one is enough.
        program = Path(scratch) / "nothing.py"
        program.touch()
        spark_submit = [str(SPARK_HOME / "bin" / "spark-submit"), "--master", "local[1]"]
        # An Ivy folder of its own: its `jars` then has this set's and no others.
        done = subprocess.run(
            [*spark_submit, "--packages", packages, "--conf", f"spark.jars.ivy={scratch}", str(program)],
            env={
                **os.environ,
                "SPARK_HOME": str(SPARK_HOME),
                "JAVA_HOME": str(java_home()),
                "PYSPARK_PYTHON": sys.executable,
                "SPARK_LOCAL_IP": "127.0.0.1",
                "SPARK_SUBMIT_OPTS": " ".join([trust_options(), os.environ.get("SPARK_SUBMIT_OPTS", "")]),
            },
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise FruitsError(
                f"the jars of {packages} could not be fetched:\n{done.stderr[-1500:]}\n"
                "They come from Maven Central, or the mirror that DEFAULT_ARTIFACT_REPOSITORY names: check "
                "the network, and that Java trusts the host's certificate"
            )
        shutil.move(Path(scratch) / "jars", folder)


def _verify(name: str, folder: Path, found: dict[str, str]) -> None:
    locked = {
        path.removeprefix(f"{name}/"): digest
        for digest, path in (line.split() for line in _LOCK.read_text().splitlines())
        if path.startswith(f"{name}/")
    }
    for jar in sorted(found.keys() | locked.keys()):
        if found.get(jar) != locked.get(jar):
            is_now = f"has SHA-256 {found[jar]}" if jar in found else "is missing"
            should = f"SHA-256 {locked[jar]}" if jar in locked else "no such jar"
            raise FruitsError(
                f"{folder / jar} {is_now}, and {_LOCK.name} has {should}: nothing is started with it. "
                f"Remove the folder {folder} to fetch its jars anew"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_lock() -> None:
    lines = []
    for name in SETS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / name
            _fetch(name, folder)
            lines += [f"{_sha256(jar)}  {name}/{jar.name}\n" for jar in sorted(folder.glob("*.jar"))]
    _LOCK.write_text("".join(lines))


if __name__ == "__main__":
    _write_lock()
