"""An archive of the classes that Spark's JVM loads, with which it starts in half the time.

    python -m resources.class_archive

It is Java's own "class data sharing" (JEP 310 and 350), made once for an environment: what Java itself loads,
if this Java came without, and on top of that what Spark loads for a session and its first job. A JVM with
other jars passes it over.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from resources.java import java_home


def archive_options() -> str:
    """Java options by which Spark's JVM uses the archive of this environment, if there is one."""
    archive = _archive("spark")
    return f'"-XX:SharedArchiveFile={archive}" -Xlog:cds*=off' if archive.exists() else ""


def make_archive() -> Path:
    """Makes the archive for `java_home()` in this Python environment; returns its file, of about 70 MB.

    Raises `CalledProcessError` or `OSError` where it can't be made.
    """
    java, base, archive = java_home(), _archive("java"), _archive("spark")
    for file in (base, archive):
        file.unlink(missing_ok=True)
    archive.parent.mkdir(exist_ok=True)
    options = [f"-XX:ArchiveClassesAtExit={archive}"]
    if not (java / "lib" / "server" / "classes.jsa").exists():
        options.append(f"-XX:SharedArchiveFile={base}")
        subprocess.run([java / "bin" / "java", "-Xshare:dump", options[-1]], check=True, capture_output=True)
    # The JVM writes the archive at its end, after that of the process; it has the other end of the pipes.
    program = [sys.executable, "-m", "resources.class_archive", *options]
    subprocess.run(program, check=True, capture_output=True)
    return archive


def _archive(name: str) -> Path:
    """Where an archive of the Java in use is, in this Python environment."""
    java = hashlib.sha256((java_home() / "release").read_bytes()).hexdigest()[:12]
    return Path(sys.prefix) / "class_archives" / f"{name}-{java}.jsa"


def _run_a_job(java_options: list[str]) -> None:
    """A session as that of a run, with a job of two tasks whose results are added up."""
    from pyspark.sql import SparkSession

    from fruits_assets.store.root import open_root
    from resources.settings import Settings
    from resources.spark_config import local_spark_config, set_environment
    from resources.spark_history import event_log_config, make_event_log_folder

    set_environment()
    with tempfile.TemporaryDirectory() as store:
        make_event_log_folder(open_root(store))
        config = local_spark_config(Settings(images="/photos", store=store)) | event_log_config(store)
        options = config["spark.driver.extraJavaOptions"].replace(archive_options(), "")
        config["spark.driver.extraJavaOptions"] = " ".join([options, *(f'"{one}"' for one in java_options)])
        spark = SparkSession.builder.config(map=config).getOrCreate()
        spark.sparkContext.parallelize(range(2), 2).map(abs).treeReduce(max)
        spark.stop()


if __name__ == "__main__":
    if sys.argv[1:]:
        _run_a_job(sys.argv[1:])
    else:
        try:
            make_archive()
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"Spark will start a second slower, because there is no archive of its classes: {error}")
