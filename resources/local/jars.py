"""Jars that Spark itself does not contain, verified: S3A, with which Spark reads and writes `s3://`.

Spark resolves them with its Ivy, so neither Maven nor an installed Hadoop is needed. Spark uses the mirror
that `DEFAULT_ARTIFACT_REPOSITORY` names. The files `jars.sha256` list the expected SHA-256 of each jar.
"""

import fcntl
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyspark

from resources.local.java import java_home, trust_options
from spark_jobs.errors import FruitsError

HADOOP_VERSION = "3.3.4"  # the Hadoop that Spark 3.5 is built with

SPARK_HOME = Path(pyspark.__file__).parent


@dataclass(frozen=True)
class JarSet:
    """Artifacts of Hadoop with all jars that they need, and the file with the SHA-256 of each jar.

    A line of the file is `HASH  NAME/JAR`, as `sha256sum` writes it.
    """

    name: str
    artifacts: tuple[str, ...]
    lock: Path

    @property
    def packages(self) -> str:
        return ",".join(f"org.apache.hadoop:{artifact}:{HADOOP_VERSION}" for artifact in self.artifacts)


S3A = JarSet("s3a", ("hadoop-aws",), Path(__file__).with_name("jars.sha256"))


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


@functools.cache
def jars(jar_set: JarSet) -> Sequence[Path]:
    """The jars of a set. Downloads them once, and verifies them once in each process (0.3 s for S3A).

    Raises `FruitsError` if a jar can't be downloaded, is missing, is not in the lock, or has another SHA-256.
    Jars that are refused do not stay in the cache.
    """
    with cache_lock() as cache:
        folder, scratch = cache / f"{jar_set.name}-{HADOOP_VERSION}", cache / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)  # of a download that was killed
        try:
            if not folder.exists():
                scratch.mkdir()
                fetched = fetch(jar_set, scratch)
                _verify(jar_set, fetched)
                fetched.rename(folder)
            return _verify(jar_set, folder)
        except FruitsError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def fetch(jar_set: JarSet, scratch: Path) -> Path:
    """Downloads the jars of a set, which it does not verify, to a folder in `scratch`; returns the folder.

    Raises `FruitsError` if they can't be downloaded.
    """
    # Spark resolves packages before it runs a program, so an empty program is enough.
    program = scratch / "nothing.py"
    program.touch()
    spark_submit = [str(SPARK_HOME / "bin" / "spark-submit"), "--master", "local[1]"]
    # A new Ivy folder: its folder `jars` then has the jars of this set alone.
    done = subprocess.run(
        [*spark_submit, "--packages", jar_set.packages, "--conf", f"spark.jars.ivy={scratch}", str(program)],
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
        reason = next(
            (line for line in done.stderr.splitlines() if line.startswith("Exception")),
            done.stderr.strip()[-300:],
        )
        raise FruitsError(
            f"The jars of {jar_set.packages} can't be downloaded: {reason}. Spark downloads them from Maven "
            "Central, or from the mirror that DEFAULT_ARTIFACT_REPOSITORY names. Check the network, and that "
            "Java trusts the certificate of the host."
        )
    return scratch / "jars"


def _verify(jar_set: JarSet, folder: Path) -> Sequence[Path]:
    """The jars of the folder, which are those of the lock."""
    found = {jar.name: sha256(jar) for jar in sorted(folder.glob("*.jar"))}
    locked = {
        path.removeprefix(f"{jar_set.name}/"): digest
        for digest, path in (line.split() for line in jar_set.lock.read_text().splitlines())
        if path.startswith(f"{jar_set.name}/")
    }
    for jar in sorted(found.keys() | locked.keys()):
        if found.get(jar) != locked.get(jar):
            actual = f"has SHA-256 {found[jar]}" if jar in found else "is missing"
            expected = f"SHA-256 {locked[jar]}" if jar in locked else "no such jar"
            raise FruitsError(
                f"{folder / jar} {actual}, but {jar_set.lock} lists {expected}. Spark does not use it. "
                "The jars are removed from the cache, and the next start downloads them again. If they are "
                "refused again, check the mirror that DEFAULT_ARTIFACT_REPOSITORY names."
            )
    return [folder / name for name in sorted(found)]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
