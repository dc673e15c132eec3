"""The jars of the rehearsal: the daemons of YARN and HDFS, and S3A in place of EMRFS.

Spark resolves them with its Ivy, so the rehearsal needs neither Maven nor an installed Hadoop. Spark uses the
mirror that `DEFAULT_ARTIFACT_REPOSITORY` names. `jars.sha256` lists the expected SHA-256 of each jar;
`python -m rehearsal.jars` downloads the jars and writes this file.
"""

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyspark

from resources.local.java import java_home, trust_options
from resources.local.session import HADOOP_VERSION
from spark_jobs.errors import FruitsError

SETS = {
    "yarn": (
        "hadoop-yarn-server-resourcemanager",
        "hadoop-yarn-server-nodemanager",
        # The timeline service is off, but the ResourceManager's web services need its classes.
        "hadoop-yarn-server-timelineservice",
        "hadoop-common",
    ),
    "hdfs": ("hadoop-hdfs",),
    "s3a": ("hadoop-aws",),
}

SPARK_HOME = Path(pyspark.__file__).parent

_LOCK = Path(__file__).with_name("jars.sha256")


def cache_folder() -> Path:
    """The folder of downloaded files: `$XDG_CACHE_HOME/fruits`, else `~/.cache/fruits`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fruits"


@contextmanager
def cache_lock() -> Iterator[Path]:
    """Locks the cache for one process at a time; yields its folder."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder


def jars(name: str) -> list[Path]:
    """The jars of the set `name` of `SETS`. Downloads them once, and verifies them at each call.

    Raises `FruitsError` if a jar is missing, is not in `jars.sha256`, or has another SHA-256.
    """
    with cache_lock() as cache:
        folder = cache / f"{name}-{HADOOP_VERSION}"
        if not folder.exists():
            _fetch(name, folder)
        found = sorted(folder.glob("*.jar"))
        _verify(name, folder, {jar.name: _sha256(jar) for jar in found})
        return found


def _fetch(name: str, folder: Path) -> None:
    packages = ",".join(f"org.apache.hadoop:{artifact}:{HADOOP_VERSION}" for artifact in SETS[name])
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        # Spark resolves packages before it runs a program, so an empty program is enough.
        program = Path(scratch) / "nothing.py"
        program.touch()
        spark_submit = [str(SPARK_HOME / "bin" / "spark-submit"), "--master", "local[1]"]
        # A new Ivy folder: its folder `jars` then has the jars of this set alone.
        done = subprocess.run(
            [*spark_submit, "--packages", packages, "--conf", f"spark.jars.ivy={scratch}", str(program)],
            env={
                **os.environ,
                "SPARK_HOME": str(SPARK_HOME),
                "JAVA_HOME": str(java_home()),
                "PYSPARK_PYTHON": sys.executable,
                "SPARK_LOCAL_IP": "127.0.0.1",
                "SPARK_SUBMIT_OPTS": " ".join(
                    [shlex.join(trust_options()), os.environ.get("SPARK_SUBMIT_OPTS", "")]
                ),
            },
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise FruitsError(
                f"the jars of {packages} could not be downloaded:\n{done.stderr[-1500:]}\n"
                "Spark downloads them from Maven Central, or from the mirror that "
                "DEFAULT_ARTIFACT_REPOSITORY names. Check the network, and that Java "
                "trusts the certificate of the host"
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
            actual = f"has SHA-256 {found[jar]}" if jar in found else "is missing"
            expected = f"SHA-256 {locked[jar]}" if jar in locked else "no such jar"
            raise FruitsError(
                f"{folder / jar} {actual}, but {_LOCK.name} lists {expected}. The rehearsal does not start. "
                f"Remove the folder {folder}, and the next rehearsal downloads its jars again"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_lock() -> None:
    """Downloads all jars, and writes their SHA-256 to `jars.sha256`."""
    lines = []
    for name in SETS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / name
            _fetch(name, folder)
            lines += [f"{_sha256(jar)}  {name}/{jar.name}\n" for jar in sorted(folder.glob("*.jar"))]
    _LOCK.write_text("".join(lines))


if __name__ == "__main__":
    _write_lock()
